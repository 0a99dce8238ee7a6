// Below the slider: the largest rates that each network stands, and the search for them.

import { Marks } from "./marks.ts";
import type { Search, Side } from "./messages.ts";
import { RATES, type Settings, stopOf } from "./settings.ts";
import { tellLimits, tellTrial } from "./words.ts";

const element = <T extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as T;

/** Where on the slider: the thumb's middle runs from half of its width to the track's end less that. */
const share = (rate: number) => stopOf(rate) / (RATES.length - 1);
const along = (part: number) => `calc(8px + ${part} * (100% - 16px))`;

/** Null where the browser keeps nothing for this page: reading the property alone throws then. */
function tabStorage(): Storage | null {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

export class RatesPanel {
  readonly marks = new Marks(tabStorage());
  searching = false;

  constructor(start: () => void, stop: () => void) {
    element("search").addEventListener("click", () => (this.searching ? stop() : start()));
  }

  /** What is known of the networks of `settings`. */
  show(settings: Settings): void {
    element("marks").replaceChildren(...([0, 1] as const).flatMap((side) => this.markOf(settings, side)));
    if (!this.searching)
      this.say(
        tellLimits(
          settings,
          [0, 1].map((side) => this.marks.limits(settings, side as Side)),
        ),
      );
  }

  /** A new run ends the search. */
  quit(): void {
    this.setSearching(false);
  }

  hear({ state, settings, trial, step, steps, rates, limits }: Search): void {
    this.setSearching(state === "searching");
    Object.assign(element("search-progress"), { max: steps, value: step });
    if (this.searching) this.say(tellTrial(settings, trial, rates));
    limits.forEach((found, side) => {
      if (found) this.marks.found(settings, side as Side, found);
    });
    if (!this.searching || step === 0) this.show(settings);
    if (state === "stopped") this.say("The search was stopped.");
  }

  private setSearching(searching: boolean): void {
    this.searching = searching;
    element("search-progress").hidden = !searching;
    element("search").textContent = searching ? "Stop the search" : "Find the largest stable rates";
  }

  /** A screen reader speaks when it changes. */
  private say(text: string): void {
    const place = element("search-text");
    if (place.textContent !== text) place.textContent = text;
  }

  private markOf(settings: Settings, side: Side): HTMLElement[] {
    const mark = this.marks.mark(settings, side);
    if (!mark) return [];
    const { rate, stable, searched } = mark;
    const label = document.createElement("span");
    label.className = `mark-${side}`;
    label.style.left = along(share(rate));
    label.textContent = `▲ ${rate}`;
    label.dataset.rate = String(rate);
    label.title = searched
      ? `The largest rate that this network stands: ${rate}`
      : `The largest rate that this network has stood so far: ${rate}`;
    if (stable === rate) return [label];
    const reach = document.createElement("i");
    reach.className = `reach-${side}`;
    reach.style.left = along(share(rate));
    reach.style.width = `calc(${share(stable) - share(rate)} * (100% - 16px))`;
    reach.title = `It is stuck, but does not diverge, up to ${stable}`;
    return [label, reach];
  }
}
