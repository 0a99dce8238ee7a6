import type { BatchNormOptions } from "../../src/ops/batch-norm/batch-norm.ts";

/** The activations that `batchNorm` has: what is added here is tested in test/fusion and in the random programs. */
export const ACTIVATIONS = [
  ...(["none", "relu", "relu6", "leakyRelu"] as const),
  ...(["silu", "gelu", "geluTanh", "hardSwish"] as const),
] as const satisfies readonly BatchNormOptions["activation"][];
