import { type Storage, takeSerial } from "../gpu/buffers.ts";
import type { Tensor } from "./tensor.ts";

/** Partial sums that a kernel leaves for a batch-norm: [groups, rows, channels], each row a number per channel. */
export interface Partials {
  values: Tensor;
  groups: number;
}

/** How a deferred tensor is made from tensors that are in memory; see shaders/batch_norm.wgsl. */
export type Recipe =
  /** act((x - origin) * a + b [+ residual]), numbers [5, C] */
  | { kind: "normalise"; x: Tensor; numbers: Tensor; relu: boolean; residual?: Tensor | null }
  /** a * (dz + (x - origin) * p + q), slopes [4, C]: p, q, origin, a */
  | { kind: "gradient"; dz: Tensor; x: Tensor; slopes: Tensor; numbers: Tensor };

/**
 * What stands in a tensor for its storage while its elements are not in memory. Whoever asks for them gets them worked
 * out; a kernel that can work them out as it loads them goes by the recipe. A normalised activation that only the graph
 * still holds gives its memory back: backward works it out once more.
 */
export class Deferred {
  /** As a storage's. */
  readonly serial = takeSerial();
  private references = 1;
  private savedReferences = 0;
  private storage: Storage | null = null;
  private given: Recipe | null;
  private readonly forget: (() => void)[];

  /**
   * Takes over the recipe's tensors. `compute` gives the elements, in a new storage. `again`: the recipe is kept, and the
   * elements are given back when only the graph holds them.
   */
  constructor(
    recipe: Recipe,
    private readonly compute: (recipe: Recipe) => Storage,
    private readonly again: boolean,
    /** Where this is to be found while it has a recipe. */
    private readonly registry: Set<Deferred>,
  ) {
    this.given = recipe;
    registry.add(this);
    // Whoever overwrites what the recipe reads has to wait for the elements.
    this.forget = sources(recipe).map((tensor) => tensor.range.storage.beforeWrite(() => this.settle()));
  }

  /** Null while the elements are in memory. */
  get recipe(): Recipe | null {
    return this.storage ? null : this.given;
  }

  /** Whether the elements may be given back. */
  get comesAgain(): boolean {
    return this.again && this.given !== null;
  }

  get isShared(): boolean {
    return this.references > 1;
  }

  /** Whether more than a graph holds it. */
  get isWanted(): boolean {
    return this.references > this.savedReferences;
  }

  /** See `Storage.versionOf`: nobody has overwritten elements that are not in memory. */
  versionOf(byteOffset: number, byteLength: number): number {
    return this.storage?.versionOf(byteOffset, byteLength) ?? 0;
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
      this.dropRecipe();
    } else if (this.references === this.savedReferences && this.given) {
      this.storage?.release();
      this.storage = null;
    }
  }

  /** The storage, with the elements in it. */
  resolve(): Storage {
    if (!this.storage) {
      this.storage = this.compute(this.given!);
      if (!this.again) this.dropRecipe();
    }
    return this.storage;
  }

  /** For good: what happens to the recipe's tensors, or to the elements, no longer matters. */
  settle(): Storage {
    const storage = this.resolve();
    this.dropRecipe();
    return storage;
  }

  private dropRecipe(): void {
    for (const forget of this.forget.splice(0)) forget();
    this.registry.delete(this);
    if (this.given) for (const tensor of sources(this.given)) tensor.dispose();
    this.given = null;
  }
}

function sources(recipe: Recipe): Tensor[] {
  const { x, numbers } = recipe;
  if (recipe.kind === "gradient") return [x, numbers, recipe.dz, recipe.slopes];
  return recipe.residual ? [x, numbers, recipe.residual] : [x, numbers];
}
