// `npm run kernels:static`: compiles the kernels of training steps with Mesa's RADV for GPUs that are not here, and says what
// their machine code could reach. See docs/design/0009-kernels-without-a-gpu.md.

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Command, Option } from "commander";
import { UsageError } from "../src/errors.ts";
import { writeFileAtomic } from "../src/node/files.ts";
import { checkFigures } from "./kernels-static/check.ts";
import { type Chip, chips, DEFAULT_FAMILIES } from "./kernels-static/chips.ts";
import { readCompiled, readMachineCode } from "./kernels-static/compiled.ts";
import { beside, hottestFunction, innerLoop } from "./kernels-static/listing.ts";
import { buildDriver, compile, type Job } from "./kernels-static/machine.ts";
import { analyze } from "./kernels-static/model.ts";
import { PEERS_SCRIPT, peersText } from "./kernels-static/peers.ts";
import { comparisonText, EXPLANATION, figuresJson, figuresText, wrap } from "./kernels-static/report.ts";
import { type Figures, idOf, type Row, readFigures } from "./kernels-static/rows.ts";
import { WORKLOADS } from "./kernels-static/workloads.ts";
import { installPeers } from "./lib/peers.ts";

const RESULTS = fileURLToPath(new URL("../bench/results/", import.meta.url));
const width = process.stdout.columns ?? (Number(process.env.COLUMNS) || 120);

interface Options {
  family?: string[];
  wave?: string;
  work?: string[];
  variant?: string[];
  filter?: string;
  compare?: string;
  asm?: string;
  json?: boolean;
  check?: boolean;
  peers?: boolean;
  out: string;
}

const list = (text: string) => text.split(",").filter(Boolean);
const program = new Command("kernels:static")
  .description(
    "Compiles the kernels for AMD GPUs that need not be here, and models what share of their peak they could reach",
  )
  .option(
    "--family <names>",
    `of ${chips.map(({ family }) => family).join(", ")}; default ${DEFAULT_FAMILIES}`,
    list,
  )
  .addOption(
    new Option("--wave <lanes>", "one subgroup size; default all that the family has").choices(["32", "64"]),
  )
  .option("--work <names>", `of ${WORKLOADS.join(", ")}; default all`, list)
  .option(
    "--variant <choices>",
    "KERNEL=VARIANT,… instead of what the chooser takes, e.g. conv2d.forward=tile_64x64",
    list,
  )
  .option("--filter <pattern>", "print only kernels whose work or name matches")
  .option("--compare <file>", "what is different from an earlier run's file")
  .option("--asm <pattern>", "the inner loop of kernels that match, beside its WGSL")
  .option("--json", "the figures as JSON on standard output, a list by family")
  .option("--check", "two shapes: fails on a spill, or 5 % less than what is stored")
  .option("--peers", "jax-js and TensorFlow.js, compiled the same way, beside what is stored; stores theirs")
  .option("--out <dir>", "where whole runs are stored, as static-FAMILY.json, and --check looks", RESULTS)
  .parse();
const options = program.opts<Options>();

function chipOf(name: string): Chip {
  const chip = chips.find(({ family }) => family === name);
  if (chip) return chip;
  throw new UsageError(
    `kernels:static: family is ${name}; expected one of ${chips.map(({ family }) => family).join(", ")}`,
  );
}

function readStored(file: string): Figures {
  if (!existsSync(file)) {
    throw new UsageError(
      `kernels:static: there is no ${file}; expected the figures of an earlier run, which npm run kernels:static stores`,
    );
  }
  return JSON.parse(readFileSync(file, "utf8"));
}

interface Run extends Job {
  chip: Chip;
}

/** Runs `fn` for each, some at a time. */
async function pooled<T>(all: readonly T[], fn: (one: T) => Promise<void>): Promise<void> {
  const rest = [...all];
  const work = async () => {
    for (let one = rest.shift(); one !== undefined; one = rest.shift()) await fn(one);
  };
  await Promise.all(Array.from({ length: Math.max(1, Math.floor(availableParallelism() / 2)) }, work));
}

function figuresOf(runs: readonly Run[]): Figures {
  const parts = runs.map(({ folder, chip }) => readFigures(folder, chip));
  return {
    family: runs[0]!.family,
    mesa: parts[0]!.mesa,
    totals: parts.flatMap(({ totals }) => totals),
    rows: parts.flatMap(({ rows }) => rows),
  };
}

function listKernels(runs: readonly Run[], pattern: RegExp): string {
  const parts: string[] = [];
  for (const { folder, chip, family } of runs) {
    const compiled = readCompiled(folder);
    for (const kernel of compiled.kernels) {
      const works = new Set(
        compiled.launches.filter(({ file }) => file === kernel.file).map(({ work }) => work),
      );
      const name = `${kernel.shader}.${kernel.entry}`;
      const ids = [...works].map((work) => idOf(kernel, work));
      if (![name, ...ids].some((text) => pattern.test(text))) continue;
      const { assembly, wave } = readMachineCode(folder, kernel);
      const source = readFileSync(join(folder, `${kernel.file}.wgsl`), "utf8");
      const machine = innerLoop(analyze(assembly, chip, wave), chip, wave);
      const wgsl = hottestFunction(source, kernel.entry).split("\n");
      parts.push(
        [`${ids.join("; ")} (${name}, ${family}, wave${wave})`, beside(machine, wgsl, width)].join("\n"),
      );
    }
  }
  return parts.join("\n\n");
}

/** One for each subgroup size of each family. */
function plan(folder: string): Run[] {
  const { wave, check, asm, compare, peers, variant: variants = [] } = options;
  const families =
    compare === undefined ? (options.family ?? DEFAULT_FAMILIES) : [readStored(compare).family];
  const workloads = check ? ["check"] : (options.work ?? WORKLOADS);
  const unknown = workloads.find((name) => !WORKLOADS.includes(name));
  if (unknown !== undefined) {
    throw new UsageError(`kernels:static: work is ${unknown}; expected one of ${WORKLOADS.join(", ")}`);
  }
  return families.map(chipOf).flatMap((chip) => {
    const waves = check || peers || asm !== undefined ? chip.waves.slice(0, 1) : chip.waves;
    const wanted = wave === undefined ? waves : [Number(wave)];
    const missing = wanted.find((lanes) => !chip.waves.includes(lanes));
    if (missing !== undefined) {
      throw new UsageError(`kernels:static: ${chip.family} has no waves of ${missing}; it has ${chip.waves}`);
    }
    return wanted.map((lanes) => {
      const { family } = chip;
      const script = peers ? PEERS_SCRIPT : undefined;
      return {
        family,
        chip,
        wave: lanes,
        workloads,
        variants,
        folder: join(folder, `${family}-${lanes}`),
        script,
      };
    });
  });
}

const pattern = new RegExp(options.filter ?? "");

function matches({ id, kernel }: Row): boolean {
  return pattern.test(id) || pattern.test(kernel);
}

/** What `--json` prints. */
const printed: Figures[] = [];

/** Prints, checks or stores the figures of one family; gives what a check found wrong. */
function report(figures: Figures, chip: Chip): string[] {
  const { wave, work, variant, compare, check, json, peers, out } = options;
  const stored = join(out, `static-${chip.family}.json`);
  if (check) {
    const former = readStored(stored);
    const wrong = checkFigures(figures, former);
    const versions =
      figures.mesa === former.mesa ? "" : ` (Mesa ${figures.mesa}: not compared with ${former.mesa}'s)`;
    if (wrong.length === 0)
      console.log(`${chip.family}: ${figures.rows.length} kernels, all right${versions}`);
    return wrong;
  }
  if (peers) {
    console.log(`${peersText(readStored(stored), figures, chip)}\n`);
    writeFileAtomic(join(out, `static-${chip.family}-peers.json`), figuresJson(figures));
    return [];
  }
  const rows = figures.rows.filter(matches);
  if (json) printed.push({ ...figures, rows });
  else if (compare !== undefined) {
    const before = readStored(compare);
    const ran = ({ workloads }: Row) => figures.totals.some(({ workload }) => workload in workloads);
    const former = { ...before, rows: before.rows.filter((row) => ran(row) && matches(row)) };
    console.log(comparisonText(former, figures, rows, width));
  } else {
    // The subgroup size that Dawn asks for; the others are in the file.
    const first = rows.filter((row) => row.wave === figures.rows[0]!.wave);
    console.log(`${figuresText(figures, chip, first, width)}\n`);
  }
  const isWhole = wave === undefined && work === undefined && variant === undefined;
  if (isWhole && compare === undefined) writeFileAtomic(stored, figuresJson(figures));
  return [];
}

async function main(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "kernels-static-"));
  try {
    if (options.peers) installPeers("kernels:static");
    const runs = plan(folder);
    const driver = buildDriver(folder);
    await pooled(runs, (run) => compile(driver, run));
    const { asm, check, compare, json, peers } = options;
    if (asm !== undefined) {
      console.log(listKernels(runs, new RegExp(asm)) || `no kernel matches ${asm}`);
      return;
    }
    const wrong = [...new Set(runs.map(({ chip }) => chip))].flatMap((chip) =>
      report(figuresOf(runs.filter((run) => run.chip === chip)), chip),
    );
    for (const one of wrong) console.error(`kernels:static: ${one}`);
    if (wrong.length > 0) process.exitCode = 1;
    if (json) console.log(JSON.stringify(printed));
    if (!check && !json && !peers && compare === undefined) {
      console.log(EXPLANATION.flatMap((text) => wrap(text, width)).join("\n"));
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

try {
  await main();
} catch (error) {
  if (!(error instanceof Error)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
