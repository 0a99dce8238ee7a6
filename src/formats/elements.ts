// Elements as files store them, and as tensors hold them. Little-endian, as every platform with WebGPU is.

import { DataError } from "../errors.ts";
import type { DType } from "../tensor/dtype.ts";
import { halfToNumber, numberToHalf, type TensorData } from "../tensor/tensor.ts";

/** Types of elements in files, by the names of the safetensors format. */
export const STORED_TYPES = {
  F64: { bytes: 8 },
  F32: { bytes: 4 },
  F16: { bytes: 2 },
  BF16: { bytes: 2 },
  I64: { bytes: 8 },
  I32: { bytes: 4 },
  I16: { bytes: 2 },
  I8: { bytes: 1 },
  U64: { bytes: 8 },
  U32: { bytes: 4 },
  U16: { bytes: 2 },
  U8: { bytes: 1 },
  BOOL: { bytes: 1 },
} as const;
/** Types of elements that files hold. */
export type StoredType = keyof typeof STORED_TYPES;

/** What a tensor's type is stored as, if nothing else is asked for: nothing is lost. */
export const STORED_AS: Record<DType, StoredType> = {
  float32: "F32",
  float16: "F16",
  uint32: "U32",
  uint8: "U8",
};

const LARGEST_UINT32 = 2 ** 32 - 1;
/** The largest integers all of which, up to them, float32 holds. */
const LARGEST_EXACT = 2 ** 24;

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

function bfloatToNumber(bits: number): number {
  u32[0] = bits << 16;
  return f32[0]!;
}

/** Nearest bfloat16, ties to even. */
function numberToBfloat(value: number): number {
  f32[0] = value;
  const bits = u32[0]!;
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40; // a NaN stays one
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/**
 * Elements from a file as a tensor holds them. Floats become float32: exactly from F32, F16 and BF16, the nearest from F64. U8 and
 * BOOL become uint8. Other integers become uint32 if none is negative, else float32 if it holds them exactly (up to 2²⁴).
 * @param bytes a copy of its own, from byte 0 of its buffer
 * @throws DataError for integers that neither type holds; `name` says whose
 */
export function fromStored(
  name: string,
  type: StoredType,
  bytes: Uint8Array<ArrayBuffer>,
): { dtype: DType; data: TensorData } {
  const { buffer } = bytes;
  switch (type) {
    case "F32":
      return { dtype: "float32", data: new Float32Array(buffer) };
    case "F64":
      return { dtype: "float32", data: Float32Array.from(new Float64Array(buffer)) };
    case "F16":
      return { dtype: "float32", data: Float32Array.from(new Uint16Array(buffer), halfToNumber) };
    case "BF16":
      return { dtype: "float32", data: Float32Array.from(new Uint16Array(buffer), bfloatToNumber) };
    case "U8":
      return { dtype: "uint8", data: bytes };
    case "BOOL":
      return { dtype: "uint8", data: bytes.map((byte) => Number(byte !== 0)) };
    case "U32":
      return { dtype: "uint32", data: new Uint32Array(buffer) };
    case "U16":
      return { dtype: "uint32", data: Uint32Array.from(new Uint16Array(buffer)) };
    case "U64":
      return integers(name, type, new BigUint64Array(buffer));
    case "I64":
      return integers(name, type, new BigInt64Array(buffer));
    case "I32":
      return integers(name, type, new Int32Array(buffer));
    case "I16":
      return integers(name, type, new Int16Array(buffer));
    case "I8":
      return integers(name, type, new Int8Array(buffer));
  }
}

function integers(
  name: string,
  type: StoredType,
  values: Int8Array | Int16Array | Int32Array | BigInt64Array | BigUint64Array,
): { dtype: DType; data: TensorData } {
  let [least, most] = [0, 0];
  for (const value of values) {
    const number = Number(value);
    if (number < least) least = number;
    if (number > most) most = number;
  }
  const numbers = () => Array.from(values as ArrayLike<number | bigint>, Number);
  if (least >= 0 && most <= LARGEST_UINT32) return { dtype: "uint32", data: Uint32Array.from(numbers()) };
  if (least >= -LARGEST_EXACT && most <= LARGEST_EXACT) {
    return { dtype: "float32", data: Float32Array.from(numbers()) };
  }
  throw new DataError(
    `${name} is ${type} with values from ${least} to ${most}; expected integers from 0 to ${LARGEST_UINT32}, which uint32 holds, or of ` +
      `magnitude up to 2²⁴, which float32 holds: scale or leave it out where the file was made`,
  );
}

const INTEGER_RANGES: Partial<Record<StoredType, readonly [number, number]>> = {
  I64: [-(2 ** 53), 2 ** 53],
  I32: [-(2 ** 31), 2 ** 31 - 1],
  I16: [-(2 ** 15), 2 ** 15 - 1],
  I8: [-128, 127],
  U64: [0, 2 ** 53],
  U32: [0, LARGEST_UINT32],
  U16: [0, 2 ** 16 - 1],
  U8: [0, 255],
  BOOL: [0, 1],
};

/**
 * A tensor's elements as the bytes of a file. Floats are rounded to the nearest of a narrower type, beyond its range to infinity.
 * @throws DataError for a value that an integer type does not hold; `name` says whose
 */
export function toStored(name: string, type: StoredType, dtype: DType, data: TensorData): Uint8Array {
  if (STORED_AS[dtype] === type && !(dtype === "float16" && data instanceof Float32Array)) {
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  }
  const values =
    dtype === "float16" && data[Symbol.toStringTag] === "Uint16Array"
      ? Float32Array.from(data, halfToNumber)
      : data;
  const range = INTEGER_RANGES[type];
  if (range) {
    const at = values.findIndex(
      (value) => !(Number.isInteger(value) && value >= range[0] && value <= range[1]),
    );
    if (at >= 0) {
      throw new DataError(
        `${name} has ${values[at]} at ${at}; ${type} holds integers from ${range[0]} to ${range[1]}: expected such, or another type`,
      );
    }
  }
  const bigints = () => Array.from(values, BigInt);
  const made: Record<StoredType, () => ArrayBufferView> = {
    F64: () => Float64Array.from(values),
    F32: () => Float32Array.from(values),
    F16: () => Uint16Array.from(values, numberToHalf),
    BF16: () => Uint16Array.from(values, numberToBfloat),
    I64: () => BigInt64Array.from(bigints()),
    I32: () => Int32Array.from(values),
    I16: () => Int16Array.from(values),
    I8: () => Int8Array.from(values),
    U64: () => BigUint64Array.from(bigints()),
    U32: () => Uint32Array.from(values),
    U16: () => Uint16Array.from(values),
    U8: () => Uint8Array.from(values),
    BOOL: () => Uint8Array.from(values),
  };
  const { buffer, byteOffset, byteLength } = made[type]();
  return new Uint8Array(buffer, byteOffset, byteLength);
}
