// What the blocks of the guides may take for given: `<!-- given: gpu, model -->` before a block imports these names.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
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
/** A folder of images for each class, as `loadDataset` takes it. */
export const photos = mkdtempSync(join(tmpdir(), "fusenorm-photos-"));
process.once("exit", () => rmSync(photos, { recursive: true, force: true }));
for (const [name, r] of Object.entries({ apple: 220, plum: 90 })) {
  mkdirSync(join(photos, name));
  for (let i = 0; i < 20; i += 1) {
    const background = { r: r + i, g: 40, b: 250 - r };
    const image = sharp({ create: { width: 40, height: 36, channels: 3, background } });
    await image.png().toFile(join(photos, name, `${i}.png`));
  }
}
export const bytes = await encodeNpz({
  x: { dtype: "uint8", shape: [10, height, width], data: pixels },
  y: { dtype: "uint8", shape: [10], data: classes },
});
