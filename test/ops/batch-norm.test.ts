import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { ACTIVATION_NAMES, type Activation } from "../../src/ops/activations.ts";
import { type BatchNormOptions, batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { batchNormComposed } from "../../src/ops/batch-norm/composed.ts";
import { cast } from "../../src/ops/cast.ts";
import type { Shape } from "../../src/tensor/shape.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import { halfToNumber, numberToHalf, type Tensor } from "../../src/tensor/tensor.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { withFoldAt } from "../helpers/fold.ts";
import { sampled, testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { activations } from "../reference/activations.ts";
import {
  batchNormReference,
  batchNormReferenceGrad,
  channelStatistics,
  type ReferenceBatchNorm,
} from "../reference/batch-norm.ts";

interface Extra {
  gamma?: boolean;
  beta?: boolean;
  residual?: boolean;
  relu?: boolean;
  /** In place of `relu`. */
  activation?: Activation;
  eps?: number;
  x?: Float64Array;
  inference?: boolean;
  seed?: number;
  /** Also with every kernel variant. */
  variants?: boolean;
}

const KERNELS = ["batch_norm.forward", "batch_norm.backward"];

/** The variants that take a shape on every adapter; `_one` wants whole vec4s. */
function variantsFor(channels: number): string[] {
  const one = channels % 4 === 0 ? ["software_one", "workgroup_one"] : [];
  return ["software", "workgroup", ...one];
}

function bnCase(label: string, shape: Shape, extra: Extra = {}): OpCase {
  const { gamma = true, beta = true, residual = false, relu = false, eps = 1e-5, inference = false } = extra;
  const channels = shape.at(-1)!;
  const count = sizeOf(shape) / channels;
  const running = inference
    ? { mean: normals(channels, 71), variance: normals(channels, 72).map((v) => Math.fround(v * v + 0.1)) }
    : undefined;
  const given = extra.activation;
  const b: ReferenceBatchNorm = { count, channels, eps, relu, ...(running && { running }) };
  if (given) b.activation = referenceOf(given);
  const run = (op: typeof batchNorm) => (t: Record<string, Tensor>) => {
    const { gpu } = t.x!;
    const options: BatchNormOptions = {
      training: !inference,
      eps,
      activation: given ?? (relu ? "relu" : "none"),
      residual: t.residual ?? null,
      runningMean: running ? gpu.tensor(running.mean, [channels]) : null,
      runningVar: running ? gpu.tensor(running.variance, [channels]) : null,
    };
    return op(t.x!, t.gamma ?? null, t.beta ?? null, options);
  };
  return {
    label: `${label} ${given ? `${JSON.stringify(given)} ` : ""}${shape.join("×")}${relu ? " relu" : ""}${residual ? " residual" : ""}`,
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
    ...(extra.seed && { seed: extra.seed }),
    ...(extra.variants && {
      variants: Object.fromEntries(KERNELS.map((kernel) => [kernel, variantsFor(channels)])),
    }),
  };
}

function referenceOf(activation: Activation) {
  if (typeof activation === "string") return activations[activation];
  const { negativeSlope } = activation;
  return {
    f: (z: number) => (z > 0 ? z : negativeSlope * z),
    df: (z: number) => (z > 0 ? 1 : negativeSlope),
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
      ...tails("maps", [2, 5, 7, 8], { variants: true }),
      ...tails("rows", [33, 12], { variants: true }),
      // A column more than a workgroup of `software_one` has: the lanes after it, past the end, run when the first columns are done.
      ...tails("nine columns", [7, 36], { variants: true }),
      bnCase("no gamma", [3, 4, 4, 8], { gamma: false, relu: true }),
      bnCase("no beta", [3, 4, 4, 8], { beta: false, relu: true }),
      bnCase("neither", [3, 4, 4, 8], { gamma: false, beta: false, relu: true, residual: true }),
    ]);
  });

  it("takes every number of channels", async () => {
    for (const channels of sampled([1, 2, 3, 6, 7, 13, 33, 130])) {
      await checkOp([
        bnCase("channels", [2, 3, 5, channels], { relu: true }),
        bnCase("channels", [1, 11, 9, channels], { relu: true, residual: true, variants: true }),
      ]);
    }
  });

  it("takes ragged and extreme sizes", async () => {
    await checkOp([
      // With two values and a small eps, dx is a difference of equals: zero but for rounding.
      ...tails("two values", [2, 1, 1, 4], { eps: 1, variants: true }),
      bnCase("two values", [2, 1], { relu: true, eps: 1 }),
      bnCase("three values", [3, 3], { relu: true, residual: true, eps: 1 }),
      bnCase("one pixel", [17, 1, 1, 6], { relu: true, residual: true }),
      bnCase("many rows", [40_009, 1], { variants: true }),
      bnCase("many rows", [10_007, 3], { residual: true, variants: true }),
      bnCase("just past a block of rows", [513, 4], { relu: true, residual: true, variants: true }),
      bnCase("wide", [3, 1, 1, 2048], { relu: true, residual: true, variants: true }),
      bnCase("wide", [5, 2047], { relu: true, residual: true, variants: true }),
      // Seeds: with so many values some may lie next to the ReLU's kink, where finite differences have no say.
      bnCase("a residual network's", [4, 16, 16, 32], { relu: true, seed: 11 }),
      bnCase("a residual network's", [4, 16, 16, 16], { relu: true, residual: true, seed: 12 }),
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

  it("moves the running statistics as PyTorch does", async () => {
    const gpu = await testGpu();
    // Ten columns: in one dispatch more workgroups than one, and lanes past the end.
    const [count, channels] = [21, 40];
    const before = gpu.stats.liveBuffers;
    const ways = [
      { op: batchNormComposed, variant: null, momenta: [0.1, null] },
      ...variantsFor(channels).map((variant) => ({
        op: batchNorm,
        variant,
        // The average over all batches takes more than one dispatch.
        momenta: variant.endsWith("_one") ? [0.1] : [0.1, null],
      })),
    ];
    for (const { op, variant, momenta } of ways) {
      for (const momentum of momenta) {
        const runningMean = gpu.tensor(normals(channels, 1), [channels]);
        const runningVar = gpu.full([channels], 2);
        const numBatchesTracked = gpu.zeros([1]);
        let mean = Array.from(normals(channels, 1));
        let variance = mean.map(() => 2);
        for (let batch = 1; batch <= 3; batch += 1) {
          const data = normals(count * channels, 10 + batch, 3, 2);
          const x = gpu.tensor(data, [count, channels]);
          const options = { training: true, runningMean, runningVar, numBatchesTracked, momentum };
          gpu.variants.force("batch_norm.forward", variant);
          try {
            const y = op(x, null, null, options).materialize();
            const expected = batchNormReference(
              { count, channels, eps: 1e-5, relu: false },
              { x: data.map(Math.fround) },
            );
            expect(relativeError(await y.read(), expected), `${op.name} ${variant}: y`).toBeLessThan(1e-5);
            y.dispose();
          } finally {
            gpu.variants.force("batch_norm.forward", null);
          }
          x.dispose();
          const now = channelStatistics({ count, channels }, data);
          const factor = momentum ?? 1 / batch;
          mean = mean.map((m, c) => m + factor * (now.mean[c]! - m));
          variance = variance.map((v, c) => v + factor * ((now.variance[c]! * count) / (count - 1) - v));
        }
        const label = `${op.name} ${variant}, momentum ${momentum}`;
        expect(relativeError(await runningMean.read(), mean), label).toBeLessThan(1e-6);
        expect(relativeError(await runningVar.read(), variance), label).toBeLessThan(1e-6);
        expect(await numBatchesTracked.item(), label).toBe(3);
        for (const tensor of [runningMean, runningVar, numBatchesTracked]) tensor.dispose();
      }
    }
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("keeps its precision where the mean is a thousand deviations away", async () => {
    for (const ratio of [10, 1000]) {
      await checkOp([
        bnCase(`mean ${ratio}`, [4, 9, 11, 8], { x: normals(4 * 99 * 8, 3, ratio, 1), relu: true }),
        bnCase(`mean ${ratio}`, [2, 5, 7, 3], { x: normals(210, 3, -ratio, 1), residual: true, relu: true }),
        bnCase(`mean ${ratio}`, [4, 40, 41, 16], { x: normals(6560 * 16, 3, ratio, 1), variants: true }),
      ]);
    }
  });

  it("keeps its precision with an outlier where the measuring starts", async () => {
    const x = normals(997 * 8, 3);
    x.set([100, -100, 300, 300, -300, 1000, 50, 20]);
    await checkOp(bnCase("an outlier", [997, 8], { x, variants: true }));
  });

  /** Runs `body` once with every family of kernels. */
  async function withFamilies(body: () => Promise<void>) {
    const gpu = await testGpu();
    for (const family of ["software", "workgroup"]) {
      for (const kernel of KERNELS) gpu.variants.force(kernel, family);
      try {
        await body();
      } finally {
        for (const kernel of KERNELS) gpu.variants.force(kernel, null);
      }
    }
  }

  /** y, dx, dgamma, dbeta of one call; x may hold anything. */
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
    const [dx, dgamma, dbeta] = [await input.grad!.read(), await gamma.grad!.read(), await beta.grad!.read()];
    for (const tensor of [input, gamma, beta, dy, y]) tensor.dispose();
    return { y: out, dx, dgamma, dbeta };
  }

  /** Against float64, where finite differences of the reference have no sense. */
  async function compareValues(x: Float64Array, shape: Shape, eps: number) {
    const channels = shape.at(-1)!;
    const b = { count: x.length / channels, channels, eps, relu: false };
    const arrays = { x: x.map(Math.fround), gamma: normals(channels, 5), beta: normals(channels, 6) };
    const expected = batchNormReferenceGrad(b, arrays, normals(x.length, 7));
    const actual = await values(x, shape, { eps });
    expect(relativeError(actual.y, batchNormReference(b, arrays)), `y, eps ${eps}`).toBeLessThan(1e-5);
    // In units of its own size: squares of 1e-18 and less are no float32 numbers.
    const unit = expected.x.reduce((largest, v) => Math.max(largest, Math.abs(v)), 0) || 1;
    const scaled = (values: ArrayLike<number>) => Float64Array.from(values, (v) => v / unit);
    expect(relativeError(scaled(actual.dx), scaled(expected.x)), `dx, eps ${eps}`).toBeLessThan(1e-4);
    expect(relativeError(actual.dgamma, expected.gamma), `dgamma, eps ${eps}`).toBeLessThan(1e-4);
    expect(relativeError(actual.dbeta, expected.beta), `dbeta, eps ${eps}`).toBeLessThan(1e-4);
  }

  it("takes values near 1e±18", async () => {
    const shape = [2999, 6];
    const unit = normals(2999 * 6, 3, 0.5);
    for (const eps of [1e-5, 0]) {
      await compareValues(
        unit.map((v) => v * 1e18),
        shape,
        eps,
      );
      await compareValues(
        unit.map((v) => v * 1e-18),
        shape,
        eps,
      );
      // Channels of every size side by side.
      await compareValues(
        unit.map((v, i) => v * 10 ** ((i % 6) * 7 - 18)),
        shape,
        eps,
      );
    }
    // One channel from tiny to huge within a slice.
    await compareValues(
      unit.map((v, i) => v * 10 ** (((i * 7) % 31) - 15)),
      shape,
      1e-5,
    );
  });

  it("takes values near ±1e24 that do not differ within a slice of the rows, or in nothing but their signs", async () => {
    // What parts differ by is all that tells how large the values are.
    const largest = Float64Array.from(
      { length: 8192 * 6 },
      (_, i) => (i < 4096 * 6 ? 1e24 : -1e24) * (1 + (i % 6)),
    );
    await withFamilies(() => compareValues(largest, [8192, 6], 1e-5));
    // Means of zero, exactly: the deviations alone tell how large the values are.
    const opposite = Float64Array.from(
      { length: 8192 * 6 },
      (_, i) => (Math.floor(i / 12) % 2 ? -1 : 1) * 2 ** 80 * (1 + (i % 6)),
    );
    await withFamilies(() => compareValues(opposite, [8192, 6], 1e-5));
  });

  it("gives finite results for constant channels", async () => {
    for (const value of [0, 1, -3.7, 1e18]) {
      const { y, dx, dgamma, dbeta } = await values(new Float64Array(105 * 5).fill(value), [105, 5]);
      const beta = normals(5, 6);
      for (const [i, v] of y.entries()) expect(v).toBeCloseTo(beta[i % 5]!, 5);
      for (const grads of [dx, dgamma, dbeta]) expect(grads.every(Number.isFinite)).toBe(true);
    }
  });

  it("lets a NaN through to the channel it is in, and to no other", async () => {
    await withFamilies(async () => {
      for (const channels of [8, 3]) {
        const x = normals(200 * channels, 3);
        x[67 * channels + 1] = Number.NaN;
        for (const activation of ["none", "relu"] as const) {
          const { y, dx } = await values(x, [200, channels], { activation });
          for (const [i, v] of y.entries()) expect(Number.isNaN(v), `y[${i}]`).toBe(i % channels === 1);
          for (const [i, v] of dx.entries()) expect(Number.isNaN(v), `dx[${i}]`).toBe(i % channels === 1);
        }
      }
    });
  });

  it("stores float16 and computes float32", async () => {
    const half = (values: Float64Array) => values.map((v) => halfToNumber(numberToHalf(v)));
    const inHalf = (c: OpCase): OpCase => ({
      ...c,
      label: `float16 ${c.label}`,
      inputs: {
        ...c.inputs,
        // What float16 holds exactly: rounding moves some sums across the ReLU's kink.
        ...(c.inputs.residual && {
          residual: {
            shape: c.inputs.residual as Shape,
            data: half(normals(sizeOf(c.inputs.residual as Shape), 8)),
          },
        }),
      },
      run: (t) => {
        const { x, gamma, beta, residual } = t;
        const y = batchNorm(cast(x!, "float16"), gamma!, beta!, {
          training: true,
          activation: "relu",
          residual: residual ? cast(residual, "float16") : null,
        });
        return cast(y, "float32");
      },
      // Half a unit of the last of 11 bits, in y, dy and dx.
      tolerance: { forward: 5e-4, backward: 1e-3 },
    });
    for (const [shape, mean] of [
      [[3, 5, 7, 8], 0],
      [[67, 3], 100],
      [[1100, 16], 0],
      [[1400, 8], 60_000],
    ] as [Shape, number][]) {
      // float16 has steps of 32 near 60,000.
      const x = half(normals(sizeOf(shape), 3, mean, mean > 1000 ? 500 : 1));
      const extra = { x, relu: true, variants: true, seed: 6 };
      const cases = [
        bnCase(`mean ${mean}`, shape, extra),
        bnCase(`mean ${mean}`, shape, { ...extra, residual: true }),
      ];
      await checkOp(cases.map(({ composed, ...c }) => inHalf(c)));
    }
  });

  const every: Activation[] = [...ACTIVATION_NAMES, { name: "leakyRelu", negativeSlope: 0.3 }];
  const [SLICED, ONE]: [Shape, Shape] = [
    [199, 6], // a tail, and several slices
    [3, 4, 4, 8],
  ];
  const COLUMNS: Shape[] = [
    [13, 4], // one
    [7, 36], // nine, one more than a workgroup of `software_one` has
  ];
  for (const activation of sampled(every)) {
    const name = typeof activation === "string" ? activation : "leakyRelu of another slope";
    it(`${name}: with and without residual, in training and frozen`, async () => {
      const cases: OpCase[] = [];
      for (const residual of [false, true]) {
        for (const inference of [false, true]) {
          const extra = { activation, residual, inference, seed: 21 };
          // Twice the size, so that both bends of each activation are in reach.
          const wide = (shape: Shape) => normals(sizeOf(shape), 5, 0, inference ? 2 : 1);
          // Kernels take long to compile: for one activation all, for the others those that differ most.
          const variants = activation === "silu" || (residual && !inference);
          if (variants || residual === inference) {
            cases.push(bnCase("sliced", SLICED, { ...extra, x: wide(SLICED), variants }));
          }
          if (variants || residual !== inference) {
            cases.push(bnCase("small", ONE, { ...extra, x: wide(ONE), variants }));
          }
          if (activation === "silu" && residual && !inference) {
            for (const shape of COLUMNS)
              cases.push(bnCase("small", shape, { ...extra, x: wide(shape), variants }));
          }
        }
      }
      await checkOp(cases);
    });
  }

  it("takes activations in float16", async () => {
    const half = (values: Float64Array) => values.map((v) => halfToNumber(numberToHalf(v)));
    for (const activation of ["silu", every.at(-1)!] as const) {
      for (const residual of [false, true]) {
        const c = bnCase("float16", ONE, { activation, residual, x: half(normals(sizeOf(ONE), 3)), seed: 9 });
        const { composed, ...rest } = c;
        if (residual) rest.inputs.residual = { shape: ONE, data: half(normals(sizeOf(ONE), 8)) };
        await checkOp({
          ...rest,
          run: (t) => {
            const options = {
              training: true,
              activation,
              residual: t.residual ? cast(t.residual, "float16") : null,
            };
            return cast(batchNorm(cast(t.x!, "float16"), t.gamma!, t.beta!, options), "float32");
          },
          tolerance: { forward: 5e-4, backward: 1e-3 },
        });
      }
    }
  });

  it("makes infinity, not nonsense, of what float16 can't hold", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([1, -1, 2, -2, Number.NaN, 0], [3, 2], { dtype: "float16" });
    const gamma = gpu.tensor([1, 1e6], [2]);
    const y = batchNorm(x, gamma, null, { training: true });
    const out = await y.read();
    expect([out[1], out[3], out[5]]).toEqual(
      [0, -1, 1].map((sign) => (sign ? sign * Number.POSITIVE_INFINITY : out[1])),
    );
    expect([out[0], out[2], out[4]].every(Number.isNaN)).toBe(true);
    for (const tensor of [x, gamma, y]) tensor.dispose();
  });

  it("rounds to infinity from 65,520 on in float16", async () => {
    const gpu = await testGpu();
    // Halfway between 65,504, the largest number, and 65,536; and the float32 before it. With gamma = 0, beta is stored.
    const [halfway, below] = [65_520, 65_520 - 2 ** -8];
    const x = gpu.tensor(normals(3 * 4, 3), [3, 4], { dtype: "float16" });
    const gamma = gpu.zeros([4]);
    const beta = gpu.tensor([halfway, -halfway, below, -below], [4]);
    const y = batchNorm(x, gamma, beta, { training: true });
    const out = [...(await y.read())];
    const { POSITIVE_INFINITY: inf } = Number;
    expect(out).toEqual([0, 1, 2].flatMap(() => [inf, -inf, 65_504, -65_504]));
    for (const tensor of [x, gamma, beta, y]) tensor.dispose();
  });

  /** dz as backward took it, element by element and summed, against y as it was written. */
  async function compareMask(
    shape: Shape,
    dtype: "float32" | "float16",
    options: { residual: ArrayLike<number> | null; gamma?: number },
  ) {
    const gpu = await testGpu();
    const [size, channels] = [sizeOf(shape), shape.at(-1)!];
    const x = gpu.tensor(normals(size, 41), shape, { requiresGrad: true, dtype });
    const residual = options.residual && gpu.tensor(options.residual, shape, { requiresGrad: true, dtype });
    const gamma = options.gamma === undefined ? null : gpu.full([channels], options.gamma);
    const beta = gpu.tensor(new Float64Array(channels), [channels], { requiresGrad: true });
    const grad = Float64Array.from({ length: size }, (_, i) => 1 + (i % 7)); // small integers: every sum is exact
    const dy = gpu.tensor(grad, shape, { dtype });
    const y = batchNorm(x, gamma, beta, { training: true, activation: "relu", residual });
    const out = await y.read();
    y.backward(dy);
    const dz = grad.map((g, i) => (out[i]! <= 0 ? 0 : g)); // NaN lets its gradient through, as in PyTorch
    const sums = new Float64Array(channels);
    for (const [i, g] of dz.entries()) sums[i % channels]! += g;
    const label = `${shape.join("×")} ${dtype}`;
    expect(Array.from(await beta.grad!.read()), `dbeta, ${label}`).toEqual(Array.from(sums));
    if (residual) {
      const actual = await residual.grad!.read();
      const wrong = actual.findIndex((g, i) => g !== dz[i]);
      expect(wrong, `dresidual of y = ${out[wrong]}, ${label}`).toBe(-1);
    }
    for (const tensor of [x, residual, gamma, beta, dy, y]) tensor?.dispose();
  }

  it("masks gradients by the very y that it wrote", async () => {
    const gpu = await testGpu();
    /** y without residual, negated: what is left of z is rounding, and often zero. */
    const opposite = async (shape: Shape) => {
      const x = gpu.tensor(normals(sizeOf(shape), 41), shape);
      const y = batchNorm(x, null, null, { training: true });
      const values = (await y.read()).map((v, i) => -v * (1 + ((i % 3) - 1) * 1e-7));
      values[5] = Number.NaN;
      for (const tensor of [x, y]) tensor.dispose();
      return values;
    };
    for (const [shape, variants] of [
      [[37, 8], variantsFor(8)],
      [[5, 3, 61, 16], variantsFor(16)],
      [[53, 3], variantsFor(3)],
      [[1031, 6], variantsFor(6)],
      [[8, 1], variantsFor(1)],
      [[32, 31, 33, 32], [null]],
    ] as [Shape, (string | null)[]][]) {
      const residuals = [normals(sizeOf(shape), 42), await opposite(shape)];
      for (const forward of sampled(variants)) {
        for (const backward of sampled(variants)) {
          gpu.variants.force("batch_norm.forward", forward);
          gpu.variants.force("batch_norm.backward", backward);
          try {
            for (const residual of residuals) await compareMask(shape, "float32", { residual });
            await compareMask(shape, "float32", { residual: null });
            await compareMask(shape, "float16", { residual: residuals[1]! });
            // Where float16 rounds to 0 or to its smallest number.
            const zeros = new Float64Array(sizeOf(shape));
            await compareMask(shape, "float16", { residual: zeros, gamma: 3e-8 });
          } finally {
            for (const kernel of KERNELS) gpu.variants.force(kernel, null);
          }
        }
      }
    }
  });

  it("keeps x and a bit for each element, and no bits without a graph", async () => {
    const gpu = await testGpu();
    const shape = [64, 8, 8, 32];
    const bytes = 4 * sizeOf(shape);
    const residual = gpu.zeros(shape);
    const left = (requiresGrad: boolean) => {
      const x = gpu.zeros(shape, { requiresGrad });
      const before = gpu.stats.liveBytes;
      gpu.resetPeak();
      const y = batchNorm(x, null, null, { training: true, activation: "relu", residual }).materialize();
      const [kept, peak] = [gpu.stats.liveBytes - before - bytes, gpu.stats.peakBytes - before - bytes];
      for (const tensor of [x, y]) tensor.dispose();
      return { kept, peak };
    };
    const [graph, plain] = [left(true), left(false)];
    expect(plain.kept).toBe(0);
    expect(graph.kept).toBeGreaterThanOrEqual(bytes / 32);
    expect(graph.kept).toBeLessThan(bytes / 32 + 2048);
    expect(graph.peak - plain.peak).toBe(bytes / 32 - 256); // instead of the least that a buffer can be
    residual.dispose();
  });

  it("rewrites the mask in every run of a captured step", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    for (const shape of [
      [40, 8],
      [1100, 6],
    ]) {
      const x = gpu.zeros(shape, { requiresGrad: true });
      const residual = gpu.zeros(shape, { requiresGrad: true });
      const dy = gpu.tensor(normals(sizeOf(shape), 3), shape);
      const step = () => {
        const y = batchNorm(x, null, null, { training: true, activation: "relu", residual });
        y.backward(dy);
        const grads = [x.grad!.alias(), residual.grad!.alias()];
        for (const tensor of [x, residual]) tensor.zeroGrad();
        y.dispose();
        return grads;
      };
      const plan = gpu.capture(step);
      for (let run = 0; run < 3; run += 1) {
        x.write(normals(sizeOf(shape), 20 + run));
        residual.write(normals(sizeOf(shape), 30 + run));
        plan.run();
        for (const [i, expected] of step().entries()) {
          expect(await plan.result[i]!.read()).toEqual(await expected.read());
          expected.dispose();
        }
      }
      plan.dispose();
      for (const tensor of [x, residual, dy]) tensor.dispose();
    }
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("gives the same bits in every run", async () => {
    const shape = [7, 13, 11, 12];
    const x = normals(sizeOf(shape), 3);
    await withFamilies(async () => {
      const first = await values(x, shape, { activation: "relu" });
      for (let run = 0; run < 3; run += 1) {
        expect(await values(x, shape, { activation: "relu" })).toEqual(first);
      }
    });
  });

  it("counts and measures anew in every run of a captured step", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    for (const momentum of [0.1, null]) {
      const x = gpu.zeros([40, 8]);
      const state = () => ({
        runningMean: gpu.zeros([8]),
        runningVar: gpu.full([8], 1),
        numBatchesTracked: gpu.zeros([1]),
      });
      const [captured, eager] = [state(), state()];
      const step = (running: typeof captured) => () =>
        batchNorm(x, null, null, { training: true, momentum, activation: "relu", ...running });
      const plan = gpu.capture(step(captured));
      step(eager)().dispose();
      for (let run = 0; run < 3; run += 1) {
        x.write(normals(320, 20 + run, run, 2));
        plan.run();
        const y = step(eager)();
        expect(await plan.result.read()).toEqual(await y.read());
        y.dispose();
      }
      expect(await captured.numBatchesTracked.item()).toBe(4);
      for (const name of ["runningMean", "runningVar", "numBatchesTracked"] as const) {
        expect(await captured[name].read(), name).toEqual(await eager[name].read());
      }
      plan.dispose();
      for (const tensor of [x, ...Object.values(captured), ...Object.values(eager)]) tensor.dispose();
    }
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("takes more channels, and more rows, than a dispatch dimension has workgroups", async () => {
    await withFamilies(async () => {
      await compareValues(normals(2 * 65_539, 3), [2, 65_539], 1);
      await compareValues(normals(1_100_003, 3, 5), [1_100_003, 1], 1e-5);
    });
  });

  it("takes folded grids in every variant", async () => {
    // As past 65,535 workgroups, but at two.
    const gpu = await testGpu();
    await withFoldAt(gpu, 2, async () => {
      await checkOp([
        ...tails("folded", [9, 520], { variants: true }),
        ...tails("folded", [5, 7, 3, 33], { variants: true }),
        bnCase("folded", [9, 520], { inference: true, relu: true }),
      ]);
    });
    const [count, channels] = [9, 520];
    const moved = async (momenta: (number | null)[]) => {
      const x = gpu.tensor(normals(count * channels, 3, 1, 2), [count, channels]);
      const state = [gpu.tensor(normals(channels, 4), [channels]), gpu.full([channels], 2), gpu.full([1], 5)];
      const [runningMean, runningVar, numBatchesTracked] = state;
      for (const momentum of momenta) {
        const options = { training: true, runningMean, runningVar, numBatchesTracked, momentum };
        batchNorm(x, null, null, options).dispose();
      }
      const values = await Promise.all(state.map((tensor) => tensor.read()));
      for (const tensor of [x, ...state]) tensor.dispose();
      return values;
    };
    for (const variant of variantsFor(channels)) {
      // The average over all batches takes more than one dispatch.
      const momenta = variant.endsWith("_one") ? [0.2] : [0.2, null];
      gpu.variants.force("batch_norm.forward", variant);
      try {
        const expected = await moved(momenta);
        await withFoldAt(gpu, 2, async () => expect(await moved(momenta), variant).toEqual(expected));
      } finally {
        gpu.variants.force("batch_norm.forward", null);
      }
    }
  });

  it("names what is wrong", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    gpu.scope(() => {
      const x = gpu.zeros([2, 3, 3, 8]);
      const eight = gpu.zeros([8]);
      const four = gpu.zeros([4]);
      const wrong: [RegExp, Tensor, Tensor | null, Partial<BatchNormOptions>][] = [
        [/x has rank 1, got \[8\]; expected \[N, H, W, C\]/, eight, null, {}],
        [/gamma is \[4\], x has 8 channels, got \[2, 3, 3, 8\]; expected \[8\]/, x, four, {}],
        [/runningMean is \[4\], x has 8 channels/, x, null, { runningMean: four, runningVar: four }],
        [/runningMean is given, runningVar is null; expected both/, x, null, { runningMean: eight }],
        [
          /training is false and there are no running statistics; pass runningMean/,
          x,
          null,
          { training: false },
        ],
        [/residual is \[8\], x is \[2, 3, 3, 8\]; expected the same shape/, x, null, { residual: eight }],
        [/momentum is 1.5; expected a number from 0 to 1/, x, null, { momentum: 1.5 }],
        [/momentum is NaN; expected/, x, null, { momentum: Number.NaN }],
        [
          /momentum is null.*numBatchesTracked is null/,
          x,
          null,
          { momentum: null, runningMean: eight, runningVar: eight },
        ],
        [/numBatchesTracked is \[4\]; expected one number/, x, null, { numBatchesTracked: four }],
        [/eps is -1; expected a finite number/, x, null, { eps: -1 }],
        [
          /activation is "swish"; expected "none".*did you mean "silu"/,
          x,
          null,
          { activation: "swish" as never },
        ],
        [/x \[1, 1, 1, 8\] has 1 value per channel.*larger batch/, gpu.zeros([1, 1, 1, 8]), null, {}],
        [
          /runningMean is uint32; expected float32/,
          x,
          null,
          { runningMean: gpu.empty([8], "uint32"), runningVar: eight },
        ],
      ];
      for (const op of [batchNorm, batchNormComposed]) {
        for (const [message, input, gamma, options] of wrong) {
          const call = () => op(input, gamma, null, { training: true, ...options });
          expect(call).toThrow(ShapeError);
          expect(call).toThrow(new RegExp(`^${op.name}: .*${message.source}`));
        }
      }
      expect(() =>
        batchNorm(x, null, null, { training: true, residual: gpu.empty([2, 3, 3, 8], "uint32") }),
      ).toThrow(/batchNorm: residual is uint32; expected float32/);
    });
    expect(gpu.stats.liveBuffers).toBe(before);
  });
});

describe("merging partial results in a workgroup", () => {
  it("takes the same kernels and gives the same bits, whatever batches came before", async () => {
    const gpu = await testGpu();
    gpu.variants.force("batch_norm.forward", "workgroup");
    gpu.variants.force("batch_norm.backward", "workgroup");
    try {
      const results = async (count: number) => {
        const C = 20;
        const x = gpu.tensor(normals(count * C, count), [count, C], { requiresGrad: true });
        const gamma = gpu.tensor(normals(C, 2), [C], { requiresGrad: true });
        const beta = gpu.tensor(normals(C, 3), [C], { requiresGrad: true });
        const y = batchNorm(x, gamma, beta, { training: true });
        y.backward(gpu.tensor(normals(count * C, 4), [count, C]));
        const all = [await y.read(), await x.grad!.read(), await gamma.grad!.read()];
        for (const tensor of [x, gamma, beta, y]) tensor.dispose();
        return all;
      };
      // Few partial results; more than a workgroup has invocations; few again.
      const first = await results(6_100);
      const pipelines = gpu.stats.pipelines;
      await results(60_000);
      expect(await results(6_100)).toEqual(first);
      expect(gpu.stats.pipelines).toBe(pipelines);
    } finally {
      gpu.variants.force("batch_norm.forward", null);
      gpu.variants.force("batch_norm.backward", null);
    }
  });
});
