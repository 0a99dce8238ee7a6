// `train --weights`: what it takes of files of this program and of others, and that runs that began so go on, predict and export.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import onnxProto from "onnx-proto";
import sharp from "sharp";
import { beforeAll, describe, expect, it } from "vitest";
import {
  decodeSafetensors,
  encodeNpz,
  encodeSafetensors,
  Random,
  resnet18,
  type StateDict,
  torchStateDict,
} from "../../src/index.ts";
import { decodeCheckpoint } from "../../src/train/checkpoint.ts";
import { testGpu } from "../helpers/gpu.ts";
import { folder, fusenorm, SMALL, tinyDataset } from "./program.ts";

const { onnx } = onnxProto;
const home = folder();
const photos = join(home, "photos");
const pretrained = join(home, "resnet18.safetensors");
const CLASSES = 5;
/** By PyTorch's names, in its layouts: of three channels and another number of classes than `photos` has. */
let state: StateDict;

beforeAll(async () => {
  for (const [name, red] of Object.entries({ red: 200, teal: 20 })) {
    mkdirSync(join(photos, name), { recursive: true });
    for (let i = 0; i < 11; i += 1) {
      const background = { r: red + i, g: 220 - red, b: 220 - red + i };
      const image = sharp({ create: { width: 9, height: 9, channels: 3, background } });
      await image.png().toFile(join(photos, name, `${i}.png`));
    }
  }
  const model = resnet18(await testGpu(), { classes: CLASSES, width: 4, images: "cifar", seed: 9 });
  state = await torchStateDict(model);
  model.dispose();
  // What training leaves: statistics, γ and β that are not those of a new network.
  const random = new Random(4);
  for (const [name, { data }] of Object.entries(state)) {
    if (!/running_|bn|downsample\.1/.test(name)) continue;
    for (let i = 0; i < data.length; i += 1) data[i] = 0.5 + random.uniform();
  }
  writeFileSync(pretrained, encodeSafetensors(state));
});

const NETWORK = ["--model", "resnet18", "--width", "4", "--batch-size", "5", "--no-augment"];
const train = (out: string, ...args: string[]) =>
  fusenorm("train", "--data", photos, "--size", "8", "--out", out, ...NETWORK, "--lr", "0.01", ...args);

/** What a run has at its end, by PyTorch's names. */
async function exported(out: string): Promise<StateDict> {
  const to = join(out, "model.safetensors");
  const { code, stderr } = await fusenorm(
    "export",
    "--from",
    join(out, "checkpoint.safetensors"),
    "--to",
    to,
    "--overwrite",
  );
  expect([code, stderr.replaceAll(/^Warning: .*\n/gm, "")]).toEqual([0, ""]);
  return decodeSafetensors(readFileSync(to), to).tensors;
}

const isNew = (name: string) => name.startsWith("fc.");
const isNorm = (name: string) => /bn\d|downsample\.1/.test(name);

describe("train --weights", () => {
  it("freezes all but a new classifier, goes on, predicts and exports", async () => {
    const out = join(home, "frozen");
    const weights = ["--weights", pretrained, "--freeze", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.25"];
    const first = await train(out, ...weights, "--epochs", "1", "--schedule", "constant");
    expect(first.stderr).toContain(
      `weights: 120 of 122 tensors from ${pretrained}; the classifier, fc, starts anew\n` +
        "images are normalised by mean 0.5, 0.4, 0.3, deviation 0.2, 0.2, 0.25: as --mean and --std say\n",
    );
    expect(first.code).toBe(0);
    const trained = await exported(out);
    expect(trained["fc.weight"]!.shape).toEqual([2, 32]);
    for (const [name, { data }] of Object.entries(state)) {
      if (!isNew(name)) expect([name, trained[name]!.data]).toEqual([name, data]);
    }
    const file = join(out, "checkpoint.safetensors");
    const { tensors, metadata } = decodeCheckpoint(readFileSync(file), file);
    // Of two parameters alone is there a state: the others got no step.
    expect(Object.keys(tensors).filter((name) => name.startsWith("optimizer."))).toHaveLength(2);
    expect(JSON.parse(metadata.moments!)).toEqual({ mean: [0.5, 0.4, 0.3], std: [0.2, 0.2, 0.25] });

    // Its steps go on from the checkpoint, with the same flags alone.
    const goesOn = ["--resume", "--epochs", "2", "--schedule", "constant"];
    const others: [string[], RegExp][] = [
      [weights.slice(2, 3).concat(weights.slice(3)), /--freeze is given without --weights/],
      [weights.slice(3), /trained with freeze true, this run has nothing/],
      [[...weights.slice(0, 2), ...weights.slice(3)], /trained with freeze true, this run has nothing/],
      [weights.slice(0, 3), /trained with moments .*, this run has/],
    ];
    for (const [args, message] of others) {
      const refused = await train(out, ...args, ...goesOn);
      expect(refused.stderr).toMatch(message);
      expect(refused.code).toBe(1);
    }
    const other = join(home, "other.safetensors");
    writeFileSync(other, encodeSafetensors(state, { metadata: { format: "pt" } }));
    const changed = await train(out, "--weights", other, ...weights.slice(2), ...goesOn);
    expect(changed.stderr).toMatch(
      /trained with weights "crc32:[0-9a-f]{8}", this run has "crc32:[0-9a-f]{8}"/,
    );
    const resumed = await train(out, ...weights, ...goesOn, "--json");
    const whole = await train(
      join(home, "whole"),
      ...weights,
      "--epochs",
      "2",
      "--schedule",
      "constant",
      "--json",
    );
    const said = JSON.parse(resumed.stdout);
    expect(said.loss).toBe(JSON.parse(whole.stdout).loss);
    expect(said.options).toMatchObject({ freeze: true, freezeBatchNorm: false });
    expect(said.weights).toEqual({
      ...{ file: pretrained, taken: 120, missing: [], unexpected: [] },
      mismatched: ["fc.weight", "fc.bias"],
    });

    const images = ["red", "teal"].map((name) => join(photos, name, "3.png"));
    const { stdout } = await fusenorm("predict", ...images, "--from", file, "--json");
    const told = JSON.parse(stdout) as { predictions: { class: string; probability: number }[] }[];
    expect(told.map(({ predictions }) => predictions.map((one) => one.class).sort())).toEqual(
      Array(2).fill(["red", "teal"]),
    );
    const model = join(out, "model.onnx");
    expect((await fusenorm("export", "--from", file, "--to", model, "--fold")).code).toBe(0);
  });

  it("keeps batch-norms alone with --freeze-batch-norm, and takes files of this program with what they say", async () => {
    // A file of export, of a run with other moments; its classifier has as many classes, so all is taken.
    const [base, out] = [join(home, "base"), join(home, "norms")];
    const moments = ["--mean", "0.1,0.2,0.3", "--std", "0.5,0.6,0.7"];
    expect((await train(base, ...moments, "--weights", pretrained, "--epochs", "1")).code).toBe(0);
    const before = await exported(base);
    const onnxOf = async (name: string, ...fold: string[]) => {
      const from = join(base, "checkpoint.safetensors");
      expect((await fusenorm("export", "--from", from, "--to", join(base, name), ...fold)).code).toBe(0);
    };
    await onnxOf("model.onnx");
    await onnxOf("folded.onnx", "--fold");
    const refused = await train(
      join(home, "folded"),
      "--weights",
      join(base, "folded.onnx"),
      "--epochs",
      "1",
    );
    expect(refused.stderr).toMatch(
      /folded.onnx: its tensors are not those of resnet18 .*: it lacks bn1.weight; expected weights whose batch-norms are not folded into the layers before them \(export without --fold\)\n/,
    );
    expect(refused.code).toBe(1);
    for (const [i, [name, count]] of (
      [
        ["model.safetensors", 122],
        ["checkpoint.safetensors", 122],
        ["model.onnx", 102], // no counts of batches
      ] as const
    ).entries()) {
      const file = join(base, name);
      const { stderr, code } = await train(
        `${out}${i}`,
        ...["--weights", file, "--freeze-batch-norm", "--epochs", "1"],
      );
      expect(stderr).toContain(`weights: ${count} of 122 tensors from ${file}\n`);
      expect(stderr).toContain("mean 0.1, 0.2, 0.3, deviation 0.5, 0.6, 0.7: what the weights' file says\n");
      expect(code).toBe(0);
      const after = await exported(`${out}${i}`);
      for (const [name, { data }] of Object.entries(before)) {
        const same = after[name]!.data.every((value, j) => value === data[j]);
        const isKept = isNorm(name) && !(count === 102 && name.endsWith("num_batches_tracked"));
        expect([name, same]).toEqual([name, isKept]);
      }
    }
    // Without either flag all of them move.
    const all = await exported(base);
    expect(all["bn1.running_mean"]!.data).not.toEqual(state["bn1.running_mean"]!.data);
    expect(all["conv1.weight"]!.data).not.toEqual(state["conv1.weight"]!.data);
  });

  it("reads .npz and ONNX, tells of tensors that have no place, and of images' own moments", async () => {
    const arrays = Object.entries(state).filter(([name]) => !name.endsWith("num_batches_tracked"));
    const npz = join(home, "weights.npz");
    writeFileSync(npz, await encodeNpz(Object.fromEntries(arrays)));
    const initializer = arrays.map(([name, { shape, data }]) => ({
      ...{ name, dims: [...shape], dataType: onnx.TensorProto.DataType.FLOAT },
      rawData: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    }));
    const extra = {
      name: "onnx::Reshape_9",
      dims: [2],
      dataType: onnx.TensorProto.DataType.INT64,
      int64Data: [1, 32],
    };
    const model = join(home, "weights.onnx");
    writeFileSync(
      model,
      onnx.ModelProto.encode({
        irVersion: 8,
        graph: { name: "g", initializer: [...initializer, extra] },
      }).finish(),
    );
    for (const [i, file] of [npz, model].entries()) {
      const out = join(home, `file${i}`);
      const { stderr, code } = await train(out, "--weights", file, "--freeze", "--epochs", "1");
      const left = i === 1 ? "; not taken from it: onnx::Reshape_9" : "";
      // The 20 counts of batches are not in them.
      expect(stderr).toContain(
        `weights: 100 of 122 tensors from ${file}; the classifier, fc, starts anew${left}\nimages are normalised by mean `,
      );
      expect(stderr).toMatch(/deviation [\d., ]+: the training set's; --mean and --std name other ones\n/);
      expect(code).toBe(0);
      const trained = await exported(out);
      for (const [name, { data }] of arrays) if (!isNew(name)) expect(trained[name]!.data).toEqual(data);
    }
  });

  const pickle = join(home, "resnet18.pth");
  writeFileSync(pickle, Uint8Array.of(0x50, 0x4b, 3, 4, 0, 0));
  const damaged = join(home, "damaged.safetensors");
  writeFileSync(damaged, Uint8Array.of(9, 0, 0, 0, 0, 0, 0, 0, 1));
  const nameless = join(home, "nameless.safetensors");
  const one = { shape: [1], dtype: "float32" as const, data: Float32Array.of(1) };
  writeFileSync(nameless, encodeSafetensors({ "model.conv1.weight": one }));
  const cases: [string, string[], RegExp][] = [
    [
      "a file that is not there",
      ["--weights", join(home, "no.safetensors")],
      /no.safetensors: can't be read/,
    ],
    ["a pickle", ["--weights", pickle], /resnet18.pth is a pickle, .*safetensors.torch.save_file\(/],
    ["a damaged file", ["--weights", damaged], /damaged.safetensors/],
    [
      "weights of another network",
      ["--weights", pretrained, "--model", "resnet34"],
      /its tensors are not those of resnet34 \(\d+ of \d+ differ\): it lacks layer1.2.conv1.weight; expected weights of the network that --model/,
    ],
    [
      "names of nothing",
      ["--weights", nameless],
      /none of its 1 tensors \(model.conv1.weight, …\) has the name of one of resnet18, such as conv1.weight; expected those of PyTorch/,
    ],
    [
      "weights of a wider network",
      ["--weights", pretrained, "--model", "resnet18", "--width", "8"],
      /conv1.weight is .*; expected another --width: the first layer has 4 channels there, 8 here/,
    ],
    [
      "images that go through another first layer",
      ["--weights", pretrained, "--size", "64"],
      /conv1.weight is \[4, 3, 3, 3\] in the state, \[4, 7, 7, 3\] here.*expected images of another size \(--size\)/,
    ],
    [
      "images of other channels",
      ["--weights", pretrained, "--channels", "1"],
      /conv1.weight is .*; expected images of 3 channels \(--channels\)/,
    ],
    [
      "nothing to keep",
      ["--freeze-batch-norm"],
      /--freeze-batch-norm is given without --weights; expected pretrained/,
    ],
    [
      "a mean of too few channels",
      ["--mean", "0.5"],
      /--mean is 0.5; expected 3 numbers, one for each channel/,
    ],
    ["no deviation", ["--std", "1,0,1"], /--std is 1,0,1; expected 3 numbers above 0/],
  ];
  it.concurrent.each(cases)("refuses %s, in one line, and writes nothing", async (_, args, message) => {
    const out = join(folder(), "out");
    const sized = ["--size", "8"].filter(() => !args.includes("--size"));
    const rest = args.includes("--model") ? NETWORK.slice(2) : NETWORK;
    const network = args.includes("--width") ? rest.slice(2) : rest;
    const { code, stderr } = await fusenorm(
      "train",
      "--data",
      photos,
      "--out",
      out,
      ...sized,
      ...network,
      ...args,
    );
    const lines = stderr.split("\n").filter((line) => line.startsWith("fusenorm: "));
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect([code, existsSync(out)]).toEqual([1, false]);
  });

  it("says which network a file of this program is of", async () => {
    const run = join(home, "small");
    const args = ["--data", tinyDataset(), "--max-steps", "1"];
    const made = await fusenorm("train", ...args, "--out", run, ...NETWORK, "--lr", "0.01");
    expect(made.code).toBe(0);
    const from = ["--weights", join(run, "checkpoint.safetensors")];
    const { stderr } = await fusenorm("train", ...args, "--out", join(home, "x"), ...SMALL, ...from);
    expect(stderr).toMatch(
      /none of its 122 tensors \(conv1.weight, .*\) has the name of one of resnetCifar, .*; expected --model resnet18$/m,
    );
    const narrow = ["--model", "resnet18", "--width", "8", "--batch-size", "5"];
    const other = await fusenorm("train", ...args, "--out", join(home, "x"), ...narrow, ...from);
    expect(other.stderr).toMatch(/conv1.weight is \[4, .*; expected --width 4$/m);
    const deeper = await fusenorm("train", ...args, "--out", join(home, "small2"), ...SMALL);
    expect(deeper.code).toBe(0);
    const own = [
      "--weights",
      join(home, "small2", "checkpoint.safetensors"),
      "--depth",
      "14",
      "--norm",
      "none",
    ];
    const flat = await fusenorm("train", ...args, "--out", join(home, "x"), ...narrow.slice(2), ...own);
    expect(flat.stderr).toMatch(/expected --depth 8 --width 4 --norm batch$/m);
  });
});
