import type { Gpu } from "../gpu/device.ts";

/** The fewest lanes a subgroup may have; 0 without subgroups. Kernels that count on 8 ask for this. */
export function subgroupLanes(gpu: Gpu): number {
  if (!gpu.features.has("subgroups")) return 0;
  const info = gpu.device.adapterInfo as { subgroupMinSize?: number } | undefined;
  return Math.max(4, info?.subgroupMinSize ?? 4); // 4 is the least that WebGPU allows
}

/** The lanes that every subgroup has, if that is 4 or 8; else 0. Kernels that add up across the lanes ask for this. */
export function onlyLanes(gpu: Gpu): number {
  if (!gpu.features.has("subgroups")) return 0;
  const { subgroupMinSize = 0, subgroupMaxSize = 1 } = (gpu.device.adapterInfo ?? {}) as {
    subgroupMinSize?: number;
    subgroupMaxSize?: number;
  };
  return subgroupMinSize === subgroupMaxSize && [4, 8].includes(subgroupMinSize) ? subgroupMinSize : 0;
}
