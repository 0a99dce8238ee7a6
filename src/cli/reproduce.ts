import type { Command } from "commander";
import { InvalidArgumentError } from "commander";
import type { DatasetSplits } from "../data/dataset.ts";
import { UsageError } from "../errors.ts";
import {
  checkSeeds,
  parseShard,
  RunDirectory,
  type RunManifest,
  type Shard,
  shardFromEnvironment,
} from "../experiments/cells.ts";
import { type Experiment, PRESETS, type Preset } from "../experiments/experiment.ts";
import { EXPERIMENTS, selectExperiments } from "../experiments/index.ts";
import {
  buildReport,
  findingLines,
  GrowingReport,
  judgeExperiment,
  overall,
  reportHtml,
  reportJson,
  titleOf,
  verdictText,
  writeReport,
} from "../experiments/report.ts";
import { runCells } from "../experiments/runner.ts";
import { checkPort, LiveView } from "../experiments/serve.ts";
import { checkLonger, checkVariant, RUN_NETWORKS, variantOf } from "../experiments/variant.ts";
import { loadDataset } from "../node/datasets.ts";
import type { FolderLock } from "../node/lock.ts";
import { requestGpu } from "../node/request.ts";
import { nearest } from "../options.ts";
import type { NetworkName } from "../train/networks.ts";
import { examples, offer } from "./help.ts";
import {
  addAdapterOption,
  addDataOptions,
  addJsonOption,
  type DataFlags,
  Interruption,
  inOutDirectory,
  integer,
  positiveInteger,
  scaleOf,
  text,
} from "./options.ts";
import { formatSeconds } from "./progress.ts";

interface ReproduceFlags extends DataFlags {
  preset: Preset;
  out: string;
  seeds?: number;
  network?: NetworkName;
  longer?: number;
  resume: boolean;
  shard?: Shard;
  serve?: number | true;
  adapter?: string;
  json?: boolean;
}

/** Runs per configuration unless --seeds says otherwise; the paper has five. */
const DEFAULT_SEEDS: Record<Preset, number> = { "first-look": 1, quick: 1, standard: 3, paper: 5 };
const DEFAULT_PORT = 8110;
const ALL_IDS = EXPERIMENTS.map(({ id }) => id);

export function registerReproduce(program: Command): void {
  const command = program
    .command("reproduce")
    .description("run the experiments of Understanding Batch Normalization, and judge each finding")
    .argument("[id...]", `experiments, default all: ${ALL_IDS.join(", ")}`)
    .option("--preset <name>", PRESETS.join(", "), parsePreset, "first-look");
  addDataOptions(command)
    .option("--out <dir>", "where cells and report go", text, "runs/reproduce")
    .option(
      "--seeds <n>",
      "runs of each configuration, or more than the run in --out has (default: first-look and quick 1, standard 3, paper 5)",
      parseSeeds,
    )
    .option(
      "--network <name>",
      `instead of the paper's, resnetCifar: ${RUN_NETWORKS.slice(1).join(", ")}`,
      parseNetwork,
    )
    .option("--longer <n>", "train n times as long as the preset does", parseLonger)
    .option("--resume", "keep the cells that are in --out, and run the others", false)
    .option(
      "--shard <i/n>",
      "run part i (from 0) of n; default from JOB_COMPLETION_INDEX or SLURM_ARRAY_TASK_ID",
      parseShardOption,
    )
    .option("--serve [port]", `show the report as it grows on this port (default ${DEFAULT_PORT})`, parsePort)
    .action(reproduce);
  addAdapterOption(command);
  addJsonOption(command, "the report's data");
  offer(command, { preset: PRESETS, network: RUN_NETWORKS });
  command.registeredArguments[0]!.argChoices = [...ALL_IDS]; // for completion: the parser has a check of its own
  examples(command, [
    "fusenorm reproduce",
    `fusenorm reproduce ${ALL_IDS.slice(0, 2).join(" ")} --preset standard`,
    "fusenorm reproduce --data ./photos --size 32 --out runs/photos",
    "fusenorm reproduce --preset paper --data cifar10 --out runs/paper --resume",
  ]);
}

export function registerReport(program: Command): void {
  program
    .command("report")
    .description("judge and draw the cells of a run, merged from all of its shards")
    .argument("<dir>", "a directory that reproduce wrote")
    .option("--json", "print the report's data as JSON, and nothing else on standard output")
    .addHelpText("after", "\nExamples:\n  fusenorm report runs/reproduce")
    .action(async (dir: string, { json }: { json?: boolean }) => {
      const directory = new RunDirectory(dir);
      const manifest = directory.readManifest(ALL_IDS);
      await finish(directory, manifest, json);
    });
}

/** An option's parser that takes one of some names. */
function oneOf<T extends string>(names: readonly T[]): (name: string) => T {
  return (name) => {
    const known = names.find((each) => each === name);
    if (known) return known;
    const near = nearest(name, names);
    throw new InvalidArgumentError(
      `"${name}" is none of ${names.join(", ")}${near ? `; did you mean ${near}?` : "."}`,
    );
  };
}

const parsePreset = oneOf(PRESETS);
const parseNetwork = oneOf(RUN_NETWORKS);

/** An option's parser from a check that throws a UsageError. */
function asOption<T>(parse: (value: string) => T): (value: string) => T {
  return (value) => {
    try {
      return parse(value);
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      throw new InvalidArgumentError(error.message);
    }
  };
}

const parseShardOption = asOption(parseShard);
const parsePort = asOption((value) => checkPort(integer(value)));
const parseLonger = asOption((value) => checkLonger(positiveInteger(value)));
const parseSeeds = asOption((value) => checkSeeds(positiveInteger(value)));

async function reproduce(ids: string[], flags: ReproduceFlags): Promise<void> {
  const experiments = selectExperiments(ids);
  const directory = new RunDirectory(flags.out);
  const given = flags.shard ?? shardFromEnvironment(process.env);
  const shard = given ?? { index: 0, count: 1 };
  // Shards share a directory, and a rescheduled one finds its own cells there: they always go on.
  const goesOn = flags.resume || given !== null;
  checkStart(directory, goesOn);
  const scale = scaleOf(flags);
  const data = await loadDataset(flags.data, scale);
  const { height, width, channels } = data.train;
  const manifest: RunManifest = {
    preset: flags.preset,
    dataset: data.train.name.replace(/ train$/, ""),
    ...(scale.height === undefined ? {} : { images: `${height}x${width}x${channels}` }),
    seeds: flags.seeds ?? directory.manifestThere(ALL_IDS)?.seeds ?? DEFAULT_SEEDS[flags.preset],
    experiments: experiments.map(({ id }) => id),
    ...variantOf(flags),
  };
  checkVariant(manifest, data.train);
  const view = flags.serve === undefined ? null : liveView(directory, manifest, experiments);
  try {
    const address = await view?.listen(flags.serve === true ? DEFAULT_PORT : flags.serve!);
    if (address) console.error(`live view: ${address}`);
    const run = (lock: FolderLock) =>
      runHere({ directory, data, manifest, experiments, shard, goesOn, lock, view, flags });
    const html = await inOutDirectory("reproduce", flags.out, run, shard);
    if (view && html !== null) {
      view.finished(html);
      console.error("the live view stays until Ctrl-C");
      const { signal } = new Interruption();
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
    }
  } finally {
    await view?.close();
  }
}

function liveView(directory: RunDirectory, manifest: RunManifest, experiments: Experiment[]): LiveView {
  const growing = new GrowingReport(directory, manifest, experiments);
  return new LiveView(titleOf(manifest), (isLast) => growing.parts(isLast));
}

function checkStart(directory: RunDirectory, goesOn: boolean): void {
  if (directory.hasCells && !goesOn) {
    throw new UsageError(
      `reproduce: ${directory.path} holds the cells of an earlier run; pass --resume to keep them and run the others, or another --out`,
    );
  }
}

interface Run {
  directory: RunDirectory;
  data: DatasetSplits;
  manifest: RunManifest;
  experiments: Experiment[];
  shard: Shard;
  goesOn: boolean;
  lock: FolderLock;
  view: LiveView | null;
  flags: Pick<ReproduceFlags, "adapter" | "json">;
}

/** @returns the report's HTML; null for a shard, or where the run was interrupted */
async function runHere(run: Run): Promise<string | null> {
  const { directory, data, manifest, experiments, shard, lock, view, flags } = run;
  const sharded = shard.count > 1;
  checkStart(directory, run.goesOn); // another run may have been here until now
  directory.checkManifest(manifest, ALL_IDS);
  const gpu = await requestGpu({ adapter: flags.adapter });
  const interruption = new Interruption();
  const started = performance.now();
  let total = 0;
  let done = 0;
  try {
    await directory.writeManifest(manifest, ALL_IDS);
    await runCells({
      gpu,
      data,
      directory,
      manifest,
      experiments,
      shard,
      signal: interruption.signal,
      onReady: ({ cells, kept, flop, flopPerSecond, seconds }) => {
        total = cells;
        console.error(
          `${manifest.preset} preset on ${manifest.dataset}: ${total} cells${sharded ? ` (shard ${shard.index} of ${shard.count})` : ""} on ${gpu.info.name} (${gpu.info.class})`,
        );
        const rate = Number.isNaN(flopPerSecond) ? "" : ` at ${inPowers(flopPerSecond)} FLOP/s measured here`;
        console.error(
          `${kept > 0 ? `${kept} of them are there; ` : ""}${inPowers(flop)} FLOP${rate}: about ${formatSeconds(seconds)}`,
        );
      },
      onStart: (key) => view?.cellStarted(key, total),
      onPoint: (key, curve, x, y) => view?.point(key, curve, x, y),
      beforeWrite: () => lock.check(),
      onDone: ({ key: { experiment, configuration, seed }, seconds, kept, secondsLeft }) => {
        view?.cellDone();
        done += 1;
        const left = done < total ? `, about ${formatSeconds(secondsLeft)} left` : "";
        console.error(
          `[${done}/${total}] ${experiment}: ${configuration.label}, seed ${seed}: ${kept ? "kept" : `${seconds.toFixed(1)} s${left}`}`,
        );
      },
      onExperiment: (experiment) => {
        const { findings } = judgeExperiment(directory, manifest, experiment);
        const verdict = overall(findings) ?? "a table, in the report";
        const told = [`\n${experiment.title}: ${verdict}`, ...findingLines(findings, columns()), ""].join(
          "\n",
        );
        // Standard output is JSON's alone.
        (flags.json ? console.error : console.log)(told);
      },
    });
  } finally {
    interruption.stop();
    gpu.destroy();
  }
  if (interruption.exitCode !== null) {
    console.log(`interrupted after ${done} of ${total} cells; --resume goes on`);
    process.exitCode = interruption.exitCode;
    return null;
  }
  if (sharded) {
    console.log(
      `shard ${shard.index} of ${shard.count}: ${total} cells are in ${directory.path}; \`fusenorm report ${directory.path}\` merges the shards`,
    );
    return null;
  }
  const html = await finish(directory, directory.readManifest(ALL_IDS), flags.json);
  if (!flags.json) console.log(`${formatSeconds((performance.now() - started) / 1e3)} in all`);
  return html;
}

const columns = () => Math.min(process.stdout.columns ?? 110, 120);

/** `2.4e18`, as a number of operations is told. */
const inPowers = (value: number) => value.toExponential(1).replace("e+", "e");

/** Judges what is there, writes the report, prints the verdicts. @returns the report's HTML */
async function finish(directory: RunDirectory, manifest: RunManifest, asJson = false): Promise<string> {
  const report = await buildReport(directory, manifest, selectExperiments(manifest.experiments));
  const { html, json } = await writeReport(directory, report);
  if (asJson) {
    console.log(reportJson(report));
    return reportHtml(report);
  }
  console.log(`\n${verdictText(report, columns())}\n`);
  console.log(`report: ${html}; data: ${json}`);
  return reportHtml(report);
}
