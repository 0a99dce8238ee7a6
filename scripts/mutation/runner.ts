// What happens in the process that runs the tests: a runner for vitest, with its job in the file that FUSENORM_MUTATION
// names. Production code knows nothing of it: the embedded shaders are changed before anything reads them.

import { readFileSync, writeFileSync } from "node:fs";
import type { File, Suite, Task, Test } from "@vitest/runner";
import { VitestTestRunner } from "vitest/runners";
import { KernelCache, type KernelSpec, moduleOf } from "../../src/device/kernels.ts";
import type { ShaderFile } from "../../src/device/link.ts";
import * as wgsl from "../../src/generated/wgsl.ts";
import { type Job, pidFile } from "./job.ts";

const jobFile = process.env.FUSENORM_MUTATION!;
const files: Readonly<Record<string, ShaderFile>> = wgsl;
const job: Job = JSON.parse(readFileSync(jobFile, "utf8"));
writeFileSync(pidFile(jobFile), String(process.pid));
if (job.mutant) Object.assign(files[job.mutant.module]!, { text: job.mutant.source });

/** What the kernels that were asked for since the test began use: see `TaskMeta.uses`. */
let uses = new Set<string>();
if (!job.mutant) note();

function note(): void {
  const { get, warmup } = KernelCache.prototype;
  const add = (spec: KernelSpec) => {
    const { entry, constants = {} } = spec;
    for (const { file } of moduleOf(spec).files) {
      const { name, reflection } = file;
      uses.add(`${name}|${entry}`);
      for (const one of reflection.overrides) if (!(one in constants)) uses.add(`${name}?${one}`);
    }
  };
  KernelCache.prototype.get = function (spec) {
    add(spec);
    return get.call(this, spec);
  };
  KernelCache.prototype.warmup = function (specs) {
    specs.forEach(add);
    return warmup.call(this, specs);
  };
}

export default class MutationRunner extends VitestTestRunner {
  /** Leaves the tests that the job names, in its order. */
  onCollected(files: File[]): void {
    for (const file of files) {
      const wanted = job.tests[file.filepath];
      if (wanted) arrange(file, new Map(wanted.map((name, i) => [name, i])), "");
    }
  }

  override async onBeforeRunTask(test: Test): Promise<void> {
    uses = new Set();
    await super.onBeforeRunTask(test);
  }

  override onAfterRunTask(test: Test): void {
    test.meta.uses = [...uses];
    super.onAfterRunTask(test);
  }
}

/** Returns the place of the earliest wanted test in `task`, or Infinity. */
function arrange(task: Suite | Task, order: ReadonlyMap<string, number>, path: string): number {
  if (task.type === "test") {
    const place = order.get(path);
    if (place === undefined) task.mode = "skip";
    return place ?? Infinity;
  }
  const places = new Map<Task, number>();
  for (const inner of task.tasks)
    places.set(inner, arrange(inner, order, path ? `${path} > ${inner.name}` : inner.name));
  task.tasks.sort((a, b) => places.get(a)! - places.get(b)! || 0);
  return Math.min(Infinity, ...places.values());
}
