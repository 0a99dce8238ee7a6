// What is known of each network's largest rates, for as long as the page's tab is open.

import type { Side } from "./messages.ts";
import type { Limits } from "./rate-search.ts";
import { RATES, type Settings, stopOf } from "./settings.ts";

interface Known {
  /** The largest rate at which it was trained without failing, and the smallest at which it failed. */
  stood?: number;
  broke?: number;
  /** What a search found, with fresh networks at each rate. */
  found?: Limits;
}

export interface Mark {
  rate: number;
  /** Of a search: up to here it does not diverge. */
  stable: number;
  searched: boolean;
}

const KEY = "fusenorm-rates";

export class Marks {
  private readonly known: Record<string, Known>;

  constructor(private readonly storage: Storage) {
    this.known = JSON.parse(storage.getItem(KEY) ?? "{}");
  }

  stood(settings: Settings, side: Side): void {
    const { stood = 0 } = this.of(settings, side);
    this.learn(settings, side, { stood: Math.max(stood, settings.rate) });
  }

  broke(settings: Settings, side: Side, rate: number): void {
    const { broke = Number.POSITIVE_INFINITY } = this.of(settings, side);
    this.learn(settings, side, { broke: Math.min(broke, rate) });
  }

  found(settings: Settings, side: Side, found: Limits): void {
    this.learn(settings, side, { found });
  }

  limits(settings: Settings, side: Side): Limits | null {
    return this.of(settings, side).found ?? null;
  }

  mark(settings: Settings, side: Side): Mark | null {
    const { stood, broke, found } = this.of(settings, side);
    if (found) {
      const { stands, stable } = found;
      return stands === null ? null : { rate: stands, stable: stable ?? stands, searched: true };
    }
    if (stood === undefined) return null;
    const rate = broke !== undefined && broke <= stood ? RATES[Math.max(0, stopOf(broke) - 1)]! : stood;
    return { rate, stable: rate, searched: false };
  }

  private of({ norms, depth, batchSize, seed }: Settings, side: Side): Known {
    return this.known[[norms[side], depth, batchSize, seed].join(" ")] ?? {};
  }

  private learn(settings: Settings, side: Side, more: Known): void {
    const { norms, depth, batchSize, seed } = settings;
    this.known[[norms[side], depth, batchSize, seed].join(" ")] = { ...this.of(settings, side), ...more };
    this.storage.setItem(KEY, JSON.stringify(this.known));
  }
}
