import { noGrad } from "../autograd/tape.ts";
import { DataLoader } from "../data/loader.ts";
import type { KernelTiming } from "../device/profiler.ts";
import { DataError, FusenormError, UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import type { Module, StateDict } from "../nn/module.ts";
import { stepSettings } from "../nn/module-state.ts";
import { clipGradNorm } from "../optim/clip.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { isPlain, show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { checkCallbacks, every, type RunCallbacks } from "./callbacks.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { type Criteria, checkClasses, checkNumberTensor, evaluate } from "./evaluate.ts";
import { type BatchLoader, DeviceFeed, type Feed, HostFeed, isDataset, type Slot } from "./feed.ts";
import {
  decodeRunState,
  describeData,
  encodeRunState,
  hasDiverged,
  type LogEntry,
  type TestMetrics,
  type TrainHistory,
} from "./run-state.ts";
import { type CheckedTrainerOptions, checkTrainerOptions, type TrainerOptions } from "./trainer-options.ts";

/** In the place of the first loss, as bits: none yet. */
const NO_LOSS = 0xffffffff;

/** The least number of images in a batch of the test set. */
const TEST_BATCH = 100;

/**
 * Trains a model: steps, readings, an evaluation after each epoch, checkpoints. The model and the optimizer stay the caller's.
 *
 * ```ts
 * const model = resnet18(gpu, { images: "cifar", inChannels: 1 });
 * const optimizer = new AdamW(decayGroups(model), { lr: 1e-3 });
 * const trainer = new Trainer({
 *   ...{ model, optimizer, data, epochs: 5 },
 *   schedule: (step, { totalSteps }) => oneCycle(1e-3, totalSteps)(step),
 * });
 * const { evals } = await trainer.run();
 * ```
 *
 * Layers keep their modes: those that `eval()` has frozen, such as batch-norms, stay so; a model that is in inference mode as a
 * whole is set to training mode.
 */
export class Trainer<M extends Module = Module, K extends string = "accuracy"> {
  readonly model: M;
  readonly optimizer: Optimizer;
  readonly totalSteps: number;
  readonly history: TrainHistory<K> = { log: [], evals: [], startLoss: null, divergedAt: null };
  private readonly gpu: Gpu;
  private readonly options: CheckedTrainerOptions;
  private readonly feed: Feed;
  private readonly testLoader: BatchLoader | null;
  private readonly sums: Record<string, Tensor> = {};
  private readonly settings: Record<string, unknown>;
  private stepsDone = 0;
  private stepsSinceLog = 0;
  private imagesSinceLog = 0;
  private stopReason: string | null = null;
  /** What is awaited now: the state may be read between steps only. */
  private phase: "idle" | "training" | "checkpoint" | "state" = "idle";
  /** How many calls of `state` have not returned. */
  private reading = 0;
  /** What the recorded steps were recorded with. */
  private recordedWith: readonly unknown[] = [];
  /** Of images in memory. */
  private readonly classes: number | undefined;
  private described: Record<string, Record<string, unknown>> | null = null;

  /** @throws UsageError, ShapeError, DataError for what is out of range or does not fit, before anything is allocated */
  constructor(options: TrainerOptions<M, K>) {
    const checked = checkTrainerOptions(options as unknown as TrainerOptions<M, string>);
    const { data, batchSize, seed, dropLast, augment, transforms, moments, epochs, maxSteps, logEvery } =
      checked;
    this.options = checked;
    this.model = options.model;
    this.optimizer = options.optimizer;
    const [parameter] = this.model.parameters();
    if (!parameter) {
      throw new UsageError(
        "Trainer: the model has no parameters to train; expected some that are not frozen (freeze(false))",
      );
    }
    this.gpu = parameter.gpu;
    const { train, test } = data;
    this.classes = isDataset(train) ? train.classes : undefined;
    this.testLoader = isDataset(test)
      ? new DataLoader(test, {
          ...moments!,
          batchSize: Math.min(test.count, Math.max(batchSize, TEST_BATCH)),
          ...{ seed, shuffle: false },
        })
      : test;
    this.feed = isDataset(train)
      ? new DeviceFeed(this.gpu, train, { batchSize, seed, dropLast, augment, transforms, moments: moments! })
      : new HostFeed(this.gpu, train);
    const all = epochs * this.feed.batchesPerEpoch;
    this.totalSteps = maxSteps === null ? all : Math.min(all, maxSteps);
    this.settings = { batchSize, epochs, maxSteps, seed, logEvery, ...checked.settings };
    const { gpu } = this;
    for (const name of ["loss", ...Object.keys(checked.metrics)]) {
      this.sums[`${name}_sum`] = gpu.keep(gpu.zeros([1]));
    }
    // The bits of the largest loss since the last reading, and of the first one of all: see shaders/loss_range.wgsl.
    this.sums.loss_range = gpu.keep(gpu.tensor(Uint32Array.of(0, NO_LOSS), [2], { dtype: "uint32" }));
  }

  /** Steps done. */
  get step(): number {
    return this.stepsDone;
  }

  /** Why `stop` was called, or null. */
  get stopped(): string | null {
    return this.stopReason;
  }

  /** Ends the run after what it is at: to be called in a callback. */
  stop(reason = "stop() was called"): void {
    this.stopReason = String(reason);
  }

  private get epoch(): number {
    return Math.floor(this.stepsDone / this.feed.batchesPerEpoch);
  }

  /**
   * Runs to the end (or divergence, or abort, or `stop`), evaluating on the test set after each epoch.
   * @throws DeviceLostError if the device is lost: this trainer is then of no more use (see `trainThroughLosses`)
   */
  async run(callbacks: RunCallbacks<K> = {}): Promise<TrainHistory<K>> {
    checkCallbacks("Trainer.run", callbacks as RunCallbacks<string>);
    const { checkpointEvery = Number.POSITIVE_INFINITY, evaluate: evaluates = true, signal } = callbacks;
    const tell = every(callbacks);
    this.begin("run");
    try {
      this.stopReason = null;
      if (!this.model.training) this.model.train();
      await tell.onStart(this);
      const { batchesPerEpoch } = this.feed;
      const clock = { time: performance.now(), step: this.stepsDone };
      let images = 0;
      let checkpointed = this.stepsDone;
      this.forgetOldPlans();
      const isOver = () => signal?.aborted === true || this.stopped !== null;
      const checkpoint = async () => {
        this.phase = "checkpoint";
        await callbacks.onCheckpoint!(await this.state());
        this.phase = "training";
        checkpointed = this.stepsDone;
      };
      let over = isOver();
      if (over && callbacks.onCheckpoint) await checkpoint();
      while (this.stepsDone < this.totalSteps && this.history.divergedAt === null && !over) {
        images += await this.trainStep();
        const epochEnds = this.stepsDone % batchesPerEpoch === 0 || this.stepsDone === this.totalSteps;
        const reading = this.stepsSinceLog >= this.options.logEvery || epochEnds;
        const due = this.stepsDone - checkpointed >= checkpointEvery;
        if (!reading && !due) continue;

        if (reading) {
          const entry = await this.readLog();
          const now = performance.now();
          const seconds = (now - clock.time) / 1e3;
          const secondsLeft = ((this.totalSteps - this.stepsDone) * seconds) / (this.stepsDone - clock.step);
          const speed = { totalSteps: this.totalSteps, imagesPerSecond: images / seconds, secondsLeft };
          Object.assign(clock, { time: now, step: this.stepsDone });
          images = 0;
          await tell.onLog({ ...entry, ...speed }, this);
        }
        if (epochEnds && evaluates && this.testLoader && this.history.divergedAt === null) {
          const result = await this.evaluate();
          const entry = { step: this.stepsDone, epoch: this.epoch, ...result };
          this.history.evals.push(entry);
          await tell.onEval(entry, this);
          clock.time = performance.now();
        }
        over = isOver();
        if (callbacks.onCheckpoint && (epochEnds || due || over)) await checkpoint();
        over = isOver();
        this.forgetOldPlans();
      }
      await tell.onEnd(this);
      return this.history;
    } finally {
      this.phase = "idle";
    }
  }

  /** Loss and metrics of the model on the test set, as after an epoch. */
  private evaluate(): Promise<{ testLoss: number } & TestMetrics<K>> {
    const { loss, metrics } = this.options;
    const criteria = { loss, metrics } as unknown as Criteria<K>;
    return evaluate<K>(this.gpu, this.model, this.testLoader!, criteria);
  }

  /** Nothing else may change the state while steps are made. */
  private begin(what: string): void {
    if (this.phase !== "idle") {
      const other =
        this.phase === "state"
          ? "state() reads this trainer's tensors"
          : "a run of this trainer is under way";
      throw new UsageError(`Trainer.${what}: ${other}; await it first`);
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
      const slot = await this.load();
      const timings = await this.gpu.profile(() => this.computeStep(slot));
      this.countStep(slot);
      return timings;
    } finally {
      this.phase = "idle";
    }
  }

  /** The first step of each size is recorded, the others replay it: nothing is allocated, one submit each. */
  private async trainStep(): Promise<number> {
    const loaded = this.load();
    const slot = loaded instanceof Promise ? await loaded : loaded;
    if (slot.plan) slot.plan.run();
    else if (this.options.capture) {
      slot.plan = this.gpu.capture(() => this.computeStep(slot));
      this.recordedWith = stepSettings(this.model); // forward may have changed a field itself
    } else this.computeStep(slot);
    this.feed.ahead();
    this.countStep(slot);
    return slot.rows;
  }

  /** A callback, or who called `run` again, may have frozen layers, set modes or hooks: steps recorded before are no more right. */
  private forgetOldPlans(): void {
    if (!this.options.capture) return;
    const now = stepSettings(this.model);
    const then = this.recordedWith;
    if (now.length === then.length && now.every((value, i) => Object.is(value, then[i]))) return;
    this.feed.forgetPlans();
  }

  private countStep({ rows }: Slot): void {
    this.stepsDone += 1;
    this.stepsSinceLog += 1;
    this.imagesSinceLog += rows;
  }

  private load(): Slot | Promise<Slot> {
    const { schedule } = this.options;
    if (schedule) this.optimizer.lr = this.rate(this.stepsDone);
    return this.feed.load(this.epoch, this.stepsDone % this.feed.batchesPerEpoch);
  }

  private rate(step: number): number {
    const { totalSteps, history } = this;
    return this.options.schedule?.(step, { totalSteps, history }) ?? this.optimizer.lr;
  }

  private computeStep(slot: Slot): void {
    const { gpu, model, optimizer, sums } = this;
    const { metrics, clipGradNorm: most } = this.options;
    const { images, labels, targets } = slot;
    slot.gather();
    gpu.scope(() => {
      const output = model.forward(images);
      checkClasses("Trainer", this.options.loss, output, this.classes);
      const loss = checkNumberTensor("Trainer", "loss", this.options.loss(output, targets));
      const values = noGrad(() =>
        Object.entries(metrics).map(([name, metric]) => {
          const value = checkNumberTensor("Trainer", `metrics.${name}`, metric(output, labels));
          return { sum: sums[`${name}_sum`]!, value };
        }),
      );
      optimizer.zeroGrad();
      loss.backward();
      if (most !== null) clipGradNorm(model.parameters(), most).dispose();
      optimizer.step();
      // Last of all: of a step that fails nothing is to be read.
      for (const { sum, value } of [{ sum: sums.loss_sum!, value: loss }, ...values])
        gpu.accumulate(sum, value);
      const bindings = { kept: sums.loss_range!, loss };
      gpu.run({ shader: shaders.loss_range, entry: "keep", constants: {} }, bindings, [1, 1], "loss range");
    });
  }

  /** Reads the sums on the GPU, and starts them anew. */
  private async readLog(): Promise<LogEntry<K>> {
    const { sums } = this;
    const loss = (await sums.loss_sum!.item()) / this.stepsSinceLog;
    const metrics: Record<string, number> = {};
    for (const name of Object.keys(this.options.metrics)) {
      metrics[name] = (await sums[`${name}_sum`]!.item()) / this.imagesSinceLog;
    }
    const range = (await sums.loss_range!.read()) as Uint32Array;
    const [maxLoss, startLoss] = new Float32Array(range.slice().buffer) as unknown as [number, number];
    for (const [name, sum] of Object.entries(sums)) if (name !== "loss_range") sum.fill(0);
    sums.loss_range!.write(Uint32Array.of(0, range[1]!));
    this.history.startLoss = startLoss;
    this.stepsSinceLog = 0;
    this.imagesSinceLog = 0;
    const entry = {
      step: this.stepsDone,
      epoch: this.stepsDone / this.feed.batchesPerEpoch,
      ...{ loss, maxLoss, ...metrics },
      lr: this.optimizer.lr,
    } as LogEntry<K>;
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
    const { phase } = this;
    if (phase === "checkpoint") return this.currentState();
    this.phase = "state"; // nobody makes steps while tensors are read one after the other
    this.reading += 1;
    try {
      return await this.currentState();
    } finally {
      this.reading -= 1;
      if (this.reading === 0) this.phase = "idle";
    }
  }

  private async currentState(): Promise<Checkpoint> {
    const tensors: StateDict = {};
    for (const [part, owner] of Object.entries({ model: this.model, optimizer: this.optimizer }))
      for (const [name, tensor] of Object.entries(await owner.stateDict()))
        tensors[`${part}.${name}`] = tensor;
    const optimizerTensors = Object.keys(tensors).filter((name) => name.startsWith("optimizer.")).length;
    for (const [name, tensor] of Object.entries(this.sums))
      tensors[`trainer.${name}`] = { shape: tensor.shape, dtype: tensor.dtype, data: await tensor.read() };
    const { settings: options, how, stepsDone: step, stepsSinceLog, imagesSinceLog, history } = this;
    const { lr, paramGroups } = this.optimizer;
    const data = this.description;
    return {
      tensors,
      metadata: encodeRunState({
        options,
        data,
        step,
        stepsSinceLog,
        imagesSinceLog,
        optimizerTensors,
        moments: this.options.moments,
        // Those that a schedule sets before each step say nothing.
        rates: this.options.schedule ? undefined : [lr, ...paramGroups.map((group) => group.lr)],
        how,
        history,
      }),
    };
  }

  /**
   * Goes on from a checkpoint of the same settings and data: of images in memory, names, sizes, classes and every byte of the images
   * and labels are compared, and of transforms the names. `epochs` and `maxSteps` may differ where the rate does not depend on them:
   * without a schedule. Then the optimizer's rates become those that it had; they may be set anew after it.
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
      const { settings: options, how, description: data, totalSteps } = this;
      const isConstant = !this.options.schedule || options.schedule === "constant";
      const free = isConstant ? ["epochs", "maxSteps"] : [];
      const metrics = Object.keys(this.options.metrics);
      const state = decodeRunState<K>(checkpoint.metadata, { options, how, data, totalSteps, free, metrics });
      const parts = partsOf(checkpoint.tensors, Object.hasOwn(this.options.metrics, "correct"));
      try {
        this.model.checkStateDict(parts.model);
        this.optimizer.checkStateDict(parts.optimizer);
      } catch (cause) {
        if (!(cause instanceof FusenormError)) throw cause;
        throw new DataError(`resume: the checkpoint's tensors do not fit: ${cause.message}`, { cause });
      }
      const found = Object.keys(parts.optimizer).length;
      if (found !== (state.optimizerTensors ?? found)) {
        throw new DataError(
          `resume: the checkpoint holds ${found} of the optimizer's ${state.optimizerTensors} tensors; expected all of them`,
        );
      }
      for (const [name, { dtype, size }] of Object.entries(this.sums)) {
        const { data: values, shape } = parts.trainer[name] ?? {};
        const Type = dtype === "uint32" ? Uint32Array : Float32Array;
        if (!(values instanceof Type) || values.length !== size || shape?.length !== 1) {
          throw new DataError(
            `resume: the checkpoint's trainer.${name} is ${show(values)}; expected ${size} ${dtype} ${size === 1 ? "number" : "numbers"}`,
          );
        }
      }
      const { rates } = state;
      const groups = this.optimizer.paramGroups;
      if (rates && rates.length !== 1 + groups.length) {
        throw new DataError(
          `resume: the checkpoint's optimizer had ${rates.length - 1} groups of parameters, this run's has ${groups.length}; expected the same`,
        );
      }
      this.model.loadStateDict(parts.model);
      this.optimizer.loadStateDict(parts.optimizer);
      if (rates && !this.options.schedule) {
        this.optimizer.lr = rates[0]!;
        for (const [i, group] of groups.entries()) group.lr = rates[i + 1]!;
      }
      for (const [name, tensor] of Object.entries(this.sums)) tensor.write(parts.trainer[name]!.data);
      this.stepsDone = state.step;
      this.stepsSinceLog = state.stepsSinceLog;
      this.imagesSinceLog = state.imagesSinceLog ?? state.stepsSinceLog * this.options.batchSize;
      Object.assign(this.history, state.history);
    } finally {
      this.phase = "idle";
    }
  }

  /** What decides the run, and is not among the settings. */
  private get how(): Record<string, unknown> {
    const { dropLast, augment, transforms, moments, clipGradNorm: most } = this.options;
    const names = transforms.map(({ name }) => name);
    return { dropLast, augment, transforms: names, moments, clipGradNorm: most };
  }

  /** Hashing takes its time with large data: once, and only where there are checkpoints. */
  private get description(): Record<string, Record<string, unknown>> {
    const { test } = this.options.data;
    this.described ??= {
      train: this.feed.describe(),
      ...(isDataset(test) ? { test: { ...describeData(test) } } : {}),
    };
    return this.described;
  }

  /** Gives back what the trainer has on the GPU; the model and the optimizer live on. */
  dispose(): void {
    this.feed.dispose();
    for (const tensor of Object.values(this.sums)) tensor.dispose();
  }
}

/** A checkpoint's tensors by their owners. @throws DataError */
function partsOf(
  tensors: StateDict,
  knowsCorrect: boolean,
): { model: StateDict; optimizer: StateDict; trainer: StateDict } {
  const parts = { model: {}, optimizer: {}, trainer: {} } as Record<string, StateDict>;
  for (const [name, tensor] of Object.entries(tensors)) {
    const [owner = "", ...rest] = name.split(".");
    const part = Object.hasOwn(parts, owner) ? parts[owner] : undefined;
    if (!part)
      throw new DataError(
        `resume: the checkpoint holds ${show(name)}; expected model.…, optimizer.… and trainer.…`,
      );
    part[rest.join(".")] = tensor;
  }
  // Version 0.1.0 knew one metric, and called its sum so.
  const { trainer } = parts;
  if (trainer!.correct_sum && !knowsCorrect) {
    trainer!.accuracy_sum = trainer!.correct_sum;
    delete trainer!.correct_sum;
  }
  return parts as { model: StateDict; optimizer: StateDict; trainer: StateDict };
}
