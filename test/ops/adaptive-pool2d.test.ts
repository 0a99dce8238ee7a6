import { describe, expect, it } from "vitest";
import { adaptiveAvgPool2d } from "../../src/ops/adaptive-pool2d.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { withChoices } from "../helpers/choices.ts";
import { testGpu } from "../helpers/gpu.ts";
import { adaptiveAvgPool2dReference } from "../reference/pool2d.ts";

type Shape4 = readonly [number, number, number, number];

const cases: [Shape4, readonly [number, number]][] = [
  [
    [2, 6, 8, 4],
    [3, 2],
  ],
  [
    [2, 6, 8, 3],
    [1, 1],
  ],
  [
    [1, 7, 5, 3],
    [3, 2],
  ],
  [
    [2, 7, 9, 4],
    [7, 4],
  ],
  [
    [1, 3, 2, 5],
    [5, 7],
  ],
  [
    [1, 13, 1, 1],
    [6, 1],
  ],
  [
    [1, 4, 6, 2],
    [3, 6],
  ],
];

describe("adaptiveAvgPool2d", () => {
  it.each(cases)("[%s] to [%s]", async (shape, size) => {
    const gpu = await testGpu();
    const one: OpCase = {
      label: `[${shape}] to [${size}]`,
      inputs: { x: shape },
      run: (t) => adaptiveAvgPool2d(t.x!, size),
      reference: ({ x }) => adaptiveAvgPool2dReference(x!, shape, size),
    };
    for (const family of ["software", "hardware"] as const) {
      await withChoices(gpu, { family, folding: "none", seed: 1 }, () => checkOp(one));
    }
  });

  it("more elements than one step of the grid, a number for both, null for the input's own", async () => {
    const gpu = await testGpu();
    await checkOp({
      label: "large",
      inputs: { x: [3, 33, 31, 64] },
      run: (t) => adaptiveAvgPool2d(t.x!, 7),
      reference: ({ x }) => adaptiveAvgPool2dReference(x!, [3, 33, 31, 64], [7, 7]),
    });
    gpu.scope(() => {
      const x = gpu.zeros([1, 5, 6, 2]);
      expect(adaptiveAvgPool2d(x, [null, 4]).shape).toEqual([1, 5, 4, 2]);
      expect(adaptiveAvgPool2d(x, [2, null]).shape).toEqual([1, 2, 6, 2]);
    });
  });

  it("says what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([1, 5, 6, 2]);
      expect(() => adaptiveAvgPool2d(gpu.zeros([5, 6]), 1)).toThrow("adaptiveAvgPool2d: x has rank 2");
      expect(() => adaptiveAvgPool2d(x, 0)).toThrow(
        "adaptiveAvgPool2d: outputSize is 0; expected a positive",
      );
      expect(() => adaptiveAvgPool2d(x, null as never)).toThrow("outputSize is null; expected a positive");
      expect(() => adaptiveAvgPool2d(gpu.zeros([1, 40000, 1, 1]), 7)).toThrow(
        "a map has a side of 40000 pixels; expected at most 32768",
      );
    });
  });
});
