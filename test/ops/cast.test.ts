import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { cast } from "../../src/ops/cast.ts";
import { eq } from "../../src/ops/elementwise/compare.ts";
import { add, mul } from "../../src/ops/elementwise/elementwise.ts";
import { halfToNumber, numberToHalf } from "../../src/tensor/tensor.ts";
import { checkOp } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";

describe("cast", () => {
  it("goes there and back, with its gradient", async () => {
    for (const size of [1, 3, 64, 257, 70_001]) {
      await checkOp({
        label: `cast ${size}`,
        inputs: { x: [size] },
        run: (t) => cast(cast(t.x!, "float16"), "float32"),
        reference: (a) => a.x!.slice(),
        referenceGrad: (_, dy) => ({ x: dy.slice() }),
        tolerance: { forward: 5e-4, backward: 5e-4 },
      });
    }
  });

  it("rounds to the nearest neighbours, to infinity past the range, and keeps NaN", async () => {
    const gpu = await testGpu();
    const values = [
      0,
      1,
      -1,
      1e-7,
      6e-8,
      65_504,
      -65_504,
      65_519,
      65_520, // halfway to what would be next: to even, which is infinity
      65_536,
      -1e10,
      3e38,
      Number.NaN,
      0.1,
      1 / 3,
    ];
    values.push(Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, ...normals(200, 3, 0, 100));
    const x = gpu.tensor(values, [values.length]);
    const half = cast(x, "float16");
    const out = await half.read();
    values.forEach((value, i) => {
      const nearest = halfToNumber(numberToHalf(value));
      // Adapters may round either way.
      const slack = Number.isFinite(nearest) ? Math.max(2 ** -24, Math.abs(value) * 2 ** -10) : 0;
      if (slack > 0) expect(Math.abs(out[i]! - value), `${value}`).toBeLessThanOrEqual(slack);
      else expect(out[i], `${value}`).toBe(nearest);
    });
    expect(cast(half, "float16")).toBe(half);
    x.dispose();
    half.dispose();
  });

  it("keeps NaN and infinity apart by their bits", async () => {
    const gpu = await testGpu();
    const patterns = [0x7f800000, 0x7f800001, 0xff800000, 0xff800001, 0x7fc00000, 0x477fefff, 0x477ff000];
    const x = gpu.tensor(new Float32Array(Uint32Array.from(patterns).buffer), [patterns.length]);
    const half = cast(x, "float16");
    const out = [...(await half.read())];
    expect(out.slice(0, 5)).toEqual([Infinity, NaN, -Infinity, NaN, NaN]);
    expect(Math.abs(out[5]! - 65_504), "just below the halfway point").toBe(0);
    expect(out[6]).toBe(Infinity);
    x.dispose();
    half.dispose();
  });

  it("adds float16 gradients of a tensor used twice", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const x = gpu.tensor([1, 2, 3, 4, 5], [5], { dtype: "float16", requiresGrad: true });
    gpu.scope(() => {
      const y = add(cast(x, "float32"), mul(cast(x, "float32"), gpu.tensor([2, 3, 4, 5, 6], [5])));
      y.backward(gpu.full([5], 1));
    });
    expect(x.grad!.dtype).toBe("float16");
    expect([...(await x.grad!.read())]).toEqual([3, 4, 5, 6, 7]);
    x.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("adds float16 gradients of more elements than there are invocations, whose loops go round again", async () => {
    const gpu = await testGpu();
    const size = 4 * 64 * 1024 * 2 + 6; // sums of what float16 holds, no rounding
    const [a, b] = [0, 1].map((odd) => Float32Array.from({ length: size }, (_, i) => ((7 + odd) * i) % 401));
    const acc = gpu.tensor(a!, [size], { dtype: "float16" });
    const x = gpu.tensor(b!, [size], { dtype: "float16" });
    gpu.accumulate(acc, x);
    const out = await acc.read();
    expect(out.findIndex((value, i) => value !== a![i]! + b![i]!)).toBe(-1);
    acc.dispose();
    x.dispose();
  });

  it("makes floats of integers, and what one compares with them", async () => {
    const gpu = await testGpu();
    const values = Uint32Array.from({ length: 259 }, (_, i) => [i, 2 ** 24 - i, 2 ** 31 + 256 * i][i % 3]!);
    const x = gpu.tensor(values, [7, 37], { dtype: "uint32" });
    const y = cast(x, "float32");
    expect([y.shape, y.dtype, y.requiresGrad]).toEqual([[7, 37], "float32", false]);
    expect(await y.read()).toEqual(Float32Array.from(values));
    const labels = gpu.tensor([2, 0], [2, 1], { dtype: "uint32" });
    const oneHot = gpu.scope(() => eq(cast(labels, "float32"), gpu.tensor([0, 1, 2], [3])));
    expect([oneHot.shape, ...(await oneHot.read())]).toEqual([[2, 3], 0, 0, 1, 1, 0, 0]);
    for (const tensor of [x, y, labels, oneHot]) tensor.dispose();
  });

  it("names what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      expect(() => cast(gpu.empty([2], "uint32"), "float16")).toThrow(
        /^cast: x is uint32; expected float32 or float16/,
      );
      expect(() => cast(gpu.zeros([2]), "uint8" as never)).toThrow(/^cast: dtype is "uint8"; expected/);
      expect(() => cast(gpu.zeros([2]), "uint8" as never)).toThrow(ShapeError);
    });
  });
});
