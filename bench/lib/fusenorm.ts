// This package, on the same footing as its peers. Captured plans are its counterpart of their `jit`.

import { noGrad } from "../../src/autograd/tape.ts";
import { imageDataset } from "../../src/data/dataset.ts";
import { DeviceDataset } from "../../src/data/device-dataset.ts";
import { BatchSampler } from "../../src/data/loader.ts";
import type { Gpu } from "../../src/gpu.ts";
import { foldBatchNorm } from "../../src/nn/fold.ts";
import { BatchNorm2d } from "../../src/nn/layers.ts";
import { mobilenetV2 } from "../../src/nn/models/mobilenet.ts";
import { resnetCifar } from "../../src/nn/models/resnet.ts";
import { resnet18 } from "../../src/nn/models/resnet-imagenet.ts";
import type { Module } from "../../src/nn/module.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { SGD } from "../../src/optim/sgd.ts";
import type { Plan } from "../../src/plan.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import {
  COMPARED_STEPS,
  type Contender,
  EPSILON,
  MOMENTUM,
  type NetworkWork,
  normals,
  type Prepared,
  type ResNetWork,
  rateOf,
  type Work,
  type WorkData,
} from "./work.ts";

export function fusenorm(gpu: Gpu): Contender {
  return {
    name: "fusenorm",
    device: gpu.info.name,
    refuses: () => null,
    prepare: async (work, data) => {
      if (work.op !== "resnet_step" && work.op !== "network") return prepareOp(gpu, work, data);
      return work.op === "network" && work.pass === "inference"
        ? prepareInference(gpu, work, data)
        : prepareStep(gpu, work, data);
    },
    close: async () => gpu.destroy(),
  };
}

async function done(gpu: Gpu): Promise<void> {
  gpu.flush();
  await gpu.device.queue.onSubmittedWorkDone();
}

async function readAll(tensors: readonly Tensor[]): Promise<Float32Array[]> {
  const out: Float32Array[] = [];
  for (const tensor of tensors) out.push((await tensor.read()) as Float32Array);
  return out;
}

type OpWork = Exclude<Work, ResNetWork>;

/** An op's work, encoded by `step`, for `autotune`: what is captured has chosen its kernels already. */
export function eagerOp(gpu: Gpu, work: OpWork, data: WorkData): { step(): Tensor[]; dispose(): void } {
  const { arrays } = data;
  const both = work.pass === "forward+backward";
  const [n, h, w, c] = work.shape;
  const tensor = (name: string, shape: readonly number[], requiresGrad: boolean) =>
    gpu.keep(gpu.tensor(arrays[name]!, shape, { requiresGrad }));
  const x = tensor("x", work.shape, both);
  let leaves: Tensor[];
  let dy: Tensor | null = null;
  let forward: () => Tensor;
  if (work.op === "batch_norm") {
    const gamma = tensor("gamma", [c], both);
    const beta = tensor("beta", [c], both);
    leaves = [x, gamma, beta];
    if (both) dy = tensor("dy", work.shape, false);
    const tail = work.tail ?? "relu";
    const residual = tail === "residual+relu" ? tensor("residual", work.shape, both) : null;
    if (residual) leaves.push(residual);
    const activation = tail === "plain" ? "none" : "relu";
    forward = () => batchNorm(x, gamma, beta, { training: true, eps: EPSILON, activation, residual });
  } else {
    const k = work.outChannels;
    const weight = tensor("w", [k, 3, 3, c], both);
    leaves = [x, weight];
    if (both) dy = tensor("dy", [n, h, w, k], false);
    forward = () => conv2d(x, weight, { padding: 1 });
  }
  return {
    step() {
      const y = forward();
      if (!dy) return [y];
      y.backward(dy);
      return [
        y.detach(),
        ...leaves.map((leaf) => {
          const { grad } = leaf;
          leaf.grad = null;
          return grad!;
        }),
      ];
    },
    dispose() {
      for (const one of [...leaves, ...(dy ? [dy] : [])]) one.dispose();
    },
  };
}

function prepareOp(gpu: Gpu, work: OpWork, data: WorkData): Prepared {
  const eager = eagerOp(gpu, work, data);
  const plan: Plan<Tensor[]> = gpu.capture(() => eager.step());
  return {
    run: async (iterations) => {
      for (let i = 0; i < iterations; i += 1) plan.run();
      await done(gpu);
    },
    result: async () => {
      plan.run();
      return readAll(plan.result);
    },
    dispose() {
      plan.dispose();
      eager.dispose();
    },
  };
}

function modelOf(gpu: Gpu, work: ResNetWork | NetworkWork): Module {
  const { classes } = work;
  if (work.op === "resnet_step") return resnetCifar(gpu, { depth: work.depth, classes });
  return { resnet18, mobilenetV2 }[work.network](gpu, { images: "cifar", classes });
}

/** Inference with the batch-norms folded. */
function prepareInference(gpu: Gpu, work: NetworkWork, data: WorkData): Prepared {
  const { batch, size } = work;
  const model = modelOf(gpu, work);
  for (const [i, parameter] of model.parameters().entries()) parameter.write(data.parameters[i]!.data);
  const norms = [...model.modules()].map(([, module]) => module).filter((one) => one instanceof BatchNorm2d);
  for (const [i, { runningMean, runningVar }] of norms.entries()) {
    runningMean!.write(data.running[i]!.mean);
    runningVar!.write(data.running[i]!.variance);
  }
  foldBatchNorm(model.eval());
  const images = gpu.keep(gpu.tensor(data.arrays.x!, [batch, size, size, 3]));
  const plan = gpu.capture(() => noGrad(() => model.forward(images)));
  return {
    run: async (iterations) => {
      for (let i = 0; i < iterations; i += 1) plan.run();
      await done(gpu);
    },
    result: () => readAll([plan.result]),
    dispose() {
      plan.dispose();
      model.dispose();
      images.dispose();
    },
  };
}

function prepareStep(gpu: Gpu, work: ResNetWork | NetworkWork, data: WorkData): Prepared {
  const { batch, size } = work;
  const model = modelOf(gpu, work);
  const parameters = model.parameters();
  const images = gpu.keep(gpu.tensor(data.arrays.x!, [batch, size, size, 3]));
  const labels = gpu.keep(gpu.tensor(data.labels, [batch], { dtype: "uint32" }));
  const batches =
    work.op === "resnet_step" && work.images ? imagesOnDevice(gpu, work, work.images, images, labels) : null;
  const start = () => {
    data.parameters.forEach(({ data: values }, i) => {
      parameters[i]!.write(values);
    });
    return new SGD(parameters, { lr: rateOf(work), momentum: MOMENTUM });
  };
  const capture = () =>
    gpu.capture(() => {
      batches?.gather();
      const loss = softmaxCrossEntropy(model.forward(images), labels);
      loss.backward();
      optimizer.step();
      model.zeroGrad();
      return loss.detach();
    });
  let optimizer = start();
  let plan = capture(); // runs the first step
  return {
    run: async (iterations) => {
      for (let i = 0; i < iterations; i += 1) {
        batches?.next();
        plan.run();
      }
      await done(gpu);
    },
    result: async () => {
      plan.dispose();
      optimizer.dispose();
      optimizer = start();
      plan = capture();
      const losses: Float32Array[] = [];
      for (let i = 0; i < COMPARED_STEPS; i += 1) {
        if (i > 0) plan.run();
        losses.push(Float32Array.of(await plan.result.item()));
      }
      return losses;
    },
    dispose() {
      plan.dispose();
      optimizer.dispose();
      model.dispose();
      images.dispose();
      labels.dispose();
      batches?.dispose();
    },
  };
}

/** As many images as an epoch has, of random bytes, and what `Trainer` does to make a batch of them. */
function imagesOnDevice(
  gpu: Gpu,
  { batch, size, classes }: ResNetWork,
  count: number,
  images: Tensor,
  labels: Tensor,
) {
  const bytes = new Uint8Array(count * size * size * 3);
  const some = normals(2 ** 20, 9, 128, 60);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = some[i % some.length]!;
  const dataset = imageDataset({
    name: "random images",
    images: bytes,
    labels: Uint8Array.from({ length: count }, (_, i) => i % classes),
    ...{ height: size, width: size, channels: 3 },
    classNames: Array.from({ length: classes }, (_, i) => `${i}`),
  });
  const moments = { mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25] };
  const onDevice = new DeviceDataset(gpu, dataset, { ...moments, seed: 1, augment: { pad: 4, flip: true } });
  const sampler = new BatchSampler({ count, batchSize: batch, seed: 1, dropLast: true });
  const indices = gpu.keep(gpu.tensor(sampler.indices(0, 0), [batch], { dtype: "uint32" }));
  const epoch = gpu.keep(gpu.zeros([1], { dtype: "uint32" }));
  let step = 0;
  return {
    gather: () => onDevice.gather(indices, epoch, images, labels),
    next() {
      step += 1;
      indices.write(sampler.indices(0, step % sampler.batchesPerEpoch));
    },
    dispose() {
      onDevice.dispose();
      indices.dispose();
      epoch.dispose();
    },
  };
}
