// max, min over any axes, argmax and argmin along one axis or all of them.

import { noGrad } from "../../autograd/tape.ts";
import { ShapeError } from "../../errors.ts";
import * as shaders from "../../generated/shaders.ts";
import { checkOptions, optionNames, show } from "../../options.ts";
import { checkTensor } from "../../tensor/check.ts";
import { type Shape, sizeOf } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { defineOp } from "../define-op.ts";
import { groupAxes } from "../elementwise/broadcast.ts";
import { binary, type KernelContext, sameLayout } from "../elementwise/kernels.ts";
import { strideGrid } from "../grid.ts";
import { reduceInto } from "./kernels.ts";
import { type Axes, type ReduceAxesOptions, reducePlan } from "./reduce.ts";

const OPTIONS = optionNames<ReduceAxesOptions>({ keepDims: 0 });

/** x as [outer, rows, inner]; what is looked for is along the rows. */
interface Rows {
  outer: number;
  rows: number;
  inner: number;
}

/** Where the first of the largest or smallest elements goes: its value, its index along the rows, or both. */
interface Found {
  values: Tensor | null;
  indices: Tensor | null;
}

const DIRECT_ROWS = 256; // searched by one invocation
const SOFTWARE_LANES = 2048;
const GPU_LANES = 2 ** 16;

/** As many slices of at least 8 rows as keep the adapter busy; 1 where the rows are few or the columns many. */
function sliceCount(isSoftware: boolean, { outer, rows, inner }: Rows): number {
  if (rows <= DIRECT_ROWS) return 1;
  const lanes = isSoftware ? SOFTWARE_LANES : GPU_LANES;
  return Math.max(1, Math.min(Math.floor(lanes / (outer * inner)), Math.floor(rows / 8)));
}

function findInto(ctx: KernelContext, out: Found, x: Tensor, { outer, rows, inner }: Rows, least: boolean) {
  let from: { x: Tensor; found: Tensor | null } = { x, found: null };
  for (let left = rows; ; ) {
    const slices = sliceCount(ctx.gpu.isSoftware, { outer, rows: left, inner });
    const last = slices === 1;
    const count = outer * slices * inner;
    const values = last ? out.values : ctx.temp([count]);
    const indices = last ? out.indices : out.indices && ctx.temp([count], "uint32");
    const { size, grid } = strideGrid(ctx.gpu, count);
    const constants = {
      ...{ WORKGROUP_SIZE: size, LEAST: least ? 1 : 0, FOUND: from.found ? 1 : 0 },
      ...{ KEEP_VALUES: values ? 1 : 0, KEEP_INDICES: indices ? 1 : 0 },
    };
    const bindings = {
      ...{ x: from.x, found: from.found ?? from.x, sizes: { outer, rows: left, inner, slices } },
      // What is not kept is not written.
      ...{ values: values ?? ctx.temp([4]), indices: indices ?? ctx.temp([4], "uint32") },
    };
    ctx.run({ shader: shaders.extremes, entry: "forward", constants }, bindings, grid);
    if (last) return;
    from = { x: values!, found: indices };
    left = slices;
  }
}

/** out = the extreme of x over the marked axes of `shape`: one group of neighbours at a time, innermost first. */
function extremeInto(
  ctx: KernelContext,
  out: Tensor,
  x: Tensor,
  shape: Shape,
  reduced: readonly boolean[],
  least: boolean,
): void {
  const groups = groupAxes(shape, reduced);
  const at = groups.findLastIndex((group) => group.reduced);
  const product = (from: number, to: number) => sizeOf(groups.slice(from, to).map((group) => group.size));
  const outer = product(0, Math.max(at, 0));
  const inner = product(at + 1, groups.length);
  const rows = { outer, rows: at < 0 ? 1 : groups[at]!.size, inner };
  const rest = groups.filter((_, i) => i !== at);
  const last = !rest.some((group) => group.reduced);
  const values = last ? out : ctx.temp([outer * inner]);
  findInto(ctx, { values, indices: null }, x, rows, least);
  if (last) return;
  const sizes = rest.map((group) => group.size);
  extremeInto(
    ctx,
    out,
    values,
    sizes,
    rest.map((group) => group.reduced),
    least,
  );
}

function define(name: "max" | "min") {
  return defineOp({
    name,
    inputs: { x: "..." },
    infer: ({ x }, params: Axes) => reducePlan(name, x, params),
    forward(ctx, { x }, plan) {
      const out = ctx.empty(plan.out);
      extremeInto(ctx, out, x, plan.x, plan.reduced, name === "min");
      return { out, saved: { x, out } };
    },
    // dx = dy / n for each of the n elements that are equal to the extreme
    backward(ctx, grad, { x, out }, plan) {
      const dx = ctx.grad("x");
      const hits = ctx.temp(plan.x);
      binary(ctx, "eq", hits, x, out, plan.layout);
      const [count, share] = [ctx.temp(plan.out), ctx.temp(plan.out)];
      reduceInto(ctx, count, hits, plan.x, plan.reduced);
      binary(ctx, "div", share, grad, count, sameLayout(plan.out));
      binary(ctx, "mul", dx, hits, share, plan.layout);
      return { x: dx };
    },
  });
}

const maxOp = define("max");
const minOp = define("min");

/**
 * The largest element over `axes`, a list or one alone (negative ones count from the end), to shape `[]` over all of them if none are
 * given; NaN where there is one. Equal elements share the gradient equally, as in PyTorch's `amax`. Keeps x for backward.
 * @throws ShapeError for an axis that x does not have, one named twice, or an empty list.
 */
export function max(x: Tensor, axes?: number | readonly number[], options: ReduceAxesOptions = {}): Tensor {
  checkOptions("max", options, OPTIONS);
  return maxOp({ x }, { axes, ...options });
}

/** The smallest element over `axes`, as `max`. @throws ShapeError for axes as in `max`. */
export function min(x: Tensor, axes?: number | readonly number[], options: ReduceAxesOptions = {}): Tensor {
  checkOptions("min", options, OPTIONS);
  return minOp({ x }, { axes, ...options });
}

function defineArg(name: "argmax" | "argmin") {
  const op = defineOp({
    name,
    inputs: { x: "..." },
    infer: ({ x }, params: Axes) => reducePlan(name, x, params),
    forward(ctx, { x }, plan) {
      const out = ctx.empty(plan.out, "uint32");
      const at = Math.max(0, plan.reduced.indexOf(true));
      const past = plan.reduced.lastIndexOf(true) + 1;
      const rows = {
        outer: sizeOf(plan.x.slice(0, at)),
        rows: sizeOf(plan.x.slice(at, past)),
        inner: sizeOf(plan.x.slice(past)),
      };
      findInto(ctx, { values: null, indices: out }, x, rows, name === "argmin");
      return { out, saved: {} };
    },
  });
  return (x: Tensor, axis: number | null, options: ReduceAxesOptions): Tensor => {
    checkOptions(name, options, OPTIONS);
    checkTensor(name, "x", x);
    if (axis !== null && typeof axis !== "number") {
      throw new ShapeError(
        `${name}: axis is ${show(axis)}; expected an integer, or null for the place among all elements of x`,
      );
    }
    const axes = axis === null ? undefined : [axis];
    return noGrad(() => op({ x }, { axes, ...options }));
  };
}

const argmaxOf = defineArg("argmax");
const argminOf = defineArg("argmin");

/**
 * Where along `axis` (negative ones count from the end) the largest element of x stands, uint32; over all elements in the order of
 * memory if it is null, the default. The first of equal ones; NaN counts as the largest, as in PyTorch. Not differentiable.
 * @throws ShapeError for an axis that x does not have.
 */
export function argmax(x: Tensor, axis: number | null = null, options: ReduceAxesOptions = {}): Tensor {
  return argmaxOf(x, axis, options);
}

/** Where the smallest element stands, as `argmax`; NaN counts as the smallest. @throws ShapeError for an axis that x does not have. */
export function argmin(x: Tensor, axis: number | null = null, options: ReduceAxesOptions = {}): Tensor {
  return argminOf(x, axis, options);
}
