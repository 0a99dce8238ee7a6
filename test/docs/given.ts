// What the blocks of the guides may take for given: `<!-- given: gpu, model -->` before a block imports these names.

import {
  channelMoments,
  crossEntropy,
  DataLoader,
  encodeNpz,
  encodeSafetensors,
  imageDataset,
  type Module,
  resnet18,
  resnetCifar,
  type Tensor,
  torchStateDict,
} from "../../src/index.ts";
import { loadDataset, requestGpu } from "../../src/node/index.ts";

export const gpu = await requestGpu();
export const data = await loadDataset("embedded");
export const model: Module = resnetCifar(gpu, { depth: 8, width: 4, inChannels: 1, seed: 1 });
/** The first so many images of the embedded sample. */
const few = (
  { name, images, labels, height, width, channels, classNames }: typeof data.train,
  count: number,
) =>
  imageDataset({
    ...{ name, height, width, channels, classNames },
    images: images.slice(0, count * height * width * channels),
    labels: labels.slice(0, count),
  });
export const train = few(data.train, 64);
export const test = few(data.test, 32);
export const colourModel = resnetCifar(gpu, { depth: 8, width: 4, seed: 1 });
export const loader = new DataLoader(data.train, { batchSize: 8, seed: 1, ...channelMoments(data.train) });
const batch = loader.epoch(0)[Symbol.iterator]().next().value!;
export const images: Tensor = gpu.keep(gpu.tensor(batch.images, batch.shape));
export const labels: Tensor = gpu.keep(gpu.tensor(batch.labels, [batch.labels.length], { dtype: "uint32" }));
export const loss = crossEntropy(model, images, labels);
export const pretrained = encodeSafetensors(
  await torchStateDict(resnet18(gpu, { classes: 10, width: 4, images: "cifar", seed: 2 })),
);
const { images: pixels, labels: classes, height, width } = few(data.train, 10);
export const bytes = await encodeNpz({
  x: { dtype: "uint8", shape: [10, height, width], data: pixels },
  y: { dtype: "uint8", shape: [10], data: classes },
});
