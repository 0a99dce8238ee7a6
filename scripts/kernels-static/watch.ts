// What becomes a pipeline on the null driver, which writes machine code to files of the name in the environment. Dawn compiles within
// `createComputePipeline`.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CompiledKernel } from "./compiled.ts";

export interface Watched {
  /** In the order in which they were made; each once. */
  kernels: CompiledKernel[];
  of(pipeline: GPUComputePipeline): CompiledKernel;
}

/**
 * Watches a device, or the prototype of all. `nameOf` says what a module is called in tables, by the pipeline's label.
 */
export function watchPipelines(
  target: Pick<GPUDevice, "createShaderModule" | "createComputePipeline">,
  folder: string,
  nameOf: (label: string, entry: string) => string,
): Watched {
  const { createShaderModule, createComputePipeline } = target;
  const sources = new WeakMap<GPUShaderModule, string>();
  const kernels: CompiledKernel[] = [];
  const byKey = new Map<string, CompiledKernel>();
  const byPipeline = new WeakMap<GPUComputePipeline, CompiledKernel>();
  target.createShaderModule = function (this: GPUDevice, descriptor) {
    const module = createShaderModule.call(this, descriptor);
    sources.set(module, descriptor.code);
    return module;
  };
  target.createComputePipeline = function (this: GPUDevice, descriptor) {
    const { module, entryPoint = "main", constants = {} } = descriptor.compute;
    const source = sources.get(module)!;
    const key = JSON.stringify([source, entryPoint, constants]);
    let kernel = byKey.get(key);
    if (!kernel) {
      const file = String(kernels.length + 1).padStart(4, "0");
      kernel = { file, shader: nameOf(descriptor.label ?? "", entryPoint), entry: entryPoint, constants };
      kernels.push(kernel);
      byKey.set(key, kernel);
      writeFileSync(join(folder, `${file}.wgsl`), source);
      process.env.NULL_RADV_NAME = file;
    }
    const pipeline = createComputePipeline.call(this, descriptor);
    delete process.env.NULL_RADV_NAME;
    byPipeline.set(pipeline, kernel);
    return pipeline;
  };
  return { kernels, of: (pipeline) => byPipeline.get(pipeline)! };
}
