// What the kernels of pooling and of sums read: elements in memory, or what they make of others as they load them.

import { type LinkedShader, link, type ShaderModule } from "../device/link.ts";
import { type Load, NO_ACTIVATION } from "../fusion/ports.ts";
import type { PartsOf } from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Modules with a hole for how they load. */
type Module = "pool2d" | "reduce";

/** What fits there: the part, and under which name it has each binding of a `Load`. */
const PARTS: Readonly<
  Record<string, { load: PartsOf<Module>["load"]; names: Readonly<Record<string, string>> }>
> = {
  affine: { load: "load_affine", names: { numbers: "x_numbers" } },
};

/** How one dispatch reads its input; what is in memory is there before anything else of the kernel is chosen and timed. */
export interface Input<M extends Module> extends Pick<Load, "elements" | "constants" | "bindings"> {
  shader: LinkedShader<M>;
}

/** `x` as it lies in memory. */
export function plainInput<M extends Module>(module: ShaderModule<M>, x: Tensor): Input<M> {
  return { shader: link(module), elements: x.materialize(), constants: {}, bindings: {} };
}

/**
 * `x`, of which the kernel reads vec4s of channels: made on the way where that can be done and is faster here, by what was
 * measured at `shape`, else by `fuses`.
 */
export function inputOf<M extends Module>(
  gpu: Gpu,
  module: ShaderModule<M>,
  x: Tensor,
  shape: string,
  fuses: boolean,
): Input<M> {
  const { load } = x;
  const part = load && PARTS[load.part];
  if (!part) return plainInput(module, x);
  const fallback = fuses ? "fused" : "separate";
  const choice = gpu.variants.pick(`${module.name}.input`, shape, ["fused", "separate"], fallback, "work");
  if (choice.variant === "separate") return plainInput(module, x);
  const { elements, activation } = load;
  const { part: named, constants } = activation ?? NO_ACTIVATION;
  const bindings: Record<string, Tensor> = {};
  for (const name in part.names) bindings[part.names[name]!] = load.bindings[name]!;
  const holes: Partial<PartsOf<Module>> = { load: part.load, activation: named };
  return {
    shader: link(module, holes as Partial<PartsOf<M>>),
    elements: elements.materialize(),
    constants: { ...load.constants, ...constants },
    bindings,
  };
}
