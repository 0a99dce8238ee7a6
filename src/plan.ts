import type { BufferPool, BufferRange, Storage } from "./device/buffers.ts";
import type { Dispatch } from "./device/commands.ts";
import { DeviceError, UsageError, UseAfterDisposeError } from "./errors.ts";
import type { Gpu } from "./gpu.ts";
import type { Tensor } from "./tensor/tensor.ts";

/** A recorded step, made by `gpu.capture`: its dispatches, bound to buffers of its own. */
export class Plan<T> {
  private disposed = false;

  /** @internal use `gpu.capture`. */
  constructor(
    private readonly gpu: Gpu,
    /** What the captured function returned: its tensors hold new values after each `run`. */
    readonly result: T,
    private readonly outputs: readonly Tensor[],
    private readonly dispatches: readonly Dispatch[],
    private readonly borrowed: ReadonlySet<Storage>,
    /** What a replay overwrites that others may have seen. */
    private readonly rewritten: readonly BufferRange[],
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
   * @throws UseAfterDisposeError after `dispose`
   * @throws DeviceError inside a captured function
   * @throws UsageError if a tensor that the step reads has moved since, as parameters do when an optimizer is made
   */
  run(): void {
    if (this.disposed) {
      throw new UseAfterDisposeError("plan.run: the plan was disposed; capture the function again");
    }
    if (this.gpu.commands.recording) {
      throw new DeviceError(
        "plan.run: called inside a captured function, which would not record it; call the plan's function itself there",
      );
    }
    for (const { movedTo } of this.borrowed) {
      if (movedTo) {
        throw new UsageError(
          `plan.run: a tensor that the captured function uses was moved to ${movedTo} since; make optimizers before gpu.capture, or capture again`,
        );
      }
    }
    for (const range of this.rewritten) if (range.storage.live) this.gpu.willWrite(range);
    this.gpu.replay(this.dispatches);
  }

  /** Gives the plan's buffers back, and with them the tensors of `result`. Calling it again does nothing. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.gpu.commands.flush();
    for (const output of this.outputs) output.dispose();
    for (const storage of this.borrowed) storage.release();
    this.gpu.retire(this.pool);
  }
}
