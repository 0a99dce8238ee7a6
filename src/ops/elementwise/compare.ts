// Comparisons and `where`. A condition is float32, 1 or 0: the other ops take it as it is, so that a mask is `mul(x, gt(x, y))` and
// a count `sum(gt(x, y))`.

import { noGrad } from "../../autograd/tape.ts";
import { ShapeError } from "../../errors.ts";
import * as shaders from "../../generated/shaders.ts";
import { show } from "../../options.ts";
import { checkTensor } from "../../tensor/check.ts";
import { formatShape, sameShape } from "../../tensor/shape.ts";
import { Tensor } from "../../tensor/tensor.ts";
import { defineOp } from "../define-op.ts";
import { strideGrid } from "../grid.ts";
import { broadcastShapes } from "./broadcast.ts";
import { broadcast, broadcastPlan, expand } from "./elementwise.ts";
import { binary, binaryNumber, sameLayout, ternary } from "./kernels.ts";

/** By comparison, the one that holds of (b, a) where it holds of (a, b). */
const REVERSED = { eq: "eq", ne: "ne", lt: "gt", le: "ge", gt: "lt", ge: "le" } as const;

type Name = keyof typeof REVERSED;

function defineComparison(name: Name) {
  const ofTensors = (entry: Name) =>
    defineOp({
      name,
      inputs: { a: "...", b: "..." },
      infer: ({ a, b }) => broadcastPlan(name, a, b),
      forward(ctx, { a, b }, plan) {
        const out = ctx.empty(plan.out);
        binary(ctx, entry, out, a, b, plan.layout);
        return { out, saved: {} };
      },
    });
  const ofNumber = defineOp({
    name,
    inputs: { a: "..." },
    infer: ({ a }, _b: number) => ({ out: a }),
    forward(ctx, { a }, plan, b) {
      const out = ctx.empty(plan.out);
      binaryNumber(ctx, name, out, a, b);
      return { out, saved: {} };
    },
  });
  const [straight, reversed, integers] = [ofTensors(name), ofTensors(REVERSED[name]), defineIntegers(name)];
  return (a: Tensor, b: Tensor | number): Tensor => {
    if (a instanceof Tensor && a.dtype === "uint32") return integers(a, b);
    if (typeof b === "number") return noGrad(() => ofNumber({ a }, b));
    if (!(b instanceof Tensor)) {
      throw new ShapeError(`${name}: b is ${show(b)}; expected a number, or a Tensor that broadcasts with a`);
    }
    return noGrad(() => broadcast(name, a, b, straight, reversed));
  };
}

/** Of labels and of what `argmax` gives: equal shapes, or a number. */
function defineIntegers(name: Name) {
  const op = defineOp({
    name,
    inputs: { a: "...", b: "...?" },
    dtypes: { a: ["uint32"], b: ["uint32"] },
    infer({ a, b }, _number: number) {
      if (b && !sameShape(a, b)) {
        throw new ShapeError(
          `${name}: a is ${formatShape(a)}, b is ${formatShape(b)}, both uint32; expected equal shapes of integers`,
        );
      }
      return { out: a };
    },
    forward(ctx, { a, b }, plan, number) {
      const out = ctx.empty(plan.out);
      const { size, grid } = strideGrid(ctx.gpu, out.size);
      const constants = {
        ...{ WORKGROUP_SIZE: size, IS_NUMBER: b ? 0 : 1 },
        RELATION: Object.keys(REVERSED).indexOf(name),
      };
      const sizes = { count: out.size, number };
      ctx.run(
        { shader: shaders.compare_integers, entry: "compare", constants },
        { out, a, b: b ?? a, sizes },
        grid,
      );
      return { out, saved: {} };
    },
  });
  return (a: Tensor, b: Tensor | number): Tensor => {
    if (b instanceof Tensor) return noGrad(() => op({ a, b }, 0));
    if (!Number.isInteger(b) || b < 0 || b > 2 ** 32 - 1) {
      throw new ShapeError(
        `${name}: b is ${show(b)}, a is uint32; expected a Tensor of uint32, or an integer from 0 to 4294967295`,
      );
    }
    return noGrad(() => op({ a, b: null }, b));
  };
}

const comparisons = Object.fromEntries(
  (Object.keys(REVERSED) as Name[]).map((name) => [name, defineComparison(name)]),
) as Record<Name, ReturnType<typeof defineComparison>>;

/**
 * 1 where a = b and 0 elsewhere, float32, broadcast as in `add`; b may be a number. NaN is equal to nothing. Integers (uint32), such
 * as labels and what `argmax` gives, are compared with integers of the same shape, or a number. Not differentiable.
 * @throws ShapeError if the shapes do not broadcast.
 */
export function eq(a: Tensor, b: Tensor | number): Tensor {
  return comparisons.eq(a, b);
}

/** 1 where a ≠ b and 0 elsewhere, as `eq`; NaN differs from everything. @throws ShapeError if the shapes do not broadcast. */
export function ne(a: Tensor, b: Tensor | number): Tensor {
  return comparisons.ne(a, b);
}

/** 1 where a < b and 0 elsewhere, as `eq`; 0 beside NaN. @throws ShapeError if the shapes do not broadcast. */
export function lt(a: Tensor, b: Tensor | number): Tensor {
  return comparisons.lt(a, b);
}

/** 1 where a ≤ b and 0 elsewhere, as `eq`; 0 beside NaN. @throws ShapeError if the shapes do not broadcast. */
export function le(a: Tensor, b: Tensor | number): Tensor {
  return comparisons.le(a, b);
}

/** 1 where a > b and 0 elsewhere, as `eq`; 0 beside NaN. @throws ShapeError if the shapes do not broadcast. */
export function gt(a: Tensor, b: Tensor | number): Tensor {
  return comparisons.gt(a, b);
}

/** 1 where a ≥ b and 0 elsewhere, as `eq`; 0 beside NaN. @throws ShapeError if the shapes do not broadcast. */
export function ge(a: Tensor, b: Tensor | number): Tensor {
  return comparisons.ge(a, b);
}

const whereOp = defineOp({
  name: "where",
  inputs: { condition: "...", a: "...", b: "..." },
  infer({ condition, a, b }) {
    if (!sameShape(condition, a) || !sameShape(condition, b)) {
      throw new ShapeError(
        `where: condition is ${formatShape(condition)}, a is ${formatShape(a)}, b is ${formatShape(b)}; expected one shape`,
      );
    }
    return { out: condition };
  },
  forward(ctx, { condition, a, b }, plan) {
    const out = ctx.empty(plan.out);
    ternary(ctx, "chosen", out, condition, a, b, sameLayout(plan.out));
    return { out, saved: { condition } };
  },
  // Chosen, not multiplied: what was not taken gets 0, even where dy is infinite or NaN.
  backward(ctx, grad, { condition }, plan) {
    const part = (name: "a" | "b", entry: "where_true" | "where_false") => {
      const into = ctx.grad(name);
      binary(ctx, entry, into, grad, condition, sameLayout(plan.out));
      return into;
    };
    return {
      condition: null,
      a: ctx.needsGrad.a ? part("a", "where_true") : null,
      b: ctx.needsGrad.b ? part("b", "where_false") : null,
    };
  },
});

/**
 * a where the condition is not 0, b elsewhere, all three broadcast as in `add`. The condition is float32, such as the comparisons
 * give it; NaN is not 0. No gradient goes to the condition, and none comes from the elements that were not taken. Keeps the condition
 * for backward; of inputs that repeat, copies of the output's shape are made. a and b may be numbers.
 * @throws ShapeError if the shapes do not broadcast.
 */
export function where(condition: Tensor, a: Tensor | number, b: Tensor | number): Tensor {
  checkTensor("where", "condition", condition);
  if (typeof a === "number" || typeof b === "number") {
    const { gpu } = condition;
    const whole = (x: Tensor | number) => (typeof x === "number" ? gpu.full([], x) : x);
    return gpu.scope(() => where(condition, whole(a), whole(b)));
  }
  checkTensor("where", "a", a, { with: ["condition", condition] });
  checkTensor("where", "b", b, { with: ["condition", condition] });
  const branches = broadcastShapes("where", a.shape, b.shape);
  const shape = broadcastShapes("where", condition.shape, branches, ["condition", "a with b"]);
  condition.gpu.checkSize("where", shape, "float32", "output");
  const whole = (x: Tensor) => (sameShape(x.shape, shape) ? x : expand(x, shape));
  return condition.gpu.scope(() =>
    whereOp({ condition: noGrad(() => whole(condition)), a: whole(a), b: whole(b) }, null),
  );
}
