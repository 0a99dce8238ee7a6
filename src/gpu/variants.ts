import { FusenormError, UsageError } from "../errors.ts";
import { checkText, isPlain, show } from "../options.ts";

/** One way to run a kernel, by a name such as `software_8x8`. */
export type Variant = string;

/**
 * What a choice changes: one kernel, whose own time tells which variant is best; or the work around it as well, as where a
 * kernel takes over part of another op's.
 */
export type Reach = "kernel" | "work";

/**
 * Which variant of a kernel runs. The op names its candidates and its own choice by adapter class and shape;
 * `force` (tests, benchmarks) and what `remember` stored (autotune) go before it.
 */
export class Variants {
  private readonly forced = new Map<string, Variant>();
  private readonly tuned = new Map<string, Variant>();
  /** Called with each choice that was neither forced nor remembered, so that autotune can learn what there is to tune. */
  onPick:
    | ((
        kernel: string,
        shape: string,
        candidates: readonly Variant[],
        fallback: Variant,
        reach: Reach,
      ) => void)
    | null = null;

  /** @param shape a key of the sizes that the choice may depend on, e.g. `32x32x32x16` */
  pick(
    kernel: string,
    shape: string,
    candidates: readonly Variant[],
    fallback: Variant,
    reach: Reach = "kernel",
  ): Variant {
    const forced = this.forced.get(kernel);
    if (forced !== undefined) {
      if (!candidates.includes(forced)) {
        throw new FusenormError(
          `${kernel}: variant "${forced}" was forced, at ${shape} there are ${candidates.join(", ")}; force one of these, or null`,
        );
      }
      return forced;
    }
    this.onPick?.(kernel, shape, candidates, fallback, reach);
    const tuned = this.tuned.get(`${kernel}|${shape}`);
    return tuned !== undefined && candidates.includes(tuned) ? tuned : fallback;
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
    this.tuned.set(`${kernel}|${shape}`, variant);
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
}
