// The numbers that all contenders get.

export interface Parameter {
  kind: "conv" | "gamma" | "beta" | "linear" | "bias";
  shape: readonly number[];
  data: Float32Array;
}

/** Of batch-norm everywhere. */
export const EPSILON = 1e-5;

/** A small seeded generator of normal numbers (mulberry32, Box-Muller), independent of any contender. */
export function normals(count: number, seed: number, mean = 0, std = 1): Float32Array {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from(
    { length: count },
    () => mean + std * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
  );
}
