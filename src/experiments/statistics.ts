// Small numbers about few numbers: what the reports say of their cells.

import { Random } from "../tensor/random.ts";
import type { Verdict } from "./experiment.ts";

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Of a sample: divided by n − 1. NaN for fewer than two values. */
export function sampleStd(values: readonly number[]): number {
  if (values.length < 2) return Number.NaN;
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

export function geometricMean(values: readonly number[]): number {
  return Math.exp(mean(values.map(Math.log)));
}

export interface LineFit {
  slope: number;
  intercept: number;
  /** Share of the variance that the line explains. */
  r2: number;
}

/** Least squares y = intercept + slope·x over the points where both are finite. */
export function fitLine(x: readonly number[], y: readonly number[]): LineFit {
  const points = x.map((value, i) => [value, y[i]!] as const).filter((point) => point.every(Number.isFinite));
  const mx = mean(points.map(([px]) => px));
  const my = mean(points.map(([, py]) => py));
  let xx = 0;
  let xy = 0;
  let yy = 0;
  for (const [px, py] of points) {
    xx += (px - mx) ** 2;
    xy += (px - mx) * (py - my);
    yy += (py - my) ** 2;
  }
  const slope = xy / xx;
  return { slope, intercept: my - slope * mx, r2: yy === 0 ? 1 : xy ** 2 / (xx * yy) };
}

/** Two ends of what a number may be. */
export interface Interval {
  low: number;
  high: number;
}

const DRAWS = 2000;

/**
 * Where 95 % of `statistic` fall when each group's values (one a seed) are drawn anew from themselves: a bootstrap. Both ends are NaN
 * where a group has fewer than two values, which show no spread, or one that is none.
 */
export function bootstrap(
  groups: readonly (readonly number[])[],
  statistic: (groups: readonly (readonly number[])[]) => number,
): Interval {
  if (groups.some((group) => group.length < 2 || group.some(Number.isNaN))) {
    return { low: Number.NaN, high: Number.NaN };
  }
  const random = new Random(0).fork("bootstrap");
  const values = Array.from({ length: DRAWS }, () =>
    statistic(groups.map((group) => group.map(() => group[random.int(group.length)]!))),
  ).sort((a, b) => a - b);
  return { low: values[Math.floor(0.025 * DRAWS)]!, high: values[Math.ceil(0.975 * DRAWS) - 1]! };
}

/** Whether a number is at least `threshold`: decided only where its whole interval lies on one side. */
export function judgeAtLeast({ low, high }: Interval, threshold: number): Verdict {
  if (low >= threshold) return "holds";
  return high < threshold ? "does not hold" : "inconclusive";
}

/** Ranks from 1; equal values share the mean of theirs. */
function ranks(values: readonly number[]): number[] {
  return values.map((value) => {
    const below = values.filter((other) => other < value).length;
    const equal = values.filter((other) => other === value).length;
    return below + (equal + 1) / 2;
  });
}

/** Spearman's rank correlation; NaN where one side is constant. */
export function rankCorrelation(x: readonly number[], y: readonly number[]): number {
  const [a, b] = [ranks(x), ranks(y)];
  const [ma, mb] = [mean(a), mean(b)];
  const covariance = a.reduce((sum, value, i) => sum + (value - ma) * (b[i]! - mb), 0);
  const size = (values: readonly number[], middle: number) =>
    Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0));
  return covariance / (size(a, ma) * size(b, mb));
}

/** From `first` to `last` in equal factors of 10^(1 / perDecade), ends included; each rounded to three digits. */
export function logGrid(first: number, last: number, perDecade: number): number[] {
  const count = Math.round(Math.log10(last / first) * perDecade);
  return Array.from({ length: count + 1 }, (_, i) => Number((first * 10 ** (i / perDecade)).toPrecision(3)));
}

/** A number for a sentence: three digits, powers of ten only where they help. */
export function show(value: number, digits = 3): string {
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "infinite" : "−infinite";
  const size = Math.abs(value);
  const text =
    size !== 0 && (size < 1e-3 || size >= 1e5)
      ? value.toExponential(Math.max(0, digits - 2)).replace("e+", "e")
      : String(Number(value.toPrecision(digits)));
  return text.replace("-", "−");
}

export function showInterval({ low, high }: Interval, tell: (value: number) => string = show): string {
  return Number.isNaN(low) ? "no interval from one seed" : `95 % interval ${tell(low)} to ${tell(high)}`;
}

export function percent(share: number): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(1)} %`.replace("-", "−") : "–";
}
