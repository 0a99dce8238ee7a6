// Keeping lines that native code writes to standard error from people's terminals.

import { closeSync, constants, fstatSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isatty } from "node:tty";
import { isDeno } from "./native.ts";

const WRITE = constants.O_WRONLY | constants.O_NOCTTY;
/** For pipes: as long as a descriptor may also read, opening one to write does not wait for a reader. */
const READ_AND_WRITE = constants.O_RDWR | constants.O_NOCTTY;
const path = (fd: number) => `/proc/self/fd/${fd}`;

/**
 * Runs `call`, which is over when it returns, and passes on what it wrote to standard error but for lines that fit `unwanted`.
 * On Linux, where standard error is a terminal or a pipe; files and sockets, which can't be opened again, get all of it.
 */
export function withoutLines<T>(unwanted: RegExp, call: () => T): T {
  // Deno has descriptors of its own making.
  if (process.platform !== "linux" || isDeno || !(isatty(2) || fstatSync(2).isFIFO())) return call();
  let kept: number;
  try {
    kept = openSync(path(2), READ_AND_WRITE);
  } catch {
    return call();
  }
  const folder = mkdtempSync(join(tmpdir(), "fusenorm-"));
  const file = join(folder, "stderr");
  try {
    // What is opened next takes the number that is free: 2.
    closeSync(2);
    openSync(file, "w");
    return call();
  } finally {
    closeSync(2);
    openSync(path(kept), WRITE);
    closeSync(kept);
    const said = readFileSync(file, "utf8").split("\n").slice(0, -1);
    rmSync(folder, { recursive: true });
    for (const line of said) if (!unwanted.test(line)) process.stderr.write(`${line}\n`);
  }
}
