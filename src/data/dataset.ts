import { DataError, ShapeError } from "../errors.ts";

/** Labelled images of one size, as bytes. */
export interface ImageDataset {
  /** What it is, for tables and messages: `"Fashion-MNIST train"`. */
  name: string;
  /** Pixels 0 … 255, [count, height, width, channels]. */
  images: Uint8Array;
  /** One class index per image, below `classes`. */
  labels: Uint8Array;
  count: number;
  height: number;
  width: number;
  channels: number;
  classes: number;
  /** One name per class. */
  classNames: string[];
}

/** A training set and the test set that belongs to it: same image size, same classes. */
export interface DatasetSplits {
  train: ImageDataset;
  test: ImageDataset;
}

/** Bytes and the name to use for them in messages (a file name or path). */
export interface NamedBytes {
  name: string;
  bytes: Uint8Array;
}

/** Mean and standard deviation per channel, in units where a pixel runs from 0 to 1. */
export interface ChannelMoments {
  mean: number[];
  std: number[];
}

/** The ten classes of Fashion-MNIST, by label. */
export const FASHION_MNIST_CLASSES: readonly string[] = [
  "T-shirt/top",
  "Trouser",
  "Pullover",
  "Dress",
  "Coat",
  "Sandal",
  "Shirt",
  "Sneaker",
  "Bag",
  "Ankle boot",
];

/**
 * Checks that sizes, labels and class names agree, and fills in the counts.
 *
 * @throws DataError naming the data set and both values that disagree.
 */
export function imageDataset(
  parts: Omit<ImageDataset, "count" | "classes"> & { source?: { images: string; labels: string } },
): ImageDataset {
  const { name, images, labels, height, width, channels, classNames } = parts;
  const source = parts.source ?? { images: name, labels: name };
  const bytesEach = height * width * channels;
  const count = labels.length;
  if (bytesEach === 0 || images.length === 0) {
    throw new DataError(
      `${source.images}: no pixels: images are [${height}, ${width}, ${channels}] in ${images.length} bytes; ` +
        "expected at least one image of at least one pixel",
    );
  }
  if (images.length !== count * bytesEach) {
    throw new DataError(
      `${name}: ${source.images} holds ${images.length / bytesEach} images, ${source.labels} holds ${count} labels; ` +
        "expected one label per image: take both files from the same download",
    );
  }
  const bad = labels.findIndex((label) => label >= classNames.length);
  if (bad >= 0) {
    throw new DataError(
      `${source.labels}: label ${labels[bad]} at position ${bad}; expected 0 … ${classNames.length - 1}, ` +
        `as there are ${classNames.length} classes`,
    );
  }
  return {
    name,
    images,
    labels,
    count,
    height,
    width,
    channels,
    classes: classNames.length,
    classNames: [...classNames],
  };
}

/** The images at `indices`, copied, in that order. */
export function subset(dataset: ImageDataset, indices: ArrayLike<number>, name = dataset.name): ImageDataset {
  const { height, width, channels } = dataset;
  const bytesEach = height * width * channels;
  const images = new Uint8Array(indices.length * bytesEach);
  const labels = new Uint8Array(indices.length);
  for (let i = 0; i < indices.length; i++) {
    const from = indices[i]!;
    if (!(Number.isInteger(from) && from >= 0 && from < dataset.count)) {
      throw new DataError(
        `subset: index ${from} at position ${i}; expected 0 … ${dataset.count - 1}, the images of ${dataset.name}`,
      );
    }
    images.set(dataset.images.subarray(from * bytesEach, (from + 1) * bytesEach), i * bytesEach);
    labels[i] = dataset.labels[from]!;
  }
  return imageDataset({ ...dataset, name, images, labels });
}

/** Indices of the first `perClass` images of every class, in file order. */
export function balancedIndices(dataset: ImageDataset, perClass: number): number[] {
  const taken = new Array<number>(dataset.classes).fill(0);
  const indices: number[] = [];
  dataset.labels.forEach((label, index) => {
    if (taken[label]! >= perClass) return;
    taken[label]!++;
    indices.push(index);
  });
  const short = taken.findIndex((count) => count < perClass);
  if (short >= 0) {
    throw new DataError(
      `balancedIndices: ${dataset.name} has ${taken[short]} images of class ${short} ` +
        `(${dataset.classNames[short]}); expected at least ${perClass}: ask for fewer per class`,
    );
  }
  return indices;
}

/** How many images each class has. */
export function classCounts(dataset: ImageDataset): number[] {
  const counts = new Array<number>(dataset.classes).fill(0);
  for (const label of dataset.labels) counts[label]!++;
  return counts;
}

/**
 * Mean and (biased) standard deviation of each channel over all pixels of all images, from exact integer
 * histograms. Take them from the training set and use them for both sets.
 */
export function channelMoments(dataset: ImageDataset): ChannelMoments {
  const { images, channels } = dataset;
  const histograms = Array.from({ length: channels }, () => new Float64Array(256));
  for (let i = 0; i < images.length; i += channels) {
    for (let c = 0; c < channels; c++) histograms[c]![images[i + c]!]!++;
  }
  const pixels = images.length / channels;
  const moments: ChannelMoments = { mean: [], std: [] };
  for (const histogram of histograms) {
    const mean = histogram.reduce((sum, n, value) => sum + n * value, 0) / pixels;
    const variance = histogram.reduce((sum, n, value) => sum + n * (value - mean) ** 2, 0) / pixels;
    moments.mean.push(mean / 255);
    moments.std.push(Math.sqrt(variance) / 255);
  }
  return moments;
}

/**
 * The normalised value (byte / 255 − mean) / std of each byte, [channels, 256].
 *
 * @throws ShapeError unless there is one finite mean and one positive std per channel.
 */
export function normalizationTable(
  op: string,
  dataset: ImageDataset,
  { mean, std }: { mean: readonly number[]; std: readonly number[] },
): Float32Array {
  for (const [name, values] of Object.entries({ mean, std })) {
    if (values.length !== dataset.channels || !values.every(Number.isFinite)) {
      throw new ShapeError(
        `${op}: ${name} is [${values.join(", ")}], ${dataset.name} has ${dataset.channels} channels; ` +
          "expected one finite number per channel: use channelMoments(train)",
      );
    }
  }
  if (!std.every((s) => s > 0)) {
    throw new ShapeError(
      `${op}: std is [${std.join(", ")}]; expected values above 0 (a channel of one constant value can't be ` +
        "normalised: pass 1 for it)",
    );
  }
  return Float32Array.from({ length: dataset.channels * 256 }, (_, i) => {
    const c = i >> 8;
    return ((i & 255) / 255 - mean[c]!) / std[c]!;
  });
}
