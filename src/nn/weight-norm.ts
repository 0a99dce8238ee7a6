// Weight normalisation (Salimans & Kingma 2016): w = g · v / ‖v‖, one length g and one direction v per filter.

import { noGrad } from "../autograd/tape.ts";
import { ShapeError, UsageError } from "../errors.ts";
import { mul, normalize } from "../ops/elementwise/elementwise.ts";
import { sum } from "../ops/reduce/reduce.ts";
import { show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Conv2d, ConvTranspose2d, Linear } from "./layers.ts";
import { Module } from "./module.ts";

/** ‖v‖² per filter, [K, 1, …]. */
function squaredNorms(v: Tensor): Tensor {
  const rest = v.shape.map((_, axis) => axis).slice(1);
  return sum(mul(v, v), rest, { keepDims: true });
}

/** x / √squares */
function dividedByNorm(x: Tensor, squares: Tensor): Tensor {
  return normalize(x, x.gpu.zeros(squares.shape), squares, 0);
}

/** The weight of length g (`original0`, [K, 1, …]) and direction v (`original1`, the weight's shape), per filter. */
class WeightNorm extends Module {
  constructor(
    readonly original0: Tensor,
    readonly original1: Tensor,
  ) {
    super();
  }

  /** g · v / ‖v‖ */
  get value(): Tensor {
    const { original0: g, original1: v } = this;
    return v.gpu.scope(() => mul(dividedByNorm(v, squaredNorms(v)), g));
  }

  forward(): Tensor {
    return this.value;
  }
}

/** What the weight of a layer is worked out of. Named as in PyTorch: `parametrizations.weight.original0`. */
export class Parametrizations extends Module {
  constructor(readonly weight: WeightNorm) {
    super();
  }

  forward(): Tensor {
    return this.weight.value;
  }
}

/**
 * Gives a layer a weight of separate length and direction, each learned: w = g · v / ‖v‖ with one g per output channel, or per input
 * channel of a `ConvTranspose2d`: along the weight's first axis, as PyTorch's default has it. The layer computes what it did before, until it is trained. Its parameters are then `parametrizations.weight.original0` (g) and
 * `.original1` (v), as in PyTorch's `torch.nn.utils.parametrizations.weight_norm`; `layer.weight` is worked out of them each
 * time that it is read, and belongs to who reads it.
 *
 * Make the optimizer after it. A channel whose weights are all 0 has no direction: its weights become NaN.
 * @returns the layer
 */
export function weightNorm<T extends Conv2d | ConvTranspose2d | Linear>(layer: T): T {
  if (!(layer instanceof Conv2d || layer instanceof ConvTranspose2d || layer instanceof Linear)) {
    throw new ShapeError(
      `weightNorm: layer is ${show(layer)}; expected a Conv2d, a ConvTranspose2d or a Linear`,
    );
  }
  if (layer.parametrizations) {
    throw new UsageError(`weightNorm: the ${layer.constructor.name} has a weight norm; expected one without`);
  }
  const { weight: v } = layer;
  const { gpu } = v;
  const g = gpu.scope(() => {
    const norms = noGrad(() => {
      const squares = squaredNorms(v);
      return dividedByNorm(squares, squares);
    });
    return gpu.keep(norms.materialize());
  });
  g.requiresGrad = true;
  const parametrization = new WeightNorm(g, v);
  layer.parametrizations = new Parametrizations(parametrization);
  // Not enumerable: no parameter of the layer any more. By no forward: those are of layers, which probes and hooks look at.
  Object.defineProperty(layer, "weight", {
    get: () => parametrization.value,
    enumerable: false,
    configurable: true,
  });
  return layer;
}
