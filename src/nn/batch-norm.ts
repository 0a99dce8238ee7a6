// Batch normalisation as a layer.

import { ShapeError, UsageError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import type { Activation } from "../ops/activations.ts";
import { type BatchNormOptions, batchNorm } from "../ops/batch-norm/batch-norm.ts";
import { batchNormComposed } from "../ops/batch-norm/composed.ts";
import {
  checkFlag,
  checkInstance,
  checkInteger,
  checkNumber,
  checkOptions,
  optionNames,
  show,
} from "../options.ts";
import { checkGpu, checkTensor, FLOATS } from "../tensor/check.ts";
import { formatShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module, parameter } from "./module.ts";
import { movedIfFinite, type RunningStatistics, resetRunning } from "./running-statistics.ts";

/** Options of the layer `BatchNorm2d`; names and defaults are PyTorch's. */
export interface BatchNorm2dOptions {
  eps?: number;
  /** Share of the new batch in the running statistics; null for the plain average over all batches. Default 0.1. */
  momentum?: number | null;
  /** Learn γ and β. Default true. */
  affine?: boolean;
  /** Keep running statistics for `eval`. Default true; false uses batch statistics always. */
  trackRunningStats?: boolean;
  /**
   * How far it is fused. True: with residual and ReLU, and into the convolutions next to it where that is faster (see
   * `batchNorm`, `folds`). "elementwise": with residual and ReLU alone. False: composed of plain ops, to compare. Default true.
   */
  fused?: boolean | "elementwise";
  /** As `freezeBatchNorm` leaves it. Default false. */
  frozen?: boolean;
  /**
   * In a batch after which a running statistic would be NaN or infinite, in any channel, leave all of them, and their count, as they
   * are: for mixed precision, whose loss scale may be too large for a batch. Found out on the GPU. Default false.
   */
  skipNonFinite?: boolean;
}

const BATCH_NORM_OPTIONS = optionNames<BatchNorm2dOptions>({
  ...{ eps: 0, momentum: 0, affine: 0, trackRunningStats: 0, fused: 0, frozen: 0, skipNonFinite: 0 },
});

/** @throws ShapeError, UsageError for options that a `BatchNorm2d` can't be made with. */
export function checkBatchNorm2d(op: string, options: BatchNorm2dOptions): void {
  checkOptions(op, options, BATCH_NORM_OPTIONS);
  const { eps = 1e-5, momentum = 0.1, affine = true, trackRunningStats = true, fused = true } = options;
  const { frozen = false, skipNonFinite = false } = options;
  checkNumber(op, "eps", eps, 0);
  if (momentum !== null && !(Number.isFinite(momentum) && momentum >= 0 && momentum <= 1)) {
    throw new ShapeError(
      `${op}: momentum is ${show(momentum)}; expected a number from 0 to 1, or null for the average over all batches`,
    );
  }
  checkFlag(op, "affine", affine);
  checkFlag(op, "trackRunningStats", trackRunningStats);
  if (fused !== "elementwise" && typeof fused !== "boolean") {
    throw new UsageError(`${op}: fused is ${show(fused)}; expected true, false or "elementwise"`);
  }
  checkFlag(op, "frozen", frozen);
  checkFlag(op, "skipNonFinite", skipNonFinite);
  if (frozen && !trackRunningStats) {
    throw new UsageError(
      `${op}: frozen is true and trackRunningStats is false; expected running statistics to normalise by`,
    );
  }
}

/** What follows the normalisation in the same kernel. */
export interface BatchNormTail {
  activation?: Activation;
  /** Added before the activation; same shape as the input. */
  residual?: Tensor | null;
}

const TAIL_OPTIONS = optionNames<BatchNormTail>({ activation: 0, residual: 0 });

/** Batch normalisation over [N, H, W, C] or [N, C], per channel; see `batchNorm`. γ starts at 1, β at 0. */
export class BatchNorm2d extends Module {
  weight: Tensor | null;
  bias: Tensor | null;
  runningMean: Tensor | null;
  runningVar: Tensor | null;
  numBatchesTracked: Tensor | null;
  readonly eps: number;
  /** Share of the new batch in the running statistics; null for the plain average over all batches. */
  momentum: number | null;
  /** See `freezeBatchNorm`. */
  frozen: boolean;
  private readonly skipNonFinite: boolean;
  private readonly fused: boolean | "elementwise";

  constructor(gpu: Gpu, channels: number, options: BatchNorm2dOptions = {}) {
    super();
    const op = this instanceof BatchNorm1d ? "BatchNorm1d" : "BatchNorm2d";
    checkGpu(op, gpu);
    checkInteger(op, "channels", channels, 1);
    gpu.checkSize(op, [channels], "float32", "weight");
    checkBatchNorm2d(op, options);
    const { eps = 1e-5, momentum = 0.1, affine = true, trackRunningStats = true, fused = true } = options;
    const vector = (value: number) => gpu.keep(gpu.full([channels], value));
    this.weight = affine ? parameter(gpu, new Float32Array(channels).fill(1), [channels]) : null;
    this.bias = affine ? parameter(gpu, new Float32Array(channels), [channels]) : null;
    this.runningMean = trackRunningStats ? vector(0) : null;
    this.runningVar = trackRunningStats ? vector(1) : null;
    this.numBatchesTracked = trackRunningStats ? gpu.keep(gpu.zeros([1])) : null;
    this.eps = eps;
    this.momentum = momentum;
    this.fused = fused;
    this.frozen = options.frozen ?? false;
    this.skipNonFinite = options.skipNonFinite ?? false;
    if (this.frozen) this.freeze();
  }

  /** Forgets all batches: running mean 0, variance 1, none counted. */
  resetRunningStats(): void {
    if (this.runningMean) resetRunning(this as RunningStatistics);
  }

  /** `tail` folds a residual and an activation into the same pass over memory. */
  forward(x: Tensor, tail: BatchNormTail = {}): Tensor {
    checkOptions("BatchNorm2d", tail, TAIL_OPTIONS, "tail");
    const { runningMean, runningVar, numBatchesTracked, eps, momentum } = this;
    const run = this.fused ? batchNorm : batchNormComposed;
    const training = (this.training && !this.frozen) || !runningMean;
    const options: BatchNormOptions = {
      training,
      runningMean,
      runningVar,
      numBatchesTracked,
      eps,
      momentum,
      folds: this.fused === true,
      ...tail,
    };
    const norm = (running: Partial<RunningStatistics>) =>
      run(x, this.weight, this.bias, { ...options, ...running });
    const skips = this.skipNonFinite && training && runningMean;
    return this.under(x, () => (skips ? movedIfFinite(this as RunningStatistics, norm) : norm({})));
  }
}

/** The same over [N, C] or [N, L, C], channels last; PyTorch's `BatchNorm1d` has [N, C, L]. */
export class BatchNorm1d extends BatchNorm2d {
  override forward(x: Tensor, tail: BatchNormTail = {}): Tensor {
    checkTensor("BatchNorm1d", "x", x, { dtypes: FLOATS });
    if (x.rank !== 2 && x.rank !== 3) {
      throw new ShapeError(
        `BatchNorm1d: x has rank ${x.rank}, got ${formatShape(x.shape)}; expected [N, C] or [N, L, C]`,
      );
    }
    return super.forward(x, tail);
  }
}

/**
 * Makes all batch-norms of a model constants, as torchvision's `FrozenBatchNorm2d`: they normalise by their running statistics and leave
 * them alone, also after `train()`, and γ and β get no gradients; gradients of the input pass. For fine-tuning with small
 * batches, say. `foldBatchNorm` takes them in training, too. `freezeBatchNorm(model, false)` undoes it. Returns the model.
 * @throws UsageError for a batch-norm without running statistics
 */
export function freezeBatchNorm<T extends Module>(model: T, frozen = true): T {
  checkInstance("freezeBatchNorm", "model", model, Module);
  checkFlag("freezeBatchNorm", "frozen", frozen);
  const norms = [...model.modules()].filter(([, module]) => module instanceof BatchNorm2d);
  for (const [name, norm] of norms as [string, BatchNorm2d][]) {
    if (norm.runningMean) continue;
    throw new UsageError(
      `freezeBatchNorm: ${name || "the module"} has no running statistics; expected trackRunningStats: true`,
    );
  }
  for (const [, norm] of norms as [string, BatchNorm2d][]) {
    norm.frozen = frozen;
    norm.freeze(frozen);
  }
  return model;
}
