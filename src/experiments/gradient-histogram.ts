// Without batch-norm the gradients of one layer's weights have heavy tails.

import { concat } from "../ops/concat.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { crossEntropy } from "../train/probes.ts";
import { describe, type Histogram, histogram, type TensorStatistics } from "../train/statistics.ts";
import {
  type Cell,
  type Configuration,
  defineExperiment,
  defineMeasurement,
  judge,
  missing,
  type Preset,
} from "./experiment.ts";
import { histogramChart } from "./plot.ts";
import {
  atInitialisation,
  convolutionAt,
  disposeBatch,
  lacking,
  type NetworkSettings,
  NORM_LABELS,
  ofNorm,
  trainingBatch,
  withNetwork,
} from "./setup.ts";
import { geometricMean, mean, percent, show } from "./statistics.ts";
import { networkWork } from "./work.ts";

interface Settings extends Configuration, NetworkSettings {
  measure: "gradients";
  /** How many batches' gradients are pooled. */
  batches: number;
}

export interface GradientData extends TensorStatistics {
  layer: number;
  /** Null for a gradient of zeros, or one that is not finite. */
  histogram: Histogram | null;
}

const LAYER = 55;
const BATCHES: Record<Preset, number> = { "first-look": 1, quick: 4, standard: 8, paper: 16 };

const gradients = defineMeasurement<Settings, GradientData>({
  id: "gradients",

  async run({ gpu, data }, settings, seed) {
    return withNetwork({ gpu, data }, settings, seed, async (model, _batch, small) => {
      const { layer, name } = convolutionAt(model, LAYER);
      const parameter = [...model.namedParameters()].find(([path]) => path === `${name}.weight`)![1];
      const held: Tensor[] = [];
      try {
        for (let index = 0; index < settings.batches; index += 1) {
          const batch = trainingBatch(gpu, small, settings.batchSize, seed, { index });
          model.zeroGrad();
          gpu.scope(() => crossEntropy(model, batch.images, batch.labels)().backward());
          held.push(gpu.keep(parameter.grad!.alias()));
          model.zeroGrad();
          disposeBatch(batch);
        }
        const pooled = gpu.keep(concat(held, 0));
        held.push(pooled);
        const statistics = await describe(pooled);
        const limit = Math.max(Math.abs(statistics.min), Math.abs(statistics.max)) * (1 + 1e-6);
        return {
          layer,
          ...statistics,
          histogram: limit > 0 ? await histogram(pooled, { low: -limit, high: limit, bins: 101 }) : null,
        };
      } finally {
        for (const tensor of held) tensor.dispose();
      }
    });
  },

  work: (settings, image) => networkWork(settings, image, { steps: settings.batches }),
});

const CRITERIA = {
  tails: "Without batch-norm the tails are heavier in every seed: larger kurtosis, more mass beyond 5 MAD",
  width: "Without batch-norm the standard deviation is at least ten times larger",
};

const stdOf = (cells: readonly Cell<Settings, GradientData>[]) =>
  geometricMean(cells.map(({ data }) => Math.sqrt(data.variance)));
const pooledOf = (cells: readonly Cell<Settings, GradientData>[], pick: (data: GradientData) => number) =>
  mean(cells.map(({ data }) => pick(data)));

export const gradientHistogram = defineExperiment<Settings, GradientData>({
  id: "gradient-histogram",
  title: "Gradients at initialisation",
  source: "§ 3.1, Fig. 2",
  claim: "Without batch-norm the gradients are larger and heavy-tailed; with it they are nearly normal.",
  about:
    "The gradient of the weights of the middle convolution (55 of 110) before any training, pooled over batches: its histogram, kurtosis, " +
    "and the share of entries further than five median absolute deviations from the median.",
  measurements: [gradients],

  configurations: (preset) => atInitialisation("gradients", preset, { batches: BATCHES[preset] }),

  // "In every seed" says little of one.
  repeats: (_settings, seeds) => Math.max(2, seeds),

  verdict(cells) {
    const absent = lacking(cells);
    if (absent) return Object.values(CRITERIA).map((criterion) => missing(criterion, absent));
    const [batch, none] = [ofNorm(cells, "batch"), ofNorm(cells, "none")];
    const pairs = none.flatMap((without) => {
      const match = batch.find(({ seed }) => seed === without.seed);
      return match ? [[without.data, match.data] as const] : [];
    });
    const heavier = pairs.filter(([a, b]) => a.kurtosis > b.kurtosis && a.tailMass > b.tailMass).length;
    const numbers = pairs.flatMap((pair) => pair.flatMap(({ kurtosis, tailMass }) => [kurtosis, tailMass]));
    const [wide, narrow] = [stdOf(none), stdOf(batch)];
    return [
      {
        criterion: CRITERIA.tails,
        measured:
          `in ${heavier} of ${pairs.length} seeds; kurtosis ${show(pooledOf(none, (d) => d.kurtosis))} without, ` +
          `${show(pooledOf(batch, (d) => d.kurtosis))} with (normal numbers: 3); mass ${percent(pooledOf(none, (d) => d.tailMass))} ` +
          `and ${percent(pooledOf(batch, (d) => d.tailMass))} (normal numbers: 0.1 %)`,
        verdict: pairs.length < 2 ? "inconclusive" : judge(heavier === pairs.length, ...numbers),
      },
      {
        criterion: CRITERIA.width,
        measured: `${show(wide)} without, ${show(narrow)} with: ${show(wide / narrow)} times`,
        verdict: judge(wide >= 10 * narrow, wide, narrow),
      },
    ];
  },

  compare(cells) {
    const range = (norm: "batch" | "none") => {
      const data = ofNorm(cells, norm).map((cell) => cell.data);
      const largest = Math.max(...data.map(({ min, max }) => Math.max(-min, max)));
      return data.length > 0 ? `± ${show(largest)}` : "–";
    };
    const ratio = lacking(cells)
      ? "–"
      : `${show(stdOf(ofNorm(cells, "none")) / stdOf(ofNorm(cells, "batch")))} times`;
    return [
      { what: "largest gradient with batch-norm", paper: "± 0.04", mark: "F", ours: range("batch") },
      { what: "largest gradient without", paper: "± 4, with a spike at 0", mark: "F", ours: range("none") },
      { what: "standard deviations apart", paper: "about 100 times", mark: "F", ours: ratio },
    ];
  },

  async exhibit(cells) {
    const groups = (["batch", "none"] as const)
      .map((norm) => ofNorm(cells, norm))
      .filter((g) => g.length > 0);
    return {
      figures: await Promise.all(
        groups.map(async (group) => {
          const { histogram: bins, variance, count, layer } = group[0]!.data;
          const { norm, depth } = group[0]!.configuration;
          if (!bins) return { svg: "", caption: `${NORM_LABELS[norm]}: the gradient is zero or not finite` };
          const width = (bins.high - bins.low) / bins.counts.length;
          return {
            svg: await histogramChart(
              {
                label: NORM_LABELS[norm],
                edges: Array.from({ length: bins.counts.length + 1 }, (_, b) => bins.low + b * width),
                counts: bins.counts,
              },
              [],
              {
                title: `Layer ${layer} of ${depth}, ${NORM_LABELS[norm]}`,
                x: "∂L/∂w",
                y: "entries per bin",
                yScale: "log",
                color: norm === "batch" ? 0 : 1,
              },
            ),
            caption: `${count} entries, standard deviation ${show(Math.sqrt(variance))}, seed ${group[0]!.seed}. The scales of x differ.`,
          };
        }),
      ),
    };
  },
});
