import { DeviceError, UseAfterDisposeError } from "../errors.ts";

/** What `gpu.stats` counts, in bytes of GPU buffers (after rounding to a size class). */
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

/** Offsets at which every adapter lets a binding start are multiples of this. */
export const BINDING_ALIGNMENT = 256;

/** Part of a buffer. */
export interface BufferRange {
  storage: Storage;
  byteOffset: number;
  byteLength: number;
}

/** The smallest range of a buffer that holds all of `ranges`, and where in it they start; null where they are of several buffers. */
export function hull(ranges: readonly BufferRange[]): { out: BufferRange; starts: number[] } | null {
  const { storage } = ranges[0]!;
  if (ranges.some((range) => range.storage !== storage)) return null;
  const start = Math.min(...ranges.map(({ byteOffset }) => byteOffset));
  const end = Math.max(...ranges.map(({ byteOffset, byteLength }) => byteOffset + byteLength));
  return {
    out: { storage, byteOffset: start, byteLength: end - start },
    starts: ranges.map(({ byteOffset }) => byteOffset - start),
  };
}

/** A reference-counted GPU buffer. Tensors, views and graph nodes each hold one reference. */
export class Storage {
  /** Tells what was made earlier and what later. */
  readonly serial = takeSerial();
  /** Of the buffer, for the keys of bind groups. */
  readonly id: number;
  /** Where a parameter that lived here has gone, for plans that still read it here; null while none has. */
  movedTo: string | null = null;
  private references = 1;
  /** Of these, those that look at nothing. */
  private pins = 0;
  private readonly readers = new Set<() => void>();
  /** The ranges that were overwritten, each with when it was last; see `versionOf`. */
  private overwritten: { start: number; end: number; version: number }[] = [];
  private version = 0;

  constructor(
    readonly buffer: GPUBuffer,
    readonly byteLength: number,
    /** Where the buffer goes when nobody holds it; null for a caller's own buffer. */
    readonly pool: BufferPool | null,
  ) {
    this.id = bufferId(buffer);
  }

  get live(): boolean {
    return this.references > 0;
  }

  get isShared(): boolean {
    return this.references - this.pins > 1;
  }

  /** As `retain`, for who neither reads nor writes the elements: the buffer stays as it is, and whoever has it alone has it alone. */
  pin(): void {
    this.retain();
    this.pins += 1;
  }

  unpin(): void {
    this.pins -= 1;
    this.release();
  }

  retain(): this {
    if (!this.live) throw new UseAfterDisposeError("internal: a freed buffer was retained");
    this.references += 1;
    return this;
  }

  /** Calls `read` before somebody overwrites the elements, until the function that it returns is called. */
  beforeWrite(read: () => void): () => void {
    this.readers.add(read);
    return () => void this.readers.delete(read);
  }

  /** Lets those read the elements who asked to before somebody overwrites them. */
  callReaders(): void {
    for (const read of this.readers) read();
  }

  /** To be called before bytes are overwritten that somebody may have seen already. */
  willWrite(byteOffset: number, byteLength: number): void {
    this.callReaders();
    this.version += 1;
    const { version } = this;
    const [start, end] = [byteOffset, byteOffset + byteLength];
    const known = this.overwritten.find((range) => range.start === start && range.end === end);
    if (known) known.version = version;
    else if (this.overwritten.length < MOST_RANGES) this.overwritten.push({ start, end, version });
    else this.overwritten = [{ start: 0, end: this.byteLength, version }]; // to be on the safe side
  }

  /** Changes whenever one of these bytes is overwritten: how backward sees that a saved tensor is not what it was. */
  versionOf(byteOffset: number, byteLength: number): number {
    let latest = 0;
    for (const { start, end, version } of this.overwritten) {
      if (start < byteOffset + byteLength && end > byteOffset && version > latest) latest = version;
    }
    return latest;
  }

  release(): void {
    if (!this.live) throw new UseAfterDisposeError("internal: a buffer was released twice");
    this.references -= 1;
    if (this.references === 0) this.pool?.recycle(this);
  }
}

/** More ranges than the parameters of a deep network, which share a buffer. */
const MOST_RANGES = 4096;

let serials = 0;

/** A number for a storage, or for what stands in for one: a later one gets a larger one. */
export function takeSerial(): number {
  serials += 1;
  return serials;
}

/** The number that comes next. */
export function nextSerial(): number {
  return serials + 1;
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
  private readonly free = new Map<number, GPUBuffer[]>();
  private readonly owned = new Set<GPUBuffer>();
  private readonly adopted = new WeakMap<GPUBuffer, Storage>();
  private readonly forks = new Set<BufferPool>();
  private destroyed = false;
  private closed = false;

  constructor(
    readonly device: GPUDevice,
    private readonly maxBytes: number,
    /** Shared with the pools of captured plans, so that the counters are those of the device. */
    readonly stats: MemoryStats = {
      liveBuffers: 0,
      liveBytes: 0,
      peakBytes: 0,
      pooledBuffers: 0,
      pooledBytes: 0,
    },
    /** Gets the buffers that are given back after `close`. */
    private readonly parent: BufferPool | null = null,
  ) {}

  /** A pool of its own for a captured plan. */
  fork(): BufferPool {
    const pool = new BufferPool(this.device, this.maxBytes, this.stats, this);
    this.forks.add(pool);
    return pool;
  }

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
    return { storage: new Storage(buffer, capacity, this), recycled: waiting !== undefined };
  }

  /** Wraps a buffer that somebody else owns, all its tensors in one storage: never pooled, never destroyed, not counted. */
  adopt(buffer: GPUBuffer): Storage {
    const known = this.adopted.get(buffer);
    if (known?.live) return known.retain();
    const storage = new Storage(buffer, buffer.size, null);
    this.adopted.set(buffer, storage);
    return storage;
  }

  /** @internal nobody holds the buffer any more. */
  recycle(storage: Storage): void {
    if (this.destroyed) return;
    this.stats.liveBuffers -= 1;
    this.stats.liveBytes -= storage.byteLength;
    this.stats.pooledBuffers += 1;
    this.stats.pooledBytes += storage.byteLength;
    if (this.closed && this.parent) {
      this.owned.delete(storage.buffer);
      this.parent.receive(storage);
      this.leaveParent();
    } else this.keepFree(storage);
  }

  /**
   * The buffers of a size wait in the order of their making, the oldest to be taken first: steps that do the same then get the
   * same buffers, and find their bind groups.
   */
  private keepFree({ buffer, byteLength }: Storage): void {
    const list = this.free.get(byteLength);
    if (!list) {
      this.free.set(byteLength, [buffer]);
      return;
    }
    const id = bufferId(buffer);
    let at = 0;
    for (let end = list.length; at < end; ) {
      const middle = (at + end) >> 1;
      if (bufferId(list[middle]!) > id) at = middle + 1;
      else end = middle;
    }
    list.splice(at, 0, buffer);
  }

  private receive(storage: Storage): void {
    this.owned.add(storage.buffer);
    this.keepFree(storage);
  }

  /** For a fork whose plan is gone: destroys what nobody holds; what comes back later goes to the pool it came from. */
  close(): number {
    this.closed = true;
    const count = this.trim();
    this.leaveParent();
    return count;
  }

  private leaveParent(): void {
    if (this.owned.size === 0) this.parent?.forks.delete(this);
  }

  /** Destroys the buffers that nobody holds; call after a submit. Returns how many. */
  trim(): number {
    let count = 0;
    for (const [capacity, list] of this.free) {
      for (const buffer of list) {
        buffer.destroy();
        this.owned.delete(buffer);
        this.stats.pooledBuffers -= 1;
        this.stats.pooledBytes -= capacity;
        count += 1;
      }
    }
    this.free.clear();
    return count;
  }

  resetPeak(): void {
    this.stats.peakBytes = this.stats.liveBytes;
  }

  destroy(): void {
    this.destroyed = true;
    for (const fork of this.forks) fork.destroy();
    for (const buffer of this.owned) buffer.destroy();
    this.owned.clear();
    this.free.clear();
    Object.assign(this.stats, { liveBuffers: 0, liveBytes: 0, pooledBuffers: 0, pooledBytes: 0 });
  }
}

let nextId = 1;
const ids = new WeakMap<GPUBuffer, number>();

/** A number that stands for the buffer in bind-group keys. */
export function bufferId(buffer: GPUBuffer): number {
  let id = ids.get(buffer);
  if (id === undefined) {
    id = nextId++;
    ids.set(buffer, id);
  }
  return id;
}
