// conv2d in float64, by the definition.

export interface ReferenceConv {
  x: readonly [number, number, number, number];
  weight: readonly [number, number, number, number];
  stride: readonly [number, number];
  /** top, bottom, left, right */
  padding: readonly [number, number, number, number];
  dilation: readonly [number, number];
  groups: number;
}

export function outputShape(c: ReferenceConv): [number, number, number, number] {
  const [n, h, w] = c.x;
  const [k, r, s] = c.weight;
  const [top, bottom, left, right] = c.padding;
  const p = Math.floor((h + top + bottom - c.dilation[0] * (r - 1) - 1) / c.stride[0]) + 1;
  const q = Math.floor((w + left + right - c.dilation[1] * (s - 1) - 1) / c.stride[1]) + 1;
  return [n, p, q, k];
}

/** Calls `visit` for every product y[out] += x[at] · weight[tap]. */
function products(c: ReferenceConv, visit: (out: number, at: number, tap: number) => void): void {
  const [n, h, w, channels] = c.x;
  const [k, r, s, perGroup] = c.weight;
  const [, p, q] = outputShape(c);
  const filters = k / c.groups;
  for (let in_ = 0; in_ < n; in_ += 1)
    for (let ip = 0; ip < p; ip += 1)
      for (let iq = 0; iq < q; iq += 1)
        for (let ir = 0; ir < r; ir += 1)
          for (let is = 0; is < s; is += 1) {
            const row = ip * c.stride[0] + ir * c.dilation[0] - c.padding[0];
            const column = iq * c.stride[1] + is * c.dilation[1] - c.padding[2];
            if (row < 0 || row >= h || column < 0 || column >= w) continue;
            const pixel = ((in_ * h + row) * w + column) * channels;
            const out = ((in_ * p + ip) * q + iq) * k;
            for (let ik = 0; ik < k; ik += 1) {
              const first = pixel + Math.floor(ik / filters) * perGroup;
              const tap = ((ik * r + ir) * s + is) * perGroup;
              for (let ic = 0; ic < perGroup; ic += 1) visit(out + ik, first + ic, tap + ic);
            }
          }
}

export function conv2dReference(
  c: ReferenceConv,
  { x, weight, bias }: { x: Float64Array; weight: Float64Array; bias?: Float64Array },
): Float64Array {
  const size = outputShape(c).reduce((a, b) => a * b);
  const k = c.weight[0];
  const y = Float64Array.from({ length: size }, (_, i) => (bias ? bias[i % k]! : 0));
  products(c, (out, at, tap) => {
    y[out]! += x[at]! * weight[tap]!;
  });
  return y;
}

export function conv2dReferenceGrad(
  c: ReferenceConv,
  { x, weight }: { x: Float64Array; weight: Float64Array },
  dy: Float64Array,
): { x: Float64Array; weight: Float64Array; bias: Float64Array } {
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(weight.length);
  const db = new Float64Array(c.weight[0]);
  products(c, (out, at, tap) => {
    dx[at]! += dy[out]! * weight[tap]!;
    dw[tap]! += dy[out]! * x[at]!;
  });
  dy.forEach((value, i) => {
    db[i % db.length]! += value;
  });
  return { x: dx, weight: dw, bias: db };
}

export interface ReferenceConvTranspose extends ReferenceConv {
  outputPadding: readonly [number, number];
}

/** Of the transposed convolution of x [N, H, W, K]; weight [K, R, S, C / groups]. */
export function transposedShape(c: ReferenceConvTranspose): [number, number, number, number] {
  const [n, h, w] = c.x;
  const [, r, s, perGroup] = c.weight;
  const [top, bottom, left, right] = c.padding;
  const p = (h - 1) * c.stride[0] - top - bottom + c.dilation[0] * (r - 1) + c.outputPadding[0] + 1;
  const q = (w - 1) * c.stride[1] - left - right + c.dilation[1] * (s - 1) + c.outputPadding[1] + 1;
  return [n, p, q, perGroup * c.groups];
}

/** Calls `visit` for every product y[out] += x[at] · weight[tap]: each pixel adds its filter. */
function transposedProducts(
  c: ReferenceConvTranspose,
  visit: (out: number, at: number, tap: number) => void,
): void {
  const [n, h, w, k] = c.x;
  const [, r, s, perGroup] = c.weight;
  const [, p, q, channels] = transposedShape(c);
  for (let image = 0; image < n; image += 1)
    for (let y = 0; y < h; y += 1)
      for (let x = 0; x < w; x += 1)
        for (let ir = 0; ir < r; ir += 1)
          for (let is = 0; is < s; is += 1) {
            const row = y * c.stride[0] + ir * c.dilation[0] - c.padding[0];
            const column = x * c.stride[1] + is * c.dilation[1] - c.padding[2];
            if (row < 0 || row >= p || column < 0 || column >= q) continue;
            for (let ik = 0; ik < k; ik += 1) {
              const group = Math.floor(ik / (k / c.groups));
              const at = ((image * h + y) * w + x) * k + ik;
              const out = ((image * p + row) * q + column) * channels + group * perGroup;
              const tap = ((ik * r + ir) * s + is) * perGroup;
              for (let ic = 0; ic < perGroup; ic += 1) visit(out + ic, at, tap + ic);
            }
          }
}

export function convTranspose2dReference(
  c: ReferenceConvTranspose,
  { x, weight, bias }: { x: Float64Array; weight: Float64Array; bias?: Float64Array },
): Float64Array {
  const shape = transposedShape(c);
  const size = shape.reduce((a, b) => a * b);
  const y = Float64Array.from({ length: size }, (_, i) => (bias ? bias[i % shape[3]]! : 0));
  transposedProducts(c, (out, at, tap) => {
    y[out]! += x[at]! * weight[tap]!;
  });
  return y;
}

export function convTranspose2dReferenceGrad(
  c: ReferenceConvTranspose,
  { x, weight }: { x: Float64Array; weight: Float64Array },
  dy: Float64Array,
): { x: Float64Array; weight: Float64Array; bias: Float64Array } {
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(weight.length);
  const db = new Float64Array(transposedShape(c)[3]);
  transposedProducts(c, (out, at, tap) => {
    dx[at]! += dy[out]! * weight[tap]!;
    dw[tap]! += dy[out]! * x[at]!;
  });
  dy.forEach((value, i) => {
    db[i % db.length]! += value;
  });
  return { x: dx, weight: dw, bias: db };
}
