// Dispatches of shaders/group_norm.wgsl, for groupNorm and layerNorm.

import { ShapeError } from "../errors.ts";
import { shaders } from "../generated/shaders.ts";
import type { Grid } from "../gpu/commands.ts";
import type { Binding } from "../gpu/device.ts";
import type { Choice } from "../gpu/variants.ts";
import { show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { SMALL_EPS } from "./batch_norm_kernels.ts";
import type { OpContext } from "./define-op.ts";

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

const module = { name: "group_norm", source: shaders.group_norm + shaders.moments };

const SOFTWARE_WORKGROUP = 8; // as many workgroups, and so threads, as there are groups of lanes
const GPU_WORKGROUP = 256;
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
  const { gamma, beta } = params;
  const bound = { 0: y, 1: x, 2: x, 3: saved, 4: gamma ?? x, 5: beta ?? x };
  runUnits(ctx, units, "forward", bound, params);
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
  const read = { 1: x, 2: x, 3: saved, 7: dy, 8: dy };
  if (dx) runUnits(ctx, units, "grad_input", { 0: dx, ...read, 4: params.gamma ?? x }, params);
  if (!dgamma && !dbeta) return;
  const { images, groups, width } = units;
  const software = ctx.gpu.isSoftware;
  const columns = groups * Math.ceil(width / 4);
  const wanted = Math.max(1, Math.floor((software ? SOFTWARE_LANES : GPU_LANES) / columns));
  const sliceImages = Math.ceil(images / Math.min(wanted, images));
  const slices = Math.ceil(images / sliceImages);
  const channels = groups * width;
  const partials = ctx.temp([slices, 2, channels]);
  const size = software ? SOFTWARE_WORKGROUP : GPU_WORKGROUP;
  const run = (entry: string, bound: Record<number, Binding>, lanes: number) => {
    const constants = { WORKGROUP_SIZE: size, VEC4: vec4(units) };
    const grid = ctx.gpu.fold(Math.ceil(lanes / size));
    runKernel(ctx, entry, constants, bound, paramsOf(units, 0, slices, sliceImages), grid);
  };
  run("grad_affine", { 0: partials, ...read }, columns * slices);
  const g = dgamma ?? ctx.temp([channels]);
  const b = dbeta ?? ctx.temp([channels]);
  run("finish_affine", { 0: g, 1: partials, 2: b }, channels);
}

function runUnits(
  ctx: Context,
  units: Units,
  entry: string,
  bound: Record<number, Binding>,
  { gamma, beta, eps }: GroupParams,
): void {
  const { images, pixels, groups, width } = units;
  const { gpu } = ctx;
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
  const numbers = paramsOf(units, eps, 1, images);
  const serves = [choice];
  if (choice.variant === "lanes") {
    const size = gpu.isSoftware ? SOFTWARE_WORKGROUP : GPU_WORKGROUP;
    const grid = gpu.fold(Math.ceil(count / size));
    runKernel(ctx, entry, { ...flags, WORKGROUP_SIZE: size }, bound, numbers, grid, serves);
  } else {
    const lanes = Math.min(GPU_WORKGROUP, 2 ** Math.ceil(Math.log2(Math.max(quads, 2))));
    runKernel(ctx, `${entry}_workgroup`, { ...flags, LANES: lanes }, bound, numbers, gpu.fold(count), serves);
  }
}

/** Whole quads lie on 16-byte boundaries. */
function vec4({ width }: Units): number {
  return width % 4 === 0 ? 1 : 0;
}

function paramsOf(units: Units, eps: number, slices: number, sliceImages: number): ArrayBuffer {
  const params = new ArrayBuffer(28);
  new Uint32Array(params).set([units.images, units.pixels, units.groups, units.width, slices, sliceImages]);
  new Float32Array(params)[6] = eps;
  return params;
}

function runKernel(
  ctx: Context,
  entry: string,
  constants: Record<string, number>,
  bound: Record<number, Binding>,
  params: ArrayBuffer,
  grid: Grid,
  serves?: readonly Choice[],
): void {
  const bindings = Array.from({ length: 9 }, (_, slot) => bound[slot] ?? null);
  bindings[6] = params;
  ctx.run({ shader: module, entry, constants, ...(serves && { serves }) }, bindings, grid);
}
