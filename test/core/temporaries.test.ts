// What a function makes for itself, which no caller has a handle on, is gone when the caller has disposed of the result: outside of any
// scope, too.

import { afterAll, describe, expect, it } from "vitest";
import { noGrad } from "../../src/autograd/tape.ts";
import type { Gpu } from "../../src/gpu.ts";
import * as core from "../../src/index.ts";
import { requestGpu } from "../../src/node/request.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { normals } from "../helpers/numbers.ts";
import { publicCalls } from "../helpers/public-calls.ts";

/** Buffers that are left after `call`, its result's gradient and the disposal of what it returns. */
function leftBy(gpu: Gpu, leaves: readonly Tensor[], call: () => Tensor): number {
  gpu.flush();
  const before = gpu.stats.liveBuffers;
  const out = call();
  if (out.requiresGrad) {
    const upstream = gpu.tensor(normals(out.size, 7), out.shape, { dtype: out.dtype });
    out.backward(upstream);
    upstream.dispose();
    for (const leaf of leaves) leaf.zeroGrad();
  }
  if (!leaves.includes(out)) out.dispose(); // dropout in inference gives back what it got
  gpu.flush();
  return gpu.stats.liveBuffers - before;
}

describe("temporaries", async () => {
  const gpu = await requestGpu({ debug: { poison: true } });
  afterAll(() => gpu.destroy());

  it("of every public function that makes a tensor are gone with it", async () => {
    const entries = publicCalls(gpu);
    const left: Record<string, number> = {};
    let called = 0;
    for (const [name, { args, call, accepted, after }] of Object.entries(entries)) {
      if (accepted || (core as Record<string, unknown>)[name] !== call) continue;
      const given = args.map(({ value }) => value);
      const tensors = given.filter((value) => value instanceof Tensor);
      if (tensors.length === 0) continue;
      const run = () => (call as (...args: unknown[]) => unknown)(...given);
      const first = await run();
      after?.();
      if (!(first instanceof Tensor) || tensors.includes(first)) continue;
      first.dispose();
      called += 1;
      const buffers = leftBy(gpu, tensors, () => run() as Tensor);
      if (buffers !== 0) left[name] = buffers;
    }
    expect(left).toEqual({});
    expect(called).toBeGreaterThan(50);
  });

  const { add, sub, mul, div, maximum, minimum, eq, ne, lt, le, gt, ge, pow, where } = core;
  const all = { add, sub, mul, div, maximum, minimum, eq, ne, lt, le, gt, ge, pow };
  it.each(Object.entries(all))("of %s of two tensors that both repeat are gone with the result", (_, op) => {
    const a = gpu.tensor([1, 2, 3], [3, 1], { requiresGrad: true });
    const b = gpu.tensor([0.5, 1, 2, 3], [1, 4], { requiresGrad: true });
    expect(leftBy(gpu, [a, b], () => op(a, b))).toBe(0);
    expect(leftBy(gpu, [a, b], () => noGrad(() => op(a, b)))).toBe(0);
  });

  it("of every layer are gone with its output", () => {
    const x = gpu.tensor(normals(2 * 6 * 5 * 4, 3), [2, 6, 5, 4], { requiresGrad: true });
    const rows = gpu.tensor(normals(6 * 4, 4), [6, 4], { requiresGrad: true });
    const layers: readonly [core.Module & { forward(x: Tensor): Tensor }, Tensor?][] = [
      [new core.Conv2d(gpu, 4, 8, 3)],
      [core.weightNorm(new core.Conv2d(gpu, 4, 8, 3))],
      [core.weightNorm(new core.ConvTranspose2d(gpu, 4, 8, 3))],
      [core.weightNorm(new core.Linear(gpu, 4, 3)), rows],
      [new core.BatchNorm1d(gpu, 4), rows],
      ...([true, false, "elementwise"] as const).flatMap((fused): [core.BatchNorm2d][] => [
        [new core.BatchNorm2d(gpu, 4, { fused })],
        [new core.BatchNorm2d(gpu, 4, { fused, skipNonFinite: true })],
        [new core.BatchNorm2d(gpu, 4, { fused, frozen: true })],
      ]),
      [new core.GroupNorm(gpu, 2, 4)],
      [new core.InstanceNorm2d(gpu, 4, { affine: true, trackRunningStats: true })],
      [new core.LayerNorm(gpu, [5, 4])],
      [new core.Dropout(gpu)],
      [new core.Dropout2d(gpu)],
      [new core.StochasticDepth(gpu, 0.3, "row")],
      ...[core.GELU, core.Hardswish, core.LeakyReLU, core.LogSoftmax, core.ReLU, core.ReLU6].map(
        (Activation): [core.Module & { forward(x: Tensor): Tensor }] => [new Activation()],
      ),
      ...[core.Sigmoid, core.SiLU, core.Softmax, core.Softplus, core.Tanh, core.GlobalAvgPool2d].map(
        (Layer): [core.Module & { forward(x: Tensor): Tensor }] => [new Layer()],
      ),
      [new core.AdaptiveAvgPool2d(3)],
      [new core.MaxPool2d(2)],
      [new core.AvgPool2d(2)],
      [new core.Flatten()],
      [new core.Upsample({ scaleFactor: 2 })],
    ];
    const left: string[] = [];
    for (const [layer, input = x] of layers) {
      for (const mode of ["train", "eval", "noGrad"]) {
        layer.train(mode !== "eval");
        const run = () => (mode === "noGrad" ? noGrad(() => layer.forward(input)) : layer.forward(input));
        const leaves = [input, ...layer.parameters()];
        leftBy(gpu, leaves, run); // makes what it keeps
        if (leftBy(gpu, leaves, run) !== 0) left.push(`${layer.constructor.name}, ${mode}`);
      }
    }
    expect(left).toEqual([]);
  });

  it("of where of three tensors that repeat are gone with the result", () => {
    const condition = gpu.tensor([1, 0, 1], [3, 1]);
    const a = gpu.tensor([1, 2, 3, 4], [4], { requiresGrad: true });
    const b = gpu.tensor([5], [1, 1], { requiresGrad: true });
    expect(leftBy(gpu, [a, b], () => where(condition, a, b))).toBe(0);
  });
});
