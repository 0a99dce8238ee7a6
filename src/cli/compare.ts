import { join } from "node:path";
import type { Command } from "commander";
import { textTable } from "../experiments/page.ts";
import { type LabelledRun, RUN_TABLE_HEAD, runReport, runRow } from "../experiments/run-report.ts";
import { RESNET_NORMS, type ResNetNorm } from "../nn/models/resnet.ts";
import { loadDataset } from "../node/datasets.ts";
import { writeFileAtomic } from "../node/files.ts";
import { requestGpu } from "../node/request.ts";
import { RecipeTrainer } from "../train/recipe.ts";
import { type TrainOptions, trainOptions } from "../train/train-options.ts";
import { examples } from "./help.ts";
import {
  addDataOptions,
  checkBatchSize,
  type DataFlags,
  Interruption,
  inOutDirectory,
  listOf,
  positiveNumber,
  removePartials,
  scaleOf,
  text,
} from "./options.ts";
import { TrainingProgress } from "./progress.ts";
import { addTrainOptions } from "./train.ts";

/** A network and a run that fit the slowest adapter in a few minutes and still show what batch-norm does. */
const quick = {
  depth: 26,
  width: 8,
  batchSize: 32,
  epochs: 1,
  schedule: "constant",
  augment: false,
} as const;

interface CompareFlags extends Omit<TrainOptions, "norm" | "lr" | "maxSteps">, DataFlags {
  maxSteps?: number;
  out: string;
  norm: ResNetNorm[];
  lr: number[];
  adapter?: string;
  json?: boolean;
}

export function registerCompare(program: Command): void {
  const command = program
    .command("compare")
    .description("train the same network with and without batch-norm at each learning rate, and compare");
  addDataOptions(command)
    .option(
      "--norm <list>",
      `some of ${RESNET_NORMS.join(", ")}, with commas between`,
      listOf((name) => name as ResNetNorm),
      ["batch", "none"],
    )
    .option("--lr <list>", "learning rates, with commas between", listOf(positiveNumber), [0.003, 0.1])
    .option("--out <dir>", "where results go", text, "runs/compare");
  addTrainOptions(command);
  for (const option of command.options) {
    const name = option.attributeName();
    const preset = (quick as Record<string, unknown>)[name];
    if (preset === undefined) continue;
    option.default(preset);
    // Some tell the default that they have elsewhere.
    option.description = option.description.replace(/ \(default: .*\)$/, "");
    command.setOptionValueWithSource(name, preset, "default");
  }
  examples(command, [
    "fusenorm compare --norm batch,none --lr 0.003,0.1",
    "fusenorm compare --lr 1e-3 --epochs 5 --json",
  ]);
  command.action(compare);
}

async function compare(flags: CompareFlags): Promise<void> {
  const { data: source, size, channels, out, norm: norms, lr: rates, adapter, json, ...shared } = flags;
  const configurations = norms.flatMap((norm) => rates.map((lr) => trainOptions({ ...shared, norm, lr })));
  const data = await loadDataset(source, scaleOf({ size, channels }));
  checkBatchSize("compare", configurations[0]!.batchSize, source, data.train.count);
  await inOutDirectory("compare", out, async (lock) => {
    removePartials(out);
    const gpu = await requestGpu({ adapter });
    const progress = new TrainingProgress();
    const interruption = new Interruption();
    const started = performance.now();
    try {
      const runs: (LabelledRun & { options: TrainOptions })[] = [];
      for (const options of configurations) {
        const label = `${NORM_NAMES[options.norm]}, lr ${options.lr}`;
        const trainer = new RecipeTrainer(gpu, data, options);
        if (runs.length === 0) {
          console.error(
            `ResNet-${shared.depth} (width ${shared.width}) on ${data.train.name}: ${configurations.length} runs on ${gpu.info.name} (${gpu.info.class})`,
          );
        }
        const { signal } = interruption;
        const history = await trainer.run({
          ...progress.follow(label.padEnd(28), trainer.totalSteps),
          signal,
        });
        trainer.dispose();
        if (interruption.exitCode !== null) {
          progress.stop();
          (json ? console.error : console.log)(
            `interrupted after ${runs.length} of ${configurations.length} runs; nothing was written to ${out}`,
          );
          process.exitCode = interruption.exitCode;
          return;
        }
        runs.push({ label, history, options });
      }
      progress.stop();
      const seconds = (performance.now() - started) / 1e3;
      const sentence = conclude(runs);
      lock.check();
      const results = JSON.stringify(
        { dataset: data.train.name, adapter: gpu.info, seconds, sentence, runs },
        null,
        1,
      );
      await writeFileAtomic(join(out, "runs.json"), results);
      const report = join(out, "report.html");
      await writeFileAtomic(
        report,
        await runReport(`Batch-norm and the learning rate: ${data.train.name}`, runs, gpu.info, sentence),
      );
      if (json) {
        console.log(results);
        return;
      }
      console.log(`\n${textTable(RUN_TABLE_HEAD, runs.map(runRow))}\n\n${sentence}\n`);
      console.log(`${seconds.toFixed(0)} s on ${gpu.info.name}; curves in ${report}`);
    } finally {
      interruption.stop();
      progress.stop();
      gpu.destroy();
    }
  });
}

const NORM_NAMES: Record<ResNetNorm, string> = {
  batch: "with batch-norm",
  none: "without batch-norm",
  last: "batch-norm last",
  layer: "with layer norm",
  group: "with group norm",
  instance: "with instance norm",
  weight: "with weight normalisation",
  fixup: "with Fixup",
  skipinit: "with SkipInit",
};

/** What was seen, from the runs' numbers alone. */
function conclude(runs: readonly (LabelledRun & { options: TrainOptions })[]): string {
  const best = (norm: ResNetNorm) =>
    runs
      .filter(({ options }) => options.norm === norm)
      .map((run) => ({
        lr: run.options.lr,
        diverged: run.history.divergedAt !== null,
        accuracy: run.history.divergedAt === null ? (run.history.evals.at(-1)?.testAccuracy ?? 0) : 0,
      }));
  const describe = (norm: ResNetNorm) => {
    const all = best(norm);
    if (all.length === 0) return null;
    const top = all.reduce((a, b) => (b.accuracy > a.accuracy ? b : a));
    const diverged = all.filter((run) => run.diverged).map((run) => run.lr);
    const fate =
      diverged.length > 0 ? `diverged at ${diverged.join(" and ")}` : "diverged at none of the rates";
    const reach =
      diverged.length === all.length
        ? ""
        : ` and reached ${(100 * top.accuracy).toFixed(1)} % test accuracy at best (rate ${top.lr})`;
    return `${NORM_NAMES[norm]} it ${fate}${reach}`;
  };
  const parts = RESNET_NORMS.map(describe).filter((part) => part !== null);
  return `The same network at learning rates ${[...new Set(runs.map((run) => run.options.lr))].join(", ")}: ${parts.join("; ")}.`;
}
