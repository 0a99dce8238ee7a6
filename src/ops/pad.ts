import { ShapeError } from "../errors.ts";
import { checkInteger, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { formatShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";
import { gatherInto, placeInto, stridesOf } from "./strided.ts";

const padOp = defineOp({
  name: "pad",
  inputs: { x: "..." },
  infer({ x }, { padding, value }: { padding: readonly (readonly [number, number])[]; value: number }) {
    const sound =
      Array.isArray(padding) &&
      Array.from(padding).every(
        (sides) =>
          Array.isArray(sides) &&
          sides.length === 2 &&
          sides.every((side) => Number.isSafeInteger(side) && side >= 0),
      );
    if (!sound || padding.length !== x.length) {
      throw new ShapeError(
        `pad: padding is ${show(padding)}, x ${formatShape(x)}; expected one [before, after] of integers, ` +
          "none negative, for each axis of x",
      );
    }
    if (typeof value !== "number" || Number.isNaN(value)) {
      throw new ShapeError(`pad: value is ${show(value)}; expected a number`);
    }
    return { out: x.map((size, axis) => size + padding[axis]![0] + padding[axis]![1]), x };
  },
  forward(ctx, { x }, plan, { padding, value }) {
    const out = ctx.empty(plan.out);
    const starts = padding.map(([before]) => before);
    placeInto(
      ctx,
      "pad",
      out,
      x,
      starts,
      starts.map(() => 1),
      value,
    );
    return { out, saved: {} };
  },
  // dx = the part of dy that x fills
  backward(ctx, grad, _, plan, { padding }) {
    const dx = ctx.grad("x");
    const strides = stridesOf(plan.out);
    const offset = padding.reduce((sum, [before], axis) => sum + before * strides[axis]!, 0);
    gatherInto(ctx, "pad", dx, grad, { offset, dims: plan.x, strides });
    return { x: dx };
  },
});

/**
 * x with `[before, after]` elements of `value` (default 0) added along each axis.
 * @throws ShapeError unless there is one pair of non-negative integers for each axis.
 */
export function pad(x: Tensor, padding: readonly (readonly [number, number])[], value = 0): Tensor {
  return padOp({ x }, { padding, value });
}

/**
 * x [N, H, W, C] with `value` (default 0) around each map.
 * @throws ShapeError if x is not of rank 4, or a side is negative or no integer.
 */
export function pad2d(
  x: Tensor,
  padding: readonly [top: number, bottom: number, left: number, right: number],
  value = 0,
): Tensor {
  checkTensor("pad2d", "x", x, { shape: "[N, H, W, C]" });
  if (!Array.isArray(padding) || padding.length !== 4) {
    throw new ShapeError(`pad2d: padding is ${show(padding)}; expected [top, bottom, left, right]`);
  }
  for (const side of padding) checkInteger("pad2d", "a side of padding", side, 0);
  if (typeof value !== "number" || Number.isNaN(value)) {
    throw new ShapeError(`pad2d: value is ${show(value)}; expected a number`);
  }
  const [top, bottom, left, right] = padding;
  return pad(
    x,
    [
      [0, 0],
      [top, bottom],
      [left, right],
      [0, 0],
    ],
    value,
  );
}
