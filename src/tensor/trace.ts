// Which ops a function runs, of what: for programs that write a network down for somebody else.

import type { Tensor } from "./tensor.ts";

/** One op as it ran; `alias` is another handle on the elements of x. */
export interface TracedOp {
  op: string;
  inputs: Readonly<Record<string, Tensor | null>>;
  /** What the op takes beside tensors; of a batch-norm also its running statistics. */
  params: unknown;
  out: Tensor;
}

let current: ((op: TracedOp) => void) | null = null;

/** Who is to be told of every op; null if nobody. */
export function tracer(): typeof current {
  return current;
}

/** Runs `fn`, and tells `onOp` of each op when its forward has run. Tensors may be disposed of soon after. */
export function traceOps<T>(onOp: (op: TracedOp) => void, fn: () => T): T {
  const outer = current;
  current = onOp;
  try {
    return fn();
  } finally {
    current = outer;
  }
}
