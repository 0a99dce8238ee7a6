// The work as ONNX graphs, for the runtimes that run them. Inference only, so the backward passes are graphs of primitive ops,
// written out by hand. NCHW, as their kernels have it.
import { blocksOf, folded, type Unit } from "../lib/networks.ts";
import {
  EPSILON,
  type NetworkWork,
  type PeerWork,
  TO_NCHW,
  TO_NHWC,
  transpose,
  type WorkData,
} from "../lib/work.ts";
import { OnnxGraph } from "./onnx.ts";

/** Shapes by name. */
export type Outputs = Record<string, readonly number[]>;

/** A model file, what it is given, and what it gives. */
export interface OnnxWork {
  model: Uint8Array;
  feeds: Record<string, { data: Float32Array; shape: readonly number[] }>;
  outputs: Outputs;
}

/** Why no graph is written for `work`, or null. */
export function refusedAsGraph(work: PeerWork): string | null {
  if (work.op === "batch_norm" && work.tail && work.tail !== "relu") return "not written for it";
  const trains = work.op === "resnet_step" || (work.op === "network" && work.pass !== "inference");
  return trains ? "it does not train" : null;
}

export function onnxWork(work: PeerWork, data: WorkData): OnnxWork {
  if (work.op === "network" && work.pass === "inference") return networkWork(work, data);
  if (work.op === "network" || work.op === "resnet_step") {
    throw new Error(`onnxWork: ${refusedAsGraph(work)}`);
  }
  const { arrays } = data;
  const [n, h, w, c] = work.shape;
  const k = work.op === "conv2d" ? work.outChannels : c;
  const nchw = (name: string, from: readonly number[]) => ({
    data: transpose(arrays[name]!, from, TO_NCHW),
    shape: TO_NCHW.map((axis) => from[axis]!),
  });
  const feeds: OnnxWork["feeds"] = { x: nchw("x", work.shape) };
  if (work.op === "batch_norm") {
    feeds.gamma = { data: arrays.gamma!, shape: [c] };
    feeds.beta = { data: arrays.beta!, shape: [c] };
  } else {
    feeds.w = nchw("w", [k, 3, 3, c]);
  }
  if (work.pass === "forward+backward") feeds.dy = nchw("dy", [n, h, w, k]);
  const graph = new OnnxGraph(
    Object.fromEntries(Object.entries(feeds).map(([name, { shape }]) => [name, shape])),
  );
  const outputs =
    work.op === "batch_norm"
      ? batchNormGraph(graph, work.pass, [n, c, h, w])
      : convGraph(graph, work.pass, [n, c, h, w], k);
  return { model: graph.encode(outputs), feeds, outputs };
}

/** The results in the order of the work's names, maps as [N, H, W, C]. */
export function resultsOf(outputs: Outputs, read: (name: string) => Float32Array): Float32Array[] {
  return Object.entries(outputs).map(([name, shape]) => {
    const values = Float32Array.from(read(name));
    return shape.length === 4 ? transpose(values, shape, TO_NHWC) : values;
  });
}

/** A network whose batch-norms are folded, from plain nodes. */
function networkWork(work: NetworkWork, data: WorkData): OnnxWork {
  const { batch, size, classes } = work;
  const images = transpose(data.arrays.x!, [batch, size, size, 3], TO_NCHW);
  const g = new OnnxGraph({ x: [batch, 3, size, size] });
  const weights = folded(work.network, data.parameters, data.running);
  const limits = [g.scalar(0), g.scalar(6)];
  let next = 0;
  const activated = (y: string, activation: Unit["activation"]) => {
    if (activation === "none") return y;
    return activation === "relu" ? g.op("Relu", [y]) : g.op("Clip", [y, ...limits]);
  };
  const unit = (y: string, { kernel, stride, depthwise, from, activation }: Unit) => {
    const { weight, bias } = weights[next++]!;
    const dims = TO_NCHW.map((axis) => weight.shape[axis]!);
    const filter = g.tensor(dims, transpose(weight.data, weight.shape, TO_NCHW));
    const pad = (kernel - 1) / 2;
    const z = g.op("Conv", [y, filter, g.vector(bias)], {
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads: [pad, pad, pad, pad],
      group: depthwise ? from : 1,
    });
    return activated(z, activation);
  };
  let y = "x";
  for (const { branch, shortcut, activation } of blocksOf(work.network)) {
    const x = y;
    y = branch.reduce(unit, x);
    if (shortcut !== "none") y = g.op("Add", [y, shortcut === "identity" ? x : unit(x, shortcut)]);
    y = activated(y, activation);
  }
  const { weight, bias } = weights[next]!;
  const pooled = g.op("Flatten", [g.op("GlobalAveragePool", [y])]);
  g.op("Gemm", [pooled, g.tensor(weight.shape, weight.data), g.vector(bias)], { transB: 1 }, ["y"]);
  const outputs = { y: [batch, classes] };
  return { model: g.encode(outputs), feeds: { x: { data: images, shape: [batch, 3, size, size] } }, outputs };
}

function batchNormGraph(g: OnnxGraph, pass: string, shape: readonly number[]): Outputs {
  const [n, c, h, w] = shape as [number, number, number, number];
  if (pass === "forward") {
    // Training mode with a momentum of 0 hands the batch's mean and variance over as the running ones.
    const zeros = g.vector(new Float32Array(c));
    const attributes = { "epsilon!": EPSILON, "momentum!": 0, training_mode: 1 };
    const z = g.op("BatchNormalization", ["x", "gamma", "beta", zeros, zeros], attributes, [
      "z",
      "mean",
      "var",
    ]);
    g.op("Relu", [z], {}, ["y"]);
    return { y: shape };
  }
  const axes = [0, 2, 3];
  const axesValue = g.ints(axes);
  const count = g.scalar(1 / (n * h * w));
  const perChannel = g.ints([1, c, 1, 1]);
  const flat = g.ints([c]);
  const gamma = g.op("Reshape", ["gamma", perChannel]);
  const beta = g.op("Reshape", ["beta", perChannel]);
  const mean = g.op("ReduceMean", ["x"], { axes, keepdims: 1 });
  const centred = g.op("Sub", ["x", mean]);
  const variance = g.op("ReduceMean", [g.op("Mul", [centred, centred])], { axes, keepdims: 1 });
  const rstd = g.op("Reciprocal", [g.op("Sqrt", [g.op("Add", [variance, g.scalar(EPSILON)])])]);
  const normalized = g.op("Mul", [centred, rstd]);
  const z = g.op("Add", [g.op("Mul", [normalized, gamma]), beta]);
  g.op("Relu", [z], {}, ["y"]);
  const dz = g.op("Where", [g.op("Greater", [z, g.scalar(0)]), "dy", g.scalar(0)]);
  const dbeta = g.op("ReduceSum", [dz, axesValue], { keepdims: 1 });
  const dgamma = g.op("ReduceSum", [g.op("Mul", [dz, normalized]), axesValue], { keepdims: 1 });
  // dx = γ·rstd · (dz − mean(dz) − x̂·mean(dz·x̂))
  const inner = g.op("Sub", [
    g.op("Sub", [dz, g.op("Mul", [dbeta, count])]),
    g.op("Mul", [normalized, g.op("Mul", [dgamma, count])]),
  ]);
  g.op("Mul", [inner, g.op("Mul", [gamma, rstd])], {}, ["dx"]);
  g.op("Reshape", [dgamma, flat], {}, ["dgamma"]);
  g.op("Reshape", [dbeta, flat], {}, ["dbeta"]);
  return { y: shape, dx: shape, dgamma: [c], dbeta: [c] };
}

function convGraph(g: OnnxGraph, pass: string, shape: readonly number[], k: number): Outputs {
  const [n, c, h, w] = shape as [number, number, number, number];
  const pads = { kernel_shape: [3, 3], pads: [1, 1, 1, 1] };
  g.op("Conv", ["x", "w"], pads, ["y"]);
  const y = [n, k, h, w];
  if (pass === "forward") return { y };
  g.op("ConvTranspose", ["dy", "w"], pads, ["dx"]);
  // dw as a convolution of x with dy, in which images and channels change places.
  const swap = { perm: [1, 0, 2, 3] };
  const dw = g.op("Conv", [g.op("Transpose", ["x"], swap), g.op("Transpose", ["dy"], swap)], {
    kernel_shape: [h, w],
    pads: [1, 1, 1, 1],
  });
  g.op("Transpose", [dw], swap, ["dw"]);
  return { y, dx: shape, dw: [k, c, 3, 3] };
}
