import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import type { BitmapResults } from "./bitmap-entry.ts";
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

  it("decodes images: exact where they have the size, else the middle of what covers it", async () => {
    const found = await runInBrowser<BitmapResults>(here("bitmap-entry.ts"));
    expect(found.exact.got).toEqual(found.exact.put);
    const grey = (i: number) => {
      const [red, green, blue] = found.exact.put.slice(3 * i) as [number, number, number];
      return Math.round(0.299 * red + 0.587 * green + 0.114 * blue);
    };
    expect(found.grey).toEqual(Array.from({ length: found.exact.put.length / 3 }, (_, i) => grey(i)));
    // Twice as wide as high, dark and bright halves, red at both ends, which are cut off.
    expect(found.wide).toHaveLength(8 * 8 * 3);
    for (let i = 0; i < 64; i += 1) {
      const pixel = found.wide.slice(3 * i, 3 * i + 3);
      if (i % 8 === 3 || i % 8 === 4) continue; // where the halves meet
      for (const value of pixel) expect(Math.abs(value - (i % 8 < 4 ? 40 : 200))).toBeLessThan(3);
    }
    expect(found.clear).toEqual([0, 0, 0]);
    expect(found.refusal).toMatch(/^DataError: odd.png: can't be decoded as an image: /);
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
