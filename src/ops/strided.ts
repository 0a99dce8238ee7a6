// Dispatches of shaders/strided.wgsl, which pad, slice, concat and permute share.

import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import { formatShape, type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { KernelContext } from "./elementwise/kernels.ts";
import { strideGrid } from "./grid.ts";

export const MAX_RANK = 8; // of shaders/strided.wgsl

/** Row-major strides in elements. */
export function stridesOf(shape: Shape): number[] {
  let stride = 1;
  return [...shape]
    .reverse()
    .map((size) => {
      const own = stride;
      stride *= size;
      return own;
    })
    .reverse();
}

/** A walk over `dims`, outermost first, through memory that starts at `offset`. */
export interface StridedPart {
  offset: number;
  dims: readonly number[];
  strides: readonly number[];
}

/** The same walk with axes of size 1 left out, and axes that follow each other in memory joined. */
function join({ offset, dims, strides }: StridedPart): StridedPart {
  const joined: [dim: number, stride: number][] = [];
  dims.forEach((dim, axis) => {
    const stride = strides[axis]!;
    const last = joined.at(-1);
    if (dim === 1) return;
    if (last && last[1] === stride * dim) joined.splice(-1, 1, [last[0] * dim, stride]);
    else joined.push([dim, stride]);
  });
  return { offset, dims: joined.map(([dim]) => dim), strides: joined.map(([, stride]) => stride) };
}

function checkRank(op: string, shape: Shape, rank: number): void {
  if (rank > MAX_RANK) {
    throw new ShapeError(
      `${op}: ${formatShape(shape)} takes ${rank} separate axes; at most ${MAX_RANK} are supported; reshape first`,
    );
  }
}

function move(
  ctx: KernelContext,
  op: string,
  entry: "gather" | "scatter",
  out: Tensor,
  x: Tensor,
  part: StridedPart,
) {
  const { offset, dims, strides } = join(part);
  checkRank(op, part.dims, dims.length);
  const last = dims.length - 1;
  const vec4 =
    offset % 4 === 0 &&
    strides[last] === 1 &&
    dims[last]! % 4 === 0 &&
    strides.every((stride, axis) => axis === last || stride % 4 === 0);
  const per = vec4 ? 4 : 1;
  const count = sizeOf(dims) / per;
  const sizes = {
    ...{ count, rank: dims.length, offset: offset / per },
    dims: dims.map((dim, axis) => (axis === last ? dim / per : dim)),
    strides: strides.map((stride, axis) => (axis === last ? stride : stride / per)),
  };
  const { size, grid } = strideGrid(ctx.gpu, count);
  const constants = { WORKGROUP_SIZE: size };
  if (vec4) {
    const bindings = { out_vec4: out, sizes, x_vec4: x };
    ctx.run({ shader: shaders.strided, entry: `${entry}_vec4`, constants }, bindings, grid);
  } else {
    const bindings = { out_word: out, sizes, x_word: x };
    ctx.run({ shader: shaders.strided, entry, constants }, bindings, grid);
  }
}

/** out = the strided part of x, in order. */
export function gatherInto(ctx: KernelContext, op: string, out: Tensor, x: Tensor, part: StridedPart): void {
  move(ctx, op, "gather", out, x, part);
}

/** The strided part of out = x, in order. The rest of out stays as it is. */
export function scatterInto(ctx: KernelContext, op: string, out: Tensor, x: Tensor, part: StridedPart): void {
  move(ctx, op, "scatter", out, x, part);
}

const floats = new Float32Array(1);
const words = new Uint32Array(floats.buffer);

/** out = `value`, but for x's elements at starts, starts + steps, …: one per axis of out. */
export function placeInto(
  ctx: KernelContext,
  op: string,
  out: Tensor,
  x: Tensor,
  starts: readonly number[],
  steps: readonly number[],
  value = 0,
): void {
  // An axis that x fills joins the one before it, if that one is walked without steps.
  const axes: { dim: number; start: number; step: number; extent: number }[] = [];
  out.shape.forEach((dim, axis) => {
    const here = { dim, start: starts[axis]!, step: steps[axis]!, extent: x.shape[axis]! };
    const last = axes.at(-1);
    const full = here.extent === dim;
    if (last && full && (last.step === 1 || dim === 1)) {
      axes.splice(-1, 1, {
        dim: last.dim * dim,
        start: last.start * dim,
        step: last.step,
        extent: last.extent * dim,
      });
    } else axes.push(full ? { ...here, start: 0, step: 1 } : here);
  });
  checkRank(op, out.shape, axes.length);
  const inner = axes.at(-1)!;
  const vec4 = inner.step === 1 && inner.dim % 4 === 0 && inner.start % 4 === 0 && inner.extent % 4 === 0;
  if (vec4) {
    inner.dim /= 4;
    inner.start /= 4;
    inner.extent /= 4;
  }
  const strides = stridesOf(axes.map(({ extent }) => extent));
  const count = sizeOf(axes.map(({ dim }) => dim));
  floats[0] = value;
  const places = {
    ...{ count, rank: axes.length, value_bits: words[0]!, strides },
    dims: axes.map(({ dim }) => dim),
    starts: axes.map(({ start }) => start),
    steps: axes.map(({ step }) => step),
    extents: axes.map(({ extent }) => extent),
  };
  const { size, grid } = strideGrid(ctx.gpu, count);
  const constants = { WORKGROUP_SIZE: size };
  if (vec4) {
    const bindings = { out_vec4: out, places, x_vec4: x };
    ctx.run({ shader: shaders.strided, entry: "place_vec4", constants }, bindings, grid);
  } else {
    const bindings = { out_word: out, places, x_word: x };
    ctx.run({ shader: shaders.strided, entry: "place", constants }, bindings, grid);
  }
}
