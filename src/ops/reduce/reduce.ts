// sum, mean, variance over any axes; equal from run to run.

import { ShapeError } from "../../errors.ts";
import { checkFlag, checkOptions, optionNames, show } from "../../options.ts";
import { formatShape, normalizeAxes, type Shape, sizeOf } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { defineOp } from "../define-op.ts";
import { type OperandLayout, operandLayout } from "../elementwise/broadcast.ts";
import { expandInto, ternary } from "../elementwise/kernels.ts";
import { reduceInto } from "./kernels.ts";

/** Options of `sum`, `mean`, `max`, `min`, `argmax` and `argmin`. */
export interface ReduceAxesOptions {
  /** Keep reduced axes with size 1. Default false. */
  keepDims?: boolean;
}

/** Options of `variance`. */
export interface VarianceOptions extends ReduceAxesOptions {
  /** Divisor n − correction. Default 1, the unbiased estimate, as in PyTorch; batch-norm normalises with 0. */
  correction?: 0 | 1;
  /** The mean over the same axes, where it is known already: saves a pass over x. */
  mean?: Tensor | null;
}

const OPTIONS = optionNames<ReduceAxesOptions>({ keepDims: 0 });
const VARIANCE_OPTIONS = optionNames<VarianceOptions>({ keepDims: 0, correction: 0, mean: 0 });

export interface ReducePlan {
  out: Shape;
  x: Shape;
  reduced: readonly boolean[];
  /** Elements in each sum. */
  count: number;
  layout: OperandLayout;
}

export interface Axes extends ReduceAxesOptions {
  axes: number | readonly number[] | undefined;
}

export function reducePlan(op: string, x: Shape, { axes: given, keepDims = false }: Axes): ReducePlan {
  const axes = typeof given === "number" ? [given] : given;
  checkFlag(op, "keepDims", keepDims);
  const chosen = axes === undefined ? x.map((_, axis) => axis) : normalizeAxes(op, axes, x.length);
  if (axes?.length === 0) {
    throw new ShapeError(
      `${op}: axes is []; expected at least one axis, or none given at all for every axis of ${formatShape(x)}`,
    );
  }
  const reduced = x.map((_, axis) => chosen.includes(axis));
  const kept = x.filter((_, axis) => !reduced[axis]);
  return {
    out: keepDims ? x.map((size, axis) => (reduced[axis] ? 1 : size)) : kept,
    x,
    reduced,
    count: sizeOf(x) / sizeOf(kept),
    layout: operandLayout(op, x, reduced),
  };
}

/** scale(n)·Σ x. */
function defineSum(name: string, mean: boolean) {
  return defineOp({
    name,
    inputs: { x: "..." },
    infer: ({ x }, params: Axes) => reducePlan(name, x, params),
    forward(ctx, { x }, plan) {
      const out = ctx.empty(plan.out);
      const scale = mean ? 1 / plan.count : 1;
      reduceInto(ctx, out, x, plan.x, plan.reduced, { scale });
      return { out, saved: {} };
    },
    // dx = dy for each summand
    backward(ctx, grad, _, plan) {
      const dx = ctx.grad("x");
      expandInto(ctx, dx, grad, plan.layout, mean ? 1 / plan.count : 1);
      return { x: dx };
    },
  });
}

const sumOp = defineSum("sum", false);
const meanOp = defineSum("mean", true);

/**
 * Σ x over `axes`, a list or one alone (negative ones count from the end); over all of them if none are given, to shape `[]`.
 * @throws ShapeError for an axis that x does not have, one named twice, or an empty list.
 */
export function sum(x: Tensor, axes?: number | readonly number[], options: ReduceAxesOptions = {}): Tensor {
  checkOptions("sum", options, OPTIONS);
  return sumOp({ x }, { axes, ...options });
}

/**
 * The mean over `axes`, as in `sum`. Summed in blocks, to a few units in the last place of the mean of |x| in whatever order
 * the values come, and without overflow on the way.
 */
export function mean(x: Tensor, axes?: number | readonly number[], options: ReduceAxesOptions = {}): Tensor {
  checkOptions("mean", options, OPTIONS);
  return meanOp({ x }, { axes, ...options });
}

const varianceOp = defineOp({
  name: "variance",
  inputs: { x: "...", mean: "...?" },
  infer({ x, mean }, params: Axes & { correction: 0 | 1 }) {
    const plan = reducePlan("variance", x, params);
    const { correction } = params;
    if (correction !== 0 && correction !== 1) {
      throw new ShapeError(
        `variance: correction is ${show(correction)}; expected 0 (biased) or 1 (unbiased)`,
      );
    }
    if (plan.count <= correction) {
      throw new ShapeError(
        `variance: ${plan.count} value in each sum of ${formatShape(x)} with correction ${correction}; expected at ` +
          "least 2 values, or correction 0",
      );
    }
    if (mean && sizeOf(mean) !== sizeOf(plan.out)) {
      throw new ShapeError(
        `variance: mean is ${formatShape(mean)}, the variance ${formatShape(plan.out)}; expected the mean over the same axes`,
      );
    }
    return { ...plan, divisor: plan.count - correction };
  },
  forward(ctx, { x, mean }, plan) {
    let centre = mean;
    if (!centre) {
      centre = ctx.empty(plan.out);
      reduceInto(ctx, centre, x, plan.x, plan.reduced, { scale: 1 / plan.count });
    }
    const out = ctx.empty(plan.out);
    reduceInto(ctx, out, x, plan.x, plan.reduced, {
      scale: 1 / plan.divisor,
      term: "SQUARED_DEVIATION",
      centre,
    });
    return { out, saved: { x, centre } };
  },
  // dx = 2/(n − correction) · (x − mean)·dy. The mean's own dependence on x drops out, since Σ (x − mean) = 0.
  backward(ctx, grad, { x, centre }, plan) {
    if (!ctx.needsGrad.x) return { x: null, mean: null };
    const dx = ctx.grad("x");
    ternary(ctx, "variance_grad", dx, x, centre, grad, plan.layout, 2 / plan.divisor);
    return { x: dx, mean: null };
  },
});

/**
 * The variance over `axes`, in two passes: mean, then Σ (x − mean)². All axes if none are given.
 * @throws ShapeError for bad axes as in `sum`, or fewer than correction + 1 values in each sum.
 */
export function variance(
  x: Tensor,
  axes?: number | readonly number[],
  options: VarianceOptions = {},
): Tensor {
  checkOptions("variance", options, VARIANCE_OPTIONS);
  const { correction = 1, keepDims, mean = null } = options;
  return varianceOp({ x, mean }, { axes, keepDims, correction });
}
