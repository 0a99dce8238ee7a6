// The options that the networks of torchvision share here.

import { UsageError } from "../../errors.ts";
import type { Gpu } from "../../gpu.ts";
import { checkChoice, checkOptions, optionNames, show } from "../../options.ts";
import { checkGpu } from "../../tensor/check.ts";
import { checkSeed, Random, type Seed } from "../../tensor/random.ts";
import { checkInit, type Init } from "../init.ts";
import { type BatchNorm2dOptions, checkBatchNorm2d } from "../layers.ts";

/** What a network is made for: images of 224×224 pixels, or of 32×32. */
export type ImageKind = "imagenet" | "cifar";

/** Options that all networks for images of torchvision's kind take. */
export interface ImageNetworkOptions {
  /** Default `imagenet`: the network of torchvision. */
  images?: ImageKind;
  /** Default 1000, or 10 for `cifar`. */
  classes?: number;
  /** Default 3. */
  inChannels?: number;
  /** Of the weights of all layers but the classifier. Default `he`. */
  init?: Init;
  /** Of the classifier's weights. Default `fan_in`, as PyTorch's layers. */
  classifierInit?: Init;
  seed?: Seed;
  batchNorm?: BatchNorm2dOptions;
}

const NAMES = optionNames<ImageNetworkOptions>({
  ...{ images: 0, classes: 0, inChannels: 0, init: 0, classifierInit: 0, seed: 0, batchNorm: 0 },
});

/** More channels than any layer has, few enough that their product is a number. */
const MOST = 2 ** 24;

/**
 * The options with their defaults, and the generator of the weights.
 * @param ownNames options that the network has beside these, and checks itself
 * @throws UsageError, ShapeError
 */
export function imageSettings(
  op: string,
  gpu: Gpu,
  options: ImageNetworkOptions,
  ownNames: readonly string[] = [],
): Required<ImageNetworkOptions> & { random: Random } {
  checkGpu(op, gpu);
  checkOptions(op, options, [...NAMES, ...ownNames]);
  const { images = "imagenet" } = options;
  checkChoice(op, "images", images, ["imagenet", "cifar"]);
  const { classes = images === "cifar" ? 10 : 1000, inChannels = 3, batchNorm = {} } = options;
  const { init = "he", classifierInit = "fan_in", seed = 0 } = options;
  checkCount(op, "classes", classes);
  checkCount(op, "inChannels", inChannels);
  checkInit(op, init);
  checkInit(op, classifierInit, "classifierInit");
  checkSeed(op, "seed", seed);
  checkBatchNorm2d(op, batchNorm);
  const random = new Random(seed).fork("weights");
  return { images, classes, inChannels, init, classifierInit, seed, batchNorm, random };
}

/** @throws UsageError unless `value` is a positive integer that a layer's channels could be. */
export function checkCount(op: string, name: string, value: unknown): void {
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > MOST) {
    throw new UsageError(`${op}: ${name} is ${show(value)}; expected a positive integer of at most 2^24`);
  }
}
