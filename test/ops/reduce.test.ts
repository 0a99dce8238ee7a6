import { afterEach, describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { mean, sum, variance } from "../../src/ops/reduce/reduce.ts";
import { reshape } from "../../src/ops/reshape.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import { type AfterNorm, checkAfterNorm } from "../helpers/after-norm.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { channelStatistics } from "../reference/batch-norm.ts";
import { meanOf, reduceReference, varianceOf } from "../reference/elementwise.ts";

/** Each way through the kernel, and sizes around its edges. */
const reductions: [string, number[], number[]][] = [
  ["one value", [1], [0]],
  ["everything, prime size", [3, 5, 7], [0, 1, 2]],
  ["everything, more than a lane sums", [1031], [0]],
  ["channels last, vec4", [2, 3, 5, 8], [0, 1, 2]],
  ["channels last, odd", [2, 3, 5, 7], [0, 1, 2]],
  ["channels last, 300 channels", [3, 300], [0]],
  ["slices of more columns than a workgroup is wide", [257, 65], [0]],
  ["per sample and channel", [3, 2, 5, 4], [1, 2]],
  ["per sample and odd channel", [3, 2, 5, 3], [1, 2]],
  ["rows of a multiple of 4", [5, 12], [1]],
  ["odd rows", [5, 7], [-1]],
  ["NCHW channels", [2, 3, 4, 5], [0, 2, 3]],
  ["three groups", [2, 3, 2, 3, 2], [0, 2, 4]],
  ["an axis of size 1", [4, 1, 3], [1]],
];

const variants = { reduce: ["lanes", "tree"] };

describe("reduce", () => {
  afterEach(async () => {
    const { variants } = await testGpu();
    for (const kernel of ["reduce", "batch_norm.forward"]) variants.force(kernel, null);
  });

  for (const [label, shape, axes] of reductions) {
    it(`sum, mean, variance: ${label}`, async () => {
      const count =
        sizeOf(shape) / (reduceReference(new Float64Array(sizeOf(shape)), shape, axes, () => 0).length || 1);
      const cases: OpCase[] = [
        {
          label: "sum",
          inputs: { x: shape },
          run: (t) => sum(t.x!, axes),
          reference: ({ x }) =>
            reduceReference(x!, shape, axes, (values) => values.reduce((a, b) => a + b, 0)),
          variants,
        },
        {
          label: "mean",
          inputs: { x: shape },
          run: (t) => mean(t.x!, axes, { keepDims: true }),
          reference: ({ x }) => reduceReference(x!, shape, axes, meanOf),
          variants,
        },
      ];
      for (const correction of [0, 1] as const) {
        if (count <= correction) continue;
        cases.push({
          label: `variance, correction ${correction}`,
          inputs: { x: shape },
          run: (t) => variance(t.x!, axes, { correction }),
          reference: ({ x }) => reduceReference(x!, shape, axes, (values) => varianceOf(values, correction)),
          composed: (t) => variance(t.x!, axes, { correction, mean: mean(t.x!, axes) }),
          variants,
        });
      }
      await checkOp(cases);
    });
  }

  it.each([
    ["per sample and channel", [3, 2, 5, 4], [1, 2]],
    ["per channel", [2, 3, 5, 12], [0, 1, 2]],
    ["along a row", [2, 3, 7, 8], [2]],
    ["in two steps", [2, 3, 5, 8], [0, 2]],
    ["more rows than a lane sums", [1, 19, 17, 8], [1, 2]],
  ] as [string, number[], number[]][])(
    "sum and mean after a batch-norm, made as it is loaded: %s",
    async (_label, shape, axes) => {
      const all: [string, typeof mean, (values: number[]) => number][] = [
        ["sum", sum, (values) => values.reduce((a, b) => a + b, 0)],
        ["mean", mean, meanOf],
      ];
      await checkAfterNorm(
        "reduce",
        all.map(
          ([label, op, of]): AfterNorm => ({
            label,
            shape,
            run: (y) => op(y, axes),
            reference: (y) => reduceReference(y, shape, axes, of),
            variants,
          }),
        ),
      );
    },
  );

  it("a batch-norm's output whose columns are more, or other, than its channels is worked out before", async () => {
    const gpu = await testGpu();
    const shape = [2, 3, 5, 8];
    const data = normals(sizeOf(shape), 5);
    const x = gpu.tensor(data, shape);
    const { mean: middle, variance: spread } = channelStatistics({ count: 30, channels: 8 }, data);
    const y = data.map((value, i) => (value - middle[i % 8]!) / Math.sqrt(spread[i % 8]! + 1e-5));
    gpu.variants.force("batch_norm.forward", "software");
    const cases: [made: boolean, view: number[], axes: number[]][] = [
      [false, shape, [1]],
      [false, shape, [0]],
      [false, [2, 3, 40], [1]],
      [false, [2, 3, 10, 4], [2]],
      [true, [6, 5, 8], [1]],
    ];
    for (const [made, view, axes] of cases) {
      const notes = gpu.explain(() => {
        gpu.scope(() => void sum(reshape(batchNorm(x, null, null, { training: true }), view), axes));
      });
      const label = `[${view}] over ${axes}`;
      expect(
        notes.some(({ kernel }) => kernel.startsWith("reduce+x_affine.")),
        label,
      ).toBe(made);
      const out = gpu.scope(() => mean(reshape(batchNorm(x, null, null, { training: true }), view), axes));
      const expected = reduceReference(y, view, axes, meanOf);
      expect(relativeError(await out.read(), expected), label).toBeLessThan(1e-5);
      out.dispose();
    }
    x.dispose();
  });

  it("a mean of values that are made as they are loaded does not overflow on the way", async () => {
    const gpu = await testGpu();
    gpu.variants.force("batch_norm.forward", "software");
    for (const variant of ["lanes", "tree"]) {
      gpu.variants.force("reduce", variant);
      const out = gpu.scope(() => {
        const x = gpu.tensor(normals(2 * 9 * 4, 6, 1.4, 0.05), [2, 9, 4]);
        const statistics = { runningMean: gpu.zeros([4]), runningVar: gpu.full([4], 1) };
        const gamma = gpu.full([4], 2e38);
        return mean(batchNorm(x, gamma, null, { training: false, ...statistics }), [1]);
      });
      const expected = reduceReference(normals(2 * 9 * 4, 6, 1.4, 0.05), [2, 9, 4], [1], meanOf);
      const scaled = expected.map((value) => (2e38 * value) / Math.sqrt(1 + 1e-5));
      expect(relativeError(await out.read(), scaled), variant).toBeLessThan(1e-5);
      out.dispose();
    }
  });

  it("reduces every axis when none is named, and keeps them on request", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.full([2, 3, 4], 1);
      expect(sum(x).shape).toEqual([]);
      expect(sum(x, [0, 1, 2], { keepDims: true }).shape).toEqual([1, 1, 1]);
      expect(mean(x, [-2]).shape).toEqual([2, 4]);
      expect(mean(x, -2).shape).toEqual([2, 4]);
      expect(sum(x, 0).shape).toEqual([3, 4]);
      expect(variance(x, 2, { keepDims: true }).shape).toEqual([2, 3, 1]);
      expect(() => sum(x, 3)).toThrow("sum: axis 3 is outside a tensor of rank 3; expected -3 to 2");
      expect(variance(x, [0, -1], { keepDims: true }).shape).toEqual([1, 3, 1]);
    });
  });

  it("many rows, and more sums than one grid dimension has workgroups", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const shapes: [number[], number[]][] = [
      [[300_007, 4], [0]],
      [[100_003, 3], [0]],
      [[1_000_003], [0]],
      [[2 ** 16 + 3, 8], [1]],
      [[2 ** 16 + 3, 5], [1]],
      [[3, 20_011, 4], [1]],
      [
        [7, 5, 4099],
        [0, 2],
      ],
    ];
    for (const variant of ["lanes", "tree"]) {
      gpu.variants.force("reduce", variant);
      for (const [shape, axes] of shapes) {
        const data = normals(sizeOf(shape), 3, 0.5);
        const x = gpu.tensor(data, shape);
        const results = gpu.scope(() => [sum(x, axes), mean(x, axes), variance(x, axes)]);
        const [s, m, v] = await Promise.all(results.map((tensor) => tensor.read()));
        const label = `${variant} [${shape}] over ${axes}`;
        expect(
          relativeError(
            s!,
            reduceReference(data, shape, axes, (g) => g.reduce((a, b) => a + b, 0)),
          ),
          label,
        ).toBeLessThan(1e-5);
        expect(relativeError(m!, reduceReference(data, shape, axes, meanOf)), label).toBeLessThan(1e-5);
        expect(
          relativeError(
            v!,
            reduceReference(data, shape, axes, (g) => varianceOf(g, 1)),
          ),
          label,
        ).toBeLessThan(1e-5);
        for (const tensor of [x, ...results]) tensor.dispose();
      }
    }
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("|mean|/std = 1000: the mean to float32's last digit, the variance to 1e-5", async () => {
    const gpu = await testGpu();
    for (const [shape, axes] of [
      [
        [32, 32, 32, 16],
        [0, 1, 2],
      ],
      [[100_003], [0]],
      [[64, 1000], [1]],
    ] as [number[], number[]][]) {
      const data = normals(sizeOf(shape), 4, 1000, 1);
      const x = gpu.tensor(data, shape);
      const results = gpu.scope(() => [mean(x, axes), variance(x, axes, { correction: 0 })]);
      const [m, v] = await Promise.all(results.map((tensor) => tensor.read()));
      const means = reduceReference(data, shape, axes, meanOf);
      // float32 has steps of 6.1e-5 at 1000: within three of them, since a division may be off by 2.5
      for (let i = 0; i < means.length; i += 1) expect(Math.abs(m![i]! - means[i]!)).toBeLessThan(1.9e-4);
      expect(
        relativeError(
          v!,
          reduceReference(data, shape, axes, (g) => varianceOf(g, 0)),
        ),
      ).toBeLessThan(1e-5);
      for (const tensor of [x, ...results]) tensor.dispose();
    }
  });

  it("gives equal bits in every run", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor(normals(50_021 * 4, 8), [50_021, 4]);
    for (const variant of ["lanes", "tree"]) {
      gpu.variants.force("reduce", variant);
      const runs: string[] = [];
      for (let i = 0; i < 3; i += 1) {
        const out = variance(x, [0]);
        runs.push((await out.read()).join());
        out.dispose();
      }
      expect(new Set(runs).size).toBe(1);
    }
    x.dispose();
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([2, 3]);
      expect(() => sum(x, [2])).toThrow(ShapeError);
      expect(() => sum(x, [2])).toThrow("sum: axis 2 is outside a tensor of rank 2; expected -2 to 1");
      expect(() => mean(x, [0, -2])).toThrow("mean: axis -2 is named twice");
      expect(() => mean(x, [])).toThrow("mean: axes is []; expected at least one axis");
      expect(() => variance(gpu.zeros([1, 3]), [0])).toThrow(
        "variance: 1 value in each sum of [1, 3] with correction 1",
      );
      expect(() => variance(x, [0], { correction: 2 as 1 })).toThrow("variance: correction is 2; expected 0");
      expect(() => variance(x, [0], { mean: gpu.zeros([2]) })).toThrow(
        "variance: mean is [2], the variance [3]",
      );
      expect(() => sum(gpu.empty([2], "uint32"))).toThrow("sum: x is uint32; expected float32");
    });
  });
});
