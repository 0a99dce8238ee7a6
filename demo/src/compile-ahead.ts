// Compiles the kernels of a step before the step, side by side. A kernel that is first met while a step is encoded is compiled there
// and then, one after the other, and in a browser on the very thread that puts pages on the screen.

import { Gpu } from "../../src/index.ts";

/** Does as `it` does, but for some of its members. */
function instead<T extends object>(it: T, members: Partial<Record<keyof T, unknown>>): T {
  return new Proxy(it, {
    get(target, name) {
      if (Object.hasOwn(members, name)) return members[name as keyof T];
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

const nothing = () => {};
/** Takes commands, and does nothing. */
const NO_ENCODER = {
  beginComputePass: () => ({
    ...{ setPipeline: nothing, setBindGroup: nothing, dispatchWorkgroups: nothing, end: nothing },
  }),
  ...{ copyBufferToBuffer: nothing, clearBuffer: nothing, finish: nothing },
};

export class CompileAhead {
  /** Takes what is compiled, and compiles what is not. */
  readonly gpu: Gpu;
  private readonly modules = new Map<string, { number: number; module: GPUShaderModule }>();
  private readonly numbers = new WeakMap<GPUShaderModule, number>();
  private readonly compiled = new Map<string, GPUComputePipeline>();
  private readonly compiling = new Map<string, Promise<void>>();
  /** For the list alone: nothing is compiled and nothing runs, and what is read from it is zero. */
  private readonly dry: Gpu;
  private readonly wanted = new Map<string, GPUComputePipelineDescriptor>();

  /** `without`: features that kernels are chosen without; `variants`: by kernel, which is taken. */
  constructor(
    private readonly device: GPUDevice,
    {
      without = [],
      variants = {},
    }: { without?: readonly GPUFeatureName[]; variants?: Readonly<Record<string, string>> } = {},
  ) {
    const features = new Set(
      [...device.features].filter((name) => !without.includes(name as GPUFeatureName)),
    );
    const createShaderModule = (descriptor: GPUShaderModuleDescriptor) => this.module(descriptor);
    this.gpu = Gpu.fromDevice(
      instead(device, {
        ...{ features, createShaderModule },
        createComputePipeline: (descriptor: GPUComputePipelineDescriptor) =>
          this.compiled.get(this.key(descriptor)) ?? device.createComputePipeline(descriptor),
      }),
    );
    this.dry = Gpu.fromDevice(
      instead(device, {
        ...{ features, createShaderModule },
        createComputePipeline: (descriptor: GPUComputePipelineDescriptor) => {
          this.wanted.set(this.key(descriptor), descriptor);
          return { getBindGroupLayout: () => ({}) };
        },
        createBindGroup: () => ({}),
        createCommandEncoder: () => NO_ENCODER,
        queue: instead(device.queue, { submit: nothing, writeBuffer: nothing }),
      }),
    );
    for (const gpu of [this.gpu, this.dry]) {
      for (const [kernel, variant] of Object.entries(variants)) gpu.variants.force(kernel, variant);
    }
  }

  /** Compiles what `work` dispatches, which is done once on a `Gpu` that does nothing. */
  async before(work: (gpu: Gpu) => void | Promise<void>): Promise<void> {
    const { dry, wanted, device, compiled, compiling } = this;
    await work(dry);
    for (const [key, descriptor] of wanted) {
      if (compiling.has(key)) continue;
      const pipeline = device.createComputePipelineAsync(descriptor);
      compiling.set(
        key,
        pipeline.then((done) => void compiled.set(key, done)),
      );
    }
    wanted.clear();
    // Those among them that an earlier call waits for as well.
    await Promise.all(compiling.values());
  }

  private module(descriptor: GPUShaderModuleDescriptor): GPUShaderModule {
    let known = this.modules.get(descriptor.code);
    if (!known) {
      known = { number: this.modules.size, module: this.device.createShaderModule(descriptor) };
      this.modules.set(descriptor.code, known);
      this.numbers.set(known.module, known.number);
    }
    return known.module;
  }

  private key({ compute: { module, entryPoint, constants } }: GPUComputePipelineDescriptor): string {
    return `${this.numbers.get(module)} ${entryPoint} ${JSON.stringify(constants)}`;
  }
}
