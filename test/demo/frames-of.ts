// How long the page is kept from drawing.

import type { Page } from "playwright-core";

/** Processor time of a thread's tasks in ms, longest first. */
export interface Tasks {
  /** Of the thread that runs the page's scripts and lays it out. */
  page: number[];
  /** Of the thread on which Chromium's GPU process takes commands, those that compile among them. */
  gpu: number[];
}

interface TraceEvent {
  name: string;
  ph: string;
  pid: number;
  tid: number;
  /** Processor time in µs. */
  tdur?: number;
  args: { name?: string };
}

/** Of all tasks while `work` lasts. */
export async function longestTasks(page: Page, work: () => Promise<unknown>): Promise<Tasks> {
  const browser = page.context().browser()!;
  await browser.startTracing(page, { categories: ["toplevel"] });
  await work();
  const { traceEvents } = JSON.parse(String(await browser.stopTracing())) as { traceEvents: TraceEvent[] };
  const threads = new Map(
    traceEvents
      .filter(({ name }) => name === "thread_name")
      .map(({ pid, tid, args }) => [`${pid} ${tid}`, args.name]),
  );
  const of = (thread: string) =>
    traceEvents
      .filter(({ ph, pid, tid }) => ph === "X" && threads.get(`${pid} ${tid}`) === thread)
      .map(({ tdur = 0 }) => tdur / 1e3)
      .sort((a, b) => b - a);
  return { page: of("CrRendererMain"), gpu: of("CrGpuMain") };
}

/** Times between frames in ms, by the page's own clock. Asked for before the page opens. */
export const WATCH_FRAMES = `
  window.frameGaps = [];
  let last = performance.now();
  const frame = () => {
    const now = performance.now();
    window.frameGaps.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
`;
