import type { Command } from "commander";
import { InvalidArgumentError } from "commander";
import { UsageError } from "../errors.ts";
import {
  listCells,
  parseShard,
  RunDirectory,
  type RunManifest,
  type Shard,
  shardFromEnvironment,
  shardOf,
} from "../experiments/cells.ts";
import { PRESETS, type Preset } from "../experiments/experiment.ts";
import { EXPERIMENTS, selectExperiments } from "../experiments/index.ts";
import { buildReport, reportHtml, verdictText, writeReport } from "../experiments/report.ts";
import { runCells } from "../experiments/runner.ts";
import { LiveView } from "../experiments/serve.ts";
import { loadDataset } from "../node/datasets.ts";
import { requestGpu } from "../node/request.ts";
import { integer, positiveInteger } from "./options.ts";
import { formatSeconds } from "./progress.ts";

interface ReproduceFlags {
  preset: Preset;
  data: string;
  out: string;
  seeds?: number;
  resume: boolean;
  shard?: Shard;
  serve?: number | true;
}

/** Runs per configuration unless --seeds says otherwise; the paper has five. */
const DEFAULT_SEEDS: Record<Preset, number> = { quick: 1, standard: 3, paper: 5 };
const DEFAULT_PORT = 8110;

export function registerReproduce(program: Command): void {
  program
    .command("reproduce")
    .description("run the experiments of Understanding Batch Normalization, and judge each finding")
    .argument("[id...]", `experiments, default all: ${EXPERIMENTS.map(({ id }) => id).join(", ")}`)
    .option("--preset <name>", PRESETS.join(", "), parsePreset, "quick")
    .option("--data <dir>", "a directory, or embedded, fashion-mnist, cifar10", "embedded")
    .option("--out <dir>", "where cells and report go", "runs/reproduce")
    .option(
      "--seeds <n>",
      "runs of each configuration (default: quick 1, standard 3, paper 5)",
      positiveInteger,
    )
    .option("--resume", "keep the cells that are in --out, and run the others", false)
    .option(
      "--shard <i/n>",
      "run part i (from 0) of n; default from JOB_COMPLETION_INDEX or SLURM_ARRAY_TASK_ID",
      parseShardOption,
    )
    .option("--serve [port]", `show the curves as they grow on this port (default ${DEFAULT_PORT})`, integer)
    .action(reproduce);
}

export function registerReport(program: Command): void {
  program
    .command("report")
    .description("judge and draw the cells of a run, merged from all of its shards")
    .argument("<dir>", "a directory that reproduce wrote")
    .action(async (dir: string) => {
      const directory = new RunDirectory(dir);
      const manifest = directory.readManifest();
      await finish(directory, manifest);
    });
}

function parsePreset(text: string): Preset {
  const preset = PRESETS.find((name) => name === text);
  if (!preset) throw new InvalidArgumentError(`"${text}" is none of ${PRESETS.join(", ")}.`);
  return preset;
}

function parseShardOption(text: string): Shard {
  try {
    return parseShard(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

async function reproduce(ids: string[], flags: ReproduceFlags): Promise<void> {
  const experiments = selectExperiments(ids);
  const directory = new RunDirectory(flags.out);
  const given = flags.shard ?? shardFromEnvironment(process.env);
  const shard = given ?? { index: 0, count: 1 };
  const sharded = shard.count > 1;
  // Shards share a directory, and a rescheduled one finds its own cells there: they always go on.
  if (directory.hasCells && !flags.resume && !given) {
    throw new UsageError(
      `reproduce: ${flags.out} holds the cells of an earlier run; pass --resume to keep them and run the others, or another --out`,
    );
  }
  const data = await loadDataset(flags.data);
  const manifest: RunManifest = {
    preset: flags.preset,
    dataset: data.train.name.replace(/ train$/, ""),
    seeds: flags.seeds ?? DEFAULT_SEEDS[flags.preset],
    experiments: experiments.map(({ id }) => id),
  };
  await directory.writeManifest(
    manifest,
    EXPERIMENTS.map(({ id }) => id),
  );

  const total = shardOf(listCells(experiments, manifest), shard).length;
  const gpu = await requestGpu();
  const view =
    flags.serve === undefined ? null : new LiveView(`fusenorm reproduce: ${manifest.dataset}`, experiments);
  if (view)
    console.error(`live view: ${await view.listen(flags.serve === true ? DEFAULT_PORT : flags.serve!)}`);
  const abort = new AbortController();
  const interrupt = () => abort.abort();
  process.once("SIGINT", interrupt);
  console.error(
    `${manifest.preset} preset on ${manifest.dataset}: ${total} cells${sharded ? ` (shard ${shard.index} of ${shard.count})` : ""} on ${gpu.info.name} (${gpu.info.class})`,
  );
  const started = performance.now();
  let done = 0;
  let ran = 0;
  try {
    await runCells({
      gpu,
      data,
      directory,
      manifest,
      experiments,
      shard,
      signal: abort.signal,
      onStart: (key) => view?.cellStarted(key, total),
      onPoint: (key, curve, x, y) => view?.point(key, curve, x, y),
      onDone: ({ experiment, configuration, seed }, seconds, skipped) => {
        view?.cellDone();
        done += 1;
        if (!skipped) ran += 1;
        const elapsed = (performance.now() - started) / 1e3;
        const left = ran > 0 ? `, about ${formatSeconds((elapsed / ran) * (total - done))} left` : "";
        console.error(
          `[${done}/${total}] ${experiment}: ${configuration.label}, seed ${seed}: ${skipped ? "kept" : `${seconds.toFixed(1)} s${left}`}`,
        );
      },
    });
  } finally {
    process.off("SIGINT", interrupt);
    gpu.destroy();
  }
  if (abort.signal.aborted) {
    console.log(`interrupted after ${done} of ${total} cells; --resume goes on`);
    process.exitCode = 130;
    await view?.close();
    return;
  }
  if (sharded) {
    console.log(
      `shard ${shard.index} of ${shard.count}: ${total} cells are in ${flags.out}; \`fusenorm report ${flags.out}\` merges the shards`,
    );
    await view?.close();
    return;
  }
  const html = await finish(directory, directory.readManifest());
  console.log(`${formatSeconds((performance.now() - started) / 1e3)} in all`);
  if (view) {
    view.finished(html);
    console.error("the live view stays until Ctrl-C");
    await new Promise<void>((resolve) => process.once("SIGINT", () => resolve()));
    await view.close();
  }
}

/** Judges what is there, writes the report, prints the verdicts. @returns the report's HTML */
async function finish(directory: RunDirectory, manifest: RunManifest): Promise<string> {
  const report = await buildReport(directory, manifest, selectExperiments(manifest.experiments));
  const { html, json } = await writeReport(directory, report);
  console.log(`\n${verdictText(report, Math.min(process.stdout.columns ?? 110, 120))}\n`);
  console.log(`report: ${html}; data: ${json}`);
  return reportHtml(report);
}
