// The weights in an ONNX model, whoever wrote it.

import type { onnx } from "onnx-proto";
import { DataError } from "../errors.ts";
import { isBytes, printable } from "../foreign.ts";
import { fromStored, STORED_TYPES, type StoredType } from "../formats/elements.ts";
import { isShape } from "../formats/safetensors-layout.ts";
import type { StateDict } from "../nn/module.ts";
import { checkText, show } from "../options.ts";
import { sizeOf } from "../tensor/shape.ts";
import { onnxLibrary } from "./library.ts";

/** Where elements stand that are not `rawData`, and what they are written to for `fromStored`. */
const FIELDS = {
  FLOAT: { code: "F32", field: "floatData", Array: Float32Array },
  DOUBLE: { code: "F64", field: "doubleData", Array: Float64Array },
  FLOAT16: { code: "F16", field: "int32Data", Array: Uint16Array },
  BFLOAT16: { code: "BF16", field: "int32Data", Array: Uint16Array },
  INT64: { code: "I64", field: "int64Data", Array: BigInt64Array },
  INT32: { code: "I32", field: "int32Data", Array: Int32Array },
  INT16: { code: "I16", field: "int32Data", Array: Int16Array },
  INT8: { code: "I8", field: "int32Data", Array: Int8Array },
  UINT64: { code: "U64", field: "uint64Data", Array: BigUint64Array },
  UINT32: { code: "U32", field: "uint64Data", Array: Uint32Array },
  UINT16: { code: "U16", field: "int32Data", Array: Uint16Array },
  UINT8: { code: "U8", field: "int32Data", Array: Uint8Array },
  BOOL: { code: "BOOL", field: "int32Data", Array: Uint8Array },
} as const satisfies Record<string, { code: StoredType; field: string; Array: unknown }>;

/** A tensor of a file, and its type of element there. */
export type OnnxTensor = StateDict[string] & { stored: StoredType };

/** In the file rather than beside it. */
const INSIDE = 0;

/**
 * Every tensor that an ONNX model holds, by name: initialisers and constants; and its metadata, text by key. Types of elements become those that
 * `decodeSafetensors` makes of them; names and layouts are the file's: `fromTorch` makes them those of a model here, if PyTorch
 * wrote the file. Needs the package `onnx-proto`.
 * @param name the file's, for messages
 * @throws DataError for bytes that are no such model, or a tensor of a type that is not read here or kept in another file
 */
export async function decodeOnnx(
  file: Uint8Array,
  name: string,
): Promise<{ tensors: Record<string, OnnxTensor>; metadata: Record<string, string> }> {
  const op = "decodeOnnx";
  checkText(op, "name", name);
  const bad = (what: string, rule = "an ONNX model: get it anew", cause?: unknown) =>
    new DataError(`${op}: ${printable(name)}: ${what}; expected ${rule}`, { cause });
  if (!isBytes(file)) throw bad(`is ${show(file)}`, "a Uint8Array of the file's contents");
  const { onnx: proto } = await onnxLibrary(op);
  let model: onnx.ModelProto;
  try {
    model = proto.ModelProto.decode(file);
  } catch (cause) {
    throw bad(`can't be read (${printable((cause as Error).message)})`, undefined, cause);
  }
  const { graph } = model;
  if (!graph) throw bad("has no graph");
  const tensors: [string, OnnxTensor][] = [];
  const add = (label: string | null | undefined, tensor: onnx.ITensorProto) => {
    const wrong = (what: string, rule: string) => bad(`${printable(label)} ${what}`, rule);
    if (!label || label === "__proto__") throw wrong("is no name for a tensor", "another");
    if ((tensor.dataLocation ?? INSIDE) !== INSIDE)
      throw wrong("lies in another file", "a model in one file");
    const type = proto.TensorProto.DataType[tensor.dataType ?? 0] ?? String(tensor.dataType);
    const kind = Object.hasOwn(FIELDS, type) ? FIELDS[type as keyof typeof FIELDS] : undefined;
    if (!kind) throw wrong(`has elements of ${type}`, Object.keys(FIELDS).join(", "));
    const { code } = kind;
    const shape = (tensor.dims ?? []).map(Number);
    if (!isShape(shape)) throw wrong(`has shape ${show(shape)}`, "integers from 0");
    const bytes = bytesOf(tensor, kind);
    const expected = sizeOf(shape) * STORED_TYPES[code].bytes;
    if (bytes.length !== expected) {
      throw wrong(`has ${bytes.length} bytes for ${show(shape)} of ${type}`, `${expected}`);
    }
    const own = fromStored(`${op}: ${printable(name)}: ${printable(label)}`, code, bytes);
    tensors.push([label, { shape, ...own, stored: code }]);
  };
  for (const tensor of graph.initializer ?? []) add(tensor.name, tensor);
  for (const { opType, output, attribute } of graph.node ?? []) {
    const value = opType === "Constant" ? attribute?.find((one) => one.name === "value")?.t : undefined;
    if (value) add(output?.[0], value);
  }
  // fromEntries, since a tensor may have a name that objects have a property of.
  const notes = (model.metadataProps ?? []).map(({ key, value }) => [key ?? "", value ?? ""]);
  return { tensors: Object.fromEntries(tensors), metadata: Object.fromEntries(notes) };
}

/** A copy of the elements as a file stores them. */
function bytesOf(
  tensor: onnx.ITensorProto,
  { field, Array: Elements }: (typeof FIELDS)[keyof typeof FIELDS],
): Uint8Array<ArrayBuffer> {
  const { rawData } = tensor;
  if (rawData && rawData.length > 0) return new Uint8Array(rawData);
  const values = tensor[field] ?? [];
  const isBig = Elements === BigInt64Array || Elements === BigUint64Array;
  const numbers = Array.from(values, (value) => (isBig ? BigInt(value.toString()) : Number(value)));
  return new Uint8Array((Elements as unknown as typeof Float64Array).from(numbers as number[]).buffer);
}
