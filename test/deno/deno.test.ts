// The op tests in Deno, which has another implementation of WebGPU: wgpu, whose compiler, naga, is Firefox's, too. It takes
// other WGSL than Dawn does, and makes other code of it.

import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { bundle, type PageTest, testsAsModule } from "../browser/harness.ts";
import { denoDrivers, denoProgram } from "./program.ts";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

// wgpu has no subgroups, so there are none of the one file's kernels; the other's are those of batch-norm-reshaped and
// conv2d-fused-tile, and it takes as long as all the rest.
const FILES = /^(?!conv2d-fused-subgroup|batch-norm-folded).*\.test\.ts$/;
const files = readdirSync(here("../ops"))
  .filter((file) => FILES.test(file))
  .map((file) => `test/ops/${file}`);

/**
 * By the names of tests: what takes long, since each kernel is compiled anew, and is about sizes, shapes or accuracy more
 * than about kernels that the other tests do not run; and what wants the kernels of other adapters. Of the rest, `sampled`
 * takes a part of the cases.
 */
const LEFT_OUT = [
  // sizes
  "grid dimension|65,535|dispatch dimension|folded grids|everything, more than|many pixels|large broadcasts",
  // shapes
  "every number of channels|ragged and extreme sizes|residual network|fill no block|on its own|rows of any width",
  "reads padding|fewer channels|in another rank|of a reshaped|after a flatten|read both ways",
  // accuracy
  "outlier|huge values, and no|millions of equal|million pixels|mean infinite|mean\\||thousand deviations|in long runs",
  // families that are not these, and what takes many
  "\\(software\\)|into subgroup|into tile|the very y that it wrote",
].join("|");

interface Report {
  adapter: string;
  /** Cases and variants. */
  counts: { all: number; taken: number };
  outcomes: PageTest[];
}

async function runInDeno(): Promise<Report> {
  const folder = mkdtempSync(join(tmpdir(), "fusenorm-deno-"));
  try {
    const gpu = here("gpu-in-deno.ts");
    const entry = `${testsAsModule(files)}\nexport { report } from ${JSON.stringify(gpu)};`;
    writeFileSync(join(folder, "entry.js"), await bundle(entry, gpu));
    const run = `
      const { default: run, report } = await import("./entry.js");
      const outcomes = await run(new RegExp(${JSON.stringify(LEFT_OUT)}));
      Deno.writeTextFileSync("report.json", JSON.stringify({ ...(await report()), outcomes }));
      Deno.exit(0);`;
    writeFileSync(join(folder, "run.js"), run);
    const env = {
      ...process.env,
      ...(await denoDrivers()),
      XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR ?? folder,
      DENO_DIR: folder,
      // Mesa's compiler takes most of the time, and a third less of it without its optimisations.
      GALLIVM_PERF: "nopt",
    };
    const args = [denoProgram(), "run", "-A", "--unstable-webgpu", "run.js"];
    const child = spawn(process.execPath, args, { cwd: folder, env });
    let said = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => {
        said += chunk;
      });
    }
    const ended = await new Promise((resolve, reject) => child.on("error", reject).on("close", resolve));
    if (ended !== 0) throw new Error(`Deno ended with code ${ended}: ${said.slice(-4000)}`);
    return JSON.parse(readFileSync(join(folder, "report.json"), "utf8")) as Report;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

describe("op tests in Deno, with the kernels for hardware without subgroups", () => {
  let report: Report;
  beforeAll(async () => {
    report = await runInDeno();
  }, 2_400_000);

  it.each(files)("%s", (file) => {
    const own = report.outcomes.filter((test) => test.file === file);
    expect(own.length).toBeGreaterThan(0);
    expect(own.filter((test) => !test.passed)).toEqual([]);
  });

  it("run on a software adapter, a fourth of the cases", () => {
    expect(report.adapter).toMatch(/llvmpipe|swiftshader/i);
    expect(report.counts.taken).toBeGreaterThan(report.counts.all / 5);
    expect(report.counts.taken).toBeGreaterThan(100);
  });
});
