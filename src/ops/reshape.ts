import { ShapeError } from "../errors.ts";
import { checkArray, checkInteger, show } from "../options.ts";
import { ANY, checkTensor } from "../tensor/check.ts";
import { formatShape, type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";

const reshapeOp = defineOp({
  name: "reshape",
  inputs: { x: "..." },
  dtypes: { x: ["float32", "float16", "uint32", "uint8"] },
  infer({ x }, { shape }: { shape: Shape }) {
    checkArray("reshape", "shape", shape, "integers");
    for (const [axis, size] of shape.entries()) checkInteger("reshape", `shape[${axis}]`, size, -1);
    const free = shape.filter((size) => size === -1).length;
    const known = sizeOf(shape.filter((size) => size !== -1));
    const out = shape.map((size) => (size === -1 ? sizeOf(x) / known : size));
    if (free > 1 || out.some((size) => !Number.isInteger(size) || size < 1) || sizeOf(out) !== sizeOf(x)) {
      throw new ShapeError(
        `reshape: x is ${formatShape(x)} with ${sizeOf(x)} elements, the new shape ${show(shape)}; expected the same ` +
          "number of elements, with at most one size given as -1",
      );
    }
    return { out, x };
  },
  forward(ctx, { x }, plan) {
    const out = x.alias(plan.out);
    ctx.gpu.track(out);
    return { out, saved: {} };
  },
  backward: (_ctx, grad, _saved, plan) => ({ x: grad.alias(plan.x) }),
});

/** The same elements in another shape, without a copy. One size may be -1: what is left. @throws ShapeError */
export function reshape(x: Tensor, shape: Shape): Tensor {
  return reshapeOp({ x }, { shape });
}

/** x [N, …] → [N, everything else], without a copy: what stands before a linear layer. @throws ShapeError for rank 0. */
export function flatten(x: Tensor): Tensor {
  checkTensor("flatten", "x", x, { dtypes: ANY });
  if (x.rank === 0) throw new ShapeError("flatten: x is a scalar []; expected [N, ...]");
  return reshape(x, [x.shape[0]!, -1]);
}
