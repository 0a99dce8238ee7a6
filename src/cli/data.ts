import cliProgress from "cli-progress";
import { Argument, type Command } from "commander";
import { channelMoments, classCounts, type DatasetSplits } from "../data/dataset.ts";
import { FusenormError, UsageError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { DATASET_NAMES, datasetDirectory, loadDataset } from "../node/datasets.ts";
import { fetchDataset, REMOTE_DATASETS, type RemoteName } from "../node/download.ts";
import { examples } from "./help.ts";
import { addJsonOption, addScaleOptions, type DataFlags, scaleOf, text } from "./options.ts";

interface Flags {
  cache?: string;
  json?: boolean;
}

/** What `--json` prints of a data set. */
function summary(source: string, directory: string, { train, test }: DatasetSplits) {
  const { height, width, channels, classes, classNames } = train;
  const part = (set: DatasetSplits["train"]) => ({ images: set.count, perClass: [...classCounts(set)] });
  return {
    source,
    directory,
    ...{ train: part(train), test: part(test), height, width, channels, classes, classNames },
    ...channelMoments(train),
  };
}

/** Counts, sizes and classes, one line each. */
function describe({ train, test }: DatasetSplits): string[] {
  const list = (values: number[]) => values.map((value) => value.toFixed(4)).join(", ");
  const { mean, std } = channelMoments(train);
  const count = (value: number) => value.toLocaleString("en");
  const spread = (counts: number[]) => {
    const [low, high] = [Math.min(...counts), Math.max(...counts)];
    return low === high ? `${count(low)} per class` : `${count(low)} to ${count(high)} per class`;
  };
  const { height, width, channels, classes, classNames } = train;
  return [
    `train    ${count(train.count)} images, ${spread(classCounts(train))}`,
    `test     ${count(test.count)} images, ${spread(classCounts(test))}`,
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

async function fetchCommand(name: RemoteName, flags: Flags & { mirror?: string }): Promise<void> {
  const { json, ...options } = flags;
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
    const splits = await loadDataset(result.directory);
    if (json) {
      print({ downloaded: result.downloaded, ...summary(name, result.directory, splits) });
      return;
    }
    console.log(
      `${name}: ${result.downloaded ? "downloaded to" : "already in"} ${printable(result.directory)}`,
    );
    for (const line of describe(splits)) console.log(`  ${line}`);
  } finally {
    bars.stop();
  }
}

const print = (value: unknown) => console.log(JSON.stringify(value, null, 2));

async function infoCommand(
  source: string,
  { cache, json, ...scale }: Flags & Omit<DataFlags, "data">,
): Promise<void> {
  const splits = await loadDataset(source, { cache, ...scaleOf(scale) });
  const directory = await datasetDirectory(source, cache);
  if (json) {
    print(summary(source, directory, splits));
    return;
  }
  const named = (DATASET_NAMES as readonly string[]).includes(source);
  console.log(named ? `${source} (${printable(directory)})` : printable(source));
  for (const line of describe(splits)) console.log(`  ${line}`);
}

async function listCommand({ cache, json }: Flags): Promise<void> {
  const all: unknown[] = [];
  for (const name of DATASET_NAMES) {
    try {
      if (json)
        all.push(summary(name, await datasetDirectory(name, cache), await loadDataset(name, { cache })));
      else await infoCommand(name, { cache });
    } catch (error) {
      if (!(error instanceof FusenormError)) throw error;
      if (json) all.push({ source: name, missing: error.message });
      // The message opens with the name, which stands above it.
      else console.log(`${name}\n  ${error.message.replace(`${name}: `, "")}`);
    }
  }
  if (json) print(all);
}

/** Adds `fusenorm data fetch | list | info`. Failures are thrown, for the program to print and exit non-zero. */
export function registerData(program: Command): void {
  const data = program.command("data").description("download, find and describe data sets");
  const cache = [
    "--cache <dir>",
    "download cache (default: $FUSENORM_CACHE or ~/.cache/fusenorm)",
    text,
  ] as const;
  const names = Object.keys(REMOTE_DATASETS);
  const fetch = data
    .command("fetch")
    .description("download a data set from its official address; an interrupted download resumes")
    .addArgument(new Argument("<name>", names.join(", ")).choices(names))
    .option(...cache)
    .option("--mirror <url>", "take the files from this address instead; checksums stay the official ones")
    .action(fetchCommand);
  const list = data
    .command("list")
    .description("the data sets with a name, and which of them are here")
    .option(...cache)
    .action(listCommand);
  const source = new Argument("<source>", `a directory, or one of ${DATASET_NAMES.join(", ")}`);
  source.argChoices = [...DATASET_NAMES]; // for completion: a directory is right, too
  const info = data
    .command("info")
    .description("counts, sizes and classes of a data set")
    .addArgument(source)
    .option(...cache)
    .action(infoCommand);
  addScaleOptions(info);
  for (const command of [fetch, list, info]) addJsonOption(command, "what is known of the data");
  examples(fetch, ["fusenorm data fetch fashion-mnist"]);
  examples(info, ["fusenorm data info cifar10", "fusenorm data info ./photos --size 64 --json"]);
}
