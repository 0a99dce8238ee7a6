import type { Gpu } from "../../src/gpu.ts";
import type { BenchCase } from "./runner.ts";

/**
 * One case per variant of each kernel that `one` runs and that has more than one on this adapter, with that variant
 * forced: `fused [batch_norm.stats software]`. The chooser's own picks are left out; `one` itself times them.
 */
export function withVariants(gpu: Gpu, one: BenchCase): BenchCase[] {
  const picks = new Map<string, { candidates: readonly string[]; fallback: string }>();
  const outer = gpu.variants.onPick;
  gpu.variants.onPick = ({ kernel, candidates, fallback }) =>
    void picks.set(kernel, { candidates, fallback });
  const runnable = one.make(gpu);
  try {
    runnable.prepare?.();
    runnable.step();
  } finally {
    gpu.variants.onPick = outer;
    runnable.dispose();
  }
  return [...picks].flatMap(([kernel, { candidates, fallback }]) =>
    candidates
      .filter((variant) => variant !== fallback)
      .map((variant): BenchCase => {
        const forced = (fn: () => void) => () => {
          gpu.variants.force(kernel, variant);
          try {
            fn();
          } finally {
            gpu.variants.force(kernel, null);
          }
        };
        return {
          name: `${one.name} [${kernel} ${variant}]`,
          make: (device) => {
            const made = one.make(device);
            return {
              ...made,
              step: forced(() => made.step()),
              prepare: made.prepare && forced(() => made.prepare!()),
            };
          },
        };
      }),
  );
}
