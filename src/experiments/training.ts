// Training runs as cells: what `learning-rates`, `bn-last-layer`, `depth`, `norms` and the grid of `sgd-noise` share.

import { DataError } from "../errors.ts";
import type { ResNetNorm } from "../nn/models/resnet.ts";
import { RecipeTrainer } from "../train/recipe.ts";
import type { TrainHistory } from "../train/run-state.ts";
import type { TrainOptions } from "../train/train-options.ts";
import type { Trainer } from "../train/trainer.ts";
import {
  type Cell,
  type CellCheckpoint,
  type CellContext,
  type Configuration,
  defineMeasurement,
} from "./experiment.ts";
import type { Point, Series } from "./plot.ts";
import { type NetworkSettings, paperNetwork, shrinkImages } from "./setup.ts";
import { mean, sampleStd } from "./statistics.ts";
import { networkWork } from "./work.ts";

export interface TrainingCell extends Configuration, NetworkSettings {
  measure: "training";
  /** `sweep`: only whether it diverges, or learns, counts; its rate is constant. */
  role: "train" | "sweep";
  lr: number;
  steps: number;
  schedule: TrainOptions["schedule"];
  augment: boolean;
}

export interface TrainingData extends TrainHistory {
  /** At the end; NaN after divergence, and of a sweep. */
  testAccuracy: number;
  stepsDone: number;
  batchesPerEpoch: number;
  classes: number;
}

export type TrainingResult = Cell<TrainingCell, TrainingData>;

/** A cell of these settings, named after them. */
export function trainingCell(settings: Omit<TrainingCell, "measure" | "label">): TrainingCell {
  const { role, norm, depth, lr, batchSize, steps } = settings;
  const label = `${role} ${norm} depth ${depth} lr ${lr} batch ${batchSize} steps ${steps}`;
  return { measure: "training", label, ...settings };
}

/** Steps from which a run leaves checkpoints: shorter ones are soon made again. */
const LONG = 200;

/** One training run with the paper's optimiser: momentum 0.9, weight decay 5e-4. */
export async function runTraining(
  { gpu, data, onPoint, signal, checkpoint }: CellContext,
  configuration: TrainingCell,
  seed: number,
): Promise<TrainingData> {
  const { role, lr, batchSize, shrink, steps, schedule, augment } = configuration;
  const small = shrinkImages(data, shrink);
  const batchesPerEpoch = Math.floor(small.train.count / batchSize);
  const trainer = new RecipeTrainer(gpu, small, {
    ...paperNetwork(configuration),
    ...{ lr, batchSize, schedule, augment, seed },
    epochs: Math.ceil(steps / batchesPerEpoch),
    maxSteps: steps,
    // A sweep that has diverged ends at its next reading.
    logEvery: role === "sweep" ? 2 : Math.max(1, Math.round(steps / 60)),
  });
  try {
    resumeFrom(trainer, checkpoint);
    let saved = performance.now();
    const history = await trainer.run({
      onLog: ({ step, loss }) => onPoint("loss", step, loss),
      evaluate: role === "train",
      signal,
      ...(checkpoint && steps >= LONG
        ? {
            checkpointEvery: LONG / 4,
            onCheckpoint: async (state) => {
              if (performance.now() - saved < checkpoint.everyMs && !signal?.aborted) return;
              await checkpoint.save(state);
              saved = performance.now();
            },
          }
        : {}),
    });
    const diverged = history.divergedAt !== null;
    return {
      ...history,
      stepsDone: trainer.step,
      batchesPerEpoch,
      classes: small.train.classes,
      testAccuracy: diverged ? Number.NaN : (history.evals.at(-1)?.testAccuracy ?? Number.NaN),
    };
  } finally {
    trainer.dispose();
  }
}

/** Goes on from what a run of this cell left, if it did. @throws DataError if that is of another run, or damaged */
function resumeFrom(trainer: Trainer, checkpoint?: CellCheckpoint): void {
  const left = checkpoint?.load();
  if (!left) return;
  try {
    trainer.resume(left);
  } catch (cause) {
    if (!(cause instanceof DataError)) throw cause;
    throw new DataError(`${checkpoint!.where}: ${cause.message}; delete it to begin the cell anew`, {
      cause,
    });
  }
}

export const training = defineMeasurement<TrainingCell, TrainingData>({
  id: "training",
  run: runTraining,
  work: (configuration, image) => {
    const { role, steps } = configuration;
    // After each epoch the test set, a sixth or so of the training set.
    return networkWork(configuration, image, { steps: role === "train" ? 1.06 * steps : steps });
  },
});

/** Settings of the training runs and sweeps of one preset. */
export interface TrainingPreset {
  network: Omit<NetworkSettings, "norm" | "depth">;
  train: Pick<TrainingCell, "depth" | "steps" | "schedule" | "augment">;
  sweep: Pick<TrainingCell, "depth" | "steps">;
}

/** A cell for each rate of each norm, trained in full. */
export function trainCells(
  { network, train }: TrainingPreset,
  rates: Partial<Record<ResNetNorm, readonly number[]>>,
): TrainingCell[] {
  return (Object.entries(rates) as [ResNetNorm, number[]][]).flatMap(([norm, list]) =>
    list.map((lr) => trainingCell({ role: "train", norm, ...network, ...train, lr })),
  );
}

/** A cell for each rate of each norm, of which the largest stable one is sought. */
export function sweepCells(
  { network, sweep }: TrainingPreset,
  rates: Partial<Record<ResNetNorm, readonly number[]>>,
  depth = sweep.depth,
): TrainingCell[] {
  return (Object.entries(rates) as [ResNetNorm, number[]][]).flatMap(([norm, list]) =>
    list.map((lr) =>
      trainingCell({
        role: "sweep",
        norm,
        ...network,
        ...sweep,
        depth,
        lr,
        schedule: "constant",
        augment: false,
      }),
    ),
  );
}

/** A spread over seeds needs at least two of them. */
export function trainingRepeats({ role }: { role?: string }, seeds: number): number {
  return role === "train" ? Math.max(2, seeds) : seeds;
}

/** Runs that differ in their seed only. */
export interface SeedGroup {
  configuration: TrainingCell;
  cells: TrainingResult[];
  /** Test accuracy at the end, a seed each; NaN of those that diverged. */
  accuracies: number[];
  accuracy: number;
  std: number;
  diverged: number;
}

export function groupSeeds(cells: readonly TrainingResult[]): SeedGroup[] {
  const groups = new Map<string, TrainingResult[]>();
  for (const cell of cells) {
    const group = groups.get(cell.configuration.label) ?? [];
    groups.set(cell.configuration.label, [...group, cell]);
  }
  return [...groups.values()].map((group) => {
    const accuracies = group.map(({ data }) => data.testAccuracy);
    return {
      configuration: group[0]!.configuration,
      cells: group,
      accuracies,
      accuracy: mean(accuracies),
      std: sampleStd(accuracies),
      diverged: group.filter(({ data }) => data.divergedAt !== null).length,
    };
  });
}

/** The group of the highest mean test accuracy among those of which no run diverged. */
export function bestOf(groups: readonly SeedGroup[]): SeedGroup | undefined {
  return groups.filter(({ diverged }) => diverged === 0).sort((a, b) => b.accuracy - a.accuracy)[0];
}

const PLATEAU_ACCURACY = 0.99;
const PLATEAU_GAIN = 0.01;

/**
 * Whether a run has gone on until its training accuracy no longer rose: at least 99 % of it at the end; or flat over the last quarter
 * (its halves' means differ by a percentage point at most), and, where the rate is divided at half of the run, over the quarter before
 * that, as any run is flat at a hundredth of its rate.
 */
export function hasPlateaued({ log, stepsDone }: TrainingData, schedule: TrainOptions["schedule"]): boolean {
  if ((log.at(-1)?.accuracy ?? 0) >= PLATEAU_ACCURACY) return true;
  const flat = (from: number, to: number) => {
    const between = (a: number, b: number) =>
      mean(
        log
          .filter(({ step }) => step > a * stepsDone && step <= b * stepsDone)
          .map(({ accuracy }) => accuracy),
      );
    const middle = (from + to) / 2;
    return Math.abs(between(middle, to) - between(from, middle)) <= PLATEAU_GAIN;
  };
  return flat(0.75, 1) && (schedule !== "step" || flat(0.25, 0.5));
}

/** Mean curve over seeds with a band of one standard deviation; x must be the same in all. */
export function bandOf(label: string, curves: readonly (readonly (readonly [number, number])[])[]): Series {
  const xs = [...new Set(curves.flatMap((curve) => curve.map(([x]) => x)))].sort((a, b) => a - b);
  const points = xs.flatMap((x): Point[] => {
    const ys = curves.flatMap((curve) => curve.filter(([px]) => px === x).map(([, y]) => y));
    if (ys.length === 0 || !ys.every(Number.isFinite)) return [];
    const middle = mean(ys);
    const std = sampleStd(ys);
    return [Number.isNaN(std) ? [x, middle] : [x, middle, middle - std, middle + std]];
  });
  return { label, points };
}
