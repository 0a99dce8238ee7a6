import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import { checkChoice } from "../options.ts";
import { checkTensor, FLOATS } from "../tensor/check.ts";
import type { DType } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp, type OpContext } from "./define-op.ts";
import { strideGrid } from "./grid.ts";

type Float = "float32" | "float16";

const castOp = defineOp({
  name: "cast",
  inputs: { x: "..." },
  dtypes: { x: ["float32", "float16", "uint32"] },
  infer: ({ x }, _params: { to: Float }) => ({ out: x }),
  forward(ctx, { x }, plan, { to }) {
    const out = ctx.empty(plan.out, to);
    castInto(ctx, out, x);
    return { out, saved: { from: x.dtype } };
  },
  backward(ctx, grad, { from }, plan) {
    const dx = ctx.empty(plan.out, from as DType);
    castInto(ctx, dx, grad);
    return { x: dx };
  },
});

function castInto(ctx: Pick<OpContext, "gpu" | "run">, out: Tensor, x: Tensor): void {
  const vec4s = Math.ceil(out.size / 4);
  const { size, grid } = strideGrid(ctx.gpu, vec4s);
  const constants = { WORKGROUP_SIZE: size };
  if (out.dtype === "float16") {
    const bindings = { halves: out, from_floats: x, size: { vec4s } };
    ctx.run({ shader: shaders.cast, entry: "narrow", constants }, bindings, grid);
  } else if (x.dtype === "uint32") {
    const bindings = { floats: out, integers: x, size: { vec4s } };
    ctx.run({ shader: shaders.cast, entry: "from_integers", constants }, bindings, grid);
  } else {
    const bindings = { floats: out, from_halves: x, size: { vec4s } };
    ctx.run({ shader: shaders.cast, entry: "widen", constants }, bindings, grid);
  }
}

/**
 * x in another float type; x itself if it has it already. float16 has 11 significant bits and ends at 65,504: larger
 * values become infinite. Works on every adapter. Differentiable; the gradient has x's type. Integers (uint32) become float32, exactly
 * up to 2²⁴.
 * @throws ShapeError for an integer type, or for integers to float16.
 */
export function cast(x: Tensor, to: Float): Tensor {
  checkTensor("cast", "x", x, { dtypes: to === "float16" ? FLOATS : [...FLOATS, "uint32"] });
  checkChoice("cast", "dtype", to, FLOATS, ShapeError);
  return x.dtype === to ? x : castOp({ x }, { to });
}
