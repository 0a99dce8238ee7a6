// Activations: y = act(x), dx = dy · act'(x). An activation is a part of a shader, shaders/activation_<name>.wgsl, and a line of
// the table below; batch-norm links the same parts into its own kernels.

import { link } from "../device/link.ts";
import { ShapeError, UsageError } from "../errors.ts";
import { type ActivationPart, isRectifier, NO_ACTIVATION } from "../fusion/ports.ts";
import * as shaders from "../generated/shaders.ts";
import { checkChoice, checkNumber, checkOptions, isPlain, oneOf, optionNames, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp, type OpContext } from "./define-op.ts";
import { strideGrid } from "./grid.ts";

/** By the names of `Activation`, with PyTorch's defaults. */
const TABLE = {
  none: NO_ACTIVATION,
  relu: { part: "activation_relu", constants: {} },
  relu6: { part: "activation_relu6", constants: {} },
  leakyRelu: { part: "activation_leaky_relu", constants: { NEGATIVE_SLOPE: 0.01 } },
  silu: { part: "activation_silu", constants: {} },
  gelu: { part: "activation_gelu", constants: {} },
  geluTanh: { part: "activation_gelu_tanh", constants: {} },
  hardSwish: { part: "activation_hard_swish", constants: {} },
} as const satisfies Record<string, ActivationPart>;

type ActivationName = keyof typeof TABLE;

/** What is applied to each element: a name, or a leaky ReLU with a slope other than 0.01. */
export type Activation = ActivationName | { name: "leakyRelu"; negativeSlope: number };

export const ACTIVATION_NAMES = Object.keys(TABLE) as readonly ActivationName[];
const LEAKY_RELU = optionNames<Extract<Activation, object>>({ name: 0, negativeSlope: 0 });

/** @throws ShapeError, UsageError for what is no activation, in the name of `op`. */
export function activationPart(op: string, activation: Activation): ActivationPart {
  if (!isPlain(activation)) {
    checkChoice(op, "activation", activation, ACTIVATION_NAMES, ShapeError);
    return TABLE[activation];
  }
  checkOptions(op, activation, LEAKY_RELU, "activation");
  const { name, negativeSlope } = activation;
  if (name !== "leakyRelu") {
    throw new UsageError(
      `${op}: activation.name is ${show(name)}; expected "leakyRelu", or as activation one of ${oneOf(ACTIVATION_NAMES)}`,
    );
  }
  checkSlope(op, "activation.negativeSlope", negativeSlope);
  return leakyReluPart(negativeSlope);
}

function leakyReluPart(negativeSlope: number): ActivationPart {
  return { part: TABLE.leakyRelu.part, constants: { NEGATIVE_SLOPE: negativeSlope } };
}

function checkSlope(op: string, name: string, slope: number): void {
  checkNumber(op, name, slope);
  if (!Number.isFinite(Math.fround(slope))) {
    throw new ShapeError(`${op}: ${name} is ${show(slope)}; expected a number that float32 holds`);
  }
}

/** y from x; or dx, where `dy` is given. */
function run(
  ctx: Pick<OpContext, "gpu" | "run">,
  { part, constants }: ActivationPart,
  out: Tensor,
  x: Tensor,
  dy: Tensor | null,
): void {
  const vec4s = Math.ceil(out.size / 4);
  const { size: workgroup, grid } = strideGrid(ctx.gpu, vec4s);
  const shader = link(shaders.activation, { activation: part });
  const own = { ...constants, WORKGROUP_SIZE: workgroup };
  const size = { vec4s };
  if (dy) ctx.run({ shader, entry: "backward", constants: own }, { out, x, size, dy }, grid);
  else ctx.run({ shader, entry: "forward", constants: own }, { out, x, size }, grid);
}

function defineActivation(name: string) {
  return defineOp({
    name,
    inputs: { x: "..." },
    infer: ({ x }, _activation: ActivationPart) => ({ out: x }),
    forward(ctx, { x }, plan, activation) {
      const newMask = ctx.needsGrad.x ? (words: number) => ctx.empty([words], "uint32") : null;
      const folded = x.activated(activation, newMask);
      const out = folded?.out ?? ctx.empty(plan.out);
      if (!folded) run(ctx, activation, out, x, null);
      // A ReLU's output tells where it is not zero. What the op before gave may have been overwritten: a sink would not know.
      const of = isRectifier(activation) ? out : x;
      return { out, saved: { of, mask: folded?.mask ?? null, sinks: !x.wasOverwritten } };
    },
    // dx = dy · act'(x)
    backward(ctx, grad, { of }, _plan, activation) {
      if (ctx.sums) return { x: grad.alias() }; // it went through the activation already
      const dx = ctx.grad("x");
      run(ctx, activation, dx, of, grad);
      return { x: dx };
    },
    passes: ["x"],
    sink: (_gpu, { mask, sinks }, _plan, activation, ofInput) =>
      sinks ? (ofInput?.activated(activation, mask) ?? null) : null,
  });
}

const ops = new Map<ActivationPart["part"], ReturnType<typeof defineActivation>>(
  Object.values(TABLE).map(({ part }) => [part, defineActivation(part.slice("activation_".length))]),
);

function apply(x: Tensor, activation: ActivationPart): Tensor {
  return ops.get(activation.part)!({ x }, activation);
}

/** max(x, 0), any shape. NaN stays NaN; the gradient at 0 is 0, as in PyTorch. */
export function relu(x: Tensor): Tensor {
  return apply(x, TABLE.relu);
}

/** min(max(x, 0), 6), any shape. NaN stays NaN; the gradient at 0 and at 6 is 0, as in PyTorch. Keeps x for backward. */
export function relu6(x: Tensor): Tensor {
  return apply(x, TABLE.relu6);
}

/** Options of `leakyRelu`. */
export interface LeakyReluOptions {
  /** What a negative x is multiplied by. Default 0.01. */
  negativeSlope?: number;
}

const LEAKY_RELU_OPTIONS = optionNames<LeakyReluOptions>({ negativeSlope: 0 });

/** @throws ShapeError, UsageError for options that `leakyRelu` can't take. */
export function checkLeakyRelu(op: string, options: LeakyReluOptions): number {
  checkOptions(op, options, LEAKY_RELU_OPTIONS);
  const { negativeSlope = 0.01 } = options;
  checkSlope(op, "negativeSlope", negativeSlope);
  return negativeSlope;
}

/** x where x > 0, else `negativeSlope` · x, any shape. Keeps x for backward. @throws ShapeError for a slope that is not finite. */
export function leakyRelu(x: Tensor, options: LeakyReluOptions = {}): Tensor {
  return apply(x, leakyReluPart(checkLeakyRelu("leakyRelu", options)));
}

/** x / (1 + exp(−x)), any shape. Keeps x for backward. */
export function silu(x: Tensor): Tensor {
  return apply(x, TABLE.silu);
}

/** Options of `gelu`. */
export interface GeluOptions {
  /** "none": by the error function. "tanh": 0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))). Default "none". */
  approximate?: "none" | "tanh";
}

const GELU_OPTIONS = optionNames<GeluOptions>({ approximate: 0 });

/** @throws UsageError for options that `gelu` can't take. */
export function checkGelu(op: string, options: GeluOptions): "gelu" | "geluTanh" {
  checkOptions(op, options, GELU_OPTIONS);
  const { approximate = "none" } = options;
  checkChoice(op, "approximate", approximate, ["none", "tanh"]);
  return approximate === "tanh" ? "geluTanh" : "gelu";
}

/** x · Φ(x), Φ the normal distribution, or its approximation; any shape. Keeps x for backward. */
export function gelu(x: Tensor, options: GeluOptions = {}): Tensor {
  checkTensor("gelu", "x", x);
  return apply(x, TABLE[checkGelu("gelu", options)]);
}

/** x · min(max(x + 3, 0), 6) / 6, any shape. Keeps x for backward. */
export function hardSwish(x: Tensor): Tensor {
  return apply(x, TABLE.hardSwish);
}

/** The op of that name; x itself for "none". */
export function activate(op: string, x: Tensor, activation: Activation): Tensor {
  return activation === "none" ? x : apply(x, activationPart(op, activation));
}
