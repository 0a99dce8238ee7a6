import { mkdirSync, statSync } from "node:fs";
import { open, readFile, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { NamedBytes } from "../data/dataset.ts";
import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { checkText, show } from "../options.ts";

/** Directory for downloads: `override`, else `$FUSENORM_CACHE`, `$XDG_CACHE_HOME/fusenorm`, `~/.cache/fusenorm`. */
export function cacheDirectory(override?: string): string {
  if (override !== undefined) checkText("cacheDirectory", "cache", override);
  const { FUSENORM_CACHE, XDG_CACHE_HOME } = process.env;
  return resolve(override || FUSENORM_CACHE || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "fusenorm"));
}

/** A path inside this package, the same from its sources and from `dist/`. */
export function packagePath(...parts: string[]): string {
  return fileURLToPath(new URL(["../..", ...parts].join("/"), import.meta.url));
}

/** What the system said of a file, as an error that names it: `report.html: can't be written: ENOSPC: no space left on device`. */
export function fileError(path: string, doing: "read" | "written", cause: unknown): DataError {
  // The system's messages end with the call and the path, as it was given.
  const reason = (cause as Error).message.replace(/, \w+(?: '.*')?$/s, "");
  return new DataError(`${printable(path)}: can't be ${doing}: ${printable(reason)}`, { cause });
}

/** A whole file, with its path as name. @throws DataError if it can't be read. */
export async function readNamed(path: string): Promise<NamedBytes> {
  if (typeof path !== "string") throw new DataError(`readNamed: path is ${show(path)}; expected a text`);
  try {
    // A pipe or a device may have no end.
    if ((await stat(path)).isFile()) return { name: path, bytes: await readFile(path) };
  } catch (cause) {
    throw fileError(path, "read", cause);
  }
  throw new DataError(`${printable(path)}: can't be read: it is no plain file; expected one`);
}

/**
 * Writes a file whole or not at all, whenever the process or the machine stops: a sibling is written first, brought to the disk,
 * and renamed onto `path`.
 * @throws DataError if the system refuses
 */
export async function writeFileAtomic(path: string, contents: Uint8Array | string): Promise<void> {
  const partial = `${path}.${process.pid}.partial`;
  try {
    makeDirectory(dirname(path));
    const file = await open(partial, "w");
    try {
      await file.writeFile(contents);
      await file.sync(); // else the new name may reach the disk before what it names
    } finally {
      await file.close();
    }
    await rename(partial, path);
    await syncDirectory(dirname(path));
  } catch (cause) {
    await rm(partial, { force: true }).catch(() => {});
    throw fileError(path, "written", cause);
  }
}

/**
 * Makes `path` and what is missing above it. Node's own `recursive` never returns where a system has a folder but lets nobody make
 * another in it, and calls that ENOENT, as /proc does.
 * @returns the uppermost directory that was made, if any
 */
export function makeDirectory(path: string): string | undefined {
  const isDirectory = () => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  if (isDirectory()) return undefined;
  const made = makeDirectory(dirname(resolve(path)));
  try {
    mkdirSync(path);
  } catch (error) {
    if (!isDirectory()) throw error; // else somebody was first
  }
  return made ?? path;
}

/** Brings new names to the disk. Not every system can; then it does so in its own time. */
async function syncDirectory(path: string): Promise<void> {
  try {
    const directory = await open(path, "r");
    await directory.sync().finally(() => directory.close());
  } catch {}
}
