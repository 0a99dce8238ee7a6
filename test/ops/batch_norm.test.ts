import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { type BatchNormOptions, batchNorm } from "../../src/ops/batch_norm.ts";
import { batchNormComposed } from "../../src/ops/batch_norm_composed.ts";
import type { Shape } from "../../src/tensor/shape.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import {
  batchNormReference,
  batchNormReferenceGrad,
  channelStatistics,
  type ReferenceBatchNorm,
} from "../reference/batch_norm.ts";

interface Extra {
  gamma?: boolean;
  beta?: boolean;
  residual?: boolean;
  relu?: boolean;
  eps?: number;
  x?: Float64Array;
  inference?: boolean;
  tolerance?: OpCase["tolerance"];
}

function bnCase(label: string, shape: Shape, extra: Extra = {}): OpCase {
  const { gamma = true, beta = true, residual = false, relu = false, eps = 1e-5, inference = false } = extra;
  const channels = shape.at(-1)!;
  const count = sizeOf(shape) / channels;
  const running = inference
    ? { mean: normals(channels, 71), variance: normals(channels, 72).map((v) => Math.fround(v * v + 0.1)) }
    : undefined;
  const b: ReferenceBatchNorm = { count, channels, eps, relu, ...(running && { running }) };
  const run = (op: typeof batchNorm) => (t: Record<string, Tensor>) => {
    const { gpu } = t.x!;
    const options: BatchNormOptions = {
      training: !inference,
      eps,
      activation: relu ? "relu" : "none",
      residual: t.residual ?? null,
      runningMean: running ? gpu.tensor(running.mean, [channels]) : null,
      runningVar: running ? gpu.tensor(running.variance, [channels]) : null,
    };
    return op(t.x!, t.gamma ?? null, t.beta ?? null, options);
  };
  return {
    label: `${label} ${shape.join("×")}${relu ? " relu" : ""}${residual ? " residual" : ""}`,
    inputs: {
      x: extra.x ? { shape, data: extra.x } : shape,
      ...(gamma && { gamma: [channels] }),
      ...(beta && { beta: [channels] }),
      ...(residual && { residual: shape }),
    },
    run: run(batchNorm),
    composed: run(batchNormComposed),
    reference: (a) => batchNormReference(b, a as never),
    referenceGrad: (a, dy) => ({ ...batchNormReferenceGrad(b, a as never, dy) }),
    ...(extra.tolerance && { tolerance: extra.tolerance }),
  };
}

/** Every combination of ReLU and residual. */
function tails(label: string, shape: Shape, extra: Extra = {}): OpCase[] {
  return [false, true].flatMap((relu) =>
    [false, true].map((residual) => bnCase(label, shape, { ...extra, relu, residual })),
  );
}

describe("batch_norm", () => {
  it("normalises, scales, adds and rectifies in training", async () => {
    await checkOp([
      ...tails("maps", [2, 5, 7, 8]),
      ...tails("rows", [33, 12]),
      bnCase("no gamma", [3, 4, 4, 8], { gamma: false, relu: true }),
      bnCase("no beta", [3, 4, 4, 8], { beta: false, relu: true }),
      bnCase("neither", [3, 4, 4, 8], { gamma: false, beta: false, relu: true, residual: true }),
    ]);
  });

  it("takes every number of channels", async () => {
    for (const channels of [1, 2, 3, 6, 7, 13, 33, 130]) {
      await checkOp([
        bnCase("channels", [2, 3, 5, channels], { relu: true }),
        bnCase("channels", [1, 11, 9, channels], { relu: true, residual: true }),
      ]);
    }
  });

  it("takes ragged and extreme sizes", async () => {
    await checkOp([
      // With two values and a small eps, dx is a difference of equals: zero but for rounding.
      ...tails("two values", [2, 1, 1, 4], { eps: 1 }),
      bnCase("two values", [2, 1], { relu: true, eps: 1 }),
      bnCase("three values", [3, 3], { relu: true, residual: true, eps: 1 }),
      bnCase("one pixel", [17, 1, 1, 6], { relu: true, residual: true }),
      bnCase("many rows", [40_009, 1], { relu: true }),
      bnCase("many rows", [10_007, 3], { relu: true, residual: true }),
      bnCase("wide", [3, 1, 1, 2048], { relu: true, residual: true }),
      bnCase("wide", [5, 2047], { relu: true, residual: true }),
      bnCase("a residual network's", [8, 16, 16, 32], { relu: true }),
      bnCase("a residual network's", [8, 16, 16, 16], { relu: true, residual: true }),
    ]);
  });

  it("uses the running statistics in inference", async () => {
    await checkOp([
      ...tails("inference", [2, 5, 7, 8], { inference: true }),
      ...tails("inference", [9, 5], { inference: true }),
      bnCase("inference, one value", [1, 7], { inference: true }),
      bnCase("inference, plain", [2, 3, 3, 4], { inference: true, gamma: false, beta: false }),
    ]);
  });

  /** y, dx, dgamma, dbeta of one call; the input may hold anything. */
  async function values(x: Float64Array, shape: Shape, options: Partial<BatchNormOptions> = {}) {
    const gpu = await testGpu();
    const channels = shape.at(-1)!;
    const input = gpu.tensor(x, shape, { requiresGrad: true });
    const gamma = gpu.tensor(normals(channels, 5), [channels], { requiresGrad: true });
    const beta = gpu.tensor(normals(channels, 6), [channels], { requiresGrad: true });
    const dy = gpu.tensor(normals(x.length, 7), shape);
    const y = batchNorm(input, gamma, beta, { training: true, ...options });
    const out = await y.read();
    y.backward(dy);
    const grads = [await input.grad!.read(), await gamma.grad!.read(), await beta.grad!.read()];
    for (const tensor of [input, gamma, beta, dy, y]) tensor.dispose();
    return [out, ...grads];
  }

  it("keeps its precision where the mean is a thousand deviations away", async () => {
    for (const ratio of [10, 1000]) {
      await checkOp(
        [
          bnCase(`mean ${ratio}`, [4, 9, 11, 8], { x: normals(4 * 99 * 8, 3, ratio, 1), relu: true }),
          bnCase(`mean ${ratio}`, [2, 5, 7, 3], {
            x: normals(210, 3, -ratio, 1),
            residual: true,
            relu: true,
          }),
          bnCase(`mean ${ratio}`, [4, 40, 41, 16], { x: normals(6560 * 16, 3, ratio, 1) }),
        ].map(({ referenceGrad, ...c }) => ({ ...c, referenceGrad: referenceGrad! })),
      );
    }
  });
});
