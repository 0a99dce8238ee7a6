import { describe, expect, it } from "vitest";
import { add } from "../../src/ops/elementwise/elementwise.ts";
import {
  type SoftmaxCrossEntropyOptions,
  softmaxCrossEntropy,
} from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { generator, normals } from "../helpers/numbers.ts";
import { crossEntropyRow, rowsOf, softmaxRow } from "../reference/softmax.ts";

const sixteenths = (count: number) => normals(count, 5, 0, 3).map((value) => Math.round(16 * value) / 16);

function crossEntropyCase(
  rows: number,
  classes: number,
  options: SoftmaxCrossEntropyOptions,
  offset = 0,
): OpCase {
  const next = generator(rows * 1000 + classes);
  const labels = Uint32Array.from({ length: rows }, () => Math.floor(next() * classes));
  const smoothing = options.labelSmoothing ?? 0;
  const reduce = (losses: number[]) => {
    if (options.reduction === "none") return Float64Array.from(losses);
    const total = losses.reduce((a, b) => a + b, 0);
    return Float64Array.of(options.reduction === "sum" ? total : total / rows);
  };
  return {
    label: `[${rows}, ${classes}] ${JSON.stringify(options)}`,
    inputs: { logits: { shape: [rows, classes], data: sixteenths(rows * classes) } },
    run({ logits }) {
      const { gpu } = logits!;
      // The offset is exact in float32, and the loss does not see it.
      const moved = offset === 0 ? logits! : add(logits!, gpu.full([1], offset));
      return softmaxCrossEntropy(moved, gpu.tensor(labels, [rows], { dtype: "uint32" }), options);
    },
    reference: ({ logits }) =>
      reduce(rowsOf(logits!, classes).map((row, n) => crossEntropyRow(row, labels[n]!, smoothing))),
    referenceGrad: ({ logits }, dy) => ({
      logits: Float64Array.from(
        rowsOf(logits!, classes).flatMap((row, n) => {
          const g =
            options.reduction === "none" ? dy[n]! : options.reduction === "sum" ? dy[0]! : dy[0]! / rows;
          return softmaxRow(row).map(
            (p, k) => g * (p - (k === labels[n] ? 1 - smoothing : 0) - smoothing / classes),
          );
        }),
      ),
    }),
    variants: { softmax_cross_entropy: ["lanes", "tree"], reduce: ["lanes", "tree"] },
  };
}

describe("softmaxCrossEntropy", () => {
  it("each reduction, with and without smoothing, ragged sizes", async () => {
    const sizes: [number, number][] = [
      [1, 2],
      [7, 3],
      [32, 10],
      [5, 129],
      [3, 1000],
    ];
    const cases = sizes.flatMap(([rows, classes]) =>
      (["mean", "sum", "none"] as const).map((reduction) => crossEntropyCase(rows, classes, { reduction })),
    );
    cases.push(
      crossEntropyCase(13, 10, { labelSmoothing: 0.1 }),
      crossEntropyCase(4, 3, { labelSmoothing: 1, reduction: "none" }),
    );
    await checkOp(cases);
  });

  it("one class: loss and gradient are zero", async () => {
    await checkOp(crossEntropyCase(3, 1, {}));
  });

  it("keeps its digits at logits near 8192", async () => {
    await checkOp(crossEntropyCase(9, 10, { reduction: "none" }, 8192));
  });

  it("does not overflow", async () => {
    const gpu = await testGpu();
    const logits = gpu.tensor([3e38, -3e38, 0, 0, 1e30, -1e30], [2, 3], { requiresGrad: true });
    const labels = gpu.tensor([0, 1], [2], { dtype: "uint32" });
    const loss = softmaxCrossEntropy(logits, labels, { reduction: "none" });
    expect([...(await loss.read())]).toEqual([0, 0]);
    const dy = gpu.full([2], 1);
    loss.backward(dy);
    expect([...(await logits.grad!.read())].every((value) => Math.abs(value) === 0)).toBe(true);
    for (const tensor of [logits, labels, loss, dy]) tensor.dispose();
  });

  it("more rows than one grid dimension has workgroups", async () => {
    const c = crossEntropyCase(2 ** 16 + 3, 3, { reduction: "none" });
    await checkOp(c);
  });

  it("finds the largest logit of a row wherever it is, beside classes that are masked out", async () => {
    const gpu = await testGpu();
    const classes = 201;
    const data = normals(classes * classes, 6);
    for (let row = 0; row < classes; row += 1) {
      data[row * classes + row] = 1000 + row; // any other reference than the largest overflows
      data[row * classes + ((row + 1) % classes)] = -Infinity;
    }
    const labels = gpu.tensor(
      Uint32Array.from({ length: classes }, (_, i) => i),
      [classes],
      { dtype: "uint32" },
    );
    for (const variant of ["lanes", "tree"]) {
      gpu.variants.force("softmax_cross_entropy", variant);
      const logits = gpu.tensor(data, [classes, classes], { requiresGrad: true });
      const loss = softmaxCrossEntropy(logits, labels, { reduction: "none" });
      gpu.variants.force("softmax_cross_entropy", null);
      expect(
        (await loss.read()).findIndex((value) => value !== 0),
        variant,
      ).toBe(-1);
      const ones = gpu.full([classes], 1);
      loss.backward(ones);
      const grad = await logits.grad!.read();
      expect(
        grad.findIndex((value) => !(Math.abs(value) < 1e-6)),
        variant,
      ).toBe(-1);
      for (const tensor of [logits, loss, ones]) tensor.dispose();
    }
    labels.dispose();
  });

  it("a label out of range makes its own row NaN, and no other", async () => {
    const gpu = await testGpu();
    for (const variant of ["lanes", "tree"]) {
      gpu.variants.force("softmax_cross_entropy", variant);
      const logits = gpu.tensor(normals(12, 1), [3, 4], { requiresGrad: true });
      const labels = gpu.tensor([1, 4, 0xffffffff], [3], { dtype: "uint32" });
      const loss = softmaxCrossEntropy(logits, labels, { reduction: "none" });
      expect([...(await loss.read())].map(Number.isNaN)).toEqual([false, true, true]);
      const dy = gpu.full([3], 1);
      loss.backward(dy);
      const nan = [...(await logits.grad!.read())].map(Number.isNaN);
      expect(nan).toEqual(Array.from({ length: 12 }, (_, i) => i >= 4));
      for (const tensor of [logits, labels, loss, dy]) tensor.dispose();
      gpu.variants.force("softmax_cross_entropy", null);
    }
  });

  it("a NaN among the logits reaches its loss and its gradient, and no other", async () => {
    const gpu = await testGpu();
    for (const variant of ["lanes", "tree"]) {
      gpu.variants.force("softmax_cross_entropy", variant);
      const logits = gpu.tensor([1, Number.NaN, 2, 0, 1, 2], [2, 3], { requiresGrad: true });
      const labels = gpu.tensor([0, 1], [2], { dtype: "uint32" });
      const loss = softmaxCrossEntropy(logits, labels, { reduction: "none" });
      gpu.variants.force("softmax_cross_entropy", null);
      expect([...(await loss.read())].map(Number.isNaN)).toEqual([true, false]);
      const dy = gpu.full([2], 1);
      loss.backward(dy);
      const nan = [...(await logits.grad!.read())].map(Number.isNaN);
      expect(nan).toEqual([true, true, true, false, false, false]);
      for (const tensor of [logits, labels, loss, dy]) tensor.dispose();
    }
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const logits = gpu.zeros([4, 10]);
      const labels = gpu.zeros([4], { dtype: "uint32" });
      expect(() => softmaxCrossEntropy(gpu.zeros([4]), labels)).toThrow(
        "softmaxCrossEntropy: logits has rank 1, got [4]",
      );
      expect(() => softmaxCrossEntropy(logits, gpu.zeros([3], { dtype: "uint32" }))).toThrow(
        "labels [N] has N = 3",
      );
      expect(() => softmaxCrossEntropy(logits, gpu.zeros([4]))).toThrow("labels is float32; expected uint32");
      expect(() => softmaxCrossEntropy(logits, labels, { labelSmoothing: -0.1 })).toThrow(
        "labelSmoothing is -0.1; expected 0 to 1",
      );
      expect(() => softmaxCrossEntropy(logits, labels, { reduction: "max" as "mean" })).toThrow(
        'reduction is "max"; expected "mean", "sum" or "none"',
      );
    });
  });
});
