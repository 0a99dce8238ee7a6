import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import { show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import type { Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";
import { strideGrid } from "./grid.ts";
import { avgPool2d } from "./pool2d.ts";

/** Height and width of an output: one number for both, or [height, width]; null is that of the input. */
export type OutputSize = number | readonly [number | null, number | null];

/** What the kernel's products of two extents hold. */
const MOST = 2 ** 15;

const adaptiveOp = defineOp({
  name: "adaptiveAvgPool2d",
  inputs: { x: "N H W C" },
  infer({ x }, size: readonly [number, number]) {
    const [n, height, width, channels] = x as readonly [number, number, number, number];
    const most = Math.max(height, width, ...size);
    if (most > MOST) {
      throw new ShapeError(
        `adaptiveAvgPool2d: a map has a side of ${most} pixels; expected at most ${MOST}, or sizes that divide each other`,
      );
    }
    const out: Shape = [n, ...size, channels];
    const sizes = (elements: number) => ({
      ...{ elements, channels, map: [height, width] as const, out: size },
    });
    return { out, sizes };
  },
  forward(ctx, { x }, plan) {
    const y = ctx.empty(plan.out);
    const { size, grid } = strideGrid(ctx.gpu, y.size);
    const kernel = { shader: shaders.adaptive_pool2d, constants: { WORKGROUP_SIZE: size } };
    ctx.run({ ...kernel, entry: "forward" }, { y, x, sizes: plan.sizes(y.size) }, grid);
    return { out: y, saved: {} };
  },
  backward(ctx, dy, _saved, plan) {
    const dx = ctx.grad("x");
    const { size, grid } = strideGrid(ctx.gpu, dx.size);
    const kernel = { shader: shaders.adaptive_pool2d, constants: { WORKGROUP_SIZE: size } };
    ctx.run({ ...kernel, entry: "grad" }, { dx, dy, sizes: plan.sizes(dx.size) }, grid);
    return { x: dx };
  },
});

/** What needs no map to be checked. @throws ShapeError */
export function checkOutputSize(op: string, size: unknown): asserts size is OutputSize {
  const both: readonly unknown[] = Array.isArray(size) ? size : [size, size];
  const fits = (v: unknown) => Number.isSafeInteger(v) && (v as number) >= 1;
  if (both.length !== 2 || !both.every((v) => fits(v) || (v === null && Array.isArray(size)))) {
    throw new ShapeError(
      `${op}: outputSize is ${show(size)}; expected a positive integer, or [height, width], of which null is that of x`,
    );
  }
}

/**
 * The average over windows that share x [N, H, W, C] out, to [N, P, Q, C] for an `outputSize` of [P, Q], as PyTorch's
 * `adaptive_avg_pool2d`: neighbouring windows overlap where the sizes do not divide. A network that ends in it takes images of any
 * size.
 * @throws ShapeError if x is not of rank 4, or for an output size that is no positive integer.
 */
export function adaptiveAvgPool2d(x: Tensor, outputSize: OutputSize): Tensor {
  checkTensor("adaptiveAvgPool2d", "x", x, { shape: "[N, H, W, C]" });
  checkOutputSize("adaptiveAvgPool2d", outputSize);
  const [, height, width] = x.shape as [number, number, number, number];
  const [p, q] = typeof outputSize === "number" ? [outputSize, outputSize] : outputSize;
  const size = [p ?? height, q ?? width] as const;
  if (height % size[0] === 0 && width % size[1] === 0) {
    return avgPool2d(x, [height / size[0], width / size[1]]);
  }
  return adaptiveOp({ x }, size);
}
