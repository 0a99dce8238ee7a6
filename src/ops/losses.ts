// Losses of a prediction and a target of one shape, composed of other ops. softmaxCrossEntropy and bceWithLogits have kernels of their own.

import { ShapeError } from "../errors.ts";
import { checkChoice, checkNumber, checkOptions, optionNames, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { formatShape, sameShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { bce } from "./bce.ts";
import { repeatedAxes } from "./elementwise/broadcast.ts";
import { mul, scale, sub } from "./elementwise/elementwise.ts";
import { mean, sum } from "./reduce/reduce.ts";
import { abs, clamp, pow } from "./unary.ts";

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

/** Options of `smoothL1Loss`. */
export interface SmoothL1LossOptions extends LossOptions {
  /** Where the square goes over into a straight line; 0 is `l1Loss`. Default 1. */
  beta?: number;
}

/** Below it a number has fewer digits, or counts as 0, and 1 / it is infinite. */
const LEAST = 2 ** -126;

const SMOOTH_L1 = optionNames<SmoothL1LossOptions>({ reduction: 0, beta: 0 });

/**
 * d²/(2 · beta) where |d| < beta, else |d| − beta/2, for d = input − target; reduced: `huberLoss` divided by its delta (Girshick
 * 2015).
 * @throws ShapeError if the shapes differ, or beta is below 0.
 */
export function smoothL1Loss(input: Tensor, target: Tensor, options: SmoothL1LossOptions = {}): Tensor {
  checkOptions("smoothL1Loss", options, SMOOTH_L1);
  const { beta = 1 } = options;
  checkNumber("smoothL1Loss", "beta", beta, 0);
  const held = Math.fround(beta);
  if (!Number.isFinite(held)) {
    throw new ShapeError(`smoothL1Loss: beta is ${show(beta)}; expected a number that float32 holds`);
  }
  const reduction = check("smoothL1Loss", input, target, options);
  return input.gpu.scope(() => {
    const d = sub(input, target);
    if (held < LEAST) return reduced(abs(d), reduction);
    const near = clamp(d, -held, held);
    // near is at most beta: divided first, nothing overflows.
    return reduced(mul(scale(near, 1 / held), sub(d, scale(near, 0.5))), reduction);
  });
}

/** Options of `bceWithLogits`. */
export interface BceWithLogitsOptions extends LossOptions {
  /** A factor for each element's loss, broadcast to the logits' shape. Default none. */
  weight?: Tensor | null;
  /** A factor for what the positive targets add, broadcast likewise: [C] for one per class. Default none. */
  posWeight?: Tensor | null;
}

const BCE = optionNames<BceWithLogitsOptions>({ reduction: 0, weight: 0, posWeight: 0 });

/**
 * −weight · (posWeight · target · log σ(logits) + (1 − target) · log(1 − σ(logits))), reduced, without overflow; targets are
 * probabilities, of the logits' shape. The mean divides by the number of elements, whatever the weights, as in PyTorch.
 * @throws ShapeError if the shapes differ, or a weight does not broadcast to them.
 */
export function bceWithLogits(logits: Tensor, target: Tensor, options: BceWithLogitsOptions = {}): Tensor {
  checkOptions("bceWithLogits", options, BCE);
  const reduction = check("bceWithLogits", logits, target, options);
  const { weight = null, posWeight = null } = options;
  for (const [name, tensor] of Object.entries({ weight, posWeight })) {
    if (tensor === null) continue;
    checkTensor("bceWithLogits", name, tensor, { with: ["input", logits], orNull: true });
    repeatedAxes("bceWithLogits", name, tensor.shape, logits.shape);
  }
  return logits.gpu.scope(() => {
    const each = bce(logits, target, posWeight);
    return reduced(weight ? mul(each, weight) : each, reduction);
  });
}
