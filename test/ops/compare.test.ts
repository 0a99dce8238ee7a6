import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { eq, ge, gt, le, lt, ne, where } from "../../src/ops/elementwise/compare.ts";
import { mul } from "../../src/ops/elementwise/elementwise.ts";
import { argmax } from "../../src/ops/reduce/extremes.ts";
import { sum } from "../../src/ops/reduce/reduce.ts";
import { type Shape, sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";
import { elementwise } from "../reference/elementwise.ts";

const functions = {
  eq: [eq, (x: number, y: number) => x === y],
  ne: [ne, (x: number, y: number) => x !== y],
  lt: [lt, (x: number, y: number) => x < y],
  le: [le, (x: number, y: number) => x <= y],
  gt: [gt, (x: number, y: number) => x > y],
  ge: [ge, (x: number, y: number) => x >= y],
} as const;

/** -2 … 2, so that many are equal. */
const wholes = (shape: Shape, seed: number) => ({
  shape,
  data: normals(sizeOf(shape), seed).map((v) => Math.max(-2, Math.min(2, Math.round(v)))),
});

const shapes: [Shape, Shape, Shape][] = [
  [[3, 3, 8], [8], [3, 3, 8]],
  [
    [2, 3, 5],
    [2, 1, 5],
    [2, 3, 5],
  ],
  [[3, 7], [], [3, 7]],
  [[5], [3, 5], [3, 5]],
  [
    [3, 1],
    [1, 5],
    [3, 5],
  ],
];

describe("comparisons", () => {
  for (const [name, [op, f]] of Object.entries(functions)) {
    it(`${name}: either smaller, both repeat, numbers`, async () => {
      // One of them in every way of finding b; all go through the same code for that.
      const some = name === "lt" ? shapes : shapes.slice(3, 4);
      const tensors = some.map(
        ([a, b, out], i): OpCase => ({
          label: `${name} [${a}] [${b}]`,
          inputs: { a: wholes(a, 20 + i), b: wholes(b, 30 + i) },
          differentiable: false,
          run: (t) => op(t.a!, t.b!),
          reference: (x) =>
            elementwise(
              out,
              [
                { data: x.a!, shape: a },
                { data: x.b!, shape: b },
              ],
              (p, q) => Number(f(p, q)),
            ),
        }),
      );
      const numbers = [0, -1].map(
        (b): OpCase => ({
          label: `${name} ${b}`,
          inputs: { a: wholes([3, 7], 40) },
          differentiable: false,
          run: (t) => op(t.a!, b),
          reference: (x) => x.a!.map((v) => Number(f(v, b))),
        }),
      );
      await checkOp([...tensors, ...numbers]);
    });
  }

  it("NaN, infinity and the two zeros are as in JavaScript, with tensors and with numbers", async () => {
    const gpu = await testGpu();
    const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
    const values = [nan, inf, -inf, 0, -0, 1, 3.4028234663852886e38];
    const pairs = values.flatMap((x) => values.map((y) => [x, y] as const));
    const a = gpu.tensor(
      pairs.map(([x]) => x),
      [pairs.length],
    );
    const b = gpu.tensor(
      pairs.map(([, y]) => y),
      [pairs.length],
    );
    for (const [name, [op, f]] of Object.entries(functions)) {
      const out = op(a, b);
      expect([...(await out.read())], name).toEqual(pairs.map(([x, y]) => Number(f(x, y))));
      out.dispose();
      for (const y of values) {
        const ofNumber = op(a, y);
        expect([...(await ofNumber.read())], `${name} ${y}`).toEqual(pairs.map(([x]) => Number(f(x, y))));
        ofNumber.dispose();
      }
    }
    for (const tensor of [a, b]) tensor.dispose();
  });

  it("of integers are exact, where float32 tells neighbours no more apart", async () => {
    const gpu = await testGpu();
    const values = [0, 1, 2, 77, 2 ** 24, 2 ** 24 + 1, 2 ** 31, 2 ** 32 - 2, 2 ** 32 - 1];
    const pairs = values.flatMap((x) => values.map((y) => [x, y] as const));
    const [a, b] = ([0, 1] as const).map((i) =>
      gpu.tensor(
        Uint32Array.from(pairs, (pair) => pair[i]),
        [9, 9],
        { dtype: "uint32" },
      ),
    ) as [Tensor, Tensor];
    for (const [name, [op, f]] of Object.entries(functions)) {
      const results = [op(a, b), op(a, 2 ** 24), op(a, 2 ** 32 - 1)];
      const expected = [
        pairs.map(([x, y]) => Number(f(x, y))),
        pairs.map(([x]) => Number(f(x, 2 ** 24))),
        pairs.map(([x]) => Number(f(x, 2 ** 32 - 1))),
      ];
      for (const [i, result] of results.entries()) {
        expect(result.shape).toEqual([9, 9]);
        expect([...(await result.read())], `${name} ${i}`).toEqual(expected[i]);
        result.dispose();
      }
    }
    for (const tensor of [a, b]) tensor.dispose();
  });

  it("tell how many predictions are right", async () => {
    const gpu = await testGpu();
    const right = gpu.scope(() => {
      const logits = gpu.tensor([1, 3, 2, 5, 0, 4, 0, 1, 9], [3, 3]);
      const labels = gpu.tensor([1, 0, 1], [3], { dtype: "uint32" });
      return sum(eq(argmax(logits, 1), labels));
    });
    expect(await right.item()).toBe(2);
    right.dispose();
  });

  it("are constants to the graph, and masks to other ops", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([-2, 0.5, 3], [3], { requiresGrad: true });
    const dy = gpu.tensor([5, 7, 11], [3]);
    const mask = gt(x, 0);
    expect(mask.requiresGrad).toBe(false);
    const y = mul(x, mask);
    expect([...(await y.read())].map((v) => v + 0)).toEqual([0, 0.5, 3]);
    y.backward(dy);
    expect([...(await x.grad!.read())]).toEqual([0, 7, 11]);
    for (const tensor of [x, dy, mask, y]) tensor.dispose();
  });

  it("say what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      expect(() => lt(gpu.zeros([3]), gpu.zeros([4]))).toThrow(ShapeError);
      expect(() => lt(gpu.zeros([3]), gpu.zeros([4]))).toThrow("lt: a is [3], b is [4]");
      expect(() => ge(gpu.zeros([3]), "1" as never)).toThrow('ge: b is "1"; expected a number, or a Tensor');
      const integers = gpu.zeros([3], { dtype: "uint32" });
      expect(() => eq(integers, gpu.zeros([3]))).toThrow("eq: b is float32; expected uint32");
      expect(() => eq(gpu.zeros([3]), integers)).toThrow("eq: b is uint32; expected float32");
      expect(() => ne(integers, gpu.zeros([1], { dtype: "uint32" }))).toThrow(
        "ne: a is [3], b is [1], both uint32; expected equal shapes of integers",
      );
      for (const b of [0.5, -1, 2 ** 32, Number.NaN, null as never]) {
        expect(() => lt(integers, b)).toThrow(
          /lt: b is .*, a is uint32; expected a Tensor of uint32, or an integer/,
        );
      }
    });
  });
});

describe("where", () => {
  it("takes numbers, in place of either", async () => {
    const inputs = { a: { shape: [3, 5], data: normals(15, 60) } };
    await checkOp(
      (
        [
          [(x) => where(gt(x, 0), x, -2), (v) => (v > 0 ? v : -2)],
          [(x) => where(gt(x, 0), 0.5, mul(x, x)), (v) => (v > 0 ? 0.5 : v * v)],
        ] as [(x: Tensor) => Tensor, (v: number) => number][]
      ).map(
        ([run, f], i): OpCase => ({
          ...{ label: `where ${i}`, inputs, run: (t) => run(t.a!) },
          reference: (x) => x.a!.map(f),
        }),
      ),
    );
    const gpu = await testGpu();
    const condition = gpu.tensor([1, 0, 1], [3]);
    const chosen = where(condition, 3, -0.5);
    expect([...(await chosen.read())]).toEqual([3, -0.5, 3]);
    for (const tensor of [condition, chosen]) tensor.dispose();
  });

  it("each of the three may repeat", async () => {
    const cases: [Shape, Shape, Shape, Shape][] = [
      [
        [3, 7],
        [3, 7],
        [3, 7],
        [3, 7],
      ],
      [[2, 3, 4], [4], [], [2, 3, 4]],
      [[3, 1], [5], [3, 5], [3, 5]],
      [[5], [2, 1, 1], [3, 1], [2, 3, 5]],
      [[], [3], [2, 1], [2, 3]],
    ];
    await checkOp(
      cases.map(([condition, a, b, out], i) => {
        const gate = wholes(condition, 50 + i);
        return {
          label: `[${condition}] [${a}] [${b}]`,
          inputs: { a, b },
          run: ({ a, b }) => where(a!.gpu.tensor(gate.data, condition), a!, b!),
          reference: (x) =>
            elementwise(
              out,
              [
                { data: gate.data, shape: condition },
                { data: x.a!, shape: a },
                { data: x.b!, shape: b },
              ],
              (c, p, q) => (c === 0 ? q : p),
            ),
        };
      }),
    );
  });

  it("takes NaN and the smallest numbers for true, and lets nothing of the other branch through", async () => {
    const gpu = await testGpu();
    const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
    const condition = gpu.tensor([nan, 2 ** -149, -0, 0, 1], [5], { requiresGrad: true });
    const a = gpu.tensor([1, 2, nan, inf, 5], [5], { requiresGrad: true });
    const b = gpu.tensor([nan, inf, 3, 4, -inf], [5], { requiresGrad: true });
    const dy = gpu.tensor([nan, inf, nan, inf, 2], [5]);
    const y = where(condition, a, b);
    expect([...(await y.read())]).toEqual([1, 2, 3, 4, 5]);
    y.backward(dy);
    expect([...(await a.grad!.read())]).toEqual([nan, inf, 0, 0, 2]);
    expect([...(await b.grad!.read())]).toEqual([0, 0, nan, inf, 0]);
    expect(condition.grad).toBe(null);
    for (const tensor of [condition, a, b, dy, y]) tensor.dispose();
  });

  it("says what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const [three, four] = [gpu.zeros([3]), gpu.zeros([4])];
      expect(() => where(three, three, four)).toThrow("where: a is [3], b is [4]");
      expect(() => where(four, three, three)).toThrow("where: condition is [4], a with b is [3]");
      expect(() => where(gpu.zeros([3], { dtype: "uint32" }), three, three)).toThrow(
        "where: condition is uint32; expected float32",
      );
    });
  });
});
