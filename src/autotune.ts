import type { KernelTiming } from "./device/profiler.ts";
import { choiceOf, type Pick, type Reach, type Variant } from "./device/variants.ts";
import { DeviceError } from "./errors.ts";
import type { Gpu } from "./gpu.ts";
import { checkFunction, checkInteger, checkNumber, checkOptions, optionNames } from "./options.ts";
import { checkGpu } from "./tensor/check.ts";

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

/** Of the time of all the work, where one choice changes little of it. */
const WORK_MARGIN = 0.998;

/** Options of `autotune`. */
export interface AutotuneOptions {
  /** Timed runs of the work with each variant. Default 5. */
  rounds?: number;
  /** A variant replaces the kernel's own choice only if it takes at most this share of its time. Default 0.97. */
  margin?: number;
  /** No further round begins after so many ms; the first one is always finished. Default: no limit. */
  budgetMs?: number;
}

const OPTIONS = optionNames<AutotuneOptions>({ rounds: 0, margin: 0, budgetMs: 0 });

/**
 * Runs `work` (a training step, say) with every variant of every kernel in it, and makes `gpu.variants` remember the
 * fastest for each shape: by the time of the dispatches that serve a choice, or of all the work where a choice changes other
 * ops' kernels as well. If `work` throws, nothing is remembered. In Node, where `requestGpu` made the
 * `Gpu`, the choices are kept for the next process; elsewhere `gpu.variants.serialize()` and `restore` carry them there.
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
  const { trials } = variants;
  const outer = variants.onPick;
  const known = new Map<string, Pick>();
  variants.onPick = (pick) => {
    outer?.(pick);
    if (pick.candidates.length < 2) return;
    const { key } = choiceOf(pick.kernel, pick.shape, pick.fallback);
    known.set(key, merged(known.get(key), pick));
  };
  /** ms by key and variant. */
  const times = new Map<string, Map<Variant, number[]>>();
  const note = (key: string, variant: Variant, ms: number) => {
    const byVariant = times.get(key) ?? new Map<Variant, number[]>();
    times.set(key, byVariant);
    byVariant.set(variant, [...(byVariant.get(variant) ?? []), ms]);
  };
  const ofReach = (reach: Reach) => [...known].filter(([, pick]) => pick.reach === reach);
  const choices: TunedChoice[] = [];
  /** Settles on the best of those that were timed, if the kernel's own choice is among them: else it did not run for this work. */
  const settle = (key: string, pick: Pick, enough: number) => {
    trials.delete(key);
    const measured = times.get(key);
    if (!measured?.has(pick.fallback)) return;
    const choice = best(pick, measured, enough);
    trials.set(key, choice.chosen);
    choices.push(choice);
  };
  try {
    work(); // finds out what there is to tune
    await gpu.sync();
    // In turn, so that a machine whose speed drifts is unfair to nobody; the first round compiles.
    const began = performance.now();
    const over = (round: number) => round > rounds || (round > 1 && performance.now() - began > budgetMs);
    for (let round = 0; !over(round); round += 1) {
      for (let index = 0; index < mostCandidates(ofReach("kernel")); index += 1) {
        const tried = new Map<string, Variant>();
        for (const [key, { candidates }] of ofReach("kernel")) {
          const variant = candidates[Math.min(index, candidates.length - 1)]!;
          trials.set(key, variant);
          if (index < candidates.length) tried.set(key, variant); // else it was timed as the last one already
        }
        const ms = timeByKey(await gpu.profile(work));
        if (round === 0) continue;
        for (const [key, variant] of tried) if (ms.has(key)) note(key, variant, ms.get(key)!);
      }
    }
    for (const [key, pick] of ofReach("kernel")) settle(key, pick, margin);
    // One after the other, with what was chosen so far, since they depend on each other.
    for (const [key, pick] of ofReach("work")) {
      for (let round = 0; !over(round); round += 1) {
        for (const variant of pick.candidates) {
          trials.set(key, variant);
          const ms = timeOf(await gpu.profile(work));
          if (round > 0) note(key, variant, ms);
        }
      }
      settle(key, pick, WORK_MARGIN);
    }
    for (const { kernel, shape, chosen } of choices) variants.remember(kernel, shape, chosen);
    await variants.keep?.();
    return choices;
  } finally {
    trials.clear();
    variants.onPick = outer;
  }
}

/** One pick of all that were made for a key: what any call could take, and as far as any of them reaches. */
function merged(a: Pick | undefined, b: Pick): Pick {
  if (!a) return b;
  const candidates = [...new Set([...a.candidates, ...b.candidates])];
  if (candidates.length === a.candidates.length && (a.reach === "work" || b.reach === "kernel")) return a;
  const { fallback } = b.candidates.length > a.candidates.length ? b : a;
  return { ...a, candidates, fallback, reach: a.reach === "work" ? a.reach : b.reach };
}

function mostCandidates(picks: readonly (readonly [string, Pick])[]): number {
  return Math.max(0, ...picks.map(([, { candidates }]) => candidates.length));
}

/** The fastest, if it takes at most `enough` of the time of the kernel's own choice. */
function best(
  { kernel, shape, fallback }: Pick,
  measured: ReadonlyMap<Variant, readonly number[]>,
  enough: number,
): TunedChoice {
  const ms = Object.fromEntries([...measured].map(([variant, all]) => [variant, median(all)]));
  const [fastest, least] = Object.entries(ms).reduce((a, b) => (b[1] < a[1] ? b : a));
  const chosen = least <= enough * ms[fallback]! ? fastest : fallback;
  return { kernel, shape, chosen, fallback, ms };
}

/** ms of the dispatches that serve each choice, by its key. */
function timeByKey(timings: readonly KernelTiming[]): Map<string, number> {
  const sums = new Map<string, number>();
  for (const { keys, durationUs } of timings) {
    for (const key of keys) sums.set(key, (sums.get(key) ?? 0) + durationUs / 1e3);
  }
  return sums;
}

/** ms of all of them. */
function timeOf(timings: readonly KernelTiming[]): number {
  return timings.reduce((sum, { durationUs }) => sum + durationUs, 0) / 1e3;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}
