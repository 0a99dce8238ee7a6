// A folder's lock: one run at a time writes its results there.
//
// A lock is a file that says who holds it, made so that only one can make it. What a crash leaves is told from what a living run
// holds by three rules, from the surest on:
// 1. written on this machine since it was started, in this process namespace: the process is there, and is the one that was
//    started then (numbers are used again), or it is not;
// 2. the holder touches the file every few seconds: one that moves while it is watched is held;
// 3. one that does not move for `deadMs` is not: its holder was on a machine or in a container that is gone.
// A holder that was stopped for so long that another one took its place finds that out before it writes: see `check`.

import { randomUUID } from "node:crypto";
import {
  closeSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { UsageError } from "../errors.ts";

/** Part `index` of `count` of one run: parts share a folder, each with a lock of its own. */
export interface LockPart {
  index: number;
  count: number;
}

export interface LockOptions {
  /** Default: the whole, which no other run may share. */
  part?: LockPart;
  /** Time between two signs of life. */
  beatMs?: number;
  /** A holder elsewhere without a sign of life for so long is taken for dead. */
  deadMs?: number;
  /** Called before the lock of a holder elsewhere is watched, which takes up to `deadMs`. */
  onWait?: (message: string) => void;
}

interface Holder {
  pid: number;
  host: string;
  /** The command, for messages. */
  command: string;
  /** This very lock. */
  token: string;
  /** What tells whether `pid` can be looked up here: this start of this machine, and process namespace. Empty where unknown. */
  system: string;
  /** When the process was started, in the system's own units. Empty where unknown. */
  started: string;
}

const NAME = /^fusenorm(?:-(\d+)-of-(\d+))?\.lock$/;
const WHOLE: LockPart = { index: 0, count: 1 };

/** The lock of one folder, held until `release` or the end of the process. */
export class FolderLock {
  private readonly timer: NodeJS.Timeout;
  private readonly atExit = () => this.release();
  private released = false;

  private constructor(
    private readonly file: string,
    private readonly holder: Holder,
    beatMs: number,
  ) {
    this.timer = setInterval(() => this.beat(), beatMs).unref();
    process.once("exit", this.atExit);
  }

  /**
   * Takes the lock of `folder`, which must be there.
   * @throws UsageError naming the holder if another run has it, or an error of the system if the folder can't be written
   */
  static async acquire(command: string, folder: string, options: LockOptions = {}): Promise<FolderLock> {
    const { part = WHOLE, beatMs = 2000, deadMs = 60_000, onWait = () => {} } = options;
    const holder: Holder = { pid: process.pid, host: hostname(), command, token: randomUUID(), ...here() };
    const file = join(folder, nameOf(part));
    const watch = { command, folder, deadMs, pollMs: Math.min(beatMs, 500), onWait };
    await take(file, holder, watch);
    const lock = new FolderLock(file, holder, beatMs);
    try {
      // Ours is there for others to see: now see theirs.
      const others = readdirSync(folder).filter((name) => overlaps(name, part));
      await Promise.all(others.map((name) => removeIfDead(join(folder, name), watch)));
      lock.check();
      return lock;
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  /** @throws UsageError if another run has taken the lock, since this process was stopped for too long. */
  check(): void {
    const now = readHolder(this.file);
    if (now?.token === this.holder.token) return;
    throw new UsageError(
      `${this.holder.command}: ${this.file} is ${now ? `now held by ${nameHolder(now)}` : "gone"}: this run was stopped for too long, or ` +
        "somebody removed it; nothing more is written there",
    );
  }

  /** Gives the lock back. Again: nothing. */
  release(): void {
    if (this.released) return;
    this.released = true;
    clearInterval(this.timer);
    process.off("exit", this.atExit);
    if (readHolder(this.file)?.token === this.holder.token) rmSync(this.file, { force: true });
  }

  private beat(): void {
    try {
      const now = new Date();
      if (readHolder(this.file)?.token === this.holder.token) utimesSync(this.file, now, now);
    } catch {
      // A folder that can't be reached now may be there again at the next beat; `check` tells otherwise.
    }
  }
}

function nameOf({ index, count }: LockPart): string {
  return count === 1 ? "fusenorm.lock" : `fusenorm-${index}-of-${count}.lock`;
}

/** Whether the lock of this name keeps `part` out: all do but those of other parts of the same division. */
function overlaps(name: string, part: LockPart): boolean {
  const match = NAME.exec(name);
  return match !== null && name !== nameOf(part) && Number(match[2] ?? 1) !== part.count;
}

interface Watch {
  command: string;
  folder: string;
  deadMs: number;
  pollMs: number;
  onWait: (message: string) => void;
}

/** Makes `file` ours. @throws UsageError if it is held */
async function take(file: string, holder: Holder, watch: Watch): Promise<void> {
  const text = `${JSON.stringify(holder)}\n`;
  try {
    writeFileSync(file, text, { flag: "wx" });
    return;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") {
      // Made, but not written, as on a full disk.
      if (readHolder(file) === null) rmSync(file, { force: true });
      throw error;
    }
  }
  await expectDead(file, watch);
  // Two may have found it dead. Each puts its own in its place, and the last one to do so has it.
  const mine = `${file}.${holder.token}`;
  try {
    writeFileSync(mine, text, { flag: "wx" });
    renameSync(mine, file);
  } catch (error) {
    rmSync(mine, { force: true });
    throw error;
  }
  await sleep(200);
  const now = readHolder(file);
  if (now?.token !== holder.token) throw refused(watch, file, now);
}

async function removeIfDead(file: string, watch: Watch): Promise<void> {
  await expectDead(file, watch);
  rmSync(file, { force: true });
}

/** @throws UsageError if the lock is held */
async function expectDead(file: string, { deadMs, pollMs, ...watch }: Watch): Promise<void> {
  const holder = readHolder(file);
  const alive = holder && isAlive(holder);
  if (alive) throw refused(watch, file, holder);
  if (alive === false) return;
  const first = signOf(file);
  if (first === null) return;
  watch.onWait(
    `${file} is there, of ${nameHolder(holder)}: watching for ${Math.ceil(deadMs / 1000)} s whether that run lives`,
  );
  for (const end = performance.now() + deadMs; performance.now() < end; ) {
    await sleep(pollMs);
    const now = signOf(file);
    if (now === null) return;
    if (now !== first) throw refused(watch, file, readHolder(file));
  }
}

function refused(
  { command, folder }: { command: string; folder: string },
  file: string,
  holder: Holder | null,
) {
  return new UsageError(
    `${command}: ${folder} is in use by ${nameHolder(holder)}, says ${file}; wait until it ends, or name another --out`,
  );
}

function nameHolder(holder: Holder | null): string {
  if (!holder) return "another run";
  return `another run (${holder.command}, process ${holder.pid} on ${holder.host})`;
}

/** True or false where it is certain, null where the process can't be looked up from here. */
function isAlive(holder: Holder): boolean | null {
  const { system } = here();
  if (holder.host !== hostname() || holder.system !== system) return null;
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
  }
  const { started, ended } = statusOf(holder.pid);
  if (ended) return false;
  return started === "" || holder.started === "" ? null : started === holder.started;
}

function here(): Pick<Holder, "system" | "started"> {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return { system: `${boot} ${readlinkSync("/proc/self/ns/pid")}`, started: statusOf(process.pid).started };
  } catch {
    return { system: "", started: "" }; // not Linux
  }
}

/** Linux: clock ticks from the machine's start to the process's, and whether it is but a name that its parent has not read yet. */
function statusOf(pid: number): { started: string; ended: boolean } {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name, in parentheses, may hold anything.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { started: fields[19] ?? "", ended: fields[0] === "Z" || fields[0] === "X" };
  } catch {
    return { started: "", ended: false };
  }
}

/** When the file was last touched, or null if it is gone. Opened, since network file systems may remember what `stat` said. */
function signOf(file: string): number | null {
  try {
    const opened = openSync(file, "r");
    try {
      return fstatSync(opened).mtimeMs;
    } finally {
      closeSync(opened);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** Null if there is none, or it says nothing: its writer was interrupted. */
function readHolder(file: string): Holder | null {
  try {
    const holder = JSON.parse(readFileSync(file, "utf8")) as Partial<Holder> | null;
    const { pid, host, command, token, system, started } = holder ?? {};
    if (!Number.isSafeInteger(pid) || (pid as number) < 1) return null;
    const texts = [host, command, token, system, started];
    return texts.every((text) => typeof text === "string") ? (holder as Holder) : null;
  } catch {
    return null;
  }
}
