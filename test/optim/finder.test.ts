import { describe, expect, it } from "vitest";
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
});
