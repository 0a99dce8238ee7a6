import { ShapeError } from "../errors.ts";

/** Dimensions, outermost first; the last one is contiguous. `[]` is a scalar. */
export type Shape = readonly number[];

/** Number of elements. */
export function sizeOf(shape: Shape): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

export function formatShape(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

/** @throws ShapeError unless every dimension is a positive integer. */
export function checkShape(op: string, shape: Shape): void {
  for (const dim of shape) {
    if (!Number.isInteger(dim) || dim < 1) {
      throw new ShapeError(
        `${op}: shape ${formatShape(shape)} has dimension ${dim}; every dimension must be a positive integer`,
      );
    }
  }
}

/** Axes as non-negative, sorted, unique indices (negative ones count from the end). */
export function normalizeAxes(op: string, axes: readonly number[], rank: number): number[] {
  const out = new Set<number>();
  for (const axis of axes) {
    const index = axis < 0 ? axis + rank : axis;
    if (!Number.isInteger(axis) || index < 0 || index >= rank) {
      throw new ShapeError(
        `${op}: axis ${axis} is outside a tensor of rank ${rank}; expected ${-rank} to ${rank - 1}`,
      );
    }
    if (out.has(index)) throw new ShapeError(`${op}: axis ${axis} is named twice in [${axes.join(", ")}]`);
    out.add(index);
  }
  return [...out].sort((a, b) => a - b);
}
