// What is known of each network's largest rates, for as long as the page's tab is open.

import type { Side } from "./messages.ts";
import type { Limits } from "./rate-search.ts";
import type { Settings } from "./settings.ts";

interface Known {
  /** The rates at which it was trained for a while without failing, and the smallest at which it failed. */
  stood?: number[];
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

const KEY = "fusenorm-stood-rates";

export class Marks {
  private readonly known: Record<string, Known>;

  constructor(private readonly storage: Storage | null) {
    this.known = JSON.parse(storage?.getItem(KEY) ?? "{}");
  }

  stood(settings: Settings, side: Side): void {
    const { stood = [] } = this.of(settings, side);
    this.learn(settings, side, { stood: [...new Set([...stood, settings.rate])] });
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
    const { stood = [], broke = Number.POSITIVE_INFINITY, found } = this.of(settings, side);
    if (found) {
      const { stands, stable } = found;
      return stands === null ? null : { rate: stands, stable: stable ?? stands, searched: true };
    }
    // It may have stood a rate for a while and failed at it later.
    const rate = Math.max(...stood.filter((one) => one < broke));
    return Number.isFinite(rate) ? { rate, stable: rate, searched: false } : null;
  }

  private of({ norms, depth, batchSize, seed }: Settings, side: Side): Known {
    return this.known[[norms[side], depth, batchSize, seed].join(" ")] ?? {};
  }

  private learn(settings: Settings, side: Side, more: Known): void {
    const { norms, depth, batchSize, seed } = settings;
    this.known[[norms[side], depth, batchSize, seed].join(" ")] = { ...this.of(settings, side), ...more };
    this.storage?.setItem(KEY, JSON.stringify(this.known));
  }
}
