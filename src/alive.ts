import { DeviceError } from "./errors.ts";
import type { Gpu } from "./gpu.ts";

/** Every `Gpu` that is neither destroyed nor lost. */
export const alive = new Set<Gpu>();

/** The one live `Gpu`, for calls that name none. @throws DeviceError if there is none, or more than one. */
export function defaultGpu(op: string): Gpu {
  if (alive.size !== 1) {
    throw new DeviceError(
      `${op}: ${alive.size === 0 ? "there is no live Gpu" : `there are ${alive.size} live Gpus`}; pass one as { gpu }`,
    );
  }
  return alive.values().next().value!;
}
