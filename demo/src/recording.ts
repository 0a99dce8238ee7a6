// A run that was recorded by this page's own engine (`npm run demo:record`), for browsers without WebGPU.

import type { FromWorker } from "./messages.ts";

/** Messages with the time at which they came, in ms. */
export type Recording = { ms: number; message: FromWorker }[];

/** Numbers that JSON does not have. */
export const toText = (_key: string, value: unknown): unknown =>
  typeof value === "number" && !Number.isFinite(value) ? `#${value}` : value;
export const fromText = (_key: string, value: unknown): unknown =>
  value === "#NaN" || value === "#Infinity" || value === "#-Infinity" ? Number(value.slice(1)) : value;

/** Plays it once, at its own pace. */
export async function playRecording(hear: (message: FromWorker) => void): Promise<void> {
  const response = await fetch(new URL("../recorded.json", import.meta.url));
  const recording = JSON.parse(await response.text(), fromText) as Recording;
  const start = performance.now();
  for (const { ms, message } of recording) {
    const wait = ms - (performance.now() - start);
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    hear(message);
  }
}
