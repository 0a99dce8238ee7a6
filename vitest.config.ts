import { writeFileSync } from "node:fs";
import { configDefaults, defineConfig } from "vitest/config";
import { BaseSequencer, type Reporter, type TestSpecification } from "vitest/node";

/** Begun first, the longest of all first: whatever is begun last may run alone on one of two cores. */
const LONG = ["test/browser/", "test/deno/", "test/ops/", "test/cli/"];

class LongOnesFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const at = LONG.findIndex((folder) => moduleId.includes(`/${folder}`));
      return at < 0 ? LONG.length : at;
    };
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b));
  }
}

/**
 * Other runtimes, child processes, long runs and random ones: more than half of the time, and least often what a change breaks. `npm test`
 * alone leaves them out, and takes every other one of the cases and variants of the rest (`sampled`); named (`npm test -- test/cli`),
 * and by `npm run check`, all run.
 */
const FOR_CHECK = [
  "bench",
  "browser",
  "cli",
  "demo",
  "deno",
  "docs",
  "examples",
  "faults",
  "onnx",
  "property",
  "soak",
];
const isAlone = process.argv.slice(2).join(" ") === "run";

/**
 * Where a worker ends before its files do (a driver that crashes, say) vitest says no more than that it did: these were its files. If that
 * is all that went wrong, their names go to the file FUSENORM_UNFINISHED, too.
 */
const unfinished: Reporter = {
  onTestRunEnd(modules, errors, reason) {
    const left = modules.filter((module) => ["pending", "queued"].includes(module.state()));
    for (const { relativeModuleId, children } of left) {
      const at = [...children.allTests()].find((test) => test.result().state === "pending");
      console.error(`not finished: ${relativeModuleId}${at ? `, at "${at.fullName}" or soon after it` : ""}`);
    }
    const file = process.env.FUSENORM_UNFINISHED;
    const isExit = ({ cause }: { cause?: unknown }) =>
      /Worker exited/.test((cause as Error | undefined)?.message ?? "");
    if (file && reason === "passed" && errors.every(isExit))
      writeFileSync(file, left.map(({ relativeModuleId }) => `${relativeModuleId}\n`).join(""));
  },
};

/** What ends a process with its parent: for the workers, and by the environment for all that tests start. */
const END_WITH_PARENT = ["--import", new URL("test/helpers/end-with-parent.js", import.meta.url).href];

// Two workers. A software adapter runs a kernel on every core, but compiles it on one, and where nothing is cached, compiling
// is most of the time: nine tenths for the tests of conv2d's tiles and of pooling.
export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    exclude: [...configDefaults.exclude, ...(isAlone ? FOR_CHECK.map((room) => `test/${room}/**`) : [])],
    pool: "forks",
    execArgv: END_WITH_PARENT,
    maxWorkers: 2,
    sequence: { sequencer: LongOnesFirst },
    isolate: false,
    reporters: ["default", unfinished],
    // Two workers leave no core to compile ahead on.
    env: {
      ...{ FUSENORM_CHOICES: "off", FUSENORM_COMPILE_AHEAD: "off" },
      FUSENORM_TESTS: isAlone ? "sample" : "all",
      // Nothing cached, Mesa takes three quarters of the time so; `npm run check` leaves it as users have it.
      ...(isAlone && { GALLIVM_PERF: process.env.GALLIVM_PERF ?? "nopt" }),
      NODE_OPTIONS: [process.env.NODE_OPTIONS ?? "", ...END_WITH_PARENT].join(" ").trim(),
    },
    // What random programs say of a difference is longer.
    chaiConfig: { truncateThreshold: 1000 },
    testTimeout: 400_000,
    hookTimeout: 400_000,
    coverage: {
      provider: "v8",
      include: ["src/**"],
      exclude: ["src/generated/**"],
      reporter: ["text-summary"],
      // A little under what the whole suite reaches: see docs/reliability.md.
      thresholds: { statements: 90, branches: 87, functions: 90, lines: 90 },
    },
  },
});
