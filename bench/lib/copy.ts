// The ceiling of everything that is bound by memory: a plain vec4 copy, in its fastest configuration for a size.

import * as shaders from "../../src/generated/shaders.ts";
import type { Gpu } from "../../src/gpu.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";

export interface CopyConfig {
  workgroupSize: number;
  workgroups: number;
}

export interface CopyBandwidth extends CopyConfig {
  /** 10⁹ bytes read and written a second. */
  gbPerSecond: number;
  /** Of the tensor that was copied. */
  bytes: number;
}

/** Encodes one copy of `x` to `y`. */
export function copy(gpu: Gpu, x: Tensor, y: Tensor, { workgroupSize, workgroups }: CopyConfig): void {
  const constants = { WORKGROUP_SIZE: workgroupSize, VEC4S: Math.ceil(x.byteLength / 16) };
  gpu.run({ shader: shaders.copy, entry: "forward", constants }, [x, y], [workgroups]);
}

/** The fastest of a few workgroup sizes and counts for tensors of `bytes`: the fewest ms of three calls each. */
export async function fastestCopy(gpu: Gpu, bytes: number): Promise<CopyBandwidth> {
  const x = gpu.full([bytes / 4], 1);
  const y = gpu.full([bytes / 4], 0);
  const vec4s = Math.ceil(bytes / 16);
  const time = async (config: CopyConfig, calls: number) => {
    const start = performance.now();
    for (let i = 0; i < calls; i += 1) copy(gpu, x, y, config);
    gpu.flush();
    await gpu.device.queue.onSubmittedWorkDone();
    return (performance.now() - start) / calls;
  };
  try {
    let best: CopyBandwidth | null = null;
    for (const workgroupSize of [64, 256]) {
      const all = Math.ceil(vec4s / workgroupSize);
      const counts = [16, 64, 512, 4096, all].map((count) => Math.min(count, all));
      for (const workgroups of new Set(counts)) {
        if (workgroups > gpu.limits.maxComputeWorkgroupsPerDimension) continue;
        const config = { workgroupSize, workgroups };
        await time(config, 1); // compiles
        // Enough calls that the wait for them, up to a millisecond long, hardly counts.
        const calls = Math.max(1, Math.min(100, Math.round(8 / (await time(config, 1)))));
        const ms = Math.min(await time(config, calls), await time(config, calls), await time(config, calls));
        const gbPerSecond = (2 * bytes) / ms / 1e6;
        if (!best || gbPerSecond > best.gbPerSecond) best = { ...config, gbPerSecond, bytes };
      }
    }
    await gpu.sync();
    return best!;
  } finally {
    x.dispose();
    y.dispose();
  }
}

/** Size that is past the caches: 64 MiB for software adapters, 512 MiB for hardware; less where a buffer can't be so large. */
export function largeCopyBytes(gpu: Gpu): number {
  const limit = Math.min(gpu.limits.maxBufferSize, gpu.limits.maxStorageBufferBindingSize);
  return Math.min(gpu.isSoftware ? 2 ** 26 : 2 ** 29, 2 ** Math.floor(Math.log2(limit)));
}
