// `npm run demo:frames`: times between frames of the page in headless Chromium, for 20 s of training on SwiftShader; and how much
// processor time the longest tasks take that keep it from drawing, which does not depend on what else the machine does. Before, how long
// the first curve took.

import { availableParallelism, loadavg } from "node:os";
import { longestTasks, WATCH_FRAMES } from "./frames-of.ts";
import { serveDemo } from "./page.ts";

const SECONDS = 20;

const demo = await serveDemo();
try {
  const { page } = await demo.open(process.argv[2], { init: WATCH_FRAMES });
  // Two points make a curve.
  await page.waitForFunction("/[2-9]|\\d\\d/.test(document.getElementById('count').textContent)", null, {
    timeout: 120_000,
  });
  const start = (await page.evaluate("performance.now()")) as number;
  await page.evaluate("frameGaps.length = 0");
  const tasks = await longestTasks(page, () => page.waitForTimeout(1e3 * SECONDS));
  const gaps = ((await page.evaluate("frameGaps")) as number[]).sort((a, b) => b - a);
  const share = (part: number) => gaps[Math.floor(part * (gaps.length - 1))]!.toFixed(0);
  const list = (times: number[]) =>
    times
      .slice(0, 5)
      .map((time) => time.toFixed(0))
      .join(", ");
  console.log(
    `load ${loadavg()[0]!.toFixed(1)} on ${availableParallelism()} processors; ${await page.textContent("#count")}`,
  );
  console.log(`the first curve ${(start / 1e3).toFixed(1)} s after the page was asked for`);
  console.log(
    `gaps between ${gaps.length} frames: median ${share(0.5)} ms, one in a hundred above ${share(0.01)} ms, largest ${share(0)} ms; ` +
      `${gaps.filter((gap) => gap > 100).length} above 100 ms`,
  );
  console.log(`processor time of the page's longest tasks: ${list(tasks.page)} ms`);
  console.log(`processor time of the GPU process's longest tasks: ${list(tasks.gpu)} ms`);
} finally {
  await demo.close();
}
