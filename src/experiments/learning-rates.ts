// The paper's claim itself: batch-norm allows larger learning rates, and these are what helps.

import type { ResNetNorm } from "../nn/models/resnet.ts";
import { type Comparison, defineExperiment, type Finding, missing, type Preset } from "./experiment.ts";
import { lineChart } from "./plot.ts";
import { SWEPT, TRAINING } from "./presets.ts";
import { hasLearned, judgeStableRates, sweepFigure } from "./rates.ts";
import { NORM_LABELS, ofNorm } from "./setup.ts";
import { bootstrap, judgeAtLeast, mean, percent, show, showInterval } from "./statistics.ts";
import {
  bandOf,
  bestOf,
  groupSeeds,
  hasPlateaued,
  type SeedGroup,
  sweepCells,
  type TrainingCell,
  type TrainingData,
  trainCells,
  training,
  trainingCell,
  trainingRepeats,
} from "./training.ts";

/** Rates trained in full. The paper trains the longer the smaller the rate, until each has plateaued. */
const TRAINED: Record<Exclude<Preset, "paper">, Record<"batch" | "none", number[]>> = {
  "first-look": { batch: [0.1, 0.003], none: [0.003] },
  quick: { batch: [0.1, 0.01, 0.003], none: [0.003] },
  standard: { batch: [0.1, 0.003, 0.0001], none: [0.0001, 0.001] },
};
const PAPER_EPOCHS = [
  { lr: 0.1, epochs: 165, norms: ["batch"] },
  { lr: 0.003, epochs: 1320, norms: ["batch"] },
  { lr: 0.0001, epochs: 2400, norms: ["batch", "none"] },
] as const;

const CRITERIA = {
  ratio: "The largest stable rate with batch-norm is at least ten times that without",
  matched:
    "Once both have plateaued, batch-norm at the same small rate gains at most a third of what it gains at its best rate",
  best: "Batch-norm at its best rate, a larger one, beats both networks at the small rate",
};

/** Batch-norm and none at the largest rate that both survive, as in the paper, and batch-norm at its best. */
function matchedRates(
  trained: readonly SeedGroup[],
): { match: SeedGroup; without: SeedGroup; best: SeedGroup } | null {
  const stable = (norm: ResNetNorm) => ofNorm(trained, norm).filter(({ diverged }) => diverged === 0);
  const pair = stable("none")
    .flatMap((without) => {
      const match = stable("batch").find(
        ({ configuration: { lr, steps } }) =>
          lr === without.configuration.lr && steps === without.configuration.steps,
      );
      return match ? [{ match, without }] : [];
    })
    .sort((a, b) => b.match.configuration.lr - a.match.configuration.lr)[0];
  const best = bestOf(ofNorm(trained, "batch"));
  return pair && best ? { ...pair, best } : null;
}

const told = ({ accuracy, std, configuration }: SeedGroup) =>
  `${percent(accuracy)}${Number.isNaN(std) ? "" : ` ± ${percent(std)}`} (rate ${show(configuration.lr)})`;

function judgeAccuracies(trained: readonly SeedGroup[]): Finding[] {
  const rates = matchedRates(trained);
  if (!rates) {
    const what = "networks with and without batch-norm trained at one rate that both survive";
    return [missing(CRITERIA.matched, what), missing(CRITERIA.best, what)];
  }
  const { match, without, best } = rates;
  const groups = [match, without, best].map(({ accuracies }) => accuracies);
  // A network that is stuck, so that it answers each image alike, is flat too.
  const plateaued = [match, without].every(({ cells }) =>
    cells.every(({ data, configuration }) => hasLearned(data) && hasPlateaued(data, configuration.schedule)),
  );
  // What of the gain at the best rate is left above what the matched rate gives, less a third.
  const left = bootstrap(groups, ([m, w, b]) => (mean(b!) - mean(w!)) / 3 - (mean(m!) - mean(w!)));
  const lead = bootstrap(groups, ([m, w, b]) => mean(b!) - Math.max(mean(m!), mean(w!)));
  const gains = `${percent(match.accuracy - without.accuracy)} of ${percent(best.accuracy - without.accuracy)}`;
  return [
    {
      criterion: CRITERIA.matched,
      measured:
        `${told(match)} with, ${told(without)} without, ${told(best)} with at best: gains ${gains}; a third of the one less the other: ` +
        `${showInterval(left, percent)}${plateaued ? "" : "; not both have plateaued"}`,
      verdict: plateaued ? judgeAtLeast(left, 0) : "inconclusive",
    },
    {
      criterion: CRITERIA.best,
      measured:
        `${told(best)} at best, ${percent(match.accuracy)} and ${percent(without.accuracy)} at rate ${show(match.configuration.lr)}: ` +
        `ahead by ${showInterval(lead, percent)}`,
      // At one and the same rate batch-norm has no larger one to thank.
      verdict: best === match && !Number.isNaN(lead.low) ? "does not hold" : judgeAtLeast(lead, 0),
    },
  ];
}

export const learningRates = defineExperiment<TrainingCell, TrainingData>({
  id: "learning-rates",
  title: "Learning rates with and without batch-norm",
  source: "§ 3, Fig. 1",
  claim:
    "Batch-norm helps because it allows larger learning rates: at the small rate that a network without it survives, it gains little.",
  about:
    "The same residual network with and without batch-norm: trained at several learning rates, and on a log grid of rates for the first " +
    "steps, where divergence shows. A run has diverged when the loss of a mini-batch passes 10³ and ten times its start, or is not finite; " +
    "it has learned when the loss is below nine tenths of its start and of ln(classes), which a dead network reaches too.",
  measurements: [training],

  configurations(preset) {
    const swept = sweepCells(TRAINING[preset], SWEPT[preset]);
    if (preset !== "paper") return [...trainCells(TRAINING[preset], TRAINED[preset]), ...swept];
    const { network, train } = TRAINING.paper;
    const trained = PAPER_EPOCHS.flatMap(({ lr, epochs, norms }) =>
      norms.map((norm) =>
        trainingCell({ role: "train", norm, ...network, ...train, lr, steps: epochs * 390 }),
      ),
    );
    return [...trained, ...swept];
  },

  repeats: trainingRepeats,

  verdict(cells) {
    const swept = cells.filter(({ configuration }) => configuration.role === "sweep");
    const trained = groupSeeds(cells.filter(({ configuration }) => configuration.role === "train"));
    return [judgeStableRates(CRITERIA.ratio, swept, ["batch", "none"], 10), ...judgeAccuracies(trained)];
  },

  compare(cells) {
    const trained = groupSeeds(cells.filter(({ configuration }) => configuration.role === "train"));
    const ours = (norm: ResNetNorm, lr: number) => {
      const group = ofNorm(trained, norm).find(({ configuration }) => configuration.lr === lr);
      return group ? percent(group.accuracy) : "not run at this rate";
    };
    const row = (norm: ResNetNorm, lr: number, paper: string): Comparison => ({
      what: `test accuracy at the end, ${NORM_LABELS[norm]}, rate ${lr}`,
      paper,
      mark: "F",
      ours: ours(norm, lr),
    });
    const last = (norm: ResNetNorm) => {
      const group = bestOf(ofNorm(trained, norm));
      return group ? percent(mean(group.cells.map(({ data }) => data.log.at(-1)!.accuracy))) : "–";
    };
    return [
      row("batch", 0.1, "93.2 %"),
      row("batch", 0.003, "90.4 %"),
      row("batch", 0.0001, "81.2 %"),
      row("none", 0.0001, "82.0 ± 1 %"),
      {
        what: "training accuracy at the end",
        paper: "near 100 % for all",
        mark: "F",
        ours: `${last("batch")} with, ${last("none")} without, at the best rates`,
      },
      {
        what: "epochs at rates 0.1, 0.003, 0.0001",
        paper: "165, 1,320, 2,400",
        mark: "N",
        ours: trained.length > 0 ? epochsOf(trained) : "–",
      },
    ];
  },

  async exhibit(cells) {
    const swept = cells.filter(({ configuration }) => configuration.role === "sweep");
    const trained = groupSeeds(cells.filter(({ configuration }) => configuration.role === "train"));
    const figures = [];
    if (trained.length > 0) {
      const curves = (pick: (data: TrainingData) => [number, number][]) =>
        trained.map((group) =>
          bandOf(
            `${NORM_LABELS[group.configuration.norm]}, ${show(group.configuration.lr)}`,
            group.cells.map(({ data, configuration }) =>
              pick(data).map(([step, y]) => [(100 * step) / configuration.steps, y] as const),
            ),
          ),
        );
      const axes = { x: "% of training", y: "accuracy", yDomain: [0, 1] as const, yFormat: "%" };
      const { depth } = trained[0]!.configuration;
      figures.push(
        {
          svg: await lineChart(
            curves(({ log }) => log.map(({ step, accuracy }) => [step, accuracy])),
            { title: `Training accuracy, depth ${depth}`, ...axes },
          ),
          caption: "Mean over seeds; the band is one standard deviation.",
        },
        {
          svg: await lineChart(
            curves(({ evals }) => evals.map(({ step, testAccuracy }) => [step, testAccuracy])),
            { title: `Test accuracy, depth ${depth}`, ...axes },
          ),
          caption: "After each epoch.",
        },
        {
          svg: await lineChart(
            curves(({ log }) => log.map(({ step, loss }) => [step, loss])),
            { title: `Training loss, depth ${depth}`, x: axes.x, y: "cross-entropy (nats)", yScale: "log" },
          ),
          caption: "Mean over the steps since the reading before, and over seeds.",
        },
      );
    }
    if (swept.length > 0) figures.push(await sweepFigure(swept));
    return { figures };
  },
});

const epochsOf = (groups: readonly SeedGroup[]): string =>
  groups
    .map(({ configuration, cells }) => {
      const epochs = configuration.steps / cells[0]!.data.batchesPerEpoch;
      return `${show(epochs)} at ${show(configuration.lr)} ${NORM_LABELS[configuration.norm]}`;
    })
    .join(", ");
