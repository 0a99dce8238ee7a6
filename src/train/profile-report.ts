import type { KernelTiming } from "../device/profiler.ts";

/** One kernel's share of a profile. */
export interface KernelSummary {
  kernel: string;
  calls: number;
  totalUs: number;
  /** Of all GPU time, 0 … 1. */
  share: number;
  /** Bytes of bound buffers over time: a lower bound of the traffic, kernels that read twice move more. */
  gigabytesPerSecond: number;
  gigaflops: number;
}

/** By kernel, the costliest first. */
export function summarizeTimings(timings: readonly KernelTiming[]): KernelSummary[] {
  const total = timings.reduce((sum, { durationUs }) => sum + durationUs, 0);
  const byKernel = new Map<string, KernelTiming[]>();
  for (const timing of timings) {
    const calls = byKernel.get(timing.kernel);
    if (calls) calls.push(timing);
    else byKernel.set(timing.kernel, [timing]);
  }
  return [...byKernel]
    .map(([kernel, calls]) => {
      const sum = (of: (timing: KernelTiming) => number) =>
        calls.reduce((acc, timing) => acc + of(timing), 0);
      const totalUs = sum(({ durationUs }) => durationUs);
      return {
        kernel,
        calls: calls.length,
        totalUs,
        share: total > 0 ? totalUs / total : 0,
        gigabytesPerSecond: totalUs > 0 ? sum(({ bytes }) => bytes) / totalUs / 1e3 : 0,
        gigaflops: totalUs > 0 ? sum(({ flops }) => flops) / totalUs / 1e3 : 0,
      };
    })
    .sort((a, b) => b.totalUs - a.totalUs);
}

/** A file for chrome://tracing and Perfetto: one event a dispatch. */
export function chromeTrace(timings: readonly KernelTiming[]): string {
  return JSON.stringify({
    displayTimeUnit: "ms",
    traceEvents: timings.map(({ kernel, label, layer, grid, bytes, flops, startUs, durationUs }) => ({
      name: kernel,
      cat: label,
      ph: "X",
      pid: 1,
      tid: 1,
      ts: startUs,
      dur: durationUs,
      args: { layer, op: label, grid: grid.join("×"), bytes, flops },
    })),
  });
}
