// Geometry and dispatches of shaders/batch_norm.wgsl.

import type { Grid } from "../gpu/commands.ts";
import type { Binding, Gpu } from "../gpu/device.ts";
import type { EntryOf, KernelSpec } from "../gpu/kernel.ts";
import { link } from "../gpu/link.ts";
import { Recent } from "../gpu/recent.ts";
import type { Partials } from "../tensor/deferred.ts";
import type { DType } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { OpContext } from "./define-op.ts";

type Context = Pick<OpContext, "gpu" | "temp" | "run">;

/** How [count, channels] is laid out in vec4 columns and wide rows; see the shader's head. */
export interface Layout {
  channels: number;
  /** Values per channel. */
  count: number;
  /** vec4s in a wide row. */
  width4: number;
  /** Full wide rows. */
  rows: number;
  /** Elements after them. */
  tail: number;
}

/** How a variant divides the work. */
interface Division {
  slices: number;
  sliceRows: number;
  /** Invocations of the apply kernels where neighbours take neighbouring vec4s; 0 where they take runs of rows. */
  stride: number;
  /** Invocations of a workgroup of kernels without workgroup memory. */
  lanes: number;
  /** Columns and rows of a workgroup; 0 for kernels without workgroup memory. */
  x: number;
  y: number;
}

/** The kernels over tensors in float32, or in float16. */
const modules = {
  float32: link("batch_norm"),
  float16: link("batch_norm", { elements: "batch_norm_f16" }),
};

/** `software`: no workgroup memory; `_one`: all in one dispatch. */
type Variant = "software" | "workgroup" | "software_one" | "workgroup_one";

const SOFTWARE_WORKGROUP = 32;
const SOFTWARE_ONE_WORKGROUP = 8; // as many workgroups, and so threads, as there are groups of lanes
const SOFTWARE_LANES = 512;
/** Rows in a word of the ReLU's mask. Slices begin at whole words. */
const MASK_ROWS = 8;
const GPU_WORKGROUP = 256;
const GPU_WORKGROUPS = 1024;
const GPU_LANES = 2 ** 18;
/** Rows up to which one dispatch is faster than three on lavapipe, if there are 16 columns or more to share out. */
const SOFTWARE_ONE_ROWS = 1024;
/** On a GPU: a workgroup takes so many rows in little more than the time that a dispatch takes. */
const GPU_ONE_ROWS = 1024;
/** Below this, variances under 1e-27 count: see `SMALL_EPS` in shaders/moments.wgsl. */
export const SMALL_EPS = 1e-20;

export function batchNormLayout(count: number, channels: number): Layout {
  const width4 = channels / gcd(channels, 4); // least common multiple of channels and 4, in vec4s
  const rows = Math.floor((count * channels) / (4 * width4));
  return { channels, count, width4, rows, tail: count * channels - 4 * width4 * rows };
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

function divide({ width4, rows }: Layout, variant: Variant, software: boolean): Division {
  const runs = variant.startsWith("software");
  const workgroup = software ? SOFTWARE_WORKGROUP : GPU_WORKGROUP;
  const lanes = variant === "software_one" ? SOFTWARE_ONE_WORKGROUP : workgroup;
  // Columns: whole rows of up to 64 vec4s, so that a workgroup reads runs of up to 1 KiB.
  const wide = variant === "workgroup_one" ? 4 : 64;
  const tiles = Math.ceil(width4 / wide);
  const x = runs ? 0 : Math.ceil(width4 / tiles);
  const y = runs ? 0 : Math.floor(GPU_WORKGROUP / x);
  if (variant.endsWith("_one")) return { slices: 1, sliceRows: rows, stride: 0, lanes, x, y };
  const wanted = runs
    ? Math.min(Math.floor(SOFTWARE_LANES / width4), Math.floor(rows / 16))
    : Math.min(Math.floor(GPU_WORKGROUPS / tiles), Math.floor(rows / (8 * y)));
  const sliceRows = MASK_ROWS * Math.ceil(rows / Math.max(1, wanted) / MASK_ROWS);
  const slices = sliceRows === 0 ? 1 : Math.ceil(rows / sliceRows);
  const perColumn = Math.max(1, Math.min(Math.floor(GPU_LANES / width4), Math.ceil(rows / 4)));
  return { slices, sliceRows, stride: runs ? 0 : width4 * perColumn, lanes, x, y };
}

/** For kernels without a `_workgroup` twin. */
function lanesOnly(division: Division): Division {
  return { ...division, x: 0, y: 0 };
}

export interface MeasureParams {
  gamma: Tensor | null;
  beta: Tensor | null;
  runningMean: Tensor | null;
  runningVar: Tensor | null;
  numBatchesTracked: Tensor | null;
  momentum: number | null;
  eps: number;
}

interface ApplyParams {
  residual: Tensor | null;
  relu: boolean;
  /** Where the ReLU's mask goes, [maskWords]; null where backward won't need it. */
  mask: Tensor | null;
}

interface GradParams {
  relu: boolean;
  /** The forward's, with residual and ReLU; else null. */
  mask: Tensor | null;
  /** Where dz goes if there is `mask`. */
  dz: Tensor;
  dgamma: Tensor;
  dbeta: Tensor;
  /** Null where dx is not wanted. */
  dx: Tensor | null;
  /** The statistics depend on x. */
  batchStatistics: boolean;
}

/** The kernels of one layout. */
export class BatchNormKernels {
  /** Elements in a row of per-channel numbers, each channel repeated. */
  readonly width: number;
  /** uint32 words of a ReLU's mask. */
  readonly maskWords: number;
  private readonly specs = new Map<string, KernelSpec>();
  private readonly divisions = new Map<Variant, Division>();
  private readonly key: string;

  constructor(
    private readonly gpu: Gpu,
    private readonly layout: Layout,
    private readonly dtype: keyof typeof modules,
  ) {
    this.width = 4 * layout.width4;
    this.maskWords = Math.ceil((layout.rows + Math.sign(layout.tail)) / MASK_ROWS) * layout.width4;
    this.key = `${layout.count}x${layout.channels}`;
  }

  /** Count, origin, offset and variance of each channel of x, into [4, channels]. */
  statistics(ctx: Context, out: Tensor, x: Tensor): void {
    const division = this.division(this.family());
    const partials = ctx.temp([division.slices, 3, this.width]);
    const stats = this.spec("stats", division, { SMALL_EPS: true });
    this.run(ctx, stats, division, { 0: partials, 1: x }, null, this.columnGrid(division));
    const finalize = this.spec("finalize_statistics", lanesOnly(division), { SMALL_EPS: true });
    const grid = this.laneGrid(division, this.layout.channels);
    this.run(ctx, finalize, division, { 2: partials, 3: out }, null, grid);
  }

  /** dx of `statistics` at x, where `grad` is that of the [4, channels]. */
  statisticsGrad(ctx: Context, dx: Tensor, x: Tensor, statistics: Tensor, grad: Tensor): void {
    const affine = ctx.temp([5, this.width]);
    this.statisticsKernel(ctx, "input_grad", { 0: affine, 2: statistics, 4: grad });
    this.apply(ctx, dx, x, affine, { residual: null, relu: false, mask: null }, null);
  }

  /** One of the kernels of shaders/batch_norm_statistics.wgsl. */
  statisticsKernel(
    ctx: Pick<Context, "run">,
    entry: EntryOf<"batch_norm_statistics">,
    bound: Record<number, Binding>,
  ): void {
    const { channels } = this.layout;
    const constants = { WORKGROUP_SIZE: GPU_WORKGROUP };
    const bindings = Array.from({ length: 8 }, (_, slot) => bound[slot] ?? null);
    bindings[7] = new Uint32Array([channels, this.width]);
    const grid = this.gpu.fold(Math.ceil(channels / GPU_WORKGROUP));
    ctx.run({ shader: "batch_norm_statistics", entry, constants }, bindings, grid);
  }

  /** Whether convolutions may do part of the work: channels in whole vec4s, and more than one dispatch can do. */
  get folds(): boolean {
    const whole = this.layout.channels === 4 * this.layout.width4 && this.dtype === "float32";
    return whole && !this.pick("batch_norm.forward", 10, true).endsWith("_one");
  }

  /** Training: y, and the channels' numbers into `saved`. Moves the running statistics, if there are any. */
  train(ctx: Context, y: Tensor, x: Tensor, saved: Tensor, params: MeasureParams & ApplyParams): void {
    const { gamma, beta, runningMean, runningVar, numBatchesTracked, residual, relu, mask } = params;
    const variant = this.pick("batch_norm.forward", runningMean ? 10 : 7, params.momentum !== null);
    const division = this.division(variant);
    const affine = { 8: gamma ?? x, 9: beta ?? x };
    const running = runningMean && {
      4: numBatchesTracked ?? ctx.temp([1]),
      5: runningMean,
      6: runningVar,
    };
    const suffix = runningMean ? "_running" : "";
    const flags = { ...this.affineFlags(params), SMALL_EPS: params.eps < SMALL_EPS };
    if (variant.endsWith("_one")) {
      const one = this.spec(`forward${suffix}`, division, {
        ...flags,
        RELU: relu,
        HAS_RESIDUAL: residual !== null,
        HAS_MASK: mask !== null,
      });
      const given = { 2: residual ?? x, 10: mask ?? ctx.temp([1]) };
      const bindings = { 0: y, 1: x, 3: saved, ...given, ...running, ...affine };
      this.run(ctx, one, division, bindings, params, this.columnGrid(division));
      return;
    }
    const partials = ctx.temp([division.slices, 3, this.width]);
    const stats = this.spec("stats", division, { SMALL_EPS: flags.SMALL_EPS });
    this.run(ctx, stats, division, { 0: partials, 1: x }, params, this.columnGrid(division));
    const finalize = this.spec(`finalize${suffix}`, division, flags);
    const bindings = { 2: partials, 3: saved, ...running, ...affine };
    this.run(ctx, finalize, division, bindings, params, this.channelGrid(division));
    this.apply(ctx, y, x, saved, params, this.counter(params));
  }

  /**
   * The numbers of the channels into `saved`, from a convolution's partial statistics of x, or of x itself where those left
   * float32's range. Moves the running ones.
   */
  finalize(
    ctx: Context,
    x: Tensor,
    saved: Tensor,
    { values, groups }: Partials,
    params: MeasureParams,
  ): void {
    const { gamma, beta, runningMean, runningVar, numBatchesTracked } = params;
    const division = { ...this.division(this.pick("batch_norm.forward", 7, false)), slices: groups };
    const counter = numBatchesTracked ?? ctx.temp([1]);
    const running = runningMean && { 4: counter, 5: runningMean, 6: runningVar };
    const flags = { ...this.affineFlags(params), SMALL_EPS: params.eps < SMALL_EPS, COUNTED: true };
    const spec = this.spec(runningMean ? "finalize_folded_running" : "finalize_folded", division, flags);
    const bindings = { 1: x, 2: values, 3: saved, ...running, 8: gamma ?? values, 9: beta ?? values };
    this.run(ctx, spec, division, bindings, params, this.channelGrid(division));
  }

  /** What `apply` has to count up: with the average over all batches, every channel has to have read it. */
  counter({
    momentum,
    runningMean,
    numBatchesTracked,
  }: Pick<MeasureParams, "momentum" | "runningMean" | "numBatchesTracked">): Tensor | null {
    return momentum === null && runningMean ? numBatchesTracked : null;
  }

  /** The same with statistics of `statistics`, perhaps merged over several batches. */
  trainGiven(
    ctx: Context,
    y: Tensor,
    x: Tensor,
    saved: Tensor,
    statistics: Tensor,
    params: MeasureParams & ApplyParams,
  ): void {
    const { gamma, beta, runningMean, runningVar, numBatchesTracked } = params;
    const division = this.division(this.family());
    const entry = runningMean ? "finalize_given_running" : "finalize_given";
    const finalize = this.spec(entry, lanesOnly(division), this.affineFlags(params));
    const running = runningMean && { 4: numBatchesTracked ?? ctx.temp([1]), 5: runningMean, 6: runningVar };
    const bindings = { 2: statistics, 3: saved, ...running, 8: gamma ?? x, 9: beta ?? x };
    this.run(ctx, finalize, division, bindings, params, this.laneGrid(division, this.layout.channels));
    this.apply(ctx, y, x, saved, params, this.counter(params));
  }

  /** Inference: the channels' numbers, of the running statistics, into `saved`; `apply` then gives y. */
  infer(ctx: Context, saved: Tensor, params: MeasureParams): void {
    const { gamma, beta, runningMean, runningVar } = params;
    const division = this.division(this.family());
    const spec = this.spec("finalize_inference", lanesOnly(division), this.affineFlags(params));
    const bindings = {
      3: saved,
      5: runningMean,
      6: runningVar,
      8: gamma ?? runningMean,
      9: beta ?? runningMean,
    };
    this.run(ctx, spec, division, bindings, params, this.laneGrid(division, this.layout.channels));
  }

  /** For statistics computed elsewhere (`variance` biased): moves the running ones, and counts the batch. */
  updateRunning(mean: Tensor, variance: Tensor, params: Omit<MeasureParams, "gamma" | "beta">): void {
    const { gpu } = this;
    const { runningMean, runningVar, numBatchesTracked } = params;
    const counter = numBatchesTracked ?? gpu.zeros([1]);
    const division = lanesOnly(this.division("software"));
    const bindings = { 1: mean, 2: variance, 4: counter, 5: runningMean, 6: runningVar };
    this.run(gpu, this.spec("update_running", division), division, bindings, params, [1]);
    if (counter !== numBatchesTracked) counter.dispose();
  }

  /** dgamma, dbeta and what else `params` wants, from dy and what the forward saved. */
  backward(ctx: Context, x: Tensor, dy: Tensor, saved: Tensor, params: GradParams): void {
    const { relu, mask, dz, dgamma, dbeta, dx, batchStatistics } = params;
    const variant = this.pick("batch_norm.backward", 8, dx !== null);
    const division = this.division(variant);
    const suffix = mask ? "_residual" : "";
    const masked = mask ? { 4: mask, 5: dz } : {};
    const flags: Record<string, boolean> = mask ? {} : { RELU: relu };
    if (variant.endsWith("_one")) {
      const one = this.spec(`backward${suffix}`, division, {
        RELU: relu && !mask,
        BATCH_STATISTICS: batchStatistics,
      });
      const bindings = { 0: dx, 1: x, 2: dy, 3: saved, ...masked, 8: dgamma, 9: dbeta };
      this.run(ctx, one, division, bindings, null, this.columnGrid(division));
      return;
    }
    const partials = ctx.temp([division.slices, 2, this.width]);
    const stats = this.spec(`grad_stats${suffix}`, division, flags);
    const read = { 0: partials, 1: x, 2: dy, 3: saved, ...masked };
    this.run(ctx, stats, division, read, null, this.columnGrid(division));
    const slopes = ctx.temp([4, this.width]);
    this.finalizeGrad(ctx, slopes, { values: partials, groups: division.slices }, saved, params);
    if (dx) this.applyGrad(ctx, dx, x, mask ? dz : dy, saved, slopes, relu && !mask);
  }

  /** dgamma, dbeta and the coefficients of dx, [4, width], from partial sums. */
  finalizeGrad(
    ctx: Context,
    slopes: Tensor,
    { values, groups }: Partials,
    saved: Tensor,
    { dgamma, dbeta, batchStatistics }: Pick<GradParams, "dgamma" | "dbeta" | "batchStatistics">,
  ): void {
    const division = { ...this.division(this.pick("batch_norm.backward", 8, false)), slices: groups };
    const finalize = this.spec("grad_finalize", division, { BATCH_STATISTICS: batchStatistics });
    const sums = { 0: slopes, 2: values, 3: saved, 8: dgamma, 9: dbeta };
    this.run(ctx, finalize, division, sums, null, this.channelGrid(division));
  }

  /** dx from dz, or from dy with `relu`. */
  applyGrad(
    ctx: Pick<Context, "run">,
    dx: Tensor,
    x: Tensor,
    dz: Tensor,
    saved: Tensor,
    slopes: Tensor,
    relu: boolean,
  ): void {
    const division = this.division(this.pick("batch_norm.backward", 8, false));
    const apply = this.spec("grad_apply", lanesOnly(division), { RELU: relu, STRIDED: division.stride > 0 });
    const bindings = { 0: dx, 1: x, 2: dz, 3: saved, 4: slopes };
    this.run(ctx, apply, division, bindings, null, this.applyGrid(division));
  }

  /** y from x and the channels' numbers. Counts the batch in `counter`, if that is given. */
  apply(
    ctx: Context,
    y: Tensor,
    x: Tensor,
    saved: Tensor,
    { residual, relu, mask }: ApplyParams,
    counter: Tensor | null,
  ): void {
    const division = this.division(this.family());
    const spec = this.spec(counter ? "apply_counting" : "apply", lanesOnly(division), {
      RELU: relu,
      HAS_RESIDUAL: residual !== null,
      HAS_MASK: mask !== null,
      STRIDED: division.stride > 0,
    });
    const given = { 2: residual ?? x, 10: mask ?? ctx.temp([1]) };
    const bindings = { 0: y, 1: x, 3: saved, ...given, ...(counter && { 4: counter }) };
    this.run(ctx, spec, division, bindings, null, this.applyGrid(division));
  }

  private family(): "software" | "workgroup" {
    return this.gpu.isSoftware ? "software" : "workgroup";
  }

  /** `buffers`: storage buffers that the one-dispatch kernel binds. */
  private pick(kernel: string, buffers: number, oneFits: boolean): Variant {
    const { gpu } = this;
    const { count, channels, width4 } = this.layout;
    const { maxStorageBuffersPerShaderStage, maxComputeWorkgroupsPerDimension } = gpu.limits;
    const whole = channels === 4 * width4;
    // `workgroup_one` takes 4 columns in a workgroup, and its grid is not folded.
    const one =
      oneFits &&
      whole &&
      maxStorageBuffersPerShaderStage >= buffers &&
      width4 <= 4 * maxComputeWorkgroupsPerDimension;
    const family = this.family();
    const few = gpu.isSoftware
      ? count * Math.max(1, 16 / width4) <= SOFTWARE_ONE_ROWS
      : count <= GPU_ONE_ROWS;
    const candidates: Variant[] = one
      ? ["software", "workgroup", "software_one", "workgroup_one"]
      : ["software", "workgroup"];
    return gpu.variants.pick(kernel, this.key, candidates, one && few ? `${family}_one` : family) as Variant;
  }

  private division(variant: Variant): Division {
    let division = this.divisions.get(variant);
    if (!division) {
      division = divide(this.layout, variant, this.gpu.isSoftware);
      this.divisions.set(variant, division);
    }
    return division;
  }

  private affineFlags({ gamma, beta }: MeasureParams) {
    return { HAS_GAMMA: gamma !== null, HAS_BETA: beta !== null };
  }

  /** `entry`, with suffix `_workgroup` where the division has one. */
  private spec(
    entry: string,
    { slices, lanes, x, y }: Division,
    flags: Record<string, boolean> = {},
  ): KernelSpec {
    const perChannel = entry.includes("finalize");
    const key = `${entry},${lanes},${x},${y},${slices},${Object.values(flags)}`;
    let spec = this.specs.get(key);
    if (!spec) {
      const constants: Record<string, number> = {};
      for (const [name, value] of Object.entries(flags)) constants[name] = value ? 1 : 0;
      if (y === 0) constants.WORKGROUP_SIZE = lanes;
      else if (perChannel) Object.assign(constants, { X: 1, Y: this.mergers(slices) });
      else Object.assign(constants, { X: x, Y: y });
      constants.HAS_TAIL = this.layout.tail > 0 ? 1 : 0;
      spec = { shader: modules[this.dtype], entry: y > 0 ? `${entry}_workgroup` : entry, constants };
      this.specs.set(key, spec);
    }
    return spec;
  }

  /** Invocations that merge a channel's partials in a workgroup. */
  private mergers(slices: number): number {
    const partials = (slices * this.width) / this.layout.channels;
    return Math.min(GPU_WORKGROUP, 2 ** Math.ceil(Math.log2(partials)));
  }

  private run(
    ctx: Pick<Context, "run">,
    spec: KernelSpec,
    division: Division,
    bound: Record<number, Binding | undefined>,
    params: { eps: number; momentum: number | null } | null,
    grid: Grid,
  ): void {
    const bindings = Array.from({ length: 11 }, (_, slot) => bound[slot] ?? null);
    bindings[7] = this.params(division, params?.eps ?? 0, params ? (params.momentum ?? -1) : 0);
    ctx.run(spec, bindings, grid);
  }

  /** `Params` of the shader. */
  private params({ slices, sliceRows, stride }: Division, eps: number, momentum: number): ArrayBuffer {
    const { channels, width4, rows, tail, count } = this.layout;
    const params = new ArrayBuffer(40);
    new Uint32Array(params).set([channels, width4, rows, tail, slices, sliceRows, stride]);
    new Float32Array(params).set([count, eps, momentum], 7);
    return params;
  }

  private laneGrid({ lanes }: Division, count: number): [number, number] {
    return this.gpu.fold(Math.ceil(count / lanes));
  }

  /** Every column of every slice. */
  private columnGrid(division: Division): [number, number] {
    const { width4 } = this.layout;
    const { slices, x } = division;
    return x > 0 ? [Math.ceil(width4 / x), slices] : this.laneGrid(division, width4 * slices);
  }

  private channelGrid(division: Division): [number, number] {
    const { channels } = this.layout;
    return division.x > 0 ? this.gpu.fold(channels) : this.laneGrid(division, channels);
  }

  private applyGrid(division: Division): [number, number] {
    const { slices, stride } = division;
    return this.laneGrid(division, stride > 0 ? stride : this.layout.width4 * slices);
  }
}

/** Layouts whose kernels are remembered. */
const MOST_LAYOUTS = 512;
const known = new WeakMap<Gpu, Recent<string, BatchNormKernels>>();

/** The kernels for [count, channels] of x's type on this adapter, made once while it is in use. */
export function batchNormKernels(gpu: Gpu, count: number, channels: number, dtype: DType): BatchNormKernels {
  let kernels = known.get(gpu);
  if (!kernels) {
    kernels = new Recent(MOST_LAYOUTS);
    known.set(gpu, kernels);
  }
  const type = dtype === "float16" ? dtype : "float32";
  const key = `${count}x${channels}${type}`;
  let found = kernels.get(key);
  if (!found) {
    found = new BatchNormKernels(gpu, batchNormLayout(count, channels), type);
    kernels.set(key, found);
  }
  return found;
}
