// Normalisations that treat each image by itself: the same in training and in inference, but for running statistics.

import { ShapeError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import { batchNorm } from "../ops/batch-norm/batch-norm.ts";
import { groupNorm } from "../ops/group-norm/group-norm.ts";
import { layerNorm } from "../ops/group-norm/layer-norm.ts";
import { checkFlag, checkInteger, checkNumber, checkOptions, optionNames, show } from "../options.ts";
import { checkGpu, checkTensor } from "../tensor/check.ts";
import { checkShape, formatShape, type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module, parameter } from "./module.ts";
import { moveToInstances, type RunningStatistics, resetRunning } from "./running-statistics.ts";

/** Options of the layer `GroupNorm`. */
export interface GroupNormOptions {
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Learn γ and β, one of each per channel. Default true. */
  affine?: boolean;
}

/** Those of `GroupNorm`, but that nothing is learned by default, as in PyTorch. */
export interface InstanceNorm2dOptions {
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Learn γ and β, one of each per channel. Default false. */
  affine?: boolean;
  /** Keep running statistics, of each image's own, and normalise by them in `eval`. Default false. */
  trackRunningStats?: boolean;
  /** Share of the new batch in the running statistics. Default 0.1. */
  momentum?: number;
}

/** Options of the layer `LayerNorm`. */
export interface LayerNormOptions {
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Learn γ and β, one of each per element. Default true. */
  elementwiseAffine?: boolean;
  /** With `elementwiseAffine`: learn β, too. Default true. */
  bias?: boolean;
}

const AFFINE_OPTIONS = optionNames<GroupNormOptions>({ eps: 0, affine: 0 });
const INSTANCE_OPTIONS = optionNames<InstanceNorm2dOptions>({
  ...{ eps: 0, affine: 0, trackRunningStats: 0, momentum: 0 },
});
const LAYER_OPTIONS = optionNames<LayerNormOptions>({ eps: 0, elementwiseAffine: 0, bias: 0 });

/** γ of ones or β of zeros; null where it is not learned. */
function learned(gpu: Gpu, learn: boolean, shape: Shape, value: number): Tensor | null {
  return learn ? parameter(gpu, new Float32Array(sizeOf(shape)).fill(value), shape) : null;
}

/** What both norms per channel check. */
function checkAffine(
  op: string,
  channels: number,
  gpu: Gpu,
  { eps = 1e-5, affine = true }: GroupNormOptions,
) {
  checkNumber(op, "eps", eps, 0);
  checkFlag(op, "affine", affine);
  gpu.checkSize(op, [channels], "float32", "weight");
}

/** Group normalisation over [N, H, W, C] or [N, C]; see `groupNorm`. γ starts at 1, β at 0. */
export class GroupNorm extends Module {
  weight: Tensor | null;
  bias: Tensor | null;
  readonly groups: number;
  readonly eps: number;

  constructor(gpu: Gpu, groups: number, channels: number, options: GroupNormOptions = {}) {
    super();
    checkGpu("GroupNorm", gpu);
    checkInteger("GroupNorm", "groups", groups, 1);
    checkInteger("GroupNorm", "channels", channels, 1);
    checkOptions("GroupNorm", options, AFFINE_OPTIONS);
    checkAffine("GroupNorm", channels, gpu, options);
    if (channels % groups !== 0) {
      throw new ShapeError(
        `GroupNorm: ${channels} channels in ${groups} groups; expected a number of groups that divides the channels`,
      );
    }
    const { eps = 1e-5, affine = true } = options;
    this.weight = learned(gpu, affine, [channels], 1);
    this.bias = learned(gpu, affine, [channels], 0);
    this.groups = groups;
    this.eps = eps;
  }

  forward(x: Tensor): Tensor {
    return this.under(x, () => groupNorm(x, this.groups, this.weight, this.bias, this.eps));
  }
}

/**
 * Each channel of each image normalised over its pixels (Ulyanov et al. 2016): a group norm of as many groups as channels. With
 * `trackRunningStats` by running statistics in inference.
 */
export class InstanceNorm2d extends Module {
  weight: Tensor | null;
  bias: Tensor | null;
  runningMean: Tensor | null;
  runningVar: Tensor | null;
  /** Stays 0, as PyTorch's. */
  numBatchesTracked: Tensor | null;
  readonly channels: number;
  readonly eps: number;
  readonly momentum: number;

  constructor(gpu: Gpu, channels: number, options: InstanceNorm2dOptions = {}) {
    super();
    checkGpu("InstanceNorm2d", gpu);
    checkInteger("InstanceNorm2d", "channels", channels, 1);
    checkOptions("InstanceNorm2d", options, INSTANCE_OPTIONS);
    checkAffine("InstanceNorm2d", channels, gpu, options);
    const { eps = 1e-5, affine = false, trackRunningStats = false, momentum = 0.1 } = options;
    checkFlag("InstanceNorm2d", "trackRunningStats", trackRunningStats);
    if (!(Number.isFinite(momentum) && momentum >= 0 && momentum <= 1)) {
      throw new ShapeError(`InstanceNorm2d: momentum is ${show(momentum)}; expected a number from 0 to 1`);
    }
    const tracked = (size: number, value: number) =>
      trackRunningStats ? gpu.keep(gpu.full([size], value)) : null;
    this.weight = learned(gpu, affine, [channels], 1);
    this.bias = learned(gpu, affine, [channels], 0);
    this.runningMean = tracked(channels, 0);
    this.runningVar = tracked(channels, 1);
    this.numBatchesTracked = tracked(1, 0);
    this.channels = channels;
    this.eps = eps;
    this.momentum = momentum;
  }

  /** Forgets all batches: running mean 0, variance 1. */
  resetRunningStats(): void {
    if (this.runningMean) resetRunning(this as RunningStatistics);
  }

  forward(x: Tensor): Tensor {
    checkTensor("InstanceNorm2d", "x", x, { shape: "[N, H, W, C]" });
    const [, height, width, channels] = x.shape;
    if (channels !== this.channels || height! * width! === 1) {
      throw new ShapeError(
        `InstanceNorm2d: x is ${formatShape(x.shape)}; expected [N, H, W, ${this.channels}] with more than one pixel`,
      );
    }
    const { weight, bias, eps, runningMean, runningVar } = this;
    return this.under(x, () => {
      if (runningMean && !this.training) {
        return batchNorm(x, weight, bias, { training: false, runningMean, runningVar, eps });
      }
      if (runningMean) moveToInstances(x, this as RunningStatistics, this.momentum);
      return groupNorm(x, this.channels, weight, bias, eps);
    });
  }
}

/** Layer normalisation over the last axes, of the sizes `normalizedShape`; see `layerNorm`. γ starts at 1, β at 0. */
export class LayerNorm extends Module {
  weight: Tensor | null;
  bias: Tensor | null;
  readonly normalizedShape: Shape;
  readonly eps: number;

  constructor(gpu: Gpu, normalizedShape: number | Shape, options: LayerNormOptions = {}) {
    super();
    checkGpu("LayerNorm", gpu);
    const shape = typeof normalizedShape === "number" ? [normalizedShape] : normalizedShape;
    checkShape("LayerNorm", shape, "normalizedShape");
    if (shape.length === 0) {
      throw new ShapeError("LayerNorm: normalizedShape is []; expected the size of at least one axis");
    }
    checkOptions("LayerNorm", options, LAYER_OPTIONS);
    const { eps = 1e-5, elementwiseAffine = true, bias = true } = options;
    checkNumber("LayerNorm", "eps", eps, 0);
    checkFlag("LayerNorm", "elementwiseAffine", elementwiseAffine);
    checkFlag("LayerNorm", "bias", bias);
    gpu.checkSize("LayerNorm", shape, "float32", "weight");
    this.weight = learned(gpu, elementwiseAffine, shape, 1);
    this.bias = learned(gpu, elementwiseAffine && bias, shape, 0);
    this.normalizedShape = [...shape];
    this.eps = eps;
  }

  forward(x: Tensor): Tensor {
    return this.under(x, () => layerNorm(x, this.normalizedShape, this.weight, this.bias, this.eps));
  }
}
