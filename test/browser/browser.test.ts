import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { type PageTest, runInBrowser, runTestsInBrowser } from "./harness.ts";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

describe("headless Chromium", () => {
  it("runs a kernel of the package on navigator.gpu", async () => {
    const result = await runInBrowser<{ adapter: string; values: number[]; live: number }>(
      here("trivial-entry.ts"),
    );
    expect(result.values).toEqual(Array(7).fill(2.5));
    expect(result.live).toBe(0);
    expect(result.adapter).toMatch(/swiftshader/i);
  });

  it("reads gzip files as Node does", async () => {
    const result = await runInBrowser<{ images: number[]; refusal: string }>(here("gzip-entry.ts"));
    expect(result.images).toEqual([1, 2, 3, 4, 5, 250]);
    expect(result.refusal).toMatch(/^DataError: images\.gz: 1 bytes of other data follow/);
  });

  it("refuses a module that reaches for Node", async () => {
    await expect(runInBrowser(here("../../src/node/files.ts"))).rejects.toThrow(/imports node:/);
  });
});

// The very test files of the ops, on the page's device.
const files = readdirSync(here("../ops"))
  .filter((file) => file.endsWith(".test.ts"))
  .map((file) => `test/ops/${file}`);

describe("op tests in headless Chromium", () => {
  let outcomes: PageTest[] = [];
  beforeAll(async () => {
    outcomes = await runTestsInBrowser(files);
  }, 2_400_000);

  it.each(files)("%s", (file) => {
    const own = outcomes.filter((test) => test.file === file);
    expect(own.length).toBeGreaterThan(0);
    expect(own.filter((test) => !test.passed)).toEqual([]);
  });
});
