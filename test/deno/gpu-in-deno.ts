import { Gpu } from "../../src/gpu.ts";

let shared: Promise<Gpu> | null = null;

/**
 * The one device of a Deno process, with recycled buffers poisoned: Deno's version of helpers/gpu.ts. It is taken for
 * hardware without subgroups, as most visitors of a web page have it: the kernels for that are what differs most.
 */
export function testGpu(): Promise<Gpu> {
  shared ??= Gpu.request({ debug: { poison: true } }).then((gpu) => {
    (gpu.info as { class: string }).class = "hardware";
    if (gpu.features.has("subgroups"))
      throw new Error("this Deno has subgroups: these tests are to run without");
    return gpu;
  });
  return shared;
}

const STEP = 4;
let lists = 0;
const counts = { all: 0, taken: 0 };

/** Every fourth, one at least, each list from another one on: compiling is most of the time here. */
export function sampled<T>(list: readonly T[]): readonly T[] {
  const first = lists % Math.min(STEP, Math.max(1, list.length));
  lists += 1;
  const some = list.filter((_, i) => i % STEP === first);
  counts.all += list.length;
  counts.taken += some.length;
  return some;
}

/** What the tests ran on, and how many of their cases and variants. */
export async function report(): Promise<{ adapter: string; counts: typeof counts }> {
  return { adapter: (await testGpu()).info.name, counts };
}
