import type { Gpu } from "../gpu/device.ts";

/** The fewest lanes a subgroup may have; 0 without subgroups. Kernels that count on 8 ask for this. */
export function subgroupLanes(gpu: Gpu): number {
  if (!gpu.features.has("subgroups")) return 0;
  const info = gpu.device.adapterInfo as { subgroupMinSize?: number } | undefined;
  return Math.max(4, info?.subgroupMinSize ?? 4); // 4 is the least that WebGPU allows
}
