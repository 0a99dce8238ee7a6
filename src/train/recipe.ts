// A network, its optimizer and its schedule out of options that can be written as JSON: what the commands and the experiments train.

import { type ChannelMoments, type DatasetSplits, normalizationTable } from "../data/dataset.ts";
import { BatchSampler } from "../data/loader.ts";
import { DataError, UsageError } from "../errors.ts";
import { Gpu } from "../gpu.ts";
import { freezeBatchNorm } from "../nn/batch-norm.ts";
import type { Module } from "../nn/module.ts";
import { Adam, AdamW } from "../optim/adam.ts";
import { decayGroups } from "../optim/groups.ts";
import { JointOptimizer } from "../optim/joint.ts";
import { Muon } from "../optim/muon.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { RMSprop } from "../optim/rmsprop.ts";
import { cosine, multiStep, oneCycle, type Schedule, warmup } from "../optim/schedule.ts";
import { SGD } from "../optim/sgd.ts";
import { checkFunction, checkOptions, isPlain, optionNames, show } from "../options.ts";
import { isDataset } from "./feed.ts";
import { classifierOf, type ImageTask, isCifarNetwork, makeNetwork } from "./networks.ts";
import { recipeSettings, type TrainOptions, trainOptions } from "./train-options.ts";
import { Trainer } from "./trainer.ts";

/** What a run starts from, beside its options. */
export interface RecipeStart {
  /** Gets the network before its optimizer is made: loads weights, say. */
  prepare?: (model: Module) => void;
  /** What images are normalised by. Default: those of the training set. */
  moments?: ChannelMoments;
  /** What `prepare` does, to be written as JSON: `resume` refuses a checkpoint in which it differs. */
  settings?: Record<string, unknown>;
}

const START = optionNames<RecipeStart>({ prepare: 0, moments: 0, settings: 0 });
const MOMENTS = optionNames<ChannelMoments>({ mean: 0, std: 0 });

/** Trains a network of the options on a data set. `dispose` gives back the network, too. */
export class RecipeTrainer extends Trainer {
  /** @throws UsageError or DataError naming the first option that is out of range, or what of the data does not fit. */
  constructor(gpu: Gpu, data: DatasetSplits, options: Partial<TrainOptions> = {}, start: RecipeStart = {}) {
    if (!(gpu instanceof Gpu)) throw new UsageError(`Trainer: gpu is ${show(gpu)}; expected a Gpu`);
    checkSplits(data);
    const all = trainOptions(options);
    checkStart("Trainer", start, data);
    const { prepare, moments, settings } = start;
    const { batchSize, seed, epochs, maxSteps, augment, logEvery, capture, clipGradNorm } = all;
    const { count } = data.train;
    const { batchesPerEpoch } = new BatchSampler({ count, batchSize, seed, dropLast: true });
    const totalSteps = Math.min(epochs * batchesPerEpoch, maxSteps ?? Number.POSITIVE_INFINITY);
    checkSize(gpu, all, data.train);
    const model = makeNetwork(gpu, all, data.train);
    try {
      prepare?.(model);
    } catch (error) {
      model.dispose();
      throw error;
    }
    freezeParts(model, all);
    const optimizer = makeOptimizer(model, all);
    super({
      ...{ model, optimizer, data, batchSize, seed, epochs, maxSteps, logEvery, capture, clipGradNorm },
      schedule: makeSchedule(all, totalSteps),
      augment: augment ? { pad: 4, flip: true } : null,
      dropLast: true,
      ...(moments ? { moments } : {}),
      settings: { ...recipeSettings(all), ...settings },
    });
  }

  override dispose(): void {
    super.dispose();
    this.optimizer.dispose();
    this.model.dispose();
  }
}

/** @throws UsageError if the optimizer could not bind the network's parameters, before any are made. */
function checkSize(gpu: Gpu, options: TrainOptions, { channels, classes }: ImageTask): void {
  if (!isCifarNetwork(options.model)) return; // a tenth of what adapters bind at least
  const { depth, width } = options;
  // Nearly all are in the 3×3 convolutions; a stage's first one has half as many inputs.
  const perStage = (depth - 2) / 3 - 0.5;
  const parameters = 9 * width * (channels + (1 + 4 + 16) * perStage * width) + 4 * width * classes;
  const limit = Math.min(gpu.limits.maxBufferSize, gpu.limits.maxStorageBufferBindingSize) / 4;
  if (parameters <= limit) return;
  throw new UsageError(
    `train: depth ${depth} and width ${width} make about ${parameters.toPrecision(3)} parameters; this adapter binds ` +
      `${limit.toPrecision(3)} numbers at once: expected a smaller network`,
  );
}

/** @throws UsageError, ShapeError for what no run on these images can start from */
export function checkStart(op: string, start: RecipeStart, { train }: DatasetSplits): void {
  checkOptions(op, start, START, "start");
  const { prepare, moments, settings } = start;
  if (prepare !== undefined) checkFunction(op, "start.prepare", prepare);
  if (settings !== undefined && !isPlain(settings)) {
    throw new UsageError(
      `${op}: start.settings is ${show(settings)}; expected an object that can be written as JSON`,
    );
  }
  if (moments === undefined) return;
  checkOptions(op, moments, MOMENTS, "start.moments");
  normalizationTable(op, train, moments);
}

/** @throws DataError unless there are two sets of images of one size and the same classes. */
export function checkSplits(data: DatasetSplits): void {
  if (!isPlain(data as unknown)) {
    throw new DataError(`Trainer: data is ${show(data)}; expected { train, test }, two data sets`);
  }
  for (const split of ["train", "test"] as const) {
    if (!isDataset(data[split])) {
      throw new DataError(
        `Trainer: data.${split} is ${show(data[split])}; expected { train, test }, two data sets as imageDataset makes them`,
      );
    }
  }
  for (const name of ["height", "width", "channels", "classes"] as const) {
    if (data.train[name] !== data.test[name]) {
      throw new DataError(
        `Trainer: ${name} is ${show(data.train[name])} in the training set, ${show(data.test[name])} in the test set; expected the same`,
      );
    }
  }
}

function freezeParts(model: Module, { freeze, freezeBatchNorm: frozen }: TrainOptions): void {
  if (freeze || frozen) freezeBatchNorm(model);
  if (!freeze) return;
  model.freeze();
  classifierOf(model)[1].freeze(false);
}

/** Decay of weights alone, but with SGD, whose recipe in the paper decays all. */
function makeOptimizer(model: Module, options: TrainOptions): Optimizer {
  const { optimizer, lr, momentum, weightDecay, nesterov } = options;
  if (optimizer === "sgd") return new SGD(model.parameters(), { lr, momentum, weightDecay, nesterov });
  const parameters = decayGroups(model);
  if (optimizer === "adam") return new Adam(parameters, { lr, weightDecay });
  if (optimizer === "adamw") return new AdamW(parameters, { lr, weightDecay });
  if (optimizer === "muon") {
    // Filters and matrices are what decays. Scaled so, Muon's steps are as large as AdamW's: one rate and one decay fit both.
    const muon = { lr, weightDecay, momentum, adjustLr: "match_rms_adamw" } as const;
    return new JointOptimizer(
      parameters.map((group) =>
        group.weightDecay === 0 ? new AdamW([group], { lr, weightDecay }) : new Muon([group], muon),
      ),
    );
  }
  return new RMSprop(parameters, { lr, momentum, weightDecay });
}

function makeSchedule(options: TrainOptions, totalSteps: number): Schedule {
  const { lr, schedule, warmupSteps } = options;
  if (schedule === "one-cycle") return oneCycle(lr, totalSteps);
  const base: Schedule =
    schedule === "cosine"
      ? cosine(lr, totalSteps)
      : multiStep(
          lr,
          schedule === "step" ? [Math.floor(totalSteps / 2), Math.floor((3 * totalSteps) / 4)] : [],
          0.1,
        );
  return warmupSteps > 0 ? warmup(base, warmupSteps) : base;
}
