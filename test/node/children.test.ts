// A test run that is killed leaves nothing behind: neither its workers nor what their tests have started.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { repository } from "./children.ts";

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    // A process that nobody has waited for yet is a zombie: it has ended.
    const status = `/proc/${pid}/stat`;
    return !existsSync(status) || readFileSync(status, "utf8").split(") ")[1]![0] !== "Z";
  } catch {
    return false;
  }
};

async function until(is: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 600; i += 1) {
    if (is()) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`after a minute: ${what}`);
}

describe.skipIf(process.platform === "win32")("a killed test run", () => {
  it.each(["SIGKILL", "SIGTERM"] as const)("leaves no worker and no child, %s", async (signal) => {
    const folder = mkdtempSync(join(tmpdir(), "fusenorm-killed-"));
    const pids: number[] = [];
    try {
      symlinkSync(join(repository, "node_modules"), join(folder, "node_modules"));
      writeFileSync(
        join(folder, "vitest.config.mjs"),
        `import config from ${JSON.stringify(join(repository, "vitest.config.ts"))};
         export default { test: { ...config.test, include: ["*.test.mjs"], exclude: [] } };`,
      );
      const forever = "setInterval(() => {}, 1000)";
      writeFileSync(
        join(folder, "endless.test.mjs"),
        `import { spawn } from "node:child_process";
         import { renameSync, writeFileSync } from "node:fs";
         import { it } from "vitest";
         it("is endless", async () => {
           // One that has a child of its own, as tsx has.
           const script = 'require("node:child_process").spawn(process.execPath, ["-e", ${JSON.stringify(forever)}], { stdio: "inherit" })' +
             '.on("spawn", function () { console.log(this.pid) })';
           const child = spawn(process.execPath, ["-e", script]);
           const inner = await new Promise((resolve) => child.stdout.on("data", (text) => resolve(Number(text))));
           writeFileSync("pids.part", JSON.stringify([process.pid, child.pid, inner]));
           renameSync("pids.part", "pids.json");
           await new Promise(() => {});
         });`,
      );
      const program = join(repository, "node_modules/vitest/vitest.mjs");
      const run = spawn(process.execPath, [program, "run"], { cwd: folder, stdio: "ignore" });
      const file = join(folder, "pids.json");
      await until(() => existsSync(file), "the run has not begun");
      pids.push(...(JSON.parse(readFileSync(file, "utf8")) as number[]));
      expect(pids.length).toBe(3);
      expect(pids.every(isAlive)).toBe(true);
      run.kill(signal);
      await until(() => !pids.some(isAlive), `of ${pids} there are ${pids.filter(isAlive)}`);
    } finally {
      for (const pid of pids.filter(isAlive)) process.kill(pid, "SIGKILL");
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
