// From the cells of a run to verdicts, figures, report.html and report.json.

import { join } from "node:path";
import { DataError } from "../errors.ts";
import { toJson } from "../json.ts";
import { writeFileAtomic } from "../node/files.ts";
import { listCells, type RunDirectory, type RunManifest, type StoredCell } from "./cells.ts";
import type { Experiment, ExperimentReport, Finding, Verdict } from "./experiment.ts";
import { escapeHtml, htmlPage, htmlTable } from "./page.ts";

/** One experiment's part of the report. */
export interface ExperimentSection {
  experiment: Experiment;
  report: ExperimentReport;
  /** Of the experiment as a whole: see `overall`. */
  verdict: Verdict;
  seconds: number;
  cells: StoredCell[];
  missing: number;
}

export interface RunReport {
  manifest: RunManifest;
  adapters: string[];
  sections: ExperimentSection[];
}

/** The weakest of the clauses': one that does not hold decides, then one that is inconclusive. */
export function overall(findings: readonly Finding[]): Verdict {
  const verdicts = findings.map(({ verdict }) => verdict);
  if (verdicts.includes("does not hold")) return "does not hold";
  return verdicts.length === 0 || verdicts.includes("inconclusive") ? "inconclusive" : "holds";
}

/** Reads every cell that is there, of all shards, and lets each experiment judge its own. */
export async function buildReport(
  directory: RunDirectory,
  manifest: RunManifest,
  experiments: readonly Experiment[],
): Promise<RunReport> {
  const adapters = new Set<string>();
  const sections: ExperimentSection[] = [];
  for (const experiment of experiments) {
    const keys = listCells([experiment], manifest);
    const cells = keys.filter((key) => directory.has(key)).map((key) => directory.read(key, manifest));
    for (const { adapter } of cells) adapters.add(`${adapter.name} (${adapter.class})`);
    const report = await judgeCells(experiment, cells);
    sections.push({
      experiment,
      report,
      verdict: overall(report.findings),
      seconds: cells.reduce((sum, cell) => sum + cell.seconds, 0),
      cells,
      missing: keys.length - cells.length,
    });
  }
  return { manifest, adapters: [...adapters], sections };
}

/** @throws DataError where cells hold not what this version measures */
async function judgeCells(experiment: Experiment, cells: readonly StoredCell[]): Promise<ExperimentReport> {
  try {
    return await experiment.report(cells);
  } catch (cause) {
    if (!(cause instanceof TypeError || cause instanceof RangeError)) throw cause;
    throw new DataError(
      `${experiment.id}: its cells can't be judged (${cause.message}); they may be of another version: delete them to run them again`,
      { cause },
    );
  }
}

export const VERDICT_HEAD = ["experiment", "verdict", "criterion", "measured"];

/** One row a clause. */
export function verdictRows({ sections }: RunReport): string[][] {
  return sections.flatMap(({ experiment, report }) =>
    report.findings.map(({ criterion, measured, verdict }, i) => [
      i === 0 ? experiment.id : "",
      verdict,
      criterion,
      measured,
    ]),
  );
}

const MARKS: Record<Verdict, string> = { holds: "✓", "does not hold": "✗", inconclusive: "?" };

/** For a terminal: a heading and its clauses per experiment, wrapped to `width` columns. */
export function verdictText({ manifest, adapters, sections }: RunReport, width: number): string {
  const lines = [provenance(manifest, adapters), ""];
  for (const { experiment, report, verdict, seconds, missing } of sections) {
    const rest = missing > 0 ? `, ${missing} cells missing` : "";
    lines.push(`${experiment.id.padEnd(20)} ${verdict.padEnd(14)} ${seconds.toFixed(0)} s${rest}`);
    for (const finding of report.findings) {
      lines.push(...wrap(`${MARKS[finding.verdict]} ${finding.criterion}`, width - 2, "  ", "    "));
      lines.push(...wrap(finding.measured, width - 4, "    → ", "      "));
    }
  }
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

export function provenance({ preset, dataset, seeds }: RunManifest, adapters: readonly string[]): string {
  return `Preset ${preset}, ${dataset}, ${seeds} ${seeds === 1 ? "seed" : "seeds"}, ${adapters.join(" and ") || "no adapter"}`;
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

/** Everything needed to judge and to draw again: findings and the data of each cell. */
export function reportJson({ manifest, adapters, sections }: RunReport): string {
  return toJson({
    format: "fusenorm-report-1",
    ...manifest,
    adapters,
    experiments: sections.map(
      ({ experiment: { id, title, source }, report, verdict, seconds, cells, missing }) => ({
        id,
        title,
        source,
        verdict,
        seconds,
        missingCells: missing,
        findings: report.findings,
        notes: report.notes ?? [],
        cells: cells.map(({ configuration, seed, seconds: cellSeconds, data }) => ({
          configuration,
          seed,
          seconds: cellSeconds,
          data,
        })),
      }),
    ),
  });
}

const badge = (verdict: Verdict) =>
  `<span class="verdict ${verdict.replaceAll(" ", "-")}">${MARKS[verdict]} ${verdict}</span>`;

export function reportHtml(run: RunReport): string {
  const { manifest, adapters, sections } = run;
  const rows = sections
    .map(
      ({ experiment, verdict, seconds }) =>
        `<tr><td><a href="#${experiment.id}">${escapeHtml(experiment.title)}</a></td><td class="wide">${escapeHtml(experiment.source)}</td>` +
        `<td>${badge(verdict)}</td><td class="wide">${seconds.toFixed(0)} s</td></tr>`,
    )
    .join("\n");
  const body = `<p>The experiments of Bjorck, Gomes, Selman &amp; Weinberger,
<a href="https://arxiv.org/abs/1806.02375">Understanding Batch Normalization</a> (NeurIPS 2018), run with fusenorm.</p>
<p class="note">${escapeHtml(provenance(manifest, adapters))}.</p>
<div class="scroll"><table><thead><tr><th>experiment</th><th class="wide">paper</th><th>verdict</th><th class="wide">time</th></tr></thead>
<tbody>${rows}</tbody></table></div>
${sections.map((section) => sectionHtml(section, manifest)).join("\n")}`;
  return htmlPage(`Understanding Batch Normalization: ${manifest.dataset}`, body);
}

function sectionHtml(
  { experiment, report, cells, missing, seconds }: ExperimentSection,
  manifest: RunManifest,
): string {
  const findings = report.findings
    .map(
      ({ criterion, measured, verdict }) =>
        `<li>${badge(verdict)}<div><b>${escapeHtml(criterion)}</b><br>${escapeHtml(measured)}</div></li>`,
    )
    .join("\n");
  const figures = report.figures
    .map(({ svg, caption }) => `<figure>${svg}<figcaption>${escapeHtml(caption)}</figcaption></figure>`)
    .join("\n");
  const tables = (report.tables ?? [])
    .map(({ caption, head, rows }) => `<p class="note">${escapeHtml(caption)}</p>${htmlTable(head, rows)}`)
    .join("\n");
  const notes = (report.notes ?? []).map((note) => `<p class="note">${escapeHtml(note)}</p>`).join("\n");
  const adapters = [...new Set(cells.map(({ adapter }) => adapter.name))].join(", ");
  const facts =
    `${manifest.preset} preset, ${manifest.dataset}, ${cells.length} cells` +
    `${missing > 0 ? ` (${missing} missing)` : ""}, ${seconds.toFixed(0)} s on ${adapters || "nothing yet"}`;
  return `<section id="${experiment.id}"><h2>${escapeHtml(experiment.title)} <span class="note">${escapeHtml(experiment.source)}</span></h2>
<p>${escapeHtml(experiment.about)}</p>
<ul class="findings">${findings}</ul>
<div class="figures">${figures}</div>
${tables}${notes}
<p class="note">${escapeHtml(facts)}</p></section>`;
}
