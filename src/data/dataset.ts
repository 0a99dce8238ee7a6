import { DataError, ShapeError } from "../errors.ts";
import { isBytes, printable } from "../foreign.ts";
import { checkArray, show } from "../options.ts";

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

/** @throws DataError unless `file` is `{ name, bytes }`, a text and a Uint8Array. */
export function checkNamedBytes(op: string, file: NamedBytes): void {
  if (typeof file?.name === "string" && isBytes(file.bytes)) return;
  const found =
    typeof file === "object" && file !== null && !ArrayBuffer.isView(file)
      ? `${show(file)} of { name: ${show(file.name)}, bytes: ${show(file.bytes)} }`
      : show(file);
  throw new DataError(
    `${op}: the file is ${found}; expected { name, bytes }, a text for messages and a Uint8Array of the file's contents`,
  );
}

/** @throws DataError unless there are as many labels as images. */
export function checkCounts(images: string, count: number, labels: string, labelCount: number): void {
  if (count === labelCount) return;
  throw new DataError(
    `${printable(images)} holds ${count} images, ${printable(labels)} holds ${labelCount} labels; ` +
      "expected one label per image: take both files from the same download",
  );
}

const isSize = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;

/** @throws DataError on anything but sizes, bytes and names that belong together; labels are not looked at one by one. */
function checkParts(op: string, parts: Omit<ImageDataset, "count" | "classes">): void {
  if (typeof parts !== "object" || parts === null) {
    throw new DataError(
      `${op}: the data set is ${show(parts)}; expected { name, images, labels, height, width, channels, classNames }`,
    );
  }
  const { name, images, labels, height, width, channels, classNames } = parts;
  const wrong = (field: string, value: unknown, expected: string) =>
    new DataError(`${op}: ${field} is ${show(value)}; expected ${expected}`);
  if (typeof name !== "string") throw wrong("name", name, "a text, for tables and messages");
  if (!isBytes(images)) throw wrong("images", images, "a Uint8Array of pixels, [N, H, W, C]");
  if (!isBytes(labels)) throw wrong("labels", labels, "a Uint8Array with one class per image");
  for (const [field, value] of Object.entries({ height, width, channels })) {
    if (!isSize(value)) throw wrong(field, value, "an integer from 0");
  }
  if (!Array.isArray(classNames) || classNames.findIndex((text) => typeof text !== "string") >= 0) {
    throw wrong("classNames", classNames, "a list of texts, one per class");
  }
}

/**
 * Checks that sizes, labels and class names agree, and fills in the counts.
 *
 * @throws DataError naming the data set and both values that disagree.
 */
export function imageDataset(
  parts: Omit<ImageDataset, "count" | "classes"> & { source?: { images: string; labels: string } },
): ImageDataset {
  checkParts("imageDataset", parts);
  const { name, images, labels, height, width, channels, classNames } = parts;
  const source = parts.source ?? { images: name, labels: name };
  const bytesEach = height * width * channels;
  const count = labels.length;
  if (bytesEach === 0 || images.length === 0) {
    throw new DataError(
      `${printable(source.images)}: no pixels: images are [${height}, ${width}, ${channels}] in ${images.length} bytes; ` +
        "expected at least one image of at least one pixel",
    );
  }
  checkCounts(`${name}: ${source.images}`, images.length / bytesEach, source.labels, count);
  const bad = labels.findIndex((label) => label >= classNames.length);
  if (bad >= 0) {
    throw new DataError(
      `${printable(source.labels)}: label ${labels[bad]} at position ${bad}; expected 0 … ${classNames.length - 1}, ` +
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

/** @throws DataError unless `dataset` is one, as `imageDataset` makes them: someone may have put its fields together. */
export function checkDataset(op: string, dataset: ImageDataset): void {
  checkParts(op, dataset);
  const { images, labels, count, height, width, channels, classes, classNames } = dataset;
  const bytesEach = height * width * channels;
  if (
    labels.length !== count ||
    images.length !== count * bytesEach ||
    classNames.length !== classes ||
    !(images.length > 0)
  ) {
    throw new DataError(
      `${op}: ${printable(dataset.name)} has ${images.length} bytes of images and ${labels.length} labels for count ` +
        `${printable(count)}, size [${height}, ${width}, ${channels}], and ${classNames.length} names for ${printable(classes)} classes; ` +
        "expected numbers that agree: use imageDataset()",
    );
  }
}

/** The images at `indices`, copied, in that order. @throws DataError on an index that is none of the data set's. */
export function subset(
  dataset: ImageDataset,
  indices: ArrayLike<number>,
  name = dataset?.name,
): ImageDataset {
  checkDataset("subset", dataset);
  if (typeof name !== "string") {
    throw new DataError(`subset: name is ${show(name)}; expected a text, for tables and messages`);
  }
  const isList = Array.isArray(indices) || (ArrayBuffer.isView(indices) && !(indices instanceof DataView));
  if (!isList) {
    throw new DataError(`subset: indices are ${show(indices)}; expected a list of image numbers`);
  }
  const { height, width, channels } = dataset;
  const bytesEach = height * width * channels;
  for (let i = 0; i < indices.length; i++) {
    const from = indices[i]!;
    if (!(Number.isInteger(from) && from >= 0 && from < dataset.count)) {
      throw new DataError(
        `subset: index ${printable(from)} at position ${i}; expected 0 … ${dataset.count - 1}, the images of ${printable(dataset.name)}`,
      );
    }
  }
  const bytes = indices.length * bytesEach;
  let images: Uint8Array;
  try {
    images = new Uint8Array(bytes);
  } catch (cause) {
    throw new DataError(
      `subset: no memory for ${indices.length} images of ${bytesEach} bytes; ask for fewer at once`,
      { cause },
    );
  }
  const labels = new Uint8Array(indices.length);
  for (let i = 0; i < indices.length; i++) {
    const from = indices[i]!;
    images.set(dataset.images.subarray(from * bytesEach, (from + 1) * bytesEach), i * bytesEach);
    labels[i] = dataset.labels[from]!;
  }
  return imageDataset({ ...dataset, name, images, labels });
}

/** Indices of the first `perClass` images of every class, in file order. @throws DataError if a class has fewer. */
export function balancedIndices(dataset: ImageDataset, perClass: number): number[] {
  checkDataset("balancedIndices", dataset);
  if (!(Number.isSafeInteger(perClass) && perClass >= 1)) {
    throw new DataError(`balancedIndices: perClass is ${show(perClass)}; expected an integer from 1`);
  }
  const counts = classCounts(dataset);
  const short = counts.findIndex((count) => count < perClass);
  if (short >= 0) {
    throw new DataError(
      `balancedIndices: ${printable(dataset.name)} has ${counts[short]} images of class ${short} ` +
        `(${printable(dataset.classNames[short])}); expected at least ${perClass}: ask for fewer per class`,
    );
  }
  const taken = new Array<number>(dataset.classes).fill(0);
  const indices: number[] = [];
  dataset.labels.forEach((label, index) => {
    if (taken[label]! >= perClass) return;
    taken[label]!++;
    indices.push(index);
  });
  return indices;
}

/** How many images each class has. */
export function classCounts(dataset: ImageDataset): number[] {
  checkDataset("classCounts", dataset);
  const counts = new Array<number>(dataset.classes).fill(0);
  dataset.labels.forEach((label, index) => {
    if (label >= counts.length) {
      throw new DataError(
        `classCounts: ${printable(dataset.name)} has label ${label} at position ${index}; expected 0 … ${counts.length - 1}`,
      );
    }
    counts[label]!++;
  });
  return counts;
}

/**
 * Mean and (biased) standard deviation of each channel over all pixels of all images, from exact integer
 * histograms. Take them from the training set and use them for both sets.
 */
export function channelMoments(dataset: ImageDataset): ChannelMoments {
  checkDataset("channelMoments", dataset);
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
  dataset: Pick<ImageDataset, "name" | "channels">,
  { mean, std }: { mean: readonly number[]; std: readonly number[] },
): Float32Array {
  for (const [name, values] of Object.entries({ mean, std })) {
    checkArray(op, name, values, "numbers, one per channel (channelMoments(train))");
    if (values.length !== dataset.channels || !Array.from(values).every(Number.isFinite)) {
      throw new ShapeError(
        `${op}: ${name} is ${show(values)}, ${dataset.name} has ${dataset.channels} channels; ` +
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
