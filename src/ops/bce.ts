// The losses of bceWithLogits before they are reduced, in one kernel: composed of other ops, small ones would be differences of
// large numbers.

import * as shaders from "../generated/shaders.ts";
import { sameShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp, type OpContext } from "./define-op.ts";
import { expand } from "./elementwise/elementwise.ts";
import { strideGrid } from "./grid.ts";

type Entry = "forward" | "grad_logits" | "grad_target" | "grad_pos_weight";
type Operands = Record<"out" | "z" | "t" | "dy", Tensor> & { p: Tensor | null };

function run(ctx: OpContext, entry: Entry, { p, ...operands }: Operands): void {
  const vec4s = Math.ceil(operands.out.size / 4);
  const { size, grid } = strideGrid(ctx.gpu, vec4s);
  const constants = { WORKGROUP_SIZE: size, WEIGHTED: p ? 1 : 0 };
  const bindings = { ...operands, p: p ?? operands.t, size: { vec4s } };
  ctx.run({ shader: shaders.bce, entry, constants }, bindings, grid);
}

const bceOp = defineOp({
  name: "bceWithLogits",
  inputs: { logits: "...", target: "...", posWeight: "...?" },
  infer: ({ logits }) => ({ out: logits }),
  forward(ctx, { logits, target, posWeight }, plan) {
    const out = ctx.empty(plan.out);
    run(ctx, "forward", { out, z: logits, t: target, p: posWeight, dy: logits });
    return { out, saved: { logits, target, posWeight } };
  },
  backward(ctx, grad, { logits, target, posWeight }) {
    const gradOf = (name: "logits" | "target" | "posWeight", entry: Entry) => {
      if (!ctx.needsGrad[name]) return null;
      const out = ctx.grad(name);
      run(ctx, entry, { out, z: logits, t: target, p: posWeight, dy: grad });
      return out;
    };
    return {
      logits: gradOf("logits", "grad_logits"),
      target: gradOf("target", "grad_target"),
      posWeight: gradOf("posWeight", "grad_pos_weight"),
    };
  },
});

/** One loss for each element; `posWeight` broadcasts to them. */
export function bce(logits: Tensor, target: Tensor, posWeight: Tensor | null): Tensor {
  const whole =
    posWeight && !sameShape(posWeight.shape, logits.shape) ? expand(posWeight, logits.shape) : posWeight;
  return bceOp({ logits, target, posWeight: whole }, null);
}
