// The largest learning rates of a sweep: that do not diverge, and that learn.

import type { ResNetNorm } from "../nn/models/resnet.ts";
import { type Finding, judge, missing } from "./experiment.ts";
import { lineChart, type Point, pointOf } from "./plot.ts";
import { NORM_LABELS, ofNorm } from "./setup.ts";
import { median, show } from "./statistics.ts";
import type { TrainingData, TrainingResult } from "./training.ts";

/** Beside a grid of rates: the largest up to which something holds in every seed, and whether it is the grid's end. */
export interface RateLimit {
  /** NaN if it does not even hold at the smallest rate. */
  rate: number;
  /** The smallest rate at which it does not: the true limit lies between both. Infinite where it holds up to the grid's end. */
  next: number;
  open: boolean;
}

/** The largest rate of the cells that is below all at which `fails` in any seed. */
function limit(cells: readonly TrainingResult[], fails: (data: TrainingData) => boolean): RateLimit {
  const failed = cells.filter(({ data }) => fails(data)).map(({ configuration }) => configuration.lr);
  const least = Math.min(...failed);
  const good = cells.map(({ configuration }) => configuration.lr).filter((lr) => lr < least);
  return {
    rate: good.length > 0 ? Math.max(...good) : Number.NaN,
    next: least,
    open: failed.length === 0 && good.length > 0,
  };
}

/** The largest rate that does not diverge. */
export const largestStableRate = (cells: readonly TrainingResult[]): RateLimit =>
  limit(cells, ({ divergedAt }) => divergedAt !== null);

/**
 * Whether the loss has fallen clearly: below nine tenths of its start, and of ln(classes), which a dead network that gives each class
 * the same chance has reached too.
 */
export function hasLearned({ divergedAt, startLoss, log, classes }: TrainingData): boolean {
  const last = log.at(-1)?.loss ?? Number.NaN;
  return divergedAt === null && last < 0.9 * Math.min(startLoss ?? Number.NaN, Math.log(classes));
}

/** The largest rate at which every seed has learned; NaN if there is none. */
export function largestLearningRate(cells: readonly TrainingResult[]): number {
  const rates = [...new Set(cells.map(({ configuration }) => configuration.lr))].filter((lr) =>
    cells.every(({ configuration, data }) => configuration.lr !== lr || hasLearned(data)),
  );
  return rates.length > 0 ? Math.max(...rates) : Number.NaN;
}

export function showLimit({ rate, open }: RateLimit): string {
  return Number.isNaN(rate) ? "none of the grid" : `${open ? "at least " : ""}${show(rate)}`;
}

/** The largest rate at which every seed has learned, in words. */
export function showLearning(cells: readonly TrainingResult[]): string {
  const rate = largestLearningRate(cells);
  return Number.isNaN(rate) ? "none" : show(rate);
}

/** Of networks of `norm`, both limits in words. */
function tellRates(cells: readonly TrainingResult[], norm: ResNetNorm): string {
  const mine = ofNorm(cells, norm);
  return `${showLimit(largestStableRate(mine))} ${NORM_LABELS[norm]} (largest that learns: ${showLearning(mine)})`;
}

/** Whether the largest stable rate of one norm is at least `factor` times that of another. */
export function judgeStableRates(
  criterion: string,
  swept: readonly TrainingResult[],
  [larger, smaller]: readonly [ResNetNorm, ResNetNorm],
  factor: number,
): Finding {
  const absent = [larger, smaller].filter((norm) => ofNorm(swept, norm).length === 0);
  if (absent.length > 0) {
    return missing(criterion, `sweeps of rates ${absent.map((norm) => NORM_LABELS[norm]).join(" and ")}`);
  }
  const [above, below] = [larger, smaller].map((norm) => largestStableRate(ofNorm(swept, norm))) as [
    RateLimit,
    RateLimit,
  ];
  const ratio = above.rate / below.rate;
  // An open end below hides how large the smaller limit is; one above only hides that the ratio is even larger.
  const undecided = below.open || (above.open && ratio < factor);
  const { depth, steps } = swept[0]!.configuration;
  return {
    criterion,
    measured:
      `depth ${depth}, ${steps} steps: ${tellRates(swept, larger)}, ${tellRates(swept, smaller)}: ` +
      (Number.isNaN(ratio) ? "no ratio" : `${above.open ? "at least " : ""}${show(ratio)} times`),
    verdict: undecided ? "inconclusive" : judge(ratio >= factor, ratio),
  };
}

/** Where runs that diverged are drawn. */
const TOP = 1e3;

/** Loss reached by each rate: median and range over seeds of the last reading. */
function lossByRate(cells: readonly TrainingResult[]): Point[] {
  const rates = [...new Set(cells.map(({ configuration }) => configuration.lr))].sort((a, b) => a - b);
  return rates.map((lr) => {
    const losses = cells
      .filter(({ configuration }) => configuration.lr === lr)
      .map(({ data }) =>
        data.divergedAt !== null ? TOP : Math.min(data.log.at(-1)?.loss ?? Number.NaN, TOP),
      );
    return pointOf(lr, median(losses), losses);
  });
}

/** Loss at the end of a sweep against the rate; runs that diverged stand at the criterion, 10³. */
export async function sweepFigure(
  cells: readonly TrainingResult[],
  title = `Loss after ${cells[0]?.configuration.steps} steps, depth ${cells[0]?.configuration.depth}`,
): Promise<{ svg: string; caption: string }> {
  const norms = [...new Set(cells.map(({ configuration }) => configuration.norm))];
  return {
    svg: await lineChart(
      norms.map((norm) => ({
        label: NORM_LABELS[norm],
        points: lossByRate(ofNorm(cells, norm)),
      })),
      {
        title,
        x: "learning rate",
        y: "cross-entropy (nats)",
        xScale: "log",
        yScale: "log",
        yDomain: [1, TOP],
      },
    ),
    caption: "Median over seeds; the band is their range. Runs that diverged are drawn at 10³.",
  };
}
