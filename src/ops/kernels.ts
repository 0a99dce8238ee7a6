// Dispatches of the elementwise and reduction kernels, which several ops' forwards and backwards share.

import type { Gpu } from "../gpu/device.ts";
import { type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type AxisGroup, groupAxes, type OperandLayout, operandLayout } from "./broadcast.ts";
import type { OpContext } from "./define-op.ts";
import { inputOf, plainInput } from "./load.ts";

/** What the helpers below use of an op's context. */
export type KernelContext = Pick<OpContext, "gpu" | "temp" | "run">;

/** Workgroups and their size for a grid-stride loop over `items`: a software adapter has no use for thousands. */
export function strideGrid(gpu: Gpu, items: number): { size: number; grid: [number] } {
  const size = gpu.isSoftware ? 64 : 256;
  return { size, grid: [Math.max(1, Math.min(Math.ceil(items / size), gpu.isSoftware ? 64 : 16384))] };
}

/** `OP` of the entry points of shaders/elementwise.wgsl. */
export const Binary = {
  add: 0,
  sub: 1,
  subReversed: 2,
  mul: 3,
  squaredDifference: 4,
  timesRstd: 5,
  minusTimesRstd: 6,
  varianceGradOfNormalize: 7,
} as const;
export const Ternary = { normalize: 0, varianceGrad: 1 } as const;

function layoutBytes(layout: OperandLayout, factor: number): ArrayBuffer {
  const bytes = new ArrayBuffer(96);
  const words = new Uint32Array(bytes);
  words.set([layout.vec4s, 0, layout.inner, layout.block, layout.dims.length]);
  new Float32Array(bytes)[1] = factor;
  words.set(layout.dims, 8);
  words.set(layout.strides, 16);
  return bytes;
}

/** out = factor·a, of one size. */
export function scaleInto(ctx: KernelContext, out: Tensor, a: Tensor, factor: number): void {
  const { size, grid } = strideGrid(ctx.gpu, Math.ceil(out.size / 4));
  const layout = operandLayout("", [out.size], [false]);
  const constants = { WORKGROUP_SIZE: size };
  ctx.run({ shader: "elementwise", entry: "scale", constants }, [out, a, layoutBytes(layout, factor)], grid);
}

/** out = f(a, b): a as large as out, b as `layout` says. */
export function binary(
  ctx: KernelContext,
  op: number,
  out: Tensor,
  a: Tensor,
  b: Tensor,
  layout: OperandLayout,
  factor = 1,
): void {
  const { size, grid } = strideGrid(ctx.gpu, layout.vec4s);
  const constants = { WORKGROUP_SIZE: size, OP: op, MODE: layout.mode };
  ctx.run(
    { shader: "elementwise", entry: "binary", constants },
    [out, a, layoutBytes(layout, factor), b, b],
    grid,
  );
}

/** out = f(a, b, c): a as large as out, b and c as `layout` says. */
export function ternary(
  ctx: KernelContext,
  op: number,
  out: Tensor,
  a: Tensor,
  b: Tensor,
  c: Tensor,
  layout: OperandLayout,
  factor = 1,
): void {
  const { size, grid } = strideGrid(ctx.gpu, layout.vec4s);
  const constants = { WORKGROUP_SIZE: size, OP: op, MODE: layout.mode };
  ctx.run(
    { shader: "elementwise", entry: "ternary", constants },
    [out, a, layoutBytes(layout, factor), b, b, c, c],
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
  const constants = { WORKGROUP_SIZE: size, MODE: layout.mode };
  ctx.run(
    { shader: "elementwise", entry: "expand", constants },
    [out, null, layoutBytes(layout, factor), b, b],
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

/** `TERM` of shaders/reduce.wgsl. */
export const Term = { x: 0, product: 1, squaredDeviation: 2, productWithDeviation: 3 } as const;

export interface ReduceOptions {
  /** Multiplies the sum. Default 1. */
  scale?: number;
  /** x (default), x·z, (x − centre)² or z·(x − centre). */
  term?: number;
  /** As large as x. */
  z?: Tensor;
  /** As large as the output. */
  centre?: Tensor;
}

/** out = scale · Σ term(x) over the marked axes of `shape`, x's shape. */
export function reduceInto(
  ctx: KernelContext,
  out: Tensor,
  x: Tensor,
  shape: Shape,
  reduced: readonly boolean[],
  options: ReduceOptions = {},
): void {
  const { scale = 1, term = Term.x } = options;
  const groups = groupAxes(shape, reduced);
  const at = groups.findLastIndex((group) => group.reduced);
  const rest = groups.filter((_, i) => i !== at);
  const sizes = (some: readonly AxisGroup[]) => some.map((group) => group.size);
  const outer = sizeOf(sizes(groups.slice(0, Math.max(at, 0))));
  const rows = at < 0 ? 1 : groups[at]!.size;
  const inner = sizeOf(sizes(groups.slice(at + 1)));
  if (!rest.some((group) => group.reduced)) {
    reduceOne(ctx, out, x, outer, rows, inner, { ...options, scale, term });
    return;
  }
  // Several groups (NCHW's N and HW, say): one at a time, innermost first, the terms made before.
  const terms = term === Term.x ? x : makeTerms(ctx, x, shape, reduced, term, options);
  const partial = ctx.temp([outer * inner]);
  // In a unit in which no sum in between overflows.
  const unit = shrinkFor(rows);
  reduceOne(ctx, partial, terms, outer, rows, inner, { scale: unit, term: Term.x });
  const left = rest.map((group) => group.reduced);
  reduceInto(ctx, out, partial, sizes(rest), left, { scale: scale / unit });
}

/** A power of two so small that `count` values times it can be added up without overflow. */
function shrinkFor(count: number): number {
  return 2 ** -Math.ceil(Math.log2(count));
}

function makeTerms(
  ctx: KernelContext,
  x: Tensor,
  shape: Shape,
  reduced: readonly boolean[],
  term: number,
  { z, centre }: ReduceOptions,
): Tensor {
  const terms = ctx.temp(shape);
  if (term === Term.product) {
    binary(ctx, Binary.mul, terms, x, z!, sameLayout(shape));
    return terms;
  }
  const repeated = operandLayout("reduction", shape, reduced);
  if (term === Term.squaredDeviation) {
    binary(ctx, Binary.squaredDifference, terms, x, centre!, repeated);
    return terms;
  }
  const deviations = ctx.temp(shape);
  binary(ctx, Binary.sub, deviations, x, centre!, repeated);
  binary(ctx, Binary.mul, terms, deviations, z!, sameLayout(shape));
  return terms;
}

const DIRECT_ROWS = 256; // summed by one invocation, or by one workgroup, without partial sums
const SOFTWARE_LANES = 2048;
const GPU_WORKGROUPS = 1024;

function reduceOne(
  ctx: KernelContext,
  out: Tensor,
  x: Tensor,
  outer: number,
  axis: number,
  inner: number,
  options: Required<Pick<ReduceOptions, "scale" | "term">> & ReduceOptions,
): void {
  const row = inner === 1;
  const vec4 = row ? outer === 1 || axis % 4 === 0 : inner % 4 === 0;
  const columns = row ? 1 : inner / (vec4 ? 4 : 1);
  const shape = `${outer}x${axis}x${inner}`;
  // A column that is four channels can be made on the way.
  const byChannel = options.term === Term.x && vec4 && !row && inner === x.shape.at(-1);
  let input = byChannel ? inputOf(ctx.gpu, "reduce", x, shape, true) : plainInput("reduce", x);
  const choice = ctx.gpu.variants.pick(
    "reduce",
    shape,
    ["lanes", "tree"],
    // Short sums keep a whole lane busy for less time than a tree in workgroup memory takes.
    ctx.gpu.isSoftware || axis <= 64 ? "lanes" : "tree",
  );
  const { variant } = choice;
  const serves = [choice];
  const X = Math.min(64, 2 ** Math.ceil(Math.log2(columns)));

  let rows = row && vec4 ? Math.ceil(axis / 4) : axis;
  let first = true;
  let unit = 1;
  for (;;) {
    const Y = Math.min(256 / X, 2 ** Math.ceil(Math.log2(rows)));
    const slices = sliceCount(variant, outer, rows, columns, X, Y);
    const last = slices === 1;
    const target = last ? out : ctx.temp([outer * slices * columns * (vec4 ? 4 : 1)]);
    const constants: Record<string, number> = {
      TERM: first ? options.term : Term.x,
      VEC4: vec4 ? 1 : 0,
      ROW: row ? 1 : 0,
      TAIL: first && row && vec4 && axis % 4 !== 0 ? 1 : 0,
      LAST: last ? 1 : 0,
      ...input.constants,
    };
    const shrink = shrinkFor(Math.ceil(rows / slices) * (last && row && vec4 ? 4 : 1));
    unit *= shrink;
    const layout = new ArrayBuffer(32);
    new Uint32Array(layout).set([outer, rows, columns, slices, axis, inner]);
    new Float32Array(layout).set([options.scale / unit, shrink], 6);
    const { shader, elements } = input;
    const z = options.z && first ? options.z : elements;
    const centre = options.centre ?? elements;
    const bindings = [target, layout, elements, elements, z, z, centre, ...input.bindings];
    if (variant === "lanes") {
      const { size, grid } = strideGrid(ctx.gpu, outer * slices * columns);
      ctx.run(
        { shader, entry: "lanes", constants: { ...constants, WORKGROUP_SIZE: size }, serves },
        bindings,
        grid,
      );
    } else {
      const groups = outer * slices * Math.ceil(columns / X);
      ctx.run(
        { shader, entry: "tree", constants: { ...constants, X, Y }, serves },
        bindings,
        ctx.gpu.fold(groups),
      );
    }
    if (last) return;
    input = plainInput("reduce", target);
    rows = slices;
    first = false;
  }
}

/** Slices of at least 8 rows, as many as keep the adapter busy; 1 where the rows are few or the sums are many. */
function sliceCount(
  variant: string,
  outer: number,
  rows: number,
  columns: number,
  X: number,
  Y: number,
): number {
  if (rows <= DIRECT_ROWS) return 1;
  if (variant === "lanes") {
    return Math.max(
      1,
      Math.min(DIRECT_ROWS, Math.floor(SOFTWARE_LANES / (outer * columns)), Math.floor(rows / 8)),
    );
  }
  const groups = outer * Math.ceil(columns / X);
  return Math.max(1, Math.min(Math.floor(GPU_WORKGROUPS / groups), Math.floor(rows / (8 * Y))));
}
