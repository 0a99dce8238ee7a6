import { DataError } from "../errors.ts";
import type { StateDict } from "../nn/module.ts";
import { show } from "../options.ts";
import { DTYPES } from "../tensor/dtype.ts";
import { formatShape, sizeOf } from "../tensor/shape.ts";
import { isRecord, isShape } from "./safetensors-layout.ts";

/** The arrays that hold each type on the host; float16 as it is read, or as bits. */
const ARRAYS: Record<string, readonly string[]> = {
  float32: ["Float32Array"],
  float16: ["Float32Array", "Uint16Array"],
  uint32: ["Uint32Array"],
  uint8: ["Uint8Array"],
};

/** @throws DataError unless `tensor` is { shape, dtype, data } that fit each other */
export function checkedTensor(op: string, name: string, tensor: unknown): StateDict[string] {
  const bad = (what: string) => new DataError(`${op}: ${name} ${what}`);
  if (!isRecord(tensor)) throw bad(`is ${show(tensor)}; expected { shape, dtype, data }`);
  const { shape, dtype, data } = tensor as Partial<StateDict[string]>;
  const arrays = Object.hasOwn(ARRAYS, String(dtype)) ? ARRAYS[dtype!]! : null;
  if (!arrays) throw bad(`is ${show(dtype)}; expected ${DTYPES.join(", ")}`);
  if (!isShape(shape)) throw bad(`has shape ${show(shape)}; expected a list of integers from 0`);
  // The tag, not the class: arrays of another realm (an iframe's, a test runner's) are as good.
  if (!ArrayBuffer.isView(data) || !arrays.includes(data[Symbol.toStringTag])) {
    throw bad(`has data ${show(data)}; expected a ${arrays.join(" or a ")} for ${dtype}`);
  }
  if (data.length !== sizeOf(shape)) {
    throw bad(`has ${data.length} values for shape ${formatShape(shape)}; expected ${sizeOf(shape)}`);
  }
  return { shape, dtype: dtype!, data };
}
