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

/** What the rows of logits are held against: a label each, or a probability for each class. */
export type Targets = { labels: ArrayLike<number> } | { probabilities: Float64Array };

export interface CrossEntropyOptions {
  reduction?: "mean" | "sum" | "none";
  labelSmoothing?: number;
  weight?: ArrayLike<number> | null;
  ignoreIndex?: number;
}

/**
 * Cross entropy as PyTorch puts it together. With labels: the loss of the label and that of all classes alike, each reduced on its
 * own, then mixed by the smoothing. With probabilities: those are smoothed, and the mean is over the rows.
 */
export function crossEntropyReference(
  logits: Float64Array,
  classes: number,
  targets: Targets,
  { reduction = "mean", labelSmoothing: smoothing = 0, weight = null, ignoreIndex }: CrossEntropyOptions = {},
): Float64Array {
  const rows = rowsOf(logits, classes).map((row) => {
    const largest = Math.max(...row);
    const logSum = Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0));
    return row.map((value) => value - largest - logSum);
  });
  const weightOf = (k: number) => (weight ? weight[k]! : 1);
  const total = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  if ("probabilities" in targets) {
    const losses = rows.map((row, n) =>
      total(
        row.map((value, k) => {
          const share = targets.probabilities[n * classes + k]! * (1 - smoothing) + smoothing / classes;
          return share === 0 ? 0 : -value * share * weightOf(k);
        }),
      ),
    );
    if (reduction === "none") return Float64Array.from(losses);
    return Float64Array.of(reduction === "sum" ? total(losses) : total(losses) / rows.length);
  }
  const { labels } = targets;
  const counts = rows.map((_, n) => labels[n] !== ignoreIndex);
  const ofLabel = rows.map((row, n) => (counts[n] ? -weightOf(labels[n]!) * row[labels[n]!]! : 0));
  const ofAll = rows.map((row, n) =>
    counts[n] && smoothing > 0 ? -total(row.map((value, k) => weightOf(k) * value)) : 0,
  );
  const mixed = (label: number, all: number) => (1 - smoothing) * label + (smoothing / classes) * all;
  if (reduction === "none") return Float64Array.from(ofLabel, (value, n) => mixed(value, ofAll[n]!));
  const divisor = reduction === "sum" ? 1 : total(rows.map((_, n) => (counts[n] ? weightOf(labels[n]!) : 0)));
  return Float64Array.of(mixed(total(ofLabel) / divisor, total(ofAll) / divisor));
}

/** Its gradients, by row and class; of the probabilities, if that is what the targets are. */
export function crossEntropyReferenceGrad(
  logits: Float64Array,
  classes: number,
  targets: Targets,
  { reduction = "mean", labelSmoothing: smoothing = 0, weight = null, ignoreIndex }: CrossEntropyOptions,
  dy: Float64Array,
): { logits: Float64Array; targets: Float64Array } {
  const rows = rowsOf(logits, classes);
  const weightOf = (k: number) => (weight ? weight[k]! : 1);
  const labels = "labels" in targets ? targets.labels : null;
  const counts = rows.map((_, n) => labels === null || labels[n] !== ignoreIndex);
  const shares = rows.map((_, n) => (!counts[n] ? 0 : labels ? weightOf(labels[n]!) : 1));
  const divisor = reduction === "mean" ? shares.reduce((a, b) => a + b, 0) : 1;
  const grads = { logits: new Float64Array(logits.length), targets: new Float64Array(logits.length) };
  rows.forEach((row, n) => {
    if (!counts[n]) return;
    const g = dy[reduction === "none" ? n : 0]! / divisor;
    const target = (k: number) =>
      "labels" in targets ? Number(k === targets.labels[n]) : targets.probabilities[n * classes + k]!;
    const c = row.map((_, k) => weightOf(k) * ((1 - smoothing) * target(k) + smoothing / classes));
    const sum = c.reduce((a, b) => a + b, 0);
    softmaxRow(row).forEach((p, k) => {
      grads.logits[n * classes + k] = g * (sum * p - c[k]!);
      grads.targets[n * classes + k] = -g * (1 - smoothing) * weightOf(k) * Math.log(p);
    });
  });
  return grads;
}
