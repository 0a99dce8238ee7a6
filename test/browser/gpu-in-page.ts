import { Gpu } from "../../src/gpu.ts";

let shared: Promise<Gpu> | null = null;

/** The one device of the page, with recycled buffers poisoned: the page's version of helpers/gpu.ts. */
export function testGpu(): Promise<Gpu> {
  shared ??= Gpu.request({ debug: { poison: true } });
  return shared;
}

/** As in helpers/gpu.ts. */
export function sampled<T>(list: readonly T[]): readonly T[] {
  return list;
}
