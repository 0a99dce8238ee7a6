import { describe, expect, it } from "vitest";
import { bceWithLogits, huberLoss, l1Loss, mseLoss, smoothL1Loss } from "../../src/ops/losses.ts";
import { type Shape, sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";
import { elementwise } from "../reference/elementwise.ts";

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
  smoothL1Loss: [smoothL1Loss, huber(1)],
  "smoothL1Loss, beta 0.3": [
    (a, b, options) => smoothL1Loss(a, b, { ...options, beta: 0.3 }),
    (x, y) => huber(0.3)(x, y) / 0.3,
  ],
  "smoothL1Loss, a beta whose inverse float32 does not hold": [
    (a, b, options) => smoothL1Loss(a, b, { ...options, beta: 1e-40 }),
    (x, t) => Math.abs(x - t),
  ],
  "smoothL1Loss, beta 0": [
    (a, b, options) => smoothL1Loss(a, b, { ...options, beta: 0 }),
    (x, y) => Math.abs(x - y),
  ],
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

  const logSigmoid = (x: number) => -Math.log1p(Math.exp(-x));

  it.each(["mean", "sum", "none"] as const)(
    "bceWithLogits with weights that repeat, %s",
    async (reduction) => {
      const shape = [4, 3, 5];
      const weights: [Shape | null, Shape | null][] = [
        [null, [5]],
        [[4, 1, 1], null],
        [
          [3, 5],
          [4, 3, 5],
        ],
        [[], [1, 3, 1]],
      ];
      const positive = (size: Shape, seed: number) =>
        normals(sizeOf(size), seed).map((v) => 0.1 + Math.abs(v));
      await checkOp(
        weights.map(
          ([weight, posWeight]): OpCase => ({
            label: `[${weight}] [${posWeight}]`,
            inputs: {
              a: { shape, data: normals(60, 1, 0, 2) },
              b: { shape, data: normals(60, 2).map((v) => 1 / (1 + Math.exp(-v))) },
              ...(weight && { weight: { shape: weight, data: positive(weight, 3) } }),
              ...(posWeight && { posWeight: { shape: posWeight, data: positive(posWeight, 4) } }),
            },
            run: (t) =>
              bceWithLogits(t.a!, t.b!, {
                ...{ reduction, weight: t.weight ?? null, posWeight: t.posWeight ?? null },
              }),
            reference(x) {
              const one = { data: Float64Array.of(1), shape: [] };
              const each = elementwise(
                shape,
                [
                  { data: x.a!, shape },
                  { data: x.b!, shape },
                  weight ? { data: x.weight!, shape: weight } : one,
                  posWeight ? { data: x.posWeight!, shape: posWeight } : one,
                ],
                (z, y, w, p) => -w! * (p! * y! * logSigmoid(z!) + (1 - y!) * logSigmoid(-z!)),
              );
              const total = each.reduce((sum, v) => sum + v, 0);
              return reduction === "none" ? each : Float64Array.of(reduction === "sum" ? total : total / 60);
            },
          }),
        ),
      );
    },
  );

  it("bceWithLogits keeps the digits of small losses with posWeight", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([15, -15, 100], [3]);
    const y = gpu.tensor([1, 0, 1], [3]);
    const posWeight = gpu.tensor([0.01], [1]);
    const loss = bceWithLogits(x, y, { posWeight, reduction: "none" });
    const [a, b, c] = await loss.read();
    expect(a! / (0.01 * Math.exp(-15))).toBeCloseTo(1, 5);
    expect(b! / Math.exp(-15)).toBeCloseTo(1, 5);
    expect(c).toBeLessThan(1e-40);
    for (const tensor of [x, y, posWeight, loss]) tensor.dispose();
  });

  it("stay finite for large logits", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([1000, -1000, 1000, -1000, 3e38], [5]);
    const y = gpu.tensor([1, 0, 0, 1, 1], [5]);
    expect([...(await bceWithLogits(x, y, { reduction: "none" }).read())]).toEqual([0, 0, 1000, 1000, 0]);
    for (const tensor of [x, y]) tensor.dispose();
  });

  it("NaN among logits and targets stays NaN, in the loss and where a gradient hangs on it", async () => {
    const gpu = await testGpu();
    const nan = Number.NaN;
    const data = { input: [nan, 2, nan, 0.5, -3], target: [1, nan, 0, 1, 0] };
    const isNan = [true, true, true, false, false];
    const weight = gpu.tensor([0.5], [1]);
    const runs: [string, (a: Tensor, b: Tensor) => Tensor][] = [
      ["bceWithLogits", (a, b) => bceWithLogits(a, b, { reduction: "none" })],
      ["bceWithLogits, weighted", (a, b) => bceWithLogits(a, b, { reduction: "none", posWeight: weight })],
      ...([mseLoss, l1Loss, huberLoss, smoothL1Loss] as const).map(
        (loss): [string, (a: Tensor, b: Tensor) => Tensor] => [
          loss.name,
          (a, b) => loss(a, b, { reduction: "none" }),
        ],
      ),
    ];
    for (const [name, run] of runs) {
      const [a, b] = [data.input, data.target].map((values) =>
        gpu.tensor(values, [5], { requiresGrad: true }),
      );
      const loss = run(a!, b!);
      expect([...(await loss.read())].map(Number.isNaN), name).toEqual(isNan);
      const ones = gpu.full([5], 1);
      loss.backward(ones);
      if (name.startsWith("bce")) {
        expect([...(await a!.grad!.read())].map(Number.isNaN), `${name}, gradient`).toEqual(isNan);
        // That of a target is of the logit alone.
        const ofTarget = [true, false, true, false, false];
        expect([...(await b!.grad!.read())].map(Number.isNaN), `${name}, targets`).toEqual(ofTarget);
      }
      for (const tensor of [a!, b!, loss, ones]) tensor.dispose();
    }
    weight.dispose();
  });

  it("refuse what they can't take", async () => {
    const gpu = await testGpu();
    const [x, y] = [gpu.zeros([2, 3]), gpu.zeros([3])];
    expect(() => mseLoss(x, y)).toThrow(/mseLoss: input is \[2, 3\], target \[3\]; expected equal shapes/);
    expect(() => l1Loss(x, x, { reduction: "max" as never })).toThrow(/l1Loss: reduction is "max"/);
    expect(() => huberLoss(x, x, { delta: 0 })).toThrow(
      /huberLoss: delta is 0; expected a finite number above 0/,
    );
    expect(() => smoothL1Loss(x, x, { beta: -1 })).toThrow(
      "smoothL1Loss: beta is -1; expected a finite number of at least 0",
    );
    expect(() => smoothL1Loss(x, x, { beta: 1e300 })).toThrow("expected a number that float32 holds");
    expect(() => bceWithLogits(y, y, { posWeight: x })).toThrow(
      "bceWithLogits: posWeight is [2, 3], the other input [3]; expected each size of posWeight",
    );
    for (const tensor of [x, y]) tensor.dispose();
  });
});
