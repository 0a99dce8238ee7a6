import type { Tensor } from "../tensor/tensor.ts";
import { sumRows } from "./conv2d/kernels.ts";
import { SliceSums } from "./conv2d/slice-sums.ts";
import { defineOp } from "./define-op.ts";
import { matrix, multiply, transposed } from "./matmul/kernels.ts";

const op = defineOp({
  name: "linear",
  inputs: { x: "N C", weight: "K C", bias: "K?" },
  infer({ x, weight }, _params: Record<string, never>) {
    return { out: [x[0]!, weight[0]!] };
  },
  forward(ctx, { x, weight, bias }, { out: shape }) {
    const out = ctx.empty(shape);
    multiply(ctx, out, matrix(x), transposed(matrix(weight)), bias);
    return { out, saved: { x: ctx.needsGrad.weight ? x : null, weight: ctx.needsGrad.x ? weight : null } };
  },
  backward(ctx, grad, { x, weight }) {
    const [N, K] = grad.shape as [number, number];
    let dx: Tensor | null = null;
    if (weight) {
      dx = ctx.grad("x");
      multiply(ctx, dx, matrix(grad), matrix(weight));
    }
    let dw: Tensor | null = null;
    if (x) {
      dw = ctx.grad("weight");
      multiply(ctx, dw, transposed(matrix(grad)), matrix(x));
    }
    return {
      x: dx,
      weight: dw,
      bias: ctx.needsGrad.bias
        ? sumRows(ctx, { out: ctx.grad("bias"), count: K }, grad, N, ctx.ending("bias", SliceSums))
        : null,
    };
  },
});

/**
 * Fully connected layer x·weightᵀ + bias, as PyTorch's `linear`.
 *
 * @param x [N, C]
 * @param weight [K, C]
 * @param bias [K] or null
 * @returns [N, K]
 * @throws ShapeError if the channel counts differ
 */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
  return op({ x, weight, bias }, {});
}
