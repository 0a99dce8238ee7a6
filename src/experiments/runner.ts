import { existsSync, readFileSync, rmSync } from "node:fs";
import { balancedIndices, type DatasetSplits, type ImageDataset, subset } from "../data/dataset.ts";
import type { Gpu } from "../gpu.ts";
import { collectGarbage } from "../node/collect-garbage.ts";
import { writeFileAtomic } from "../node/files.ts";
import { decodeCheckpoint, encodeCheckpoint } from "../train/checkpoint.ts";
import { RecipeTrainer } from "../train/recipe.ts";
import {
  type CellKey,
  listCells,
  type RunDirectory,
  type RunManifest,
  type Shard,
  shardOf,
} from "./cells.ts";
import type { CellCheckpoint, Experiment, Measurement, Preset } from "./experiment.ts";
import { TRAINING } from "./presets.ts";
import { type NetworkSettings, paperNetwork, shrinkImages } from "./setup.ts";
import { withNetworkOf } from "./variant.ts";
import { Estimate, networkWork, type Rate, unitsOf, type Work } from "./work.ts";

/** What the cells of a run that are not there yet cost, before the first of them. */
export interface Forecast {
  cells: number;
  /** Of these are there already. */
  kept: number;
  flop: number;
  /** Of a training step, as measured. */
  flopPerSecond: number;
  seconds: number;
}

export interface RunnerOptions {
  gpu: Gpu;
  /** All of it: `limitData` cuts it down. */
  data: DatasetSplits;
  directory: RunDirectory;
  manifest: RunManifest;
  experiments: readonly Experiment[];
  shard: Shard;
  signal?: AbortSignal;
  /** Time between two checkpoints of a cell that trains for long. Default 20 s. */
  checkpointMs?: number;
  /** Called once, when the cells that are there are found to be in order, and this adapter has been measured. */
  onReady?(forecast: Forecast): void;
  onStart?(key: CellKey, position: number, total: number): void;
  onPoint?(key: CellKey, curve: string, x: number, y: number): void;
  /** Called before each cell's file is written; what it throws ends the run. */
  beforeWrite?(): void;
  onDone?(done: DoneCell): void;
  /** Called when the last of an experiment's cells is there. */
  onExperiment?(experiment: Experiment): void | Promise<void>;
}

export interface DoneCell {
  key: CellKey;
  /** 0 where it was kept. */
  seconds: number;
  kept: boolean;
  /** Of the cells that are left. */
  secondsLeft: number;
}

/** Cells between two collections of garbage, which take a twentieth of a second. */
const CELLS_TO_COLLECT = 4;

/**
 * Runs the cells of this shard that are not there yet, one after the other.
 * @throws DataError before any of them if a cell that is there is another run's, or damaged
 */
export async function runCells(options: RunnerOptions): Promise<void> {
  const { gpu, directory, manifest, experiments, shard, signal } = options;
  const { preset, dataset } = manifest;
  const data = limitData(options.data, preset);
  const measurements = new Map(
    experiments.flatMap((experiment) => experiment.measurements).map((m) => [m.id, m]),
  );
  const measurementOf = (key: CellKey): Measurement => measurements.get(key.configuration.measure)!;
  const keys = shardOf(listCells(experiments, manifest), shard);
  const kept = new Set(keys.filter((key) => directory.has(key)));
  for (const key of kept) directory.read(key, manifest);
  const workOf = (key: CellKey): Work => measurementOf(key).work(key.configuration, data.train);
  let open = keys.filter((key) => !kept.has(key));
  const works = open.map(workOf);
  const rate = await measureRate(gpu, data, manifest, works);
  const estimate = new Estimate(rate);
  options.onReady?.({
    cells: keys.length,
    kept: kept.size,
    flop: works.reduce((sum, { flop }) => sum + flop, 0),
    flopPerSecond: rate.flopPerSecond,
    seconds: estimate.left(works),
  });
  const unfinished = new Map(
    experiments.map((experiment) => [experiment, listCells([experiment], manifest)]),
  );
  const tellFinished = async () => {
    for (const [experiment, wanted] of unfinished) {
      if (!wanted.every((key) => directory.has(key))) continue;
      unfinished.delete(experiment);
      await options.onExperiment?.(experiment);
    }
  };
  for (const [position, key] of keys.entries()) {
    if (signal?.aborted) return;
    if (kept.has(key)) {
      options.onDone?.({ key, seconds: 0, kept: true, secondsLeft: estimate.left(open.map(workOf)) });
      await tellFinished();
      continue;
    }
    options.onStart?.(key, position, keys.length);
    const started = performance.now();
    const checkpoint = checkpointIn(directory.checkpointOf(key), started, options);
    const onPoint = (curve: string, x: number, y: number) => options.onPoint?.(key, curve, x, y);
    const context = { gpu, data, onPoint, signal, checkpoint };
    const result = await measurementOf(key).run(context, key.configuration, key.seed);
    // An interrupted cell is half a cell.
    if (signal?.aborted) return;
    const now = (performance.now() - started) / 1e3;
    const compileSeconds = estimate.done(workOf(key), now);
    const seconds = now + checkpoint.earlierSeconds;
    options.beforeWrite?.();
    const { configuration, seed } = key;
    const shared = { preset, dataset, adapter: gpu.info };
    await directory.write({ configuration, seed, ...shared, seconds, compileSeconds, data: result });
    rmSync(checkpoint.where, { force: true });
    // What the cell's network bound is gone now, on the device as well.
    if (position % CELLS_TO_COLLECT === 0) {
      gpu.trim();
      collectGarbage();
    }
    open = open.filter((other) => other !== key);
    options.onDone?.({ key, seconds, kept: false, secondsLeft: estimate.left(open.map(workOf)) });
    await tellFinished();
  }
}

/** What a checkpoint says beside the training's own state: how long its cell has run. */
const SECONDS = "cell.seconds";

/** The checkpoint of a cell that was begun at `started` (ms), in a file of its own. */
function checkpointIn(
  where: string,
  started: number,
  { beforeWrite, checkpointMs = 20_000 }: Pick<RunnerOptions, "beforeWrite" | "checkpointMs">,
): CellCheckpoint & { earlierSeconds: number } {
  const self = {
    where,
    everyMs: checkpointMs,
    earlierSeconds: 0,
    load: () => {
      if (!existsSync(where)) return null;
      const checkpoint = decodeCheckpoint(readFileSync(where), where);
      self.earlierSeconds = Number(checkpoint.metadata[SECONDS]) || 0;
      return checkpoint;
    },
    save: async ({ tensors, metadata }: Parameters<CellCheckpoint["save"]>[0]) => {
      beforeWrite?.();
      const seconds = self.earlierSeconds + (performance.now() - started) / 1e3;
      await writeFileAtomic(
        where,
        encodeCheckpoint({ tensors, metadata: { ...metadata, [SECONDS]: String(seconds) } }),
      );
    },
  };
  return self;
}

/** Steps that are timed, after two that compile and record. */
const TIMED_STEPS = 4;

/**
 * The speed of training steps of a network of the preset's kind, with 20 layers. What it compiles, cells of the run need as well.
 * Nothing is measured for cells that need no adapter.
 */
async function measureRate(
  gpu: Gpu,
  data: DatasetSplits,
  { preset, ...variant }: RunManifest,
  works: readonly Work[],
): Promise<Rate & { flopPerSecond: number }> {
  const kind = gpu.info.class;
  const usual = { ...TRAINING[preset].network, norm: "batch", depth: 20 } as const;
  const settings: NetworkSettings = withNetworkOf(usual, variant) ?? usual;
  const work = networkWork(settings, data.train, { steps: 1 });
  const programs = work.programs[0]!;
  if (!works.some((one) => unitsOf(one, kind) > 0)) {
    return { class: kind, programs, secondsPerUnit: 0, compileSeconds: 0, flopPerSecond: Number.NaN };
  }
  const { batchSize, shrink } = settings;
  const small = shrinkImages(data, shrink);
  const steps = 2 + TIMED_STEPS;
  const trainer = new RecipeTrainer(gpu, small, {
    ...paperNetwork(settings),
    ...{
      batchSize,
      lr: 1e-3,
      schedule: "constant",
      augment: false,
      epochs: steps,
      maxSteps: steps,
      logEvery: 1,
    },
  });
  try {
    const started = performance.now();
    const times: number[] = [];
    await trainer.run({ evaluate: false, onLog: () => void times.push((performance.now() - started) / 1e3) });
    const step = (times.at(-1)! - times[1]!) / TIMED_STEPS;
    return {
      class: kind,
      programs,
      secondsPerUnit: step / unitsOf(work, kind),
      compileSeconds: Math.max(0, times[1]! - 2 * step),
      flopPerSecond: work.flop / step,
    };
  } finally {
    trainer.dispose();
  }
}

/** Images per class, of training and test set. */
const LIMITS: Record<Preset, { train: number; test: number } | null> = {
  "first-look": { train: 64, test: 20 },
  quick: { train: 200, test: 50 },
  standard: null,
  paper: null,
};

/** The part of a data set that a preset uses: in `quick` as many images as the embedded sample has, in `first-look` a third of them. */
export function limitData({ train, test }: DatasetSplits, preset: Preset): DatasetSplits {
  const limits = LIMITS[preset];
  return limits ? { train: limit(train, limits.train), test: limit(test, limits.test) } : { train, test };
}

function limit(dataset: ImageDataset, perClass: number): ImageDataset {
  if (dataset.count <= perClass * dataset.classes) return dataset;
  return subset(dataset, balancedIndices(dataset, perClass));
}
