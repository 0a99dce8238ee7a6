import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { UsageError } from "../../src/errors.ts";
import { FolderLock, type LockOptions } from "../../src/node/lock.ts";
import { repository, runScript } from "./children.ts";

const folder = () => mkdtempSync(join(tmpdir(), "fusenorm-lock-"));
const fileOf = (directory: string) => join(directory, "fusenorm.lock");
/** Signs of life often enough for a test. */
const quick: LockOptions = { beatMs: 20, deadMs: 400 };
const take = (directory: string, options: LockOptions = quick) =>
  FolderLock.acquire("test", directory, options);

/** A process that holds the lock of `directory` until it is ended. */
async function holder(directory: string): Promise<ChildProcess> {
  const file = join(folder(), "hold.mts");
  writeFileSync(
    file,
    `import { FolderLock } from "${repository}src/node/lock.ts";
     await FolderLock.acquire("other", ${JSON.stringify(directory)});
     console.log("held");
     setInterval(() => {}, 1000);`,
  );
  const child = spawn(process.execPath, ["--import", "tsx", file], {
    cwd: repository,
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve, reject) => {
    child.stdout!.once("data", resolve);
    child.once("exit", reject);
  });
  return child;
}
const ended = (child: ChildProcess) => new Promise((resolve) => child.once("exit", resolve));

/** What the lock's file says, with some of it changed. */
function edit(directory: string, change: Record<string, unknown>): void {
  const text = readFileSync(fileOf(directory), "utf8");
  writeFileSync(fileOf(directory), JSON.stringify({ ...JSON.parse(text), ...change }));
}

describe("a folder's lock", () => {
  it("is held by one run, which it names, until that ends it", async () => {
    const directory = folder();
    const first = await take(directory);
    const refused = take(directory);
    await expect(refused).rejects.toThrow(UsageError);
    await expect(refused).rejects.toThrow(
      `test: ${directory} is in use by another run (test, process ${process.pid} on ${hostname()})`,
    );
    first.check();
    first.release();
    first.release();
    expect(readdirSync(directory)).toEqual([]);
    const second = await take(directory);
    first.release(); // is not its own any more
    second.check();
    second.release();
  });

  it("is not left behind by a crash, nor by the end of a process", async () => {
    const directory = folder();
    const child = await holder(directory);
    await expect(take(directory)).rejects.toThrow(`other, process ${child.pid} on ${hostname()}`);
    child.kill("SIGKILL");
    await ended(child);
    expect(existsSync(fileOf(directory))).toBe(true);
    const mine = await take(directory, { onWait: () => expect.unreachable("there is nothing to wait for") });
    mine.check();
    mine.release();
    const { stdout } = await runScript(
      `import { FolderLock } from "./src/node/lock.ts";
       await FolderLock.acquire("exits", ${JSON.stringify(directory)});
       console.log("held"); process.exit(3);`,
    );
    expect(stdout).toMatch("held");
    expect(readdirSync(directory)).toEqual([]);
  });

  it("of a number that another process has now is free", async () => {
    const directory = folder();
    await take(directory);
    edit(directory, { started: "1", token: "earlier" });
    const mine = await take(directory, { ...quick, onWait: () => expect.unreachable("it is certain") });
    mine.release();
  });

  it("of another machine, container or start of this one is free when it shows no sign of life", async () => {
    for (const change of [{ host: "elsewhere" }, { system: "another start" }, { started: "" }, null]) {
      const directory = folder();
      const theirs = await take(directory, { beatMs: 1e6 });
      if (change) edit(directory, change);
      else writeFileSync(fileOf(directory), ""); // made, and interrupted before it was written
      const told: string[] = [];
      const mine = await take(directory, { ...quick, onWait: (message) => void told.push(message) });
      expect(told.join()).toMatch(/watching for 1 s whether that run lives/);
      mine.check();
      expect(() => theirs.check()).toThrow(/now held by another run \(test, process/);
      theirs.release();
      mine.check();
      mine.release();
    }
  });

  it("of another machine is held as long as it shows signs of life", async () => {
    const directory = folder();
    await take(directory, { beatMs: 1e6 });
    edit(directory, { host: "elsewhere", pid: 77 });
    const beats = setInterval(() => utimesSync(fileOf(directory), new Date(), new Date()), 50);
    await expect(take(directory)).rejects.toThrow("in use by another run (test, process 77 on elsewhere)");
    clearInterval(beats);
  });

  it("shows signs of life", async () => {
    const directory = folder();
    const lock = await take(directory);
    utimesSync(fileOf(directory), 1000, 1000);
    edit(directory, { host: "elsewhere" }); // same token
    await expect(take(directory, { beatMs: 20, deadMs: 10_000 })).rejects.toThrow("on elsewhere");
    lock.release();
  });

  it("is won by one of many who find it dead at once", async () => {
    const directory = folder();
    await take(directory);
    edit(directory, { started: "1" });
    const attempts = await Promise.allSettled(Array.from({ length: 8 }, () => take(directory)));
    const winners = attempts.filter((attempt) => attempt.status === "fulfilled");
    expect(winners).toHaveLength(1);
    winners[0]!.value.check();
    expect(readdirSync(directory)).toEqual(["fusenorm.lock"]);
    winners[0]!.value.release();
  });

  it("lets the parts of one division in, and no other", async () => {
    const directory = folder();
    const part = (index: number, count: number) => take(directory, { ...quick, part: { index, count } });
    const locks = await Promise.all([part(0, 3), part(2, 3)]);
    await expect(part(2, 3)).rejects.toThrow(/in use by/);
    await expect(part(1, 4)).rejects.toThrow(/in use by/);
    await expect(take(directory)).rejects.toThrow(/in use by .*fusenorm-[02]-of-3.lock/);
    expect(readdirSync(directory).sort()).toEqual(["fusenorm-0-of-3.lock", "fusenorm-2-of-3.lock"]);
    for (const lock of locks) lock.release();
    const whole = await part(0, 1);
    await expect(part(0, 3)).rejects.toThrow(/fusenorm.lock/);
    whole.release();
  });

  it("refuses a folder that can't be written, and tells when its file is gone", async () => {
    await expect(take("/proc")).rejects.toThrow(/ENOENT|EACCES|EPERM|EROFS/);
    await expect(take(join(folder(), "none"))).rejects.toThrow(/ENOENT/);
    const directory = folder();
    const lock = await take(directory);
    writeFileSync(fileOf(directory), "null");
    expect(() => lock.check()).toThrow(/is gone: this run was stopped for too long, or somebody removed it/);
    lock.release();
    expect(existsSync(fileOf(directory))).toBe(true);
  });
});
