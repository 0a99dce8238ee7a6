import { DeviceError } from "../errors.ts";
import type { Kernel } from "./kernels.ts";
import type { Profiler } from "./profiler.ts";
import type { Choice } from "./variants.ts";

/** Workgroups in x, y and z. */
export type Grid = readonly [number, number?, number?];

/** One recorded dispatch: everything a replay needs. */
export interface Dispatch {
  kernel: Kernel;
  bindGroup: GPUBindGroup;
  grid: Grid;
  /** The op that asked for it, for profiles and errors. */
  label: string;
  /** The layer it works for, e.g. `blocks.3.first.conv`; empty outside of layers. */
  layer: string;
  /** Bytes of the buffers it binds, each once: what it moves if every byte is touched once. */
  bytes: number;
  flops: number;
  /** The choices that it serves, see `KernelSpec.serves`. */
  serves: readonly Choice[];
}

export interface CommandStats {
  dispatches: number;
  submits: number;
}

/** So many times `flushEvery` dispatches are gathered at most while kernels are due to be compiled side by side. */
const MOST_HELD = 8;

/**
 * The one encoder. Dispatches are batched into one compute pass and submitted when `flushEvery` have
 * gathered, when the host writes to a buffer that unsubmitted work uses, or on `flush` and `read`.
 */
export class Commands {
  readonly stats: CommandStats = { dispatches: 0, submits: 0 };
  profiler: Profiler | null = null;
  private readonly observers = new Set<(dispatch: Dispatch) => void>();
  /** While set, dispatches are counted and told but not carried out. */
  private idle = false;
  /** While set, dispatches are also appended here (see plan.ts). */
  recording: Dispatch[] | null = null;
  private encoder: GPUCommandEncoder | null = null;
  private pass: GPUComputePassEncoder | null = null;
  private boundKernel: Kernel | null = null;
  private pending = 0;
  private touched = new Set<GPUBuffer>();
  private readonly staging: GPUBuffer[] = [];
  private held: (() => void) | null = null;
  /**
   * While there is one that is due, submits wait for it: a device that compiles at the first dispatch lets no pipeline be made
   * meanwhile, so that the host would wait for one kernel after the other.
   */
  newKernels: { readonly isDue: boolean } | null = null;

  constructor(
    private readonly device: GPUDevice,
    private readonly flushEvery: number,
  ) {}

  /** Puts `dispatch` off until the next command, of whatever kind, before which it is called; see `release`. */
  hold(dispatch: () => void): void {
    this.settle();
    this.held = dispatch;
  }

  /** What is held will not be called: the caller does it. */
  release(): void {
    this.held = null;
  }

  /** Runs `fn`, whose commands go before what is held: they have nothing to do with what that binds. */
  before(fn: () => void): void {
    const { held } = this;
    this.held = null;
    try {
      fn();
    } finally {
      this.held = held;
    }
  }

  /** Calls what is held, if there is anything. */
  settle(): void {
    const { held } = this;
    this.held = null;
    held?.();
  }

  /** `buffers` are those the bind group names: a later host write to one of them must wait its turn. */
  dispatch(dispatch: Dispatch, buffers: readonly GPUBuffer[]): void {
    this.settle();
    this.recording?.push(dispatch);
    this.encode(dispatch);
    if (this.idle) return; // nothing that a host's write would have to wait for
    for (const buffer of buffers) this.touched.add(buffer);
    this.pending += 1;
    const most = this.newKernels?.isDue ? MOST_HELD * this.flushEvery : this.flushEvery;
    if (this.pending >= most && !this.recording) this.flush();
  }

  /** Encodes a recorded list; the caller flushes. */
  replay(dispatches: readonly Dispatch[]): void {
    this.settle();
    for (const dispatch of dispatches) this.encode(dispatch);
    this.pending += dispatches.length;
  }

  /**
   * Tells `observer` of each dispatch that `fn` encodes, those of replays among them. With `execute: false` the device does
   * nothing meanwhile.
   */
  observe<T>(observer: (dispatch: Dispatch) => void, fn: () => T, { execute = true } = {}): T {
    this.settle();
    const outer = this.idle;
    this.observers.add(observer);
    this.idle ||= !execute;
    try {
      const result = fn();
      this.settle();
      return result;
    } finally {
      this.observers.delete(observer);
      this.idle = outer;
    }
  }

  private encode(dispatch: Dispatch): void {
    const { kernel, bindGroup, grid } = dispatch;
    for (const observe of this.observers) observe(dispatch);
    if (this.idle) return;
    this.stats.dispatches += 1;
    if (this.profiler?.full) this.flush();
    this.encoder ??= this.device.createCommandEncoder();
    let pass = this.pass;
    if (this.profiler) {
      pass = this.encoder.beginComputePass(this.profiler.next(dispatch));
      this.boundKernel = null;
    } else {
      pass ??= this.pass = this.encoder.beginComputePass();
    }
    if (this.boundKernel !== kernel) {
      pass.setPipeline(kernel.pipeline);
      this.boundKernel = kernel;
    }
    pass.setBindGroup(0, bindGroup);
    pass.dispatchWorkgroups(grid[0], grid[1] ?? 1, grid[2] ?? 1);
    if (this.profiler) pass.end();
  }

  private endPass(): void {
    this.pass?.end();
    this.pass = null;
    this.boundKernel = null;
  }

  /** @throws DeviceError inside a captured function */
  refuseHostWrite(): void {
    if (this.recording) {
      throw new DeviceError(
        "capture: data was written from the host inside a captured function; a replay would not write it again. " +
          "Create tensors before the capture and fill them with `tensor.write` between runs",
      );
    }
  }

  /** Writes from the host. `queue.writeBuffer` overtakes work that is encoded but not submitted, hence the flush. */
  write(buffer: GPUBuffer, byteOffset: number, data: ArrayBuffer | ArrayBufferView): void {
    this.refuseHostWrite();
    this.settle();
    if (this.touched.has(buffer)) this.flush();
    const view = ArrayBuffer.isView(data)
      ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
      : new Uint8Array(data);
    const whole = view.byteLength & ~3;
    // Dawn and browsers refuse shared memory and lengths that are not whole words.
    const plain =
      view.buffer instanceof ArrayBuffer ? (view as Uint8Array<ArrayBuffer>) : new Uint8Array(view);
    if (whole > 0) this.device.queue.writeBuffer(buffer, byteOffset, plain, 0, whole);
    if (whole < view.byteLength) {
      const tail = new Uint8Array(4);
      tail.set(view.subarray(whole));
      this.device.queue.writeBuffer(buffer, byteOffset + whole, tail);
    }
  }

  flush(): void {
    this.settle();
    if (!this.encoder) return;
    this.endPass();
    this.profiler?.resolve(this.encoder);
    this.device.queue.submit([this.encoder.finish()]);
    this.encoder = null;
    this.pending = 0;
    this.touched.clear();
    this.stats.submits += 1;
  }

  /** Copies `byteLength` bytes to the host, after everything encoded so far. */
  async read(buffer: GPUBuffer, byteOffset: number, byteLength: number): Promise<ArrayBuffer> {
    if (this.recording) {
      throw new DeviceError(
        "capture: a tensor was read inside a captured function; return it and read it after run()",
      );
    }
    this.settle();
    // Copies are whole words from a word boundary; the excess is cut off below.
    const start = byteOffset & ~3;
    const size = Math.ceil((byteOffset + byteLength - start) / 4) * 4;
    const staging = this.takeStaging(size);
    try {
      this.endPass();
      this.encoder ??= this.device.createCommandEncoder();
      this.encoder.copyBufferToBuffer(buffer, start, staging, 0, size);
      this.flush();
      await staging.mapAsync(GPUMapMode.READ, 0, size);
      const head = byteOffset - start;
      const copy = staging.getMappedRange(0, size).slice(head, head + byteLength);
      staging.unmap();
      this.staging.push(staging);
      return copy;
    } catch (error) {
      staging.destroy();
      throw error;
    }
  }

  private takeStaging(size: number): GPUBuffer {
    const fits = this.staging.findIndex((buffer) => buffer.size >= size && buffer.size <= 4 * size + 4096);
    if (fits >= 0) return this.staging.splice(fits, 1)[0]!;
    for (const old of this.staging.splice(0, Math.max(0, this.staging.length - 3))) old.destroy();
    return this.device.createBuffer({
      size: 2 ** Math.ceil(Math.log2(Math.max(size, 256))),
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
  }

  destroy(): void {
    this.release();
    for (const buffer of this.staging.splice(0)) buffer.destroy();
    this.profiler?.destroy();
    this.profiler = null;
  }
}
