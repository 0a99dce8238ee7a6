import { describe, expect, it } from "vitest";
import { argmax, argmin, max, min } from "../../src/ops/reduce/extremes.ts";
import { type Shape, sizeOf } from "../../src/tensor/shape.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { withChoices } from "../helpers/choices.ts";
import { testGpu } from "../helpers/gpu.ts";
import { generator, normals } from "../helpers/numbers.ts";
import { reduceReference, reductionGroups } from "../reference/elementwise.ts";

/** A shuffled ladder: no two elements are near each other, so that finite differences do not cross. */
function ladder(shape: Shape, seed: number): Float64Array {
  const next = generator(seed);
  const steps = Float64Array.from({ length: sizeOf(shape) }, (_, i) => (i - sizeOf(shape) / 2) / 64);
  for (let i = steps.length - 1; i > 0; i -= 1) {
    const j = Math.floor(next() * (i + 1));
    [steps[i], steps[j]] = [steps[j]!, steps[i]!];
  }
  return steps;
}

const reductions: [string, Shape, number[] | undefined][] = [
  ["one value", [1], [0]],
  ["a scalar", [], undefined],
  ["everything", [3, 5, 7], undefined],
  ["more than a lane searches", [1031], [0]],
  ["more than a lane searches, in columns", [2, 517, 3], [1]],
  ["pixels", [2, 3, 5, 4], [1, 2]],
  ["channels", [2, 3, 7], [-1]],
  ["NCHW channels", [2, 3, 4, 5], [0, 2, 3]],
  ["three groups", [2, 3, 2, 3, 2], [0, 2, 4]],
  ["an axis of size 1", [4, 1, 3], [1]],
];
const families = ["software", "hardware"] as const;

describe("max, min", () => {
  for (const [label, shape, axes] of reductions) {
    it(`${label}`, async () => {
      const gpu = await testGpu();
      const all = axes ?? shape.map((_, axis) => axis);
      const cases = [
        { op: max, pick: Math.max },
        { op: min, pick: Math.min },
      ].map(
        ({ op, pick }, i): OpCase => ({
          label: `${op.name} ${label}`,
          inputs: { x: { shape, data: ladder(shape, 7 + i) } },
          run: (t) => op(t.x!, axes, { keepDims: i === 1 }),
          reference: ({ x }) => reduceReference(x!, shape, all, (values) => pick(...values)),
        }),
      );
      for (const family of families) {
        await withChoices(gpu, { family, folding: "none", seed: 1 }, () => checkOp(cases));
      }
    });
  }

  it("keepDims keeps reduced axes with size 1", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.tensor(normals(24, 1), [2, 3, 4]);
      expect(max(x, [0, -1], { keepDims: true }).shape).toEqual([1, 3, 1]);
      expect(min(x, [1]).shape).toEqual([2, 4]);
      expect(max(x, 1).shape).toEqual([2, 4]);
      expect(min(x, -1).shape).toEqual([2, 3]);
      expect(max(x, undefined, { keepDims: true }).shape).toEqual([1, 1, 1]);
      expect(argmax(x, 1, { keepDims: true }).shape).toEqual([2, 1, 4]);
      expect(argmin(x, null, { keepDims: true }).shape).toEqual([1, 1, 1]);
      expect(argmin(x).shape).toEqual([]);
    });
  });

  it("equal elements share the gradient equally", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([3, 1, 3, 2, 2, 2, 0, -0, -1], [3, 3], { requiresGrad: true });
    const dy = gpu.tensor([5, 6, 7], [3]);
    const y = max(x, [1]);
    y.backward(dy);
    expect([...(await x.grad!.read())]).toEqual([2.5, 0, 2.5, 2, 2, 2, 3.5, 3.5, 0]);
    for (const tensor of [x, dy, y]) tensor.dispose();
  });
});

describe("argmax, argmin", () => {
  const places: [Shape, number | null][] = [
    [[1], 0],
    [[], null],
    [[5, 7], 1],
    [[5, 7], 0],
    [[3, 4, 5], -2],
    [[3, 4, 5], null],
    [[3, 1025], 1],
    [[2, 700, 3], 1],
    [[70000], null],
    [[64 * 64 + 3, 2], 1], // more results than one step of a software adapter's grid
  ];
  for (const family of families) {
    it.each(places)(`${family}: %j along %j, with ties`, async (shape, axis) => {
      const gpu = await testGpu();
      const data = normals(sizeOf(shape), 3, 0, 2).map((v) => Math.round(v));
      const groups = reductionGroups(shape, axis === null ? shape.map((_, i) => i) : [axis]);
      const places = (pick: (...values: number[]) => number) =>
        groups.map((group) => {
          const values = group.map((i) => data[i]!);
          const best = values.reduce((a, b) => pick(a, b));
          return values.indexOf(best);
        });
      await withChoices(gpu, { family, folding: "none", seed: 1 }, async () => {
        const x = gpu.tensor(data, shape, { requiresGrad: true });
        for (const [op, pick] of [
          [argmax, Math.max],
          [argmin, Math.min],
        ] as const) {
          const out = op(x, axis);
          expect(out.dtype).toBe("uint32");
          expect(out.requiresGrad).toBe(false);
          expect([...(await out.read())]).toEqual(places(pick));
          out.dispose();
        }
        x.dispose();
      });
    });
  }

  it("NaN wins, the two zeros are equal, infinity and the smallest numbers are told apart", async () => {
    const gpu = await testGpu();
    const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
    const rows = [
      [1, nan, inf, nan],
      [-inf, -3e38, -inf, -1],
      [-0, 0, -0, 0],
      [0, 2 ** -149, -(2 ** -149), 0],
      [inf, 3e38, inf, 1],
    ];
    const x = gpu.tensor(rows.flat(), [5, 4]);
    const results = [argmax(x, 1), argmin(x, 1), max(x, [1]), min(x, [1])];
    expect([...(await results[0]!.read())]).toEqual([1, 3, 0, 1, 0]);
    expect([...(await results[1]!.read())]).toEqual([1, 0, 0, 2, 3]);
    expect([...(await results[2]!.read())].map((v) => v + 0)).toEqual([nan, -1, 0, 2 ** -149, inf]);
    expect([...(await results[3]!.read())].map((v) => v + 0)).toEqual([nan, -inf, 0, -(2 ** -149), 1]);
    for (const tensor of [x, ...results]) tensor.dispose();
  });

  it("say what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([2, 3]);
      expect(() => max(x, [2])).toThrow("max: axis 2 is outside a tensor of rank 2; expected -2 to 1");
      expect(() => min(x, [])).toThrow("min: axes is []; expected at least one axis");
      expect(() => argmax(x, [1] as never)).toThrow(
        "argmax: axis is [1]; expected an integer, or null for the place among all elements of x",
      );
      expect(() => argmin(x, 5)).toThrow("argmin: axis 5 is outside a tensor of rank 2");
      expect(() => max(gpu.zeros([3], { dtype: "uint32" }))).toThrow("max: x is uint32; expected float32");
    });
  });
});
