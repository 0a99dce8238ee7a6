import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Demo, serveDemo } from "./page.ts";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const NO_WEBGPU = "Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined });";

let demo: Demo;
beforeAll(async () => {
  demo = await serveDemo();
});
afterAll(() => demo?.close());

const text = (page: Page, selector: string) => page.locator(selector).innerText();
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
  it("trains, obeys, and shows the divergence at a rate at which there is one", async () => {
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
    expect(await text(page, "#failures")).toMatch(/without batch-norm blew up at step \d+/);
    expect(await text(page, "#failures")).toMatch(/Layer \d+ is the first/);
    expect(await text(page, "#state-0")).toBe("Learning");
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

  it("takes its settings from the address, and fits a phone", async () => {
    const { page, problems } = await demo.open("#rate=0.01&depth=8&batch=16&seed=3&norms=group-none", {
      viewport: { width: 360, height: 740 },
    });
    expect(await page.inputValue("#depth")).toBe("8");
    expect(await page.inputValue("#batch")).toBe("16");
    expect(await page.inputValue("#seed")).toBe("3");
    expect(await text(page, "#title-0")).toBe("With group norm");
    await stepsDone(page, 1);
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(360);
    // Other settings are other networks.
    await page.selectOption("#batch", "8");
    await page.waitForFunction("document.getElementById('count').textContent === 'step 0'");
    expect(page.url()).toMatch(/batch=8/);
    await stepsDone(page, 1);
    expect(await violations(page)).toEqual([]);
    expect(problems).toEqual([]);
    await page.close();
  }, 120_000);

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
