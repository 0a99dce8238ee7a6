// `npm run bench`: the suites of list.ts on the best adapter there is.

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Presets, SingleBar } from "cli-progress";
import { Argument, Command, CommanderError } from "commander";
import { positiveInteger, positiveNumber } from "../src/cli/options.ts";
import type { KernelTiming } from "../src/device/profiler.ts";
import { FusenormError, UsageError } from "../src/errors.ts";
import type { Gpu } from "../src/gpu.ts";
import { writeFileAtomic } from "../src/node/files.ts";
import { requestGpu } from "../src/node/request.ts";
import { chromeTrace } from "../src/train/profile-report.ts";
import { type CopyBandwidth, fastestCopy, largeCopyBytes } from "./lib/copy.ts";
import { dropInputs } from "./lib/inputs.ts";
import {
  alignedTable,
  comparisonTable,
  formatMs,
  htmlReport,
  markdownReport,
  percent,
  provenance,
  textTables,
} from "./lib/report.ts";
import {
  adapterSlug,
  type BenchResults,
  compareResults,
  environment,
  readResults,
  SCHEMA,
  slug,
} from "./lib/results.ts";
import { type BenchGroup, type CaseResult, type GroupResult, runGroup } from "./lib/runner.ts";
import { packageVersion } from "./lib/version.ts";
import { suites } from "./list.ts";
import { type MemoryCase, measureMemory, memoryCases } from "./memory.ts";
import { measureScaling, type ScalingCase, type ScalingRow, scalingCases } from "./scaling.ts";

export interface BenchOptions {
  filter?: string;
  quick?: boolean;
  variants?: boolean;
  batch?: number;
  rounds?: number;
  callMs?: number;
  compare?: string;
  threshold: number;
  /** A folder, or true for the default one. */
  profile?: string | boolean;
  out: string;
  adapter?: string;
  list?: boolean;
}

/** What the command's argument may name. */
const SUITES = [...suites.map(({ name }) => name), "memory", "scaling"];

const RESULTS = fileURLToPath(new URL("results/", import.meta.url));

export function benchCommand(): Command {
  return new Command("bench")
    .description("Fused against unfused batch-norm, convolutions and whole training steps, on one adapter")
    .addArgument(new Argument("[suites...]", "all but scaling unless some are named").choices(SUITES))
    .option("--filter <words>", 'only groups whose id holds every one of these words, e.g. "backward relu"')
    .option("--quick", "fewer shapes and rounds: under two minutes on a software adapter")
    .option("--variants", "also every variant of the kernels that the chooser does not take")
    .option("--batch <n>", "images in a batch, instead of the suites' own", positiveInteger)
    .option("--rounds <n>", "interleaved rounds; default 15, quick 5", positiveInteger)
    .option("--call-ms <ms>", "about how long one timed call lasts; default 40, quick 15", positiveNumber)
    .option("--compare <file>", "report regressions against the results of an earlier run, and fail on any")
    .option("--threshold <ratio>", "from which ratio of costs on a case has regressed", positiveNumber, 1.25)
    .option("--profile [dir]", "a table per kernel, and a trace file per case for chrome://tracing")
    .option("--out <dir>", "where the results go", RESULTS)
    .option("--adapter <name>", "hardware, lavapipe, swiftshader, or part of an adapter's name")
    .option("--list", "print the groups and end")
    .showHelpAfterError()
    .exitOverride();
}

/** Runs the groups that `options` ask for. `onGroup` gets each result as it is there. */
export async function runBenches(
  gpu: Gpu,
  options: Pick<BenchOptions, "filter" | "quick" | "variants" | "batch" | "rounds" | "callMs"> & {
    /** Names of suites. Default: all. */
    suites?: readonly string[];
    /** Groups that would begin later than this (`performance.now()`) are left out. */
    deadline?: number;
    /** Groups whose id holds one of these come before the others, in this order. */
    first?: readonly string[];
  },
  hooks: {
    onStart?(groups: number): void;
    onGroupStart?(title: string): void;
    onGroup?(group: GroupResult): void;
    /** A row of `scaling`. */
    onRow?(title: string, ms: number): void;
    onFailure?(title: string, message: string): void;
    onProfile?(caseId: string, timings: KernelTiming[]): void;
  } = {},
): Promise<BenchResults> {
  const quick = options.quick ?? false;
  const first = options.first ?? [];
  const rank = (id: string) => {
    const at = first.findIndex((word) => id.includes(word));
    return at < 0 ? first.length : at;
  };
  const chosen = choose(gpu, options);
  const groups = chosen.groups.sort((a, b) => rank(a.id) - rank(b.id));
  const date = new Date().toISOString();
  const copy = await fastestCopy(gpu, largeCopyBytes(gpu));
  const configs = new Map<number, CopyBandwidth>();
  const copyConfig = async (bytes: number) => {
    const known = configs.get(bytes) ?? (await fastestCopy(gpu, bytes));
    configs.set(bytes, known);
    return known;
  };
  hooks.onStart?.(groups.length + chosen.scaling.length);
  const done: GroupResult[] = [];
  const missing: BenchResults["missing"] = [];
  for (const group of groups) {
    if (performance.now() > (options.deadline ?? Number.POSITIVE_INFINITY)) {
      missing.push({ id: group.id, reason: "out of time", failed: false });
      continue;
    }
    hooks.onGroupStart?.(group.title);
    try {
      const result = await runGroup(gpu, group, {
        rounds: options.rounds ?? (quick ? 5 : 15),
        callMs: options.callMs ?? (quick ? 15 : 40),
        maxPreparedBytes: gpu.isSoftware ? 1e9 : 8e9,
        copyConfig,
        onProfile: hooks.onProfile,
      });
      done.push(result);
      hooks.onGroup?.(result);
    } catch (error) {
      // Too large for this adapter's memory, say: the others go on.
      if (!(error instanceof FusenormError)) throw error;
      missing.push({ id: group.id, reason: error.message, failed: true });
      hooks.onFailure?.(group.title, error.message);
    }
  }
  dropInputs(gpu);
  const memory = chosen.memory.map((one) => measureMemory(gpu, one));
  const scaling: ScalingRow[] = [];
  for (const one of chosen.scaling) {
    hooks.onGroupStart?.(one.id);
    const row = await measureScaling(gpu, one, {
      rounds: options.rounds ?? (quick ? 3 : 7),
      callMs: options.callMs ?? (quick ? 15 : 400),
    });
    scaling.push(row);
    hooks.onRow?.(one.id, row.ms);
  }
  const { gbPerSecond, bytes } = copy;
  return {
    schema: SCHEMA,
    date,
    environment: environment(packageVersion(), gpu.info),
    quick,
    copy: { gbPerSecond, bytes },
    groups: done,
    memory,
    ...(scaling.length > 0 && { scaling }),
    missing,
  };
}

/** What `options` ask for: groups to time, and steps to count. */
function choose(
  gpu: Gpu,
  { filter, quick = false, variants = false, batch = 0, suites: given }: Parameters<typeof runBenches>[1],
): { groups: BenchGroup[]; memory: MemoryCase[]; scaling: ScalingCase[] } {
  const words = filter?.split(/\s+/).filter(Boolean) ?? [];
  const named = given ?? SUITES.filter((name) => name !== "scaling");
  const groups = suites
    .filter(({ name }) => named.includes(name))
    .flatMap((suite) => suite.groups(gpu, { quick, variants, batch }));
  const memory = named.includes("memory") ? memoryCases({ batch }) : [];
  const scaling = named.includes("scaling") ? scalingCases(gpu, { quick, batch }) : [];
  const all = [...groups, ...memory, ...scaling];
  // Parts of an id are matched whole where they can be: `relu` is not `residual+relu`.
  const matches = (id: string, word: string) => {
    const parts = id.split("/");
    const known = all.some((group) => group.id.split("/").includes(word));
    return known ? parts.includes(word) : id.includes(word);
  };
  const wanted = ({ id }: { id: string }) => words.every((word) => matches(id, word));
  if (!all.some(wanted)) {
    throw new UsageError(
      `bench: --filter is "${filter}", and none of the ${all.length} groups has all of these words in its id; ` +
        `ids are like ${all[0]?.id ?? "batch_norm/forward/relu/32x32x32x32"} (see --list)`,
    );
  }
  return { groups: groups.filter(wanted), memory: memory.filter(wanted), scaling: scaling.filter(wanted) };
}

/** Those that are named; `scaling` also as a word of the filter, since it is asked for alone. */
function suitesOf(command: Command): string[] | undefined {
  if (command.args.length > 0) return command.args;
  const { filter = "" } = command.opts<BenchOptions>();
  return filter.split(/\s+/).includes("scaling") ? ["scaling"] : undefined;
}

async function main(argv: readonly string[]): Promise<void> {
  const command = benchCommand();
  command.parse([...argv], { from: "user" });
  const options = {
    ...command.opts<BenchOptions>(),
    suites: suitesOf(command),
  };
  if (options.threshold <= 1) {
    throw new UsageError(
      `bench: --threshold is ${options.threshold}; expected a ratio above 1, such as 1.25`,
    );
  }
  // Read first: a wrong path should not cost a whole run.
  const earlier = options.compare ? readResults(options.compare) : null;
  const gpu = await requestGpu({ adapter: options.adapter });
  try {
    if (options.list) {
      const { groups, memory, scaling } = choose(gpu, options);
      for (const { id, where } of groups) console.log(`${id}  (${where})`);
      for (const { id } of memory) console.log(`${id}  (counted, not timed)`);
      for (const { id } of scaling) console.log(`${id}  (one step, fused)`);
      return;
    }
    const software = gpu.isSoftware ? "software" : "hardware";
    console.error(`${gpu.info.name} (${software}); measuring copy bandwidth …`);
    // Some suites leave the results of all of them alone.
    const name = [adapterSlug(gpu.info.name), ...(options.suites ?? [])].join("-");
    const profile = profileWriter(options, name);
    const progress = groupProgress();
    let results: BenchResults;
    try {
      results = await runBenches(gpu, options, { ...progress, onProfile: profile?.write });
    } finally {
      progress.stop();
    }
    console.log(`\n${provenance(results)}\n\n${textTables(results)}`);
    await profile?.finish(results);
    const files = {
      [`${name}.json`]: `${JSON.stringify(results, null, 1)}\n`,
      [`${name}.md`]: markdownReport(results),
      [`${name}.html`]: await htmlReport(results),
    };
    for (const [file, content] of Object.entries(files))
      await writeFileAtomic(join(options.out, file), content);
    const paths = Object.keys(files).map((file) => join(options.out, file));
    console.log(`\nwritten: ${paths.join(", ")}`);
    const failed = results.missing.filter((one) => one.failed);
    if (failed.length > 0) {
      console.error(`bench: ${failed.length} groups failed: ${failed.map(({ id }) => id).join(", ")}`);
      process.exitCode = 1;
    }
    if (earlier) {
      const comparison = compareResults(earlier, results, options.threshold);
      console.log(`\nagainst ${options.compare}\n${comparisonTable(comparison, options.threshold)}`);
      const slower = comparison.changes.filter(({ regressed }) => regressed).length;
      if (slower > 0) {
        console.error(
          `bench: ${slower} of ${comparison.changes.length} cases cost over ${options.threshold}× what they did`,
        );
        process.exitCode = 2;
      }
    }
  } finally {
    gpu.destroy();
  }
}

/** A bar on a terminal, a line per group elsewhere. */
function groupProgress() {
  const bar = process.stderr.isTTY
    ? new SingleBar(
        {
          format: "{bar} {value}/{total} │ {title} │ {eta_formatted} left",
          stream: process.stderr,
          hideCursor: true,
        },
        Presets.rect,
      )
    : null;
  let total = 0;
  let count = 0;
  return {
    onStart(groups: number) {
      total = groups;
      bar?.start(groups, 0, { title: "" });
    },
    onGroupStart(title: string) {
      bar?.update(count, { title });
    },
    onGroup(group: GroupResult) {
      count += 1;
      bar?.update(count);
      if (!bar) {
        const times = group.cases.map((one) => `${one.name} ${formatMs(one.wall.median)} ms`).join(", ");
        console.error(`${count}/${total} ${group.title}: ${times}`);
      }
    },
    onRow(title: string, ms: number) {
      count += 1;
      bar?.update(count);
      if (!bar) console.error(`${count}/${total} ${title}: ${formatMs(ms)} ms`);
    },
    onFailure(title: string, message: string) {
      count += 1;
      console.error(`${count}/${total} ${title}: ${message}`);
    },
    stop: () => bar?.stop(),
  };
}

function profileWriter(options: BenchOptions, adapter: string) {
  if (!options.profile) return null;
  const folder =
    typeof options.profile === "string" ? options.profile : join(options.out, "profiles", adapter);
  const traces: [path: string, content: string][] = [];
  return {
    write(caseId: string, timings: KernelTiming[]) {
      traces.push([join(folder, `${slug(caseId)}.trace.json`), chromeTrace(timings)]);
    },
    async finish(results: BenchResults) {
      for (const group of results.groups) {
        for (const one of group.cases) console.log(`\n${kernelTable(one, group)}`);
      }
      for (const [path, content] of traces) await writeFileAtomic(path, content);
      console.log(`\n${traces.length} trace files in ${folder}, for chrome://tracing or ui.perfetto.dev`);
    },
  };
}

/** The kernels of one case, the costliest first, with their share of what a copy of one tensor reaches. */
export function kernelTable(one: CaseResult, { copyGbPerSecond }: GroupResult): string {
  if (one.kernels.length === 0) return `${one.id}: this adapter has no timestamp-query`;
  const rows = one.kernels.map(({ kernel, calls, totalUs, share, gigabytesPerSecond, gigaflops }) => [
    kernel,
    `${calls}`,
    formatMs(totalUs / 1e3),
    percent(share),
    gigabytesPerSecond.toFixed(1),
    copyGbPerSecond === null ? "–" : percent(gigabytesPerSecond / copyGbPerSecond),
    gigaflops > 0 ? gigaflops.toFixed(1) : "–",
  ]);
  return `${one.id}\n${alignedTable(["kernel", "calls", "GPU ms", "share", "GB/s", "of copy", "GFLOP/s"], rows, 1)}`;
}

/** Runs the command and sets the exit code; errors of ours are one line. */
export async function runMain(argv: readonly string[]): Promise<void> {
  try {
    await main(argv);
  } catch (error) {
    if (error instanceof CommanderError) process.exitCode = error.exitCode;
    else if (error instanceof FusenormError) {
      console.error(error.message);
      process.exitCode = 1;
    } else throw error;
  }
}
