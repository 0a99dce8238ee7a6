// Networks by name, for what is written as JSON or typed as a command.

import { UsageError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import { Linear } from "../nn/layers.ts";
import type { ImageKind } from "../nn/models/image-options.ts";
import { mobilenetV2 } from "../nn/models/mobilenet.ts";
import { plainCifar, preactResnetCifar, resnetCifar } from "../nn/models/resnet.ts";
import { resnet18, resnet34, resnet50 } from "../nn/models/resnet-imagenet.ts";
import { vgg11, vgg13, vgg16 } from "../nn/models/vgg.ts";
import type { Module } from "../nn/module.ts";
import type { TrainOptions } from "./train-options.ts";

/** What a network has to be made for. */
export interface ImageTask {
  height: number;
  width: number;
  channels: number;
  classes: number;
}

const CIFAR = { resnetCifar, preactResnetCifar, plainCifar } as const;
const RESNETS = { resnet18, resnet34, resnet50 } as const;
const VGGS = { vgg11, vgg13, vgg16 } as const;

/** A network that `RecipeTrainer` and `fusenorm train` know by name. */
export type NetworkName = keyof typeof CIFAR | keyof typeof RESNETS | keyof typeof VGGS | "mobilenetV2";

export const NETWORK_NAMES = [
  ...Object.keys(CIFAR),
  ...Object.keys(RESNETS),
  ...Object.keys(VGGS),
  "mobilenetV2",
] as NetworkName[];

/** Whether a network is one of those for small images, with depth, norms and shortcuts to choose from. */
export const isCifarNetwork = (name: string): name is keyof typeof CIFAR => Object.hasOwn(CIFAR, name);

/** The layer that tells classes, with its name: a network's last linear one. @throws UsageError if there is none */
export function classifierOf(model: Module): [name: string, layer: Linear] {
  const last = [...model.modules()].filter(([, module]) => module instanceof Linear).at(-1);
  if (!last) throw new UsageError("the network has no linear layer; expected a classifier at its end");
  return last as [string, Linear];
}

/** Images of so many pixels or more along their shorter side get a network's larger stem. */
const LARGE_IMAGES = 64;
/** The only side that VGG's classifier of three layers takes. */
const VGG_SIDE = 224;

/** The network that `options` name, for images and classes of `task`. @throws UsageError, ShapeError */
export function makeNetwork(gpu: Gpu, options: TrainOptions, task: ImageTask): Module {
  const { model, depth, width, norm, shortcut, init, classifierInit, seed } = options;
  const { channels: inChannels, classes } = task;
  const classifier = classifierInit ? { classifierInit } : {};
  if (isCifarNetwork(model)) {
    const common = { depth, width, norm, init, seed, inChannels, classes, ...classifier };
    return model === "plainCifar" ? plainCifar(gpu, common) : CIFAR[model](gpu, { ...common, shortcut });
  }
  const large = Math.min(task.height, task.width) >= LARGE_IMAGES;
  const common = { classes, inChannels, seed, ...classifier };
  const images: ImageKind = large ? "imagenet" : "cifar";
  if (model === "mobilenetV2") return mobilenetV2(gpu, { ...common, images });
  if (Object.hasOwn(RESNETS, model)) {
    return RESNETS[model as keyof typeof RESNETS](gpu, { ...common, images, width });
  }
  const isVgg = task.height === VGG_SIDE && task.width === VGG_SIDE;
  return VGGS[model as keyof typeof VGGS](gpu, {
    ...{ ...common, images: isVgg ? "imagenet" : "cifar", width },
    norm: norm === "none" ? "none" : "batch",
  });
}
