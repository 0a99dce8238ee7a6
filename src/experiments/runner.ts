import { balancedIndices, type DatasetSplits, type ImageDataset, subset } from "../data/dataset.ts";
import type { Gpu } from "../gpu.ts";
import {
  type CellKey,
  listCells,
  type RunDirectory,
  type RunManifest,
  type Shard,
  shardOf,
} from "./cells.ts";
import type { Experiment, Preset } from "./experiment.ts";

export interface RunnerOptions {
  gpu: Gpu;
  /** All of it: `limitData` cuts it down. */
  data: DatasetSplits;
  directory: RunDirectory;
  manifest: RunManifest;
  experiments: readonly Experiment[];
  shard: Shard;
  signal?: AbortSignal;
  /** Called once, when the cells that are there are found to be in order. */
  onReady?(cells: number): void;
  onStart?(key: CellKey, position: number, total: number): void;
  onPoint?(key: CellKey, curve: string, x: number, y: number): void;
  /** Called before each cell's file is written; what it throws ends the run. */
  beforeWrite?(): void;
  onDone?(key: CellKey, seconds: number, skipped: boolean): void;
}

/**
 * Runs the cells of this shard that are not there yet, one after the other.
 * @throws DataError before any of them if a cell that is there is another run's, or damaged
 */
export async function runCells(options: RunnerOptions): Promise<void> {
  const { gpu, directory, manifest, experiments, shard, signal } = options;
  const { preset, dataset } = manifest;
  const data = limitData(options.data, preset);
  const byId = new Map(experiments.map((experiment) => [experiment.id, experiment]));
  const keys = shardOf(listCells(experiments, manifest), shard);
  const kept = new Set(keys.filter((key) => directory.has(key)));
  for (const key of kept) directory.read(key, manifest);
  options.onReady?.(keys.length);
  for (const [position, key] of keys.entries()) {
    if (signal?.aborted) return;
    if (kept.has(key)) {
      options.onDone?.(key, 0, true);
      continue;
    }
    options.onStart?.(key, position, keys.length);
    const started = performance.now();
    const result = await byId
      .get(key.experiment)!
      .run(
        { gpu, data, onPoint: (curve, x, y) => options.onPoint?.(key, curve, x, y), signal },
        key.configuration,
        key.seed,
      );
    // An interrupted cell is half a cell.
    if (signal?.aborted) return;
    const seconds = (performance.now() - started) / 1e3;
    options.beforeWrite?.();
    await directory.write({ ...key, preset, dataset, adapter: gpu.info, seconds, data: result });
    options.onDone?.(key, seconds, false);
  }
}

/** Images per class, of training and test set. */
const LIMITS: Record<Preset, { train: number; test: number } | null> = {
  quick: { train: 200, test: 50 },
  standard: null,
  paper: null,
};

/** The part of a data set that a preset uses: in `quick` as many images as the embedded sample has. */
export function limitData({ train, test }: DatasetSplits, preset: Preset): DatasetSplits {
  const limits = LIMITS[preset];
  return limits ? { train: limit(train, limits.train), test: limit(test, limits.test) } : { train, test };
}

function limit(dataset: ImageDataset, perClass: number): ImageDataset {
  if (dataset.count <= perClass * dataset.classes) return dataset;
  return subset(dataset, balancedIndices(dataset, perClass));
}
