// Every suite of `npm run bench`. A new one is a file that exports a `Suite`, and its line here.

import type { Gpu } from "../src/gpu.ts";
import { batchNormSuite } from "./batch-norm.bench.ts";
import { conv2dSuite } from "./conv2d.bench.ts";
import type { BenchGroup } from "./lib/runner.ts";
import { optimizerSuite } from "./optimizer.bench.ts";
import { trainingStepSuite } from "./training-step.bench.ts";

export interface SuiteOptions {
  /** Fewer shapes. */
  quick: boolean;
  /** Time every variant of the kernels that have several, not only the one that the chooser takes. */
  variants: boolean;
  /** Images in a batch; 0 for the suite's own choice. */
  batch: number;
}

export interface Suite {
  name: string;
  /** One line on what is compared. */
  about: string;
  /** The groups that fit the adapter. */
  groups(gpu: Gpu, options: SuiteOptions): BenchGroup[];
}

export const suites: readonly Suite[] = [batchNormSuite, conv2dSuite, optimizerSuite, trainingStepSuite];
