import { Module } from "../nn/module.ts";
import { checkInstance } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ParameterGroup } from "./optimizer.ts";

/**
 * A module's parameters in two groups: weights of convolutions and linear layers, with the optimizer's weight decay; and without
 * decay what has one axis (biases, and the weights of norms) or is the length in a weight normalisation:
 * `new AdamW(decayGroups(model), { weightDecay: 0.05 })`.
 */
export function decayGroups(module: Module): ParameterGroup[] {
  checkInstance("decayGroups", "module", module, Module);
  const [decayed, others]: [Tensor[], Tensor[]] = [[], []];
  for (const [name, parameter] of module.namedParameters()) {
    const decays = parameter.rank > 1 && !name.endsWith("parametrizations.weight.original0");
    (decays ? decayed : others).push(parameter);
  }
  const groups: ParameterGroup[] = [{ params: decayed }, { params: others, weightDecay: 0 }];
  return groups.filter((group) => [...group.params].length > 0);
}
