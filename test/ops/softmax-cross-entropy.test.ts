import { describe, expect, it } from "vitest";
import { add } from "../../src/ops/elementwise/elementwise.ts";
import {
  type SoftmaxCrossEntropyOptions,
  softmaxCrossEntropy,
} from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { generator, normals } from "../helpers/numbers.ts";
import { crossEntropyReference, crossEntropyReferenceGrad } from "../reference/softmax.ts";

const sixteenths = (count: number) => normals(count, 5, 0, 3).map((value) => Math.round(16 * value) / 16);

function crossEntropyCase(
  rows: number,
  classes: number,
  options: Omit<SoftmaxCrossEntropyOptions, "weight">,
  offset = 0,
): OpCase {
  const next = generator(rows * 1000 + classes);
  const labels = Uint32Array.from({ length: rows }, () => Math.floor(next() * classes));
  return {
    label: `[${rows}, ${classes}] ${JSON.stringify(options)}`,
    inputs: { logits: { shape: [rows, classes], data: sixteenths(rows * classes) } },
    run({ logits }) {
      const { gpu } = logits!;
      // The offset is exact in float32, and the loss does not see it.
      const moved = offset === 0 ? logits! : add(logits!, gpu.full([1], offset));
      return softmaxCrossEntropy(moved, gpu.tensor(labels, [rows], { dtype: "uint32" }), options);
    },
    reference: ({ logits }) => crossEntropyReference(logits!, classes, { labels }, options),
    referenceGrad: ({ logits }, dy) => ({
      logits: crossEntropyReferenceGrad(logits!, classes, { labels }, options, dy).logits,
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

  it("of maps, each pixel a row, with all that rows have", async () => {
    const [shape, classes] = [[2, 3, 5], 4];
    const next = generator(77);
    const labels = Uint32Array.from({ length: 30 }, () => Math.floor(next() * classes));
    const options = [
      {},
      { reduction: "none" },
      { labelSmoothing: 0.2, ignoreIndex: 1, reduction: "sum" },
    ] as const;
    await checkOp(
      options.map((option) => ({
        label: JSON.stringify(option),
        inputs: { logits: { shape: [...shape, classes], data: sixteenths(30 * classes) } },
        run: ({ logits }) =>
          softmaxCrossEntropy(logits!, logits!.gpu.tensor(labels, shape, { dtype: "uint32" }), option),
        reference: ({ logits }) => crossEntropyReference(logits!, classes, { labels }, option),
        referenceGrad: ({ logits }, dy) => ({
          logits: crossEntropyReferenceGrad(logits!, classes, { labels }, option, dy).logits,
        }),
      })),
    );
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    gpu.scope(() => {
      const logits = gpu.zeros([...shape, classes]);
      const none = softmaxCrossEntropy(logits, gpu.zeros(shape, { dtype: "uint32" }), { reduction: "none" });
      expect(none.shape).toEqual(shape);
      expect(softmaxCrossEntropy(logits, gpu.full([...shape, classes], 0.25)).shape).toEqual([]);
      // Channels first, as PyTorch has them.
      expect(() =>
        softmaxCrossEntropy(gpu.zeros([2, 4, 3, 5]), gpu.zeros(shape, { dtype: "uint32" })),
      ).toThrow(
        "logits is [2, 4, 3, 5], labels [2, 3, 5] of uint32; expected labels [2, 4, 3] (uint32), or probabilities [2, 4, 3, 5] (float32): classes are the last axis",
      );
    });
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("one class: loss and gradient are zero", async () => {
    await checkOp(crossEntropyCase(3, 1, {}));
  });

  it("keeps its digits at logits near 8192", async () => {
    await checkOp(crossEntropyCase(9, 10, { reduction: "none" }, 8192));
  });

  const weightsOf = (classes: number) =>
    normals(classes, 8).map((value, k) => (k === 1 ? 0 : Math.fround(0.2 + Math.abs(value))));
  const reductions = ["mean", "sum", "none"] as const;
  /** Every combination for short rows, of which one invocation has each; all at once for long ones. */
  const combinations = [
    ...reductions.flatMap((reduction) =>
      [0, 0.3].flatMap((labelSmoothing) =>
        [false, true].map((weighted) => ({ rows: 7, classes: 5, reduction, labelSmoothing, weighted })),
      ),
    ),
    ...reductions.map((reduction) => ({
      ...{ rows: 3, classes: 131, reduction, labelSmoothing: 0.3, weighted: true },
    })),
  ];

  it("labels: reductions, smoothing, class weights and ignored rows in every combination", async () => {
    const cases = combinations.flatMap(({ rows, classes, reduction, labelSmoothing, weighted }) => {
      const weight = weighted ? weightsOf(classes) : null;
      return [null, 2, -100].map((ignored): OpCase => {
        const next = generator(100 * rows + classes);
        const labels = Uint32Array.from({ length: rows }, () => Math.floor(next() * classes));
        if (ignored !== null) labels[1] = ignored;
        const options = {
          reduction,
          labelSmoothing,
          ...(ignored !== null && { ignoreIndex: ignored }),
        };
        const known = { ...options, weight, ...(ignored !== null && { ignoreIndex: ignored >>> 0 }) };
        return {
          label: `[${rows}, ${classes}] ${JSON.stringify(options)} ${weight ? "weighted" : ""}`,
          inputs: { logits: { shape: [rows, classes], data: sixteenths(rows * classes) } },
          run({ logits }) {
            const { gpu } = logits!;
            return softmaxCrossEntropy(logits!, gpu.tensor(labels, [rows], { dtype: "uint32" }), {
              ...options,
              weight: weight && gpu.tensor(weight, [classes]),
            });
          },
          reference: ({ logits }) => crossEntropyReference(logits!, classes, { labels }, known),
          referenceGrad: ({ logits }, dy) => ({
            logits: crossEntropyReferenceGrad(logits!, classes, { labels }, known, dy).logits,
          }),
          variants: { softmax_cross_entropy: classes > 5 ? ["lanes", "tree"] : ["tree"] },
        };
      });
    });
    await checkOp(cases);
  });

  it("probabilities: reductions, smoothing and class weights in every combination, and their own gradient", async () => {
    // More numbers than a software adapter has invocations.
    const large = { rows: 17, classes: 301, reduction: "mean", labelSmoothing: 0.1, weighted: true } as const;
    const cases = [...combinations, large].map(
      ({ rows, classes, reduction, labelSmoothing, weighted }): OpCase => {
        const weight = weighted ? weightsOf(classes) : null;
        const shape = [rows, classes];
        const options = { reduction, labelSmoothing };
        const known = { ...options, weight };
        return {
          label: `[${shape}] ${JSON.stringify(options)} ${weight ? "weighted" : ""}`,
          inputs: {
            logits: { shape, data: sixteenths(rows * classes) },
            // Also some that do not add up to 1, as PyTorch takes them.
            targets: {
              shape,
              data: normals(rows * classes, 9).map((value) => (value * value) / classes),
            },
          },
          run: ({ logits, targets }) =>
            softmaxCrossEntropy(logits!, targets!, {
              ...options,
              weight: weight && logits!.gpu.tensor(weight, [classes]),
            }),
          reference: (x) => crossEntropyReference(x.logits!, classes, { probabilities: x.targets! }, known),
          referenceGrad: (x, dy) =>
            crossEntropyReferenceGrad(x.logits!, classes, { probabilities: x.targets! }, known, dy),
          variants: { softmax_cross_entropy: classes > 5 ? ["lanes", "tree"] : ["tree"] },
        };
      },
    );
    await checkOp(cases);
  });

  it("one-hot probabilities are labels", async () => {
    const gpu = await testGpu();
    const data = normals(12, 3);
    const labels = gpu.tensor([2, 0, 3], [3], { dtype: "uint32" });
    const hot = gpu.tensor([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1], [3, 4]);
    for (const labelSmoothing of [0, 0.25]) {
      const logits = gpu.tensor(data, [3, 4]);
      const [a, b] = [labels, hot].map((targets) => softmaxCrossEntropy(logits, targets, { labelSmoothing }));
      expect(Math.abs((await a!.item()) - (await b!.item()))).toBeLessThan(1e-6);
      for (const tensor of [logits, a!, b!]) tensor.dispose();
    }
    for (const tensor of [labels, hot]) tensor.dispose();
  });

  // In PyTorch: F.cross_entropy(torch.tensor([[1., 2., 0.5], [0., 0., 3.], [2., 1., -1.]]), torch.tensor([1, -100, 0]),
  // weight=torch.tensor([0.5, 2., 1.]), label_smoothing=0.3), worked by hand: rows 0 and 2 alone, the divisor 2 + 0.5.
  it("is PyTorch's number where smoothing, weights and ignored rows meet", async () => {
    const gpu = await testGpu();
    const logits = gpu.tensor([1, 2, 0.5, 0, 0, 3, 2, 1, -1], [3, 3]);
    const labels = gpu.tensor([1, 2 ** 32 - 100, 0], [3], { dtype: "uint32" });
    const weight = gpu.tensor([0.5, 2, 1], [3]);
    const ofRow = (z: number[]) => z.map((v) => v - Math.log(z.reduce((sum, w) => sum + Math.exp(w), 0)));
    const [p, q] = [ofRow([1, 2, 0.5]), ofRow([2, 1, -1])] as [number[], number[]];
    const ofLabels = -(2 * p[1]! + 0.5 * q[0]!) / 2.5;
    const ofAll = -(0.5 * (p[0]! + q[0]!) + 2 * (p[1]! + q[1]!) + (p[2]! + q[2]!)) / 2.5;
    const loss = softmaxCrossEntropy(logits, labels, { weight, labelSmoothing: 0.3 });
    expect(await loss.item()).toBeCloseTo(0.7 * ofLabels + (0.3 / 3) * ofAll, 5);
    for (const tensor of [logits, labels, weight, loss]) tensor.dispose();
  });

  it("all rows ignored: the mean is NaN, the sum 0, and the gradients are 0", async () => {
    const gpu = await testGpu();
    const labels = gpu.tensor([3, 3, 3], [3], { dtype: "uint32" });
    for (const labelSmoothing of [0, 0.2]) {
      for (const [reduction, expected] of [
        ["mean", [Number.NaN]],
        ["sum", [0]],
        ["none", [0, 0, 0]],
      ] as const) {
        const logits = gpu.tensor(normals(15, 4), [3, 5], { requiresGrad: true });
        const loss = softmaxCrossEntropy(logits, labels, { reduction, labelSmoothing, ignoreIndex: 3 });
        expect([...(await loss.read())]).toEqual(expected);
        const dy = gpu.full(loss.shape, 1);
        loss.backward(dy);
        expect([...(await logits.grad!.read())], reduction).toEqual(Array(15).fill(0));
        for (const tensor of [logits, loss, dy]) tensor.dispose();
      }
    }
    labels.dispose();
  });

  it("an ignored row may hold anything, and a divisor of 0 makes the others NaN", async () => {
    const gpu = await testGpu();
    const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
    const logits = gpu.tensor([nan, inf, 0, 1, 2, 3], [2, 3], { requiresGrad: true });
    const labels = gpu.tensor([9, 1], [2], { dtype: "uint32" });
    const loss = softmaxCrossEntropy(logits, labels, { ignoreIndex: 9 });
    expect(await loss.item()).toBeCloseTo(Math.log(1 + Math.E + Math.E ** 2) - 1, 5);
    loss.backward();
    const grad = [...(await logits.grad!.read())];
    expect(grad.slice(0, 3)).toEqual([0, 0, 0]);
    expect(grad.slice(3).every(Number.isFinite)).toBe(true);
    logits.zeroGrad();
    const weight = gpu.tensor([1, 0, 1], [3]);
    const nothing = softmaxCrossEntropy(logits, labels, { ignoreIndex: 9, weight });
    expect(await nothing.item()).toBeNaN();
    nothing.backward();
    expect([...(await logits.grad!.read())]).toEqual([0, 0, 0, nan, nan, nan]);
    for (const tensor of [logits, labels, loss, weight, nothing]) tensor.dispose();
  });

  it("a mean over more rows than one workgroup has lanes, of losses whose sum overflows", async () => {
    const gpu = await testGpu();
    const rows = 1000;
    const logits = gpu.tensor(
      Float32Array.from({ length: 2 * rows }, (_, i) => (i % 2 === 0 ? 3e38 : 0)),
      [rows, 2],
      { requiresGrad: true },
    );
    const labels = gpu.tensor(new Uint32Array(rows).fill(1), [rows], { dtype: "uint32" });
    const loss = softmaxCrossEntropy(logits, labels);
    expect((await loss.item()) / 3e38).toBeCloseTo(1, 5);
    loss.backward();
    expect((await logits.grad!.read())[0]).toBeCloseTo(1 / rows, 8);
    for (const tensor of [logits, labels, loss]) tensor.dispose();
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
      expect(() => softmaxCrossEntropy(logits, gpu.zeros([4, 1], { dtype: "uint32" }))).toThrow(
        "labels is [4, 1] of uint32; expected labels [N] (reshape(labels, [-1])), or probabilities [N, K] (float32)",
      );
      expect(() => softmaxCrossEntropy(logits, labels, { labelSmoothing: -0.1 })).toThrow(
        "labelSmoothing is -0.1; expected 0 to 1",
      );
      expect(() => softmaxCrossEntropy(logits, labels, { reduction: "max" as "mean" })).toThrow(
        'reduction is "max"; expected "mean", "sum" or "none"',
      );
      expect(() => softmaxCrossEntropy(logits, labels, { weight: gpu.zeros([9]) })).toThrow(
        "weight [K] has K = 9",
      );
      expect(() => softmaxCrossEntropy(logits, labels, { ignoreIndex: 1.5 })).toThrow(
        "ignoreIndex is 1.5; expected an integer from -2^31 to 2^32 - 1",
      );
      expect(() => softmaxCrossEntropy(logits, gpu.zeros([4, 10]), { ignoreIndex: 3 })).toThrow(
        "ignoreIndex is 3, labels are probabilities [4, 10]; expected labels [N] (uint32) with it",
      );
      expect(() => softmaxCrossEntropy(logits, gpu.zeros([4, 9]))).toThrow("labels [N, K] has K = 9");
    });
  });
});
