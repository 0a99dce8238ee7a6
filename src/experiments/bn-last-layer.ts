// Batch-norm only before the classifier: most of the gain in stability comes from there.

import { defineExperiment, type Finding, missing, type Preset } from "./experiment.ts";
import { lineChart } from "./plot.ts";
import { SWEPT, TRAINING } from "./presets.ts";
import { judgeStableRates, largestStableRate, showLearning, showLimit, sweepFigure } from "./rates.ts";
import { NORM_LABELS, ofNorm } from "./setup.ts";
import { bootstrap, judgeAtLeast, logGrid, mean, percent, show, showInterval } from "./statistics.ts";
import {
  bandOf,
  bestOf,
  groupSeeds,
  sweepCells,
  type TrainingCell,
  type TrainingData,
  type TrainingResult,
  trainCells,
  training,
  trainingRepeats,
} from "./training.ts";

const TRAINED: Record<Preset, Record<"batch" | "last" | "none", number[]>> = {
  "first-look": { batch: [0.1], last: [0.003], none: [0.003] },
  quick: { batch: [0.1, 0.01], last: [0.01, 0.003], none: [0.003] },
  standard: { batch: [0.1, 0.003], last: [0.1, 0.01, 0.001], none: [0.0001, 0.001] },
  paper: { batch: [0.1, 0.03], last: [0.1, 0.03, 0.003], none: [0.001, 0.0001] },
};
const LAST: Record<Preset, number[]> = {
  "first-look": logGrid(0.01, 10, 1),
  quick: logGrid(1e-3, 10, 1),
  standard: logGrid(1e-3, 100, 2),
  paper: logGrid(1e-3, 10, 4),
};

const CRITERIA = {
  rate: "With batch-norm before the classifier alone, the largest stable rate is at least three times that without any",
  share:
    "At their best rates it reaches at least half of the gain in test accuracy of batch-norm everywhere (the paper: about two thirds)",
};

const split = (cells: readonly TrainingResult[]) => {
  const trained = groupSeeds(cells.filter(({ configuration }) => configuration.role === "train"));
  const best = (norm: "batch" | "last" | "none") => bestOf(ofNorm(trained, norm));
  return {
    trained,
    swept: cells.filter(({ configuration }) => configuration.role === "sweep"),
    best: { batch: best("batch"), last: best("last"), none: best("none") },
  };
};

export const bnLastLayer = defineExperiment<TrainingCell, TrainingData>({
  id: "bn-last-layer",
  title: "Batch-norm before the classifier only",
  source: "§ 3, text",
  claim:
    "One batch-norm at the end of the network already allows a rate of 0.03 and gives about two thirds of the gain: it stops the growth of the logits.",
  about:
    "The same network with batch-norm after every convolution, only on the output of the last residual block, and nowhere: on a log " +
    "grid of rates for the first steps, where divergence shows, and trained for the accuracy.",
  measurements: [training],

  configurations: (preset) => [
    ...trainCells(TRAINING[preset], TRAINED[preset]),
    ...sweepCells(TRAINING[preset], {
      batch: SWEPT[preset].batch,
      last: LAST[preset],
      none: SWEPT[preset].none,
    }),
  ],

  repeats: trainingRepeats,

  verdict(cells) {
    const { swept, best } = split(cells);
    const { batch, last, none } = best;
    const stable = judgeStableRates(CRITERIA.rate, swept, ["last", "none"], 3);
    if (!batch || !last || !none) {
      const absent = (["batch", "last", "none"] as const).filter((norm) => !best[norm]);
      const what = `training that did not diverge ${absent.map((norm) => NORM_LABELS[norm]).join(", ")}`;
      return [stable, missing(CRITERIA.share, what)];
    }
    const groups = [batch, last, none].map(({ accuracies }) => accuracies);
    const gain = bootstrap(groups, ([b, , n]) => mean(b!) - mean(n!));
    const beyond = bootstrap(groups, ([b, l, n]) => mean(l!) - mean(n!) - (mean(b!) - mean(n!)) / 2);
    const told = (group: typeof batch) =>
      `${percent(group.accuracy)} ${NORM_LABELS[group.configuration.norm]} (rate ${show(group.configuration.lr)})`;
    const share = (last.accuracy - none.accuracy) / (batch.accuracy - none.accuracy);
    const accuracy: Finding = {
      criterion: CRITERIA.share,
      measured:
        `${[batch, last, none].map(told).join(", ")}: ${percent(share)} of the gain; above half of it: ` +
        `${showInterval(beyond, percent)}${gain.low > 0 ? "" : "; no gain of batch-norm everywhere to compare with"}`,
      verdict: gain.low > 0 ? judgeAtLeast(beyond, 0) : "inconclusive",
    };
    return [stable, accuracy];
  },

  compare(cells) {
    const { swept, best } = split(cells);
    const last = ofNorm(swept, "last");
    const { batch, last: trained, none } = best;
    return [
      {
        what: "largest rate with batch-norm before the classifier only",
        paper: "0.03",
        mark: "R",
        ours:
          last.length > 0
            ? `${showLimit(largestStableRate(last))} does not diverge, ${showLearning(last)} learns`
            : "–",
      },
      {
        what: "its test accuracy",
        paper: "90.1 %",
        mark: "R",
        ours: trained ? percent(trained.accuracy) : "–",
      },
      {
        what: "share of the gain of batch-norm everywhere",
        paper: "about two thirds",
        mark: "R",
        ours:
          batch && trained && none
            ? percent((trained.accuracy - none.accuracy) / (batch.accuracy - none.accuracy))
            : "–",
      },
    ];
  },

  async exhibit(cells) {
    const { swept, trained } = split(cells);
    const figures = [];
    if (swept.length > 0) figures.push(await sweepFigure(swept));
    if (trained.length > 0) {
      figures.push({
        svg: await lineChart(
          trained.map((group) =>
            bandOf(
              `${NORM_LABELS[group.configuration.norm]}, ${show(group.configuration.lr)}`,
              group.cells.map(({ data, configuration }) =>
                data.evals.map(
                  ({ step, testAccuracy }) => [(100 * step) / configuration.steps, testAccuracy] as const,
                ),
              ),
            ),
          ),
          {
            title: `Test accuracy, depth ${trained[0]!.configuration.depth}`,
            x: "% of training",
            y: "accuracy",
            yDomain: [0, 1],
            yFormat: "%",
          },
        ),
        caption: "Mean over seeds. Runs end where they diverge.",
      });
    }
    return { figures };
  },
});
