import { Gpu } from "../../src/gpu.ts";

/** One kernel of the package in the page: who does it, and what comes out. */
export default async function (): Promise<{ adapter: string; values: number[]; live: number }> {
  const gpu = await Gpu.request();
  const tensor = gpu.full([7], 2.5);
  const values = [...(await tensor.read())];
  tensor.dispose();
  const live = gpu.stats.liveBuffers;
  gpu.destroy();
  return { adapter: gpu.info.name, values, live };
}
