// Losses of a prediction and a target of one shape, composed of other ops. softmaxCrossEntropy has kernels of its own.

import { ShapeError } from "../errors.ts";
import { checkChoice, checkNumber, checkOptions, optionNames, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { formatShape, sameShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { mul, scale, sub } from "./elementwise/elementwise.ts";
import { mean, sum } from "./reduce/reduce.ts";
import { abs, clamp, pow, softplus } from "./unary.ts";

/** Options that all losses take. */
export interface LossOptions {
  /** What becomes of the elements' losses: their mean (default), their sum, or themselves. */
  reduction?: "mean" | "sum" | "none";
}

const OPTIONS = optionNames<LossOptions>({ reduction: 0 });

function reduced(loss: Tensor, reduction: NonNullable<LossOptions["reduction"]>): Tensor {
  return reduction === "none" ? loss : reduction === "sum" ? sum(loss) : mean(loss);
}

/** @throws ShapeError, UsageError for what is no pair of equal shapes, or no reduction */
function check(op: string, input: Tensor, target: Tensor, { reduction = "mean" }: LossOptions) {
  checkTensor(op, "input", input);
  checkTensor(op, "target", target, { with: ["input", input] });
  if (!sameShape(input.shape, target.shape)) {
    throw new ShapeError(
      `${op}: input is ${formatShape(input.shape)}, target ${formatShape(target.shape)}; expected equal shapes`,
    );
  }
  checkChoice(op, "reduction", reduction, ["mean", "sum", "none"], ShapeError);
  return reduction;
}

/** (input − target)², reduced; `target` of the input's shape. @throws ShapeError if the shapes differ. */
export function mseLoss(input: Tensor, target: Tensor, options: LossOptions = {}): Tensor {
  checkOptions("mseLoss", options, OPTIONS);
  const reduction = check("mseLoss", input, target, options);
  return input.gpu.scope(() => reduced(pow(sub(input, target), 2), reduction));
}

/** |input − target|, reduced; `target` of the input's shape. @throws ShapeError if the shapes differ. */
export function l1Loss(input: Tensor, target: Tensor, options: LossOptions = {}): Tensor {
  checkOptions("l1Loss", options, OPTIONS);
  const reduction = check("l1Loss", input, target, options);
  return input.gpu.scope(() => reduced(abs(sub(input, target)), reduction));
}

/** Options of `huberLoss`. */
export interface HuberLossOptions extends LossOptions {
  /** Where the square goes over into a straight line. Default 1. */
  delta?: number;
}

const HUBER = optionNames<HuberLossOptions>({ reduction: 0, delta: 0 });

/**
 * d²/2 where |d| ≤ delta, else delta · (|d| − delta/2), for d = input − target; reduced (Huber 1964).
 * @throws ShapeError if the shapes differ, or delta is not above 0.
 */
export function huberLoss(input: Tensor, target: Tensor, options: HuberLossOptions = {}): Tensor {
  checkOptions("huberLoss", options, HUBER);
  const { delta = 1 } = options;
  checkNumber("huberLoss", "delta", delta);
  if (!(Math.fround(delta) > 0 && Number.isFinite(Math.fround(delta)))) {
    throw new ShapeError(`huberLoss: delta is ${show(delta)}; expected a finite number above 0`);
  }
  const reduction = check("huberLoss", input, target, options);
  return input.gpu.scope(() => {
    const d = sub(input, target);
    const near = clamp(d, -delta, delta);
    return reduced(mul(near, sub(d, scale(near, 0.5))), reduction);
  });
}

/**
 * −(target · log σ(logits) + (1 − target) · log(1 − σ(logits))), reduced, without overflow; targets are probabilities, of the
 * logits' shape.
 * @throws ShapeError if the shapes differ.
 */
export function bceWithLogits(logits: Tensor, target: Tensor, options: LossOptions = {}): Tensor {
  checkOptions("bceWithLogits", options, OPTIONS);
  const reduction = check("bceWithLogits", logits, target, options);
  return logits.gpu.scope(() => reduced(sub(softplus(logits), mul(logits, target)), reduction));
}
