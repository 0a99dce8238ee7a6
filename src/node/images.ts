// Images as files: folders of them, and Parquet files as Hugging Face ships them. `sharp` decodes, `hyparquet` reads Parquet.

import type { Dirent } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { checkedImageOptions, type ImageOptions } from "../data/bitmap.ts";
import {
  type ChannelMoments,
  type DatasetSplits,
  type ImageDataset,
  imageDataset,
  normalizationTable,
} from "../data/dataset.ts";
import { StreamLoader, type StreamLoaderOptions } from "../data/stream-loader.ts";
import { DataError } from "../errors.ts";
import { isBytes, printable } from "../foreign.ts";
import { checkOptions, checkText, isPlain, optionNames, show } from "../options.ts";
import { fileError, readNamed } from "./files.ts";
import { type ParquetHead, readParquet } from "./parquet.ts";

export type { ImageOptions };

/** Of `loadImageFolder`: what images are made to be, and what the data set is called. */
export interface ImageSetOptions extends ImageOptions {
  /** Title in tables and reports. Default: that of the folder or file. */
  name?: string;
}

const OPTIONS = optionNames<ImageOptions>({ height: 0, width: 0, channels: 0 });
const SET_OPTIONS = [...OPTIONS, "name" satisfies keyof ImageSetOptions];
/** Names of files that are taken for images. */
export const IMAGE_FILE = /\.(png|jpe?g|webp|gif|avif|tiff?)$/i;
/** Labels are bytes. */
const MOST_CLASSES = 256;
/** Images decoded at the same time: the decoder has threads of its own. */
const AT_ONCE = 16;
/** What a list of their numbers holds. */
const MOST_FILES = 2 ** 30;

function checked(op: string, options: ImageSetOptions, known: readonly string[]): Required<ImageOptions> {
  const size = checkedImageOptions(op, options, known);
  const { name } = options;
  if (name !== undefined) checkText(op, "name", name);
  return size;
}

type Decode = (bytes: Uint8Array, name: string) => Promise<Uint8Array>;

async function decoder(op: string, { height, width, channels }: Required<ImageOptions>): Promise<Decode> {
  const { default: sharp } = await import("sharp").catch((cause: unknown) => {
    throw new DataError(
      `${op}: the package "sharp", which decodes images, can't be loaded (${printable((cause as Error)?.message)}); install it: ` +
        "npm install sharp",
      { cause },
    );
  });
  return async (bytes, name) => {
    try {
      const pipeline = sharp(bytes)
        .rotate() // as its EXIF says
        .flatten({ background: "black" })
        .resize({ width, height, fit: "cover" })
        .toColourspace(channels === 1 ? "b-w" : "srgb");
      const { data, info } = await pipeline.raw().toBuffer({ resolveWithObject: true });
      if (info.channels !== channels) throw new Error(`it gave ${info.channels} channels`);
      return new Uint8Array(data);
    } catch (cause) {
      // libvips ends some messages in a colon.
      const why = (cause as Error).message.replace(/[\s:;.]+$/, "");
      throw new DataError(
        `${printable(name)}: can't be decoded as an image: ${printable(why)}; expected a PNG, JPEG or another image`,
        { cause },
      );
    }
  };
}

/**
 * An image file's pixels, 0 … 255, [height, width, channels]. Needs the package `sharp`.
 * @param name the file's, for messages
 * @throws DataError if the bytes are no image, or there is no `sharp`
 */
export async function decodeImage(
  bytes: Uint8Array,
  name: string,
  options: ImageOptions,
): Promise<Uint8Array> {
  const size = checked("decodeImage", options, OPTIONS);
  checkText("decodeImage", "name", name);
  if (!isBytes(bytes)) {
    throw new DataError(`decodeImage: bytes is ${show(bytes)}; expected a Uint8Array of the file's contents`);
  }
  return (await decoder("decodeImage", size))(bytes, name);
}

interface Source {
  label: number;
  name: string;
  read: () => Promise<Uint8Array>;
}

function memoryFor(op: string, count: number, each: number): Uint8Array {
  try {
    return new Uint8Array(count * each);
  } catch (cause) {
    throw new DataError(
      `${op}: no memory for ${count} images of ${each} bytes, ${((count * each) / 1e9).toFixed(1)} GB; expected smaller or fewer ones, or ` +
        "streamImageFolder, which reads them as they are needed",
      { cause },
    );
  }
}

async function decodeAll(
  op: string,
  sources: readonly Source[],
  size: Required<ImageOptions>,
  set: { name: string; classNames: string[] },
): Promise<ImageDataset> {
  const decode = await decoder(op, size);
  const { height, width, channels } = size;
  const each = height * width * channels;
  const images = memoryFor(op, sources.length, each);
  let next = 0;
  const worker = async () => {
    try {
      while (next < sources.length) {
        const i = next;
        next += 1;
        const { read, name } = sources[i]!;
        images.set(await decode(await read(), name), i * each);
      }
    } catch (error) {
      next = sources.length; // the others have nothing left to do
      throw error;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  const labels = Uint8Array.from(sources, ({ label }) => label);
  return imageDataset({ ...set, images, labels, height, width, channels });
}

/**
 * Images in a folder for each class, `class/*.png` or another kind, as a data set: classes and files in the order of their names.
 * Needs the package `sharp`.
 * @throws DataError for a folder without classes or images, a file that is no image, or more than 256 classes
 */
export async function loadImageFolder(directory: string, options: ImageSetOptions): Promise<ImageDataset> {
  const op = "loadImageFolder";
  checkPath(op, directory);
  const size = checked(op, options, SET_OPTIONS);
  const { sources, classNames } = await imageFiles(op, directory);
  return decodeAll(op, sources, size, { name: options.name ?? basename(resolve(directory)), classNames });
}

/** Of so many images of a class one is held out, where no folder has a test set. */
const HELD_OUT = 10;

/**
 * Internal, for `loadDataset`: the images in the folders of `train` and `test`. Without a folder `test` every tenth image of a class
 * is held out, of a class with fewer the last one.
 */
export async function loadImageSplits(
  title: string,
  train: string,
  test: string | null,
  options: ImageOptions,
): Promise<DatasetSplits> {
  const op = "loadDataset";
  const size = checked(op, options, OPTIONS);
  const { sources, classNames } = await imageFiles(op, train);
  let parts = { train: sources, test: [] as Source[] };
  if (test === null) {
    parts = heldOut(sources, classNames, (name) => {
      throw new DataError(
        `${printable(join(train, name))}: has 1 image; expected 2 or more, of which one is held out, or folders train and val`,
      );
    });
  } else {
    const held = await imageFiles(op, test);
    const labels = held.classNames.map((name) => classNames.indexOf(name));
    const unknown = labels.indexOf(-1);
    if (unknown >= 0) {
      throw new DataError(
        `${printable(test)}: has a folder ${held.classNames[unknown]}, and ${printable(train)} has none; expected the same classes`,
      );
    }
    parts.test = held.sources.map((source) => ({ ...source, label: labels[source.label]! }));
  }
  return {
    train: await decodeAll(op, parts.train, size, { name: `${title} train`, classNames }),
    test: await decodeAll(op, parts.test, size, { name: `${title} test`, classNames }),
  };
}

/** Every tenth image of a class for the test set; of fewer the last one. `single` is told of a class without two images, which are all trained on. */
function heldOut(
  sources: readonly Source[],
  classNames: readonly string[],
  single: (name: string) => void = () => {},
): Record<"train" | "test", Source[]> {
  const parts = { train: [] as Source[], test: [] as Source[] };
  for (const [label, name] of classNames.entries()) {
    const own = sources.filter((source) => source.label === label);
    if (own.length < 2) single(name);
    const every = own.length < 2 ? HELD_OUT : Math.min(own.length, HELD_OUT);
    for (const [i, source] of own.entries()) parts[i % every === every - 1 ? "test" : "train"].push(source);
  }
  return parts;
}

function checkPath(op: string, directory: unknown): void {
  if (typeof directory !== "string" || directory === "") {
    throw new DataError(`${op}: directory is ${show(directory)}; expected a path`);
  }
}

/** A link counts as what it points to. @throws DataError for one that points nowhere */
async function isFolder(directory: string, entry: Dirent): Promise<boolean> {
  if (!entry.isSymbolicLink()) return entry.isDirectory();
  const path = join(directory, entry.name);
  const found = await stat(path).catch((cause: unknown) => {
    throw fileError(path, "read", cause);
  });
  return found.isDirectory();
}

/** The images of a folder for each class. @throws DataError */
async function imageFiles(
  op: string,
  directory: string,
): Promise<{ sources: Source[]; classNames: string[] }> {
  // Hidden ones are of the system or of programs, such as `._a.png` of macOS.
  const entries = async (path: string) =>
    (
      await readdir(path, { withFileTypes: true }).catch((cause: unknown) => {
        throw fileError(path, "read", cause);
      })
    )
      .filter(({ name }) => !name.startsWith("."))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  const classNames: string[] = [];
  for (const entry of await entries(directory)) {
    if (await isFolder(directory, entry)) classNames.push(entry.name);
  }
  if (classNames.length === 0 || classNames.length > MOST_CLASSES) {
    throw new DataError(
      `${op}: ${printable(directory)} has ${classNames.length} folders; expected one for each class, 1 to ${MOST_CLASSES}, with its images in it`,
    );
  }
  const sources: Source[] = [];
  for (const [label, className] of classNames.entries()) {
    const files = (await entries(join(directory, className))).filter(({ name }) => IMAGE_FILE.test(name));
    if (files.length === 0) {
      throw new DataError(
        `${op}: ${printable(join(directory, className))} has no images; expected .png, .jpg or the like in the folder of each class`,
      );
    }
    for (const file of files) {
      const name = join(directory, className, file.name);
      sources.push({ label, name, read: async () => (await readNamed(name)).bytes });
    }
  }
  return { sources, classNames: classNames.map((name) => printable(name)) };
}

/** Of `streamImageFolder`: what images are made to be, by what they are normalised, and how batches are drawn. */
export interface ImageStreamOptions
  extends ImageOptions,
    ChannelMoments,
    Omit<StreamLoaderOptions, "load" | "count"> {}

const STREAM_OPTIONS = optionNames<ImageStreamOptions>({
  ...{ height: 0, width: 0, channels: 0, mean: 0, std: 0 },
  ...{ batchSize: 0, seed: 0, shuffle: 0, dropLast: 0, prefetch: 0 },
});

/** Batches of images that are read and decoded as they are needed. */
export interface ImageStream extends StreamLoader {
  /** One name per class. */
  readonly classNames: readonly string[];
  /** Images in all. */
  readonly count: number;
}

/**
 * Images in a folder for each class, as `loadImageFolder` takes them, but more than fit in memory: files are read and decoded a batch at
 * a time, `prefetch` batches ahead of the one that is trained on. Pixels are normalised by `mean` and `std`, in units where they run
 * from 0 to 1. Needs the package `sharp`.
 * @throws DataError as `loadImageFolder` does; for a file that is no image when its batch is due
 */
export async function streamImageFolder(
  directory: string,
  options: ImageStreamOptions,
): Promise<ImageStream> {
  const op = "streamImageFolder";
  checkPath(op, directory);
  checkOptions(op, options, STREAM_OPTIONS);
  const { height, width, channels, mean, std, ...sampling } = options;
  const size = checked(op, { height, width, channels }, OPTIONS);
  const table = normalizationTable(op, { name: directory, channels: size.channels }, { mean, std });
  const make = (count: number, load: StreamLoaderOptions["load"]) =>
    new StreamLoader({ ...sampling, count, load }, op);
  make(MOST_FILES, () => Promise.reject()); // options that are wrong are told before the folder is read
  const { sources, classNames } = await imageFiles(op, directory);
  const decode = await decoder(op, size);
  const each = height * width * size.channels;
  const loader = make(sources.length, async (indices) => {
    const images = new Float32Array(indices.length * each);
    const decoded = Array.from(indices, async (index, i) => {
      const { read, name } = sources[index]!;
      const pixels = await decode(await read(), name);
      for (let at = 0; at < each; at += 1) {
        images[i * each + at] = table[(at % size.channels) * 256 + pixels[at]!]!;
      }
    });
    await Promise.all(decoded);
    const labels = Uint32Array.from(indices, (index) => sources[index]!.label);
    return { images, labels, shape: [indices.length, height, width, size.channels] };
  });
  return Object.assign(loader, { classNames, count: sources.length });
}

/** Of `loadParquetImages`: what images are made to be, and which columns hold them and their classes. */
export interface ParquetImageOptions extends ImageSetOptions {
  /** The column with images, and that with classes. Default: `image` or `img`; `label`, `labels` or `fine_label`. */
  imageColumn?: string;
  labelColumn?: string;
}

const PARQUET_OPTIONS = [...SET_OPTIONS, "imageColumn", "labelColumn"];
const IMAGE_COLUMNS = ["image", "img"];
const LABEL_COLUMNS = ["label", "labels", "fine_label"];

/**
 * Images in a Parquet file as Hugging Face ships data sets such as `uoft-cs/cifar10`: a column of `{ bytes, path }`, or of bytes, and one of
 * integers. Names of classes come from the file's metadata, if it has them. Needs the packages `hyparquet` and `sharp`.
 * @throws DataError for a file that has no such columns, or whose images can't be decoded
 */
export async function loadParquetImages(path: string, options: ParquetImageOptions): Promise<ImageDataset> {
  const op = "loadParquetImages";
  if (typeof path !== "string" || path === "") {
    throw new DataError(`${op}: path is ${show(path)}; expected that of a Parquet file`);
  }
  const size = checked(op, options, PARQUET_OPTIONS);
  const { imageColumn, labelColumn } = options;
  for (const [field, value] of Object.entries({ imageColumn, labelColumn })) {
    if (value !== undefined) checkText(op, field, value);
  }
  const { sources, classNames } = await parquetRows(op, [path], { imageColumn, labelColumn });
  return decodeAll(op, sources, size, { name: options.name ?? basename(path), classNames });
}

/** The files of a Parquet data set by the parts of its name, those of `test` or, where there are none, every tenth image. */
export async function loadParquetSplits(
  title: string,
  train: readonly string[],
  test: readonly string[],
  options: ImageOptions,
): Promise<DatasetSplits> {
  const op = "loadDataset";
  const size = checked(op, options, OPTIONS);
  const all = await parquetRows(op, [...train, ...test]);
  const { classNames } = all;
  const parts = { train: [] as Source[], test: [] as Source[] };
  for (const source of all.sources) parts[train.includes(source.file) ? "train" : "test"].push(source);
  if (test.length === 0) Object.assign(parts, heldOut(parts.train, classNames));
  return {
    train: await decodeAll(op, parts.train, size, { name: `${title} train`, classNames }),
    test: await decodeAll(op, parts.test, size, { name: `${title} test`, classNames }),
  };
}

/** Images of some files, not decoded, and the classes of all of them: those that the first file names, or numbers. */
async function parquetRows(
  op: string,
  paths: readonly string[],
  columns: Pick<ParquetImageOptions, "imageColumn" | "labelColumn"> = {},
): Promise<{ sources: (Source & { file: string })[]; classNames: string[] }> {
  const sources: (Source & { file: string })[] = [];
  let names: string[] | null = null;
  for (const file of paths) {
    const part = await parquetFile(op, file, columns);
    names ??= part.names;
    for (const source of part.sources) sources.push({ ...source, file });
  }
  const most = sources.reduce((high, { label }) => Math.max(high, label), -1);
  return { sources, classNames: names ?? Array.from({ length: most + 1 }, (_, i) => `${i}`) };
}

async function parquetFile(
  op: string,
  path: string,
  { imageColumn, labelColumn }: Pick<ParquetImageOptions, "imageColumn" | "labelColumn">,
): Promise<{ sources: Source[]; names: string[] | null }> {
  await import("hyparquet").catch((cause: unknown) => {
    throw new DataError(
      `${op}: the package "hyparquet", which reads Parquet files, can't be loaded (${printable((cause as Error)?.message)}); install it: ` +
        "npm install hyparquet",
      { cause },
    );
  });
  const bad = (what: string, rule: string) =>
    new DataError(`${op}: ${printable(path)}: ${what}; expected ${rule}`);
  let [image, label] = ["", ""];
  let names: string[] | null = null;
  const rows = await readParquet(op, path, ({ columns, notes }) => {
    const pick = (what: string, asked: string | undefined, usual: readonly string[]) => {
      const found = asked === undefined ? usual.find((one) => columns.includes(one)) : asked;
      if (found !== undefined && columns.includes(found)) return found;
      throw bad(
        `has the columns ${columns.map((one) => printable(one)).join(", ")}`,
        `${asked === undefined ? usual.join(" or ") : printable(asked)} with the ${what}: name it as ${what === "images" ? "imageColumn" : "labelColumn"}`,
      );
    };
    image = pick("images", imageColumn, IMAGE_COLUMNS);
    label = pick("classes", labelColumn, LABEL_COLUMNS);
    names = classNamesOf(notes, label);
    return [image, label];
  });
  const sources = rows.map((row, i): Source => {
    const cell = row[image] as { bytes?: unknown } | Uint8Array | null;
    const contents = cell instanceof Uint8Array ? cell : cell?.bytes;
    const value = classOf(row[label]);
    if (!(contents instanceof Uint8Array)) {
      const [what, column] = isPlain(cell) && "bytes" in cell ? [contents, `${image}.bytes`] : [cell, image];
      throw bad(
        `row ${i} has ${show(what)} as ${column}`,
        "the bytes of an image file (BYTE_ARRAY), in the column or in its field bytes",
      );
    }
    if (!(Number.isInteger(value) && value >= 0 && value < MOST_CLASSES)) {
      throw bad(`row ${i} has the ${label} ${show(row[label])}`, `an integer from 0 to ${MOST_CLASSES - 1}`);
    }
    return { label: value, name: `${path}, row ${i}`, read: async () => contents };
  });
  return { sources, names };
}

/** A cell as a class; NaN for what is none: a missing one is not class 0. */
function classOf(cell: unknown): number {
  if (typeof cell === "string") return /^\d+$/.test(cell) ? Number(cell) : Number.NaN;
  return ["number", "bigint", "boolean"].includes(typeof cell) ? Number(cell) : Number.NaN;
}

/** What the library `datasets` notes of a column's classes. */
function classNamesOf(notes: ParquetHead["notes"], column: string): string[] | null {
  const text = notes.find(({ key }) => key === "huggingface")?.value;
  if (text === undefined) return null;
  try {
    const names: unknown = JSON.parse(text)?.info?.features?.[column]?.names;
    const isList = Array.isArray(names) && names.every((name) => typeof name === "string");
    return isList ? names.map((name: string) => printable(name)) : null;
  } catch {
    return null; // a note that only helps
  }
}
