import { ShapeError } from "../errors.ts";
import { checkArray, show } from "../options.ts";
import { formatShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";
import { gatherInto, placeInto, stridesOf } from "./strided.ts";

interface SliceParams {
  starts: readonly number[];
  ends: readonly number[];
  steps: readonly number[];
}

const sliceOp = defineOp({
  name: "slice",
  inputs: { x: "..." },
  dtypes: { x: ["float32", "uint32"] },
  infer({ x }, params: SliceParams) {
    for (const name of ["starts", "ends", "steps"] as const) {
      checkArray("slice", name, params[name], "integers");
      if (params[name].length !== x.length) {
        throw new ShapeError(
          `slice: ${name} is ${show(params[name])}, x ${formatShape(x)}; expected one number for each axis of x`,
        );
      }
    }
    const { steps } = params;
    // Negative numbers count from the end, as in NumPy.
    const starts = params.starts.map((start, axis) => (start < 0 ? start + x[axis]! : start));
    const ends = params.ends.map((end, axis) => (end < 0 ? end + x[axis]! : end));
    const out = x.map((size, axis) => {
      const [start, end, step] = [starts[axis]!, ends[axis]!, steps[axis]!];
      const whole = [start, end, step].every(Number.isInteger);
      if (!whole || start < 0 || end > size || start >= end || step < 1) {
        throw new ShapeError(
          `slice: axis ${axis} of x ${formatShape(x)} from ${show(params.starts[axis])} to ${show(params.ends[axis])} in steps of ` +
            `${show(step)}; expected integers with 0 <= start < end <= ${size} (negative ones count from the end) and a step of at least 1`,
        );
      }
      return Math.ceil((end - start) / step);
    });
    return { out, x, starts };
  },
  forward(ctx, { x }, { out: shape, starts }, { steps }) {
    const out = ctx.empty(shape, x.dtype);
    const strides = stridesOf(x.shape);
    gatherInto(ctx, "slice", out, x, {
      offset: starts.reduce((sum, start, axis) => sum + start * strides[axis]!, 0),
      dims: shape,
      strides: strides.map((stride, axis) => stride * steps[axis]!),
    });
    return { out, saved: {} };
  },
  // dx = dy where it was taken, 0 elsewhere
  backward(ctx, grad, _, { starts }, { steps }) {
    const dx = ctx.grad("x");
    placeInto(ctx, "slice", dx, grad, starts, steps);
    return { x: dx };
  },
});

/**
 * The elements from `starts` (included) to `ends` (excluded) along each axis, every `steps`-th of them: a copy.
 * Negative numbers count from the end. x may be integers (uint32), such as labels.
 * @throws ShapeError for a number too many or too few, an empty range, or a step below 1.
 */
export function slice(
  x: Tensor,
  starts: readonly number[],
  ends: readonly number[],
  steps?: readonly number[],
): Tensor {
  checkArray("slice", "starts", starts, "integers");
  return sliceOp({ x }, { starts, ends, steps: steps === undefined ? starts.map(() => 1) : steps });
}
