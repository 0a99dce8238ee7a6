import { ShapeError } from "../../errors.ts";
import { show } from "../../options.ts";
import { formatShape, sizeOf } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { defineOp } from "../define-op.ts";
import { nchwHint } from "../nchw.ts";
import { checkEps, normalizeUnits, normalizeUnitsGrad } from "./kernels.ts";

const groupNormOp = defineOp({
  name: "group_norm",
  inputs: { x: "...", gamma: "C?", beta: "C?" },
  infer({ x, gamma, beta }, { groups, eps }: { groups: number; eps: number }) {
    if (x.length < 2) {
      throw new ShapeError(
        `groupNorm: x has rank ${x.length}, got ${formatShape(x)}; expected [N, H, W, C] or [N, C], channels last`,
      );
    }
    const channels = x.at(-1)!;
    if (!Number.isInteger(groups) || groups < 1 || channels % groups !== 0) {
      throw new ShapeError(
        `groupNorm: groups is ${show(groups)}, x has ${channels} channels, got ${formatShape(x)}; expected a positive divisor ` +
          `of the channels${gamma ? nchwHint("x", x, gamma[0]!) : ""}`,
      );
    }
    for (const [name, shape] of Object.entries({ gamma, beta })) {
      if (shape && shape[0] !== channels) {
        throw new ShapeError(
          `groupNorm: ${name} is ${formatShape(shape)}, x has ${channels} channels, got ${formatShape(x)}; expected [${channels}]` +
            nchwHint("x", x, sizeOf(shape)),
        );
      }
    }
    checkEps("groupNorm", eps);
    const pixels = sizeOf(x) / (x[0]! * channels);
    return { out: x, units: { images: x[0]!, pixels, groups, width: channels / groups } };
  },
  forward(ctx, { x, gamma, beta }, { out: shape, units }, { eps }) {
    const out = ctx.empty(shape);
    const saved = ctx.empty([units.images * units.groups, 4]);
    normalizeUnits(ctx, units, out, x, saved, { gamma, beta, eps });
    return { out, saved: { x, gamma, saved } };
  },
  // g = dy·γ; dx = rstd·(g − Σg/n − x̂·Σ(g·x̂)/n); dγ = Σ dy·x̂, dβ = Σ dy
  backward(ctx, grad, { x, gamma, saved }, { units }, { eps }) {
    const want = (name: "x" | "gamma" | "beta") => (ctx.needsGrad[name] ? ctx.grad(name) : null);
    const [dx, dgamma, dbeta] = [want("x"), want("gamma"), want("beta")];
    const params = { gamma, beta: null, eps };
    normalizeUnitsGrad(ctx, units, x, grad, saved, params, { dx, dgamma, dbeta });
    return { x: dx, gamma: dgamma, beta: dbeta };
  },
});

/**
 * Group normalisation: channels in `groups` runs of equal length, each normalised over its channels and all pixels of
 * one image, then scaled and shifted by channel. Wu & He 2018; semantics of PyTorch's `group_norm`, channels last.
 * One dispatch forward. Differentiable in x, gamma and beta.
 * @param x [N, H, W, C] or [N, C], or any other rank above 1 with channels last
 * @param gamma [C], or null for 1
 * @param beta [C], or null for 0
 * @param eps default 1e-5
 * @throws ShapeError if the groups don't divide the channels, or gamma or beta is not [C].
 */
export function groupNorm(
  x: Tensor,
  groups: number,
  gamma: Tensor | null = null,
  beta: Tensor | null = null,
  eps = 1e-5,
): Tensor {
  return groupNormOp({ x, gamma, beta }, { groups, eps });
}
