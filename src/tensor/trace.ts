// Which ops a function runs, of what: for programs that write a network down for somebody else.

import type { BufferRange } from "../device/buffers.ts";
import type { Tensor } from "./tensor.ts";

/** One op as it ran; `alias` is another handle on the elements of x. */
export interface TracedOp {
  op: string;
  inputs: Readonly<Record<string, Tensor | null>>;
  /** What the op takes beside tensors; of a batch-norm also its running statistics. */
  params: unknown;
  out: Tensor;
}

export interface Tracer {
  /** Told of each op when its forward has run. Tensors may be disposed of soon after. */
  op(op: TracedOp): void;
  /** Told of a kernel that is no part of an op, and of all that it binds, before it runs. */
  kernel(name: string, bound: readonly BufferRange[]): void;
  /** Told of elements that are overwritten, by the host or a kernel, before they are. */
  write(range: BufferRange): void;
}

let current: Tracer | null = null;

/** Who is to be told; null if nobody. */
export function tracer(): Tracer | null {
  return current;
}

/** Runs `fn`, and tells `tracer` of what it does; null: nobody, as within an op. */
export function traceOps<T>(tracer: Tracer | null, fn: () => T): T {
  const outer = current;
  current = tracer;
  try {
    return fn();
  } finally {
    current = outer;
  }
}
