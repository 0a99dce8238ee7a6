// VGG-11, -13 and -16 with the names of torchvision (Simonyan & Zisserman 2015, table 1: A, B and D).

import { ShapeError } from "../../errors.ts";
import type { Gpu } from "../../gpu.ts";
import { checkProbability } from "../../ops/dropout.ts";
import { globalAvgPool2d } from "../../ops/pool2d.ts";
import { flatten } from "../../ops/reshape.ts";
import { checkChoice } from "../../options.ts";
import { checkTensor } from "../../tensor/check.ts";
import { Random } from "../../tensor/random.ts";
import { formatShape } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { Dropout } from "../dropout.ts";
import { BatchNorm2d, Conv2d, Identity, Linear, MaxPool2d, ReLU } from "../layers.ts";
import { Module } from "../module.ts";
import { checkCount, type ImageKind, type ImageNetworkOptions, imageSettings } from "./image-options.ts";
import { chain, Layers } from "./parts.ts";

/** Options of `vgg11`, `vgg13` and `vgg16`. */
export interface VGGOptions extends ImageNetworkOptions {
  /** Batch-norm after each convolution, or none. Default `none`. */
  norm?: "batch" | "none";
  /** Channels of the first stage; the others have 2, 4, 8 and 8 times as many, hidden layers of the classifier 64 times. Default 64. */
  width?: number;
  /** Probability of the dropout after each hidden layer of the classifier, which `cifar` has none of. torchvision's is 0.5. Default 0. */
  dropout?: number;
}

/** Pixels of the last maps of an image of 224×224, along one side. */
const LAST_SIDE = 7;

/** Convolutions, pools, and a classifier of three layers (`imagenet`) or one (`cifar`). Made by `vgg11`, `vgg13` and `vgg16`. */
export class VGG extends Module {
  readonly features: Layers;
  readonly classifier: Layers;
  readonly images: ImageKind;

  /** @param convolutions of each stage */
  constructor(op: string, gpu: Gpu, options: VGGOptions, convolutions: readonly number[]) {
    super();
    const settings = imageSettings(op, gpu, options, ["norm", "width", "dropout"]);
    const { images, classes, inChannels, init, classifierInit, batchNorm, seed, random } = settings;
    const { norm = "none", width = 64, dropout = 0 } = options;
    checkChoice(op, "norm", norm, ["batch", "none"]);
    checkCount(op, "width", width);
    checkProbability(op, "dropout", dropout);
    const [last, hidden] = [8 * width, 64 * width];
    const side = images === "imagenet" ? [LAST_SIDE ** 2 * last, hidden] : [last];
    for (const weight of [
      ...[
        [last, 3, 3, last],
        [width, 3, 3, inChannels],
        [classes, side.at(-1)!],
      ],
      ...(images === "imagenet" ? [side] : []),
    ]) {
      gpu.checkSize(op, weight, "float32", "a weight");
    }
    const features: Module[] = [];
    let channels = inChannels;
    for (const [stage, count] of convolutions.entries()) {
      const to = width * Math.min(8, 2 ** stage);
      for (let i = 0; i < count; i += 1) {
        features.push(new Conv2d(gpu, channels, to, 3, { padding: 1, init, random }));
        if (norm === "batch") features.push(new BatchNorm2d(gpu, to, batchNorm));
        features.push(new ReLU());
        channels = to;
      }
      features.push(new MaxPool2d(2));
    }
    const drops = new Random(seed).fork("dropout");
    const dense = (from: number) => [
      new Linear(gpu, from, hidden, { init, random }),
      new ReLU(),
      dropout > 0 ? new Dropout(gpu, dropout, { random: drops }) : new Identity(),
    ];
    const before = images === "imagenet" ? [...dense(side[0]!), ...dense(hidden)] : [];
    this.images = images;
    this.features = new Layers(...features);
    this.classifier = new Layers(
      ...before,
      new Linear(gpu, side.at(-1)!, classes, { init: classifierInit, random }),
    );
    this.namePaths();
  }

  /** [N, H, W, inChannels] → logits [N, classes]; of `imagenet` H = W = 224. */
  forward(x: Tensor): Tensor {
    checkTensor("VGG", "x", x, { shape: "[N, H, W, C]" });
    return chain(
      x,
      (y) => this.features.forward(y),
      (y) => this.pooled(x, y),
      (y) => this.classifier.forward(y),
    );
  }

  private pooled(x: Tensor, maps: Tensor): Tensor {
    if (this.images === "cifar") return globalAvgPool2d(maps);
    const [, height, width] = maps.shape;
    if (height !== LAST_SIDE || width !== LAST_SIDE) {
      throw new ShapeError(
        `VGG: x is ${formatShape(x.shape)}, the last maps ${formatShape(maps.shape)}; expected maps of ${LAST_SIDE}×${LAST_SIDE}, from images ` +
          'of 224×224 pixels (for smaller ones make the network with images: "cifar")',
      );
    }
    return flatten(maps);
  }
}

/**
 * VGG-11 (Simonyan & Zisserman 2015, table 1, A): parameters and names of torchvision's `vgg11`, or `vgg11_bn` with
 * `norm: "batch"`; dropout if asked for. For `images: "cifar"` the classifier is one layer, of the mean over the last maps.
 */
export function vgg11(gpu: Gpu, options: VGGOptions = {}): VGG {
  return new VGG("vgg11", gpu, options, [1, 1, 2, 2, 2]);
}

/** VGG-13, table 1, B; see `vgg11`. */
export function vgg13(gpu: Gpu, options: VGGOptions = {}): VGG {
  return new VGG("vgg13", gpu, options, [2, 2, 2, 2, 2]);
}

/** VGG-16, table 1, D; see `vgg11`. */
export function vgg16(gpu: Gpu, options: VGGOptions = {}): VGG {
  return new VGG("vgg16", gpu, options, [2, 2, 3, 3, 3]);
}
