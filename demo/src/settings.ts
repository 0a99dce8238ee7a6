// What a visitor may set, and how it stands in the address, so that a setting can be sent.

import type { ResNetNorm } from "../../src/nn/models/resnet.ts";

export interface Settings {
  /** Of the twins, left and right. */
  norms: readonly [ResNetNorm, ResNetNorm];
  rate: number;
  depth: number;
  batchSize: number;
  seed: number;
}

/** Both networks learn with these, on any adapter. */
export const DEFAULTS: Settings = { norms: ["batch", "none"], rate: 0.03, depth: 20, batchSize: 32, seed: 1 };

export const DEPTHS: readonly number[] = [8, 14, 20, 32, 56, 110];
export const BATCH_SIZES: readonly number[] = [8, 16, 32, 64, 128];

/** Steps at a rate after which a network that has not failed counts as standing it. */
export const STANDS = 30;

/** In the order of the menus. */
export const NORMS: readonly { norm: ResNetNorm; name: string; title: string }[] = [
  { norm: "batch", name: "batch-norm", title: "With batch-norm" },
  { norm: "none", name: "nothing", title: "Without batch-norm" },
  { norm: "layer", name: "layer norm", title: "With layer norm" },
  { norm: "group", name: "group norm", title: "With group norm" },
  { norm: "instance", name: "instance norm", title: "With instance norm" },
  { norm: "weight", name: "weight normalisation", title: "With weight normalisation" },
  { norm: "last", name: "batch-norm at the end alone", title: "Batch-norm at the end alone" },
  { norm: "fixup", name: "Fixup", title: "Fixup" },
  { norm: "skipinit", name: "SkipInit", title: "SkipInit" },
];

export const titleOf = (norm: ResNetNorm): string => NORMS.find((one) => one.norm === norm)!.title;

/** The stops of the slider: 0.001, 0.002, 0.003, 0.006, 0.01 … 10. */
export const RATES: readonly number[] = [-3, -2, -1, 0, 1]
  .flatMap((power) => [1, 2, 3, 6].map((digit) => Number(`${digit}e${power}`)))
  .filter((rate) => rate <= 10);

/** The stop nearest to a rate, by ratio. */
export function stopOf(rate: number): number {
  let best = 0;
  RATES.forEach((stop, i) => {
    if (Math.abs(Math.log(stop / rate)) < Math.abs(Math.log(RATES[best]! / rate))) best = i;
  });
  return best;
}

/** `#rate=0.1&depth=32…`: what differs from the defaults. */
export function toHash({ norms, rate, depth, batchSize, seed }: Settings): string {
  const words = new URLSearchParams();
  if (rate !== DEFAULTS.rate) words.set("rate", String(rate));
  if (depth !== DEFAULTS.depth) words.set("depth", String(depth));
  if (batchSize !== DEFAULTS.batchSize) words.set("batch", String(batchSize));
  if (seed !== DEFAULTS.seed) words.set("seed", String(seed));
  if (norms.join() !== DEFAULTS.norms.join()) words.set("norms", norms.join("-"));
  const text = words.toString();
  return text && `#${text}`;
}

/** What an address asks for; anything in it that is no setting is as if it were not there. */
export function fromHash(hash: string): Settings {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (name: string, fallback: number, ok: (value: number) => boolean) => {
    const value = Number(words.get(name) ?? Number.NaN);
    return Number.isFinite(value) && ok(value) ? value : fallback;
  };
  const [a, b] = (words.get("norms") ?? "").split("-").map((name) => NORMS.find(({ norm }) => norm === name));
  return {
    norms: a && b ? [a.norm, b.norm] : DEFAULTS.norms,
    rate: RATES[stopOf(number("rate", DEFAULTS.rate, (value) => value > 0))]!,
    depth: number("depth", DEFAULTS.depth, (value) => DEPTHS.includes(value)),
    batchSize: number("batch", DEFAULTS.batchSize, (value) => BATCH_SIZES.includes(value)),
    seed: number("seed", DEFAULTS.seed, (value) => Number.isInteger(value) && value >= 0 && value < 2 ** 32),
  };
}
