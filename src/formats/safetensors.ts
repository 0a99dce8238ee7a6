import { DataError } from "../errors.ts";
import { isBytes, printable } from "../foreign.ts";
import type { StateDict } from "../nn/module.ts";
import { checkFunction, checkOptions, checkText, isPlain, optionNames, show } from "../options.ts";
import { fromStored, STORED_AS, STORED_TYPES, type StoredType, toStored } from "./elements.ts";
import { assemble, checkApart, readEntries, readHeader } from "./safetensors-layout.ts";
import { checkedTensor } from "./tensor-data.ts";

/** Options of `encodeSafetensors`. */
export interface SafetensorsOptions {
  /** Text by key, that readers show. */
  metadata?: Record<string, string>;
  /** The type that a tensor is stored as; undefined for what loses nothing: F32, F16, U32 and U8. */
  storeAs?: (name: string, tensor: StateDict[string]) => StoredType | undefined;
}

/** A file's tensors, each with the type that the file has it in. */
export interface Safetensors {
  tensors: Record<string, StateDict[string] & { stored: StoredType }>;
  metadata: Record<string, string>;
}

const OPTIONS = optionNames<SafetensorsOptions>({ metadata: 0, storeAs: 0 });
const TYPES = Object.keys(STORED_TYPES) as StoredType[];

/**
 * A safetensors file, for other programs: `encodeCheckpoint` adds a checksum, and takes no other types. `torchStateDict` gives a
 * model's tensors by PyTorch's names and layout.
 *
 * Stored as a narrower type (`storeAs: () => "BF16"`), floats are rounded, beyond its range to infinity.
 * @throws DataError on a tensor whose data is not what its shape and type say, or that the type asked for does not hold
 */
export function encodeSafetensors(
  tensors: StateDict,
  options: SafetensorsOptions = {},
): Uint8Array<ArrayBuffer> {
  const op = "encodeSafetensors";
  if (!isPlain(tensors))
    throw new DataError(`${op}: tensors is ${show(tensors)}; expected { name: … }, {} for none`);
  checkOptions(op, options, OPTIONS);
  const { metadata = {}, storeAs = () => undefined } = options;
  checkFunction(op, "storeAs", storeAs);
  if (
    !isPlain(metadata) ||
    Object.entries(metadata).some(([key, text]) => typeof text !== "string" || key === "__proto__")
  ) {
    throw new DataError(`${op}: metadata is ${show(metadata)}; expected text by key`);
  }
  const parts = Object.entries(tensors).map(([name, tensor]) => {
    if (name === "__metadata__" || name === "__proto__") {
      throw new DataError(`${op}: ${name} is no name for a tensor; expected another`);
    }
    const { dtype, shape, data } = checkedTensor(op, printable(name), tensor);
    const code = storeAs(name, tensor) ?? STORED_AS[dtype];
    if (!TYPES.includes(code)) {
      throw new DataError(
        `${op}: storeAs gave ${show(code)} for ${printable(name)}; expected one of ${TYPES.join(", ")}`,
      );
    }
    return { name, code, shape, bytes: toStored(`${op}: ${printable(name)}`, code, dtype, data) };
  });
  return assemble(op, `{"__metadata__":${JSON.stringify(metadata)}`, parts);
}

/**
 * Reads a safetensors file of any program. Every type of element is read, as what a tensor here holds:
 *
 * | in the file | here | what is lost |
 * |---|---|---|
 * | F32, F16, BF16 | float32 | nothing |
 * | F64 | float32 | rounded to the nearest; beyond ±3.4·10³⁸ infinite |
 * | U8, BOOL | uint8, BOOL as 0 and 1 | nothing |
 * | U16, U32, U64, I8, I16, I32, I64 | uint32, if no value is negative; else float32 | nothing: what they don't hold exactly is refused |
 *
 * Names and layouts are the file's: `fromTorch` makes them those of a model here.
 * @param name the file's, for messages
 * @throws DataError if the bytes are truncated, damaged or no such file, or hold a type or integer that is not read here
 */
export function decodeSafetensors(file: Uint8Array, name: string): Safetensors {
  const bad = (what: string, rule = "a safetensors file: get it anew") =>
    new DataError(`decodeSafetensors: ${printable(name)}: ${what}; expected ${rule}`);
  checkText("decodeSafetensors", "name", name);
  if (!isBytes(file)) throw bad(`is ${show(file)}`, "a Uint8Array of the file's contents");
  const { entries, metadata, start } = readHeader(file, bad);
  const found = readEntries(file, start, entries, TYPES, bad);
  checkApart(found, bad);
  const tensors = found.map(({ key, dtype: stored, shape, from, to }) => {
    // A copy of its own, aligned for its type. (`slice` would not do: on Node's Buffer it is a view.)
    const bytes = new Uint8Array(file.subarray(start + from, start + to));
    const own = fromStored(`decodeSafetensors: ${printable(name)}: ${printable(key)}`, stored, bytes);
    return [key, { shape, ...own, stored }] as const;
  });
  return { tensors: Object.fromEntries(tensors), metadata };
}
