// Figures in the guides that a change of the code makes stale.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { root } from "./tables.ts";

const text = (page: string) => readFileSync(`${root}${page}`, "utf8");

describe("figures in the guides", () => {
  it("says what an import weighs as docs/sizes.json has it, to 2.5 %", () => {
    const [, relu, some, all] =
      /`relu` alone is (\d+) kB, a convolution with batch-norm and SGD (\d+), everything some (\d+)/.exec(
        text("docs/guide/package.md"),
      )!;
    const sizes = JSON.parse(text("docs/sizes.json")) as Record<string, Record<string, number>>;
    const told = { "relu alone": relu, "conv2d, batchNorm and SGD": some, "the whole core": all };
    for (const [name, kilobytes] of Object.entries(told)) {
      expect(Math.abs((1e3 * Number(kilobytes)) / sizes[name]!.esbuild! - 1), name).toBeLessThan(0.025);
    }
  });

  it("has each import of the package in its table, and no other", () => {
    const { exports } = JSON.parse(text("package.json")) as { exports: Record<string, unknown> };
    const rows = text("docs/guide/package.md").matchAll(/^\| (`fusenorm.*?) \|/gm);
    const named = [...rows].flatMap(([, cell]) => [...cell!.matchAll(/`([^`]+)`/g)].map(([, name]) => name!));
    const entries = Object.keys(exports)
      .filter((entry) => entry !== "./package.json")
      .map((entry) => entry.replace(/^\./, "fusenorm"));
    // The table names files of the pattern.
    const told = named
      .filter((name) => !name.endsWith("README.md"))
      .map((name) => name.replace(/shaders\/\*\.wgsl$/, "shaders/*"));
    expect(told.sort()).toEqual(entries.sort());
  });
});
