// What the experiments make of their numbers: each verdict follows the cells, both ways.

import { describe, expect, it } from "vitest";
import { imageDataset } from "../../src/data/dataset.ts";
import type { Cell, Configuration, Experiment, Verdict } from "../../src/experiments/experiment.ts";
import { EXPERIMENTS, selectExperiments } from "../../src/experiments/index.ts";
import { reachOf } from "../../src/experiments/loss-landscape.ts";
import { heatMap, histogramChart, lineChart } from "../../src/experiments/plot.ts";
import { kolmogorovSmirnov, squaredSingularValues, theory } from "../../src/experiments/random-matrices.ts";
import { shrinkImages } from "../../src/experiments/setup.ts";
import {
  fitLine,
  geometricMean,
  logGrid,
  median,
  sampleStd,
  show,
} from "../../src/experiments/statistics.ts";
import { largestStableRate, type TrainingResult } from "../../src/experiments/training.ts";
import { Random } from "../../src/tensor/random.ts";

const byId = (id: string) => selectExperiments([id])[0]!;

/** A cell for each configuration of `quick`, with the data that `make` gives. */
function cellsOf(
  experiment: Experiment,
  make: (configuration: Configuration, seed: number) => unknown,
): Cell[] {
  return experiment.configurations("quick").flatMap((configuration) =>
    Array.from({ length: experiment.repeats?.(configuration, 1) ?? 1 }, (_, seed) => ({
      experiment: experiment.id,
      configuration,
      seed,
      seconds: 1,
      data: make(configuration, seed),
    })),
  );
}

async function verdicts(
  id: string,
  make: (configuration: Configuration, seed: number) => unknown,
): Promise<Verdict[]> {
  const experiment = byId(id);
  const { findings, figures } = await experiment.report(cellsOf(experiment, make));
  for (const { svg } of figures) expect(svg).toMatch(/^<svg[^>]*viewBox/);
  return findings.map(({ verdict }) => verdict);
}

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

  it("holds for real products, and not for others", async () => {
    const small = byId("random-matrices")
      .configurations("quick")
      .slice(0, 2)
      .map((configuration) => ({ ...configuration, size: 100 }));
    const experiment = byId("random-matrices");
    const run = (scale: number) =>
      Promise.all(
        small.flatMap((configuration) =>
          [0, 1, 2, 3].map(async (seed) => {
            const data = (await experiment.run(null as never, configuration, seed)) as { squared: number[] };
            const squared = data.squared.map((value) => value * scale);
            return { experiment: "random-matrices", configuration, seed, seconds: 0, data: { squared } };
          }),
        ),
      );
    expect((await experiment.report(await run(1))).findings.map(({ verdict }) => verdict)).toEqual([
      "holds",
      "holds",
    ]);
    expect((await experiment.report(await run(2))).findings[0]!.verdict).toBe("does not hold");
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
    expect(reachOf({ loss: 2, alphas, losses: [3, 4, 5, 6] }).falls).toBeNaN();
    expect(reachOf({ loss: 2, alphas, losses: [1, Number.NaN, 5, 6] }).diverges).toBeLessThan(1e-2);
  });
  it("judges both ways", async () => {
    const make = (wide: string) => (c: Configuration) => {
      const grid = c.alphas as number[];
      const edge = c.norm === wide ? 1 : 1e-3;
      return {
        landscapes: [
          { loss: 1, alphas: grid, losses: grid.map((a) => (a < edge ? 0.9 : 0.9 + (a / edge) ** 2)) },
        ],
      };
    };
    expect(await verdicts("loss-landscape", make("batch"))).toEqual(["holds", "holds", "holds", "holds"]);
    expect(await verdicts("loss-landscape", make("none"))).toEqual(new Array(4).fill("does not hold"));
  });
});

const training =
  (divergesAt: (c: Configuration) => number, accuracy: (c: Configuration, seed: number) => number) =>
  (c: Configuration, seed: number) => {
    const diverged = (c.lr as number) >= divergesAt(c);
    return {
      log: [{ step: 1, epoch: 0.1, loss: diverged ? Number.NaN : 2, accuracy: 0.1, lr: c.lr }],
      evals: diverged ? [] : [{ step: 1, epoch: 1, testLoss: 2, testAccuracy: accuracy(c, seed) }],
      divergedAt: diverged ? 1 : null,
      testAccuracy: diverged ? Number.NaN : accuracy(c, seed),
      stepsDone: 1,
    };
  };

describe("learning rates", () => {
  const limit = (c: Configuration) => (c.norm === "batch" ? 5 : 0.01);
  it("holds where batch-norm allows and uses larger rates", async () => {
    const accuracy = (c: Configuration, seed: number) => ((c.lr as number) >= 0.1 ? 0.9 : 0.5) + 0.01 * seed;
    expect(await verdicts("learning-rates", training(limit, accuracy))).toEqual(["holds", "holds", "holds"]);
  });
  it("does not where accuracies differ at one rate, or the best is no better", async () => {
    const accuracy = (c: Configuration, seed: number) => (c.norm === "batch" ? 0.8 : 0.5) + 0.001 * seed;
    expect(await verdicts("learning-rates", training(limit, accuracy))).toEqual([
      "holds",
      "does not hold",
      "does not hold",
    ]);
  });
  it("cannot tell where nothing diverged without batch-norm, or all did with it", async () => {
    const same = () => 0.5;
    expect(
      (
        await verdicts(
          "learning-rates",
          training(() => 1e9, same),
        )
      )[0],
    ).toBe("inconclusive");
    expect(
      (
        await verdicts(
          "learning-rates",
          training((c) => (c.norm === "batch" ? 0 : 0.01), same),
        )
      )[0],
    ).toBe("inconclusive");
  });
  it("takes the rate below the smallest that diverged", () => {
    const cell = (lr: number, divergedAt: number | null) =>
      ({ configuration: { norm: "none", lr }, data: { divergedAt } }) as unknown as TrainingResult;
    expect(largestStableRate([cell(0.1, null), cell(1, 3), cell(10, null)], "none")).toEqual({
      rate: 0.1,
      open: false,
    });
    expect(largestStableRate([cell(0.1, null), cell(1, null)], "none")).toEqual({ rate: 1, open: true });
    expect(largestStableRate([cell(0.1, 2)], "none").rate).toBeNaN();
  });
});

describe("the other experiments judge both ways", () => {
  it("bn-last-layer", async () => {
    const accuracy = () => 0.5;
    const limits = (last: number) => (c: Configuration) =>
      ({ batch: 5, last, none: 0.01 })[c.norm as "batch"];
    expect(await verdicts("bn-last-layer", training(limits(0.5), accuracy))).toEqual(["holds"]);
    expect(await verdicts("bn-last-layer", training(limits(0.001), accuracy))).not.toContain("holds");
  });

  it("gradient-histogram", async () => {
    const make = (heavy: string) => (c: Configuration) => ({
      layer: 55,
      count: 100,
      variance: 1,
      kurtosis: c.norm === heavy ? 12 : 3,
      tailMass: c.norm === heavy ? 0.2 : 0.001,
      histogram: { low: -1, high: 1, counts: [1, 50, 1], below: 0, above: 0, notFinite: 0 },
    });
    expect(await verdicts("gradient-histogram", make("none"))).toEqual(["holds", "holds"]);
    expect(await verdicts("gradient-histogram", make("batch"))).toEqual(["does not hold", "does not hold"]);
  });

  it("divergence", async () => {
    const make = (power: (layer: number) => number) => (c: Configuration) => ({
      alpha: 1,
      losses: (c.fractions as number[]).map(() => 1),
      layers: [18, 54, 90].map((layer) => {
        const moments = (c.fractions as number[]).map((f) => [10 ** (f * power(layer)), Number(f !== 1) * 2]);
        return { layer, name: `${layer}`, mean: moments, variance: moments.map(([v]) => [v, v]) };
      }),
    });
    expect(
      await verdicts(
        "divergence",
        make((layer) => layer / 10),
      ),
    ).toEqual(["holds", "holds"]);
    expect(
      await verdicts(
        "divergence",
        make(() => 2),
      ),
    ).toEqual(["holds", "does not hold"]);
    expect(
      await verdicts(
        "divergence",
        make(() => -2),
      ),
    ).toEqual(["does not hold", "does not hold"]);
  });

  it("moments-by-depth", async () => {
    const make = (grows: string) => (c: Configuration) => {
      const layers = Array.from({ length: 40 }, (_, i) => ({
        name: `${i}`,
        meanMagnitude: 1,
        meanMagnitudeDecades: 0.1,
        variance: c.norm === grows ? 10 ** (i / 10) : 1 + 0.01 * i,
        varianceDecades: 0.1,
      }));
      return { layers, blocks: layers.slice(0, 20) };
    };
    expect(await verdicts("moments-by-depth", make("none"))).toEqual(["holds", "holds"]);
    expect(await verdicts("moments-by-depth", make("batch"))).toEqual(["does not hold", "does not hold"]);
  });

  it("logit-gradients", async () => {
    const make = (same: string) => (c: Configuration) => ({
      loss: 3,
      gradients: Array.from({ length: 8 }, (_, i) => [0.1 * i, -0.1, 0]),
      predicted: [],
      modalShare: c.norm === same ? 0.97 : 0.4,
      meanCosine: c.norm === same ? 0.5 : 0.1,
      classNames: ["a", "b", "c"],
    });
    expect(await verdicts("logit-gradients", make("none"))).toEqual(["holds", "holds"]);
    expect(await verdicts("logit-gradients", make("batch"))).toEqual(["does not hold", "does not hold"]);
  });

  it("gradient-alignment", async () => {
    const make = (factor: number) => (c: Configuration) => ({
      layers: [18, 54, 90].map((layer) => {
        const ratio = c.norm === "batch" ? factor : 2;
        return { name: "", layer, magnitude: 4, total: 4 / ratio, ratio, terms: 10 };
      }),
    });
    expect(await verdicts("gradient-alignment", make(20))).toEqual(["holds"]);
    expect(await verdicts("gradient-alignment", make(5))).toEqual(["does not hold"]);
  });

  it("sgd-noise", async () => {
    const make = (power: number) => (c: Configuration) =>
      c.kind === "noise"
        ? {
            kind: "noise",
            batches: (c.batchSizes as number[]).map((batchSize) => ({
              batchSize,
              gradient: 1,
              steps: (c.alphas as number[]).map((alpha) => ({
                alpha,
                noise: alpha ** 2 * batchSize ** power,
              })),
            })),
          }
        : training(
            () => 1e9,
            () => 0.5,
          )(c, 0);
    expect(await verdicts("sgd-noise", make(-1))).toEqual(["holds", "holds"]);
    expect(await verdicts("sgd-noise", make(-0.5))).toEqual(["does not hold", "does not hold"]);
  });

  it("are inconclusive without cells", async () => {
    for (const experiment of EXPERIMENTS) {
      const { findings } = await experiment.report([]);
      expect(findings.length, experiment.id).toBeGreaterThan(0);
      for (const { verdict } of findings) expect(verdict, experiment.id).toBe("inconclusive");
    }
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
