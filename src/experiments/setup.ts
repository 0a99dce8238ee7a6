// What several experiments start from: images of a size, networks, batches.

import { channelMoments, type DatasetSplits, type ImageDataset, imageDataset } from "../data/dataset.ts";
import { DataLoader } from "../data/loader.ts";
import type { Gpu } from "../gpu.ts";
import type { Init } from "../nn/init.ts";
import { Conv2d } from "../nn/layers.ts";
import type { ResNetNorm, ResNetShortcut } from "../nn/models/resnet.ts";
import type { Module } from "../nn/module.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { isCifarNetwork, makeNetwork, type NetworkName } from "../train/networks.ts";
import { type TrainOptions, trainOptions } from "../train/train-options.ts";
import type { CellContext, Preset } from "./experiment.ts";

/** Settings of a network. */
export interface NetworkSettings {
  /** Left out for the paper's, `resnetCifar`. */
  network?: NetworkName;
  norm: ResNetNorm;
  shortcut: ResNetShortcut;
  depth: number;
  width: number;
  batchSize: number;
  /** Images are made smaller by this factor first. */
  shrink: number;
}

/**
 * For experiments that need a few passes only. Depth 110 at every preset, as these effects grow with depth; the small ones have half
 * the paper's channels, and smaller batches.
 */
export const DEEP: Record<Preset, Omit<NetworkSettings, "norm">> = {
  "first-look": { shortcut: "projection", depth: 110, width: 8, batchSize: 32, shrink: 1 },
  quick: { shortcut: "projection", depth: 110, width: 8, batchSize: 32, shrink: 1 },
  standard: { shortcut: "projection", depth: 110, width: 16, batchSize: 128, shrink: 1 },
  paper: { shortcut: "projection", depth: 110, width: 16, batchSize: 128, shrink: 1 },
};

/** Fixup and SkipInit start as in their papers. */
const initOf = (norm: ResNetNorm): Init => (norm === "fixup" || norm === "skipinit" ? "he" : "xavier");

/** What the paper's networks have in common: see docs/experiments.md. Others have what of it they can. */
export function paperNetwork({
  network: model = "resnetCifar",
  norm,
  shortcut,
  depth,
  width,
}: Omit<NetworkSettings, "batchSize" | "shrink">): Partial<TrainOptions> {
  const common = { model, norm, width, classifierInit: "fan_in" } as const;
  return isCifarNetwork(model) ? { ...common, shortcut, depth, init: initOf(norm) } : common;
}

/** A cell for a network that is looked at before any training, with batch-norm and without, and what else it is given. */
export function atInitialisation<const M extends string, S extends object>(
  measure: M,
  preset: Preset,
  more: S,
): (NetworkSettings & S & { measure: M; label: string })[] {
  return (["batch", "none"] as const).map((norm) => ({
    ...{ measure, label: norm, norm },
    ...DEEP[preset],
    ...more,
  }));
}

export const NORM_LABELS: Record<ResNetNorm, string> = {
  batch: "with batch-norm",
  none: "without batch-norm",
  last: "before the classifier only",
  layer: "with layer norm",
  group: "with group norm",
  instance: "with instance norm",
  weight: "with weight normalisation",
  fixup: "Fixup",
  skipinit: "SkipInit",
};

/** An untrained network for images like these. */
export function freshNetwork(
  gpu: Gpu,
  { train }: DatasetSplits,
  settings: Omit<NetworkSettings, "batchSize" | "shrink">,
  seed: number,
): Module {
  return makeNetwork(gpu, trainOptions({ ...paperNetwork(settings), seed }), train);
}

/** Runs `look` at an untrained network with one batch of images. */
export async function withNetwork<T>(
  { gpu, data }: Pick<CellContext, "gpu" | "data">,
  settings: NetworkSettings,
  seed: number,
  look: (model: Module, batch: DeviceBatch, data: DatasetSplits) => Promise<T>,
): Promise<T> {
  const small = shrinkImages(data, settings.shrink);
  const model = freshNetwork(gpu, small, settings, seed);
  const batch = trainingBatch(gpu, small, settings.batchSize, seed);
  try {
    return await look(model, batch, small);
  } finally {
    disposeBatch(batch);
    model.dispose();
  }
}

export interface DeviceBatch {
  images: Tensor;
  labels: Tensor;
}

/** One batch of a shuffled training set, normalised, not augmented; the caller disposes both tensors. */
export function trainingBatch(
  gpu: Gpu,
  { train }: DatasetSplits,
  batchSize: number,
  seed: number,
  { epoch = 0, index = 0 } = {},
): DeviceBatch {
  const loader = new DataLoader(train, { ...channelMoments(train), batchSize, seed, dropLast: true });
  const { images, labels, shape } = loader.batch(epoch, index);
  return {
    images: gpu.keep(gpu.tensor(images, shape)),
    labels: gpu.keep(gpu.tensor(labels, [labels.length], { dtype: "uint32" })),
  };
}

export function disposeBatch({ images, labels }: DeviceBatch): void {
  images.dispose();
  labels.dispose();
}

/** Names of a network's convolutions but for its shortcuts', in order; layer l of the paper is entry l − 1. */
export function convolutionNames(model: Module): string[] {
  return [...model.modules()]
    .filter(([name, module]) => module instanceof Conv2d && !name.includes(".shortcut."))
    .map(([name]) => name);
}

/** The convolution that lies as deep in this network as `layer` does in one of 110 layers. */
export function convolutionAt(model: Module, layer: number): { layer: number; name: string } {
  const names = convolutionNames(model);
  const depth = names.length + 1; // with the classifier
  const scaled = Math.min(names.length, Math.max(1, Math.round((layer * depth) / 110)));
  return { layer: scaled, name: names[scaled - 1]! };
}

/** The cells of `norm`. */
export function ofNorm<T extends { configuration: { norm: ResNetNorm } }>(
  cells: readonly T[],
  norm: ResNetNorm,
): T[] {
  return cells.filter(({ configuration }) => configuration.norm === norm);
}

/** Which of both networks no cell is of, or null. */
export function lacking(cells: readonly { configuration: { norm: ResNetNorm } }[]): string | null {
  const absent = (["batch", "none"] as const).filter((norm) => ofNorm(cells, norm).length === 0);
  return absent.length > 0 ? `networks ${absent.map((norm) => NORM_LABELS[norm]).join(" and ")}` : null;
}

/** Both sets with each `factor` × `factor` block of pixels replaced by its mean. */
export function shrinkImages({ train, test }: DatasetSplits, factor: number): DatasetSplits {
  return factor === 1 ? { train, test } : { train: shrink(train, factor), test: shrink(test, factor) };
}

function shrink(dataset: ImageDataset, factor: number): ImageDataset {
  const { images, count, channels } = dataset;
  const height = Math.floor(dataset.height / factor);
  const width = Math.floor(dataset.width / factor);
  const small = new Uint8Array(count * height * width * channels);
  let at = 0;
  for (let n = 0; n < count; n += 1) {
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        for (let c = 0; c < channels; c += 1) {
          let sum = 0;
          for (let dy = 0; dy < factor; dy += 1) {
            const row = (n * dataset.height + y * factor + dy) * dataset.width + x * factor;
            for (let dx = 0; dx < factor; dx += 1) sum += images[(row + dx) * channels + c]!;
          }
          small[at] = Math.round(sum / factor ** 2);
          at += 1;
        }
      }
    }
  }
  return imageDataset({ ...dataset, images: small, height, width });
}
