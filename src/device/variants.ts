import { DataError, FusenormError, UsageError } from "../errors.ts";
import { checkText, isPlain, show } from "../options.ts";

/** One way to run a kernel, by a name such as `software_8x8`. */
export type Variant = string;

/**
 * What a choice changes: one kernel, whose own time tells which variant is best; or the work around it as well, as where a
 * kernel takes over part of another op's.
 */
export type Reach = "kernel" | "work";

/**
 * One choice, made: the variant that a kernel takes at a shape. It is a value, made once for an op's pass and handed on with the
 * work, however much later that is dispatched; each dispatch names the choices that it serves (`KernelSpec.serves`), and by
 * their `key` its time finds its way to them.
 */
export interface Choice<V extends Variant = Variant> {
  readonly kernel: string;
  readonly shape: string;
  /** `kernel|shape`. */
  readonly key: string;
  readonly variant: V;
}

/** What was to be chosen from, for `onPick`. */
export interface Pick {
  readonly kernel: string;
  readonly shape: string;
  readonly candidates: readonly Variant[];
  readonly fallback: Variant;
  readonly reach: Reach;
}

export function choiceOf<V extends Variant>(kernel: string, shape: string, variant: V): Choice<V> {
  return { kernel, shape, key: keyOf(kernel, shape), variant };
}

function keyOf(kernel: string, shape: string): string {
  return `${kernel}|${shape}`;
}

/**
 * Which variant of a kernel runs. The op names its candidates and its own choice by adapter class and shape;
 * `force` (tests, benchmarks) and what `remember` stored (autotune) go before it.
 *
 * The candidates are those that at least one call at this shape can take on this adapter: the same in every call, so that a
 * shape has one choice, and forcing a variant is an error only where no call could take it. A call that can't take the chosen
 * one (one dispatch for all of a batch-norm, where a running average has to be counted up after it) runs the nearest that it
 * can take, as the kernel's file says. Trying a variant thus costs what remembering it would cost.
 */
export class Variants {
  private readonly forced = new Map<string, Variant>();
  private readonly tuned = new Map<string, Variant>();
  /** Internal, while `autotune` tries variants: by key, before what is remembered. */
  readonly trials = new Map<string, Variant>();
  /** Called with each pick that was not forced, so that autotune can learn what there is to tune. */
  onPick: ((pick: Pick) => void) | null = null;
  /** Called by `autotune` once it has chosen, to keep what `serialize` gives; `requestGpu` in Node sets it to a file in the cache. */
  keep: (() => Promise<void>) | null = null;

  /** @param adapter what tells one adapter from another, with its driver */
  constructor(readonly adapter = "") {}

  /** @param shape a key of the sizes that the choice may depend on, e.g. `32x32x32x16` */
  pick<V extends Variant>(
    kernel: string,
    shape: string,
    candidates: readonly V[],
    fallback: V,
    reach: Reach = "kernel",
  ): Choice<V> {
    // With a glance at the sizes, since mostly nothing was forced or measured, and keys are joined for the look-up.
    const forced = this.forced.size > 0 ? (this.forced.get(kernel) as V | undefined) : undefined;
    if (forced !== undefined) {
      if (!candidates.includes(forced)) {
        throw new FusenormError(
          `${kernel}: variant "${forced}" was forced, at ${shape} there are ${candidates.join(", ")}; force one of these, or null`,
        );
      }
      return choiceOf(kernel, shape, forced);
    }
    this.onPick?.({ kernel, shape, candidates, fallback, reach });
    const key = keyOf(kernel, shape);
    const isKnown = this.trials.size > 0 || this.tuned.size > 0;
    const wanted = isKnown ? ((this.trials.get(key) ?? this.tuned.get(key)) as V | undefined) : undefined;
    const variant = wanted !== undefined && candidates.includes(wanted) ? wanted : fallback;
    return { kernel, shape, key, variant };
  }

  /** Makes every call use `variant`; null lets the chooser choose again. */
  force(kernel: string, variant: Variant | null): void {
    checkText("variants.force", "kernel", kernel);
    if (variant !== null) checkText("variants.force", "variant", variant);
    if (variant === null) this.forced.delete(kernel);
    else this.forced.set(kernel, variant);
  }

  /** Stores a measured choice for one shape. */
  remember(kernel: string, shape: string, variant: Variant): void {
    for (const [name, value] of Object.entries({ kernel, shape, variant })) {
      checkText("variants.remember", name, value);
    }
    this.tuned.set(keyOf(kernel, shape), variant);
  }

  /** What was remembered, for a file; `load` takes it back. */
  toJSON(): Record<string, Variant> {
    return Object.fromEntries(this.tuned);
  }

  /** @throws UsageError before anything is taken over, for anything else. */
  load(choices: Record<string, Variant>): void {
    if (!isPlain(choices)) {
      throw new UsageError(`variants.load: choices is ${show(choices)}; expected what toJSON() gave`);
    }
    for (const [key, variant] of Object.entries(choices)) {
      if (!/^[^|]+\|/.test(key)) {
        throw new UsageError(
          `variants.load: there is a choice for ${show(key)}; expected "kernel|shape", as toJSON() gives it`,
        );
      }
      checkText("variants.load", key, variant);
    }
    for (const [key, variant] of Object.entries(choices)) this.tuned.set(key, variant);
  }

  /** What was remembered, with the adapter that it was measured on: for a page's `localStorage`, say. `restore` takes it back. */
  serialize(): string {
    return JSON.stringify({ adapter: this.adapter, choices: this.toJSON() });
  }

  /**
   * Takes over what `serialize` gave, if it was on this adapter.
   * @returns whether it was; choices of another adapter are left alone
   * @throws DataError before anything is taken over, for a text that `serialize` did not give
   */
  restore(text: string): boolean {
    checkText("variants.restore", "text", text);
    let saved: unknown;
    try {
      saved = JSON.parse(text);
    } catch (cause) {
      throw new DataError("variants.restore: the text is no JSON; expected what serialize() gave", { cause });
    }
    if (!isPlain(saved)) {
      throw new DataError(`variants.restore: the text holds ${show(saved)}; expected what serialize() gave`);
    }
    const { adapter, choices } = saved as { adapter?: unknown; choices?: Record<string, Variant> };
    if (typeof adapter !== "string") {
      throw new DataError(
        `variants.restore: the text names ${show(adapter)} as its adapter; expected what serialize() gave`,
      );
    }
    if (adapter !== this.adapter) return false;
    try {
      this.load(choices!);
    } catch (cause) {
      throw new DataError(`variants.restore: ${(cause as Error).message}`, { cause });
    }
    return true;
  }
}
