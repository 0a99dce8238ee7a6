import { DeviceError, DeviceLostError, FusenormError } from "../errors.ts";
import type { KernelCache } from "./kernels.ts";

/** What went wrong on a device, told at the next occasion: errors that it reports, its loss, its end. */
export class Failures {
  /** What the device did last, for messages. */
  label = "";
  private failure: FusenormError | null = null;
  /** What there is to say of the device's loss, once it is lost. */
  private loss: string | null = null;
  private ended = false;
  /** To be called when the device is lost or destroyed: somebody waits for it. */
  private readonly waiting = new Set<() => void>();

  /** `isOwned`: false for a caller's device. */
  constructor(
    private readonly device: GPUDevice,
    private readonly isOwned: boolean,
    private readonly kernels: () => KernelCache,
    onLoss: () => void,
  ) {
    device.addEventListener("uncapturederror", this.onUncapturedError);
    // A device that is lost already tells so before anything that is waited for.
    let isNew = true;
    device.lost.then(({ reason, message }) => {
      onLoss();
      if (this.ended) return;
      const when = isNew ? "before this Gpu was made of it" : `near ${this.label || "its start"}`;
      this.loss =
        `the device was lost (${reason || "unknown"}) ${when}: ${message || "no message"}; ` +
        "ask for a new one (requestGpu, Gpu.request), make the tensors anew there, and go on from the last checkpoint";
      this.wake();
    });
    Promise.resolve().then(() => {
      isNew = false;
    });
  }

  private readonly onUncapturedError = (event: Event): void => {
    // On a caller's device it may be the caller's own mistake, which should be seen.
    if (this.isOwned) event.preventDefault?.();
    const label = this.label || "gpu";
    const { message } = (event as GPUUncapturedErrorEvent).error;
    // A shader that did not compile also fails where it is bound: let the cause be told first.
    void this.kernels()
      .settle()
      .then(() => this.add(new DeviceError(`${label}: ${message}`)));
  };

  get isLost(): boolean {
    return this.loss !== null;
  }

  add(error: FusenormError): void {
    this.failure ??= error;
  }

  /** Earlier failures are nobody's concern any more. */
  forget(): void {
    this.failure = null;
  }

  /** The device is destroyed, or no longer used. */
  end(): void {
    this.ended = true;
    this.device.removeEventListener("uncapturederror", this.onUncapturedError);
  }

  wake(): void {
    for (const wake of this.waiting) wake();
  }

  /** Throws that the device is gone, each time, or the first error that it reported since the last check. */
  check(): void {
    if (this.ended)
      throw new DeviceError("gpu: used after destroy(); make a new one with requestGpu or Gpu.request");
    if (this.loss !== null) throw new DeviceLostError(this.loss);
    const { failure } = this;
    if (failure) {
      this.failure = null;
      throw failure;
    }
  }

  /** The same, of what the device has reported by now. */
  async settle(): Promise<void> {
    // Error events arrive in a later turn of the event loop than the completion they belong to.
    await this.kernels().settle();
    await new Promise((resolve) => setTimeout(resolve, 0));
    this.check();
  }

  /**
   * What the device promises. Where it is lost or destroyed meanwhile, the error that says so, whatever the binding makes of
   * it, and also where it makes nothing of it.
   */
  outcome<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const stop = () => {
        this.waiting.delete(stop);
        try {
          this.check();
        } catch (error) {
          reject(error);
        }
      };
      this.waiting.add(stop);
      promise.then(
        (value) => {
          this.waiting.delete(stop);
          resolve(value);
        },
        async (error) => {
          const told = await this.typed(error);
          this.waiting.delete(stop);
          reject(told);
        },
      );
    });
  }

  /** An error of the binding as one of this package. It may come a little before the loss that caused it. */
  private async typed(error: unknown): Promise<unknown> {
    if (error instanceof FusenormError) return error;
    for (let wait = 0; wait < 50 && this.loss === null && !this.ended; wait += 1) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    try {
      this.check();
    } catch (cause) {
      return cause;
    }
    const message = error instanceof Error ? error.message || error.name : String(error);
    return new DeviceError(`${this.label || "gpu"}: ${message}`, { cause: error });
  }
}
