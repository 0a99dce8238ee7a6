// What the tests import as `vitest` when they run in a page.
import { JestAsymmetricMatchers, JestChaiExpect, JestExtend } from "@vitest/expect";
import { type File, startTests, type Task, type VitestRunner } from "@vitest/runner";
import * as chai from "chai";
import type { PageTest } from "./harness.ts";
import { TOO_LARGE } from "./too-large.ts";

export { afterAll, afterEach, beforeAll, beforeEach, describe, it, suite, test } from "@vitest/runner";

chai.use(JestExtend);
chai.use(JestChaiExpect);
chai.use(JestAsymmetricMatchers);
export const expect = chai.expect;

/** Collects and runs test files, given as functions that import them, but for the tests whose names fit `leftOut`. */
export async function runFiles(
  files: Record<string, () => Promise<unknown>>,
  leftOut: RegExp = TOO_LARGE,
  onOutcome: (outcome: PageTest) => void = () => {},
): Promise<PageTest[]> {
  const runner: VitestRunner = {
    config: {
      root: "/",
      name: undefined,
      setupFiles: [],
      passWithNoTests: false,
      testNamePattern: new RegExp(`^(?!.*(?:${leftOut.source}))`),
      allowOnly: false,
      sequence: { seed: 0, hooks: "stack", setupFiles: "list" },
      chaiConfig: undefined,
      maxConcurrency: 1,
      testTimeout: 300_000,
      hookTimeout: 300_000,
      retry: 0,
      includeTaskLocation: false,
      tags: [],
      tagsFilter: undefined,
      strictTags: false,
    },
    importFile: (path) => files[path.replace(/^\//, "")]!(),
    onAfterRunTask: (test) => {
      for (const outcome of outcomes(test, test.file)) onOutcome(outcome);
    },
  };
  const collected = await startTests(
    Object.keys(files).map((path) => `/${path}`),
    runner,
  );
  return collected.flatMap((file) => [...outcomes(file, file)]);
}

function* outcomes(task: Task, file: File): Generator<PageTest> {
  const errors = task.result?.errors?.map((error) => error.message ?? String(error)) ?? [];
  const path = file.filepath.replace(/^\//, "");
  const ms = Math.round(task.result?.duration ?? 0);
  if (task.mode === "skip") return;
  if (task.type === "test") {
    yield { file: path, name: task.name, passed: task.result?.state === "pass", errors, ms };
    return;
  }
  // A suite has an outcome of its own only where a hook, or the import of its file, failed.
  if (errors.length > 0) yield { file: path, name: task.name, passed: false, errors, ms };
  for (const inner of task.tasks) yield* outcomes(inner, file);
}
