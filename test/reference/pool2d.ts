// Pooling in float64, window by window.

export interface Pool2dGeometry {
  kernel: readonly [number, number];
  stride: readonly [number, number];
  /** top, bottom, left, right */
  padding: readonly [number, number, number, number];
  dilation?: readonly [number, number];
  ceilMode?: boolean;
  countIncludePad?: boolean;
}

/** Number of windows along one axis, tried one after the other. */
export function windowCount(
  size: number,
  kernel: number,
  stride: number,
  before: number,
  after: number,
  ceil: boolean,
): number {
  let count = 0;
  for (let start = -before; ; start += stride) {
    const fits = start + kernel <= size + after;
    const begun = ceil && start < size && start + kernel - stride < size + after;
    if (!fits && !begun) return count;
    count += 1;
  }
}

/** One value per window and channel: `reduce` gets the values inside the map, and the divisor of averages. */
export function pool2dReference(
  x: Float64Array,
  [n, h, w, c]: readonly [number, number, number, number],
  { kernel, stride, padding, dilation = [1, 1], ceilMode = false, countIncludePad = true }: Pool2dGeometry,
  reduce: (values: number[], divisor: number) => number,
): Float64Array {
  const [top, bottom, left, right] = padding;
  const spans = kernel.map((size, axis) => dilation[axis]! * (size - 1) + 1);
  const rows = windowCount(h, spans[0]!, stride[0], top, bottom, ceilMode);
  const columns = windowCount(w, spans[1]!, stride[1], left, right, ceilMode);
  const out: number[] = [];
  for (let image = 0; image < n; image += 1) {
    for (let p = 0; p < rows; p += 1) {
      for (let q = 0; q < columns; q += 1) {
        for (let channel = 0; channel < c; channel += 1) {
          const values: number[] = [];
          let padded = 0;
          for (let r = 0; r < kernel[0]; r += 1) {
            for (let s = 0; s < kernel[1]; s += 1) {
              const y = p * stride[0] - top + r * dilation[0];
              const z = q * stride[1] - left + s * dilation[1];
              if (y >= 0 && y < h && z >= 0 && z < w)
                values.push(x[((image * h + y) * w + z) * c + channel]!);
              if (y < h + bottom && z < w + right) padded += 1;
            }
          }
          out.push(reduce(values, countIncludePad ? padded : values.length));
        }
      }
    }
  }
  return Float64Array.from(out);
}

export const largest = (values: number[]) => Math.max(...values);
export const average = (values: number[], divisor: number) => values.reduce((a, b) => a + b, 0) / divisor;

/** Windows that share the map out: from ⌊p·H/P⌋ to ⌈(p + 1)·H/P⌉. */
export function adaptiveAvgPool2dReference(
  x: Float64Array,
  [n, h, w, c]: readonly [number, number, number, number],
  [rows, columns]: readonly [number, number],
): Float64Array {
  const span = (i: number, size: number, count: number) => [
    Math.floor((i * size) / count),
    Math.ceil(((i + 1) * size) / count),
  ];
  const out: number[] = [];
  for (let image = 0; image < n; image += 1) {
    for (let p = 0; p < rows; p += 1) {
      for (let q = 0; q < columns; q += 1) {
        const [top, bottom] = span(p, h, rows) as [number, number];
        const [left, right] = span(q, w, columns) as [number, number];
        for (let channel = 0; channel < c; channel += 1) {
          let sum = 0;
          for (let y = top; y < bottom; y += 1)
            for (let z = left; z < right; z += 1) sum += x[((image * h + y) * w + z) * c + channel]!;
          out.push(sum / ((bottom - top) * (right - left)));
        }
      }
    }
  }
  return Float64Array.from(out);
}
