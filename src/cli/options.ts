import { existsSync, readdirSync, rmdirSync, rmSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { MOST_SIDE } from "../data/bitmap.ts";
import { UsageError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { DATASET_NAMES } from "../node/datasets.ts";
import { makeDirectory } from "../node/files.ts";
import type { ImageOptions } from "../node/images.ts";
import { FolderLock, type LockPart } from "../node/lock.ts";
import { offer } from "./help.ts";

// Parsers for commander's options: what is not a number is refused where it is typed. Numbers are decimal, as people write them:
// `0.1`, `1e-3`, `50_000`, `50k`, `2M`. `Number` alone also reads "0x10", " 1 " and "".

const DIGITS = String.raw`\d+(?:_\d+)*`;
const NUMBER = new RegExp(
  `^([+-]?(?:${DIGITS}(?:\\.(?:${DIGITS})?)?|\\.${DIGITS}))(?:e([+-]?\\d+))?([kM]?)$`,
  "i",
);
const THOUSANDS: Record<string, number> = { k: 3, m: 6 };

/** A finite number. */
export function number(text: string): number {
  const [, digits, exponent = 0, unit = ""] = NUMBER.exec(text) ?? [];
  // One power of ten in all: 1.001k is 1001, and 1.001 · 1000 is not.
  const power = Number(exponent) + (THOUSANDS[unit.toLowerCase()] ?? 0);
  const value = Number(`${digits?.replaceAll("_", "")}e${power}`);
  if (!Number.isFinite(value)) {
    const hint = /^[+-]?\d+(,\d{3})+$/.test(text)
      ? ` Write ${text.replaceAll(",", "_")} or ${text.replaceAll(",", "")}.`
      : "";
    throw new InvalidArgumentError(`"${text}" is not a finite number.${hint}`);
  }
  return value;
}

export function integer(text: string): number {
  const value = number(text);
  if (!Number.isInteger(value)) throw new InvalidArgumentError(`"${text}" is not an integer.`);
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError(`${text} is too large.`);
  return value;
}

export function positiveInteger(text: string): number {
  const value = integer(text);
  if (value < 1) throw new InvalidArgumentError(`${text} is below 1.`);
  return value;
}

export function positiveNumber(text: string): number {
  const value = number(text);
  if (value <= 0) throw new InvalidArgumentError(`${text} is not above 0.`);
  return value;
}

/** A path, or another text that is not empty. */
export function text(value: string): string {
  if (value.trim() === "") throw new InvalidArgumentError("it is empty.");
  return value;
}

/** Adds the option of every command that works on a GPU. */
export function addAdapterOption(command: Command): Command {
  command.option(
    "--adapter <which>",
    "hardware, lavapipe, swiftshader, or part of an adapter's name (default: $FUSENORM_ADAPTER, or the best there is)",
    text,
  );
  offer(command, { adapter: ["hardware", "lavapipe", "swiftshader"] });
  return command;
}

/** Adds the option of every command whose result another program may read. */
export function addJsonOption(command: Command, what: string): Command {
  return command.option("--json", `print ${what} as JSON, and nothing else on standard output`);
}

/** `32`, `224x192` */
export function imageSize(value: string): [height: number, width: number] {
  const sides = value.split(/[x×]/);
  if (sides.length > 2) throw new InvalidArgumentError(`"${value}" is no size, such as 32 or 224x192.`);
  const [height, width = height] = sides.map(positiveInteger) as [number, number?];
  if (Math.max(height, width) > MOST_SIDE) throw new InvalidArgumentError(`more than ${MOST_SIDE} pixels.`);
  return [height, width];
}

/** What the flags of `addDataOptions` give. */
export interface DataFlags {
  data: string;
  size?: [height: number, width: number];
  channels?: number;
}

/** Adds what says which images a command takes. */
export function addDataOptions(command: Command): Command {
  command.option(
    "--data <dir>",
    `a directory (IDX, CIFAR, Parquet or a folder of images for each class), or ${DATASET_NAMES.join(", ")}`,
    text,
    "embedded",
  );
  addScaleOptions(command);
  offer(command, { data: DATASET_NAMES });
  return command;
}

/** Adds what folders of images are made to be. */
export function addScaleOptions(command: Command): void {
  command
    .option(
      "--size <pixels>",
      "of folders of images and Parquet: scale them to 64, or height x width as 224x192",
      imageSize,
    )
    .option(
      "--channels <n>",
      "of folders of images and Parquet: 1 for grey, 3 for colours (default: 3)",
      positiveInteger,
    );
  offer(command, { channels: ["1", "3"] });
}

/** @throws UsageError for batches that no training set of so many images fills */
export function checkBatchSize(op: string, batchSize: number, source: string, count: number): void {
  if (batchSize <= count) return;
  const some = 2 ** Math.max(0, Math.floor(Math.log2(count / 4)));
  throw new UsageError(
    `${op}: --batch-size is ${batchSize}, ${printable(source)} has ${count} images to train on; expected at most as many, such as --batch-size ${some}`,
  );
}

/** `--size` and `--channels` as `loadDataset` takes them. */
export function scaleOf({ size, channels }: Omit<DataFlags, "data">): Partial<ImageOptions> {
  const sides = size ? { height: size[0], width: size[1] } : {};
  return channels === undefined ? sides : { ...sides, channels: channels as 1 | 3 };
}

/** A comma-separated list of what `item` parses. */
export function listOf<T>(item: (text: string) => T): (text: string) => T[] {
  return (list) => {
    const items = list.split(",").map((part) => item(part.trim()));
    const twice = items.find((value, i) => items.indexOf(value) !== i);
    if (twice !== undefined) throw new InvalidArgumentError(`${twice} is there twice.`);
    return items;
  };
}

/** An option with a value that is given twice has one of them forgotten: it is refused, in `command` and all below it. */
export function refuseRepeats(command: Command): void {
  for (const option of command.options) {
    if (!option.required && !option.optional) continue;
    let given = false;
    command.on(`option:${option.name()}`, () => {
      if (given) command.error(`error: option '${option.flags}' is given twice`);
      given = true;
    });
  }
  for (const child of command.commands) refuseRepeats(child);
}

/**
 * Runs `run` in the directory that results go to, which is made if need be and kept from other runs meanwhile. A directory made
 * here that nothing was written to is removed again.
 * @throws UsageError if another run is there, or nothing can be written
 */
export async function inOutDirectory<T>(
  command: string,
  out: string,
  run: (lock: FolderLock) => Promise<T>,
  part?: LockPart,
): Promise<T> {
  if (existsSync(out) && !statSync(out).isDirectory()) {
    throw new UsageError(
      `${command}: --out ${printable(out)} is a file, not a directory; name another place`,
    );
  }
  const refused = (what: string, cause: unknown) =>
    new UsageError(
      `${command}: --out ${printable(out)} can't be ${what}: ${(cause as Error).message}; name another place`,
      { cause },
    );
  let made: string | undefined;
  try {
    made = makeDirectory(out);
  } catch (error) {
    throw refused("made", error);
  }
  try {
    const onWait = (told: string) => console.error(told);
    const lock = await FolderLock.acquire(command, out, { part, onWait }).catch((error) => {
      throw error instanceof UsageError ? error : refused("written", error);
    });
    try {
      return await run(lock);
    } finally {
      lock.release();
    }
  } finally {
    if (made !== undefined) removeEmpty(resolve(out), resolve(made));
  }
}

/** Removes `directory` and those above it up to `top`, as long as they are empty. */
function removeEmpty(directory: string, top: string): void {
  try {
    for (let at = directory; at.startsWith(top); at = dirname(at)) rmdirSync(at);
  } catch {} // not empty
}

/** Removes what an earlier run of this folder was killed in the middle of writing. The caller holds the folder's lock. */
export function removePartials(directory: string): void {
  for (const name of existsSync(directory) ? readdirSync(directory) : []) {
    if (/\.(safetensors|json|html)\.\d+\.partial$/.test(name)) rmSync(join(directory, name), { force: true });
  }
}

const SIGNALS = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const;

/**
 * SIGINT, SIGTERM and SIGHUP abort `signal`, for a run to end in order; the next one ends the process at once.
 * Call `stop` when there is nothing left to end.
 */
export class Interruption {
  /** What a shell expects of a process that was ended so; null as long as it was not. */
  exitCode: number | null = null;
  private readonly controller = new AbortController();

  constructor() {
    for (const name of Object.keys(SIGNALS)) process.on(name, this.interrupt);
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  private readonly interrupt = (name: NodeJS.Signals): void => {
    this.exitCode = 128 + SIGNALS[name as keyof typeof SIGNALS];
    this.stop();
    this.controller.abort();
  };

  stop(): void {
    for (const name of Object.keys(SIGNALS)) process.off(name, this.interrupt);
  }
}
