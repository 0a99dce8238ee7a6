// A run's files: one JSON per cell, written whole or not at all, and run.json, which says what all of them share.

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { AdapterSummary } from "../device/adapter.ts";
import { DataError, UsageError } from "../errors.ts";
import { fromJson, toJson } from "../json.ts";
import { writeFileAtomic } from "../node/files.ts";
import { isPlain, show } from "../options.ts";
import { type Cell, type Configuration, type Experiment, PRESETS, type Preset } from "./experiment.ts";
import { MOST_LONGER, RUN_NETWORKS, type Variant, variantOf, vary } from "./variant.ts";

const CELL_FORMAT = "fusenorm-cell-3";
const RUN_FORMAT = "fusenorm-reproduce-2";
/** No cell is nearly as large. */
const MAX_BYTES = 2 ** 28;

/** What all cells of a run share. */
export interface RunManifest extends Variant {
  preset: Preset;
  /** The data set's own name. */
  dataset: string;
  /** Height, width and channels that folders of images are scaled to, as `32x32x3`; left out for sets with a size of their own. */
  images?: string;
  seeds: number;
  /** Experiment ids, in order. */
  experiments: string[];
}

export interface CellKey {
  /** The first that asks for it. */
  experiment: string;
  configuration: Configuration;
  seed: number;
}

export interface StoredCell extends Cell {
  preset: Preset;
  dataset: string;
  adapter: AdapterSummary;
  /** The part of `seconds` in which kernels were compiled, as far as it can be told. */
  compileSeconds: number;
}

/**
 * Every cell of a run once, in the order in which it is run: all machines of a sharded run agree on it. What several experiments ask
 * for stands with the first of them.
 */
export function listCells(
  experiments: readonly Experiment[],
  { preset, seeds, ...variant }: Pick<RunManifest, "preset" | "seeds"> & Variant,
): CellKey[] {
  const seen = new Set<string>();
  return experiments.flatMap((experiment) => {
    const cells = vary(experiment.configurations(preset), variant).flatMap((configuration) => {
      const repeats = experiment.repeats?.(configuration, seeds) ?? seeds;
      return Array.from({ length: repeats }, (_, seed) => ({
        experiment: experiment.id,
        configuration,
        seed,
      }));
    });
    // Every configuration once before any of them again: half a run already shows something.
    return cells
      .sort((a, b) => a.seed - b.seed)
      .filter((key) => {
        const name = nameOf(key);
        return !seen.has(name) && seen.add(name);
      });
  });
}

/** `training/sweep-none-depth-110-lr-0.1-5e3f01-seed0`: the digits are of all settings. */
function nameOf({ configuration, seed }: Pick<CellKey, "configuration" | "seed">): string {
  const slug = configuration.label
    .toLowerCase()
    .replace(/[^a-z0-9.]+/g, "-")
    .replace(/^-|-$/g, "");
  return join(configuration.measure, `${slug}-${digest(configuration).slice(0, 6)}-seed${seed}`);
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

/** Far above what anybody runs: a number with too many digits is a slip, and would fill the memory with cells. */
const MAX_SEEDS = 1000;

/** @returns `seeds`. @throws UsageError if they are too many to be meant */
export function checkSeeds(seeds: number): number {
  if (Number.isInteger(seeds) && seeds >= 1 && seeds <= MAX_SEEDS) return seeds;
  throw new UsageError(`reproduce: --seeds is ${seeds}; expected an integer from 1 to ${MAX_SEEDS}`);
}

const ADAPTER_FIELDS = ["name", "vendor", "architecture", "description"] as const;

/** What it means that a run.json leaves something out. */
const AS_IN_PAPER: Record<string, unknown> = {
  images: "of a size of their own",
  ...{ network: RUN_NETWORKS[0], longer: 1 },
};

/** The directory of one run. */
export class RunDirectory {
  constructor(readonly path: string) {}

  fileOf(key: Pick<CellKey, "configuration" | "seed">): string {
    return join(this.path, "cells", `${nameOf(key)}.json`);
  }

  /** Where the cell leaves what it needs to go on, until it is done. */
  checkpointOf(key: CellKey): string {
    return join(this.path, "cells", `${nameOf(key)}.checkpoint.safetensors`);
  }

  has(key: CellKey): boolean {
    return existsSync(this.fileOf(key));
  }

  /** @throws DataError unless the file holds this very cell of this run, as it was written. */
  read(key: CellKey, manifest: RunManifest): StoredCell {
    const file = this.fileOf(key);
    const remedy = "use another --out, or delete it to run its cell again";
    const cell = parseFile(file, remedy);
    const refuse = (field: string, expected: string): never =>
      refuseField(file, field, cell[field], `${expected}: ${remedy}`);
    if (cell.format !== CELL_FORMAT) refuse("format", CELL_FORMAT);
    const expected: Record<string, unknown> = {
      preset: manifest.preset,
      dataset: manifest.dataset,
      seed: key.seed,
    };
    for (const [field, value] of Object.entries(expected)) {
      if (cell[field] !== value) refuse(field, `${show(value)}, as in the rest of this run`);
    }
    if (toJson(cell.configuration) !== toJson(key.configuration)) {
      throw new DataError(
        `${file}: configuration is ${toJson(cell.configuration)}: it was made with other settings than this version's ` +
          `${toJson(key.configuration)}; ${remedy}`,
      );
    }
    for (const field of ["seconds", "compileSeconds"]) {
      if (!(Number.isFinite(cell[field]) && (cell[field] as number) >= 0)) {
        refuse(field, "a finite number of at least 0");
      }
    }
    const adapter: Record<string, unknown> = isPlain(cell.adapter) ? cell.adapter : {};
    if (
      !ADAPTER_FIELDS.every((field) => typeof adapter[field] === "string") ||
      !["hardware", "software"].includes(adapter.class as string)
    ) {
      refuse("adapter", `an object with the texts ${ADAPTER_FIELDS.join(", ")} and class`);
    }
    if (!("data" in cell)) refuse("data", "what the cell measured");
    const sha256 = digest(cell.data);
    if (cell.sha256 !== sha256) {
      throw new DataError(
        `${file}: data has the SHA-256 ${sha256}, the file's sha256 is ${show(cell.sha256)}; it was changed after it was written: ` +
          remedy,
      );
    }
    return cell as unknown as StoredCell;
  }

  async write(cell: StoredCell): Promise<void> {
    await writeFileAtomic(
      this.fileOf(cell),
      toJson({ format: CELL_FORMAT, ...cell, sha256: digest(cell.data) }),
    );
  }

  /** True if any cell is there. */
  get hasCells(): boolean {
    const cells = join(this.path, "cells");
    return existsSync(cells) && readdirSync(cells).length > 0;
  }

  /** @param ids all experiments that there are. @throws DataError if there is none, or it is malformed. */
  readManifest(ids: readonly string[]): RunManifest {
    const file = join(this.path, "run.json");
    if (!existsSync(file)) {
      throw new DataError(
        `${this.path}: no run.json; expected a directory written by \`fusenorm reproduce --out\``,
      );
    }
    const remedy = "restore it, or use another --out";
    const { format, ...manifest } = parseFile(file, remedy);
    const { preset, dataset, images, seeds, experiments, network, longer, ...rest } = manifest;
    const rule = (field: string, value: unknown, ok: boolean, expected: string) => {
      if (!ok) refuseField(file, field, value, `${expected}: ${remedy}`);
    };
    rule("format", format, format === RUN_FORMAT, RUN_FORMAT);
    rule("preset", preset, PRESETS.includes(preset as Preset), `one of ${PRESETS.join(", ")}`);
    rule("dataset", dataset, typeof dataset === "string" && dataset !== "", "a data set's name");
    const isSize = typeof images === "string" && /^[1-9]\d*x[1-9]\d*x[13]$/.test(images);
    const sized = images === undefined || isSize;
    rule("images", images, sized, "height, width and channels, as 32x32x3");
    const counts = Number.isInteger(seeds) && (seeds as number) >= 1 && (seeds as number) <= MAX_SEEDS;
    rule("seeds", seeds, counts, `an integer from 1 to ${MAX_SEEDS}`);
    const listed = Array.isArray(experiments) && experiments.length > 0;
    rule("experiments", experiments, listed, `some of ${ids.join(", ")}`);
    for (const [i, id] of (experiments as unknown[]).entries()) {
      const known = ids.includes(id as string) && (experiments as unknown[]).indexOf(id) === i;
      rule(`experiments[${i}]`, id, known, `one of ${ids.join(", ")}, each once`);
    }
    const named = network === undefined || (RUN_NETWORKS as readonly unknown[]).includes(network);
    rule("network", network, named, `one of ${RUN_NETWORKS.join(", ")}`);
    const whole = Number.isInteger(longer) && (longer as number) >= 1 && (longer as number) <= MOST_LONGER;
    rule("longer", longer, longer === undefined || whole, `an integer from 1 to ${MOST_LONGER}`);
    for (const field of Object.keys(rest)) {
      rule(
        field,
        rest[field],
        false,
        "preset, dataset, images, seeds, experiments, network and longer alone",
      );
    }
    return manifest as unknown as RunManifest;
  }

  /** Of the run there; null if there is none. @throws DataError if its run.json is malformed */
  manifestThere(ids: readonly string[]): RunManifest | null {
    return existsSync(join(this.path, "run.json")) ? this.readManifest(ids) : null;
  }

  /**
   * The manifest of the run there with this one's experiments and seeds, or this one.
   * @param ids all experiments that there are, in order
   * @throws DataError if the run there has another preset, data set or variant, or more seeds
   */
  checkManifest(manifest: RunManifest, ids: readonly string[]): RunManifest {
    const experiments = new Set(manifest.experiments);
    const there = this.manifestThere(ids);
    if (there) {
      for (const name of ["preset", "dataset", "images", "network", "longer"] as const) {
        const [before, now] = [there[name] ?? AS_IN_PAPER[name], manifest[name] ?? AS_IN_PAPER[name]];
        if (before !== now) {
          throw new DataError(
            `${this.path}: the run there has ${name} ${before}, this one ${now}; expected the same: use another --out`,
          );
        }
      }
      // Of more seeds the cells that are there are the first: the others are added to them.
      if (there.seeds > manifest.seeds) {
        throw new DataError(
          `${this.path}: the run there has ${there.seeds} seeds, this one ${manifest.seeds}; expected as many or more: ` +
            "leave out --seeds, or use another --out",
        );
      }
      for (const id of there.experiments) experiments.add(id);
    }
    return { ...manifest, experiments: ids.filter((id) => experiments.has(id)) };
  }

  /** Writes run.json; an earlier one's experiments stay in it. @throws DataError as `checkManifest` */
  async writeManifest(manifest: RunManifest, ids: readonly string[]): Promise<void> {
    const { network, longer, ...merged } = this.checkManifest(manifest, ids);
    const all = { format: RUN_FORMAT, ...merged, ...variantOf({ network, longer }) };
    await writeFileAtomic(join(this.path, "run.json"), toJson(all, 1));
  }
}

/** Of the data's JSON, as `toJson` writes it. */
function digest(data: unknown): string {
  return createHash("sha256")
    .update(toJson(data) ?? "")
    .digest("hex");
}

function refuseField(file: string, field: string, value: unknown, expected: string): never {
  throw new DataError(
    `${file}: ${field} is ${value === undefined ? "missing" : show(value)}; expected ${expected}`,
  );
}

/** The object in a JSON file. @throws DataError */
function parseFile(file: string, remedy: string): Record<string, unknown> {
  let value: unknown;
  try {
    if (statSync(file).size > MAX_BYTES) throw new Error(`more than ${MAX_BYTES} bytes`);
    value = fromJson(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new DataError(`${file}: can't be read as JSON: ${(cause as Error).message}; ${remedy}`, { cause });
  }
  if (!isPlain(value)) throw new DataError(`${file}: it holds ${show(value)}; expected an object: ${remedy}`);
  return value;
}
