import { noGrad } from "../autograd/tape.ts";
import { channelMoments, type DatasetSplits } from "../data/dataset.ts";
import { DeviceDataset } from "../data/device-dataset.ts";
import { BatchSampler, DataLoader } from "../data/loader.ts";
import { DataError, UsageError } from "../errors.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Plan } from "../gpu/plan.ts";
import type { KernelTiming } from "../gpu/profiler.ts";
import type { Init } from "../nn/init.ts";
import { checkResNetOptions, type ResNetCifar, type ResNetNorm, resnetCifar } from "../nn/models/resnet.ts";
import type { StateDict } from "../nn/module.ts";
import { accuracy } from "../ops/accuracy.ts";
import { softmaxCrossEntropy } from "../ops/softmax_cross_entropy.ts";
import { cosine, multiStep, type Schedule, warmup } from "../optim/schedule.ts";
import { SGD } from "../optim/sgd.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Checkpoint } from "./checkpoint.ts";

/** Everything that decides a run: the same options, data and adapter give the same losses, bit for bit. */
export interface TrainOptions {
  depth: number;
  width: number;
  norm: ResNetNorm;
  init: Init;
  lr: number;
  /** `step`: divided by 10 at 50 % and 75 % of the run, as in the paper. */
  schedule: "constant" | "step" | "cosine";
  /** Steps over which the learning rate rises linearly from 0. */
  warmupSteps: number;
  momentum: number;
  nesterov: boolean;
  weightDecay: number;
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
  depth: 20,
  width: 16,
  norm: "batch",
  init: "xavier",
  lr: 0.1,
  schedule: "step",
  warmupSteps: 0,
  momentum: 0.9,
  nesterov: false,
  weightDecay: 5e-4,
  batchSize: 128,
  epochs: 10,
  maxSteps: null,
  augment: true,
  seed: 0,
  logEvery: 10,
  capture: true,
};

/** Means over the steps since the entry before. */
export interface LogEntry {
  /** Steps done. */
  step: number;
  epoch: number;
  loss: number;
  /** Share of training images classified right, 0 … 1. */
  accuracy: number;
  lr: number;
}

export interface EvalEntry {
  step: number;
  epoch: number;
  testLoss: number;
  testAccuracy: number;
}

export interface TrainHistory {
  log: LogEntry[];
  evals: EvalEntry[];
  /** The step at which the loss passed 10³ or was not finite (the paper's criterion), or null. */
  divergedAt: number | null;
}

export interface TrainProgress extends LogEntry {
  totalSteps: number;
  imagesPerSecond: number;
  secondsLeft: number;
}

export interface RunCallbacks {
  onLog?: (progress: TrainProgress) => void;
  onEval?: (entry: EvalEntry) => void;
  /** Called at the end of each epoch and of the run with what `resume` needs. */
  onCheckpoint?: (state: Checkpoint) => void | Promise<void>;
  /** Stops the run at the next reading; the state is checkpointed first. */
  signal?: AbortSignal;
  /** Measure on the test set after each epoch. Default true. */
  evaluate?: boolean;
}

/** Loss above this is divergence (paper, § 3.1). */
const DIVERGED_LOSS = 1e3;

/** @throws UsageError naming the first option that is out of range. */
export function checkTrainOptions(options: TrainOptions): void {
  const rule = (name: keyof TrainOptions, ok: boolean, expected: string) => {
    if (!ok) throw new UsageError(`train: ${name} is ${options[name]}; expected ${expected}`);
  };
  const count = (value: number | null, low: number) => Number.isInteger(value) && value! >= low;
  checkResNetOptions(options);
  rule("lr", Number.isFinite(options.lr) && options.lr > 0, "a number above 0");
  rule("momentum", options.momentum >= 0 && options.momentum < 1, "a number from 0 to below 1");
  rule("nesterov", !options.nesterov || options.momentum > 0, "false, or a momentum above 0");
  rule(
    "weightDecay",
    Number.isFinite(options.weightDecay) && options.weightDecay >= 0,
    "a number of at least 0",
  );
  rule("batchSize", count(options.batchSize, 1), "a positive integer");
  rule("epochs", count(options.epochs, 1), "a positive integer");
  rule("maxSteps", options.maxSteps === null || count(options.maxSteps, 1), "a positive integer, or null");
  rule("warmupSteps", count(options.warmupSteps, 0), "an integer of at least 0");
  rule("logEvery", count(options.logEvery, 1), "a positive integer");
  rule("seed", count(options.seed, 0) && options.seed < 2 ** 32, "an integer from 0 to 2³² − 1");
  rule(
    "schedule",
    ["constant", "step", "cosine"].includes(options.schedule),
    '"constant", "step" or "cosine"',
  );
  rule(
    "init",
    ["xavier", "xavier_normal", "he", "he_uniform"].includes(options.init),
    '"xavier", "xavier_normal", "he" or "he_uniform"',
  );
}

/** Trains one `resnetCifar` on one data set. */
export class Trainer {
  readonly model: ResNetCifar;
  readonly totalSteps: number;
  readonly history: TrainHistory = { log: [], evals: [], divergedAt: null };
  private readonly options: TrainOptions;
  private readonly optimizer: SGD;
  private readonly sampler: BatchSampler;
  private readonly dataset: DeviceDataset;
  private readonly datasetName: string;
  private readonly testLoader: DataLoader;
  private readonly schedule: Schedule;
  private readonly indices: Tensor;
  private readonly epochTensor: Tensor;
  private readonly images: Tensor;
  private readonly labels: Tensor;
  private readonly lossSum: Tensor;
  private readonly correctSum: Tensor;
  private plan: Plan<void> | null = null;
  private stepsDone = 0;
  private stepsSinceLog = 0;

  /** @throws UsageError, ShapeError on options that are out of range, before anything is allocated. */
  constructor(
    private readonly gpu: Gpu,
    data: DatasetSplits,
    options: Partial<TrainOptions> = {},
  ) {
    this.options = { ...defaultTrainOptions, ...options };
    checkTrainOptions(this.options);
    const { batchSize, seed, augment, epochs, maxSteps } = this.options;
    const moments = channelMoments(data.train);
    const shared = { ...moments, seed };
    this.sampler = new BatchSampler({ count: data.train.count, batchSize, seed, dropLast: true });
    this.datasetName = data.train.name;
    this.testLoader = new DataLoader(data.test, {
      ...shared,
      batchSize: Math.min(data.test.count, Math.max(batchSize, 100)),
      shuffle: false,
    });
    const all = epochs * this.sampler.batchesPerEpoch;
    this.totalSteps = maxSteps === null ? all : Math.min(all, maxSteps);
    this.schedule = makeSchedule(this.options, this.totalSteps);
    const { height, width, channels, classes } = data.train;
    this.model = resnetCifar(gpu, { ...this.options, inChannels: channels, classes });
    this.optimizer = new SGD(this.model.parameters(), this.options);
    this.dataset = new DeviceDataset(gpu, data.train, {
      ...shared,
      augment: augment ? { pad: 4, flip: true } : null,
    });
    this.indices = gpu.keep(gpu.empty([batchSize], "uint32"));
    this.epochTensor = gpu.keep(gpu.empty([1], "uint32"));
    this.images = gpu.keep(gpu.empty([batchSize, height, width, channels]));
    this.labels = gpu.keep(gpu.empty([batchSize], "uint32"));
    this.lossSum = gpu.keep(gpu.zeros([1]));
    this.correctSum = gpu.keep(gpu.zeros([1]));
  }

  get step(): number {
    return this.stepsDone;
  }

  private get epoch(): number {
    return Math.floor(this.stepsDone / this.sampler.batchesPerEpoch);
  }

  /** Runs to the end (or divergence, or abort), evaluating on the test set after each epoch. */
  async run(callbacks: RunCallbacks = {}): Promise<TrainHistory> {
    const { batchesPerEpoch } = this.sampler;
    const clock = { time: performance.now(), step: this.stepsDone };
    while (this.stepsDone < this.totalSteps && this.history.divergedAt === null) {
      this.trainStep();
      const epochEnds = this.stepsDone % batchesPerEpoch === 0 || this.stepsDone === this.totalSteps;
      if (this.stepsSinceLog < this.options.logEvery && !epochEnds) continue;

      const entry = await this.readLog();
      const now = performance.now();
      const imagesPerSecond =
        ((this.stepsDone - clock.step) * this.options.batchSize * 1e3) / (now - clock.time);
      Object.assign(clock, { time: now, step: this.stepsDone });
      const secondsLeft = ((this.totalSteps - this.stepsDone) * this.options.batchSize) / imagesPerSecond;
      callbacks.onLog?.({ ...entry, totalSteps: this.totalSteps, imagesPerSecond, secondsLeft });
      const aborted = callbacks.signal?.aborted === true;
      if (epochEnds && callbacks.evaluate !== false && this.history.divergedAt === null) {
        const result = await evaluate(this.gpu, this.model, this.testLoader);
        this.history.evals.push({ step: this.stepsDone, epoch: this.epoch, ...result });
        callbacks.onEval?.(this.history.evals.at(-1)!);
        clock.time = performance.now();
      }
      if (epochEnds || aborted) await callbacks.onCheckpoint?.(await this.state());
      if (aborted) break;
    }
    return this.history;
  }

  /**
   * One training step, timed dispatch by dispatch; it counts like any other. The first one of a run also compiles.
   * @throws DeviceError if the adapter has no timestamp queries
   */
  async profileStep(): Promise<KernelTiming[]> {
    this.loadBatch();
    const timings = await this.gpu.profile(() => this.computeStep());
    this.countStep();
    return timings;
  }

  /** The first step is recorded, the others replay it: nothing is allocated, one submit each. */
  private trainStep(): void {
    this.loadBatch();
    if (this.plan) this.plan.run();
    else if (this.options.capture) this.plan = this.gpu.capture(() => this.computeStep());
    else this.computeStep();
    this.countStep();
  }

  private countStep(): void {
    this.stepsDone += 1;
    this.stepsSinceLog += 1;
  }

  /** Tells the GPU which images the next step takes, and its learning rate. */
  private loadBatch(): void {
    const { batchesPerEpoch } = this.sampler;
    this.indices.write(this.sampler.indices(this.epoch, this.stepsDone % batchesPerEpoch));
    this.epochTensor.write([this.epoch]);
    this.optimizer.lr = this.schedule(this.stepsDone);
  }

  private computeStep(): void {
    const { gpu, model, optimizer, images, labels } = this;
    this.dataset.gather(this.indices, this.epochTensor, images, labels);
    model.train();
    gpu.scope(() => {
      const logits = model.forward(images);
      const loss = softmaxCrossEntropy(logits, labels);
      noGrad(() => {
        gpu.accumulate(this.lossSum, loss);
        gpu.accumulate(this.correctSum, accuracy(logits, labels));
      });
      optimizer.zeroGrad();
      loss.backward();
      optimizer.step();
    });
  }

  /** Reads the sums on the GPU, and starts them anew. */
  private async readLog(): Promise<LogEntry> {
    const { batchSize } = this.options;
    const steps = this.stepsSinceLog;
    const loss = (await this.lossSum.item()) / steps;
    const correct = await this.correctSum.item();
    this.lossSum.fill(0);
    this.correctSum.fill(0);
    this.stepsSinceLog = 0;
    const entry: LogEntry = {
      step: this.stepsDone,
      epoch: this.stepsDone / this.sampler.batchesPerEpoch,
      loss,
      accuracy: correct / (steps * batchSize),
      lr: this.schedule(this.stepsDone - 1),
    };
    this.history.log.push(entry);
    if (!(loss <= DIVERGED_LOSS)) this.history.divergedAt = this.stepsDone;
    return entry;
  }

  /** All that `resume` needs to go on as if nothing had happened. Call between `run`s, or in `onCheckpoint`. */
  async state(): Promise<Checkpoint> {
    const tensors: StateDict = {};
    for (const [name, tensor] of Object.entries(await this.model.stateDict()))
      tensors[`model.${name}`] = tensor;
    for (const [name, tensor] of Object.entries(await this.optimizer.stateDict()))
      tensors[`optimizer.${name}`] = tensor;
    const { options, stepsDone, history } = this;
    return {
      tensors,
      metadata: {
        format: "fusenorm-train-1",
        options: JSON.stringify(options),
        dataset: this.datasetName,
        step: String(stepsDone),
        history: JSON.stringify(history),
      },
    };
  }

  /**
   * Goes on from a checkpoint of the same options and data.
   * @throws DataError if they differ; nothing is changed then. `epochs` and `maxSteps` may differ under a constant schedule.
   */
  resume({ tensors, metadata }: Checkpoint): void {
    if (metadata.format !== "fusenorm-train-1") {
      throw new DataError(`resume: the checkpoint's format is ${metadata.format}; expected fusenorm-train-1`);
    }
    const theirs = JSON.parse(metadata.options!) as TrainOptions;
    const free: (keyof TrainOptions)[] = ["capture"];
    if (this.options.schedule === "constant") free.push("epochs", "maxSteps");
    for (const name of Object.keys(theirs) as (keyof TrainOptions)[]) {
      if (theirs[name] !== this.options[name] && !free.includes(name)) {
        throw new DataError(
          `resume: the checkpoint was trained with ${name} ${theirs[name]}, this run has ${this.options[name]}; expected the same`,
        );
      }
    }
    if (metadata.dataset !== this.datasetName) {
      throw new DataError(
        `resume: the checkpoint was trained on ${metadata.dataset}, this run uses ${this.datasetName}; expected the same`,
      );
    }
    const part = (prefix: string): StateDict =>
      Object.fromEntries(
        Object.entries(tensors)
          .filter(([name]) => name.startsWith(prefix))
          .map(([name, tensor]) => [name.slice(prefix.length), tensor]),
      );
    this.model.loadStateDict(part("model."));
    this.optimizer.loadStateDict(part("optimizer."));
    this.stepsDone = Number(metadata.step);
    this.stepsSinceLog = 0;
    // JSON has no NaN or infinity: a diverged loss was written as null.
    const history = JSON.parse(metadata.history!, (key, value) =>
      value === null && key === "loss" ? Number.NaN : value,
    ) as TrainHistory;
    Object.assign(this.history, history);
  }

  dispose(): void {
    this.plan?.dispose();
    this.optimizer.dispose();
    this.model.dispose();
    this.dataset.dispose();
    const { indices, epochTensor, images, labels, lossSum, correctSum } = this;
    for (const tensor of [indices, epochTensor, images, labels, lossSum, correctSum]) tensor.dispose();
  }
}

/** Mean loss and accuracy over every batch of `loader`, with running statistics. */
export async function evaluate(
  gpu: Gpu,
  model: ResNetCifar,
  loader: DataLoader,
): Promise<{ testLoss: number; testAccuracy: number }> {
  const loss = gpu.keep(gpu.zeros([1]));
  const correct = gpu.keep(gpu.zeros([1]));
  model.eval();
  try {
    for (const batch of loader.epoch(0)) {
      noGrad(() =>
        gpu.scope(() => {
          const labels = gpu.tensor(batch.labels, [batch.labels.length], { dtype: "uint32" });
          const logits = model.forward(gpu.tensor(batch.images, batch.shape));
          gpu.accumulate(loss, softmaxCrossEntropy(logits, labels, { reduction: "sum" }));
          gpu.accumulate(correct, accuracy(logits, labels));
        }),
      );
    }
    const { count } = loader.dataset;
    return { testLoss: (await loss.item()) / count, testAccuracy: (await correct.item()) / count };
  } finally {
    model.train();
    loss.dispose();
    correct.dispose();
  }
}

function makeSchedule(options: TrainOptions, totalSteps: number): Schedule {
  const { lr, schedule, warmupSteps } = options;
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
