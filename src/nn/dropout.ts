// Layers that drop by chance in training, and do nothing in inference.

import type { Gpu } from "../gpu.ts";
import {
  checkMode,
  checkProbability,
  dropout,
  dropout2d,
  type StochasticDepthMode,
  stochasticDepth,
} from "../ops/dropout.ts";
import { checkInstance, checkOptions, optionNames } from "../options.ts";
import { checkGpu } from "../tensor/check.ts";
import { newGenerator } from "../tensor/generator.ts";
import { Random } from "../tensor/random.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { sharedRandom } from "./init.ts";
import { Module } from "./module.ts";

/** Options of the layers `Dropout`, `Dropout2d` and `StochasticDepth`. */
export interface DropoutLayerOptions {
  /** Where the seed of the layer's generator is from. Default: the generator of all layers' weights, see `manualSeed`. */
  random?: Random;
}

const OPTIONS = optionNames<DropoutLayerOptions>({ random: 0 });

/** What the layers share: p, and a generator of their own, which is part of `stateDict()`, so that training goes on exactly. */
abstract class DropLayer extends Module {
  /** See `newGenerator`; uint32 [4]. */
  generator: Tensor;

  protected constructor(
    op: string,
    gpu: Gpu,
    readonly p: number,
    options: DropoutLayerOptions,
  ) {
    super();
    checkGpu(op, gpu);
    checkProbability(op, "p", p);
    checkOptions(op, options, OPTIONS);
    const { random = sharedRandom() } = options;
    checkInstance(op, "random", random, Random);
    const seed = random.uint32() + 2 ** 32 * (random.uint32() >>> 11);
    this.generator = gpu.keep(newGenerator(gpu, seed));
  }
}

/** See `dropout`. */
export class Dropout extends DropLayer {
  constructor(gpu: Gpu, p = 0.5, options: DropoutLayerOptions = {}) {
    super("Dropout", gpu, p, options);
  }
  forward(x: Tensor): Tensor {
    const { p, training } = this;
    return this.under(x, () => dropout(x, this.generator, { p, training }));
  }
}

/** See `dropout2d`. */
export class Dropout2d extends DropLayer {
  constructor(gpu: Gpu, p = 0.5, options: DropoutLayerOptions = {}) {
    super("Dropout2d", gpu, p, options);
  }
  forward(x: Tensor): Tensor {
    const { p, training } = this;
    return this.under(x, () => dropout2d(x, this.generator, { p, training }));
  }
}

/** See `stochasticDepth`. */
export class StochasticDepth extends DropLayer {
  readonly mode: StochasticDepthMode;

  constructor(gpu: Gpu, p: number, mode: StochasticDepthMode, options: DropoutLayerOptions = {}) {
    checkMode("StochasticDepth", mode);
    super("StochasticDepth", gpu, p, options);
    this.mode = mode;
  }
  forward(x: Tensor): Tensor {
    const { p, mode, training } = this;
    return this.under(x, () => stochasticDepth(x, this.generator, { p, mode, training }));
  }
}
