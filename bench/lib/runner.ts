// Times groups of cases against each other and gathers what is known of each besides its time.

import type { KernelTiming } from "../../src/device/profiler.ts";
import type { Gpu } from "../../src/gpu.ts";
import { type KernelSummary, summarizeTimings } from "../../src/train/profile-report.ts";
import { type CopyConfig, copy as encodeCopy } from "./copy.ts";
import { type Case, sampleInterleaved } from "./sampling.ts";
import { median, pairedRatio, type Summary, summarize } from "./stats.ts";
import { recordTraffic, trafficBytes } from "./traffic.ts";
import { wake } from "./wake.ts";

/** One way to do the work of a group, made ready. */
export interface Runnable {
  /** Encodes the timed work once; leaves nothing behind. */
  step(): void;
  /** Makes what one `step` uses up, untimed: for a backward pass, its graph. */
  prepare?(): void;
  /** Bytes that stay for backward between the passes, measured; see bench/lib/held.ts. */
  held?(): number;
  /** Peak bytes where the device's counters don't show them: those of a captured plan. */
  peak?(): number;
  dispose(): void;
}

export interface BenchCase {
  /** `fused`, `unfused`, `captured` … */
  name: string;
  make(gpu: Gpu): Runnable;
  /** A case of the group that it is compared with besides the baseline. */
  over?: string;
}

/** Cases that do the same work. */
export interface BenchGroup {
  /** Unique: `batch_norm/forward/relu/32x32x32x16`. */
  id: string;
  suite: string;
  /** What a reader sees. */
  title: string;
  /** Where the shape occurs. */
  where: string;
  /** Speed-ups are against this case. */
  baseline: string;
  cases: BenchCase[];
  /** Floating-point operations of one step, where they are what counts. */
  flops?: number;
  /** T, the bytes of one activation tensor: a copy of as many is timed in each round. */
  tensorBytes: number;
}

export interface CaseResult {
  /** Group id and case: `batch_norm/forward/relu/32x32x32x16/fused`. */
  id: string;
  group: string;
  name: string;
  /** Wall time of one step in ms, waiting included. */
  wall: Summary;
  /** By how much it is faster than the group's baseline, from the rounds' ratios. 1 for the baseline itself. */
  speedup: number;
  /** The same against another case of the group, where one is named. */
  over?: { name: string; speedup: number };
  /** Sum of the kernels' times by timestamp query, in ms, median of three; null without timestamp queries. */
  gpuMs: number | null;
  dispatches: number;
  /** By the model of bench/lib/traffic.ts. */
  bytes: number;
  gbPerSecond: number;
  /** Its time in copies of T bytes, from the rounds' ratios: what to compare between runs, machines' moods aside. */
  copies: number;
  /** Effective bandwidth as a share of that of the copy. */
  ofCopy: number;
  gflopPerSecond: number | null;
  /** Bytes that the graph holds between forward and backward, its input among them. */
  heldBytes: number | null;
  /** Highest number of bytes in tensors during a step, beyond inputs. */
  peakBytes: number;
  kernels: KernelSummary[];
}

export interface GroupResult {
  id: string;
  suite: string;
  title: string;
  where: string;
  baseline: string;
  tensorBytes: number;
  /** 10⁹ bytes read and written a second by the copy, timed as kernels are; null without timestamp queries. */
  copyGbPerSecond: number | null;
  cases: CaseResult[];
}

export interface RunnerOptions {
  rounds: number;
  callMs: number;
  /** Memory that the graphs of one timed backward call may take. */
  maxPreparedBytes: number;
  /** The fastest copy of so many bytes: see fastestCopy. */
  copyConfig(bytes: number): Promise<CopyConfig>;
  onRound?(round: number): void;
  /** Gets every timing of a profiled step, for a trace. */
  onProfile?(caseId: string, timings: KernelTiming[]): void;
}

/** Runs one group. The device has done all of it when this returns, and holds nothing of it. */
export async function runGroup(gpu: Gpu, group: BenchGroup, options: RunnerOptions): Promise<GroupResult> {
  const runnables: Runnable[] = [];
  const copy = copyCase(gpu, group.tensorBytes, await options.copyConfig(group.tensorBytes));
  try {
    const facts: Facts[] = [];
    const copyMs = await copy.gpuMs();
    for (const one of group.cases) {
      const runnable = one.make(gpu);
      runnables.push(runnable);
      facts.push(await examine(gpu, runnable, `${group.id}/${one.name}`, options));
    }
    const largest = Math.max(1, ...facts.map(({ preparedBytes }) => preparedBytes));
    const samples = await sampleInterleaved(
      [
        ...runnables.map((runnable, i) => toCase(gpu, group.cases[i]!.name, runnable)),
        ...(copy ? [copy] : []),
      ],
      {
        rounds: options.rounds,
        callMs: options.callMs,
        maxIterations: Math.max(1, Math.min(200, Math.floor(options.maxPreparedBytes / largest))),
        onRound: options.onRound,
      },
    );
    copyMs.push(...(await copy.gpuMs()));
    const baseline = samples[group.cases.findIndex(({ name }) => name === group.baseline)]!.times;
    const copyTimes = samples.at(-1)!.times;
    const cases = group.cases.map((one, i): CaseResult => {
      const { preparedBytes: _, ...known } = facts[i]!;
      const { times } = samples[i]!;
      const wall = summarize(times);
      const { bytes } = known;
      const copies = pairedRatio(times, copyTimes);
      const other = samples.find(({ name }) => name === one.over);
      return {
        id: `${group.id}/${one.name}`,
        group: group.id,
        name: one.name,
        wall,
        speedup: pairedRatio(baseline, times),
        ...(other && { over: { name: other.name, speedup: pairedRatio(other.times, times) } }),
        ...known,
        gbPerSecond: bytes / wall.median / 1e6,
        copies,
        ofCopy: bytes / (2 * group.tensorBytes) / copies,
        gflopPerSecond: group.flops ? group.flops / wall.median / 1e6 : null,
      };
    });
    const { id, suite, title, where, baseline: name, tensorBytes } = group;
    const copyGbPerSecond = copyMs.length > 0 ? (2 * tensorBytes) / median(copyMs) / 1e6 : null;
    return { id, suite, title, where, baseline: name, tensorBytes, copyGbPerSecond, cases };
  } finally {
    for (const runnable of runnables) runnable.dispose();
    copy.dispose();
    gpu.trim();
  }
}

type Facts = Pick<CaseResult, "gpuMs" | "dispatches" | "bytes" | "heldBytes" | "peakBytes" | "kernels"> & {
  /** What `prepare` takes. */
  preparedBytes: number;
};

/** Everything but the wall time. */
async function examine(gpu: Gpu, runnable: Runnable, id: string, options: RunnerOptions): Promise<Facts> {
  const before = gpu.stats.liveBytes;
  runnable.prepare?.();
  const preparedBytes = gpu.stats.liveBytes - before;
  gpu.resetPeak();
  const work = recordTraffic(gpu, () => runnable.step());
  const peakBytes = runnable.peak?.() ?? gpu.stats.peakBytes - before;
  await gpu.sync();
  const facts: Facts = {
    gpuMs: null,
    ...work,
    heldBytes: runnable.held?.() ?? null,
    peakBytes,
    kernels: [],
    preparedBytes,
  };
  if (!gpu.features.has("timestamp-query")) return facts;
  const runs: KernelTiming[][] = [];
  await wake(gpu, () => {
    runnable.prepare?.();
    runnable.step();
    return gpu.sync();
  });
  for (let i = 0; i < 3; i += 1) {
    runnable.prepare?.();
    await gpu.sync();
    const timings = await gpu.profile(() => runnable.step());
    runs.push(timings.map((timing) => ({ ...timing, bytes: trafficBytes(timing.kernel, timing.bytes) })));
  }
  const totals = runs.map((timings) => timings.reduce((sum, { durationUs }) => sum + durationUs, 0) / 1e3);
  facts.gpuMs = median(totals);
  // The middle run stands for the kernels, so that they add up to the total.
  const middle = runs[totals.indexOf([...totals].sort((a, b) => a - b)[1]!)]!;
  facts.kernels = summarizeTimings(middle);
  options.onProfile?.(id, middle);
  return facts;
}

function toCase(gpu: Gpu, name: string, runnable: Runnable): Case {
  return {
    name,
    before: runnable.prepare
      ? async (iterations) => {
          for (let i = 0; i < iterations; i += 1) runnable.prepare!();
          await finish(gpu);
        }
      : undefined,
    run: async (iterations) => {
      for (let i = 0; i < iterations; i += 1) runnable.step();
      await finish(gpu);
    },
  };
}

/** `gpu.sync` without its turn of the event loop for late errors, which would be timed; the next call reports them. */
async function finish(gpu: Gpu): Promise<void> {
  gpu.flush();
  await gpu.device.queue.onSubmittedWorkDone();
}

interface CopyCase extends Case {
  /** GPU times of three copies; none without timestamp queries. */
  gpuMs(): Promise<number[]>;
  dispose(): void;
}

function copyCase(gpu: Gpu, bytes: number, config: CopyConfig): CopyCase {
  const x = gpu.full([bytes / 4], 1);
  const y = gpu.full([bytes / 4], 0);
  return {
    ...toCase(gpu, "copy", { step: () => encodeCopy(gpu, x, y, config), dispose() {} }),
    async gpuMs() {
      if (!gpu.features.has("timestamp-query")) return [];
      const timings = await gpu.profile(() => {
        for (let i = 0; i < 4; i += 1) encodeCopy(gpu, x, y, config);
      });
      return timings.slice(1).map(({ durationUs }) => durationUs / 1e3);
    },
    dispose() {
      x.dispose();
      y.dispose();
    },
  };
}
