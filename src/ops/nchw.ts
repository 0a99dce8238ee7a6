// What messages say to who comes from PyTorch, whose maps are [N, C, H, W] and whose filters are [K, C, R, S].

import type { Shape } from "../tensor/shape.ts";

/** For the end of a message about the channels of `x`: if it has as many as expected where PyTorch has them, how to convert it. */
export function nchwHint(name: string, x: Shape, channels: number): string {
  if (x.length !== 4 || x[1] !== channels || x[3] === channels) return "";
  return `; if ${name} is [N, C, H, W], as in PyTorch, pass fromNCHW(${name})`;
}

/** Likewise of a convolution's `weight`, of its input channels. */
export function oihwHint(weight: Shape, channels: number): string {
  if (weight[1] !== channels || weight[3] === channels) return "";
  return "; if weight is [K, C, R, S], as in PyTorch, pass weightFromOIHW(weight)";
}
