// What a checkpoint says of its run beside the tensors, and the checks that it belongs to the run that is to go on from it.

import type { ChannelMoments, ImageDataset } from "../data/dataset.ts";
import { DataError } from "../errors.ts";
import { fromJson, toJson } from "../json.ts";
import { isPlain, show } from "../options.ts";

/** The first format did not say which images it had been trained on, the second had no largest losses. */
const FORMAT = "fusenorm-train-3";

/** Of the steps since the entry before: means, but for the largest loss. */
/** `testAccuracy` of the metric `accuracy`. */
export type TestMetrics<K extends string> = { [N in K as `test${Capitalize<N>}`]: number };

export const testName = (metric: string) => `test${metric[0]!.toUpperCase()}${metric.slice(1)}`;

interface Reading {
  /** Steps done. */
  step: number;
  epoch: number;
  loss: number;
  /** The largest of one step: a mean over many steps hides that one of them diverged. NaN if any was. */
  maxLoss: number;
  lr: number;
}

/** A reading, with each metric's mean over the images, such as `accuracy`, the share that was classified right. */
export type LogEntry<K extends string = "accuracy"> = Reading & { [N in K]: number };

/** An evaluation on the test set; with `testAccuracy` and so on. */
export type EvalEntry<K extends string = "accuracy"> = {
  step: number;
  epoch: number;
  testLoss: number;
} & TestMetrics<K>;

/** Loss, metrics and learning rate as a run went. */
export interface TrainHistory<K extends string = "accuracy"> {
  log: LogEntry<K>[];
  evals: EvalEntry<K>[];
  /** Of the first step, before it changed a weight; null before the first reading. */
  startLoss: number | null;
  /** The reading before which the loss of a step had passed what `hasDiverged` says, or null. */
  divergedAt: number | null;
}

/**
 * Whether a loss above 10³ (paper, § 3.1) and ten times its start, or not finite, is among those whose largest is `maxLoss`. An
 * untrained network without normalisation may start near 10³.
 */
export function hasDiverged(maxLoss: number, startLoss: number): boolean {
  return !(maxLoss <= Math.max(1e3, 10 * startLoss)) || maxLoss === Number.POSITIVE_INFINITY;
}

/** A data set without its images: two with equal descriptions give equal runs. */
export interface DataDescription {
  name: string;
  count: number;
  height: number;
  width: number;
  channels: number;
  classes: number;
  classNames: string[];
  /** Hashes of the bytes. */
  images: string;
  labels: string;
}

export function describeData(data: ImageDataset): DataDescription {
  const { name, count, height, width, channels, classes, classNames } = data;
  const sizes = { name, count, height, width, channels, classes, classNames: [...classNames] };
  return { ...sizes, images: hash(data.images), labels: hash(data.labels) };
}

/**
 * 64 bits, as hexadecimal digits: FNV-1a in two lanes with a multiplier each. It finds data that differ, in browsers too, where
 * cryptographic hashes can't be had without waiting; it is no protection against somebody who wants it to collide.
 */
function hash(bytes: Uint8Array): string {
  let a = 0x811c9dc5;
  let b = 0x9e3779b9;
  for (let i = 0; i < bytes.length; i += 1) {
    const byte = bytes[i]!;
    a = Math.imul(a ^ byte, 0x01000193);
    b = Math.imul(b ^ byte, 0x85ebca6b);
    // Products carry upwards only: bring the high bits down, too.
    b ^= b >>> 15;
  }
  return [a, b].map((lane) => (lane >>> 0).toString(16).padStart(8, "0")).join("");
}

/** Where a run stands. */
export interface RunState<K extends string = string> {
  /** What decides the run, beside the data. */
  options: Record<string, unknown>;
  data: Record<string, Record<string, unknown>>;
  /** Steps done. */
  step: number;
  /** Of those, the steps since the last entry of the log, and their images; their sums are among the tensors. */
  stepsSinceLog: number;
  /** Version 0.1.0, whose batches were all of one size, did not note it; nor the next. */
  imagesSinceLog?: number | undefined;
  /** Tensors of the optimizer in the checkpoint. */
  optimizerTensors?: number | undefined;
  /** The optimizer's rate, and those of its groups. Version 0.1.0 did not note them. */
  rates?: readonly number[] | undefined;
  /** What decides the run beside `options`, which say what `fusenorm predict` needs. Version 0.1.0 did not note it. */
  how?: Record<string, unknown> | undefined;
  /** What images are normalised by, for who uses the network: `resume` does not look at it. */
  moments?: ChannelMoments | null;
  history: TrainHistory<K>;
}

/** As a checkpoint's metadata. */
export function encodeRunState<K extends string>(state: RunState<K>): Record<string, string> {
  const { options, data, step, stepsSinceLog, imagesSinceLog, optimizerTensors, history } = state;
  const { moments, rates, how } = state;
  return {
    format: FORMAT,
    options: toJson(options),
    data: toJson(data),
    step: String(step),
    stepsSinceLog: String(stepsSinceLog),
    imagesSinceLog: String(imagesSinceLog),
    optimizerTensors: String(optimizerTensors),
    ...(moments ? { moments: toJson(moments) } : {}),
    ...(rates ? { rates: toJson(rates) } : {}),
    ...(how ? { how: toJson(how) } : {}),
    history: toJson(history),
  };
}

/** The run that wants to go on. */
interface Here extends Pick<RunState, "options" | "data" | "how"> {
  totalSteps: number;
  /** Options that may differ. */
  free: readonly string[];
  metrics: readonly string[];
}

/**
 * The state in a checkpoint's metadata, if it is one of the run described by `here`.
 * @throws DataError naming what is malformed or differs
 */
export function decodeRunState<K extends string>(
  metadata: Readonly<Record<string, string>>,
  here: Here,
): RunState<K> {
  if (!isPlain(metadata)) refuse("metadata", metadata, "an object of strings");
  if (metadata.format === "fusenorm-train-1") {
    throw new DataError(
      "resume: the checkpoint is of an earlier version, which did not note the images it was trained on, so nobody can tell " +
        "whether they are the same; start anew",
    );
  }
  if (metadata.format === "fusenorm-train-2") {
    throw new DataError(
      "resume: the checkpoint is of an earlier version, which did not keep the largest loss of a step, by which divergence is judged; " +
        "start anew",
    );
  }
  if (metadata.format !== FORMAT) refuse("format", metadata.format, FORMAT);
  const options = object("options", parse(metadata, "options"));
  const data = object("data", parse(metadata, "data"));
  const step = count("step", parse(metadata, "step"));
  const stepsSinceLog = count("stepsSinceLog", parse(metadata, "stepsSinceLog"));
  const counted = (field: string) => (field in metadata ? count(field, parse(metadata, field)) : undefined);
  const imagesSinceLog = counted("imagesSinceLog");
  const optimizerTensors = counted("optimizerTensors");
  const history = checkHistory(parse(metadata, "history"), here.metrics, step, stepsSinceLog);

  // Version 0.1.0 noted also how steps were dispatched.
  compare("", options, here.options, [...here.free, "capture"]);
  const rates = "rates" in metadata ? parse(metadata, "rates") : undefined;
  const areRates = (value: unknown): value is number[] =>
    Array.isArray(value) && value.every((rate) => Number.isFinite(Math.fround(rate)) && rate >= 0);
  if (rates !== undefined && !areRates(rates)) refuse("rates", rates, "a list of numbers of at least 0");
  for (const split of Object.keys(here.data)) {
    compare(`${split} data's `, object(`data.${split}`, data[split]), here.data[split]!);
  }
  if ("how" in metadata) compare("", object("how", parse(metadata, "how")), here.how ?? {});
  if (step > here.totalSteps) {
    throw new DataError(
      `resume: the checkpoint is of step ${step}, this run ends after ${here.totalSteps}; expected a run at least as long`,
    );
  }
  return {
    options,
    data: data as RunState["data"],
    ...{ step, stepsSinceLog, imagesSinceLog, optimizerTensors, rates },
    history: history as TrainHistory<K>,
  };
}

function refuse(field: string, value: unknown, expected: string): never {
  throw new DataError(
    `resume: the checkpoint's ${field} is ${value === undefined ? "missing" : show(value)}; expected ${expected}`,
  );
}

function parse(metadata: Readonly<Record<string, unknown>>, field: string): unknown {
  const text = metadata[field];
  if (typeof text !== "string") refuse(field, text, "JSON");
  try {
    return fromJson(text);
  } catch {
    return refuse(field, text, "JSON");
  }
}

function object(field: string, value: unknown): Record<string, unknown> {
  if (!isPlain(value)) refuse(field, value, "an object");
  return value;
}

function count(field: string, value: unknown): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0) refuse(field, value, "an integer of at least 0");
  return value as number;
}

/** Both ways: what only one side has differs as well. */
function compare(what: string, theirs: object, ours: object, free: readonly string[] = []): void {
  const [a, b] = [theirs, ours] as Record<string, unknown>[];
  for (const name of new Set([...Object.keys(b!), ...Object.keys(a!)])) {
    if (free.includes(name) || toJson(a![name]) === toJson(b![name])) continue;
    const told = (value: unknown) => (value === undefined ? "nothing" : show(value));
    throw new DataError(
      what === ""
        ? `resume: the checkpoint was trained with ${name} ${told(a![name])}, this run has ${told(b![name])}; expected the same`
        : `resume: the ${what}${name} ${name === "images" || name === "labels" ? "have the hash" : "is"} ${told(a![name])} in the checkpoint, ` +
            `${told(b![name])} in this run; expected the data that the checkpoint was trained on`,
    );
  }
}

/** The rule of each field. */
type Fields = Record<string, readonly [(value: number) => boolean, string]>;

const SHARE = [(value: number) => value >= 0 && value <= 1, "a share from 0 to 1"] as const;
const FINITE = [
  (value: number) => value >= 0 && Number.isFinite(value),
  "a finite number of at least 0",
] as const;
const ANY = [() => true, "a number"] as const;

/** Of a metric; an accuracy is a share. */
const ruleOf = (metric: string) => (metric === "accuracy" ? SHARE : ANY);

function checkHistory(
  value: unknown,
  metrics: readonly string[],
  step: number,
  stepsSinceLog: number,
): TrainHistory<string> {
  const logFields: Fields = { step: ANY, epoch: FINITE, loss: ANY, maxLoss: ANY, lr: FINITE };
  const evalFields: Fields = { step: ANY, epoch: FINITE, testLoss: ANY };
  for (const metric of metrics) {
    logFields[metric] = ruleOf(metric);
    evalFields[testName(metric)] = ruleOf(metric);
  }
  const { log, evals, startLoss, divergedAt, ...rest } = object("history", value);
  for (const name of Object.keys(rest))
    refuse(`history.${name}`, rest[name], "log, evals, startLoss and divergedAt alone");
  const entries = checkEntries<Reading>("history.log", log, logFields, step);
  checkEntries("history.evals", evals, evalFields, step);
  const logged = entries.at(-1)?.step ?? 0;
  if (logged + stepsSinceLog !== step) {
    refuse(
      "stepsSinceLog",
      stepsSinceLog,
      `${step - logged}, the steps from the log's last entry (${logged}) to ${step}`,
    );
  }
  // A run ends when it diverges: at its last reading.
  if (entries.length > 0 ? typeof startLoss !== "number" : startLoss !== null) {
    refuse("history.startLoss", startLoss, "a number if there is an entry in the log, else null");
  }
  const diverged = entries.find(({ maxLoss }) => hasDiverged(maxLoss, startLoss as number))?.step ?? null;
  if (divergedAt !== diverged || (diverged !== null && diverged !== logged)) {
    refuse(
      "history.divergedAt",
      divergedAt,
      `${diverged}, as the losses of its log say, and nothing after it`,
    );
  }
  return value as TrainHistory<string>;
}

function checkEntries<T extends { step: number }>(
  field: string,
  list: unknown,
  fields: Fields,
  step: number,
): T[] {
  if (!Array.isArray(list)) refuse(field, list, "an array");
  let last = 0;
  for (const [i, item] of list.entries()) {
    const entry = object(`${field}[${i}]`, item);
    const names = Object.keys(fields);
    const unknown = Object.keys(entry).find((name) => !(name in fields));
    if (unknown !== undefined)
      refuse(`${field}[${i}].${unknown}`, entry[unknown], `none: ${names.join(", ")} alone`);
    for (const name of names) {
      const [ok, rule] = fields[name]!;
      const found = entry[name];
      if (typeof found !== "number" || !ok(found)) refuse(`${field}[${i}].${name}`, found, rule);
    }
    const at = entry.step as number;
    if (!Number.isInteger(at) || at <= last || at > step) {
      refuse(`${field}[${i}].step`, at, `an integer above ${last}, up to the checkpoint's step ${step}`);
    }
    last = at;
  }
  return list;
}
