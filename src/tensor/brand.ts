// How a tensor and a Gpu are told from other values by files that their classes depend on.

import type { Gpu } from "../gpu.ts";
import type { Tensor } from "./tensor.ts";

/** Stands on the prototype of `Tensor`. */
export const TENSOR = Symbol("fusenorm.Tensor");
/** Stands on the prototype of `Gpu`. */
export const GPU = Symbol("fusenorm.Gpu");

export function isTensor(value: unknown): value is Tensor {
  return (value as { [TENSOR]?: unknown } | null | undefined)?.[TENSOR] === true;
}

export function isGpu(value: unknown): value is Gpu {
  return (value as { [GPU]?: unknown } | null | undefined)?.[GPU] === true;
}
