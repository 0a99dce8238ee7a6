// What people and programs read of the commands: help, completion, JSON, names, and the end of a run whose device is lost.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { describe, expect, it } from "vitest";
import { suggestions } from "../../src/cli/completion.ts";
import { helpWidth, offer } from "../../src/cli/help.ts";
import { run } from "../node/children.ts";
import { folder, fusenorm, PROGRAM, SMALL, tinyDataset } from "./program.ts";

/** Runs shell text in which `fusenorm` is the command. */
const shell = (text: string, env: Record<string, string> = {}) =>
  run("bash", ["-c", `fusenorm() { "$NODE" ${PROGRAM.join(" ")} "$@"; }\n${text}`], {
    ...env,
    NODE: process.execPath,
  });

describe("help", () => {
  it("is as wide as the terminal, else as COLUMNS, else 80", () => {
    expect(helpWidth(50, { COLUMNS: "70" })).toBe(50);
    expect(helpWidth(undefined, { COLUMNS: "70" })).toBe(70);
    for (const COLUMNS of [undefined, "", "wide", "-3"]) expect(helpWidth(undefined, { COLUMNS })).toBe(80);
  });

  it("wraps on narrow terminals, shows defaults as they are typed, and lines to type", async () => {
    const help = await run(process.execPath, [...PROGRAM, "compare", "--help"], { COLUMNS: "50" });
    const [described, examples] = help.stdout.split("\nExamples:\n");
    for (const line of described!.split("\n")) expect([...line].length, line).toBeLessThanOrEqual(50);
    expect(described!.replaceAll(/\s+/g, " ")).toMatch(
      /commas between \(default: batch,none\).*0\.003,0\.1\)/,
    );
    expect(described).not.toMatch(/"|default: (false|true)/);
    // Its own default, not also that of train.
    expect(described!.replaceAll(/\s+/g, " ")).toMatch(/channels of the first stage \(default: 8\) --/);
    expect(examples).toMatch(/^ {2}fusenorm compare --norm batch,none --lr 0.003,0.1$/m);
  });

  it.concurrent.each(["train", "compare", "reproduce", "doctor", "predict", "export"])(
    "%s takes --adapter and --json",
    async (command) => {
      const { stdout } = await fusenorm(command, "--help");
      expect(stdout).toMatch(/^ {2}--adapter <which> /m);
      expect(stdout).toMatch(/^ {2}--json /m);
      expect(stdout).toMatch(new RegExp(`\nExamples:\n  fusenorm ${command}`));
    },
  );
});

describe("what is typed wrong", () => {
  it.concurrent.each([
    [["trian"], /unknown command 'trian' \(Did you mean train\?\) \(fusenorm --help lists the commands\)/],
    [["train", "--modle", "x"], /unknown option '--modle' .*\(fusenorm train --help lists what it takes\)/],
    [
      ["data", "fetch"],
      /missing required argument 'name' \(fusenorm data fetch --help lists what it takes\)/,
    ],
    [
      ["predict", "a.png"],
      /there is no runs\/train\/checkpoint.safetensors; run `fusenorm train` first, or .* --from$/,
    ],
    [["predict", "a.png", "--from", "README.onnx"], /there is no README.onnx/],
    [["train", "--size", "1x2x3"], /"1x2x3" is no size, such as 32 or 224x192/],
    [["train", "--size", "32"], /this data set has a size of its own: leave them out/],
  ])("%j is told in one line, with where to read on", async (words, message) => {
    const { stderr, code } = await fusenorm(...words);
    expect(stderr.trimEnd()).toMatch(message);
    expect(stderr.trimEnd()).not.toContain("\n");
    expect(code).toBe(1);
  });

  it("reads an ONNX file as one", async () => {
    const file = join(folder(), "model.onnx");
    writeFileSync(file, "none");
    const { stderr } = await fusenorm("predict", "a.png", "--from", file);
    expect(stderr).toMatch(/decodeOnnx: .*model.onnx: .*expected an ONNX model: get it anew\n$/);
  });
});

describe("completion", () => {
  const program = new Command("fusenorm");
  const train = program.command("train").option("--norm <where>").option("--resume").option("--out <dir>");
  offer(train, { norm: ["batch", "none"] });
  program.command("data").command("fetch").argument("<name>").argument("[other]");
  program.commands[1]!.commands[0]!.registeredArguments[0]!.argChoices = ["cifar10", "cifar100"];

  it.each([
    [["tr"], ["train"]],
    [[""], ["train", "data", "help"]],
    [
      ["train", "--"],
      ["--norm", "--resume", "--out", "--help"],
    ],
    [["train", "--no"], ["--norm"]],
    [
      ["train", "--norm", ""],
      ["batch", "none"],
    ],
    [["train", "--norm", "n"], ["none"]],
    [
      ["train", "--norm", "="],
      ["batch", "none"],
    ],
    [["train", "--norm", "=", "b"], ["batch"]],
    [["train", "--norm=n"], ["--norm=none"]],
    [["train", "--out", ""], []],
    [["train", "--resume", "--n"], ["--norm"]],
    [["train", "--norm", "batch", "--o"], ["--out"]],
    [["data", "f"], ["fetch"]],
    [["data", "fetch", "cifar100"], ["cifar100"]],
    [["data", "fetch", "cifar10", ""], []],
  ])("of %j is %j", (words, expected) => {
    expect(suggestions(program, words)).toEqual(expected);
  });

  it("works in bash: words of the program, and files where it knows none", async () => {
    const ask = (...words: string[]) =>
      `COMP_WORDS=(fusenorm ${words.map((word) => `'${word}'`).join(" ")}) COMP_CWORD=${words.length}; _fusenorm; echo "[\${COMPREPLY[*]}]"`;
    const { stdout, stderr } = await shell(
      `eval "$(fusenorm completion bash)"
       ${ask("train", "--adapter", "l")}
       ${ask("data", "info", "cifar")}
       ${ask("train", "--optimizer", "m")}
       ${ask("compare", "--out", "")}
       ${ask("train", "--out", "$(echo broken >&2)", "--s")}
       complete -p fusenorm`,
    );
    expect(stderr).toBe("");
    expect(stdout.trim().split("\n")).toEqual([
      "[lavapipe]",
      "[cifar10 cifar100]",
      "[muon]",
      "[]",
      "[--size --std --schedule --seed]",
      "complete -o default -F _fusenorm fusenorm",
    ]);
  });

  it("has no script for other shells", async () => {
    const { code, stderr } = await fusenorm("completion", "csh");
    expect([code, stderr]).toEqual([1, expect.stringMatching(/Allowed choices are bash, zsh, fish/)]);
  });
});

describe("--json", () => {
  const data = tinyDataset();

  it("describes data sets", async () => {
    const { stdout } = await fusenorm("data", "info", data, "--json");
    expect(JSON.parse(stdout)).toMatchObject({
      source: data,
      train: { images: 40, perClass: Array(10).fill(4) },
      test: { images: 20 },
      ...{ height: 8, width: 8, channels: 1, classes: 10 },
      mean: [expect.closeTo(0.5, 1)],
    });
    const list = JSON.parse((await fusenorm("data", "list", "--cache", folder(), "--json")).stdout);
    expect(list.map((set: { source: string }) => set.source)).toContain("embedded");
    expect(list.at(-1)).toEqual({ source: "cifar100", missing: expect.stringContaining("data fetch") });
  });

  it("is all that train and compare print, with the adapter's name in full", async () => {
    const out = join(folder(), "out");
    const args = ["--data", data, "--max-steps", "2", "--json"];
    const train = await fusenorm("train", "--out", out, "--adapter", "swiftshader", ...args, ...SMALL);
    const told = JSON.parse(train.stdout);
    const history = JSON.parse(readFileSync(join(out, "history.json"), "utf8"));
    expect(told).toMatchObject({
      out,
      step: 2,
      divergedAt: null,
      interrupted: false,
      loss: history.log.at(-1).loss,
    });
    expect(told.adapter).toMatchObject({ name: "SwiftShader Device (Subzero)", class: "software" });
    const compare = await fusenorm("compare", "--out", `${out}2`, ...args, ...SMALL, "--lr", "1e-2");
    expect(compare.stderr).toMatch(/given twice/);
    const once = await fusenorm("compare", "--out", `${out}2`, ...args, ...SMALL.slice(0, 6), "--lr", "1e-2");
    expect(JSON.parse(once.stdout)).toEqual(JSON.parse(readFileSync(`${out}2/runs.json`, "utf8")));
    expect(JSON.parse(once.stdout).runs).toHaveLength(2);
  });

  it("is all that reproduce and report print", async () => {
    const out = join(folder(), "out");
    const first = await fusenorm("reproduce", "random-matrices", "--out", out, "--json");
    const again = await fusenorm("report", out, "--json");
    const written = readFileSync(join(out, "report.json"), "utf8");
    expect([first.stdout.trim(), again.stdout.trim()]).toEqual([written.trim(), written.trim()]);
    expect(JSON.parse(written)).toBeTypeOf("object");
  });
});

describe("standard error", () => {
  it("has none of Dawn's warnings, and what else native code says", async () => {
    const doctor = await shell("fusenorm doctor --no-measure 2>&1 | cat");
    expect(doctor.stdout).toMatch(
      /^adapter +(llvmpipe \(LLVM [\d.]+, \d+ bits\)|SwiftShader Device \(.*\))\n/,
    );
    const script = join(folder(), "native.mts");
    writeFileSync(
      script,
      `import { writeSync } from "node:fs";
       import { withoutLines } from "${new URL("../../src/node/quiet.ts", import.meta.url)}";
       const five = withoutLines(/^Warning: a/, () => { writeSync(2, "Warning: a\\nWarning: b\\nWarning: a\\n"); return 5; });
       writeSync(2, "then " + five + "\\n");
       try {
         withoutLines(/./, () => { throw new Error("thrown"); });
       } catch (error) {
         console.error(error.message);
       }`,
    );
    const { stdout } = await shell(`"$NODE" --import tsx ${script} 2>&1 | cat`);
    expect(stdout).toBe("Warning: b\nthen 5\nthrown\n");
    const gone = await shell(`set -o pipefail; "$NODE" --import tsx ${script} 2>&1 >/dev/null | true`);
    expect(gone.signal).toBeNull();
  });

  it("has one line for a lost device, with what to do", async () => {
    const preload = join(folder(), "lose.mjs");
    writeFileSync(
      preload,
      `import { globals } from "${import.meta.resolve("webgpu")}";
       const { requestDevice } = globals.GPUAdapter.prototype;
       globals.GPUAdapter.prototype.requestDevice = async function (...args) {
         const device = await requestDevice.apply(this, args);
         setTimeout(() => device.destroy(), 1);
         return device;
       };`,
    );
    const lost = async (...args: string[]) => {
      const { code, stderr } = await run(process.execPath, ["--import", preload, ...PROGRAM, ...args]);
      expect(code).toBe(1);
      expect(stderr).not.toMatch(/\n\s+at /);
      return stderr.split("\n").filter((line) => line.startsWith("fusenorm: "));
    };
    const out = join(folder(), "out");
    expect(await lost("compare", "--out", out, ...SMALL.slice(0, 6))).toEqual([
      expect.stringMatching(/^fusenorm: the device was lost \(destroyed\) near .*; run it again$/),
    ]);
    expect(await lost("reproduce", "learning-rates", "--out", out)).toEqual([
      expect.stringMatching(/the same command with --resume goes on from what is done$/),
    ]);
  });
});
