// Dispatches of shaders/reduce.wgsl, which several ops' forwards and backwards share.

import type { ValuesOf } from "../../device/kernels.ts";
import * as shaders from "../../generated/shaders.ts";
import { type Shape, sizeOf } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { type AxisGroup, groupAxes, operandLayout } from "../elementwise/broadcast.ts";
import { binary, type KernelContext, sameLayout } from "../elementwise/kernels.ts";
import { largestWorkgroup, strideGrid } from "../grid.ts";
import { inputOf, plainInput } from "../load.ts";

/** What is summed: x, x·z, (x − centre)² or z·(x − centre). */
export type Term = ValuesOf<"reduce">;

export interface ReduceOptions {
  /** Multiplies the sum. Default 1. */
  scale?: number;
  /** Default X_ALONE. */
  term?: Term;
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
  const { scale = 1, term = "X_ALONE" } = options;
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
  const terms = term === "X_ALONE" ? x : makeTerms(ctx, x, shape, reduced, term, options);
  const partial = ctx.temp([outer * inner]);
  // In a unit in which no sum in between overflows.
  const unit = shrinkFor(rows);
  reduceOne(ctx, partial, terms, outer, rows, inner, { scale: unit, term: "X_ALONE" });
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
  term: Term,
  { z, centre }: ReduceOptions,
): Tensor {
  const terms = ctx.temp(shape);
  if (term === "PRODUCT") {
    binary(ctx, "mul", terms, x, z!, sameLayout(shape));
    return terms;
  }
  const repeated = operandLayout("reduction", shape, reduced);
  if (term === "SQUARED_DEVIATION") {
    binary(ctx, "squared_difference", terms, x, centre!, repeated);
    return terms;
  }
  const deviations = ctx.temp(shape);
  binary(ctx, "sub", deviations, x, centre!, repeated);
  binary(ctx, "mul", terms, deviations, z!, sameLayout(shape));
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
  const byChannel = options.term === "X_ALONE" && vec4 && !row && inner === x.shape.at(-1);
  let input = byChannel ? inputOf(ctx.gpu, shaders.reduce, x, shape, true) : plainInput(shaders.reduce, x);
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
    const Y = Math.min(largestWorkgroup(ctx.gpu) / X, 2 ** Math.ceil(Math.log2(rows)));
    const slices = sliceCount(variant, outer, rows, columns, X, Y);
    const last = slices === 1;
    const target = last ? out : ctx.temp([outer * slices * columns * (vec4 ? 4 : 1)]);
    const constants = {
      TERM: first ? options.term : "X_ALONE",
      VEC4: vec4 ? 1 : 0,
      ROW: row ? 1 : 0,
      TAIL: first && row && vec4 && axis % 4 !== 0 ? 1 : 0,
      LAST: last ? 1 : 0,
      ...input.constants,
    };
    const shrink = shrinkFor(Math.ceil(rows / slices) * (last && row && vec4 ? 4 : 1));
    unit *= shrink;
    const sizes = {
      ...{ outer, rows, columns, slices, elements: axis, inner },
      ...{ scale: options.scale / unit, shrink },
    };
    const { shader, elements } = input;
    const z = options.z && first ? options.z : elements;
    const centre = options.centre ?? elements;
    const bindings = {
      ...{ out: target, sizes, x_vec4: elements, x_scalar: elements },
      ...{ z_vec4: z, z_scalar: z, centre },
      ...input.bindings,
    };
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
    input = plainInput(shaders.reduce, target);
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
