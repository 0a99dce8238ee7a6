import { afterEach, describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { avgPool2d, globalAvgPool2d, maxPool2d } from "../../src/ops/pool2d.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import { type AfterNorm, checkAfterNorm } from "../helpers/after-norm.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { generator, normals } from "../helpers/numbers.ts";
import { average, largest, type Pool2dGeometry, pool2dReference } from "../reference/pool2d.ts";

type Shape4 = readonly [number, number, number, number];

const geometries: [Shape4, Pool2dGeometry][] = [
  [[1, 1, 1, 1], { kernel: [1, 1], stride: [1, 1], padding: [0, 0, 0, 0] }],
  [[2, 4, 6, 4], { kernel: [2, 2], stride: [2, 2], padding: [0, 0, 0, 0] }],
  [[2, 5, 7, 3], { kernel: [3, 3], stride: [2, 2], padding: [1, 1, 1, 1] }],
  [[1, 7, 5, 8], { kernel: [3, 2], stride: [1, 2], padding: [1, 0, 0, 1] }],
  [[1, 5, 5, 5], { kernel: [2, 3], stride: [3, 1], padding: [0, 1, 1, 1] }],
  [[1, 6, 6, 4], { kernel: [3, 3], stride: [2, 2], padding: [0, 0, 0, 0], ceilMode: true }],
  [[2, 5, 6, 1], { kernel: [3, 3], stride: [2, 2], padding: [1, 1, 1, 1], ceilMode: true }],
  [[1, 4, 4, 2], { kernel: [2, 2], stride: [3, 3], padding: [1, 1, 1, 1], ceilMode: true }],
];

/** Values whose neighbours differ by more than the step of finite differences. */
function distinct(count: number): Float64Array {
  const values = Float64Array.from({ length: count }, (_, i) => i / 8);
  const next = generator(count);
  for (let i = count - 1; i > 0; i -= 1) {
    const j = Math.floor(next() * (i + 1));
    [values[i], values[j]] = [values[j]!, values[i]!];
  }
  return values;
}

describe("pooling", () => {
  afterEach(async () => {
    const { variants } = await testGpu();
    for (const kernel of ["pool2d.input", "batch_norm.forward"]) variants.force(kernel, null);
  });

  for (const [shape, geometry] of geometries) {
    const { kernel, stride, padding, ceilMode = false } = geometry;
    it(`[${shape}] kernel ${kernel}, stride ${stride}, padding ${padding}${ceilMode ? ", ceil" : ""}`, async () => {
      const options = { stride, padding, ceilMode };
      const cases: OpCase[] = [
        {
          label: "maxPool2d",
          inputs: { x: { shape, data: distinct(sizeOf(shape)) } },
          run: (t) => maxPool2d(t.x!, kernel, options),
          reference: ({ x }) => pool2dReference(x!, shape, geometry, largest),
        },
      ];
      for (const countIncludePad of [true, false]) {
        cases.push({
          label: `avgPool2d, countIncludePad ${countIncludePad}`,
          inputs: { x: shape },
          run: (t) => avgPool2d(t.x!, kernel, { ...options, countIncludePad }),
          reference: ({ x }) => pool2dReference(x!, shape, { ...geometry, countIncludePad }, average),
        });
      }
      await checkOp(cases);
    });
  }

  it.each([
    [[2, 4, 6, 4], { kernel: [2, 2], stride: [2, 2], padding: [0, 0, 0, 0] }],
    [[2, 5, 7, 4], { kernel: [3, 3], stride: [2, 2], padding: [1, 1, 1, 1] }],
    [[1, 7, 5, 8], { kernel: [3, 2], stride: [1, 2], padding: [1, 0, 0, 1] }],
    [[1, 5, 6, 20], { kernel: [3, 3], stride: [2, 2], padding: [1, 1, 1, 1], ceilMode: true }],
    [[1, 4, 4, 8], { kernel: [2, 2], stride: [3, 3], padding: [1, 1, 1, 1], ceilMode: true }],
  ] as [Shape4, Pool2dGeometry][])(
    "[%s] after a batch-norm, made as it is loaded: %j",
    async (shape, geometry) => {
      const { kernel, stride, padding, ceilMode } = geometry;
      const options = { stride, padding, ceilMode };
      const cases: AfterNorm[] = [
        {
          label: "maxPool2d",
          shape,
          data: distinct(sizeOf(shape)).map((value) => (8 * value) / sizeOf(shape) - 4),
          run: (y) => maxPool2d(y, kernel, options),
          reference: (y) => pool2dReference(y, shape, geometry, largest),
        },
      ];
      for (const countIncludePad of [true, false]) {
        cases.push({
          label: `avgPool2d, countIncludePad ${countIncludePad}`,
          shape,
          run: (y) => avgPool2d(y, kernel, { ...options, countIncludePad }),
          reference: (y) => pool2dReference(y, shape, { ...geometry, countIncludePad }, average),
        });
      }
      await checkAfterNorm("pool2d", cases);
    },
  );

  it.each([
    [[2, 7, 9, 4], { kernel: [3, 3], stride: [1, 1], padding: [0, 0, 0, 0], dilation: [2, 2] }],
    [[1, 9, 8, 3], { kernel: [2, 3], stride: [2, 1], padding: [1, 0, 3, 2], dilation: [3, 3] }],
    [
      [1, 10, 7, 8],
      { kernel: [3, 2], stride: [3, 2], padding: [2, 2, 0, 1], dilation: [2, 3], ceilMode: true },
    ],
    [[1, 6, 6, 5], { kernel: [2, 2], stride: [2, 2], padding: [1, 1, 1, 1], dilation: [1, 4] }],
  ] as [Shape4, Pool2dGeometry][])("maxPool2d with dilation: [%s] %j", async (shape, geometry) => {
    const { kernel, ...options } = geometry;
    const data = distinct(sizeOf(shape));
    await checkOp({
      label: "maxPool2d",
      inputs: { x: { shape, data } },
      run: (t) => maxPool2d(t.x!, kernel, options),
      reference: ({ x }) => pool2dReference(x!, shape, geometry, largest),
    });
    if (shape[3] % 4 === 0) {
      const near = data.map((value) => (8 * value) / sizeOf(shape) - 4);
      const run = (y: Parameters<typeof maxPool2d>[0]) => maxPool2d(y, kernel, options);
      const reference = (y: Float64Array) => pool2dReference(y, shape, geometry, largest);
      await checkAfterNorm("pool2d", [{ label: "maxPool2d", shape, data: near, run, reference }]);
    }
  });

  it("maxPool2d: a window of which no pixel is inside the map is −∞, and gets nothing", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([1, 2, 3, 4], [1, 1, 1, 4], { requiresGrad: true });
    const y = maxPool2d(x, [1, 2], { dilation: 5, stride: 1, padding: [0, 0, 3, 3] });
    const low = Number.NEGATIVE_INFINITY;
    // Pixels at −3 and 2, and at −2 and 3.
    expect([...(await y.read())]).toEqual(Array(8).fill(low));
    const dy = gpu.full(y.shape, 1);
    y.backward(dy);
    expect([...(await x.grad!.read())]).toEqual([0, 0, 0, 0]);
    for (const tensor of [x, y, dy]) tensor.dispose();
  });

  it("takes one number for both directions, and the kernel as the default stride", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([1, 9, 9, 2]);
      expect(maxPool2d(x, 3).shape).toEqual([1, 3, 3, 2]);
      expect(avgPool2d(x, [3, 2], { padding: 1 }).shape).toEqual([1, 3, 5, 2]);
    });
  });

  it("maxPool2d: the first of equal pixels gets the gradient, NaN wins, −∞ is a value", async () => {
    const gpu = await testGpu();
    for (const channels of [1, 4]) {
      const pixels = [1, 1, 1, 1, 0, Number.NaN, 5, 2, -Infinity, -Infinity, -Infinity, -Infinity];
      const x = gpu.tensor(
        pixels.flatMap((v) => Array(channels).fill(v)),
        [3, 2, 2, channels],
        { requiresGrad: true },
      );
      const y = maxPool2d(x, 2);
      const first = (values: ArrayLike<number>) => Array.from(values).filter((_, i) => i % channels === 0);
      expect(first(await y.read())).toEqual([1, Number.NaN, -Infinity]);
      const dy = gpu.full(y.shape, 1);
      y.backward(dy);
      expect(first(await x.grad!.read())).toEqual([1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0]);
      for (const tensor of [x, y, dy]) tensor.dispose();
    }
  });

  it("maxPool2d: any NaN is one, and infinity is none", async () => {
    const gpu = await testGpu();
    // Only the last bit tells the first of these from infinity.
    const patterns = [0x7f800001, 0xff800001, 0x7fffffff, 0xffc00000, 0x7f800000, 0x7f7fffff];
    for (const channels of [1, 4]) {
      const pairs = new Float32Array(2 * channels * patterns.length);
      // Each after a −7, so that it has to be seen.
      for (let i = 0; i < patterns.length; i += 1) {
        pairs.fill(-7, 2 * i * channels, 2 * (i + 1) * channels);
        new Uint32Array(pairs.buffer).fill(patterns[i]!, (2 * i + 1) * channels, 2 * (i + 1) * channels);
      }
      const x = gpu.tensor(pairs, [patterns.length, 1, 2, channels]);
      const y = maxPool2d(x, [1, 2]);
      const values = Array.from(await y.read()).filter((_, i) => i % channels === 0);
      expect(values.slice(0, 4)).toEqual(Array(4).fill(Number.NaN));
      expect(values.slice(4)).toEqual([Infinity, 3.4028234663852886e38]);
      for (const tensor of [x, y]) tensor.dispose();
    }
  });

  it("NaN and infinities that are made of a batch-norm's input are those that it makes", async () => {
    const gpu = await testGpu();
    const pixels = [1, Number.NaN, -2, Infinity, -Infinity, -Infinity, -Infinity, -Infinity, 3, 0, -0, -1];
    const data = pixels.flatMap((v) => [v, -v, 2 * v, v]);
    const results: Float32Array[][] = [];
    gpu.variants.force("batch_norm.forward", "software");
    for (const how of ["fused", "separate"]) {
      gpu.variants.force("pool2d.input", how);
      const outs = gpu.scope(() => {
        const x = gpu.tensor(data, [3, 2, 2, 4]);
        const statistics = { runningMean: gpu.zeros([4]), runningVar: gpu.full([4], 1) };
        return (["relu", "none"] as const).flatMap((activation) => {
          const norm = () => batchNorm(x, null, null, { training: false, activation, ...statistics });
          return [maxPool2d(norm(), 2), avgPool2d(norm(), 2)];
        });
      });
      results.push(await Promise.all(outs.map(async (out) => (await out.read()) as Float32Array)));
      for (const out of outs) out.dispose();
    }
    expect(results[0]).toEqual(results[1]);
    const first = results[0]!.map((values) => [...values].filter((_, i) => i % 4 === 0));
    expect(first).toEqual([
      [Number.NaN, 0, expect.closeTo(3, 4)],
      [Number.NaN, 0, expect.closeTo(0.75, 4)],
      [Number.NaN, -Infinity, expect.closeTo(3, 4)],
      [Number.NaN, -Infinity, expect.closeTo(0.5, 4)],
    ]);
  });

  it("globalAvgPool2d", async () => {
    const shapes: Shape4[] = [
      [1, 1, 1, 1],
      [2, 3, 5, 4],
      [3, 4, 2, 7],
      [2, 17, 19, 8],
    ];
    await checkOp(
      shapes.map((shape) => ({
        label: `[${shape}]`,
        inputs: { x: shape },
        run: (t) => globalAvgPool2d(t.x!),
        reference: ({ x }) => {
          const [n, h, w] = shape;
          return pool2dReference(
            x!,
            shape,
            { kernel: [h, w], stride: [1, 1], padding: [0, 0, 0, 0] },
            average,
          ).subarray(0, n * shape[3]);
        },
        variants: { reduce: ["lanes", "tree"] },
      })),
    );
  });

  it("more pixels than one grid dimension has workgroups", async () => {
    const shape: Shape4 = [1, 2 ** 17 + 6, 2, 3];
    const geometry: Pool2dGeometry = { kernel: [2, 2], stride: [2, 2], padding: [0, 0, 0, 0] };
    const gpu = await testGpu();
    const data = normals(sizeOf(shape), 1);
    const x = gpu.tensor(data, shape);
    const [largestOut, averageOut] = gpu.scope(() => [maxPool2d(x, 2), avgPool2d(x, 2)]);
    expect([...(await largestOut!.read())]).toEqual([...pool2dReference(data, shape, geometry, largest)]);
    const expected = pool2dReference(data, shape, geometry, average);
    const actual = await averageOut!.read();
    expect(expected.every((value, i) => Math.abs(value - actual[i]!) < 1e-6)).toBe(true);
    for (const tensor of [x, largestOut!, averageOut!]) tensor.dispose();
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([1, 4, 6, 2]);
      expect(() => maxPool2d(gpu.zeros([4, 6, 2]), 2)).toThrow(ShapeError);
      expect(() => maxPool2d(gpu.zeros([4, 6, 2]), 2)).toThrow("maxPool2d: x has rank 3");
      expect(() => maxPool2d(x, 5)).toThrow("maxPool2d: the kernel spans 5 pixels, x [1, 4, 6, 2] has H = 4");
      expect(() => avgPool2d(x, 0)).toThrow("avgPool2d: kernelSize is 0; expected an integer of at least 1");
      expect(() => avgPool2d(x, 2, { stride: 0 })).toThrow("avgPool2d: stride is 0");
      expect(() => avgPool2d(x, 2, { padding: -1 })).toThrow("avgPool2d: padding is -1");
      expect(() => maxPool2d(x, 2, { padding: 2 })).toThrow(
        "maxPool2d: H is padded by 2 and 2, the kernel has 2; expected at most half",
      );
      expect(() => globalAvgPool2d(gpu.zeros([4, 2]))).toThrow("globalAvgPool2d: x has rank 2, got [4, 2]");
    });
  });
});
