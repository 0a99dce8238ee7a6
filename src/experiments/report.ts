// From the cells of a run to verdicts, figures, report.html and report.json.

import { join } from "node:path";
import { DataError } from "../errors.ts";
import { toJson } from "../json.ts";
import { writeFileAtomic } from "../node/files.ts";
import type { NetworkName } from "../train/networks.ts";
import { type CellKey, listCells, type RunDirectory, type RunManifest, type StoredCell } from "./cells.ts";
import type { Comparison, Exhibit, Experiment, Finding, Verdict } from "./experiment.ts";
import { escapeHtml, htmlPage, htmlTable, textTable } from "./page.ts";
import { show } from "./statistics.ts";

/** One experiment's part of the report. */
export interface ExperimentSection {
  experiment: Experiment;
  findings: Finding[];
  comparisons: Comparison[];
  exhibit: Exhibit;
  /** Of the experiment as a whole: see `overall`. */
  verdict: Verdict | null;
  /** Of its cells, without what the compiler took; shared ones count with each experiment. */
  seconds: number;
  cells: StoredCell[];
  missing: CellKey[];
}

export interface RunReport {
  manifest: RunManifest;
  adapters: string[];
  sections: ExperimentSection[];
}

/** The weakest of the clauses': one that does not hold decides, then one that is inconclusive. Null where nothing is judged. */
export function overall(findings: readonly Finding[]): Verdict | null {
  const verdicts = findings.map(({ verdict }) => verdict);
  if (verdicts.length === 0) return null;
  if (verdicts.includes("does not hold")) return "does not hold";
  return verdicts.includes("inconclusive") ? "inconclusive" : "holds";
}

/** Reads every cell that is there, of all shards, and lets each experiment judge its own. */
export async function buildReport(
  directory: RunDirectory,
  manifest: RunManifest,
  experiments: readonly Experiment[],
): Promise<RunReport> {
  const sections: ExperimentSection[] = [];
  for (const experiment of experiments) sections.push(await buildSection(directory, manifest, experiment));
  return { manifest, adapters: adaptersOf(sections), sections };
}

async function buildSection(
  directory: RunDirectory,
  manifest: RunManifest,
  experiment: Experiment,
): Promise<ExperimentSection> {
  const { cells, missing, findings } = judgeExperiment(directory, manifest, experiment);
  return {
    experiment,
    findings,
    comparisons: askCells(experiment, () => experiment.compare(cells)),
    exhibit: await askCells(experiment, () => experiment.exhibit(cells)),
    verdict: overall(findings),
    seconds: cells.reduce((sum, { seconds, compileSeconds }) => sum + seconds - compileSeconds, 0),
    cells,
    missing,
  };
}

/** The adapters that the cells were run on, each once. */
function adaptersOf(sections: readonly ExperimentSection[]): string[] {
  const cells = sections.flatMap((section) => section.cells);
  return [...new Set(cells.map(({ adapter }) => `${adapter.name} (${adapter.class})`))];
}

/** Time between two drawings of one section while cells come in: they cost a fraction of a second each, beside training. */
const REDRAW_MS = 5000;

/** The report of a run that goes on, in parts: what has changed since the last time is judged and drawn again. */
export class GrowingReport {
  private readonly drawn = new Map<Experiment, { cells: number; at: number; section: ExperimentSection }>();

  constructor(
    private readonly directory: RunDirectory,
    private readonly manifest: RunManifest,
    private readonly experiments: readonly Experiment[],
  ) {}

  /**
   * Elements with an id each: the overview, and a section for each experiment.
   * @param isLast whether no more cells will come: nothing is put off then
   */
  async parts(isLast: boolean): Promise<string[]> {
    const { directory, manifest } = this;
    const sections: ExperimentSection[] = [];
    for (const experiment of this.experiments) {
      const cells = listCells([experiment], manifest).filter((key) => directory.has(key)).length;
      const before = this.drawn.get(experiment);
      const isFresh =
        before?.cells === cells || (!isLast && performance.now() - (before?.at ?? -Infinity) < REDRAW_MS);
      if (before && isFresh) {
        sections.push(before.section);
        continue;
      }
      const section = await buildSection(directory, manifest, experiment);
      this.drawn.set(experiment, { cells, at: performance.now(), section });
      sections.push(section);
    }
    const run = { manifest, adapters: adaptersOf(sections), sections };
    return [overviewHtml(run), ...sections.map((section) => sectionHtml(section, manifest))];
  }
}

/** The cells of one experiment, those that are not there, and what is to be said of them. */
export function judgeExperiment(
  directory: RunDirectory,
  manifest: RunManifest,
  experiment: Experiment,
): { cells: StoredCell[]; missing: CellKey[]; findings: Finding[] } {
  const keys = listCells([experiment], manifest);
  const there = keys.filter((key) => directory.has(key));
  const cells = there.map((key) => directory.read(key, manifest));
  const missing = keys.filter((key) => !there.includes(key));
  return { cells, missing, findings: askCells(experiment, () => experiment.verdict(cells)) };
}

/** What `ask` returns. @throws DataError where cells hold not what this version measures */
function askCells<T>(experiment: Experiment, ask: () => T): T {
  const refuse = (cause: unknown): never => {
    if (!(cause instanceof TypeError || cause instanceof RangeError)) throw cause;
    throw new DataError(
      `${experiment.id}: its cells can't be judged (${cause.message}); they may be of another version: delete them to run them again`,
      { cause },
    );
  };
  try {
    const answer = ask();
    return answer instanceof Promise ? (answer.catch(refuse) as T) : answer;
  } catch (cause) {
    return refuse(cause);
  }
}

const MARKS: Record<Verdict, string> = { holds: "✓", "does not hold": "✗", inconclusive: "?" };
const NO_VERDICT = "a table";

/** The clauses of one experiment, wrapped to `width` columns. */
export function findingLines(findings: readonly Finding[], width: number): string[] {
  return findings.flatMap(({ criterion, measured, verdict }) => [
    ...wrap(`${MARKS[verdict]} ${criterion}`, width - 2, "  ", "    "),
    ...wrap(measured, width - 4, "    → ", "      "),
  ]);
}

/** For a terminal: a heading, its clauses, and the paper's numbers per experiment, wrapped to `width` columns. */
export function verdictText({ manifest, adapters, sections }: RunReport, width: number): string {
  const lines = [provenance(manifest, adapters), ""];
  for (const { experiment, findings, comparisons, exhibit, verdict, seconds, missing } of sections) {
    const rest = missing.length > 0 ? `, ${missing.length} cells missing` : "";
    lines.push(
      `${experiment.id.padEnd(20)} ${(verdict ?? NO_VERDICT).padEnd(14)} ${seconds.toFixed(0)} s${rest}`,
    );
    lines.push(...findingLines(findings, width));
    for (const { what, paper, mark, ours } of comparisons) {
      lines.push(...wrap(`${what}: paper ${paper} (${mark}), here ${ours}`, width - 4, "    · ", "      "));
    }
    if (verdict === null) {
      for (const { head, rows } of exhibit.tables ?? []) {
        lines.push(
          ...textTable(head, rows)
            .split("\n")
            .map((line) => `    ${line}`),
        );
      }
    }
  }
  lines.push("", "F: read off the paper's figure; N: quoted by two reading notes; R: recalled.");
  return lines.join("\n");
}

function wrap(text: string, width: number, first: string, others: string): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line && line.length + 1 + word.length > width - others.length) {
      lines.push(line);
      line = word;
    } else line = line ? `${line} ${word}` : word;
  }
  lines.push(line);
  return lines.map((content, i) => (i === 0 ? first : others) + content);
}

export function provenance(manifest: RunManifest, adapters: readonly string[]): string {
  const { preset, dataset, images, seeds, network, longer } = manifest;
  const variant = [
    ...(network ? [`network ${network}, which is not the paper's`] : []),
    ...(longer ? [`trained ${longer} times as long as the preset does`] : []),
  ];
  const sized = images ? `${dataset} (${images.replaceAll("x", "×")})` : dataset;
  const parts = [`Preset ${preset}`, sized, ...variant, `${seeds} ${seeds === 1 ? "seed" : "seeds"}`];
  return [...parts, adapters.join(" and ") || "no adapter"].join(", ");
}

/** Writes report.html and report.json into the run's directory. */
export async function writeReport(
  directory: RunDirectory,
  report: RunReport,
): Promise<{ html: string; json: string }> {
  const html = join(directory.path, "report.html");
  const json = join(directory.path, "report.json");
  await writeFileAtomic(html, reportHtml(report));
  await writeFileAtomic(json, reportJson(report));
  return { html, json };
}

/** Everything needed to judge and to draw again: findings, and the data of each cell once. */
export function reportJson({ manifest, adapters, sections }: RunReport): string {
  const cells = new Map<string, StoredCell>();
  const idOf = ({ configuration, seed }: Pick<CellKey, "configuration" | "seed">) =>
    `${configuration.measure}: ${configuration.label}, seed ${seed}`;
  for (const section of sections) for (const cell of section.cells) cells.set(idOf(cell), cell);
  return toJson({
    format: "fusenorm-report-2",
    ...manifest,
    adapters,
    experiments: sections.map(
      ({ experiment: { id, title, source, claim }, findings, comparisons, exhibit, ...section }) => ({
        ...{ id, title, source, claim },
        verdict: section.verdict,
        seconds: section.seconds,
        findings,
        comparisons,
        tables: exhibit.tables ?? [],
        notes: exhibit.notes ?? [],
        cells: section.cells.map(idOf),
        missingCells: section.missing.map(idOf),
      }),
    ),
    cells: Object.fromEntries(
      [...cells].map(([id, { configuration, seed, seconds, compileSeconds, data }]) => [
        id,
        { configuration, seed, seconds, compileSeconds, data },
      ]),
    ),
  });
}

const badge = (verdict: Verdict | null) =>
  verdict === null
    ? `<span class="verdict">${NO_VERDICT}</span>`
    : `<span class="verdict ${verdict.replaceAll(" ", "-")}">${MARKS[verdict]} ${verdict}</span>`;

export function reportHtml(run: RunReport): string {
  const { manifest, sections } = run;
  const body = [overviewHtml(run), ...sections.map((section) => sectionHtml(section, manifest))].join("\n");
  return htmlPage(titleOf(manifest), body);
}

/** Of the page. */
export const titleOf = ({ dataset }: RunManifest): string => `Understanding Batch Normalization: ${dataset}`;

/** What all experiments share, and their verdicts. */
function overviewHtml({ manifest, adapters, sections }: RunReport): string {
  const rows = sections
    .map(
      ({ experiment, verdict, seconds }) =>
        `<tr><td><a href="#${experiment.id}">${escapeHtml(experiment.title)}</a></td><td class="wide">${escapeHtml(experiment.source)}</td>` +
        `<td>${badge(verdict)}</td><td class="wide">${seconds.toFixed(0)} s</td></tr>`,
    )
    .join("\n");
  return `<div id="overview"><p>The experiments of Bjorck, Gomes, Selman &amp; Weinberger,
<a href="https://arxiv.org/abs/1806.02375">Understanding Batch Normalization</a> (NeurIPS 2018), run with fusenorm.</p>
<p class="note">${escapeHtml(provenance(manifest, adapters))}. Times are without compilation. Numbers of the paper are marked:
<b>F</b> read off its figure, so ± a few per cent; <b>N</b> quoted by two independent reading notes; <b>R</b> recalled.</p>
<div class="scroll"><table><thead><tr><th>experiment</th><th class="wide">paper</th><th>verdict</th><th class="wide">time</th></tr></thead>
<tbody>${rows}</tbody></table></div></div>`;
}

function sectionHtml(section: ExperimentSection, manifest: RunManifest): string {
  const { experiment, findings, comparisons, exhibit, cells, missing } = section;
  const clauses = findings
    .map(
      ({ criterion, measured, verdict }) =>
        `<li>${badge(verdict)}<div><b>${escapeHtml(criterion)}</b><br>${escapeHtml(measured)}</div></li>`,
    )
    .join("\n");
  const figures = exhibit.figures
    .map(({ svg, caption }) => `<figure>${svg}<figcaption>${escapeHtml(caption)}</figcaption></figure>`)
    .join("\n");
  const beside =
    comparisons.length > 0
      ? htmlTable(
          ["", "paper", "here"],
          comparisons.map(({ what, paper, mark, ours }) => [what, `${paper} (${mark})`, ours]),
          "wrap",
        )
      : "";
  const tables = (exhibit.tables ?? [])
    .map(({ caption, head, rows }) => `<p class="note">${escapeHtml(caption)}</p>${htmlTable(head, rows)}`)
    .join("\n");
  const notes = [...(exhibit.notes ?? []), ...factsOf(section, manifest)]
    .map((note) => `<p class="note">${escapeHtml(note)}</p>`)
    .join("\n");
  const lost =
    missing.length > 0 && cells.length + missing.length > 0
      ? `<details><summary class="note">${missing.length} of ${cells.length + missing.length} cells are missing</summary><p class="note">${missing
          .map(({ configuration, seed }) => escapeHtml(`${configuration.label}, seed ${seed}`))
          .join("; ")}</p></details>`
      : "";
  return `<section id="${experiment.id}"><h2>${escapeHtml(experiment.title)} <span class="note">${escapeHtml(experiment.source)}</span></h2>
<p><b>${escapeHtml(experiment.claim)}</b> ${escapeHtml(experiment.about)}</p>
<ul class="findings">${clauses}</ul>
${beside}
<div class="figures">${figures}</div>
${tables}${notes}${lost}</section>`;
}

/** The paper's own network, in the words of `sizesOf`. */
const PAPER_SIZE = "depth 110, 16 channels, batch 128, whole images";

/** What was run, in sentences. */
function factsOf({ cells, seconds }: ExperimentSection, { preset, dataset }: RunManifest): string[] {
  if (cells.length === 0) return [];
  const adapters = [...new Set(cells.map(({ adapter }) => adapter.name))].join(", ");
  const seeds = new Set(cells.map(({ seed }) => seed)).size;
  const sizes = [...new Set(cells.flatMap(sizesOf))];
  const smaller = sizes.some((size) => !size.startsWith(PAPER_SIZE) && size.includes("depth "));
  return [
    `Run here: ${preset} preset on ${dataset}, ${cells.length} cells of ${seeds} ${seeds === 1 ? "seed" : "seeds"}, ${seconds.toFixed(0)} s on ${adapters}. ` +
      `${sizes.map((size) => `${size[0]!.toUpperCase()}${size.slice(1)}.`).join(" ")}` +
      (smaller ? ` The paper's network is of ${PAPER_SIZE}.` : ""),
  ];
}

/** Depth, width, batch and length of the training of a cell, where it has them. */
function sizesOf({ configuration, data }: StoredCell): string[] {
  const { network, depth, width, batchSize, batchSizes, shrink, steps, size } =
    configuration as unknown as Record<string, number> & { network?: NetworkName; batchSizes?: number[] };
  if (size !== undefined) return [`matrices of ${size} × ${size}`];
  if (depth === undefined) return [];
  const { batchesPerEpoch } = data as { batchesPerEpoch?: number };
  const epochs = batchesPerEpoch ? ` (${show(steps! / batchesPerEpoch, 2)} epochs)` : "";
  const images = shrink === 1 ? "whole images" : `images shrunk ${shrink} ×`;
  const name = network ? `${network}, ` : "";
  const whole = `${name}depth ${depth}, ${width} channels, batch ${batchSize ?? batchSizes!.join(", ")}, ${images}`;
  return [batchesPerEpoch ? `${whole}, ${steps} steps${epochs}` : whole];
}
