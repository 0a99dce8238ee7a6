import {
  DeviceError,
  DeviceLostError,
  FusenormError,
  NonFiniteError,
  ShapeError,
  UsageError,
} from "../errors.ts";
import {
  checkArray,
  checkChoice,
  checkFlag,
  checkFunction,
  checkInteger,
  checkOptions,
  checkText,
  isPlain,
  nearest,
  optionNames,
  show,
  synchronous,
} from "../options.ts";
import { GPU } from "../tensor/brand.ts";
import { checkTensor, FLOATS } from "../tensor/check.ts";
import { bytesPerElement, type DType } from "../tensor/dtype.ts";
import { checkShape, type Shape, sizeOf } from "../tensor/shape.ts";
import { Tensor, type TensorOptions } from "../tensor/tensor.ts";
import { alive } from "./alive.ts";
import { BufferPool, bufferId, type MemoryStats, Storage } from "./buffers.ts";
import { Commands, type Dispatch, type Grid } from "./commands.ts";
import {
  type BindingsByName,
  checkSpec,
  type EntryOf,
  type Kernel,
  KernelCache,
  type KernelSpec,
  moduleOf,
  type Shader,
  slotsOf,
} from "./kernel.ts";
import { Pending } from "./pending.ts";
import { Plan } from "./plan.ts";
import { type KernelTiming, Profiler } from "./profiler.ts";
import type { Slot } from "./reflect.ts";
import { pack, type UniformFields } from "./uniforms.ts";
import { type Choice, Variants } from "./variants.ts";
import { WordCache } from "./words.ts";

/** What the adapter says of itself, and whether a processor does its work. */
export interface AdapterSummary {
  /** The most telling name it gives, e.g. `llvmpipe (LLVM 19.1.7, 256 bits)`. */
  name: string;
  vendor: string;
  architecture: string;
  description: string;
  class: "hardware" | "software";
}

export interface DebugOptions {
  /** Fill recycled buffers with NaN before they are handed out. */
  poison?: boolean;
  /** Check every op's float32 output for NaN and infinity; the next `sync` or `read` throws, naming the op. */
  checkFinite?: boolean;
}

export interface GpuOptions {
  /** Dispatches gathered in one submit. Default 128. */
  flushEvery?: number;
  debug?: DebugOptions;
}

export interface GpuRequestOptions extends GpuOptions {
  /** Where to ask for an adapter. Default `navigator.gpu`. */
  gpu?: GPU;
  powerPreference?: GPUPowerPreference;
}

/** `gpu.stats`: counters since the start, but for the memory figures, which are of now. */
export interface GpuStats extends MemoryStats {
  dispatches: number;
  submits: number;
  pipelines: number;
}

/** One dispatch, as `gpu.explain` lists it. */
export interface DispatchNote {
  /** `blocks.3.first.conv`, or empty outside of layers. */
  layer: string;
  /** `conv2d`, `batch_norm backward` … */
  op: string;
  /** `conv2d.forward`: shader and entry point. */
  kernel: string;
  workgroups: number;
  /** Of the buffers it binds. */
  bytes: number;
}

/** What stands at one `@binding` in a list of them: null leaves its number out. */
export type Binding = Tensor | BufferRange | ArrayBuffer | ArrayBufferView | null;

/** What a shader's binding of some name takes: a buffer, or a uniform by its fields or its bytes. */
export type NamedBinding = Tensor | BufferRange | ArrayBuffer | ArrayBufferView | UniformFields;

/** What a kernel binds: by name, or as a list in the order of the shader's `@binding`s. */
export type Bindings<S extends Shader = Shader, E extends string = string> =
  | BindingsByName<S, E, Tensor | BufferRange, NamedBinding>
  | readonly Binding[];

export interface BufferRange {
  storage: Storage;
  byteOffset: number;
  byteLength: number;
}

const WANTED_FEATURES: GPUFeatureName[] = [
  "timestamp-query",
  "shader-f16",
  "subgroups",
  "chromium-experimental-subgroup-matrix" as GPUFeatureName,
];

const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupsPerDimension",
] as const;

const GPU_OPTIONS = optionNames<GpuOptions>({ flushEvery: 0, debug: 0 });
const REQUEST_OPTIONS = optionNames<GpuRequestOptions>({
  gpu: 0,
  powerPreference: 0,
  flushEvery: 0,
  debug: 0,
});
const DEBUG_OPTIONS = optionNames<DebugOptions>({ poison: 0, checkFinite: 0 });

/** @throws UsageError, ShapeError for what a `Gpu` can't be made with. */
export function checkGpuOptions(op: string, { flushEvery = 1, debug = {} }: GpuOptions): void {
  checkInteger(op, "flushEvery", flushEvery, 1);
  checkOptions(op, debug, DEBUG_OPTIONS, "debug");
  const { poison = false, checkFinite = false } = debug;
  checkFlag(op, "debug.poison", poison);
  checkFlag(op, "debug.checkFinite", checkFinite);
}

/** @throws UsageError for a preference that WebGPU does not know. */
export function checkPowerPreference(op: string, value: unknown): void {
  if (value !== undefined) checkChoice(op, "powerPreference", value, ["low-power", "high-performance"]);
}

const NO_CHOICES: readonly Choice[] = [];
/** A bind group, and its storage buffers. */
interface BoundGroup {
  bindGroup: GPUBindGroup;
  buffers: readonly GPUBuffer[];
}

/** Bytes that are bound for a range: whole vec4s, up to the buffer's end. */
function boundSize({ storage, byteOffset, byteLength }: BufferRange): number {
  return Math.min(Math.ceil(byteLength / 16) * 16, storage.byteLength - byteOffset);
}

/** More than WebGPU has binding numbers. */
const MOST_BINDINGS = 1024;
const UNIFORM_CACHE = 4096;
const BIND_GROUP_CACHE = 16384;

/** A WebGPU device with what training needs around it: pooled buffers, batched commands, cached kernels. */
export class Gpu {
  readonly limits: GPUSupportedLimits;
  readonly features: ReadonlySet<string>;
  readonly commands: Commands;
  /** Which variant of each kernel runs on this adapter. */
  readonly variants: Variants;
  readonly debug: Required<DebugOptions>;
  /** The layer that dispatches are made for, forward or backward; modules set it. Shown by `explain` and profiles. */
  layer = "";
  private readonly kernels: KernelCache;
  private pool: BufferPool;
  private capturing: Capture | null = null;
  /** Internal: the tensors whose elements are not in memory, or may be given back. */
  readonly pending = new Pending();
  /** Constants in buffers. What is dropped is not destroyed, since captured plans may still bind it. */
  private readonly uniforms = new WordCache<UniformBuffer>(UNIFORM_CACHE);
  private readonly bindGroups = new WordCache<BoundGroup>(BIND_GROUP_CACHE);
  /** Of the bind group that is looked for. */
  private readonly key = new Uint32Array(1 + 4 * MOST_BINDINGS);
  private readonly scopes: Set<Tensor>[] = [];
  private failure: FusenormError | null = null;
  /** What there is to say of the device's loss, once it is lost. */
  private loss: string | null = null;
  /** To be called when the device is lost or destroyed: somebody waits for it. */
  private readonly waiting = new Set<() => void>();
  private lastLabel = "";
  private destroyed = false;
  private finiteFlag: Tensor | null = null;
  private readonly checkedLabels: string[] = [];

  /** Of one buffer. */
  private readonly maxBytes: number;

  private constructor(
    readonly device: GPUDevice,
    readonly info: AdapterSummary,
    options: GpuOptions,
    /** False for a caller's device, which `destroy` leaves alone. */
    private readonly ownsDevice: boolean,
  ) {
    this.limits = device.limits;
    const { name, vendor, architecture, description } = info;
    this.variants = new Variants([name, vendor, architecture, description].join(" | "));
    this.features = device.features as unknown as ReadonlySet<string>;
    this.debug = { poison: false, checkFinite: false, ...options.debug };
    this.commands = new Commands(device, options.flushEvery ?? 128);
    this.kernels = new KernelCache(device, (error) => this.fail(error));
    this.maxBytes = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize);
    this.pool = new BufferPool(device, this.maxBytes);
    device.addEventListener("uncapturederror", this.onUncapturedError);
    device.lost.then(({ reason, message }) => {
      alive.delete(this);
      if (this.destroyed) return;
      this.loss =
        `the device was lost (${reason || "unknown"}) near ${this.lastLabel || "its start"}: ${message || "no message"}; ` +
        "ask for a new one (requestGpu, Gpu.request), make the tensors anew there, and go on from the last checkpoint";
      for (const wake of this.waiting) wake();
    });
    alive.add(this);
  }

  private readonly onUncapturedError = (event: Event): void => {
    // On a caller's device it may be the caller's own mistake, which should be seen.
    if (this.ownsDevice) event.preventDefault?.();
    const label = this.lastLabel || "gpu";
    const { message } = (event as GPUUncapturedErrorEvent).error;
    // A shader that did not compile also fails where it is bound: let the cause be told first.
    void this.kernels.settle().then(() => this.fail(new DeviceError(`${label}: ${message}`)));
  };

  /**
   * Asks `navigator.gpu` for an adapter and a device with all that the adapter offers. In Node, use
   * `requestGpu` of `fusenorm/node`, which finds or brings an adapter first.
   * @throws DeviceError if there is no WebGPU or no adapter.
   */
  static async request(options: GpuRequestOptions = {}): Promise<Gpu> {
    checkOptions("Gpu.request", options, REQUEST_OPTIONS);
    checkPowerPreference("Gpu.request", options.powerPreference);
    const { gpu, powerPreference, ...rest } = options;
    checkGpuOptions("Gpu.request", rest);
    if (gpu !== undefined && typeof (gpu as GPU | null)?.requestAdapter !== "function") {
      throw new ShapeError(`Gpu.request: gpu is ${show(gpu)}; expected a GPU, such as navigator.gpu`);
    }
    const entry: GPU | undefined = gpu ?? globalThis.navigator?.gpu;
    if (!entry) {
      throw new DeviceError(
        "Gpu.request: there is no navigator.gpu here; use a browser with WebGPU on a secure page, or in Node `requestGpu` from fusenorm/node",
      );
    }
    const adapter = await entry.requestAdapter({
      powerPreference: powerPreference ?? "high-performance",
    });
    if (!adapter) {
      throw new DeviceError("Gpu.request: WebGPU is here but offers no adapter; check the graphics driver");
    }
    return Gpu.fromAdapter(adapter, rest);
  }

  /** A device with every limit and optional feature of `adapter` that the kernels can use. */
  static async fromAdapter(adapter: GPUAdapter, options: GpuOptions = {}): Promise<Gpu> {
    checkOptions("Gpu.fromAdapter", options, GPU_OPTIONS);
    checkGpuOptions("Gpu.fromAdapter", options);
    if (typeof adapter?.requestDevice !== "function") {
      throw new ShapeError(
        `Gpu.fromAdapter: adapter is ${show(adapter)}; expected a GPUAdapter, from navigator.gpu.requestAdapter()`,
      );
    }
    const requiredLimits: Record<string, number> = {};
    for (const name of WANTED_LIMITS) requiredLimits[name] = adapter.limits[name];
    const device = await adapter.requestDevice({
      requiredLimits,
      requiredFeatures: WANTED_FEATURES.filter((feature) => adapter.features.has(feature)),
    });
    return new Gpu(device, summarize(adapter.info), options, true);
  }

  /**
   * Works on a device that the caller made and keeps: its own limits and features are what counts, and `destroy` frees what
   * this `Gpu` made on it but leaves the device alive.
   */
  static fromDevice(device: GPUDevice, options: GpuOptions = {}): Gpu {
    checkOptions("Gpu.fromDevice", options, GPU_OPTIONS);
    checkGpuOptions("Gpu.fromDevice", options);
    if (typeof device?.createComputePipeline !== "function") {
      throw new ShapeError(
        `Gpu.fromDevice: device is ${show(device)}; expected a GPUDevice, from adapter.requestDevice()`,
      );
    }
    return new Gpu(device, summarize(device.adapterInfo), options, false);
  }

  get [GPU](): true {
    return true;
  }

  /** True where a processor does the work (lavapipe, SwiftShader): kernels without barriers win there. */
  get isSoftware(): boolean {
    return this.info.class === "software";
  }

  get stats(): GpuStats {
    return { ...this.pool.stats, ...this.commands.stats, pipelines: this.kernels.count };
  }

  /** Starts `stats.peakBytes` anew from what is live now. */
  resetPeak(): void {
    this.pool.resetPeak();
  }

  // --- tensors -----------------------------------------------------------------------------------------

  /** A tensor with the given content. `data` must hold exactly as many elements as `shape`. */
  tensor(data: ArrayLike<number> | ArrayBufferView, shape: Shape, options: TensorOptions = {}): Tensor {
    return Tensor.from(this, data, shape, options);
  }

  /** A tensor whose content is undefined until a kernel writes it. */
  empty(shape: Shape, dtype: DType = "float32"): Tensor {
    return Tensor.empty(this, shape, dtype);
  }

  zeros(shape: Shape, options: TensorOptions = {}): Tensor {
    return Tensor.full(this, shape, 0, options, "gpu.zeros");
  }

  /** A tensor of one repeated value. */
  full(shape: Shape, value: number, options: TensorOptions = {}): Tensor {
    return Tensor.full(this, shape, value, options, "gpu.full");
  }

  /** Internal: refuses a shape that no buffer of this adapter holds, before anything is done. */
  checkSize(op: string, shape: unknown, dtype: DType = "float32", name = "shape"): void {
    checkShape(op, shape, name);
    const bytes = sizeOf(shape) * bytesPerElement(dtype);
    if (bytes > this.maxBytes) {
      throw new ShapeError(
        `${op}: ${name} ${show(shape)} of ${dtype} needs ${bytes} bytes in one buffer, this adapter binds at most ` +
          `${this.maxBytes}; use a smaller batch, or split the tensor`,
      );
    }
  }

  /**
   * Runs `fn` and disposes every tensor made in it, except those that it returns (alone, or in an array or
   * object) and the gradients that `backward` left on tensors.
   */
  scope<T>(fn: () => T): T {
    checkFunction("gpu.scope", "fn", fn);
    const made = new Set<Tensor>();
    this.scopes.push(made);
    let result: T | undefined;
    try {
      result = synchronous("gpu.scope", fn());
      return result;
    } finally {
      this.scopes.splice(this.scopes.lastIndexOf(made), 1);
      const outer = this.scopes.at(-1);
      for (const kept of tensorsIn(result)) {
        if (made.delete(kept)) outer?.add(kept);
      }
      for (const tensor of made) tensor.dispose();
    }
  }

  /** Internal: the innermost scope owns `tensor`. */
  track(tensor: Tensor): void {
    this.scopes.at(-1)?.add(tensor);
  }

  /** Takes `tensor` out of every scope: it lives until its `dispose()`. */
  keep<T extends Tensor>(tensor: T): T {
    if (!(tensor instanceof Tensor)) {
      throw new ShapeError(`gpu.keep: tensor is ${show(tensor)}; expected a Tensor`);
    }
    for (const scope of this.scopes) scope.delete(tensor);
    return tensor;
  }

  /** Internal: memory for `byteLength` bytes, padded to whole vec4s. */
  allocate(byteLength: number, what: string): Storage {
    this.check();
    const padded = Math.ceil(byteLength / 16) * 16;
    const { storage, recycled } = this.pool.acquire(padded, what);
    this.capturing?.made.push(storage);
    if (recycled && this.debug.poison)
      this.fillWords({ storage, byteOffset: 0, byteLength: padded }, 0x7fc00000);
    return storage;
  }

  /** Internal: wraps a caller's buffer. */
  adopt(buffer: GPUBuffer): Storage {
    return this.pool.adopt(buffer);
  }

  // --- kernels -----------------------------------------------------------------------------------------

  /**
   * Dispatches one kernel. `bindings` has a tensor or buffer range for each storage binding that the entry point uses, by the
   * shader's name for it, and for each uniform its fields. Or a list: `bindings[i]` is bound at `@binding(i)`; null leaves that
   * number out; an `ArrayBuffer` or view becomes a uniform buffer. What the kernel may write (`read_write` in its source)
   * counts as overwritten: a graph that saved it will refuse its backward.
   */
  run<S extends Shader, E extends EntryOf<S>>(
    spec: KernelSpec<S, E>,
    bindings: Bindings<S, E>,
    grid: Grid,
    label = "",
  ): void {
    checkSpec("gpu.run", spec as KernelSpec);
    checkText("gpu.run", "label", label);
    checkGrid(grid);
    const source = { module: moduleOf(spec as KernelSpec), entry: spec.entry };
    const { slots, values } = Array.isArray(bindings)
      ? this.listed(source, bindings)
      : this.named(source, bindings as NamedBindings);
    this.check();
    slots.forEach(({ access }, i) => {
      if (access !== "read_write") return;
      const bound = values[i]!;
      if (bound instanceof Tensor) bound.overwrite();
      else if ("storage" in bound) this.willWrite(bound as BufferRange);
    });
    // A copy: kernels are remembered by their specs, and the caller may change this one.
    const kept = { ...spec, constants: { ...spec.constants } } as KernelSpec;
    this.encode(kept, this.kernels.get(kept), slots, values, grid, label);
  }

  /** Internal: to be called before a kernel or the host overwrites bytes that somebody may have seen already. */
  willWrite(range: BufferRange): void {
    range.storage.willWrite(range.byteOffset, range.byteLength);
    this.capturing?.overwritten.push(range);
  }

  /** Internal: `run` for kernels that write nothing but new tensors. */
  dispatch<S extends Shader, E extends EntryOf<S>>(
    spec: KernelSpec<S, E>,
    bindings: BindingsByName<S, E, Tensor | BufferRange, NamedBinding>,
    grid: Grid,
    label = "",
  ): void {
    this.check();
    const kernel = this.kernels.get(spec as KernelSpec);
    const slots = slotsOf(kernel);
    const values: NamedBinding[] = [];
    for (const slot of slots) values.push(boundTo(kernel, slot, bindings as NamedBindings));
    this.encode(spec as KernelSpec, kernel, slots, values, grid, label);
  }

  private encode(
    spec: KernelSpec,
    kernel: Kernel,
    slots: readonly Slot[],
    values: readonly NamedBinding[],
    grid: Grid,
    label: string,
  ): void {
    // First of all, since what is not in memory takes kernels of its own.
    const resources: BoundResource[] = [];
    for (const value of values) resources.push(value instanceof Tensor ? value.range : value);
    const limit = this.limits.maxComputeWorkgroupsPerDimension;
    for (const groups of grid) {
      if (groups !== undefined && !(Number.isInteger(groups) && groups >= 1 && groups <= limit)) {
        throw new DeviceError(
          `gpu.run: ${kernel.name}: grid ${show(grid)} is outside 1 to ${limit} workgroups in a dimension; expected integers, ` +
            "folded with gpu.fold where they are many",
        );
      }
    }
    this.lastLabel = label || kernel.name;
    // Of each binding: its number, the buffer, offset and size.
    const { key } = this;
    key[0] = kernel.id;
    let length = 1;
    let bytes = 0;
    for (let i = 0; i < slots.length; i += 1) {
      const resource = resources[i]!;
      let id: number;
      let offset = 0;
      let size: number;
      if ("storage" in resource) {
        const { storage, byteOffset, byteLength } = resource as BufferRange;
        id = storage.id;
        offset = byteOffset;
        size = boundSize(resource as BufferRange);
        // A buffer bound twice, in place of one that is not wanted, moves once.
        let again = false;
        for (let k = 1; k < length; k += 4) again ||= key[k + 1] === id && key[k + 2] === offset >>> 0;
        if (!again) bytes += byteLength;
        this.capturing?.borrow(storage);
      } else {
        const uniform = this.uniform(kernel, slots[i]!, resource as UniformSource);
        resources[i] = uniform;
        id = uniform.id;
        size = uniform.buffer.size;
      }
      // Of an offset beyond 32 bits the rest goes beside the binding.
      key[length] = slots[i]!.binding + MOST_BINDINGS * Math.floor(offset / 2 ** 32);
      key[length + 1] = id;
      key[length + 2] = offset;
      key[length + 3] = size;
      length += 4;
    }
    let group = this.bindGroups.get(key, length);
    if (!group) {
      group = this.bind(kernel, slots, resources);
      this.bindGroups.set(key, length, group);
    }
    const { bindGroup, buffers } = group;
    const { flops = 0, serves = NO_CHOICES } = spec;
    const { layer } = this;
    this.commands.dispatch(
      { kernel, bindGroup, grid, label: label || kernel.name, layer, bytes, flops, serves },
      buffers,
    );
  }

  private bind({ layout }: Kernel, slots: readonly Slot[], resources: readonly BoundResource[]): BoundGroup {
    const buffers: GPUBuffer[] = [];
    const entries: GPUBindGroupEntry[] = [];
    resources.forEach((resource, i) => {
      const { binding } = slots[i]!;
      if (resource instanceof UniformBuffer) {
        const { buffer } = resource;
        entries.push({ binding, resource: { buffer, offset: 0, size: buffer.size } });
      } else {
        const range = resource as BufferRange;
        const { buffer } = range.storage;
        buffers.push(buffer);
        entries.push({ binding, resource: { buffer, offset: range.byteOffset, size: boundSize(range) } });
      }
    });
    return { bindGroup: this.device.createBindGroup({ label: this.lastLabel, layout, entries }), buffers };
  }

  /** What a list binds. @throws UsageError, ShapeError for what can't be bound */
  private listed(source: KernelSource, bindings: readonly Binding[]): Bound {
    const known = source.module.slotsOf(source.entry) ?? [];
    const slots: Slot[] = [];
    const values: NamedBinding[] = [];
    bindings.forEach((bound, binding) => {
      if (bound === null) return;
      if (!(bound instanceof ArrayBuffer || ArrayBuffer.isView(bound))) {
        this.checkBuffer(
          `binding ${binding}`,
          bound,
          "a Tensor, a range, an ArrayBuffer or view of constants, or null",
        );
      }
      const slot = known.find((one) => one.binding === binding);
      slots.push(slot ?? { name: `${binding}`, aliases: [], binding, access: "read", layout: null });
      values.push(bound);
    });
    return { slots, values };
  }

  /** What is bound by name. @throws UsageError, ShapeError for what can't be bound, is missing or not known */
  private named(source: KernelSource, bindings: NamedBindings): Bound {
    if (!isPlain(bindings)) {
      throw new UsageError(
        `gpu.run: bindings is ${show(bindings)}; expected an object of tensors and constants by name, or a list of them`,
      );
    }
    const slots = slotsOf(source);
    const values = slots.map((slot) => {
      const bound = boundTo(source, slot, bindings);
      const name = `binding ${slot.name}`;
      if (slot.access !== "uniform") this.checkBuffer(name, bound, "a Tensor or a range");
      else if (bound instanceof ArrayBuffer || ArrayBuffer.isView(bound)) return bound;
      else if (!slot.layout) {
        throw new UsageError(
          `gpu.run: ${name} is ${show(bound)}; expected an ArrayBuffer or view of its bytes`,
        );
      } else if (!isPlain(bound)) {
        throw new UsageError(
          `gpu.run: ${name} is ${show(bound)}; expected an object of numbers by field, or bytes`,
        );
      } else pack(`gpu.run: ${name}`, slot.layout, bound as UniformFields, true);
      return bound;
    });
    for (const name in bindings) {
      if (slots.some((slot) => slot.name === name || slot.aliases.includes(name))) continue;
      const names = slots.map((slot) => slot.name);
      const near = nearest(name, names);
      throw new UsageError(
        `gpu.run: ${source.module.name}.${source.entry} has no binding ${name}${near ? `; did you mean ${near}?` : ""}; ` +
          `expected ${names.join(", ")}`,
      );
    }
    return { slots, values };
  }

  private checkBuffer(name: string, bound: unknown, expected: string): void {
    if (bound instanceof Tensor) {
      if (bound.gpu === this) return;
      throw new ShapeError(`gpu.run: ${name} is a Tensor of another Gpu; expected one of this Gpu`);
    }
    if (!((bound as Partial<BufferRange> | undefined)?.storage instanceof Storage)) {
      throw new ShapeError(`gpu.run: ${name} is ${show(bound)}; expected ${expected}`);
    }
  }

  /** Compiles kernels ahead of their first use, without blocking. @throws ShaderError */
  async warmup(specs: readonly KernelSpec[]): Promise<void> {
    checkArray("gpu.warmup", "specs", specs, "kernels, such as { shader, entry, constants }");
    this.check();
    await this.outcome(this.kernels.warmup(specs));
  }

  /**
   * `count` workgroups as a grid of at most two dimensions; the shader's index is
   * `workgroup_id.x + workgroup_id.y * num_workgroups.x` and may run past `count`.
   */
  fold(count: number): [number, number] {
    checkInteger("gpu.fold", "count", count, 1, this.limits.maxComputeWorkgroupsPerDimension ** 2);
    const limit = this.limits.maxComputeWorkgroupsPerDimension;
    if (count <= limit) return [count, 1];
    const rows = Math.ceil(count / limit);
    return [Math.ceil(count / rows), rows];
  }

  /** Internal: sets every 4-byte word of a range. */
  fillWords(range: BufferRange, word: number): void {
    const vec4s = Math.ceil(range.byteLength / 16);
    const bindings = { out: range, filling: { vec4s, word } };
    this.dispatch({ shader: "memory", entry: "fill" }, bindings, memoryGrid(vec4s), "fill");
  }

  /** Internal: copies a range, in whole vec4s. */
  copyRange(from: BufferRange, to: BufferRange): void {
    const vec4s = Math.ceil(from.byteLength / 16);
    this.willWrite(to);
    const bindings = { acc: to, x: from, size: { vec4s } };
    this.dispatch({ shader: "memory", entry: "copy" }, bindings, memoryGrid(vec4s), "copy");
  }

  /** Internal: `acc += x` for two tensors of one size and float type. */
  accumulate(acc: Tensor, x: Tensor): void {
    checkTensor("gpu.accumulate", "acc", acc, { dtypes: FLOATS });
    checkTensor("gpu.accumulate", "x", x, { dtypes: [acc.dtype], with: ["acc", acc] });
    if (acc.size !== x.size) {
      throw new ShapeError(
        `gpu.accumulate: x ${show(x.shape)} has ${x.size} elements, acc ${show(acc.shape)} has ${acc.size}; expected the same number`,
      );
    }
    const vec4s = Math.ceil(x.size / 4);
    const grid = memoryGrid(vec4s);
    const [into, size] = [acc.overwrite(), { vec4s }];
    if (acc.dtype === "float16") {
      const bindings = { halves: into, from_halves: x, size };
      this.dispatch({ shader: "cast", entry: "accumulate" }, bindings, grid, "accumulate");
    } else {
      const bindings = { acc: into, x, size };
      this.dispatch({ shader: "memory", entry: "accumulate" }, bindings, grid, "accumulate");
    }
  }

  /** Internal, debug mode: remembers whether `x` holds NaN or infinity, to be reported at the next sync. */
  checkFinite(x: Tensor, op: string): void {
    if (!this.debug.checkFinite || x.dtype !== "float32" || this.commands.recording) return;
    if (!this.finiteFlag) {
      this.finiteFlag = this.keep(this.empty([1], "uint32"));
      this.finiteFlag.fill(0xffffffff);
    }
    const ticket = this.checkedLabels.push(`${op} (output ${x.shape.join("×")})`) - 1;
    const bindings = { flag: this.finiteFlag, words: x, check: { words: x.size, ticket } };
    const grid = memoryGrid(x.size);
    this.dispatch({ shader: "memory", entry: "check_finite" }, bindings, grid, "check_finite");
  }

  // --- completion --------------------------------------------------------------------------------------

  /**
   * Submits what is encoded, the kernels that wait for what comes after them, and what depends on a caller's own buffers, which
   * may then be overwritten.
   */
  flush(): void {
    this.check();
    this.pending.run();
    this.commands.flush();
  }

  /** Submits, waits until the GPU is done, and throws what went wrong on the way. */
  async sync(): Promise<void> {
    this.flush();
    await this.outcome(this.device.queue.onSubmittedWorkDone().then(() => this.report()));
  }

  /** Internal: the bytes of a range, after everything encoded so far. */
  async readRange(range: BufferRange): Promise<ArrayBuffer> {
    this.check();
    this.pending.run();
    const { storage, byteOffset, byteLength } = range;
    return this.outcome(
      this.commands.read(storage.buffer, byteOffset, byteLength).then(async (bytes) => {
        await this.report();
        return bytes;
      }),
    );
  }

  /**
   * What the device promises. Where it is lost or destroyed meanwhile, the error that says so, whatever the binding makes of
   * it, and also where it makes nothing of it.
   */
  private outcome<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const stop = () => {
        this.waiting.delete(stop);
        try {
          this.check();
        } catch (error) {
          reject(error);
        }
      };
      this.waiting.add(stop);
      promise.then(
        (value) => {
          this.waiting.delete(stop);
          resolve(value);
        },
        async (error) => {
          const told = await this.typed(error);
          this.waiting.delete(stop);
          reject(told);
        },
      );
    });
  }

  /** An error of the binding as one of this package. It may come a little before the loss that caused it. */
  private async typed(error: unknown): Promise<unknown> {
    if (error instanceof FusenormError) return error;
    for (let wait = 0; wait < 50 && this.loss === null && !this.destroyed; wait += 1) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    try {
      this.check();
    } catch (cause) {
      return cause;
    }
    const message = error instanceof Error ? error.message || error.name : String(error);
    return new DeviceError(`${this.lastLabel || "gpu"}: ${message}`, { cause: error });
  }

  private async report(): Promise<void> {
    // Error events arrive in a later turn of the event loop than the completion they belong to.
    await this.kernels.settle();
    await new Promise((resolve) => setTimeout(resolve, 0));
    this.check();
    if (this.finiteFlag && this.checkedLabels.length > 0) {
      const { storage, byteOffset } = this.finiteFlag.range;
      const labels = this.checkedLabels.splice(0);
      const [first] = new Uint32Array(await this.commands.read(storage.buffer, byteOffset, 4));
      if (first! < labels.length) {
        this.finiteFlag.fill(0xffffffff);
        throw new NonFiniteError(
          `${labels[first!]}: the output holds NaN or infinity; it is the first such output since the last sync`,
        );
      }
    }
  }

  /** Times every dispatch of `fn` by timestamp queries. @throws DeviceError without `timestamp-query`. */
  async profile(fn: () => void | Promise<void>): Promise<KernelTiming[]> {
    checkFunction("gpu.profile", "fn", fn);
    this.flush();
    const profiler = new Profiler(this.device);
    this.commands.profiler = profiler;
    try {
      await fn();
      await this.sync();
      return await this.outcome(profiler.collect());
    } finally {
      if (!this.destroyed) this.commands.flush();
      this.commands.profiler = null;
      profiler.destroy();
    }
  }

  /**
   * Runs `fn` once, recording its dispatches, for `plan.run()` to repeat. Its buffers become the plan's own, shared
   * between intermediate results by the order in which they were given back. `fn` must neither write tensors from the
   * host nor read them; parameters and inputs that it uses must outlive the plan. Not reentrant.
   * @throws DeviceError on a host write or read inside `fn`, or a capture inside a capture.
   */
  capture<T>(fn: () => T): Plan<T> {
    checkFunction("gpu.capture", "fn", fn);
    if (this.commands.recording) {
      throw new DeviceError("capture: called inside a captured function; capture the outer function alone");
    }
    this.pending.settle();
    this.commands.flush();
    const outer = this.pool;
    const pool = outer.fork();
    const before = outer.stats.liveBytes + outer.stats.pooledBytes;
    const dispatches: Dispatch[] = [];
    const capture = new Capture(pool);
    let plan: Plan<T> | null = null;
    this.pool = pool;
    this.capturing = capture;
    this.commands.recording = dispatches;
    try {
      const result = this.scope(() => synchronous("gpu.capture", fn()));
      const outputs = [...tensorsIn(result)].map((tensor) => this.keep(tensor));
      this.pending.settle(); // a replay works out what the function has left, returned or not
      const bytes = outer.stats.liveBytes + outer.stats.pooledBytes - before;
      const { borrowed } = capture;
      plan = new Plan(this, result, outputs, dispatches, borrowed, capture.rewritten(), pool, bytes);
      return plan;
    } catch (error) {
      for (const storage of capture.borrowed) storage.release();
      throw error;
    } finally {
      this.pool = outer;
      this.capturing = null;
      this.commands.recording = null;
      this.commands.flush();
      if (!plan) this.retire(pool);
    }
  }

  /** Internal: gives the buffers of a plan that is gone back to the driver. */
  retire(pool: BufferPool): void {
    if (pool.close() > 0) this.bindGroups.clear();
  }

  /** Runs `fn` and lists its dispatches in order: what was fused, layer by layer. */
  explain(fn: () => void): DispatchNote[] {
    checkFunction("gpu.explain", "fn", fn);
    const watched: Dispatch[] = [];
    const outer = this.commands.watching;
    this.pending.run();
    this.commands.watching = watched;
    try {
      synchronous("gpu.explain", fn());
      this.pending.run();
    } finally {
      this.commands.watching = outer;
    }
    return watched.map(({ kernel, label, layer, grid, bytes }) => ({
      layer,
      op: label,
      kernel: kernel.name,
      workgroups: grid.reduce((product: number, groups) => product * (groups ?? 1), 1),
      bytes,
    }));
  }

  /** Internal: see `Plan.run`. */
  replay(dispatches: readonly Dispatch[]): void {
    this.check();
    this.commands.replay(dispatches);
    this.commands.flush();
  }

  /** Gives pooled buffers that nobody holds back to the driver; inside a captured function none, since its plan needs them. */
  trim(): void {
    if (this.capturing) return;
    this.commands.flush();
    if (this.pool.trim() > 0) this.bindGroups.clear();
  }

  /** Frees everything and ends the device, unless it is the caller's (`fromDevice`). Further use throws. */
  destroy(): void {
    if (this.destroyed) return;
    if (!this.ownsDevice && this.loss === null) {
      // The caller's buffers may wait for what is encoded. Earlier failures are nobody's concern any more.
      this.failure = null;
      try {
        this.flush();
      } catch {}
    }
    this.destroyed = true;
    alive.delete(this);
    this.device.removeEventListener("uncapturederror", this.onUncapturedError);
    this.commands.destroy();
    this.pool.destroy();
    this.bindGroups.clear();
    for (const { buffer } of this.uniforms.values()) buffer.destroy();
    this.uniforms.clear();
    this.pending.clear();
    if (this.ownsDevice) this.device.destroy();
    for (const wake of this.waiting) wake();
  }

  /** The buffer that holds the given bytes, or fields: one for each content. */
  private uniform(kernel: Kernel, slot: Slot | null, value: UniformSource): UniformBuffer {
    let words: Uint32Array;
    let count: number;
    if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
      const bytes = ArrayBuffer.isView(value)
        ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
        : new Uint8Array(value);
      count = Math.max(4, Math.ceil(bytes.byteLength / 16) * 4);
      words = new Uint32Array(count);
      new Uint8Array(words.buffer).set(bytes);
    } else {
      const layout = slot?.layout;
      const what = `${kernel.name}: binding ${slot?.name}`;
      if (!layout)
        throw new UsageError(`${what} is ${show(value)}; expected an ArrayBuffer or view of its bytes`);
      words = pack(what, layout, value, false);
      count = layout.words;
    }
    let uniform = this.uniforms.get(words, count);
    if (!uniform) {
      // Filled at creation, so that it needs no place in the queue and may be made inside a capture.
      const buffer = this.device.createBuffer({
        size: 4 * count,
        usage: GPUBufferUsage.UNIFORM,
        mappedAtCreation: true,
      });
      new Uint32Array(buffer.getMappedRange()).set(words.subarray(0, count));
      buffer.unmap();
      uniform = new UniformBuffer(buffer);
      this.uniforms.set(words, count, uniform);
    }
    return uniform;
  }

  private fail(error: FusenormError): void {
    this.failure ??= error;
  }

  /** Internal: throws that the device is gone, each time, or the first error that it reported since the last check. */
  check(): void {
    if (this.destroyed)
      throw new DeviceError("gpu: used after destroy(); make a new one with requestGpu or Gpu.request");
    if (this.loss !== null) throw new DeviceLostError(this.loss);
    const failure = this.failure;
    if (failure) {
      this.failure = null;
      throw failure;
    }
  }
}

/** Constants in a buffer. */
class UniformBuffer {
  readonly id: number;
  constructor(readonly buffer: GPUBuffer) {
    this.id = bufferId(buffer);
  }
}

type UniformSource = ArrayBuffer | ArrayBufferView | UniformFields;

/** What is bound, as far as it is known: a uniform has its buffer last. */
type BoundResource = BufferRange | UniformSource | UniformBuffer;

/** What a kernel's slots are bound to, in their order. */
interface Bound {
  slots: readonly Slot[];
  values: readonly NamedBinding[];
}

/** What a kernel binds, whatever it is. */
export type NamedBindings = Readonly<Record<string, NamedBinding>>;
type KernelSource = Pick<Kernel, "module" | "entry">;

/** What `bindings` has for `slot`, perhaps under another name of the same binding. @throws UsageError */
function boundTo({ module, entry }: KernelSource, slot: Slot, bindings: NamedBindings): NamedBinding {
  const value = bindings[slot.name];
  if (value !== undefined && value !== null) return value;
  const alias = slot.aliases.find((name) => bindings[name] !== undefined);
  if (alias !== undefined) return bindings[alias]!;
  const names = module.slotsOf(entry)!.map(({ name }) => name);
  throw new UsageError(
    `gpu.run: ${module.name}.${entry}: binding ${slot.name} is ${value}, among ${Object.keys(bindings).join(", ")}; expected ` +
      `${names.join(", ")}`,
  );
}

function checkGrid(grid: Grid): void {
  checkArray("gpu.run", "grid", grid, "workgroups in x, y and z");
  if (grid.length < 1 || grid.length > 3 || grid[0] === undefined) {
    throw new ShapeError(`gpu.run: grid is ${show(grid)}; expected workgroups in x, y and z, at least in x`);
  }
}

/** What becomes known of a function's buffers while it is captured. */
class Capture {
  /** Buffers of others that dispatches bind, held so that nobody reuses them. */
  readonly borrowed = new Set<Storage>();
  /** Every buffer that was asked for. */
  readonly made: Storage[] = [];
  /** What was overwritten, its own buffers among it. */
  readonly overwritten: BufferRange[] = [];

  constructor(private readonly pool: BufferPool) {}

  borrow(storage: Storage): void {
    if (storage.pool !== this.pool && !this.borrowed.has(storage)) this.borrowed.add(storage.retain());
  }

  /** What a replay overwrites that others may see: what outlives the capture. */
  rewritten(): BufferRange[] {
    const whole = (storage: Storage) => ({ storage, byteOffset: 0, byteLength: storage.byteLength });
    const kept = new Set(this.made.filter((storage) => storage.live));
    return [
      ...[...kept].map(whole),
      ...this.overwritten.filter(({ storage }) => storage.live && !kept.has(storage)),
    ];
  }
}

function memoryGrid(vec4s: number): Grid {
  return [Math.max(1, Math.min(1024, Math.ceil(vec4s / 64)))];
}

function summarize(info: GPUAdapterInfo | undefined): AdapterSummary {
  const { vendor = "", architecture = "", description = "", device = "" } = info ?? {};
  // Mesa and SwiftShader put a slug into `device` and the readable name into `description`.
  const name =
    (/[ A-Z]/.test(device) ? device : description || device) ||
    [vendor, architecture].filter(Boolean).join(" ") ||
    "unnamed adapter";
  const words = `${vendor} ${architecture} ${description} ${device}`.toLowerCase();
  const software = /swiftshader|llvmpipe|lavapipe|software|basic render|\bwarp\b/.test(words);
  const fallback = (info as { isFallbackAdapter?: boolean } | undefined)?.isFallbackAdapter === true;
  return { name, vendor, architecture, description, class: software || fallback ? "software" : "hardware" };
}

function* tensorsIn(value: unknown, depth = 0): Iterable<Tensor> {
  if (value instanceof Tensor) yield value;
  else if (value && typeof value === "object" && depth < 4 && !ArrayBuffer.isView(value)) {
    for (const item of Object.values(value)) yield* tensorsIn(item, depth + 1);
  }
}
