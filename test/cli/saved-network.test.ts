// `predict` and `export`: what they say of a trained network is what ONNX Runtime makes of its file.

import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-web";
import sharp from "sharp";
import { beforeAll, describe, expect, it } from "vitest";
import { decodeSafetensors, encodeSafetensors } from "../../src/index.ts";
import { decodeCheckpoint, encodeCheckpoint } from "../../src/train/checkpoint.ts";
import { generator } from "../helpers/numbers.ts";
import { folder, fusenorm, SMALL, tinyDataset } from "./program.ts";

interface Told {
  image: string;
  predictions: { class: string; index: number; probability: number }[];
}

const data = tinyDataset();
const home = folder();
const checkpoint = join(home, "run", "checkpoint.safetensors");
const images = ["a.png", "b.png", "c.png"].map((name) => join(home, name));
const pixels: Uint8Array[] = [];

beforeAll(async () => {
  const next = generator(8);
  for (const file of images) {
    const image = Uint8Array.from({ length: 64 }, () => 256 * next());
    pixels.push(image);
    writeFileSync(
      file,
      await sharp(image, { raw: { width: 8, height: 8, channels: 1 } })
        .png()
        .toBuffer(),
    );
  }
  const { code, stderr } = await fusenorm(
    ...["train", "--data", data, "--out", join(home, "run"), "--epochs", "2", "--tensorboard", ...SMALL],
  );
  expect([code, stderr]).toEqual([0, expect.stringContaining("step 8/8")]);
  const [events] = readdirSync(join(home, "run")).filter((name) => name.startsWith("events.out.tfevents."));
  expect(readFileSync(join(home, "run", events!), "latin1").split("test/accuracy")).toHaveLength(1 + 2);
});

/** Without what Dawn warns of on some adapters. */
const told = (stderr: string) => stderr.replaceAll(/^Warning: .*\n/gm, "");

/** Probabilities of the images by ONNX Runtime, in float64 from its logits. */
async function probabilitiesOf(model: string): Promise<number[][]> {
  const { onnx } = (await import("onnx-proto")).default;
  const bytes = readFileSync(model);
  const notes = Object.fromEntries(
    onnx.ModelProto.decode(bytes).metadataProps!.map(({ key, value }) => [key, JSON.parse(value!)]),
  );
  const input = Float32Array.from(
    pixels.flatMap((image) => Array.from(image, (byte) => (byte / 255 - notes.mean[0]) / notes.std[0])),
  );
  const session = await InferenceSession.create(bytes);
  const { output } = await session.run({ input: new OrtTensor("float32", input, [3, 1, 8, 8]) });
  await session.release();
  const logits = Array.from(output!.data as Float32Array);
  return pixels.map((_, i) => {
    const row = logits.slice(10 * i, 10 * (i + 1)).map(Math.exp);
    const sum = row.reduce((a, b) => a + b);
    return row.map((value) => value / sum);
  });
}

const predict = async (...args: string[]): Promise<Told[]> => {
  const { code, stdout, stderr } = await fusenorm("predict", ...images, "--json", "--top", "10", ...args);
  expect([code, told(stderr)]).toEqual([0, ""]);
  return JSON.parse(stdout);
};

const close = (told: Told[], probabilities: number[][]) => {
  for (const [i, { image, predictions }] of told.entries()) {
    expect(image).toBe(images[i]);
    const order = predictions.map(({ index }) => index);
    expect([...order].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(order).toEqual([...order].sort((a, b) => probabilities[i]![b]! - probabilities[i]![a]!));
    for (const { index, probability } of predictions)
      expect(Math.abs(probability - probabilities[i]![index]!)).toBeLessThan(1e-5);
  }
};

describe("fusenorm export and predict", () => {
  it("agree with ONNX Runtime on the exported network, folded and not, and on every file of it", async () => {
    const expected = await predict("--from", checkpoint);
    for (const fold of [[], ["--fold"]]) {
      const to = join(home, `model${fold.length}.onnx`);
      const { code, stdout } = await fusenorm("export", "--from", checkpoint, "--to", to, "--json", ...fold);
      expect(code).toBe(0);
      const said = JSON.parse(stdout);
      const { length } = readFileSync(to);
      expect(said).toMatchObject({ to, bytes: length, model: "resnetCifar", input: [8, 8, 1] });
      expect(said.classes).toHaveLength(10);
      expect(readFileSync(to, "latin1").includes("BatchNormalization")).toBe(fold.length === 0);
      close(expected, await probabilitiesOf(to));
      // The program reads it back; of a folded one it makes a folded network.
      const back = await predict("--from", to);
      if (fold.length === 0) expect(back).toEqual(expected);
      else close(back, await probabilitiesOf(to));
      const onwards = join(home, `onwards${fold.length}.safetensors`);
      const again = await fusenorm("export", "--from", to, "--to", onwards);
      expect([again.code, told(again.stderr)]).toEqual(
        fold.length === 0
          ? [0, ""]
          : [1, expect.stringMatching(/its batch-norms are folded .*as export writes it without --fold\n$/)],
      );
      expect(existsSync(onwards)).toBe(fold.length === 0);
      if (fold.length === 0) expect(await predict("--from", onwards)).toEqual(expected);
    }

    const to = join(home, "model.safetensors");
    const written = await fusenorm("export", "--from", checkpoint, "--to", to);
    expect(written.stdout).toMatch(
      /model.safetensors: resnetCifar, [\d,]+ parameters, .* MB; images 8 × 8 × 1, 10 cl/,
    );
    expect(await predict("--from", to)).toEqual(expected);
    const { tensors } = decodeSafetensors(readFileSync(to), to);
    expect(tensors["stem.conv.weight"] ?? tensors["conv1.weight"]).toMatchObject({ shape: [4, 1, 3, 3] });

    // Another program's file says nothing but names, shapes and numbers.
    const bare = join(home, "bare.safetensors");
    const { metadata } = decodeSafetensors(readFileSync(to), to);
    writeFileSync(bare, encodeSafetensors(tensors));
    const { mean, std, classNames } = JSON.parse(metadata["fusenorm.network"]!);
    const names = join(home, "classes.txt");
    writeFileSync(names, `${classNames.join("\r\n")}\n`);
    const flags = [
      "--model",
      "resnetCifar",
      "--depth",
      "8",
      "--width",
      "4",
      "--size",
      "8",
      "--channels",
      "1",
    ];
    const moments = ["--mean", `${mean}`, "--std", `${std}`];
    for (const classes of [names, classNames.join(",")]) {
      expect(await predict("--from", bare, ...flags, ...moments, "--classes", classes)).toEqual(expected);
    }
    // Of a version whose checkpoints did not note the moments.
    const old = join(home, "old.safetensors");
    const { tensors: all, metadata: notes } = decodeCheckpoint(readFileSync(checkpoint), checkpoint);
    const { moments: _none, ...rest } = notes;
    writeFileSync(old, encodeCheckpoint({ tensors: all, metadata: rest }));
    expect(await predict("--from", old, "--data", data)).toEqual(expected);
    const unknown = await fusenorm("predict", images[0]!, "--from", old);
    expect(unknown.stderr).toMatch(/of a version that did not note .*: --data\n$/);
  });

  it("print a table, and the most probable classes alone", async () => {
    const { stdout } = await fusenorm("predict", ...images.slice(0, 2), "--from", checkpoint, "--top", "2");
    const [{ predictions }] = (await predict("--from", checkpoint)) as [Told];
    const lines = stdout.trimEnd().split("\n");
    expect(lines).toHaveLength(2 + 2 * 2);
    expect(lines[0]).toMatch(/^image +class +probability$/);
    const percent = (rank: number) => `${(100 * predictions[rank]!.probability).toFixed(1)} %`;
    expect(lines[2]!.split(/ {2,}/)).toEqual([images[0], predictions[0]!.class, percent(0)]);
    expect(lines[3]!.trim().split(/ {2,}/)).toEqual([predictions[1]!.class, percent(1)]);
  });

  it("keep a file that is there, unless told otherwise", async () => {
    const to = join(home, "kept.onnx");
    writeFileSync(to, "mine");
    const refused = await fusenorm("export", "--from", checkpoint, "--to", to);
    expect([refused.code, told(refused.stderr)]).toEqual([
      1,
      expect.stringMatching(/^fusenorm: export: .*kept.onnx exists; /),
    ]);
    expect(readFileSync(to, "utf8")).toBe("mine");
    expect((await fusenorm("export", "--from", checkpoint, "--to", to, "--overwrite")).code).toBe(0);
    expect(readFileSync(to).length).toBeGreaterThan(1000);
  });

  /** A file as `export` writes them, with other values in its note. */
  let files = 0;
  const noted = (json: string) => {
    const note = {
      options: { model: "resnetCifar", depth: 8, width: 4 },
      ...{ height: 8, width: 8, channels: 1, classNames: ["a", "b"], mean: [0.5], std: [0.2] },
      ...JSON.parse(json),
    };
    files += 1;
    const path = join(home, `noted-${files}.safetensors`);
    const metadata = { "fusenorm.network": JSON.stringify(note) };
    writeFileSync(path, encodeSafetensors({}, { metadata }));
    return path;
  };

  const other = join(home, "other.safetensors");
  beforeAll(() => {
    writeFileSync(
      other,
      encodeSafetensors({ weight: { shape: [2], dtype: "float32", data: Float32Array.of(1, 2) } }),
    );
  });
  const net = ["--model", "resnetCifar", "--depth", "14", "--width", "4", "--size", "8x8", "--channels", "1"];
  const rest = ["--classes", "a,b", "--mean", "0.5", "--std", "0.2"];
  const cases: [string, string[], RegExp][] = [
    ["no image", ["predict", "--from", checkpoint], /missing required argument 'images'/],
    [
      "an image that is not there",
      ["predict", join(home, "no.png"), "--from", checkpoint],
      /no.png: can't be read/,
    ],
    ["an image that is none", ["predict", "CKPT", "--from", "CKPT"], /can't be decoded as an image/],
    [
      "a network that is not there",
      ["predict", images[0]!, "--from", join(home, "no")],
      /there is no .*no; run `fusenorm train` first/,
    ],
    ["a network that is none", ["predict", images[0]!, "--from", images[0]!], /a.png: .* expected/],
    ["no class to print", ["predict", images[0]!, "--top", "0"], /0 is below 1/],
    [
      "flags that the file answers",
      ["predict", images[0]!, "--from", "CKPT", "--model", "resnet18"],
      /says what it is of; expected no --model/,
    ],
    [
      "a file that says nothing",
      ["predict", images[0]!, "--from", other],
      /does not say what it is of; give --model/,
    ],
    [
      "half of what is needed",
      ["predict", images[0]!, "--from", other, "--model", "resnet18"],
      /give --size/,
    ],
    [
      "an unknown network",
      ["predict", images[0]!, "--from", other, "--model", "resnet19", "--size", "8", ...rest],
      /model is "resnet19"; expected/,
    ],
    [
      "another network's tensors",
      ["predict", images[0]!, "--from", other, ...net, ...rest],
      /not those of resnetCifar of depth 14 with 2 classes \(\d+ differ\): /,
    ],
    ...(
      [
        ["height", 2 ** 40],
        ["width", 2 ** 14 + 1],
        ["mean", [0.1, 0.2]],
        ["std", [0]],
        ["std", []],
      ] as const
    ).flatMap(([field, value], i) =>
      ["predict", "export"].map((command): [string, string[], RegExp] => [
        `a note whose ${field} is ${value}, in ${command}`,
        [
          command,
          ...(command === "predict" ? [images[0]!] : ["--to", join(home, `note-${i}.onnx`)]),
          ...["--from", `NOTE ${JSON.stringify({ [field]: value })}`],
        ],
        new RegExp(`its note of the network has a wrong ${field} `),
      ]),
    ),
    [
      "moments that do not go with the channels",
      [
        ...["export", "--from", other, ...net, "--classes", "a,b"],
        ...["--mean", "0.1,0.2", "--std", "0.2", "--to", join(home, "z.onnx")],
      ],
      /--mean is 0.1,0.2; expected 1 numbers, one for each of --channels/,
    ],
    ["a size beyond all", ["predict", images[0]!, "--size", "8x20000"], /more than 16384 pixels/],
    ["a wrong size", ["predict", images[0]!, "--size", "8x8x8"], /"8x8x8" is no size/],
    ["a wrong mean", ["predict", images[0]!, "--mean", "bright"], /"bright" is not a finite number/],
    [
      "--data without a checkpoint",
      ["export", "--from", other, "--to", "x.onnx", "--data", data],
      /is no checkpoint; give --mean/,
    ],
    ["no name to write to", ["export", "--from", checkpoint], /required option '--to <file>' not specified/],
    [
      "an unknown format",
      ["export", "--from", "CKPT", "--to", join(home, "x.pb")],
      /x.pb ends in neither .onnx nor .safetensors/,
    ],
    [
      "folding of what can be trained on",
      ["export", "--from", "CKPT", "--to", join(home, "y.safetensors"), "--fold"],
      /--fold is for ONNX/,
    ],
    [
      "a folder that is a file",
      ["export", "--from", "CKPT", "--to", join(images[0]!, "x.onnx")],
      /x.onnx: can't be written/,
    ],
  ];
  it.concurrent.each(cases)("refuse %s, in one line", async (_, args, message) => {
    const { code, stderr, stdout } = await fusenorm(
      ...args.map((arg) =>
        arg === "CKPT" ? checkpoint : arg.startsWith("NOTE ") ? noted(arg.slice("NOTE ".length)) : arg,
      ),
    );
    expect(stderr).toMatch(message);
    expect(told(stderr)).toMatch(/^fusenorm: .*\n$/);
    expect([code, stdout]).toEqual([1, ""]);
    expect(existsSync(join(home, "y.safetensors"))).toBe(false);
  });
});
