// What the kernels of pooling and of sums read: elements in memory, or what they make of others as they load them.

import { type ActivationPart, type Load, NO_ACTIVATION } from "../fusion/ports.ts";
import { shaders } from "../generated/shaders.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Files with a hole for how they load. */
type Module = "pool2d" | "reduce";

/** What fits there: its WGSL, and which bindings of a `Load` it has, from number 7 on. */
const PARTS: Readonly<Record<string, { source: string; bindings: readonly string[] }>> = {
  plain: { source: shaders.load_plain, bindings: [] },
  normalised: { source: shaders.load_normalised, bindings: ["numbers"] },
};

const modules = new Map<string, { name: string; source: string }>();

/** A file's kernels with a part in the hole, and the activation that it calls. */
export function withLoad(
  file: Module,
  part = "plain",
  activation: ActivationPart = NO_ACTIVATION,
): { name: string; source: string } {
  const key = `${file},${part},${activation.part}`;
  let module = modules.get(key);
  if (!module) {
    const name = part === "plain" ? file : `${file}+x_${part}`;
    const source = [shaders[file], PARTS[part]!.source, shaders[activation.part]].join("\n");
    module = { name, source };
    modules.set(key, module);
  }
  return module;
}

/** How one dispatch reads its input; what is in memory is there before anything else of the kernel is chosen and timed. */
export interface Input extends Pick<Load, "elements" | "constants"> {
  shader: { name: string; source: string };
  /** From number 7 on. */
  bindings: readonly Tensor[];
}

/** `x` as it lies in memory. */
export function plainInput(file: Module, x: Tensor): Input {
  return { shader: withLoad(file), elements: x.materialize(), constants: {}, bindings: [] };
}

/**
 * `x`, of which the kernel reads vec4s of channels: made on the way where that can be done and is faster here, by what was
 * measured at `shape`, else by `fuses`.
 */
export function inputOf(gpu: Gpu, file: Module, x: Tensor, shape: string, fuses: boolean): Input {
  const { load } = x;
  const part = load && PARTS[load.part];
  if (!part) return plainInput(file, x);
  const fallback = fuses ? "fused" : "separate";
  const choice = gpu.variants.pick(`${file}.input`, shape, ["fused", "separate"], fallback, "work");
  if (choice.variant === "separate") return plainInput(file, x);
  const { elements, bindings } = load;
  const activation = load.activation ?? NO_ACTIVATION;
  return {
    shader: withLoad(file, load.part, activation),
    elements: elements.materialize(),
    constants: { ...load.constants, ...activation.constants },
    bindings: part.bindings.map((name) => bindings[name]!),
  };
}
