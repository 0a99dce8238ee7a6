import { describe, expect, it } from "vitest";
import { pow } from "../../src/ops/unary.ts";
import { type Shape, sizeOf } from "../../src/tensor/shape.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { withChoices } from "../helpers/choices.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { elementwise } from "../reference/elementwise.ts";

const shapes: [Shape, Shape, Shape][] = [
  [
    [3, 7],
    [3, 7],
    [3, 7],
  ],
  [[2, 3, 8], [8], [2, 3, 8]],
  [[5], [3, 5], [3, 5]],
  [
    [3, 1],
    [1, 5],
    [3, 5],
  ],
  [[], [2, 3], [2, 3]],
  [[301, 3], [], [301, 3]],
];

describe("pow with a tensor", () => {
  it("broadcasts, and both get gradients", async () => {
    const gpu = await testGpu();
    const cases = shapes.map(
      ([a, b, out], i): OpCase => ({
        label: `[${a}] ^ [${b}]`,
        inputs: {
          x: { shape: a, data: normals(sizeOf(a), 3 + i).map((v) => Math.exp(v)) },
          exponent: { shape: b, data: normals(sizeOf(b), 13 + i, 0.5) },
        },
        run: (t) => pow(t.x!, t.exponent!),
        reference: (v) =>
          elementwise(
            out,
            [
              { data: v.x!, shape: a },
              { data: v.exponent!, shape: b },
            ],
            (x, y) => x ** y,
          ),
      }),
    );
    for (const family of ["software", "hardware"] as const) {
      await withChoices(gpu, { family, folding: "none", seed: 1 }, () => checkOp(cases));
    }
  });

  it("more elements than one step of the grid", async () => {
    const gpu = await testGpu();
    const count = 4 * 64 * 64 + 5;
    const [base, power, up] = [
      normals(count, 1).map((v) => Math.exp(0.3 * v)),
      normals(count, 2),
      normals(count, 3),
    ];
    const x = gpu.tensor(base, [count], { requiresGrad: true });
    const exponent = gpu.tensor(power, [count], { requiresGrad: true });
    const dy = gpu.tensor(up, [count]);
    await withChoices(gpu, { family: "software", folding: "none", seed: 1 }, async () => {
      const y = pow(x, exponent);
      y.backward(dy);
      const values = await y.read();
      expect(
        relativeError(
          values,
          base.map((v, i) => v ** power[i]!),
        ),
      ).toBeLessThan(1e-5);
      y.dispose();
    });
    const dx = base.map((v, i) => up[i]! * power[i]! * v ** (power[i]! - 1));
    const dp = base.map((v, i) => up[i]! * v ** power[i]! * Math.log(v));
    expect(relativeError(await x.grad!.read(), dx)).toBeLessThan(1e-5);
    expect(relativeError(await exponent.grad!.read(), dp)).toBeLessThan(1e-5);
    for (const tensor of [x, exponent, dy]) tensor.dispose();
  });

  it("negative bases to whole exponents", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([-2, -2, -0.5, -3, -1.5, -2], [6], { requiresGrad: true });
    const exponent = gpu.tensor([2, 3, -3, 0, 5, 0.5], [6]);
    const dy = gpu.full([6], 1);
    const y = pow(x, exponent);
    const expected = [4, -8, -8, 1, -(1.5 ** 5)];
    const values = await y.read();
    expected.forEach((v, i) => {
      expect(values[i]! / v).toBeCloseTo(1, 6);
    });
    expect(values[5]).toBeNaN();
    y.backward(dy);
    const slopes = [-4, 12, -48, 0, 5 * 1.5 ** 4];
    const grad = await x.grad!.read();
    slopes.forEach((v, i) => {
      expect(Math.abs(grad[i]! - v)).toBeLessThan(1e-4);
    });
    for (const tensor of [x, exponent, dy, y]) tensor.dispose();
  });

  it("every pair of 0, −0, 1, −1, infinity, NaN and others is as in C and PyTorch", async () => {
    const gpu = await testGpu();
    const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
    const bases = [0, -0, 1, -1, 0.5, -0.5, 3, -3, inf, -inf, nan];
    const exponents = [0, -0, 1, -1, 2, -2, 3, 0.5, -1.5, inf, -inf, nan];
    const pairs = bases.flatMap((x) => exponents.map((p) => [x, p] as const));
    // Math.pow differs from C for 1 and −1.
    const power = (x: number, p: number) => (x === 1 || (x === -1 && Math.abs(p) === inf) ? 1 : x ** p);
    const x = gpu.tensor(
      pairs.map(([v]) => v),
      [pairs.length],
    );
    const exponent = gpu.tensor(
      pairs.map(([, p]) => p),
      [pairs.length],
    );
    const y = pow(x, exponent);
    const values = await y.read();
    pairs.forEach(([v, p], i) => {
      const expected = power(v, p);
      const label = `${Object.is(v, -0) ? "-0" : v} ^ ${p}`;
      if (!Number.isFinite(expected) || expected === 0) expect(values[i], label).toBe(expected);
      else expect(values[i]! / expected, label).toBeCloseTo(1, 6);
    });
    for (const tensor of [x, exponent, y]) tensor.dispose();
  });

  it("gradients at 0: none to an exponent of 0 or more, none through an exponent of 0", async () => {
    const gpu = await testGpu();
    const { NaN: nan, NEGATIVE_INFINITY: low } = Number;
    const x = gpu.tensor([0, 0, 0, 0, -2, 5], [6], { requiresGrad: true });
    const exponent = gpu.tensor([0, 2, 1, -1, 2, 0], [6], { requiresGrad: true });
    const dy = gpu.full([6], 2);
    const y = pow(x, exponent);
    y.backward(dy);
    const [dx, dp] = [await x.grad!.read(), await exponent.grad!.read()];
    expect([...dx].slice(0, 4)).toEqual([0, 0, 2, low]);
    expect(dx[5]).toBe(0);
    expect([...dp].slice(0, 5)).toEqual([0, 0, 0, low, nan]);
    expect(dp[5]).toBeCloseTo(2 * Math.log(5), 5);
    for (const tensor of [x, exponent, dy, y]) tensor.dispose();
  });

  it("says what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      expect(() => pow(gpu.zeros([3]), gpu.zeros([4]))).toThrow("pow: x is [3], exponent is [4]");
      expect(() => pow(gpu.zeros([3]), gpu.zeros([3], { dtype: "uint32" }))).toThrow(
        "pow: exponent is uint32; expected float32",
      );
      expect(() => pow(gpu.zeros([3]), "2" as never)).toThrow('pow: exponent is "2"');
    });
  });
});
