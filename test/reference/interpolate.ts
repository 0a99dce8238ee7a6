// A map at another size, by where each pixel of it reads; positions in float32, as PyTorch has them.

type Shape4 = readonly [number, number, number, number];
type Pair = readonly [number, number];

export interface ReferenceInterpolate {
  mode: "nearest" | "bilinear";
  alignCorners: boolean;
  /** Of the output; `factor` is what the user gave instead, if they did. */
  size: Pair;
  factor: Pair | null;
}

/** By pixel of the output along one axis: which pixels it reads, and how much of each. */
function readings(axis: 0 | 1, from: number, r: ReferenceInterpolate): [at: number, share: number][][] {
  const to = r.size[axis];
  const scale = Math.fround(
    r.alignCorners ? (to > 1 ? (from - 1) / (to - 1) : 0) : r.factor ? 1 / r.factor[axis] : from / to,
  );
  return Array.from({ length: to }, (_, p) => {
    if (r.mode === "nearest") return [[Math.min(Math.floor(Math.fround(p * scale)), from - 1), 1]];
    const s = r.alignCorners ? p * scale : Math.max(0, (p + 0.5) * scale - 0.5);
    const first = Math.min(Math.floor(s), from - 1);
    const share = Math.min(1, s - first);
    return [
      [first, 1 - share],
      [Math.min(first + 1, from - 1), share],
    ];
  });
}

export function interpolateReference(
  x: Float64Array,
  [n, h, w, c]: Shape4,
  r: ReferenceInterpolate,
): Float64Array {
  const [rows, columns] = [readings(0, h, r), readings(1, w, r)];
  const out: number[] = [];
  for (let image = 0; image < n; image += 1)
    for (const row of rows)
      for (const column of columns)
        for (let channel = 0; channel < c; channel += 1) {
          let sum = 0;
          for (const [y, a] of row)
            for (const [z, b] of column) sum += a * b * x[((image * h + y) * w + z) * c + channel]!;
          out.push(sum);
        }
  return Float64Array.from(out);
}
