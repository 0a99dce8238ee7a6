import type { Gpu } from "../../src/gpu/device.ts";
import { requestGpu } from "../../src/node/request.ts";

let shared: Promise<Gpu> | null = null;

/** The one device of this test process, with recycled buffers poisoned. */
export async function testGpu(): Promise<Gpu> {
  shared ??= requestGpu({ debug: { poison: true } });
  return shared;
}
