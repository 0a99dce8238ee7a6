/**
 * The IDX format of the MNIST family, gzip or not, from bytes.
 *
 * Two zero bytes, a type code (0x08: unsigned byte), the rank, then one big-endian uint32 per dimension, then
 * the values in row-major order. Described at the foot of https://yann.lecun.com/exdb/mnist/.
 */
import { DataError } from "../errors.ts";
import { type ImageDataset, imageDataset, type NamedBytes } from "./dataset.ts";

const REFETCH = "copy or download the file again (for Fashion-MNIST: `fusenorm data fetch fashion-mnist`)";

export interface IdxArray {
  shape: number[];
  values: Uint8Array;
}

/** True for the two bytes that open every gzip file. */
export function isGzip(bytes: Uint8Array): boolean {
  return bytes[0] === 0x1f && bytes[1] === 0x8b;
}

/** Unpacks a gzip file; other bytes come back as they are. @throws DataError if it is truncated or damaged. */
export async function gunzip({ name, bytes }: NamedBytes): Promise<Uint8Array> {
  if (!isGzip(bytes)) return bytes;
  try {
    const packed = new Blob([bytes as Uint8Array<ArrayBuffer>]).stream();
    return new Uint8Array(
      await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer(),
    );
  } catch (cause) {
    const reason =
      cause instanceof Error ? (cause.cause instanceof Error ? cause.cause : cause).message : cause;
    throw new DataError(
      `${name}: the gzip data is truncated or damaged (${reason}) in a file of ${bytes.length} bytes; ${REFETCH}`,
      { cause },
    );
  }
}

/**
 * Reads an IDX array of unsigned bytes.
 *
 * @throws DataError on a wrong magic number, another element type, or a size that is not what the header says.
 */
export function parseIdx({ name, bytes }: NamedBytes): IdxArray {
  const rank = bytes[3] ?? 0;
  const headerBytes = 4 + 4 * rank;
  if (bytes.length < 4 || bytes[0] !== 0 || bytes[1] !== 0) {
    const found = [...bytes.subarray(0, 4)].map((b) => b.toString(16).padStart(2, "0")).join(" ");
    throw new DataError(
      `${name}: not an IDX file: its ${bytes.length} bytes begin "${found}"; expected 00 00 08 and the rank. ` +
        "Use the *-ubyte or *-ubyte.gz files of the MNIST family as they are published",
    );
  }
  if (bytes[2] !== 0x08 || rank === 0) {
    throw new DataError(
      `${name}: IDX type 0x${bytes[2]!.toString(16).padStart(2, "0")} of rank ${rank}; expected type 0x08 ` +
        "(unsigned byte) of rank 1 or more: convert the values to bytes",
    );
  }
  if (bytes.length < headerBytes) {
    throw new DataError(
      `${name}: truncated in its header: expected ${headerBytes} bytes for rank ${rank}, found ${bytes.length}; ${REFETCH}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const shape = Array.from({ length: rank }, (_, axis) => view.getUint32(4 + 4 * axis));
  const expected = headerBytes + shape.reduce((product, size) => product * size, 1);
  if (bytes.length !== expected) {
    throw new DataError(
      `${name}: ${bytes.length < expected ? "truncated" : "too long"}: expected ${expected} bytes for ` +
        `[${shape.join(", ")}], found ${bytes.length}; ${REFETCH}`,
    );
  }
  return { shape, values: bytes.subarray(headerBytes) };
}

/** Writes an array of unsigned bytes as IDX. */
export function encodeIdx(shape: readonly number[], values: Uint8Array): Uint8Array {
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
  const pixels = parseIdx({ name: images.name, bytes: await gunzip(images) });
  const targets = parseIdx({ name: labels.name, bytes: await gunzip(labels) });
  if (pixels.shape.length !== 3 && pixels.shape.length !== 4) {
    throw new DataError(
      `${images.name}: images of shape [${pixels.shape.join(", ")}]; expected [N, H, W] or [N, H, W, C]` +
        (pixels.shape.length === 1 ? ": is this the label file?" : ""),
    );
  }
  if (targets.shape.length !== 1) {
    throw new DataError(
      `${labels.name}: labels of shape [${targets.shape.join(", ")}]; expected [N]` +
        (targets.shape.length >= 3 ? ": is this the image file?" : ""),
    );
  }
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
