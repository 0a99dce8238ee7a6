import { randomBytes } from "node:crypto";
import { rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { DataError, FusenormError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { cacheDirectory, makeDirectory } from "./files.ts";

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/**
 * The folder `name` of the cache, filled by `fill` on first use. The files are written beside it and renamed
 * into place in one step: whoever sees the folder sees all of it, and of two processes at once one wins.
 * @param required files without which the folder counts as damaged and is made anew
 * @throws DataError if the cache cannot be written
 */
export async function cachedFolder(
  name: string,
  required: readonly string[],
  fill: (folder: string) => Promise<void>,
  root: string = cacheDirectory(),
): Promise<string> {
  const folder = join(root, name);
  const complete = async () =>
    (await Promise.all(required.map((file) => exists(join(folder, file))))).every(Boolean);
  if (await complete()) return folder;

  const fresh = join(root, `.${name}-${process.pid}-${randomBytes(4).toString("hex")}`);
  try {
    makeDirectory(fresh);
  } catch (error) {
    throw new DataError(
      `cache: ${printable(root)} cannot be written (${(error as Error).message}); set FUSENORM_CACHE to a folder that can`,
      { cause: error },
    );
  }
  try {
    await fill(fresh).catch((cause: unknown) => {
      if (cause instanceof FusenormError) throw cause;
      throw new DataError(`cache: ${printable(folder)} can't be filled (${(cause as Error)?.message})`, {
        cause,
      });
    });
    // A second round is for a damaged folder in the way: it is moved aside first, since others may use its files.
    for (let round = 0; ; round += 1) {
      try {
        await rename(fresh, folder);
        return folder;
      } catch (error) {
        if (await complete()) return folder;
        if (round > 0) throw error;
        await rename(folder, `${fresh}-damaged`).catch(() => {});
      }
    }
  } finally {
    await rm(fresh, { recursive: true, force: true });
    await rm(`${fresh}-damaged`, { recursive: true, force: true });
  }
}
