// Checkpoints in the safetensors format: an 8-byte little-endian header length, a JSON header, raw tensor bytes.

import { DataError } from "../errors.ts";
import type { StateDict } from "../nn/module.ts";
import type { DType } from "../tensor/dtype.ts";
import { sizeOf } from "../tensor/shape.ts";

const codes: Record<string, string> = { float32: "F32", uint32: "U32", uint8: "U8" };
const constructors = { F32: Float32Array, U32: Uint32Array, U8: Uint8Array };
const dtypes: Record<string, DType> = { F32: "float32", U32: "uint32", U8: "uint8" };

/** Named tensors, and text by key. */
export interface Checkpoint {
  tensors: StateDict;
  metadata: Record<string, string>;
}

/** One file's bytes, readable by any safetensors reader. */
export function encodeCheckpoint({ tensors, metadata }: Checkpoint): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let offset = 0;
  for (const [name, { shape, dtype, data }] of Object.entries(tensors)) {
    const code = codes[dtype];
    if (!code)
      throw new DataError(`checkpoint: ${name} is ${dtype}; expected ${Object.keys(codes).join(", ")}`);
    header[name] = { dtype: code, shape, data_offsets: [offset, offset + data.byteLength] };
    offset += data.byteLength;
  }
  // Padded with spaces, so that the data starts at a multiple of 8.
  const json = new TextEncoder().encode(JSON.stringify(header));
  const headerBytes = Math.ceil(json.length / 8) * 8;
  const file = new Uint8Array(8 + headerBytes + offset);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.fill(0x20, 8, 8 + headerBytes);
  file.set(json, 8);
  let at = 8 + headerBytes;
  for (const { data } of Object.values(tensors)) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return file;
}

/** @throws DataError if the bytes are truncated, or not a checkpoint. `name` is the file's, for messages. */
export function decodeCheckpoint(file: Uint8Array, name: string): Checkpoint {
  const bad = (what: string) =>
    new DataError(
      `checkpoint ${name}: ${what}; expected a file that fusenorm wrote: start anew, or resume from another`,
    );
  if (file.length < 8) throw bad(`has ${file.length} bytes, less than its header`);
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  if (length > file.length - 8)
    throw bad(`its header wants ${length} bytes, the file has ${file.length - 8} more`);
  let header: Record<
    string,
    { dtype: keyof typeof constructors; shape: number[]; data_offsets: [number, number] }
  >;
  let metadata: Record<string, string>;
  try {
    ({ __metadata__: metadata, ...header } = JSON.parse(
      new TextDecoder().decode(file.subarray(8, 8 + length)),
    ));
  } catch {
    throw bad("its header is not JSON");
  }
  const tensors: StateDict = {};
  for (const [key, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
    const Constructor = constructors[dtype];
    if (!Constructor) throw bad(`${key} has dtype ${dtype}`);
    const [start, end] = offsets;
    if (end - start !== sizeOf(shape) * Constructor.BYTES_PER_ELEMENT) {
      throw bad(`${key} has ${end - start} bytes for shape [${shape.join(", ")}] of ${dtype}`);
    }
    if (8 + length + end > file.length) {
      throw bad(`it ends at byte ${file.length}, ${key} reaches to byte ${8 + length + end}`);
    }
    // A copy of its own, aligned for its type. (`slice` would not do: on Node's Buffer it is a view.)
    const bytes = new Uint8Array(file.subarray(8 + length + start, 8 + length + end));
    tensors[key] = { shape, dtype: dtypes[dtype]!, data: new Constructor(bytes.buffer) };
  }
  return { tensors, metadata: metadata ?? {} };
}
