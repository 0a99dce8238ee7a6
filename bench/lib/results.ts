// What a benchmark run leaves behind: its file, and the comparison of two of them.

import { existsSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import type { AdapterSummary } from "../../src/device/adapter.ts";
import { DataError } from "../../src/errors.ts";
import type { MemoryRow } from "../memory.ts";
import type { ScalingRow } from "../scaling.ts";
import type { GroupResult } from "./runner.ts";

export const SCHEMA = "fusenorm-bench/1";

export interface Environment {
  /** Of this package. */
  version: string;
  node: string;
  platform: string;
  processor: string;
  cores: number;
  adapter: AdapterSummary;
}

export interface BenchResults {
  schema: typeof SCHEMA;
  /** ISO 8601, when the run began. */
  date: string;
  environment: Environment;
  quick: boolean;
  /** Of a tensor past the caches where the adapter allows it, at the start of the run. */
  copy: { gbPerSecond: number; bytes: number };
  groups: GroupResult[];
  /** What steps need besides time; none in older files. */
  memory?: MemoryRow[];
  /** How a step's cost grows; where it was asked for. */
  scaling?: ScalingRow[];
  /** Groups without a result: out of time, or the error that they ended with. */
  missing: { id: string; reason: string; failed: boolean }[];
}

export function environment(version: string, adapter: AdapterSummary): Environment {
  const all = cpus();
  return {
    version,
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    processor: all[0]?.model ?? "unknown",
    cores: all.length,
    adapter,
  };
}

/** An adapter's name without versions, as a file name: `llvmpipe (LLVM 19.1.7, 256 bits)` → `llvmpipe`. */
export function adapterSlug(name: string): string {
  return slug(name.split(/[:(]/)[0]!);
}

/** Text as a file name. */
export function slug(text: string): string {
  return (
    text
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, "-")
      .replace(/^-+|-+$/g, "") || "unnamed"
  );
}

/** @throws DataError for a file that is missing, not JSON, or not of a benchmark run. */
export function readResults(path: string): BenchResults {
  if (!existsSync(path)) {
    throw new DataError(`bench: ${path} does not exist; expected a file that an earlier run wrote`);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new DataError(`bench: ${path} is not JSON: ${(cause as Error).message}`, { cause });
  }
  return checkResults(parsed, path);
}

/** @throws DataError unless `value` is a benchmark run. */
export function checkResults(value: unknown, source: string): BenchResults {
  const results = value as Partial<BenchResults> | null;
  if (results?.schema !== SCHEMA) {
    throw new DataError(
      `bench: ${source} has schema ${JSON.stringify(results?.schema ?? null)}; expected "${SCHEMA}", as \`npm run bench\` writes it`,
    );
  }
  const cases = Array.isArray(results.groups)
    ? results.groups.flatMap((group) => group?.cases ?? [null])
    : null;
  if (!cases || !results.environment?.adapter?.name) {
    throw new DataError(`bench: ${source} has no groups or no adapter; expected a whole results file`);
  }
  for (const one of cases) {
    const numbers = [one?.wall?.median, one?.speedup, one?.copies, one?.dispatches, one?.bytes];
    if (!one?.id || !numbers.every((number) => Number.isFinite(number))) {
      throw new DataError(
        `bench: ${source}: case ${JSON.stringify(one?.id ?? null)} lacks finite times or counts; expected a whole results file`,
      );
    }
  }
  return results as BenchResults;
}

export interface Change {
  id: string;
  /** New over old, in ms. Of two machines, or one in two moods, it says little. */
  wall: number;
  /** New over old, each in copies of the same tensor in its own run. Above 1 is slower. */
  copies: number;
  dispatches: [old: number, now: number];
  regressed: boolean;
}

export interface Comparison {
  changes: Change[];
  /** Cases that only one of the runs has. */
  onlyOld: string[];
  onlyNew: string[];
}

/** `threshold` 1.25: a case that costs over a quarter more copies than before has regressed. */
export function compareResults(old: BenchResults, now: BenchResults, threshold: number): Comparison {
  const byId = (results: BenchResults) =>
    new Map(results.groups.flatMap(({ cases }) => cases).map((one) => [one.id, one]));
  const before = byId(old);
  const after = byId(now);
  const changes: Change[] = [];
  for (const [id, one] of after) {
    const other = before.get(id);
    if (!other) continue;
    const copies = one.copies / other.copies;
    changes.push({
      id,
      wall: one.wall.median / other.wall.median,
      copies,
      dispatches: [other.dispatches, one.dispatches],
      regressed: copies > threshold,
    });
  }
  return {
    changes: changes.sort((a, b) => b.copies - a.copies),
    onlyOld: [...before.keys()].filter((id) => !after.has(id)),
    onlyNew: [...after.keys()].filter((id) => !before.has(id)),
  };
}
