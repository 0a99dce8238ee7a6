// `--peers`: the same work by other libraries, compiled the same way, beside the stored figures of this package.

import { fileURLToPath } from "node:url";
import type { Chip } from "./chips.ts";
import { chipLine } from "./report.ts";
import type { Figures, Row } from "./rows.ts";

/** What compiles them: see there. */
export const PEERS_SCRIPT = fileURLToPath(new URL("../../bench/peers/static.ts", import.meta.url));

const LIBRARIES = ["jax-js", "tfjs"] as const;

/** Share of the peak of the whole work, in percent: what a time would go by. */
interface Beside {
  id: string;
  ours: Row;
  theirs: (Row | undefined)[];
}

/** By what is asked for, so that the wave size is the one that both get. */
function beside(ours: Figures, theirs: Figures): Beside[] {
  const wave = theirs.rows[0]!.wave;
  const found = new Map<string, Beside>();
  for (const row of theirs.rows) {
    // The second library's rows have a word more, for the same work.
    const own = ours.rows.find(({ id, wave: lanes }) => `${row.id} `.startsWith(`${id} `) && lanes === wave);
    if (!own) continue;
    const line = found.get(own.id) ?? { id: own.id, ours: own, theirs: LIBRARIES.map(() => undefined) };
    line.theirs[LIBRARIES.findIndex((library) => row.kernel.startsWith(`${library}.`))] = row;
    found.set(own.id, line);
  }
  return [...found.values()];
}

/** A table: of each work the share of peak of every library, and how far this package is ahead. */
export function peersText(ours: Figures, theirs: Figures, chip: Chip): string {
  const head = ["", "fusenorm", ...LIBRARIES.flatMap((library) => [library, "ahead"])];
  const lines = beside(ours, theirs).map(({ id, ours: own, theirs: rows }) => [
    id,
    percent(own),
    ...rows.flatMap((row) => [
      row ? percent(row) : "–",
      row ? `${(own.whole! / row.whole!).toFixed(1)}×` : "–",
    ]),
  ]);
  const all = [head, ...lines];
  const widths = head.map((_, i) => Math.max(...all.map((line) => line[i]!.length)));
  const text = all.map((line) =>
    line
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[i]!)))
      .join("  ")
      .trimEnd(),
  );
  return [chipLine(chip, theirs.mesa), ...text].join("\n");
}

const percent = ({ whole }: Row) => `${whole!.toFixed(1)} %`;
