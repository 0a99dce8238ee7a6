// How the noise of a gradient step depends on its size and on the batch, and the test accuracy with it.

import { crossEntropy, type LossFunction, probe } from "../train/probes.ts";
import {
  type Cell,
  type CellContext,
  type Configuration,
  defineExperiment,
  defineMeasurement,
  type Figure,
  judge,
  missing,
  type Preset,
} from "./experiment.ts";
import { heatMap, lineChart, type Point, pointOf } from "./plot.ts";
import {
  disposeBatch,
  freshNetwork,
  type NetworkSettings,
  NORM_LABELS,
  shrinkImages,
  trainingBatch,
} from "./setup.ts";
import { fitLine, geometricMean, mean, percent, rankCorrelation, show } from "./statistics.ts";
import { type TrainingCell, type TrainingData, training, trainingCell } from "./training.ts";
import { networkWork } from "./work.ts";

interface NoiseCell extends Configuration, Omit<NetworkSettings, "batchSize"> {
  measure: "noise";
  batchSizes: number[];
  /** Pairs of batches at each size. */
  pairs: number[];
  alphas: number[];
}

export interface NoiseData {
  batches: { batchSize: number; gradient: number; steps: { alpha: number; noise: number }[] }[];
}

type NoiseResult = Cell<NoiseCell, NoiseData>;
type GridResult = Cell<TrainingCell, TrainingData>;

interface PresetSettings {
  network: Omit<NetworkSettings, "norm" | "batchSize">;
  noise: Pick<NoiseCell, "batchSizes" | "pairs" | "alphas">;
  /** Images seen by each run of the grid. */
  images: number;
  rates: number[];
  batchSizes: number[];
  augment: boolean;
}

const PRESETS: Record<Preset, PresetSettings> = {
  "first-look": {
    network: { shortcut: "projection", depth: 20, width: 8, shrink: 2 },
    noise: { batchSizes: [4, 16], pairs: [4, 3], alphas: [0.1, 1] },
    images: 512,
    rates: [0.001, 0.01, 0.1],
    batchSizes: [16, 64],
    augment: false,
  },
  quick: {
    network: { shortcut: "projection", depth: 20, width: 8, shrink: 2 },
    noise: { batchSizes: [4, 16, 64], pairs: [16, 12, 8], alphas: [0.01, 0.1, 1] },
    images: 1024,
    rates: [0.001, 0.01, 0.1, 1],
    batchSizes: [16, 64, 256],
    augment: false,
  },
  standard: {
    network: { shortcut: "projection", depth: 20, width: 16, shrink: 1 },
    noise: {
      batchSizes: [4, 8, 16, 32, 64, 128, 256],
      pairs: [64, 64, 48, 32, 24, 16, 16],
      alphas: [0.01, 0.1, 1],
    },
    images: 100_000,
    rates: [0.001, 0.01, 0.03, 0.1, 0.3, 1],
    batchSizes: [32, 128, 512],
    augment: true,
  },
  paper: {
    network: { shortcut: "projection", depth: 110, width: 16, shrink: 1 },
    noise: {
      batchSizes: [4, 8, 16, 32, 64, 128, 256, 512],
      pairs: [64, 64, 64, 48, 32, 24, 16, 16],
      alphas: [0.001, 0.01, 0.1, 1],
    },
    images: 165 * 50_000,
    rates: [0.001, 0.01, 0.03, 0.1, 0.3, 1],
    batchSizes: [32, 128, 512],
    augment: true,
  },
};

const noise = defineMeasurement<NoiseCell, NoiseData>({
  id: "noise",
  run: measureNoise,
  work: (settings, image) => {
    const parts = settings.batchSizes.map((batchSize, i) =>
      networkWork({ ...settings, batchSize }, image, { steps: 2 * settings.pairs[i]! }),
    );
    return {
      flop: parts.reduce((sum, { flop }) => sum + flop, 0),
      passes: parts.reduce((sum, { passes }) => sum + passes, 0),
      programs: parts.flatMap(({ programs }) => programs),
    };
  },
});

const CRITERION =
  "Over the grid, up to the rate at which training fails, test accuracy goes with α/|B|: rank correlation at least 0.7";
/** Fewer points have no rank correlation to speak of. */
const LEAST_POINTS = 5;

/** A point of the grid, over seeds. */
interface GridPoint {
  lr: number;
  batchSize: number;
  accuracy: number;
  accuracies: number[];
  fails: boolean;
}

function gridOf(cells: readonly GridResult[]): GridPoint[] {
  const keys = [...new Set(cells.map(({ configuration: c }) => c.label))];
  return keys.map((key) => {
    const runs = cells.filter(({ configuration }) => configuration.label === key);
    const { lr, batchSize } = runs[0]!.configuration;
    const accuracies = runs.map(({ data }) => data.testAccuracy);
    const accuracy = mean(accuracies);
    // Half more than chance.
    return { lr, batchSize, accuracy, accuracies, fails: !(accuracy > 1.5 / runs[0]!.data.classes) };
  });
}

/**
 * The points of each batch size up to the rate at which training fails. A rate at which it does though it does not at a larger one is
 * too small to have learned yet: no failure of this kind.
 */
function trainable(points: readonly GridPoint[]): GridPoint[] {
  return points.filter(({ lr, batchSize }) => {
    const mine = points.filter((point) => point.batchSize === batchSize);
    const trainsAbove = (rate: number) => mine.some((other) => !other.fails && other.lr > rate);
    const failed = mine.filter(
      (point) => point.fails && (Number.isNaN(point.accuracy) || !trainsAbove(point.lr)),
    );
    return failed.every((point) => lr < point.lr);
  });
}

/** The exponents of α and |B| in the noise of a step: 2 is an identity, −1 a theorem of drawing without replacement. */
function exponents(cells: readonly NoiseResult[]) {
  const points = cells[0]!.data.batches.flatMap(({ batchSize, steps }, b) =>
    steps.map(({ alpha }, a) => ({
      batchSize,
      alpha,
      noise: geometricMean(cells.map(({ data }) => data.batches[b]!.steps[a]!.noise)),
    })),
  );
  // For each α a fit over |B|, and for each |B| one over α; then the mean of each.
  const exponent = (fixed: "alpha" | "batchSize", varied: "alpha" | "batchSize") =>
    mean(
      [...new Set(points.map((point) => point[fixed]))].map((value) => {
        const line = points.filter((point) => point[fixed] === value);
        return fitLine(
          line.map((point) => Math.log(point[varied])),
          line.map((point) => Math.log(point.noise)),
        ).slope;
      }),
    );
  return { points, ofAlpha: exponent("batchSize", "alpha"), ofBatch: exponent("alpha", "batchSize") };
}

const noiseOf = (cells: readonly Cell[]) =>
  cells.filter((cell): cell is NoiseResult => cell.configuration.measure === "noise");
const trainedOf = (cells: readonly Cell[]) =>
  cells.filter((cell): cell is GridResult => cell.configuration.measure === "training");

export const sgdNoise = defineExperiment<NoiseCell | TrainingCell, NoiseData | TrainingData>({
  id: "sgd-noise",
  title: "Noise of gradient steps",
  source: "§ 2.1",
  claim:
    "The noise of a gradient step is bounded by α²C/|B|, and the test accuracy goes with that noise: larger rates generalise better.",
  about:
    "The test accuracy reached on a grid of learning rate and batch size, each run seeing equally many images; beside it, at fixed weights, " +
    "½ E‖Δw − Δw′‖² of the steps Δw = −α·g_B that two disjoint batches of one size would make, which is the variance of a step.",
  measurements: [noise, training],

  configurations(preset) {
    const { network, noise: sizes, images, rates, batchSizes, augment } = PRESETS[preset];
    return [
      ...(["none", "batch"] as const).map(
        (norm): NoiseCell => ({ measure: "noise", label: norm, norm, ...network, ...sizes }),
      ),
      ...rates.flatMap((lr) =>
        batchSizes.map((batchSize) =>
          trainingCell({
            ...{ role: "train", norm: "batch", ...network, batchSize, lr },
            steps: Math.floor(images / batchSize),
            schedule: "constant",
            augment,
          }),
        ),
      ),
    ];
  },

  verdict(cells) {
    const grid = trainedOf(cells as readonly Cell[]);
    if (grid.length === 0) return [missing(CRITERION, "the grid of rates and batch sizes")];
    const points = gridOf(grid);
    const used = trainable(points);
    const several = new Set(used.map(({ lr, batchSize }) => lr / batchSize)).size;
    const correlation = rankCorrelation(
      used.map(({ lr, batchSize }) => lr / batchSize),
      used.map(({ accuracy }) => accuracy),
    );
    const enough = used.length >= LEAST_POINTS && several > 2;
    return [
      {
        criterion: CRITERION,
        measured: `${show(correlation, 2)} over ${used.length} of ${points.length} points${enough ? "" : `, fewer than ${LEAST_POINTS} that train`}`,
        verdict: enough ? judge(correlation >= 0.7, correlation) : "inconclusive",
      },
    ];
  },

  compare(cells) {
    const measured = noiseOf(cells as readonly Cell[]);
    return (["none", "batch"] as const).map((norm) => {
      const mine = measured.filter(({ configuration }) => configuration.norm === norm);
      const fit = mine.length > 0 ? exponents(mine) : null;
      return {
        what: `noise of a step, ${NORM_LABELS[norm]} (not judged: α² is an identity, 1/|B| a theorem)`,
        paper: "E‖α∇ℓ − α∇_SGD‖² ≤ α²C/|B|",
        mark: "F",
        ours: fit ? `α^${show(fit.ofAlpha)} · |B|^${show(fit.ofBatch)}` : "–",
      };
    });
  },

  async exhibit(cells) {
    const figures: Figure[] = [];
    const points = gridOf(trainedOf(cells as readonly Cell[]));
    if (points.length > 0) {
      const rates = [...new Set(points.map(({ lr }) => lr))].sort((a, b) => b - a);
      const batchSizes = [...new Set(points.map(({ batchSize }) => batchSize))].sort((a, b) => a - b);
      const at = (lr: number, batchSize: number) =>
        points.find((point) => point.lr === lr && point.batchSize === batchSize)?.accuracy ?? Number.NaN;
      const { configuration } = trainedOf(cells as readonly Cell[])[0]!;
      figures.push(
        {
          svg: await heatMap(
            rates.map((lr) => batchSizes.map((batchSize) => at(lr, batchSize))),
            {
              title: "Test accuracy with batch-norm",
              x: "batch size",
              y: "learning rate",
              color: "accuracy",
              columns: batchSizes,
              rows: rates,
              colorFormat: "%",
              text: percent,
            },
          ),
          caption: `Each run sees ${configuration.steps * configuration.batchSize} images. Mean over seeds; runs that diverged stay empty.`,
        },
        {
          svg: await lineChart(
            batchSizes.map((batchSize) => ({
              label: `|B| = ${batchSize}`,
              points: points
                .filter((point) => point.batchSize === batchSize)
                .sort((a, b) => a.lr - b.lr)
                .map(({ lr, accuracy, accuracies }) => pointOf(lr / batchSize, accuracy, accuracies)),
            })),
            { title: "Test accuracy by noise", x: "α / |B|", y: "accuracy", xScale: "log", yFormat: "%" },
          ),
          caption: "One curve would mean that only α/|B| counts. Mean over seeds; the band is their range.",
        },
      );
    }
    const series: { label: string; points: Point[] }[] = [];
    for (const norm of ["none", "batch"] as const) {
      const mine = noiseOf(cells as readonly Cell[]).filter(
        ({ configuration }) => configuration.norm === norm,
      );
      if (mine.length === 0) continue;
      const fitted = exponents(mine).points;
      const alphas = fitted.map(({ alpha }) => alpha);
      for (const alpha of [Math.max(...alphas), Math.min(...alphas)]) {
        series.push({
          label: `${NORM_LABELS[norm]}, α = ${alpha}`,
          points: fitted
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
    return { figures };
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
    return { batches };
  } finally {
    model.dispose();
  }
}
