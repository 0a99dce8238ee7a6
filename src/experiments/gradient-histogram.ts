// Without batch-norm the gradients of one layer's weights have heavy tails.

import { crossEntropy, type GradientStatistics, probe } from "../train/probes.ts";
import { type Configuration, defineExperiment, judge, missing } from "./experiment.ts";
import { histogramChart } from "./plot.ts";
import {
  convolutionAt,
  DEEP,
  disposeBatch,
  freshNetwork,
  type NetworkSettings,
  NORM_LABELS,
  trainingBatch,
} from "./setup.ts";
import { mean, percent, show } from "./statistics.ts";

interface Settings extends Configuration, NetworkSettings {
  norm: "batch" | "none";
}

interface Data extends GradientStatistics {
  layer: number;
}

export const gradientHistogram = defineExperiment<Settings, Data>({
  id: "gradient-histogram",
  title: "Gradients at initialisation",
  source: "§ 3.1, Fig. 2",
  about:
    "The gradient of the weights of the middle convolution (55 of 110) on one batch, before any training: its histogram, kurtosis, " +
    "and the share of entries further than five median absolute deviations from the median.",

  configurations: (preset) =>
    (["batch", "none"] as const).map((norm) => ({ label: norm, norm, ...DEEP[preset] })),

  async run({ gpu, data }, settings, seed) {
    const model = freshNetwork(gpu, data, settings, seed);
    const batch = trainingBatch(gpu, data, settings.batchSize, seed);
    try {
      const { layer, name } = convolutionAt(model, 55);
      const loss = crossEntropy(model, batch.images, batch.labels);
      const [statistics] = await probe.gradients(model, loss, {
        parameters: (parameter) => parameter === `${name}.weight`,
      });
      return { layer, ...statistics! };
    } finally {
      disposeBatch(batch);
      model.dispose();
    }
  },

  async report(cells) {
    const criteria = {
      kurtosis: "Without batch-norm the kurtosis is larger",
      tail: "Without batch-norm more of the mass lies beyond 5 MAD",
    };
    const of = (norm: string) => cells.filter(({ configuration }) => configuration.norm === norm);
    const [batch, none] = [of("batch"), of("none")];
    if (batch.length === 0 || none.length === 0)
      return { findings: Object.values(criteria).map(missing), figures: [] };
    const average = (group: typeof cells, pick: (data: Data) => number) =>
      mean(group.map(({ data }) => pick(data)));
    const kurtosis = [none, batch].map((group) => average(group, (d) => d.kurtosis)) as [number, number];
    const tail = [none, batch].map((group) => average(group, (d) => d.tailMass)) as [number, number];
    const { layer } = cells[0]!.data;
    const { depth } = cells[0]!.configuration;
    return {
      findings: [
        {
          criterion: criteria.kurtosis,
          measured: `${show(kurtosis[0])} without, ${show(kurtosis[1])} with (normal numbers: 3)`,
          verdict: judge(kurtosis[0] > kurtosis[1], ...kurtosis),
        },
        {
          criterion: criteria.tail,
          measured: `${percent(tail[0])} without, ${percent(tail[1])} with (normal numbers: 0.1 %)`,
          verdict: judge(tail[0] > tail[1], ...tail),
        },
      ],
      figures: await Promise.all(
        [batch, none].map(async (group, i) => {
          const { histogram, variance, count } = group[0]!.data;
          const { norm } = group[0]!.configuration;
          if (!histogram)
            return { svg: "", caption: `${NORM_LABELS[norm]}: the gradient is zero or not finite` };
          const width = (histogram.high - histogram.low) / histogram.counts.length;
          return {
            svg: await histogramChart(
              {
                label: NORM_LABELS[norm],
                edges: Array.from(
                  { length: histogram.counts.length + 1 },
                  (_, b) => histogram.low + b * width,
                ),
                counts: histogram.counts,
              },
              [],
              {
                title: `Layer ${layer} of ${depth}, ${NORM_LABELS[norm]}`,
                x: "∂L/∂w",
                y: "entries per bin",
                yScale: "log",
                color: i,
              },
            ),
            caption: `${count} entries, standard deviation ${show(Math.sqrt(variance))}, seed ${group[0]!.seed}. The scales of x differ.`,
          };
        }),
      ),
    };
  },
});
