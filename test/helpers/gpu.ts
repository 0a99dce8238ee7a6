import type { Gpu } from "../../src/gpu.ts";
import { requestGpu } from "../../src/node/request.ts";

let shared: Promise<Gpu> | null = null;

/** The one device of this test process, with recycled buffers poisoned. */
export async function testGpu(): Promise<Gpu> {
  shared ??= requestGpu({ debug: { poison: true } });
  return shared;
}

/** Those of a test's cases or variants that this process takes: all. Where each kernel takes long to compile, a part. */
export function sampled<T>(list: readonly T[]): readonly T[] {
  return list;
}
