import { ShapeError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import {
  type ConvTranspose2dOptions,
  checkConvTranspose2d,
  convTranspose2d,
} from "../ops/conv-transpose2d.ts";
import { type Conv2dOptions, checkConv2d, conv2d } from "../ops/conv2d/conv2d.ts";
import { linear } from "../ops/linear.ts";
import { flatten } from "../ops/reshape.ts";
import {
  checkFlag,
  checkInstance,
  checkInteger,
  checkNumber,
  checkOptions,
  optionNames,
  show,
} from "../options.ts";
import { ANY, checkGpu, checkTensor } from "../tensor/check.ts";
import { Random } from "../tensor/random.ts";
import { type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { ActivationLayer } from "./activations.ts";
import { BatchNorm2d } from "./batch-norm.ts";
import { checkInit, type Init, initWeights, sharedRandom } from "./init.ts";
import { Module, type NormedLayer, parameter } from "./module.ts";
import { isHooked } from "./module-state.ts";
import type { Parametrizations } from "./weight-norm.ts";

export {
  GELU,
  Hardswish,
  LeakyReLU,
  LogSoftmax,
  ReLU,
  ReLU6,
  Sigmoid,
  SiLU,
  Softmax,
  Softplus,
  Tanh,
} from "./activations.ts";
export { BatchNorm2d, type BatchNorm2dOptions, checkBatchNorm2d } from "./batch-norm.ts";
export { AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d, Upsample } from "./pools.ts";

/** Where initial weights come from. */
export interface InitOptions {
  /** Default `he`. */
  init?: Init;
  /** What initial weights are multiplied by. Default 1. */
  gain?: number;
  /** Default: one generator for all layers, seeded by `manualSeed`. Give a network its own to make it repeatable by itself. */
  random?: Random;
}

/** Of `Conv2d`: how it convolves, whether it has a bias, and where its initial weights come from. */
export interface Conv2dLayerOptions extends Omit<Conv2dOptions, "bias">, InitOptions {
  /** Default true. */
  bias?: boolean;
}

const INIT_OPTIONS: { [K in keyof InitOptions]-?: 0 } = { init: 0, gain: 0, random: 0 };
const LINEAR_OPTIONS = optionNames<InitOptions & { bias?: boolean }>({ bias: 0, ...INIT_OPTIONS });
const CONV2D_OPTIONS = optionNames<Conv2dLayerOptions>({
  ...{ bias: 0, stride: 0, padding: 0, dilation: 0, groups: 0 },
  ...INIT_OPTIONS,
});

function checkInitOptions(
  layer: string,
  { bias, init, gain, random }: { bias: boolean; init: Init; gain: number; random: Random },
) {
  checkFlag(layer, "bias", bias);
  checkInit(layer, init);
  checkNumber(layer, "gain", gain);
  checkInstance(layer, "random", random, Random);
}

/** @throws ShapeError unless both numbers of channels fit `groups`, and the filter has a size; gives that size. */
function checkFilter(
  layer: string,
  channels: { inChannels: number; outChannels: number },
  kernelSize: unknown,
  groups: number,
): readonly [number, number] {
  const [r, s, ...more]: readonly unknown[] = Array.isArray(kernelSize)
    ? kernelSize
    : [kernelSize, kernelSize];
  const { inChannels, outChannels } = channels;
  for (const [name, value] of Object.entries(channels)) checkInteger(layer, name, value, 1);
  if (more.length > 0 || ![r, s].every((size) => Number.isSafeInteger(size) && (size as number) >= 1)) {
    throw new ShapeError(
      `${layer}: kernelSize is ${show(kernelSize)}; expected a positive integer, or [vertical, horizontal]`,
    );
  }
  if (inChannels % groups !== 0 || outChannels % groups !== 0) {
    throw new ShapeError(
      `${layer}: ${inChannels} input and ${outChannels} output channels in ${groups} groups; expected both to be multiples of groups`,
    );
  }
  return [r as number, s as number];
}

/** A layer whose weight may be worked out of other parameters; see `weightNorm`. */
abstract class WeightLayer extends Module {
  weight!: Tensor;
  /** What `weight` is worked out of each time that it is asked for, under PyTorch's names; null where it is a parameter. */
  parametrizations: Parametrizations | null = null;

  /** Without working the weight out. */
  get weightShape(): Shape {
    return this.parametrizations?.weight.original1.shape ?? this.weight.shape;
  }

  /** Each element of the output is a sum of as many products as a filter has weights. */
  override flop(_input: Shape, output: Shape): number {
    return 2 * sizeOf(output) * sizeOf(this.weightShape.slice(1));
  }

  /** `fn` of this layer's weight. */
  protected weighted(x: Tensor, fn: (weight: Tensor) => Tensor): Tensor {
    return this.under(x, () => {
      const { weight } = this;
      const y = fn(weight);
      if (this.parametrizations) weight.dispose();
      return y;
    });
  }
}

/** 2-D convolution, [N, H, W, inChannels] → [N, P, Q, outChannels]; see `conv2d`. Biases start at 0. */
export class Conv2d extends WeightLayer {
  bias: Tensor | null;
  readonly options: Omit<Conv2dOptions, "bias">;

  constructor(
    gpu: Gpu,
    inChannels: number,
    outChannels: number,
    kernelSize: number | readonly [number, number],
    options: Conv2dLayerOptions = {},
  ) {
    super();
    checkGpu("Conv2d", gpu);
    checkOptions("Conv2d", options, CONV2D_OPTIONS);
    const { bias = true, init = "he", gain = 1, random = sharedRandom(), ...convOptions } = options;
    checkInitOptions("Conv2d", { bias, init, gain, random });
    checkConv2d("Conv2d", convOptions);
    const groups = convOptions.groups ?? 1;
    const [r, s] = checkFilter("Conv2d", { inChannels, outChannels }, kernelSize, groups);
    const shape = [outChannels, r, s, inChannels / groups];
    gpu.checkSize("Conv2d", shape, "float32", "weight");
    this.weight = parameter(gpu, initWeights(shape, init, random, gain), shape);
    this.bias = bias ? parameter(gpu, new Float32Array(outChannels), [outChannels]) : null;
    this.options = convOptions;
  }

  forward(x: Tensor): Tensor {
    return this.weighted(x, (weight) => conv2d(x, weight, { ...this.options, bias: this.bias }));
  }
}

/** Options of the layer `ConvTranspose2d`; names and defaults are PyTorch's. */
export interface ConvTranspose2dLayerOptions extends Omit<ConvTranspose2dOptions, "bias">, InitOptions {
  /** Default true. */
  bias?: boolean;
}

const CONV_TRANSPOSE2D_OPTIONS = optionNames<ConvTranspose2dLayerOptions>({
  ...{ bias: 0, stride: 0, padding: 0, outputPadding: 0, dilation: 0, groups: 0 },
  ...INIT_OPTIONS,
});

/**
 * 2-D transposed convolution, [N, H, W, inChannels] → [N, P, Q, outChannels]; see `convTranspose2d`. Biases start at 0; weights
 * [inChannels, R, S, outChannels / groups] as those of a convolution in the other direction, as in PyTorch.
 */
export class ConvTranspose2d extends WeightLayer {
  bias: Tensor | null;
  readonly options: Omit<ConvTranspose2dOptions, "bias">;

  constructor(
    gpu: Gpu,
    inChannels: number,
    outChannels: number,
    kernelSize: number | readonly [number, number],
    options: ConvTranspose2dLayerOptions = {},
  ) {
    super();
    checkGpu("ConvTranspose2d", gpu);
    checkOptions("ConvTranspose2d", options, CONV_TRANSPOSE2D_OPTIONS);
    const { bias = true, init = "he", gain = 1, random = sharedRandom(), ...convOptions } = options;
    checkInitOptions("ConvTranspose2d", { bias, init, gain, random });
    checkConvTranspose2d("ConvTranspose2d", convOptions);
    const groups = convOptions.groups ?? 1;
    const [r, s] = checkFilter("ConvTranspose2d", { inChannels, outChannels }, kernelSize, groups);
    const shape = [inChannels, r, s, outChannels / groups];
    gpu.checkSize("ConvTranspose2d", shape, "float32", "weight");
    this.weight = parameter(gpu, initWeights(shape, init, random, gain), shape);
    this.bias = bias ? parameter(gpu, new Float32Array(outChannels), [outChannels]) : null;
    this.options = convOptions;
  }

  /** Each element of the input is multiplied by a filter. */
  override flop(input: Shape, _output: Shape): number {
    return 2 * sizeOf(input) * sizeOf(this.weightShape.slice(1));
  }

  forward(x: Tensor): Tensor {
    return this.weighted(x, (weight) => convTranspose2d(x, weight, { ...this.options, bias: this.bias }));
  }
}

/** Fully connected: [N, inFeatures] → [N, outFeatures]. */
export class Linear extends WeightLayer {
  bias: Tensor | null;

  constructor(
    gpu: Gpu,
    inFeatures: number,
    outFeatures: number,
    options: InitOptions & { bias?: boolean } = {},
  ) {
    super();
    checkGpu("Linear", gpu);
    checkOptions("Linear", options, LINEAR_OPTIONS);
    checkInteger("Linear", "inFeatures", inFeatures, 1);
    checkInteger("Linear", "outFeatures", outFeatures, 1);
    const { bias = true, init = "he", gain = 1, random = sharedRandom() } = options;
    checkInitOptions("Linear", { bias, init, gain, random });
    const shape = [outFeatures, inFeatures];
    gpu.checkSize("Linear", shape, "float32", "weight");
    this.weight = parameter(gpu, initWeights(shape, init, random, gain), shape);
    this.bias = bias ? parameter(gpu, new Float32Array(outFeatures), [outFeatures]) : null;
  }

  get inFeatures(): number {
    return this.weight.shape[1]!;
  }

  get outFeatures(): number {
    return this.weight.shape[0]!;
  }

  forward(x: Tensor): Tensor {
    return this.weighted(x, (weight) => linear(x, weight, this.bias));
  }
}

/** Gives x itself: a place where other networks have a layer. */
export class Identity extends Module {
  forward(x: Tensor): Tensor {
    checkTensor("Identity", "x", x, { dtypes: ANY });
    return x;
  }
}

/** [N, …] → [N, product]. */
export class Flatten extends Module {
  forward(x: Tensor): Tensor {
    return flatten(x);
  }
}

/**
 * Layers one after the other. A `BatchNorm2d` with an activation after it runs as one fused op. Intermediate results are
 * given back as soon as only the graph needs them.
 */
export class Sequential<L extends Module[] = Module[]> extends Module {
  readonly layers: L;

  constructor(...layers: L) {
    super();
    for (const [i, layer] of layers.entries()) checkInstance("Sequential", `layer ${i}`, layer, Module);
    this.layers = layers;
    this.namePaths();
  }

  override *normedLayers(): Iterable<NormedLayer> {
    const layers: Module[] = this.layers;
    for (const [i, layer] of layers.entries()) {
      const norm = layers[i + 1];
      const folds = layer instanceof Conv2d || layer instanceof ConvTranspose2d || layer instanceof Linear;
      if (!folds || !(norm instanceof BatchNorm2d)) continue;
      const remove = () => {
        layers[i + 1] = new Identity();
        layers[i + 1]!.path = norm.path;
      };
      yield { layer, norm, remove };
    }
  }

  forward(x: Tensor): Tensor {
    checkTensor("Sequential", "x", x, { dtypes: ANY });
    let y = x;
    for (let i = 0; i < this.layers.length; i += 1) {
      const layer = this.layers[i]!;
      const after = this.layers[i + 1];
      const fuse =
        layer instanceof BatchNorm2d &&
        after instanceof ActivationLayer &&
        !isHooked(layer) &&
        !isHooked(after);
      const next = fuse ? layer.forward(y, { activation: after.activation }) : layer.forward(y);
      if (fuse) i += 1;
      if (y !== x && next !== y) y.dispose();
      y = next;
    }
    return y;
  }
}
