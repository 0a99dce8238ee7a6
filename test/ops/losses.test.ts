import { describe, expect, it } from "vitest";
import { bceWithLogits, huberLoss, l1Loss, mseLoss } from "../../src/ops/losses.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";

const huber = (delta: number) => (x: number, y: number) => {
  const d = Math.abs(x - y);
  return d <= delta ? (d * d) / 2 : delta * (d - delta / 2);
};
const losses: Record<
  string,
  [run: (a: Tensor, b: Tensor, options: object) => Tensor, f: (x: number, y: number) => number]
> = {
  mseLoss: [mseLoss, (x, y) => (x - y) ** 2],
  l1Loss: [l1Loss, (x, y) => Math.abs(x - y)],
  huberLoss: [huberLoss, huber(1)],
  "huberLoss, delta 0.3": [(a, b, options) => huberLoss(a, b, { ...options, delta: 0.3 }), huber(0.3)],
  bceWithLogits: [
    bceWithLogits,
    (x, y) => -(y * -Math.log1p(Math.exp(-x)) + (1 - y) * (-x - Math.log1p(Math.exp(-x)))),
  ],
};

describe("losses", () => {
  for (const [name, [run, f]] of Object.entries(losses)) {
    it.each(["mean", "sum", "none", undefined])(`${name}, %s`, async (reduction) => {
      await checkOp(
        [[1], [3, 5], [2, 3, 7]].map((shape, i): OpCase => {
          const target = normals(sizeOf(shape), 70 + i);
          // Probabilities for the one that wants them; kinks are no place for finite differences.
          const b = name === "bceWithLogits" ? target.map((v) => 1 / (1 + Math.exp(-v))) : target;
          const a = normals(sizeOf(shape), 50 + i, 0, 2).map((v, j) =>
            Math.abs(v - b[j]!) < 0.05 ? v + 0.2 : v,
          );
          return {
            label: `${name} [${shape}]`,
            inputs: { a: { shape, data: a }, b: { shape, data: b } },
            run: (t) => run(t.a!, t.b!, reduction ? { reduction } : {}),
            reference(x) {
              const each = x.a!.map((v, j) => f(v, x.b![j]!));
              if (reduction === "none") return each;
              const total = each.reduce((sum, v) => sum + v, 0);
              return Float64Array.of(reduction === "sum" ? total : total / each.length);
            },
          };
        }),
      );
    });
  }

  it("stay finite for large logits", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([1000, -1000, 1000, -1000, 3e38], [5]);
    const y = gpu.tensor([1, 0, 0, 1, 1], [5]);
    expect([...(await bceWithLogits(x, y, { reduction: "none" }).read())]).toEqual([0, 0, 1000, 1000, 0]);
    for (const tensor of [x, y]) tensor.dispose();
  });

  it("refuse what they can't take", async () => {
    const gpu = await testGpu();
    const [x, y] = [gpu.zeros([2, 3]), gpu.zeros([3])];
    expect(() => mseLoss(x, y)).toThrow(/mseLoss: input is \[2, 3\], target \[3\]; expected equal shapes/);
    expect(() => l1Loss(x, x, { reduction: "max" as never })).toThrow(/l1Loss: reduction is "max"/);
    expect(() => huberLoss(x, x, { delta: 0 })).toThrow(
      /huberLoss: delta is 0; expected a finite number above 0/,
    );
    for (const tensor of [x, y]) tensor.dispose();
  });
});
