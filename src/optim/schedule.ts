import { UsageError } from "../errors.ts";
import {
  checkArray,
  checkChoice,
  checkFlag,
  checkFunction,
  checkOptions,
  optionNames,
  show,
} from "../options.ts";

/** The learning rate of step 0, 1, 2 … */
export type Schedule = (step: number) => number;

function checkNumber(
  schedule: string,
  name: string,
  value: unknown,
  low: number,
  high = Number.POSITIVE_INFINITY,
): void {
  if (!Number.isFinite(value) || (value as number) < low || (value as number) > high) {
    const range = high === Number.POSITIVE_INFINITY ? `of at least ${low}` : `from ${low} to ${high}`;
    throw new UsageError(`${schedule}: ${name} is ${show(value)}; expected a finite number ${range}`);
  }
}

/** `lr` in every step. */
export function constant(lr: number): Schedule {
  checkNumber("constant", "lr", lr, 0);
  return () => lr;
}

/** `lr`, multiplied by `gamma` from each of the `milestones` (steps) on. */
export function multiStep(lr: number, milestones: readonly number[], gamma = 0.1): Schedule {
  checkNumber("multiStep", "lr", lr, 0);
  checkNumber("multiStep", "gamma", gamma, 0);
  checkArray("multiStep", "milestones", milestones, "steps");
  for (const milestone of milestones) checkNumber("multiStep", "milestone", milestone, 0);
  return (step) => lr * gamma ** milestones.filter((milestone) => step >= milestone).length;
}

/** `lr`, multiplied by `gamma` every `size` steps. */
export function stepDecay(lr: number, size: number, gamma = 0.1): Schedule {
  checkNumber("stepDecay", "lr", lr, 0);
  checkNumber("stepDecay", "size", size, 1);
  checkNumber("stepDecay", "gamma", gamma, 0);
  return (step) => lr * gamma ** Math.floor(step / size);
}

/** Half a cosine from `from` at share 0 of a way to `to` at share 1. */
function halfCosine(from: number, to: number, share: number): number {
  return to + ((from - to) * (1 + Math.cos(Math.PI * share))) / 2;
}

/** Half a cosine from `lr` down to `minimum` over `totalSteps`; Loshchilov & Hutter (2017), without restarts. */
export function cosine(lr: number, totalSteps: number, minimum = 0): Schedule {
  checkNumber("cosine", "lr", lr, 0);
  checkNumber("cosine", "totalSteps", totalSteps, 1);
  checkNumber("cosine", "minimum", minimum, 0);
  return (step) => halfCosine(lr, minimum, Math.min(step, totalSteps) / totalSteps);
}

/** From `lr` down to 0 over `totalSteps`, lr·(1 − step/totalSteps)^power, as PyTorch's `PolynomialLR`. */
export function polynomial(lr: number, totalSteps: number, power = 1): Schedule {
  checkNumber("polynomial", "lr", lr, 0);
  checkNumber("polynomial", "totalSteps", totalSteps, 1);
  checkNumber("polynomial", "power", power, 0);
  return (step) => lr * (1 - Math.min(step, totalSteps) / totalSteps) ** power;
}

/**
 * `schedule`, its first `steps` steps scaled up linearly: from `startFactor` of its rate in step 0 to all of it in step `steps`, as
 * PyTorch's `LinearLR`. Without a `startFactor`: 1/steps, 2/steps … of its rate, all of it in the last of these steps.
 */
export function warmup(schedule: Schedule, steps: number, startFactor?: number): Schedule {
  checkFunction("warmup", "schedule", schedule);
  checkNumber("warmup", "steps", steps, 0);
  if (startFactor !== undefined) checkNumber("warmup", "startFactor", startFactor, 0, 1);
  const factor = (step: number) =>
    startFactor === undefined ? (step + 1) / steps : startFactor + ((1 - startFactor) * step) / steps;
  return (step) => (step < steps ? schedule(step) * factor(step) : schedule(step));
}

/** Options of `oneCycle`. */
export interface OneCycleOptions {
  /** The share of the steps in which the rate rises. Default 0.3. */
  pctStart?: number;
  /** How it goes from one rate to the next. Default "cos". */
  annealStrategy?: "cos" | "linear";
  /** The first rate is maxLr/divFactor. Default 25. */
  divFactor?: number;
  /** The last rate is the first/finalDivFactor. Default 10⁴. */
  finalDivFactor?: number;
  /** Down to the first rate as fast as it rose, and from there to the last; in place of down to the last at once. Default false. */
  threePhase?: boolean;
}

const ONE_CYCLE_OPTIONS = optionNames<OneCycleOptions>({
  ...{ pctStart: 0, annealStrategy: 0, divFactor: 0, finalDivFactor: 0, threePhase: 0 },
});

/**
 * One cycle (Smith & Topin 2019): up to `maxLr`, then down to almost nothing in the last of `totalSteps`, as PyTorch's `OneCycleLR`,
 * without its cycle of the momentum.
 */
export function oneCycle(maxLr: number, totalSteps: number, options: OneCycleOptions = {}): Schedule {
  checkNumber("oneCycle", "maxLr", maxLr, 0);
  checkNumber("oneCycle", "totalSteps", totalSteps, 1);
  checkOptions("oneCycle", options, ONE_CYCLE_OPTIONS);
  const { pctStart = 0.3, annealStrategy = "cos", divFactor = 25 } = options;
  const { finalDivFactor = 1e4, threePhase = false } = options;
  checkNumber("oneCycle", "pctStart", pctStart, 0, 1);
  checkChoice("oneCycle", "annealStrategy", annealStrategy, ["cos", "linear"]);
  checkNumber("oneCycle", "divFactor", divFactor, 1);
  checkNumber("oneCycle", "finalDivFactor", finalDivFactor, 1);
  checkFlag("oneCycle", "threePhase", threePhase);
  const first = maxLr / divFactor;
  const last = first / finalDivFactor;
  const top = pctStart * totalSteps - 1;
  const phases = threePhase
    ? [
        { end: top, from: first, to: maxLr },
        { end: 2 * top, from: maxLr, to: first },
        { end: totalSteps - 1, from: first, to: last },
      ]
    : [
        { end: top, from: first, to: maxLr },
        { end: totalSteps - 1, from: maxLr, to: last },
      ];
  return (step) => {
    const at = Math.min(step, totalSteps - 1);
    const i = Math.max(
      0,
      phases.findIndex(({ end }) => at <= end),
    );
    const { end, from, to } = phases[i]!;
    const start = i === 0 ? 0 : phases[i - 1]!.end;
    const share = end > start ? (at - start) / (end - start) : 1;
    return annealStrategy === "cos" ? halfCosine(from, to, share) : from + (to - from) * share;
  };
}

/** Options of `onPlateau`. */
export interface OnPlateauOptions {
  /** Whether a metric gets better as it falls (a loss) or as it rises (an accuracy). Default "min". */
  mode?: "min" | "max";
  /** What the rate is multiplied by. Default 0.1. */
  factor?: number;
  /** So many metrics in a row that are no better are let pass. Default 10. */
  patience?: number;
  /** By how much a metric has to be better than the best. Default 10⁻⁴. */
  threshold?: number;
  /** Whether the threshold is a share of the best, or absolute. Default "rel". */
  thresholdMode?: "rel" | "abs";
  /** So many metrics after a reduction don't count. Default 0. */
  cooldown?: number;
  /** Default 0. */
  minLr?: number;
  /** A reduction by less than this is left out. Default 10⁻⁸. */
  eps?: number;
}

const ON_PLATEAU_OPTIONS = optionNames<OnPlateauOptions>({
  ...{ mode: 0, factor: 0, patience: 0, threshold: 0, thresholdMode: 0, cooldown: 0, minLr: 0, eps: 0 },
});

/**
 * `lr`, reduced whenever a metric has stopped getting better, as PyTorch's `ReduceLROnPlateau`: a function of all metrics so far,
 * one an epoch, so that what it needs to go on after a break is the list.
 *
 * ```ts
 * const schedule = onPlateau(0.1, { patience: 3 });
 * losses.push(await validate());
 * optimizer.lr = schedule(losses);
 * ```
 */
export function onPlateau(
  lr: number,
  options: OnPlateauOptions = {},
): (metrics: readonly number[]) => number {
  checkNumber("onPlateau", "lr", lr, 0);
  checkOptions("onPlateau", options, ON_PLATEAU_OPTIONS);
  const { mode = "min", factor = 0.1, patience = 10, threshold = 1e-4, thresholdMode = "rel" } = options;
  const { cooldown = 0, minLr = 0, eps = 1e-8 } = options;
  checkChoice("onPlateau", "mode", mode, ["min", "max"]);
  checkChoice("onPlateau", "thresholdMode", thresholdMode, ["rel", "abs"]);
  checkNumber("onPlateau", "factor", factor, 0);
  if (factor >= 1) throw new UsageError(`onPlateau: factor is ${factor}; expected a number below 1`);
  for (const [name, value] of Object.entries({ patience, threshold, cooldown, minLr, eps })) {
    checkNumber("onPlateau", name, value, 0);
  }
  const isBetter = (metric: number, best: number) => {
    const margin = thresholdMode === "abs" ? threshold : Number.isFinite(best) ? best * threshold : 0;
    return mode === "min" ? metric < best - margin : metric > best + margin;
  };
  return (metrics) => {
    checkArray("onPlateau", "metrics", metrics, "numbers");
    let rate = lr;
    let best = mode === "min" ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
    let bad = 0;
    let cooling = 0;
    for (const [i, metric] of metrics.entries()) {
      if (typeof metric !== "number") {
        throw new UsageError(`onPlateau: metrics[${i}] is ${show(metric)}; expected a number`);
      }
      if (isBetter(metric, best)) {
        best = metric;
        bad = 0;
      } else bad += 1;
      if (cooling > 0) {
        cooling -= 1;
        bad = 0;
      }
      if (bad <= patience) continue;
      const reduced = Math.max(rate * factor, minLr);
      if (rate - reduced > eps) rate = reduced;
      cooling = cooldown;
      bad = 0;
    }
    return rate;
  };
}
