import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { type CifarKind, readCifarDataset } from "../data/cifar.ts";
import {
  type DatasetSplits,
  FASHION_MNIST_CLASSES,
  type ImageDataset,
  type NamedBytes,
} from "../data/dataset.ts";
import { readIdxDataset } from "../data/idx.ts";
import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { checkOptions, checkText, optionNames, show } from "../options.ts";
import { cacheDirectory, packagePath, readNamed } from "./files.ts";
import { IMAGE_FILE, type ImageOptions, loadImageSplits, loadParquetSplits } from "./images.ts";

/** Data sets that have a name of their own; anything else is taken for a directory. */
export const DATASET_NAMES = ["embedded", "fashion-mnist", "cifar10", "cifar100"] as const;
/** A data set that `loadDataset` knows by name. */
export type DatasetName = (typeof DATASET_NAMES)[number];

/** Where Debian and Ubuntu's package `dataset-fashion-mnist` puts its files. */
const DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist";

const WHAT_A_DIRECTORY_HOLDS = `expected one of
  IDX (MNIST family):  {train,t10k}-images-idx3-ubyte[.gz] and {train,t10k}-labels-idx1-ubyte[.gz]
  CIFAR-10 (binary):   data_batch_1.bin … data_batch_5.bin and test_batch.bin
  CIFAR-100 (binary):  train.bin and test.bin
  Parquet:             train*.parquet and test*.parquet or validation*.parquet; or one *.parquet alone
  image folders:       train/<class>/*.png (or .jpg …) and val/<class>/*.png or test/<class>/*.png; or <class>/*.png alone
in the directory or one level down, image folders in it; \`npx fusenorm-cli data fetch fashion-mnist|cifar10|cifar100\` downloads them`;

/** A data set's files, found but not read. */
export interface FoundDataset {
  kind: "idx" | CifarKind | "parquet" | "folders";
  directory: string;
  /** IDX: images, then labels. CIFAR: the batches in order. Parquet: in order. Image folders: the one that holds those of the classes. */
  train: string[];
  /** Of Parquet and image folders none, where every tenth image is held out. */
  test: string[];
}

async function entriesOf(directory: string): Promise<{ files: string[]; directories: string[] }> {
  try {
    const entries = await readdir(directory, { withFileTypes: true });
    const names: { files: string[]; directories: string[] } = { files: [], directories: [] };
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      // A link counts as what it points to: stat follows it.
      const isDirectory = entry.isSymbolicLink()
        ? await stat(join(directory, entry.name)).then(
            (s) => s.isDirectory(),
            () => false,
          )
        : entry.isDirectory();
      names[isDirectory ? "directories" : "files"].push(entry.name);
    }
    return names;
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    const what =
      code === "ENOENT"
        ? "no such directory"
        : code === "ENOTDIR"
          ? "a file, not a directory"
          : (cause as Error).message;
    throw new DataError(
      `${printable(directory)}: ${what}; pass a directory with a data set, or one of the names ${DATASET_NAMES.join(", ")}`,
      { cause },
    );
  }
}

const IDX_FILE = /^(?:(.*)[-_.])?(train|t10k|test)-(images|labels)[-.]idx\d-ubyte(\.gz)?$/;

function matchFiles(directory: string, files: string[]): FoundDataset | undefined {
  const found = (kind: FoundDataset["kind"], train: string[], test: string[]): FoundDataset => {
    const missing = [...train, ...test].filter((file) => !files.includes(file));
    if (missing.length) {
      throw new DataError(
        `${printable(directory)}: ${kind} files are incomplete: ${missing.join(", ")} missing; ${WHAT_A_DIRECTORY_HOLDS}`,
      );
    }
    const paths = (names: string[]) => names.map((name) => join(directory, name));
    return { kind, directory, train: paths(train), test: paths(test) };
  };

  const idx = files.filter((file) => IDX_FILE.test(file));
  if (idx.length) {
    const prefixes = new Set(idx.map((file) => IDX_FILE.exec(file)![1] ?? ""));
    if (prefixes.size > 1) {
      throw new DataError(
        `${printable(directory)}: ${prefixes.size} IDX data sets in one directory (file names begin with ` +
          `${[...prefixes].map((p) => `"${printable(p)}"`).join(", ")}); put the four files of one into a directory of its own`,
      );
    }
    // Sorted, so that of a file that is there both plain and as .gz the plain one, first, is used.
    const pick = (split: RegExp, what: string): string => {
      const file = idx.find((name) => {
        const match = IDX_FILE.exec(name)!;
        return split.test(match[2]!) && match[3] === what;
      });
      return file ?? `${split.source.split("|")[0]}-${what}-idx${what === "images" ? 3 : 1}-ubyte[.gz]`;
    };
    const pair = (split: RegExp) => [pick(split, "images"), pick(split, "labels")];
    return found("idx", pair(/train/), pair(/t10k|test/));
  }
  if (files.some((file) => /^(data_batch_\d|test_batch)\.bin$/.test(file))) {
    return found(
      "cifar10",
      [1, 2, 3, 4, 5].map((i) => `data_batch_${i}.bin`),
      ["test_batch.bin"],
    );
  }
  if (files.includes("train.bin") || files.includes("test.bin")) {
    return found("cifar100", ["train.bin"], ["test.bin"]);
  }
  // Beside image folders a file may tell of them.
  const parquet = files.filter((file) => /^(?!metadata).*\.parquet$/i.test(file));
  if (parquet.length > 0) {
    const beginWith = (word: string) => parquet.filter((file) => file.toLowerCase().startsWith(word));
    const train = beginWith("train");
    const test = TEST_FOLDERS.map(beginWith).find((some) => some.length > 0) ?? [];
    if (train.length === 0 && parquet.length === 1) return found("parquet", parquet, []);
    return found("parquet", train.length > 0 ? train : ["train*.parquet"], test);
  }
  return undefined;
}

/** Names of folders that hold what is trained on, and what it is tested on; of several the first. */
const TRAIN_FOLDERS = ["train", "training"];
const TEST_FOLDERS = ["val", "valid", "validation", "test"];

/** Whether one of the directory's folders, which are those of classes then, has images in it. */
async function holdsClasses(directory: string, folders: readonly string[]): Promise<boolean> {
  for (const name of folders) {
    const { files } = await entriesOf(join(directory, name));
    if (files.some((file) => IMAGE_FILE.test(file))) return true;
  }
  return false;
}

/** Images in a folder for each class: those of `train` and `val` or `test`, or those of the directory itself. */
async function matchFolders(
  directory: string,
  folders: readonly string[],
): Promise<FoundDataset | undefined> {
  const shown = folders.filter((name) => !name.startsWith("."));
  const pick = (names: readonly string[]) => names.find((name) => shown.includes(name));
  const train = pick(TRAIN_FOLDERS);
  if (train !== undefined) {
    const path = join(directory, train);
    if (await holdsClasses(path, (await entriesOf(path)).directories)) {
      const test = pick(TEST_FOLDERS);
      return {
        kind: "folders",
        directory,
        train: [path],
        test: test === undefined ? [] : [join(directory, test)],
      };
    }
  }
  return (await holdsClasses(directory, shown))
    ? { kind: "folders", directory, train: [directory], test: [] }
    : undefined;
}

/**
 * Recognises the data set in a directory, or one level down, from its file names.
 *
 * @throws DataError if there is none, or more than one, or files of it are missing.
 */
export async function findDataset(directory: string): Promise<FoundDataset> {
  if (typeof directory !== "string") {
    throw new DataError(`findDataset: directory is ${show(directory)}; expected a path`);
  }
  const { files, directories } = await entriesOf(directory);
  const here = matchFiles(directory, files);
  if (here) return here;
  const below: FoundDataset[] = [];
  for (const name of directories) {
    const path = join(directory, name);
    const match = matchFiles(path, (await entriesOf(path)).files);
    if (match) below.push(match);
  }
  if (below.length > 1) {
    throw new DataError(
      `${printable(directory)}: ${below.length} data sets below it (${below.map((d) => printable(basename(d.directory))).join(", ")}); ` +
        "pass the directory of one of them",
    );
  }
  if (below[0]) return below[0];
  const images = await matchFolders(directory, directories);
  if (images) return images;
  const shown = [...files, ...directories.map((name) => `${name}/`)];
  const holds = shown.length
    ? `it holds ${shown
        .slice(0, 6)
        .map((name) => printable(name, 80))
        .join(", ")}${shown.length > 6 ? `, … (${shown.length} entries)` : ""}`
    : "it is empty";
  throw new DataError(`${printable(directory)}: no data set found, ${holds}; ${WHAT_A_DIRECTORY_HOLDS}`);
}

/** Directory of the 2,500-image sample of Fashion-MNIST that comes with this package. */
export function embeddedDirectory(): string {
  return packagePath("data");
}

/**
 * Where a data set is: for a name, the embedded sample or the download cache (Fashion-MNIST also as packaged by
 * Debian); otherwise the path itself.
 *
 * @throws DataError if a name's data has not been downloaded, or not all of it.
 */
export async function datasetDirectory(source: string, cache?: string): Promise<string> {
  if (source === "embedded") return embeddedDirectory();
  if (!(DATASET_NAMES as readonly string[]).includes(source)) return resolve(source);
  const places = [join(cacheDirectory(cache), source)];
  if (source === "fashion-mnist") places.push(DEBIAN_FASHION_MNIST);
  for (const place of places) {
    const isComplete = await findDataset(place).then(
      () => true,
      () => false,
    );
    if (isComplete) return place;
  }
  throw new DataError(
    `${source}: no complete copy in ${places.join(" or ")}; run \`npx fusenorm-cli data fetch ${source}\`, ` +
      "or pass the directory it is in",
  );
}

/** A classes.txt larger than this is none. */
const MOST_CLASSES_BYTES = 1 << 20;

async function classNamesOf(directory: string): Promise<string[] | undefined> {
  const path = join(directory, "classes.txt");
  const found = await stat(path).catch(() => undefined);
  if (found) {
    if (found.size > MOST_CLASSES_BYTES) {
      throw new DataError(
        `${printable(path)}: has ${found.size} bytes; expected one class name per line in at most ${MOST_CLASSES_BYTES}`,
      );
    }
    const lines = new TextDecoder().decode((await readNamed(path)).bytes).split(/\r?\n/);
    // Tables and reports print them.
    return lines.filter((line) => line.trim() !== "").map((line) => printable(line));
  }
  // Fashion-MNIST has the very file names of MNIST; only the directory's name tells them apart.
  return /fashion/i.test(basename(directory)) ? [...FASHION_MNIST_CLASSES] : undefined;
}

const TITLES: Record<string, string> = {
  embedded: "Fashion-MNIST sample",
  "fashion-mnist": "Fashion-MNIST",
  cifar10: "CIFAR-10",
  cifar100: "CIFAR-100",
};

/** Folders in the archives of CIFAR: their names say nothing of what has become of the files. */
const CIFAR_FOLDERS = ["cifar-10-batches-bin", "cifar-100-binary"];
/** Reds of the first training image, a stretch of its first row: any re-encoding of the images changes some of them. */
const CIFAR_PIXELS: Record<CifarKind, { at: number; reds: readonly number[] }> = {
  cifar10: { at: 0, reds: [59, 43, 50, 68, 98, 119] },
  cifar100: { at: 29, reds: [195, 212, 182] },
};

/** CIFAR's own title, where these are its images; of others in its format the folder's name. */
function titleOfCifar(kind: CifarKind, source: string, { images }: ImageDataset): string {
  const { at, reds } = CIFAR_PIXELS[kind];
  if (reds.every((red, i) => images[3 * (at + i)] === red)) return TITLES[kind]!;
  const path = resolve(source);
  const folder = basename(path);
  return printable(CIFAR_FOLDERS.includes(folder) ? basename(dirname(path)) : folder);
}

export interface LoadOptions extends Partial<ImageOptions> {
  /** The download cache, instead of the default one. */
  cache?: string;
  /** Title in tables and reports, instead of one from the source. */
  name?: string;
}

const LOAD_OPTIONS = optionNames<LoadOptions>({ cache: 0, name: 0, height: 0, width: 0, channels: 0 });

/** What image folders are scaled to. @throws DataError where it is missing, or the data set has a size of its own */
function sizeFor(
  { kind, directory }: FoundDataset,
  { height, width, channels }: LoadOptions,
): ImageOptions | null {
  const given = [height, width, channels].some((value) => value !== undefined);
  if (kind !== "folders" && kind !== "parquet") {
    if (!given) return null;
    throw new DataError(
      `${printable(directory)}: height, width or channels are given, but only images in folders and Parquet files are scaled; this data set has a ` +
        "size of its own: leave them out",
    );
  }
  if (height !== undefined && width !== undefined) return { height, width, channels };
  throw new DataError(
    `${printable(directory)}: holds images in ${kind === "folders" ? "a folder for each class" : "Parquet files"}; expected the size that they are scaled to: ` +
      "{ height: 64, width: 64 }, or --size 64 of a command",
  );
}

/**
 * Reads a data set: `"embedded"`, `"fashion-mnist"`, `"cifar10"`, `"cifar100"`, or a directory with IDX or binary
 * CIFAR files, with Parquet files as Hugging Face ships them, or with images in a folder for each class. An IDX directory may hold a `classes.txt`, one class name per line.
 *
 * Image folders are `train/<class>/*.png` with `val` or `test` beside `train`, or `<class>/*.png` alone: then every tenth image of a
 * class, in the order of their names, is held out as the test set. They take `height`, `width` and `channels`, as
 * `loadImageFolder` does, and need the package `sharp`. So do Parquet files, `train*.parquet` with `test*.parquet` or
 * `validation*.parquet`, or one alone; they need `hyparquet`, too.
 *
 * @throws DataError naming the file or directory, what was expected and found, and what to do.
 */
export async function loadDataset(source: string, options: LoadOptions = {}): Promise<DatasetSplits> {
  checkOptions("loadDataset", options, LOAD_OPTIONS);
  if (options.name !== undefined) checkText("loadDataset", "name", options.name);
  if (typeof source !== "string" || source === "") {
    throw new DataError(
      `loadDataset: source is ${show(source)}; expected a directory, or one of ${DATASET_NAMES.join(", ")}`,
    );
  }
  if (options.cache !== undefined) checkText("loadDataset", "cache", options.cache);
  const found = await findDataset(await datasetDirectory(source, options.cache));
  const { kind, directory, train, test } = found;
  const size = sizeFor(found, options);
  const given = options.name ?? TITLES[source];
  let splits: DatasetSplits;
  if (size) {
    const title = given ?? printable(basename(directory));
    if (kind === "parquet") return loadParquetSplits(title, train, test, size);
    return loadImageSplits(title, train[0]!, test[0] ?? null, size);
  }
  if (kind === "idx") {
    const title = given ?? printable(basename(directory));
    const read = async (split: string, paths: string[], classNames?: readonly string[]) => {
      const [images, labels] = (await Promise.all(paths.map(readNamed))) as [NamedBytes, NamedBytes];
      return readIdxDataset(`${title} ${split}`, images, labels, classNames);
    };
    const first = await read("train", train, await classNamesOf(directory));
    splits = { train: first, test: await read("test", test, first.classNames) };
  } else {
    const read = async (split: string, paths: string[]) =>
      readCifarDataset(split, kind as CifarKind, await Promise.all(paths.map(readNamed)));
    splits = { train: await read("train", train), test: await read("test", test) };
    const title = given ?? titleOfCifar(kind as CifarKind, source, splits.train);
    for (const split of Object.values(splits)) split.name = `${title} ${split.name}`;
  }
  const sides = ({ height, width, channels }: ImageDataset) => `[${height}, ${width}, ${channels}]`;
  if (sides(splits.train) !== sides(splits.test)) {
    throw new DataError(
      `${printable(directory)}: training images are ${sides(splits.train)}, test images ${sides(splits.test)} (height, width, ` +
        "channels); expected one size: take all files from the same data set",
    );
  }
  return splits;
}
