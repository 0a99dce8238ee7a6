import type { DatasetSplits } from "../data/dataset.ts";
import type { AdapterSummary } from "../device/adapter.ts";
import { DeviceError, DeviceLostError, UsageError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import { checkFunction, checkNumber, isPlain, show } from "../options.ts";
import { checkCallbacks, type RunCallbacks } from "./callbacks.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { checkSplits, checkStart, type RecipeStart, RecipeTrainer } from "./recipe.ts";
import type { TrainHistory } from "./run-state.ts";
import { type TrainOptions, trainOptions } from "./train-options.ts";
import type { Trainer } from "./trainer.ts";

/** A loss, and what is done about it. */
export interface DeviceLoss {
  error: DeviceError;
  /** Losses since the last checkpoint, this one counted. */
  attempt: number;
  /** Of `attempts`; when they are used up, the error is thrown. */
  attempts: number;
  /** The step of the checkpoint from which the run goes on; 0 from the start. */
  step: number;
}

/** Options of `trainThroughLosses`. */
export interface RecoveryOptions extends Omit<RunCallbacks, "onStart"> {
  /** Where to start: see `Trainer.resume`. */
  from?: Checkpoint;
  /** What the network starts from on each device: see `RecipeTrainer`. */
  start?: RecipeStart;
  /** Devices asked for in a row without a checkpoint in between, the first one counted. Default 4. */
  attempts?: number;
  /** Wait before a device is asked for that is not the first after a loss: drivers take a moment to come back. Default 2000. */
  pauseMs?: number;
  /** The trainer on each device, before its first step there. */
  onStart?: (trainer: Trainer, gpu: Gpu) => void | Promise<void>;
  /** Called after each loss from which the run goes on. */
  onLoss?: (loss: DeviceLoss) => void;
}

/** What `trainThroughLosses` gives. */
export interface RecoveredRun {
  history: TrainHistory;
  /** Steps done. */
  step: number;
  adapter: AdapterSummary;
}

/**
 * Trains as `new RecipeTrainer(await request(), data, options).run()` does, through losses of the device: after each it asks for a fresh
 * one and goes on from the last checkpoint (`checkpointEvery` says how many steps a loss may cost; each epoch makes one anyway), to
 * the same numbers as an undisturbed run. It destroys every `Gpu` that it asked for.
 * @throws DeviceLostError when `attempts` devices in a row were lost without a checkpoint; DeviceError when there is no device to be
 * had any more, or only one of another adapter, which would give other roundings
 */
export async function trainThroughLosses(
  request: () => Promise<Gpu>,
  data: DatasetSplits,
  options: Partial<TrainOptions>,
  recovery: RecoveryOptions = {},
): Promise<RecoveredRun> {
  checkFunction("trainThroughLosses", "request", request);
  checkSplits(data);
  trainOptions(options);
  if (!isPlain(recovery as unknown)) {
    throw new UsageError(`trainThroughLosses: options is ${show(recovery)}; expected callbacks, attempts, …`);
  }
  const { from, start = {}, attempts = 4, pauseMs = 2000, onStart, onLoss, ...callbacks } = recovery;
  checkCallbacks("trainThroughLosses", callbacks as RunCallbacks<string>);
  if (from !== undefined && !(isPlain(from as unknown) && isPlain(from.tensors as unknown))) {
    throw new UsageError(
      `trainThroughLosses: from is ${show(from)}; expected a checkpoint, { tensors, metadata }`,
    );
  }
  checkStart("trainThroughLosses", start, data);
  checkNumber("trainThroughLosses", "pauseMs", pauseMs, 0);
  for (const [name, hook] of Object.entries({ onStart, onLoss })) {
    if (hook !== undefined) checkFunction("trainThroughLosses", name, hook);
  }
  if (typeof attempts !== "number" || !(attempts >= 1)) {
    throw new UsageError(
      `trainThroughLosses: attempts is ${show(attempts)}; expected a number of at least 1`,
    );
  }
  let last = from;
  let attempt = 0;
  let adapter: AdapterSummary | null = null;
  for (;;) {
    let gpu: Gpu | null = null;
    try {
      if (attempt > 1) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      gpu = await request();
      adapter ??= gpu.info;
      if (gpu.info.name !== adapter.name) {
        throw new DeviceError(
          `trainThroughLosses: the run began on ${adapter.name}, now there is ${gpu.info.name}; expected the same adapter, since another rounds ` +
            "otherwise: start again from the last checkpoint to go on all the same",
        );
      }
      const trainer = new RecipeTrainer(gpu, data, options, start);
      if (last) trainer.resume(last);
      await onStart?.(trainer, gpu);
      const history = await trainer.run({
        ...callbacks,
        onCheckpoint: async (state) => {
          await callbacks.onCheckpoint?.(state);
          last = state;
          attempt = 0;
        },
      });
      const { step } = trainer;
      trainer.dispose();
      return { history, step, adapter };
    } catch (error) {
      // The first device of all is not asked for twice.
      const lost =
        error instanceof DeviceLostError ||
        (adapter !== null && gpu === null && error instanceof DeviceError);
      attempt += 1;
      if (!lost || attempt >= attempts || callbacks.signal?.aborted) throw error;
      onLoss?.({ error, attempt, attempts, step: Number(last?.metadata.step ?? 0) });
    } finally {
      gpu?.destroy();
    }
  }
}
