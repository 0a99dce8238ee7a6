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

/** Whether this is `npm test` alone. */
export const IS_SAMPLE = process.env.FUSENORM_TESTS === "sample";

let lists = 0;

/**
 * Those of a test's cases or variants that this process takes: all, but of `npm test` alone every other one, each list from another one
 * on, since compiling is most of the time. Deno, where it takes longer still, has a rule of its own.
 */
export function sampled<T>(list: readonly T[]): readonly T[] {
  if (!IS_SAMPLE || list.length < 2) return list;
  lists += 1;
  return list.filter((_, i) => (i + lists) % 2 === 0);
}
