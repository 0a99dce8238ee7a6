import { ShapeError } from "../errors.ts";
import { checkArray, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { formatShape, normalizeAxes } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";
import { gatherInto, stridesOf } from "./strided.ts";

const permuteOp = defineOp({
  name: "permute",
  inputs: { x: "..." },
  dtypes: { x: ["float32", "uint32"] },
  infer({ x }, { axes }: { axes: readonly number[] }) {
    checkArray("permute", "axes", axes, "integers");
    if (axes.length !== x.length) {
      throw new ShapeError(
        `permute: axes is ${show(axes)}, x ${formatShape(x)}; expected each of its ${x.length} axes once`,
      );
    }
    normalizeAxes("permute", axes, x.length);
    const from = axes.map((axis) => (axis < 0 ? axis + x.length : axis));
    return { out: from.map((axis) => x[axis]!), x, from };
  },
  forward(ctx, { x }, { out: shape, from }) {
    const out = ctx.empty(shape, x.dtype);
    const strides = stridesOf(x.shape);
    gatherInto(ctx, "permute", out, x, {
      offset: 0,
      dims: shape,
      strides: from.map((axis) => strides[axis]!),
    });
    return { out, saved: {} };
  },
  // the inverse permutation of dy
  backward(ctx, grad, _, { out, x, from }) {
    const dx = ctx.grad("x");
    const strides = stridesOf(out);
    gatherInto(ctx, "permute", dx, grad, {
      offset: 0,
      dims: x,
      strides: x.map((_size, axis) => strides[from.indexOf(axis)]!),
    });
    return { x: dx };
  },
});

/** Axis i of the result is axis `axes[i]` of x, which may be integers (uint32): a copy. @throws ShapeError unless each axis is named once. */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  return permuteOp({ x }, { axes });
}

/** Swaps two axes; the last two if none are named. @throws ShapeError for an axis that x does not have. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  checkTensor("transpose", "x", x, { dtypes: ["float32", "uint32"] });
  for (const axis of [a, b]) normalizeAxes("transpose", [axis], x.rank);
  const axes = x.shape.map((_, axis) => axis);
  const [i, j] = [a < 0 ? a + x.rank : a, b < 0 ? b + x.rank : b];
  axes[i] = j;
  axes[j] = i;
  return permute(x, axes);
}
