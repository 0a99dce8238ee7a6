// How the noise of a gradient step depends on its size and on the batch.

import { crossEntropy, type LossFunction, probe } from "../train/probes.ts";
import {
  type Cell,
  type CellContext,
  type Configuration,
  defineExperiment,
  type Figure,
  type Finding,
  judge,
  missing,
  type Preset,
} from "./experiment.ts";
import { heatMap, lineChart, type Point } from "./plot.ts";
import { disposeBatch, freshNetwork, NORM_LABELS, shrinkImages, trainingBatch } from "./setup.ts";
import { fitLine, geometricMean, percent, show } from "./statistics.ts";
import { runTraining, type TrainingCell, type TrainingData } from "./training.ts";

interface NoiseCell extends Configuration {
  kind: "noise";
  norm: "batch" | "none";
  depth: number;
  width: number;
  shrink: number;
  batchSizes: number[];
  /** Pairs of batches at each size. */
  pairs: number[];
  alphas: number[];
}

interface NoiseData {
  kind: "noise";
  batches: { batchSize: number; gradient: number; steps: { alpha: number; noise: number }[] }[];
}

type AccuracyCell = TrainingCell & { kind: "accuracy" };
type AccuracyData = TrainingData & { kind: "accuracy" };

interface PresetSettings {
  network: { depth: number; width: number; shrink: number };
  noise: Pick<NoiseCell, "batchSizes" | "pairs" | "alphas">;
  /** Images seen by each run of the grid. */
  images: number;
  rates: number[];
  batchSizes: number[];
  augment: boolean;
}

const PRESETS: Record<Preset, PresetSettings> = {
  quick: {
    network: { depth: 20, width: 8, shrink: 2 },
    noise: { batchSizes: [4, 16, 64], pairs: [16, 12, 8], alphas: [0.01, 0.1, 1] },
    images: 1024,
    rates: [0.01, 0.1, 1],
    batchSizes: [16, 64, 256],
    augment: false,
  },
  standard: {
    network: { depth: 20, width: 16, shrink: 1 },
    noise: {
      batchSizes: [4, 8, 16, 32, 64, 128, 256],
      pairs: [64, 64, 48, 32, 24, 16, 16],
      alphas: [0.01, 0.1, 1],
    },
    images: 100_000,
    rates: [0.01, 0.03, 0.1, 0.3, 1],
    batchSizes: [32, 128, 512],
    augment: true,
  },
  paper: {
    network: { depth: 110, width: 16, shrink: 1 },
    noise: {
      batchSizes: [4, 8, 16, 32, 64, 128, 256, 512],
      pairs: [64, 64, 64, 48, 32, 24, 16, 16],
      alphas: [0.001, 0.01, 0.1, 1],
    },
    images: 165 * 50_000,
    rates: [0.01, 0.03, 0.1, 0.3, 1],
    batchSizes: [32, 128, 512],
    augment: true,
  },
};

export const sgdNoise = defineExperiment<NoiseCell | AccuracyCell, NoiseData | AccuracyData>({
  id: "sgd-noise",
  title: "Noise of gradient steps",
  source: "§ 2.1",
  about:
    "At fixed weights (initialisation): ½ E‖Δw − Δw′‖² of the steps Δw = −α·g_B that two disjoint batches of one size would make, which is the " +
    "variance of a step; then the test accuracy reached on a grid of learning rate and batch size, each run seeing equally many images.",

  configurations(preset) {
    const { network, noise, images, rates, batchSizes, augment } = PRESETS[preset];
    return [
      ...(["none", "batch"] as const).map(
        (norm): NoiseCell => ({ label: `noise ${norm}`, kind: "noise", norm, ...network, ...noise }),
      ),
      ...rates.flatMap((lr) =>
        batchSizes.map(
          (batchSize): AccuracyCell => ({
            label: `accuracy lr ${lr} batch ${batchSize}`,
            kind: "accuracy",
            role: "train",
            norm: "batch",
            lr,
            batchSize,
            ...network,
            steps: Math.floor(images / batchSize),
            schedule: "constant",
            augment,
          }),
        ),
      ),
    ];
  },

  async run(context, configuration, seed) {
    return configuration.kind === "noise"
      ? measureNoise(context, configuration, seed)
      : { kind: "accuracy", ...(await runTraining(context, configuration, seed)) };
  },

  async report(cells) {
    const noise = cells.filter(
      (cell): cell is Cell<NoiseCell, NoiseData> => cell.configuration.kind === "noise",
    );
    const grid = cells.filter(
      (cell): cell is Cell<AccuracyCell, AccuracyData> => cell.configuration.kind === "accuracy",
    );
    const findings: Finding[] = [];
    const figures: Figure[] = [];
    const series: { label: string; points: Point[] }[] = [];
    for (const norm of ["none", "batch"] as const) {
      const criterion = `${norm === "none" ? "Without" : "With"} batch-norm the noise of a step scales as α²/|B|: exponents within 0.2 of 2 and −1`;
      const data = noise.filter(({ configuration }) => configuration.norm === norm).map((cell) => cell.data);
      if (data.length === 0) {
        findings.push(missing(criterion));
        continue;
      }
      const alphas = data[0]!.batches[0]!.steps.map(({ alpha }) => alpha);
      const points = data[0]!.batches.flatMap(({ batchSize }, b) =>
        alphas.map((alpha, a) => ({
          batchSize,
          alpha,
          noise: geometricMean(data.map(({ batches }) => batches[b]!.steps[a]!.noise)),
        })),
      );
      // For each α a fit over |B|, and for each |B| one over α; then the mean of each.
      const exponent = (fixed: "alpha" | "batchSize", varied: "alpha" | "batchSize") => {
        const values = [...new Set(points.map((point) => point[fixed]))];
        const slopes = values.map((value) => {
          const line = points.filter((point) => point[fixed] === value);
          return fitLine(
            line.map((point) => Math.log(point[varied])),
            line.map((point) => Math.log(point.noise)),
          ).slope;
        });
        return slopes.reduce((sum, slope) => sum + slope, 0) / slopes.length;
      };
      const ofAlpha = exponent("batchSize", "alpha");
      const ofBatch = exponent("alpha", "batchSize");
      findings.push({
        criterion,
        measured: `α to the power ${show(ofAlpha)}, |B| to the power ${show(ofBatch)}`,
        verdict: judge(Math.abs(ofAlpha - 2) <= 0.2 && Math.abs(ofBatch + 1) <= 0.2, ofAlpha, ofBatch),
      });
      for (const alpha of [Math.max(...alphas), Math.min(...alphas)]) {
        series.push({
          label: `${NORM_LABELS[norm]}, α = ${alpha}`,
          points: points
            .filter((point) => point.alpha === alpha)
            .map((point) => [point.batchSize, point.noise]),
        });
      }
    }
    if (series.length > 0) {
      figures.push({
        svg: await lineChart(series, {
          title: "Variance of a step",
          x: "batch size |B|",
          y: "½ E‖Δw − Δw′‖²",
          xScale: "log",
          yScale: "log",
        }),
        caption: "Geometric mean over seeds. α²/|B| is a straight line of slope −1.",
      });
    }
    if (grid.length > 0) {
      const rates = [...new Set(grid.map(({ configuration }) => configuration.lr))].sort((a, b) => b - a);
      const batchSizes = [...new Set(grid.map(({ configuration }) => configuration.batchSize))].sort(
        (a, b) => a - b,
      );
      const accuracy = rates.map((lr) =>
        batchSizes.map((batchSize) => {
          const runs = grid.filter(({ configuration: c }) => c.lr === lr && c.batchSize === batchSize);
          return runs.reduce((sum, { data }) => sum + data.testAccuracy, 0) / runs.length;
        }),
      );
      figures.push({
        svg: await heatMap(accuracy, {
          title: "Test accuracy with batch-norm",
          x: "batch size",
          y: "learning rate",
          color: "accuracy",
          columns: batchSizes,
          rows: rates,
          colorFormat: "%",
          text: percent,
        }),
        caption: `Each run sees ${grid[0]!.configuration.steps * grid[0]!.configuration.batchSize} images. Mean over seeds; runs that diverged stay empty.`,
      });
    }
    return { findings, figures };
  },
});

async function measureNoise(
  { gpu, data, onPoint }: CellContext,
  configuration: NoiseCell,
  seed: number,
): Promise<NoiseData> {
  const { batchSizes, pairs, alphas, shrink } = configuration;
  const small = shrinkImages(data, shrink);
  const model = freshNetwork(gpu, small, configuration, seed);
  try {
    const batches: NoiseData["batches"] = [];
    for (const [i, batchSize] of batchSizes.entries()) {
      // Both batches of a pair from one epoch: they share no image.
      const perEpoch = Math.floor(small.train.count / batchSize / 2);
      const held: ReturnType<typeof trainingBatch>[] = [];
      const lossOf = (epoch: number, index: number): LossFunction => {
        const batch = trainingBatch(gpu, small, batchSize, seed, { epoch, index });
        held.push(batch);
        return crossEntropy(model, batch.images, batch.labels);
      };
      function* drawPairs(): Generator<readonly [LossFunction, LossFunction]> {
        for (let pair = 0; pair < pairs[i]!; pair += 1) {
          const [epoch, index] = [Math.floor(pair / perEpoch), 2 * (pair % perEpoch)];
          yield [lossOf(epoch, index), lossOf(epoch, index + 1)];
          for (const batch of held.splice(0)) disposeBatch(batch);
        }
      }
      const { gradient, steps } = await probe.gradientNoise(model, drawPairs(), alphas);
      batches.push({ batchSize, gradient, steps });
      onPoint("variance of the gradient", batchSize, gradient);
    }
    return { kind: "noise", batches };
  } finally {
    model.dispose();
  }
}
