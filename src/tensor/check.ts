// Checks of tensors and GPUs that come from outside.

import { ShapeError, UseAfterDisposeError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import { checkArray, show } from "../options.ts";
import { isGpu, isTensor } from "./brand.ts";
import { DTYPES, type DType } from "./dtype.ts";
import { formatShape } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

export const FLOAT32: readonly DType[] = ["float32"];
export const FLOATS: readonly DType[] = ["float32", "float16"];
export const ANY: readonly DType[] = DTYPES;

export interface TensorRule {
  /** Default float32 alone. */
  dtypes?: readonly DType[];
  /** A tensor on whose `Gpu` it has to be, and its name. */
  with?: readonly [name: string, tensor: Tensor];
  /** Letters of its shape for the message, such as `[N, H, W, C]`; their number is its rank. */
  shape?: string;
  /** Null will do as well; it is the caller who lets it through. */
  orNull?: boolean;
}

/** @throws ShapeError, UseAfterDisposeError unless `value` is a live tensor as `rule` wants it. */
export function checkTensor(
  op: string,
  name: string,
  value: unknown,
  rule: TensorRule = {},
): asserts value is Tensor {
  if (!isTensor(value)) {
    throw new ShapeError(
      `${op}: ${name} is ${show(value)}; expected a Tensor${rule.shape ? ` ${rule.shape}` : ""}${rule.orNull ? ", or null" : " (gpu.tensor(data, shape))"}`,
    );
  }
  if (value.isDisposed) {
    throw new UseAfterDisposeError(
      `${op}: ${name} ${formatShape(value.shape)} was used after dispose(); keep it with gpu.keep, return it from the scope, or dispose it later`,
    );
  }
  const { dtypes = FLOAT32 } = rule;
  if (!dtypes.includes(value.dtype)) {
    // What a class or a position is has to be said where its tensor is made; a generator's state comes from newGenerator.
    const isIndex = dtypes.length === 1 && dtypes[0] === "uint32" && name !== "generator";
    const how = isIndex ? `: gpu.tensor(data, shape, { dtype: "uint32" })` : "";
    throw new ShapeError(`${op}: ${name} is ${value.dtype}; expected ${dtypes.join(" or ")}${how}`);
  }
  if (rule.with && value.gpu !== rule.with[1].gpu) {
    throw new ShapeError(
      `${op}: ${name} is on another Gpu than ${rule.with[0]}; expected all tensors on one`,
    );
  }
  const rank = rule.shape === undefined ? value.rank : rankOf(rule.shape);
  if (value.rank !== rank) {
    const isMap = rule.shape === "[N, C]" && value.rank === 4;
    throw new ShapeError(
      `${op}: ${name} has rank ${value.rank}, got ${formatShape(value.shape)}; expected ${rule.shape} of rank ${rank}` +
        (isMap ? `: flatten(${name}) or globalAvgPool2d(${name}) makes rows of maps` : ""),
    );
  }
}

/** How many letters there are in `[N, H, W, C]`. On every call of an op: nothing is allocated. */
function rankOf(letters: string): number {
  let rank = 1;
  for (let at = letters.indexOf(","); at >= 0; at = letters.indexOf(",", at + 1)) rank += 1;
  return rank;
}

/** @throws ShapeError, UseAfterDisposeError unless `value` is an array of live tensors, of one Gpu. */
export function checkTensors(
  op: string,
  name: string,
  value: unknown,
  rule: TensorRule = {},
): asserts value is readonly Tensor[] {
  checkArray(op, name, value, "Tensors");
  for (let i = 0; i < value.length; i += 1) {
    const first = value[0] as Tensor;
    checkTensor(op, `${name}[${i}]`, value[i], i === 0 ? rule : { with: [`${name}[0]`, first], ...rule });
  }
}

/** @throws ShapeError unless `value` is a Gpu. */
export function checkGpu(op: string, value: unknown): asserts value is Gpu {
  if (!isGpu(value)) {
    throw new ShapeError(
      `${op}: gpu is ${show(value)}; expected a Gpu (Gpu.request(), or requestGpu() of fusenorm/node)`,
    );
  }
}
