// Batch-norm only before the classifier: most of the gain in stability comes from there.

import { defineExperiment, judge, missing, type Preset } from "./experiment.ts";
import { sweepFigure } from "./learning-rates.ts";
import { lineChart } from "./plot.ts";
import { NORM_LABELS } from "./setup.ts";
import { logGrid, percent, show } from "./statistics.ts";
import {
  bandOf,
  groupSeeds,
  largestStableRate,
  runTraining,
  type SweepAndTrain,
  showRate,
  sweepAndTrain,
  type TrainingCell,
  type TrainingData,
} from "./training.ts";

const PRESETS: Record<Preset, SweepAndTrain> = {
  quick: {
    network: { width: 8, batchSize: 32, shrink: 2, schedule: "constant", augment: false },
    depth: { train: 20, sweep: 110 },
    steps: { train: 124, sweep: 12 },
    train: { batch: [0.01], last: [0.01], none: [0.01] },
    sweep: { batch: logGrid(0.1, 10, 1), last: logGrid(0.01, 10, 1), none: logGrid(1e-4, 0.1, 1) },
  },
  standard: {
    network: { width: 16, batchSize: 128, shrink: 1, schedule: "step", augment: true },
    depth: { train: 56, sweep: 56 },
    steps: { train: 1950, sweep: 100 },
    train: { batch: [0.1, 0.01], last: [0.1, 0.01], none: [0.01, 0.001] },
    sweep: { batch: logGrid(0.01, 100, 2), last: logGrid(0.001, 100, 2), none: logGrid(1e-5, 1, 2) },
  },
  paper: {
    network: { width: 16, batchSize: 128, shrink: 1, schedule: "step", augment: true },
    depth: { train: 110, sweep: 110 },
    steps: { train: 165 * 390, sweep: 390 },
    train: { batch: [0.1, 0.003], last: [0.1, 0.03, 0.003], none: [0.0001] },
    sweep: { batch: logGrid(0.01, 100, 4), last: logGrid(0.001, 10, 4), none: logGrid(1e-6, 0.1, 4) },
  },
};

export const bnLastLayer = defineExperiment<TrainingCell, TrainingData>({
  id: "bn-last-layer",
  title: "Batch-norm before the classifier only",
  source: "§ 3",
  about:
    "The same network with batch-norm after every convolution, only on the output of the last residual block, and nowhere: on a log " +
    "grid of rates for the first steps, where divergence shows, and trained for the accuracy.",

  configurations: (preset) => sweepAndTrain(PRESETS[preset]),

  run: runTraining,

  async report(cells) {
    const criterion =
      "With batch-norm in the last layer alone, the largest stable rate is at least three times that without any";
    const swept = cells.filter(({ configuration }) => configuration.role === "sweep");
    const groups = groupSeeds(cells.filter(({ configuration }) => configuration.role === "train"));
    const norms = (["batch", "last", "none"] as const).map((norm) => {
      const mine = groups.filter(({ configuration }) => configuration.norm === norm);
      const best = mine.filter(({ diverged }) => diverged === 0).sort((a, b) => b.accuracy - a.accuracy)[0];
      return { norm, mine, best, stable: largestStableRate(swept, norm) };
    });
    const [batch, last, none] = norms as [(typeof norms)[0], (typeof norms)[0], (typeof norms)[0]];
    if (swept.length === 0) return { findings: [missing(criterion)], figures: [] };
    const ratio = last.stable.rate / none.stable.rate;
    const accuracy = ({ norm, best }: (typeof norms)[0]) =>
      best
        ? `${percent(best.accuracy)} ${NORM_LABELS[norm]} (rate ${best.configuration.lr})`
        : `nothing ${NORM_LABELS[norm]}`;
    const trainedDepth = groups[0]?.configuration.depth;
    return {
      findings: [
        {
          criterion,
          measured:
            `depth ${swept[0]!.configuration.depth}: ${showRate(none.stable)} without, ${showRate(last.stable)} with the last layer's ` +
            `(${last.stable.open ? "at least " : ""}${show(ratio)} times), ${showRate(batch.stable)} with batch-norm everywhere`,
          verdict: none.stable.open ? "inconclusive" : judge(ratio >= 3, ratio),
        },
      ],
      figures: [
        await sweepFigure(swept),
        {
          svg: await lineChart(
            groups.map((group) =>
              bandOf(
                `${NORM_LABELS[group.configuration.norm]}, ${group.configuration.lr}`,
                group.cells.map(({ data }) => data.log.map(({ step, loss }) => [step, loss] as const)),
              ),
            ),
            {
              title: `Training loss, depth ${trainedDepth}`,
              x: "step",
              y: "cross-entropy (nats)",
              yScale: "log",
            },
          ),
          caption: "Mean over seeds. Runs end where they diverge.",
        },
      ],
      notes:
        groups.length > 0
          ? [`Best test accuracy at depth ${trainedDepth}: ${norms.map(accuracy).join(", ")}.`]
          : [],
    };
  },
});
