// What reaches native code: shared libraries that stay open, and variables that C reads. Node, Bun and Deno each have a way.

import { createRequire } from "node:module";
import { constants } from "node:os";

/** Kept when Node closes the library again because it is no add-on; the same number in glibc and musl. */
const RTLD_NODELETE = 0x1000;

interface BunForeign {
  dlopen(
    library: string,
    symbols: Record<string, unknown>,
  ): { symbols: Record<string, (...args: unknown[]) => number> };
}

interface DenoForeign {
  dlopen(library: string, symbols: Record<string, never>): unknown;
}

const deno = (globalThis as { Deno?: DenoForeign }).Deno;
const isBun = process.versions.bun !== undefined;
const bun = () => createRequire(import.meta.url)("bun:ffi") as BunForeign;

export const isDeno = deno !== undefined;

/**
 * Opens a shared library for good. In Node, `process.dlopen` is the one way to do so without an add-on: it opens the library,
 * finds that it doesn't register as an add-on, closes it (which does nothing here) and throws.
 * @returns false if there is none
 */
export function openLibrary(nameOrPath: string): boolean {
  try {
    if (deno) deno.dlopen(nameOrPath, {});
    else if (isBun)
      bun().dlopen(nameOrPath, { vkGetInstanceProcAddr: { args: ["ptr", "cstring"], returns: "ptr" } });
    else process.dlopen({ exports: {} }, nameOrPath, constants.dlopen.RTLD_NOW | RTLD_NODELETE);
    return true;
  } catch (error) {
    return isOpenedAnyway((error as Error).message);
  }
}

/** Whether a failure of `process.dlopen` says that the library was opened, and only is no add-on. */
export function isOpenedAnyway(message: string): boolean {
  return message.includes("did not self-register");
}

/** Sets variables of the process, or removes those that are undefined. Bun's `process.env` alone is not seen by C. */
export function setVariables(values: Record<string, string | undefined>): void {
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
  if (!isBun || process.platform !== "linux") return;
  const { symbols } = bun().dlopen("libc.so.6", {
    setenv: { args: ["cstring", "cstring", "i32"], returns: "i32" },
    unsetenv: { args: ["cstring"], returns: "i32" },
  });
  const text = (value: string) => Buffer.from(`${value}\0`);
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) symbols.unsetenv!(text(name));
    else symbols.setenv!(text(name), text(value), 1);
  }
}
