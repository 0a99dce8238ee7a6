// add, sub, mul, scale, normalize: one read per input and one write. What a library without fusion runs.

import { ShapeError } from "../../errors.ts";
import { show } from "../../options.ts";
import { checkTensor } from "../../tensor/check.ts";
import { checkShape, formatShape, type Shape, sameShape } from "../../tensor/shape.ts";
import { Tensor } from "../../tensor/tensor.ts";
import { defineOp, type OpContext } from "../define-op.ts";
import { reduceInto } from "../reduce/kernels.ts";
import { broadcastShapes, type OperandLayout, operandLayout, repeatedAxes } from "./broadcast.ts";
import { type Binary, binary, binaryNumber, expandInto, sameLayout, scaleInto, ternary } from "./kernels.ts";

const scaleOp = defineOp({
  name: "scale",
  inputs: { x: "..." },
  infer({ x }, { factor }: { factor: number }) {
    if (!Number.isFinite(factor)) {
      throw new ShapeError(
        `scale: factor is ${show(factor)}; expected a finite number, or a tensor that broadcasts to x`,
      );
    }
    return { out: x };
  },
  forward(ctx, { x }, plan, { factor }) {
    const out = ctx.empty(plan.out);
    scaleInto(ctx, out, x, factor);
    return { out, saved: {} };
  },
  backward(ctx, grad, _saved, _plan, { factor }) {
    const dx = ctx.grad("x");
    scaleInto(ctx, dx, grad, factor);
    return { x: dx };
  },
});

interface BroadcastPlan {
  out: Shape;
  /** Axes of a along which b repeats. */
  repeated: readonly boolean[];
  layout: OperandLayout;
  b: Shape;
}

export function broadcastPlan(op: string, a: Shape, b: Shape): BroadcastPlan {
  const repeated = repeatedAxes(op, "b", b, a);
  return { out: a, repeated, layout: operandLayout(op, a, repeated), b };
}

/** out = ±a ± b, a of the output's shape. */
function defineSum(name: string, entry: Binary, signs: { a: 1 | -1; b: 1 | -1 }) {
  return defineOp({
    name,
    inputs: { a: "...", b: "..." },
    infer: ({ a, b }) => broadcastPlan(name, a, b),
    forward(ctx, { a, b }, plan) {
      const graph = ctx.needsGrad.a || ctx.needsGrad.b;
      const sum = entry === "add" && sameShape(plan.out, plan.b);
      const folded = sum ? (a.plus(b, graph) ?? b.plus(a, graph)) : null;
      if (folded) return { out: folded, saved: {} };
      const out = ctx.empty(plan.out);
      binary(ctx, entry, out, a, b, plan.layout);
      return { out, saved: {} };
    },
    // da = ±dy; db = ±Σ dy over the axes along which b repeats
    backward(ctx, grad, _, plan) {
      const signed = (name: "a" | "b", shape: Shape) => {
        if (signs[name] === 1) return grad.alias(shape);
        const negative = ctx.grad(name);
        scaleInto(ctx, negative, grad, -1);
        return negative;
      };
      const summed = () => {
        const db = ctx.grad("b");
        reduceInto(ctx, db, grad, plan.out, plan.repeated, { scale: signs.b });
        return db;
      };
      const repeats = plan.repeated.includes(true);
      return {
        a: ctx.needsGrad.a ? signed("a", plan.out) : null,
        b: ctx.needsGrad.b ? (repeats ? summed() : signed("b", plan.b)) : null,
      };
    },
    passes: entry === "add" ? ["a", "b"] : [],
    sink: (_gpu, _saved, plan, _params, ofInput) =>
      plan.repeated.includes(true) ? null : (ofInput?.plus() ?? null),
  });
}

const addOp = defineSum("add", "add", { a: 1, b: 1 });
const subOp = defineSum("sub", "sub", { a: 1, b: -1 });
const subReversedOp = defineSum("sub", "sub_reversed", { a: -1, b: 1 });

const mulOp = defineOp({
  name: "mul",
  inputs: { a: "...", b: "..." },
  infer: ({ a, b }) => broadcastPlan("mul", a, b),
  forward(ctx, { a, b }, plan) {
    const out = ctx.empty(plan.out);
    binary(ctx, "mul", out, a, b, plan.layout);
    return { out, saved: { a: ctx.needsGrad.b ? a : null, b: ctx.needsGrad.a ? b : null } };
  },
  // da = dy·b; db = Σ dy·a over the axes along which b repeats
  backward(ctx, grad, { a, b }, plan) {
    let da: Tensor | null = null;
    let db: Tensor | null = null;
    if (b) {
      da = ctx.grad("a");
      binary(ctx, "mul", da, grad, b, plan.layout);
    }
    if (a) {
      db = ctx.grad("b");
      if (plan.repeated.includes(true)) {
        reduceInto(ctx, db, a, plan.out, plan.repeated, { term: "PRODUCT", z: grad });
      } else {
        binary(ctx, "mul", db, grad, a, sameLayout(plan.out));
      }
    }
    return { a: da, b: db };
  },
});

/** Sums `grad` over the axes along which b repeats, into a gradient of b. */
function summedTo(ctx: OpContext, grad: Tensor, plan: BroadcastPlan, factor = 1): Tensor {
  const db = ctx.grad("b");
  if (plan.repeated.includes(true)) reduceInto(ctx, db, grad, plan.out, plan.repeated, { scale: factor });
  else scaleInto(ctx, db, grad, factor);
  return db;
}

const divOp = defineOp({
  name: "div",
  inputs: { a: "...", b: "..." },
  infer: ({ a, b }) => broadcastPlan("div", a, b),
  forward(ctx, { a, b }, plan) {
    const out = ctx.empty(plan.out);
    binary(ctx, "div", out, a, b, plan.layout);
    return { out, saved: { b, out: ctx.needsGrad.b ? out : null } };
  },
  // da = dy / b; db = −Σ dy·out / b over the axes along which b repeats
  backward(ctx, grad, { b, out }, plan) {
    const da = ctx.needsGrad.a ? ctx.grad("a") : null;
    if (da) binary(ctx, "div", da, grad, b, plan.layout);
    if (!out) return { a: da, b: null };
    const [product, each] = [ctx.temp(plan.out), ctx.temp(plan.out)];
    binary(ctx, "mul", product, grad, out, sameLayout(plan.out));
    binary(ctx, "div", each, product, b, plan.layout);
    return { a: da, b: summedTo(ctx, each, plan, -1) };
  },
});

/** out = b / a */
const divReversedOp = defineOp({
  name: "div",
  inputs: { a: "...", b: "..." },
  infer: ({ a, b }) => broadcastPlan("div", a, b),
  forward(ctx, { a, b }, plan) {
    const out = ctx.empty(plan.out);
    binary(ctx, "div_reversed", out, a, b, plan.layout);
    return { out, saved: { a, out: ctx.needsGrad.a ? out : null } };
  },
  // db = Σ dy / a over the axes along which b repeats; da = −dy·out / a
  backward(ctx, grad, { a, out }, plan) {
    const each = ctx.temp(plan.out);
    binary(ctx, "div", each, grad, a, sameLayout(plan.out));
    const db = ctx.needsGrad.b ? summedTo(ctx, each, plan) : null;
    if (!out) return { a: null, b: db };
    const da = ctx.grad("a");
    const product = ctx.temp(plan.out);
    binary(ctx, "mul", product, each, out, sameLayout(plan.out));
    scaleInto(ctx, da, product, -1);
    return { a: da, b: db };
  },
});

/** The larger or the smaller of two. */
function defineExtreme(name: "maximum" | "minimum") {
  return defineOp({
    name,
    inputs: { a: "...", b: "..." },
    infer: ({ a, b }) => broadcastPlan(name, a, b),
    forward(ctx, { a, b }, plan) {
      const out = ctx.empty(plan.out);
      binary(ctx, name, out, a, b, plan.layout);
      return { out, saved: { a, b } };
    },
    // da = dy where a was taken, half of it where both are equal; db = Σ dy − da
    backward(ctx, grad, { a, b }, plan) {
      const same = sameLayout(plan.out);
      const share = ctx.temp(plan.out);
      binary(ctx, `share_of_${name}`, share, a, b, plan.layout);
      const da = ctx.needsGrad.a ? ctx.grad("a") : ctx.temp(plan.out);
      binary(ctx, "mul", da, grad, share, same);
      if (!ctx.needsGrad.b) return { a: da, b: null };
      binary(ctx, "sub", share, grad, da, same);
      return { a: ctx.needsGrad.a ? da : null, b: summedTo(ctx, share, plan) };
    },
  });
}

const maximumOp = defineExtreme("maximum");
const minimumOp = defineExtreme("minimum");

/** What an op of a tensor and a number takes beside the tensor; `reversed` where the number stands first. */
interface NumberParams {
  number: number;
  reversed: boolean;
}

/** Writes the gradient of a into `da`. */
type NumberSlope = (
  ctx: OpContext,
  da: Tensor,
  grad: Tensor,
  saved: { a: Tensor; out: Tensor },
  number: number,
) => void;

/** out = f(a, number), in one pass. */
function defineOfNumber(name: string, entry: Binary, slope: NumberSlope | 1, keeps = false) {
  return defineOp({
    name,
    inputs: { a: "..." },
    infer: ({ a }, _params: NumberParams) => ({ out: a }),
    forward(ctx, { a }, plan, { number }) {
      const out = ctx.empty(plan.out);
      binaryNumber(ctx, entry, out, a, number);
      const kept = keeps && ctx.needsGrad.a;
      return { out, saved: { a: kept ? a : null, out: kept ? out : null } };
    },
    backward(ctx, grad, saved, plan, { number }) {
      if (slope === 1) return { a: grad.alias(plan.out) };
      const da = ctx.grad("a");
      slope(ctx, da, grad, saved as { a: Tensor; out: Tensor }, number);
      return { a: da };
    },
  });
}

const minus: NumberSlope = (ctx, da, grad) => scaleInto(ctx, da, grad, -1);
/** dy·number, dy / number */
const alike =
  (entry: "mul" | "div"): NumberSlope =>
  (ctx, da, grad, _saved, number) =>
    binaryNumber(ctx, entry, da, grad, number);
/** −dy·out / a */
const reciprocal: NumberSlope = (ctx, da, grad, { a, out }) => {
  const same = sameLayout(da.shape);
  const [product, each] = [ctx.temp(da.shape), ctx.temp(da.shape)];
  binary(ctx, "mul", product, grad, out, same);
  binary(ctx, "div", each, product, a, same);
  scaleInto(ctx, da, each, -1);
};
/** dy where a was taken, half of it where it is equal to the number. */
const taken =
  (name: "maximum" | "minimum"): NumberSlope =>
  (ctx, da, grad, { a }, number) => {
    const share = ctx.temp(da.shape);
    binaryNumber(ctx, `share_of_${name}`, share, a, number);
    binary(ctx, "mul", da, grad, share, sameLayout(da.shape));
  };

const symmetric = (name: string, entry: Binary, slope: NumberSlope | 1, keeps = false) => {
  const op = defineOfNumber(name, entry, slope, keeps);
  return { straight: op, reversed: op };
};

/** By op: of a tensor and a number, and of a number and a tensor. */
const NUMBERS = {
  add: symmetric("add", "add", 1),
  sub: {
    straight: defineOfNumber("sub", "sub", 1),
    reversed: defineOfNumber("sub", "sub_reversed", minus),
  },
  mul: symmetric("mul", "mul", alike("mul")),
  div: {
    straight: defineOfNumber("div", "div", alike("div")),
    reversed: defineOfNumber("div", "div_reversed", reciprocal, true),
  },
  maximum: symmetric("maximum", "maximum", taken("maximum"), true),
  minimum: symmetric("minimum", "minimum", taken("minimum"), true),
};

const expandOp = defineOp({
  name: "expand",
  inputs: { x: "..." },
  infer({ x }, { shape }: { shape: Shape }) {
    checkShape("expand", shape);
    const repeated = repeatedAxes("expand", "x", x, shape);
    return { out: shape, repeated, layout: operandLayout("expand", shape, repeated), x };
  },
  forward(ctx, { x }, plan) {
    const out = ctx.empty(plan.out);
    expandInto(ctx, out, x, plan.layout);
    return { out, saved: {} };
  },
  backward(ctx, grad, _, plan) {
    const dx = ctx.grad("x");
    reduceInto(ctx, dx, grad, plan.out, plan.repeated);
    return { x: dx };
  },
});

/**
 * Repeats x to `shape`: each size of x, counted from the last axis, is equal or 1. Makes a copy.
 * @throws ShapeError if x does not broadcast to `shape`.
 */
export function expand(x: Tensor, shape: Shape): Tensor {
  return expandOp({ x }, { shape });
}

/** Tells who traces that a and b are exchanged. */
const REVERSED = { reversed: true } as const;

/** What the ops of two take: tensors that broadcast, or a tensor and a number. */
type Operand = Tensor | number;

function ofTwo(
  name: keyof typeof NUMBERS,
  a: Operand,
  b: Operand,
  straight: typeof addOp,
  reversed: typeof addOp,
): Tensor {
  const isNumber = [typeof a === "number", typeof b === "number"];
  if (isNumber[0] === isNumber[1]) return broadcast(name, a as Tensor, b as Tensor, straight, reversed);
  return isNumber[1]
    ? NUMBERS[name].straight({ a: a as Tensor }, { number: b as number, reversed: false })
    : NUMBERS[name].reversed({ a: b as Tensor }, { number: a as number, reversed: true });
}

/** Runs the op with its larger input first; where neither has the output's shape, a is expanded first. */
export function broadcast(
  name: string,
  a: Tensor,
  b: Tensor,
  straight: typeof addOp,
  reversed: typeof addOp,
): Tensor {
  checkTensor(name, "a", a);
  checkTensor(name, "b", b, { with: ["a", a] });
  const shape = broadcastShapes(name, a.shape, b.shape);
  a.gpu.checkSize(name, shape, "float32", "output");
  if (sameShape(a.shape, shape)) return straight({ a, b }, null);
  if (sameShape(b.shape, shape)) return reversed({ a: b, b: a }, REVERSED);
  // The copy goes with the scope: whoever called has no handle on it.
  return a.gpu.scope(() => straight({ a: expand(a, shape), b }, null));
}

/**
 * a + b, broadcast as NumPy and PyTorch do: equal shapes, a channel vector `[C]` against `[N, H, W, C]`, a
 * scalar, `[N, 1, 1, C]`, …. One of them may be a number.
 * @throws ShapeError if the shapes do not broadcast.
 */
export function add(a: Tensor | number, b: Tensor | number): Tensor {
  return ofTwo("add", a, b, addOp, addOp);
}

/** a − b, broadcast as in `add`. @throws ShapeError if the shapes do not broadcast. */
export function sub(a: Tensor | number, b: Tensor | number): Tensor {
  return ofTwo("sub", a, b, subOp, subReversedOp);
}

/** a · b, element by element, broadcast as in `add`. @throws ShapeError if the shapes do not broadcast. */
export function mul(a: Tensor | number, b: Tensor | number): Tensor {
  return ofTwo("mul", a, b, mulOp, mulOp);
}

/** a / b, element by element, broadcast as in `add`. @throws ShapeError if the shapes do not broadcast. */
export function div(a: Tensor | number, b: Tensor | number): Tensor {
  return ofTwo("div", a, b, divOp, divReversedOp);
}

/**
 * The larger of a and b, element by element, broadcast as in `add`; NaN if one of them is. Equal elements share the gradient, as in
 * PyTorch.
 * @throws ShapeError if the shapes do not broadcast.
 */
export function maximum(a: Tensor | number, b: Tensor | number): Tensor {
  return ofTwo("maximum", a, b, maximumOp, maximumOp);
}

/** The smaller of a and b, as `maximum`. @throws ShapeError if the shapes do not broadcast. */
export function minimum(a: Tensor | number, b: Tensor | number): Tensor {
  return ofTwo("minimum", a, b, minimumOp, minimumOp);
}

/**
 * x times a number, or times a tensor that broadcasts to x, such as a factor per channel `[C]`.
 * @throws ShapeError if `factor` is not finite, or does not broadcast to x.
 */
export function scale(x: Tensor, factor: number | Tensor): Tensor {
  checkTensor("scale", "x", x);
  if (typeof factor === "number") return scaleOp({ x }, { factor });
  if (!(factor instanceof Tensor)) {
    throw new ShapeError(
      `scale: factor is ${show(factor)}; expected a finite number, or a Tensor that broadcasts to x`,
    );
  }
  checkTensor("scale", "factor", factor, { with: ["x", x] });
  repeatedAxes("scale", "factor", factor.shape, x.shape);
  return mulOp({ a: x, b: factor }, null);
}

const normalizeOp = defineOp({
  name: "normalize",
  inputs: { x: "...", mean: "...", variance: "..." },
  infer({ x, mean, variance }, { eps }: { eps: number }) {
    if (!sameShape(mean, variance)) {
      throw new ShapeError(
        `normalize: mean is ${formatShape(mean)}, variance ${formatShape(variance)}; expected the same shape`,
      );
    }
    if (!(Number.isFinite(eps) && eps >= 0)) {
      throw new ShapeError(
        `normalize: eps is ${show(eps)}; expected a finite number that is not negative, such as 1e-5`,
      );
    }
    const repeated = repeatedAxes("normalize", "mean", mean, x);
    return { out: x, statistics: mean, repeated, layout: operandLayout("normalize", x, repeated) };
  },
  forward(ctx, { x, mean, variance }, plan, { eps }) {
    const out = ctx.empty(plan.out);
    ternary(ctx, "normalized", out, x, mean, variance, plan.layout, eps);
    return { out, saved: { x: ctx.needsGrad.variance ? x : null, mean, variance } };
  },
  // rstd = (variance + eps)^-1/2: dx = dy·rstd, dmean = -rstd·Σ dy, dvariance = -rstd³/2 · Σ dy·(x − mean)
  backward(ctx, grad, { x, mean, variance }, plan, { eps }) {
    const perStatistic = sameLayout(plan.statistics);
    let dx: Tensor | null = null;
    let dmean: Tensor | null = null;
    let dvariance: Tensor | null = null;
    if (ctx.needsGrad.x) {
      dx = ctx.grad("x");
      binary(ctx, "times_rstd", dx, grad, variance, plan.layout, eps);
    }
    if (ctx.needsGrad.mean) {
      const sum = ctx.temp(plan.statistics);
      dmean = ctx.grad("mean");
      reduceInto(ctx, sum, grad, plan.out, plan.repeated);
      binary(ctx, "minus_times_rstd", dmean, sum, variance, perStatistic, eps);
    }
    if (x) {
      const sum = ctx.temp(plan.statistics);
      dvariance = ctx.grad("variance");
      reduceInto(ctx, sum, x, plan.out, plan.repeated, {
        term: "PRODUCT_WITH_DEVIATION",
        z: grad,
        centre: mean,
      });
      binary(ctx, "normalize_grad_variance", dvariance, sum, variance, perStatistic, eps);
    }
    return { x: dx, mean: dmean, variance: dvariance };
  },
});

/**
 * (x − mean) / √(variance + eps), differentiable in all three. `mean` and `variance` have one shape, which
 * broadcasts to x's: `[C]` for batch-norm, what `mean(x, axes, { keepDims: true })` gives for others.
 * @param eps default 1e-5
 * @throws ShapeError if the shapes do not go together, or eps is negative or not finite.
 */
export function normalize(x: Tensor, mean: Tensor, variance: Tensor, eps = 1e-5): Tensor {
  return normalizeOp({ x, mean, variance }, { eps });
}
