// TensorFlow.js on its WebGPU backend, which knows browsers only: three things are set up for it here.
import { createRequire } from "node:module";
import type * as Tf from "@tensorflow/tfjs-core";
import { blocksOf, folded, type Unit } from "../lib/networks.ts";
import {
  COMPARED_STEPS,
  type Contender,
  EPSILON,
  MOMENTUM,
  type NetworkWork,
  type Parameter,
  type PeerWork,
  type Prepared,
  type ResNetWork,
  rateOf,
  transpose,
  type WorkData,
} from "../lib/work.ts";

interface Backend {
  ensureCommandEncoderReady(): void;
  endComputePassEncoder(): void;
  submitQueue(): void;
  queue: GPUQueue;
}

/** `navigator.gpu` must be set (see installNavigatorGpu). */
export async function tfjs(adapterName: string): Promise<Contender> {
  // The backend asks for OffscreenCanvas when it is made, to upload images, which nothing here does.
  const globals = globalThis as Record<string, unknown>;
  globals.OffscreenCanvas ??= class {
    getContext() {
      return null;
    }
  };
  const restore = flattenRequiredFeatures();
  const require = createRequire(import.meta.url);
  const tf: typeof Tf = require("@tensorflow/tfjs-core");
  require("@tensorflow/tfjs-layers"); // registers the gradients, which the core's bundle for Node does not
  require("@tensorflow/tfjs-backend-webgpu");
  // Otherwise it computes small tensors on the processor, in the middle of a GPU computation.
  tf.env().set("WEBGPU_CPU_FORWARD", false);
  if (!(await tf.setBackend("webgpu"))) throw new Error("tfjs: its WebGPU backend did not start");
  await tf.ready();
  restore();
  return new TfjsContender(tf, adapterName);
}

/** tfjs puts a list into the list of required features, which Dawn rejects and browsers turn into a name. */
function flattenRequiredFeatures(): () => void {
  const entry = navigator.gpu;
  const former = entry.requestAdapter.bind(entry);
  const own = Object.getOwnPropertyDescriptor(entry, "requestAdapter");
  entry.requestAdapter = async (options) => {
    const adapter = await former(options);
    if (!adapter) return null;
    const requestDevice = adapter.requestDevice.bind(adapter);
    adapter.requestDevice = (descriptor) =>
      requestDevice({
        ...descriptor,
        requiredFeatures: [...(descriptor?.requiredFeatures ?? [])].flat() as GPUFeatureName[],
      });
    return adapter;
  };
  return () => {
    if (own) Object.defineProperty(entry, "requestAdapter", own);
    else Reflect.deleteProperty(entry, "requestAdapter");
  };
}

class TfjsContender implements Contender {
  readonly name = "tfjs WebGPU";

  constructor(
    private readonly tf: typeof Tf,
    readonly device: string,
  ) {}

  refuses(work: PeerWork): string | null {
    return work.op === "batch_norm" && work.tail && work.tail !== "relu" ? "not written for it" : null;
  }

  private async done(): Promise<void> {
    const backend = this.tf.backend() as unknown as Backend;
    backend.ensureCommandEncoderReady();
    backend.endComputePassEncoder();
    backend.submitQueue();
    await backend.queue.onSubmittedWorkDone();
  }

  async prepare(work: PeerWork, data: WorkData): Promise<Prepared> {
    if (work.op === "network" && work.pass === "inference") return this.prepareInference(work, data);
    if (work.op === "network" || work.op === "resnet_step") return this.prepareStep(work, data);
    const { tf } = this;
    const { arrays } = data;
    const inputs: Record<string, Tf.Tensor> = {};
    let forward: (...inputs: Tf.Tensor[]) => Tf.Tensor;
    let names: string[];
    if (work.op === "batch_norm") {
      for (const name of ["x", "dy"]) inputs[name] = tf.tensor4d(arrays[name]!, [...work.shape]);
      for (const name of ["gamma", "beta"]) inputs[name] = tf.tensor1d(arrays[name]!);
      forward = (x, gamma, beta) => tf.relu(batchNorm(tf, x!, gamma!, beta!));
      names = ["x", "gamma", "beta"];
    } else {
      const [n, h, w, c] = work.shape;
      const k = work.outChannels;
      inputs.x = tf.tensor4d(arrays.x!, [n, h, w, c]);
      inputs.dy = tf.tensor4d(arrays.dy!, [n, h, w, k]);
      inputs.w = tf.tensor4d(transpose(arrays.w!, [k, 3, 3, c], [1, 2, 3, 0]), [3, 3, c, k]);
      forward = (x, w) => tf.conv2d(x as Tf.Tensor4D, w as Tf.Tensor4D, 1, "same");
      names = ["x", "w"];
    }
    const primals = names.map((name) => inputs[name]!);
    // `tf.grads` hands no value over, so the forward result is kept on the way.
    const compute = (): Tf.Tensor[] => {
      if (work.pass === "forward") return [forward(...primals)];
      let y: Tf.Tensor | undefined;
      const grads = tf.grads((...args: Tf.Tensor[]) => {
        const out = forward(...args);
        y = tf.keep(out.clone());
        return out;
      })(primals, inputs.dy!);
      return [y!, ...grads];
    };
    return {
      run: async (iterations) => {
        for (let i = 0; i < iterations; i += 1) tf.dispose(tf.tidy(compute));
        await this.done();
      },
      result: async () => {
        const tensors = tf.tidy(compute);
        const out = (await Promise.all(tensors.map((tensor) => tensor.data()))) as Float32Array[];
        tf.dispose(tensors);
        if (work.op === "conv2d" && out[2]) {
          const [c, k] = [work.shape[3], work.outChannels];
          out[2] = transpose(out[2], [3, 3, c, k], [3, 0, 1, 2]);
        }
        return out;
      },
      dispose: () => tf.dispose(inputs),
    };
  }

  /** Filters as tfjs has them: [R, S, C, K], those of single channels [R, S, C, 1]. */
  private layout({ kind, shape, data: values }: Parameter): { values: Float32Array; shape: number[] } {
    const order =
      kind === "linear" ? [1, 0] : kind !== "conv" ? null : shape[3] === 1 ? [1, 2, 0, 3] : [1, 2, 3, 0];
    if (!order) return { values, shape: [...shape] };
    return { values: transpose(values, shape, order), shape: order.map((axis) => shape[axis]!) };
  }

  private prepareInference(work: NetworkWork, data: WorkData): Prepared {
    const { tf } = this;
    const x = tf.tensor4d(data.arrays.x!, [work.batch, work.size, work.size, 3]);
    const weights = folded(work.network, data.parameters, data.running).map(({ weight, bias }) => {
      const { values, shape } = this.layout(weight);
      return { filter: tf.tensor(values, shape), bias: tf.tensor1d(bias) };
    });
    // Bias and activation in the convolution's kernel, as its converter makes them of a graph.
    const compute = () => {
      let next = 0;
      const logits = (pooled: Tf.Tensor2D) => {
        const { filter, bias } = weights[next]!;
        return tf.add(tf.matMul(pooled, filter as Tf.Tensor2D), bias);
      };
      return network(tf, work, x, logits, (y, unit) => {
        const { filter, bias } = weights[next++]!;
        const fuse = unit.depthwise ? tf.fused.depthwiseConv2d : tf.fused.conv2d;
        return fuse({
          ...{ x: y as Tf.Tensor4D, filter: filter as Tf.Tensor4D, bias, strides: unit.stride },
          ...{ pad: padding(unit), activation: unit.activation === "none" ? "linear" : unit.activation },
        });
      });
    };
    return {
      run: async (iterations) => {
        for (let i = 0; i < iterations; i += 1) tf.dispose(tf.tidy(compute));
        await this.done();
      },
      result: async () => {
        const out = tf.tidy(compute);
        const values = Float32Array.from(await out.data());
        out.dispose();
        return [values];
      },
      dispose: () => tf.dispose([x, ...weights.flatMap(({ filter, bias }) => [filter, bias])]),
    };
  }

  private prepareStep(work: ResNetWork | NetworkWork, data: WorkData): Prepared {
    const { tf } = this;
    const { batch, size, classes } = work;
    const x = tf.tensor4d(data.arrays.x!, [batch, size, size, 3]);
    const labels = tf.oneHot(tf.tensor1d(Int32Array.from(data.labels), "int32"), classes);
    const initial = data.parameters.map((parameter) => this.layout(parameter));
    const variables = initial.map(({ values, shape }) => tf.variable(tf.tensor(values, shape)));
    let optimizer = tf.train.momentum(rateOf(work), MOMENTUM);
    const logits = () =>
      work.op === "network" ? trained(tf, work, x, variables) : resnet(tf, work.depth, x, variables);
    const loss = () => tf.losses.softmaxCrossEntropy(labels, logits()) as Tf.Scalar;
    const step = () => optimizer.minimize(loss, true, variables)!;
    return {
      run: async (iterations) => {
        for (let i = 0; i < iterations; i += 1) step().dispose();
        await this.done();
      },
      result: async () => {
        initial.forEach(({ values, shape }, i) => {
          tf.tidy(() => variables[i]!.assign(tf.tensor(values, shape)));
        });
        optimizer.dispose();
        optimizer = tf.train.momentum(rateOf(work), MOMENTUM);
        const losses: Float32Array[] = [];
        for (let i = 0; i < COMPARED_STEPS; i += 1) {
          const value = step();
          losses.push(Float32Array.from(await value.data()));
          value.dispose();
        }
        return losses;
      },
      dispose: () => {
        tf.dispose([x, labels]);
        for (const variable of variables) variable.dispose();
        optimizer.dispose();
      },
    };
  }

  async close(): Promise<void> {
    this.tf.removeBackend("webgpu");
  }
}

/** Training mode, as tfjs-layers composes it: moments of the batch, then `tf.batchNorm`. */
function batchNorm(tf: typeof Tf, x: Tf.Tensor, gamma: Tf.Tensor, beta: Tf.Tensor): Tf.Tensor {
  const { mean, variance } = tf.moments(x, [0, 1, 2]);
  return tf.batchNorm(
    x as Tf.Tensor4D,
    mean as Tf.Tensor1D,
    variance as Tf.Tensor1D,
    beta as Tf.Tensor1D,
    gamma as Tf.Tensor1D,
    EPSILON,
  );
}

function padding({ kernel, stride }: Unit): "same" | "valid" | number {
  if (kernel === 1) return "valid";
  return stride === 1 ? "same" : 1;
}

/** The blocks, their units made by `unit`, the mean over all pixels, and `logits` of it. */
function network(
  tf: typeof Tf,
  { network: name }: NetworkWork,
  images: Tf.Tensor4D,
  logits: (pooled: Tf.Tensor2D) => Tf.Tensor,
  unit: (x: Tf.Tensor, unit: Unit) => Tf.Tensor,
): Tf.Tensor {
  let y: Tf.Tensor = images;
  for (const { branch, shortcut, activation } of blocksOf(name)) {
    const x = y;
    y = branch.reduce(unit, x);
    if (shortcut !== "none") y = tf.add(y, shortcut === "identity" ? x : unit(x, shortcut));
    if (activation === "relu") y = tf.relu(y);
  }
  return logits(tf.mean(y, [1, 2]));
}

/** In training mode, of variables in the order of the network. */
function trained(tf: typeof Tf, work: NetworkWork, images: Tf.Tensor4D, variables: Tf.Tensor[]): Tf.Tensor {
  let next = 0;
  const take = <T extends Tf.Tensor>() => variables[next++] as T;
  const logits = (pooled: Tf.Tensor2D) => tf.add(tf.matMul(pooled, take<Tf.Tensor2D>()), take());
  return network(tf, work, images, logits, (x, unit) => {
    const convolve = unit.depthwise ? tf.depthwiseConv2d : tf.conv2d;
    const y = batchNorm(
      tf,
      convolve(x as Tf.Tensor4D, take<Tf.Tensor4D>(), unit.stride, padding(unit)),
      take(),
      take(),
    );
    if (unit.activation === "none") return y;
    return unit.activation === "relu" ? tf.relu(y) : tf.relu6(y);
  });
}

function resnet(tf: typeof Tf, depth: number, images: Tf.Tensor4D, variables: Tf.Tensor[]): Tf.Tensor {
  let next = 0;
  const take = <T extends Tf.Tensor>() => variables[next++] as T;
  const convNorm = (x: Tf.Tensor, stride: number) => {
    const y = tf.conv2d(x as Tf.Tensor4D, take<Tf.Tensor4D>(), stride, stride === 1 ? "same" : 1);
    return batchNorm(tf, y, take(), take());
  };
  let y = tf.relu(convNorm(images, 1));
  for (const stage of [0, 1, 2]) {
    for (let block = 0; block < (depth - 2) / 6; block += 1) {
      const stride = stage > 0 && block === 0 ? 2 : 1;
      let shortcut = y;
      if (stride === 2) {
        const added = y.shape[3]! / 2;
        // Every second pixel; tfjs can't differentiate stridedSlice.
        const half = tf.avgPool(y as Tf.Tensor4D, 1, 2, "valid");
        shortcut = tf.pad(half, [
          [0, 0],
          [0, 0],
          [0, 0],
          [added, added],
        ]);
      }
      const middle = tf.relu(convNorm(y, stride));
      y = tf.relu(tf.add(convNorm(middle, 1), shortcut));
    }
  }
  const pooled = tf.mean(y, [1, 2]);
  return tf.add(tf.matMul(pooled as Tf.Tensor2D, take<Tf.Tensor2D>()), take());
}
