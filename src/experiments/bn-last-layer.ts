// Batch-norm only before the classifier: most of the gain in stability comes from there.

import { defineExperiment, judge, missing, type Preset } from "./experiment.ts";
import { sweepFigure } from "./learning-rates.ts";
import { lineChart } from "./plot.ts";
import { NORM_LABELS } from "./setup.ts";
import { logGrid, percent, show } from "./statistics.ts";
import {
  groupSeeds,
  largestStableRate,
  runTraining,
  showRate,
  type TrainingCell,
  type TrainingData,
} from "./training.ts";

interface Settings {
  network: Pick<TrainingCell, "depth" | "width" | "batchSize" | "shrink" | "schedule" | "augment" | "steps">;
  rates: Record<"batch" | "last" | "none", readonly number[]>;
}

const PRESETS: Record<Preset, Settings> = {
  quick: {
    network: {
      depth: 56,
      width: 8,
      batchSize: 32,
      shrink: 2,
      schedule: "constant",
      augment: false,
      steps: 31,
    },
    rates: { batch: logGrid(0.01, 10, 1), last: logGrid(0.01, 10, 1), none: logGrid(0.001, 1, 1) },
  },
  standard: {
    network: {
      depth: 56,
      width: 16,
      batchSize: 128,
      shrink: 1,
      schedule: "constant",
      augment: true,
      steps: 390,
    },
    rates: { batch: logGrid(0.001, 100, 2), last: logGrid(0.001, 100, 2), none: logGrid(1e-5, 1, 2) },
  },
  paper: {
    network: {
      depth: 110,
      width: 16,
      batchSize: 128,
      shrink: 1,
      schedule: "step",
      augment: true,
      steps: 165 * 390,
    },
    rates: { batch: logGrid(0.001, 10, 2), last: logGrid(1e-4, 10, 2), none: logGrid(1e-5, 0.1, 2) },
  },
};

export const bnLastLayer = defineExperiment<TrainingCell, TrainingData>({
  id: "bn-last-layer",
  title: "Batch-norm before the classifier only",
  source: "§ 3",
  about:
    "The same network with batch-norm after every convolution, only on the output of the last residual block, and nowhere, " +
    "trained at each rate of a log grid: the largest rate that does not diverge, and the accuracy at the best one.",

  configurations(preset) {
    const { network, rates } = PRESETS[preset];
    return (["batch", "last", "none"] as const).flatMap((norm) =>
      rates[norm].map(
        (lr): TrainingCell => ({ label: `${norm} lr ${lr}`, role: "train", norm, lr, ...network }),
      ),
    );
  },

  run: runTraining,

  async report(cells) {
    const criterion =
      "With batch-norm in the last layer alone, the largest stable rate is at least three times that without any";
    const groups = groupSeeds(cells);
    const norms = (["batch", "last", "none"] as const).map((norm) => {
      const mine = groups.filter(({ configuration }) => configuration.norm === norm);
      const best = mine.filter(({ diverged }) => diverged === 0).sort((a, b) => b.accuracy - a.accuracy)[0];
      return { norm, mine, best, stable: largestStableRate(cells, norm) };
    });
    const [batch, last, none] = norms as [(typeof norms)[0], (typeof norms)[0], (typeof norms)[0]];
    if (last.mine.length === 0 || none.mine.length === 0)
      return { findings: [missing(criterion)], figures: [] };
    const ratio = last.stable.rate / none.stable.rate;
    return {
      findings: [
        {
          criterion,
          measured:
            `${showRate(none.stable)} without, ${showRate(last.stable)} with the last layer's (${last.stable.open ? "at least " : ""}${show(ratio)} times), ` +
            `${showRate(batch.stable)} with batch-norm everywhere`,
          verdict: none.stable.open ? "inconclusive" : judge(ratio >= 3, ratio),
        },
      ],
      figures: [
        await sweepFigure(cells),
        {
          svg: await lineChart(
            norms.map(({ norm, mine }) => ({
              label: NORM_LABELS[norm],
              points: mine
                .filter(({ diverged }) => diverged === 0)
                .map(({ configuration, accuracy, std }) =>
                  Number.isNaN(std)
                    ? ([configuration.lr, accuracy] as const)
                    : ([configuration.lr, accuracy, accuracy - std, accuracy + std] as const),
                ),
            })),
            {
              title: "Test accuracy",
              x: "learning rate",
              y: "share classified right",
              xScale: "log",
              yDomain: [0, 1],
              yFormat: "%",
            },
          ),
          caption: "At the end of the run. Rates that diverged are left out.",
        },
      ],
      tables: [
        {
          caption: "Over all rates of the grid",
          head: ["batch-norm", "largest stable rate", "best test accuracy", "at rate"],
          rows: norms.map(({ norm, stable, best }) => [
            NORM_LABELS[norm],
            showRate(stable),
            best ? percent(best.accuracy) : "–",
            best ? String(best.configuration.lr) : "–",
          ]),
        },
      ],
    };
  },
});
