import { ShaderError, UsageError } from "../errors.ts";
import type { Kernels, ShaderName } from "../generated/shaders.ts";
import { isPlain, nearest, show } from "../options.ts";
import { type LinkedShader, link, Module, type ShaderModule } from "./link.ts";
import { Recent } from "./recent.ts";
import { readSource, reflect, type Slot } from "./reflect.ts";
import type { Choice } from "./variants.ts";

/** WGSL of your own. */
export interface UserShader {
  name: string;
  source: string;
}

/** One of the package's modules, perhaps linked with chosen parts, or your own. */
export type Shader = ShaderModule | LinkedShader | UserShader;

type EntriesOf<S extends ShaderName, T = unknown> = Kernels<T>[S]["entries"];

/** Its entry points; any string for WGSL of your own. */
export type EntryOf<S extends Shader> =
  S extends ShaderModule<infer M>
    ? keyof EntriesOf<M> & string
    : S extends LinkedShader<infer M>
      ? keyof EntriesOf<M> & string
      : string;

/** What an entry point binds, by name. `T`: a buffer, `U`: anything that can be bound. */
export type BindingsByName<S extends Shader, E extends string, T, U> =
  S extends ShaderModule<infer M>
    ? E extends keyof EntriesOf<M, T>
      ? Readonly<EntriesOf<M, T>[E]>
      : never
    : S extends LinkedShader<infer M>
      ? E extends keyof EntriesOf<M, T>
        ? Readonly<EntriesOf<M, T>[E]> & Readonly<Record<string, U>> // parts may bind more
        : never
      : Readonly<Record<string, U>>;

/** The fields of a uniform. */
export type UniformOf<
  S extends ShaderName,
  E extends keyof EntriesOf<S>,
  Name extends keyof EntriesOf<S>[E],
> = EntriesOf<S>[E][Name];

type OverridesOf<S extends ShaderName> = Kernels<unknown>[S]["constants"];

/** The names of a module's own integer constants. */
export type ValuesOf<S extends ShaderName> = Kernels<unknown>[S]["values"];

/** Override constants: numbers, or names of the shader's own constants that have one. */
export type ConstantsOf<S extends Shader> =
  S extends ShaderModule<infer M>
    ? { readonly [Name in OverridesOf<M> & string]?: number | ValuesOf<M> }
    : Readonly<Record<string, number | string>>;

/** One specialised entry point: `@compute fn <entry>` of a shader, with override constants. */
export interface KernelSpec<S extends Shader = Shader, E extends string = string> {
  shader: S;
  entry: E;
  constants?: ConstantsOf<S>;
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
  readonly module: Module;
  readonly entry: string;
}

/** `GPUShaderStage.COMPUTE`, whose object Node does not have as a global. */
const COMPUTE = 4;

const BINDING_TYPES = { uniform: "uniform", read: "read-only-storage", read_write: "storage" } as const;

/** Pipelines that are kept. A training step of a large network has a few hundred. */
export const MOST_PIPELINES = 1024;
/** Modules that are kept: the package has about fifty, a program that makes its own shaders at run time any number. */
const MOST_MODULES = 256;

/** Who is told of kernels that are new on a device, and of its end. */
export interface NewKernels {
  add(spec: KernelSpec): void;
  /** Whether it has been told of kernels that it hasn't begun with: it does when the host waits for something. */
  readonly isDue: boolean;
  close(): void;
}

/** Loads, specialises and caches kernels: the only place that creates compute pipelines. */
export class KernelCache {
  private readonly modules = new Recent<Module, GPUShaderModule>(MOST_MODULES);
  private readonly kernels = new Recent<string, Kernel>(MOST_PIPELINES);
  private readonly keys = new WeakMap<KernelSpec, string>();
  private readonly numbers = new WeakMap<Module, number>();
  private readonly layouts = new Map<string, GPUBindGroupLayout>();
  private nextNumber = 1;
  private nextId = 1;
  private readonly checks = new Set<Promise<void>>();
  /** Told of each kernel that is made. */
  listener: NewKernels | null = null;

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
      layout: this.layoutOf(spec) ?? pipeline.getBindGroupLayout(0),
      module: moduleOf(spec),
      entry: spec.entry,
    };
    this.kernels.set(key, kernel);
    this.listener?.add(spec);
    return kernel;
  }

  private descriptor(spec: KernelSpec): GPUComputePipelineDescriptor {
    const group = this.layoutOf(spec);
    return {
      label: nameOf(spec),
      // A pipeline layout for each: wgpu takes the sizes of bindings that a kernel needs from the one before it if both have the same.
      layout: group ? this.device.createPipelineLayout({ bindGroupLayouts: [group] }) : "auto",
      compute: {
        module: this.module(moduleOf(spec)),
        entryPoint: spec.entry,
        constants: numbersOf(moduleOf(spec), spec.constants),
      },
    };
  }

  /**
   * The bind group layout of a kernel of the package, shared by all that bind alike; null for WGSL of users, which may bind what is no
   * buffer. A layout that a pipeline makes for itself has pools of bind groups of its own, and each pool is mapped memory on
   * lavapipe: hundreds of pipelines came near to the 65,530 mappings that Linux gives a process.
   */
  private layoutOf(spec: KernelSpec): GPUBindGroupLayout | null {
    const module = moduleOf(spec);
    const slots = module.isLinked ? module.slotsOf(spec.entry) : null;
    if (!slots) return null;
    // Two views of one buffer stand at one number.
    const types = new Map(slots.map(({ binding, access }) => [binding, BINDING_TYPES[access]]));
    const key = [...types].join();
    let known = this.layouts.get(key);
    if (!known) {
      const entries = [...types].map(([binding, type]) => ({
        binding,
        visibility: COMPUTE,
        buffer: { type },
      }));
      known = this.device.createBindGroupLayout({ label: key, entries });
      this.layouts.set(key, known);
    }
    return known;
  }

  private module(module: Module): GPUShaderModule {
    let compiled = this.modules.get(module);
    if (!compiled) {
      const { name, source: code } = module;
      compiled = this.device.createShaderModule({ label: `${name}.wgsl`, code });
      this.modules.set(module, compiled);
    }
    return compiled;
  }

  /** Never the number of another module, not even of one that is forgotten: its pipelines may still be there. */
  private numberOf(module: Module): number {
    let number = this.numbers.get(module);
    if (number === undefined) {
      number = this.nextNumber;
      this.nextNumber += 1;
      this.numbers.set(module, number);
    }
    return number;
  }

  private key(spec: KernelSpec): string {
    // Soon joined, and often of a spec that was made for this one dispatch.
    if (!spec.constants) return `${this.numberOf(moduleOf(spec))}|${spec.entry}|`;
    let key = this.keys.get(spec);
    if (key === undefined) {
      const module = moduleOf(spec);
      key = `${this.numberOf(module)}|${spec.entry}|${keyOfConstants(module, spec.constants)}`;
      this.keys.set(spec, key);
    }
    return key;
  }
}

type Constants = Readonly<Record<string, number | string>>;

/** The constants with numbers for names. */
function numbersOf(module: Module, constants: Constants = {}): Record<string, number> {
  const numbers: Record<string, number> = {};
  for (const name in constants) {
    const value = constants[name]!;
    numbers[name] = typeof value === "number" ? value : integerOf(module, value)!;
  }
  return numbers;
}

function integerOf(module: Module, name: string): number | undefined {
  return module.reflections.find(({ values }) => Object.hasOwn(values, name))?.values[name];
}

/** The same for the same values, in whatever order they are given. */
function keyOfConstants(module: Module, constants: Constants | undefined): string {
  if (!constants) return "";
  // By place among the module's constants: neither names nor sorting.
  let key = "";
  let missing = 0;
  for (const _ in constants) missing += 1;
  if (missing === 0) return "";
  for (const { overrides } of module.reflections) {
    for (const name of overrides) {
      const value = constants[name];
      if (value !== undefined) {
        missing -= 1;
        key += value;
      }
      key += ",";
    }
  }
  if (missing === 0) return key;
  // Some are named otherwise: by number (`@id`), or not at all.
  const sorted = Object.entries(constants).sort(([a], [b]) => (a < b ? -1 : 1));
  return sorted.map(([name, value]) => `${name}=${value}`).join(",");
}

/** Users' sources; the modules that they are. */
const known = new Recent<string, Module>(MOST_MODULES);

/** The WGSL that `spec` names or brings. */
export function moduleOf({ shader }: KernelSpec): Module {
  if (shader instanceof Module) return shader;
  if ("holes" in shader) return link(shader);
  const { name, source } = shader;
  // By source: shaders of different sources may share a name.
  let module = known.get(source);
  if (!module) {
    module = new Module(name, source, [], () => [reflect(readSource(source))]);
    known.set(source, module);
  }
  return module;
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
  const isOwn = shader instanceof Module || (isPlain(shader) && "holes" in shader);
  const { name, source } = (shader ?? {}) as Partial<UserShader>;
  if (!isOwn && (typeof name !== "string" || typeof source !== "string")) {
    throw new UsageError(
      `${op}: shader is ${show(shader)}; expected one of fusenorm's shaders, such as shaders.softmax, or your own as { name, source } of strings`,
    );
  }
  if (!isPlain(constants)) {
    throw new UsageError(`${op}: constants is ${show(constants)}; expected an object of numbers`);
  }
  for (const name in constants) {
    const value = (constants as Constants)[name];
    if (Number.isFinite(value)) continue;
    if (typeof value === "string" && integerOf(moduleOf(spec), value) !== undefined) continue;
    throw new UsageError(
      `${op}: constant ${name} is ${show(value)}; expected a finite number, or the name of an integer constant of the shader`,
    );
  }
}

/** What a kernel binds. @throws ShaderError where its source has no such entry point. */
export function slotsOf({ module, entry }: Pick<Kernel, "module" | "entry">): readonly Slot[] {
  const slots = module.slotsOf(entry);
  if (slots) return slots;
  const entries = module.reflections.flatMap((file) => file.entries);
  const near = nearest(entry, entries);
  throw new ShaderError(
    `${module.name}.wgsl: there is no entry point ${entry}${near ? `; did you mean ${near}?` : ""}; it has ` +
      `${entries.join(", ") || "none"}`,
  );
}

function nameOf(spec: KernelSpec): string {
  const { shader, entry } = spec;
  return `${shader.name}.${entry}`;
}

/**
 * Dawn's and browsers' messages carry the line and a caret; file, entry point and constants are added. `:12:5` of a linked text
 * becomes the place in the file that the line is from.
 */
function describe(spec: KernelSpec, message: string): ShaderError {
  const module = moduleOf(spec);
  const constants = JSON.stringify(spec.constants ?? {});
  const placed = module.isLinked
    ? message.replace(/(^|[\s"'(]):(\d+):\d+/gm, (_, before, line) => {
        const place = module.placeOf(Number(line));
        return `${before}shaders/${place.path}:${place.line}`;
      })
    : message;
  return new ShaderError(
    `${module.name}.wgsl, entry point ${spec.entry}, constants ${constants}:\n${placed}`,
  );
}
