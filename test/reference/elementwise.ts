// Elementwise ops and reductions in float64, by naive loops over multi-indices.

/** Calls `visit` with each multi-index of `shape`, last axis fastest, and its flat index. */
export function forEachIndex(shape: readonly number[], visit: (index: number[], flat: number) => void): void {
  const index = shape.map(() => 0);
  const count = shape.reduce((a, b) => a * b, 1);
  for (let flat = 0; flat < count; flat += 1) {
    visit(index, flat);
    for (let axis = shape.length - 1; axis >= 0; axis -= 1) {
      index[axis]! += 1;
      if (index[axis]! < shape[axis]!) break;
      index[axis] = 0;
    }
  }
}

/** Flat position in a tensor of `shape` that broadcasts to the shape that `index` runs over. */
export function broadcastIndex(index: readonly number[], shape: readonly number[]): number {
  const offset = index.length - shape.length;
  let flat = 0;
  shape.forEach((size, axis) => {
    flat = flat * size + (size === 1 ? 0 : index[axis + offset]!);
  });
  return flat;
}

/** f(a, b, …) over `shape`, each operand broadcast to it. */
export function elementwise(
  shape: readonly number[],
  operands: readonly { data: Float64Array; shape: readonly number[] }[],
  f: (...values: number[]) => number,
): Float64Array {
  const out = new Float64Array(shape.reduce((a, b) => a * b, 1));
  forEachIndex(shape, (index, flat) => {
    out[flat] = f(...operands.map((operand) => operand.data[broadcastIndex(index, operand.shape)]!));
  });
  return out;
}

/** Adds x up to a shape that broadcasts to x's: the gradient of `elementwise` with respect to an operand. */
export function sumTo(x: Float64Array, shape: readonly number[], target: readonly number[]): Float64Array {
  const out = new Float64Array(target.reduce((a, b) => a * b, 1));
  forEachIndex(shape, (index, flat) => {
    out[broadcastIndex(index, target)]! += x[flat]!;
  });
  return out;
}

/** The groups of flat indices that a reduction over `axes` adds up, in the order of its output. */
export function reductionGroups(shape: readonly number[], axes: readonly number[]): number[][] {
  const reduced = axes.map((axis) => (axis < 0 ? axis + shape.length : axis));
  const kept = shape.map((size, axis) => (reduced.includes(axis) ? 1 : size));
  const groups: number[][] = Array.from({ length: kept.reduce((a, b) => a * b, 1) }, () => []);
  forEachIndex(shape, (index, flat) => {
    groups[broadcastIndex(index, kept)]!.push(flat);
  });
  return groups;
}

export function reduceReference(
  x: Float64Array,
  shape: readonly number[],
  axes: readonly number[],
  f: (values: number[]) => number,
): Float64Array {
  return Float64Array.from(reductionGroups(shape, axes), (group) => f(group.map((i) => x[i]!)));
}

export function meanOf(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

export function varianceOf(values: readonly number[], correction: number): number {
  const mean = meanOf(values);
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - correction);
}
