// Softmax, its cross entropy and accuracy in float64.

export function rowsOf(x: Float64Array, classes: number): number[][] {
  return Array.from({ length: x.length / classes }, (_, n) => [
    ...x.subarray(n * classes, (n + 1) * classes),
  ]);
}

export function softmaxRow(row: readonly number[]): number[] {
  const largest = Math.max(...row);
  const exponentials = row.map((value) => Math.exp(value - largest));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((value) => value / sum);
}

/** −Σ_k target_k · log softmax_k, the target smoothed by ε. */
export function crossEntropyRow(row: readonly number[], label: number, smoothing = 0): number {
  const largest = Math.max(...row);
  const logSum = Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0));
  return row.reduce((loss, value, k) => {
    const target = (k === label ? 1 - smoothing : 0) + smoothing / row.length;
    return loss - target * (value - largest - logSum);
  }, 0);
}
