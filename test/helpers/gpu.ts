import { requestGpu } from "../../src/node/request.ts";
import type { Gpu } from "../../src/gpu/device.ts";

let shared: Promise<Gpu> | null = null;

/** The one device of this test process, with recycled buffers poisoned. */
export function testGpu(): Promise<Gpu> {
  shared ??= requestGpu({ debug: { poison: true } });
  return shared;
}
