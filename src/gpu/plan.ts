import type { Tensor } from "../tensor/tensor.ts";
import type { BufferPool, Storage } from "./buffers.ts";
import type { Dispatch } from "./commands.ts";
import type { Gpu } from "./device.ts";

/** A recorded step, made by `gpu.capture`: its dispatches, bound to buffers of its own. */
export class Plan<T> {
  /** Internal: use `gpu.capture`. */
  constructor(
    private readonly gpu: Gpu,
    /** What the captured function returned: its tensors hold new values after each `run`. */
    readonly result: T,
    private readonly outputs: readonly Tensor[],
    private readonly dispatches: readonly Dispatch[],
    private readonly borrowed: ReadonlySet<Storage>,
    private readonly pool: BufferPool,
    /** Bytes of the buffers that the steps' intermediate results share. */
    readonly byteLength: number,
  ) {}

  get dispatchCount(): number {
    return this.dispatches.length;
  }

  /**
   * Replays the step on what its input tensors hold now (`tensor.write` between runs changes them): no allocation, no
   * new bind group, one compute pass, one submit.
   */
  run(): void {
    for (const { range } of this.outputs) range.storage.willWrite();
    this.gpu.replay(this.dispatches);
  }

  /** Gives the plan's buffers back, and with them the tensors of `result`. */
  dispose(): void {
    this.gpu.flush();
    for (const output of this.outputs) output.dispose();
    for (const storage of this.borrowed) storage.release();
    this.pool.trim();
  }
}
