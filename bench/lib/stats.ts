/** The middle value; the mean of the middle two for even counts. NaN for none. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** Linear interpolation between the closest ranks. NaN for no values. */
export function quantile(values: readonly number[], q: number): number {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const position = q * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (position - below) * (sorted[above]! - sorted[below]!);
}

/** What is said of a list of times. */
export interface Summary {
  median: number;
  min: number;
  max: number;
  /** Distance between the quartiles as a share of the median: half of the runs lie within it. */
  spread: number;
  runs: number;
}

export function summarize(values: readonly number[]): Summary {
  const middle = median(values);
  return {
    median: middle,
    min: Math.min(...values),
    max: Math.max(...values),
    spread: (quantile(values, 0.75) - quantile(values, 0.25)) / middle,
    runs: values.length,
  };
}

/**
 * How many times as long `slow` takes as `fast`: the median over the rounds of the ratio within a round. A machine
 * that changes its speed between rounds moves both sides of each ratio.
 */
export function pairedRatio(slow: readonly number[], fast: readonly number[]): number {
  if (slow.length !== fast.length) {
    throw new RangeError(
      `pairedRatio: ${slow.length} and ${fast.length} runs; expected as many rounds of each`,
    );
  }
  return median(slow.map((time, round) => time / fast[round]!));
}

/** ‖actual − expected‖ / ‖expected‖; infinite where lengths differ or a value is not finite. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < actual.length; i += 1) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  const error = Math.sqrt(norm === 0 ? difference : difference / norm);
  return Number.isFinite(error) ? error : Number.POSITIVE_INFINITY;
}
