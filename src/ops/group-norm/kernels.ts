// Dispatches of shaders/group_norm.wgsl, for groupNorm and layerNorm.

import type { Grid } from "../../device/commands.ts";
import type { ConstantsOf } from "../../device/kernels.ts";
import type { Choice } from "../../device/variants.ts";
import { ShapeError } from "../../errors.ts";
import * as shaders from "../../generated/shaders.ts";
import type { Gpu } from "../../gpu.ts";
import { show } from "../../options.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { SMALL_EPS } from "../batch-norm/kernels.ts";
import type { OpContext } from "../define-op.ts";
import { largestWorkgroup } from "../grid.ts";

type Context = Pick<OpContext, "gpu" | "temp" | "run">;

/** x as [images, pixels, groups · width]. */
export interface Units {
  images: number;
  pixels: number;
  groups: number;
  /** Channels of a group. */
  width: number;
}

export interface GroupParams {
  gamma: Tensor | null;
  beta: Tensor | null;
  eps: number;
}

const SOFTWARE_WORKGROUP = 8; // as many workgroups, and so threads, as there are groups of lanes
/** Invocations that sum the gradients of gamma and beta. */
const SOFTWARE_LANES = 512;
const GPU_LANES = 2 ** 16;

export function checkEps(op: string, eps: number): void {
  if (!(Number.isFinite(eps) && eps >= 0)) {
    throw new ShapeError(
      `${op}: eps is ${show(eps)}; expected a finite number that is not negative, such as 1e-5`,
    );
  }
}

/** `saved` is [units, 4]. */
export function normalizeUnits(
  ctx: Context,
  units: Units,
  y: Tensor,
  x: Tensor,
  saved: Tensor,
  params: GroupParams,
): void {
  const { gamma, beta, eps } = params;
  const { suffix, serves, constants, grid } = unitKernel(ctx.gpu, units, "forward", params);
  ctx.run(
    { shader: shaders.group_norm, entry: `forward${suffix}`, constants, serves },
    { y, x, x4: x, saved, gamma: gamma ?? x, beta: beta ?? x, params: paramsOf(units, eps) },
    grid,
  );
}

export interface GroupGrads {
  dx: Tensor | null;
  dgamma: Tensor | null;
  dbeta: Tensor | null;
}

export function normalizeUnitsGrad(
  ctx: Context,
  units: Units,
  x: Tensor,
  dy: Tensor,
  saved: Tensor,
  params: GroupParams,
  { dx, dgamma, dbeta }: GroupGrads,
): void {
  const read = { x, x4: x, statistics: saved, dy, dy4: dy };
  if (dx) {
    const { suffix, serves, constants, grid } = unitKernel(ctx.gpu, units, "grad_input", params);
    ctx.run(
      { shader: shaders.group_norm, entry: `grad_input${suffix}`, constants, serves },
      { dx, ...read, gamma: params.gamma ?? x, params: paramsOf(units, params.eps) },
      grid,
    );
  }
  if (!dgamma && !dbeta) return;
  const { images, groups, width } = units;
  const software = ctx.gpu.isSoftware;
  const columns = groups * Math.ceil(width / 4);
  const wanted = Math.max(1, Math.floor((software ? SOFTWARE_LANES : GPU_LANES) / columns));
  const sliceImages = Math.ceil(images / Math.min(wanted, images));
  const slices = Math.ceil(images / sliceImages);
  const channels = groups * width;
  const partials = ctx.temp([slices, 2, channels]);
  const size = software ? SOFTWARE_WORKGROUP : largestWorkgroup(ctx.gpu);
  const constants = { WORKGROUP_SIZE: size, VEC4: vec4(units) };
  const sliced = { ...paramsOf(units, 0), slices, slice_images: sliceImages };
  const gridOf = (lanes: number) => ctx.gpu.fold(Math.ceil(lanes / size));
  ctx.run(
    { shader: shaders.group_norm, entry: "grad_affine", constants },
    { partials, ...read, params: sliced },
    gridOf(columns * slices),
  );
  ctx.run(
    { shader: shaders.group_norm, entry: "finish_affine", constants },
    {
      dgamma: dgamma ?? ctx.temp([channels]),
      sums: partials,
      dbeta: dbeta ?? ctx.temp([channels]),
      params: sliced,
    },
    gridOf(channels),
  );
}

/** How the units are shared out: one to each invocation, or one to each workgroup of the entry points with that suffix. */
function unitKernel(
  gpu: Gpu,
  units: Units,
  entry: "forward" | "grad_input",
  { gamma, beta, eps }: GroupParams,
): UnitKernel {
  const { images, pixels, groups, width } = units;
  const quads = pixels * Math.ceil(width / 4);
  const choice = gpu.variants.pick(
    `group_norm.${entry}`,
    `${images}x${pixels}x${groups}x${width}`,
    ["lanes", "workgroup"],
    gpu.isSoftware || quads < 8 ? "lanes" : "workgroup",
  );
  const flags = {
    VEC4: vec4(units),
    HAS_GAMMA: gamma ? 1 : 0,
    HAS_BETA: beta ? 1 : 0,
    SMALL_EPS: eps < SMALL_EPS ? 1 : 0,
  };
  const count = images * groups;
  const serves = [choice];
  if (choice.variant === "lanes") {
    const size = gpu.isSoftware ? SOFTWARE_WORKGROUP : largestWorkgroup(gpu);
    const constants = { ...flags, WORKGROUP_SIZE: size };
    return { suffix: "", serves, constants, grid: gpu.fold(Math.ceil(count / size)) };
  }
  const LANES = Math.min(largestWorkgroup(gpu), 2 ** Math.ceil(Math.log2(Math.max(quads, 2))));
  return { suffix: "_workgroup", serves, constants: { ...flags, LANES }, grid: gpu.fold(count) };
}

interface UnitKernel {
  suffix: "" | "_workgroup";
  serves: readonly Choice[];
  constants: ConstantsOf<typeof shaders.group_norm>;
  grid: Grid;
}

/** Whole quads lie on 16-byte boundaries. */
function vec4({ width }: Units): number {
  return width % 4 === 0 ? 1 : 0;
}

function paramsOf({ images, pixels, groups, width }: Units, eps: number) {
  return { images, pixels, groups, width, slices: 1, slice_images: images, eps };
}
