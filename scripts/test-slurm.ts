// `npm run test:slurm`: the Slurm example on a real Slurm. Starts munged, slurmctld and slurmd on the loopback (Debian and Ubuntu:
// `apt-get install slurm-wlm`; run as root), one node of two processors; submits examples/cluster/slurm-array.sh; kills a task in the
// middle of its cells and requeues it; then checks that what it had done was kept, that the merged report misses nothing, and that
// every number is that of a run on one machine. Stops all it started; ends with 1 if anything was not so.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { hostname, tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { root } from "./lib/package.ts";

const TASKS = 3;
/** Experiments with many short cells, and some that train. */
const ARGS = ["learning-rates", "gradient-alignment", "--seeds", "1"];
const PRESET = "first-look";
const COMMAND = `${join(root, "node_modules/.bin/tsx")} ${join(root, "src/cli/main.ts")}`;
const SECONDS = 1000;
const PATIENCE = 15 * 60 * SECONDS;

/** With the folders that the daemons are in, which not every user has on the PATH. */
const path = `${process.env.PATH}:/usr/sbin:/usr/local/sbin`;
const folder = mkdtempSync(join(tmpdir(), "fusenorm-slurm-"));
const results = join(folder, "results");
const config = join(folder, "slurm.conf");
const environment: NodeJS.ProcessEnv = { ...process.env, PATH: path, SLURM_CONF: config };
const daemons: ChildProcess[] = [];

function fail(message: string): never {
  throw new Error(`test:slurm: ${message}`);
}

const call = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { env: environment, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

function daemon(command: string, ...args: string[]): void {
  const log = openSync(join(folder, `${command}.out`), "a");
  const child = spawn(command, args, { env: environment, stdio: ["ignore", log, log] });
  closeSync(log);
  child.on("error", () => {}); // shown by what waits for it
  daemons.push(child);
}

/** What `look` returns, once that is something. */
async function until<T>(what: string, look: () => T | null | undefined | false): Promise<T> {
  for (const started = performance.now(); performance.now() - started < PATIENCE; await sleep(200)) {
    const dead = daemons.find(({ exitCode, signalCode }) => exitCode !== null || signalCode !== null);
    if (dead) fail(`${dead.spawnfile} has ended while waiting for ${what}`);
    const found = look();
    if (found) return found;
  }
  return fail(`waited ${PATIENCE / SECONDS} s for ${what}`);
}

const attempt = <T>(look: () => T): T | null => {
  try {
    return look();
  } catch {
    return null; // a daemon that is not up yet, or a file that is not there
  }
};

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function startSlurm(): Promise<void> {
  const munge = join(folder, "munge");
  mkdirSync(munge, { mode: 0o755 });
  const key = join(munge, "key");
  writeFileSync(key, randomBytes(1024), { mode: 0o600 });
  const socket = join(munge, "socket");
  const munged = ["pid", "seed", "log"].map((what) => `--${what}-file=${join(munge, what)}`);
  daemon("munged", "--foreground", "--force", `--socket=${socket}`, `--key-file=${key}`, ...munged);
  await until("munged", () => existsSync(socket));

  const host = hostname().split(".")[0]!;
  const node = "fusenorm-node";
  for (const name of ["state", "spool"]) mkdirSync(join(folder, name));
  const settings: Record<string, string | number> = {
    ClusterName: "fusenorm",
    SlurmctldHost: `${host}(127.0.0.1)`,
    SlurmctldPort: await freePort(),
    SlurmdPort: await freePort(),
    SlurmUser: userInfo().username,
    AuthType: "auth/munge",
    AuthInfo: `socket=${socket}`,
    CryptoType: "crypto/munge",
    StateSaveLocation: join(folder, "state"),
    SlurmdSpoolDir: join(folder, "spool"),
    SlurmctldPidFile: join(folder, "slurmctld.pid"),
    SlurmdPidFile: join(folder, "slurmd.pid"),
    // What needs neither cgroups nor an init system.
    ProctrackType: "proctrack/linuxproc",
    TaskPlugin: "task/none",
    SwitchType: "switch/none",
    MpiDefault: "none",
    ReturnToService: 2,
    KillWait: 2,
    SelectType: "select/cons_tres",
    SelectTypeParameters: "CR_Core",
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
  lines.push(
    `NodeName=${node} NodeHostname=${host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1 State=UNKNOWN`,
    `PartitionName=all Nodes=${node} Default=YES MaxTime=INFINITE State=UP`,
  );
  writeFileSync(config, `${lines.join("\n")}\n`);
  daemon("slurmctld", "-D", "-f", config);
  daemon("slurmd", "-D", "-f", config, "-N", node);
  await until("the node", () => attempt(() => call("sinfo", "-h", "-o", "%T"))?.trim() === "idle");
}

/** Of a task of the array: its job's state, as `scontrol` tells it. */
const stateOf = (job: string, task: number): string =>
  /JobState=(\w+)/.exec(call("scontrol", "show", "job", `${job}_${task}`))?.[1] ?? "UNKNOWN";

const ENDED = ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"];

const logOf = (job: string, task: number): string =>
  attempt(() => readFileSync(join(folder, `fusenorm-${job}-${task}.log`), "utf8")) ?? "";

/** Lines of the task's log that tell of a cell: `[3/12] …: kept`. */
const doneBy = (job: string, task: number): string[] => logOf(job, task).match(/^\[\d+\/\d+\].*$/gm) ?? [];

interface Report {
  experiments: { id: string; missingCells: string[] }[];
  cells: Record<string, { data: unknown }>;
}

const fusenorm = (...args: string[]): string => {
  const [command, ...first] = COMMAND.split(" ") as [string, ...string[]];
  return call(command, ...first, ...args);
};

async function test(): Promise<void> {
  await startSlurm();
  const version = call("sinfo", "--version").trim();
  console.log(`${version}: munged, slurmctld and slurmd are up; one node, two processors`);

  environment.FUSENORM_COMMAND = COMMAND;
  environment.FUSENORM_DATA = "embedded";
  environment.FUSENORM_OUT = results;
  environment.FUSENORM_PRESET = PRESET;
  const submitted = execFileSync(
    "sbatch",
    [
      ...[
        "--parsable",
        `--array=0-${TASKS - 1}`,
        "--gres=none",
        "--cpus-per-task=1",
        "--mem=0",
        `--chdir=${folder}`,
      ],
      ...[join(root, "examples/cluster/slurm-array.sh"), ...ARGS],
    ],
    { env: environment, encoding: "utf8", cwd: folder },
  );
  const job = submitted.trim();
  console.log(`the array is job ${job}: ${TASKS} tasks`);

  const victim = 1;
  const before = await until(`two cells of task ${victim}`, () => {
    const lines = doneBy(job, victim);
    if (lines.length < 2 && ENDED.includes(stateOf(job, victim)))
      fail(`task ${victim} ended by itself:\n${logOf(job, victim)}`);
    return lines.length >= 2 && lines;
  });
  call("scancel", "--signal=KILL", "--full", `${job}_${victim}`);
  const ended = await until(`the end of task ${victim}`, () => {
    const state = stateOf(job, victim);
    return !["RUNNING", "COMPLETING"].includes(state) && state;
  });
  if (ended === "COMPLETED") fail(`task ${victim} was killed, and its state is ${ended}`);
  console.log(`task ${victim} killed after ${before.length} cells: ${ended}`);
  call("scontrol", "requeue", `${job}_${victim}`);

  for (let task = 0; task < TASKS; task += 1) {
    const state = await until(`task ${task}`, () => {
      const now = stateOf(job, task);
      return ENDED.includes(now) && now;
    });
    if (state !== "COMPLETED") fail(`task ${task} is ${state}:\n${logOf(job, task)}`);
  }
  const kept = doneBy(job, victim).filter((line) => line.endsWith(": kept")).length;
  // A cell whose line was not written yet when the task was killed may be there as well.
  if (kept < before.length) fail(`task ${victim} had done ${before.length} cells, and kept ${kept}`);
  console.log(`requeued, it kept ${kept} cells and ran ${doneBy(job, victim).length - kept}`);

  const merged = JSON.parse(fusenorm("report", results, "--json")) as Report;
  const missing = merged.experiments.flatMap(({ missingCells }) => missingCells);
  if (missing.length > 0) fail(`the merged report misses ${missing.join("; ")}`);
  if (statSync(join(results, "report.html")).size < 1e4) fail("the merged report.html is next to empty");
  console.log(`merged: ${Object.keys(merged.cells).length} cells, none missing`);

  const alone = JSON.parse(
    fusenorm("reproduce", ...ARGS, "--preset", PRESET, "--out", join(folder, "alone"), "--json"),
  ) as Report;
  const differing = Object.keys(alone.cells).filter(
    (id) => JSON.stringify(merged.cells[id]?.data) !== JSON.stringify(alone.cells[id]!.data),
  );
  if (Object.keys(alone.cells).length !== Object.keys(merged.cells).length || differing.length > 0) {
    fail(`other numbers than on one machine: ${differing.join("; ") || "another set of cells"}`);
  }
  console.log("every number is that of a run on one machine");
}

async function stop(): Promise<void> {
  attempt(() => call("scancel", "--user", userInfo().username, "--signal=KILL", "--full"));
  for (const child of daemons.reverse()) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    const forced = setTimeout(() => child.kill("SIGKILL"), 10 * SECONDS);
    await gone;
    clearTimeout(forced);
  }
}

for (const command of ["munged", "slurmctld", "slurmd", "sbatch"]) {
  if (!path.split(":").some((directory) => existsSync(join(directory, command)))) {
    console.error(`test:slurm: there is no ${command}; on Debian and Ubuntu: apt-get install slurm-wlm`);
    process.exit(2);
  }
}
if (userInfo().uid !== 0) {
  console.error("test:slurm: slurmd starts tasks as their user; run this as root");
  process.exit(2);
}
const interrupted = new Promise<never>((_, reject) => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => reject(new Error(`test:slurm: ${signal}`)));
  }
});
try {
  await Promise.race([test(), interrupted]);
} catch (error) {
  console.error((error as Error).message);
  for (const { spawnfile } of daemons) {
    const said = attempt(() => readFileSync(join(folder, `${spawnfile}.out`), "utf8")) ?? "";
    console.error(`--- ${spawnfile}\n${said.split("\n").slice(-15).join("\n")}`);
  }
  process.exitCode = 1;
} finally {
  await stop();
}
if (process.exitCode === 1) console.error(`its files: ${folder}`);
else rmSync(folder, { recursive: true, force: true });
process.exit();
