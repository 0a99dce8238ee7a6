// Elements, channels or rows of a batch that are dropped by chance. shaders/dropout.wgsl says how the mask is drawn.

import { drawn, isRecomputing } from "../autograd/checkpoint.ts";
import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { checkChoice, checkFlag, checkOptions, optionNames, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { formatShape, type Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";
import { mul } from "./elementwise/elementwise.ts";
import { strideGrid } from "./grid.ts";

/** Options of `dropout` and `dropout2d`. */
export interface DropoutOptions {
  /** The probability that an element becomes 0; the others are multiplied by 1 / (1 − p). Default 0.5. */
  p?: number;
  /** False gives x itself. Default true. */
  training?: boolean;
}

const DROPOUT = optionNames<DropoutOptions>({ p: 0, training: 0 });

/** What is dropped together: `row` each image by itself, `batch` all of them or none. */
export type StochasticDepthMode = "row" | "batch";

/** Options of `stochasticDepth`. */
export interface StochasticDepthOptions {
  /** The probability that an image's branch becomes 0; the others are multiplied by 1 / (1 − p). */
  p: number;
  mode: StochasticDepthMode;
  /** False gives x itself. Default true. */
  training?: boolean;
}

const STOCHASTIC_DEPTH = optionNames<StochasticDepthOptions>({ p: 0, mode: 0, training: 0 });
const MODES = ["row", "batch"] as const;

/** @throws ShapeError unless `p` is a probability. */
export function checkProbability(op: string, name: string, p: unknown): void {
  if (typeof p !== "number" || !(p >= 0 && p <= 1)) {
    throw new ShapeError(`${op}: ${name} is ${show(p)}; expected a probability, from 0 to 1`);
  }
}

/** @throws ShapeError, UsageError for what is no mode of `stochasticDepth`. */
export function checkMode(op: string, mode: unknown): void {
  checkChoice(op, "mode", mode, MODES);
}

function checkDrop(op: string, x: Tensor, generator: Tensor, { p = 0.5, training = true }: DropoutOptions) {
  checkTensor(op, "x", x);
  checkTensor(op, "generator", generator, { dtypes: ["uint32"], with: ["x", x], shape: "[4]" });
  if (generator.size !== 4) {
    throw new ShapeError(
      `${op}: generator is ${formatShape(generator.shape)}; expected [4], as newGenerator(gpu, seed) makes it`,
    );
  }
  checkProbability(op, "p", p);
  checkFlag(op, "training", training);
  return { p, drops: training && p > 0 };
}

/** Seed and number of this draw, [4]; the handle is the caller's. In the second run of a checkpoint, those of the first. */
function nextDraw(gpu: Gpu, generator: Tensor): Tensor {
  return drawn(() => {
    const draw = gpu.keep(gpu.empty([4], "uint32"));
    // What runs without trace draws the numbers that the next run will draw.
    const constants = { ADVANCE: isRecomputing() ? 0 : 1 };
    const kernel = { shader: shaders.dropout, entry: "draw", constants } as const;
    gpu.run(kernel, { generator, new_draw: draw }, [1], "dropout");
    return draw;
  });
}

/** How a kernel goes over `out`, and what p is to it. */
function loopOf(gpu: Gpu, out: Tensor, p: number) {
  const vec4s = Math.ceil(out.size / 4);
  const { size: workgroup, grid } = strideGrid(gpu, vec4s);
  const threshold = Math.min(Math.round(p * 2 ** 32), 2 ** 32 - 1);
  return {
    constants: { WORKGROUP_SIZE: workgroup },
    size: { vec4s, threshold, scale: p === 1 ? 0 : 1 / (1 - p) },
    grid,
  };
}

const dropoutOp = defineOp({
  name: "dropout",
  inputs: { x: "...", draw: "four" },
  dtypes: { draw: ["uint32"] },
  infer: ({ x }, _p: number) => ({ out: x }),
  forward(ctx, { x, draw }, plan, p) {
    const out = ctx.empty(plan.out);
    const { constants, size, grid } = loopOf(ctx.gpu, out, p);
    ctx.run({ shader: shaders.dropout, entry: "forward", constants }, { out, x, drawn: draw, size }, grid);
    return { out, saved: { draw } };
  },
  // The mask once more: dx = mask · dy
  backward(ctx, grad, { draw }, _plan, p) {
    const dx = ctx.grad("x");
    const { constants, size, grid } = loopOf(ctx.gpu, dx, p);
    ctx.run(
      { shader: shaders.dropout, entry: "forward", constants },
      { out: dx, x: grad, drawn: draw, size },
      grid,
    );
    return { x: dx, draw: null };
  },
});

/** x · noise, with one number of noise for all elements along the axes where `shape` is 1. */
function dropTogether(x: Tensor, generator: Tensor, p: number, shape: Shape): Tensor {
  const { gpu } = x;
  return gpu.scope(() => {
    const noise = gpu.empty(shape);
    const draw = nextDraw(gpu, generator);
    try {
      const { constants, size, grid } = loopOf(gpu, noise, p);
      const kernel = { shader: shaders.dropout, entry: "noise", constants } as const;
      gpu.dispatch(kernel, { out: noise, drawn: draw, size }, grid, "dropout");
    } finally {
      draw.dispose();
    }
    return mul(x, noise);
  });
}

/**
 * Each element 0 with probability p, else multiplied by 1 / (1 − p) (Srivastava et al. 2014), any shape; as PyTorch's `dropout`. NaN and
 * infinity that are dropped are NaN. Backward draws the mask again: it is not stored. In the second forward of `checkpoint` it is
 * the same mask, and in each run of a captured step another.
 * @param generator from `newGenerator`; one more draw
 * @throws ShapeError for a p outside of [0, 1], or what is no generator.
 */
export function dropout(x: Tensor, generator: Tensor, options: DropoutOptions = {}): Tensor {
  checkOptions("dropout", options, DROPOUT);
  const { p, drops } = checkDrop("dropout", x, generator, options);
  if (!drops) return x;
  const draw = nextDraw(x.gpu, generator);
  try {
    return dropoutOp({ x, draw }, p);
  } finally {
    draw.dispose();
  }
}

/**
 * Each channel of each image 0 with probability p, else multiplied by 1 / (1 − p) (Tompson et al. 2015): [N, …, C]; as PyTorch's
 * `dropout2d`, else as `dropout`.
 * @throws ShapeError for a p outside of [0, 1], a tensor of rank 1 or 0, or what is no generator.
 */
export function dropout2d(x: Tensor, generator: Tensor, options: DropoutOptions = {}): Tensor {
  checkOptions("dropout2d", options, DROPOUT);
  const { p, drops } = checkDrop("dropout2d", x, generator, options);
  if (x.rank < 2) {
    throw new ShapeError(
      `dropout2d: x has rank ${x.rank}, got ${formatShape(x.shape)}; expected [N, H, W, C], or another rank above 1 with channels last`,
    );
  }
  if (!drops) return x;
  return dropTogether(
    x,
    generator,
    p,
    x.shape.map((size, axis) => (axis === 0 || axis === x.rank - 1 ? size : 1)),
  );
}

/**
 * Each image's x 0 with probability p, else multiplied by 1 / (1 − p); of mode "batch" all of x. For the branch of a residual block before
 * it is added (Huang et al. 2016, "Deep networks with stochastic depth"); as torchvision's `stochastic_depth`, else as `dropout`.
 * @param x [N, …]
 * @throws ShapeError for a p outside of [0, 1], a tensor of rank 0, or what is no generator.
 */
export function stochasticDepth(x: Tensor, generator: Tensor, options: StochasticDepthOptions): Tensor {
  checkOptions("stochasticDepth", options, STOCHASTIC_DEPTH);
  const { p: given, mode, training } = options;
  checkProbability("stochasticDepth", "p", given);
  checkMode("stochasticDepth", mode);
  const { p, drops } = checkDrop("stochasticDepth", x, generator, { p: given, training });
  if (x.rank < 1) throw new ShapeError("stochasticDepth: x has rank 0, got []; expected [N, …]");
  if (!drops) return x;
  return dropTogether(
    x,
    generator,
    p,
    x.shape.map((size, axis) => (axis === 0 && mode === "row" ? size : 1)),
  );
}
