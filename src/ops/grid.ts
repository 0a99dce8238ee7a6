import type { Gpu } from "../gpu.ts";

/** Workgroups and their size for a grid-stride loop over `items`: a software adapter has no use for thousands. */
export function strideGrid(gpu: Gpu, items: number): { size: number; grid: [number] } {
  const size = gpu.isSoftware ? 64 : 256;
  return { size, grid: [Math.max(1, Math.min(Math.ceil(items / size), gpu.isSoftware ? 64 : 16384))] };
}
