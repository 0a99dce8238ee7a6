import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { relu } from "../../src/ops/activations.ts";
import {
  add,
  div,
  expand,
  maximum,
  minimum,
  mul,
  normalize,
  scale,
  sub,
} from "../../src/ops/elementwise/elementwise.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";
import { elementwise, sumTo } from "../reference/elementwise.ts";

type Shape = readonly number[];

/** Each way a kernel finds its broadcast operand, and sizes around their edges. */
const pairs: [string, Shape, Shape][] = [
  ["one value", [1], [1]],
  ["same shape, prime size", [3, 5, 7], [3, 5, 7]],
  ["channels, power of two", [2, 3, 3, 8], [8]],
  ["channels, other multiple of 4", [2, 3, 2, 12], [12]],
  ["channels, odd", [2, 3, 2, 5], [5]],
  ["one channel", [2, 3, 3, 1], [1]],
  ["scalar []", [3, 7], []],
  ["per sample and channel", [3, 2, 2, 4], [3, 1, 1, 4]],
  ["per sample", [3, 2, 2, 3], [3, 1, 1, 1]],
  ["per sample, ragged", [3, 5], [3, 1]],
  ["NCHW channels", [2, 3, 4, 5], [1, 3, 1, 1]],
  ["alternating axes", [3, 2, 4, 3, 5], [3, 1, 4, 1, 5]],
  ["more alternating axes", [2, 3, 4, 2, 3, 2, 5], [1, 3, 1, 2, 1, 2, 1]],
];

function binaryCase(
  name: string,
  op: (a: Tensor, b: Tensor) => Tensor,
  f: (a: number, b: number) => number,
  a: Shape,
  b: Shape,
  out: Shape,
): OpCase {
  return {
    label: `${name} [${a}] [${b}]`,
    inputs: { a, b },
    run: (t) => op(t.a!, t.b!),
    reference: (x) =>
      elementwise(
        out,
        [
          { data: x.a!, shape: a },
          { data: x.b!, shape: b },
        ],
        f,
      ),
    variants: { reduce: ["lanes", "tree"] },
  };
}

describe("elementwise", () => {
  for (const [label, a, b] of pairs) {
    it(`add, sub, mul: ${label}`, async () => {
      await checkOp([
        binaryCase("add", add, (x, y) => x + y, a, b, a),
        binaryCase("sub", sub, (x, y) => x - y, a, b, a),
        binaryCase("mul", mul, (x, y) => x * y, a, b, a),
      ]);
    });
  }

  for (const [label, a, b] of pairs) {
    it(`div, maximum, minimum: ${label}`, async () => {
      const apart = (shape: Shape, seed: number) => ({
        shape,
        data: normals(sizeOf(shape), seed).map((v) => v + 0.4 * (Math.sign(v) || 1)),
      });
      await checkOp(
        [
          binaryCase("div", div, (x, y) => x / y, a, b, a),
          binaryCase(
            "div, reversed",
            (x, y) => div(y, x),
            (x, y) => y / x,
            a,
            b,
            a,
          ),
          binaryCase("maximum", maximum, Math.max, a, b, a),
          binaryCase("minimum, reversed", (x, y) => minimum(y, x), Math.min, a, b, a),
        ].map((one, i) => ({ ...one, inputs: { a: apart(a, 80 + i), b: apart(b, 90 + i) } })),
      );
    });
  }

  it("divides, and takes the larger and the smaller, where both repeat; as PyTorch at the edges", async () => {
    const [a, b, out] = [
      [3, 1],
      [1, 5],
      [3, 5],
    ] as const;
    const inputs = {
      a: { shape: a, data: Float64Array.of(1, -2, 0.5) },
      b: { shape: b, data: Float64Array.of(2, -1.5, 0.75, -4, 3) },
    };
    await checkOp(
      [
        binaryCase("div", div, (x, y) => x / y, a, b, out),
        binaryCase("maximum", maximum, Math.max, a, b, out),
        binaryCase("minimum", minimum, Math.min, a, b, out),
      ].map((one) => ({ ...one, inputs })),
    );
    const gpu = await testGpu();
    const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
    const x = gpu.tensor([nan, 1, inf, -inf, 2, 2], [6], { requiresGrad: true });
    const y = gpu.tensor([1, nan, 5, 5, 2, 3], [6], { requiresGrad: true });
    const upstream = gpu.tensor([1, 2, 3, 4, 5, 6], [6]);
    for (const [op, values, dx] of [
      [maximum, [nan, nan, inf, 5, 2, 3], [3, 0, 2.5, 0]],
      [minimum, [nan, nan, 5, -inf, 2, 2], [0, 4, 2.5, 6]],
    ] as const) {
      const z = op(x, y);
      expect([...(await z.read())]).toEqual(values);
      z.backward(upstream);
      expect([...(await x.grad!.read())].slice(2)).toEqual(dx);
      expect([...(await y.grad!.read())].slice(2)).toEqual(dx.map((v, i) => i + 3 - v));
      for (const leaf of [x, y]) leaf.zeroGrad();
      z.dispose();
    }
    for (const tensor of [x, y, upstream]) tensor.dispose();
  });

  it("takes a number on either side, in one pass and with a gradient", async () => {
    const gpu = await testGpu();
    const data = normals(21, 70).map((v) => v + 0.4 * (Math.sign(v) || 1));
    const ofNumber = (label: string, run: (x: Tensor) => Tensor, f: (x: number) => number): OpCase => ({
      label,
      inputs: { x: { shape: [3, 7], data } },
      run: (t) => run(t.x!),
      reference: ({ x }) => x!.map(f),
    });
    const ops = { add, sub, mul, div, maximum, minimum };
    const references: Record<keyof typeof ops, (x: number, y: number) => number> = {
      ...{ add: (x, y) => x + y, sub: (x, y) => x - y, mul: (x, y) => x * y, div: (x, y) => x / y },
      ...{ maximum: Math.max, minimum: Math.min },
    };
    const numbers = [-1.25, 0.375];
    await checkOp(
      Object.entries(ops).flatMap(([name, op]) => {
        const f = references[name as keyof typeof ops];
        return numbers.flatMap((number) => [
          ofNumber(
            `${name}(x, ${number})`,
            (x) => op(x, number),
            (x) => f(x, number),
          ),
          ofNumber(
            `${name}(${number}, x)`,
            (x) => op(number, x),
            (x) => f(number, x),
          ),
        ]);
      }),
    );
    const x = gpu.tensor([-1, 2, 2, 5], [4], { requiresGrad: true });
    const upstream = gpu.tensor([3, 5, 7, 11], [4]);
    for (const [op, gradient] of [
      [maximum, [0, 2.5, 3.5, 11]],
      [minimum, [3, 2.5, 3.5, 0]],
    ] as const) {
      const y = op(2, x); // of equal ones each gets half
      y.backward(upstream);
      expect([...(await x.grad!.read())]).toEqual(gradient);
      x.zeroGrad();
      y.dispose();
    }
    // As many passes as `scale` has, which is written for a number.
    const counts = [() => scale(x, 3), () => mul(x, 3), () => div(3, x)].map((run) => {
      const { dispatches } = gpu.stats;
      run().materialize().dispose();
      return gpu.stats.dispatches - dispatches;
    });
    expect(counts).toEqual(Array(3).fill(counts[0]));
    expect(() => add(1, 2)).toThrow("add: a is 1; expected a Tensor");
    expect(() => mul(x, "2" as never)).toThrow('mul: b is "2"; expected a Tensor');
    for (const tensor of [x, upstream]) tensor.dispose();
  });

  it("takes the smaller input first, or two that both repeat", async () => {
    await checkOp([
      binaryCase("add", add, (x, y) => x + y, [4], [2, 3, 4], [2, 3, 4]),
      binaryCase("sub", sub, (x, y) => x - y, [4], [2, 3, 4], [2, 3, 4]),
      binaryCase("mul", mul, (x, y) => x * y, [3, 1], [2, 3, 4], [2, 3, 4]),
      binaryCase("sub", sub, (x, y) => x - y, [3, 1], [1, 5], [3, 5]),
      binaryCase("mul", mul, (x, y) => x * y, [2, 1, 4], [3, 1], [2, 3, 4]),
    ]);
  });

  it("uses one tensor twice", async () => {
    await checkOp([
      {
        label: "x + x",
        inputs: { x: [3, 5] },
        run: (t) => add(t.x!, t.x!),
        reference: ({ x }) => x!.map((v) => 2 * v),
      },
      {
        label: "x · x",
        inputs: { x: [3, 5] },
        run: (t) => mul(t.x!, t.x!),
        reference: ({ x }) => x!.map((v) => v * v),
      },
      {
        label: "x − x",
        inputs: { x: [3, 5] },
        run: (t) => sub(t.x!, t.x!),
        reference: ({ x }) => x!.map(() => 0),
      },
    ]);
  });

  it("relu", async () => {
    await checkOp(
      [[1], [4, 7], [3, 5, 7], [2, 3, 3, 8]].map((shape) => ({
        label: `relu [${shape}]`,
        inputs: { x: shape },
        run: (t) => relu(t.x!),
        reference: ({ x }) => x!.map((v) => Math.max(v, 0)),
      })),
    );
  });

  it("relu: gradient 0 at 0, NaN and infinity pass", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor(
      [0, -0, Number.NaN, -1, 2, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
      [7],
      {
        requiresGrad: true,
      },
    );
    const y = relu(x);
    expect([...(await y.read())].map((v) => v + 0)).toEqual([
      0,
      0,
      Number.NaN,
      0,
      2,
      Number.POSITIVE_INFINITY,
      0,
    ]);
    const ones = gpu.full([7], 1);
    y.backward(ones);
    const dx = [...(await x.grad!.read())];
    expect(dx.filter((_, i) => i !== 2)).toEqual([0, 0, 0, 1, 1, 0]);
    for (const tensor of [x, y, ones]) tensor.dispose();
  });

  it("relu: every NaN passes, of either sign and with any bits, and no infinity is taken for one", async () => {
    const gpu = await testGpu();
    const patterns = [0x7f800001, 0xff800001, 0x7fc00000, 0xffc00000, 0xffffffff, 0xff800000, 0xff7fffff, 1];
    const x = gpu.tensor(new Float32Array(Uint32Array.from(patterns).buffer), [patterns.length]);
    const y = relu(x);
    expect([...(await y.read())].map((v) => v + 0)).toEqual([NaN, NaN, NaN, NaN, NaN, 0, 0, 2 ** -149]);
    x.dispose();
    y.dispose();
  });

  it("scale by a number, by channels", async () => {
    await checkOp([
      {
        label: "number",
        inputs: { x: [3, 5, 7] },
        run: (t) => scale(t.x!, -2.5),
        reference: ({ x }) => x!.map((v) => -2.5 * v),
      },
      binaryCase("scale", scale, (x, y) => x * y, [2, 3, 3, 6], [6], [2, 3, 3, 6]),
    ]);
  });

  it("expand", async () => {
    const shapes: [Shape, Shape][] = [
      [[4], [2, 3, 4]],
      [
        [3, 1],
        [3, 5],
      ],
      [[1], [7]],
      [
        [2, 1, 3],
        [2, 2, 3],
      ],
      [[5], [5]],
    ];
    await checkOp(
      shapes.map(([x, to]) => ({
        label: `[${x}] to [${to}]`,
        inputs: { x },
        run: (t) => expand(t.x!, to),
        reference: (v) => elementwise(to, [{ data: v.x!, shape: x }], (a) => a),
      })),
    );
  });

  for (const [shape, statistics] of [
    [[2, 3, 3, 8], [8]],
    [[3, 2, 2, 5], [5]],
    [[1, 1, 1, 1], [1]],
    [
      [3, 2, 2, 4],
      [3, 1, 1, 4],
    ],
    [
      [4, 6],
      [4, 1],
    ],
    [
      [2, 3, 4, 5],
      [1, 3, 1, 1],
    ],
  ] as [Shape, Shape][]) {
    it(`normalize [${shape}] by [${statistics}]`, async () => {
      const size = sizeOf(statistics);
      const variance = { shape: statistics, data: normals(size, 5).map((v) => 0.2 + v * v) };
      await checkOp({
        label: "normalize",
        inputs: { x: shape, mean: statistics, variance },
        run: (t) => normalize(t.x!, t.mean!, t.variance!, 1e-3),
        reference: (a) =>
          elementwise(
            shape,
            [
              { data: a.x!, shape },
              { data: a.mean!, shape: statistics },
              { data: a.variance!, shape: statistics },
            ],
            (x, m, v) => (x - m) / Math.sqrt(v + 1e-3),
          ),
        variants: { reduce: ["lanes", "tree"] },
      });
    });
  }

  it("more elements than a software adapter has invocations, whose loops go round again", async () => {
    const [rows, channels] = [2, 16_500];
    const shape = [rows, channels];
    const statistics = [channels];
    const variance = { shape: statistics, data: normals(channels, 5).map((v) => 0.2 + v * v) };
    const eps = 1e-3;
    await checkOp([
      { ...binaryCase("sub", sub, (x, y) => x - y, shape, shape, shape), differentiable: false },
      {
        label: "normalize",
        inputs: { x: shape, mean: statistics, variance },
        run: (t) => normalize(t.x!, t.mean!, t.variance!, eps),
        reference: ({ x, mean, variance: v }) =>
          x!.map((value, i) => (value - mean![i % channels]!) / Math.sqrt(v![i % channels]! + eps)),
        referenceGrad: ({ x, mean, variance: v }, dy) => {
          const scales = v!.map((value) => 1 / Math.sqrt(value + eps));
          const sums = (of: (i: number) => number) => {
            const total = new Float64Array(channels);
            for (let i = 0; i < rows * channels; i += 1) total[i % channels]! += of(i);
            return total;
          };
          return {
            x: dy.map((value, i) => value * scales[i % channels]!),
            mean: sums((i) => -dy[i]! * scales[i % channels]!),
            variance: sums(
              (i) => -0.5 * dy[i]! * (x![i]! - mean![i % channels]!) * scales[i % channels]! ** 3,
            ),
          };
        },
        variants: { reduce: ["lanes", "tree"] },
      },
    ]);
  });

  it("sizes past 65,535 workgroups, in each reading mode", async () => {
    // Kernels loop over the grid, which has at most 16,384 workgroups: what is tested is that none is left out.
    const rows = 2 ** 16 + 3;
    const big: [Shape, Shape][] = [
      [[rows, 16], [16]],
      [[rows, 12], [12]],
      [[rows, 5], [5]],
      [
        [rows, 8],
        [rows, 1],
      ],
    ];
    await checkOp(
      big.map(([a, b]) => ({
        ...binaryCase("mul", mul, (x, y) => x * y, a, b, a),
        // Central differences of sums over 10⁵ elements cost minutes: their own gradient is as simple as the op.
        differentiable: false,
      })),
    );
  });

  it("gradients of large broadcasts", async () => {
    const shape = [2 ** 16 + 3, 4];
    const gpu = await testGpu();
    const x = normals(sizeOf(shape), 1);
    const dy = normals(sizeOf(shape), 2);
    const expected = sumTo(
      x.map((v, i) => v * dy[i]!),
      shape,
      [4],
    );
    const before = gpu.stats.liveBuffers;
    for (const variant of ["lanes", "tree"]) {
      gpu.variants.force("reduce", variant);
      const b = gpu.full([4], 1, { requiresGrad: true });
      const tensors = [gpu.tensor(x, shape), gpu.tensor(dy, shape)];
      const y = mul(tensors[0]!, b);
      y.backward(tensors[1]);
      const actual = await b.grad!.read();
      for (let i = 0; i < 4; i += 1) expect(Math.abs(actual[i]! - expected[i]!)).toBeLessThan(1e-5 * 300);
      for (const tensor of [b, y, ...tensors]) tensor.dispose();
      gpu.variants.force("reduce", null);
    }
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([2, 3, 4]);
      const c = gpu.zeros([3]);
      expect(() => add(x, c)).toThrow(ShapeError);
      expect(() => add(x, c)).toThrow(
        "add: a is [2, 3, 4], b is [3]; expected sizes, counted from the last axis, to be equal or 1",
      );
      expect(() => mul(x, gpu.zeros([5, 1, 1]))).toThrow("mul: a is [2, 3, 4], b is [5, 1, 1]");
      expect(() => scale(x, c)).toThrow("scale: factor is [3], the other input [2, 3, 4]");
      expect(() => scale(x, Number.NaN)).toThrow("scale: factor is NaN; expected a finite number");
      expect(() => expand(x, [3, 4])).toThrow("expand: x is [2, 3, 4], the other input [3, 4]");
      expect(() => normalize(x, gpu.zeros([4]), gpu.zeros([1]))).toThrow(
        "normalize: mean is [4], variance [1]",
      );
      expect(() => normalize(x, c, c)).toThrow("normalize: mean is [3]");
      expect(() => normalize(x, gpu.zeros([4]), gpu.zeros([4]), -1)).toThrow("normalize: eps is -1");
      expect(() => relu(gpu.empty([2], "uint32"))).toThrow("relu: x is uint32; expected float32");
    });
  });
});
