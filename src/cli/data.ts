import cliProgress from "cli-progress";
import { Argument, type Command } from "commander";
import { channelMoments, classCounts, type DatasetSplits } from "../data/dataset.ts";
import { FusenormError, UsageError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { DATASET_NAMES, datasetDirectory, loadDataset } from "../node/datasets.ts";
import { fetchDataset, REMOTE_DATASETS, type RemoteName } from "../node/download.ts";
import { text } from "./options.ts";

/** Counts, sizes and classes, one line each. */
function describe({ train, test }: DatasetSplits): string[] {
  const list = (values: number[]) => values.map((value) => value.toFixed(4)).join(", ");
  const { mean, std } = channelMoments(train);
  const spread = (counts: number[]) => {
    const [low, high] = [Math.min(...counts), Math.max(...counts)];
    return low === high ? `${low} per class` : `${low} to ${high} per class`;
  };
  const { height, width, channels, classes, classNames } = train;
  return [
    `train    ${train.count} images, ${spread(classCounts(train))}`,
    `test     ${test.count} images, ${spread(classCounts(test))}`,
    `size     ${height} × ${width}, ${channels} ${channels === 1 ? "channel" : "channels"}`,
    `classes  ${classes}: ${classNames.slice(0, 12).join(", ")}${classes > 12 ? ", …" : ""}`,
    `mean     ${list(mean)}   std ${list(std)}   (training set, pixels from 0 to 1)`,
  ];
}

/** One progress bar per file on a terminal; nothing where output is not one. */
function progressBars() {
  let bar: cliProgress.SingleBar | undefined;
  let current: string | undefined;
  return {
    onProgress(file: string, received: number, total: number | undefined) {
      const mb = (bytes: number) => (bytes / 1e6).toFixed(1);
      if (file !== current) {
        bar?.stop();
        current = file;
        bar = new cliProgress.SingleBar(
          { format: "{file} {bar} {percentage}% {done}/{size} MB, {eta_formatted} left", hideCursor: true },
          cliProgress.Presets.shades_classic,
        );
        bar.start(total ?? 0, received, { file, done: mb(received), size: total ? mb(total) : "?" });
      }
      bar?.update(received, { done: mb(received) });
    },
    stop: () => bar?.stop(),
  };
}

async function fetchCommand(name: RemoteName, options: { cache?: string; mirror?: string }): Promise<void> {
  if (options.mirror !== undefined && !/^https?:\/\/./.test(options.mirror)) {
    throw new UsageError(
      `data fetch: --mirror is "${options.mirror}"; expected an address that begins with http:// or https://`,
    );
  }
  const bars = progressBars();
  try {
    const result = await fetchDataset(name, REMOTE_DATASETS[name], {
      ...options,
      onProgress: bars.onProgress,
    });
    bars.stop();
    console.log(
      `${name}: ${result.downloaded ? "downloaded to" : "already in"} ${printable(result.directory)}`,
    );
    for (const line of describe(await loadDataset(result.directory))) console.log(`  ${line}`);
  } finally {
    bars.stop();
  }
}

async function infoCommand(source: string, options: { cache?: string }): Promise<void> {
  const splits = await loadDataset(source, options);
  console.log(`${printable(source)} (${printable(await datasetDirectory(source, options.cache))})`);
  for (const line of describe(splits)) console.log(`  ${line}`);
}

async function listCommand(options: { cache?: string }): Promise<void> {
  for (const name of DATASET_NAMES) {
    try {
      await infoCommand(name, options);
    } catch (error) {
      if (!(error instanceof FusenormError)) throw error;
      console.log(`${name}\n  ${error.message}`);
    }
  }
}

/** Adds `fusenorm data fetch | list | info`. Failures are thrown, for the program to print and exit non-zero. */
export function registerData(program: Command): void {
  const data = program.command("data").description("download, find and describe data sets");
  const cache = [
    "--cache <dir>",
    "download cache (default: $FUSENORM_CACHE or ~/.cache/fusenorm)",
    text,
  ] as const;
  data
    .command("fetch")
    .description("download a data set from its official address; an interrupted download resumes")
    .addArgument(new Argument("<name>", "data set").choices(Object.keys(REMOTE_DATASETS)))
    .option(...cache)
    .option("--mirror <url>", "take the files from this address instead; checksums stay the official ones")
    .action(fetchCommand);
  data
    .command("list")
    .description("the data sets with a name, and which of them are here")
    .option(...cache)
    .action(listCommand);
  data
    .command("info")
    .description("counts, sizes and classes of a data set")
    .argument("<source>", `a directory, or one of ${DATASET_NAMES.join(", ")}`)
    .option(...cache)
    .action(infoCommand);
}
