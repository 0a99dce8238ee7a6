// What the contenders of `bench:peers` are given: the same work with the same numbers, in one layout.

import { type NetworkName, networkParameters, type Running } from "./networks.ts";
import { normals, type Parameter } from "./numbers.ts";

export { EPSILON, normals, type Parameter } from "./numbers.ts";

/** One piece of work. Sizes are N, H, W, C; convolutions are 3×3 with stride 1 and padding 1. */
export type Work =
  | { op: "batch_norm"; pass: Pass; shape: Size4; tail?: Tail }
  | { op: "conv2d"; pass: Pass; shape: Size4; outChannels: number }
  | ResNetWork;

export interface ResNetWork {
  op: "resnet_step";
  depth: number;
  batch: number;
  size: number;
  classes: number;
  /**
   * Images that lie on the device, from which each step gathers a batch, cropped and flipped: the time of an epoch is
   * what is asked for. Absent: a step on one batch.
   */
  images?: number;
}

/** A training step of a network for images of 32×32 pixels, or inference with its batch-norms folded. */
export interface NetworkWork {
  op: "network";
  network: NetworkName;
  pass: "training step" | "inference";
  batch: number;
  size: number;
  classes: number;
}

/** What `bench:peers` compares. */
export type PeerWork = Work | NetworkWork;

export type Pass = "forward" | "forward+backward";
/** What follows batch-norm: nothing, ReLU (the default), or the addition of a residual and then ReLU. */
export type Tail = "plain" | "relu" | "residual+relu";
export type Size4 = readonly [number, number, number, number];

/** Float arrays by name, NHWC, weights `[K, R, S, C]` and `[out, in]`. */
export interface WorkData {
  arrays: Record<string, Float32Array>;
  /** Of networks: the parameters in their order. */
  parameters: Parameter[];
  /** Of networks: one label per image. */
  labels: Uint32Array;
  /** Of `network`: running statistics of the batch-norms. */
  running: Running[];
}

/** Of the training step: SGD as PyTorch has it, without weight decay. */
export const LEARNING_RATE = 0.05;
export const MOMENTUM = 0.9;

/**
 * The rate of a work's steps. Networks at random weights turn rounding errors into other losses: of MobileNetV2 in float64, with
 * errors of 6e-8 in each op, most gradients differ by 3e-3, and the fifth loss at a rate of 0.001 by 4 %. At this rate they agree, and
 * the loss still falls by far more than `AGREEMENT`.
 */
export function rateOf(work: PeerWork): number {
  return work.op === "network" ? LEARNING_RATE / 5000 : LEARNING_RATE;
}
/** Training steps whose losses the contenders are compared by; from the second on they depend on gradients. */
export const COMPARED_STEPS = 5;

/** One work item, made ready on one contender. */
export interface Prepared {
  /** Does the work `iterations` times, and returns when the device has done it. */
  run(iterations: number): Promise<void>;
  /**
   * The numbers, for comparison: y; or y, dx, dγ, dβ (and dresidual); or y, dx, dw; or the losses of the first training steps; or logits.
   * NHWC and `[K, R, S, C]`, whatever the contender works with.
   */
  result(): Promise<Float32Array[]>;
  dispose(): void;
}

export interface Contender {
  readonly name: string;
  /** What does the work: the adapter's name, or the processor. */
  readonly device: string;
  /** Why it can't do `work`, or null. */
  refuses(work: PeerWork): string | null;
  prepare(work: PeerWork, data: WorkData): Promise<Prepared>;
  close(): Promise<void>;
}

/** `batch_norm forward+backward 32×32×32×32` */
export function describeWork(work: PeerWork): string {
  if (work.op === "network") return `${work.network} ${work.pass}, batch ${work.batch}`;
  if (work.op === "resnet_step") {
    const { depth, batch, images } = work;
    return images
      ? `resnet-${depth} epoch, ${stepsOf(work)} × batch ${batch}`
      : `resnet-${depth} training step, batch ${batch}`;
  }
  const shape = work.shape.join("×");
  return work.op === "conv2d"
    ? `conv 3×3 ${work.pass} ${shape}→${work.outChannels}`
    : `BN${{ plain: "", relu: "+ReLU", "residual+relu": "+add+ReLU" }[work.tail ?? "relu"]} ${work.pass} ${shape}`;
}

/** How many iterations `work` is: the steps of an epoch, or 1. Epochs are timed over a few steps and scaled. */
export function stepsOf(work: Work): number {
  return work.op === "resnet_step" && work.images ? Math.floor(work.images / work.batch) : 1;
}

/** Names of what `Prepared.result` holds. */
export function resultNames(work: PeerWork): string[] {
  if (work.op === "network" && work.pass === "inference") return ["logits"];
  if (work.op === "network" || work.op === "resnet_step")
    return Array.from({ length: COMPARED_STEPS }, (_, i) => `loss ${i + 1}`);
  if (work.pass === "forward") return ["y"];
  if (work.op === "conv2d") return ["y", "dx", "dw"];
  return ["y", "dx", "dγ", "dβ", ...(work.tail === "residual+relu" ? ["dresidual"] : [])];
}

/** `normals`, a million of them repeated: for hundreds of millions, the generator takes longer than what is timed. */
export function manyNormals(count: number, seed: number, mean = 0, std = 1): Float32Array {
  const some = normals(Math.min(count, 2 ** 20), seed, mean, std);
  if (some.length === count) return some;
  const all = new Float32Array(count);
  for (let at = 0; at < count; at += some.length) all.set(some.subarray(0, count - at), at);
  return all;
}

const product = (sizes: readonly number[]) => sizes.reduce((a, b) => a * b, 1);

/** The inputs of `work`, always the same. The upstream gradient is random: with ones, dx and dγ vanish. */
export function workData(work: PeerWork): WorkData {
  const none = { arrays: {}, parameters: [], labels: new Uint32Array(), running: [] };
  if (work.op === "resnet_step" || work.op === "network") {
    const { batch, size, classes } = work;
    const labels = Uint32Array.from({ length: batch }, (_, i) => (i * 7) % classes);
    const arrays = { x: normals(batch * size * size * 3, 1) };
    const parameters =
      work.op === "network"
        ? networkParameters(work.network, classes)
        : { parameters: resnetParameters(work.depth, 3, classes), running: [] };
    return { arrays, labels, ...parameters };
  }
  const [n, h, w, c] = work.shape;
  const count = product(work.shape);
  if (work.op === "batch_norm") {
    return {
      ...none,
      arrays: {
        x: manyNormals(count, 1, 0.5, 2),
        gamma: normals(c, 2, 1, 0.2),
        beta: normals(c, 3, 0, 0.2),
        dy: manyNormals(count, 4),
        ...(work.tail === "residual+relu" ? { residual: manyNormals(count, 5) } : {}),
      },
    };
  }
  const k = work.outChannels;
  return {
    ...none,
    arrays: {
      x: manyNormals(count, 1),
      w: normals(k * 9 * c, 2, 0, Math.sqrt(2 / (9 * c))),
      dy: manyNormals(n * h * w * k, 4),
    },
  };
}

/** Parameters of the CIFAR ResNet with batch-norm: stem, blocks (two conv + BN each), classifier. */
export function resnetParameters(depth: number, inChannels: number, classes: number): Parameter[] {
  const parameters: Parameter[] = [];
  let seed = 100;
  const add = (kind: Parameter["kind"], shape: number[], mean: number, std: number) => {
    seed += 1;
    parameters.push({ kind, shape, data: normals(product(shape), seed, mean, std) });
  };
  const convNorm = (from: number, to: number) => {
    add("conv", [to, 3, 3, from], 0, Math.sqrt(2 / (9 * from)));
    add("gamma", [to], 1, 0.1);
    add("beta", [to], 0, 0.1);
  };
  convNorm(inChannels, 16);
  let channels = 16;
  for (const to of [16, 32, 64]) {
    for (let block = 0; block < (depth - 2) / 6; block += 1) {
      convNorm(channels, to);
      convNorm(to, to);
      channels = to;
    }
  }
  add("linear", [classes, channels], 0, Math.sqrt(1 / channels));
  add("bias", [classes], 0, 0);
  return parameters;
}

/** Re-orders the axes of a row-major array. */
export function transpose(
  data: Float32Array,
  shape: readonly number[],
  axes: readonly number[],
): Float32Array {
  const strides = shape.map((_, axis) => product(shape.slice(axis + 1)));
  const sizes = axes.map((axis) => shape[axis]!);
  const steps = axes.map((axis) => strides[axis]!);
  const out = new Float32Array(data.length);
  const index = sizes.map(() => 0);
  let from = 0;
  for (let to = 0; to < out.length; to += 1) {
    out[to] = data[from]!;
    for (let axis = sizes.length - 1; axis >= 0; axis -= 1) {
      from += steps[axis]!;
      index[axis]! += 1;
      if (index[axis]! < sizes[axis]!) break;
      from -= steps[axis]! * sizes[axis]!;
      index[axis] = 0;
    }
  }
  return out;
}

export const TO_NCHW = [0, 3, 1, 2] as const;
export const TO_NHWC = [0, 2, 3, 1] as const;
