// What several experiments start from: images of a size, networks, batches.

import { channelMoments, type DatasetSplits, type ImageDataset, imageDataset } from "../data/dataset.ts";
import { DataLoader } from "../data/loader.ts";
import type { Gpu } from "../gpu.ts";
import { Conv2d } from "../nn/layers.ts";
import { type ResNetCifar, type ResNetNorm, resnetCifar } from "../nn/models/resnet.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Trainer } from "../train/trainer.ts";
import type { Preset } from "./experiment.ts";

/** Settings of a network that is looked at at initialisation. */
export interface NetworkSettings {
  depth: number;
  width: number;
  batchSize: number;
}

/**
 * For experiments that need a few passes only. Depth 110 at every preset, as these effects grow with depth; `quick` has
 * half the paper's channels and a quarter of its batch.
 */
export const DEEP: Record<Preset, NetworkSettings> = {
  quick: { depth: 110, width: 8, batchSize: 32 },
  standard: { depth: 110, width: 16, batchSize: 64 },
  paper: { depth: 110, width: 16, batchSize: 128 },
};

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

/** An untrained network for images like these, Xavier-initialised. */
export function freshNetwork(
  gpu: Gpu,
  { train }: DatasetSplits,
  { depth, width, norm }: { depth: number; width: number; norm: ResNetNorm },
  seed: number,
): ResNetCifar {
  return resnetCifar(gpu, { depth, width, norm, seed, inChannels: train.channels, classes: train.classes });
}

/** A network after `steps` training steps at a constant rate, not augmented; untrained for none. */
export async function youngNetwork(
  gpu: Gpu,
  data: DatasetSplits,
  settings: NetworkSettings & { norm: ResNetNorm; steps: number; lr: number },
  seed: number,
  signal?: AbortSignal,
): Promise<{ model: ResNetCifar; dispose(): void }> {
  const { steps, norm, depth, width, batchSize, lr } = settings;
  if (steps === 0) {
    const model = freshNetwork(gpu, data, settings, seed);
    return { model, dispose: () => model.dispose() };
  }
  const trainer = new Trainer(gpu, data, {
    ...{ norm, depth, width, batchSize, lr, seed },
    schedule: "constant",
    augment: false,
    epochs: steps,
    maxSteps: steps,
  });
  await trainer.run({ evaluate: false, signal });
  return { model: trainer.model, dispose: () => trainer.dispose() };
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
export function convolutionNames(model: ResNetCifar): string[] {
  return [...model.modules()]
    .filter(([name, module]) => module instanceof Conv2d && !name.includes(".shortcut."))
    .map(([name]) => name);
}

/** The convolution that lies as deep in this network as `layer` does in one of 110 layers. */
export function convolutionAt(model: ResNetCifar, layer: number): { layer: number; name: string } {
  const names = convolutionNames(model);
  const scaled = Math.min(names.length, Math.max(1, Math.round((layer * model.options.depth) / 110)));
  return { layer: scaled, name: names[scaled - 1]! };
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
