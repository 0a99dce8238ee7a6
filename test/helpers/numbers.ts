/** A small seeded generator (mulberry32), independent of the package's own. */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Normal numbers, rounded to float32 so that GPU and reference start from the same values. */
export function normals(count: number, seed: number, mean = 0, std = 1): Float64Array {
  const next = generator(seed);
  return Float64Array.from({ length: count }, () =>
    Math.fround(mean + std * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())),
  );
}

/** ‖out − ref‖ / ‖ref‖ over all elements; infinite if lengths differ or anything is not finite. */
export function relativeError(out: ArrayLike<number>, reference: ArrayLike<number>): number {
  if (out.length !== reference.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < out.length; i += 1) {
    if (!Number.isFinite(out[i]!) || !Number.isFinite(reference[i]!)) return Number.POSITIVE_INFINITY;
    difference += (out[i]! - reference[i]!) ** 2;
    norm += reference[i]! ** 2;
  }
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
}
