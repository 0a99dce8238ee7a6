import { describe, expect, it } from "vitest";
import { type InterpolateOptions, interpolate } from "../../src/ops/interpolate.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { interpolateReference } from "../reference/interpolate.ts";

type Shape4 = readonly [number, number, number, number];

const cases: [Shape4, InterpolateOptions][] = [
  [[2, 3, 4, 4], { scaleFactor: 2 }],
  [[1, 3, 5, 3], { scaleFactor: [3, 2] }],
  [[1, 5, 7, 2], { size: [7, 3] }],
  [[2, 7, 6, 1], { scaleFactor: [1.7, 0.6] }],
  [[1, 1, 1, 5], { size: 4 }],
];

function caseOf(shape: Shape4, options: InterpolateOptions): OpCase {
  const { size, scaleFactor, mode = "nearest", alignCorners = false } = options;
  const both = (v: number | readonly [number, number]) => (typeof v === "number" ? ([v, v] as const) : v);
  const factor = scaleFactor === undefined ? null : both(scaleFactor);
  const out = factor
    ? ([Math.floor(shape[1] * factor[0]), Math.floor(shape[2] * factor[1])] as const)
    : both(size!);
  return {
    label: `[${shape}] ${JSON.stringify(options)}`,
    inputs: { x: shape },
    run: (t) => interpolate(t.x!, options),
    reference: ({ x }) => interpolateReference(x!, shape, { mode, alignCorners, size: out, factor }),
    tolerance: { forward: 1e-5 },
  };
}

const all = cases.flatMap(([shape, options]) => [
  caseOf(shape, options),
  caseOf(shape, { ...options, mode: "bilinear" }),
  caseOf(shape, { ...options, mode: "bilinear", alignCorners: true }),
]);

describe("interpolate", () => {
  it.each(["software", "hardware"])(
    "%s: sizes and factors, up and down, nearest and bilinear",
    async (family) => {
      const gpu = await testGpu();
      const info = gpu.info as { class: string };
      const outer = info.class;
      info.class = family;
      try {
        await checkOp(all);
      } finally {
        info.class = outer;
      }
    },
  );

  it("more elements than one step of the grid, to a size that is no multiple", async () => {
    await checkOp([
      caseOf([2, 17, 19, 24], { size: [40, 37], mode: "bilinear" }),
      caseOf([2, 40, 37, 24], { size: [17, 19] }),
    ]);
  });

  it("is PyTorch's numbers for a row of 4 at twice the size", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([1, 2, 3, 4], [1, 1, 4, 1]);
    const results = [
      interpolate(x, { scaleFactor: [1, 2] }),
      interpolate(x, { scaleFactor: [1, 2], mode: "bilinear" }),
      interpolate(x, { size: [1, 7], mode: "bilinear", alignCorners: true }),
    ];
    expect([...(await results[0]!.read())]).toEqual([1, 1, 2, 2, 3, 3, 4, 4]);
    expect([...(await results[1]!.read())]).toEqual([1, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4]);
    expect([...(await results[2]!.read())]).toEqual([1, 1.5, 2, 2.5, 3, 3.5, 4]);
    for (const tensor of [x, ...results]) tensor.dispose();
  });

  it("says what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([1, 3, 4, 2]);
      const call = (options: object) => () => interpolate(x, options as InterpolateOptions);
      expect(() => interpolate(gpu.zeros([3, 4]), { size: 2 })).toThrow("interpolate: x has rank 2");
      expect(call({})).toThrow("interpolate: neither size nor scaleFactor is given");
      expect(call({ size: 2, scaleFactor: 2 })).toThrow("size and scaleFactor are given (scaleFactor is 2)");
      expect(call({ size: 0 })).toThrow("size is 0; expected an integer from 1");
      expect(call({ scaleFactor: -1 })).toThrow("scaleFactor is -1; expected a number from");
      expect(call({ scaleFactor: 0.1 })).toThrow("scaleFactor 0.1: 0 pixels of 3; expected 1 to");
      expect(call({ size: 2, mode: "cubic" })).toThrow('mode is "cubic"; expected "nearest" or "bilinear"');
      expect(call({ size: 2, alignCorners: true })).toThrow('alignCorners is true, mode "nearest"');
    });
  });
});
