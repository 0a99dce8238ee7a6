// The op tests of this repository without their test runner, for machines that have the built package alone: run by
// `npm run gpu:suite`. scripts/build-bench.ts puts the files of test/ops in place of `virtual:op-tests`, and a small
// runner in place of `vitest`.

// @ts-expect-error made by scripts/build-bench.ts
import opTests from "virtual:op-tests";
import type { PageTest } from "../test/browser/harness.ts";
import { runFiles } from "../test/browser/vitest-in-page.ts";

export interface KernelTestResult {
  file: string;
  passed: number;
  failed: { name: string; errors: string[] }[];
  seconds: number;
}

/** Runs the test files that are `wanted` one after the other; none begins after `deadline` (`performance.now()`). */
export async function runKernelTests(
  deadline: number,
  wanted: (file: string) => boolean,
  onFile: (result: KernelTestResult) => void,
): Promise<{ results: KernelTestResult[]; left: string[] }> {
  const files = opTests as Record<string, () => Promise<unknown>>;
  const results: KernelTestResult[] = [];
  const left: string[] = [];
  // What the suite is for comes first.
  const order = ["batch-norm", "conv2d", "matmul"];
  const rank = (file: string) => {
    const at = order.findIndex((name) => file.includes(name));
    return at < 0 ? order.length : at;
  };
  const chosen = Object.keys(files).filter(wanted);
  for (const file of chosen.sort((a, b) => rank(a) - rank(b))) {
    if (performance.now() > deadline) {
      left.push(file);
      continue;
    }
    const start = performance.now();
    const outcomes: PageTest[] = await runFiles({ [file]: files[file]! });
    const result: KernelTestResult = {
      file,
      passed: outcomes.filter(({ passed }) => passed).length,
      failed: outcomes.filter(({ passed }) => !passed).map(({ name, errors }) => ({ name, errors })),
      seconds: (performance.now() - start) / 1e3,
    };
    results.push(result);
    onFile(result);
  }
  return { results, left };
}
