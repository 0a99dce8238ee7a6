// Small numbers about few numbers: what the reports say of their cells.

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

export function percent(share: number): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "–";
}
