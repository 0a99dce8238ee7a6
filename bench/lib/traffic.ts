// How many bytes a piece of GPU work moves, by a model: a kernel reads or writes each buffer that it is bound to once.
//
// That is the least it can do, and what well-written memory-bound kernels come close to. Caches may save the
// memory some of it (small tensors), and a kernel that reads a buffer twice moves more than the model says; both show
// as an effective bandwidth above or below what a copy reaches. Constants are left out.

import type { Gpu } from "../../src/gpu.ts";

/**
 * Passes over the largest operand for each buffer that is bound, where some of these are updated in place: `acc += x` is three
 * passes in two buffers.
 */
const IN_PLACE: Readonly<Record<string, number>> = {
  "memory.accumulate": 3 / 2,
  "cast.accumulate": 3 / 2,
  "sgd.step": 5 / 3, // w and v, and grad, which is read alone
  "sgd.plain": 3 / 2,
  "adam.step": 7 / 4, // w and both moments, and grad, which is read alone
  "adam.step_amsgrad": 9 / 5,
};

/**
 * The device counts each bound buffer once (`Dispatch.bytes`); what is updated in place moves twice. A convolution that adds to
 * what its output holds is counted without that read, since its name does not tell.
 */
export function trafficBytes(kernel: string, boundBytes: number): number {
  return (IN_PLACE[kernel] ?? 1) * boundBytes;
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
  gpu.flush(); // a kernel may wait for the one after it
  const traffic: Traffic = { dispatches: 0, bytes: 0 };
  gpu.commands.observe(
    ({ kernel, bytes }) => {
      traffic.dispatches += 1;
      traffic.bytes += trafficBytes(kernel.name, bytes);
    },
    () => {
      fn();
      gpu.flush();
    },
    { execute },
  );
  return traffic;
}
