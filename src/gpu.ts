// A GPU: the rooms below put together. What each of them does is said there.

import { alive } from "./alive.ts";
import { type AdapterSummary, limitsOf, requestDevice, summarize } from "./device/adapter.ts";
import { BindGroups, bytesOf, isRange } from "./device/bind-groups.ts";
import {
  type Bindings,
  type BindingsOf,
  type Bound,
  bound,
  checkedList,
  checkedNames,
  isBindable,
  type NamedBindings,
} from "./device/bindings.ts";
import { BufferPool, type BufferRange, type MemoryStats, type Storage } from "./device/buffers.ts";
import { Capture } from "./device/capture.ts";
import { Commands, type Dispatch, type Grid } from "./device/commands.ts";
import { Failures } from "./device/failures.ts";
import {
  checkSpec,
  type EntryOf,
  type Kernel,
  KernelCache,
  type KernelSpec,
  moduleOf,
  type NewKernels,
  type Shader,
} from "./device/kernels.ts";
import { type KernelTiming, Profiler } from "./device/profiler.ts";
import type { UniformSource } from "./device/uniforms.ts";
import { type Choice, Variants } from "./device/variants.ts";
import { DeviceError, ShapeError, UsageError } from "./errors.ts";
import { Riders } from "./fusion/riders.ts";
import {
  checkArray,
  checkChoice,
  checkFlag,
  checkFunction,
  checkInteger,
  checkOptions,
  checkText,
  optionNames,
  show,
  synchronous,
} from "./options.ts";
import { Plan, Receivers } from "./plan.ts";
import { GPU } from "./tensor/brand.ts";
import { bytesPerElement, type DType } from "./tensor/dtype.ts";
import { accumulate, copyRange, FiniteChecks, fillRange } from "./tensor/memory.ts";
import { Pending } from "./tensor/pending.ts";
import { Scopes, tensorsIn } from "./tensor/scopes.ts";
import { checkShape, type Shape, sizeOf } from "./tensor/shape.ts";
import { Tensor, type TensorOptions } from "./tensor/tensor.ts";
import { tracer } from "./tensor/trace.ts";

/** What debug mode checks. */
export interface DebugOptions {
  /** Fill recycled buffers with NaN before they are handed out. */
  poison?: boolean;
  /** Check every op's float32 output for NaN and infinity; the next `sync` or `read` throws, naming the op. */
  checkFinite?: boolean;
}

/** Options of a `Gpu`, whoever made the device. */
export interface GpuOptions {
  /** Dispatches gathered in one submit; up to eight times as many where kernels wait to be compiled side by side. Default 128. */
  flushEvery?: number;
  debug?: DebugOptions;
}

/** Options of `Gpu.request`. */
export interface GpuRequestOptions extends GpuOptions {
  /** Where to ask for an adapter. Default `navigator.gpu`. */
  gpu?: GPU;
  powerPreference?: "low-power" | "high-performance";
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
  private readonly failures: Failures;
  private readonly bindGroups: BindGroups;
  private pool: BufferPool;
  private capturing: Capture | null = null;
  /** @internal told of what becomes of the gradients of leaves; null outside of captured functions. */
  receivers: Receivers | null = null;
  /** @internal the tensors whose elements are not in memory, or may be given back. */
  readonly pending = new Pending();
  /** @internal small kernels ride along in dispatches of others. */
  readonly riders: Riders;
  private readonly scopes = new Scopes();
  private readonly finite = new FiniteChecks(this);
  private destroyed = false;
  /** Of one buffer. */
  private readonly maxBytes: number;

  private constructor(
    readonly device: GPUDevice,
    readonly info: AdapterSummary,
    options: GpuOptions,
    /** False for a caller's device, which `destroy` leaves alone. */
    private readonly ownsDevice: boolean,
  ) {
    this.limits = limitsOf(device);
    const { name, vendor, architecture, description } = info;
    this.variants = new Variants([name, vendor, architecture, description].join(" | "));
    this.features = device.features as unknown as ReadonlySet<string>;
    this.debug = { poison: false, checkFinite: false, ...options.debug };
    this.commands = new Commands(device, options.flushEvery ?? 128);
    this.riders = new Riders(this.commands);
    this.failures = new Failures(
      device,
      ownsDevice,
      () => this.kernels,
      () => void alive.delete(this),
    );
    this.kernels = new KernelCache(device, (error) => this.failures.add(error));
    this.bindGroups = new BindGroups(device);
    this.maxBytes = Math.min(this.limits.maxBufferSize, this.limits.maxStorageBufferBindingSize);
    this.pool = new BufferPool(device, this.maxBytes);
    alive.add(this);
  }

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
    const device = await requestDevice(adapter);
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

  /** One line: the adapter, and what is in its memory. */
  toString(): string {
    const { liveBuffers, liveBytes } = this.stats;
    return `Gpu ${this.info.name} (${this.info.class}): ${liveBuffers} buffers, ${(liveBytes / 1e6).toFixed(1)} MB`;
  }

  /** What `console.log` shows in Node, Bun and Deno. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
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

  /** A tensor of zeros. */
  zeros(shape: Shape, options: TensorOptions = {}): Tensor {
    return Tensor.full(this, shape, 0, options, "gpu.zeros");
  }

  /** A tensor of one repeated value. */
  full(shape: Shape, value: number, options: TensorOptions = {}): Tensor {
    return Tensor.full(this, shape, value, options, "gpu.full");
  }

  /** @internal refuses a shape that no buffer of this adapter holds, before anything is done. */
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
    return this.scopes.run("gpu.scope", fn);
  }

  /** @internal the innermost scope owns `tensor`. */
  track(tensor: Tensor): void {
    this.scopes.track(tensor);
  }

  /** Takes `tensor` out of every scope: it lives until its `dispose()`. */
  keep<T extends Tensor>(tensor: T): T {
    if (!(tensor instanceof Tensor)) {
      throw new ShapeError(`gpu.keep: tensor is ${show(tensor)}; expected a Tensor`);
    }
    this.scopes.keep(tensor);
    return tensor;
  }

  /** @internal memory for `byteLength` bytes, padded to whole vec4s. */
  allocate(byteLength: number, what: string): Storage {
    this.check();
    const padded = Math.ceil(byteLength / 16) * 16;
    const { storage, recycled } = this.pool.acquire(padded, what);
    this.capturing?.made.push(storage);
    if (recycled && this.debug.poison) {
      // Whatever is held has no recycled buffer.
      const range = { storage, byteOffset: 0, byteLength: padded };
      this.commands.before(() => fillRange(this, range, 0x7fc00000));
    }
    return storage;
  }

  /** @internal wraps a caller's buffer. */
  adopt(buffer: GPUBuffer): Storage {
    return this.pool.adopt(buffer);
  }

  /** @internal `listener` is told of every kernel that is new here, until the GPU's end. */
  tellNewKernels(listener: NewKernels): void {
    this.kernels.listener = listener;
    this.commands.newKernels = listener;
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
    const all = Array.isArray(bindings)
      ? checkedList(this, source, bindings)
      : checkedNames(this, source, bindings as NamedBindings);
    this.check();
    tracer()?.kernel(
      source.entry,
      all.values.flatMap((value) => (isBindable(value) ? [value.range] : isRange(value) ? [value] : [])),
    );
    all.slots.forEach(({ access }, i) => {
      if (access !== "read_write") return;
      const value = all.values[i]!;
      if (isBindable(value)) value.overwrite();
      else if (isRange(value)) this.willWrite(value);
    });
    // A copy: kernels are remembered by their specs, and the caller may change this one.
    const kept = { ...spec, constants: { ...spec.constants } } as KernelSpec;
    this.encode(kept, this.kernels.get(kept), all, grid, label);
  }

  /** @internal to be called before a kernel or the host overwrites bytes that somebody may have seen already. */
  willWrite(range: BufferRange): void {
    tracer()?.write(range);
    range.storage.willWrite(range.byteOffset, range.byteLength);
    this.capturing?.overwritten.push(range);
  }

  /** @internal in a captured function: `check` is called before each replay, and throws where that would do harm. */
  beforeReplay(check: () => void): void {
    this.capturing?.checks.push(check);
  }

  /** @internal `run` for kernels that write nothing but new tensors. */
  dispatch<S extends Shader, E extends EntryOf<S>>(
    spec: KernelSpec<S, E>,
    bindings: BindingsOf<S, E>,
    grid: Grid,
    label = "",
  ): void {
    this.check();
    const kernel = this.kernels.get(spec as KernelSpec);
    this.encode(spec as KernelSpec, kernel, bound(kernel, bindings as NamedBindings), grid, label);
  }

  private encode(
    spec: KernelSpec,
    kernel: Kernel,
    { slots, values }: Bound,
    grid: Grid,
    label: string,
  ): void {
    // First of all, since what is not in memory takes kernels of its own.
    const resources: (BufferRange | UniformSource)[] = [];
    for (const value of values) resources.push(isBindable(value) ? value.range : value);
    const limit = this.limits.maxComputeWorkgroupsPerDimension;
    for (let i = 0; i < grid.length; i += 1) {
      const groups = grid[i];
      if (groups !== undefined && !(Number.isInteger(groups) && groups >= 1 && groups <= limit)) {
        throw new DeviceError(
          `gpu.run: ${kernel.name}: grid ${show(grid)} is outside 1 to ${limit} workgroups in a dimension; expected integers, ` +
            "folded with gpu.fold where they are many",
        );
      }
    }
    const op = label || kernel.name;
    this.failures.label = op;
    const { bindGroup, buffers } = this.bindGroups.get(kernel, slots, resources, op);
    if (this.capturing) {
      for (const value of resources) if (isRange(value)) this.capturing.borrow(value.storage);
    }
    const { flops = 0, serves = NO_CHOICES } = spec;
    const { layer } = this;
    const bytes = bytesOf(resources);
    this.commands.dispatch({ kernel, bindGroup, grid, label: op, layer, bytes, flops, serves }, buffers);
  }

  /** Compiles kernels ahead of their first use, without blocking. @throws ShaderError */
  async warmup(specs: readonly KernelSpec[]): Promise<void> {
    checkArray("gpu.warmup", "specs", specs, "kernels, such as { shader, entry, constants }");
    this.check();
    await this.failures.outcome(this.kernels.warmup(specs));
  }

  /**
   * `count` workgroups as a grid of at most two dimensions; the shader's index is
   * `workgroup_id.x + workgroup_id.y * num_workgroups.x` and may run past `count`.
   */
  fold(count: number): [number, number] {
    const limit = this.limits.maxComputeWorkgroupsPerDimension;
    checkInteger("gpu.fold", "count", count, 1, limit ** 2);
    if (count <= limit) return [count, 1];
    const rows = Math.ceil(count / limit);
    return [Math.ceil(count / rows), rows];
  }

  /** @internal sets every 4-byte word of a range, in whole vec4s. */
  fillRange(range: BufferRange, word: number): void {
    fillRange(this, range, word);
  }

  /** @internal copies a range, in whole vec4s. */
  copyRange(from: BufferRange, to: BufferRange): void {
    copyRange(this, from, to);
  }

  /** @internal `acc += x` for two tensors of one size and float type. */
  accumulate(acc: Tensor, x: Tensor): void {
    accumulate(this, acc, x);
  }

  /** Internal, debug mode: remembers whether `x` holds NaN or infinity, to be reported at the next sync. */
  checkFinite(x: Tensor, op: string): void {
    if (this.debug.checkFinite && x.dtype === "float32" && !this.commands.recording) this.finite.add(x, op);
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
    await this.failures.outcome(this.device.queue.onSubmittedWorkDone().then(() => this.report()));
  }

  /** @internal the bytes of a range, after everything encoded so far. */
  async readRange(range: BufferRange): Promise<ArrayBuffer> {
    this.check();
    this.pending.run();
    const { storage, byteOffset, byteLength } = range;
    return this.failures.outcome(
      this.commands.read(storage.buffer, byteOffset, byteLength).then(async (bytes) => {
        await this.report();
        return bytes;
      }),
    );
  }

  private async report(): Promise<void> {
    await this.failures.settle();
    await this.finite.report();
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
      return await this.failures.outcome(profiler.collect());
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
    const receivers = new Receivers();
    const returned = new Set<Tensor>();
    let plan: Plan<T> | null = null;
    this.pool = pool;
    this.capturing = capture;
    this.receivers = receivers;
    this.commands.recording = dispatches;
    try {
      const result = this.scopes.run("gpu.capture", fn, returned);
      this.pending.settle(); // a replay works out what the function has left, returned or not
      this.riders.leave();
      // What was there before is somebody else's, though the function may return it.
      const own = new Set(capture.made);
      const isOwn = (tensor: Tensor) =>
        returned.has(tensor) || (!tensor.isDisposed && own.has(tensor.range.storage));
      const found = [...tensorsIn(result)];
      const outputs = found.filter(isOwn);
      const foreign = found.find((tensor) => tensor.gpu !== this);
      if (foreign) {
        throw new UsageError(
          `gpu.capture: the function returned ${show(foreign)} of another Gpu; expected one whose tensors are of this Gpu, which records no other's work`,
        );
      }
      for (const tensor of outputs) this.keep(tensor);
      const bytes = outer.stats.liveBytes + outer.stats.pooledBytes - before;
      receivers.close();
      plan = new Plan(this, result, outputs, dispatches, capture, receivers, pool, bytes);
      return plan;
    } catch (error) {
      capture.release();
      for (const tensor of returned) tensor.dispose();
      throw error;
    } finally {
      this.pool = outer;
      this.capturing = null;
      this.receivers = null;
      this.commands.recording = null;
      this.commands.flush();
      if (!plan) this.retire(pool);
    }
  }

  /** @internal gives the buffers of a plan that is gone back to the driver. */
  retire(pool: BufferPool): void {
    if (pool.close() > 0) this.bindGroups.clear();
  }

  /** Runs `fn` and lists its dispatches in order: what was fused, layer by layer. */
  explain(fn: () => void): DispatchNote[] {
    checkFunction("gpu.explain", "fn", fn);
    const watched: Dispatch[] = [];
    this.pending.run();
    this.commands.observe(
      (dispatch) => watched.push(dispatch),
      () => {
        synchronous("gpu.explain", fn());
        this.pending.run();
      },
    );
    return watched.map(({ kernel, label, layer, grid, bytes }) => ({
      layer,
      op: label,
      kernel: kernel.name,
      workgroups: grid.reduce((product: number, groups) => product * (groups ?? 1), 1),
      bytes,
    }));
  }

  /** @internal see `Plan.run`. */
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
    if (!this.ownsDevice && !this.failures.isLost) {
      // The caller's buffers may wait for what is encoded.
      this.failures.forget();
      try {
        this.flush();
      } catch {}
    }
    this.destroyed = true;
    alive.delete(this);
    this.failures.end();
    this.kernels.listener?.close();
    this.commands.destroy();
    this.pool.destroy();
    this.bindGroups.destroy();
    this.pending.clear();
    if (this.ownsDevice) this.device.destroy();
    this.failures.wake();
  }

  /** @internal throws that the device is gone, each time, or the first error that it reported since the last check. */
  check(): void {
    this.failures.check();
  }
}

function checkGrid(grid: Grid): void {
  checkArray("gpu.run", "grid", grid, "workgroups in x, y and z");
  if (grid.length < 1 || grid.length > 3 || grid[0] === undefined) {
    throw new ShapeError(`gpu.run: grid is ${show(grid)}; expected workgroups in x, y and z, at least in x`);
  }
}
