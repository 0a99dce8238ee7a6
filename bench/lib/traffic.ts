// How many bytes a piece of GPU work moves, by a model: a kernel reads or writes each buffer that it is bound to once.
//
// That is the least it can do, and what well-written memory-bound kernels come close to. Caches may save the
// memory some of it (small tensors), and a kernel that reads a buffer twice moves more than the model says; both show
// as an effective bandwidth above or below what a copy reaches. Constants are left out.

import type { Dispatch } from "../../src/device/commands.ts";
import type { Gpu } from "../../src/gpu.ts";

/** Reads and writes its first operand, and reads a second one of the same size: three passes in two buffers. */
const IN_PLACE = new Set(["memory.accumulate"]);

/** The device counts each bound buffer once (`Dispatch.bytes`); what is updated in place moves twice. */
export function trafficBytes(kernel: string, boundBytes: number): number {
  return IN_PLACE.has(kernel) ? 1.5 * boundBytes : boundBytes;
}

export interface Traffic {
  dispatches: number;
  bytes: number;
}

/**
 * What `fn` encodes, be it by ops or by the replay of a captured plan. With `execute: false` it is counted alone: the
 * device does nothing, and tensors that `fn` makes hold nothing.
 */
export function recordTraffic(gpu: Gpu, fn: () => void, { execute = true } = {}): Traffic {
  const { commands } = gpu;
  gpu.flush(); // a kernel may wait for the one behind it
  const traffic: Traffic = { dispatches: 0, bytes: 0 };
  const count = ({ kernel, bytes }: Dispatch) => {
    traffic.dispatches += 1;
    traffic.bytes += trafficBytes(kernel.name, bytes);
  };
  // Own properties shadow the methods for as long as `fn` runs.
  const { dispatch, replay } = commands;
  commands.dispatch = (one, buffers) => {
    count(one);
    if (execute) dispatch.call(commands, one, buffers);
  };
  commands.replay = (all) => {
    for (const one of all) count(one);
    if (execute) replay.call(commands, all);
  };
  try {
    fn();
    gpu.flush();
  } finally {
    Reflect.deleteProperty(commands, "dispatch");
    Reflect.deleteProperty(commands, "replay");
  }
  return traffic;
}
