// `npm run demo:record`: runs the page's engine on this machine and writes what it says to demo/recorded.json, which the page plays
// where there is no WebGPU. The pace is that of a small GPU: twelve steps a second.

import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { loadDataset, requestGpu } from "../src/node/index.ts";
import { Engine } from "./src/engine.ts";
import type { FromWorker } from "./src/messages.ts";
import { type Recording, toText } from "./src/recording.ts";
import { DEFAULTS } from "./src/settings.ts";

const MS_PER_STEP = 85;
const LOOK_EVERY = 10;
/** Steps at each rate: both learn; then the rate is raised. */
const PLAN: readonly (readonly [steps: number, rate: number])[] = [
  [80, DEFAULTS.rate],
  [60, 0.3],
];

const gpu = await requestGpu();
const recording: Recording = [];
let ms = 0;
const hear = (message: FromWorker) => recording.push({ ms, message });
// A clock that stands still: the engine looks when it is told to, and at a network that fails.
const engine = new Engine(gpu, await loadDataset("embedded"), hear, () => 0);
engine.greet();
await engine.begin(DEFAULTS);
let step = 0;
for (const [steps, rate] of PLAN) {
  await engine.rate(rate);
  for (let i = 0; i < steps; i += 1) {
    await engine.step(step % LOOK_EVERY === 0);
    step += 1;
    ms += MS_PER_STEP;
  }
  // While both can still learn.
  if (rate === DEFAULTS.rate) await engine.landscape();
}
gpu.destroy();

const short = (key: string, value: unknown) =>
  typeof value === "number" && Number.isFinite(value) ? Number(value.toPrecision(3)) : toText(key, value);
const target = fileURLToPath(new URL("recorded.json", import.meta.url));
writeFileSync(target, `${JSON.stringify(recording, short)}\n`);
console.log(`${target}: ${recording.length} messages`);
