import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { abs, clamp, exp, log, neg, pow, rsqrt, sigmoid, softplus, sqrt, tanh } from "../../src/ops/unary.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";

interface Case {
  run(x: Tensor): Tensor;
  f(x: number): number;
  /** f'. */
  df(x: number): number;
  /** Of the inputs that it is tried with: positive ones. */
  positive?: boolean;
  /** What it gives for NaN, ∞, −∞, 0, −0 and −2, as PyTorch does. */
  edges: readonly number[];
}

const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
const logistic = (x: number) => 1 / (1 + Math.exp(-x));

const cases: Record<string, Case> = {
  exp: { run: exp, f: Math.exp, df: Math.exp, edges: [nan, inf, 0, 1, 1, Math.exp(-2)] },
  log: { run: log, f: Math.log, df: (x) => 1 / x, positive: true, edges: [nan, inf, nan, -inf, -inf, nan] },
  sqrt: {
    ...{ run: sqrt, f: Math.sqrt, df: (x) => 0.5 / Math.sqrt(x), positive: true },
    edges: [nan, inf, nan, 0, 0, nan],
  },
  rsqrt: {
    ...{ run: rsqrt, f: (x) => 1 / Math.sqrt(x), df: (x) => -0.5 * x ** -1.5, positive: true },
    edges: [nan, 0, nan, inf, inf, nan],
  },
  abs: { run: abs, f: Math.abs, df: Math.sign, edges: [nan, inf, inf, 0, 0, 2] },
  neg: { run: neg, f: (x) => -x, df: () => -1, edges: [nan, -inf, inf, 0, 0, 2] },
  sigmoid: {
    ...{ run: sigmoid, f: logistic, df: (x) => logistic(x) * logistic(-x) },
    edges: [nan, 1, 0, 0.5, 0.5, logistic(-2)],
  },
  tanh: {
    ...{ run: tanh, f: Math.tanh, df: (x) => 1 - Math.tanh(x) ** 2 },
    edges: [nan, 1, -1, 0, 0, Math.tanh(-2)],
  },
  softplus: {
    ...{ run: softplus, f: (x) => Math.log1p(Math.exp(x)), df: logistic },
    edges: [nan, inf, 0, Math.LN2, Math.LN2, Math.log1p(Math.exp(-2))],
  },
  "softplus, beta 3": {
    ...{ run: (x) => softplus(x, { beta: 3, threshold: 5 }), df: (x) => (3 * x > 5 ? 1 : logistic(3 * x)) },
    ...{ f: (x) => (3 * x > 5 ? x : Math.log1p(Math.exp(3 * x)) / 3) },
    edges: [nan, inf, 0, Math.LN2 / 3, Math.LN2 / 3, Math.log1p(Math.exp(-6)) / 3],
  },
  "clamp from below": {
    ...{ run: (x) => clamp(x, -0.5), f: (x) => Math.max(x, -0.5), df: (x) => (x >= -0.5 ? 1 : 0) },
    edges: [nan, inf, -0.5, 0, 0, -0.5],
  },
  "clamp from above": {
    ...{ run: (x) => clamp(x, null, 0.75), f: (x) => Math.min(x, 0.75), df: (x) => (x <= 0.75 ? 1 : 0) },
    edges: [nan, 0.75, -inf, 0, 0, -2],
  },
  "clamp to zero and one": {
    run: (x) => clamp(x, 0, 1),
    ...{ f: (x) => Math.min(Math.max(x, 0), 1), df: (x) => (x >= 0 && x <= 1 ? 1 : 0) },
    edges: [nan, 1, 0, 0, 0, 0],
  },
  "pow 0": { run: (x) => pow(x, 0), f: () => 1, df: () => 0, edges: [1, 1, 1, 1, 1, 1] },
  "pow 1": { run: (x) => pow(x, 1), f: (x) => x, df: () => 1, edges: [nan, inf, -inf, 0, 0, -2] },
  "pow 2": { run: (x) => pow(x, 2), f: (x) => x * x, df: (x) => 2 * x, edges: [nan, inf, inf, 0, 0, 4] },
  "pow 3": {
    run: (x) => pow(x, 3),
    f: (x) => x ** 3,
    df: (x) => 3 * x * x,
    edges: [nan, inf, -inf, 0, 0, -8],
  },
  "pow 11": {
    ...{ run: (x) => pow(x, 11), f: (x) => x ** 11, df: (x) => 11 * x ** 10 },
    edges: [nan, inf, -inf, 0, 0, -2048],
  },
  "pow -1": {
    ...{ run: (x) => pow(x, -1), f: (x) => 1 / x, df: (x) => -1 / (x * x) },
    edges: [nan, 0, 0, inf, -inf, -0.5],
  },
  "pow -2": {
    ...{ run: (x) => pow(x, -2), f: (x) => x ** -2, df: (x) => -2 * x ** -3 },
    edges: [nan, 0, 0, inf, inf, 0.25],
  },
  "pow 1.5": {
    ...{ run: (x) => pow(x, 1.5), f: (x) => x ** 1.5, df: (x) => 1.5 * x ** 0.5, positive: true },
    edges: [nan, inf, inf, 0, 0, nan],
  },
  "pow -0.25": {
    ...{ run: (x) => pow(x, -0.25), f: (x) => x ** -0.25, df: (x) => -0.25 * x ** -1.25, positive: true },
    edges: [nan, 0, 0, inf, inf, nan],
  },
};

/** y, and dx for a random dy, of numbers in a row. */
async function both({ run }: Case, values: ArrayLike<number>, grad: ArrayLike<number>) {
  const gpu = await testGpu();
  const x = gpu.tensor(Float32Array.from(values), [values.length], { requiresGrad: true });
  const y = gpu.scope(() => run(x));
  const upstream = gpu.tensor(Float32Array.from(grad), [values.length]);
  y.backward(upstream);
  const result = { y: [...(await y.read())], dx: [...(await x.grad!.read())] };
  for (const tensor of [x, y, upstream]) tensor.dispose();
  return result;
}

describe("functions of one tensor", () => {
  it.each(Object.entries(cases))("%s agrees with float64", async (name, { run, f, df, positive }) => {
    await checkOp(
      [[], [1], [3, 5, 7], [2, 3, 3, 8]].map((shape, i) => {
        const data = normals(sizeOf(shape), 60 + i, 0, 1.2).map((v) => (positive ? Math.abs(v) + 0.05 : v));
        return {
          label: `${name} [${shape}]`,
          // Kinks are no place for finite differences.
          inputs: { x: { shape, data: data.map((v) => (Math.abs(v) < 0.05 ? v + 0.1 : v)) } },
          run: (t) => run(t.x!),
          reference: ({ x }) => x!.map(f),
          referenceGrad: ({ x }, grad) => ({ x: x!.map((v, j) => grad[j]! * df(v)) }),
        };
      }),
    );
  });

  it.each(Object.entries(cases))("%s gives what PyTorch does at the edges", async (_name, one) => {
    const { y, dx } = await both(one, [nan, inf, -inf, 0, -0, -2], [1, 1, 1, 1, 1, 1]);
    for (const [i, edge] of one.edges.entries()) {
      if (Number.isFinite(edge)) expect(y[i]! - edge, `${i}`).toBeCloseTo(0, 5);
      else expect(y[i], `${i}`).toBe(edge);
    }
    if (Number.isFinite(one.f(-2))) expect(dx[5]! / one.df(-2) || 0).toBeCloseTo(one.df(-2) === 0 ? 0 : 1, 5);
    // -NaN is NaN, too.
    const bits = new Float32Array(new Uint32Array([0xffc00000, 0x7f800001]).buffer);
    const nans = (await both(one, bits, [1, 1])).y;
    expect(nans).toEqual(one.edges[0] === 1 ? [1, 1] : [nan, nan]);
  });

  it("are accurate from small to large numbers", async () => {
    const count = 20_001;
    const range = (low: number, high: number) =>
      Float64Array.from({ length: count }, (_, i) => Math.fround(low + ((high - low) * i) / (count - 1)));
    const near = range(-1, 1).map((v) => Math.fround(v * 2 ** -((Math.abs(v) * 1e4) % 30)));
    const worst: [string, Float64Array, (x: number) => number][] = [
      ["exp", range(-80, 88.7), (x) => 1e-6 + 2.4e-7 * Math.abs(x)],
      ["log", range(1.5, 1e6), () => 1e-6],
      ["sqrt", range(1e-30, 1e30), () => 1e-6],
      ["rsqrt", range(1e-3, 1e20), () => 5e-7],
      ["sigmoid", range(-80, 80), (x) => 1e-6 + 2.4e-7 * Math.abs(x)],
      ["tanh", range(-30, 30), () => 2e-6],
      ["tanh", near, () => 5e-7],
      ["softplus", range(-60, 60), (x) => 1e-6 + 2.4e-7 * Math.abs(x)],
      ["pow 3", range(-1000, 1000), () => 5e-7],
      ["pow -2", range(1e-3, 1000), () => 1e-6],
    ];
    for (const [name, x, bound] of worst) {
      const { y } = await both(cases[name]!, x, normals(x.length, 3));
      for (let i = 0; i < x.length; i += 1) {
        const expected = cases[name]!.f(x[i]!);
        const error = Math.abs(y[i]! - expected);
        if (error > bound(x[i]!) * Math.abs(expected) + 1e-37) {
          expect.fail(
            `${name}(${x[i]}) is ${y[i]}, expected ${expected}: off by ${error / Math.abs(expected)}`,
          );
        }
      }
    }
    // Past float32's range, and into what it flushes.
    const { y } = await both(cases.exp!, [88.722, 88.73, 100, 1e30, -104, -1e30], normals(6, 4));
    expect(y[0]! / Math.exp(Math.fround(88.722))).toBeCloseTo(1, 4);
    expect(y.slice(1)).toEqual([inf, inf, inf, 0, 0]);
  });

  it("refuse what they can't take", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([1, 2], [2]);
    expect(() => softplus(x, { beta: 0 })).toThrow(/softplus: beta is 0; expected a number above 0/);
    expect(() => clamp(x, null)).toThrow(/clamp: min and max are null/);
    expect(() => clamp(x, 1e60)).toThrow(ShapeError);
    expect(() => pow(x, Number.NaN)).toThrow(/pow: exponent/);
    x.dispose();
  });
});
