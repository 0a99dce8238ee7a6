import type { Gpu } from "../../src/gpu.ts";

/** ms of work after which a GPU that had nothing to do runs at its full clock. */
const WAKE_MS = 500;

/** Keeps a GPU busy with `run` until its clock is up: while data are made on the processor, it falls to a fifth. */
export async function wake(gpu: Gpu, run: () => Promise<unknown>): Promise<void> {
  const until = performance.now() + (gpu.isSoftware ? 0 : WAKE_MS);
  while (performance.now() < until) await run();
}
