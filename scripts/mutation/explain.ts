// Survivors that nobody can notice, and why: test/mutation/explained.json.

import type { Mutant } from "./mutants.ts";

/** What tells one mutant from another, in the words of the report. */
export type Change = Pick<Mutant, "module" | "fn" | "before" | "after">;

export interface Explained {
  /** Wherever the change is of this form, a regular expression for `before → after`. */
  rules: { change: string; why: string }[];
  mutants: (Change & { why: string })[];
}

export function sameChange(a: Change, b: Change): boolean {
  return a.module === b.module && a.fn === b.fn && a.before === b.before && a.after === b.after;
}

/** Whether a rule is about this change. */
export function applies({ change }: Explained["rules"][number], { before, after }: Change): boolean {
  return new RegExp(change).test(`${before} → ${after}`);
}

export function explanation({ rules, mutants }: Explained, mutant: Change): string | null {
  const one =
    mutants.find((known) => sameChange(known, mutant)) ?? rules.find((rule) => applies(rule, mutant));
  return one?.why ?? null;
}
