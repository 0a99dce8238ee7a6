import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { buildDriver } from "../../scripts/kernels-static/machine.ts";

const folder = mkdtempSync(join(tmpdir(), "kernels-static-test-"));
const { CC } = process.env;

afterEach(() => {
  if (CC === undefined) delete process.env.CC;
  else process.env.CC = CC;
  rmSync(folder, { recursive: true, force: true });
});

/** A machine without RADV, or another system, is told so before the compiler is tried. */
const elsewhere = /RADV/;

test("what is missing is said in one line, with how to install it", () => {
  const said = (compiler: string) => {
    process.env.CC = compiler;
    try {
      buildDriver(folder);
    } catch (error) {
      return (error as Error).message;
    }
    return "nothing";
  };
  const headless = join(folder, "cc");
  writeFileSync(
    headless,
    "#!/bin/sh\necho 'fatal error: vulkan/vulkan.h: No such file or directory' >&2\nexit 1\n",
  );
  chmodSync(headless, 0o755);
  for (const [message, what] of [
    [said("no-such-compiler"), /there is no C compiler no-such-compiler/],
    [said(headless), /the Vulkan headers are missing/],
  ] as const) {
    if (!elsewhere.test(message)) expect(message).toMatch(what);
    expect(message).toMatch(/^kernels:static: .*needs apt-get install [^\n]*$/);
  }
});
