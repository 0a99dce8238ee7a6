// Runs tests against one mutant after the other. Vite and its transformed modules stay; each run gets a process of its
// own, which can be ended if a mutant keeps it busy for ever.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { fileURLToPath } from "node:url";
import { BaseSequencer, createVitest, type TestCase, type TestSpecification, type Vitest } from "vitest/node";
import { type Job, pidFile } from "./job.ts";
import type { Mutant } from "./mutants.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));

/** One test, as a dry run found it. */
export interface KnownTest {
  name: string;
  /** With its file. */
  label: string;
  ms: number;
  uses: ReadonlySet<string>;
}

export interface Verdict {
  outcome: "killed" | "survived" | "invalid" | "timeout";
  /** The test that failed, or the compiler's message. */
  by: string;
  /** Why nobody can notice a survivor, if that follows from how it is used. */
  why: string | null;
  ms: number;
}

/** The order that is asked for, and nothing remembered from earlier runs. */
class GivenOrder extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return files;
  }
}

export class Session {
  private readonly folder = mkdtempSync(join(tmpdir(), "fusenorm-mutate-"));
  private readonly jobFile = join(this.folder, "job.json");
  private vitest: Vitest | null = null;
  private readonly observer: { current: Observer | null } = { current: null };
  private readonly known = new Map<string, readonly KnownTest[]>();
  /** By label: how many mutants each test killed. */
  private readonly kills = new Map<string, number>();

  /** Every test of a file that passes without a mutant, with its time and the kernels it uses. */
  async dryRun(file: string): Promise<readonly KnownTest[]> {
    let tests = this.known.get(file);
    if (!tests) {
      const job: Job = { mutant: null, tests: { [root + file]: null } };
      const run = await this.run(job, new Map(), 1);
      if (run.failure) console.error(`mutate: fails without a mutant, and is left out: ${run.failure.by}`);
      tests = run.tests
        .filter((test) => test.result().state === "passed")
        .map((test) => ({
          name: test.fullName,
          label: labelOf(test),
          ms: test.diagnostic()!.duration,
          uses: new Set(test.meta().uses),
        }));
      this.known.set(file, tests);
    }
    return tests;
  }

  /** Runs the tests of `files` that can see the mutant, of each file those that killed most others first, then the cheapest, until one fails. */
  async judge(mutant: Mutant, source: string, files: readonly string[]): Promise<Verdict> {
    const tests: Record<string, string[]> = {};
    const times = new Map<string, number>();
    for (const file of files) {
      const relevant = (await this.dryRun(file))
        .filter(({ uses }) => [...uses].some((use) => canSee(mutant, use)))
        .sort((a, b) => this.killsOf(b) - this.killsOf(a) || a.ms - b.ms);
      if (relevant.length > 0) tests[root + file] = relevant.map(({ name }) => name);
      for (const { label, ms } of relevant) times.set(label, ms);
    }
    if (times.size === 0) {
      const why = mutant.override ? "every dispatch sets this constant" : null;
      return { outcome: "survived", by: why ? "" : "no test uses it", why, ms: 0 };
    }
    const start = Date.now();
    const job: Job = { mutant: { module: mutant.module, source }, tests };
    // Where it may well be a loop without an end, sooner.
    const patience = /\b(for|while|loop|break|stride)\b/.test(mutant.before) ? 1 : 4;
    const { failure } = await this.run(job, times, patience);
    const ms = Date.now() - start;
    if (failure) this.kills.set(failure.by, (this.kills.get(failure.by) ?? 0) + 1);
    return { outcome: "survived", by: "", ...failure, why: null, ms };
  }

  private killsOf({ label }: KnownTest): number {
    return this.kills.get(label) ?? 0;
  }

  async close(): Promise<void> {
    await this.vitest?.close();
    rmSync(this.folder, { recursive: true, force: true });
  }

  /**
   * @param ms of the tests without a mutant, by file and name: how long each may take follows
   * @param patience with the compiler: a mutant is compiled anew, where known shaders come from the driver's cache
   */
  private async run({ mutant, tests }: Job, ms: ReadonlyMap<string, number>, patience: number): Promise<Run> {
    writeFileSync(this.jobFile, JSON.stringify({ mutant, tests }));
    rmSync(pidFile(this.jobFile), { force: true });
    const seen = new Observer(this.jobFile, ms, patience);
    this.observer.current = seen;
    this.vitest ??= await this.create();
    const project = this.vitest.getRootProject();
    project.config.bail = mutant ? 1 : 0;
    const specifications = Object.keys(tests).map((file) => project.createSpecification(file));
    const { unhandledErrors } = await this.vitest.runTestSpecifications(specifications);
    seen.stop();
    return { tests: seen.tests, failure: seen.failure(unhandledErrors) };
  }

  private create(): Promise<Vitest> {
    process.env.FUSENORM_MUTATION = this.jobFile;
    const { observer } = this;
    // Dawn's warnings.
    const nowhere = new PassThrough().resume();
    return createVitest(
      "test",
      {
        root,
        config: false,
        watch: false,
        pool: "forks",
        maxWorkers: 1,
        isolate: false,
        testTimeout: 0,
        hookTimeout: 0,
        runner: fileURLToPath(new URL("./runner.ts", import.meta.url)),
        sequence: { sequencer: GivenOrder },
        reporters: [
          {
            onTestCaseReady: (test) => observer.current!.begin(test),
            onTestCaseResult: (test) => observer.current!.end(test),
            onTestModuleEnd: (module) => void observer.current!.errors.push(...module.errors()),
          },
        ],
      },
      {},
      { stdout: nowhere, stderr: nowhere },
    );
  }
}

/** Whether a test with one of its `uses` can notice the mutant. */
function canSee({ module, entry, override }: Mutant, use: string): boolean {
  if (override) return use === `${module}?${override}`;
  return entry ? use === `${module}|${entry}` : use.startsWith(`${module}|`);
}

interface Run {
  tests: readonly TestCase[];
  failure: Pick<Verdict, "outcome" | "by"> | null;
}

/** What happens in one run, and an end to a test that takes much too long. */
class Observer {
  readonly tests: TestCase[] = [];
  readonly errors: { message: string }[] = [];
  private timer: NodeJS.Timeout | undefined;
  private late: string | null = null;

  constructor(
    private readonly jobFile: string,
    private readonly ms: ReadonlyMap<string, number>,
    private readonly patience: number,
  ) {
    this.limit("the start", 60_000);
  }

  begin(test: TestCase): void {
    const known = this.ms.get(labelOf(test));
    this.limit(labelOf(test), known === undefined ? 600_000 : this.patience * (15_000 + 20 * known));
  }

  end(test: TestCase): void {
    this.limit("the end", 60_000);
    this.tests.push(test);
  }

  stop(): void {
    clearTimeout(this.timer);
  }

  failure(unhandled: readonly unknown[]): Run["failure"] {
    if (this.late !== null) return { outcome: "timeout", by: this.late };
    const failed = this.tests.find((test) => test.result().state === "failed");
    const error = failed?.result().errors?.[0];
    // Whatever does not compile cannot go unnoticed.
    if (error?.name === "ShaderError") {
      return { outcome: "invalid", by: error.message.trim().split("\n").slice(0, 2).join(" ") };
    }
    if (failed) return { outcome: "killed", by: labelOf(failed) };
    const [other] = [...this.errors, ...(unhandled as Error[])];
    return other ? { outcome: "killed", by: other.message } : null;
  }

  /**
   * Ends the process if it computes for `ms` from now on. On a busy machine that takes longer by the clock, which decides only where
   * nothing tells how long a process computed, or where it waits for what never comes.
   */
  private limit(what: string, ms: number): void {
    clearTimeout(this.timer);
    const [begin, before] = [Date.now(), this.computed()];
    const wait = (left: number) => {
      this.timer = setTimeout(() => {
        const now = this.computed();
        const missing = before === null || now === null ? 0 : ms - (now - before);
        if (missing > 0 && Date.now() - begin < MOST_WAITING * ms) return wait(Math.max(missing, 1000));
        this.late = what;
        process.kill(this.pid(), "SIGKILL");
      }, left);
    };
    wait(ms);
  }

  private pid(): number {
    return Number(readFileSync(pidFile(this.jobFile), "utf8"));
  }

  /** Milliseconds that the process has had of all cores together, as Linux counts them; null elsewhere, and before it has begun. */
  private computed(): number | null {
    try {
      // After the name, which may hold anything but a later bracket: fields 3 and on, of which 14 and 15 are hundredths of a second.
      const fields = readFileSync(`/proc/${this.pid()}/stat`, "utf8").split(") ").at(-1)!.split(" ");
      return 10 * (Number(fields[11]) + Number(fields[12]));
    } catch {
      return null;
    }
  }
}

/** By the clock, how many times as long as it may compute. */
const MOST_WAITING = 10;

function labelOf(test: TestCase): string {
  return `${test.module.relativeModuleId} > ${test.fullName}`;
}
