// How a small tensor meets a large one: which axes repeat, and how a kernel finds its operand.

import type { ValuesOf } from "../../device/kernels.ts";
import { ShapeError } from "../../errors.ts";
import { formatShape, type Shape, sizeOf } from "../../tensor/shape.ts";

/** Neighbouring axes that are all reduced (or repeated), or all kept. Axes of size 1 belong to neither. */
export interface AxisGroup {
  size: number;
  reduced: boolean;
}

/** The fewest groups that describe reducing, or repeating along, the axes marked in `reduced`. */
export function groupAxes(shape: Shape, reduced: readonly boolean[]): AxisGroup[] {
  const groups: AxisGroup[] = [];
  shape.forEach((size, axis) => {
    if (size === 1) return;
    const last = groups.at(-1);
    if (last && last.reduced === reduced[axis]) last.size *= size;
    else groups.push({ size, reduced: reduced[axis]! });
  });
  return groups;
}

/**
 * Which axes of `large` repeat `small`, by NumPy's rule: aligned at the last axis, each size equal or 1.
 * @throws ShapeError if `small` does not broadcast to `large`.
 */
export function repeatedAxes(op: string, name: string, small: Shape, large: Shape): boolean[] {
  const offset = large.length - small.length;
  const fits = offset >= 0 && small.every((size, axis) => size === 1 || size === large[axis + offset]);
  if (!fits) {
    throw new ShapeError(
      `${op}: ${name} is ${formatShape(small)}, the other input ${formatShape(large)}; expected each size of ${name}, ` +
        "counted from the last axis, to be equal or 1 (a [C] vector goes with channels-last tensors; reshape it otherwise)",
    );
  }
  return large.map((size, axis) => size > 1 && (axis < offset || small[axis - offset] === 1));
}

/** The shape that both broadcast to. @throws ShapeError */
export function broadcastShapes(
  op: string,
  a: Shape,
  b: Shape,
  names: readonly [string, string] = ["a", "b"],
): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, axis) => {
    const x = a[axis - rank + a.length] ?? 1;
    const y = b[axis - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw new ShapeError(
        `${op}: ${names[0]} is ${formatShape(a)}, ${names[1]} is ${formatShape(b)}; expected sizes, counted from the last axis, to be ` +
          "equal or 1 (a [C] vector goes with channels-last tensors; reshape it otherwise)",
      );
    }
    return Math.max(x, y);
  });
}

/** How shaders/elementwise.wgsl finds an operand. */
export type Mode = ValuesOf<"elementwise">;

/** What the elementwise kernels need to know to read an operand that repeats along some axes. */
export interface OperandLayout {
  mode: Mode;
  /** vec4s of the large tensor. */
  vec4s: number;
  inner: number;
  block: number;
  dims: readonly number[];
  strides: readonly number[];
}

const MAX_RANK = 8; // of shaders/elementwise.wgsl

/** The cheapest way to read an operand that repeats along the marked axes of `large`. */
export function operandLayout(op: string, large: Shape, repeated: readonly boolean[]): OperandLayout {
  const groups = groupAxes(large, repeated);
  const vec4s = Math.ceil(sizeOf(large) / 4);
  const layout = { mode: "ANY" as Mode, vec4s, inner: 1, block: vec4s, dims: [], strides: [] };
  const at = groups.findIndex((group) => group.reduced);
  if (at < 0) return { ...layout, mode: "SAME" };
  if (groups.filter((group) => group.reduced).length === 1) {
    const outer = groups.slice(0, at).reduce((product, group) => product * group.size, 1);
    const middle = groups[at]!.size;
    const inner = groups.slice(at + 1).reduce((product, group) => product * group.size, 1);
    if (inner % 4 === 0) {
      const powerOfTwo = Number.isInteger(Math.log2(inner));
      const mode = outer === 1 && powerOfTwo ? "CHANNELS" : "MIDDLE";
      return { ...layout, mode, inner: inner / 4, block: (middle * inner) / 4 };
    }
    if (inner === 1 && (outer === 1 || middle % 4 === 0)) {
      return { ...layout, mode: "SPLAT", block: Math.ceil(middle / 4) };
    }
  }
  if (groups.length > MAX_RANK) {
    throw new ShapeError(
      `${op}: broadcasting to ${formatShape(large)} alternates ${groups.length} times between axes that repeat and axes ` +
        `that do not; at most ${MAX_RANK} are supported; transpose or reshape first`,
    );
  }
  let stride = 1;
  const strides: number[] = [];
  for (const group of [...groups].reverse()) {
    strides.unshift(group.reduced ? 0 : stride);
    if (!group.reduced) stride *= group.size;
  }
  return { ...layout, dims: groups.map((group) => group.size), strides };
}
