/** Element types. `uint8` is for image bytes: four to a 32-bit word in shaders. */
export type DType = "float32" | "float16" | "uint32" | "uint8";

const bytes: Record<DType, number> = { float32: 4, float16: 2, uint32: 4, uint8: 1 };

export function bytesPerElement(dtype: DType): number {
  return bytes[dtype];
}
