import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkResults } from "../../bench/lib/results.ts";
import { type Demo, serveDemo } from "./page.ts";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const NO_WEBGPU = "Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined });";

let demo: Demo;
beforeAll(async () => {
  demo = await serveDemo();
});
afterAll(() => demo?.close());

const text = (page: Page, selector: string) => page.innerText(selector);
const stepOf = async (page: Page) => Number(/\d+/.exec(await text(page, "#count"))![0]);
const stepsDone = (page: Page, steps: number) =>
  page.waitForFunction(
    `Number(document.getElementById("count").textContent.match(/\\d+/)[0]) >= ${steps}`,
    null,
    { timeout: 60_000 },
  );

/** What axe finds, in words. */
async function violations(page: Page): Promise<string[]> {
  await page.evaluate(axe);
  const found = (await page.evaluate("axe.run()")) as {
    violations: { id: string; nodes: { html: string; failureSummary: string }[] }[];
  };
  return found.violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 120)} ${failureSummary}`),
  );
}

/** A picture of a chart's curves. */
const drawn = (page: Page, chart: string) =>
  page.evaluate(`document.querySelector("#${chart} canvas").toDataURL()`) as Promise<string>;

describe("the demo in headless Chromium", () => {
  it("trains, obeys, and shows which network does not stand a rate", async () => {
    const { page, problems } = await demo.open();
    await stepsDone(page, 3);
    await page.waitForFunction("document.querySelector('#test-1').textContent.includes('%')", null, {
      timeout: 60_000,
    });
    expect(await text(page, "#device")).toMatch(/swiftshader/i);
    const early = await drawn(page, "loss-chart");
    // Both see the same batches from the same weights: one network learns sooner.
    await stepsDone(page, 35);
    expect(await drawn(page, "loss-chart")).not.toBe(early);
    expect(Number(await text(page, "#loss-0"))).toBeLessThan(1.9);
    expect(Number(await text(page, "#loss-1"))).toBeGreaterThan(1.5);
    expect(await text(page, "#state-1")).not.toMatch(/Blew|Stuck/);

    await page.click("#play");
    await page.waitForFunction("document.getElementById('play').textContent === 'Play'");
    await page.waitForTimeout(1500);
    const paused = await stepOf(page);
    await page.waitForTimeout(1000);
    expect(await stepOf(page)).toBe(paused);
    await page.keyboard.press("s");
    await stepsDone(page, paused + 1);
    expect(await stepOf(page)).toBe(paused + 1);

    // By keyboard, from 0.03 to 0.6.
    await page.focus("#rate");
    for (let i = 0; i < 5; i += 1) await page.keyboard.press("ArrowRight");
    expect(await text(page, "#rate-value")).toBe("0.6");
    expect(page.url()).toMatch(/#rate=0\.6$/);
    await page.keyboard.press("p");
    await page.waitForSelector("#failures .failure.b", { timeout: 60_000 });
    // Which of both depends on the step at which the key was pressed.
    expect(await text(page, "#failures")).toMatch(/without batch-norm (blew up at|is stuck since) step \d+/);
    expect(await text(page, "#state-0")).not.toMatch(/Blew|Stuck/);
    const broken = await stepOf(page);
    await stepsDone(page, broken + 2);

    await page.click("#sample");
    await page.waitForSelector("#verdicts .verdict + .verdict");
    expect(await page.locator("#verdicts .bar").count()).toBe(6);
    await page.click("#landscape");
    await page.waitForSelector("#landscape-chart canvas", { timeout: 60_000 });

    expect(await violations(page)).toEqual([]);
    await page.emulateMedia({ colorScheme: "dark" });
    expect(await violations(page)).toEqual([]);
    expect(problems).toEqual([]);
    await page.close();
  }, 170_000);

  it("says where and why the network without batch-norm blows up", async () => {
    const { page, problems } = await demo.open("#rate=6&batch=8");
    await page.waitForSelector("#failures .failure", { timeout: 60_000 });
    const told = await text(page, "#failures");
    expect(told).toMatch(/^The network without batch-norm blew up at step [1-9]/);
    expect(told).toMatch(/At rate 6 the loss of this mini-batch is .*Layer \d+ is the first .* by layer 19/s);
    expect(told).toMatch(/mean 0 and variance 1/);
    expect(await text(page, "#state-1")).toMatch(/^Blew up at step \d+, rate 6$/);
    await stepsDone(page, (await stepOf(page)) + 2);
    expect(await text(page, "#state-0")).not.toMatch(/Blew/);
    expect(problems).toEqual([]);
    await page.close();
  }, 90_000);

  it("takes its settings from the address, measures kernels, and fits a phone", async () => {
    const { page, problems } = await demo.open("#rate=0.01&depth=8&batch=16&seed=3&norms=group-none", {
      viewport: { width: 360, height: 740 },
      permissions: ["clipboard-read", "clipboard-write"],
    });
    expect(await page.inputValue("#depth")).toBe("8");
    expect(await page.inputValue("#batch")).toBe("16");
    expect(await page.inputValue("#seed")).toBe("3");
    expect(await text(page, "#title-0")).toBe("With group norm");
    await stepsDone(page, 1);
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(360);
    // Other settings are other networks.
    await page.selectOption("#batch", "8");
    // The step and the looks that are under way end first.
    await page.waitForFunction("document.getElementById('count').textContent === 'step 0'", null, {
      timeout: 60_000,
    });
    expect(page.url()).toMatch(/batch=8/);
    await stepsDone(page, 1);

    await page.click("#measure");
    await page.waitForSelector("#kernels table", { timeout: 90_000 });
    await page.click("#copy-results");
    await page.waitForFunction("document.getElementById('kernels-state').textContent === 'Copied.'");
    const copied = JSON.parse((await page.evaluate("navigator.clipboard.readText()")) as string);
    const results = checkResults(copied, "the clipboard");
    expect(results.missing).toEqual([]);
    const norms = results.groups.filter(({ suite }) => suite === "batch_norm");
    expect(norms).toHaveLength(2);
    for (const { cases } of norms) {
      const [unfused, fused] = cases;
      expect(fused!.dispatches).toBeLessThan(unfused!.dispatches / 2);
      expect(fused!.bytes).toBeLessThan(unfused!.bytes);
    }
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(360);
    expect(await violations(page)).toEqual([]);
    expect(problems).toEqual([]);
    await page.close();
  }, 170_000);

  it("says what to do without WebGPU, and plays a recorded run", async () => {
    const { page, problems } = await demo.open("", { init: NO_WEBGPU });
    await page.waitForSelector("#notice:not([hidden])");
    expect(await text(page, "#notice")).toMatch(/No WebGPU here.*recent Chrome/s);
    await stepsDone(page, 5);
    expect(await text(page, "#device")).toMatch(/^Recorded on/);
    expect(await page.isDisabled("#step")).toBe(true);
    expect(await violations(page)).toEqual([]);
    expect(problems).toEqual([]);
    await page.close();
  }, 60_000);
});
