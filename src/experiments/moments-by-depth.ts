// Without batch-norm, activations grow with depth from the start.

import { BatchNorm2d, Conv2d } from "../nn/layers.ts";
import type { BasicBlock } from "../nn/models/resnet.ts";
import { probe } from "../train/probes.ts";
import { type Configuration, defineExperiment, judge, missing } from "./experiment.ts";
import { lineChart, type Point } from "./plot.ts";
import {
  DEEP,
  disposeBatch,
  freshNetwork,
  type NetworkSettings,
  NORM_LABELS,
  trainingBatch,
} from "./setup.ts";
import { fitLine, mean, sampleStd, show } from "./statistics.ts";

interface Settings extends Configuration, NetworkSettings {
  norm: "batch" | "none";
}

interface LayerSummary {
  name: string;
  /** Over channels: the mean of |mean| and of the variance, and the standard deviation of their log₁₀. */
  meanMagnitude: number;
  meanMagnitudeDecades: number;
  variance: number;
  varianceDecades: number;
}

interface Data {
  /** Output of each convolution, after its batch-norm where it has one: what the activation function gets. */
  layers: LayerSummary[];
  /** Output of each residual block: the sum that is carried on. */
  blocks: LayerSummary[];
}

/** Channels that are zero throughout have no logarithm, and are left out. */
function logSpread(values: readonly number[]): number {
  return sampleStd(values.filter((value) => value > 0).map(Math.log10));
}

export const momentsByDepth = defineExperiment<Settings, Data>({
  id: "moments-by-depth",
  title: "Activations by depth at initialisation",
  source: "§ 3.2, Fig. 5",
  about:
    "Mean and variance of each channel over one batch before any training, averaged over a layer's channels. A layer is a " +
    "convolution with the batch-norm behind it, if any, before shortcut and ReLU join.",

  configurations: (preset) =>
    (["batch", "none"] as const).map((norm) => ({ label: norm, norm, ...DEEP[preset] })),

  async run({ gpu, data }, settings, seed) {
    const model = freshNetwork(gpu, data, settings, seed);
    const batch = trainingBatch(gpu, data, settings.batchSize, seed);
    try {
      const blocks = new Set<unknown>(model.blocks as BasicBlock[]);
      const layer = settings.norm === "batch" ? BatchNorm2d : Conv2d;
      const moments = await probe.activations(model, batch.images, {
        layers: (_name, module) => module instanceof layer || blocks.has(module),
      });
      const summaries = moments.map(({ kind, name, mean: means, variance }) => {
        const magnitudes = Array.from(means, Math.abs);
        const variances = Array.from(variance);
        return {
          kind,
          name,
          meanMagnitude: mean(magnitudes),
          meanMagnitudeDecades: logSpread(magnitudes),
          variance: mean(variances),
          varianceDecades: logSpread(variances),
        };
      });
      const pick = (isBlock: boolean): LayerSummary[] =>
        summaries
          .filter(({ kind }) => (kind === "BasicBlock") === isBlock)
          .map(({ kind: _, ...rest }) => rest);
      return { layers: pick(false), blocks: pick(true) };
    } finally {
      disposeBatch(batch);
      model.dispose();
    }
  },

  async report(cells) {
    const criteria = {
      growth:
        "Without batch-norm log₁₀ of the variance grows linearly with depth: at least two orders of magnitude from first to last layer, R² ≥ 0.8",
      flat: "With batch-norm the variance of the layers stays within one order of magnitude",
    };
    const of = (norm: string) => cells.filter(({ configuration }) => configuration.norm === norm);
    const [batch, none] = [of("batch"), of("none")];
    if (batch.length === 0 || none.length === 0)
      return { findings: Object.values(criteria).map(missing), figures: [] };
    const over = (group: typeof cells, kind: "layers" | "blocks", pick: (layer: LayerSummary) => number) =>
      group[0]!.data[kind].map((_, i) => mean(group.map(({ data }) => pick(data[kind][i]!))));
    const decades = (values: readonly number[]) => Math.log10(Math.max(...values) / Math.min(...values));

    const grown = over(none, "layers", (layer) => layer.variance);
    const depths = grown.map((_, i) => i + 1);
    const fit = fitLine(depths, grown.map(Math.log10));
    const total = fit.slope * (grown.length - 1);
    const normalised = decades(over(batch, "layers", (layer) => layer.variance));
    const carried = decades(over(batch, "blocks", (layer) => layer.variance));
    const carriedWithout = decades(over(none, "blocks", (layer) => layer.variance));

    const series = (
      kind: "layers" | "blocks",
      pick: (layer: LayerSummary) => number,
      spread: (layer: LayerSummary) => number,
    ) =>
      [batch, none].map((group) => {
        const middle = over(group, kind, pick);
        const std = over(group, kind, spread);
        const scale = kind === "blocks" ? 2 : 1;
        return {
          label: NORM_LABELS[group[0]!.configuration.norm],
          points: middle.map(
            (value, i): Point => [scale * (i + 1), value, value / 10 ** std[i]!, value * 10 ** std[i]!],
          ),
        };
      });
    const axes = { x: "layer", xScale: "linear", yScale: "log" } as const;
    return {
      findings: [
        {
          criterion: criteria.growth,
          measured: `${show(total)} orders of magnitude over ${grown.length} layers (${show(10 * fit.slope, 2)} per ten layers), R² = ${show(fit.r2, 2)}`,
          verdict: judge(total >= 2 && fit.r2 >= 0.8, total, fit.r2),
        },
        {
          criterion: criteria.flat,
          measured: `${show(normalised, 2)} orders of magnitude over the layers`,
          verdict: judge(normalised <= 1, normalised),
        },
      ],
      figures: [
        {
          svg: await lineChart(
            series(
              "layers",
              (l) => l.variance,
              (l) => l.varianceDecades,
            ),
            { title: "Variance of the channels", y: "variance", ...axes },
          ),
          caption:
            "Mean over a layer's channels (and seeds); the band is one standard deviation of log₁₀ over channels.",
        },
        {
          svg: await lineChart(
            series(
              "layers",
              (l) => l.meanMagnitude,
              (l) => l.meanMagnitudeDecades,
            ),
            {
              title: "Magnitude of the channels' means",
              y: "|mean|",
              yDomain: [1e-3, Math.max(10, ...over(none, "layers", (l) => l.meanMagnitude))],
              ...axes,
            },
          ),
          caption: "With batch-norm the means are zero but for rounding, below the range of this figure.",
        },
        {
          svg: await lineChart(
            series(
              "blocks",
              (l) => l.variance,
              (l) => l.varianceDecades,
            ),
            { title: "Variance of the residual stream", y: "variance", ...axes },
          ),
          caption: "After the shortcut and ReLU of each block.",
        },
      ],
      notes: [
        `The residual stream, which no batch-norm touches after the shortcut joins, spans ${show(carried, 2)} orders of magnitude with ` +
          `batch-norm (each block adds about the same variance) and ${show(carriedWithout, 2)} without.`,
      ],
    };
  },
});
