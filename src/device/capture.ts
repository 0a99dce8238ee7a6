import type { BufferPool, BufferRange, Storage } from "./buffers.ts";

/** What becomes known of a function's buffers while it is captured. */
export class Capture {
  /** Buffers of others that dispatches bind, held so that nobody reuses them. */
  readonly borrowed = new Set<Storage>();
  /** Every buffer that was asked for. */
  readonly made: Storage[] = [];
  /** What was overwritten, its own buffers among it. */
  readonly overwritten: BufferRange[] = [];
  /** Called before each replay; they throw where it would do harm. */
  readonly checks: (() => void)[] = [];

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

  release(): void {
    for (const storage of this.borrowed) storage.release();
  }
}
