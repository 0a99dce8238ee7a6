// Training runs as cells: what `learning-rates`, `bn-last-layer` and the grid of `sgd-noise` share.

import type { ResNetNorm } from "../nn/models/resnet.ts";
import type { TrainHistory } from "../train/run-state.ts";
import type { TrainOptions } from "../train/train-options.ts";
import { Trainer } from "../train/trainer.ts";
import type { Cell, CellContext, Configuration } from "./experiment.ts";
import type { Point, Series } from "./plot.ts";
import { shrinkImages } from "./setup.ts";
import { mean, median, sampleStd } from "./statistics.ts";

export interface TrainingCell extends Configuration {
  /** `sweep`: only whether it diverges counts. */
  role: "train" | "sweep";
  norm: ResNetNorm;
  lr: number;
  depth: number;
  width: number;
  batchSize: number;
  /** Images are made smaller by this factor first. */
  shrink: number;
  steps: number;
  schedule: TrainOptions["schedule"];
  augment: boolean;
}

export interface TrainingData extends TrainHistory {
  /** At the end; NaN after divergence. */
  testAccuracy: number;
  stepsDone: number;
}

export interface SweepAndTrain {
  network: Pick<TrainingCell, "width" | "batchSize" | "shrink" | "schedule" | "augment">;
  /** `quick` trains a shallow network, as it can't afford a deep one for long, and sweeps a deep one for a few steps. */
  depth: Record<TrainingCell["role"], number>;
  steps: Record<TrainingCell["role"], number>;
  /** Rates trained in full. */
  train: Partial<Record<ResNetNorm, readonly number[]>>;
  /** Rates of which the largest stable one is sought. */
  sweep: Partial<Record<ResNetNorm, readonly number[]>>;
}

/** A cell for each rate. */
export function sweepAndTrain({ network, depth, steps, ...rates }: SweepAndTrain): TrainingCell[] {
  return (["train", "sweep"] as const).flatMap((role) =>
    Object.entries(rates[role]).flatMap(([norm, list]) =>
      list.map(
        (lr): TrainingCell => ({
          label: `${role} ${norm} lr ${lr}`,
          role,
          norm: norm as ResNetNorm,
          lr,
          steps: steps[role],
          ...network,
          depth: depth[role],
        }),
      ),
    ),
  );
}

/** A spread over seeds needs at least two of them. */
export function trainingRepeats({ role }: TrainingCell, seeds: number): number {
  return role === "train" ? Math.max(2, seeds) : seeds;
}

/** One training run with the paper's optimiser: momentum 0.9, weight decay 5e-4. */
export async function runTraining(
  { gpu, data, onPoint, signal }: CellContext,
  configuration: TrainingCell,
  seed: number,
): Promise<TrainingData> {
  const { role, norm, lr, depth, width, batchSize, shrink, steps, schedule, augment } = configuration;
  const small = shrinkImages(data, shrink);
  const perEpoch = Math.floor(small.train.count / batchSize);
  const trainer = new Trainer(gpu, small, {
    norm,
    lr,
    depth,
    width,
    batchSize,
    schedule,
    augment,
    seed,
    epochs: Math.ceil(steps / perEpoch),
    maxSteps: steps,
    // Divergence is seen at the next reading: each of the first steps matters to a sweep.
    logEvery: role === "sweep" ? 2 : Math.max(1, Math.round(steps / 60)),
  });
  try {
    const history = await trainer.run({
      onLog: ({ step, loss }) => onPoint("loss", step, loss),
      evaluate: role === "train",
      signal,
    });
    const diverged = history.divergedAt !== null;
    return {
      ...history,
      stepsDone: trainer.step,
      testAccuracy: diverged ? Number.NaN : (history.evals.at(-1)?.testAccuracy ?? Number.NaN),
    };
  } finally {
    trainer.dispose();
  }
}

export type TrainingResult = Cell<TrainingCell, TrainingData>;

/** The largest rate of a grid up to which no seed diverged, and whether it is the grid's end. */
export interface StableRate {
  /** NaN if even the smallest rate diverged. */
  rate: number;
  /** No rate of the grid diverged: the true limit is higher. */
  open: boolean;
}

/** The largest rate of the cells of `norm` that is below all that diverged. */
export function largestStableRate(cells: readonly TrainingResult[], norm: ResNetNorm): StableRate {
  const mine = cells.filter(({ configuration }) => configuration.norm === norm);
  const diverged = mine
    .filter(({ data }) => data.divergedAt !== null)
    .map(({ configuration }) => configuration.lr);
  const limit = Math.min(...diverged);
  const stable = mine.map(({ configuration }) => configuration.lr).filter((lr) => lr < limit);
  return { rate: stable.length > 0 ? Math.max(...stable) : Number.NaN, open: diverged.length === 0 };
}

export function showRate({ rate, open }: StableRate): string {
  return Number.isNaN(rate) ? "none of the grid" : `${open ? "at least " : ""}${rate}`;
}

/** Runs that differ in their seed only. */
export interface SeedGroup {
  configuration: TrainingCell;
  cells: TrainingResult[];
  /** Test accuracy at the end, mean over seeds; NaN if any diverged. */
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
      accuracy: mean(accuracies),
      std: sampleStd(accuracies),
      diverged: group.filter(({ data }) => data.divergedAt !== null).length,
    };
  });
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

/** Loss reached by each rate of a sweep: median over seeds of the last reading, infinite where it diverged. */
export function lossByRate(cells: readonly TrainingResult[], norm: ResNetNorm): [number, number][] {
  const mine = cells.filter(({ configuration }) => configuration.norm === norm);
  const rates = [...new Set(mine.map(({ configuration }) => configuration.lr))].sort((a, b) => a - b);
  return rates.map((lr) => {
    const losses = mine
      .filter(({ configuration }) => configuration.lr === lr)
      .map(({ data }) =>
        data.divergedAt !== null ? Number.POSITIVE_INFINITY : (data.log.at(-1)?.loss ?? Number.NaN),
      );
    return [lr, median(losses)];
  });
}
