import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { NamedBytes } from "../data/dataset.ts";
import { DataError } from "../errors.ts";

/** Directory for downloads: `override`, else `$FUSENORM_CACHE`, `$XDG_CACHE_HOME/fusenorm`, `~/.cache/fusenorm`. */
export function cacheDirectory(override?: string): string {
  const { FUSENORM_CACHE, XDG_CACHE_HOME } = process.env;
  return resolve(override || FUSENORM_CACHE || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "fusenorm"));
}

/** A path inside this package, the same from its sources and from `dist/`. */
export function packagePath(...parts: string[]): string {
  return fileURLToPath(new URL(["../..", ...parts].join("/"), import.meta.url));
}

/** A whole file, with its path as name. @throws DataError if it can't be read. */
export async function readNamed(path: string): Promise<NamedBytes> {
  try {
    return { name: path, bytes: await readFile(path) };
  } catch (cause) {
    throw new DataError(`${path}: can't be read: ${(cause as Error).message}`, { cause });
  }
}

/** Writes a file whole or not at all: a sibling is written first and renamed onto `path`. */
export async function writeFileAtomic(path: string, contents: Uint8Array | string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const partial = `${path}.${process.pid}.partial`;
  try {
    await writeFile(partial, contents);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}
