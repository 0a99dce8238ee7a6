import { ShapeError } from "../errors.ts";
import { checkArray, show } from "../options.ts";

/** Dimensions, outermost first; the last one is contiguous. `[]` is a scalar. */
export type Shape = readonly number[];

/** Number of elements. */
export function sizeOf(shape: Shape): number {
  let size = 1;
  for (let axis = 0; axis < shape.length; axis += 1) size *= shape[axis]!;
  return size;
}

export function formatShape(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

export function sameShape(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let axis = 0; axis < a.length; axis += 1) if (a[axis] !== b[axis]) return false;
  return true;
}

/** @throws ShapeError unless `shape` is an array of positive integers whose product a number holds exactly. */
export function checkShape(op: string, shape: unknown, name = "shape"): asserts shape is Shape {
  checkArray(op, name, shape, "positive integers");
  for (let axis = 0; axis < shape.length; axis += 1) {
    const dim = shape[axis];
    if (!Number.isSafeInteger(dim) || (dim as number) < 1) {
      throw new ShapeError(
        `${op}: ${name} ${show(shape)} has dimension ${show(dim)}; every dimension must be a positive integer`,
      );
    }
  }
  const size = sizeOf(shape as Shape);
  if (!Number.isSafeInteger(size)) {
    throw new ShapeError(`${op}: ${name} ${show(shape)} has ${size} elements; expected at most 2^53`);
  }
}

/** Axes as non-negative, sorted, unique indices (negative ones count from the end). */
export function normalizeAxes(op: string, axes: readonly number[], rank: number): number[] {
  checkArray(op, "axes", axes, "integers");
  const out = new Set<number>();
  for (const axis of axes) {
    const index = Number.isInteger(axis) && axis < 0 ? axis + rank : axis;
    if (!Number.isInteger(axis) || index < 0 || index >= rank) {
      throw new ShapeError(
        `${op}: axis ${show(axis)} is outside a tensor of rank ${rank}; expected ${-rank} to ${rank - 1}`,
      );
    }
    if (out.has(index)) throw new ShapeError(`${op}: axis ${axis} is named twice in [${axes.join(", ")}]`);
    out.add(index);
  }
  return [...out].sort((a, b) => a - b);
}
