import { describe, expect, it } from "vitest";
import { NonFiniteError } from "../../src/errors.ts";
import { BatchNorm2d, Linear, Sequential } from "../../src/nn/layers.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { Adam } from "../../src/optim/adam.ts";
import { learningRateFinder } from "../../src/optim/finder.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { Random } from "../../src/tensor/random.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";

describe("learningRateFinder", () => {
  it("tries rates evenly by their logarithm, and leaves everything as it was", async () => {
    const gpu = await testGpu();
    const model = new Sequential(new BatchNorm2d(gpu, 6), new Linear(gpu, 6, 3, { random: new Random(3) }));
    const optimizer = new Adam(model.parameters(), { lr: 0.02 });
    const x = gpu.tensor(normals(60, 1), [10, 6]);
    const labels = gpu.tensor(
      Uint32Array.from({ length: 10 }, (_, i) => i % 3),
      [10],
      { dtype: "uint32" },
    );
    const step = () =>
      gpu.scope(() => {
        optimizer.zeroGrad();
        const loss = softmaxCrossEntropy(model.forward(x), labels);
        loss.backward();
        optimizer.step();
        return loss;
      });
    step().dispose();
    const before = [await model.stateDict(), await optimizer.stateDict()];
    const found = await learningRateFinder(model, optimizer, step, { start: 1e-4, end: 1, steps: 9 });
    expect([await model.stateDict(), await optimizer.stateDict()]).toEqual(before);
    expect(optimizer.lr).toBe(0.02);
    expect(found.rates[0]).toBe(1e-4);
    expect(found.rates[1]! / found.rates[0]!).toBeCloseTo(10 ** 0.5, 9);
    expect(new Set(found.losses).size).toBe(found.losses.length);
    expect(found.rates).toContain(found.suggestion);
    for (const thing of [optimizer, model, x, labels]) thing.dispose();
  });

  it("suggests where the smoothed loss falls fastest, and ends where it runs away, by hand", async () => {
    const gpu = await testGpu();
    const model = new Linear(gpu, 1, 1, { random: new Random(3) });
    const optimizer = new SGD(model.parameters(), { lr: 1 });
    const losses = [5, 5, 4, 1, 1, 2, 90, 3];
    const options = { start: 1, end: 1e7, steps: 8, smoothing: 1 };
    let i = 0;
    const found = await learningRateFinder(model, optimizer, () => losses[i++]!, options);
    // From 5 to 1 around the third step; 90 is more than five times 1.
    expect(found.losses).toEqual([5, 5, 4, 1, 1, 2]);
    expect(found.suggestion).toBeCloseTo(100, 6);
    // Smoothed by half: averages 2, 2.5 of shares 1/2, 3/4.
    const smoothed = await learningRateFinder(model, optimizer, () => [4, 3, 9][i++ % 3]!, {
      ...{ start: 1, end: 10, steps: 2, smoothing: 0.5 },
    });
    const [a, b] = smoothed.losses;
    expect(smoothed.smoothed[0]).toBeCloseTo(a!, 12);
    expect(smoothed.smoothed[1]).toBeCloseTo((0.25 * a! + 0.5 * b!) / 0.75, 12);
    await expect(learningRateFinder(model, optimizer, () => "x" as never)).rejects.toThrow(
      /step\(\) gave "x"/,
    );
    await expect(learningRateFinder(model, optimizer, () => 1, { start: 1, end: 0.5 })).rejects.toThrow(
      /end is 0.5; expected a number above start, 1/,
    );
    optimizer.dispose();
    model.dispose();
  });

  it("refuses a first loss that is no number, and suggests nothing where the loss never fell", async () => {
    const gpu = await testGpu();
    const model = new Linear(gpu, 1, 1, { random: new Random(3) });
    const optimizer = new SGD(model.parameters(), { lr: 0.25 });
    const before = await model.stateDict();
    const find = (losses: readonly number[], smoothing = 1) => {
      let i = 0;
      const step = () => {
        model.weight.fill(7);
        return losses[i++]!;
      };
      const options = { start: 1, end: 10 ** (losses.length - 1), steps: losses.length, smoothing };
      return learningRateFinder(model, optimizer, step, options);
    };
    for (const loss of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      for (const smoothing of [1, 0.05]) {
        const error = await find([loss, 3, 2, 1], smoothing).catch((thrown: unknown) => thrown);
        expect(error).toBeInstanceOf(NonFiniteError);
        expect((error as Error).message).toContain(
          `learningRateFinder: the first loss, that of the model as it was given, is ${loss}; expected`,
        );
        expect(await model.stateDict()).toEqual(before);
        expect(optimizer.lr).toBe(0.25);
      }
      // Later ones are where it ran away.
      const found = await find([5, 4, 2, loss, 1, 0]);
      expect(found.losses).toEqual([5, 4, 2]);
      expect(found.suggestion).toBeCloseTo(10, 9);
    }
    expect((await find([1, 1, 1, 1])).suggestion).toBe(null);
    expect(await find([1, 2, 3, 4])).toMatchObject({ losses: [1, 2, 3, 4], suggestion: null });
    expect(await find([1, 6, 3, 4])).toMatchObject({ losses: [1], suggestion: null });
    expect((await find([3, 2])).suggestion).toBe(1);
    // Logarithms of densities are below 0 as a rule: 5 times 3 above −3 is too much, 11 is not.
    const negative = await find([-1, -1, -3, -2.9, 8, 10, 0]);
    expect(negative.losses).toEqual([-1, -1, -3, -2.9, 8]);
    expect(negative.suggestion).toBeCloseTo(10, 9);
    optimizer.dispose();
    model.dispose();
  });
});
