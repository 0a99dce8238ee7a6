import { DeviceError, UseAfterDisposeError } from "../errors.ts";

/** What `gpu.stats.memory` counts, in bytes of GPU buffers (after rounding to a size class). */
export interface MemoryStats {
  /** Buffers that some tensor or graph node holds. */
  liveBuffers: number;
  liveBytes: number;
  /** Largest `liveBytes` since the start or the last `resetPeak()`. */
  peakBytes: number;
  /** Buffers waiting in the pool to be used again. */
  pooledBuffers: number;
  pooledBytes: number;
}

/** A reference-counted GPU buffer. Tensors, views and graph nodes each hold one reference. */
export class Storage {
  private references = 1;

  constructor(
    readonly id: number,
    readonly buffer: GPUBuffer,
    readonly byteLength: number,
    private readonly onFree: (storage: Storage) => void,
  ) {}

  get live(): boolean {
    return this.references > 0;
  }

  get isShared(): boolean {
    return this.references > 1;
  }

  retain(): this {
    if (!this.live) throw new UseAfterDisposeError("internal: a freed buffer was retained");
    this.references += 1;
    return this;
  }

  release(): void {
    if (!this.live) throw new UseAfterDisposeError("internal: a buffer was released twice");
    this.references -= 1;
    if (this.references === 0) this.onFree(this);
  }
}

/** Four size classes an octave: at most a quarter of a buffer is slack. */
export function sizeClass(bytes: number): number {
  const minimum = 256;
  if (bytes <= minimum) return minimum;
  const quarter = 2 ** (Math.floor(Math.log2(bytes - 1)) - 2);
  return Math.ceil(bytes / quarter) * quarter;
}

/**
 * Recycles buffers by size class. A freed buffer may be handed out at once: all work goes through one
 * in-order queue, so later dispatches can't overtake the ones that still read it. Host writes can; see
 * `Commands.write`.
 */
export class BufferPool {
  readonly stats: MemoryStats = { liveBuffers: 0, liveBytes: 0, peakBytes: 0, pooledBuffers: 0, pooledBytes: 0 };
  private readonly free = new Map<number, GPUBuffer[]>();
  private readonly owned = new Set<GPUBuffer>();
  private nextId = 1;
  private readonly ids = new WeakMap<GPUBuffer, number>();
  private destroyed = false;

  constructor(
    private readonly device: GPUDevice,
    private readonly maxBytes: number,
  ) {}

  /** A buffer of at least `bytes`, its content undefined. `recycled` tells whether it was used before. */
  acquire(bytes: number, what: string): { storage: Storage; recycled: boolean } {
    const size = sizeClass(bytes);
    if (bytes > this.maxBytes) {
      throw new DeviceError(
        `${what}: needs ${bytes} bytes in one buffer, this adapter binds at most ${this.maxBytes}; ` +
          "use a smaller batch, or split the tensor",
      );
    }
    const capacity = Math.min(size, Math.floor(this.maxBytes / 16) * 16);
    const waiting = this.free.get(capacity)?.pop();
    if (waiting) {
      this.stats.pooledBuffers -= 1;
      this.stats.pooledBytes -= capacity;
    }
    const buffer =
      waiting ??
      this.device.createBuffer({
        size: capacity,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
      });
    this.owned.add(buffer);
    this.stats.liveBuffers += 1;
    this.stats.liveBytes += capacity;
    this.stats.peakBytes = Math.max(this.stats.peakBytes, this.stats.liveBytes);
    const storage = new Storage(this.idOf(buffer), buffer, capacity, (freed) => this.recycle(freed));
    return { storage, recycled: waiting !== undefined };
  }

  /** Wraps a buffer that somebody else owns: never pooled, never destroyed, not counted. */
  adopt(buffer: GPUBuffer): Storage {
    return new Storage(this.idOf(buffer), buffer, buffer.size, () => {});
  }

  /** A number that stands for the buffer in bind-group keys. */
  idOf(buffer: GPUBuffer): number {
    let id = this.ids.get(buffer);
    if (id === undefined) {
      id = this.nextId++;
      this.ids.set(buffer, id);
    }
    return id;
  }

  private recycle(storage: Storage): void {
    if (this.destroyed) return;
    this.stats.liveBuffers -= 1;
    this.stats.liveBytes -= storage.byteLength;
    this.stats.pooledBuffers += 1;
    this.stats.pooledBytes += storage.byteLength;
    const list = this.free.get(storage.byteLength);
    if (list) list.push(storage.buffer);
    else this.free.set(storage.byteLength, [storage.buffer]);
  }

  /** Destroys the buffers that nobody holds; call after a submit. Returns how many. */
  trim(): number {
    let count = 0;
    for (const list of this.free.values()) {
      for (const buffer of list) {
        buffer.destroy();
        this.owned.delete(buffer);
        count += 1;
      }
    }
    this.free.clear();
    this.stats.pooledBuffers = 0;
    this.stats.pooledBytes = 0;
    return count;
  }

  resetPeak(): void {
    this.stats.peakBytes = this.stats.liveBytes;
  }

  destroy(): void {
    this.destroyed = true;
    for (const buffer of this.owned) buffer.destroy();
    this.owned.clear();
    this.free.clear();
    Object.assign(this.stats, { liveBuffers: 0, liveBytes: 0, pooledBuffers: 0, pooledBytes: 0 });
  }
}
