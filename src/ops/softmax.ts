import { ShapeError } from "../errors.ts";
import { type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp, type OpContext } from "./define-op.ts";
import { strideGrid } from "./kernels.ts";

/** Dispatches `entry` with one invocation to a row, or `entry`_tree with one workgroup to a row. */
export function runRows(
  ctx: Pick<OpContext, "gpu" | "run">,
  shader: "softmax" | "softmax_cross_entropy",
  entry: string,
  constants: Record<string, number>,
  bindings: Parameters<OpContext["run"]>[1],
  rows: number,
  classes: number,
): void {
  const choice = ctx.gpu.variants.pick(
    shader,
    `${rows}x${classes}`,
    ["lanes", "tree"],
    ctx.gpu.isSoftware || classes < 64 ? "lanes" : "tree",
  );
  const serves = [choice];
  if (choice.variant === "tree") {
    const lanes = Math.min(128, 2 ** Math.ceil(Math.log2(classes)));
    const spec = {
      shader,
      entry: `${entry}_tree`,
      constants: { ...constants, WORKGROUP_SIZE: lanes },
      serves,
    };
    ctx.run(spec, bindings, ctx.gpu.fold(rows));
  } else {
    const { size, grid } = strideGrid(ctx.gpu, rows);
    ctx.run({ shader, entry, constants: { ...constants, WORKGROUP_SIZE: size }, serves }, bindings, grid);
  }
}

const softmaxOp = defineOp({
  name: "softmax",
  inputs: { x: "..." },
  infer({ x }): { out: Shape; rows: number; classes: number } {
    const classes = x.at(-1);
    if (classes === undefined) throw new ShapeError("softmax: x is a scalar []; expected [..., K]");
    return { out: x, rows: sizeOf(x) / classes, classes };
  },
  forward(ctx, { x }, plan) {
    const out = ctx.empty(plan.out);
    const sizes = new Uint32Array([plan.rows, plan.classes]);
    runRows(ctx, "softmax", "forward", {}, [out, sizes, x], plan.rows, plan.classes);
    return { out, saved: { out } };
  },
  backward(ctx, grad, { out }, plan) {
    const dx = ctx.grad("x");
    const sizes = new Uint32Array([plan.rows, plan.classes]);
    runRows(ctx, "softmax", "grad_input", {}, [dx, sizes, out, grad], plan.rows, plan.classes);
    return { x: dx };
  },
});

/** exp(x) / Σ exp(x) over the last axis, with the maximum taken out first. @throws ShapeError for a scalar. */
export function softmax(x: Tensor): Tensor {
  return softmaxOp({ x }, null);
}
