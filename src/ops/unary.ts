// Functions of one tensor, element by element. A function is two entry points of shaders/unary.wgsl and a line of the table below.

import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { checkNumber, checkOptions, optionNames, show } from "../options.ts";
import { isTensor } from "../tensor/brand.ts";
import { checkTensor } from "../tensor/check.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";
import { scale } from "./elementwise/elementwise.ts";
import { powTensor } from "./elementwise/power.ts";
import { strideGrid } from "./grid.ts";

/** By function, what its gradient is worked out from: x, or y. */
const TABLE = {
  exp: "y",
  log: "x",
  sqrt: "y",
  rsqrt: "y",
  abs: "x",
  sigmoid: "y",
  tanh: "y",
  softplus: "x",
  clamp: "x",
  pow: "x",
} as const;

type Name = keyof typeof TABLE;
type Constants = Readonly<Record<string, number>>;

/** A grid-stride loop over `out`, with the constants of a function. */
function loopOf(gpu: Gpu, out: Tensor, given: Constants) {
  const vec4s = Math.ceil(out.size / 4);
  const { size: workgroup, grid } = strideGrid(gpu, vec4s);
  return { constants: { ...given, WORKGROUP_SIZE: workgroup }, size: { vec4s }, grid };
}

function define(name: Name) {
  return defineOp({
    name,
    inputs: { x: "..." },
    infer: ({ x }, _constants: Constants) => ({ out: x }),
    forward(ctx, { x }, plan, given) {
      const out = ctx.empty(plan.out);
      const { constants, size, grid } = loopOf(ctx.gpu, out, given);
      ctx.run({ shader: shaders.unary, entry: `${name}_forward`, constants }, { out, x, size }, grid);
      return { out, saved: { of: TABLE[name] === "x" ? x : out } };
    },
    backward(ctx, grad, { of }, _plan, given) {
      const dx = ctx.grad("x");
      const { constants, size, grid } = loopOf(ctx.gpu, dx, given);
      const bindings = { out: dx, x: of, y: of, size, dy: grad };
      ctx.run({ shader: shaders.unary, entry: `${name}_grad`, constants }, bindings, grid);
      return { x: dx };
    },
  });
}

const ops = Object.fromEntries((Object.keys(TABLE) as Name[]).map((name) => [name, define(name)])) as Record<
  Name,
  ReturnType<typeof define>
>;

const NONE: Constants = {};

/** eˣ, any shape. */
export function exp(x: Tensor): Tensor {
  return ops.exp({ x }, NONE);
}

/** The natural logarithm, any shape: −∞ at 0, NaN below. Keeps x for backward. */
export function log(x: Tensor): Tensor {
  return ops.log({ x }, NONE);
}

/** √x, any shape; NaN below 0. */
export function sqrt(x: Tensor): Tensor {
  return ops.sqrt({ x }, NONE);
}

/** 1/√x, any shape: ∞ at 0, NaN below. */
export function rsqrt(x: Tensor): Tensor {
  return ops.rsqrt({ x }, NONE);
}

/** |x|, any shape; the gradient at 0 is 0, as in PyTorch. Keeps x for backward. */
export function abs(x: Tensor): Tensor {
  return ops.abs({ x }, NONE);
}

/** −x, any shape. */
export function neg(x: Tensor): Tensor {
  checkTensor("neg", "x", x);
  return scale(x, -1);
}

/** 1 / (1 + exp(−x)), any shape. */
export function sigmoid(x: Tensor): Tensor {
  return ops.sigmoid({ x }, NONE);
}

/** The hyperbolic tangent, any shape. */
export function tanh(x: Tensor): Tensor {
  return ops.tanh({ x }, NONE);
}

/** Options of `softplus`. */
export interface SoftplusOptions {
  /** Default 1. */
  beta?: number;
  /** Where beta · x is above it, the function is x. Default 20. */
  threshold?: number;
}

const SOFTPLUS = optionNames<SoftplusOptions>({ beta: 0, threshold: 0 });

/** @throws ShapeError, UsageError for options that fit no tensor at all; else the kernel's constants. */
export function checkSoftplus(op: string, options: SoftplusOptions): { BETA: number; THRESHOLD: number } {
  checkOptions(op, options, SOFTPLUS);
  const { beta = 1, threshold = 20 } = options;
  checkFloat(op, "beta", beta);
  checkFloat(op, "threshold", threshold);
  if (!(Math.fround(beta) > 0)) {
    throw new ShapeError(`${op}: beta is ${show(beta)}; expected a number above 0`);
  }
  return { BETA: beta, THRESHOLD: threshold };
}

/**
 * log(1 + exp(beta · x)) / beta, any shape, as PyTorch's `softplus`. Keeps x for backward.
 * @throws ShapeError for a beta that is 0 or below, or not finite.
 */
export function softplus(x: Tensor, options: SoftplusOptions = {}): Tensor {
  return ops.softplus({ x }, checkSoftplus("softplus", options));
}

/**
 * min(max(x, min), max), any shape; null is no bound. NaN stays NaN, and the gradient passes from min to max, both included, as
 * in PyTorch. Keeps x for backward.
 * @throws ShapeError for no bound at all, or one that is not finite.
 */
export function clamp(x: Tensor, min: number | null, max: number | null = null): Tensor {
  if (min === null && max === null) {
    throw new ShapeError("clamp: min and max are null; expected a number for one of them at least");
  }
  if (min !== null) checkFloat("clamp", "min", min);
  if (max !== null) checkFloat("clamp", "max", max);
  return ops.clamp(
    { x },
    { LOW: min ?? 0, HIGH: max ?? 0, HAS_LOW: min === null ? 0 : 1, HAS_HIGH: max === null ? 0 : 1 },
  );
}

/**
 * x to the power of a number, any shape, or of a tensor, broadcast as in `add` and differentiable in both: NaN where x is negative
 * and the exponent no integer. Keeps x for backward, and a tensor's exponent and result.
 * @throws ShapeError for a number that is not finite, or shapes that do not broadcast.
 */
export function pow(x: Tensor, exponent: number | Tensor): Tensor {
  if (typeof exponent !== "number" && isTensor(exponent)) return powTensor(x, exponent);
  checkFloat("pow", "exponent", exponent);
  const EXPONENT = Math.fround(exponent);
  const isInteger = Number.isInteger(EXPONENT);
  return ops.pow(
    { x },
    { EXPONENT, IS_INTEGER: isInteger ? 1 : 0, IS_ODD: isInteger && Math.abs(EXPONENT % 2) === 1 ? 1 : 0 },
  );
}

function checkFloat(op: string, name: string, value: number): void {
  checkNumber(op, name, value);
  if (!Number.isFinite(Math.fround(value))) {
    throw new ShapeError(`${op}: ${name} is ${show(value)}; expected a number that float32 holds`);
  }
}
