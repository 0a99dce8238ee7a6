// A benchmark run as text, Markdown and a page with charts.

import { escapeHtml, htmlFigures, htmlPage, htmlTable } from "../../src/experiments/page.ts";
import { lineChart, PALETTE, renderSvg } from "../../src/experiments/plot.ts";
import type { MemoryRow } from "../memory.ts";
import type { ScalingRow } from "../scaling.ts";
import type { BenchResults, Comparison } from "./results.ts";
import type { CaseResult, GroupResult } from "./runner.ts";

const HEAD = [
  "work",
  "case",
  "ms",
  "± spread",
  "GPU ms",
  "speed-up",
  "and over",
  "dispatches",
  "moved",
  "GB/s",
  "of copy",
  "GFLOP/s",
  "held",
  "peak",
];

export function formatMs(ms: number): string {
  return ms >= 100 ? ms.toFixed(0) : ms >= 1 ? ms.toFixed(2) : ms.toPrecision(2);
}

export function formatBytes(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(1)} MB`;
  return `${(bytes / 1e3).toFixed(1)} kB`;
}

export const percent = (share: number) => `${Math.round(100 * share)} %`;

function cells(group: GroupResult, one: CaseResult): string[] {
  return [
    group.title,
    one.name,
    formatMs(one.wall.median),
    percent(one.wall.spread),
    one.gpuMs === null ? "–" : formatMs(one.gpuMs),
    one.name === group.baseline ? "1" : `${one.speedup.toFixed(2)}×`,
    one.over ? `${one.over.name} ${one.over.speedup.toFixed(2)}×` : "–",
    `${one.dispatches}`,
    formatBytes(one.bytes),
    one.gbPerSecond.toFixed(1),
    percent(one.ofCopy),
    one.gflopPerSecond === null ? "–" : one.gflopPerSecond.toFixed(1),
    one.heldBytes === null ? "–" : formatBytes(one.heldBytes),
    formatBytes(one.peakBytes),
  ];
}

/** Columns in which every row has a dash say nothing. */
function table(groups: readonly GroupResult[]): { head: string[]; rows: string[][] } {
  const rows = groups.flatMap((group) => group.cases.map((one) => cells(group, one)));
  const kept = HEAD.map((_, column) => rows.some((row) => row[column] !== "–"));
  const pick = (row: readonly string[]) => row.filter((_, column) => kept[column]);
  return { head: pick(HEAD), rows: rows.map(pick) };
}

function suitesOf(results: BenchResults): Map<string, GroupResult[]> {
  const suites = new Map<string, GroupResult[]>();
  for (const group of results.groups) suites.set(group.suite, [...(suites.get(group.suite) ?? []), group]);
  return suites;
}

/** One line on where the numbers come from; says so where no GPU was at work. */
export function provenance({
  environment,
  copy,
  date,
}: Pick<BenchResults, "environment" | "date"> & Partial<Pick<BenchResults, "copy">>): string {
  const { adapter } = environment;
  const kind =
    adapter.class === "software"
      ? `a software adapter: ${environment.cores} cores of a ${environment.processor} did the work, no GPU`
      : "hardware";
  return (
    `${adapter.name} (${kind}); ` +
    (copy ? `copy ${copy.gbPerSecond.toFixed(1)} GB/s on ${formatBytes(copy.bytes)}; ` : "") +
    `fusenorm ${environment.version}, Node ${environment.node}, ${environment.platform}, ${date.slice(0, 10)}`
  );
}

const EXPLANATION =
  "ms: median wall time of a step over interleaved rounds; spread: distance between the quartiles. " +
  "GPU ms: sum of the kernels' timestamps. Speed-up: median of the rounds' ratios, over the case marked 1 and, where one is " +
  "named, over another. Moved: each bound buffer once per dispatch. " +
  "Of copy: effective bandwidth over that of a copy of one activation tensor in the same rounds. " +
  "Held: what the graph keeps for backward, its input among it. Peak: most bytes in tensors beyond the inputs.";

const MEMORY_EXPLANATION =
  "Counted without executing anything. Peak: most bytes in tensors at a time, beyond the resident ones. Captured: buffers that a " +
  "captured step keeps for its intermediate results. Resident: parameters with their gradients and velocities, running " +
  "statistics, the images. Shares are of the first row's.";

const SCALING_EXPLANATION =
  "A captured step of the CIFAR ResNet, as one of its sizes grows and the others stay; points are timed one after the other. FLOP: of convolutions and products alone. " +
  "Per FLOP: time over FLOP, as times that of the axis's cheapest point; 1 everywhere would be a cost that grows with the work alone.";

/** ms for a GFLOP. */
const perFlop = ({ ms, flops }: ScalingRow) => ms / (flops / 1e9);

function scalingTable(rows: readonly ScalingRow[]): { head: string[]; rows: string[][] } {
  const cells = rows.map((row) => {
    const cheapest = Math.min(...rows.filter(({ axis }) => axis === row.axis).map(perFlop));
    const others = (["batch", "depth", "width", "map"] as const).filter((name) => name !== row.axis);
    return [
      ...[`${row.axis} ${row[row.axis]}`, others.map((name) => `${name} ${row[name]}`).join(", ")],
      ...[formatMs(row.ms), formatMs(row.ms / row.batch), (row.flops / 1e9).toFixed(1)],
      ...[(1e3 / perFlop(row)).toFixed(1), (perFlop(row) / cheapest).toFixed(2)],
      ...[`${row.dispatches}`, formatBytes(row.bytes), formatBytes(row.peakBytes)],
    ];
  });
  const head = [
    "axis",
    "at",
    "ms",
    "per image",
    "GFLOP",
    "GFLOP/s",
    "per FLOP",
    "dispatches",
    "moved",
    "peak",
  ];
  return { head, rows: cells };
}

/** Of each axis: time and bytes for the work, as times those of its cheapest point. */
async function scalingCharts(rows: readonly ScalingRow[]): Promise<string[]> {
  const axes = [...new Set(rows.map(({ axis }) => axis))];
  return Promise.all(
    axes.map((axis) => {
      const points = rows.filter((row) => row.axis === axis);
      const over = (cost: (row: ScalingRow) => number) => {
        const least = Math.min(...points.map((row) => cost(row) / row.flops));
        return points.map((row) => [row[axis], cost(row) / row.flops / least] as const);
      };
      const series = [
        { label: "time", points: over(({ ms }) => ms) },
        { label: "bytes moved", points: over(({ bytes }) => bytes) },
        { label: "peak memory", points: over(({ peakBytes }) => peakBytes) },
      ];
      const y = "for a FLOP, times the least";
      return lineChart(series, { title: `as ${axis} grows`, x: axis, y, xScale: "log", yScale: "log" });
    }),
  );
}

function memoryTable(rows: readonly MemoryRow[]): { head: string[]; rows: string[][] } {
  const cells = rows.map((row) => {
    const first = rows.find(({ title }) => title === row.title)!;
    const share = (key: "dispatches" | "peakBytes") => percent(row[key] / first[key]);
    return [
      ...[row.title, row.name, `${row.dispatches}`, share("dispatches"), formatBytes(row.bytes)],
      ...[formatBytes(row.peakBytes), share("peakBytes"), formatBytes(row.planBytes)],
      formatBytes(row.residentBytes),
    ];
  });
  const head = ["work", "case", "dispatches", "share", "moved", "peak", "share", "captured", "resident"];
  return { head, rows: cells };
}

interface Section {
  title: string;
  head: string[];
  rows: string[][];
  figures?: () => Promise<string[]>;
  note?: string;
}

function* sections(results: BenchResults): Iterable<Section> {
  for (const [title, groups] of suitesOf(results))
    yield { title, figures: () => charts(groups), ...table(groups) };
  const { memory = [], scaling = [] } = results;
  if (memory.length > 0) {
    yield { title: "memory", note: MEMORY_EXPLANATION, ...memoryTable(memory) };
  }
  if (scaling.length > 0) {
    const figures = () => scalingCharts(scaling);
    yield { title: "scaling", figures, note: SCALING_EXPLANATION, ...scalingTable(scaling) };
  }
}

export function textTables(results: BenchResults): string {
  return [...sections(results)]
    .map(({ title, head, rows }) => `${title}\n${alignedTable(head, rows)}`)
    .join("\n\n");
}

/** Text on the left, numbers on the right. */
export function alignedTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  text = 2,
): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]!.length)));
  const line = (row: readonly string[]) =>
    row
      .map((cell, i) => (i < text ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join("  ")
      .trimEnd();
  return [line(head), widths.map((width) => "─".repeat(width)).join("  "), ...rows.map(line)].join("\n");
}

export function markdownTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  text = 2,
): string {
  const line = (row: readonly string[]) => `| ${row.join(" | ")} |`;
  return [line(head), line(head.map((_, i) => (i < text ? "---" : "--:"))), ...rows.map(line)].join("\n");
}

export function markdownReport(results: BenchResults): string {
  const parts = [...sections(results)].map(
    ({ title, head, rows, note }) =>
      `## ${title}\n\n${note ? `${note}\n\n` : ""}${markdownTable(head, rows)}\n`,
  );
  return `# Benchmarks\n\n${provenance(results)}.\n\n${EXPLANATION}\n\n${parts.join("\n")}`;
}

/** One self-contained page: charts first, then every number. */
export async function htmlReport(results: BenchResults): Promise<string> {
  const software = results.environment.adapter.class === "software";
  const parts = [
    `<p>${escapeHtml(provenance(results))}.</p>`,
    software
      ? "<p><strong>Software adapter.</strong> Ratios within this run hold; the times say nothing about a GPU.</p>"
      : "",
    `<p class="note">${escapeHtml(EXPLANATION)}</p>`,
  ];
  for (const { title, figures, head, rows, note } of sections(results)) {
    parts.push(`<h2>${escapeHtml(title)}</h2>`);
    if (note) parts.push(`<p class="note">${escapeHtml(note)}</p>`);
    if (figures) parts.push(htmlFigures(await figures()));
    parts.push(htmlTable(head, rows));
  }
  return htmlPage(`fusenorm benchmarks: ${results.environment.adapter.name}`, parts.join("\n"));
}

async function charts(groups: readonly GroupResult[]): Promise<string[]> {
  // One figure per kind of work (the id's second part), so that bars of one figure are of one scale.
  const kinds = new Map<string, GroupResult[]>();
  for (const group of groups) {
    const kind = group.id.split("/")[1]!;
    kinds.set(kind, [...(kinds.get(kind) ?? []), group]);
  }
  const figures: string[] = [];
  for (const [kind, members] of kinds) {
    const values = members.flatMap((group) =>
      group.cases.map((one) => ({
        work: group.title.replace(` ${kind}`, ""),
        case: one.name,
        ms: one.wall.median,
        low: one.wall.min,
        high: one.wall.max,
        speedup: one.speedup,
        baseline: one.name === group.baseline,
      })),
    );
    const names = [...new Set(values.map((value) => value.case))];
    const y = { field: "work", type: "nominal" as const, title: null, sort: null, axis: { labelLimit: 260 } };
    const color = {
      field: "case",
      type: "nominal" as const,
      title: null,
      scale: { domain: names, range: names.map((_, i) => PALETTE[i % PALETTE.length]!) },
    };
    const height = { step: 14 };
    figures.push(
      await renderSvg({
        title: `${kind}: time`,
        data: { values },
        height,
        encoding: { y, yOffset: { field: "case", sort: names } },
        layer: [
          {
            mark: { type: "rule", opacity: 0.6 },
            encoding: {
              x: { field: "low", type: "quantitative" },
              x2: { field: "high" },
              color: { value: "currentColor" },
            },
          },
          {
            mark: { type: "point", filled: true, size: 60, opacity: 1 },
            encoding: {
              x: {
                field: "ms",
                type: "quantitative",
                scale: { type: "log" },
                axis: { format: "~g", tickCount: 6 },
                title: "ms a step, median (line: fastest to slowest round)",
              },
              color,
            },
          },
        ],
      }),
    );
    if (names.length > 1) {
      figures.push(
        await renderSvg({
          title: `${kind}: speed-up`,
          data: { values: values.filter(({ baseline }) => !baseline) },
          height,
          encoding: { y, yOffset: { field: "case", sort: names } },
          layer: [
            {
              mark: { type: "bar" },
              encoding: {
                x: {
                  field: "speedup",
                  type: "quantitative",
                  title: `times as fast as ${members[0]!.baseline}`,
                },
                color,
              },
            },
            {
              mark: { type: "text", align: "left", dx: 4, color: "currentColor" },
              encoding: {
                x: { field: "speedup", type: "quantitative" },
                text: { field: "speedup", type: "quantitative", format: ".2f" },
              },
            },
          ],
        }),
      );
    }
  }
  return figures;
}

/** The comparison as text, slowdowns first. */
export function comparisonTable({ changes, onlyOld, onlyNew }: Comparison, threshold: number): string {
  const rows = changes.map(({ id, wall, copies, dispatches: [before, now], regressed }) => [
    id,
    regressed ? "slower" : copies < 1 / threshold ? "faster" : "",
    `${copies.toFixed(2)}×`,
    `${wall.toFixed(2)}×`,
    before === now ? `${now}` : `${before} → ${now}`,
  ]);
  const lines = [alignedTable(["case", "", "cost in copies", "ms", "dispatches"], rows)];
  if (onlyOld.length > 0) lines.push(`not in this run: ${onlyOld.length} cases of the earlier one`);
  if (onlyNew.length > 0) lines.push(`new in this run: ${onlyNew.length} cases`);
  return lines.join("\n");
}
