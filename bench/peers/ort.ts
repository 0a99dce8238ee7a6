// ONNX Runtime's native CPU provider: what the processor can do without the detour through WebGPU. Inference only,
// so the backward passes are graphs of primitive ops, written out by hand. NCHW, as its kernels have it.
import { cpus } from "node:os";
import * as ort from "onnxruntime-node";
import { blocksOf, folded, type Unit } from "../lib/networks.ts";
import {
  type Contender,
  EPSILON,
  type NetworkWork,
  type PeerWork,
  type Prepared,
  TO_NCHW,
  TO_NHWC,
  transpose,
  type WorkData,
} from "../lib/work.ts";
import { OnnxGraph } from "./onnx.ts";

export async function onnxRuntime(): Promise<Contender> {
  return new OrtContender();
}

class OrtContender implements Contender {
  readonly name = "ONNX Runtime CPU";
  readonly device = `${cpus().length} × ${cpus()[0]?.model ?? "unknown processor"}`;

  refuses(work: PeerWork): string | null {
    if (work.op === "batch_norm" && work.tail && work.tail !== "relu") return "not written for it";
    const trains = work.op === "resnet_step" || (work.op === "network" && work.pass !== "inference");
    return trains ? "its CPU provider does not train" : null;
  }

  async prepare(work: PeerWork, data: WorkData): Promise<Prepared> {
    if (work.op === "network" && work.pass === "inference") return prepareNetwork(work, data);
    if (work.op === "network" || work.op === "resnet_step") {
      throw new Error(`${this.name}: ${this.refuses(work)}`);
    }
    const { arrays } = data;
    const [n, h, w, c] = work.shape;
    const k = work.op === "conv2d" ? work.outChannels : c;
    const nchw = (name: string, from: readonly number[]) =>
      new ort.Tensor(
        "float32",
        transpose(arrays[name]!, from, TO_NCHW),
        TO_NCHW.map((axis) => from[axis]!),
      );
    const feeds: Record<string, ort.Tensor> = { x: nchw("x", work.shape) };
    if (work.op === "batch_norm") {
      feeds.gamma = new ort.Tensor("float32", arrays.gamma!, [c]);
      feeds.beta = new ort.Tensor("float32", arrays.beta!, [c]);
    } else {
      feeds.w = nchw("w", [k, 3, 3, c]);
    }
    if (work.pass === "forward+backward") feeds.dy = nchw("dy", [n, h, w, k]);
    const shapes = Object.fromEntries(Object.entries(feeds).map(([name, { dims }]) => [name, dims]));
    const graph = new OnnxGraph(shapes);
    const outputs =
      work.op === "batch_norm"
        ? batchNormGraph(graph, work.pass, [n, c, h, w])
        : convGraph(graph, work.pass, [n, c, h, w], k);
    return prepared(graph, feeds, outputs);
  }

  async close(): Promise<void> {}
}

type Outputs = Record<string, readonly number[]>;

async function prepared(
  graph: OnnxGraph,
  feeds: Record<string, ort.Tensor>,
  outputs: Outputs,
): Promise<Prepared> {
  const session = await ort.InferenceSession.create(graph.encode(outputs), {
    executionProviders: ["cpu"],
    graphOptimizationLevel: "all",
  });
  // Outputs go to the same memory each time, as on the GPU.
  const fetches = Object.fromEntries(
    Object.entries(outputs).map(([name, shape]) => [
      name,
      new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b, 1)), shape),
    ]),
  );
  return {
    run: async (iterations) => {
      for (let i = 0; i < iterations; i += 1) await session.run(feeds, fetches);
    },
    result: async () => {
      const results = await session.run(feeds);
      return Object.entries(outputs).map(([name, shape]) => {
        const values = Float32Array.from(results[name]!.data as Float32Array);
        return shape.length === 4 ? transpose(values, shape, TO_NHWC) : values;
      });
    },
    dispose: () => void session.release(),
  };
}

/** A network whose batch-norms are folded, from plain nodes. */
async function prepareNetwork(work: NetworkWork, data: WorkData): Promise<Prepared> {
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
  const feeds = { x: new ort.Tensor("float32", images, [batch, 3, size, size]) };
  return prepared(g, feeds, { y: [batch, classes] });
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
