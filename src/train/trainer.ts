import { noGrad } from "../autograd/tape.ts";
import { channelMoments, type DatasetSplits, type ImageDataset } from "../data/dataset.ts";
import { DeviceDataset } from "../data/device-dataset.ts";
import { BatchSampler, DataLoader } from "../data/loader.ts";
import type { KernelTiming } from "../device/profiler.ts";
import { DataError, FusenormError, UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import { Gpu } from "../gpu.ts";
import { type ResNetCifar, resnetCifar } from "../nn/models/resnet.ts";
import { Module, type StateDict } from "../nn/module.ts";
import { accuracy } from "../ops/accuracy.ts";
import { softmaxCrossEntropy } from "../ops/softmax/softmax-cross-entropy.ts";
import { cosine, multiStep, type Schedule, warmup } from "../optim/schedule.ts";
import { SGD } from "../optim/sgd.ts";
import {
  checkFlag,
  checkFunction,
  checkInstance,
  checkOptions,
  isPlain,
  optionNames,
  show,
} from "../options.ts";
import type { Plan } from "../plan.ts";
import { checkGpu } from "../tensor/check.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Checkpoint } from "./checkpoint.ts";
import {
  decodeRunState,
  describeSplits,
  type EvalEntry,
  encodeRunState,
  hasDiverged,
  type LogEntry,
  type SplitsDescription,
  type TrainHistory,
} from "./run-state.ts";
import { type TrainOptions, trainOptions } from "./train-options.ts";

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
  /** Call `onCheckpoint` also after every so many steps. Default: never. */
  checkpointEvery?: number;
  /** Stops the run at the next reading; the state is checkpointed first. */
  signal?: AbortSignal;
  /** Measure on the test set after each epoch. Default true. */
  evaluate?: boolean;
}

const CALLBACKS = optionNames<RunCallbacks>({
  onLog: 0,
  onEval: 0,
  onCheckpoint: 0,
  checkpointEvery: 0,
  signal: 0,
  evaluate: 0,
});

/** @throws UsageError for callbacks that no run can be given. */
export function checkCallbacks(op: string, callbacks: RunCallbacks): void {
  checkOptions(op, callbacks, CALLBACKS, "callbacks");
  for (const name of ["onLog", "onEval", "onCheckpoint"] as const) {
    if (callbacks[name] !== undefined) checkFunction(op, name, callbacks[name]);
  }
  const { checkpointEvery = 1, evaluate: evaluates = true, signal } = callbacks;
  if (typeof checkpointEvery !== "number" || !(checkpointEvery >= 1)) {
    throw new UsageError(
      `${op}: checkpointEvery is ${show(checkpointEvery)}; expected a positive number of steps`,
    );
  }
  checkFlag(op, "evaluate", evaluates);
  if (signal !== undefined && typeof signal?.aborted !== "boolean") {
    throw new UsageError(`${op}: signal is ${show(signal)}; expected an AbortSignal`);
  }
}

/** In the place of the first loss, as bits: none yet. */
const NO_LOSS = 0xffffffff;

/** Trains one `resnetCifar` on one data set. */
export class Trainer {
  readonly model: ResNetCifar;
  readonly totalSteps: number;
  readonly history: TrainHistory = { log: [], evals: [], startLoss: null, divergedAt: null };
  private readonly options: TrainOptions;
  private readonly optimizer: SGD;
  private readonly sampler: BatchSampler;
  private readonly dataset: DeviceDataset;
  private readonly testLoader: DataLoader;
  private readonly schedule: Schedule;
  private readonly indices: Tensor;
  private readonly epochTensor: Tensor;
  private readonly images: Tensor;
  private readonly labels: Tensor;
  private readonly lossSum: Tensor;
  private readonly correctSum: Tensor;
  /** The bits of the largest loss since the last reading, and of the first one of all: see shaders/loss_range.wgsl. */
  private readonly lossRange: Tensor;
  private plan: Plan<void> | null = null;
  private stepsDone = 0;
  private stepsSinceLog = 0;
  /** What is awaited now: the state may be read between steps only. */
  private phase: "idle" | "training" | "checkpoint" = "idle";
  private described: SplitsDescription | null = null;

  /** @throws UsageError, ShapeError on options that are out of range, before anything is allocated. */
  /** @throws UsageError or DataError naming the first option that is out of range, or what of the data does not fit. */
  constructor(
    private readonly gpu: Gpu,
    private readonly data: DatasetSplits,
    options: Partial<TrainOptions> = {},
  ) {
    if (!(gpu instanceof Gpu)) throw new UsageError(`Trainer: gpu is ${show(gpu)}; expected a Gpu`);
    checkSplits(data);
    this.options = trainOptions(options);
    const { batchSize, seed, augment, epochs, maxSteps } = this.options;
    const moments = channelMoments(data.train);
    const shared = { ...moments, seed };
    this.sampler = new BatchSampler({ count: data.train.count, batchSize, seed, dropLast: true });
    this.testLoader = new DataLoader(data.test, {
      ...shared,
      batchSize: Math.min(data.test.count, Math.max(batchSize, 100)),
      shuffle: false,
    });
    const all = epochs * this.sampler.batchesPerEpoch;
    this.totalSteps = maxSteps === null ? all : Math.min(all, maxSteps);
    this.schedule = makeSchedule(this.options, this.totalSteps);
    const { height, width, channels, classes } = data.train;
    const { depth, width: filters, norm, shortcut, init, classifierInit } = this.options;
    const { lr, momentum, weightDecay, nesterov } = this.options;
    checkSize(gpu, this.options, data.train);
    this.model = resnetCifar(gpu, {
      ...{ depth, width: filters, norm, shortcut, init, seed, inChannels: channels, classes },
      ...(classifierInit ? { classifierInit } : {}),
    });
    this.optimizer = new SGD(this.model.parameters(), { lr, momentum, weightDecay, nesterov });
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
    this.lossRange = gpu.keep(gpu.tensor(Uint32Array.of(0, NO_LOSS), [2], { dtype: "uint32" }));
  }

  get step(): number {
    return this.stepsDone;
  }

  private get epoch(): number {
    return Math.floor(this.stepsDone / this.sampler.batchesPerEpoch);
  }

  /**
   * Runs to the end (or divergence, or abort), evaluating on the test set after each epoch.
   * @throws DeviceLostError if the device is lost: this trainer is then of no more use (see `trainThroughLosses`)
   */
  async run(callbacks: RunCallbacks = {}): Promise<TrainHistory> {
    checkCallbacks("Trainer.run", callbacks);
    const { checkpointEvery = Number.POSITIVE_INFINITY, evaluate: evaluates = true, signal } = callbacks;
    this.begin("run");
    try {
      const { batchesPerEpoch } = this.sampler;
      const clock = { time: performance.now(), step: this.stepsDone };
      let checkpointed = this.stepsDone;
      while (this.stepsDone < this.totalSteps && this.history.divergedAt === null) {
        this.trainStep();
        const epochEnds = this.stepsDone % batchesPerEpoch === 0 || this.stepsDone === this.totalSteps;
        const reading = this.stepsSinceLog >= this.options.logEvery || epochEnds;
        const due = this.stepsDone - checkpointed >= checkpointEvery;
        if (!reading && !due) continue;

        if (reading) {
          const entry = await this.readLog();
          const now = performance.now();
          const imagesPerSecond =
            ((this.stepsDone - clock.step) * this.options.batchSize * 1e3) / (now - clock.time);
          Object.assign(clock, { time: now, step: this.stepsDone });
          const secondsLeft = ((this.totalSteps - this.stepsDone) * this.options.batchSize) / imagesPerSecond;
          callbacks.onLog?.({ ...entry, totalSteps: this.totalSteps, imagesPerSecond, secondsLeft });
        }
        const aborted = signal?.aborted === true;
        if (epochEnds && evaluates && this.history.divergedAt === null) {
          const result = await evaluate(this.gpu, this.model, this.testLoader);
          this.history.evals.push({ step: this.stepsDone, epoch: this.epoch, ...result });
          callbacks.onEval?.(this.history.evals.at(-1)!);
          clock.time = performance.now();
        }
        if (callbacks.onCheckpoint && (epochEnds || due || aborted)) {
          this.phase = "checkpoint";
          await callbacks.onCheckpoint(await this.state());
          this.phase = "training";
          checkpointed = this.stepsDone;
        }
        if (aborted) break;
      }
      return this.history;
    } finally {
      this.phase = "idle";
    }
  }

  /** Nothing else may change the state while steps are made. */
  private begin(what: string): void {
    if (this.phase !== "idle") {
      throw new UsageError(`Trainer.${what}: a run of this trainer is under way; await it first`);
    }
    this.phase = "training";
  }

  /**
   * One training step, timed dispatch by dispatch; it counts like any other. The first one of a run also compiles.
   * @throws DeviceError if the adapter has no timestamp queries
   */
  async profileStep(): Promise<KernelTiming[]> {
    this.begin("profileStep");
    try {
      this.loadBatch();
      const timings = await this.gpu.profile(() => this.computeStep());
      this.countStep();
      return timings;
    } finally {
      this.phase = "idle";
    }
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
        const bindings = { kept: this.lossRange, loss };
        gpu.run({ shader: shaders.loss_range, entry: "keep", constants: {} }, bindings, [1, 1], "loss range");
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
    const range = (await this.lossRange.read()) as Uint32Array;
    const [maxLoss, startLoss] = new Float32Array(range.slice().buffer) as unknown as [number, number];
    this.lossSum.fill(0);
    this.correctSum.fill(0);
    this.lossRange.write(Uint32Array.of(0, range[1]!));
    this.history.startLoss = startLoss;
    this.stepsSinceLog = 0;
    const entry: LogEntry = {
      step: this.stepsDone,
      epoch: this.stepsDone / this.sampler.batchesPerEpoch,
      loss,
      maxLoss,
      accuracy: correct / (steps * batchSize),
      lr: this.schedule(this.stepsDone - 1),
    };
    this.history.log.push(entry);
    if (hasDiverged(maxLoss, startLoss)) this.history.divergedAt = this.stepsDone;
    return entry;
  }

  /** All that `resume` needs to go on as if nothing had happened. Call between `run`s, or in `onCheckpoint`. */
  async state(): Promise<Checkpoint> {
    if (this.phase === "training") {
      throw new UsageError(
        "Trainer.state: called while run() makes steps, so that its tensors would be of different steps; take the state that " +
          "onCheckpoint gets (checkpointEvery says how often), or call it between runs",
      );
    }
    const tensors: StateDict = {};
    for (const [part, owner] of Object.entries({ model: this.model, optimizer: this.optimizer }))
      for (const [name, tensor] of Object.entries(await owner.stateDict()))
        tensors[`${part}.${name}`] = tensor;
    for (const [name, tensor] of Object.entries(this.sums))
      tensors[`trainer.${name}`] = { shape: tensor.shape, dtype: tensor.dtype, data: await tensor.read() };
    const { options, stepsDone: step, stepsSinceLog, history } = this;
    return {
      tensors,
      metadata: encodeRunState({ options, data: this.description, step, stepsSinceLog, history }),
    };
  }

  /**
   * Goes on from a checkpoint of the same options and data: names, sizes, classes and every byte of the images and labels are
   * compared. `epochs` and `maxSteps` may differ under a constant schedule, and `capture` always.
   * @throws DataError if they differ, or if the checkpoint is malformed; nothing is changed then.
   */
  resume(checkpoint: Checkpoint): void {
    this.begin("resume");
    try {
      if (!isPlain(checkpoint) || !isPlain(checkpoint.tensors)) {
        throw new DataError(
          `resume: the checkpoint is ${show(checkpoint)}; expected { tensors, metadata }, as decodeCheckpoint gives it`,
        );
      }
      const { options, description: data, totalSteps } = this;
      const state = decodeRunState(checkpoint.metadata, { options, data, totalSteps });
      const parts: Record<string, StateDict> = { model: {}, optimizer: {}, trainer: {} };
      for (const [name, tensor] of Object.entries(checkpoint.tensors)) {
        const [owner = "", ...rest] = name.split(".");
        const part = Object.hasOwn(parts, owner) ? parts[owner] : undefined;
        if (!part)
          throw new DataError(
            `resume: the checkpoint holds ${show(name)}; expected model.…, optimizer.… and trainer.…`,
          );
        part[rest.join(".")] = tensor;
      }
      try {
        this.model.checkStateDict(parts.model!);
        this.optimizer.checkStateDict(parts.optimizer!);
      } catch (cause) {
        if (!(cause instanceof FusenormError)) throw cause;
        throw new DataError(`resume: the checkpoint's tensors do not fit: ${cause.message}`, { cause });
      }
      // Every parameter gets a gradient in every step, and with it a velocity.
      const velocities = options.momentum > 0 && state.step > 0 ? this.model.parameters().length : 0;
      const found = Object.keys(parts.optimizer!).length;
      if (found !== velocities) {
        throw new DataError(
          `resume: the checkpoint holds ${found} of ${velocities} velocities; expected all of them`,
        );
      }
      for (const [name, { dtype, size }] of Object.entries(this.sums)) {
        const { data: values, shape } = parts.trainer![name] ?? {};
        const Type = dtype === "uint32" ? Uint32Array : Float32Array;
        if (!(values instanceof Type) || values.length !== size || shape?.length !== 1) {
          throw new DataError(
            `resume: the checkpoint's trainer.${name} is ${show(values)}; expected ${size} ${dtype} ${size === 1 ? "number" : "numbers"}`,
          );
        }
      }
      this.model.loadStateDict(parts.model!);
      this.optimizer.loadStateDict(parts.optimizer!);
      for (const [name, tensor] of Object.entries(this.sums)) tensor.write(parts.trainer![name]!.data);
      this.stepsDone = state.step;
      this.stepsSinceLog = state.stepsSinceLog;
      Object.assign(this.history, state.history);
    } finally {
      this.phase = "idle";
    }
  }

  /** Over the steps since the last reading. */
  private get sums(): Record<string, Tensor> {
    return { loss_sum: this.lossSum, correct_sum: this.correctSum, loss_range: this.lossRange };
  }

  /** Hashing takes its time with large data: once, and only where there are checkpoints. */
  private get description(): SplitsDescription {
    this.described ??= describeSplits(this.data);
    return this.described;
  }

  dispose(): void {
    this.plan?.dispose();
    this.optimizer.dispose();
    this.model.dispose();
    this.dataset.dispose();
    const { indices, epochTensor, images, labels } = this;
    for (const tensor of [indices, epochTensor, images, labels, ...Object.values(this.sums)])
      tensor.dispose();
  }
}

/** Mean loss and accuracy over every batch of `loader`, with running statistics. */
export async function evaluate(
  gpu: Gpu,
  model: ResNetCifar,
  loader: DataLoader,
): Promise<{ testLoss: number; testAccuracy: number }> {
  checkGpu("evaluate", gpu);
  checkInstance("evaluate", "model", model, Module);
  checkInstance("evaluate", "loader", loader, DataLoader);
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

/** @throws UsageError if the optimizer could not bind the network's parameters, before any are made. */
function checkSize(gpu: Gpu, { depth, width }: TrainOptions, { channels, classes }: ImageDataset): void {
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

/** @throws DataError unless there are two sets of images of one size and the same classes. */
export function checkSplits(data: DatasetSplits): void {
  for (const split of ["train", "test"] as const) {
    if (data === null || typeof data !== "object") {
      throw new DataError(`Trainer: data is ${show(data)}; expected { train, test }, two data sets`);
    }
    const set: Partial<ImageDataset> | undefined = data[split];
    if (!(set?.images instanceof Uint8Array) || !(set.labels instanceof Uint8Array)) {
      throw new DataError(
        `Trainer: data.${split} is ${show(set)}; expected { train, test }, two data sets as imageDataset makes them`,
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
