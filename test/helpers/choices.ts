// Makes the choosers of kernels choose for a test: by a rule, instead of `gpu.variants.force` for each kernel by name.

import { choiceOf } from "../../src/device/variants.ts";
import type { Gpu } from "../../src/gpu.ts";

export interface Choices {
  /** The class of adapter that the choosers believe in. */
  family: "software" | "hardware";
  /** Whether convolutions do part of the batch-norms around them: wherever they can, nowhere, or as chosen here untuned. */
  folding: "all" | "none" | "default";
  /** Among several variants the same seed takes the same one for a kernel and its sizes. */
  seed: number;
  /**
   * For which convolutions, by kernel and sizes as the chooser names them, the kernel that compiles fastest will do: on a
   * processor a tiled one takes seconds.
   */
  quick?: (kernel: string, shape: string) => boolean;
}

/** A number from text (FNV-1a), well mixed. */
export function hash(...parts: readonly (string | number)[]): number {
  let h = 0x811c9dc5;
  for (const char of parts.join("|")) h = Math.imul(h ^ char.charCodeAt(0), 0x01000193);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39);
  return (h ^ (h >>> 15)) >>> 0;
}

export async function withChoices<T>(gpu: Gpu, choices: Choices, body: () => T | Promise<T>): Promise<T> {
  const info = gpu.info as { class: string };
  const outer = info.class;
  const { variants } = gpu;
  info.class = choices.family;
  variants.pick = (kernel, shape, candidates, fallback) =>
    choiceOf(kernel, shape, choose(choices, kernel, shape, candidates, fallback) as typeof fallback);
  try {
    return await body();
  } finally {
    delete (variants as { pick?: unknown }).pick; // the prototype's again
    info.class = outer;
  }
}

function choose(
  { family, folding, seed, quick }: Choices,
  kernel: string,
  shape: string,
  candidates: readonly string[],
  fallback: string,
): string {
  const oneOf = (some: readonly string[]) => some[hash(seed, kernel, shape) % some.length]!;
  if (candidates.includes("fused")) {
    return folding === "all" ? "fused" : folding === "none" ? "separate" : fallback;
  }
  if (kernel.startsWith("batch_norm")) {
    // What one dispatch does, convolutions do no part of.
    if (folding === "all") return family === "software" ? "software" : "workgroup";
    return folding === "none" ? oneOf(candidates) : fallback;
  }
  if (kernel.startsWith("conv2d.")) {
    const tiles = candidates.filter((name) => /^(tile|band|staged)/.test(name));
    const subgroups = candidates.filter((name) => name.startsWith("subgroup"));
    const plain = candidates.filter((name) => !tiles.includes(name) && !subgroups.includes(name));
    if (quick?.(kernel, shape))
      return subgroups.find((name) => name === "subgroup_4x8") ?? subgroups[0] ?? plain[0]!;
    const wanted = [family === "hardware" ? tiles : subgroups, subgroups, plain].find(
      (some) => some.length > 0,
    )!;
    return oneOf(wanted);
  }
  return oneOf(candidates);
}
