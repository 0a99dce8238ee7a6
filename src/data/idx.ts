/**
 * The IDX format of the MNIST family, gzip or not, from bytes.
 *
 * Two zero bytes, a type code (0x08: unsigned byte), the rank, then one big-endian uint32 per dimension, then
 * the values in row-major order. Described at the foot of https://yann.lecun.com/exdb/mnist/.
 */
import { DataError } from "../errors.ts";
import { isBytes, printable } from "../foreign.ts";
import { checkArray, checkText, show } from "../options.ts";
import { sizeOf } from "../tensor/shape.ts";
import { checkCounts, checkNamedBytes, type ImageDataset, imageDataset, type NamedBytes } from "./dataset.ts";
import { isGzip, unpackGzip } from "./gzip.ts";

const REFETCH =
  "copy or download the file again (for Fashion-MNIST: `npx fusenorm-cli data fetch fashion-mnist`)";

/** An array out of an IDX file, as MNIST's are. */
export interface IdxArray {
  shape: number[];
  values: Uint8Array;
}

/** What an IDX header says. */
interface IdxHeader {
  shape: number[];
  headerBytes: number;
  /** Of the whole file. */
  fileBytes: number;
}

/** Reads a header from a file's beginning; undefined if that is too short to tell. @throws DataError if it is no IDX header. */
function idxHeader(name: string, bytes: Uint8Array): IdxHeader | undefined {
  const rank = bytes[3] ?? 0;
  const headerBytes = 4 + 4 * rank;
  if (bytes.length < 4 || bytes[0] !== 0 || bytes[1] !== 0) {
    const found = [...bytes.subarray(0, 4)].map((b) => b.toString(16).padStart(2, "0")).join(" ");
    throw new DataError(
      `${printable(name)}: not an IDX file: its ${bytes.length} bytes begin "${found}"; expected 00 00 08 and the rank. ` +
        "Use the *-ubyte or *-ubyte.gz files of the MNIST family as they are published",
    );
  }
  if (bytes[2] !== 0x08 || rank === 0) {
    throw new DataError(
      `${printable(name)}: IDX type 0x${bytes[2]!.toString(16).padStart(2, "0")} of rank ${rank}; expected type 0x08 ` +
        "(unsigned byte) of rank 1 or more: convert the values to bytes",
    );
  }
  if (bytes.length < headerBytes) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const shape = Array.from({ length: rank }, (_, axis) => view.getUint32(4 + 4 * axis));
  const fileBytes = headerBytes + (shape.includes(0) ? 0 : sizeOf(shape));
  if (!Number.isSafeInteger(fileBytes)) {
    throw new DataError(
      `${printable(name)}: its header names [${shape.join(", ")}] values, more than a file can hold; ${REFETCH}`,
    );
  }
  return { shape, headerBytes, fileBytes };
}

/**
 * Reads an IDX array of unsigned bytes.
 *
 * @throws DataError on a wrong magic number, another element type, or a size that is not what the header says.
 */
export function parseIdx(file: NamedBytes): IdxArray {
  checkNamedBytes("parseIdx", file);
  const { name, bytes } = file;
  const header = idxHeader(name, bytes);
  if (!header) {
    throw new DataError(
      `${printable(name)}: truncated in its header: expected ${4 + 4 * bytes[3]!} bytes for rank ${bytes[3]}, ` +
        `found ${bytes.length}; ${REFETCH}`,
    );
  }
  const { shape, headerBytes, fileBytes } = header;
  if (bytes.length !== fileBytes) {
    throw new DataError(
      `${printable(name)}: ${bytes.length < fileBytes ? "truncated" : "too long"}: expected ${fileBytes} bytes for ` +
        `[${shape.join(", ")}], found ${bytes.length}; ${REFETCH}`,
    );
  }
  return { shape, values: bytes.subarray(headerBytes) };
}

/**
 * Reads an IDX array, gzip or not. `check` sees the shape first, and no more is unpacked than the header names, so that a
 * small file that would unpack to gigabytes costs nothing.
 */
async function readIdx(file: NamedBytes, check: (shape: number[]) => void): Promise<IdxArray> {
  const { name, bytes } = file;
  const checked = (beginning: Uint8Array): IdxHeader | undefined => {
    const header = idxHeader(name, beginning);
    if (header) check(header.shape);
    return header;
  };
  if (!isGzip(bytes)) {
    checked(bytes);
    return parseIdx(file);
  }
  let header: IdxHeader | undefined;
  const unpacked = await unpackGzip(file, (soFar) => {
    if (soFar.length >= 4) header ??= checked(soFar);
    return (
      header && { bytes: header.fileBytes, why: `of its header for [${header.shape.join(", ")}]; ${REFETCH}` }
    );
  });
  return parseIdx({ name, bytes: unpacked });
}

/**
 * Writes an array of unsigned bytes as IDX.
 *
 * @throws DataError unless there are 1 to 255 dimensions below 2³² whose product is the number of values.
 */
export function encodeIdx(shape: readonly number[], values: Uint8Array): Uint8Array {
  const isSize = (size: unknown) =>
    Number.isInteger(size) && (size as number) >= 0 && (size as number) < 2 ** 32;
  if (
    !Array.isArray(shape) ||
    shape.length < 1 ||
    shape.length > 255 ||
    shape.findIndex((size) => !isSize(size)) >= 0
  ) {
    throw new DataError(
      `encodeIdx: shape is ${show(shape)}; expected a list of 1 to 255 integers from 0 to 2³² − 1`,
    );
  }
  if (!isBytes(values)) {
    throw new DataError(
      `encodeIdx: values are ${show(values)}; expected a Uint8Array: IDX files hold bytes here`,
    );
  }
  if (sizeOf(shape) !== values.length) {
    throw new DataError(
      `encodeIdx: shape [${shape.join(", ")}] has ${sizeOf(shape)} values, ${values.length} were given; expected as many`,
    );
  }
  const out = new Uint8Array(4 + 4 * shape.length + values.length);
  const view = new DataView(out.buffer);
  out[2] = 0x08;
  out[3] = shape.length;
  shape.forEach((size, axis) => {
    view.setUint32(4 + 4 * axis, size);
  });
  out.set(values, 4 + 4 * shape.length);
  return out;
}

/**
 * One split of an MNIST-like data set: images [N, H, W] or [N, H, W, C], labels [N], each gzip or not.
 *
 * Without `classNames` the classes are the numbers 0 … largest label.
 * @throws DataError naming the file, what it holds, and what was expected.
 */
export async function readIdxDataset(
  name: string,
  images: NamedBytes,
  labels: NamedBytes,
  classNames?: readonly string[],
): Promise<ImageDataset> {
  if (typeof name !== "string") {
    throw new DataError(`readIdxDataset: name is ${show(name)}; expected a text, for tables and messages`);
  }
  if (classNames !== undefined) {
    checkArray("readIdxDataset", "classNames", classNames, "texts, one per class");
    for (const className of classNames) checkText("readIdxDataset", "a class name", className);
  }
  checkNamedBytes("readIdxDataset: images", images);
  checkNamedBytes("readIdxDataset: labels", labels);
  const targets = await readIdx(labels, (shape) => {
    if (shape.length === 1) return;
    throw new DataError(
      `${printable(labels.name)}: labels of shape [${shape.join(", ")}]; expected [N]` +
        (shape.length >= 3 ? ": is this the image file?" : ""),
    );
  });
  const pixels = await readIdx(images, (shape) => {
    if (shape.length !== 3 && shape.length !== 4) {
      throw new DataError(
        `${printable(images.name)}: images of shape [${shape.join(", ")}]; expected [N, H, W] or [N, H, W, C]` +
          (shape.length === 1 ? ": is this the label file?" : ""),
      );
    }
    checkCounts(images.name, shape[0]!, labels.name, targets.values.length);
  });
  const [, height, width, channels = 1] = pixels.shape as [number, number, number, number?];
  const classes = targets.values.reduce((most, label) => Math.max(most, label), 0) + 1;
  return imageDataset({
    name,
    images: pixels.values,
    labels: targets.values,
    height,
    width,
    channels,
    classNames: [...(classNames ?? Array.from({ length: classes }, (_, i) => String(i)))],
    source: { images: images.name, labels: labels.name },
  });
}
