// Figures as text, for a terminal of any width from 60 columns on.

import { bytesPerCycle, type Chip, peakOf } from "./chips.ts";
import type { Figures, Mix, Row, Total } from "./rows.ts";

/** From here on a row is one line, with what is done in a column of its own. */
const WIDE = 110;

interface Column {
  title: string;
  cell(row: Row): string;
}

const figure = (value: number | null) => (value === null ? "–" : value.toFixed(0));

const COMMON: readonly Column[] = [
  { title: "regs", cell: ({ registers }) => `${registers}` },
  { title: "spills", cell: ({ spills, scratch }) => `${spills}${scratch > 0 ? "*" : ""}` },
  { title: "LDS", cell: ({ lds }) => (lds === 0 ? "0" : `${(lds / 1024).toFixed(1)}K`) },
  { title: "waves", cell: ({ waves }) => `${waves}` },
];

const PRODUCTS: readonly Column[] = [
  ...COMMON,
  { title: "dist", cell: ({ distance }) => figure(distance) },
  { title: "bound", cell: ({ bound }) => bound ?? "–" },
  { title: "ideal", cell: ({ ideal }) => figure(ideal) },
  { title: "est", cell: ({ est }) => figure(est) },
  { title: "whole", cell: ({ whole }) => figure(whole) },
];

function streams(chip: Chip): readonly Column[] {
  return [
    ...COMMON,
    { title: "loads", cell: ({ inFlight }) => `${inFlight}` },
    { title: "flying", cell: ({ flying }) => `${(flying / 1024).toFixed(0)}K` },
    { title: "groups", cell: ({ workgroups }) => `${workgroups}` },
    { title: "room", cell: ({ room }) => (room === 0 ? "–" : `${(room / bytesPerCycle(chip)).toFixed(0)}×`) },
  ];
}

const isProduct = (row: Row) => row.ideal !== null;

/** The instructions by kind, in percent of them all. */
function mixText(mix: Mix): string {
  const all = Object.values(mix).reduce((sum, n) => sum + n, 0);
  const memory = mix.loads + mix.stores + mix.lds;
  return [mix.fma, mix.integer, mix.move, mix.other, mix.scalar, memory]
    .map((n) => Math.round((100 * n) / all))
    .join("/");
}

const MIX: Column = { title: "mix", cell: ({ mix }) => mixText(mix) };

/** `text` in lines of at most `width`, broken at spaces and before a plus. */
export function wrap(text: string, width: number): string[] {
  const lines = [""];
  for (const word of text.split(/(?<= )|(?=\+)/)) {
    const line = lines.at(-1)!;
    if (line && line.length + word.trimEnd().length > width) lines.push(`  ${word}`);
    else lines[lines.length - 1] = line + word;
  }
  return lines.map((line) => line.trimEnd());
}

/** Rows under a head: what each does beside its figures, or above them on a narrow terminal. */
export function table(rows: readonly Row[], columns: readonly Column[], width: number): string {
  const all = width >= WIDE ? [...columns, MIX] : columns;
  const cells = rows.map((row) => all.map(({ cell }) => cell(row)));
  const widths = all.map(({ title }, i) => Math.max(title.length, ...cells.map((line) => line[i]!.length)));
  const line = (list: readonly string[]) => list.map((text, i) => text.padStart(widths[i]!)).join("  ");
  const right = line(all.map(({ title }) => title));
  if (width < WIDE) {
    const indent = "  ";
    const each = rows.flatMap(({ id }, i) => [...wrap(id, width), indent + line(cells[i]!)]);
    return [indent + right, ...each].join("\n");
  }
  const left = Math.max(24, width - right.length - 2);
  const each = rows.flatMap(({ id }, i) => {
    const [first, ...more] = wrap(id, left);
    return [`${first!.padEnd(left)}  ${line(cells[i]!)}`, ...more];
  });
  return [`${"".padEnd(left)}  ${right}`, ...each].join("\n");
}

export function chipLine(chip: Chip, mesa: string): string {
  const { family, generation, card, units, bandwidth } = chip;
  return `${family}: ${generation}, ${card}, ${units} units, ${peakOf(chip).toFixed(0)} TFLOP/s, ${bandwidth} GB/s; Mesa ${mesa}`;
}

function totalsText(totals: readonly Total[]): string {
  const counted = totals.filter(({ gigaflops }) => gigaflops > 0);
  const names = counted.map(({ workload, wave }) => `${workload}, wave${wave}`);
  const longest = Math.max(0, ...names.map(({ length }) => length));
  const lines = counted.map(({ gigaflops, ideal, est, whole, dispatches }, i) =>
    [
      names[i]!.padEnd(longest),
      gigaflops.toFixed(1).padStart(7),
      `${dispatches}`.padStart(6),
      ...[ideal, est, whole].map((value) => figure(value).padStart(5)),
    ].join("  "),
  );
  return [`${"".padEnd(longest)}    GFLOP  launch  ideal    est  whole`, ...lines].join("\n");
}

export const EXPLANATION = [
  "regs: vector registers of a lane. spills: registers that did not fit, * with scratch memory. waves: of a SIMD at a time. " +
    "dist: issue cycles between a load and the wait for it. bound: what a turn of the loop takes longest for: issuing, " +
    "workgroup memory (LDS) or loads (L0).",
  "ideal: percent of peak of a turn of the loop with latency hidden; est: with latency and the grid; whole: with what is around " +
    "the loop, counting the FLOP asked for. Totals are weighted by FLOP.",
  "loads: on their way at a time; flying: their bytes, of a unit. room: how many times as many bytes as memory brings could be issued. " +
    "mix: percent fma/integer/move/other vector/scalar/memory instructions, of the loop where there is one.",
  "A model: docs/design/0009-kernels-without-a-gpu.md. Trust ratios more than percentages.",
];

/** The tables of one family, for one subgroup size; totals of all that were compiled. */
export function figuresText(figures: Figures, chip: Chip, rows: readonly Row[], width: number): string {
  const products = rows.filter(isProduct);
  const rest = rows.filter((row) => !isProduct(row));
  const parts = [wrap(chipLine(chip, figures.mesa), width).join("\n")];
  if (products.length > 0) parts.push(table(products, PRODUCTS, width));
  if (rest.length > 0) parts.push(table(rest, streams(chip), width));
  parts.push(totalsText(figures.totals), spillsText(figures.rows, width));
  return parts.join("\n\n");
}

export function spilling(rows: readonly Row[]): Row[] {
  return rows.filter(({ spills, scratch }) => spills > 0 || scratch > 0);
}

function spillsText(rows: readonly Row[], width: number): string {
  const bad = spilling(rows);
  if (bad.length === 0) return `Of ${rows.length} kernels none spills or uses scratch memory.`;
  const lines = bad.flatMap(({ id, wave, spills, scratch }) =>
    wrap(`  ${id}, wave${wave}: ${spills} registers, ${scratch} B of scratch`, width),
  );
  return [`Of ${rows.length} kernels ${bad.length} spill or use scratch memory:`, ...lines].join("\n");
}

export interface Change {
  before: Row;
  now: Row;
}

export interface Comparison {
  changes: Change[];
  onlyBefore: Row[];
  onlyNow: Row[];
}

const keyOf = ({ id, wave }: Row) => `${wave} ${id}`;

/** Rows that differ in what is compared, those first that cost most of the time. */
export function compareRows(before: readonly Row[], now: readonly Row[]): Comparison {
  const old = new Map(before.map((row) => [keyOf(row), row]));
  const keys = new Set(now.map(keyOf));
  const changes: Change[] = [];
  for (const row of now) {
    const former = old.get(keyOf(row));
    if (former && differs(former, row)) changes.push({ before: former, now: row });
  }
  const gain = ({ before, now }: Change) => now.flops / (before.est || 1) - now.flops / (now.est || 1);
  return {
    changes: changes.sort((a, b) => Math.abs(gain(b)) - Math.abs(gain(a))),
    onlyBefore: before.filter((row) => !keys.has(keyOf(row))),
    onlyNow: now.filter((row) => !old.has(keyOf(row))),
  };
}

const COMPARED = [
  "ideal",
  "est",
  "whole",
  "registers",
  "spills",
  "scratch",
  "lds",
  "waves",
  "distance",
] as const;

function differs(a: Row, b: Row): boolean {
  return COMPARED.some((key) => a[key] !== b[key]);
}

function changeText({ before, now }: Change): string {
  return COMPARED.filter((key) => before[key] !== now[key])
    .map((key) => `${key} ${before[key] ?? "–"} → ${now[key] ?? "–"}`)
    .join(", ");
}

export function comparisonText(before: Figures, now: Figures, rows: readonly Row[], width: number): string {
  const waves = new Set(rows.map(({ wave }) => wave));
  const ids = new Set(rows.map(keyOf));
  const former = before.rows.filter((row) => waves.has(row.wave));
  const { changes, onlyBefore, onlyNow } = compareRows(former, rows);
  const lines = changes.flatMap((change) => [
    ...wrap(`${change.now.id}, wave${change.now.wave}`, width),
    ...wrap(`    ${changeText(change)}`, width),
  ]);
  const list = (title: string, all: readonly Row[]) =>
    all.length > 0
      ? [`${title}:`, ...all.flatMap(({ id, wave }) => wrap(`  ${id}, wave${wave}`, width))]
      : [];
  const totals = now.totals.flatMap((total) => {
    const same = before.totals.find(
      ({ workload, wave }) => workload === total.workload && wave === total.wave,
    );
    if (!same || total.gigaflops === 0) return [];
    const change = (["ideal", "est", "whole"] as const).map((key) => `${key} ${same[key]} → ${total[key]}`);
    return wrap(`${total.workload}, wave${total.wave}: ${change.join(", ")}`, width);
  });
  const driver = before.mesa === now.mesa ? "" : `, Mesa ${before.mesa} → ${now.mesa}`;
  return [
    ...wrap(`${now.family}: ${changes.length} of ${ids.size} kernels changed${driver}`, width),
    ...lines,
    ...list("gone", onlyBefore),
    ...list("new", onlyNow),
    ...totals,
  ].join("\n");
}

/** JSON with a row on a line, so that a change of one kernel is a change of one line. */
export function figuresJson({ rows, totals, ...rest }: Figures): string {
  const list = (all: readonly object[]) =>
    `[\n${all.map((one) => `    ${JSON.stringify(one)}`).join(",\n")}\n  ]`;
  const head = JSON.stringify(rest, null, 2).replace(/\n}$/, ",");
  return `${head}\n  "totals": ${list(totals)},\n  "rows": ${list(rows)}\n}\n`;
}
