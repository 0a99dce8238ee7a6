import { ShapeError } from "../../errors.ts";
import { checkShape, formatShape, type Shape, sameShape, sizeOf } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { defineOp } from "../define-op.ts";
import { checkEps, normalizeUnits, normalizeUnitsGrad } from "./kernels.ts";

const layerNormOp = defineOp({
  name: "layer_norm",
  inputs: { x: "...", gamma: "...?", beta: "...?" },
  infer({ x, gamma, beta }, { shape, eps }: { shape: Shape; eps: number }) {
    checkShape("layerNorm", shape, "normalizedShape");
    const rank = shape.length;
    if (rank < 1 || rank > x.length || !sameShape(x.slice(x.length - rank), shape)) {
      throw new ShapeError(
        `layerNorm: normalizedShape is ${formatShape(shape)}, x is ${formatShape(x)}; expected the last sizes of x`,
      );
    }
    for (const [name, given] of Object.entries({ gamma, beta })) {
      if (given && !sameShape(given, shape)) {
        throw new ShapeError(
          `layerNorm: ${name} is ${formatShape(given)}, normalizedShape ${formatShape(shape)}; expected the same shape`,
        );
      }
    }
    checkEps("layerNorm", eps);
    const width = sizeOf(shape);
    return { out: x, units: { images: sizeOf(x) / width, pixels: 1, groups: 1, width } };
  },
  forward(ctx, { x, gamma, beta }, { out: shape, units }, { eps }) {
    const out = ctx.empty(shape);
    const saved = ctx.empty([units.images, 4]);
    normalizeUnits(ctx, units, out, x, saved, { gamma, beta, eps });
    return { out, saved: { x, gamma, saved } };
  },
  // g = dy·γ; dx = rstd·(g − Σg/n − x̂·Σ(g·x̂)/n), sums over a row; dγ = Σ dy·x̂, dβ = Σ dy, sums over the rows
  backward(ctx, grad, { x, gamma, saved }, { units }, { eps }) {
    const want = (name: "x" | "gamma" | "beta") => (ctx.needsGrad[name] ? ctx.grad(name) : null);
    const [dx, dgamma, dbeta] = [want("x"), want("gamma"), want("beta")];
    const params = { gamma, beta: null, eps };
    normalizeUnitsGrad(ctx, units, x, grad, saved, params, { dx, dgamma, dbeta });
    return { x: dx, gamma: dgamma, beta: dbeta };
  },
});

/**
 * Layer normalisation over the last axes, then an elementwise scale and shift. Ba, Kiros & Hinton 2016; semantics of
 * PyTorch's `layer_norm`. One dispatch forward. Differentiable in x, gamma and beta.
 * @param x any shape that ends in `normalizedShape`
 * @param normalizedShape sizes of the last axes of x, or the last one alone as a number
 * @param gamma of shape `normalizedShape`, or null for 1
 * @param beta of shape `normalizedShape`, or null for 0
 * @param eps default 1e-5
 * @throws ShapeError if x does not end so, or gamma or beta has another shape.
 */
export function layerNorm(
  x: Tensor,
  normalizedShape: number | Shape,
  gamma: Tensor | null = null,
  beta: Tensor | null = null,
  eps = 1e-5,
): Tensor {
  const shape = typeof normalizedShape === "number" ? [normalizedShape] : normalizedShape;
  return layerNormOp({ x, gamma, beta }, { shape, eps });
}
