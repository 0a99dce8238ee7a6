import type { Grid } from "../../device/commands.ts";
import type { Choice } from "../../device/variants.ts";
import { ShapeError } from "../../errors.ts";
import * as shaders from "../../generated/shaders.ts";
import type { Gpu } from "../../gpu.ts";
import { checkTensor } from "../../tensor/check.ts";
import { normalizeAxes, type Shape, sizeOf } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { defineOp } from "../define-op.ts";
import { strideGrid } from "../grid.ts";
import { publicNameOf } from "../op-checks.ts";
import { permute } from "../permute.ts";

/**
 * How `rows` rows are shared out: one invocation to each, or one workgroup in the entry points whose names end in `_tree`.
 */
export function rowKernel(gpu: Gpu, shader: string, rows: number, classes: number): RowKernel {
  const choice = gpu.variants.pick(
    shader,
    `${rows}x${classes}`,
    ["lanes", "tree"],
    gpu.isSoftware || classes < 64 ? "lanes" : "tree",
  );
  const serves = [choice];
  if (choice.variant === "lanes") return { suffix: "", serves, ...strideGrid(gpu, rows) };
  return {
    suffix: "_tree",
    serves,
    size: Math.min(128, 2 ** Math.ceil(Math.log2(classes))),
    grid: gpu.fold(rows),
  };
}

interface RowKernel {
  suffix: "" | "_tree";
  serves: readonly Choice[];
  size: number;
  grid: Grid;
}

function define(name: "softmax" | "log_softmax", log: 0 | 1) {
  return defineOp({
    name,
    inputs: { x: "..." },
    infer({ x }): { out: Shape; rows: number; classes: number } {
      const classes = x.at(-1);
      if (classes === undefined)
        throw new ShapeError(`${publicNameOf({ name })}: x is a scalar []; expected [..., K]`);
      return { out: x, rows: sizeOf(x) / classes, classes };
    },
    forward(ctx, { x }, plan) {
      const out = ctx.empty(plan.out);
      const { rows, classes } = plan;
      const { suffix, serves, size, grid } = rowKernel(ctx.gpu, name, rows, classes);
      ctx.run(
        {
          shader: shaders.softmax,
          entry: `forward${suffix}`,
          constants: { WORKGROUP_SIZE: size, LOG: log },
          serves,
        },
        { out, sizes: { rows, classes }, x },
        grid,
      );
      return { out, saved: { out } };
    },
    backward(ctx, grad, { out }, plan) {
      const dx = ctx.grad("x");
      const { rows, classes } = plan;
      const { suffix, serves, size, grid } = rowKernel(ctx.gpu, name, rows, classes);
      ctx.run(
        {
          shader: shaders.softmax,
          entry: `grad_input${suffix}`,
          constants: { WORKGROUP_SIZE: size, LOG: log },
          serves,
        },
        { out: dx, sizes: { rows, classes }, y: out, dy: grad },
        grid,
      );
      return { x: dx };
    },
  });
}

const softmaxOp = define("softmax", 0);
const logSoftmaxOp = define("log_softmax", 1);

/** `op` over any axis: along another one than the last, of a copy in which that is the last. */
function along(name: string, op: typeof softmaxOp, x: Tensor, axis: number): Tensor {
  if (axis === -1) return op({ x }, null);
  checkTensor(name, "x", x);
  const last = x.rank - 1;
  const [place] = normalizeAxes(name, [axis], x.rank);
  if (place === last) return op({ x }, null);
  const order = x.shape.map((_, at) => (at === place ? last : at === last ? place! : at));
  return x.gpu.scope(() => permute(op({ x: permute(x, order) }, null), order));
}

/**
 * exp(x) / Σ exp(x) over `axis`, with the maximum taken out first. Channels and classes are the last axis, the default; along another
 * one copies are made.
 * @throws ShapeError for a scalar, or an axis that x does not have.
 */
export function softmax(x: Tensor, axis = -1): Tensor {
  return along("softmax", softmaxOp, x, axis);
}

/**
 * log softmax(x) = x − max x − log Σ exp(x − max x) over `axis`, the last one by default, where softmax(x) itself may be 0 in float32.
 * @throws ShapeError for a scalar, or an axis that x does not have.
 */
export function logSoftmax(x: Tensor, axis = -1): Tensor {
  return along("logSoftmax", logSoftmaxOp, x, axis);
}
