// At initialisation without batch-norm, all images are pushed away from the same class.

import { type LogitGradients, probe } from "../train/probes.ts";
import { type Configuration, defineExperiment, judge, missing } from "./experiment.ts";
import { heatMap } from "./plot.ts";
import {
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

interface Data extends LogitGradients {
  classNames: string[];
}

export const logitGradients = defineExperiment<Settings, Data>({
  id: "logit-gradients",
  title: "Gradients of the logits at initialisation",
  source: "§ 3.2, Fig. 6",
  about:
    "∂L/∂logits of an untrained network, images × classes. Without batch-norm one class gets the largest logit for nearly every " +
    "image, so that all images pull the weights the same way.",

  configurations: (preset) =>
    (["batch", "none"] as const).map((norm) => ({ label: norm, norm, ...DEEP[preset] })),

  // Cheap, and which class wins depends on the weights: four networks at least.
  repeats: (_settings, seeds) => Math.max(4, seeds),

  async run({ gpu, data }, settings, seed) {
    const model = freshNetwork(gpu, data, settings, seed);
    const batch = trainingBatch(gpu, data, settings.batchSize, seed);
    try {
      const result = await probe.logitGradients(model, batch.images, batch.labels);
      return { ...result, classNames: data.train.classNames };
    } finally {
      disposeBatch(batch);
      model.dispose();
    }
  },

  async report(cells) {
    const criteria = {
      modal:
        "Without batch-norm at least 90 % of the images get the same class; with it the share is lower by 25 percentage points or more",
      cosine: "Without batch-norm the gradients of different images point the same way more (mean cosine)",
    };
    const of = (norm: string) => cells.filter(({ configuration }) => configuration.norm === norm);
    const [batch, none] = [of("batch"), of("none")];
    if (batch.length === 0 || none.length === 0)
      return { findings: Object.values(criteria).map(missing), figures: [] };
    const average = (group: typeof cells, pick: (data: Data) => number) =>
      mean(group.map(({ data }) => pick(data)));
    const modal = [none, batch].map((group) => average(group, (d) => d.modalShare)) as [number, number];
    const cosine = [none, batch].map((group) => average(group, (d) => d.meanCosine)) as [number, number];
    return {
      findings: [
        {
          criterion: criteria.modal,
          measured: `${percent(modal[0])} without, ${percent(modal[1])} with`,
          verdict: judge(modal[0] >= 0.9 && modal[1] <= modal[0] - 0.25, ...modal),
        },
        {
          criterion: criteria.cosine,
          measured: `${show(cosine[0], 2)} without, ${show(cosine[1], 2)} with`,
          verdict: judge(cosine[0] > cosine[1], ...cosine),
        },
      ],
      figures: await Promise.all(
        [batch, none].map(async (group) => {
          const { gradients, classNames, loss } = group[0]!.data;
          const shown = gradients.slice(0, 64);
          return {
            svg: await heatMap(shown, {
              title: `∂L/∂logits, ${NORM_LABELS[group[0]!.configuration.norm]}`,
              x: "class",
              y: "image",
              color: "∂L/∂logit",
              columns: classNames.map((_, i) => i),
              rows: shown.map((_, i) => i),
              scale: "diverging",
            }),
            caption: `${shown.length} images, mean loss ${show(loss)}, seed ${group[0]!.seed}.`,
          };
        }),
      ),
    };
  },
});
