import { NonFiniteError, ShapeError, UsageError } from "../errors.ts";
import { Module } from "../nn/module.ts";
import { checkFunction, checkInstance, checkInteger, checkOptions, optionNames, show } from "../options.ts";
import { isTensor } from "../tensor/brand.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Optimizer } from "./optimizer.ts";

/** Options of `learningRateFinder`. */
export interface LearningRateFinderOptions {
  /** The first rate. Default 10⁻⁷. */
  start?: number;
  /** The last rate, if the loss does not run away before. Default 10. */
  end?: number;
  /** Default 100. */
  steps?: number;
  /** The share of the newest loss in the smoothed one. Default 0.05. */
  smoothing?: number;
  /** It ends when the smoothed loss is more than so many times its least, or no number any more. Default 5. */
  divergence?: number;
}

/** What `learningRateFinder` saw: by step, so that it can be drawn. */
export interface LearningRateRange {
  rates: number[];
  losses: number[];
  smoothed: number[];
  /** The rate at which the smoothed loss fell fastest; null where it never fell. */
  suggestion: number | null;
}

const OPTIONS = optionNames<LearningRateFinderOptions>({
  ...{ start: 0, end: 0, steps: 0, smoothing: 0, divergence: 0 },
});

/**
 * The learning-rate range test (Smith 2017): trains for some steps at rates that grow by a constant factor, and tells at which of
 * them the loss fell fastest. Weights, running statistics, the optimizer's state and its rate are afterwards as they were.
 *
 * @param step trains on the next batch with `optimizer`, and gives its loss: a number, or a tensor of one, which is disposed of
 * @throws UsageError for options out of range; NonFiniteError for a first loss, that of the model as it was given, that is NaN or infinite;
 * ShapeError for what is no loss
 */
export async function learningRateFinder(
  model: Module,
  optimizer: Optimizer,
  step: () => number | Tensor | Promise<number | Tensor>,
  options: LearningRateFinderOptions = {},
): Promise<LearningRateRange> {
  const op = "learningRateFinder";
  checkInstance(op, "model", model, Module);
  checkInstance(op, "optimizer", optimizer, Optimizer as never);
  checkFunction(op, "step", step);
  checkOptions(op, options, OPTIONS);
  const { start = 1e-7, end = 10, steps = 100, smoothing = 0.05, divergence = 5 } = options;
  checkInteger(op, "steps", steps, 2);
  const rule = (name: string, value: number, isRight: (value: number) => boolean, expected: string) => {
    if (!Number.isFinite(value) || !isRight(value)) {
      throw new UsageError(`${op}: ${name} is ${show(value)}; expected ${expected}`);
    }
  };
  rule("start", start, (value) => value > 0, "a number above 0");
  rule("end", end, (value) => value > start, `a number above start, ${start}`);
  rule("smoothing", smoothing, (value) => value > 0 && value <= 1, "a number above 0, at most 1");
  rule("divergence", divergence, (value) => value > 1, "a number above 1");

  const { lr } = optimizer;
  const rates = optimizer.paramGroups.map((group) => group.lr);
  const weights = await model.stateDict();
  const state = await optimizer.stateDict();
  const found: LearningRateRange = { rates: [], losses: [], smoothed: [], suggestion: null };
  try {
    let average = 0;
    for (let i = 0; i < steps; i += 1) {
      const rate = start * (end / start) ** (i / (steps - 1));
      optimizer.lr = rate;
      const loss = await lossOf(op, await step());
      if (!Number.isFinite(loss)) {
        if (i > 0) break;
        throw new NonFiniteError(
          `${op}: the first loss, that of the model as it was given, is ${loss}; expected a finite one: a Gpu with ` +
            "debug: { checkFinite: true } names the first op that gives another",
        );
      }
      average += smoothing * (loss - average);
      // The average starts at 0: this takes its bias away, as Adam does.
      const smooth = average / (1 - (1 - smoothing) ** (i + 1));
      // Losses below 0 run away as those above do: by so many times the size of the least.
      const least = Math.min(smooth, ...found.smoothed);
      if (smooth - least > (divergence - 1) * Math.abs(least)) break;
      found.rates.push(rate);
      found.losses.push(loss);
      found.smoothed.push(smooth);
    }
  } finally {
    model.zeroGrad();
    model.loadStateDict(weights);
    optimizer.loadStateDict(state);
    optimizer.lr = lr;
    for (const [i, group] of optimizer.paramGroups.entries()) group.lr = rates[i]!;
  }
  found.suggestion = steepest(found);
  return found;
}

async function lossOf(op: string, value: unknown): Promise<number> {
  if (isTensor(value)) {
    try {
      return await value.item();
    } finally {
      value.dispose();
    }
  }
  if (typeof value === "number") return value;
  throw new ShapeError(`${op}: step() gave ${show(value)}; expected a loss, a number or a tensor of one`);
}

/** Where the smoothed loss falls fastest from one step to the one after the next: rates are evenly apart by their logarithm. */
function steepest({ rates, smoothed }: LearningRateRange): number | null {
  if (rates.length === 2) return smoothed[1]! < smoothed[0]! ? rates[0]! : null;
  let best: number | null = null;
  let least = 0;
  for (let i = 1; i + 1 < rates.length; i += 1) {
    const slope = smoothed[i + 1]! - smoothed[i - 1]!;
    if (slope < least) [least, best] = [slope, rates[i]!];
  }
  return best;
}
