// What networks are made of: a convolution with the norm and the activation around it.

import type { Gpu } from "../../gpu.ts";
import { type Activation, activate } from "../../ops/activations.ts";
import { add, mul } from "../../ops/elementwise/elementwise.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { BatchNorm2d, type BatchNorm2dOptions, type Conv2d, Sequential } from "../layers.ts";
import { Module, type NormedLayer, parameter } from "../module.ts";
import { GroupNorm, InstanceNorm2d } from "../norms.ts";

/** Norms that a layer of their own computes. */
export type NormLayer = BatchNorm2d | GroupNorm | InstanceNorm2d;

/** What such a layer may be. Layer norm of a map is a group norm of one group (Wu & He 2018, § 3.1): γ and β per channel. */
export const NORM_LAYERS = ["batch", "layer", "group", "instance"] as const;
export type NormLayerName = (typeof NORM_LAYERS)[number];

/** A norm with γ and β for maps of `channels` channels. */
export function normLayer(
  gpu: Gpu,
  name: NormLayerName,
  channels: number,
  { batchNorm, groups }: { batchNorm: BatchNorm2dOptions; groups: number },
): NormLayer {
  if (name === "batch") return new BatchNorm2d(gpu, channels, batchNorm);
  if (name === "instance") return new InstanceNorm2d(gpu, channels, { affine: true });
  return new GroupNorm(gpu, name === "layer" ? 1 : groups, channels);
}

/** The number that `value` learns, or would learn; [1]. */
export function scalar(gpu: Gpu, value: number): Tensor {
  return parameter(gpu, Float32Array.of(value), [1]);
}

type Step = (x: Tensor) => Tensor;

/** `steps` one after the other, those that there are; what one gives is given back when the next has had it. x is left alone. */
export function chain(x: Tensor, ...steps: readonly (Step | null)[]): Tensor {
  let y = x;
  for (const step of steps) {
    if (!step) continue;
    const next = step(y);
    if (y !== x && next !== y) y.dispose();
    y = next;
  }
  return y;
}

export interface Tail {
  activation?: Activation;
  residual?: Tensor | null;
}

/** act(norm(x) + residual), what there is of it, in one pass if the norm can. */
export function normAddActivate(norm: NormLayer | null, x: Tensor, tail: Tail): Tensor {
  if (norm instanceof BatchNorm2d) return norm.forward(x, tail);
  const { activation = "none", residual = null } = tail;
  return chain(x, norm && ((y) => norm.forward(y)), residual && ((y) => add(y, residual)), (y) =>
    activate("network", y, activation),
  );
}

/** What `normedLayers` gives of a convolution whose output goes to `norm` alone. */
export function normedBy(layer: Conv2d, norm: Module | null, remove: () => void): NormedLayer[] {
  return norm instanceof BatchNorm2d ? [{ layer, norm, remove }] : [];
}

/** A `Sequential` whose layers go by their numbers alone, as PyTorch's do: `features.0.weight`. */
export class Layers extends Sequential {
  override *children(): Iterable<[string, Module]> {
    for (const [i, layer] of this.layers.entries()) yield [`${i}`, layer];
  }
}

/** Numbers that Fixup and SkipInit put around a convolution in place of a norm; [1] each. */
export interface Scalars {
  /** Added to the input of the convolution. */
  convBias?: Tensor | null;
  /** What the output is multiplied by. */
  scale?: Tensor | null;
  /** Added before the activation. */
  activationBias?: Tensor | null;
}

/** A convolution, the norm that goes with it, and the scalars that replace one. */
abstract class NormedConv extends Module {
  readonly conv: Conv2d;
  norm: NormLayer | null;
  readonly convBias: Tensor | null;
  readonly scale: Tensor | null;
  readonly activationBias: Tensor | null;

  constructor(conv: Conv2d, norm: NormLayer | null, scalars: Scalars = {}) {
    super();
    const { convBias = null, scale = null, activationBias = null } = scalars;
    this.conv = conv;
    this.norm = norm;
    this.convBias = convBias;
    this.scale = scale;
    this.activationBias = activationBias;
  }

  /** scale · conv(x + convBias) */
  protected scaledConv(x: Tensor): Tensor {
    return chain(x, plus(this.convBias), (y) => this.conv.forward(y), times(this.scale));
  }
}

/** The norm behind the convolution: act(norm(conv(x)) + residual). */
export class ConvNorm extends NormedConv {
  override normedLayers(): NormedLayer[] {
    return normedBy(this.conv, this.norm, () => {
      this.norm = null;
    });
  }

  forward(x: Tensor, tail: Tail = {}): Tensor {
    return chain(
      x,
      (y) => this.scaledConv(y),
      plus(this.activationBias),
      (y) => normAddActivate(this.norm, y, tail),
    );
  }
}

/** The norm before the convolution: conv(act(norm(x))). */
export class PreNormConv extends NormedConv {
  constructor(
    conv: Conv2d,
    norm: NormLayer | null,
    scalars: Scalars,
    private readonly activation: Activation,
  ) {
    super(conv, norm, scalars);
  }

  forward(x: Tensor): Tensor {
    return chain(
      x,
      (y) => this.activated(y),
      (y) => this.convolved(y),
    );
  }

  /** What the convolution reads; x itself if there is nothing to do. */
  activated(x: Tensor): Tensor {
    return normAddActivate(this.norm, x, { activation: this.activation });
  }

  /** The convolution of what `activated` gave. */
  convolved(activated: Tensor): Tensor {
    return this.scaledConv(activated);
  }
}

function plus(bias: Tensor | null): Step | null {
  return bias && ((x) => add(x, bias));
}

function times(factor: Tensor | null): Step | null {
  return factor && ((x) => mul(x, factor));
}
