import { type Storage, takeSerial } from "../device/buffers.ts";
import type { ActivationPart, Load, Partials, Store } from "../fusion/ports.ts";
import type { Pending } from "./pending.ts";
import type { Tensor } from "./tensor.ts";

export type NewMask = (words: number) => Tensor;
export interface Activated {
  out: Tensor;
  mask: Tensor | null;
}

/** How the elements of a tensor come about that are not in memory. */
export interface Work {
  /** The tensors that it reads. */
  readonly sources: readonly Tensor[];
  /** Writes the elements to `target`; with `store`, which it must accept, gives the sums. */
  run(target: Tensor, store: Store | null): Partials | null;
  /** Cheap enough to be done again: elements that only a graph holds are given back, and worked out once more in backward. */
  readonly recompute: boolean;
  /** How a kernel works the elements out as it loads them. */
  readonly load?: Load | null;
  /** A kernel that has not run: whether it can do with its results what the part does. */
  readonly accepts?: (part: string) => boolean;
  /**
   * The elements with an activation after them, not in memory either. `newMask` allocates so many words for the mask that
   * backward needs, if it needs one and there is a graph: see `GradientSink`.
   */
  readonly activated?: (activation: ActivationPart, newMask: NewMask | null) => Activated | null;
  /** The sum of the elements, which `self` is a handle of, and those of `other`; of the same shape, not in memory either. */
  readonly plus?: (other: Tensor, self: Tensor, graph: boolean) => Tensor | null;
}

/**
 * What stands in a tensor for its storage while its elements are not in memory. Whoever asks for them gets them worked
 * out; kernels that can do part of the work, or work the elements out as they load them, go by the work's ports.
 */
export class Lazy {
  /** As a storage's. */
  readonly serial = takeSerial();
  private references = 1;
  private savedReferences = 0;
  private storage: Storage | null = null;
  private work: Work | null;
  private readonly forget: (() => void)[];
  private readonly readers = new Set<() => void>();

  /**
   * Takes over the work's tensors. `compute` allocates, and runs the work.
   */
  constructor(
    work: Work,
    readonly shape: readonly number[],
    private readonly compute: (
      work: Work,
      store: Store | null,
    ) => { storage: Storage; partials: Partials | null },
    private readonly pending: Pending,
  ) {
    this.work = work;
    // Whoever overwrites what the work reads has to wait for the elements.
    this.forget = work.sources.map((tensor) => tensor.beforeWrite(() => this.settle()));
    pending.add(
      this,
      work.accepts !== undefined,
      work.sources.some((tensor) => tensor.isBorrowed),
    );
  }

  /** Null while the elements are in memory. */
  get waiting(): Work | null {
    return this.storage ? null : this.work;
  }

  /** Whether the elements may be given back. */
  get recomputes(): boolean {
    return this.work?.recompute === true;
  }

  get isShared(): boolean {
    return this.references > 1;
  }

  /** Whether the elements are not in memory, and more than a graph might ask for them. */
  get isWanted(): boolean {
    return this.storage === null && this.references > this.savedReferences;
  }

  /** See `Storage.versionOf`: nobody has overwritten elements that are not in memory. */
  versionOf(byteOffset: number, byteLength: number): number {
    return this.storage?.versionOf(byteOffset, byteLength) ?? 0;
  }

  /** As `Storage.beforeWrite`. */
  beforeWrite(read: () => void): () => void {
    this.readers.add(read);
    return () => void this.readers.delete(read);
  }

  retain(saved: boolean): this {
    this.references += 1;
    if (saved) this.savedReferences += 1;
    return this;
  }

  release(saved: boolean): void {
    this.references -= 1;
    if (saved) this.savedReferences -= 1;
    if (this.references === 0) {
      this.storage?.release();
      this.dropWork();
    } else if (this.references === this.savedReferences && this.work) {
      this.storage?.release();
      this.storage = null;
    }
  }

  /** The storage, with the elements in it. */
  resolve(): Storage {
    return this.storage ?? this.done(null).storage;
  }

  /** As `resolve`; gives the sums of `store`, which the work has to accept. */
  store(store: Store): Partials {
    return this.done(store).partials!;
  }

  /** For good: what happens to the work's tensors, or to the elements, no longer matters. */
  settle(): Storage {
    const storage = this.resolve();
    this.dropWork();
    return storage;
  }

  private done(store: Store | null): { storage: Storage; partials: Partials | null } {
    const work = this.work!;
    const result = this.compute(work, store);
    this.storage = result.storage;
    result.storage.beforeWrite(() => {
      for (const read of this.readers) read();
      this.dropWork(); // which would give the elements of before
    });
    if (!work.recompute) this.dropWork();
    return result;
  }

  private dropWork(): void {
    const { work } = this;
    this.work = null;
    for (const forget of this.forget.splice(0)) forget();
    this.pending.delete(this);
    if (work) for (const tensor of work.sources) tensor.dispose();
  }
}
