import type { Gpu } from "../../src/gpu.ts";
import { formatShape, type Shape, sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { manyNormals } from "./work.ts";

const latest = new WeakMap<Gpu, { shape: string; tensors: Map<string, Tensor> }>();

/**
 * A tensor of normal numbers, as a handle of the caller's own. Asked for again, the numbers are still on the device, until
 * another large shape is asked for: uploading hundreds of megabytes takes longer than timing them.
 */
export function input(
  gpu: Gpu,
  shape: Shape,
  seed: number,
  options: { requiresGrad?: boolean; mean?: number; std?: number } = {},
): Tensor {
  const { requiresGrad = false, mean = 0, std = 1 } = options;
  let cache = latest.get(gpu);
  if (cache?.shape !== formatShape(shape)) {
    dropInputs(gpu);
    cache = { shape: formatShape(shape), tensors: new Map() };
    latest.set(gpu, cache);
  }
  const key = `${seed}|${mean}|${std}`;
  let tensor = cache.tensors.get(key);
  if (!tensor) {
    tensor = gpu.keep(gpu.tensor(manyNormals(sizeOf(shape), seed, mean, std), shape));
    cache.tensors.set(key, tensor);
  }
  const handle = tensor.alias();
  handle.requiresGrad = requiresGrad;
  return handle;
}

/** Frees what is kept for the next request. */
export function dropInputs(gpu: Gpu): void {
  for (const tensor of latest.get(gpu)?.tensors.values() ?? []) tensor.dispose();
  latest.delete(gpu);
}
