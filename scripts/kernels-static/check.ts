// What `--check` holds a run against: the rows that are stored.

import { spilling } from "./report.ts";
import type { Figures, Row } from "./rows.ts";

/** A share of peak may be that much less than what is stored. */
const TOLERANCE = 0.05;

/**
 * What is wrong with a run: kernels that spill, and shares of peak that have dropped. Another Mesa compiles to other code, so
 * shares are compared for the same version alone.
 */
export function checkFigures(now: Figures, stored: Figures): string[] {
  const wrong = spilling(now.rows).map(
    ({ id, spills, scratch }) =>
      `${id} on ${now.family} spills ${spills} registers and takes ${scratch} B of scratch`,
  );
  if (now.mesa !== stored.mesa) return wrong;
  const before = new Map(stored.rows.map((row) => [keyOf(row), row]));
  for (const row of now.rows) {
    const former = before.get(keyOf(row));
    if (!former) {
      wrong.push(
        `${row.id} on ${now.family} is not stored; run npm run kernels:static, and commit bench/results`,
      );
      continue;
    }
    for (const figure of ["ideal", "est", "whole"] as const) {
      const [is, was] = [row[figure], former[figure]];
      if (was === null || (is ?? 0) >= (1 - TOLERANCE) * was) continue;
      wrong.push(`${row.id} on ${now.family}: ${figure} is ${is}, stored is ${was}`);
    }
  }
  return wrong;
}

const keyOf = ({ id, wave }: Row) => `${wave} ${id}`;
