// The comparison with other libraries: the contenders in turn on the same numbers, checked against each other first.

import { alignedTable, formatMs, markdownTable, percent } from "./report.ts";
import type { Environment } from "./results.ts";
import { type Case, sampleInterleaved } from "./sampling.ts";
import { pairedRatio, relativeError, type Summary, summarize } from "./stats.ts";
import { type Contender, describeWork, type PeerWork, type Prepared, resultNames, workData } from "./work.ts";

export const PEERS_SCHEMA = "fusenorm-peers/1";

/** Above this ‖difference‖ / ‖ours‖ a row says that the numbers do not agree. */
export const AGREEMENT = 1e-3;

export interface PeerRow {
  contender: string;
  device: string;
  /** Why there is no time, or null. */
  refused: string | null;
  wall: Summary | null;
  /** Its time over the first contender's, median of the rounds' ratios. Above 1: the first one is faster. */
  ratio: number | null;
  /** ‖difference‖ / ‖first contender's‖ by result. */
  errors: Record<string, number>;
  agrees: boolean;
}

export interface PeerGroup {
  work: string;
  rows: PeerRow[];
}

export interface PeerResults {
  schema: typeof PEERS_SCHEMA;
  date: string;
  environment: Environment;
  /** Versions of the packages compared. */
  versions: Record<string, string>;
  groups: PeerGroup[];
}

export interface PeerOptions {
  rounds: number;
  callMs: number;
}

/** Relative error of each result against the first contender's. */
export function compareNumbers(
  names: readonly string[],
  actual: readonly ArrayLike<number>[],
  expected: readonly ArrayLike<number>[],
): Record<string, number> {
  return Object.fromEntries(
    names.map((name, i) => [name, relativeError(actual[i] ?? [], expected[i] ?? [Number.NaN])]),
  );
}

/** One work item on every contender that takes it. The first contender is what the others are compared with. */
export async function runPeerWork(
  work: PeerWork,
  contenders: readonly Contender[],
  options: PeerOptions,
): Promise<PeerGroup> {
  const data = workData(work);
  const names = resultNames(work);
  const rows: PeerRow[] = [];
  const ready: { row: PeerRow; prepared: Prepared }[] = [];
  let expected: Float32Array[] | null = null;
  try {
    for (const contender of contenders) {
      const refused = contender.refuses(work);
      const { name, device } = contender;
      const row: PeerRow = {
        contender: name,
        device,
        refused,
        wall: null,
        ratio: null,
        errors: {},
        agrees: false,
      };
      rows.push(row);
      if (refused !== null) continue;
      const prepared = await contender.prepare(work, data);
      ready.push({ row, prepared });
      const result = await prepared.result();
      expected ??= result;
      row.errors = compareNumbers(names, result, expected);
      row.agrees = Object.values(row.errors).every((error) => error <= AGREEMENT);
    }
    const cases: Case[] = ready.map(({ row, prepared }) => ({
      name: row.contender,
      // ONNX Runtime's threads spin for a while after their work, on the cores that the next contender needs.
      before: () => new Promise((done) => setTimeout(done, 10)),
      run: (iterations) => prepared.run(iterations),
    }));
    const samples = await sampleInterleaved(cases, { ...options, maxIterations: 50 });
    samples.forEach(({ times }, i) => {
      ready[i]!.row.wall = summarize(times);
      ready[i]!.row.ratio = pairedRatio(times, samples[0]!.times);
    });
  } finally {
    for (const { prepared } of ready) prepared.dispose();
  }
  return { work: describeWork(work), rows };
}

const HEAD = ["work", "contender", "ms", "± spread", "ours is faster by", "numbers"];

function cells({ work, rows }: PeerGroup): string[][] {
  return rows.map(({ contender, refused, wall, ratio, errors, agrees }, i) => {
    if (!wall) return [work, contender, "–", "–", "–", refused ?? "not run"];
    const worst = Object.entries(errors).reduce((a, b) => (b[1] > a[1] ? b : a));
    return [
      work,
      contender,
      formatMs(wall.median),
      percent(wall.spread),
      i === 0 ? "–" : `${ratio!.toFixed(2)}×`,
      i === 0 ? "reference" : `${agrees ? "agree" : "DIFFER"}, ${worst[1].toExponential(1)} in ${worst[0]}`,
    ];
  });
}

export function peerTable(groups: readonly PeerGroup[]): string {
  return alignedTable(HEAD, groups.flatMap(cells));
}

export function peerMarkdown(results: PeerResults, provenance: string): string {
  const versions = Object.entries(results.versions).map(([name, version]) => `${name} ${version}`);
  return (
    `# Head to head\n\n${provenance}. Compared: ${versions.join(", ")}.\n\n` +
    "Median wall time of interleaved rounds on one device, waiting included, everybody with the same polling; " +
    "spread: distance between the quartiles; factors: median of the rounds' ratios. Numbers: largest relative difference from " +
    `fusenorm's among the results, "agree" up to ${AGREEMENT}.\n\n${markdownTable(HEAD, results.groups.flatMap(cells))}\n`
  );
}
