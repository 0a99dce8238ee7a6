// Checkpoints in the safetensors format: an 8-byte little-endian header length, a JSON header, raw tensor bytes.

import { DataError } from "../errors.ts";
import { isBytes, printable } from "../foreign.ts";
import type { StateDict } from "../nn/module.ts";
import { checkText, show } from "../options.ts";
import type { DType } from "../tensor/dtype.ts";
import { formatShape, sizeOf } from "../tensor/shape.ts";
import type { TensorData } from "../tensor/tensor.ts";

/** The types of the format that are read and written here, by its own names. */
const TYPES = {
  F32: { dtype: "float32", Constructor: Float32Array },
  U32: { dtype: "uint32", Constructor: Uint32Array },
  U8: { dtype: "uint8", Constructor: Uint8Array },
} satisfies Record<string, { dtype: DType; Constructor: new (buffer: ArrayBuffer) => TensorData }>;

/** As in the format's own library. */
const MOST_HEADER_BYTES = 100_000_000;

// Our own files carry a CRC-32 of the whole file, worked out with zeros in its place. It stands at a fixed place, first in
// the metadata; the mark that says so stands last, so that no small damage makes one of our files pass for another program's.
const CHECKSUM = "fusenorm.checksum";
const MARK = "fusenorm.checked";
const OPENING = `{"__metadata__":{"${CHECKSUM}":"crc32:`;
const DIGITS_AT = 8 + OPENING.length;
const NO_DIGITS = "00000000";

/** Named tensors, and text by key. */
export interface Checkpoint {
  tensors: StateDict;
  metadata: Record<string, string>;
}

/**
 * One file's bytes, with a checksum, readable by any safetensors reader.
 *
 * @throws DataError on a tensor whose data is not what its shape and type say, a name that the format keeps for itself, or
 *   metadata that is not text.
 */
export function encodeCheckpoint(checkpoint: Checkpoint): Uint8Array<ArrayBuffer> {
  const { tensors, metadata } = checkpoint ?? {};
  for (const [field, value] of Object.entries({ tensors, metadata })) {
    if (!isRecord(value)) {
      throw new DataError(`encodeCheckpoint: ${field} is ${show(value)}; expected { name: … }, {} for none`);
    }
  }
  for (const [key, text] of Object.entries(metadata)) {
    if (typeof text !== "string" || [CHECKSUM, MARK, "__proto__"].includes(key)) {
      throw new DataError(
        `encodeCheckpoint: metadata ${printable(key)} is ${show(text)}; expected text, under another name than ` +
          `${CHECKSUM}, ${MARK} and __proto__`,
      );
    }
  }
  // Put together entry by entry: an object would move names such as "0" to the front.
  const field = (key: string, value: unknown) => `,${JSON.stringify(key)}:${JSON.stringify(value)}`;
  let header = `${OPENING}${NO_DIGITS}"`;
  for (const [key, text] of Object.entries(metadata)) header += field(key, text);
  header += `${field(MARK, "1")}}`;
  const parts: Uint8Array[] = [];
  let offset = 0;
  for (const [name, tensor] of Object.entries(tensors)) {
    const { code, bytes } = checkedTensor(name, tensor);
    header += field(name, {
      dtype: code,
      shape: tensor.shape,
      data_offsets: [offset, offset + bytes.length],
    });
    offset += bytes.length;
    parts.push(bytes);
  }
  const json = new TextEncoder().encode(`${header}}`);
  // Padded with spaces, so that the data starts at a multiple of 8.
  const headerBytes = Math.ceil(json.length / 8) * 8;
  if (headerBytes > MOST_HEADER_BYTES) {
    throw new DataError(
      `encodeCheckpoint: names and metadata take ${headerBytes} bytes; expected at most ${MOST_HEADER_BYTES}: shorten the metadata`,
    );
  }
  const file = new Uint8Array(8 + headerBytes + offset);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.fill(0x20, 8, 8 + headerBytes);
  file.set(json, 8);
  let at = 8 + headerBytes;
  for (const bytes of parts) {
    file.set(bytes, at);
    at += bytes.length;
  }
  file.set(new TextEncoder().encode(checksumOf(file)), DIGITS_AT);
  return file;
}

function checkedTensor(name: string, tensor: StateDict[string]): { code: string; bytes: Uint8Array } {
  const bad = (what: string) => new DataError(`encodeCheckpoint: ${printable(name)} ${what}`);
  if (name === "__metadata__" || name === "__proto__") throw bad("is no name for a tensor; expected another");
  if (!isRecord(tensor)) throw bad(`is ${show(tensor)}; expected { shape, dtype, data }`);
  const { shape, dtype, data } = tensor;
  const found = Object.entries(TYPES).find(([, type]) => type.dtype === dtype);
  if (!found) {
    const known = Object.values(TYPES).map((type) => type.dtype);
    throw bad(`is ${printable(dtype)}; expected ${known.join(", ")}: cast it first`);
  }
  const [code, { Constructor }] = found;
  if (!isShape(shape)) throw bad(`has shape ${show(shape)}; expected a list of integers from 0`);
  // The tag, not the class: arrays of another realm (an iframe's, a test runner's) are as good.
  if (!ArrayBuffer.isView(data) || data[Symbol.toStringTag] !== Constructor.name) {
    throw bad(`has data ${show(data)}; expected a ${Constructor.name} for ${dtype}`);
  }
  if (data.length !== sizeOf(shape)) {
    throw bad(`has ${data.length} values for shape ${formatShape(shape)}; expected ${sizeOf(shape)}`);
  }
  return { code, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
}

/**
 * Reads a safetensors file. Files of ours are checked against their checksum; those of other programs may have tensors in any
 * order and gaps between them.
 *
 * @param name the file's, for messages
 * @throws DataError if the bytes are truncated, damaged, not a checkpoint, or hold a type that is not read here
 */
export function decodeCheckpoint(file: Uint8Array, name: string): Checkpoint {
  const bad = (what: string, rule = "a file that fusenorm wrote: start anew, or resume from another") =>
    new DataError(`checkpoint ${printable(name)}: ${what}; expected ${rule}`);
  checkText("decodeCheckpoint", "name", name);
  if (!isBytes(file)) throw bad(`is ${show(file)}`, "a Uint8Array of the file's contents");
  if (file.length < 8) throw bad(`has ${file.length} bytes, less than its header`);
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  if (length > file.length - 8) {
    throw bad(`its header wants ${length} bytes, the file has ${file.length - 8} more`);
  }
  if (length > MOST_HEADER_BYTES) throw bad(`its header has ${length} bytes`, `at most ${MOST_HEADER_BYTES}`);

  let header: Record<string, unknown>;
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(
      file.subarray(8, 8 + length),
    );
    header = JSON.parse(text);
    const twice = repeatedKey(text);
    if (twice !== undefined) throw bad(`its header has the key ${printable(twice)} twice`, "each name once");
  } catch (error) {
    if (error instanceof DataError) throw error;
    throw bad("its header is not JSON");
  }
  if (!isRecord(header)) throw bad(`its header is ${show(header)}`, "an object of tensors by name");
  const { __metadata__: marked = {}, ...entries } = header;
  if (!isRecord(marked) || !Object.values(marked).every((text) => typeof text === "string")) {
    throw bad("its __metadata__ is not text by name", '{ "name": "text", … }');
  }
  const { [CHECKSUM]: checksum, [MARK]: mark, ...metadata } = marked as Record<string, string>;
  const sum = checksum === undefined && mark === undefined ? null : `crc32:${checksumOf(file)}`;
  const isDamaged = sum !== null && checksum !== sum;
  // What damage did to an entry is told with the damage, or the advice would lead astray.
  const wrong: Bad = (what, rule) =>
    isDamaged
      ? bad(
          `${what}: the file is damaged, its checksum is ${printable(checksum)}, its bytes come to ${sum}`,
          `the same: take another copy (a program that rewrites such a file must leave out the metadata ${CHECKSUM} and ${MARK})`,
        )
      : bad(what, rule);

  const start = 8 + length;
  const found = Object.entries(entries).map(([key, entry]) => {
    const checked = { key, ...checkedEntry(key, entry, wrong) };
    if (start + checked.to > file.length) {
      throw wrong(`it ends at byte ${file.length}, ${printable(key)} reaches to byte ${start + checked.to}`);
    }
    return checked;
  });
  if (isDamaged) throw wrong("its bytes have changed");
  const stored = found.filter(({ from, to }) => to > from).sort((a, b) => a.from - b.from);
  stored.slice(1).forEach(({ key, from }, i) => {
    const before = stored[i]!;
    if (from >= before.to) return;
    throw bad(
      `${printable(key)} begins at byte ${from} of the data, ${printable(before.key)} ends at ${before.to}`,
      "tensors that share no bytes",
    );
  });
  const tensors = found.map(({ key, dtype, shape, from, to }): [string, StateDict[string]] => {
    const { Constructor, dtype: ours } = TYPES[dtype];
    // A copy of its own, aligned for its type. (`slice` would not do: on Node's Buffer it is a view.)
    const bytes = new Uint8Array(file.subarray(start + from, start + to));
    return [key, { shape, dtype: ours, data: new Constructor(bytes.buffer) }];
  });
  // fromEntries, since a tensor may have a name that objects have a property of.
  return { tensors: Object.fromEntries(tensors), metadata };
}

type Bad = (what: string, rule?: string) => DataError;

/** What the header says of one tensor. */
function checkedEntry(key: string, entry: unknown, bad: Bad) {
  const name = printable(key);
  if (!isRecord(entry)) throw bad(`${name} is ${show(entry)}`, "{ dtype, shape, data_offsets }");
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !Object.hasOwn(TYPES, dtype)) {
    throw bad(
      `${name} has dtype ${printable(dtype)}`,
      `${Object.keys(TYPES).join(", ")}: convert it where the file was made (in PyTorch, tensor.float()), or leave it out`,
    );
  }
  const known = dtype as keyof typeof TYPES;
  if (!isShape(shape)) throw bad(`${name} has shape ${show(shape)}`, "a list of integers from 0");
  const isOffset = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
  if (
    !Array.isArray(offsets) ||
    offsets.length !== 2 ||
    !offsets.every(isOffset) ||
    offsets[1] < offsets[0]
  ) {
    throw bad(`${name} has data_offsets ${show(offsets)}`, "[begin, end], integers from 0 in that order");
  }
  const [from, to] = offsets as [number, number];
  if (to - from !== sizeOf(shape) * TYPES[known].Constructor.BYTES_PER_ELEMENT) {
    throw bad(
      `${name} has ${to - from} bytes for shape ${show(shape)} of ${known}`,
      `${sizeOf(shape) * TYPES[known].Constructor.BYTES_PER_ELEMENT}`,
    );
  }
  return { dtype: known, shape, from, to };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value);
}

function isShape(shape: unknown): shape is number[] {
  return (
    Array.isArray(shape) &&
    shape.findIndex((dim) => !(Number.isSafeInteger(dim) && dim >= 0)) < 0 &&
    (shape.includes(0) || Number.isSafeInteger(sizeOf(shape)))
  );
}

/**
 * A key that stands twice in one object of valid JSON (`JSON.parse` keeps the last), or the key `__proto__`, which is not
 * safe to copy; else undefined.
 */
function repeatedKey(json: string): string | undefined {
  // Keys seen in each object that is open; null for a list.
  const open: (Set<string> | null)[] = [];
  let isKey = false;
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (c === "{" || c === "[") open.push(c === "{" ? new Set() : null);
    else if (c === "}" || c === "]") open.pop();
    if (c === '"') {
      const from = i++;
      while (json[i] !== '"') i += json[i] === "\\" ? 2 : 1;
      if (isKey) {
        const key: string = JSON.parse(json.slice(from, i + 1));
        const keys = open.at(-1)!;
        if (keys.has(key) || key === "__proto__") return key;
        keys.add(key);
      }
      isKey = false;
    } else if (c === "{" || c === "," || c === "[") isKey = open.at(-1) instanceof Set;
  }
  return undefined;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

function crc32(crc: number, bytes: Uint8Array): number {
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]!) & 255]! ^ (crc >>> 8);
  return crc;
}

/** CRC-32 of a file with zeros in place of its checksum's digits, as eight hexadecimal digits. */
function checksumOf(file: Uint8Array): string {
  const digits = new TextEncoder().encode(NO_DIGITS);
  let crc = crc32(~0, file.subarray(0, DIGITS_AT));
  crc = crc32(crc, digits);
  crc = ~crc32(crc, file.subarray(DIGITS_AT + digits.length));
  return (crc >>> 0).toString(16).padStart(NO_DIGITS.length, "0");
}
