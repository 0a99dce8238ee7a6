// `npm run gpu:suite`: everything that is worth knowing of a GPU that is at hand for a few minutes only, from the built
// package, without a network: `node dist/bench/gpu-suite.js`. Each section's results are written as it ends.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Command, CommanderError, Option } from "commander";
import { autotune, type TunedChoice } from "../src/autotune.ts";
import { examine, format } from "../src/cli/doctor.ts";
import { positiveInteger, positiveNumber } from "../src/cli/options.ts";
import { FusenormError, UsageError } from "../src/errors.ts";
import type { Gpu } from "../src/gpu.ts";
import { writeFileAtomic } from "../src/node/files.ts";
import { requestGpu } from "../src/node/request.ts";
import { kernelTable, runBenches } from "./command.ts";
import {
  flopsOf,
  type OurRow,
  suiteTable,
  suiteWorks,
  TABLE_NOTE,
  type TorchRow,
} from "./gpu-suite-table.ts";
import { runKernelTests } from "./kernel-tests.ts";
import { eagerOp, fusenorm } from "./lib/fusenorm.ts";
import { formatMs, htmlReport, markdownReport, provenance, textTables } from "./lib/report.ts";
import { environment } from "./lib/results.ts";
import { sampleInterleaved } from "./lib/sampling.ts";
import { median, summarize } from "./lib/stats.ts";
import { FUSIONS, trainingStep } from "./lib/training.ts";
import { packageVersion } from "./lib/version.ts";
import { wake } from "./lib/wake.ts";
import { describeWork, stepsOf, type Work, workData } from "./lib/work.ts";
import { suites } from "./list.ts";

const SECTIONS = ["doctor", "tests", "autotune", "bench", "ours", "pytorch"] as const;
type Section = (typeof SECTIONS)[number];

interface Options {
  out: string;
  /** Seconds for everything. */
  budget: number;
  only: Section[];
  tests?: string[];
  adapter?: string;
  batch?: number;
  python: string;
}

/** Shares of the budget by section; what one leaves over, or takes beyond its share, is shared by those after it. */
const SHARES: Record<Section, number> = {
  doctor: 0.04,
  tests: 0.16,
  autotune: 0.14,
  bench: 0.24,
  ours: 0.12,
  pytorch: 0.3,
};

/** What is run first, and shown by kernel: whole steps, and batch-norm on tensors past every cache. */
const TELLING = ["training_step", "256x56x56x256"];

class Suite {
  private readonly began = performance.now();
  private readonly failures: string[] = [];
  private ours: OurRow[] = [];
  private torch: TorchRow[] = [];

  constructor(private readonly options: Options) {}

  /** `performance.now()` by which `section`, which begins now, should be done: its share of what is left, with those after it. */
  private deadline(section: Section): number {
    const left = SECTIONS.slice(SECTIONS.indexOf(section)).filter((one) => this.options.only.includes(one));
    const total = left.reduce((sum, one) => sum + SHARES[one], 0);
    const now = performance.now();
    return now + Math.max(0, this.began + 1000 * this.options.budget - now) * (SHARES[section] / total);
  }

  private async write(name: string, content: string | object): Promise<void> {
    const text = typeof content === "string" ? content : `${JSON.stringify(content, null, 1)}\n`;
    await writeFileAtomic(join(this.options.out, name), text);
  }

  private heading(section: Section): void {
    const elapsed = Math.round((performance.now() - this.began) / 1e3);
    console.log(`\n── ${section} (after ${elapsed} s of ${this.options.budget}) ──`);
  }

  /** Returns false if anything went wrong. */
  async run(): Promise<boolean> {
    const wanted = (section: Section) => this.options.only.includes(section);
    await this.write("failures.json", this.failures);
    const { adapter } = this.options;
    if (wanted("doctor")) await this.section("doctor", () => this.doctor());
    if (wanted("tests")) await this.section("tests", () => this.tests());
    const gpu = await requestGpu({ adapter });
    try {
      const works = suiteWorks(gpu.isSoftware, this.options.batch);
      if (wanted("autotune")) await this.section("autotune", () => this.autotune(gpu, works));
      if (wanted("bench")) await this.section("bench", () => this.bench(gpu));
      if (wanted("ours")) await this.section("ours", () => this.runOurs(gpu, works));
      // Memory of ours is given back before PyTorch takes its own.
      gpu.trim();
      if (wanted("pytorch")) await this.section("pytorch", () => this.pytorch(works));
      await this.section("table", async () => {
        const table = `${suiteTable(this.ours, this.torch)}\n\n${TABLE_NOTE}`;
        console.log(table);
        await this.write("table.txt", `${gpu.info.name} (${gpu.info.class})\n\n${table}\n`);
        await this.write("table.json", {
          schema: "fusenorm-gpu-suite/1",
          date: new Date().toISOString(),
          environment: environment(packageVersion(), gpu.info),
          ours: this.ours,
          torch: this.torch,
          failures: this.failures,
        });
      });
    } finally {
      gpu.destroy();
    }
    for (const failure of this.failures) console.error(failure);
    return this.failures.length === 0;
  }

  /** A section that fails is noted, and the next one begins: the GPU is there now. */
  private async section(name: Section | "table", fn: () => Promise<void>): Promise<void> {
    if (name !== "table") this.heading(name);
    else console.log("\n── table ──");
    try {
      await fn();
    } catch (error) {
      const message =
        error instanceof FusenormError ? error.message : ((error as Error).stack ?? String(error));
      this.failures.push(`${name}: ${message}`);
      console.error(message);
    }
    await this.write("failures.json", this.failures);
  }

  private async doctor(): Promise<void> {
    const report = await examine({ adapter: this.options.adapter });
    const text = format(report);
    console.log(text);
    await this.write("doctor.txt", `${text}\n`);
    await this.write("doctor.json", report);
    if (report.error) throw new UsageError(`gpu:suite: ${report.error}`);
  }

  private async tests(): Promise<void> {
    // The tests ask for their device themselves, by the same rules.
    if (this.options.adapter) process.env.FUSENORM_ADAPTER = this.options.adapter;
    const { results, left } = await runKernelTests(
      this.deadline("tests"),
      (file) => this.options.tests?.some((word) => file.includes(word)) ?? true,
      ({ file, passed, failed, seconds }) => {
        console.log(`${file}: ${passed} passed, ${failed.length} failed, ${seconds.toFixed(1)} s`);
        for (const { name, errors } of failed) console.log(`  ${name}\n    ${errors.join("\n    ")}`);
      },
    );
    await this.write("kernel-tests.json", { results, left });
    if (left.length > 0) console.log(`out of time before: ${left.join(", ")}`);
    const failed = results.reduce((sum, result) => sum + result.failed.length, 0);
    if (failed > 0) this.failures.push(`tests: ${failed} kernel tests failed, see kernel-tests.json`);
  }

  private async autotune(gpu: Gpu, works: readonly Work[]): Promise<void> {
    const deadline = this.deadline("autotune");
    const tuned = new Map<string, TunedChoice>();
    const wanted = [...tunable(gpu, works, this.options.batch ?? 0)];
    for (const [i, make] of wanted.entries()) {
      const now = performance.now();
      if (now > deadline) {
        console.log(`out of time after ${i} of ${wanted.length} pieces of work`);
        break;
      }
      const one = make();
      try {
        const budgetMs = (deadline - now) / 2;
        const step = () => gpu.scope(() => void one.step());
        for (const choice of await autotune(gpu, step, { rounds: 3, budgetMs })) {
          tuned.set(`${choice.kernel}|${choice.shape}`, choice);
        }
        await this.write("autotune.json", {
          remembered: gpu.variants.toJSON(),
          choices: [...tuned.values()],
        });
      } finally {
        one.dispose();
        gpu.trim();
      }
    }
    const choices = [...tuned.values()];
    const changed = choices.filter(({ chosen, fallback }) => chosen !== fallback);
    console.log(`${choices.length} choices measured, ${changed.length} differ from the kernels' own:`);
    for (const { kernel, shape, chosen, fallback, ms } of changed) {
      console.log(
        `  ${kernel} ${shape}: ${chosen} ${formatMs(ms[chosen]!)} ms, not ${fallback} ${formatMs(ms[fallback]!)} ms`,
      );
    }
  }

  private async bench(gpu: Gpu): Promise<void> {
    const results = await runBenches(
      gpu,
      {
        quick: gpu.isSoftware,
        rounds: 7,
        callMs: 10,
        batch: this.options.batch,
        deadline: this.deadline("bench"),
        first: TELLING,
      },
      {
        onGroup: ({ title, cases }) =>
          console.log(
            `${title}: ${cases.map(({ name, wall }) => `${name} ${formatMs(wall.median)}`).join(", ")} ms`,
          ),
        onFailure: (title, message) => console.log(`${title}: ${message}`),
      },
    );
    console.log(`\n${provenance(results)}\n\n${textTables(results)}`);
    for (const group of results.groups) {
      if (!TELLING.some((word) => group.id.includes(word))) continue;
      for (const one of group.cases) {
        if (one.name.startsWith("fused")) console.log(`\n${kernelTable(one, group)}`);
      }
    }
    await this.write("bench.json", results);
    await this.write("bench.md", markdownReport(results));
    await this.write("bench.html", await htmlReport(results));
    for (const { id, reason, failed } of results.missing)
      if (failed) this.failures.push(`bench: ${id}: ${reason}`);
  }

  private async runOurs(gpu: Gpu, works: readonly Work[]): Promise<void> {
    const contender = fusenorm(gpu);
    const deadline = this.deadline("ours");
    for (const work of works) {
      if (performance.now() > deadline) {
        console.log(`out of time after ${this.ours.length} of ${works.length} pieces of work`);
        break;
      }
      const prepared = await contender.prepare(work, workData(work));
      try {
        const steps = stepsOf(work);
        await wake(gpu, () => prepared.run(1));
        const [sample] = await sampleInterleaved(
          [{ name: "", run: (iterations) => prepared.run(iterations) }],
          // Steps back to back, as in training: a single one waits for its own encoding.
          { rounds: 5, callMs: work.op === "resnet_step" ? 400 : 20 },
        );
        let gpuMs: number | null = null;
        if (gpu.features.has("timestamp-query")) {
          const runs: number[] = [];
          for (let i = 0; i < 3; i += 1) {
            const timings = await gpu.profile(() => prepared.run(1));
            runs.push(timings.reduce((sum, { durationUs }) => sum + durationUs, 0) / 1e3);
          }
          // A driver whose clock stands still says nothing.
          gpuMs = steps * median(runs) || null;
        }
        const wall = summarize(sample!.times.map((ms) => steps * ms));
        const flops = flopsOf(work);
        const row = {
          work: describeWork(work),
          wall,
          gpuMs,
          gflopPerSecond: flops === null ? null : flops / (gpuMs ?? wall.median) / 1e6,
        };
        this.ours.push(row);
        console.log(
          `${row.work}: ${formatMs(wall.median)} ms, GPU ${gpuMs === null ? "–" : formatMs(gpuMs)} ms`,
        );
      } finally {
        prepared.dispose();
        gpu.trim();
      }
    }
    await this.write("ours.json", this.ours);
  }

  private async pytorch(works: readonly Work[]): Promise<void> {
    const script = fileURLToPath(new URL("peers/pytorch.py", import.meta.url));
    if (!existsSync(script)) throw new UsageError(`gpu:suite: ${script} is missing; run \`npm run build\``);
    const seconds = Math.max(5, (this.deadline("pytorch") - performance.now()) / 1e3);
    const child = spawn(this.options.python, [script, "--budget", seconds.toFixed(0)], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const ended = new Promise<number | string | null>((done) => {
      child.on("error", (error: NodeJS.ErrnoException) => done(error.code ?? error.message));
      child.on("close", (code) => done(code));
    });
    // A compiler may hang past the script's own budget.
    const limit = setTimeout(() => child.kill("SIGKILL"), (seconds + 20) * 1e3);
    child.stdin.on("error", () => {}); // it may end before it has read everything
    child.stdin.end(JSON.stringify(works.map((work) => ({ ...work, name: describeWork(work) }))));
    for await (const line of createInterface({ input: child.stdout })) {
      const row = JSON.parse(line) as TorchRow & { note?: string };
      if (row.note) {
        console.log(row.note);
        continue;
      }
      this.torch.push(row);
      console.log(
        `${row.work} ${row.mode} ${row.precision}: ${row.ms === null ? row.error : `${formatMs(row.ms)} ms`}`,
      );
      await this.write("pytorch.json", this.torch);
    }
    const code = await ended;
    clearTimeout(limit);
    if (code === "ENOENT") console.log(`there is no ${this.options.python} here: PyTorch is left out`);
    else if (code !== 0)
      this.failures.push(`pytorch: ended with ${code ?? "a signal"} after ${this.torch.length} results`);
  }
}

/**
 * What is tuned before anything is timed, the most telling first: training steps (deeper networks have the same shapes),
 * the works compared with PyTorch, and the rest of the benchmarks; of the ops what runs both passes.
 */
function* tunable(gpu: Gpu, works: readonly Work[], batch: number) {
  const step = works.find((work) => work.op === "resnet_step")!;
  for (const fused of Object.values(FUSIONS).reverse()) {
    yield () => trainingStep(gpu, { depth: step.depth, batch: step.batch, fused });
  }
  for (const work of works) {
    if (work.op === "resnet_step" || work.pass === "forward") continue;
    yield () => {
      const op = eagerOp(gpu, work, workData(work));
      const step = () => {
        for (const result of op.step()) result.dispose();
      };
      return { step, dispose: op.dispose };
    };
  }
  for (const group of suites.flatMap((suite) => suite.groups(gpu, { quick: true, variants: false, batch }))) {
    if (!group.id.includes("forward+backward")) continue;
    yield () => group.cases.find(({ name }) => name !== "unfused")!.make(gpu);
  }
}

async function main(argv: readonly string[]): Promise<void> {
  const command = new Command("gpu:suite")
    .description("doctor, kernel tests, autotune, benchmarks and a comparison with PyTorch, in one go")
    .option("--out <dir>", "where the results go", "gpu-suite")
    .option("--budget <s>", "seconds for everything", positiveNumber, 340)
    .addOption(new Option("--only <sections...>", "some sections").choices(SECTIONS).default([...SECTIONS]))
    .option("--tests <words...>", "of the kernel tests, those whose file names have one of the words")
    .option("--adapter <name>", "hardware, lavapipe, swiftshader, or part of an adapter's name")
    .option("--batch <n>", "images in every batch, for rehearsals", positiveInteger)
    .option("--python <command>", "a Python that has PyTorch", "python3")
    .showHelpAfterError()
    .exitOverride();
  command.parse([...argv], { from: "user" });
  if (!(await new Suite(command.opts<Options>()).run())) process.exitCode = 1;
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode;
  else if (error instanceof FusenormError) {
    console.error(error.message);
    process.exitCode = 1;
  } else throw error;
}
// The tests' device keeps the process up; nothing is left to do.
process.exit();
