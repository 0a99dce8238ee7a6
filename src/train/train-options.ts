import { UsageError } from "../errors.ts";
import { INITS, type Init } from "../nn/init.ts";
import {
  checkResNetOptions,
  RESNET_NORMS,
  type ResNetNorm,
  type ResNetShortcut,
} from "../nn/models/resnet.ts";
import { checkChoice, checkFlag, checkOptions, optionNames, show } from "../options.ts";
import { isCifarNetwork, NETWORK_NAMES, type NetworkName } from "./networks.ts";

export const OPTIMIZER_NAMES = ["sgd", "adam", "adamw", "rmsprop", "muon"] as const;
export const SCHEDULE_NAMES = ["constant", "step", "cosine", "one-cycle"] as const;

/** Everything that decides a run: the same options, data and adapter give the same losses, bit for bit. */
export interface TrainOptions {
  model: NetworkName;
  /** Of the networks for small images. */
  depth: number;
  /** Channels of the first stage. Default 16, or 64 of `resnet18` and the others that have a width. */
  width: number;
  /** Of the networks for small images; of VGG `batch` or `none`. */
  norm: ResNetNorm;
  /** Of the networks for small images. */
  shortcut: ResNetShortcut;
  /** Of the networks for small images; the others have their own. */
  init: Init;
  /** Of the classifier; null for that of the convolutions. */
  classifierInit: Init | null;
  /** `muon`: of filters and matrices, with the rate scaled as for AdamW, which has the biases and norms. */
  optimizer: (typeof OPTIMIZER_NAMES)[number];
  lr: number;
  /** `step`: divided by 10 at 50 % and 75 % of the run, as in the paper. `one-cycle`: up to `lr`, and down to almost nothing. */
  schedule: (typeof SCHEDULE_NAMES)[number];
  /** Steps over which the learning rate rises linearly from 0. */
  warmupSteps: number;
  /** Of SGD, RMSprop and Muon. Default 0.9, or 0.95 of Muon. */
  momentum: number;
  /** Of SGD; Muon's is always Nesterov's. */
  nesterov: boolean;
  weightDecay: number;
  /** The most that the gradients' norm may be; null for any. */
  clipGradNorm: number | null;
  /** Only the classifier learns: all other parameters, and the running statistics of batch-norms, stay as they are. */
  freeze: boolean;
  /** Batch-norms are constants: see `freezeBatchNorm`. */
  freezeBatchNorm: boolean;
  batchSize: number;
  epochs: number;
  /** Ends the run after so many steps, also inside an epoch; null runs all epochs. */
  maxSteps: number | null;
  /** Random crop after padding by 4, and horizontal flip. */
  augment: boolean;
  seed: number;
  /** Steps between two readings of loss and accuracy. */
  logEvery: number;
  /** Record the first step and replay it (see `gpu.capture`): the same numbers, sooner. */
  capture: boolean;
}

/** The paper's recipe (§ 3), but for depth and epochs. */
export const defaultTrainOptions: TrainOptions = {
  model: "resnetCifar",
  depth: 20,
  width: 16,
  norm: "batch",
  shortcut: "zero-pad",
  init: "xavier",
  classifierInit: null,
  optimizer: "sgd",
  lr: 0.1,
  schedule: "step",
  warmupSteps: 0,
  momentum: 0.9,
  nesterov: false,
  weightDecay: 5e-4,
  clipGradNorm: null,
  freeze: false,
  freezeBatchNorm: false,
  batchSize: 128,
  epochs: 10,
  maxSteps: null,
  augment: true,
  seed: 0,
  logEvery: 10,
  capture: true,
};

const KNOWN = optionNames<TrainOptions>({
  ...{ model: 0, depth: 0, width: 0, norm: 0, shortcut: 0, init: 0, classifierInit: 0 },
  ...{ optimizer: 0, lr: 0, schedule: 0, warmupSteps: 0, momentum: 0, nesterov: 0, weightDecay: 0 },
  ...{
    clipGradNorm: 0,
    freeze: 0,
    freezeBatchNorm: 0,
    batchSize: 0,
    epochs: 0,
    maxSteps: 0,
    augment: 0,
    seed: 0,
    logEvery: 0,
    capture: 0,
  },
});

/** Options that version 0.1.0 did not have: it trained what their defaults say. */
const LATER = ["model", "optimizer", "clipGradNorm", "freeze", "freezeBatchNorm"] as const;

/** What of the options a checkpoint notes. */
export function recipeSettings({ capture: _how, ...options }: TrainOptions): Record<string, unknown> {
  const settings: Record<string, unknown> = { ...options };
  for (const name of LATER) if (options[name] === defaultTrainOptions[name]) delete settings[name];
  return settings;
}

/** Channels of the first stage of networks that are not for small images. */
const WIDTH = 64;
const MUON_MOMENTUM = 0.95;

/**
 * `options` with defaults for those that are missing or undefined.
 * @throws UsageError naming the first option that does not exist or is out of range.
 */
export function trainOptions(options: Partial<TrainOptions> = {}): TrainOptions {
  checkOptions("Trainer", options, KNOWN);
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const all: TrainOptions = { ...defaultTrainOptions, ...given };
  checkChoice("train", "model", all.model, NETWORK_NAMES);
  if (given.width === undefined && !isCifarNetwork(all.model)) all.width = WIDTH;
  if (given.momentum === undefined && all.optimizer === "muon") all.momentum = MUON_MOMENTUM;
  const rule = (name: keyof TrainOptions, ok: boolean, expected: string) => {
    if (!ok) throw new UsageError(`train: ${name} is ${show(all[name])}; expected ${expected}`);
  };
  const count = (value: unknown, low: number) => Number.isSafeInteger(value) && (value as number) >= low;
  const number = (value: unknown, ok: (v: number) => boolean) =>
    Number.isFinite(value) && ok(value as number);
  checkChoice("train", "norm", all.norm, RESNET_NORMS);
  checkChoice("train", "shortcut", all.shortcut, ["zero-pad", "projection", "none"]);
  checkChoice("train", "init", all.init, INITS);
  if (all.classifierInit !== null) checkChoice("train", "classifierInit", all.classifierInit, INITS);
  checkChoice("train", "schedule", all.schedule, SCHEDULE_NAMES);
  checkChoice("train", "optimizer", all.optimizer, OPTIMIZER_NAMES);
  for (const name of ["nesterov", "freeze", "freezeBatchNorm", "augment", "capture"] as const)
    checkFlag("train", name, all[name]);
  checkResNetOptions(all);
  rule(
    "lr",
    number(all.lr, (lr) => lr > 0),
    "a number above 0",
  );
  rule(
    "momentum",
    number(all.momentum, (momentum) => momentum >= 0 && momentum < 1),
    "a number from 0 to below 1",
  );
  rule(
    "clipGradNorm",
    all.clipGradNorm === null || number(all.clipGradNorm, (most) => most >= 0),
    "a number of at least 0, or null",
  );
  rule("nesterov", !all.nesterov || all.momentum > 0, "false, or a momentum above 0");
  rule(
    "weightDecay",
    number(all.weightDecay, (decay) => decay >= 0),
    "a number of at least 0",
  );
  rule("batchSize", count(all.batchSize, 1), "a positive integer");
  rule("epochs", count(all.epochs, 1) && all.epochs < 2 ** 32, "a positive integer below 2³²");
  rule("maxSteps", all.maxSteps === null || count(all.maxSteps, 1), "a positive integer, or null");
  rule("warmupSteps", count(all.warmupSteps, 0), "an integer of at least 0");
  rule("logEvery", count(all.logEvery, 1), "a positive integer");
  rule("seed", count(all.seed, 0) && all.seed < 2 ** 32, "an integer from 0 to 2³² − 1");
  return all;
}
