// Whole networks for `bench:peers`, as lists of blocks that every contender builds by itself: ResNet-18 and MobileNetV2 for images of
// 32×32 pixels, as `images: "cifar"` makes them.

import { EPSILON, normals, type Parameter } from "./numbers.ts";

export type NetworkName = "resnet18" | "mobilenetV2";

/** A convolution without bias, batch-norm, an activation. */
export interface Unit {
  from: number;
  to: number;
  /** Side of the filter; padded by half of it. */
  kernel: 1 | 3;
  stride: 1 | 2;
  /** Each channel by itself; else all in one group. */
  depthwise: boolean;
  activation: "relu" | "relu6" | "none";
}

/** Units one after the other; their result and the shortcut's, if there is one, added, and then a ReLU or nothing. */
export interface Block {
  branch: readonly Unit[];
  shortcut: Unit | "identity" | "none";
  activation: "relu" | "none";
}

function unit(from: number, to: number, kernel: 1 | 3, more: Partial<Unit> = {}): Unit {
  return { from, to, kernel, stride: 1, depthwise: false, activation: "none", ...more };
}

/** After the last block come the mean over all pixels and a linear layer. */
export function blocksOf(network: NetworkName): Block[] {
  return network === "resnet18" ? resnet18() : mobilenetV2();
}

function resnet18(): Block[] {
  const blocks: Block[] = [alone(unit(3, 64, 3, { activation: "relu" }))];
  let from = 64;
  for (const [stage, to] of [64, 128, 256, 512].entries()) {
    for (const i of [0, 1]) {
      const stride = stage > 0 && i === 0 ? 2 : 1;
      blocks.push({
        branch: [unit(from, to, 3, { stride, activation: "relu" }), unit(to, to, 3)],
        shortcut: stride === 2 ? unit(from, to, 1, { stride }) : "identity",
        activation: "relu",
      });
      from = to;
    }
  }
  return blocks;
}

function mobilenetV2(): Block[] {
  const activation = "relu6" as const;
  const blocks: Block[] = [alone(unit(3, 32, 3, { activation }))];
  let from = 32;
  // Expansion, channels, blocks, stride of the first of them.
  for (const [expansion, to, count, first] of [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
  ] as const) {
    for (let i = 0; i < count; i += 1) {
      const stride = i === 0 ? first : 1;
      const hidden = from * expansion;
      blocks.push({
        branch: [
          ...(expansion === 1 ? [] : [unit(from, hidden, 1, { activation })]),
          unit(hidden, hidden, 3, { stride, activation, depthwise: true }),
          unit(hidden, to, 1),
        ],
        shortcut: stride === 1 && from === to ? "identity" : "none",
        activation: "none",
      });
      from = to;
    }
  }
  return [...blocks, alone(unit(from, 1280, 1, { activation }))];
}

function alone(one: Unit): Block {
  return { branch: [one], shortcut: "none", activation: "none" };
}

/** All units in the order of the parameters: a block's shortcut after its branch. */
export function unitsOf(network: NetworkName): Unit[] {
  return blocksOf(network).flatMap(({ branch, shortcut }) =>
    typeof shortcut === "string" ? branch : [...branch, shortcut],
  );
}

/** The statistics that a batch-norm normalises by in inference. */
export interface Running {
  mean: Float32Array;
  variance: Float32Array;
}

/** A filter, γ and β of each unit, and the linear layer; running statistics of each unit. */
export function networkParameters(
  network: NetworkName,
  classes: number,
): { parameters: Parameter[]; running: Running[] } {
  const parameters: Parameter[] = [];
  let seed = 1000;
  const add = (kind: Parameter["kind"], shape: number[], mean: number, std: number) => {
    seed += 1;
    const count = shape.reduce((a, b) => a * b, 1);
    parameters.push({ kind, shape, data: normals(count, seed, mean, std) });
  };
  const units = unitsOf(network);
  for (const { from, to, kernel, depthwise } of units) {
    const inputs = depthwise ? 1 : from;
    add("conv", [to, kernel, kernel, inputs], 0, Math.sqrt(2 / (kernel * kernel * inputs)));
    add("gamma", [to], 1, 0.1);
    add("beta", [to], 0, 0.1);
  }
  const last = units.at(-1)!.to;
  // The last unit of a ResNet is on its branch's side, and as wide as its shortcut.
  add("linear", [classes, last], 0, Math.sqrt(1 / last));
  add("bias", [classes], 0, 0.1);
  const running = units.map(({ to }, i) => ({
    mean: normals(to, 5000 + i, 0, 0.1),
    variance: normals(to, 6000 + i, 1, 0.1),
  }));
  return { parameters, running };
}

/** Filters and biases with the batch-norms in them, [K, R, S, C] and [K] of each unit; then the linear layer's. */
export function folded(
  network: NetworkName,
  parameters: readonly Parameter[],
  running: readonly Running[],
): { weight: Parameter; bias: Float32Array }[] {
  const units = unitsOf(network).map((_, i) => {
    const [conv, gamma, beta] = parameters.slice(3 * i, 3 * i + 3) as [Parameter, Parameter, Parameter];
    const { mean, variance } = running[i]!;
    const factor = variance.map((v, k) => gamma.data[k]! / Math.sqrt(v + EPSILON));
    const perFilter = conv.data.length / factor.length;
    return {
      weight: { ...conv, data: conv.data.map((w, j) => w * factor[Math.floor(j / perFilter)]!) },
      bias: factor.map((f, k) => beta.data[k]! - mean[k]! * f),
    };
  });
  const [linear, bias] = parameters.slice(-2) as [Parameter, Parameter];
  return [...units, { weight: linear, bias: bias.data }];
}
