// Checkpoints: safetensors files with a checksum; see formats/safetensors.ts.

import { DataError } from "../errors.ts";
import { isBytes, printable } from "../foreign.ts";
import { crc32 } from "../formats/crc32.ts";
import {
  assemble,
  type Bad,
  checkApart,
  headerField,
  isRecord,
  isShape,
  type Part,
  readEntries,
  readHeader,
} from "../formats/safetensors-layout.ts";
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
  let opening = `${OPENING}${NO_DIGITS}"`;
  for (const [key, text] of Object.entries(metadata)) opening += headerField(key, text);
  opening += `${headerField(MARK, "1")}}`;
  const parts = Object.entries(tensors).map(([name, tensor]) => checkedTensor(name, tensor));
  const file = assemble("encodeCheckpoint", opening, parts);
  file.set(new TextEncoder().encode(checksumOf(file)), DIGITS_AT);
  return file;
}

function checkedTensor(name: string, tensor: StateDict[string]): Part {
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
  return {
    name,
    code: code as keyof typeof TYPES,
    shape,
    bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  };
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
  const { entries, metadata: marked, start } = readHeader(file, bad);
  const { [CHECKSUM]: checksum, [MARK]: mark, ...metadata } = marked;
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

  const found = readEntries(file, start, entries, Object.keys(TYPES) as (keyof typeof TYPES)[], wrong);
  if (isDamaged) throw wrong("its bytes have changed");
  checkApart(found, bad);
  const tensors = found.map(({ key, dtype, shape, from, to }): [string, StateDict[string]] => {
    const { Constructor, dtype: ours } = TYPES[dtype];
    // A copy of its own, aligned for its type. (`slice` would not do: on Node's Buffer it is a view.)
    const bytes = new Uint8Array(file.subarray(start + from, start + to));
    return [key, { shape, dtype: ours, data: new Constructor(bytes.buffer) }];
  });
  // fromEntries, since a tensor may have a name that objects have a property of.
  return { tensors: Object.fromEntries(tensors), metadata };
}

/** CRC-32 of a file with zeros in place of its checksum's digits, as eight hexadecimal digits. */
function checksumOf(file: Uint8Array): string {
  const digits = new TextEncoder().encode(NO_DIGITS);
  const crc = crc32(file.subarray(0, DIGITS_AT), digits, file.subarray(DIGITS_AT + digits.length));
  return crc.toString(16).padStart(NO_DIGITS.length, "0");
}
