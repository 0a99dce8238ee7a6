// Dispatches of shaders/batch_norm/batch_norm.wgsl.

import { hull } from "../../device/buffers.ts";
import type { Grid } from "../../device/commands.ts";
import type { KernelSpec } from "../../device/kernels.ts";
import { link } from "../../device/link.ts";
import { Recent } from "../../device/recent.ts";
import { type ActivationPart, NO_ACTIVATION, type Partials } from "../../fusion/ports.ts";
import type { Kernels } from "../../generated/shaders.ts";
import * as shaders from "../../generated/shaders.ts";
import type { Gpu } from "../../gpu.ts";
import type { DType } from "../../tensor/dtype.ts";
import type { Shape } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { OpContext } from "../define-op.ts";
import { largestWorkgroup } from "../grid.ts";
import {
  type BatchNormChoice,
  batchNormLayout,
  chooseVariant,
  type Division,
  divide,
  familyOf,
  type Layout,
  lanesOnly,
  maskWords,
  ONE_BUFFERS,
  type Pass,
  RUNNING_BUFFERS,
  takesOne,
  VARIANTS,
  type Variant,
} from "./choose.ts";

type Context = Pick<OpContext, "gpu" | "temp" | "run">;

/** Below this, variances under 1e-27 count: see `SMALL_EPS` in shaders/lib/moments.wgsl. */
export const SMALL_EPS = 1e-20;

type Element = "float32" | "float16";

/** How the kernels reach the elements of their tensors. */
const ELEMENTS = { float32: "batch_norm_f32", float16: "batch_norm_f16" } as const;

type StatisticsEntries = Kernels<Tensor>["batch_norm_statistics"]["entries"];
type Entries = Kernels<Tensor>["batch_norm"]["entries"];
/** Entry points, but for their twins with workgroup memory. */
type Entry = Exclude<keyof Entries, `${string}_workgroup`>;
/** Those whose twins take one channel in a workgroup, and merge its partial results there. */
const MERGING: ReadonlySet<Entry> = new Set<Entry>([
  "finalize",
  "finalize_running",
  "finalize_folded",
  "finalize_folded_running",
  "grad_finalize",
]);
type BoundBy<E extends Entry> = E extends Entry ? Omit<Entries[E], "params"> : never;

/** Groups that a lane of a rider adds up, unless one workgroup for each column has not lanes enough. */
const RIDER_GROUPS = 16;

/** How one of the kernels is dispatched. */
interface How {
  division: Division;
  grid: Grid;
  flags?: Readonly<Record<string, boolean>>;
  /** Whichever it was: its key is that of the pass. */
  choice?: BatchNormChoice | null;
  activation?: ActivationPart;
  /** Of the uniform. */
  params?: { eps: number; momentum: number | null } | null;
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
  activation: ActivationPart;
  /** Where the ReLU's mask goes, [maskWords]; null where backward won't need it. */
  mask: Tensor | null;
}

interface GradParams {
  activation: ActivationPart;
  /** The forward's, with residual and ReLU; else null. */
  mask: Tensor | null;
  /** With another activation, what it needs to work out what that was of; else null. */
  residual: Tensor | null;
  /** Where dz goes if there is `mask` or `residual`. */
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

  constructor(
    private readonly gpu: Gpu,
    private readonly layout: Layout,
    private readonly dtype: Element,
  ) {
    this.width = 4 * layout.width4;
    this.maskWords = maskWords(layout);
  }

  /** Count, origin, offset and variance of each channel of x, into [4, channels]. */
  statistics(ctx: Context, out: Tensor, x: Tensor): void {
    const division = this.division(this.family());
    const partials = ctx.temp([division.slices, 3, this.width]);
    const flags = { SMALL_EPS: true };
    this.run(ctx, "stats", { partials, x }, { division, flags, grid: this.columnGrid(division) });
    const grid = this.laneGrid(division, this.layout.channels);
    const lanes = lanesOnly(division);
    this.run(ctx, "finalize_statistics", { slices: partials, saved: out }, { division: lanes, flags, grid });
  }

  /** dx of `statistics` at x, where `grad` is that of the [4, channels]. */
  statisticsGrad(ctx: Context, dx: Tensor, x: Tensor, statistics: Tensor, grad: Tensor): void {
    const numbers = ctx.temp([5, this.width]);
    this.statisticsKernel(ctx, "input_grad", { out: numbers, a: statistics, grad });
    this.apply(ctx, dx, x, numbers, { residual: null, activation: NO_ACTIVATION, mask: null }, null, null);
  }

  /** One of the kernels of shaders/batch_norm/batch_norm_statistics.wgsl. */
  statisticsKernel<E extends keyof StatisticsEntries>(
    ctx: Pick<Context, "run">,
    entry: E,
    bindings: Omit<StatisticsEntries[E], "params">,
  ): void {
    const { channels } = this.layout;
    const workgroup = largestWorkgroup(this.gpu);
    const constants = { WORKGROUP_SIZE: workgroup };
    const spec: KernelSpec = { shader: shaders.batch_norm_statistics, entry, constants };
    const params = { channels, width: this.width };
    ctx.run(spec, { ...bindings, params }, this.gpu.fold(Math.ceil(channels / workgroup)));
  }

  /** Whether kernels around a pass in several dispatches may do part of it: channels in whole vec4s. */
  get foldable(): boolean {
    return this.layout.channels === 4 * this.layout.width4 && this.dtype === "float32";
  }

  /**
   * The variant of a pass. `folds`: kernels around may do part of it unless that is one dispatch, and so the choice changes their
   * time as well.
   */
  choose(pass: Pass, folds: boolean): BatchNormChoice {
    return chooseVariant(this.gpu, this.layout, pass, folds && this.foldable);
  }

  /** How a pass in several dispatches is divided. */
  private sliced({ variant }: BatchNormChoice): Division {
    return this.division(VARIANTS[variant].several);
  }

  /** Training: y, and the channels' numbers into `saved`. Moves the running statistics, if there are any. */
  train(
    ctx: Context,
    y: Tensor,
    x: Tensor,
    saved: Tensor,
    params: MeasureParams & ApplyParams,
    choice: BatchNormChoice,
  ): void {
    const { gamma, beta, runningMean, residual, activation, mask } = params;
    const buffers = ONE_BUFFERS.forward + (runningMean ? RUNNING_BUFFERS : 0);
    const fits = params.momentum !== null && this.gpu.limits.maxStorageBuffersPerShaderStage >= buffers;
    if (!takesOne(choice.variant) || !fits) {
      this.measure(ctx, x, saved, params, choice);
      this.apply(ctx, y, x, saved, params, this.counter(params), choice);
      return;
    }
    const division = this.division(choice.variant);
    const flags = {
      ...this.affineFlags(params),
      SMALL_EPS: params.eps < SMALL_EPS,
      HAS_RESIDUAL: residual !== null,
      HAS_MASK: mask !== null,
    };
    const how = { division, flags, choice, activation, params, grid: this.columnGrid(division) };
    const bindings = {
      ...{ y, x, saved, residual: residual ?? x, mask: mask ?? ctx.temp([1]) },
      ...{ gamma: gamma ?? x, beta: beta ?? x },
    };
    const running = this.running(ctx, params);
    if (running) this.run(ctx, "forward_running", { ...bindings, ...running }, how);
    else this.run(ctx, "forward", bindings, how);
  }

  /** The numbers of the channels into `saved`, in two dispatches. Moves the running statistics, if there are any. */
  measure(ctx: Context, x: Tensor, saved: Tensor, params: MeasureParams, choice: BatchNormChoice): void {
    const division = this.sliced(choice);
    const { gamma, beta } = params;
    const partials = ctx.temp([division.slices, 3, this.width]);
    const small = { SMALL_EPS: params.eps < SMALL_EPS };
    const how = { division, choice, params };
    this.run(ctx, "stats", { partials, x }, { ...how, flags: small, grid: this.columnGrid(division) });
    const flags = { ...this.affineFlags(params), ...small };
    const merging = { ...how, flags, grid: this.channelGrid(division) };
    const bindings = { slices: partials, saved, gamma: gamma ?? x, beta: beta ?? x };
    const running = this.running(ctx, params);
    if (running) this.run(ctx, "finalize_running", { ...bindings, ...running }, merging);
    else this.run(ctx, "finalize", bindings, merging);
    partials.dispose(); // before y is allocated
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
    choice: BatchNormChoice,
  ): void {
    const { gamma, beta } = params;
    const division = { ...this.sliced(choice), slices: groups };
    const flags = { ...this.affineFlags(params), SMALL_EPS: params.eps < SMALL_EPS, COUNTED: true };
    const how = { division, flags, choice, params, grid: this.channelGrid(division) };
    const bindings = { x, slices: values, saved, gamma: gamma ?? values, beta: beta ?? values };
    const running = this.running(ctx, params);
    if (running) this.run(ctx, "finalize_folded_running", { ...bindings, ...running }, how);
    else this.run(ctx, "finalize_folded", bindings, how);
  }

  /** The running statistics, and where the batches are counted; null where there are none. */
  private running(ctx: Context, { runningMean, runningVar, numBatchesTracked }: MeasureParams) {
    if (!runningMean || !runningVar) return null;
    return {
      batches: numBatchesTracked ?? ctx.temp([1]),
      running_mean: runningMean,
      running_var: runningVar,
    };
  }

  /** What `apply` has to count up: with the average over all batches, every channel has to have read it. */
  counter({
    momentum,
    runningMean,
    numBatchesTracked,
  }: Pick<MeasureParams, "momentum" | "runningMean" | "numBatchesTracked">): Tensor | null {
    return momentum === null && runningMean ? numBatchesTracked : null;
  }

  /** The same from statistics of `statistics`, perhaps merged over several batches. */
  measureGiven(ctx: Context, x: Tensor, saved: Tensor, statistics: Tensor, params: MeasureParams): void {
    const { gamma, beta } = params;
    const division = lanesOnly(this.division(this.family()));
    const grid = this.laneGrid(division, this.layout.channels);
    const how = { division, flags: this.affineFlags(params), params, grid };
    const bindings = { slices: statistics, saved, gamma: gamma ?? x, beta: beta ?? x };
    const running = this.running(ctx, params);
    if (running) this.run(ctx, "finalize_given_running", { ...bindings, ...running }, how);
    else this.run(ctx, "finalize_given", bindings, how);
  }

  /** Inference: the channels' numbers, of the running statistics, into `saved`; `apply` then gives y. */
  infer(ctx: Context, saved: Tensor, params: MeasureParams): void {
    const { gamma, beta } = params;
    const [given_mean, given_var] = [params.runningMean!, params.runningVar!];
    const division = lanesOnly(this.division(this.family()));
    const bindings = {
      ...{ saved, given_mean, given_var },
      ...{ gamma: gamma ?? given_mean, beta: beta ?? given_mean },
    };
    const grid = this.laneGrid(division, this.layout.channels);
    const how = { division, flags: this.affineFlags(params), params, grid };
    this.run(ctx, "finalize_inference", bindings, how);
  }

  /** For statistics computed elsewhere (`variance` biased): moves the running ones, and counts the batch. */
  updateRunning(mean: Tensor, variance: Tensor, params: Omit<MeasureParams, "gamma" | "beta">): void {
    const { gpu } = this;
    const { runningMean, runningVar, numBatchesTracked } = params;
    const counter = numBatchesTracked ?? gpu.zeros([1]);
    const division = lanesOnly(this.division("software"));
    const bindings = {
      ...{ batch_mean: mean, batch_var: variance, batches: counter },
      ...{ running_mean: runningMean!, running_var: runningVar! },
    };
    this.run(gpu, "update_running", bindings, { division, params, grid: [1] });
    if (counter !== numBatchesTracked) counter.dispose();
  }

  /** dgamma, dbeta and what else `params` wants, from dy and what the forward saved. */
  backward(
    ctx: Context,
    x: Tensor,
    dy: Tensor,
    saved: Tensor,
    params: GradParams,
    choice: BatchNormChoice,
  ): void {
    const { activation, mask, residual, dz, dgamma, dbeta, dx, batchStatistics } = params;
    const joined = mask !== null || residual !== null;
    if (takesOne(choice.variant) && dx) {
      const division = this.division(choice.variant);
      const flags = { BATCH_STATISTICS: batchStatistics };
      const how = { division, flags, choice, grid: this.columnGrid(division) };
      const bindings = { dx, x, dy, numbers4: saved, dz: joined ? dz : ctx.temp([4]), dgamma, dbeta };
      if (mask) this.run(ctx, "backward_residual", { ...bindings, mask_before: mask }, how);
      else if (residual) {
        this.run(ctx, "backward_joined", { ...bindings, summand: residual }, { ...how, activation });
      } else this.run(ctx, "backward", bindings, { ...how, activation });
      return;
    }
    const slopes = ctx.temp([4, this.width]);
    this.measureGrad(ctx, x, dy, saved, slopes, params, choice);
    const left = joined ? NO_ACTIVATION : activation;
    if (dx) this.applyGrad(ctx, dx, x, joined ? dz : dy, saved, slopes, left, null, choice);
  }

  /** dgamma, dbeta and the coefficients of dx into `slopes`; with a mask or a residual, dz. In two dispatches. */
  measureGrad(
    ctx: Context,
    x: Tensor,
    dy: Tensor,
    saved: Tensor,
    slopes: Tensor,
    params: Omit<GradParams, "dx">,
    choice: BatchNormChoice,
  ): void {
    const { mask, residual, dz } = params;
    const sums = this.sumGrad(
      ctx,
      ctx.temp,
      x,
      dy,
      saved,
      { ...params, dz: mask || residual ? dz : null },
      choice,
    );
    this.finalizeGrad(ctx, slopes, sums, saved, params, choice);
    sums.values.dispose();
  }

  /** Σdz and Σdz·x̂ of each channel and slice, in a tensor by `make`; and dz, if it is to be kept. */
  sumGrad(
    ctx: Context,
    make: (shape: Shape) => Tensor,
    x: Tensor,
    dy: Tensor,
    saved: Tensor,
    {
      activation,
      mask,
      residual,
      dz,
    }: Pick<GradParams, "activation" | "mask" | "residual"> & { dz: Tensor | null },
    choice: BatchNormChoice,
  ): Partials {
    const division = this.sliced(choice);
    const values = make([division.slices, 2, this.width]);
    const how = { division, choice, grid: this.columnGrid(division) };
    const bindings = { partials: values, x, dy, numbers4: saved, dz: dz ?? ctx.temp([4]) };
    if (mask) this.run(ctx, "grad_stats_residual", { ...bindings, mask_before: mask }, how);
    else if (residual) {
      this.run(ctx, "grad_stats_joined", { ...bindings, summand: residual }, { ...how, activation });
    } else {
      this.run(ctx, "grad_stats", bindings, { ...how, activation, flags: { KEEPS_DZ: dz !== null } });
    }
    return { values, groups: division.slices };
  }

  /**
   * dgamma, dbeta and the coefficients of dx, [4, width], from partial sums: in the dispatch that waits for such work, if there is one,
   * or by a kernel.
   */
  finalizeGrad(
    ctx: Context,
    slopes: Tensor,
    { values, groups }: Partials,
    saved: Tensor,
    { dgamma, dbeta, batchStatistics }: Pick<GradParams, "dgamma" | "dbeta" | "batchStatistics">,
    choice: BatchNormChoice,
  ): void {
    if (this.rides(slopes, { values, groups }, saved, { dgamma, dbeta, batchStatistics })) return;
    const division = { ...this.sliced(choice), slices: groups };
    const flags = { BATCH_STATISTICS: batchStatistics };
    const bindings = { new_slopes: slopes, slices: values, numbers: saved, dgamma, dbeta };
    this.run(ctx, "grad_finalize", bindings, { division, flags, choice, grid: this.channelGrid(division) });
  }

  /** Whether `finalizeGrad` is done in a dispatch that waits for the like: shaders/conv2d/conv2d_rider_slopes.wgsl. */
  private rides(
    slopes: Tensor,
    { values, groups }: Partials,
    saved: Tensor,
    { dgamma, dbeta, batchStatistics }: Pick<GradParams, "dgamma" | "dbeta" | "batchStatistics">,
  ): boolean {
    const grads = this.foldable && this.gpu.riders.waits ? hull([dgamma.range, dbeta.range]) : null;
    if (!grads) return false;
    const { width4: columns, count } = this.layout;
    const [dgamma_at, dbeta_at] = grads.starts.map((start) => start / 16) as [number, number];
    const buffers = { new_slopes: slopes, sums: values, numbers: saved, affine_grads: grads.out };
    return this.gpu.riders.ride({
      part: "slopes",
      constants: { BATCH_STATISTICS: batchStatistics ? 1 : 0 },
      divide(lanes) {
        // The more groups, the more lanes share those of a column.
        const most = Math.min(lanes, columns, Math.max(1, (RIDER_GROUPS * lanes) / Math.max(1, groups)));
        const width = 2 ** Math.floor(Math.log2(most));
        const workgroups = Math.ceil(columns / width);
        const ride = { workgroups, width, columns, groups, count, dgamma_at, dbeta_at };
        return { workgroups, bindings: { ...buffers, ride } };
      },
    });
  }

  /** dx from dz, or from dy with the activation that dy is past; and `addend`, if that is given. */
  applyGrad(
    ctx: Pick<Context, "run">,
    dx: Tensor,
    x: Tensor,
    dz: Tensor,
    saved: Tensor,
    slopes: Tensor,
    activation: ActivationPart,
    addend: Tensor | null,
    choice: BatchNormChoice,
  ): void {
    const division = this.sliced(choice);
    const flags = { HAS_ADDEND: addend !== null, STRIDED: division.stride > 0 };
    const bindings = { dx, x, dy: dz, numbers4: saved, slopes, addend: addend ?? dz };
    const how = { division: lanesOnly(division), flags, choice, activation, grid: this.applyGrid(division) };
    this.run(ctx, "grad_apply", bindings, how);
  }

  /** y from x and the channels' numbers, for `choice` or for an op without one. Counts the batch in `counter`, if that is given. */
  apply(
    ctx: Context,
    y: Tensor,
    x: Tensor,
    saved: Tensor,
    { residual, activation, mask }: ApplyParams,
    counter: Tensor | null,
    choice: BatchNormChoice | null,
  ): void {
    const division = this.division(this.family());
    const flags = {
      HAS_RESIDUAL: residual !== null,
      HAS_MASK: mask !== null,
      STRIDED: division.stride > 0,
    };
    const how = { division: lanesOnly(division), flags, choice, activation, grid: this.applyGrid(division) };
    const bindings = {
      ...{ y, x, numbers4: saved },
      ...{ residual: residual ?? x, mask: mask ?? ctx.temp([1]) },
    };
    if (counter) this.run(ctx, "apply_counting", { ...bindings, batches: counter }, how);
    else this.run(ctx, "apply", bindings, how);
  }

  private family(): "software" | "workgroup" {
    return familyOf(this.gpu);
  }

  private division(variant: Variant): Division {
    let division = this.divisions.get(variant);
    if (!division) {
      division = divide(this.layout, variant, this.gpu);
      this.divisions.set(variant, division);
    }
    return division;
  }

  private affineFlags({ gamma, beta }: MeasureParams) {
    return { HAS_GAMMA: gamma !== null, HAS_BETA: beta !== null };
  }

  /** `entry`, with suffix `_workgroup` where the division has one. */
  private spec(
    entry: Entry,
    {
      division: { lanes, x, y },
      flags = {},
      choice = null,
      activation: { part, constants: given } = NO_ACTIVATION,
    }: How,
  ): KernelSpec {
    let key = `${choice?.kernel},${entry},${lanes},${x},${y},${part}`;
    for (const name in flags) key += flags[name] ? `+${name}` : `-${name}`;
    for (const name in given) key += `,${given[name]}`;
    let spec = this.specs.get(key);
    if (!spec) {
      const constants: Record<string, number> = { ...given };
      for (const [name, value] of Object.entries(flags)) constants[name] = value ? 1 : 0;
      if (y === 0) constants.WORKGROUP_SIZE = lanes;
      else if (MERGING.has(entry)) Object.assign(constants, { X: 1, Y: largestWorkgroup(this.gpu) });
      else Object.assign(constants, { X: x, Y: y });
      constants.HAS_TAIL = this.layout.tail > 0 ? 1 : 0;
      spec = {
        shader: link(shaders.batch_norm, { elements: ELEMENTS[this.dtype], activation: part }),
        entry: y > 0 ? `${entry}_workgroup` : entry,
        constants,
        serves: choice ? [choice] : [],
      };
      this.specs.set(key, spec);
    }
    return spec;
  }

  private run<E extends Entry>(ctx: Pick<Context, "run">, entry: E, bindings: BoundBy<E>, how: How): void {
    const { channels, width4, rows, tail, count } = this.layout;
    const { slices, sliceRows: slice_rows, stride } = how.division;
    const { eps, momentum: share } = how.params ?? WITHOUT_PARAMS;
    const momentum = share ?? -1;
    const params = { channels, width4, rows, tail, slices, slice_rows, stride, count, eps, momentum };
    ctx.run(this.spec(entry, how), { ...bindings, params }, how.grid);
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

const WITHOUT_PARAMS = { eps: 0, momentum: 0 };

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
