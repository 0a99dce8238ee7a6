// A run's files: one JSON per cell, written whole or not at all, and run.json, which says what all of them share.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DataError, UsageError } from "../errors.ts";
import type { AdapterSummary } from "../gpu/device.ts";
import { fromJson, toJson } from "../json.ts";
import { writeFileAtomic } from "../node/files.ts";
import type { Cell, Configuration, Experiment, Preset } from "./experiment.ts";

const CELL_FORMAT = "fusenorm-cell-1";
const RUN_FORMAT = "fusenorm-reproduce-1";

/** What all cells of a run share. */
export interface RunManifest {
  preset: Preset;
  /** The data set's own name. */
  dataset: string;
  seeds: number;
  /** Experiment ids, in order. */
  experiments: string[];
}

export interface CellKey {
  experiment: string;
  configuration: Configuration;
  seed: number;
}

export interface StoredCell extends Cell {
  preset: Preset;
  dataset: string;
  adapter: AdapterSummary;
}

/** Every cell of a run, in the order in which it is run: all machines of a sharded run agree on it. */
export function listCells(
  experiments: readonly Experiment[],
  { preset, seeds }: Pick<RunManifest, "preset" | "seeds">,
): CellKey[] {
  return experiments.flatMap((experiment) => {
    const cells = experiment.configurations(preset).flatMap((configuration) => {
      const repeats = experiment.repeats?.(configuration, seeds) ?? seeds;
      return Array.from({ length: repeats }, (_, seed) => ({
        experiment: experiment.id,
        configuration,
        seed,
      }));
    });
    // Every configuration once before any of them again: half a run already shows something.
    return cells.sort((a, b) => a.seed - b.seed);
  });
}

/** Part `index` of `count`: cells are dealt out in turn, so that long and short experiments spread evenly. */
export function shardOf<T>(cells: readonly T[], { index, count }: Shard): T[] {
  return cells.filter((_, i) => i % count === index);
}

export interface Shard {
  /** From 0. */
  index: number;
  count: number;
}

/** `"2/8"`: index 2 of 8, counted from 0. */
export function parseShard(text: string): Shard {
  const match = /^(\d+)\/(\d+)$/.exec(text);
  const shard = match && { index: Number(match[1]), count: Number(match[2]) };
  if (!shard || shard.index >= shard.count) {
    throw new UsageError(
      `reproduce: --shard is "${text}"; expected index/count with index from 0 to count − 1`,
    );
  }
  return shard;
}

/**
 * The shard that a scheduler gives this process: a Kubernetes Indexed Job's JOB_COMPLETION_INDEX with JOB_COMPLETIONS
 * (set it in the manifest), or a Slurm array's SLURM_ARRAY_TASK_ID with SLURM_ARRAY_TASK_MIN and SLURM_ARRAY_TASK_COUNT.
 */
export function shardFromEnvironment(env: Record<string, string | undefined>): Shard | null {
  const read = (name: string): number => {
    const value = Number(env[name]);
    if (env[name] === undefined || env[name] === "" || !Number.isInteger(value)) {
      throw new UsageError(
        `reproduce: ${name} is ${env[name] === undefined ? "not set" : `"${env[name]}"`}; expected an integer: set it, or pass --shard index/count`,
      );
    }
    return value;
  };
  if (env.JOB_COMPLETION_INDEX !== undefined) {
    return parseShard(`${read("JOB_COMPLETION_INDEX")}/${read("JOB_COMPLETIONS")}`);
  }
  if (env.SLURM_ARRAY_TASK_ID !== undefined) {
    const first = env.SLURM_ARRAY_TASK_MIN === undefined ? 0 : read("SLURM_ARRAY_TASK_MIN");
    return parseShard(`${read("SLURM_ARRAY_TASK_ID") - first}/${read("SLURM_ARRAY_TASK_COUNT")}`);
  }
  return null;
}

/** The directory of one run. */
export class RunDirectory {
  constructor(readonly path: string) {}

  fileOf({ experiment, configuration, seed }: CellKey): string {
    const slug = configuration.label
      .toLowerCase()
      .replace(/[^a-z0-9.]+/g, "-")
      .replace(/^-|-$/g, "");
    return join(this.path, "cells", experiment, `${slug}-seed${seed}.json`);
  }

  has(key: CellKey): boolean {
    return existsSync(this.fileOf(key));
  }

  /** @throws DataError unless the file holds this very cell of this run. */
  read(key: CellKey, manifest: RunManifest): StoredCell {
    const file = this.fileOf(key);
    const cell = parseFile(file) as StoredCell & { format: string };
    if (cell.format !== CELL_FORMAT) {
      throw new DataError(`${file}: format is ${cell.format}; expected ${CELL_FORMAT}`);
    }
    const differs = (["preset", "dataset"] as const).find((name) => cell[name] !== manifest[name]);
    if (differs) {
      throw new DataError(
        `${file}: ${differs} is ${cell[differs]}, the run's ${manifest[differs]}; expected the same: use another --out, or delete it`,
      );
    }
    if (toJson(cell.configuration) !== toJson(key.configuration)) {
      throw new DataError(
        `${file}: it was made with other settings, ${toJson(cell.configuration)}, than this version's ` +
          `${toJson(key.configuration)}; use another --out, or delete it`,
      );
    }
    return cell;
  }

  async write(cell: StoredCell): Promise<void> {
    await writeFileAtomic(this.fileOf(cell), toJson({ format: CELL_FORMAT, ...cell }));
  }

  /** True if any cell is there. */
  get hasCells(): boolean {
    const cells = join(this.path, "cells");
    return existsSync(cells) && readdirSync(cells).length > 0;
  }

  /** @throws DataError if there is none. */
  readManifest(): RunManifest {
    const file = join(this.path, "run.json");
    if (!existsSync(file)) {
      throw new DataError(
        `${this.path}: no run.json; expected a directory written by \`fusenorm reproduce --out\``,
      );
    }
    const { format, ...manifest } = parseFile(file) as RunManifest & { format: string };
    if (format !== RUN_FORMAT) throw new DataError(`${file}: format is ${format}; expected ${RUN_FORMAT}`);
    return manifest;
  }

  /**
   * Writes run.json; an earlier one's experiments stay in it.
   * @throws DataError if the run there has another preset, data set or number of seeds
   */
  async writeManifest(manifest: RunManifest, order: readonly string[]): Promise<void> {
    const file = join(this.path, "run.json");
    const experiments = new Set(manifest.experiments);
    if (existsSync(file)) {
      const there = this.readManifest();
      for (const name of ["preset", "dataset", "seeds"] as const) {
        if (there[name] !== manifest[name]) {
          throw new DataError(
            `${this.path}: the run there has ${name} ${there[name]}, this one ${manifest[name]}; expected the same: use another --out`,
          );
        }
      }
      for (const id of there.experiments) experiments.add(id);
    }
    const merged = { ...manifest, experiments: order.filter((id) => experiments.has(id)) };
    await writeFileAtomic(file, toJson({ format: RUN_FORMAT, ...merged }, 1));
  }
}

function parseFile(file: string): unknown {
  try {
    return fromJson(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new DataError(
      `${file}: can't be read as JSON: ${(cause as Error).message}; delete it to run its cell again`,
      {
        cause,
      },
    );
  }
}
