import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { describe, expect, it } from "vitest";
import { repository } from "../node/children.ts";
import { folder, fusenorm, PROGRAM, SMALL, tinyDataset } from "./program.ts";

describe("fusenorm train", () => {
  it("trains, refuses to overwrite, and resumes to the same losses as an uninterrupted run", async () => {
    const data = tinyDataset();
    const [split, whole] = [join(folder(), "a"), join(folder(), "b")];
    const train = (out: string, epochs: number, ...more: string[]) =>
      fusenorm("train", "--data", data, "--out", out, "--epochs", `${epochs}`, ...SMALL, ...more);
    const first = await train(split, 1);
    expect(first.stderr + first.stdout).toMatch(/step 4: loss .* test accuracy/);
    expect(first.code).toBe(0);
    expect(readdirSync(split).sort()).toEqual(["checkpoint.safetensors", "history.json", "report.html"]);
    const again = await train(split, 2);
    expect(again.stderr).toMatch(/checkpoint.safetensors exists; pass --resume/);
    expect(again.code).toBe(1);
    expect((await train(split, 2, "--resume")).code).toBe(0);
    expect((await train(whole, 2)).code).toBe(0);
    const losses = (out: string) => JSON.parse(readFileSync(join(out, "history.json"), "utf8")).log;
    expect(losses(split)).toEqual(losses(whole));
    expect(losses(whole)).toHaveLength(2);
    expect(readFileSync(join(whole, "report.html"), "utf8")).toMatch(
      /<svg[\s\S]*Training loss[\s\S]*<\/svg>/,
    );

    const other = await train(split, 2, "--resume", "--seed", "9");
    expect(other.stderr).toMatch(/trained with seed 0, this run has 9/);
    writeFileSync(
      join(split, "checkpoint.safetensors"),
      readFileSync(join(split, "checkpoint.safetensors")).subarray(0, 999),
    );
    const cut = await train(split, 3, "--resume");
    expect(cut.stderr).toMatch(/checkpoint .*: (its header wants|it ends at byte)/);
    expect(cut.code).toBe(1);
  });

  it("trains by Muon and AdamW, says so, and resumes to the same losses", async () => {
    const data = tinyDataset();
    const [split, whole] = [join(folder(), "a"), join(folder(), "b")];
    const train = async (out: string, epochs: number, ...more: string[]) => {
      const args = ["--data", data, "--out", out, "--epochs", `${epochs}`, "--optimizer", "muon", "--json"];
      return fusenorm("train", ...args, ...SMALL, ...more);
    };
    const first = await train(split, 1);
    expect(first.stderr).toMatch(/ResNet-8 \(width 4, norm batch\) by muon on /);
    expect(JSON.parse(first.stdout).options).toMatchObject({ optimizer: "muon", momentum: 0.95 });
    const other = await train(split, 2, "--resume", "--momentum", "0.9");
    expect(other.stderr).toMatch(/trained with momentum 0.95, this run has 0.9/);
    const goesOn = await train(split, 2, "--resume");
    const told = ({ stdout }: { stdout: string }) => {
      const { step, loss, testAccuracy } = JSON.parse(stdout);
      return { step, loss, testAccuracy };
    };
    expect(told(goesOn)).toEqual(told(await train(whole, 2)));
    const logs = [split, whole].map((out) => JSON.parse(readFileSync(join(out, "history.json"), "utf8")).log);
    expect(logs[0]).toEqual(logs[1]);
  });

  it("trains on folders of images of one's own, and predicts by what came out", async () => {
    const [photos, out] = [join(folder(), "photos"), join(folder(), "out")];
    for (const [name, red] of Object.entries({ red: 200, teal: 20 })) {
      mkdirSync(join(photos, name), { recursive: true });
      for (let i = 0; i < 22; i += 1) {
        const background = { r: red + i, g: 220 - red, b: 220 - red + i };
        const image = sharp({ create: { width: 12, height: 9, channels: 3, background } });
        await image.jpeg().toFile(join(photos, name, `${i}.jpg`));
      }
    }
    const recipe = [...SMALL, "--norm", "batch", "--epochs", "3", "--no-augment"];
    const unsized = await fusenorm("train", "--data", photos, "--out", out, ...recipe);
    expect(unsized.stderr).toMatch(/holds images in a folder for each class; .*--size 64/);
    const trained = await fusenorm("train", "--data", photos, "--size", "8x10", "--out", out, ...recipe);
    expect(trained.stderr).toMatch(/on photos train, lr 0.05, 12 steps of 10/);
    expect(trained.stdout).toMatch(/step 12: loss .* test accuracy 100.00 %/);
    const images = ["red", "teal"].map((name) => join(photos, name, "9.jpg"));
    const from = ["--from", join(out, "checkpoint.safetensors")];
    const { stdout } = await fusenorm("predict", ...images, ...from, "--top", "1", "--json");
    const classes = JSON.parse(stdout).map(
      (one: { predictions: [{ class: string }] }) => one.predictions[0].class,
    );
    expect(classes).toEqual(["red", "teal"]);
  });

  const data = tinyDataset();
  const truncated = tinyDataset();
  writeFileSync(
    join(truncated, "train-images-idx3-ubyte"),
    readFileSync(join(truncated, "train-images-idx3-ubyte")).subarray(0, 1000),
  );
  const empty = folder();
  const cases: [string, string[], RegExp][] = [
    ["a learning rate that is no number", ["--lr", "fast"], /"fast" is not a finite number/],
    ["NaN", ["--lr", "NaN"], /"NaN" is not a finite number/],
    ["a negative learning rate", ["--lr", "-1"], /lr is -1; expected a number above 0/],
    ["a depth that is not 6n + 2", ["--depth", "21"], /depth is 21; expected 6n \+ 2/],
    [
      "an unknown normalisation",
      ["--norm", "spectral"],
      /norm is "spectral"; expected "batch", "none", "last", /,
    ],
    ["a momentum of one", ["--momentum", "1"], /momentum is 1; expected/],
    ["an unknown schedule", ["--schedule", "linear"], /schedule is "linear"; expected/],
    ["an unknown initialisation", ["--init", "zeros"], /init is "zeros"; expected/],
    [
      "a batch larger than the data",
      ["--batch-size", "41"],
      /train: --batch-size is 41, .* has 40 images to train on; expected at most as many, such as --batch-size 8\n/,
    ],
    ["no epochs", ["--epochs", "0"], /0 is below 1/],
    ["half a width", ["--width", "1.5"], /"1.5" is not an integer/],
    ["a negative seed", ["--seed", "-3"], /seed is -3/],
    ["a flag that there is not", ["--learning-rate", "1"], /unknown option '--learning-rate'/],
    [
      "a directory that is not there",
      ["--data", join(empty, "no")],
      /no.*(does not exist|not found|no such)/i,
    ],
    ["a directory without data", ["--data", empty], /train-images-idx3-ubyte|data fetch/],
    ["a truncated file", ["--data", truncated], /train-images-idx3-ubyte.*bytes/],
    ["--resume without a checkpoint", ["--resume"], /there is no .*checkpoint.safetensors/],
  ];
  it.concurrent.each(cases)("refuses %s, and writes nothing", async (_, flags, message) => {
    const out = join(folder(), "out");
    const source = flags.includes("--data") ? [] : ["--data", data];
    const { code, stderr } = await fusenorm("train", ...source, "--out", out, ...flags);
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^fusenorm: /m);
    expect(stderr).not.toMatch(/\n\s+at /); // no stack trace
    expect(code).not.toBe(0);
    expect(existsSync(out)).toBe(false);
  });
});

describe("fusenorm reproduce", () => {
  it("takes folders of images by --size, which a run keeps to", async () => {
    const [photos, out] = [join(folder(), "photos"), join(folder(), "out")];
    for (const [name, grey] of Object.entries({ dark: 40, light: 220 })) {
      mkdirSync(join(photos, name), { recursive: true });
      for (let i = 0; i < 11; i += 1) {
        const background = { r: grey + i, g: grey, b: grey };
        await sharp({ create: { width: 12, height: 9, channels: 3, background } })
          .png()
          .toFile(join(photos, name, `${i}.png`));
      }
    }
    const reproduce = (...args: string[]) =>
      fusenorm("reproduce", "random-matrices", "--data", photos, "--out", out, ...args);
    const unsized = await reproduce();
    expect(unsized.stderr).toMatch(/holds images in a folder for each class; .*--size 64 of a command$/m);
    expect([unsized.code, existsSync(out)]).toEqual([1, false]);
    const { code, stdout } = await reproduce("--size", "8x10");
    expect(stdout).toMatch(/^Preset first-look, photos \(8×10×3\), 1 seed, /m);
    expect(code).toBe(0);
    expect(JSON.parse(readFileSync(join(out, "run.json"), "utf8"))).toMatchObject({
      ...{ dataset: "photos", images: "8x10x3" },
    });
    for (const [args, now] of [
      [["--size", "8"], "8x8x3"],
      [["--size", "8x10", "--channels", "1"], "8x10x1"],
    ] as const) {
      const other = await reproduce("--resume", ...args);
      expect(other.stderr).toMatch(
        new RegExp(`the run there has images 8x10x3, this one ${now}; expected the same`),
      );
      expect(other.code).toBe(1);
    }
    expect((await reproduce("--resume", "--size", "8x10")).code).toBe(0);
  });
});

describe("fusenorm compare", () => {
  it("trains every pair of norm and learning rate, and writes table, sentence and report", async () => {
    const out = join(folder(), "out");
    const { code, stdout } = await fusenorm(
      ...[
        "compare",
        "--data",
        tinyDataset(),
        "--out",
        out,
        ...SMALL.slice(0, 6),
        "--lr",
        "0.01,0.1",
        "--epochs",
        "1",
      ],
    );
    expect(stdout).toMatch(
      /with batch-norm, lr 0.01 .*\n.*with batch-norm, lr 0.1 .*\n.*without batch-norm, lr 0.01/,
    );
    expect(stdout).toMatch(
      /The same network at learning rates 0.01, 0.1: with batch-norm it .*; without batch-norm it .*\./,
    );
    expect(code).toBe(0);
    expect(JSON.parse(readFileSync(join(out, "runs.json"), "utf8")).runs).toHaveLength(4);
    expect(readFileSync(join(out, "report.html"), "utf8")).toMatch(/<svg/);
  });

  it("refuses lists with a wrong entry", async () => {
    const out = join(folder(), "out");
    const lr = await fusenorm("compare", "--out", out, "--lr", "0.1,-2");
    expect(lr.stderr).toMatch(/-2 is not above 0/);
    const norm = await fusenorm("compare", "--out", out, "--norm", "batch,spectral");
    expect(norm.stderr).toMatch(/norm is "spectral"; expected "batch", "none", "last", /);
    expect([lr.code, norm.code]).toEqual([1, 1]);
    expect(existsSync(out)).toBe(false);
  });
});

describe("fusenorm", () => {
  it("names every package that it imports in the manifest of fusenorm-cli", () => {
    const bundle = readFileSync(PROGRAM[0]!, "utf8");
    const imported = [...bundle.matchAll(/(?:^import .*from |^import |\bimport\()"([^".][^"]*)"/gm)]
      .map(([, source]) => source!)
      .filter((source) => !source.startsWith("node:"))
      .map((source) => /^(?:@[^/]+\/)?[^/]+/.exec(source)![0]);
    const { dependencies, peerDependencies } = JSON.parse(
      readFileSync(join(repository, "packages/cli/package.json"), "utf8"),
    );
    const named = Object.keys({ ...dependencies, ...peerDependencies });
    expect(imported).toEqual(expect.arrayContaining(["commander", "fflate", "sharp", "webgpu"]));
    expect(imported.filter((name) => !named.includes(name))).toEqual([]);
  });

  it("prints help and version, and refuses an unknown command", async () => {
    const help = await fusenorm("--help");
    expect(help.stdout).toMatch(/train .*\n[\s\S]*data[\s\S]*doctor/);
    expect(help.code).toBe(0);
    const { version } = JSON.parse(readFileSync(join(repository, "package.json"), "utf8"));
    expect((await fusenorm("--version")).stdout.trim()).toBe(version);
    const unknown = await fusenorm("tarin");
    expect(unknown.stderr).toMatch(/unknown command 'tarin'[\s\S]*train/);
    expect(unknown.code).toBe(1);
  });

  it("says when --out can't be written", async () => {
    const out = join(folder(), "file");
    mkdirSync(join(out, ".."), { recursive: true });
    writeFileSync(out, "here already");
    const { code, stderr } = await fusenorm(
      "train",
      "--data",
      tinyDataset(),
      "--out",
      out,
      ...SMALL,
      "--epochs",
      "1",
    );
    expect(stderr).toMatch(/--out .*file.*not a directory/);
    expect(code).toBe(1);
  });
});
