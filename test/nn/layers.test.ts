// Layers that only call an op: with the options that they were made with, against float64.

import { describe, expect, it } from "vitest";
import {
  AdaptiveAvgPool2d,
  Conv2d,
  LogSoftmax,
  ReLU,
  Sequential,
  Sigmoid,
  Softmax,
  Softplus,
  Tanh,
  Upsample,
} from "../../src/nn/layers.ts";
import type { Module } from "../../src/nn/module.ts";
import { Random } from "../../src/tensor/random.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { rowsOf, softmaxRow } from "../reference/softmax.ts";

const gpu = await testGpu();

/** What a layer makes of normal numbers; no buffer is left. */
async function run(layer: Module, shape: readonly number[]) {
  const live = gpu.stats.liveBuffers;
  const data = normals(
    shape.reduce((a, b) => a * b),
    7,
    0,
    2,
  );
  const x = gpu.tensor(data, shape, { requiresGrad: true });
  const y = layer.forward(x);
  const values = await y.read();
  gpu.scope(() => y.backward(gpu.full(y.shape, 1)));
  expect(x.grad).not.toBe(null);
  const out = { data, values, shape: y.shape };
  x.zeroGrad();
  for (const each of [x, y]) each.dispose();
  expect(gpu.stats.liveBuffers).toBe(live);
  return out;
}

describe("layers", () => {
  const elementwise: [string, () => Module, (v: number) => number][] = [
    ["Sigmoid", () => new Sigmoid(), (v) => 1 / (1 + Math.exp(-v))],
    ["Tanh", () => new Tanh(), Math.tanh],
    ["Softplus", () => new Softplus({ beta: 2 }), (v) => Math.log1p(Math.exp(2 * v)) / 2],
  ];
  it.each(elementwise)("%s", async (_name, make, f) => {
    const { data, values, shape } = await run(make(), [2, 3, 5]);
    expect(shape).toEqual([2, 3, 5]);
    expect(relativeError(values, data.map(f))).toBeLessThan(1e-6);
  });

  it("Softmax, LogSoftmax are over another axis, if it is named", async () => {
    const gpu = await testGpu();
    const data = normals(12, 9);
    const [x, soft, log] = gpu.scope(() => {
      const x = gpu.tensor(data, [3, 4]);
      return [x, new Softmax(0).forward(x), new LogSoftmax(-2).forward(x)];
    });
    const values = await x!.read();
    const columns = [0, 1, 2, 3].map((c) => softmaxRow([0, 1, 2].map((r) => values[4 * r + c]!)));
    const expected = [0, 1, 2].flatMap((r) => columns.map((column) => column[r]!));
    expect(relativeError(await soft!.read(), expected)).toBeLessThan(1e-6);
    expect(relativeError(await log!.read(), expected.map(Math.log))).toBeLessThan(1e-6);
    expect(() => new Softmax("1" as never)).toThrow('Softmax: axis is "1"; expected');
    for (const tensor of [x, soft, log]) tensor!.dispose();
  });

  it("Softmax, LogSoftmax are over the last axis", async () => {
    const { data, values } = await run(new Softmax(), [4, 3, 5]);
    const expected = rowsOf(data, 5).flatMap(softmaxRow);
    expect(relativeError(values, expected)).toBeLessThan(1e-6);
    const log = await run(new LogSoftmax(), [4, 3, 5]);
    expect(relativeError(log.values, expected.map(Math.log))).toBeLessThan(1e-6);
  });

  it("AdaptiveAvgPool2d is for maps of any size", async () => {
    const layer = new AdaptiveAvgPool2d([2, null]);
    for (const height of [4, 5]) {
      const { data, values, shape } = await run(layer, [2, height, 3, 2]);
      expect(shape).toEqual([2, 2, 3, 2]);
      const windows = [
        [0, Math.ceil(height / 2)],
        [Math.floor(height / 2), height],
      ] as const;
      const expected = [0, 1].flatMap((n) =>
        windows.flatMap(([from, to]) =>
          Array.from({ length: 6 }, (_, i) => {
            let sum = 0;
            for (let row = from; row < to; row += 1) sum += data[(n * height + row) * 6 + i]!;
            return sum / (to - from);
          }),
        ),
      );
      expect(relativeError(values, expected)).toBeLessThan(1e-6);
    }
  });

  it("Upsample repeats pixels, or mixes them", async () => {
    const { data, values, shape } = await run(new Upsample({ scaleFactor: 2 }), [1, 2, 3, 2]);
    expect(shape).toEqual([1, 4, 6, 2]);
    const at = (row: number, column: number) => [0, 1].map((c) => data[(row * 3 + column) * 2 + c]!);
    const expected = [0, 0, 1, 1].flatMap((row) => [0, 0, 1, 1, 2, 2].flatMap((column) => at(row, column)));
    expect(relativeError(values, expected)).toBeLessThan(1e-7);
    const mixed = await run(
      new Upsample({ size: [1, 5], mode: "bilinear", alignCorners: true }),
      [1, 1, 3, 1],
    );
    const [a, b, c] = mixed.data as unknown as [number, number, number];
    expect(relativeError(mixed.values, [a, (a + b) / 2, b, (b + c) / 2, c])).toBeLessThan(1e-6);
  });

  it("say what is wrong when they are made", () => {
    expect(() => new Upsample({} as never)).toThrow(/^Upsample: neither size nor scaleFactor is given/);
    expect(() => new AdaptiveAvgPool2d(0)).toThrow("AdaptiveAvgPool2d: outputSize is 0; expected");
    expect(() => new Softplus({ beta: 0 })).toThrow("Softplus: beta is 0; expected a number above 0");
  });

  it("of a Sequential have their own types there, and are found by any number", async () => {
    const gpu = await testGpu();
    const model = new Sequential(new Conv2d(gpu, 1, 2, 3), new Sigmoid(), new ReLU());
    model.layers[0].weight.fill(0.25); // no cast
    expect([...(await model.layers[0].weight.read())]).toEqual(Array(18).fill(0.25));
    const any: Sequential = model;
    any.layers[2] = new Sigmoid();
    expect(model.layers.map((layer: Module) => layer.constructor.name)).toEqual([
      "Conv2d",
      "Sigmoid",
      "Sigmoid",
    ]);
    model.dispose();
  });

  it("of a Sequential are in its list", () => {
    const model = new Sequential(new Conv2d(gpu, 1, 2, 3, { random: new Random(1) }), new ReLU());
    expect(model.layers.length).toBe(2);
    expect(model.layers[0]).toBeInstanceOf(Conv2d);
    model.dispose();
  });
});
