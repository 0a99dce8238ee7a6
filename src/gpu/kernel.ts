import { ShaderError, UsageError } from "../errors.ts";
import { type ShaderName, shaders } from "../generated/shaders.ts";
import { isPlain, nearest, show } from "../options.ts";
import { Recent } from "./recent.ts";
import type { Choice } from "./variants.ts";

/** One specialised entry point: `shaders/<shader>.wgsl`, `@compute fn <entry>`, override constants. */
export interface KernelSpec {
  shader: ShaderName | { name: string; source: string };
  entry: string;
  constants?: Record<string, number>;
  /** Floating-point operations of this dispatch (a multiply-add is two), for profiles. */
  flops?: number;
  /** The choices of a variant that this dispatch works for: its time counts for them. */
  serves?: readonly Choice[];
}

/** A compiled kernel. `name` (`conv2d.forward`) is what the profiler and error messages show. */
export interface Kernel {
  readonly id: number;
  readonly name: string;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Pipelines that are kept. A training step of a large network has a few hundred. */
export const MOST_PIPELINES = 1024;
/** Modules that are kept: the package has about fifty, a program that makes its own shaders at run time any number. */
const MOST_MODULES = 256;

/** Loads, specialises and caches kernels: the only place that creates compute pipelines. */
export class KernelCache {
  private readonly modules = new Recent<string, GPUShaderModule>(MOST_MODULES);
  private readonly kernels = new Recent<string, Kernel>(MOST_PIPELINES);
  private readonly keys = new WeakMap<KernelSpec, string>();
  /** Sources that come with their spec, by a number each: short keys. */
  private readonly sources = new Recent<string, number>(MOST_MODULES);
  private nextSource = 1;
  private nextId = 1;
  private readonly checks = new Set<Promise<void>>();

  constructor(
    private readonly device: GPUDevice,
    private readonly onError: (error: ShaderError) => void,
  ) {}

  get count(): number {
    return this.kernels.size;
  }

  get(spec: KernelSpec): Kernel {
    const key = this.key(spec);
    const known = this.kernels.get(key);
    if (known) return known;
    this.device.pushErrorScope("validation");
    const kernel = this.finish(key, spec, this.device.createComputePipeline(this.descriptor(spec)));
    const check = this.device.popErrorScope().then(
      (error) => {
        this.checks.delete(check);
        if (error) this.onError(describe(spec, error.message));
      },
      () => void this.checks.delete(check), // a lost device reports itself
    );
    this.checks.add(check);
    return kernel;
  }

  /** Resolves when the device has said of every kernel so far whether it compiled. */
  async settle(): Promise<void> {
    await Promise.all(this.checks);
  }

  /** Compiles without blocking; `get` then finds the result. */
  async warmup(specs: readonly KernelSpec[]): Promise<void> {
    await Promise.all(
      Array.from(specs, async (spec) => {
        checkSpec("gpu.warmup", spec);
        const key = this.key(spec);
        if (this.kernels.get(key)) return;
        try {
          this.finish(key, spec, await this.device.createComputePipelineAsync(this.descriptor(spec)));
        } catch (error) {
          throw describe(spec, error instanceof Error ? error.message : String(error));
        }
      }),
    );
  }

  private finish(key: string, spec: KernelSpec, pipeline: GPUComputePipeline): Kernel {
    const kernel: Kernel = {
      id: this.nextId++,
      name: nameOf(spec),
      pipeline,
      layout: pipeline.getBindGroupLayout(0),
    };
    this.kernels.set(key, kernel);
    return kernel;
  }

  private descriptor(spec: KernelSpec): GPUComputePipelineDescriptor {
    return {
      label: nameOf(spec),
      layout: "auto",
      compute: { module: this.module(spec), entryPoint: spec.entry, constants: spec.constants ?? {} },
    };
  }

  private module(spec: KernelSpec): GPUShaderModule {
    const name = shaderName(spec);
    const code = sourceOf(spec);
    // A user's own shader may share a name with another one: its source is the key.
    const key = typeof spec.shader === "string" ? name : code;
    let module = this.modules.get(key);
    if (!module) {
      module = this.device.createShaderModule({ label: `${name}.wgsl`, code });
      this.modules.set(key, module);
    }
    return module;
  }

  private numberOf(source: string): number {
    const known = this.sources.get(source);
    if (known !== undefined) return known;
    // Never the number of another source, not even of one that is forgotten: its pipelines may still be there.
    const number = this.nextSource;
    this.nextSource += 1;
    this.sources.set(source, number);
    return number;
  }

  private key(spec: KernelSpec): string {
    let key = this.keys.get(spec);
    if (key === undefined) {
      const constants = Object.entries(spec.constants ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
      const source = typeof spec.shader === "string" ? spec.shader : this.numberOf(spec.shader.source);
      key = `${source}|${spec.entry}|${constants.map(([name, value]) => `${name}=${value}`).join(",")}`;
      this.keys.set(spec, key);
    }
    return key;
  }
}

/** The WGSL of the module that `spec` names or brings. */
export function sourceOf({ shader }: KernelSpec): string {
  return typeof shader === "string" ? shaders[shader] : shader.source;
}

/** @throws UsageError, ShaderError for what is no kernel. */
export function checkSpec(op: string, spec: KernelSpec): void {
  if (!isPlain(spec)) {
    throw new UsageError(`${op}: spec is ${show(spec)}; expected { shader, entry, constants }`);
  }
  const { shader, entry, constants = {} } = spec;
  if (typeof entry !== "string") {
    throw new UsageError(`${op}: entry is ${show(entry)}; expected the name of an entry point`);
  }
  if (typeof shader === "string") {
    if (!Object.hasOwn(shaders, shader)) {
      const near = nearest(shader, Object.keys(shaders));
      throw new ShaderError(
        `${op}: there is no shader "${shader}"${near ? `; did you mean "${near}"?` : ""}; expected one of fusenorm's, or ` +
          "your own as { name, source }",
      );
    }
  } else if (typeof shader?.name !== "string" || typeof shader.source !== "string") {
    throw new UsageError(`${op}: shader is ${show(shader)}; expected a name, or { name, source } of strings`);
  }
  if (!isPlain(constants)) {
    throw new UsageError(`${op}: constants is ${show(constants)}; expected an object of numbers`);
  }
  for (const name in constants) {
    if (!Number.isFinite(constants[name])) {
      throw new UsageError(`${op}: constant ${name} is ${show(constants[name])}; expected a finite number`);
    }
  }
}

function shaderName(spec: KernelSpec): string {
  return typeof spec.shader === "string" ? spec.shader : spec.shader.name;
}

function nameOf(spec: KernelSpec): string {
  return `${shaderName(spec)}.${spec.entry}`;
}

/** Dawn's and browsers' messages carry the line and a caret; file, entry point and constants are added. */
function describe(spec: KernelSpec, message: string): ShaderError {
  const constants = JSON.stringify(spec.constants ?? {});
  return new ShaderError(
    `${shaderName(spec)}.wgsl, entry point ${spec.entry}, constants ${constants}:\n${message}`,
  );
}
