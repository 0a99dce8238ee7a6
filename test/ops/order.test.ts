// Whatever is summed, accuracy hangs neither on the order of the data nor on its size: an outlier, an infinity or a huge
// value is put at every place where a sum might begin, and results are compared with float64.

import { describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import { relu } from "../../src/ops/activations.ts";
import { type BatchNormOptions, batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { batchNormComposed } from "../../src/ops/batch-norm/composed.ts";
import { batchNormStatistics, mergeStatistics } from "../../src/ops/batch-norm/statistics.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { groupNorm } from "../../src/ops/group-norm/group-norm.ts";
import { layerNorm } from "../../src/ops/group-norm/layer-norm.ts";
import { avgPool2d, globalAvgPool2d, maxPool2d } from "../../src/ops/pool2d.ts";
import { mean, sum, variance } from "../../src/ops/reduce/reduce.ts";
import { softmax } from "../../src/ops/softmax/softmax.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import type { Shape } from "../../src/tensor/shape.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import { halfToNumber, numberToHalf } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";
import { batchNormReference, batchNormReferenceGrad, channelStatistics } from "../reference/batch-norm.ts";
import { meanOf, reduceReference, varianceOf } from "../reference/elementwise.ts";
import { groupNormReference, groupNormReferenceGrad } from "../reference/group-norm.ts";

const gpu = await testGpu();
const { NaN: nan, POSITIVE_INFINITY: inf } = Number;

/** The largest |a − b| over the largest |b|; infinite where what is not finite differs. */
function worst(actual: ArrayLike<number>, expected: ArrayLike<number>, unit?: number): number {
  let difference = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i += 1) {
    const [a, b] = [actual[i]!, expected[i]!];
    if (!Number.isFinite(b)) {
      if (!Object.is(a, b)) return inf;
    } else {
      if (!Number.isFinite(a)) return inf;
      difference = Math.max(difference, Math.abs(a - b));
      largest = Math.max(largest, Math.abs(b));
    }
  }
  return difference === 0 ? 0 : difference / (unit ?? largest);
}

async function forced<T>(choices: Record<string, string>, body: () => Promise<T>): Promise<T> {
  for (const [kernel, variant] of Object.entries(choices)) gpu.variants.force(kernel, variant);
  try {
    return await body();
  } finally {
    for (const kernel of Object.keys(choices)) gpu.variants.force(kernel, null);
  }
}

async function asHardware(body: () => Promise<void>): Promise<void> {
  const info = gpu.info as { class: Gpu["info"]["class"] };
  const before = info.class;
  info.class = "hardware";
  try {
    await body();
  } finally {
    info.class = before;
  }
}

/** `data` with `value` at row `row` of channel 1. */
function withOutlier(data: Float64Array, channels: number, row: number, value: number): Float64Array {
  const out = data.slice();
  out[row * channels + 1] = value;
  return out;
}

/** The first rows, the last ones, and where runs, slices and blocks may begin. */
function places(rows: number): number[] {
  const some = [0, 1, 7, 8, 64, 256, 264, Math.floor(rows / 2), rows - 2, rows - 1];
  return [...new Set(some)].filter((row) => row >= 0 && row < rows);
}

describe("sums", () => {
  it("mean and variance with an outlier anywhere", async () => {
    for (const [shape, axes] of [
      [[4099, 4], [0]],
      [[20_011, 3], [0]],
      [
        [2, 2, 5003],
        [0, 2],
      ],
    ] as [number[], number[]][]) {
      const data = normals(sizeOf(shape), 3, 0.5, 0.01);
      for (const at of [0, 1, 512, 4096, data.length - 1]) {
        for (const outlier of [10, -1e4]) {
          const x = data.slice();
          x[at] = outlier;
          const sizes = reduceReference(x, shape, axes, (values) => meanOf(values.map(Math.abs)));
          for (const reduce of ["lanes", "tree"]) {
            const input = gpu.tensor(x, shape);
            const results = await forced({ reduce }, async () =>
              gpu.scope(() => [mean(input, axes), variance(input, axes), sum(input, axes)]),
            );
            const [m, v, s] = await Promise.all(results.map((tensor) => tensor.read()));
            const label = `${reduce} [${shape}], ${outlier} at ${at}`;
            const means = reduceReference(x, shape, axes, meanOf);
            means.forEach((value, i) => {
              expect(Math.abs(m![i]! - value) / sizes[i]!, `${label}: mean`).toBeLessThan(5e-7);
              const count = data.length / means.length;
              expect(Math.abs(s![i]! / count - value) / sizes[i]!, `${label}: sum`).toBeLessThan(5e-7);
            });
            const variances = reduceReference(x, shape, axes, (values) => varianceOf(values, 1));
            variances.forEach((value, i) => {
              expect(Math.abs(v![i]! / value - 1), `${label}: variance`).toBeLessThan(1e-5);
            });
            for (const tensor of [input, ...results]) tensor.dispose();
          }
        }
      }
    }
  });

  it("infinite and huge values, and no overflow on the way", async () => {
    const huge = 3e38;
    const many = (count: number, value: (i: number) => number) =>
      Array.from({ length: count }, (_, i) => value(i));
    const cases: [number[], number][] = [
      [[inf, 1, 2], inf],
      [[1, 2, -inf], -inf],
      [[inf, 1, -inf], nan],
      [[1, nan, 2], nan],
      [[huge, -huge], 0],
      [[huge, huge], huge],
      [[-huge, 1, huge], 1 / 3],
      [many(1001, () => huge), huge],
      [many(5000, (i) => (i < 2500 ? huge : -huge)), 0],
      [many(70_000, (i) => (i === 69_999 ? -inf : 1)), -inf],
    ];
    for (const reduce of ["lanes", "tree"]) {
      await forced({ reduce }, async () => {
        for (const [values, expected] of cases) {
          const label = `${reduce}: ${values.slice(0, 3)}… of ${values.length}`;
          const x = gpu.tensor(values, [values.length]);
          const [m, g] = gpu.scope(() => [
            mean(x),
            globalAvgPool2d(gpu.tensor(values, [1, 1, values.length, 1])),
          ]);
          // Where huge values cancel, a share of the size of theirs may be left.
          const unit = expected === 0 || expected === 1 / 3 ? huge : undefined;
          expect(worst(await m.read(), [expected], unit), label).toBeLessThan(1e-6);
          expect(worst(await g.read(), [expected], unit), label).toBeLessThan(1e-6);
          for (const tensor of [x, m, g]) tensor.dispose();
        }
        // Sums whose parts overflow, but which don't.
        const x = gpu.tensor(
          many(6000, (i) => (i % 6 < 3 ? huge : -huge)),
          [1000, 6],
        );
        const y = sum(x, [1]);
        expect(worst(await y.read(), new Float64Array(1000), huge)).toBeLessThan(1e-6);
        for (const tensor of [x, y]) tensor.dispose();
      });
    }
  });

  it("millions of equal values", async () => {
    for (const value of [0.1, -7.3]) {
      const count = 3_000_001;
      const x = gpu.full([count], value);
      for (const reduce of ["lanes", "tree"]) {
        const s = await forced({ reduce }, async () => sum(x));
        expect(Math.abs((await s.item()) / (Math.fround(value) * count) - 1), reduce).toBeLessThan(3e-6);
        s.dispose();
      }
      x.dispose();
    }
  });

  it("a convolution's bias gradient over a million pixels", async () => {
    const shape = [1, 1000, 1000, 4];
    const x = gpu.zeros([1, 1000, 1000, 1]);
    const w = gpu.zeros([4, 1, 1, 1]);
    const bias = gpu.zeros([4], { requiresGrad: true });
    const dy = gpu.full(shape, 0.1);
    conv2d(x, w, { bias }).backward(dy);
    const expected = Math.fround(0.1) * 1e6;
    expect(worst(await bias.grad!.read(), Array(4).fill(expected))).toBeLessThan(5e-6);
    for (const tensor of [x, w, bias, dy]) tensor.dispose();
  });
});

describe("batch-norm", () => {
  type Result = Record<"y" | "mean" | "variance" | "dx" | "dgamma" | "dbeta", Float64Array>;
  const round = { float32: Math.fround, float16: (v: number) => halfToNumber(numberToHalf(v)) };

  async function run(
    x: Float64Array,
    shape: Shape,
    options: Partial<BatchNormOptions> = {},
    dtype: "float32" | "float16" = "float32",
    op: typeof batchNorm = batchNorm,
  ): Promise<Result> {
    const channels = shape.at(-1)!;
    const live = gpu.stats.liveBuffers;
    const input = gpu.tensor(x, shape, { dtype, requiresGrad: true });
    const gamma = gpu.tensor(normals(channels, 5), [channels], { requiresGrad: true });
    const beta = gpu.tensor(normals(channels, 6), [channels], { requiresGrad: true });
    const dy = gpu.tensor(normals(x.length, 7), shape, { dtype });
    const [runningMean, runningVar] = [gpu.zeros([channels]), gpu.zeros([channels])];
    const running = { runningMean, runningVar, momentum: 1 };
    const y = gpu.scope(() => op(input, gamma, beta, { training: true, ...running, ...options }));
    const read = async (tensor: typeof y) => Float64Array.from(await tensor.read());
    const out = await read(y);
    y.backward(dy);
    const [dx, dgamma, dbeta] = [await read(input.grad!), await read(gamma.grad!), await read(beta.grad!)];
    const result = {
      y: out,
      mean: await read(runningMean),
      variance: await read(runningVar),
      dx,
      dgamma,
      dbeta,
    };
    for (const tensor of [input, gamma, beta, dy, y, runningMean, runningVar]) tensor.dispose();
    expect(gpu.stats.liveBuffers).toBe(live);
    return result;
  }

  function reference(
    x: Float64Array,
    shape: Shape,
    eps: number,
    dtype: "float32" | "float16" = "float32",
  ): Result {
    const channels = shape.at(-1)!;
    const count = x.length / channels;
    const b = { count, channels, eps, relu: false };
    const arrays = { x: x.map(round[dtype]), gamma: normals(channels, 5), beta: normals(channels, 6) };
    const { mean, variance } = channelStatistics(b, arrays.x);
    const dy = normals(x.length, 7).map(round[dtype]);
    const { x: dx, gamma: dgamma, beta: dbeta } = batchNormReferenceGrad(b, arrays, dy);
    const unbiased = variance.map((v) => (v * count) / (count - 1));
    return { y: batchNormReference(b, arrays), mean, variance: unbiased, dx, dgamma, dbeta };
  }

  /** By channel, so that none hides among larger ones. */
  function compare(actual: Result, expected: Result, label: string, tolerance = 1e-5) {
    const channels = expected.mean.length;
    for (let c = 0; c < channels; c += 1) {
      const of = (values: Float64Array) => values.filter((_, i) => i % channels === c);
      for (const name of ["y", "variance", "dx", "dgamma", "dbeta"] as const) {
        const loose = name.startsWith("d") ? 10 * tolerance : tolerance;
        const error = worst(of(actual[name]), of(expected[name]));
        expect(error, `${label}: ${name} of channel ${c}`).toBeLessThan(loose);
      }
      // The mean in units of what it is the mean of: its own size and the deviations.
      const unit = Math.abs(expected.mean[c]!) + Math.sqrt(expected.variance[c]!) / 100;
      const error = worst(of(actual.mean), of(expected.mean), Number.isFinite(unit) ? unit : 1);
      expect(error, `${label}: mean of channel ${c}`).toBeLessThan(1e-6);
    }
  }

  const FAMILIES = ["software", "workgroup", "software_one", "workgroup_one"];

  it("takes an outlier anywhere, in every family", async () => {
    for (const channels of [4, 3]) {
      const shape = [1031, channels];
      const data = normals(sizeOf(shape), 3, 0.5, 0.01);
      for (const row of places(1031)) {
        for (const outlier of [10, 1e4]) {
          const x = withOutlier(data, channels, row, outlier);
          const expected = reference(x, shape, 1e-5);
          for (const family of FAMILIES) {
            if (channels === 3 && family.endsWith("_one")) continue;
            const actual = await forced({ "batch_norm.forward": family }, () => run(x, shape));
            compare(actual, expected, `${family}, ${channels} channels, ${outlier} in row ${row}`);
          }
        }
      }
    }
  });

  it("takes it in long runs, on the kernels of hardware, composed, in float16, and merged", async () => {
    const shape = [20_003, 4];
    const data = normals(sizeOf(shape), 3, 0.5, 0.01);
    for (const row of [0, 320, 10_000, 20_002]) {
      const x = withOutlier(data, 4, row, -1e4);
      const expected = reference(x, shape, 1e-5);
      compare(await run(x, shape), expected, `row ${row}`);
      await asHardware(async () => compare(await run(x, shape), expected, `hardware, row ${row}`));
      compare(await run(x, shape, {}, "float32", batchNormComposed), expected, `composed, row ${row}`, 2e-5);
      const half = await run(x, shape, {}, "float16");
      const wanted = reference(x, shape, 1e-5, "float16");
      expect(worst(half.mean, wanted.mean), "float16: mean").toBeLessThan(1e-6);
      expect(worst(half.variance, wanted.variance), "float16: variance").toBeLessThan(1e-5);
      expect(worst(half.y, wanted.y), "float16: y").toBeLessThan(1e-3);
      expect(worst(half.dgamma, wanted.dgamma), "float16: dgamma").toBeLessThan(1e-4);

      const parts = [0, 4000, 20_003].slice(1).map((end, i) => {
        const start = [0, 4000][i]!;
        return gpu.tensor(x.subarray(4 * start, 4 * end), [end - start, 4]);
      });
      const merged = gpu.scope(() => mergeStatistics(parts.map((part) => batchNormStatistics(part))));
      const m = await merged.read();
      const means = Float64Array.from({ length: 4 }, (_, c) => m[4 + c]! + m[8 + c]!);
      expect(worst(means, expected.mean), `merged, row ${row}: mean`).toBeLessThan(1e-6);
      const biased = expected.variance.map((v) => (v * 20_002) / 20_003);
      expect(worst(m.subarray(12, 16), biased), `merged, row ${row}: variance`).toBeLessThan(1e-5);
      for (const tensor of [...parts, merged]) tensor.dispose();
    }
  });

  it("infinite values make their channel's mean infinite, and no other's; huge ones have a mean", async () => {
    const shape = [517, 4];
    const data = normals(sizeOf(shape), 3, 0.5);
    for (const family of FAMILIES) {
      await forced({ "batch_norm.forward": family }, async () => {
        for (const [row, value] of [
          [0, inf],
          [516, inf],
          [260, -inf],
          [0, nan],
        ] as const) {
          const label = `${family}: ${value} in row ${row}`;
          const x = withOutlier(data, 4, row, value);
          const actual = await run(x, shape);
          const plain = reference(data, shape, 1e-5);
          expect(actual.mean[1], label).toBe(value);
          expect(actual.variance[1], label).toBeNaN();
          for (const c of [0, 2, 3])
            expect(Math.abs(actual.mean[c]! - plain.mean[c]!), label).toBeLessThan(1e-6);
          for (const [i, y] of actual.y.entries()) {
            if (i % 4 === 1) expect(y, label).toBeNaN();
            else expect(Math.abs(y - plain.y[i]!), label).toBeLessThan(1e-4);
          }
        }
        const both = withOutlier(withOutlier(data, 4, 3, inf), 4, 300, -inf);
        expect((await run(both, shape)).mean[1], `${family}: both infinities`).toBeNaN();
        const among = data.map((v, i) => (i % 4 === 1 ? 3e38 : v));
        const last = (await run(withOutlier(among, 4, 300, -inf), shape)).mean[1];
        expect(last, `${family}: −∞ among 3e38`).toBe(-inf);
        // ±3e38: their difference is no float32 number.
        const x = data.map((v, i) => (i % 4 === 1 ? (i % 8 === 1 ? 3e38 : -3e38) : v));
        const huge = await run(x.subarray(0, 512 * 4), [512, 4]);
        expect(Math.abs(huge.mean[1]!), `${family}: ±3e38`).toBeLessThan(1e32);
        const equal = await run(among, shape);
        expect(equal.mean[1], `${family}: 3e38`).toBe(Math.fround(3e38));
      });
    }
  });

  // A test each, since tiled kernels take long to compile on a processor.
  const gathering = ["subgroup_4x8", "subgroup_row_4x8", "tile_64x64_8x4", "tile_64x64"];
  it.each(gathering)("folded into %s: takes an outlier anywhere, and values of any size", async (variant) => {
    const family = variant.startsWith("tile") ? "workgroup" : "software";
    const choices = {
      "batch_norm.forward": family,
      "batch_norm.backward": family,
      "conv2d.forward": variant,
      "conv2d.grad_input": variant,
      "conv2d.forward.output": "fused",
      "conv2d.forward.input": "fused",
      "conv2d.grad_input.output": "fused",
      "conv2d.grad_weight.input": "fused",
    };
    const channels = 8;
    // A map that a convolution by the unit matrix hands on as it is, in the middle tap of nine.
    const shape = [2, 24, 20, channels];
    const rows = 2 * 24 * 20;
    const unit = new Float64Array(channels * 9 * channels);
    for (let k = 0; k < channels; k += 1) unit[(k * 9 + 4) * channels + k] = 1;
    const folded: typeof batchNorm = (x, gamma, beta, options) => {
      const w = gpu.tensor(unit, [channels, 3, 3, channels]);
      const y = conv2d(x, w, { padding: 1 });
      const z = batchNorm(y, gamma, beta, options);
      // The next convolution normalises as it loads, and adds up the sums of backward.
      return conv2d(z, w, { padding: 1 });
    };
    const data = normals(sizeOf(shape), 3, 0.5, 0.01);
    const centred = normals(sizeOf(shape), 4, 0.5, 1);
    await forced(choices, async () => {
      for (const row of [0, 3, 64, 256, 500, rows - 1]) {
        const x = withOutlier(data, channels, row, 1e4);
        const actual = await run(x, shape, {}, "float32", folded);
        compare(actual, reference(x, shape, 1e-5), `${variant}: 1e4 in row ${row}`);
      }
      for (const [size, eps] of [
        [1e-30, 0],
        [1e-18, 0],
        [1e-12, 1e-24],
        [1e18, 1e-5],
        [1e25, 1e-5],
        [1e25, 0],
      ] as const) {
        const x = centred.map((v) => Math.fround(v * size));
        const actual = await run(x, shape, { eps }, "float32", folded);
        const expected = reference(x, shape, eps);
        // The variance itself is no float32 number.
        for (const result of [actual, expected]) result.variance.fill(1);
        for (const result of [actual, expected]) result.mean = result.mean.map((v) => v / size);
        for (const result of [actual, expected]) result.dx = result.dx.map((v) => v * size);
        compare(actual, expected, `${variant}: size ${size}, eps ${eps}`);
      }
    });
  });

  it("folded: an infinite value makes its channel's mean infinite, and reaches no other group's", async () => {
    const [channels, rows] = [8, 600];
    const data = normals(rows * channels, 3, 0.5);
    const weights = Array.from({ length: 32 }, (_, i) => (i % 4 === Math.floor(i / 4) % 4 ? 1 : 0));
    const w = gpu.tensor(weights, [channels, 1, 1, 4]);
    const folded: typeof batchNorm = (x, ...rest) => batchNorm(conv2d(x, w, { groups: 2 }), ...rest);
    const shape = [1, 20, 30, channels];
    const plain = reference(data, shape, 1e-5);
    for (const [variant, family] of [
      ["subgroup_4x8", "software"],
      ["tile_64x64", "workgroup"],
    ] as const) {
      const choices = {
        "conv2d.forward": variant,
        "conv2d.forward.output": "fused",
        "batch_norm.forward": family,
        "batch_norm.backward": family,
      };
      await forced(choices, async () => {
        for (const [row, value] of [
          [0, inf],
          [599, -inf],
          [300, nan],
        ] as const) {
          const actual = await run(withOutlier(data, channels, row, value), shape, {}, "float32", folded);
          const label = `${variant}: ${value} in row ${row}`;
          expect(actual.mean[1], label).toBe(value);
          // The others of its group have 0 · ∞.
          for (const c of [0, 2, 3]) expect(actual.mean[c], label).toBeNaN();
          for (const c of [4, 5, 6, 7]) {
            expect(Math.abs(actual.mean[c]! - plain.mean[c]!), label).toBeLessThan(1e-6);
            expect(Math.abs(actual.variance[c]! / plain.variance[c]! - 1), label).toBeLessThan(1e-5);
          }
        }
      });
    }
    w.dispose();
  });
});

describe("group and layer norm", () => {
  async function check(
    x: Float64Array,
    shape: Shape,
    groups: number | null,
    eps: number,
    label: string,
    scale = 1,
  ): Promise<void> {
    const channels = shape.at(-1)!;
    const pixels = groups ? sizeOf(shape) / (shape[0]! * channels) : 1;
    const images = sizeOf(shape) / (pixels * channels);
    const g = { images, pixels, channels, groups: groups ?? 1, eps };
    const arrays = { x: x.map(Math.fround), gamma: normals(channels, 5), beta: normals(channels, 6) };
    const grad = normals(x.length, 7);
    const expected = groupNormReferenceGrad(g, arrays, grad);
    const names = ["x", "gamma", "beta"] as const;
    for (const variant of ["lanes", "workgroup"]) {
      const choices = { "group_norm.forward": variant, "group_norm.grad_input": variant };
      await forced(choices, async () => {
        const tensors = names.map((name) =>
          gpu.tensor(arrays[name], name === "x" ? shape : [channels], { requiresGrad: true }),
        );
        const [input, gamma, beta] = tensors;
        const y = groups
          ? groupNorm(input!, groups, gamma, beta, eps)
          : layerNorm(input!, channels, gamma, beta, eps);
        const dy = gpu.tensor(grad, shape);
        expect(worst(await y.read(), groupNormReference(g, arrays)), `${variant} ${label}: y`).toBeLessThan(
          1e-5,
        );
        y.backward(dy);
        for (const [i, name] of names.entries()) {
          const unit = name === "x" ? scale : 1;
          const actual = Float64Array.from(await tensors[i]!.grad!.read(), (v) => v * unit);
          const wanted = expected[name].map((v) => v * unit);
          expect(worst(actual, wanted), `${variant} ${label}: d${name}`).toBeLessThan(5e-5);
        }
        for (const tensor of [...tensors, y, dy]) tensor.dispose();
      });
    }
  }

  it("take an outlier anywhere, and values of any size", async () => {
    for (const [shape, groups] of [
      [[2, 23, 19, 8], 2],
      [[1, 37, 41, 6], 2],
      [[3, 1031], null],
      [[5, 4], null],
    ] as [number[], number | null][]) {
      const data = normals(sizeOf(shape), 3, 0.5, 0.01);
      for (const at of [0, 1, Math.floor(data.length / 2), data.length - 1]) {
        const x = data.slice();
        x[at] = 1e4;
        await check(x, shape, groups, 1e-5, `[${shape}], outlier at ${at}`);
      }
      await check(normals(data.length, 4, 1000, 1), shape, groups, 1e-5, `[${shape}], far from zero`);
      const centred = normals(data.length, 4, 0.5, 1);
      for (const [size, eps] of [
        [1e30, 1e-5],
        [1e30, 0],
        [1e-30, 0],
        [1e-12, 1e-24],
      ] as const) {
        const x = centred.map((v) => Math.fround(v * size));
        await check(x, shape, groups, eps, `[${shape}] at ${size}, eps ${eps}`, size);
      }
    }
  });

  // In Deno the lanes give infinity where the huge value comes first, in most runs: not understood yet.
  it("take values of any size in one place of each vec4", async () => {
    // The mean of every place is zero, and the deviation of one is not: its square leaves float32's range.
    for (const place of [0, 1, 2, 3]) {
      for (const [size, eps] of [
        [2 ** 100, 1e-5],
        [2 ** -100, 0],
      ] as const) {
        const x = new Float64Array(8);
        x[place] = size;
        x[place + 4] = -size;
        await check(x, [1, 8], null, eps, `±${size} in place ${place}`, size);
      }
    }
  });

  it("constant rows give beta, infinite values NaN in their own unit alone", async () => {
    for (const variant of ["lanes", "workgroup"]) {
      await forced({ "group_norm.forward": variant }, async () => {
        const x = [7, -15.94, 1e18, 1e30].flatMap((value) => Array(101).fill(value));
        const t = gpu.tensor(x, [4, 101]);
        const y = layerNorm(t, 101);
        expect(
          [...(await y.read())].every((v) => v === 0),
          variant,
        ).toBe(true);
        const values = normals(4 * 101, 3);
        values[0] = inf;
        values[250] = -inf;
        values[403] = nan;
        t.write(values);
        const z = layerNorm(t, 101);
        for (const [i, v] of (await z.read()).entries()) {
          expect(Number.isNaN(v), `${variant} [${i}]`).toBe(Math.floor(i / 101) !== 1);
        }
        for (const tensor of [t, y, z]) tensor.dispose();
      });
    }
  });
});

describe("softmax", () => {
  it("over very wide rows: values, gradients, cross entropy", async () => {
    for (const classes of [4097, 262_145]) {
      const z = normals(classes, 3, 0, 4);
      const top = z.reduce((a, b) => Math.max(a, b));
      const total = z.reduce((a, v) => a + Math.exp(v - top), 0);
      const p = z.map((v) => Math.exp(v - top) / total);
      // Of one sign and size: sums of a hundred thousand of these drift, not only stray.
      const up = normals(classes, 4, 1, 0.1);
      const dot = p.reduce((a, v, i) => a + v * up[i]!, 0);
      const smoothing = 0.1;
      const average = z.reduce((a, b) => a + b, 0) / classes;
      const loss = top + Math.log(total) - (1 - smoothing) * z[3]! - smoothing * average;
      for (const variant of ["lanes", "tree"]) {
        await forced({ softmax: variant, softmax_cross_entropy: variant }, async () => {
          const label = `${variant} ${classes}`;
          const x = gpu.tensor(z, [1, classes], { requiresGrad: true });
          const y = softmax(x);
          const out = Float64Array.from(await y.read());
          expect(worst(out, p), `${label}: y`).toBeLessThan(2e-6);
          expect(Math.abs(out.reduce((a, b) => a + b) - 1), `${label}: sum`).toBeLessThan(2e-6);
          const dy = gpu.tensor(up, [1, classes]);
          y.backward(dy);
          const dx = p.map((v, i) => v * (up[i]! - dot));
          expect(worst(await x.grad!.read(), dx), `${label}: dx`).toBeLessThan(1e-5);
          const labels = gpu.tensor([3], [1], { dtype: "uint32" });
          const l = softmaxCrossEntropy(x, labels, { labelSmoothing: smoothing });
          expect(Math.abs((await l.item()) / loss - 1), `${label}: loss`).toBeLessThan(1e-6);
          x.zeroGrad();
          l.backward();
          const dl = p.map((v, i) => v - smoothing / classes - (i === 3 ? 1 - smoothing : 0));
          expect(worst(await x.grad!.read(), dl), `${label}: dlogits`).toBeLessThan(2e-6);
          for (const tensor of [x, y, dy, labels, l]) tensor.dispose();
        });
      }
    }
  });

  it("infinite values: as PyTorch", async () => {
    const rows = [
      [-inf, 1, 2, -inf],
      [-inf, -inf, -inf, -inf],
      [inf, 1, 2, 3],
      [1, nan, -inf, 3],
      [0, 3e38, -3e38, 3e38],
    ];
    const e = Math.E;
    const expected = [
      [0, 1 / (1 + e), e / (1 + e), 0],
      Array(4).fill(nan),
      Array(4).fill(nan),
      Array(4).fill(nan),
    ];
    for (const variant of ["lanes", "tree"]) {
      await forced({ softmax: variant, softmax_cross_entropy: variant }, async () => {
        const x = gpu.tensor(rows.flat(), [5, 4], { requiresGrad: true });
        const labels = gpu.tensor([1, 1, 1, 0, 1], [5], { dtype: "uint32" });
        const y = softmax(x);
        expect(worst(await y.read(), [...expected.flat(), 0, 0.5, 0, 0.5]), variant).toBeLessThan(1e-6);
        const l = softmaxCrossEntropy(x, labels, { reduction: "none" });
        expect(worst(await l.read(), [Math.log(1 + e), nan, nan, nan, Math.log(2)]), variant).toBeLessThan(
          1e-6,
        );
        const dy = gpu.full([5], 1);
        l.backward(dy);
        const grad = expected.map((row) => row.map((v, k) => v - (k === 1 ? 1 : 0)));
        expect(worst(await x.grad!.read(), [...grad.flat(), 0, -0.5, 0, 0.5]), variant).toBeLessThan(1e-6);
        for (const tensor of [x, labels, y, l, dy]) tensor.dispose();
      });
    }
  });
});

describe("pooling and ReLU", () => {
  it("averages of large windows and huge values", async () => {
    for (const channels of [4, 1]) {
      const shape = [1, 300, 301, channels];
      const x = gpu.full(shape, 0.1);
      const y = avgPool2d(x, [300, 301]);
      expect(worst(await y.read(), Array(channels).fill(Math.fround(0.1)))).toBeLessThan(2e-6);
      const huge = gpu.full(shape, 3e38);
      const z = avgPool2d(huge, 3);
      expect([...(await z.read())].every((v) => Math.abs(v / 3e38 - 1) < 1e-6)).toBe(true);
      for (const tensor of [x, y, huge, z]) tensor.dispose();
    }
  });

  it("NaN wins a maximum and passes a ReLU, forward and backward", async () => {
    const x = gpu.tensor([nan, 5, -inf, nan, -1, -0, 0, 2], [1, 1, 8, 1], { requiresGrad: true });
    const m = maxPool2d(x, [1, 2]);
    expect([...(await m.read())].map((v) => v + 0)).toEqual([nan, nan, 0, 2]);
    const r = relu(x);
    expect([...(await r.read())]).toEqual([nan, 5, 0, nan, 0, 0, 0, 2]);
    const dy = gpu.full([1, 1, 8, 1], 1);
    r.backward(dy);
    expect([...(await x.grad!.read())]).toEqual([1, 1, 0, 1, 0, 0, 0, 1]);
    for (const tensor of [x, m, r, dy]) tensor.dispose();
  });
});
