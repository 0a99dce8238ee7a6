// Layers that make maps smaller or larger.

import { adaptiveAvgPool2d, checkOutputSize, type OutputSize } from "../ops/adaptive-pool2d.ts";
import { checkInterpolate, type InterpolateOptions, interpolate } from "../ops/interpolate.ts";
import {
  type AvgPool2dOptions,
  avgPool2d,
  checkPool2d,
  globalAvgPool2d,
  type MaxPool2dOptions,
  maxPool2d,
} from "../ops/pool2d.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "./module.ts";

/** [N, H, W, C] → [N, P, Q, C], the maximum of each window; options and defaults as PyTorch's, see `maxPool2d`. */
export class MaxPool2d extends Module {
  constructor(
    private readonly kernelSize: number | readonly [number, number],
    private readonly options: MaxPool2dOptions = {},
  ) {
    super();
    checkPool2d("MaxPool2d", kernelSize, options, false);
  }
  forward(x: Tensor): Tensor {
    return maxPool2d(x, this.kernelSize, this.options);
  }
}

/** [N, H, W, C] → [N, P, Q, C], the mean of each window; options and defaults as PyTorch's, see `avgPool2d`. */
export class AvgPool2d extends Module {
  constructor(
    private readonly kernelSize: number | readonly [number, number],
    private readonly options: AvgPool2dOptions = {},
  ) {
    super();
    checkPool2d("AvgPool2d", kernelSize, options, true);
  }
  forward(x: Tensor): Tensor {
    return avgPool2d(x, this.kernelSize, this.options);
  }
}

/** [N, H, W, C] → [N, P, Q, C] for an `outputSize` of [P, Q], whatever the size of the maps; see `adaptiveAvgPool2d`. */
export class AdaptiveAvgPool2d extends Module {
  constructor(private readonly outputSize: OutputSize) {
    super();
    checkOutputSize("AdaptiveAvgPool2d", outputSize);
  }
  forward(x: Tensor): Tensor {
    return adaptiveAvgPool2d(x, this.outputSize);
  }
}

/** [N, H, W, C] → [N, C]. */
export class GlobalAvgPool2d extends Module {
  forward(x: Tensor): Tensor {
    return globalAvgPool2d(x);
  }
}

/** Maps at another size, nearest or bilinear; see `interpolate`. */
export class Upsample extends Module {
  constructor(private readonly options: InterpolateOptions) {
    super();
    checkInterpolate("Upsample", options);
  }
  forward(x: Tensor): Tensor {
    return interpolate(x, this.options);
  }
}
