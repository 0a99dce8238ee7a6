// How kernels that stand next to each other do part of each other's work: what may be done with an element as a kernel loads
// it (`Load`), as it stores it (`Store`), and with a gradient as the last contribution to it is stored (`GradientSink`).
// A kernel of one op may also do what the next one has to do first, in workgroups of its own (`Rider`).
// A port names parts of shaders, their constants and what they bind. Who offers a port knows what the part means; who links
// the part into its kernel need not.

import type { NamedBindings } from "../device/bindings.ts";
import type { PartsOf } from "../generated/shaders.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** An activation: a part of a shader, shaders/activation_*.wgsl, that computes it and its gradient. */
export interface ActivationPart {
  readonly part: PartsOf<"activation">["activation"];
  readonly constants: Readonly<Record<string, number>>;
}

export const NO_ACTIVATION: ActivationPart = { part: "activation_none", constants: {} };

/** Whether there is an activation at all. */
export function isSome({ part }: ActivationPart): boolean {
  return part !== NO_ACTIVATION.part;
}

/** Whether one bit of each result is all that the gradient needs. */
export function isRectifier({ part }: ActivationPart): boolean {
  return part === "activation_relu";
}

/** What a part of a shader needs from the host. */
export interface Part {
  /** Its name: `affine` is conv2d_input_affine.wgsl in a convolution, load_affine.wgsl in a pool. */
  readonly part: string;
  readonly constants: Readonly<Record<string, number>>;
  /** Linked with the part, which calls it. Null for a part that calls none. */
  readonly activation: ActivationPart | null;
  /** By the names that the part declares. */
  readonly bindings: Readonly<Record<string, Tensor>>;
}

/** How a kernel works out the elements of a tensor that are not in memory, as it loads them. */
export interface Load extends Part {
  /** Bound where the tensor itself would be; of its shape. */
  readonly elements: Tensor;
}

/** What a kernel does with each element as it stores it, beside storing it. */
export interface Store extends Part {
  /** Rows of the sums that it leaves: a number per channel each. */
  readonly rows: number;
}

/** The sums that a kernel leaves: [groups, rows, channels]. */
export interface Partials {
  values: Tensor;
  groups: number;
}

/** What the op that made a tensor would have done with its gradient, by the kernel that makes the last contribution to it. */
export interface GradientSink extends Store {
  /**
   * The same with an activation after the op: the gradient is that of the activation's output. `mask`: which of its
   * elements are not zero, a bit each. Null if this can't be done.
   */
  activated(activation: ActivationPart, mask: Tensor | null): GradientSink | null;
  /** The same with something added after the op. Null if this can't be done. */
  plus(): GradientSink | null;
  /**
   * Puts a gradient through by a kernel of its own, for ops that can't do it as they store: what they would have stored, and
   * the sums. Null if nothing would be gained.
   */
  apply(grad: Tensor): { grad: Tensor; partials: Partials } | null;
}

/** A small kernel of one op that may ride along in the dispatch of another, which reads and writes nothing of it. */
export interface Rider extends Pick<Part, "part" | "constants"> {
  /** What it takes beside the other kernel, whose workgroups have so many lanes: bindings by the names that the part declares. */
  divide(lanes: number): { workgroups: number; bindings: NamedBindings };
}

/** A dispatch that waits for what comes after it. */
export interface Carrier {
  /** Whether its kernel can take such a rider along. */
  takes(rider: Rider): boolean;
  /** Dispatches it, with a rider that it takes or alone. */
  run(rider: Rider | null): void;
}
