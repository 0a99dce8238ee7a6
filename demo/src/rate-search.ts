// Which rates to try for the largest that a network stands. Knows no network: it is told what became of each.

import { RATES } from "./settings.ts";

/** What became of a fresh network within so many steps at one rate; `diverged` and `stuck` as in `Failure`. */
export type Verdict = "stands" | "stuck" | "diverged";

/** The largest rates of the slider; null where not even the smallest is one. */
export interface Limits {
  /** Up to here it neither diverges nor gets stuck. */
  stands: number | null;
  /**
   * Below all at which it diverges: the largest stable rate as the paper and the experiments mean it. A network that is stuck can't
   * diverge any more, so that this rate may be larger.
   */
  stable: number | null;
  /** Whether nothing on the slider makes it diverge. */
  open: boolean;
}

/**
 * Halves the ladder of rates for the largest at which the network stands; then climbs from there to the first at which it diverges,
 * rung by rung, since rates at which it is stuck and rates at which it diverges may alternate.
 */
export class RateSearch {
  private readonly verdicts = new Map<number, Verdict>();

  tell(rate: number, verdict: Verdict): void {
    this.verdicts.set(RATES.indexOf(rate), verdict);
  }

  /** The rate to try next; null when both limits are known. */
  get next(): number | null {
    const [good, bad] = this.bracket((verdict) => verdict !== "stands");
    const rung = bad - good > 1 ? Math.floor((good + bad) / 2) : this.firstUntried(bad);
    return RATES[rung] ?? null;
  }

  get limits(): Limits | null {
    if (this.next !== null) return null;
    const [stands] = this.bracket((verdict) => verdict !== "stands");
    const [, diverged] = this.bracket((verdict) => verdict === "diverged");
    return {
      stands: RATES[stands] ?? null,
      stable: RATES[diverged - 1] ?? null,
      open: diverged === RATES.length,
    };
  }

  /** The lowest rung that fails, and the highest below it that does not; one past an end where there is none. */
  private bracket(fails: (verdict: Verdict) => boolean): [good: number, bad: number] {
    const rungs = [...this.verdicts];
    const bad = Math.min(
      RATES.length,
      ...rungs.filter(([, verdict]) => fails(verdict)).map(([rung]) => rung),
    );
    return [Math.max(-1, ...rungs.map(([rung]) => rung).filter((rung) => rung < bad)), bad];
  }

  /** The lowest rung from `from` on that has not been tried, unless one below it diverged. */
  private firstUntried(from: number): number {
    let rung = from;
    while (this.verdicts.has(rung)) {
      if (this.verdicts.get(rung) === "diverged") return RATES.length;
      rung += 1;
    }
    return rung;
  }
}
