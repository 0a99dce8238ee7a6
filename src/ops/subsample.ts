import type { UniformOf } from "../device/kernels.ts";
import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { checkOptions, optionNames, show } from "../options.ts";
import { formatShape, type Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";
import { largestWorkgroup } from "./grid.ts";

/** Options of `subsample`. */
export interface SubsampleOptions {
  /** Every so many pixels in both directions are kept. Default 1. */
  stride?: number;
  /** Of the output, at least those of x. Default: those of x. */
  channels?: number;
}

const OPTIONS = optionNames<SubsampleOptions>({ stride: 0, channels: 0 });

/** What the kernels' integers hold. */
const MOST = 2 ** 31 - 1;

interface SubsamplePlan {
  out: Shape;
  /** `_vec4` where channels can be moved four at a time: a suffix of entry points. */
  suffix: "" | "_vec4";
  /** Units of a pixel of x and of the output: vec4s or numbers. */
  units: number;
  outUnits: number;
  /** `Sizes` of shaders/subsample.wgsl. */
  sizes: UniformOf<"subsample", "forward", "sizes">;
}

/** Lanes and workgroups for `rows` rows of `width` pixels of `units`. */
function laneGrid(gpu: Gpu, rows: number, width: number, units: number) {
  // A row to each lane reads and writes in runs, which is what caches like; neighbours on neighbouring units, GPUs.
  const choice = gpu.variants.pick(
    "subsample",
    `${rows}x${width}x${units}`,
    ["rows", "units"],
    gpu.isSoftware ? "rows" : "units",
  );
  const { variant } = choice;
  const lanes = (limit: number, count: number) => Math.min(limit, 2 ** Math.ceil(Math.log2(count)));
  const X = variant === "rows" ? 1 : lanes(64, units);
  const largest = largestWorkgroup(gpu);
  const Y = variant === "rows" ? 1 : lanes(largest / X, width);
  const Z = variant === "rows" ? 32 : lanes(Math.min(64, largest / X / Y), rows);
  return { constants: { X, Y, Z }, serves: [choice], grid: [Math.min(16384, Math.ceil(rows / Z))] as const };
}

const subsampleOp = defineOp({
  name: "subsample",
  inputs: { x: "N H W C" },
  infer({ x }, { stride = 1, channels = x[3]! }: SubsampleOptions): SubsamplePlan {
    const [n, height, width, from] = x as readonly [number, number, number, number];
    if (!Number.isInteger(stride) || stride < 1 || stride > MOST) {
      throw new ShapeError(
        `subsample: stride is ${show(stride)}, x ${formatShape(x)}; expected an integer from 1 to ${MOST}`,
      );
    }
    if (!Number.isSafeInteger(channels) || channels < from) {
      throw new ShapeError(
        `subsample: channels is ${show(channels)}, x ${formatShape(x)} has C = ${from}; expected an integer of at least ${from} ` +
          "(channels are added, never left out; slice takes some)",
      );
    }
    const [rows, columns] = [Math.ceil(height / stride), Math.ceil(width / stride)];
    const before = Math.floor((channels - from) / 2);
    const vec4 = [from, channels, before].every((count) => count % 4 === 0);
    const [units, outUnits, unitsBefore] = [from, channels, before].map((count) => count / (vec4 ? 4 : 1));
    return {
      out: [n, rows, columns, channels],
      suffix: vec4 ? "_vec4" : "",
      units: units!,
      outUnits: outUnits!,
      sizes: {
        ...{ rows: n * rows, height, width, channels: units!, stride },
        ...{ out_height: rows, out_width: columns, out_channels: outUnits!, before: unitsBefore! },
      },
    };
  },
  forward(ctx, { x }, plan) {
    const out = ctx.empty(plan.out);
    const [n, rows, columns] = plan.out as readonly [number, number, number, number];
    const { grid, ...rest } = laneGrid(ctx.gpu, n * rows, columns, plan.outUnits);
    ctx.run(
      { shader: shaders.subsample, entry: `forward${plan.suffix}`, ...rest },
      { out_word: out, sizes: plan.sizes, in_word: x },
      grid,
    );
    return { out, saved: {} };
  },
  // dx = dy at the pixels that were taken, 0 elsewhere
  backward(ctx, grad, _, plan, { stride = 1 }) {
    const dx = ctx.grad("x");
    const [n, rows, columns] = plan.out as readonly [number, number, number, number];
    const { grid, ...rest } = laneGrid(ctx.gpu, n * rows, columns, stride * plan.units);
    ctx.run(
      { shader: shaders.subsample, entry: `grad${plan.suffix}`, ...rest },
      { out_word: dx, sizes: plan.sizes, in_word: grad },
      grid,
    );
    return { x: dx };
  },
});

/**
 * Every `stride`-th pixel of x [N, H, W, C] in both directions, with zeros for the channels that x does not have:
 * [N, ⌈H / stride⌉, ⌈W / stride⌉, channels]. Half of the new channels come before those of x, the odd one after. The
 * shortcut without parameters of a residual block that changes shape: option A of He et al. 2016, "Deep Residual
 * Learning for Image Recognition", § 3.3.
 * @throws ShapeError if x is not of rank 4, for a stride below 1, or fewer channels than x has.
 */
export function subsample(x: Tensor, options: SubsampleOptions = {}): Tensor {
  checkOptions("subsample", options, OPTIONS);
  return subsampleOp({ x }, options);
}
