// NumPy's files: `.npy`, one array with a header that is a Python dictionary; `.npz`, a zip archive of these.

import { DataError } from "../errors.ts";
import { isBytes, printable } from "../foreign.ts";
import type { StateDict } from "../nn/module.ts";
import {
  checkChoice,
  checkFlag,
  checkNumber,
  checkOptions,
  checkText,
  isPlain,
  optionNames,
  show,
} from "../options.ts";
import { type Shape, sizeOf } from "../tensor/shape.ts";
import { crc32 } from "./crc32.ts";
import { fromStored, STORED_AS, STORED_TYPES, type StoredType, toStored } from "./elements.ts";
import { isRecord, isShape } from "./safetensors-layout.ts";
import { checkedTensor } from "./tensor-data.ts";

/** NumPy's letter and size for each type; it has no bfloat16. */
const CODES: Partial<Record<StoredType, string>> = {
  ...{ F64: "f8", F32: "f4", F16: "f2" },
  ...{ I64: "i8", I32: "i4", I16: "i2", I8: "i1", U64: "u8", U32: "u4", U16: "u2", U8: "u1", BOOL: "b1" },
};
const MAGIC = Uint8Array.of(0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59); // \x93NUMPY
/** NumPy refuses longer ones too, unless told. */
const MOST_HEADER_BYTES = 10_000;

type Bad = (what: string, rule?: string) => DataError;
type Array_ = StateDict[string];

/** Options of `encodeNpy`. */
export interface NpyOptions {
  /** The type to store; default float32, float16, uint32 and uint8 as NumPy's of the same name. */
  storeAs?: Exclude<StoredType, "BF16">;
}

const NPY_OPTIONS = optionNames<NpyOptions>({ storeAs: 0 });

/**
 * One array as a `.npy` file, for `numpy.load`.
 * @throws DataError on data that is not what its shape and type say, or that the type asked for does not hold
 */
export function encodeNpy(tensor: Array_, options: NpyOptions = {}): Uint8Array<ArrayBuffer> {
  checkOptions("encodeNpy", options, NPY_OPTIONS);
  const { storeAs } = options;
  if (storeAs !== undefined) checkChoice("encodeNpy", "storeAs", storeAs, Object.keys(CODES) as StoredType[]);
  return encoded("encodeNpy", "the tensor", tensor, storeAs);
}

function encoded(op: string, name: string, tensor: Array_, storeAs?: StoredType): Uint8Array<ArrayBuffer> {
  const { dtype, shape, data } = checkedTensor(op, name, tensor);
  const type = storeAs ?? STORED_AS[dtype];
  const bytes = toStored(`${op}: ${name}`, type, dtype, data);
  const order = STORED_TYPES[type].bytes === 1 ? "|" : "<";
  const dimensions = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const header = `{'descr': '${order}${CODES[type]}', 'fortran_order': False, 'shape': (${dimensions}), }`;
  // Padded with spaces and a line break, so that the data starts at a multiple of 64.
  const total = Math.ceil((10 + header.length + 1) / 64) * 64;
  const file = new Uint8Array(total + bytes.length);
  file.set(MAGIC);
  file.set([1, 0], 6);
  new DataView(file.buffer).setUint16(8, total - 10, true);
  file.set(new TextEncoder().encode(`${header.padEnd(total - 11)}\n`), 10);
  file.set(bytes, total);
  return file;
}

/**
 * Reads a `.npy` file: any version of the format, either byte order, C or Fortran order; numbers and booleans. Types become
 * those of tensors here as in `decodeSafetensors`.
 * @param name the file's, for messages
 * @throws DataError if the bytes are truncated, damaged or no such file, or hold a type or integer that is not read here
 */
export function decodeNpy(file: Uint8Array, name: string): Array_ {
  checkText("decodeNpy", "name", name);
  return decoded("decodeNpy", file, name);
}

function decoded(op: string, file: Uint8Array, name: string): Array_ {
  const bad: Bad = (what, rule = "a .npy file: save it anew with numpy.save") =>
    new DataError(`${op}: ${printable(name)}: ${what}; expected ${rule}`);
  if (!isBytes(file)) throw bad(`is ${show(file)}`, "a Uint8Array of the file's contents");
  if (file.length < 10 || MAGIC.some((byte, i) => file[i] !== byte)) {
    throw bad(`does not begin as a .npy file does, it has ${file.length} bytes`);
  }
  const major = file[6]!;
  if (major < 1 || major > 3) throw bad(`is of version ${major}.${file[7]}`, "version 1.0, 2.0 or 3.0");
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const opening = major === 1 ? 10 : 12;
  const length = file.length < opening ? 0 : major === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  const start = opening + length;
  if (file.length < start) throw bad(`its header wants ${length} bytes, the file has ${file.length} in all`);
  if (length > MOST_HEADER_BYTES) throw bad(`its header has ${length} bytes`, `at most ${MOST_HEADER_BYTES}`);
  const { type, big, fortran, shape } = headerOf(file.subarray(opening, start), bad);
  const { bytes: each } = STORED_TYPES[type];
  const expected = sizeOf(shape) * each;
  if (file.length - start !== expected) {
    throw bad(
      `has ${file.length - start} bytes of data for shape ${show(shape)} of ${type}`,
      `${expected}: the file is truncated, or has something after the array`,
    );
  }
  const bytes = new Uint8Array(file.subarray(start));
  if (big) swapBytes(bytes, each);
  const { dtype, data } = fromStored(`${op}: ${printable(name)}`, type, bytes);
  return { shape, dtype, data: fortran ? rowMajor(data, shape) : data };
}

/** The header is a Python literal: of one kind, so that a few replacements make JSON of it. */
function headerOf(
  bytes: Uint8Array,
  bad: Bad,
): { type: StoredType; big: boolean; fortran: boolean; shape: number[] } {
  const text = new TextDecoder("utf-8").decode(bytes);
  let header: unknown;
  try {
    header = JSON.parse(
      text
        .replaceAll("'", '"')
        .replaceAll("(", "[")
        .replaceAll(")", "]")
        .replace(/\bFalse\b/g, "false")
        .replace(/\bTrue\b/g, "true")
        .replace(/(\d)L\b/g, "$1") // long integers of Python 2
        .replace(/,(\s*[\]}])/g, "$1"),
    );
  } catch {
    throw bad(`its header is ${show(text.trim())}`, "{'descr': …, 'fortran_order': …, 'shape': …}");
  }
  const {
    descr,
    fortran_order: fortran,
    shape,
  } = (isRecord(header) ? header : {}) as Record<string, unknown>;
  const [, order, code] = /^([<>|=])(\w+)$/.exec(String(descr)) ?? [];
  const type = (Object.keys(CODES) as StoredType[]).find((own) => CODES[own] === code);
  if (typeof descr !== "string" || !type) {
    throw bad(
      `has elements of ${show(descr)}`,
      `one of ${Object.values(CODES).join(", ")}: convert it with astype`,
    );
  }
  if (typeof fortran !== "boolean") throw bad(`has fortran_order ${show(fortran)}`, "True or False");
  if (!isShape(shape)) throw bad(`has shape ${show(shape)}`, "a tuple of integers from 0");
  return { type, big: order === ">", fortran, shape };
}

function swapBytes(bytes: Uint8Array, each: number): void {
  for (let i = 0; i < bytes.length; i += each) bytes.subarray(i, i + each).reverse();
}

/** Elements that lie with the first axis innermost, as they are here. */
function rowMajor<T extends Array_["data"]>(data: T, shape: Shape): T {
  const strides = shape.map((_, axis) => sizeOf(shape.slice(0, axis)));
  const index = shape.map(() => 0);
  const out = data.slice() as T;
  for (let i = 0; i < out.length; i += 1) {
    out[i] = data[index.reduce((sum, at, axis) => sum + at * strides[axis]!, 0)]!;
    for (let axis = shape.length - 1; axis >= 0; axis -= 1) {
      index[axis]! += 1;
      if (index[axis]! < shape[axis]!) break;
      index[axis] = 0;
    }
  }
  return out;
}

/** Options of `encodeNpz`. */
export interface EncodeNpzOptions {
  /** As `numpy.savez_compressed`. Default false. */
  compress?: boolean;
}

const ENCODE_NPZ_OPTIONS = optionNames<EncodeNpzOptions>({ compress: 0 });

/**
 * Named arrays as a `.npz` file, for `numpy.load`; the same bytes for the same arrays. Needs the package `fflate`.
 * @throws DataError on data that is not what its shape and type say
 */
export async function encodeNpz(
  tensors: StateDict,
  options: EncodeNpzOptions = {},
): Promise<Uint8Array<ArrayBuffer>> {
  checkOptions("encodeNpz", options, ENCODE_NPZ_OPTIONS);
  const { compress = false } = options;
  checkFlag("encodeNpz", "compress", compress);
  if (!isPlain(tensors)) {
    throw new DataError(`encodeNpz: tensors is ${show(tensors)}; expected { name: … }, {} for none`);
  }
  const files = Object.entries(tensors).map(([name, tensor]) => {
    return [`${name}.npy`, encoded("encodeNpz", printable(name), tensor)] as const;
  });
  const { zipSync } = await zip("encodeNpz");
  // A time of their own would make files of equal content differ.
  const file = zipSync(Object.fromEntries(files), { level: compress ? 6 : 0, mtime: new Date(1980, 0, 1) });
  return file as Uint8Array<ArrayBuffer>;
}

/** Options of `decodeNpz`. */
export interface DecodeNpzOptions {
  /** The most bytes that may come out. Default 2³⁰. */
  maxBytes?: number;
}

const DECODE_NPZ_OPTIONS = optionNames<DecodeNpzOptions>({ maxBytes: 0 });

/**
 * Reads a `.npz` file, compressed or not: its arrays by name, each as `decodeNpy` has it. Needs the package `fflate`.
 * @param name the file's, for messages
 * @throws DataError if the bytes are truncated, damaged or no such file, hold something else than arrays of numbers, or more than
 *   `maxBytes` come out
 */
export async function decodeNpz(
  file: Uint8Array,
  name: string,
  options: DecodeNpzOptions = {},
): Promise<StateDict> {
  checkText("decodeNpz", "name", name);
  checkOptions("decodeNpz", options, DECODE_NPZ_OPTIONS);
  const { maxBytes = 2 ** 30 } = options;
  checkNumber("decodeNpz", "maxBytes", maxBytes, 0);
  const bad: Bad = (what, rule = "a .npz file, as numpy.savez writes it: get it anew") =>
    new DataError(`decodeNpz: ${printable(name)}: ${what}; expected ${rule}`);
  if (!isBytes(file)) throw bad(`is ${show(file)}`, "a Uint8Array of the file's contents");
  const { unzipSync } = await zip("decodeNpz");
  let total = 0;
  const sizes = new Map<string, number>();
  let files: Record<string, Uint8Array>;
  let sums: number[];
  try {
    files = unzipSync(file, {
      filter: ({ name: own, originalSize }) => {
        if (sizes.has(own)) throw bad(`has ${printable(own)} twice`, "each name once");
        sizes.set(own, originalSize);
        total += originalSize;
        if (total > maxBytes)
          throw bad(
            `more comes out of it than ${maxBytes} bytes`,
            "less: pass more `maxBytes` if that is right",
          );
        return true;
      },
    });
    sums = checksumsOf(file);
  } catch (error) {
    if (error instanceof DataError) throw error;
    throw bad(`can't be unpacked (${printable((error as Error)?.message)}), it has ${file.length} bytes`);
  }
  const arrays = [...sizes].map(([path, size], i) => {
    const bytes = files[path]!;
    if (!path.endsWith(".npy"))
      throw bad(`has ${printable(path)} in it`, "arrays alone, whose names end in .npy");
    if (bytes.length !== size || sums[i] !== crc32(bytes)) {
      throw bad(`${printable(path)} is damaged, its checksum is wrong`);
    }
    return [path.slice(0, -".npy".length), decoded("decodeNpz", bytes, `${name}, ${path}`)] as const;
  });
  return Object.fromEntries(arrays);
}

/** The CRC-32 of each file in a zip archive, in the order of its directory: `fflate` does not look at them. */
function checksumsOf(archive: Uint8Array): number[] {
  const view = new DataView(archive.buffer, archive.byteOffset, archive.byteLength);
  let end = archive.length - 22;
  while (view.getUint32(end, true) !== 0x06054b50) end -= 1;
  const sums: number[] = [];
  let at = view.getUint32(end + 16, true);
  for (let i = 0; i < view.getUint16(end + 10, true); i += 1) {
    sums.push(view.getUint32(at + 16, true));
    at += 46 + view.getUint16(at + 28, true) + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return sums;
}

async function zip(op: string): Promise<typeof import("fflate")> {
  return import("fflate").catch((cause: unknown) => {
    throw new DataError(
      `${op}: the package "fflate", which packs and unpacks .npz files, can't be loaded (${printable((cause as Error)?.message)}); ` +
        "install it, or name it in the page's import map",
      { cause },
    );
  });
}
