// What happens inside the network at the update at which a run without batch-norm diverges.

import { Conv2d } from "../nn/layers.ts";
import type { Module } from "../nn/module.ts";
import { crossEntropy, lossAt, probe } from "../train/probes.ts";
import { RecipeTrainer } from "../train/recipe.ts";
import {
  type Cell,
  type Configuration,
  defineExperiment,
  defineMeasurement,
  judge,
  missing,
  type Preset,
} from "./experiment.ts";
import { trainUpTo } from "./loss-landscape.ts";
import { heatMap, lineChart } from "./plot.ts";
import {
  convolutionAt,
  DEEP,
  disposeBatch,
  type NetworkSettings,
  paperNetwork,
  shrinkImages,
  trainingBatch,
} from "./setup.ts";
import { geometricMean, logGrid, mean, percent, show } from "./statistics.ts";
import { networkWork } from "./work.ts";

interface Settings extends Configuration, NetworkSettings {
  measure: "divergence";
  /** Tried from the smallest on, until a run diverges. */
  rates: number[];
  /** Of each run at most. */
  steps: number;
  /** Of the update: 0 … 1. */
  fractions: number[];
}

interface LayerMomentsByFraction {
  layer: number;
  name: string;
  /** [fraction][channel] */
  mean: number[][];
  variance: number[][];
}

export interface DivergenceData {
  /** At which the run diverged; null if none of the rates did. */
  lr: number | null;
  /** The update, from 1, after which the loss of the next mini-batch was that of divergence. */
  update: number;
  /** Of that mini-batch, at each fraction of the update. */
  losses: number[];
  layers: LayerMomentsByFraction[];
}

/** Early, middle and late, of 110: as in the paper. */
const LAYERS = [8, 44, 80];

const PRESETS: Record<Preset, Pick<Settings, "rates" | "steps"> & { parts: number }> = {
  "first-look": { rates: logGrid(3e-3, 0.3, 4), steps: 3, parts: 8 },
  quick: { rates: logGrid(2e-3, 0.2, 4), steps: 6, parts: 20 },
  standard: { rates: logGrid(1e-4, 1, 4), steps: 40, parts: 40 },
  paper: { rates: logGrid(1e-4, 1, 4), steps: 390, parts: 40 },
};

type Weights = Map<string, ArrayLike<number>>;

async function weightsOf(model: Module): Promise<Weights> {
  const weights: Weights = new Map();
  for (const [name, parameter] of model.namedParameters()) weights.set(name, await parameter.read());
  return weights;
}

/** Puts the model's weights at `fraction` of the way from one to the other. */
function moveBetween(model: Module, from: Weights, to: Weights, fraction: number): void {
  for (const [name, parameter] of model.namedParameters()) {
    const [a, b] = [from.get(name)!, to.get(name)!];
    parameter.write(Float32Array.from({ length: a.length }, (_, i) => a[i]! + fraction * (b[i]! - a[i]!)));
  }
}

const update = defineMeasurement<Settings, DivergenceData>({
  id: "divergence",

  async run({ gpu, data, onPoint, signal }, settings, seed) {
    const { rates, steps, batchSize, shrink, fractions } = settings;
    const small = shrinkImages(data, shrink);
    for (const lr of rates) {
      const trainer = new RecipeTrainer(gpu, small, {
        ...paperNetwork(settings),
        ...{ lr, batchSize, seed },
        schedule: "constant",
        augment: false,
        epochs: steps + 1,
        maxSteps: steps + 1,
        logEvery: 1,
        capture: false,
      });
      try {
        const { model, history } = trainer;
        let [before, after]: Weights[] = [new Map(), await weightsOf(model)];
        // The step that sees the loss is one after the update that made it.
        let guilty: [Weights, Weights] | null = null;
        while (trainer.step <= steps && !guilty) {
          if (signal?.aborted) break;
          await trainUpTo(trainer, trainer.step + 1, signal);
          if (history.divergedAt !== null) guilty = [before!, after!];
          else [before, after] = [after!, await weightsOf(model)];
        }
        // One that is there from the first step on is no divergence of a run.
        if (!guilty || trainer.step < 2) continue;
        const batch = trainingBatch(gpu, small, batchSize, seed, { index: trainer.step - 1 });
        try {
          const layers = LAYERS.map((layer) => ({
            ...convolutionAt(model, layer),
            mean: [] as number[][],
            variance: [] as number[][],
          }));
          const losses: number[] = [];
          for (const fraction of fractions) {
            moveBetween(model, ...guilty, fraction);
            const moments = await probe.activations(model, batch.images, {
              layers: (name, module) =>
                module instanceof Conv2d && layers.some((layer) => layer.name === name),
            });
            for (const layer of layers) {
              const found = moments.find(({ name }) => name === layer.name)!;
              layer.mean.push(Array.from(found.mean));
              layer.variance.push(Array.from(found.variance));
            }
            losses.push(await lossAt(model, crossEntropy(model, batch.images, batch.labels)));
            onPoint("loss", fraction, losses.at(-1)!);
          }
          return { lr, update: trainer.step - 1, losses, layers };
        } finally {
          disposeBatch(batch);
        }
      } finally {
        trainer.dispose();
      }
    }
    return { lr: null, update: 0, losses: [], layers: [] };
  },

  work: (settings, image) =>
    // The rates that come before the one that diverges: half of them, say.
    networkWork(settings, image, {
      steps: (settings.rates.length * settings.steps) / 2,
      forwards: 2 * settings.fractions.length,
    }),
});

const CRITERION =
  "At the end of the update the mean variance of the channels grows with the layer: by at least 10³ from layer 8 to 44, and from 44 to 80";

/** A run whose variances leave float32 before half of its update has overshot: its end cannot be told. */
const LEAST_FRACTION = 0.5;

interface Grown {
  /** Mean variance over channels of each layer, at the last fraction at which float32 holds all of them. */
  variances: number[];
  fraction: number;
}

function grown({ configuration, data }: Cell<Settings, DivergenceData>): Grown {
  const averages = data.layers.map(({ variance }) => variance.map((channels) => mean(channels)));
  const { fractions } = configuration;
  let last = fractions.length - 1;
  while (last > 0 && !averages.every((values) => Number.isFinite(values[last]!))) last -= 1;
  return { variances: averages.map((values) => values[last]!), fraction: fractions[last]! };
}

/** Runs that diverged. */
const diverged = (cells: readonly Cell<Settings, DivergenceData>[]) =>
  cells.filter(({ data }) => data.lr !== null);

export const divergence = defineExperiment<Settings, DivergenceData>({
  id: "divergence",
  title: "The update at which a run without batch-norm diverges",
  source: "§ 3.2, Fig. 4",
  claim: "Without batch-norm a large step makes the activations grow with depth, and with them the loss.",
  about:
    "A network without batch-norm is trained at the smallest rate of a grid at which it diverges. The update after which the next " +
    "mini-batch's loss has passed 10³ and ten times its start is applied in fractions: mean and variance of every channel at layers 8, 44 and 80.",
  measurements: [update],

  configurations(preset) {
    const { rates, steps, parts } = PRESETS[preset];
    return [
      {
        ...{ measure: "divergence", label: "none", norm: "none" },
        ...DEEP[preset],
        ...(preset === "first-look" ? { batchSize: 8 } : {}),
        ...{ rates, steps, fractions: Array.from({ length: parts + 1 }, (_, i) => i / parts) },
      },
    ];
  },

  // How far past its edge the update lies is chance: the mean of two runs at least.
  repeats: (_settings, seeds) => Math.max(2, seeds),

  verdict(cells) {
    const runs = diverged(cells)
      .map(grown)
      .filter(({ fraction }) => fraction >= LEAST_FRACTION);
    if (runs.length < 2) {
      const what = `two runs that diverged within float32; there ${runs.length === 1 ? "is 1" : "are none"} of ${cells.length}`;
      return [missing(CRITERION, what)];
    }
    const variances = LAYERS.map((_, i) => geometricMean(runs.map((run) => run.variances[i]!)));
    const steps = [variances[1]! / variances[0]!, variances[2]! / variances[1]!];
    const { layers } = diverged(cells)[0]!.data;
    return [
      {
        criterion: CRITERION,
        measured:
          `${layers.map(({ layer }, i) => `layer ${layer}: ${show(variances[i]!)}`).join(", ")} (${steps.map((step) => `${show(step)} times`).join(", ")}), ` +
          `at ${percent(Math.min(...runs.map(({ fraction }) => fraction)))} of the update; geometric mean of ${runs.length} runs`,
        verdict: judge(
          steps.every((step) => step >= 1e3),
          ...steps,
        ),
      },
    ];
  },

  compare(cells) {
    const runs = diverged(cells);
    const last = runs.map(grown);
    return LAYERS.map((layer, i) => {
      const means = runs.map(({ data }) => {
        const ends = data.layers[i]!.mean.at(-1)!.filter(Number.isFinite);
        return Math.max(...ends.map(Math.abs));
      });
      return {
        what: `largest channel mean and variance at 100 %, layer ${layer}`,
        paper: ["± 1, variance 1", "± 3,000, variance 5·10⁶", "± 2·10⁸, variance 5·10¹⁶"][i]!,
        mark: "F",
        ours:
          runs.length > 0
            ? `± ${show(geometricMean(means))}, variance ${show(geometricMean(last.map(({ variances }) => variances[i]!)))} (layer ${runs[0]!.data.layers[i]!.layer})`
            : "–",
      };
    });
  },

  async exhibit(cells) {
    const run = diverged(cells)[0];
    if (!run) return { figures: [] };
    const { data, configuration } = run;
    const { fractions } = configuration;
    const columns = fractions.map((fraction) => `${Math.round(100 * fraction)}`);
    const figures = [];
    for (const moment of ["mean", "variance"] as const) {
      for (const layer of data.layers) {
        const channels = layer[moment][0]!.map((_, c) => layer[moment].map((values) => values[c]!));
        figures.push({
          svg: await heatMap(channels, {
            title: `Layer ${layer.layer}: ${moment === "mean" ? "means" : "variances"}`,
            x: "part of the update (%)",
            y: "channel",
            color: moment,
            columns,
            rows: channels.map((_, c) => c),
            scale: moment === "mean" ? "diverging" : "log",
          }),
          caption: "",
        });
      }
    }
    figures.push({
      svg: await lineChart(
        data.layers.map(({ layer, variance }) => ({
          label: `layer ${layer}`,
          points: fractions.map((fraction, f) => [100 * fraction, mean(variance[f]!)] as const),
        })),
        { title: "Mean variance of the channels", x: "part of the update (%)", y: "variance", yScale: "log" },
      ),
      caption:
        `Seed ${run.seed}, rate ${show(data.lr!)}, update ${data.update}: loss of the next mini-batch ${show(data.losses[0]!)} before ` +
        `and ${show(data.losses.at(-1)!)} after. Each heat map has its own scale.`,
    });
    return { figures };
  },
});
