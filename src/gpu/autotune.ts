import { DeviceError } from "../errors.ts";
import { checkFunction, checkInteger, checkNumber, checkOptions, optionNames } from "../options.ts";
import { checkGpu } from "../tensor/check.ts";
import type { Gpu } from "./device.ts";
import type { KernelTiming } from "./profiler.ts";
import type { Reach, Variant } from "./variants.ts";

/** What `autotune` found out about one kernel at one shape. */
export interface TunedChoice {
  kernel: string;
  shape: string;
  /** Now remembered. */
  chosen: Variant;
  /** What the kernel's own rule takes. */
  fallback: Variant;
  /** Median GPU time by variant, in ms: of all calls at this shape, or of all the work where the choice reaches further. */
  ms: Record<Variant, number>;
}

interface Pick {
  kernel: string;
  shape: string;
  candidates: readonly Variant[];
  fallback: Variant;
  reach: Reach;
}

/** Of the time of all the work, where one choice changes little of it. */
const WORK_MARGIN = 0.998;

export interface AutotuneOptions {
  /** Timed runs of the work with each variant. Default 5. */
  rounds?: number;
  /** A variant replaces the kernel's own choice only if it takes at most this share of its time. Default 0.97. */
  margin?: number;
  /** No further round begins after so many ms; the first one is always finished. Default: no limit. */
  budgetMs?: number;
}

const OPTIONS = optionNames<AutotuneOptions>({ rounds: 0, margin: 0, budgetMs: 0 });

const keyOf = ({ kernel, shape }: { kernel: string; shape: string }) => `${kernel}|${shape}`;

/**
 * Runs `work` (a training step, say) with every variant of every kernel in it, and makes `gpu.variants` remember the
 * fastest for each shape. `gpu.variants.toJSON()` and `load` carry the choices to the next process.
 * Must run eagerly: a captured plan has chosen already. What `work` computes is as valid as ever.
 * @throws DeviceError without `timestamp-query`
 */
export async function autotune(
  gpu: Gpu,
  work: () => void,
  options: AutotuneOptions = {},
): Promise<TunedChoice[]> {
  checkGpu("autotune", gpu);
  checkFunction("autotune", "work", work);
  checkOptions("autotune", options, OPTIONS);
  const { rounds = 5, margin = 0.97, budgetMs = Number.POSITIVE_INFINITY } = options;
  checkInteger("autotune", "rounds", rounds, 1);
  checkNumber("autotune", "margin", margin, 0);
  if (budgetMs !== Number.POSITIVE_INFINITY) checkNumber("autotune", "budgetMs", budgetMs, 0);
  if (!gpu.features.has("timestamp-query")) {
    throw new DeviceError(
      "autotune: this adapter has no timestamp-query, by which kernels are timed; leave it out",
    );
  }
  const { variants } = gpu;
  const outer = variants.onPick;
  const before = variants.toJSON();
  const known = new Map<string, Pick>();
  let log: { key: string; kernel: string; at: number }[] = [];
  variants.onPick = (kernel, shape, candidates, fallback, reach) => {
    outer?.(kernel, shape, candidates, fallback, reach);
    if (candidates.length < 2) return;
    const pick = { kernel, shape, candidates, fallback, reach };
    known.set(keyOf(pick), pick);
    if (reach === "kernel") log.push({ key: keyOf(pick), kernel, at: gpu.stats.dispatches });
  };
  /** ms by key and variant. */
  const times = new Map<string, Map<Variant, number[]>>();
  const note = (key: string, variant: Variant, ms: number) => {
    const byVariant = times.get(key) ?? new Map<Variant, number[]>();
    times.set(key, byVariant);
    byVariant.set(variant, [...(byVariant.get(variant) ?? []), ms]);
  };
  const ofReach = (reach: Reach) => [...known.values()].filter((pick) => pick.reach === reach);
  try {
    work(); // finds out what there is to tune
    await gpu.sync();
    const most = Math.max(0, ...ofReach("kernel").map(({ candidates }) => candidates.length));
    // In turn, so that a machine whose speed drifts is unfair to nobody; the first round compiles.
    const began = performance.now();
    for (let round = 0; round <= rounds; round += 1) {
      if (round > 1 && performance.now() - began > budgetMs) break;
      for (let index = 0; index < most; index += 1) {
        for (const { kernel, shape, candidates } of ofReach("kernel")) {
          variants.remember(kernel, shape, candidates[Math.min(index, candidates.length - 1)]!);
        }
        log = [];
        const start = gpu.stats.dispatches;
        const timings = await gpu.profile(work);
        if (round === 0) continue;
        for (const [key, ms] of timeByKey(timings, log, start)) {
          const { candidates } = known.get(key)!;
          if (index >= candidates.length) continue; // was timed as the last one already
          note(key, candidates[index]!, ms);
        }
      }
    }
    const choices = ofReach("kernel").flatMap((pick) => choose(pick, margin) ?? []);
    // One after the other, with the kernels that were chosen, since they depend on each other.
    for (const pick of ofReach("work")) {
      const { kernel, shape, candidates } = pick;
      for (let round = 0; round <= rounds; round += 1) {
        if (round > 1 && performance.now() - began > budgetMs) break;
        for (const variant of candidates) {
          variants.remember(kernel, shape, variant);
          const timings = await gpu.profile(work);
          if (round > 0)
            note(keyOf(pick), variant, timings.reduce((sum, { durationUs }) => sum + durationUs, 0) / 1e3);
        }
      }
      choices.push(...[choose(pick, WORK_MARGIN) ?? []].flat());
    }
    return choices;
  } catch (error) {
    for (const pick of known.values()) {
      variants.remember(pick.kernel, pick.shape, before[keyOf(pick)] ?? pick.fallback);
    }
    throw error;
  } finally {
    variants.onPick = outer;
  }

  /** Makes `variants` remember the best one. */
  function choose(pick: Pick, enough: number): TunedChoice | null {
    const { kernel, shape, fallback } = pick;
    const measured = times.get(keyOf(pick));
    if (!measured) {
      variants.remember(kernel, shape, before[keyOf(pick)] ?? fallback);
      return null;
    }
    const ms = Object.fromEntries([...measured].map(([variant, all]) => [variant, median(all)]));
    const [best, least] = Object.entries(ms).reduce((a, b) => (b[1] < a[1] ? b : a));
    const chosen = least <= enough * (ms[fallback] ?? Number.POSITIVE_INFINITY) ? best : fallback;
    variants.remember(kernel, shape, chosen);
    return { kernel, shape, chosen, fallback, ms };
  }
}

/**
 * GPU time that follows each pick: within the same op, up to the next pick for a kernel of the same family (the next
 * gradient of a convolution, say, but not a matrix product that the convolution goes through).
 */
function timeByKey(
  timings: readonly KernelTiming[],
  log: readonly { key: string; kernel: string; at: number }[],
  start: number,
): Map<string, number> {
  const family = (kernel: string) => kernel.split(".")[0];
  const sums = new Map<string, number>();
  log.forEach(({ key, kernel, at }, i) => {
    const next = log.slice(i + 1).find((other) => family(other.kernel) === family(kernel));
    const end = (next?.at ?? start + timings.length) - start;
    const { label } = timings[at - start]!;
    let us = 0;
    for (let j = at - start; j < end && timings[j]!.label === label; j += 1) us += timings[j]!.durationUs;
    sums.set(key, (sums.get(key) ?? 0) + us / 1e3);
  });
  return sums;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}
