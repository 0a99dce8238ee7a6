// MobileNetV2 with the names of torchvision (Sandler et al. 2018, table 2).

import { UsageError } from "../../errors.ts";
import type { Gpu } from "../../gpu.ts";
import { checkProbability } from "../../ops/dropout.ts";
import { add } from "../../ops/elementwise/elementwise.ts";
import { globalAvgPool2d } from "../../ops/pool2d.ts";
import { show } from "../../options.ts";
import { checkTensor } from "../../tensor/check.ts";
import { Random } from "../../tensor/random.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { Dropout } from "../dropout.ts";
import { BatchNorm2d, Conv2d, Identity, Linear, ReLU6 } from "../layers.ts";
import { Module } from "../module.ts";
import { type ImageNetworkOptions, imageSettings } from "./image-options.ts";
import { chain, Layers } from "./parts.ts";

/** Options of `mobilenetV2`. */
export interface MobileNetV2Options extends ImageNetworkOptions {
  /** What the numbers of channels are multiplied by, then rounded to multiples of 8. Default 1. */
  widthMult?: number;
  /** Probability of the dropout before the classifier. torchvision's is 0.2. Default 0. */
  dropout?: number;
}

/** Expansion, channels, blocks, stride of the first of them. */
const STAGES = [
  [1, 16, 1, 1],
  [6, 24, 2, 2],
  [6, 32, 3, 2],
  [6, 64, 4, 2],
  [6, 96, 3, 1],
  [6, 160, 3, 2],
  [6, 320, 1, 1],
] as const;

const STEM = 32;
const LAST = 1280;

/** The nearest multiple of 8, but at least 8, and not below 90 % of `channels`. */
function rounded(channels: number): number {
  const nearest = Math.max(8, Math.floor((channels + 4) / 8) * 8);
  return nearest < 0.9 * channels ? nearest + 8 : nearest;
}

interface Make {
  conv(from: number, to: number, size: number, options?: { stride?: number; groups?: number }): Conv2d;
  norm(channels: number): BatchNorm2d;
}

/** Convolution, batch-norm, ReLU6. */
function convNormRelu6(
  make: Make,
  from: number,
  to: number,
  size: number,
  options: { stride?: number; groups?: number } = {},
): Layers {
  return new Layers(make.conv(from, to, size, options), make.norm(to), new ReLU6());
}

/** 1×1 to `expansion` times the channels, 3×3 in each channel by itself, 1×1 down, and x added where it has that shape. */
class InvertedResidual extends Module {
  readonly conv: Layers;
  private readonly residual: boolean;

  constructor(
    make: Make,
    { from, to, stride, expansion }: { from: number; to: number; stride: number; expansion: number },
  ) {
    super();
    const hidden = from * expansion;
    this.conv = new Layers(
      ...(expansion === 1 ? [] : [convNormRelu6(make, from, hidden, 1)]),
      convNormRelu6(make, hidden, hidden, 3, { stride, groups: hidden }),
      make.conv(hidden, to, 1),
      make.norm(to),
    );
    this.residual = stride === 1 && from === to;
  }

  forward(x: Tensor): Tensor {
    return chain(x, (y) => this.conv.forward(y), this.residual ? (y) => add(y, x) : null);
  }
}

/** Made by `mobilenetV2`. */
export class MobileNetV2 extends Module {
  readonly features: Layers;
  readonly classifier: Layers;

  constructor(op: string, gpu: Gpu, options: MobileNetV2Options) {
    super();
    const settings = imageSettings(op, gpu, options, ["widthMult", "dropout"]);
    const { images, classes, inChannels, init, classifierInit, batchNorm, seed, random } = settings;
    const { widthMult = 1, dropout = 0 } = options;
    if (!(Number.isFinite(widthMult) && widthMult > 0 && widthMult <= 64)) {
      throw new UsageError(`${op}: widthMult is ${show(widthMult)}; expected a number above 0, at most 64`);
    }
    checkProbability(op, "dropout", dropout);
    const last = rounded(LAST * Math.max(1, widthMult));
    for (const weight of [
      [last, 1, 1, rounded(320 * widthMult)],
      [rounded(STEM * widthMult), 3, 3, inChannels],
      [classes, last],
    ]) {
      gpu.checkSize(op, weight, "float32", "a weight");
    }
    const make: Make = {
      conv: (from, to, size, { stride = 1, groups = 1 } = {}) =>
        new Conv2d(gpu, from, to, size, {
          ...{ stride, groups, padding: (size - 1) / 2, bias: false, init, random },
        }),
      norm: (channels) => new BatchNorm2d(gpu, channels, batchNorm),
    };
    const strideOf = (stride: number, stage: number) => (images === "cifar" && stage <= 1 ? 1 : stride);
    let channels = rounded(STEM * widthMult);
    const features: Module[] = [convNormRelu6(make, inChannels, channels, 3, { stride: strideOf(2, 0) })];
    for (const [stage, [expansion, width, blocks, stride]] of STAGES.entries()) {
      const to = rounded(width * widthMult);
      for (let i = 0; i < blocks; i += 1) {
        const step = i === 0 ? strideOf(stride, stage) : 1;
        features.push(new InvertedResidual(make, { from: channels, to, stride: step, expansion }));
        channels = to;
      }
    }
    features.push(convNormRelu6(make, channels, last, 1));
    this.features = new Layers(...features);
    const drops = new Random(seed).fork("dropout");
    this.classifier = new Layers(
      dropout > 0 ? new Dropout(gpu, dropout, { random: drops }) : new Identity(),
      new Linear(gpu, last, classes, { init: classifierInit, random }),
    );
    this.namePaths();
  }

  /** [N, H, W, inChannels] → logits [N, classes]. */
  forward(x: Tensor): Tensor {
    checkTensor("MobileNetV2", "x", x, { shape: "[N, H, W, C]" });
    return chain(
      x,
      (y) => this.features.forward(y),
      (y) => globalAvgPool2d(y),
      (y) => this.classifier.forward(y),
    );
  }
}

/**
 * MobileNetV2 (Sandler et al. 2018): parameters and names of torchvision's; dropout if asked for. For `images: "cifar"` the first
 * convolution and the first stage that would halve the map keep its size.
 */
export function mobilenetV2(gpu: Gpu, options: MobileNetV2Options = {}): MobileNetV2 {
  return new MobileNetV2("mobilenetV2", gpu, options);
}
