// The variants that `autotune` chose, kept from one process to the next: a file for each adapter in the cache.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Variants } from "../device/variants.ts";
import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { cacheDirectory, packagePath, writeFileAtomic } from "./files.ts";

/**
 * Where an adapter's choices are kept; null if they are not, by `FUSENORM_CHOICES=off`. The variable may name another folder.
 * Each version of the package has its own, since its kernels differ.
 */
export function choicesFile(adapter: string): string | null {
  const { FUSENORM_CHOICES: folder } = process.env;
  if (folder === "off") return null;
  const { version } = JSON.parse(readFileSync(packagePath("package.json"), "utf8")) as { version: string };
  const name = createHash("sha256").update(adapter).digest("hex").slice(0, 16);
  return join(folder || join(cacheDirectory(), "choices"), version, `${name}.json`);
}

/** Takes over what was kept for this adapter, and keeps what `autotune` will choose. A file that can't be used is told and left. */
export async function keepChoices(variants: Variants): Promise<void> {
  const file = choicesFile(variants.adapter);
  if (!file) return;
  await takeOver(variants, file);
  variants.keep = async () => {
    try {
      // Other processes may have chosen for other shapes meanwhile.
      const own = variants.toJSON();
      await takeOver(variants, file);
      variants.load(own);
      await writeFileAtomic(file, `${variants.serialize()}\n`);
    } catch (error) {
      warn(`what autotune chose is not kept: ${(error as Error).message}`);
    }
  };
}

async function takeOver(variants: Variants, file: string): Promise<void> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT")
      warn(`${printable(file)} can't be read: ${(error as Error).message}`);
    return;
  }
  try {
    variants.restore(text);
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    warn(`${printable(file)} is left alone: ${error.message}`);
  }
}

function warn(message: string): void {
  process.emitWarning(message, { type: "FusenormWarning" });
}
