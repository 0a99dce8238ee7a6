import type { Gpu } from "../gpu.ts";

/** Invocations of a large workgroup: what every core adapter has, or what there is (128 at the compatibility level). */
export function largestWorkgroup(gpu: Gpu): number {
  return Math.min(256, gpu.limits.maxComputeInvocationsPerWorkgroup);
}

/** Workgroups and their size for a grid-stride loop over `items`: a software adapter has no use for thousands. */
export function strideGrid(gpu: Gpu, items: number): { size: number; grid: [number] } {
  const size = gpu.isSoftware ? 64 : largestWorkgroup(gpu);
  return { size, grid: [Math.max(1, Math.min(Math.ceil(items / size), gpu.isSoftware ? 64 : 16384))] };
}
