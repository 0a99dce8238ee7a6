// What the experiments make of their numbers, beside their verdicts.

import { describe, expect, it } from "vitest";
import { imageDataset } from "../../src/data/dataset.ts";
import { saturation } from "../../src/experiments/logit-gradients.ts";
import { reachOf } from "../../src/experiments/loss-landscape.ts";
import { heatMap, histogramChart, lineChart } from "../../src/experiments/plot.ts";
import { kolmogorovSmirnov, squaredSingularValues, theory } from "../../src/experiments/random-matrices.ts";
import { hasLearned, largestLearningRate, largestStableRate } from "../../src/experiments/rates.ts";
import { shrinkImages } from "../../src/experiments/setup.ts";
import {
  bootstrap,
  fitLine,
  geometricMean,
  judgeAtLeast,
  logGrid,
  mean,
  median,
  rankCorrelation,
  sampleStd,
  show,
} from "../../src/experiments/statistics.ts";
import { hasPlateaued, type TrainingData, type TrainingResult } from "../../src/experiments/training.ts";
import { Random } from "../../src/tensor/random.ts";

describe("random matrices", () => {
  it.each([1, 2, 3, 5])(
    "the limiting density for M = %i is one, with mean 1 and the right end",
    (factors) => {
      const curve = theory(factors);
      expect(curve.at(-1)!.below).toBeCloseTo(1, 4);
      expect(curve.at(-1)!.x).toBeCloseTo((factors + 1) ** (factors + 1) / factors ** factors, 4);
      let mean = 0;
      curve.forEach(({ x, below }, i) => {
        const before = curve[i - 1];
        if (before) mean += ((x + before.x) / 2) * (below - before.below);
      });
      expect(mean).toBeCloseTo(1, 3);
    },
  );

  it("is the quarter-circle law for one matrix", () => {
    for (const { x, density } of theory(1).filter(({ x }) => x > 1e-3 && x < 3.9)) {
      expect(density / (Math.sqrt((4 - x) / x) / (2 * Math.PI))).toBeCloseTo(1, 6);
    }
  });

  it("measures the distance of samples from it", () => {
    const curve = theory(2);
    const quantiles = Array.from(
      { length: 500 },
      (_, i) => curve.find(({ below }) => below >= (i + 0.5) / 500)!.x,
    );
    expect(kolmogorovSmirnov(quantiles, curve)).toBeLessThan(0.005);
    expect(
      kolmogorovSmirnov(
        quantiles.map((x) => 2 * x),
        curve,
      ),
    ).toBeGreaterThan(0.1);
    expect(kolmogorovSmirnov([1e9], curve)).toBeCloseTo(1, 5);
    // The mean of the squared singular values is ‖A‖² / N.
    const squared = squaredSingularValues(60, 2, new Random(1));
    expect(squared).toHaveLength(60);
    expect(squared.reduce((a, b) => a + b, 0) / 60).toBeCloseTo(1, 0);
  });
});

describe("landscapes", () => {
  const alphas = logGrid(1e-3, 1, 1);
  it("finds where the loss is back, and where it is tenfold", () => {
    const { falls, diverges, open } = reachOf({ loss: 2, alphas, losses: [1, 0.5, 8, 800] });
    // Between 10⁻² and 10⁻¹ the relative loss goes from 1/4 to 4: half of the way in logarithms.
    expect(falls).toBeCloseTo(10 ** -1.5, 5);
    expect(diverges).toBeCloseTo(0.1 * 10 ** (Math.log(2.5) / Math.log(100)), 5);
    expect(open).toBe(false);
  });
  it("says what it cannot see", () => {
    expect(reachOf({ loss: 2, alphas, losses: [1, 0.5, 0.4, 0.3] })).toEqual({
      falls: 1,
      diverges: 1,
      open: true,
    });
    // It never fell: the first step is as far as it can be said to have.
    expect(reachOf({ loss: 2, alphas, losses: [3, 4, 5, 6] })).toEqual({
      falls: 1e-3,
      diverges: 1,
      open: true,
    });
    expect(reachOf({ loss: 2, alphas, losses: [1, Number.NaN, 5, 6] }).diverges).toBeLessThan(1e-2);
  });
});

describe("rates", () => {
  const cell = (lr: number, divergedAt: number | null, more: object = {}) =>
    ({ configuration: { norm: "none", lr }, data: { divergedAt, ...more } }) as unknown as TrainingResult;

  it("takes the rate below the smallest that diverged in any seed", () => {
    expect(largestStableRate([cell(0.1, null), cell(1, 3), cell(10, null)])).toEqual({
      ...{ rate: 0.1, next: 1, open: false },
    });
    expect(largestStableRate([cell(0.1, null), cell(1, null)])).toMatchObject({ rate: 1, open: true });
    expect(largestStableRate([cell(1, null), cell(0.1, null), cell(1, 5)]).rate).toBe(0.1);
    expect(largestStableRate([cell(0.1, 2)]).rate).toBeNaN();
    expect(largestStableRate([])).toMatchObject({ rate: Number.NaN, open: false });
  });

  it("takes no dead network for one that learns", () => {
    const ended = (loss: number, startLoss = 5) =>
      cell(0.1, null, { startLoss, classes: 10, log: [{ loss: 4 }, { loss }] }).data;
    expect(hasLearned(ended(1.5))).toBe(true);
    expect(hasLearned(ended(Math.log(10)))).toBe(false);
    expect(hasLearned(ended(2, 2.1))).toBe(false);
    expect(hasLearned(ended(Number.NaN))).toBe(false);
    expect(hasLearned({ ...ended(1.5), divergedAt: 3 })).toBe(false);
    const learned = { startLoss: 5, classes: 10, log: [{ loss: 1 }] };
    const dead = { ...learned, log: [{ loss: 2.3 }] };
    expect(largestLearningRate([cell(1, null, dead), cell(0.1, null, learned)])).toBe(0.1);
    expect(largestLearningRate([cell(1, null, learned), cell(1, null, dead)])).toBeNaN();
  });

  it("asks whether training has come to an end, not whether its rate has", () => {
    const run = (accuracy: (share: number) => number) =>
      ({
        stepsDone: 100,
        log: Array.from({ length: 50 }, (_, i) => ({ step: 2 * (i + 1), accuracy: accuracy((i + 1) / 50) })),
      }) as unknown as TrainingData;
    expect(
      hasPlateaued(
        run((share) => 0.7 * share),
        "constant",
      ),
    ).toBe(false);
    expect(
      hasPlateaued(
        run((share) => Math.min(0.7, 3 * share)),
        "step",
      ),
    ).toBe(true);
    // Rising until the rate falls, and flat from there on.
    const stopped = run((share) => Math.min(0.5, share));
    expect(hasPlateaued(stopped, "step")).toBe(false);
    expect(hasPlateaued(stopped, "constant")).toBe(true);
    expect(
      hasPlateaued(
        run((share) => share),
        "step",
      ),
    ).toBe(true); // all of it learned
  });
});

describe("gradients of logits", () => {
  it("tells saturated images, and the strongest class", () => {
    // Of four images, by (p − [label]) / 4: sure and wrong, sure and right, unsure, sure and wrong again.
    const gradients = [
      [-1, 1, 0],
      [0, 0, 0],
      [-0.6, 0.3, 0.3],
      [0, 0.995, -0.995],
    ].map((row) => row.map((value) => value / 4));
    const { saturated, strongestShare, largestInOne } = saturation(gradients);
    expect(saturated).toBe(0.75);
    expect(strongestShare).toBeCloseTo((1 + 0.3 + 0.995) / (1 + 0.6 + 0.995), 12);
    expect(largestInOne).toBe(0.75);
  });
});

describe("small numbers", () => {
  it("fits, averages and spreads", () => {
    expect(fitLine([1, 2, 3, 4], [3, 5, Number.NaN, 9])).toEqual({ slope: 2, intercept: 1, r2: 1 });
    expect(geometricMean([1, 100])).toBeCloseTo(10, 12);
    expect(median([5, 1, 3, 2])).toBe(2.5);
    expect(sampleStd([1, 3])).toBeCloseTo(Math.SQRT2, 12);
    expect(sampleStd([1])).toBeNaN();
    expect(logGrid(0.01, 10, 2)).toEqual([0.01, 0.0316, 0.1, 0.316, 1, 3.16, 10]);
    expect([show(0.00012345), show(1234567), show(-2.5), show(Number.POSITIVE_INFINITY)]).toEqual([
      "1.2e−4",
      "1.2e6",
      "−2.5",
      "infinite",
    ]);
  });

  it("draws intervals over seeds, and none from one", () => {
    const spread = [0.4, 0.6, 0.5, 0.7, 0.3];
    const difference = (groups: readonly (readonly number[])[]) => mean(groups[0]!) - mean(groups[1]!);
    const { low, high } = bootstrap([spread, [0, 0.01, 0.02]], difference);
    // Two standard errors around the mean, about: 0.14 / √5 is one, as the bootstrap divides by n.
    expect(low).toBeGreaterThan(0.49 - 2.6 * 0.063);
    expect(low).toBeLessThan(0.49 - 1.3 * 0.063);
    expect(high).toBeGreaterThan(0.49 + 1.3 * 0.063);
    expect(high).toBeLessThan(0.49 + 2.6 * 0.063);
    expect(bootstrap([spread, [0, 0.01, 0.02]], difference)).toEqual({ low, high });
    expect(bootstrap([[1], spread], difference).low).toBeNaN();
    expect(bootstrap([[1, Number.NaN], spread], difference).high).toBeNaN();
    expect(judgeAtLeast({ low: 1, high: 2 }, 1)).toBe("holds");
    expect(judgeAtLeast({ low: 0, high: 2 }, 1)).toBe("inconclusive");
    expect(judgeAtLeast({ low: 0, high: 0.9 }, 1)).toBe("does not hold");
    expect(judgeAtLeast({ low: Number.NaN, high: Number.NaN }, 1)).toBe("inconclusive");
  });

  it("correlates ranks", () => {
    expect(rankCorrelation([1, 2, 3, 4], [1, 10, 100, 1000])).toBeCloseTo(1, 12);
    expect(rankCorrelation([1, 2, 3, 4], [4, 3, 2, 1])).toBeCloseTo(-1, 12);
    // Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    expect(rankCorrelation([1, 2, 2, 3], [1, 2, 3, 4])).toBeCloseTo(4.5 / Math.sqrt(4.5 * 5), 12);
    expect(rankCorrelation([1, 2, 3], [5, 5, 5])).toBeNaN();
  });

  it("shrinks images by means of blocks", () => {
    const images = Uint8Array.from([
      0, 4, 8, 8, 100, 20, 2, 2, 50, 0, 4, 4, 0, 10, 4, 4, 0, 0, 9, 9, 9, 9, 9, 9,
    ]);
    const set = imageDataset({
      name: "s",
      images,
      labels: Uint8Array.of(0, 0),
      height: 3,
      width: 4,
      channels: 1,
      classNames: ["a"],
    });
    const { train } = shrinkImages({ train: set, test: set }, 2);
    expect(train).toMatchObject({ height: 1, width: 2, count: 2 });
    expect(Array.from(train.images)).toEqual([31, 5, 3, 7]);
  });
});

describe("figures", () => {
  it("draw lines with bands, leave out what cannot be shown, and label decades", async () => {
    const svg = await lineChart(
      [
        {
          label: "a < b",
          points: [
            [1, 1, 0.1, 10],
            [2, 1e4, -5, Number.POSITIVE_INFINITY],
            [3, Number.NaN],
            [4, -1],
          ],
        },
      ],
      { title: "T", x: "x (s)", y: "y (m)", yScale: "log" },
    );
    for (const text of ["x (s)", "y (m)", "a &lt; b", "10⁴", "currentColor"]) expect(svg).toContain(text);
    expect(svg).not.toContain("NaN");
  });
  it("draw histograms and heat maps with a colour bar", async () => {
    const bars = await histogramChart({ label: "h", edges: [0, 1, 2, 3], counts: [1, 0, 5] }, [], {
      title: "H",
      x: "x",
      y: "n",
      yScale: "log",
    });
    expect(bars).not.toContain("NaN");
    const map = await heatMap(
      [
        [1, 2],
        [3, Number.NaN],
      ],
      { title: "M", x: "c", y: "r", color: "size (m)", columns: [1, 2], rows: ["a", "b"], text: String },
    );
    for (const text of ["size (m)", "linearGradient"]) expect(map).toContain(text);
    expect(
      map.match(/aria-roledescription="rect mark"/g)?.length ?? map.split("<path").length,
    ).toBeGreaterThan(2);
  });
});
