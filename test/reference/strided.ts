// Moves of elements in float64, index by index.

import { broadcastIndex, forEachIndex } from "./elementwise.ts";

type Shape = readonly number[];

/** out[index] = x at `source(index)`, or `otherwise` where that is null. */
export function moved(
  x: Float64Array,
  shape: Shape,
  out: Shape,
  source: (index: readonly number[]) => readonly number[] | null,
  otherwise = 0,
): Float64Array {
  const result = new Float64Array(out.reduce((a, b) => a * b, 1));
  forEachIndex(out, (index, flat) => {
    const from = source(index);
    result[flat] = from ? x[broadcastIndex(from, shape)]! : otherwise;
  });
  return result;
}
