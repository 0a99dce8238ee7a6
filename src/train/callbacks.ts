// What may be done on the way of a run: the functions that `Trainer.run` calls, and ready-made ones.

import { UsageError } from "../errors.ts";
import type { StateDict } from "../nn/module.ts";
import {
  checkArray,
  checkChoice,
  checkFlag,
  checkFunction,
  checkOptions,
  isPlain,
  optionNames,
  show,
} from "../options.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { EvalEntry, LogEntry } from "./run-state.ts";
import type { Trainer } from "./trainer.ts";

/** A reading, and how fast the run is. */
export type TrainProgress<K extends string = "accuracy"> = LogEntry<K> & {
  totalSteps: number;
  imagesPerSecond: number;
  secondsLeft: number;
};

type Any<K extends string> = Pick<Trainer<never, K>, "history" | "step" | "totalSteps" | "stop"> & {
  readonly model: { stateDict(): Promise<StateDict> };
};

/** Functions called on the way of a run; it goes on when their promises have settled. */
export interface TrainerCallback<K extends string = "accuracy"> {
  /** Before the first step. */
  onStart?: (trainer: Any<K>) => unknown;
  /** After each reading of loss and metrics. */
  onLog?: (progress: TrainProgress<K>, trainer: Any<K>) => unknown;
  /** After each evaluation on the test set. */
  onEval?: (entry: EvalEntry<K>, trainer: Any<K>) => unknown;
  /** When the run ends, but not by an error. */
  onEnd?: (trainer: Any<K>) => unknown;
}

/** Of a run: one set of callbacks and more of them, checkpoints, and a signal that stops it. */
export interface RunCallbacks<K extends string = "accuracy"> extends TrainerCallback<K> {
  /** More of them, called in order after those given here. */
  callbacks?: readonly TrainerCallback<K>[];
  /** Called at the end of each epoch and of the run with what `resume` needs. */
  onCheckpoint?: (state: Checkpoint) => void | Promise<void>;
  /** Call `onCheckpoint` also after every so many steps. Default: never. */
  checkpointEvery?: number;
  /** Stops the run at the next reading; the state is checkpointed first. One that is aborted already lets no step be made. */
  signal?: AbortSignal;
  /** Measure on the test set after each epoch. Default true. */
  evaluate?: boolean;
}

const HOOKS = ["onStart", "onLog", "onEval", "onEnd"] as const;
const CALLBACKS = optionNames<RunCallbacks>({
  ...{ onStart: 0, onLog: 0, onEval: 0, onEnd: 0, callbacks: 0 },
  ...{ onCheckpoint: 0, checkpointEvery: 0, signal: 0, evaluate: 0 },
});

/** @throws UsageError for callbacks that no run can be given. */
export function checkCallbacks(op: string, callbacks: RunCallbacks<string>): void {
  checkOptions(op, callbacks, CALLBACKS, "callbacks");
  for (const name of [...HOOKS, "onCheckpoint"] as const) {
    if (callbacks[name] !== undefined) checkFunction(op, name, callbacks[name]);
  }
  const { checkpointEvery = 1, evaluate: evaluates = true, signal, callbacks: more = [] } = callbacks;
  if (typeof checkpointEvery !== "number" || !(checkpointEvery >= 1)) {
    throw new UsageError(
      `${op}: checkpointEvery is ${show(checkpointEvery)}; expected a positive number of steps`,
    );
  }
  checkFlag(op, "evaluate", evaluates);
  if (signal !== undefined && typeof signal?.aborted !== "boolean") {
    throw new UsageError(`${op}: signal is ${show(signal)}; expected an AbortSignal`);
  }
  checkArray(op, "callbacks", more, "objects with onLog, onEval …");
  for (const [i, one] of more.entries()) {
    if (!isPlain(one)) {
      throw new UsageError(
        `${op}: callbacks[${i}] is ${show(one)}; expected an object with ${HOOKS.join(", ")}`,
      );
    }
    for (const name of HOOKS) {
      const hook = (one as unknown as TrainerCallback)[name];
      if (hook !== undefined) checkFunction(op, `callbacks[${i}].${name}`, hook);
    }
  }
}

/** Each hook as one function that calls those of all callbacks. */
export function every<K extends string>(callbacks: RunCallbacks<K>): Required<TrainerCallback<K>> {
  const all: TrainerCallback<K>[] = [callbacks, ...(callbacks.callbacks ?? [])];
  const calling =
    (name: (typeof HOOKS)[number]) =>
    async (...args: unknown[]): Promise<void> => {
      for (const one of all) await (one[name] as ((...args: unknown[]) => unknown) | undefined)?.(...args);
    };
  const hooks = HOOKS.map((name) => [name, calling(name)] as const);
  return Object.fromEntries(hooks) as unknown as Required<TrainerCallback<K>>;
}

/** What tells whether one evaluation is better than another. */
export interface MonitorOptions {
  /** A field of the entries in `history.evals`. Default "testLoss". */
  monitor?: string;
  /** Whether less is better or more. Default "min" for "testLoss", "max" for others. */
  mode?: "min" | "max";
  /** By how much it has to be better than the best. Default 0. */
  minDelta?: number;
}

/** Of `earlyStopping`: what it watches, and for how long it waits. */
export interface EarlyStoppingOptions extends MonitorOptions {
  /** Evaluations in a row that are no better, after which the run ends. Default 5. */
  patience?: number;
}

const MONITOR_OPTIONS = optionNames<MonitorOptions>({ monitor: 0, mode: 0, minDelta: 0 });

function checkMonitor(op: string, options: MonitorOptions): Required<MonitorOptions> {
  const { monitor = "testLoss", mode = monitor === "testLoss" ? "min" : "max", minDelta = 0 } = options;
  if (typeof monitor !== "string" || monitor === "") {
    throw new UsageError(
      `${op}: monitor is ${show(monitor)}; expected the name of a number, such as "testLoss"`,
    );
  }
  checkChoice(op, "mode", mode, ["min", "max"]);
  if (!Number.isFinite(minDelta) || minDelta < 0) {
    throw new UsageError(`${op}: minDelta is ${show(minDelta)}; expected a finite number of at least 0`);
  }
  return { monitor, mode, minDelta };
}

/** Where the best of the evaluations is. NaN is never better. @throws UsageError if an entry has no such number */
function bestOf(op: string, evals: readonly object[], { monitor, mode, minDelta }: Required<MonitorOptions>) {
  let [best, at] = [mode === "min" ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY, -1];
  for (const [i, entry] of evals.entries()) {
    const value = (entry as Record<string, unknown>)[monitor];
    if (typeof value !== "number") {
      const names = Object.keys(entry).filter((name) => name !== "step" && name !== "epoch");
      throw new UsageError(`${op}: an evaluation has no ${monitor}; expected one of ${names.join(", ")}`);
    }
    if (mode === "min" ? value < best - minDelta : value > best + minDelta) [best, at] = [value, i];
  }
  return at;
}

/**
 * Ends a run when evaluations on the test set get no better. What it goes by is the history, so that a run that is resumed
 * ends where it would have.
 */
export function earlyStopping(options: EarlyStoppingOptions = {}): TrainerCallback<never> {
  checkOptions("earlyStopping", options, [...MONITOR_OPTIONS, "patience"]);
  const { patience = 5, ...monitoring } = options;
  if (!Number.isSafeInteger(patience) || patience < 1) {
    throw new UsageError(`earlyStopping: patience is ${show(patience)}; expected a positive integer`);
  }
  const monitored = checkMonitor("earlyStopping", monitoring);
  return {
    onEval: (_entry, trainer) => {
      const { evals } = trainer.history;
      const stale = evals.length - 1 - bestOf("earlyStopping", evals, monitored);
      if (stale >= patience) {
        trainer.stop(`${monitored.monitor} has been no better for ${stale} evaluations`);
      }
    },
  };
}

/** Of `bestCheckpoint`: what it watches, and where the best state goes. */
export interface BestCheckpointOptions extends MonitorOptions {
  /** Gets the model's state whenever it is the best so far. Default: it is kept in memory alone. */
  save?: (state: StateDict, entry: EvalEntry<never>) => void | Promise<void>;
}

/** What `bestCheckpoint` makes. */
export interface BestCheckpoint extends TrainerCallback<never> {
  /** The model's state at the best evaluation since `run` was called; null before there was one. */
  state: StateDict | null;
  entry: EvalEntry<never> | null;
}

/** Keeps the model as it was at its best evaluation: `model.loadStateDict(best.state!)` goes back there. */
export function bestCheckpoint(options: BestCheckpointOptions = {}): BestCheckpoint {
  checkOptions("bestCheckpoint", options, [...MONITOR_OPTIONS, "save"]);
  const { save, ...monitoring } = options;
  if (save !== undefined) checkFunction("bestCheckpoint", "save", save);
  const monitored = checkMonitor("bestCheckpoint", monitoring);
  const best: BestCheckpoint = {
    ...{ state: null, entry: null },
    onEval: async (entry, { history, model }) => {
      if (bestOf("bestCheckpoint", history.evals, monitored) !== history.evals.length - 1) return;
      best.state = await model.stateDict();
      best.entry = entry;
      await save?.(best.state, entry);
    },
  };
  return best;
}
