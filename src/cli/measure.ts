import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { matmul } from "../ops/matmul/matmul.ts";

const MiB = 2 ** 20;

export interface CopyBandwidth {
  /** Bytes read and written per second, in units of 10⁹, of the fastest configuration. */
  gbPerSecond: number;
  /** Size of the tensor that was copied. */
  bytes: number;
  workgroupSize: number;
  workgroups: number;
}

/** Median time of one call in ms, from `rounds` submits of enough calls to fill `roundMs` each. */
async function medianCallMs(gpu: Gpu, call: () => void, roundMs: number, rounds: number): Promise<number> {
  const time = async (calls: number) => {
    const start = performance.now();
    for (let i = 0; i < calls; i += 1) call();
    gpu.flush();
    await gpu.device.queue.onSubmittedWorkDone();
    return (performance.now() - start) / calls;
  };
  await gpu.sync();
  await time(1); // compiles
  let calls = Math.max(1, Math.ceil(roundMs / (await time(1))));
  // Where a single call is shorter than the wait for it, the first estimate is too low.
  calls = Math.max(1, Math.min(1000, Math.ceil(roundMs / (await time(calls)))));
  const times: number[] = [];
  for (let round = 0; round < rounds; round += 1) times.push(await time(calls));
  return times.sort((a, b) => a - b)[rounds >> 1]!;
}

/**
 * What a plain vec4 copy reaches, over a few workgroup sizes and counts: the ceiling of everything that is bound
 * by memory. 64 MiB on software adapters, 256 MiB on hardware (past the caches), less where a buffer can't be as large.
 */
export async function measureCopyBandwidth(gpu: Gpu): Promise<CopyBandwidth> {
  const limit = Math.min(gpu.limits.maxBufferSize, gpu.limits.maxStorageBufferBindingSize);
  const bytes = Math.min((gpu.isSoftware ? 64 : 256) * MiB, 2 ** Math.floor(Math.log2(limit)));
  const x = gpu.full([bytes / 4], 1);
  const y = gpu.full([bytes / 4], 0);
  const vec4s = bytes / 16;
  try {
    let best: CopyBandwidth | null = null;
    for (const workgroupSize of [64, 256]) {
      for (const workgroups of [64, 512, 4096, Math.ceil(vec4s / workgroupSize)]) {
        if (workgroups > gpu.limits.maxComputeWorkgroupsPerDimension) continue;
        const constants = { WORKGROUP_SIZE: workgroupSize, VEC4S: vec4s };
        const ms = await medianCallMs(
          gpu,
          () => gpu.run({ shader: shaders.copy, entry: "forward", constants }, [x, y], [workgroups]),
          gpu.isSoftware ? 60 : 20,
          3,
        );
        const gbPerSecond = (2 * bytes) / ms / 1e6;
        if (!best || gbPerSecond > best.gbPerSecond) best = { gbPerSecond, bytes, workgroupSize, workgroups };
      }
    }
    return best!;
  } finally {
    x.dispose();
    y.dispose();
  }
}

export interface MatmulRate {
  /** 10⁹ float32 multiplications and additions per second. */
  gflops: number;
  /** Rows and columns of both matrices. */
  size: number;
}

/** What `matmul` of two square float32 matrices reaches: 512 rows on software adapters, 4096 on hardware. */
export async function measureMatmul(gpu: Gpu): Promise<MatmulRate> {
  const size = gpu.isSoftware ? 512 : 4096;
  const a = gpu.full([size, size], 0.5);
  const b = gpu.full([size, size], 0.25);
  try {
    const call = () => gpu.scope(() => void matmul(a, b));
    const ms = await medianCallMs(gpu, call, gpu.isSoftware ? 200 : 50, 3);
    return { gflops: (2 * size ** 3) / ms / 1e6, size };
  } finally {
    a.dispose();
    b.dispose();
  }
}
