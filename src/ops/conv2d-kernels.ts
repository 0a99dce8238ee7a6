// Which kernel of shaders/conv2d*.wgsl does a convolution, and with what grid.

import type { KernelSpec } from "../gpu/kernel.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { OpContext } from "./define-op.ts";

/** All sizes of one convolution. */
export interface ConvGeometry {
  N: number;
  H: number;
  W: number;
  C: number;
  K: number;
  R: number;
  S: number;
  P: number;
  Q: number;
  strideH: number;
  strideW: number;
  /** Zeros above and left of the map; those below and to the right are implied by P and Q. */
  top: number;
  left: number;
  dilationH: number;
  dilationW: number;
  groups: number;
}

type Context = Pick<OpContext, "gpu" | "empty" | "temp" | "run">;

const WORKGROUP = 64;

/** y = conv(x, weight) + bias */
export function runForward(
  ctx: Context,
  g: ConvGeometry,
  out: Tensor,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
): void {
  const constants = { ...sizes(g), HAS_BIAS: bias ? 1 : 0 };
  const blocks = Math.ceil(g.K / g.groups / 4) * g.groups * Math.ceil((g.N * g.P * g.Q) / (4 * WORKGROUP));
  // Without a bias any buffer of at least K numbers may stand at its place.
  ctx.run(
    { shader: "conv2d", entry: "forward", constants },
    [out, x, weight, bias ?? weight],
    ctx.gpu.fold(blocks),
  );
}

/** dx from dy */
export function gradInput(ctx: Context, g: ConvGeometry, dy: Tensor, weight: Tensor): Tensor {
  const dx = ctx.empty([g.N, g.H, g.W, g.C]);
  const { strideH, strideW } = g;
  const phasePixels = g.N * Math.ceil(g.H / strideH) * Math.ceil(g.W / strideW);
  const blocks =
    Math.ceil(g.C / g.groups / 4) * g.groups * strideH * strideW * Math.ceil(phasePixels / (4 * WORKGROUP));
  const kernel: KernelSpec = { shader: "conv2d", entry: "grad_input", constants: sizes(g) };
  ctx.run(kernel, [dx, null, weight, null, dy], ctx.gpu.fold(blocks));
  return dx;
}

/** dw from dy and x: partial sums over slices of the output rows, then their sum in order. */
export function gradWeight(ctx: Context, g: ConvGeometry, dy: Tensor, x: Tensor): Tensor {
  const columns = g.R * g.S * (g.C / g.groups);
  const tiles = Math.ceil(columns / WORKGROUP) * Math.ceil(g.K / g.groups / 4) * g.groups;
  return sumOfSlices(ctx, g.N * g.P, tiles, [g.K, g.R, g.S, g.C / g.groups], (out, slices) => {
    const kernel = {
      shader: "conv2d",
      entry: "grad_weight",
      constants: { ...sizes(g), SLICES: slices },
    } as const;
    ctx.run(kernel, [out, x, null, null, dy], ctx.gpu.fold(tiles * slices));
  });
}

/** db from dy */
export function gradBias(ctx: Context, g: ConvGeometry, dy: Tensor): Tensor {
  return sumRows(ctx, dy, g.N * g.P * g.Q, g.K);
}

/** [columns]: the sum of each column of `dy` [rows, columns]. */
export function sumRows(ctx: Context, dy: Tensor, rows: number, columns: number): Tensor {
  const tiles = Math.ceil(columns / WORKGROUP);
  return sumOfSlices(ctx, rows, tiles, [columns], (out, slices) => {
    const size = new Uint32Array([slices, columns, rows]);
    ctx.run({ shader: "conv2d", entry: "sum_rows" }, [out, dy, size], ctx.gpu.fold(tiles * slices));
  });
}

/** Runs `partials` over as many slices of `rows` as keep the adapter busy, and adds them up. */
function sumOfSlices(
  ctx: Context,
  rows: number,
  tiles: number,
  shape: readonly number[],
  partials: (out: Tensor, slices: number) => void,
): Tensor {
  const out = ctx.empty(shape);
  const slices = sliceCount(rows, Math.ceil((ctx.gpu.isSoftware ? 64 : 1024) / tiles));
  if (slices === 1) {
    partials(out, 1);
    return out;
  }
  const scratch = ctx.temp([slices, ...shape]);
  partials(scratch, slices);
  const kernel: KernelSpec = { shader: "conv2d", entry: "sum_partials" };
  ctx.run(
    kernel,
    [out, scratch, new Uint32Array([slices, out.size, 0])],
    [Math.min(1024, Math.ceil(out.size / WORKGROUP))],
  );
  return out;
}

/** At most `wanted` slices of equal height (the last may be lower), none of them empty. */
function sliceCount(rows: number, wanted: number): number {
  const height = Math.ceil(rows / Math.max(1, Math.min(wanted, rows)));
  return Math.ceil(rows / height);
}

function sizes(g: ConvGeometry): Record<string, number> {
  return {
    ...{ N: g.N, H: g.H, W: g.W, C: g.C, K: g.K, R: g.R, S: g.S, P: g.P, Q: g.Q },
    ...{
      SH: g.strideH,
      SW: g.strideW,
      PT: g.top,
      PL: g.left,
      DH: g.dilationH,
      DW: g.dilationW,
      GROUPS: g.groups,
    },
  };
}
