// Geometry and dispatches of shaders/batch_norm.wgsl.

import type { Gpu } from "../gpu/device.ts";
import type { KernelSpec } from "../gpu/kernel.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { OpContext } from "./define-op.ts";

type Context = Pick<OpContext, "gpu" | "temp" | "run">;

/** How [count, channels] is cut into columns of vec4s and slices of rows; see the shader's head. */
export interface Geometry {
  channels: number;
  /** Values per channel. */
  count: number;
  /** vec4s in a wide row: as many rows of C channels as fill whole vec4s, or more. */
  width4: number;
  /** Full wide rows. */
  rows: number;
  /** Elements after them. */
  tail: number;
  slices: number;
  sliceRows: number;
}

const WORKGROUP_SIZE = 32;
const SOFTWARE_LANES = 512;
/** Below this, variances under 1e-27 count: see `SMALL_EPS` in the shader. */
const SMALL_EPS = 1e-20;

export function softwareGeometry(count: number, channels: number): Geometry {
  const fewest = 4 / gcd(channels, 4);
  const least4 = (channels * fewest) / 4;
  // Eight lanes next to each other load from one run of memory: wide rows of at least eight vec4s, if there are rows.
  const wanted = Math.max(1, Math.ceil(8 / least4));
  const width4 = least4 * Math.max(1, Math.min(wanted, Math.floor(count / fewest)));
  const total = count * channels;
  const rows = Math.floor(total / (4 * width4));
  const slices = Math.max(1, Math.min(Math.floor(SOFTWARE_LANES / width4), Math.floor(rows / 16)));
  const sliceRows = Math.ceil(rows / slices);
  return {
    channels,
    count,
    width4,
    rows,
    tail: total - 4 * width4 * rows,
    slices: sliceRows === 0 ? 1 : Math.ceil(rows / sliceRows),
    sliceRows,
  };
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

interface ForwardParams {
  gamma: Tensor | null;
  beta: Tensor | null;
  runningMean: Tensor | null;
  runningVar: Tensor | null;
  numBatchesTracked: Tensor | null;
  momentum: number | null;
  eps: number;
}

/** The kernels of one shape. */
export class BatchNormKernels {
  /** Elements in a row of per-channel numbers, each channel repeated. */
  readonly width: number;
  private readonly specs = new Map<string, KernelSpec>();

  constructor(private readonly geometry: Geometry) {
    this.width = 4 * geometry.width4;
  }

  /** The batch's statistics into `saved`, and into the running ones if there are any. */
  measure(ctx: Context, x: Tensor, saved: Tensor, params: ForwardParams): void {
    const { slices } = this.geometry;
    const { runningMean, runningVar, numBatchesTracked } = params;
    const partials = ctx.temp([slices, 3, this.width]);
    const stats = this.spec("stats", { SMALL_EPS: params.eps < SMALL_EPS });
    const sizes = this.params(params);
    ctx.run(stats, [partials, x, null, null, null, null, null, sizes], this.columnGrid());
    const bindings = [saved, partials, ...this.affine(params, partials)];
    if (!runningMean) {
      const spec = this.finalizeSpec("finalize", params);
      ctx.run(spec, [...bindings, null, null, null, sizes], this.channelGrid());
    } else {
      const spec = this.finalizeSpec("finalize_running", params);
      const counter = numBatchesTracked ?? partials;
      ctx.run(spec, [...bindings, counter, runningMean, runningVar!, sizes], this.channelGrid());
    }
  }

  /** The running statistics into `saved`. */
  adopt(ctx: Context, saved: Tensor, params: ForwardParams): void {
    const spec = this.finalizeSpec("finalize_inference", params);
    const { runningMean, runningVar } = params;
    const affine = this.affine(params, runningMean!);
    const bindings = [saved, null, ...affine, null, runningMean, runningVar, this.params(params)];
    ctx.run(spec, bindings, this.channelGrid());
  }

  /** For statistics computed elsewhere (`variance` biased): moves the running ones, and counts the batch. */
  updateRunning(
    gpu: Gpu,
    mean: Tensor,
    variance: Tensor,
    params: Omit<ForwardParams, "gamma" | "beta">,
  ): void {
    const { runningMean, runningVar, numBatchesTracked } = params;
    const counter = numBatchesTracked ?? gpu.zeros([1]);
    const bindings = [null, mean, variance, counter, null, runningMean, runningVar, this.params(params)];
    gpu.run(this.spec("update_running"), bindings, [1]);
    if (counter !== numBatchesTracked) counter.dispose();
  }

  apply(
    ctx: Context,
    y: Tensor,
    x: Tensor,
    saved: Tensor,
    options: { residual: Tensor | null; relu: boolean; counter: Tensor | null },
  ): void {
    const { residual, relu, counter } = options;
    const spec = this.spec(counter ? "apply_counting" : "apply", {
      RELU: relu,
      HAS_RESIDUAL: residual !== null,
    });
    const bindings = [y, x, residual ?? x, saved, counter, null, null, this.params()];
    ctx.run(spec, bindings, this.columnGrid());
  }

  /** Σdz and Σdz·x̂ into dbeta and dgamma, the coefficients of dx into `affine`, and dz with the mask of `y`, if given. */
  reduceGrad(
    ctx: Context,
    x: Tensor,
    dy: Tensor,
    saved: Tensor,
    options: {
      affine: Tensor;
      dgamma: Tensor;
      dbeta: Tensor;
      relu: boolean;
      y: Tensor | null;
      dz: Tensor;
      training: boolean;
    },
  ): void {
    const { slices } = this.geometry;
    const { affine, dgamma, dbeta, relu, y, dz, training } = options;
    const partials = ctx.temp([slices, 2, this.width]);
    const spec = y ? this.spec("grad_stats_residual") : this.spec("grad_stats", { RELU: relu });
    const bindings = [partials, x, dy, saved, ...(y ? [y, dz] : [null, null]), null, this.params()];
    ctx.run(spec, bindings, this.columnGrid());
    const finalize = this.spec("grad_finalize", { BATCH_STATISTICS: training });
    ctx.run(
      finalize,
      [affine, partials, saved, dgamma, null, dbeta, null, this.params()],
      this.channelGrid(),
    );
  }

  applyGrad(
    ctx: Context,
    dx: Tensor,
    x: Tensor,
    dz: Tensor,
    saved: Tensor,
    affine: Tensor,
    relu: boolean,
  ): void {
    const bindings = [dx, x, dz, saved, affine, null, null, this.params()];
    ctx.run(this.spec("grad_apply", { RELU: relu }), bindings, this.columnGrid());
  }

  /** γ and β; where one is missing, `instead` is bound and not read. */
  private affine({ gamma, beta }: ForwardParams, instead: Tensor): [Tensor, Tensor] {
    return [gamma ?? instead, beta ?? instead];
  }

  /** `Params` of the shader. */
  private params({ eps, momentum }: { eps: number; momentum: number | null } = { eps: 0, momentum: 0 }) {
    const { channels, width4, rows, tail, slices, sliceRows, count } = this.geometry;
    const params = new ArrayBuffer(36);
    new Uint32Array(params).set([channels, width4, rows, tail, slices, sliceRows]);
    new Float32Array(params).set([count, eps, momentum ?? -1], 6);
    return params;
  }

  private finalizeSpec(entry: string, { gamma, beta, eps }: ForwardParams): KernelSpec {
    const flags = { HAS_GAMMA: gamma !== null, HAS_BETA: beta !== null };
    return this.spec(entry, { ...flags, SMALL_EPS: eps < SMALL_EPS });
  }

  private spec(entry: string, flags: Record<string, boolean> = {}): KernelSpec {
    const key = entry + Object.values(flags);
    let spec = this.specs.get(key);
    if (!spec) {
      const constants: Record<string, number> = { WORKGROUP_SIZE, HAS_TAIL: this.geometry.tail > 0 ? 1 : 0 };
      for (const [name, value] of Object.entries(flags)) constants[name] = value ? 1 : 0;
      spec = { shader: "batch_norm", entry, constants };
      this.specs.set(key, spec);
    }
    return spec;
  }

  private columnGrid(): [number] {
    const { width4, slices } = this.geometry;
    return [Math.ceil((width4 * slices) / WORKGROUP_SIZE)];
  }

  private channelGrid(): [number] {
    return [Math.ceil(this.geometry.channels / WORKGROUP_SIZE)];
  }
}

const known = new WeakMap<Gpu, Map<string, BatchNormKernels>>();

/** The kernels for [count, channels] on this adapter, made once. */
export function batchNormKernels(gpu: Gpu, count: number, channels: number): BatchNormKernels {
  let kernels = known.get(gpu);
  if (!kernels) {
    kernels = new Map();
    known.set(gpu, kernels);
  }
  const key = `${count}x${channels}`;
  let found = kernels.get(key);
  if (!found) {
    found = new BatchNormKernels(softwareGeometry(count, channels));
    kernels.set(key, found);
  }
  return found;
}
