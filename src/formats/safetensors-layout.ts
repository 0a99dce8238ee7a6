// The safetensors format: an 8-byte little-endian header length, a JSON header, raw tensor bytes. What its readers and writers share.

import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { show } from "../options.ts";
import { type Shape, sizeOf } from "../tensor/shape.ts";
import { STORED_TYPES, type StoredType } from "./elements.ts";

/** As in the format's own library. */
const MOST_HEADER_BYTES = 100_000_000;

/** Makes an error of what is wrong with a file, and of what is expected. */
export type Bad = (what: string, rule?: string) => DataError;

/** One tensor of a file to be written. */
export interface Part {
  name: string;
  code: StoredType;
  shape: Shape;
  bytes: Uint8Array;
}

/** One tensor of a file that is read: its bytes are `from` … `to` of the data. */
export interface Entry<T extends StoredType = StoredType> {
  key: string;
  dtype: T;
  shape: number[];
  from: number;
  to: number;
}

/** Put together entry by entry, since an object would move names such as "0" to the front. */
export function headerField(key: string, value: unknown): string {
  return `,${JSON.stringify(key)}:${JSON.stringify(value)}`;
}

/** @param opening the header up to its tensors, such as `{"__metadata__":{}` */
export function assemble(op: string, opening: string, parts: readonly Part[]): Uint8Array<ArrayBuffer> {
  let header = opening;
  let offset = 0;
  for (const { name, code, shape, bytes } of parts) {
    header += headerField(name, { dtype: code, shape, data_offsets: [offset, offset + bytes.length] });
    offset += bytes.length;
  }
  const json = new TextEncoder().encode(`${header}}`);
  // Padded with spaces, so that the data starts at a multiple of 8.
  const headerBytes = Math.ceil(json.length / 8) * 8;
  if (headerBytes > MOST_HEADER_BYTES) {
    throw new DataError(
      `${op}: names and metadata take ${headerBytes} bytes; expected at most ${MOST_HEADER_BYTES}: shorten the metadata`,
    );
  }
  const file = new Uint8Array(8 + headerBytes + offset);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.fill(0x20, 8, 8 + headerBytes);
  file.set(json, 8);
  let at = 8 + headerBytes;
  for (const { bytes } of parts) {
    file.set(bytes, at);
    at += bytes.length;
  }
  return file;
}

/** The header's entries, and where the data starts. */
export function readHeader(
  file: Uint8Array,
  bad: Bad,
): { entries: Record<string, unknown>; metadata: Record<string, string>; start: number } {
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
  const { __metadata__: metadata = {}, ...entries } = header;
  if (!isRecord(metadata) || !Object.values(metadata).every((text) => typeof text === "string")) {
    throw bad("its __metadata__ is not text by name", '{ "name": "text", … }');
  }
  return { entries, metadata: metadata as Record<string, string>, start: 8 + length };
}

/** The tensors that the header tells of, each checked by itself. */
export function readEntries<T extends StoredType>(
  file: Uint8Array,
  start: number,
  entries: Record<string, unknown>,
  types: readonly T[],
  bad: Bad,
): Entry<T>[] {
  return Object.entries(entries).map(([key, entry]) => {
    const checked = checkedEntry(key, entry, types, bad);
    if (start + checked.to > file.length) {
      throw bad(`it ends at byte ${file.length}, ${printable(key)} reaches to byte ${start + checked.to}`);
    }
    return checked;
  });
}

/** Refuses tensors that share bytes: a small file could claim any amount of memory. */
export function checkApart(entries: readonly Entry[], bad: Bad): void {
  const stored = entries.filter(({ from, to }) => to > from).sort((a, b) => a.from - b.from);
  stored.slice(1).forEach(({ key, from }, i) => {
    const before = stored[i]!;
    if (from >= before.to) return;
    throw bad(
      `${printable(key)} begins at byte ${from} of the data, ${printable(before.key)} ends at ${before.to}`,
      "tensors that share no bytes",
    );
  });
}

/** What the header says of one tensor. */
function checkedEntry<T extends StoredType>(
  key: string,
  entry: unknown,
  types: readonly T[],
  bad: Bad,
): Entry<T> {
  const name = printable(key);
  if (!isRecord(entry)) throw bad(`${name} is ${show(entry)}`, "{ dtype, shape, data_offsets }");
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!types.includes(dtype as T)) {
    throw bad(
      `${name} has dtype ${printable(dtype)}`,
      `${types.join(", ")}: convert it where the file was made (in PyTorch, tensor.float()), or leave it out`,
    );
  }
  const known = dtype as T;
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
  const bytes = sizeOf(shape) * STORED_TYPES[known].bytes;
  if (to - from !== bytes) {
    throw bad(`${name} has ${to - from} bytes for shape ${show(shape)} of ${known}`, `${bytes}`);
  }
  return { key, dtype: known, shape, from, to };
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value);
}

export function isShape(shape: unknown): shape is number[] {
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
