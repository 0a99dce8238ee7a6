import { Gpu } from "../../src/gpu.ts";
import { requestAdapter, requestGpu } from "../../src/node/request.ts";

let shared: Promise<Gpu> | null = null;

/**
 * The one device of this test process, with recycled buffers poisoned. `FUSENORM_DEVICE=default` asks for one without limits and
 * features beyond the default ones, `compatibility` for one of that feature level (128 invocations a workgroup).
 */
export async function testGpu(): Promise<Gpu> {
  shared ??= request(process.env.FUSENORM_DEVICE);
  return shared;
}

async function request(device?: string): Promise<Gpu> {
  const options = { debug: { poison: true } };
  if (!device) return requestGpu(options);
  const { gpu } = await requestAdapter();
  const adapter = await gpu.requestAdapter(device === "compatibility" ? { featureLevel: device } : {});
  return Gpu.fromDevice(await adapter!.requestDevice(), options);
}

/** Those of a test's cases or variants that this process takes: all. Where each kernel takes long to compile, a part. */
export function sampled<T>(list: readonly T[]): readonly T[] {
  return list;
}
