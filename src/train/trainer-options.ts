// What a `Trainer` is given, and whether it fits together.

import { type AugmentOptions, checkAugment } from "../data/augment.ts";
import { checkTransforms, shapesOf, type Transform } from "../data/compose.ts";
import { type ChannelMoments, channelMoments, type ImageDataset } from "../data/dataset.ts";
import { normalize } from "../data/transforms.ts";
import { DataError, UsageError } from "../errors.ts";
import { Module } from "../nn/module.ts";
import { Optimizer } from "../optim/optimizer.ts";
import {
  checkFlag,
  checkFunction,
  checkInstance,
  checkOptions,
  isPlain,
  optionNames,
  show,
} from "../options.ts";
import { type Criteria, checkedCriteria } from "./evaluate.ts";
import { type BatchLoader, isDataset, isLoader } from "./feed.ts";
import type { TrainHistory } from "./run-state.ts";

/** What a model is trained on, and what it is judged by after each epoch. */
export interface TrainerData {
  /** Images in memory, of which batches are made on the GPU; or what gives batches. */
  train: ImageDataset | BatchLoader;
  /** Default null: nothing is judged. */
  test?: ImageDataset | BatchLoader | null;
}

/** The rate of a step; a `Schedule`, or a function that looks at the run. */
export type TrainerSchedule = (
  step: number,
  run: { totalSteps: number; history: TrainHistory<string> },
) => number;

/** What a `Trainer` trains, by what, and how it is told. */
export interface TrainerOptions<M extends Module = Module, K extends string = "accuracy">
  extends Criteria<K> {
  /** Any network: what it gives for a batch goes to `loss`. */
  model: M;
  data: TrainerData;
  optimizer: Optimizer;
  /** Sets the optimizer's rate before each step. Default null: who trains does. */
  schedule?: TrainerSchedule | null;
  /** Images a step, of a data set in memory; loaders have their own. Default 32. */
  batchSize?: number;
  /** Default 1. */
  epochs?: number;
  /** Ends the run after so many steps, also inside an epoch. Default null: all epochs. */
  maxSteps?: number | null;
  /** Leave out a last batch that is not full. Default false. */
  dropLast?: boolean;
  /** Of the training images of a data set in memory. Default null: as they are. */
  augment?: AugmentOptions | null;
  /**
   * Changes of the training images of a data set in memory, after `augment`: see `transforms`. They get pixels from 0 to 1 and keep
   * the images' size; unless `transforms.normalize` is among them, it comes last. Default: none.
   */
  transforms?: readonly Transform[];
  /** What images of data sets in memory are normalised by. Default: those of the training set. */
  moments?: ChannelMoments;
  /** The most that the gradients' norm may be; see `clipGradNorm`. Default null: any. */
  clipGradNorm?: number | null;
  /** Of order and augmentation. Default 0. */
  seed?: number;
  /** Steps between two readings of loss and metrics. Default 10. */
  logEvery?: number;
  /** Record the first step of each batch size and replay it (see `gpu.capture`). Default true. */
  capture?: boolean;
  /** What else decides the run, to be written as JSON: `resume` refuses a checkpoint in which it differs. */
  settings?: Record<string, unknown>;
}

const OPTIONS = optionNames<TrainerOptions>({
  ...{ model: 0, data: 0, optimizer: 0, loss: 0, metrics: 0, schedule: 0, batchSize: 0, epochs: 0 },
  ...{
    maxSteps: 0,
    dropLast: 0,
    augment: 0,
    transforms: 0,
    moments: 0,
    clipGradNorm: 0,
    seed: 0,
    logEvery: 0,
  },
  ...{ capture: 0, settings: 0 },
});

type Given = TrainerOptions<Module, string>;
/** The options with their defaults. */
export type CheckedTrainerOptions = Required<Omit<Given, "model" | "optimizer" | "data" | "moments">> & {
  data: { train: ImageDataset | BatchLoader; test: ImageDataset | BatchLoader | null };
  /** Null where no data set is in memory. */
  moments: ChannelMoments | null;
};

/** @throws UsageError, ShapeError, DataError */
export function checkTrainerOptions(options: Given): CheckedTrainerOptions {
  checkOptions("Trainer", options, OPTIONS);
  const { model, optimizer, schedule = null, augment = null, settings = {} } = options;
  const { batchSize = 32, epochs = 1, maxSteps = null, dropLast = false, seed = 0, logEvery = 10 } = options;
  const { clipGradNorm: most = null, capture = true } = options;
  checkInstance("Trainer", "model", model, Module);
  checkInstance("Trainer", "optimizer", optimizer, Optimizer as never);
  const data = checkData(options.data);
  const criteria = checkedCriteria("Trainer", options);
  if (schedule !== null) checkFunction("Trainer", "schedule", schedule);
  const rule = (name: string, value: unknown, ok: boolean, expected: string) => {
    if (!ok) throw new UsageError(`Trainer: ${name} is ${show(value)}; expected ${expected}`);
  };
  const count = (value: unknown, low = 1) => Number.isSafeInteger(value) && (value as number) >= low;
  rule("batchSize", batchSize, count(batchSize), "a positive integer");
  rule("epochs", epochs, count(epochs) && epochs < 2 ** 32, "a positive integer below 2³²");
  rule("maxSteps", maxSteps, maxSteps === null || count(maxSteps), "a positive integer, or null");
  rule("seed", seed, count(seed, 0) && seed < 2 ** 32, "an integer from 0 to 2³² − 1");
  rule("logEvery", logEvery, count(logEvery), "a positive integer");
  const isNorm = most === null || (Number.isFinite(most) && most >= 0);
  rule("clipGradNorm", most, isNorm, "a finite number of at least 0, or null");
  rule("settings", settings, isPlain(settings), "an object that can be written as JSON");
  checkFlag("Trainer", "dropLast", dropLast);
  checkFlag("Trainer", "capture", capture);
  if (augment !== null) checkAugment(augment, "Trainer", "augment.");
  const inMemory = [data.train, data.test].find(isDataset);
  const moments = inMemory ? (options.moments ?? channelMoments(inMemory)) : null;
  const transforms = checkedTransforms(options.transforms ?? [], data.train, moments);
  const tensors = new Set([...model.tensors()].map(([, tensor]) => tensor));
  if (!optimizer.paramGroups.some(({ params }) => params.some((tensor) => tensors.has(tensor)))) {
    throw new UsageError(
      "Trainer: none of the optimizer's parameters is one of the model; expected an optimizer of model.parameters()",
    );
  }
  return {
    ...criteria,
    ...{ data, schedule, batchSize, epochs, maxSteps, dropLast, augment, transforms, moments },
    ...{ clipGradNorm: most, seed, logEvery, capture, settings },
  };
}

/** With `normalize` at the end if there are some without it. @throws UsageError, ShapeError for those that do not fit the images */
function checkedTransforms(
  given: readonly Transform[],
  train: ImageDataset | BatchLoader,
  moments: ChannelMoments | null,
): readonly Transform[] {
  checkTransforms("Trainer", given);
  if (given.length === 0) return given;
  if (!isDataset(train)) {
    throw new UsageError(
      "Trainer: transforms are given, and data.train is a loader; expected a data set in memory: use transforms.Compose in the loader",
    );
  }
  const { height, width, channels } = train;
  const shape = [1, height, width, channels];
  const last = shapesOf(shape, given).at(-1)!;
  if (last.join() !== shape.join()) {
    throw new UsageError(
      `Trainer: the transforms make images of ${last.slice(1).join("×")} of those of ${height}×${width}×${channels}; expected the same size, as ` +
        "the test set has it: resize the data set",
    );
  }
  return given.some(({ name }) => name === "normalize") ? given : [...given, normalize(moments!)];
}

/** @throws DataError unless there is a training set, and the test set has images of the same size and the same classes. */
function checkData(data: TrainerData): CheckedTrainerOptions["data"] {
  if (!isPlain(data)) {
    throw new DataError(`Trainer: data is ${show(data)}; expected { train, test }, data sets or loaders`);
  }
  const { train, test = null } = data;
  for (const [split, set] of Object.entries({ train, test })) {
    if (isDataset(set) || isLoader(set) || (split === "test" && set === null)) continue;
    throw new DataError(
      `Trainer: data.${split} is ${show(set)}; expected a data set as imageDataset makes them, or a loader with batchSize, batchesPerEpoch ` +
        "and epoch()",
    );
  }
  if (isDataset(train) && isDataset(test)) {
    for (const name of ["height", "width", "channels", "classes"] as const) {
      if (train[name] === test[name]) continue;
      throw new DataError(
        `Trainer: ${name} is ${show(train[name])} in the training set, ${show(test[name])} in the test set; expected the same`,
      );
    }
  }
  return { train, test };
}
