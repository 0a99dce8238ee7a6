// What happens inside the network when one step is too large.

import { Conv2d } from "../nn/layers.ts";
import { crossEntropy, GradientLine, lossAt, probe } from "../train/probes.ts";
import {
  type Configuration,
  defineExperiment,
  type Figure,
  judge,
  missing,
  type Preset,
} from "./experiment.ts";
import { heatMap, lineChart } from "./plot.ts";
import {
  convolutionAt,
  DEEP,
  disposeBatch,
  type NetworkSettings,
  shrinkImages,
  trainingBatch,
  youngNetwork,
} from "./setup.ts";
import { geometricMean, mean, percent, show } from "./statistics.ts";

interface Settings extends Configuration, NetworkSettings {
  shrink: number;
  /**
   * Small steps before the large one. The untrained network's activations are inflated, and the first part of any step
   * deflates them: growth against that start would say little.
   */
  steps: number;
  lr: number;
  fractions: number[];
}

const PRESETS: Record<Preset, Pick<Settings, "shrink" | "steps" | "lr">> = {
  quick: { shrink: 2, steps: 8, lr: 3e-5 },
  standard: { shrink: 1, steps: 100, lr: 3e-5 },
  paper: { shrink: 1, steps: 390, lr: 3e-5 },
};

interface LayerMomentsByFraction {
  layer: number;
  name: string;
  /** [fraction][channel] */
  mean: number[][];
  variance: number[][];
}

interface Data {
  /** Of the whole step. */
  alpha: number;
  losses: number[];
  layers: LayerMomentsByFraction[];
}

/** Early, middle and late, of 110. */
const LAYERS = [18, 54, 90];
const DIVERGED = 1e3;

export const divergence = defineExperiment<Settings, Data>({
  id: "divergence",
  title: "One step too large, without batch-norm",
  source: "§ 3.2, Fig. 4",
  about:
    "After some small steps, the gradient of one batch, applied in fractions of the smallest step (of a grid by √10) after which the loss " +
    "passes 10³ and ten times its value before: mean and variance of every channel at an early, a middle and a late convolution.",

  configurations(preset) {
    const steps = preset === "quick" ? 10 : 20;
    return [
      {
        label: "none",
        ...DEEP[preset],
        ...PRESETS[preset],
        fractions: Array.from({ length: steps + 1 }, (_, i) => i / steps),
      },
    ];
  },

  // How far past its edge the first step that diverges lies is chance: the mean of two runs at least.
  repeats: (_settings, seeds) => Math.max(2, seeds),

  async run({ gpu, data, onPoint, signal }, settings, seed) {
    const small = shrinkImages(data, settings.shrink);
    const { model, dispose } = await youngNetwork(gpu, small, { ...settings, norm: "none" }, seed, signal);
    const batch = trainingBatch(gpu, small, settings.batchSize, seed + 1000);
    const loss = crossEntropy(model, batch.images, batch.labels);
    const line = await GradientLine.open(model, loss);
    try {
      let alpha = 1e-6;
      for (; alpha < 1e3; alpha *= Math.sqrt(10)) {
        line.moveTo(alpha);
        const value = await lossAt(model, loss);
        if (!(value <= Math.max(DIVERGED, 10 * line.loss))) break;
      }
      const layers = LAYERS.map((layer) => ({
        ...convolutionAt(model, layer),
        mean: [] as number[][],
        variance: [] as number[][],
      }));
      const losses: number[] = [];
      for (const fraction of settings.fractions) {
        line.moveTo(fraction * alpha);
        const moments = await probe.activations(model, batch.images, {
          layers: (name, module) => module instanceof Conv2d && layers.some((layer) => layer.name === name),
        });
        for (const layer of layers) {
          const found = moments.find(({ name }) => name === layer.name)!;
          layer.mean.push(Array.from(found.mean));
          layer.variance.push(Array.from(found.variance));
        }
        losses.push(await lossAt(model, loss));
        onPoint("loss", fraction, losses.at(-1)!);
      }
      return { alpha, losses, layers };
    } finally {
      line.close();
      disposeBatch(batch);
      dispose();
    }
  },

  async report(cells) {
    const criteria = {
      grows: "Over the second half of the step the mean variance of each layer's channels grows",
      later:
        "The later the layer, the larger the growth; the late layer's is at least 100 times the early one's",
    };
    if (cells.length === 0) return { findings: Object.values(criteria).map(missing), figures: [] };
    const { fractions } = cells[0]!.configuration;
    const runs = cells.map(({ data, configuration }) => {
      const averages = data.layers.map(({ variance }) => variance.map((channels) => mean(channels)));
      // Float32 overflows soon: up to the last fraction at which all three layers are still finite.
      let last = configuration.fractions.length - 1;
      // The first part of the step still lowers the loss, and the moments with it.
      const half = fractions.findIndex((fraction) => fraction >= 0.5);
      while (last > half && !averages.every((values) => Number.isFinite(values[last]!))) last -= 1;
      return { last, averages, growth: averages.map((values) => values[last]! / values[half]!) };
    });
    const growth = LAYERS.map((_, i) => geometricMean(runs.map((run) => run.growth[i]!)));
    const reached = percent(Math.min(...runs.map(({ last }) => fractions[last]!)));
    const layers = cells[0]!.data.layers;
    const told = layers.map(({ layer }, i) => `layer ${layer}: ${show(growth[i]!)} times`).join(", ");
    const ordered = growth.every((value, i) => i === 0 || value > growth[i - 1]!);
    const { data } = cells[0]!;
    const columns = fractions.map((fraction) => `${Math.round(100 * fraction)}`);
    const figures: Figure[] = [
      {
        svg: await lineChart(
          layers.map(({ layer }, i) => ({
            label: `layer ${layer}`,
            points: fractions.map((fraction, f) => [100 * fraction, runs[0]!.averages[i]![f]!] as const),
          })),
          {
            title: "Mean variance of the channels",
            x: "part of the step (%)",
            y: "variance",
            yScale: "log",
          },
        ),
        caption: `Step α = ${show(data.alpha)}, loss ${show(data.losses[0]!)} before and ${show(data.losses.at(-1)!)} after.`,
      },
    ];
    for (const moment of ["variance", "mean"] as const) {
      // One colour scale for the three layers.
      const all = data.layers
        .flatMap((layer) => layer[moment].flat().map(Math.abs))
        .filter((v) => v > 0 && Number.isFinite(v));
      const domain = [Math.max(Math.min(...all), Math.max(...all) * 1e-20), Math.max(...all)] as const;
      for (const layer of data.layers) {
        const channels = layer[moment][0]!.map((_, c) => layer[moment].map((values) => Math.abs(values[c]!)));
        figures.push({
          svg: await heatMap(channels, {
            title: `Layer ${layer.layer}, ${moment === "mean" ? "magnitude of the means" : "variances"}`,
            x: "part of the step (%)",
            y: "channel",
            color: moment === "mean" ? "|mean|" : "variance",
            columns,
            rows: channels.map((_, c) => c),
            scale: "log",
            domain,
          }),
          caption: "",
        });
      }
    }
    return {
      findings: [
        {
          criterion: criteria.grows,
          measured: `${told}, from 50.0 % to ${reached} of the step`,
          verdict: judge(
            growth.every((g) => g > 1),
            ...growth,
          ),
        },
        {
          criterion: criteria.later,
          measured: `late against early: ${show(growth.at(-1)! / growth[0]!)} times`,
          verdict: judge(ordered && growth.at(-1)! >= 100 * growth[0]!, ...growth),
        },
      ],
      figures,
    };
  },
});
