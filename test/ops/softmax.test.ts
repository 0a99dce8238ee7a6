import { describe, expect, it } from "vitest";
import { add } from "../../src/ops/elementwise/elementwise.ts";
import { softmax } from "../../src/ops/softmax/softmax.ts";
import { checkOp } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";
import { rowsOf, softmaxRow } from "../reference/softmax.ts";

const sixteenths = (count: number) => normals(count, 5, 0, 3).map((value) => Math.round(16 * value) / 16);
const variants = { softmax: ["lanes", "tree"] };

describe("softmax", () => {
  it("over the last axis, of any length", async () => {
    const shapes = [[1], [7], [3, 10], [2, 3, 5], [1, 1], [5, 131], [2, 300]];
    await checkOp(
      shapes.map((shape) => ({
        label: `[${shape}]`,
        inputs: { x: shape },
        run: (t) => softmax(t.x!),
        reference: ({ x }) => Float64Array.from(rowsOf(x!, shape.at(-1)!).flatMap(softmaxRow)),
        variants,
      })),
    );
  });

  it("logits far from zero, and more rows than one grid dimension has workgroups", async () => {
    const rows = 2 ** 16 + 3;
    await checkOp({
      label: "large",
      inputs: { x: { shape: [rows, 3], data: sixteenths(rows * 3) } },
      // Exact in float32, and softmax does not see it.
      run: (t) => softmax(add(t.x!, t.x!.gpu.full([1], 8192))),
      reference: ({ x }) => Float64Array.from(rowsOf(x!, 3).flatMap(softmaxRow)),
      referenceGrad: ({ x }, dy) => {
        const dx = rowsOf(x!, 3).flatMap((row, n) => {
          const y = softmaxRow(row);
          const product = y.reduce((sum, value, k) => sum + value * dy[n * 3 + k]!, 0);
          return y.map((value, k) => value * (dy[n * 3 + k]! - product));
        });
        return { x: Float64Array.from(dx) };
      },
      variants,
    });
  });

  it("finds the largest logit of a row wherever it is", async () => {
    const gpu = await testGpu();
    const classes = 201;
    // One row for each place. Any other reference than the largest overflows.
    const data = normals(classes * classes, 6);
    for (let row = 0; row < classes; row += 1) data[row * classes + row] = 1000 + row;
    const x = gpu.tensor(data, [classes, classes]);
    for (const variant of variants.softmax) {
      gpu.variants.force("softmax", variant);
      const y = softmax(x);
      gpu.variants.force("softmax", null);
      const values = await y.read();
      const wrong = values.findIndex((value, i) => value !== (i % (classes + 1) === 0 ? 1 : 0));
      expect(wrong, variant).toBe(-1);
      y.dispose();
    }
    x.dispose();
  });

  it("a NaN makes its own row NaN, and no other", async () => {
    const gpu = await testGpu();
    for (const variant of variants.softmax) {
      const out = gpu.scope(() => {
        gpu.variants.force("softmax", variant);
        const y = softmax(gpu.tensor([1, Number.NaN, 2, 0, 1, 2], [2, 3]));
        gpu.variants.force("softmax", null);
        return y;
      });
      expect([...(await out.read())].map(Number.isNaN)).toEqual([true, true, true, false, false, false]);
      out.dispose();
    }
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() =>
      expect(() => softmax(gpu.zeros([]))).toThrow("softmax: x is a scalar []; expected [..., K]"),
    );
  });
});
