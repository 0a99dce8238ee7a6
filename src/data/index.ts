/**
 * Data sets of images, from their files to batches on the GPU. In Node, `fusenorm/node` downloads and reads them.
 * @module fusenorm/data
 */

export {
  type Augmentation,
  type AugmentOptions,
  augmentation,
  augmentImage,
  pcg,
} from "./augment.ts";
export { decodeImageBitmap, type ImageOptions } from "./bitmap.ts";
export { CIFAR10_CLASSES, CIFAR100_CLASSES, type CifarKind, readCifarDataset } from "./cifar.ts";
export {
  balancedIndices,
  type ChannelMoments,
  channelMoments,
  classCounts,
  type DatasetSplits,
  FASHION_MNIST_CLASSES,
  type ImageDataset,
  imageDataset,
  type NamedBytes,
  subset,
} from "./dataset.ts";
export { DeviceDataset, type DeviceDatasetOptions } from "./device-dataset.ts";
export { type GunzipOptions, gunzip } from "./gzip.ts";
export { encodeIdx, type IdxArray, parseIdx, readIdxDataset } from "./idx.ts";
export {
  type Batch,
  BatchSampler,
  type BatchSamplerOptions,
  DataLoader,
  type DataLoaderOptions,
  epochOrder,
} from "./loader.ts";
export { type RandomSplitOptions, randomSplit } from "./split.ts";
export { StreamLoader, type StreamLoaderOptions } from "./stream-loader.ts";
/** Changes of batches of images on the GPU, as torchvision's transforms; `Compose` puts them one after the other. */
export * as transforms from "./transforms.ts";
