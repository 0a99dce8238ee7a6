// Batch normalisation over [count, channels] in float64, by naive loops.

export interface ReferenceBatchNorm {
  count: number;
  channels: number;
  eps: number;
  relu: boolean;
  /** In place of `relu`. */
  activation?: { f(z: number): number; df(z: number): number };
  /** Given: inference with these. */
  running?: { mean: ArrayLike<number>; variance: ArrayLike<number> };
}

type Arrays = { x: Float64Array; gamma?: Float64Array; beta?: Float64Array; residual?: Float64Array };

/** Mean and biased variance of each channel. */
export function channelStatistics(
  { count, channels }: { count: number; channels: number },
  x: ArrayLike<number>,
) {
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  for (let i = 0; i < count; i += 1) {
    for (let c = 0; c < channels; c += 1) mean[c]! += x[i * channels + c]! / count;
  }
  for (let i = 0; i < count; i += 1) {
    for (let c = 0; c < channels; c += 1) variance[c]! += (x[i * channels + c]! - mean[c]!) ** 2 / count;
  }
  return { mean, variance };
}

function normalized(b: ReferenceBatchNorm, x: Float64Array) {
  const { mean, variance } = b.running ?? channelStatistics(b, x);
  const rstd = Float64Array.from(variance, (v) => 1 / Math.sqrt(v + b.eps));
  const xhat = x.map((value, i) => (value - mean[i % b.channels]!) * rstd[i % b.channels]!);
  return { xhat, rstd };
}

export function batchNormReference(
  b: ReferenceBatchNorm,
  { x, gamma, beta, residual }: Arrays,
): Float64Array {
  const { xhat } = normalized(b, x);
  return xhat.map((value, i) => {
    const c = i % b.channels;
    const z = value * (gamma?.[c] ?? 1) + (beta?.[c] ?? 0) + (residual?.[i] ?? 0);
    if (b.activation) return b.activation.f(z);
    return b.relu ? Math.max(z, 0) : z;
  });
}

export function batchNormReferenceGrad(b: ReferenceBatchNorm, arrays: Arrays, dy: Float64Array) {
  const { x, gamma } = arrays;
  const { count, channels } = b;
  const { xhat, rstd } = normalized(b, x);
  const z = batchNormReference({ ...b, relu: false, activation: undefined }, arrays);
  const slope = b.activation?.df ?? ((v: number) => (b.relu && v <= 0 ? 0 : 1));
  const dz = dy.map((value, i) => value * slope(z[i]!));
  const dgamma = new Float64Array(channels);
  const dbeta = new Float64Array(channels);
  dz.forEach((value, i) => {
    dgamma[i % channels]! += value * xhat[i]!;
    dbeta[i % channels]! += value;
  });
  const dx = dz.map((value, i) => {
    const c = i % channels;
    const through = b.running ? 0 : dbeta[c]! / count + (xhat[i]! * dgamma[c]!) / count;
    return (gamma?.[c] ?? 1) * rstd[c]! * (value - through);
  });
  return { x: dx, gamma: dgamma, beta: dbeta, residual: dz };
}
