// foldBatchNorm: the same outputs without the norms, and the norms that have to stay.

import { describe, expect, it } from "vitest";
import { noGrad } from "../../src/autograd/tape.ts";
import { foldBatchNorm } from "../../src/nn/fold.ts";
import {
  BatchNorm2d,
  Conv2d,
  ConvTranspose2d,
  Flatten,
  Linear,
  ReLU,
  Sequential,
} from "../../src/nn/layers.ts";
import { mobilenetV2 } from "../../src/nn/models/mobilenet.ts";
import { resnetCifar } from "../../src/nn/models/resnet.ts";
import { resnet18, resnet50 } from "../../src/nn/models/resnet-imagenet.ts";
import { vgg11 } from "../../src/nn/models/vgg.ts";
import type { Module } from "../../src/nn/module.ts";
import { weightNorm } from "../../src/nn/weight-norm.ts";
import { Random } from "../../src/tensor/random.ts";
import { withChoices } from "../helpers/choices.ts";
import { testGpu } from "../helpers/gpu.ts";
import { trainedValues } from "../helpers/networks.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { Tape } from "../reference/autodiff.ts";

const gpu = await testGpu();
const random = new Random(3);

/** As after some training: γ, β and running statistics are no longer what they start as. */
async function trained<T extends Module>(model: T): Promise<T> {
  await trainedValues(model);
  for (const [i, [name, tensor]] of [...model.tensors()].entries()) {
    if (name.endsWith("runningMean")) tensor.write(normals(tensor.size, i, 0.2, 0.5));
    if (name.endsWith("runningVar")) tensor.write(normals(tensor.size, i, 0, 1).map((v) => 0.5 + v * v));
  }
  return model.eval();
}

/** Names of what is folded and left, outputs equal, and no buffer lost. */
async function check(model: Module, shape: readonly number[]) {
  const x = gpu.tensor(
    normals(
      shape.reduce((a, b) => a * b),
      1,
    ),
    shape,
  );
  const logits = async () => {
    const y = noGrad(() => gpu.scope(() => model.forward(x)));
    const values = await y.read();
    y.dispose();
    return values;
  };
  const before = await logits();
  const buffers = gpu.stats.liveBuffers - [...model.tensors()].length;
  const names = foldBatchNorm(model);
  expect(gpu.stats.liveBuffers).toBe(buffers + [...model.tensors()].length);
  expect(relativeError(await logits(), before)).toBeLessThan(2e-5);
  const norms = [...model.modules()].filter(([, module]) => module instanceof BatchNorm2d);
  expect(norms.map(([name]) => name)).toEqual(names.left);
  expect(foldBatchNorm(model)).toEqual({ folded: [], left: names.left });
  x.dispose();
  return names;
}

describe("foldBatchNorm", () => {
  it("is the formula, in float64", async () => {
    for (const [affine, bias] of [
      [true, true],
      [true, false],
      [false, true],
      [false, false],
    ]) {
      const conv = new Conv2d(gpu, 4, 6, 3, { groups: 2, bias, random });
      const norm = new BatchNorm2d(gpu, 6, { affine, eps: 0.03 });
      const model = await trained(new Sequential(conv, norm));
      const read = async (name: "weight" | "bias" | "runningMean" | "runningVar", otherwise: number) =>
        (await norm[name]?.read()) ?? new Float32Array(6).fill(otherwise);
      const [gamma, beta] = [await read("weight", 1), await read("bias", 0)];
      const [mean, variance] = [await read("runningMean", 0), await read("runningVar", 1)];
      const weight = await conv.weight.read();
      const own = (await conv.bias?.read()) ?? new Float32Array(6);
      foldBatchNorm(model);
      const factor = Array.from(gamma, (g, k) => g / Math.sqrt(variance[k]! + 0.03));
      const scaled = Array.from(weight, (w, i) => w * factor[Math.floor(i / 18)]!);
      const shifts = factor.map((f, k) => (own[k]! - mean[k]!) * f + beta[k]!);
      expect(relativeError(await conv.weight.read(), scaled)).toBeLessThan(1e-6);
      expect(relativeError(await conv.bias!.read(), shifts)).toBeLessThan(1e-6);
      expect(model.namedParameters().map(([name]) => name)).toEqual(["layers.0.weight", "layers.0.bias"]);
      model.dispose();
    }
  });

  it("folds into transposed convolutions, whose output channels are the weight's last axis and the group", async () => {
    for (const bias of [true, false]) {
      for (const groups of [1, 2]) {
        const conv = new ConvTranspose2d(gpu, 4, 6, [3, 2], { groups, bias, stride: 2, random });
        const model = await trained(new Sequential(conv, new BatchNorm2d(gpu, 6), new ReLU()));
        const { folded, left } = await check(model, [2, 3, 4, 4]);
        expect([folded, left]).toEqual([["layers.1"], []]);
        expect(model.namedParameters().map(([name]) => name)).toEqual(["layers.0.weight", "layers.0.bias"]);
        model.dispose();
      }
    }
  });

  it("leaves nothing of the norms of these", async () => {
    await withChoices(
      gpu,
      { family: "software", folding: "default", seed: 1, quick: () => true },
      async () => {
        const networks: [Module, number[], number][] = [
          [resnet18(gpu, { images: "cifar", width: 4 }), [2, 8, 8, 3], 20],
          [resnet50(gpu, { width: 2, classes: 5 }), [1, 33, 33, 3], 53],
          [vgg11(gpu, { images: "cifar", width: 2, norm: "batch" }), [2, 32, 32, 3], 8],
          [resnetCifar(gpu, { depth: 8, width: 4, shortcut: "projection" }), [2, 8, 8, 3], 9],
          [
            new Sequential(
              new Flatten(),
              new Linear(gpu, 12, 5, { random }),
              new BatchNorm2d(gpu, 5),
              new ReLU(),
            ),
            [3, 2, 2, 3],
            1,
          ],
        ];
        for (const [model, shape, count] of networks) {
          const { folded, left } = await check(await trained(model), shape);
          expect(folded).toHaveLength(count);
          expect(left).toEqual([]);
          model.dispose();
        }
      },
    );
  });

  it("finds every norm of mobilenetV2", () => {
    const model = mobilenetV2(gpu, { images: "cifar", widthMult: 0.05 }).eval();
    const { folded, left } = foldBatchNorm(model);
    expect([folded.length, left.length]).toEqual([52, 0]);
    expect(folded).toContain("features.2.conv.1.1");
    model.dispose();
  });

  it("leaves the norms that no convolution gives its output to", async () => {
    const preact = await trained(resnetCifar(gpu, { depth: 8, width: 4, preActivation: true }));
    const { folded, left } = await check(preact, [2, 8, 8, 3]);
    expect(folded).toEqual([0, 1, 2].map((i) => `blocks.${i}.second.norm`));
    expect(left).toEqual([...[0, 1, 2].map((i) => `blocks.${i}.first.norm`), "lastNorm"]);
    preact.dispose();
    const last = await trained(resnetCifar(gpu, { depth: 8, width: 4, norm: "last" }));
    expect(await check(last, [2, 8, 8, 3])).toEqual({ folded: [], left: ["lastNorm"] });
    last.dispose();
  });

  it("leaves tensors that layers share to those that still have them", async () => {
    const make = () => {
      const conv = () => new Conv2d(gpu, 3, 3, 3, { padding: 1, random });
      const [first, second] = [conv(), conv()];
      const norms = [1, 2, 3].map(() => new BatchNorm2d(gpu, 3));
      const model = new Sequential(first, norms[0]!, new ReLU(), second, norms[1]!, new ReLU(), norms[2]!);
      return { model, first, second, norms };
    };
    const both = make();
    both.second.weight.dispose();
    both.second.weight = both.first.weight;
    const one = make();
    for (const i of [1, 2]) {
      one.norms[i]!.weight!.dispose();
      one.norms[i]!.weight = one.norms[0]!.weight;
    }
    for (const { model } of [both, one]) {
      // One that is shared is counted once.
      const own = () => new Set([...model.tensors()].map(([, tensor]) => tensor)).size;
      const others = gpu.stats.liveBuffers - own();
      const x = gpu.tensor(normals(2 * 5 * 4 * 3, 1), [2, 5, 4, 3]);
      const outputs = () => noGrad(() => gpu.scope(() => model.forward(x)));
      await trained(model);
      const first = outputs();
      const before = await first.read();
      expect(foldBatchNorm(model)).toEqual({ folded: ["layers.1", "layers.4"], left: ["layers.6"] });
      const after = outputs();
      expect(relativeError(await after.read(), before)).toBeLessThan(2e-5);
      for (const t of [x, first, after]) t.dispose();
      expect(gpu.stats.liveBuffers).toBe(others + own());
      model.dispose();
    }
  });

  it("leaves a shared convolution, one with a weight norm, and a norm without running statistics", async () => {
    const conv = () => new Conv2d(gpu, 4, 4, 3, { padding: 1, random });
    const shared = conv();
    const model = new Sequential(
      ...[shared, new BatchNorm2d(gpu, 4), shared],
      ...[weightNorm(conv()), new BatchNorm2d(gpu, 4)],
      ...[conv(), new BatchNorm2d(gpu, 4, { trackRunningStats: false })],
      ...[conv(), new ReLU(), new BatchNorm2d(gpu, 4)],
    ).eval();
    const { folded, left } = await check(model, [2, 5, 5, 4]);
    expect(folded).toEqual([]);
    expect(left).toEqual(["layers.1", "layers.4", "layers.6", "layers.9"]);
    model.dispose();
  });

  it("wants inference, and keeps what is frozen so", async () => {
    const model = new Sequential(new Conv2d(gpu, 3, 4, 3, { random }), new BatchNorm2d(gpu, 4));
    expect(() => foldBatchNorm(model)).toThrow(
      /foldBatchNorm: layers\.1 is in training mode.*model\.eval\(\)/,
    );
    model.eval().freeze();
    foldBatchNorm(model);
    expect(model.parameters()).toEqual([]);
    model.freeze(false);
    expect(model.namedParameters().map(([name]) => name)).toEqual(["layers.0.weight", "layers.0.bias"]);
    model.dispose();
  });
});

it("batch-norm in inference is what the float64 reference says before anything is folded", async () => {
  const norm = await trained(new BatchNorm2d(gpu, 5));
  const data = normals(60, 2);
  const x = gpu.tensor(data, [12, 5]);
  const y = norm.forward(x);
  const tape = new Tape();
  const value = async (name: "weight" | "bias") => tape.leaf([5], await norm[name]!.read());
  const running = { mean: await norm.runningMean!.read(), variance: await norm.runningVar!.read() };
  const expected = tape.batchNorm(tape.leaf([12, 5], data), await value("weight"), await value("bias"), {
    ...{ eps: 1e-5, running },
  });
  expect(relativeError(await y.read(), expected.data)).toBeLessThan(1e-6);
  for (const each of [x, y, norm]) each.dispose();
});
