// One tensor to the power of another. A number as the exponent is in ../unary.ts.

import * as shaders from "../../generated/shaders.ts";
import { checkTensor } from "../../tensor/check.ts";
import { sameShape } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { defineOp, type OpContext } from "../define-op.ts";
import { strideGrid } from "../grid.ts";
import { broadcastShapes } from "./broadcast.ts";
import { expand } from "./elementwise.ts";

type Operands = Record<"out" | "a" | "b" | "y" | "dy", Tensor>;

function run(ctx: OpContext, entry: "forward" | "grad_base" | "grad_exponent", operands: Operands): void {
  const vec4s = Math.ceil(operands.out.size / 4);
  const { size, grid } = strideGrid(ctx.gpu, vec4s);
  const kernel = { shader: shaders.power, entry, constants: { WORKGROUP_SIZE: size } };
  ctx.run(kernel, { ...operands, size: { vec4s } }, grid);
}

const powOp = defineOp({
  name: "pow",
  inputs: { x: "...", exponent: "..." },
  infer: ({ x }) => ({ out: x }),
  forward(ctx, { x, exponent }, plan) {
    const out = ctx.empty(plan.out);
    run(ctx, "forward", { out, a: x, b: exponent, y: x, dy: x });
    return { out, saved: { x, exponent, out: ctx.needsGrad.exponent ? out : null } };
  },
  backward(ctx, grad, { x, exponent, out }) {
    const operands = { a: x, b: exponent, y: out ?? x, dy: grad };
    const dx = ctx.needsGrad.x ? ctx.grad("x") : null;
    if (dx) run(ctx, "grad_base", { ...operands, out: dx });
    const dexponent = ctx.needsGrad.exponent ? ctx.grad("exponent") : null;
    if (dexponent) run(ctx, "grad_exponent", { ...operands, out: dexponent });
    return { x: dx, exponent: dexponent };
  },
});

/** x to the power of a tensor, broadcast; of an input that repeats a copy of the output's shape is made. */
export function powTensor(x: Tensor, exponent: Tensor): Tensor {
  checkTensor("pow", "x", x);
  checkTensor("pow", "exponent", exponent, { with: ["x", x] });
  const shape = broadcastShapes("pow", x.shape, exponent.shape, ["x", "exponent"]);
  x.gpu.checkSize("pow", shape, "float32", "output");
  const whole = (t: Tensor) => (sameShape(t.shape, shape) ? t : expand(t, shape));
  return x.gpu.scope(() => powOp({ x: whole(x), exponent: whole(exponent) }, null));
}
