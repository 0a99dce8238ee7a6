// The report of a run that is not finished: every experiment with some of its cells, and the page in parts.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, describe, expect, it } from "vitest";
import { RunDirectory, type RunManifest } from "../../src/experiments/cells.ts";
import type { Cell } from "../../src/experiments/experiment.ts";
import { EXPERIMENTS } from "../../src/experiments/index.ts";
import { GrowingReport } from "../../src/experiments/report.ts";
import { fromJson } from "../../src/json.ts";

const stored = fromJson(
  gunzipSync(readFileSync("docs/results/quick-fashion-mnist-sample/report.json.gz")).toString(),
) as { cells: Record<string, Cell>; experiments: { id: string; cells: string[] }[] };

const path = mkdtempSync(join(tmpdir(), "fusenorm-growing-"));
afterAll(() => rmSync(path, { recursive: true }));

describe("with some of its cells", () => {
  it.each(EXPERIMENTS.map((experiment) => [experiment.id, experiment] as const))(
    "%s is drawn",
    async (id, experiment) => {
      const all = stored.experiments.find((each) => each.id === id)!.cells.map((name) => stored.cells[name]!);
      const norms = [...new Set(all.map(({ configuration }) => (configuration as { norm?: string }).norm))];
      const ofNorm = (norm?: string) =>
        all.filter(({ configuration }) => (configuration as { norm?: string }).norm === norm);
      const parts = [
        [],
        all.slice(0, 1),
        all.slice(0, Math.ceil(all.length / 3)),
        ...norms.slice(0, 2).map(ofNorm),
      ];
      for (const cells of parts) {
        for (const { verdict } of experiment.verdict(cells)) {
          if (cells.length < 2 && id !== "norms") expect(verdict).toBe("inconclusive");
        }
        for (const { ours } of experiment.compare(cells)) expect(ours).not.toMatch(/undefined|NaN/);
        for (const { svg } of (await experiment.exhibit(cells)).figures) {
          expect(svg).toMatch(/^(<svg|$)/);
          expect(svg).not.toMatch(/undefined|NaN/);
        }
      }
    },
  );
});

describe("in parts", () => {
  it("draws again what has got new cells, and all of it at the end", async () => {
    const manifest: RunManifest = {
      ...{ preset: "quick", dataset: "<sample>", seeds: 1 },
      experiments: EXPERIMENTS.map(({ id }) => id),
    };
    const directory = new RunDirectory(path);
    const chosen = EXPERIMENTS.filter(({ id }) => id === "logit-gradients" || id === "gradient-alignment");
    const report = new GrowingReport(directory, manifest, chosen);
    const before = await report.parts(false);
    expect(before.map((part) => /^<\w+ id="([\w-]+)"/.exec(part)![1])).toEqual([
      ...["overview", "logit-gradients", "gradient-alignment"],
    ]);
    expect(before[2]).toContain("2 of 2 cells are missing");
    const info = { name: "none", vendor: "", architecture: "", description: "", class: "software" } as const;
    for (const cell of Object.values(stored.cells)) {
      if (cell.configuration.measure !== "alignment" || cell.seed > 0) continue;
      await directory.write({
        ...cell,
        preset: "quick",
        dataset: "<sample>",
        adapter: info,
        compileSeconds: 0,
      });
    }
    // Too soon to draw again what was drawn a moment ago.
    expect(await report.parts(false)).toEqual(before);
    const [overview, logits, alignment] = await report.parts(true);
    expect(logits).toBe(before[1]);
    expect(alignment).not.toContain("cells are missing");
    expect(alignment).toContain("<svg");
    expect(overview).toContain("&lt;sample&gt;");
    expect(overview).toContain("none (software)");
  });
});
