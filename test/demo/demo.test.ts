import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Page } from "playwright-core";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkResults } from "../../bench/lib/results.ts";
import { launchFirefox, whyNoFirefox } from "../helpers/firefox.ts";
import { longestTasks } from "./frames-of.ts";
import { type Demo, serveDemo } from "./page.ts";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const NO_WEBGPU = "Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined });";

let demo: Demo;
beforeAll(async () => {
  demo = await serveDemo();
});
afterAll(() => demo?.close());

// biome-ignore lint/performance/useDomNodeTextContent: what one sees, by Playwright
const text = (page: Page, selector: string) => page.innerText(selector);
const stepOf = async (page: Page) => Number(/\d+/.exec(await text(page, "#count"))![0]);
const stepsDone = (page: Page, steps: number) =>
  page.waitForFunction(
    `Number(document.getElementById("count").textContent.match(/\\d+/)[0]) >= ${steps}`,
    null,
    { timeout: 240_000 },
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

/** Nothing that axe finds, in light and dark. */
async function expectAccessible(page: Page): Promise<void> {
  for (const colorScheme of ["dark", "light"] as const) {
    await page.emulateMedia({ colorScheme });
    expect(await violations(page), colorScheme).toEqual([]);
  }
}

/** A picture of a chart's curves. */
const drawn = (page: Page, chart: string) =>
  page.evaluate(`document.querySelector("#${chart} canvas").toDataURL()`) as Promise<string>;

/** A garment in the middle of a ground, of red, green, blue and alpha each. */
const picture = (ground: number[], garment: number[], scale = 1) => {
  const fill = (side: number, [r, g, b, alpha]: number[]) =>
    sharp({
      create: { width: side, height: side, channels: 4, background: { r: r!, g: g!, b: b!, alpha: alpha! } },
    });
  return fill(40 * scale, garment)
    .png()
    .toBuffer()
    .then((input) => fill(100 * scale, ground).composite([{ input }]));
};

/** Files that visitors give: whatever the ground, the garment is light on dark; what is no image is told, and changes nothing. */
async function takesImages(page: Page): Promise<void> {
  const [black, white, clear] = [
    [0, 0, 0, 1],
    [255, 255, 255, 1],
    [0, 0, 0, 0],
  ];
  const files = [
    { name: "large.jpg", buffer: await (await picture(white, [30, 30, 90, 1], 30)).jpeg().toBuffer() },
    { name: "dark-cut-out.png", buffer: await (await picture(clear, [10, 10, 10, 1])).png().toBuffer() },
    { name: "light-cut-out.png", buffer: await (await picture(clear, [240, 240, 200, 1])).png().toBuffer() },
    { name: "studio.webp", buffer: await (await picture(black, [220, 220, 220, 1])).webp().toBuffer() },
  ];
  const give = ({ name, buffer }: { name: string; buffer: Buffer }) =>
    page.setInputFiles("#file", { name, mimeType: "image/png", buffer });
  const points = () =>
    page.evaluate(`[[5, 5], [274, 274], [140, 140]].map(([x, y]) =>
      document.getElementById("drawing").getContext("2d").getImageData(x, y, 1, 1).data[0])`) as Promise<
      number[]
    >;
  const seen = "document.querySelector('#verdicts .verdict') !== null";
  for (const file of files) {
    await page.click("#clear");
    expect(await page.locator("#verdicts .verdict").count()).toBe(0);
    await give(file);
    await page.waitForFunction(seen, null, { timeout: 60_000 });
    const [corner, other, middle] = await points();
    expect(Math.max(corner!, other!), file.name).toBeLessThan(40);
    expect(middle, file.name).toBeGreaterThan(160);
  }
  const before = await points();
  await give({ name: "notes.txt", buffer: Buffer.from("no image at all") });
  await page.waitForSelector("#refused:not([hidden])");
  expect(await text(page, "#refused")).toMatch(/^notes\.txt is no image that this browser can read/);
  expect(await points()).toEqual(before);
  expect(await violations(page)).toEqual([]);
  await page.click("#sample");
  expect(await page.isVisible("#refused")).toBe(false);
  // A file that misses the square does not take the browser away from the page.
  const stays = `["dragover", "drop"].every((type) => !document.body.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true })))`;
  expect(await page.evaluate(stays)).toBe(true);
}

describe("the demo in headless Chromium", () => {
  it("trains, obeys, and shows which network does not stand a rate", async () => {
    const { page, problems } = await demo.open();
    await stepsDone(page, 3);
    await page.waitForFunction("document.querySelector('#test-1').textContent.includes('%')", null, {
      timeout: 240_000,
    });
    expect(await text(page, "#device")).toMatch(/swiftshader/i);
    const early = await drawn(page, "loss-chart");
    // Both see the same batches from the same weights: one network learns sooner.
    const { page: longest } = await longestTasks(page, () => stepsDone(page, 35));
    expect(await drawn(page, "loss-chart")).not.toBe(early);
    // Processor time, so that a busy machine does not matter: 13 ms, of which a frame at 10 a second would leave room for seven.
    expect(longest[0]).toBeGreaterThan(0);
    expect(longest[0]).toBeLessThan(50);
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
    await page.waitForSelector("#failures .failure.b", { timeout: 240_000 });
    // Which of both depends on the step at which the key was pressed.
    expect(await text(page, "#failures")).toMatch(/without batch-norm (blew up at|is stuck since) step \d+/);
    expect(await text(page, "#state-0")).not.toMatch(/Blew|Stuck/);
    const broken = await stepOf(page);
    await stepsDone(page, broken + 2);

    await page.click("#sample");
    await page.waitForSelector("#verdicts .verdict + .verdict");
    expect(await page.locator("#verdicts .bar").count()).toBe(6);
    await takesImages(page);
    await page.click("#landscape");
    await page.waitForSelector("#landscape-chart canvas", { timeout: 240_000 });

    await expectAccessible(page);
    expect(problems).toEqual([]);
    await page.close();
  }, 240_000);

  it("finds the largest rates, marks them, keeps them, and can be stopped", async () => {
    const { page, problems } = await demo.open("#depth=8&batch=8&rate=0.02");
    const searchIs = (state: string) =>
      page.waitForFunction(
        `document.getElementById("search-text").textContent.startsWith("${state}")`,
        null,
        {
          timeout: 240_000,
        },
      );
    await stepsDone(page, 2);
    await page.keyboard.press("f");
    await searchIs("Trial 1: 0.1 for the network with batch-norm, 0.1 for the network without");
    expect(await page.isVisible("#search-progress")).toBe(true);
    expect(await text(page, "#play")).toBe("Play");
    await expectAccessible(page);
    await page.keyboard.press("f");
    await searchIs("The search was stopped.");
    // The run goes on where it was.
    await stepsDone(page, (await stepOf(page)) + 2);
    expect(await page.locator("#marks [title^='The largest rate that this network stands']").count()).toBe(0);

    await page.click("#search");
    await searchIs("The network with batch-norm stands");
    const found = await text(page, "#search-text");
    expect(found).toMatch(/The network without batch-norm stands [\d.]+.* times as much\. \(30 steps/);
    const marks = async () =>
      (await page.locator("#marks span").allTextContents()).map((mark) => Number(/[\d.]+/.exec(mark)![0]));
    const [withNorm, without] = (await marks()) as [number, number];
    expect(withNorm).toBeGreaterThan(2 * without);
    expect(await page.getAttribute("#rate", "aria-describedby")).toBe("search-text");
    await stepsDone(page, (await stepOf(page)) + 1);
    await expectAccessible(page);
    // Of other networks nothing is known; of these it still is, also when the page is opened again.
    await page.selectOption("#depth", "14");
    expect(await marks()).toEqual([]);
    expect(await text(page, "#search-text")).toBe("");
    await page.selectOption("#depth", "8");
    expect(await marks()).toEqual([withNorm, without]);
    // Nor does a network that the visitor has left take the page back to it, nor the rate.
    await page.evaluate(`for (const [id, event, value] of [["depth", "change", "14"], ["depth", "change", "8"], ["rate", "input", "0"]]) {
      const control = document.getElementById(id);
      control.value = value;
      control.dispatchEvent(new Event(event));
    }
    window.seen = [];
    new MutationObserver(() => window.seen.push(document.getElementById("depth").value, document.getElementById("rate-value").textContent))
      .observe(document.getElementById("count"), { childList: true });`);
    await page.waitForFunction("window.seen.length >= 6", null, { timeout: 240_000 });
    expect(new Set((await page.evaluate("window.seen")) as string[])).toEqual(
      new Set(["8", await text(page, "#rate-value")]),
    );
    expect(await page.inputValue("#rate")).toBe("0");
    await page.reload();
    expect(await marks()).toEqual([withNorm, without]);
    expect(await text(page, "#search-text")).toBe(found);
    expect(problems).toEqual([]);
    await page.close();
  }, 240_000);

  it("says where and why the network without batch-norm blows up", async () => {
    const { page, problems } = await demo.open("#rate=6&batch=8");
    await page.waitForSelector("#failures .failure", { timeout: 240_000 });
    const told = await text(page, "#failures");
    expect(told).toMatch(/^The network without batch-norm blew up at step [1-9]/);
    expect(told).toMatch(
      /At rate 6 the loss of this mini-batch is .*Layer \d+ is the first .* as at the start/s,
    );
    expect(told).toMatch(/mean 0 and variance 1/);
    await expectAccessible(page);
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
    // On a phone the settings are folded away, so that the figures come sooner.
    expect(await page.isVisible("#batch")).toBe(false);
    await page.click("#choices summary");
    // Other settings are other networks.
    await page.selectOption("#batch", "8");
    // The step and the looks that are under way end first.
    await page.waitForFunction("document.getElementById('count').textContent === 'step 0'", null, {
      timeout: 240_000,
    });
    expect(page.url()).toMatch(/batch=8/);
    await stepsDone(page, 1);

    await page.click("#measure");
    await page.waitForSelector("#kernels table", { timeout: 240_000 });
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
    // Convolutions with their batch-norms, folded into them and apart.
    const block = results.groups.find(({ id }) => id.startsWith("training_step/residual/"))!;
    const [unfused, elementwise, fused] = ["unfused", "elementwise", "fused"].map(
      (name) => block.cases.find((one) => one.name === name)!,
    );
    expect(fused!.dispatches).toBeLessThan(elementwise!.dispatches);
    expect(elementwise!.dispatches).toBeLessThan(unfused!.dispatches);
    expect(fused!.bytes).toBeLessThan(unfused!.bytes);
    expect(elementwise!.bytes).toBeLessThan(unfused!.bytes);
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(360);
    await expectAccessible(page);
    expect(problems).toEqual([]);
    await page.close();
  }, 170_000);

  it("says what to do without WebGPU, and plays a recorded run", async () => {
    const { page, problems } = await demo.open("", { init: NO_WEBGPU });
    await page.waitForSelector("#notice:not([hidden])");
    expect(await text(page, "#notice")).toMatch(/No WebGPU here.*recent Chrome/s);
    await stepsDone(page, 5);
    expect(await text(page, "#device")).toMatch(/^Recorded on/);
    for (const control of ["#play", "#step", "#rate", "#search", "#seed"]) {
      expect(await page.isDisabled(control), control).toBe(true);
    }
    // Nothing is proposed that can't be done, not even when both have learned and the rate has been raised.
    await stepsDone(page, 100);
    expect(await text(page, "#next")).toBe("A recorded run: watch the two part when its rate is raised.");
    expect(await page.isVisible("#do-next")).toBe(false);
    // When it is over it can be seen again.
    await page.waitForSelector("#do-next:not([hidden])", { timeout: 60_000 });
    expect(await text(page, "#next")).toBe("That was the recorded run.");
    expect(await page.locator("#failures .failure").count()).toBe(1);
    await page.click("#do-next");
    await page.waitForFunction("document.getElementById('failures').childElementCount === 0");
    expect(await page.isVisible("#do-next")).toBe(false);
    await stepsDone(page, 2);
    await expectAccessible(page);
    expect(problems).toEqual([]);
    await page.close();
  }, 240_000);
});

const noFirefox = whyNoFirefox();
if (noFirefox) console.log(`the demo in headless Firefox is left out: ${noFirefox}`);

describe.skipIf(noFirefox)("the demo in headless Firefox", () => {
  it("trains, and its curves move", async () => {
    const firefox = await launchFirefox();
    try {
      const { page, problems } = await firefox.open();
      await page.goto(`${demo.address}#depth=8&batch=8`);
      const at = (steps: number) =>
        page.waitForFunction(
          `Number(document.getElementById("count").textContent.match(/\\d+/)[0]) >= ${steps}`,
          { timeout: 300_000 },
        );
      const read = (selector: string) => page.$eval(selector, (found) => found.textContent);
      const picture = () =>
        page.evaluate(`document.querySelector("#loss-chart canvas").toDataURL()`) as Promise<string>;
      await at(2);
      expect(await read("#device")).toMatch(/^Training on/);
      await page.waitForSelector("#loss-chart canvas");
      const early = await picture();
      await at(40);
      expect(await picture()).not.toBe(early);
      expect(Number(await read("#loss-0"))).toBeLessThan(2);
      await page.waitForFunction("document.getElementById('test-0').textContent.includes('%')", {
        timeout: 300_000,
      });
      await page.click("#play");
      await page.waitForFunction("document.getElementById('play').textContent === 'Play'");
      expect(problems).toEqual([]);
    } finally {
      await firefox.close();
    }
  }, 400_000);
});
