// GroupNorm, InstanceNorm2d, LayerNorm and weightNorm against float64, with PyTorch's names and defaults.

import { describe, expect, it } from "vitest";
import { Conv2d, ConvTranspose2d, Linear } from "../../src/nn/layers.ts";
import type { Module } from "../../src/nn/module.ts";
import { GroupNorm, InstanceNorm2d, LayerNorm } from "../../src/nn/norms.ts";
import { weightNorm } from "../../src/nn/weight-norm.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { Random } from "../../src/tensor/random.ts";
import { probe } from "../../src/train/probes.ts";
import { testGpu } from "../helpers/gpu.ts";
import { trainedValues } from "../helpers/networks.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { Tape, type Value } from "../reference/autodiff.ts";

const gpu = await testGpu();

/** y and all gradients of a layer, for a random dy. */
async function check(
  layer: Module,
  shape: readonly number[],
  reference: (tape: Tape, x: Value, w: Record<string, Value>) => Value,
) {
  const live = gpu.stats.liveBuffers;
  const w = await trainedValues(layer);
  const tape = new Tape();
  const input = normals(
    shape.reduce((a, b) => a * b),
    1,
    2,
    3,
  );
  const leaf = tape.leaf(shape, input, true);
  const expected = reference(tape, leaf, w);
  const upstream = normals(expected.data.length, 2);
  tape.backward(expected, upstream);
  const x = gpu.tensor(input, shape, { requiresGrad: true });
  const y = gpu.keep(gpu.scope(() => layer.forward(x)));
  gpu.scope(() => y.backward(gpu.tensor(upstream, y.shape)));
  expect(y.shape).toEqual(expected.shape);
  expect(relativeError(await y.read(), expected.data), "y").toBeLessThan(1e-5);
  expect(relativeError(await x.grad!.read(), leaf.grad!), "dx").toBeLessThan(1e-4);
  for (const [name, tensor] of layer.namedParameters()) {
    expect(relativeError(await tensor.grad!.read(), w[name]!.grad!), `d ${name}`).toBeLessThan(1e-4);
  }
  for (const tensor of [x, y]) tensor.dispose();
  layer.zeroGrad();
  expect(gpu.stats.liveBuffers).toBe(live);
  layer.dispose();
}

const names = (layer: Module) => {
  const all = layer.namedParameters().map(([name, { shape }]) => `${name} [${shape.join(", ")}]`);
  layer.dispose();
  return all;
};

describe("norms", () => {
  it("over groups, channels and rows", async () => {
    await check(new GroupNorm(gpu, 3, 6, { eps: 0.1 }), [2, 5, 3, 6], (tape, x, w) =>
      tape.groupNorm(x, 3, w.weight!, w.bias!, 0.1),
    );
    await check(new InstanceNorm2d(gpu, 6, { affine: true }), [2, 5, 3, 6], (tape, x, w) =>
      tape.groupNorm(x, 6, w.weight!, w.bias!, 1e-5),
    );
    await check(new LayerNorm(gpu, [3, 6]), [2, 5, 3, 6], (tape, x, w) => {
      const flat = (value: Value) => tape.reshape(value, [18]);
      const y = tape.layerNorm(tape.reshape(x, [10, 18]), 18, flat(w.weight!), flat(w.bias!), 1e-5);
      return tape.reshape(y, [2, 5, 3, 6]);
    });
    await check(new LayerNorm(gpu, 7, { bias: false }), [5, 7], (tape, x, w) =>
      tape.layerNorm(x, 7, w.weight!, null, 1e-5),
    );
  });

  it("learn what PyTorch's do", () => {
    expect(names(new GroupNorm(gpu, 2, 6))).toEqual(["weight [6]", "bias [6]"]);
    expect(names(new GroupNorm(gpu, 2, 6, { affine: false }))).toEqual([]);
    expect(names(new InstanceNorm2d(gpu, 6))).toEqual([]);
    expect(names(new LayerNorm(gpu, [2, 6]))).toEqual(["weight [2, 6]", "bias [2, 6]"]);
    expect(names(new LayerNorm(gpu, 6, { bias: false }))).toEqual(["weight [6]"]);
    expect(names(new LayerNorm(gpu, 6, { elementwiseAffine: false }))).toEqual([]);
  });

  it("refuse a channel of one value", () => {
    const x = gpu.zeros([2, 1, 1, 6]);
    expect(() => new InstanceNorm2d(gpu, 6).forward(x)).toThrow(/InstanceNorm2d: x is \[2, 1, 1, 6\]/);
    expect(() => new GroupNorm(gpu, 4, 6)).toThrow(/GroupNorm: 6 channels in 4 groups/);
    x.dispose();
  });
});

describe("weight normalisation", () => {
  const random = new Random(4);
  const weightOf = (tape: Tape, w: Record<string, Value>) => {
    const [g, v] = [0, 1].map((i) => w[`parametrizations.weight.original${i}`]!);
    const rest = v!.shape.map((_, axis) => axis).slice(1);
    const zeros = tape.leaf(g!.shape, new Float64Array(g!.data.length));
    return tape.mul(g!, tape.normalize(v!, zeros, tape.sum(tape.mul(v!, v!), rest, true), 0));
  };

  it("has the gradients of length and direction", async () => {
    const conv = weightNorm(new Conv2d(gpu, 4, 6, [3, 2], { groups: 2, stride: 2, random }));
    const lengths = conv.parametrizations!.weight.original0;
    lengths.write(normals(6, 9, 1.5, 0.3));
    await check(conv, [2, 7, 5, 4], (tape, x, w) =>
      tape.conv2d(x, weightOf(tape, w), { bias: w.bias!, stride: [2, 2], groups: 2 }),
    );
    await check(weightNorm(new Linear(gpu, 5, 3, { random })), [4, 5], (tape, x, w) =>
      tape.linear(x, weightOf(tape, w), w.bias!),
    );
  });

  it("of a transposed convolution is along its input channels, as PyTorch's dim of 0", async () => {
    const layer = weightNorm(new ConvTranspose2d(gpu, 4, 6, [3, 2], { groups: 2, stride: 2, random }));
    const lengths = layer.parametrizations!.weight.original0;
    expect(lengths.shape).toEqual([4, 1, 1, 1]);
    lengths.write(normals(4, 9, 1.5, 0.3));
    await check(layer, [2, 3, 4, 4], (tape, x, w) => {
      return tape.convTranspose2d(x, weightOf(tape, w), w.bias!, {
        ...{ x: [2, 3, 4, 4], weight: [4, 3, 2, 3], stride: [2, 2], padding: [0, 0, 0, 0] },
        ...{ dilation: [1, 1], groups: 2, outputPadding: [0, 0] },
      });
    });
  });

  it("is no layer to probes", async () => {
    const layer = weightNorm(new Conv2d(gpu, 3, 4, 3, { random }));
    const x = gpu.tensor(normals(75, 1), [1, 5, 5, 3]);
    const moments = await probe.activations(layer, x);
    expect(moments.map(({ name, kind }) => `${name} ${kind}`)).toEqual([" Conv2d"]);
    for (const each of [x, layer]) each.dispose();
  });

  it("has PyTorch's names, and trains", async () => {
    const layer = weightNorm(new Linear(gpu, 5, 3, { random }));
    expect(layer.namedParameters().map(([name, { shape }]) => `${name} ${shape.join("×")}`)).toEqual([
      "bias 3",
      "parametrizations.weight.original0 3×1",
      "parametrizations.weight.original1 3×5",
    ]);
    expect(() => weightNorm(layer)).toThrow(/weightNorm: the Linear has a weight norm/);
    const optimizer = new SGD(layer.parameters(), { lr: 0.1 });
    const start = layer.weight;
    const before = await start.read();
    gpu.scope(() => layer.forward(gpu.tensor(normals(20, 3), [4, 5])).backward(gpu.full([4, 3], 1)));
    optimizer.step();
    const weight = layer.weight;
    expect(relativeError(await weight.read(), before)).toBeGreaterThan(0.01);
    for (const each of [start, weight, layer, optimizer]) each.dispose();
  });
});
