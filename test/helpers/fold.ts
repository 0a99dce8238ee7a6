import type { Gpu } from "../../src/gpu.ts";

/** Runs `body` as if a grid dimension held `limit` workgroups, so that small cases fold their grids. */
export async function withFoldAt(gpu: Gpu, limit: number, body: () => Promise<void>): Promise<void> {
  const { fold } = gpu;
  gpu.fold = (count) => [Math.min(count, limit), Math.ceil(count / limit)];
  try {
    await body();
  } finally {
    gpu.fold = fold;
  }
}
