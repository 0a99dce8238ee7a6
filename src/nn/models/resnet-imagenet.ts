// ResNet-18, -34 and -50 with the names of torchvision (He et al. 2016; the strides of "v1.5", as there).

import type { Gpu } from "../../gpu.ts";
import { globalAvgPool2d, maxPool2d } from "../../ops/pool2d.ts";
import { checkTensor } from "../../tensor/check.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { BatchNorm2d, Conv2d, Linear } from "../layers.ts";
import { Module, type NormedLayer } from "../module.ts";
import { checkCount, type ImageKind, type ImageNetworkOptions, imageSettings } from "./image-options.ts";
import { chain, Layers, normAddActivate, normedBy } from "./parts.ts";

/** Options of `resnet18`, `resnet34` and `resnet50`. */
export interface ResNetOptions extends ImageNetworkOptions {
  /** Channels of the first stage, of which the next have two, four and eight times as many. Default 64. */
  width?: number;
}

/** A convolution without bias, padded so that stride 1 keeps the size. */
type MakeConv = (from: number, to: number, size: number, stride?: number) => Conv2d;
type MakeNorm = (channels: number) => BatchNorm2d;

/** How many times as many channels the last convolution of a bottleneck has. */
const EXPANSION = 4;

/**
 * relu(bn(conv(… relu(bn(conv(x))) …)) + downsample(x)): two 3×3 convolutions; or, as a bottleneck, 1×1, 3×3 and 1×1 to four times
 * as many channels.
 */
class ResidualBlock extends Module {
  readonly conv1: Conv2d;
  bn1: BatchNorm2d | null;
  readonly conv2: Conv2d;
  bn2: BatchNorm2d | null;
  readonly conv3: Conv2d | null;
  bn3: BatchNorm2d | null;
  readonly downsample: Layers | null;

  constructor(
    conv: MakeConv,
    norm: MakeNorm,
    { from, width, stride, bottleneck }: { from: number; width: number; stride: number; bottleneck: boolean },
  ) {
    super();
    const to = bottleneck ? EXPANSION * width : width;
    this.conv1 = bottleneck ? conv(from, width, 1) : conv(from, width, 3, stride);
    this.bn1 = norm(width);
    this.conv2 = conv(width, width, 3, bottleneck ? stride : 1);
    this.bn2 = norm(width);
    this.conv3 = bottleneck ? conv(width, to, 1) : null;
    this.bn3 = bottleneck ? norm(to) : null;
    this.downsample = stride !== 1 || from !== to ? new Layers(conv(from, to, 1, stride), norm(to)) : null;
  }

  override normedLayers(): NormedLayer[] {
    const { conv1, bn1, conv2, bn2, conv3, bn3 } = this;
    return [
      ...normedBy(conv1, bn1, () => {
        this.bn1 = null;
      }),
      ...normedBy(conv2, bn2, () => {
        this.bn2 = null;
      }),
      ...(conv3
        ? normedBy(conv3, bn3, () => {
            this.bn3 = null;
          })
        : []),
    ];
  }

  forward(x: Tensor): Tensor {
    const { conv1, bn1, conv2, bn2, conv3, bn3, downsample } = this;
    const middle = chain(
      x,
      (y) => conv1.forward(y),
      (y) => normAddActivate(bn1, y, { activation: "relu" }),
      (y) => conv2.forward(y),
      conv3 && ((y) => normAddActivate(bn2, y, { activation: "relu" })),
      conv3 && ((y) => conv3.forward(y)),
    );
    // Behind the first convolution, so that in backward its gradient is the last that x gets.
    const residual = downsample ? downsample.forward(x) : x;
    const out = normAddActivate(conv3 ? bn3 : bn2, middle, { activation: "relu", residual });
    middle.dispose();
    if (residual !== x) residual.dispose();
    return out;
  }
}

/** A residual network of four stages. Made by `resnet18`, `resnet34` and `resnet50`. */
export class ResNet extends Module {
  readonly conv1: Conv2d;
  bn1: BatchNorm2d | null;
  readonly layer1: readonly ResidualBlock[];
  readonly layer2: readonly ResidualBlock[];
  readonly layer3: readonly ResidualBlock[];
  readonly layer4: readonly ResidualBlock[];
  /** May be replaced by one of other classes; make the optimizer after it. */
  fc: Linear;
  readonly images: ImageKind;

  constructor(op: string, gpu: Gpu, options: ResNetOptions, blocks: readonly number[], bottleneck: boolean) {
    super();
    const settings = imageSettings(op, gpu, options, ["width"]);
    const { images, classes, inChannels, init, classifierInit, batchNorm, random } = settings;
    const { width = 64 } = options;
    checkCount(op, "width", width);
    const widest = bottleneck ? [8 * width, 1, 1, 32 * width] : [8 * width, 3, 3, 8 * width];
    for (const weight of [widest, [width, 7, 7, inChannels], [classes, 32 * width]]) {
      gpu.checkSize(op, weight, "float32", "a weight");
    }
    const conv: MakeConv = (from, to, size, stride = 1) =>
      new Conv2d(gpu, from, to, size, { stride, padding: (size - 1) / 2, bias: false, init, random });
    const norm: MakeNorm = (channels) => new BatchNorm2d(gpu, channels, batchNorm);
    let channels = width;
    const stage = (i: number) =>
      Array.from({ length: blocks[i]! }, (_, j) => {
        const block = { from: channels, width: width * 2 ** i, stride: i > 0 && j === 0 ? 2 : 1, bottleneck };
        channels = block.width * (bottleneck ? EXPANSION : 1);
        return new ResidualBlock(conv, norm, block);
      });
    this.images = images;
    this.conv1 = images === "imagenet" ? conv(inChannels, width, 7, 2) : conv(inChannels, width, 3);
    this.bn1 = norm(width);
    this.layer1 = stage(0);
    this.layer2 = stage(1);
    this.layer3 = stage(2);
    this.layer4 = stage(3);
    this.fc = new Linear(gpu, channels, classes, { init: classifierInit, random });
    this.namePaths();
  }

  override normedLayers(): NormedLayer[] {
    return normedBy(this.conv1, this.bn1, () => {
      this.bn1 = null;
    });
  }

  /** [N, H, W, inChannels] → logits [N, classes]. */
  forward(x: Tensor): Tensor {
    checkTensor("ResNet", "x", x, { shape: "[N, H, W, C]" });
    const blocks = [...this.layer1, ...this.layer2, ...this.layer3, ...this.layer4];
    return chain(
      x,
      (y) => this.conv1.forward(y),
      (y) => normAddActivate(this.bn1, y, { activation: "relu" }),
      this.images === "imagenet" ? (y) => maxPool2d(y, 3, { stride: 2, padding: 1 }) : null,
      ...blocks.map((block) => (y: Tensor) => block.forward(y)),
      (y) => globalAvgPool2d(y),
      (y) => this.fc.forward(y),
    );
  }
}

/**
 * ResNet-18 (He et al. 2016): parameters and names of torchvision's. For `images: "cifar"` the first convolution is 3×3 of
 * stride 1, without the pooling after it.
 */
export function resnet18(gpu: Gpu, options: ResNetOptions = {}): ResNet {
  return new ResNet("resnet18", gpu, options, [2, 2, 2, 2], false);
}

/** ResNet-34; see `resnet18`. */
export function resnet34(gpu: Gpu, options: ResNetOptions = {}): ResNet {
  return new ResNet("resnet34", gpu, options, [3, 4, 6, 3], false);
}

/** ResNet-50, of bottlenecks whose 3×3 convolution has the stride; see `resnet18`. */
export function resnet50(gpu: Gpu, options: ResNetOptions = {}): ResNet {
  return new ResNet("resnet50", gpu, options, [3, 4, 6, 3], true);
}
