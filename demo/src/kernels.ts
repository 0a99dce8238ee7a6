// Some groups of `npm run bench` on the visitor's own GPU, with the benchmarks' own code.

import { batchNormSuite } from "../../bench/batch-norm.bench.ts";
import { conv2dSuite } from "../../bench/conv2d.bench.ts";
import { fastestCopy, largeCopyBytes } from "../../bench/lib/copy.ts";
import { dropInputs } from "../../bench/lib/inputs.ts";
import type { BenchResults } from "../../bench/lib/results.ts";
import { type BenchGroup, runGroup } from "../../bench/lib/runner.ts";
import { trainingStepSuite } from "../../bench/training-step.bench.ts";
import type { Gpu } from "../../src/index.ts";

declare const FUSENORM_VERSION: string;

/** What is compared: batch-norm with ReLU, with a residual, convolutions alone, with their batch-norms, and a whole training step. */
const WANTED = [
  /^batch_norm\/forward\+backward\/relu\/\d+x32x32x16$/,
  /^batch_norm\/forward\+backward\/residual\+relu\/\d+x32x32x16$/,
  /^conv2d\/forward\+backward\/3x3s1\/\d+x32x32x16-16$/,
  /^conv2d\/forward\+backward\/3x3s1\/\d+x8x8x64-64$/,
  /^training_step\/residual\/batch-\d+$/,
  /^training_step\/resnet-20\/batch-\d+\/captured$/,
];
/** On a processor that plays GPU; a GPU gets the suites' own batches. */
const SOFTWARE_BATCH = 8;

export type KernelResults = Omit<BenchResults, "memory" | "scaling">;

export async function measureKernels(gpu: Gpu, onProgress: (share: number) => void): Promise<KernelResults> {
  const date = new Date().toISOString();
  const options = { quick: true, variants: false, batch: gpu.isSoftware ? SOFTWARE_BATCH : 0 };
  const groups = [batchNormSuite, conv2dSuite, trainingStepSuite]
    .flatMap((suite) => suite.groups(gpu, options))
    .filter(({ id }) => WANTED.some((pattern) => pattern.test(id)));
  const copy = await fastestCopy(gpu, gpu.isSoftware ? 2 ** 24 : largeCopyBytes(gpu));
  const results: KernelResults = {
    ...{ schema: "fusenorm-bench/1", date, quick: true, groups: [], missing: [] },
    environment: {
      version: FUSENORM_VERSION,
      node: navigator.userAgent,
      platform: "browser",
      processor: "unknown",
      cores: navigator.hardwareConcurrency,
      adapter: gpu.info,
    },
    copy: { gbPerSecond: copy.gbPerSecond, bytes: copy.bytes },
  };
  const rounds = gpu.isSoftware ? 3 : 9;
  for (const [done, group] of groups.entries()) {
    try {
      const result = await runGroup(gpu, group as BenchGroup, {
        rounds,
        callMs: 40,
        maxPreparedBytes: 2 ** 28,
        copyConfig: (bytes) => fastestCopy(gpu, bytes),
        onRound: (round) => onProgress((done + round / rounds) / groups.length),
      });
      results.groups.push(result);
    } catch (error) {
      results.missing.push({ id: group.id, reason: (error as Error).message, failed: true });
    }
  }
  dropInputs(gpu);
  gpu.trim();
  return results;
}
