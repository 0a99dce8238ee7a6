import { DeviceError } from "../errors.ts";
import type { Dispatch, Grid } from "./commands.ts";

/** One dispatch as the GPU timed it. */
export interface KernelTiming {
  /** `conv2d.forward` */
  kernel: string;
  /** The op that asked for it. */
  label: string;
  /** The layer it worked for, if any. */
  layer: string;
  grid: Grid;
  /** Bytes of the buffers it binds. */
  bytes: number;
  flops: number;
  /** `kernel|shape` of the choices of a variant that it served, as `gpu.variants` has them. */
  keys: readonly string[];
  /** Microseconds since the first dispatch of the profile. */
  startUs: number;
  durationUs: number;
}

const CAPACITY = 2048; // dispatches per query set: two timestamps each, 4,096 being the limit of a set

/**
 * Times every dispatch with timestamp queries. Each gets a compute pass of its own, so a profiled step is
 * slower than a plain one; the shares between kernels are what to read.
 * @throws DeviceError if the adapter has no `timestamp-query`.
 */
export class Profiler {
  private readonly querySet: GPUQuerySet;
  private entries: Omit<KernelTiming, "startUs" | "durationUs">[] = [];
  private readonly batches: { buffer: GPUBuffer; entries: Profiler["entries"] }[] = [];
  private readonly spare: GPUBuffer[] = [];

  constructor(private readonly device: GPUDevice) {
    if (!device.features.has("timestamp-query")) {
      throw new DeviceError(
        "profiler: this adapter has no timestamp-query; run on one that has, or use wall-clock times",
      );
    }
    this.querySet = device.createQuerySet({ type: "timestamp", count: 2 * CAPACITY });
  }

  /** True when the set can hold no further dispatch before it is resolved. */
  get full(): boolean {
    return this.entries.length >= CAPACITY;
  }

  next({ kernel, label, layer, grid, bytes, flops, serves }: Dispatch): GPUComputePassDescriptor {
    const index = this.entries.length;
    const keys = serves.map(({ key }) => key);
    this.entries.push({ kernel: kernel.name, label, layer, grid, bytes, flops, keys });
    return {
      label: kernel.name,
      timestampWrites: {
        querySet: this.querySet,
        beginningOfPassWriteIndex: 2 * index,
        endOfPassWriteIndex: 2 * index + 1,
      },
    };
  }

  resolve(encoder: GPUCommandEncoder): void {
    if (this.entries.length === 0) return;
    const count = 2 * this.entries.length;
    const resolved = this.device.createBuffer({
      size: count * 8,
      usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
    });
    const buffer = this.device.createBuffer({
      size: count * 8,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    encoder.resolveQuerySet(this.querySet, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, buffer, 0, count * 8);
    this.spare.push(resolved);
    this.batches.push({ buffer, entries: this.entries });
    this.entries = [];
  }

  /** The timings of everything submitted since the last call. */
  async collect(): Promise<KernelTiming[]> {
    const timings: KernelTiming[] = [];
    let origin: bigint | null = null;
    for (const { buffer, entries } of this.batches.splice(0)) {
      await buffer.mapAsync(GPUMapMode.READ);
      const ticks = new BigUint64Array(buffer.getMappedRange());
      origin ??= ticks[0]!;
      for (const [i, entry] of entries.entries()) {
        timings.push({
          ...entry,
          startUs: Number(ticks[2 * i]! - origin) / 1e3,
          durationUs: Number(ticks[2 * i + 1]! - ticks[2 * i]!) / 1e3,
        });
      }
      buffer.unmap();
      buffer.destroy();
    }
    for (const buffer of this.spare.splice(0)) buffer.destroy();
    return timings;
  }

  destroy(): void {
    for (const { buffer } of this.batches.splice(0)) buffer.destroy();
    for (const buffer of this.spare.splice(0)) buffer.destroy();
    this.querySet.destroy();
  }
}
