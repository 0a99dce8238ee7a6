// resnetCifar with any norm and shortcut in float64: loss, and gradients on the values of `w`.

import type { ActivationName } from "./activations.ts";
import { type NormOptions, Tape, type Value } from "./autodiff.ts";

export interface ReferenceResNet {
  /** n of 6n + 2. */
  blocks: number;
  norm: "batch" | "none" | "last" | "layer" | "group" | "instance" | "weight" | "fixup" | "skipinit";
  shortcut: "zero-pad" | "projection" | "none";
  preActivation: boolean;
  activation: ActivationName;
  groups: number;
}

const EPS = 1e-5;

/** @param w parameters by the names of `Module.namedParameters` */
export function referenceLoss(
  options: ReferenceResNet,
  w: Record<string, Value>,
  images: { data: Float64Array; shape: readonly number[] },
  labels: readonly number[],
): number {
  const { blocks, norm, shortcut, preActivation, activation } = options;
  const tape = new Tape();

  const weightOf = (name: string): Value => {
    const g = w[`${name}.parametrizations.weight.original0`];
    if (!g) return w[`${name}.weight`]!;
    const v = w[`${name}.parametrizations.weight.original1`]!;
    const zeros = tape.leaf(g.shape, new Float64Array(g.data.length));
    return tape.mul(g, tape.normalize(v, zeros, tape.sum(tape.mul(v, v), [1, 2, 3], true), 0));
  };
  const plus = (x: Value, bias: Value | undefined) => (bias ? tape.add(x, bias) : x);
  const conv = (x: Value, part: string, stride: number): Value => {
    const weight = weightOf(`${part}.conv`);
    const pad = (weight.shape[1]! - 1) / 2;
    const input = plus(x, w[`${part}.convBias`]);
    const y = tape.conv2d(input, weight, {
      bias: w[`${part}.conv.bias`] ?? null,
      stride: [stride, stride],
      padding: [pad, pad, pad, pad],
    });
    const scale = w[`${part}.scale`];
    return plus(scale ? tape.mul(y, scale) : y, w[`${part}.activationBias`]);
  };
  const normed = (x: Value, name: string, kind = norm): Value => {
    const [gamma, beta] = [w[`${name}.weight`], w[`${name}.bias`]];
    if (!gamma || !beta) return x;
    const channels = x.shape[3]!;
    if (kind === "batch" || kind === "last")
      return tape.batchNorm(x, gamma, beta, { eps: EPS } as NormOptions);
    const groups = { layer: 1, group: options.groups, instance: channels }[kind as "layer"];
    return tape.groupNorm(x, groups, gamma, beta, EPS);
  };
  const activate = (x: Value) => (activation === "relu" ? tape.relu(x) : tape.activation(x, activation));
  const convNorm = (x: Value, part: string, stride: number) => normed(conv(x, part, stride), `${part}.norm`);

  let y = convNorm(tape.leaf(images.shape, images.data), "stem", 1);
  if (!preActivation) y = activate(y);
  for (let i = 0; i < 3 * blocks; i += 1) {
    const of = (part: string) => `blocks.${i}.${part}`;
    const stride = i > 0 && i % blocks === 0 ? 2 : 1;
    const x = y;
    const around = (projected: Value, channels: number): Value | null => {
      if (shortcut === "none") return null;
      if (stride === 1) return x;
      if (shortcut === "projection") return convNorm(projected, of("shortcut"), stride);
      return tape.subsample(x, stride, channels);
    };
    if (preActivation) {
      const active = activate(normed(x, of("first.norm")));
      const middle = conv(active, of("first"), stride);
      const branch = conv(activate(normed(middle, of("second.norm"))), of("second"), 1);
      const residual = around(active, branch.shape[3]!);
      y = residual ? tape.add(branch, residual) : branch;
    } else {
      const middle = activate(convNorm(x, of("first"), stride));
      const branch = convNorm(middle, of("second"), 1);
      const residual = around(x, branch.shape[3]!);
      y = activate(residual ? tape.add(branch, residual) : branch);
    }
  }
  y = normed(y, "lastNorm");
  if (preActivation) y = activate(y);
  const pooled = plus(tape.mean(y, [1, 2]), w.lastBias);
  const logits = tape.linear(pooled, w["classifier.weight"]!, w["classifier.bias"]!);
  const loss = tape.crossEntropy(logits, labels);
  tape.backward(loss, Float64Array.of(1));
  return loss.data[0]!;
}
