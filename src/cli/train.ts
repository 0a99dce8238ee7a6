import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { type ChannelMoments, channelMoments, type ImageDataset } from "../data/dataset.ts";
import { DataError, UsageError } from "../errors.ts";
import { textTable } from "../experiments/page.ts";
import { runReport } from "../experiments/run-report.ts";
import { printable } from "../foreign.ts";
import type { Gpu } from "../gpu.ts";
import { INITS } from "../nn/init.ts";
import { RESNET_NORMS } from "../nn/models/resnet.ts";
import { loadDataset } from "../node/datasets.ts";
import { writeFileAtomic } from "../node/files.ts";
import { requestGpu } from "../node/request.ts";
import { tensorBoardLog } from "../node/tensor-board.ts";
import { decodeCheckpoint, encodeCheckpoint } from "../train/checkpoint.ts";
import { classifierOf, isCifarNetwork, NETWORK_NAMES } from "../train/networks.ts";
import { chromeTrace, summarizeTimings } from "../train/profile-report.ts";
import type { RecipeStart } from "../train/recipe.ts";
import { trainThroughLosses } from "../train/recovery.ts";
import {
  defaultTrainOptions,
  OPTIMIZER_NAMES,
  SCHEDULE_NAMES,
  type TrainOptions,
  trainOptions,
} from "../train/train-options.ts";
import type { Trainer } from "../train/trainer.ts";
import { examples, offer } from "./help.ts";
import { measureCopyBandwidth, measureMatmul } from "./measure.ts";
import {
  addAdapterOption,
  addDataOptions,
  addJsonOption,
  checkBatchSize,
  type DataFlags,
  Interruption,
  inOutDirectory,
  integer,
  number,
  positiveInteger,
  removePartials,
  scaleOf,
  text,
} from "./options.ts";
import { TrainingProgress } from "./progress.ts";
import { areMoments, repeatable } from "./saved-network.ts";
import { describeWeights, loadWeights, readWeights, type Weights, type WeightsReport } from "./weights.ts";

export const CHECKPOINT_FILE = "checkpoint.safetensors";

/** The options of one training run, shared by the commands that train: to be added after those of their own. */
export function addTrainOptions(command: Command): void {
  const d = defaultTrainOptions;
  command
    .option("--depth <layers>", "6n + 2: 8, 14, 20, 32, 44, 56, 110 …", positiveInteger, d.depth)
    .option(
      "--width <channels>",
      "channels of the first stage (default: 16, or 64 of networks with a name of torchvision's)",
      positiveInteger,
    )
    .option("--init <scheme>", INITS.join(", "), d.init)
    .option("--schedule <name>", "constant, step (÷10 at 50 % and 75 %), cosine or one-cycle", d.schedule)
    .option("--warmup-steps <n>", "steps of linear warm-up", integer, d.warmupSteps)
    .option("--momentum <m>", "of sgd, rmsprop and muon (default: 0.9, or 0.95 of muon)", number)
    .option("--nesterov", "Nesterov's momentum, of sgd", d.nesterov)
    .option("--weight-decay <rate>", "weight decay, such as 5e-4", number, d.weightDecay)
    .option("--clip-grad-norm <most>", "scale gradients down to this norm", number)
    .option("--batch-size <n>", "images a step", positiveInteger, d.batchSize)
    .option("--epochs <n>", "passes over the training set", positiveInteger, d.epochs)
    .option("--max-steps <n>", "end after so many steps", positiveInteger)
    .option("--no-augment", "no random crops and flips")
    .option("--no-capture", "dispatch every step anew instead of replaying the first")
    .option("--seed <n>", "weights, order and augmentation", integer, d.seed)
    .option("--log-every <n>", "steps between two readings", positiveInteger, d.logEvery);
  addAdapterOption(command);
  addJsonOption(command, "what came out");
  offer(command, {
    norm: RESNET_NORMS,
    init: INITS,
    schedule: SCHEDULE_NAMES,
    depth: ["8", "14", "20", "32", "44", "56", "110"],
  });
}

/** `resnetCifar-20 (width 16, norm batch)`; `resnet18 (width 64), adamw` */
function describe({ model, depth, width, norm, optimizer }: TrainOptions): string {
  const name = isCifarNetwork(model)
    ? `${model === "resnetCifar" ? "ResNet" : model}-${depth} (width ${width}, norm ${norm})`
    : model;
  return optimizer === defaultTrainOptions.optimizer ? name : `${name} by ${optimizer}`;
}

interface TrainFlags extends Omit<TrainOptions, "maxSteps">, DataFlags {
  maxSteps?: number;
  weights?: string;
  mean?: number[];
  std?: number[];
  out: string;
  resume: boolean;
  tensorboard: boolean;
  profile: boolean;
  checkpointEvery?: number;
  adapter?: string;
  json?: boolean;
}

export function registerTrain(program: Command): void {
  const command = program
    .command("train")
    .description("train one network; checkpoints after each epoch, history and report in --out");
  addDataOptions(command)
    .option("--model <name>", NETWORK_NAMES.join(", "), defaultTrainOptions.model)
    .option("--optimizer <name>", OPTIMIZER_NAMES.join(", "), defaultTrainOptions.optimizer)
    .option("--norm <name>", RESNET_NORMS.join(", "), defaultTrainOptions.norm)
    .option("--lr <rate>", "initial learning rate, such as 0.1 or 1e-3", number, defaultTrainOptions.lr)
    .option(
      "--weights <file>",
      "start from pretrained ones: safetensors, .npz or ONNX, by PyTorch's names",
      text,
    )
    .option("--freeze", "of --weights: train the classifier alone", false)
    .option("--freeze-batch-norm", "of --weights: batch-norms stay as they are", false)
    .option(
      "--mean <list>",
      "what images are normalised by, of each channel, pixels from 0 to 1 (default: that of --weights, or of the training set)",
      repeatable,
    )
    .option("--std <list>", "likewise the deviation", repeatable)
    .option("--out <dir>", "where results go", text, "runs/train")
    .option("--profile", "time the kernels of the third step: a table, and a trace file in --out", false)
    .option("--tensorboard", "log to event files for TensorBoard in --out, too", false)
    .option("--resume", "go on from the checkpoint in --out", false)
    .option("--checkpoint-every <n>", "checkpoints after every n steps, too", positiveInteger);
  addTrainOptions(command);
  offer(command, { model: NETWORK_NAMES, optimizer: OPTIMIZER_NAMES });
  examples(command, [
    "fusenorm train --depth 8 --epochs 2",
    "fusenorm train --model resnet18 --optimizer adamw --lr 1e-3 --schedule one-cycle",
    "fusenorm train --optimizer muon --lr 1e-3 --schedule cosine",
    "fusenorm train --data ./photos --size 64 --model resnet18 --optimizer adamw --lr 1e-3",
    "fusenorm train --data ./photos --size 224 --model resnet18 --weights resnet18.safetensors --freeze --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
    "fusenorm train --data cifar10 --lr 0.1 --epochs 160 --out runs/cifar10",
    "fusenorm train --data cifar10 --epochs 160 --out runs/cifar10 --resume",
  ]);
  command.action(train);
}

async function train(flags: TrainFlags): Promise<void> {
  const {
    data: source,
    size,
    channels,
    weights: weightsFile,
    mean,
    std,
    out,
    resume,
    tensorboard,
    profile,
    checkpointEvery,
    adapter: wish,
    json,
    ...rest
  } = flags;
  const options = trainOptions(rest);
  const checkpointFile = join(out, CHECKPOINT_FILE);
  const checkStart = () => {
    if (existsSync(checkpointFile) && !resume) {
      throw new UsageError(
        `train: ${printable(checkpointFile)} exists; pass --resume to go on from it, or another --out`,
      );
    }
    if (resume && !existsSync(checkpointFile)) {
      throw new DataError(
        `train: --resume was given, but there is no ${printable(checkpointFile)}; leave --resume out to start anew`,
      );
    }
  };
  checkStart();
  for (const [name, flag] of Object.entries({ freeze: "--freeze", freezeBatchNorm: "--freeze-batch-norm" })) {
    if (weightsFile !== undefined || !options[name as "freeze"]) continue;
    throw new UsageError(
      `train: ${flag} is given without --weights; expected pretrained weights: those of a new network have nothing to keep`,
    );
  }
  const data = await loadDataset(source, scaleOf({ size, channels }));
  checkBatchSize("train", options.batchSize, source, data.train.count);
  const weights = weightsFile === undefined ? null : await readWeights(weightsFile);
  const moments = momentsGiven({ mean, std }, weights, data.train);
  let report: WeightsReport | null = null;
  const start: RecipeStart = {
    ...(moments ? { moments: moments.values } : {}),
    ...(weights ? { settings: { weights: weights.checksum } } : {}),
    prepare: (model) => {
      if (weights) report = loadWeights(model, weights, options, data.train);
    },
  };
  await inOutDirectory("train", out, async (lock) => {
    checkStart(); // another run may have been here until now
    removePartials(out);
    const from = resume ? decodeCheckpoint(readFileSync(checkpointFile), checkpointFile) : undefined;
    let started = 0;
    let startStep = 0;
    let callbacks: ReturnType<TrainingProgress["follow"]> | null = null;
    const progress = new TrainingProgress();
    const interruption = new Interruption();
    try {
      const { history, step, adapter } = await trainThroughLosses(
        () => requestGpu({ adapter: wish }),
        data,
        options,
        {
          from,
          start,
          checkpointEvery,
          callbacks: tensorboard ? [tensorBoardLog(out)] : [],
          onStart: async (trainer, gpu) => {
            if (callbacks) return; // on a fresh device
            console.error(
              `${describe(options)} on ${data.train.name}, lr ${options.lr}, ` +
                `${trainer.totalSteps} steps of ${options.batchSize}, on ${gpu.info.name} (${gpu.info.class})`,
            );
            for (const line of weightLines(trainer, report, moments)) console.error(line);
            if (profile) await profileTraining(gpu, trainer, out, json ? console.error : console.log);
            started = performance.now();
            startStep = trainer.step;
            callbacks = progress.follow("train", trainer.totalSteps, startStep);
          },
          onLog: (...args) => callbacks?.onLog?.(...args),
          onEval: (...args) => callbacks?.onEval?.(...args),
          onCheckpoint: async (state) => {
            lock.check();
            await writeFileAtomic(checkpointFile, encodeCheckpoint(state));
          },
          onLoss: ({ error, attempt, attempts, step: at }) =>
            console.error(
              `${error.message.split(";")[0]}; asking for a fresh one (try ${attempt} of ${attempts - 1}) to go on from step ${at}`,
            ),
          signal: interruption.signal,
        },
      );
      progress.stop();
      const seconds = (performance.now() - started) / 1e3;
      const rate = ((step - startStep) * options.batchSize) / seconds;
      lock.check();
      await writeFileAtomic(
        join(out, "history.json"),
        JSON.stringify(
          {
            ...{ options, dataset: data.train.name, adapter, seconds },
            ...(report ? { weights: report } : {}),
            ...history,
          },
          null,
          1,
        ),
      );
      await writeFileAtomic(
        join(out, "report.html"),
        await runReport(
          `Training on ${data.train.name}`,
          [{ label: `${describe(options)}, lr ${options.lr}`, history }],
          adapter,
        ),
      );
      const last = history.log.at(-1);
      const test = history.evals.at(-1);
      const interrupted = interruption.exitCode !== null;
      if (interrupted) process.exitCode = interruption.exitCode!;
      if (json) {
        const { divergedAt } = history;
        const figures = {
          loss: last?.loss ?? null,
          testAccuracy: test?.testAccuracy ?? null,
          imagesPerSecond: rate,
        };
        console.log(
          JSON.stringify(
            { out, step, ...figures, seconds, divergedAt, interrupted, adapter, options, weights: report },
            null,
            2,
          ),
        );
        return;
      }
      console.log(
        interrupted
          ? `interrupted at step ${step}; --resume goes on from ${printable(checkpointFile)}`
          : history.divergedAt !== null
            ? `diverged at step ${history.divergedAt}: loss ${last?.loss}`
            : `step ${step}: loss ${last?.loss.toFixed(4)}, test accuracy ${(100 * (test?.testAccuracy ?? 0)).toFixed(2)} %, ` +
              `${rate.toFixed(rate < 10 ? 1 : 0)} images/s, ${seconds.toFixed(0)} s; results in ${printable(out)}`,
      );
    } finally {
      interruption.stop();
      progress.stop();
    }
  });
}

/** What images are normalised by, and who says so. @throws UsageError for numbers that are none for these images */
function momentsGiven(
  flags: Partial<ChannelMoments>,
  weights: Weights | null,
  train: ImageDataset,
): { values: ChannelMoments; whose: string } | null {
  if (!weights && flags.mean === undefined && flags.std === undefined) return null;
  const { channels } = train;
  const own = {
    values: channelMoments(train),
    whose: "the training set's; --mean and --std name other ones",
  };
  const theirs = weights?.moments;
  const of =
    theirs?.mean.length === channels ? { values: theirs, whose: "what the weights' file says" } : own;
  if (flags.mean === undefined && flags.std === undefined) return of;
  for (const [name, low] of [["mean"], ["std", 0]] as const) {
    const given = flags[name];
    if (given === undefined || areMoments(given, channels, low)) continue;
    throw new UsageError(
      `train: --${name} is ${given.join(",")}; expected ${channels} ${low === undefined ? "numbers" : "numbers above 0"}, one for each channel of the images`,
    );
  }
  const given = Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined));
  return { values: { ...of.values, ...given }, whose: "as --mean and --std say" };
}

function weightLines(
  { model }: Trainer,
  report: WeightsReport | null,
  moments: ReturnType<typeof momentsGiven>,
): string[] {
  if (!report || !moments) return [];
  const { values, whose } = moments;
  return describeWeights(report, [...model.tensors()].length, classifierOf(model)[0], values, whose);
}

/** Two steps to compile and warm up, then one that is timed. */
async function profileTraining(
  gpu: Gpu,
  trainer: Trainer,
  out: string,
  print: (line: string) => void,
): Promise<void> {
  for (let i = 0; i < 2; i += 1) await trainer.profileStep();
  const timings = await trainer.profileStep();
  const copy = await measureCopyBandwidth(gpu);
  const matmul = await measureMatmul(gpu);
  const rows = summarizeTimings(timings).map(
    ({ kernel, calls, totalUs, share, gigabytesPerSecond, gigaflops }) => {
      const ceiling = Math.max(gigabytesPerSecond / copy.gbPerSecond, gigaflops / matmul.gflops);
      return [
        kernel,
        `${calls}`,
        (totalUs / 1e3).toFixed(3),
        `${(100 * share).toFixed(1)} %`,
        gigabytesPerSecond.toFixed(1),
        gigaflops > 0 ? gigaflops.toFixed(1) : "–",
        `${Math.round(100 * ceiling)} %`,
      ];
    },
  );
  const total = timings.reduce((sum, { durationUs }) => sum + durationUs, 0);
  print(textTable(["kernel", "calls", "GPU ms", "share", "GB/s", "GFLOP/s", "of ceiling"], rows));
  print(
    `${timings.length} dispatches, ${(total / 1e3).toFixed(1)} ms on the GPU; ceilings on ${gpu.info.name} (${gpu.info.class}): ` +
      `copy ${copy.gbPerSecond.toFixed(1)} GB/s, matmul ${matmul.gflops.toFixed(0)} GFLOP/s`,
  );
  const file = join(out, "profile.trace.json");
  await writeFileAtomic(file, chromeTrace(timings));
  print(`trace for chrome://tracing or ui.perfetto.dev: ${file}`);
}
