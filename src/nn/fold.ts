// Batch-norm of fixed statistics is a scale and a shift per channel: what comes before it can do both.

import { noGrad } from "../autograd/tape.ts";
import { UsageError } from "../errors.ts";
import { add, mul, normalize, sub } from "../ops/elementwise/elementwise.ts";
import { reshape } from "../ops/reshape.ts";
import { checkInstance } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { BatchNorm2d, ConvTranspose2d } from "./layers.ts";
import { Module, type NormedLayer } from "./module.ts";
import { isParameter, setFrozen } from "./module-state.ts";

/** Names of a network's batch-norms. */
export interface FoldedBatchNorms {
  /** Those that are gone. */
  folded: string[];
  /** Those that stay, as no convolution gives its output to them alone. */
  left: string[];
}

/**
 * Puts batch-norms into the convolutions, transposed ones too, and linear layers before them, for inference: w' = w·γ/√(variance + eps) and b' =
 * (b − mean)·γ/√(variance + eps) + β with the running statistics. The network gives the same outputs up to rounding, without the
 * norms; it is changed in place, and its state has other names then. A norm whose input comes from elsewhere stays, such as the
 * first of each block of a pre-activation network.
 * @throws UsageError for a network in training mode, unless its batch-norms are frozen
 */
export function foldBatchNorm(model: Module): FoldedBatchNorms {
  checkInstance("foldBatchNorm", "model", model, Module);
  const names = new Map<Module, string>();
  const uses = new Map<Module, number>();
  for (const [name, module] of model.modules()) {
    if (!names.has(module)) names.set(module, name);
    uses.set(module, (uses.get(module) ?? 0) + 1);
  }
  for (const [module, name] of names) {
    if (module instanceof BatchNorm2d && module.training && !module.frozen) {
      throw new UsageError(
        `foldBatchNorm: ${name || "the module"} is in training mode, where it uses the batch's statistics; expected model.eval() first`,
      );
    }
  }
  const folded: string[] = [];
  const gone = new Set<Tensor>();
  for (const module of names.keys()) {
    for (const pair of [...module.normedLayers()]) {
      const { layer, norm } = pair;
      if (uses.get(layer) !== 1 || uses.get(norm) !== 1 || layer.parametrizations || !norm.runningVar)
        continue;
      for (const tensor of [...fold(pair), ...[...norm.tensors()].map(([, own]) => own)]) gone.add(tensor);
      folded.push(names.get(norm)!);
    }
  }
  // Layers may share a tensor, and not all of them be folded, or not yet.
  for (const [, tensor] of model.tensors()) gone.delete(tensor);
  for (const tensor of gone) tensor.dispose();
  const left = [...names].filter(([module, name]) => module instanceof BatchNorm2d && !folded.includes(name));
  return { folded, left: left.map(([, name]) => name) };
}

/** The weight with that of each output channel multiplied by its element of `factor`. */
function scaledOutputs(layer: NormedLayer["layer"], factor: Tensor): Tensor {
  const { weight } = layer;
  if (!(layer instanceof ConvTranspose2d)) {
    return mul(weight, reshape(factor, [factor.size, ...weight.shape.slice(1).map(() => 1)]));
  }
  // Output channels are the last axis, those of the group that an input channel, the first axis, is in.
  const { groups = 1 } = layer.options;
  const perGroup = factor.size / groups;
  const byGroup = reshape(weight, [groups, weight.size / factor.size, perGroup]);
  return reshape(mul(byGroup, reshape(factor, [groups, 1, perGroup])), weight.shape);
}

/** Gives the tensors that the layer had. */
function fold({ layer, norm, remove }: NormedLayer): Tensor[] {
  const { weight, bias } = layer;
  const { gpu } = weight;
  const [scaled, shift] = noGrad(() =>
    gpu.scope(() => {
      const channels = norm.runningVar!.shape;
      const zeros = gpu.zeros(channels);
      const gamma = norm.weight ?? gpu.full(channels, 1);
      const factor = normalize(gamma, zeros, norm.runningVar!, norm.eps);
      const centred = mul(sub(bias ?? zeros, norm.runningMean!), factor);
      const both = [scaledOutputs(layer, factor), norm.bias ? add(centred, norm.bias) : centred] as const;
      for (const tensor of both) gpu.keep(tensor.materialize());
      return both;
    }),
  );
  const learned: [Tensor, Tensor | null][] = [
    [scaled, weight],
    [shift, bias ?? norm.bias],
  ];
  for (const [tensor, was] of learned) {
    tensor.requiresGrad = was === null || isParameter(was);
    setFrozen(tensor, was !== null && !was.requiresGrad);
  }
  layer.weight = scaled;
  layer.bias = shift;
  remove();
  return bias ? [weight, bias] : [weight];
}
