// `npm run kernels:static`: compiles the kernels of training steps with Mesa's RADV for GPUs that are not here, and says what
// their machine code could reach. See docs/design/0009-kernels-without-a-gpu.md.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
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
import { comparisonText, EXPLANATION, figuresJson, figuresText, wrap } from "./kernels-static/report.ts";
import { type Figures, idOf, type Row, readFigures } from "./kernels-static/rows.ts";
import { WORKLOADS } from "./kernels-static/workloads.ts";

const RESULTS = fileURLToPath(new URL("../bench/results/", import.meta.url));
const width = process.stdout.columns ?? (Number(process.env.COLUMNS) || 120);

interface Options {
  family?: string[];
  wave?: string;
  work?: string[];
  filter?: string;
  compare?: string;
  asm?: string;
  json?: boolean;
  check?: boolean;
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
  .option("--filter <pattern>", "only kernels whose work or name matches")
  .option("--compare <file>", "what is different from an earlier run's file")
  .option("--asm <pattern>", "the inner loop of kernels that match, beside its WGSL")
  .option("--json", "the figures as JSON on standard output")
  .option("--check", "two shapes: fails on a spill, or 5 % less than what is stored")
  .option("--out <dir>", "where whole runs are stored, as static-FAMILY.json", RESULTS)
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

async function main(): Promise<void> {
  const { wave, filter, compare, asm, json, check, out } = options;
  const before = compare === undefined ? null : readStored(compare);
  const families = (before ? [before.family] : (options.family ?? DEFAULT_FAMILIES)).map(chipOf);
  const unknown = options.work?.find((name) => !WORKLOADS.includes(name));
  if (unknown !== undefined) {
    throw new UsageError(`kernels:static: work is ${unknown}; expected one of ${WORKLOADS.join(", ")}`);
  }
  const workloads = check ? ["check"] : (options.work ?? WORKLOADS);
  const pattern = filter === undefined ? null : new RegExp(filter);
  const folder = mkdtempSync(join(tmpdir(), "kernels-static-"));
  try {
    const driver = buildDriver(folder);
    const runs = families.flatMap((chip) => {
      const { family } = chip;
      const waves = check || asm !== undefined ? chip.waves.slice(0, 1) : chip.waves;
      return (wave === undefined ? waves : [Number(wave)])
        .filter((lanes) => chip.waves.includes(lanes))
        .map(
          (lanes): Run => ({
            family,
            chip,
            wave: lanes,
            workloads,
            folder: join(folder, `${family}-${lanes}`),
          }),
        );
    });
    await pooled(runs, (run) => compile(driver, run));
    if (asm !== undefined) {
      console.log(listKernels(runs, new RegExp(asm)) || `no kernel matches ${asm}`);
      return;
    }
    const failures: string[] = [];
    const printed: Figures[] = [];
    for (const chip of families) {
      const own = runs.filter(({ family }) => family === chip.family);
      if (own.length === 0) continue;
      const figures = figuresOf(own);
      const matches = ({ id, kernel }: Row) => !pattern || pattern.test(id) || pattern.test(kernel);
      const matching = figures.rows.filter(matches);
      const stored = join(out, `static-${chip.family}.json`);
      printed.push({ ...figures, rows: matching });
      if (check) failures.push(...checkFigures(figures, readStored(stored)));
      else if (before && !json) {
        const ran = ({ workloads: names }: Row) => workloads.some((name) => name in names);
        const former = { ...before, rows: before.rows.filter((row) => ran(row) && matches(row)) };
        console.log(comparisonText(former, figures, matching, width));
      } else if (!json) {
        // The subgroup size that Dawn asks for; the others are in the file.
        const first = matching.filter(({ wave }) => wave === own[0]!.wave);
        console.log(figuresText(figures, chip, first, width));
      }
      if (!check && wave === undefined && options.work === undefined) {
        writeFileAtomic(stored, figuresJson(figures));
        if (!json) console.log(`\nstored as ${stored}\n`);
      }
    }
    if (json) console.log(JSON.stringify(printed));
    else if (!check && !before) console.log(EXPLANATION.flatMap((text) => wrap(text, width)).join("\n"));
    if (check) {
      for (const failure of failures) console.error(`kernels:static: ${failure}`);
      if (failures.length > 0) process.exitCode = 1;
      else
        console.log(
          `kernels:static: ${printed.map(({ family, rows }) => `${rows.length} kernels on ${family}`).join(", ")}: as stored`,
        );
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
