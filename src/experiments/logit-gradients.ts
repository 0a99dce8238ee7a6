// At initialisation without batch-norm, the network is sure of one class: all images push the weights the same way.

import { type LogitGradients, probe } from "../train/probes.ts";
import {
  type Cell,
  type Configuration,
  defineExperiment,
  defineMeasurement,
  judge,
  missing,
} from "./experiment.ts";
import { heatMap } from "./plot.ts";
import {
  atInitialisation,
  lacking,
  type NetworkSettings,
  NORM_LABELS,
  ofNorm,
  withNetwork,
} from "./setup.ts";
import { bootstrap, judgeAtLeast, mean, percent, show, showInterval } from "./statistics.ts";
import { networkWork } from "./work.ts";

interface Settings extends Configuration, NetworkSettings {
  measure: "logits";
}

/** What the figure shows of ∂L/∂logits. */
export interface Saturation {
  /** Share of images of which one class gets more than 99 % of the probability. */
  saturated: number;
  /** Share of images whose largest gradient is in the same class. */
  largestInOne: number;
  /** The strongest class's share of all positive gradient. */
  strongestShare: number;
}

export interface LogitData
  extends Pick<LogitGradients, "loss" | "gradients" | "modalShare" | "meanCosine">,
    Saturation {
  classNames: string[];
}

const SURE = 0.99;

/** @param gradients of the mean loss: (p − [label]) / images, so that the label's is the only one below 0 */
export function saturation(gradients: readonly (readonly number[])[]): Saturation {
  const images = gradients.length;
  let sure = 0;
  const largest = gradients[0]!.map(() => 0);
  const positive = gradients[0]!.map(() => 0);
  for (const row of gradients) {
    const lowest = row.indexOf(Math.min(...row));
    const probabilities = row.map((value, k) => images * value + Number(k === lowest));
    if (Math.max(...probabilities) > SURE) sure += 1;
    largest[row.indexOf(Math.max(...row))]! += 1;
    row.forEach((value, k) => {
      positive[k]! += Math.max(0, value);
    });
  }
  return {
    saturated: sure / images,
    largestInOne: Math.max(...largest) / images,
    strongestShare: Math.max(...positive) / positive.reduce((sum, value) => sum + value, 0),
  };
}

const logits = defineMeasurement<Settings, LogitData>({
  id: "logits",
  run: (context, settings, seed) =>
    withNetwork(context, settings, seed, async (model, { images, labels }, { train }) => {
      const { loss, gradients, modalShare, meanCosine } = await probe.logitGradients(model, images, labels);
      return {
        loss,
        gradients,
        modalShare,
        meanCosine,
        ...saturation(gradients),
        classNames: train.classNames,
      };
    }),
  work: (settings, image) => networkWork(settings, image, { forwards: 1 }),
});

const CRITERIA = {
  saturated:
    "Before any training at least 90 % of the images are saturated (one class has p > 0.99) without batch-norm, at most 10 % with it",
  strongest: "The strongest class's share of all positive gradient is lower with batch-norm by at least 0.2",
  cosine: "The gradients of different images point the same way less with batch-norm (mean cosine)",
};

const values = (
  cells: readonly Cell<Settings, LogitData>[],
  norm: "batch" | "none",
  field: keyof LogitData,
) => ofNorm(cells, norm).map(({ data }) => data[field] as number);

export const logitGradients = defineExperiment<Settings, LogitData>({
  id: "logit-gradients",
  title: "Gradients of the logits at initialisation",
  source: "§ 3.2, Fig. 6",
  claim:
    "Without batch-norm an untrained network is sure of one class for every image, so that all images pull the weights the same way.",
  about:
    "∂L/∂logits of an untrained network, images × classes: how many images are saturated, how much of the positive gradient one class " +
    "has, and how alike the images' gradients are.",
  measurements: [logits],

  configurations: (preset) => atInitialisation("logits", preset, {}),

  // Cheap, and which class wins depends on the weights: four networks at least.
  repeats: (_settings, seeds) => Math.max(4, seeds),

  verdict(cells) {
    const absent = lacking(cells);
    if (absent) return Object.values(CRITERIA).map((criterion) => missing(criterion, absent));
    const pair = (field: keyof LogitData) =>
      [values(cells, "none", field), values(cells, "batch", field)] as const;
    const sure = pair("saturated").map(mean) as [number, number];
    const lowerBy = (field: keyof LogitData) => bootstrap(pair(field), ([a, b]) => mean(a!) - mean(b!));
    const strongest = lowerBy("strongestShare");
    const cosine = lowerBy("meanCosine");
    const told = (field: keyof LogitData) => {
      const [none, batch] = pair(field).map(mean) as [number, number];
      return `${show(none, 2)} without, ${show(batch, 2)} with`;
    };
    return [
      {
        criterion: CRITERIA.saturated,
        measured: `${percent(sure[0])} without, ${percent(sure[1])} with`,
        verdict: judge(sure[0] >= 0.9 && sure[1] <= 0.1, ...sure),
      },
      {
        criterion: CRITERIA.strongest,
        measured: `${told("strongestShare")}: lower by ${showInterval(strongest)}`,
        verdict: judgeAtLeast(strongest, 0.2),
      },
      {
        criterion: CRITERIA.cosine,
        measured: `${told("meanCosine")}: lower by ${showInterval(cosine)}`,
        verdict: judgeAtLeast(cosine, 0),
      },
    ];
  },

  compare(cells) {
    const ours = (field: keyof LogitData, norm: "batch" | "none") => {
      const numbers = values(cells, norm, field);
      return numbers.length > 0 ? show(mean(numbers), 2) : "–";
    };
    const row = (what: string, field: keyof LogitData, none: string, batch: string) =>
      [
        { what: `${what}, without`, paper: none, mark: "F", ours: ours(field, "none") },
        { what: `${what}, with batch-norm`, paper: batch, mark: "F", ours: ours(field, "batch") },
      ] as const;
    return [
      ...row("share of images whose largest gradient is in one class", "largestInOne", "0.94", "0.89"),
      ...row("strongest class's share of positive gradient", "strongestShare", "about 0.95", "about 0.25"),
    ];
  },

  async exhibit(cells) {
    const groups = (["batch", "none"] as const)
      .map((norm) => ofNorm(cells, norm))
      .filter((g) => g.length > 0);
    return {
      figures: await Promise.all(
        groups.map(async (group) => {
          const { gradients, classNames, loss } = group[0]!.data;
          return {
            svg: await heatMap(gradients, {
              title: `∂L/∂logits, ${NORM_LABELS[group[0]!.configuration.norm]}`,
              x: "class",
              y: "image",
              color: "∂L/∂logit",
              columns: classNames.map((_, i) => i),
              rows: gradients.map((_, i) => i),
              scale: "diverging",
            }),
            caption: `${gradients.length} images, mean loss ${show(loss)}, seed ${group[0]!.seed}.`,
          };
        }),
      ),
    };
  },
});
