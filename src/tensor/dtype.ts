import { checkChoice } from "../options.ts";

/** Element types. `uint8` is for image bytes: four to a 32-bit word in shaders. */
export type DType = "float32" | "float16" | "uint32" | "uint8";

const bytes: Record<DType, number> = { float32: 4, float16: 2, uint32: 4, uint8: 1 };

export const DTYPES = Object.keys(bytes) as readonly DType[];

export function bytesPerElement(dtype: DType): number {
  return bytes[dtype];
}

/** @throws UsageError for a name that is no element type. */
export function checkDType(op: string, dtype: unknown): asserts dtype is DType {
  checkChoice(op, "dtype", dtype, DTYPES);
}
