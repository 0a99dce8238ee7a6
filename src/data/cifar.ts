/**
 * CIFAR-10 and CIFAR-100 in their binary version, from bytes: https://www.cs.toronto.edu/~kriz/cifar.html.
 *
 * A file is a row of records: one label byte (CIFAR-100: the coarse label, then the fine one), then 3,072 pixel
 * bytes as three planes of 32×32, red, green, blue. Planes become NHWC here.
 */
import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { show } from "../options.ts";
import { checkNamedBytes, type ImageDataset, imageDataset, type NamedBytes } from "./dataset.ts";

/** Which of the two data sets of Krizhevsky 2009 a file holds. */
export type CifarKind = "cifar10" | "cifar100";

const SIZE = 32;
const CHANNELS = 3;
const PLANE = SIZE * SIZE;
const IMAGE_BYTES = PLANE * CHANNELS;

/** The ten classes of CIFAR-10, by label. */
export const CIFAR10_CLASSES: readonly string[] =
  "airplane automobile bird cat deer dog frog horse ship truck".split(" ");

/** The hundred fine classes of CIFAR-100, by label. */
export const CIFAR100_CLASSES: readonly string[] = (
  "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can " +
  "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin " +
  "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster " +
  "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck " +
  "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk " +
  "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger " +
  "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
).split(" ");

const KINDS = {
  cifar10: { labelBytes: 1, classNames: CIFAR10_CLASSES },
  cifar100: { labelBytes: 2, classNames: CIFAR100_CLASSES },
};

/**
 * Reads CIFAR batch files, in the given order, into one data set of [N, 32, 32, 3].
 *
 * Any number of whole records per file is accepted, so that a user may bring a part or data of their own.
 * @throws DataError on another kind, no files, an empty file, a file that ends inside a record, or a label out of range.
 */
export function readCifarDataset(name: string, kind: CifarKind, files: readonly NamedBytes[]): ImageDataset {
  if (typeof name !== "string") {
    throw new DataError(`readCifarDataset: name is ${show(name)}; expected a text, for tables and messages`);
  }
  if (typeof kind !== "string" || !Object.hasOwn(KINDS, kind)) {
    throw new DataError(
      `readCifarDataset: kind is ${show(kind)}; expected ${Object.keys(KINDS).join(" or ")}`,
    );
  }
  if (!Array.isArray(files) || files.length === 0) {
    throw new DataError(
      `readCifarDataset: files are ${show(files)}; expected a list of at least one { name, bytes }`,
    );
  }
  const { labelBytes, classNames } = KINDS[kind];
  const recordBytes = labelBytes + IMAGE_BYTES;
  let count = 0;
  for (const file of files as readonly NamedBytes[]) {
    checkNamedBytes("readCifarDataset", file);
    const extra = file.bytes.length % recordBytes;
    if (file.bytes.length === 0 || extra !== 0) {
      const whole = Math.floor(file.bytes.length / recordBytes);
      throw new DataError(
        `${printable(file.name)}: ${file.bytes.length === 0 ? "empty" : "truncated, or not a binary CIFAR file"}: expected a ` +
          `multiple of ${recordBytes} bytes (10000 records: ${10000 * recordBytes}), found ${file.bytes.length} = ` +
          `${whole} records + ${extra} bytes; download it again with \`npx fusenorm-cli data fetch ${kind}\``,
      );
    }
    count += file.bytes.length / recordBytes;
  }
  const images = new Uint8Array(count * IMAGE_BYTES);
  const labels = new Uint8Array(count);
  let n = 0;
  for (const { name: file, bytes } of files as readonly NamedBytes[]) {
    for (let record = 0; record < bytes.length; record += recordBytes, n++) {
      const label = bytes[record + labelBytes - 1]!;
      if (label >= classNames.length) {
        throw new DataError(
          `${printable(file)}: label ${label} in record ${record / recordBytes}; expected 0 … ${classNames.length - 1}: ` +
            `not a ${kind} file, or damaged; download it again with \`npx fusenorm-cli data fetch ${kind}\``,
        );
      }
      labels[n] = label;
      const from = record + labelBytes;
      const to = n * IMAGE_BYTES;
      for (let pixel = 0; pixel < PLANE; pixel++) {
        images[to + CHANNELS * pixel] = bytes[from + pixel]!;
        images[to + CHANNELS * pixel + 1] = bytes[from + PLANE + pixel]!;
        images[to + CHANNELS * pixel + 2] = bytes[from + 2 * PLANE + pixel]!;
      }
    }
  }
  return imageDataset({
    name,
    images,
    labels,
    height: SIZE,
    width: SIZE,
    channels: CHANNELS,
    classNames: [...classNames],
  });
}
