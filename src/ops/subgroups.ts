import type { Gpu } from "../gpu.ts";

/** How many lanes subgroups have on an adapter; 0 without subgroups. */
interface Lanes {
  fewest: number;
  most: number;
  only: number;
}

const known = new WeakMap<Gpu, Lanes>();

function lanesOf(gpu: Gpu): Lanes {
  let lanes = known.get(gpu);
  if (!lanes) {
    const { subgroupMinSize: fewest, subgroupMaxSize: most } = (gpu.device.adapterInfo ?? {}) as {
      subgroupMinSize?: number;
      subgroupMaxSize?: number;
    };
    lanes = { fewest: 0, most: 0, only: 0 };
    if (gpu.features.has("subgroups")) {
      lanes.fewest = Math.max(4, fewest ?? 4); // 4 is the least that WebGPU allows
      lanes.most = most ?? 0;
      if (fewest === most && (fewest === 4 || fewest === 8)) lanes.only = fewest;
    }
    known.set(gpu, lanes);
  }
  return lanes;
}

/** The fewest lanes a subgroup may have; 0 without subgroups. Kernels that count on 8 ask for this. */
export function subgroupLanes(gpu: Gpu): number {
  return lanesOf(gpu).fewest;
}

/** The lanes that every subgroup has, if that is 4 or 8; else 0. Kernels that add up across the lanes ask for this. */
export function onlyLanes(gpu: Gpu): number {
  return lanesOf(gpu).only;
}

/**
 * Whether a number that all lanes load from one address takes a scalar unit of its own: AMD's GPUs, known by subgroups of up to
 * 64 lanes. Elsewhere such a load has the cost of any other.
 */
export function loadsByScalarUnit(gpu: Gpu): boolean {
  return lanesOf(gpu).most === 64;
}
