import type { BufferPool, BufferRange, Storage } from "./device/buffers.ts";
import type { Capture } from "./device/capture.ts";
import type { Dispatch } from "./device/commands.ts";
import { DeviceError, UsageError, UseAfterDisposeError } from "./errors.ts";
import type { Gpu } from "./gpu.ts";
import type { DType } from "./tensor/dtype.ts";
import type { Tensor } from "./tensor/tensor.ts";

/** A leaf to whose gradient a captured function adds. */
interface Receiver {
  /** Whether there was a gradient already. */
  readonly adds: boolean;
  /** Whether the function dropped that of the step before. */
  readonly zeroes: boolean;
  /** Where the gradient is in the end; null if the function has dropped it. */
  place: { readonly range: BufferRange; readonly dtype: DType } | null;
}

/** The leaves that get gradients in a captured function: a replay leaves these gradients to them as the function would. */
export class Receivers {
  private readonly zeroed = new Set<Tensor>();
  private readonly leaves = new Map<Tensor, Receiver>();

  /** The function drops a gradient. */
  zeroes(leaf: Tensor): void {
    if (!this.leaves.has(leaf)) this.zeroed.add(leaf);
  }

  /** The function is about to add to a gradient. */
  adds(leaf: Tensor): void {
    if (this.leaves.has(leaf)) return;
    this.leaves.set(leaf, { adds: leaf.grad !== null, zeroes: this.zeroed.has(leaf), place: null });
  }

  /** The function has returned. */
  close(): void {
    for (const [leaf, receiver] of this.leaves) {
      if (!leaf.grad || leaf.isDisposed || leaf.grad.isDisposed) this.leaves.delete(leaf);
      else {
        const { range, dtype } = leaf.grad;
        range.storage.pin();
        receiver.place = { range, dtype };
      }
    }
  }

  /**
   * Makes gradients those of the leaves that the replay is about to write. To be called after it: adds to them what leaves have got
   * elsewhere and the function would not drop.
   */
  attach(): () => void {
    const others: [leaf: Tensor, grad: Tensor][] = [];
    for (const [leaf, { adds, zeroes, place }] of this.leaves) {
      const { grad } = leaf;
      if (leaf.isDisposed || isAt(grad, place!.range)) continue;
      if (grad && !grad.isDisposed && !zeroes) others.push([leaf, grad.alias()]);
      leaf.placeGrad(place!.range, place!.dtype);
      if (adds) leaf.grad!.fill(0); // what the leaf has given up
    }
    return () => {
      for (const [leaf, grad] of others) {
        leaf.gpu.accumulate(leaf.grad!, grad);
        grad.dispose();
      }
    };
  }

  release(): void {
    for (const { place } of this.leaves.values()) place?.range.storage.unpin();
  }
}

function isAt(grad: Tensor | null, { storage, byteOffset }: BufferRange): boolean {
  if (!grad || grad.isDisposed) return false;
  const { range } = grad;
  return range.storage === storage && range.byteOffset === byteOffset;
}

/** A recorded step, made by `gpu.capture`: its dispatches, bound to buffers of its own. */
export class Plan<T> {
  private disposed = false;
  private readonly borrowed: ReadonlySet<Storage>;
  /** What a replay overwrites that others may have seen. */
  private readonly rewritten: readonly BufferRange[];
  private readonly checks: readonly (() => void)[];

  /** @internal use `gpu.capture`. */
  constructor(
    private readonly gpu: Gpu,
    /** What the captured function returned: its tensors hold new values after each `run`. */
    readonly result: T,
    private readonly outputs: readonly Tensor[],
    private readonly dispatches: readonly Dispatch[],
    capture: Capture,
    private readonly receivers: Receivers,
    private readonly pool: BufferPool,
    /** Bytes of the buffers that the steps' intermediate results share. */
    readonly byteLength: number,
  ) {
    this.borrowed = capture.borrowed;
    this.rewritten = capture.rewritten();
    this.checks = capture.checks;
  }

  get dispatchCount(): number {
    return this.dispatches.length;
  }

  /**
   * Replays the step on what its input tensors hold now (`tensor.write` between runs changes them): no allocation, no
   * new bind group, one compute pass, one submit. Gradients that it gives to leaves are theirs afterwards, also where they were dropped
   * outside of the captured function.
   * @throws UseAfterDisposeError after `dispose`
   * @throws DeviceError inside a captured function
   * @throws UsageError if a tensor that the step reads has moved since, as parameters do when an optimizer is made; or for what would
   *   throw in the function itself, such as the `update` of an average that the model has now
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
    for (const check of this.checks) check();
    const addOthers = this.receivers.attach();
    for (const range of this.rewritten) if (range.storage.live) this.gpu.willWrite(range);
    this.gpu.replay(this.dispatches);
    addOthers();
  }

  /** Gives the plan's buffers back, and with them the tensors of `result`. Calling it again does nothing. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.gpu.commands.flush();
    for (const output of this.outputs) output.dispose();
    for (const storage of this.borrowed) storage.release();
    this.receivers.release();
    this.gpu.retire(this.pool);
  }
}
