// The child of `npm run kernels:static`: encodes workloads on the null driver, which writes down each kernel's machine code, and
// notes the dispatches. One process for one family of GPUs and one subgroup size, which are in its environment (see machine.ts).
//   tsx compile.ts FOLDER WORKLOAD,… KERNEL=VARIANT…

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { requestGpu } from "../../src/node/index.ts";
import type { Compiled, CompiledKernel, Launch } from "./compiled.ts";
import { workloads } from "./workloads.ts";

const [folder, names, ...variants] = process.argv.slice(2) as [string, string, ...string[]];
const gpu = await requestGpu({ adapter: "hardware" });
const { device } = gpu;
for (const choice of variants) {
  const [kernel, variant] = choice.split("=") as [string, string | undefined];
  gpu.variants.force(kernel, variant ?? null);
}

// The driver writes to files of the name in the environment. Dawn compiles within `createComputePipeline`.
const sources = new WeakMap<GPUShaderModule, string>();
const createShaderModule = device.createShaderModule.bind(device);
device.createShaderModule = (descriptor) => {
  const module = createShaderModule(descriptor);
  sources.set(module, descriptor.code);
  return module;
};
const kernels: CompiledKernel[] = [];
const byKey = new Map<string, CompiledKernel>();
const byPipeline = new WeakMap<GPUComputePipeline, CompiledKernel>();
const createComputePipeline = device.createComputePipeline.bind(device);
device.createComputePipeline = (descriptor) => {
  const { module, entryPoint = "main", constants = {} } = descriptor.compute;
  const source = sources.get(module)!;
  const key = JSON.stringify([source, entryPoint, constants]);
  let kernel = byKey.get(key);
  if (!kernel) {
    const file = String(kernels.length + 1).padStart(4, "0");
    const shader = (descriptor.label ?? "").replace(`.${entryPoint}`, "");
    kernel = { file, shader, entry: entryPoint, constants };
    kernels.push(kernel);
    byKey.set(key, kernel);
    writeFileSync(join(folder, `${file}.wgsl`), source);
    process.env.NULL_RADV_NAME = file;
  }
  const pipeline = createComputePipeline(descriptor);
  delete process.env.NULL_RADV_NAME;
  byPipeline.set(pipeline, kernel);
  return pipeline;
};

const launches: Launch[] = [];
for (const workload of names.split(",")) {
  const work = workloads[workload]!(gpu);
  gpu.commands.observe(
    ({ kernel, grid, label, flops, bytes, serves }) => {
      launches.push({
        workload,
        file: byPipeline.get(kernel.pipeline)!.file,
        op: label,
        work: flops > 0 ? (serves[0]?.key ?? "") : "",
        workgroups: grid.reduce((product: number, n) => product * (n ?? 1), 1),
        flops,
        bytes,
      });
    },
    () => {
      work();
      gpu.flush(); // runs what waits for what comes after it
    },
    { execute: false },
  );
  await gpu.sync();
}
const mesa = /Mesa (\d+\.\d+)/.exec(gpu.info.description)?.[1] ?? "";
const compiled: Compiled = { mesa, kernels, launches };
writeFileSync(join(folder, "compiled.json"), JSON.stringify(compiled));
gpu.destroy();
