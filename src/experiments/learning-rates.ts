// The paper's claim itself: batch-norm allows larger learning rates, and these are what helps.

import type { ResNetNorm } from "../nn/models/resnet.ts";
import { defineExperiment, type Finding, judge, missing, type Preset } from "./experiment.ts";
import { lineChart } from "./plot.ts";
import { NORM_LABELS } from "./setup.ts";
import { logGrid, percent, show } from "./statistics.ts";
import {
  bandOf,
  groupSeeds,
  largestStableRate,
  lossByRate,
  runTraining,
  type SeedGroup,
  type SweepAndTrain,
  showRate,
  sweepAndTrain,
  type TrainingCell,
  type TrainingData,
  trainingRepeats,
} from "./training.ts";

const PRESETS: Record<Preset, SweepAndTrain> = {
  quick: {
    network: { width: 8, batchSize: 32, shrink: 2, schedule: "step", augment: false },
    depth: { train: 20, sweep: 110 },
    steps: { train: 186, sweep: 8 },
    train: { batch: [0.1, 0.01, 0.003], none: [0.003] },
    sweep: { batch: logGrid(0.1, 10, 1), none: logGrid(1e-4, 0.1, 1) },
  },
  standard: {
    network: { width: 16, batchSize: 128, shrink: 1, schedule: "step", augment: true },
    depth: { train: 56, sweep: 56 },
    steps: { train: 3900, sweep: 100 },
    train: { batch: [0.1, 0.003, 0.0001], none: [0.0001, 0.001] },
    sweep: { batch: logGrid(0.01, 100, 2), none: logGrid(1e-5, 1, 2) },
  },
  paper: {
    network: { width: 16, batchSize: 128, shrink: 1, schedule: "step", augment: true },
    depth: { train: 110, sweep: 110 },
    steps: { train: 165 * 390, sweep: 390 },
    train: { batch: [0.1, 0.003, 0.0001], none: [0.0001] },
    sweep: { batch: logGrid(0.01, 100, 4), none: logGrid(1e-6, 0.1, 4) },
  },
};

export const learningRates = defineExperiment<TrainingCell, TrainingData>({
  id: "learning-rates",
  title: "Learning rates with and without batch-norm",
  source: "§ 3, Fig. 1",
  about:
    "The same residual network with and without batch-norm: trained at several learning rates, and on a log grid of rates for " +
    "the first steps, where divergence shows. A run has diverged when its loss passes 10³ or is not finite.",

  configurations: (preset) => sweepAndTrain(PRESETS[preset]),

  repeats: trainingRepeats,

  run: runTraining,

  async report(cells) {
    const criteria = {
      ratio: "The largest stable rate with batch-norm is at least ten times that without",
      matched:
        "At the matched small rate both test accuracies are equal within the spread over seeds (two standard deviations of the difference)",
      best: "Batch-norm at its best rate beats both at the small rate",
    };
    const trained = groupSeeds(cells.filter(({ configuration }) => configuration.role === "train"));
    if (trained.length === 0) return { findings: Object.values(criteria).map(missing), figures: [] };
    const of = (norm: ResNetNorm) => trained.filter(({ configuration }) => configuration.norm === norm);

    const swept = cells.filter(({ configuration }) => configuration.role === "sweep");
    const withNorm = largestStableRate(swept, "batch");
    const without = largestStableRate(swept, "none");
    const ratio = withNorm.rate / without.rate;
    const findings: Finding[] = [
      {
        criterion: criteria.ratio,
        measured: `depth ${swept[0]?.configuration.depth}: ${showRate(withNorm)} with, ${showRate(without)} without: ${withNorm.open ? "at least " : ""}${show(ratio)} times`,
        // An open end without batch-norm hides how much larger its limit is.
        verdict: without.open ? "inconclusive" : judge(ratio >= 10, ratio),
      },
      ...judgeAccuracies(of("batch"), of("none"), criteria),
    ];

    const name = ({ configuration: { norm, lr } }: SeedGroup) => `${NORM_LABELS[norm]}, ${lr}`;
    const curves = (pick: (data: TrainingData) => [number, number][]) =>
      trained.map((group) =>
        bandOf(
          name(group),
          group.cells.map(({ data }) => pick(data)),
        ),
      );
    const accuracyAxes = { x: "step", y: "share classified right", yDomain: [0, 1] as const, yFormat: "%" };
    const figures = [
      {
        svg: await lineChart(
          curves(({ log }) => log.map(({ step, loss }) => [step, loss])),
          {
            title: `Training loss, depth ${trained[0]!.configuration.depth}`,
            x: "step",
            y: "cross-entropy (nats)",
            yScale: "log",
          },
        ),
        caption: "Mean over seeds; the band is one standard deviation.",
      },
      {
        svg: await lineChart(
          curves(({ log }) => log.map(({ step, accuracy }) => [step, accuracy])),
          { title: `Training accuracy, depth ${trained[0]!.configuration.depth}`, ...accuracyAxes },
        ),
        caption: "",
      },
      {
        svg: await lineChart(
          curves(({ evals }) => evals.map(({ step, testAccuracy }) => [step, testAccuracy])),
          { title: `Test accuracy, depth ${trained[0]!.configuration.depth}`, ...accuracyAxes },
        ),
        caption: "After each epoch.",
      },
      await sweepFigure(swept),
    ];
    return { findings, figures };
  },
});

/** Loss at the end of a sweep against the rate; runs that diverged stand at the criterion, 10³. */
export async function sweepFigure(
  cells: Parameters<typeof lossByRate>[0],
): Promise<{ svg: string; caption: string }> {
  const norms = [...new Set(cells.map(({ configuration }) => configuration.norm))];
  const { steps, depth } = cells[0]?.configuration ?? { steps: 0, depth: 0 };
  return {
    svg: await lineChart(
      norms.map((norm) => ({
        label: NORM_LABELS[norm],
        points: lossByRate(cells, norm).map(([lr, loss]) => [lr, Math.min(loss, 1e3)] as const),
      })),
      {
        title: `Loss after ${steps} steps, depth ${depth}`,
        x: "learning rate",
        y: "cross-entropy (nats)",
        xScale: "log",
        yScale: "log",
        yDomain: [1, 1000],
      },
    ),
    caption: "Median over seeds. Runs that diverged are drawn at 10³.",
  };
}

function judgeAccuracies(
  batch: readonly SeedGroup[],
  none: readonly SeedGroup[],
  criteria: { matched: string; best: string },
): Finding[] {
  const stable = (groups: readonly SeedGroup[]) => groups.filter(({ diverged }) => diverged === 0);
  const pairs = stable(none).flatMap((without) => {
    const match = stable(batch).find(({ configuration }) => configuration.lr === without.configuration.lr);
    return match ? [{ match, without }] : [];
  });
  // The largest rate that both survive, as in the paper.
  const pair = pairs.sort((a, b) => b.match.configuration.lr - a.match.configuration.lr)[0];
  const best = [...stable(batch)].sort((a, b) => b.accuracy - a.accuracy)[0];
  if (!pair || !best) return [missing(criteria.matched), missing(criteria.best)];
  const { match, without } = pair;
  const difference = match.accuracy - without.accuracy;
  const spread = 2 * Math.hypot(match.std, without.std);
  const describe = ({ accuracy, std, configuration }: SeedGroup) =>
    `${percent(accuracy)}${Number.isNaN(std) ? "" : ` ± ${percent(std)}`} (rate ${configuration.lr})`;
  return [
    {
      criterion: criteria.matched,
      measured:
        `${describe(match)} with, ${describe(without)} without: difference ${percent(difference)}, ` +
        (Number.isNaN(spread) ? "no spread from one seed" : `allowed ${percent(spread)}`),
      verdict: judge(Math.abs(difference) <= spread, spread),
    },
    {
      criterion: criteria.best,
      measured: `${describe(best)} at best, ${percent(match.accuracy)} and ${percent(without.accuracy)} at rate ${match.configuration.lr}`,
      verdict: judge(
        best !== match && best.accuracy > Math.max(match.accuracy, without.accuracy),
        best.accuracy,
        match.accuracy,
        without.accuracy,
      ),
    },
  ];
}
