// What goes wrong around a run: full and closed files, signals, kills, two runs in one place. Each ends in one line and an exit
// code, and what was there before stays readable.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  integer,
  listOf,
  number,
  positiveInteger,
  positiveNumber,
  removePartials,
  text,
} from "../../src/cli/options.ts";
import { decodeCheckpoint } from "../../src/train/checkpoint.ts";
import { generator } from "../helpers/numbers.ts";
import { repository, run } from "../node/children.ts";
import { folder, fusenorm, PROGRAM, SMALL, tinyDataset } from "./program.ts";

/** Kills -9 in the middle of a run; more by FUSENORM_KILLS. */
const KILLS = Number(process.env.FUSENORM_KILLS ?? 5);
const data = tinyDataset();
const trainArgs = (out: string, ...more: string[]) => [
  ...PROGRAM,
  ...["train", "--data", data, "--out", out, ...SMALL, "--log-every", "1", ...more],
];
const train = (out: string, ...more: string[]) => run(process.execPath, trainArgs(out, ...more));

/** Starts a program and waits until `pattern` is in what it prints. */
async function start(args: readonly string[], pattern: RegExp) {
  const child = spawn(process.execPath, args, { cwd: repository, stdio: ["ignore", "pipe", "pipe"] });
  const heard = { out: "", err: "" };
  const ended = new Promise<{ code: number | null; out: string; err: string }>((resolve) =>
    child.once("close", (code) => resolve({ code, ...heard })),
  );
  await new Promise<void>((resolve) => {
    const listen = (stream: "out" | "err") => (chunk: Buffer) => {
      heard[stream] += chunk;
      if (pattern.test(heard.out + heard.err)) resolve();
    };
    child.stdout.on("data", listen("out"));
    child.stderr.on("data", listen("err"));
    child.once("close", resolve);
  });
  return { child, ended, heard };
}

const oneLine = (stderr: string) => {
  const lines = stderr.split("\n").filter((line) => line !== "" && !line.startsWith("Warning: "));
  expect(stderr).not.toMatch(/\n\s+at /);
  return lines.filter((line) => line.startsWith("fusenorm: "));
};

describe("numbers on the command line", () => {
  const wrong = [
    "",
    " ",
    "1e999",
    "-1e999",
    "0x10",
    "0b1",
    "12abc",
    "abc",
    "NaN",
    "Infinity",
    "1__000",
    "_1",
    "1_",
    "k",
    "1kk",
    "1 k",
    "1,5",
    "1,000",
    "--1",
    " 1",
    "1 ",
  ];
  it.each([
    [
      "number",
      number,
      wrong,
      [
        ["1.5", 1.5],
        ["-2", -2],
        ["+3", 3],
        [".5", 0.5],
        ["1e-3", 0.001],
        ["5E-4", 0.0005],
        ["1.5k", 1500],
        ["2M", 2_000_000],
        ["1_000.5", 1000.5],
        ["2.", 2],
      ],
    ],
    [
      "integer",
      integer,
      [...wrong, "1.5", "1e-3", "0.0005k", "9007199254740993"],
      [
        ["-2", -2],
        ["0", 0],
        ["007", 7],
        ["1e3", 1000],
        ["50_000", 50_000],
        ["1.001k", 1001],
        ["1.0", 1],
      ],
    ],
    ["positiveInteger", positiveInteger, [...wrong, "0", "-1", "1.5"], [["3", 3]]],
    ["positiveNumber", positiveNumber, [...wrong, "0", "-1", "-0.0"], [["0.1", 0.1]]],
  ] as [string, (value: string) => number, string[], [string, number][]][])(
    "%s takes decimal numbers as people write them",
    (_, parse, bad, good) => {
      for (const value of bad) expect(() => parse(value), value).toThrow();
      for (const [value, expected] of good) expect(parse(value)).toBe(expected);
    },
  );

  it("lists and texts have no empty entries, and none twice", () => {
    const rates = listOf(positiveNumber);
    expect(rates("0.1, 0.2")).toEqual([0.1, 0.2]);
    for (const bad of ["", ",", "0.1,", "0.1,,0.2", "0.1,0.10", "0.1;0.2"])
      expect(() => rates(bad), bad).toThrow();
    for (const bad of ["", "  "]) expect(() => text(bad)).toThrow();
  });
});

describe("flags", () => {
  const reproduce = ["reproduce", "random-matrices", "--out", "OUT"];
  const cases: [string[], RegExp][] = [
    [["train", "--lr", "0.1", "--lr", "0.2"], /option '--lr <rate>' is given twice/],
    [["train", "--out", ""], /option '--out <dir>' argument '' is invalid. it is empty/],
    [["train", "--out", "OUT", "--init", "kaiming"], /init is "kaiming".*did you mean "he"/],
    [["train", "--out", "OUT", "--norm", "bach"], /norm is "bach".*did you mean "batch"/],
    [["train", "--out", "OUT", "--schedule", "cosin"], /schedule is "cosin".*did you mean "cosine"/],
    [
      ["train", "--out", "OUT", "--data", data, "--batch-size", "10", "--width", "1000000"],
      /width 1000000 make about .* parameters/,
    ],
    [["train", "--out", "OUT", "--checkpoint-every", "0"], /0 is below 1/],
    [["train", "--out", "/proc/fusenorm"], /--out \/proc\/fusenorm can't be made: ENOENT/],
    [["train", "--out", "/proc", "--data", data, "--batch-size", "10"], /--out \/proc can't be written: /],
    [
      ["reproduce", "random-matrx", "--out", "OUT"],
      /no experiment "random-matrx".*did you mean random-matrices/,
    ],
    [[...reproduce, "--seeds", "1000000000"], /--seeds is 1000000000; expected an integer from 1 to 1000/],
    [[...reproduce, "--serve", "99999"], /a port is an integer from 0 to 65535/],
    [[...reproduce, "--serve", "-1"], /a port is an integer from 0 to 65535/],
    [[...reproduce, "--serve", "http"], /"http" is not a finite number/],
    [[...reproduce, "--shard", "1/1"], /--shard is "1\/1"/],
    [
      [...reproduce, "--preset", "standart"],
      /"standart" is none of first-look, quick, standard, paper; did you mean standard/,
    ],
    [["report", "OUT"], /no run.json/],
    [["nothing"], /unknown command 'nothing'/],
  ];
  it.concurrent.each(cases)("%j", async (args, message) => {
    const out = join(folder(), "out");
    const { code, stderr, stdout } = await fusenorm(...args.map((arg) => (arg === "OUT" ? out : arg)));
    expect(oneLine(stderr)).toEqual([expect.stringMatching(message)]);
    expect(stderr.trim().split("\n").at(-1)).toMatch(message);
    expect([code, stdout]).toEqual([1, ""]);
    expect(existsSync(out)).toBe(false);
  });

  it("names a port that is taken, and writes nothing", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    const out = join(folder(), "out");
    const { code, stderr } = await fusenorm(...reproduce.slice(0, 3), out, "--serve", `${port}`);
    expect(oneLine(stderr)).toEqual([
      `fusenorm: reproduce: --serve ${port}: the port is taken; pass another port, or 0 for any`,
    ]);
    expect(code).toBe(1);
    expect(existsSync(out)).toBe(false);
    server.close();
  });
});

describe("a run", () => {
  it("says when the disk is full, and leaves the checkpoint before readable", async () => {
    const out = join(folder(), "out");
    expect((await train(out, "--max-steps", "2")).code).toBe(0);
    const file = join(out, "checkpoint.safetensors");
    const before = readFileSync(file);
    // The file that the process writes first is a device that is always full.
    const full = async (name: string) => {
      const { child, ended } = await start(trainArgs(out, "--max-steps", "4", "--resume"), /ResNet-8/);
      symlinkSync("/dev/full", join(out, `${name}.${child.pid}.partial`));
      return ended;
    };
    const checkpoint = await full("checkpoint.safetensors");
    expect(oneLine(checkpoint.err)).toEqual([
      `fusenorm: ${file}: can't be written: ENOSPC: no space left on device`,
    ]);
    expect(checkpoint.code).toBe(1);
    expect(readFileSync(file).equals(before)).toBe(true);
    const history = await full("history.json");
    expect(oneLine(history.err)).toEqual([expect.stringMatching(/history.json: can't be written: ENOSPC/)]);
    expect(history.code).toBe(1);
    expect(decodeCheckpoint(readFileSync(file), file).metadata.step).toBe("4");
    expect(readdirSync(out).sort()).toEqual(["checkpoint.safetensors", "history.json", "report.html"]);
  });

  it("goes on when nobody reads what it says, and says when it can't be written", async () => {
    const out = join(folder(), "out");
    const { child, ended } = await start(trainArgs(out, "--max-steps", "4"), /step 1\//);
    child.stdout!.destroy();
    child.stderr!.destroy();
    expect((await ended).code).toBe(0);
    expect(JSON.parse(readFileSync(join(out, "history.json"), "utf8")).log).toHaveLength(4);
    const full = await run("/bin/sh", [
      "-c",
      `exec "$@" > /dev/full`,
      "sh",
      process.execPath,
      ...PROGRAM,
      "data",
      "list",
    ]);
    expect(oneLine(full.stderr)).toEqual([expect.stringMatching(/the output can't be written: .*ENOSPC/)]);
    expect(full.code).toBe(1);
    const head = await run("/bin/sh", [
      "-c",
      `"$@" | head -n 1`,
      "sh",
      process.execPath,
      ...PROGRAM,
      "data",
      "list",
    ]);
    expect([head.stderr, head.stdout.split("\n").length]).toEqual(["", 2]);
  });

  it.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("ends in order on %s, and goes on from there", async (signal, code) => {
    const out = join(folder(), "out");
    const { child, ended } = await start(trainArgs(out, "--epochs", "400"), /step 1\//);
    child.kill(signal);
    const end = await ended;
    expect(end.out).toMatch(/interrupted at step \d+; --resume goes on/);
    expect([end.code, oneLine(end.err)]).toEqual([code, []]);
    expect(readdirSync(out).sort()).toEqual(["checkpoint.safetensors", "history.json", "report.html"]);
    const file = join(out, "checkpoint.safetensors");
    const step = Number(decodeCheckpoint(readFileSync(file), file).metadata.step);
    const more = await train(out, "--max-steps", `${step + 2}`, "--resume");
    expect(more.stdout).toMatch(`step ${step + 2}: loss`);
    const back = await train(out, "--max-steps", `${step}`, "--resume");
    expect(oneLine(back.stderr)).toEqual([
      expect.stringMatching(`the checkpoint is of step ${step + 2}, this run ends after ${step}`),
    ]);
  });

  it("asks for a fresh device when its own is lost, and goes on to the same losses", async () => {
    const [whole, disturbed] = [join(folder(), "out"), join(folder(), "out")];
    const args = ["--max-steps", "8", "--checkpoint-every", "3"];
    expect((await train(whole, ...args)).code).toBe(0);
    // The first device ends a moment before the checkpoint of step 6 is written, the second at once, the third lives.
    const preload = join(folder(), "lose.mjs");
    writeFileSync(
      preload,
      `import fs from "node:fs/promises";
       import { globals } from "${import.meta.resolve("webgpu")}";
       import { syncBuiltinESMExports } from "node:module";
       const { requestDevice } = globals.GPUAdapter.prototype;
       const devices = [];
       globals.GPUAdapter.prototype.requestDevice = async function (...args) {
         const device = await requestDevice.apply(this, args);
         devices.push(device);
         if (devices.length === 2) setTimeout(() => device.destroy(), 1);
         return device;
       };
       const { open } = fs;
       let opened = 0;
       fs.open = (path, ...rest) => {
         if (String(path).endsWith(".partial") && ++opened === 1) setTimeout(() => devices[0].destroy(), 1);
         return open(path, ...rest);
       };
       syncBuiltinESMExports();`,
    );
    const { code, stderr, stdout } = await run(process.execPath, [
      "--import",
      preload,
      ...trainArgs(disturbed, ...args),
    ]);
    expect(stderr).toMatch(
      /the device was lost .*; asking for a fresh one \(try 1 of 3\) to go on from step 3\n/,
    );
    expect(stderr).toMatch(
      /the device was lost .*; asking for a fresh one \(try 2 of 3\) to go on from step 3\n/,
    );
    expect(stdout).toMatch(/^step 8: loss/);
    expect(code).toBe(0);
    const history = (out: string) => JSON.parse(readFileSync(join(out, "history.json"), "utf8"));
    expect(history(disturbed).log).toEqual(history(whole).log);
    expect(history(disturbed).evals).toEqual(history(whole).evals);
  });

  it("is watched by any number of pages, however they behave, and ends with them", async () => {
    const out = join(folder(), "out");
    const { child, ended, heard } = await start(
      [...PROGRAM, "reproduce", "random-matrices", "--out", out, "--serve", "0"],
      /live view: http:.*\/\n/,
    );
    const port = Number(/live view: http:\/\/127.0.0.1:(\d+)\//.exec(heard.err)![1]);
    const sockets = [
      "GET // HTTP/1.1\r\nHost: localhost\r\n\r\n",
      "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n",
      "GET /view HTTP/1.1\r\nHost: localhost\r\n\r\n",
      "GET /vi",
    ].map((request) => {
      const socket = connect(port, "127.0.0.1", () => socket.write(request));
      return socket.on("error", () => {}).pause();
    });
    while (!/stays until Ctrl-C/.test(heard.err) && child.exitCode === null) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const reply = await fetch(`http://127.0.0.1:${port}/report`);
    expect([reply.status, await reply.text()]).toEqual([200, expect.stringContaining("random-matrices")]);
    child.kill("SIGINT");
    const { code, err } = await ended;
    expect([code, oneLine(err)]).toEqual([0, []]);
    expect(readdirSync(out).sort()).toEqual(["cells", "report.html", "report.json", "run.json"]);
    for (const socket of sockets) socket.destroy();
  });

  it("keeps others out of its folder, whatever they are", async () => {
    const out = join(folder(), "out");
    const { child, ended } = await start(trainArgs(out, "--epochs", "4000"), /step 1\//);
    // Before the first checkpoint, it is the missing checkpoint that is told.
    while (!existsSync(join(out, "checkpoint.safetensors")) && child.exitCode === null)
      await new Promise((resolve) => setTimeout(resolve, 20));
    const message = new RegExp(
      `${out} is in use by another run .train, process ${child.pid} on ${hostname()}.`,
    );
    const others = await Promise.all([
      train(out, "--resume", "--epochs", "4000"),
      fusenorm("compare", "--data", data, "--out", out, ...SMALL.slice(0, 6)),
      fusenorm("reproduce", "random-matrices", "--out", out, "--resume"),
      fusenorm("reproduce", "random-matrices", "--out", out, "--shard", "0/2"),
    ]);
    for (const { code, stderr } of others) {
      expect(oneLine(stderr)).toEqual([expect.stringMatching(message)]);
      expect(code).toBe(1);
    }
    expect(existsSync(join(out, "run.json"))).toBe(false);
    child.kill("SIGKILL");
    await ended;
    const after = await fusenorm("reproduce", "none", "--out", out);
    expect(after.stderr).toMatch(/no experiment/);
  });

  it(
    `is resumed after ${KILLS} kills at random moments: nothing is unreadable, and the losses are the same`,
    async () => {
      const seed = Number(process.env.FUSENORM_SEED ?? 5);
      const next = generator(seed);
      const args = ["--epochs", "8", "--checkpoint-every", "1"];
      const undisturbed = join(folder(), "out");
      const started = performance.now();
      expect((await train(undisturbed, ...args)).code).toBe(0);
      const duration = performance.now() - started;
      const expected = JSON.parse(readFileSync(join(undisturbed, "history.json"), "utf8"));

      let out = join(folder(), "out");
      let kills = 0;
      let steps: number[] = [];
      while (kills < KILLS) {
        const file = join(out, "checkpoint.safetensors");
        const child: ChildProcess = spawn(
          process.execPath,
          trainArgs(out, ...args, ...(existsSync(file) ? ["--resume"] : [])),
          { cwd: repository, stdio: "ignore" },
        );
        const ended = new Promise<number | null>((resolve) => child.once("exit", resolve));
        // From the first moment to a little after the last.
        const timer = setTimeout(() => child.kill("SIGKILL"), 1.2 * next() * duration);
        const code = await ended;
        clearTimeout(timer);
        if (code === null) kills += 1;
        else expect({ seed, kills, code }).toEqual({ seed, kills, code: 0 });
        if (existsSync(file)) {
          const step = Number(decodeCheckpoint(readFileSync(file), file).metadata.step);
          expect({ seed, kills, step }).toEqual({
            seed,
            kills,
            step: expect.toSatisfy((s) => s >= (steps.at(-1) ?? 0)),
          });
          steps.push(step);
        }
        if (code !== null) {
          const { log, evals } = JSON.parse(readFileSync(join(out, "history.json"), "utf8"));
          expect({ seed, kills, log, evals }).toEqual({
            seed,
            kills,
            log: expected.log,
            evals: expected.evals,
          });
          out = join(folder(), "out"); // done: the next kills hit another run
          steps = [];
        }
      }
      const resume = existsSync(join(out, "checkpoint.safetensors")) ? ["--resume"] : [];
      const { code, stderr } = await train(out, ...args, ...resume);
      expect([code, oneLine(stderr)]).toEqual([0, []]);
      const { log, evals } = JSON.parse(readFileSync(join(out, "history.json"), "utf8"));
      expect({ seed, log, evals }).toEqual({ seed, log: expected.log, evals: expected.evals });
      expect(readdirSync(out).sort()).toEqual(["checkpoint.safetensors", "history.json", "report.html"]);
    },
    120_000 + 60_000 * KILLS,
  );

  it("removes what an earlier one was killed in the middle of writing, and nothing else", () => {
    const out = folder();
    for (const name of [
      "checkpoint.safetensors.12.partial",
      "report.html.7.partial",
      "mine.partial",
      "a.12.partial",
    ]) {
      writeFileSync(join(out, name), "half");
    }
    mkdirSync(join(out, "cells"));
    symlinkSync("/dev/null", join(out, "history.json.3.partial"));
    removePartials(out);
    expect(readdirSync(out).sort()).toEqual(["a.12.partial", "cells", "mine.partial"]);
    removePartials(join(out, "none"));
  });
});
