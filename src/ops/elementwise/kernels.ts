// Dispatches of shaders/elementwise.wgsl, which several ops' forwards and backwards share.

import type { EntryOf } from "../../device/kernels.ts";
import * as shaders from "../../generated/shaders.ts";
import type { Shape } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { OpContext } from "../define-op.ts";
import { strideGrid } from "../grid.ts";
import { type OperandLayout, operandLayout } from "./broadcast.ts";

/** What the helpers below use of an op's context. */
export type KernelContext = Pick<OpContext, "gpu" | "temp" | "run">;

/** Entry points of shaders/elementwise.wgsl, by the number of their inputs. */
type Ternary = "normalized" | "variance_grad" | "chosen";
export type Binary = Exclude<EntryOf<typeof shaders.elementwise>, Ternary | "scale" | "expand">;

function sizesOf({ vec4s, inner, block, dims, strides }: OperandLayout, factor: number) {
  return { vec4s, factor, inner, block, rank: dims.length, dims, strides };
}

/** out = factor·a, of one size. */
export function scaleInto(ctx: KernelContext, out: Tensor, a: Tensor, factor: number): void {
  const { size, grid } = strideGrid(ctx.gpu, Math.ceil(out.size / 4));
  const sizes = sizesOf(operandLayout("", [out.size], [false]), factor);
  const constants = { WORKGROUP_SIZE: size };
  ctx.run({ shader: shaders.elementwise, entry: "scale", constants }, { out, a, sizes }, grid);
}

/** out = f(a, b): a as large as out, b as `layout` says. */
export function binary(
  ctx: KernelContext,
  entry: Binary,
  out: Tensor,
  a: Tensor,
  b: Tensor,
  layout: OperandLayout,
  factor = 1,
): void {
  const { size, grid } = strideGrid(ctx.gpu, layout.vec4s);
  ctx.run(
    { shader: shaders.elementwise, entry, constants: { WORKGROUP_SIZE: size, MODE: layout.mode } },
    { out, a, sizes: sizesOf(layout, factor), b_vec4: b, b_scalar: b },
    grid,
  );
}

/** out = f(a, number) */
export function binaryNumber(ctx: KernelContext, entry: Binary, out: Tensor, a: Tensor, b: number): void {
  // An entry point binds its second operand in every mode.
  binary(ctx, entry, out, a, a, { ...sameLayout(out.shape), mode: "NUMBER" }, b);
}

/** out = f(a, b, c): a as large as out, b and c as `layout` says. */
export function ternary(
  ctx: KernelContext,
  entry: Ternary,
  out: Tensor,
  a: Tensor,
  b: Tensor,
  c: Tensor,
  layout: OperandLayout,
  factor = 1,
): void {
  const { size, grid } = strideGrid(ctx.gpu, layout.vec4s);
  ctx.run(
    { shader: shaders.elementwise, entry, constants: { WORKGROUP_SIZE: size, MODE: layout.mode } },
    { out, a, sizes: sizesOf(layout, factor), b_vec4: b, b_scalar: b, c_vec4: c, c_scalar: c },
    grid,
  );
}

/** out = factor·b, repeated as `layout` says. */
export function expandInto(
  ctx: KernelContext,
  out: Tensor,
  b: Tensor,
  layout: OperandLayout,
  factor = 1,
): void {
  const { size, grid } = strideGrid(ctx.gpu, layout.vec4s);
  ctx.run(
    { shader: shaders.elementwise, entry: "expand", constants: { WORKGROUP_SIZE: size, MODE: layout.mode } },
    { out, sizes: sizesOf(layout, factor), b_vec4: b, b_scalar: b },
    grid,
  );
}

/** The operand has the shape of the output. */
export function sameLayout(shape: Shape): OperandLayout {
  return operandLayout(
    "",
    shape,
    shape.map(() => false),
  );
}
