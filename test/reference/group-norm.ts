// Group normalisation over x [images, pixels, channels] in float64, by naive loops. Layer normalisation is one group over
// one pixel.

export interface ReferenceGroupNorm {
  images: number;
  pixels: number;
  channels: number;
  groups: number;
  eps: number;
}

type Arrays = { x: Float64Array; gamma?: Float64Array; beta?: Float64Array };

function unitOf(g: ReferenceGroupNorm, i: number): number {
  const image = Math.floor(i / (g.pixels * g.channels));
  return image * g.groups + Math.floor(((i % g.channels) * g.groups) / g.channels);
}

function normalized(g: ReferenceGroupNorm, x: Float64Array) {
  const units = g.images * g.groups;
  const count = x.length / units;
  const mean = new Float64Array(units);
  const variance = new Float64Array(units);
  x.forEach((value, i) => {
    mean[unitOf(g, i)]! += value / count;
  });
  x.forEach((value, i) => {
    variance[unitOf(g, i)]! += (value - mean[unitOf(g, i)]!) ** 2 / count;
  });
  const rstd = variance.map((v) => 1 / Math.sqrt(v + g.eps));
  return { xhat: x.map((value, i) => (value - mean[unitOf(g, i)]!) * rstd[unitOf(g, i)]!), rstd, count };
}

export function groupNormReference(g: ReferenceGroupNorm, { x, gamma, beta }: Arrays): Float64Array {
  const { xhat } = normalized(g, x);
  return xhat.map((value, i) => value * (gamma?.[i % g.channels] ?? 1) + (beta?.[i % g.channels] ?? 0));
}

export function groupNormReferenceGrad(g: ReferenceGroupNorm, { x, gamma }: Arrays, dy: Float64Array) {
  const { xhat, rstd, count } = normalized(g, x);
  const dgamma = new Float64Array(g.channels);
  const dbeta = new Float64Array(g.channels);
  const sum = new Float64Array(rstd.length);
  const sumX = new Float64Array(rstd.length);
  const scaled = dy.map((value, i) => value * (gamma?.[i % g.channels] ?? 1));
  dy.forEach((value, i) => {
    dgamma[i % g.channels]! += value * xhat[i]!;
    dbeta[i % g.channels]! += value;
    sum[unitOf(g, i)]! += scaled[i]! / count;
    sumX[unitOf(g, i)]! += (scaled[i]! * xhat[i]!) / count;
  });
  const dx = scaled.map((value, i) => {
    const unit = unitOf(g, i);
    return rstd[unit]! * (value - sum[unit]! - xhat[i]! * sumX[unit]!);
  });
  /** What dx would be if mean and variance were constants: dx is what is left of it. */
  const direct = scaled.map((value, i) => rstd[unitOf(g, i)]! * value);
  return { x: dx, gamma: dgamma, beta: dbeta, direct };
}
