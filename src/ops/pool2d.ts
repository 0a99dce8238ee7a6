import type { UniformOf } from "../device/kernels.ts";
import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { checkFlag, checkOptions, optionNames, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { formatShape, type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";
import { strideGrid } from "./grid.ts";
import { type Input, inputOf, plainInput } from "./load.ts";
import { nchwHint } from "./nchw.ts";
import { mean } from "./reduce/reduce.ts";

type Pair = number | readonly [number, number];

/** Options of both pools. */
export interface Pool2dOptions {
  /** Default: the kernel size. */
  stride?: Pair;
  /** Pixels around the map: all sides, [vertical, horizontal] or [top, bottom, left, right]; at most half of what the kernel spans. */
  padding?: Pair | readonly [number, number, number, number];
  /** Keep a last window that starts inside the map or its left padding but ends beyond it. Default false. */
  ceilMode?: boolean;
}

/** Options of `maxPool2d`. */
export interface MaxPool2dOptions extends Pool2dOptions {
  /** Distance between the pixels of a window, for both directions, or [vertical, horizontal]. Default 1. */
  dilation?: Pair;
}

/** Options of `avgPool2d`. */
export interface AvgPool2dOptions extends Pool2dOptions {
  /** Divide by the padded pixels too. Default true. */
  countIncludePad?: boolean;
}

interface Pool2dParams extends AvgPool2dOptions, MaxPool2dOptions {
  kernelSize: Pair;
}

interface Pool2dPlan {
  out: Shape;
  x: Shape;
  vec4: boolean;
  kernel: readonly [number, number];
  stride: readonly [number, number];
  /** `Sizes` of shaders/pool2d.wgsl for an output of so many elements. */
  sizes(elements: number): UniformOf<"pool2d", "avg_grad", "sizes">;
}

const OPTIONS = optionNames<Pool2dOptions>({ stride: 0, padding: 0, ceilMode: 0 });
const MAX_OPTIONS = [...OPTIONS, "dilation" satisfies keyof MaxPool2dOptions];
const AVG_OPTIONS = [...OPTIONS, "countIncludePad" satisfies keyof AvgPool2dOptions];

/** What needs no map to be checked. @throws ShapeError, UsageError */
export function checkPool2d(
  op: string,
  kernelSize: unknown,
  options: AvgPool2dOptions & MaxPool2dOptions,
  average: boolean,
): void {
  pair(op, "kernelSize", kernelSize, 1);
  checkOptions(op, options, average ? AVG_OPTIONS : MAX_OPTIONS);
  const { stride = 1, padding = 0, dilation = 1, ceilMode = false, countIncludePad = true } = options;
  pair(op, "stride", stride, 1);
  pair(op, "dilation", dilation, 1);
  sides(op, padding);
  checkFlag(op, "ceilMode", ceilMode);
  checkFlag(op, "countIncludePad", countIncludePad);
}

/** What the kernels' integers hold. */
const MOST = 2 ** 31 - 1;

function pair(op: string, name: string, value: unknown, least: number): readonly [number, number] {
  const both: readonly unknown[] = Array.isArray(value) ? value : [value, value];
  if (
    both.length !== 2 ||
    !both.every((v) => Number.isInteger(v) && (v as number) >= least && (v as number) <= MOST)
  ) {
    throw new ShapeError(
      `${op}: ${name} is ${show(value)}; expected an integer of at least ${least}, or [vertical, horizontal]`,
    );
  }
  return both as [number, number];
}

function sides(op: string, padding: unknown): readonly number[] {
  if (!Array.isArray(padding) || padding.length !== 4) {
    return pair(op, "padding", padding, 0).flatMap((v) => [v, v]);
  }
  return [padding.slice(0, 2), padding.slice(2)].flatMap((both) => pair(op, "padding", both, 0));
}

function poolPlan(op: string, x: Shape, params: Pool2dParams): Pool2dPlan {
  const [n, height, width, channels] = x as readonly [number, number, number, number];
  const kernel = pair(op, "kernelSize", params.kernelSize, 1);
  const stride = pair(op, "stride", params.stride ?? params.kernelSize, 1);
  // Of a kernel of one pixel the dilation says nothing.
  const given = pair(op, "dilation", params.dilation ?? 1, 1);
  const dilation = [kernel[0] > 1 ? given[0] : 1, kernel[1] > 1 ? given[1] : 1] as const;
  const { padding = 0, ceilMode = false } = params;
  const [top, bottom, left, right] = sides(op, padding);
  const extent = (name: string, size: number, axis: 0 | 1, before: number, after: number) => {
    const span = dilation[axis] * (kernel[axis] - 1) + 1;
    if (2 * before > span || 2 * after > span) {
      throw new ShapeError(
        `${op}: ${name} is padded by ${before} and ${after}, the kernel has ${span}; expected at most half the kernel`,
      );
    }
    const room = size + before + after - span;
    if (room < 0) {
      throw new ShapeError(
        `${op}: the kernel spans ${span} pixels, x ${formatShape(x)} has ${name} = ${size} and ${before + after} of ` +
          `padding; expected the kernel to fit into the padded map` +
          // Nothing says how many channels there should be; but maps are mostly square.
          (x[2] === x[3] ? nchwHint("x", x, x[1]!) : ""),
      );
    }
    const count = Math.floor(room / stride[axis]) + 1;
    // As PyTorch: a window more if something is left over, unless it would start in the right padding.
    const extra = ceilMode && room % stride[axis] !== 0 && count * stride[axis] < size + before;
    return count + (extra ? 1 : 0);
  };
  const rows = extent("H", height, 0, top!, bottom!);
  const columns = extent("W", width, 1, left!, right!);
  return {
    out: [n, rows, columns, channels],
    x,
    vec4: channels % 4 === 0,
    kernel,
    stride,
    sizes: (elements) => ({
      vec4s: Math.ceil(elements / 4),
      ...{ channels, height, width, rows, columns, kernel, stride, dilation },
      before: [top!, left!],
      after: [bottom!, right!],
    }),
  };
}

/** How often a forward kernel may load an element and still make it each time: see docs/design/0005-folding.md. */
const MOST_LOADS = 3;

/** What a forward kernel reads. */
function inputFor(gpu: Gpu, x: Tensor, { out, vec4, kernel, stride }: Pool2dPlan): Input<"pool2d"> {
  if (!vec4 || !x.load) return plainInput(shaders.pool2d, x);
  const loads = (sizeOf(out) * kernel[0] * kernel[1]) / x.size;
  const shape = [...x.shape, ...kernel, ...stride].join("x");
  return inputOf(gpu, shaders.pool2d, x, shape, loads <= MOST_LOADS);
}

const maxPool2dOp = defineOp({
  name: "maxPool2d",
  inputs: { x: "N H W C" },
  infer: ({ x }, params: Pool2dParams) => poolPlan("maxPool2d", x, params),
  forward(ctx, { x }, plan) {
    const out = ctx.empty(plan.out);
    const { size, grid } = strideGrid(ctx.gpu, Math.ceil(out.size / 4));
    // Which pixel won is needed by the gradient alone; without one, x stands in for a buffer that is not written.
    const taps = ctx.needsGrad.x ? ctx.empty(plan.out, "uint32") : null;
    const unwritten = taps ?? ctx.temp([4], "uint32");
    const { shader, elements, ...input } = inputFor(ctx.gpu, x, plan);
    const constants = {
      WORKGROUP_SIZE: size,
      VEC4: plan.vec4 ? 1 : 0,
      KEEP_TAPS: taps ? 1 : 0,
      ...input.constants,
    };
    ctx.run(
      { shader, entry: "max_forward", constants },
      {
        ...{ out, sizes: plan.sizes(out.size), in_vec4: elements, in_scalar: elements, taps: unwritten },
        ...input.bindings,
      },
      grid,
    );
    return { out, saved: { taps } };
  },
  backward(ctx, grad, { taps }, plan) {
    const dx = ctx.grad("x");
    const { size, grid } = strideGrid(ctx.gpu, Math.ceil(dx.size / 4));
    ctx.run(
      {
        shader: shaders.pool2d,
        entry: "max_grad",
        constants: { WORKGROUP_SIZE: size, VEC4: plan.vec4 ? 1 : 0 },
      },
      {
        ...{ out: dx, sizes: plan.sizes(dx.size), in_vec4: grad, in_scalar: grad },
        ...{ taps_vec4: taps!, taps_scalar: taps! },
      },
      grid,
    );
    return { x: dx };
  },
});

const avgPool2dOp = defineOp({
  name: "avgPool2d",
  inputs: { x: "N H W C" },
  infer: ({ x }, params: Pool2dParams) => poolPlan("avgPool2d", x, params),
  forward(ctx, { x }, plan, { countIncludePad = true }) {
    const out = ctx.empty(plan.out);
    const { size, grid } = strideGrid(ctx.gpu, Math.ceil(out.size / 4));
    const { shader, elements, ...input } = inputFor(ctx.gpu, x, plan);
    const constants = {
      WORKGROUP_SIZE: size,
      VEC4: plan.vec4 ? 1 : 0,
      COUNT_PADDING: countIncludePad ? 1 : 0,
      ...input.constants,
    };
    ctx.run(
      { shader, entry: "avg_forward", constants },
      { out, sizes: plan.sizes(out.size), in_vec4: elements, in_scalar: elements, ...input.bindings },
      grid,
    );
    return { out, saved: {} };
  },
  backward(ctx, grad, _, plan, { countIncludePad = true }) {
    const dx = ctx.grad("x");
    const { size, grid } = strideGrid(ctx.gpu, Math.ceil(dx.size / 4));
    const constants = {
      WORKGROUP_SIZE: size,
      VEC4: plan.vec4 ? 1 : 0,
      COUNT_PADDING: countIncludePad ? 1 : 0,
    };
    ctx.run(
      { shader: shaders.pool2d, entry: "avg_grad", constants },
      { out: dx, sizes: plan.sizes(dx.size), in_vec4: grad, in_scalar: grad },
      grid,
    );
    return { x: dx };
  },
});

/**
 * The maximum over windows of x [N, H, W, C], as PyTorch's `max_pool2d`: padding never wins, and the gradient goes
 * to the first of equal pixels.
 * @throws ShapeError for a kernel that does not fit, or padding of more than half of it.
 */
export function maxPool2d(x: Tensor, kernelSize: Pair, options: MaxPool2dOptions = {}): Tensor {
  checkPool2d("maxPool2d", kernelSize, options, false);
  return maxPool2dOp({ x }, { kernelSize, ...options });
}

/**
 * The average over windows of x [N, H, W, C], as PyTorch's `avg_pool2d`.
 * @throws ShapeError for a kernel that does not fit, or padding of more than half of it.
 */
export function avgPool2d(x: Tensor, kernelSize: Pair, options: AvgPool2dOptions = {}): Tensor {
  checkPool2d("avgPool2d", kernelSize, options, true);
  return avgPool2dOp({ x }, { kernelSize, ...options });
}

/** The average over all pixels: x [N, H, W, C] → [N, C]. @throws ShapeError if x is not of rank 4. */
export function globalAvgPool2d(x: Tensor): Tensor {
  checkTensor("globalAvgPool2d", "x", x, { shape: "[N, H, W, C]" });
  return mean(x, [1, 2]);
}
