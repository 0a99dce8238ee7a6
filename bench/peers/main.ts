// `npm run bench:peers`: the same work on this package, tfjs and jax-js on one adapter, and on ONNX Runtime's CPU
// provider as the anchor of the processor; with --page, in Chromium, ONNX Runtime Web's WebGPU provider. Started by
// scripts/bench-peers.ts, which installs the peers first.
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Command, CommanderError, Option } from "commander";
import { positiveInteger, positiveNumber } from "../../src/cli/options.ts";
import type { AdapterSummary } from "../../src/device/adapter.ts";
import { FusenormError, UsageError } from "../../src/errors.ts";
import { Gpu } from "../../src/gpu.ts";
import { writeFileAtomic } from "../../src/node/files.ts";
import { installNavigatorGpu } from "../../src/node/request.ts";
import { fusenorm } from "../lib/fusenorm.ts";
import { PEERS_SCHEMA, type PeerResults, peerMarkdown, peerTable, runPeerWork } from "../lib/peers.ts";
import { provenance } from "../lib/report.ts";
import { adapterSlug, environment } from "../lib/results.ts";
import { packageVersion } from "../lib/version.ts";
import { type Contender, describeWork, type PeerWork } from "../lib/work.ts";
import { jax } from "./jax.ts";
import { onnxRuntime } from "./ort.ts";
import { tfjs } from "./tfjs.ts";

const PEERS = { tfjs, jax, onnx: onnxRuntime };
type Peer = keyof typeof PEERS;

/** The work compared. The first two shapes are those that the targets are stated for. */
const WORKS: readonly PeerWork[] = [
  { op: "batch_norm", pass: "forward", shape: [32, 32, 32, 32] },
  { op: "batch_norm", pass: "forward+backward", shape: [32, 32, 32, 32] },
  { op: "batch_norm", pass: "forward", shape: [128, 32, 32, 16] },
  { op: "batch_norm", pass: "forward+backward", shape: [128, 32, 32, 16] },
  { op: "conv2d", pass: "forward", shape: [32, 32, 32, 16], outChannels: 16 },
  { op: "conv2d", pass: "forward", shape: [32, 16, 16, 32], outChannels: 32 },
  { op: "conv2d", pass: "forward", shape: [32, 8, 8, 64], outChannels: 64 },
  { op: "conv2d", pass: "forward+backward", shape: [32, 32, 32, 16], outChannels: 16 },
  { op: "conv2d", pass: "forward+backward", shape: [32, 16, 16, 32], outChannels: 32 },
  { op: "conv2d", pass: "forward+backward", shape: [32, 8, 8, 64], outChannels: 64 },
  { op: "resnet_step", depth: 20, batch: 32, size: 32, classes: 10 },
  ...(["resnet18", "mobilenetV2"] as const).flatMap((network) =>
    (["training step", "inference"] as const).map((pass) => ({
      ...{ op: "network" as const, network, pass },
      ...{ batch: 32, size: 32, classes: 10 },
    })),
  ),
];

interface Options {
  filter?: string;
  peers: Peer[];
  rounds: number;
  callMs: number;
  batch?: number;
  out: string;
  adapter?: string;
  page?: boolean;
}

/** The contenders of a run, the first one this package, and what they run on. */
async function contendersFor({ page, peers, adapter }: Options): Promise<{
  adapter: AdapterSummary;
  contenders: Contender[];
  versions: Record<string, string>;
  /** In the names of the results' files. */
  where: string;
}> {
  if (page) {
    const { contendersInPage, ortWebVersion } = await import("./page.ts");
    return {
      ...(await contendersInPage()),
      versions: { "onnxruntime-web": ortWebVersion() },
      where: "page-",
    };
  }
  // The peers ask navigator.gpu for an adapter themselves; it gives them the one that this package takes.
  const found = await installNavigatorGpu({ adapter });
  const gpu = await Gpu.fromAdapter(found.adapter);
  const contenders: Contender[] = [fusenorm(gpu)];
  for (const name of peers) contenders.push(await PEERS[name](found.name));
  return { adapter: gpu.info, contenders, versions: versions(), where: "" };
}

async function main(): Promise<void> {
  const options = new Command("bench:peers")
    .description("fusenorm against tfjs, jax-js (both WebGPU) and ONNX Runtime (processor)")
    .option(
      "--filter <words>",
      'only work whose name holds every one of these words, e.g. "BN forward+backward"',
    )
    .addOption(
      new Option("--peers <names...>", "which peers").choices(Object.keys(PEERS)).default(Object.keys(PEERS)),
    )
    .option("--rounds <n>", "interleaved rounds", positiveInteger, 11)
    .option("--call-ms <ms>", "about how long one timed call lasts", positiveNumber, 60)
    .option("--batch <n>", "images in a batch of whole networks, instead of 32", positiveInteger)
    .option("--out <dir>", "where the results go", fileURLToPath(new URL("../results/", import.meta.url)))
    .option("--adapter <name>", "hardware, lavapipe, swiftshader, or part of an adapter's name")
    .option(
      "--page",
      "in a page of Chromium, on SwiftShader: ONNX Runtime Web (WebGPU), which does not train",
    )
    .showHelpAfterError()
    .exitOverride()
    .parse()
    .opts<Options>();
  const words = options.filter?.split(/\s+/).filter(Boolean) ?? [];
  const chosen = WORKS.map((work) =>
    "batch" in work ? { ...work, batch: options.batch ?? work.batch } : work,
  ).filter((work) => {
    const parts = describeWork(work).split(/[\s,]+/);
    return words.every(
      (word) => parts.includes(word) || (!/^forward/.test(word) && describeWork(work).includes(word)),
    );
  });
  if (chosen.length === 0) {
    throw new UsageError(
      `bench:peers: --filter is "${options.filter}"; expected words of one of: ${WORKS.map(describeWork).join("; ")}`,
    );
  }
  if (options.page && options.adapter !== undefined) {
    throw new UsageError(
      "bench:peers: --page and --adapter are given; expected one: the page has SwiftShader",
    );
  }
  const { adapter, contenders, versions: compared, where } = await contendersFor(options);
  const works = chosen.filter(
    (work) => !options.page || contenders.every((one) => one.refuses(work) === null),
  );
  if (works.length === 0) {
    throw new UsageError(
      `bench:peers: ${chosen.map(describeWork).join("; ")}: nobody but fusenorm does it in a page; expected "inference" or "forward"`,
    );
  }
  console.error(`${adapter.name}: ${contenders.map(({ name }) => name).join(", ")}`);
  const results: PeerResults = {
    schema: PEERS_SCHEMA,
    date: new Date().toISOString(),
    environment: environment(packageVersion(), adapter),
    versions: compared,
    groups: [],
  };
  const name = `peers-${where}${adapterSlug(adapter.name)}`;
  // After each group: a run of hours that is interrupted keeps what it has.
  const save = async () => {
    const files = {
      [`${name}.json`]: `${JSON.stringify(results, null, 1)}\n`,
      [`${name}.md`]: peerMarkdown(results, provenance(results)),
    };
    const paths = Object.keys(files).map((file) => join(options.out, file));
    for (const [file, content] of Object.entries(files)) {
      await writeFileAtomic(join(options.out, file), content);
    }
    return paths;
  };
  let written: string[] = [];
  for (const [i, work] of works.entries()) {
    const group = await runPeerWork(work, contenders, options);
    results.groups.push(group);
    const times = group.rows.map(
      ({ contender, wall }) => `${contender} ${wall ? wall.median.toFixed(2) : "–"}`,
    );
    console.error(`${i + 1}/${works.length} ${group.work}: ${times.join(", ")} ms`);
    written = await save();
  }
  console.log(`\n${provenance(results)}\n\n${peerTable(results.groups)}`);
  console.log(`\nwritten: ${written.join(", ")}`);
  for (const contender of contenders.reverse()) await contender.close();
  const differing = results.groups.filter(({ rows }) => rows.some((row) => !row.refused && !row.agrees));
  if (differing.length === 0) return;
  console.error(`bench:peers: the numbers differ in ${differing.map(({ work }) => work).join("; ")}`);
  process.exitCode = 1;
}

function versions(): Record<string, string> {
  const require = createRequire(import.meta.url);
  const { dependencies } = require("./package.json") as { dependencies: Record<string, string> };
  const compared = Object.entries(dependencies).filter(([name]) => !/protobuf|layers/.test(name));
  return Object.fromEntries(compared);
}

try {
  await main();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode;
  else if (error instanceof FusenormError) {
    console.error(error.message);
    process.exitCode = 1;
  } else throw error;
}
// The peers' devices keep the process up; nothing is left to do.
process.exit();
