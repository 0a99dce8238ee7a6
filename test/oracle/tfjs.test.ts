// An oracle that is not ours: the same small cases on TensorFlow.js' CPU backend, outputs and gradients.

import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-cpu";
import "@tensorflow/tfjs-layers"; // registers the gradients, which the core's Node bundle leaves out
import { beforeAll, describe, expect, it } from "vitest";
import { relu } from "../../src/ops/activations.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { batchNormComposed } from "../../src/ops/batch-norm/composed.ts";
import { concatChannels } from "../../src/ops/concat.ts";
import { type Conv2dOptions, conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { add, mul, sub } from "../../src/ops/elementwise/elementwise.ts";
import { weightFromHWIO } from "../../src/ops/layout.ts";
import { linear } from "../../src/ops/linear.ts";
import { matmul } from "../../src/ops/matmul/matmul.ts";
import { pad2d } from "../../src/ops/pad.ts";
import { permute } from "../../src/ops/permute.ts";
import { avgPool2d, globalAvgPool2d, maxPool2d } from "../../src/ops/pool2d.ts";
import { mean, sum, variance } from "../../src/ops/reduce/reduce.ts";
import { reshape } from "../../src/ops/reshape.ts";
import { slice } from "../../src/ops/slice.ts";
import { softmax } from "../../src/ops/softmax/softmax.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";

interface OracleCase {
  inputs: readonly (readonly number[])[];
  ours(...inputs: Tensor[]): Tensor;
  theirs(...inputs: tf.Tensor[]): tf.Tensor;
  /** False where TensorFlow.js has no gradient. */
  gradients?: boolean;
}

async function compare({ inputs, ours, theirs, gradients = true }: OracleCase): Promise<void> {
  const gpu = await testGpu();
  const data = inputs.map((shape, i) => Float32Array.from(normals(sizeOf(shape), 7 + 13 * i)));
  const oracle = data.map((values, i) => tf.tensor(values, [...inputs[i]!]));
  const expected = tf.tidy(() => theirs(...oracle));
  const tensors = data.map((values, i) => gpu.tensor(values, inputs[i]!, { requiresGrad: true }));
  const out = gpu.scope(() => ours(...tensors));
  expect(out.shape).toEqual(expected.shape);
  expect(relativeError(await out.read(), await expected.data()), "output").toBeLessThan(1e-5);
  if (gradients) {
    const upstream = Float32Array.from(normals(out.size, 99));
    const dy = gpu.tensor(upstream, out.shape);
    out.backward(dy);
    dy.dispose();
    const grads = tf.tidy(() => tf.grads(theirs)(oracle, tf.tensor(upstream, expected.shape)));
    for (const [i, tensor] of tensors.entries()) {
      expect(relativeError(await tensor.grad!.read(), await grads[i]!.data()), `gradient ${i}`).toBeLessThan(
        1e-4,
      );
    }
    tf.dispose(grads);
  }
  tf.dispose([...oracle, expected]);
  for (const tensor of [...tensors, out]) tensor.dispose();
}

/** Both sides as theirs: [R, S, C, K]. */
const ourConv = (options: Conv2dOptions) => (x: Tensor, w: Tensor) => conv2d(x, weightFromHWIO(w), options);
const theirConv = (
  strides: [number, number],
  dilations: [number, number] = [1, 1],
  padding = [0, 0, 0, 0],
) => {
  const [top, bottom, left, right] = padding as [number, number, number, number];
  return (x: tf.Tensor, w: tf.Tensor) => {
    const padded = tf.pad(x as tf.Tensor4D, [
      [0, 0],
      [top, bottom],
      [left, right],
      [0, 0],
    ]);
    return tf.conv2d(padded, w as tf.Tensor4D, strides, "valid", "NHWC", dilations);
  };
};

const normalizeTheirs = (eps: number) => (x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) => {
  const { mean: m, variance: v } = tf.moments(x, [0, 1, 2]);
  return tf.batchNorm(x, m as tf.Tensor1D, v as tf.Tensor1D, beta as tf.Tensor1D, gamma as tf.Tensor1D, eps);
};

const labels = [3, 0, 2, 2, 4, 1, 0];
const labelTensor = (logits: Tensor) => logits.gpu.tensor(labels, [labels.length], { dtype: "uint32" });
const crossEntropyTheirs = (smoothing: number) => (logits: tf.Tensor) => {
  const target = tf.add(tf.mul(tf.oneHot(labels, 5), 1 - smoothing), smoothing / 5);
  return tf.mean(tf.neg(tf.sum(tf.mul(target, tf.logSoftmax(logits)), -1)));
};

const cases: Record<string, OracleCase> = {
  "conv2d 3×3": {
    inputs: [
      [2, 6, 7, 4],
      [3, 3, 4, 8],
    ],
    ours: ourConv({ padding: 1 }),
    theirs: theirConv([1, 1], [1, 1], [1, 1, 1, 1]),
  },
  "conv2d 1×1": {
    inputs: [
      [2, 5, 5, 3],
      [1, 1, 3, 6],
    ],
    ours: ourConv({}),
    theirs: theirConv([1, 1]),
  },
  'conv2d "same" with an even filter': {
    inputs: [
      [1, 5, 6, 2],
      [4, 2, 2, 3],
    ],
    ours: ourConv({ padding: "same" }),
    theirs: (x, w) => tf.conv2d(x as tf.Tensor4D, w as tf.Tensor4D, 1, "same"),
  },
  "conv2d stride 2, asymmetric padding": {
    inputs: [
      [2, 7, 9, 5],
      [3, 3, 5, 4],
    ],
    ours: ourConv({ stride: 2, padding: [0, 1, 2, 1] }),
    theirs: theirConv([2, 2], [1, 1], [0, 1, 2, 1]),
  },
  "conv2d stride [2, 3]": {
    inputs: [
      [1, 8, 10, 4],
      [2, 3, 4, 4],
    ],
    ours: ourConv({ stride: [2, 3] }),
    theirs: theirConv([2, 3]),
  },
  "conv2d dilation 2 (forward)": {
    inputs: [
      [1, 9, 9, 4],
      [3, 3, 4, 8],
    ],
    ours: ourConv({ dilation: 2, padding: 2 }),
    theirs: theirConv([1, 1], [2, 2], [2, 2, 2, 2]),
    gradients: false,
  },
  "conv2d of two groups": {
    inputs: [
      [2, 5, 5, 8],
      [3, 3, 4, 6],
    ],
    ours: ourConv({ groups: 2, padding: 1 }),
    theirs: (x, w) => {
      const conv = theirConv([1, 1], [1, 1], [1, 1, 1, 1]);
      const xs = tf.split(x, 2, 3);
      const ws = tf.split(w, 2, 3);
      return tf.concat([conv(xs[0]!, ws[0]!), conv(xs[1]!, ws[1]!)], 3);
    },
  },
  "depthwise conv2d": {
    inputs: [
      [2, 6, 6, 5],
      [3, 3, 5, 1],
    ],
    ours: (x, w) => conv2d(x, permute(w, [2, 0, 1, 3]), { groups: 5, stride: 2 }),
    theirs: (x, w) => tf.depthwiseConv2d(x as tf.Tensor4D, w as tf.Tensor4D, 2, "valid"),
  },
  "conv2d with bias": {
    inputs: [[2, 4, 4, 3], [3, 3, 3, 5], [5]],
    ours: (x, w, bias) => conv2d(x, weightFromHWIO(w), { bias }),
    theirs: (x, w, bias) => tf.add(theirConv([1, 1])(x, w), bias!),
  },
  "batchNorm, training": {
    inputs: [[3, 4, 5, 8], [8], [8]],
    ours: (x, gamma, beta) => batchNorm(x, gamma!, beta!, { training: true }),
    theirs: normalizeTheirs(1e-5),
  },
  "batchNorm, training, 5 channels, ReLU": {
    inputs: [[3, 4, 5, 5], [5], [5]],
    ours: (x, gamma, beta) => batchNorm(x, gamma!, beta!, { training: true, activation: "relu", eps: 1e-3 }),
    theirs: (...t) => tf.relu(normalizeTheirs(1e-3)(...(t as [tf.Tensor, tf.Tensor, tf.Tensor]))),
  },
  "batchNorm with residual and ReLU": {
    inputs: [[3, 4, 5, 4], [4], [4], [3, 4, 5, 4]],
    ours: (x, gamma, beta, residual) =>
      batchNorm(x, gamma!, beta!, { training: true, activation: "relu", residual: residual! }),
    theirs: (x, gamma, beta, residual) =>
      tf.relu(tf.add(normalizeTheirs(1e-5)(x!, gamma!, beta!), residual!)),
  },
  batchNormComposed: {
    inputs: [[3, 4, 5, 4], [4], [4]],
    ours: (x, gamma, beta) => batchNormComposed(x, gamma!, beta!, { training: true }),
    theirs: normalizeTheirs(1e-5),
  },
  maxPool2d: {
    inputs: [[2, 7, 8, 5]],
    ours: (x) => maxPool2d(x, 3, { stride: 2, padding: 1 }),
    theirs: (x) => tf.maxPool(x as tf.Tensor4D, 3, 2, 1, "floor"),
  },
  avgPool2d: {
    inputs: [[2, 7, 8, 4]],
    ours: (x) => avgPool2d(x, 3, { stride: 2 }),
    theirs: (x) => tf.avgPool(x as tf.Tensor4D, 3, 2, "valid"),
  },
  // Its gradient divides by the whole window, its output by the pixels inside the map.
  "avgPool2d without the padding (forward)": {
    inputs: [[2, 7, 8, 4]],
    ours: (x) => avgPool2d(x, 3, { stride: 2, padding: 1, countIncludePad: false }),
    theirs: (x) => tf.avgPool(x as tf.Tensor4D, 3, 2, 1, "floor"),
    gradients: false,
  },
  globalAvgPool2d: {
    inputs: [[2, 7, 8, 6]],
    ours: (x) => globalAvgPool2d(x),
    theirs: (x) => tf.mean(x, [1, 2]),
  },
  matmul: {
    inputs: [
      [7, 13],
      [13, 5],
    ],
    ours: (a, b) => matmul(a, b!),
    theirs: (a, b) => tf.matMul(a, b!),
  },
  "matmul of transposes": {
    inputs: [
      [13, 7],
      [5, 13],
    ],
    ours: (a, b) => matmul(a, b!, { transposeA: true, transposeB: true }),
    theirs: (a, b) => tf.matMul(a, b!, true, true),
  },
  linear: {
    inputs: [[6, 9], [4, 9], [4]],
    ours: (x, w, b) => linear(x, w!, b!),
    theirs: (x, w, b) => tf.add(tf.matMul(x, w!, false, true), b!),
  },
  softmax: { inputs: [[5, 9]], ours: (x) => softmax(x), theirs: (x) => tf.softmax(x) },
  softmaxCrossEntropy: {
    inputs: [[7, 5]],
    ours: (x) => softmaxCrossEntropy(x, labelTensor(x)),
    theirs: crossEntropyTheirs(0),
  },
  "softmaxCrossEntropy with smoothing": {
    inputs: [[7, 5]],
    ours: (x) => softmaxCrossEntropy(x, labelTensor(x), { labelSmoothing: 0.1 }),
    theirs: crossEntropyTheirs(0.1),
  },
  "add, sub, mul, relu with broadcasting": {
    inputs: [[2, 3, 4, 6], [6], [2, 1, 1, 6], [1]],
    ours: (x, a, b, c) => relu(sub(add(mul(x, a!), b!), c!)),
    theirs: (x, a, b, c) => tf.relu(tf.sub(tf.add(tf.mul(x, a!), b!), c!)),
  },
  "sum, mean, variance": {
    inputs: [[3, 4, 5, 6]],
    ours: (x) => add(mul(sum(x, [0, 3]), variance(x, [0, 3], { correction: 0 })), mean(x, [1, 2, 0, 3])),
    theirs: (x) => tf.add(tf.mul(tf.sum(x, [0, 3]), tf.moments(x, [0, 3]).variance), tf.mean(x)),
  },
  "pad, slice, concat, transpose, reshape": {
    inputs: [
      [2, 4, 5, 3],
      [2, 4, 5, 2],
    ],
    ours: (a, b) => {
      const joined = pad2d(concatChannels([a, b!]), [1, 0, 2, 1]);
      return reshape(permute(slice(joined, [0, 1, 1, 1], [2, 5, 7, 5]), [0, 3, 1, 2]), [8, -1]);
    },
    theirs: (a, b) => {
      const joined = tf.pad(tf.concat([a, b!], 3), [
        [0, 0],
        [1, 0],
        [2, 1],
        [0, 0],
      ]);
      return tf.reshape(tf.transpose(tf.slice(joined, [0, 1, 1, 1], [2, 4, 6, 4]), [0, 3, 1, 2]), [8, -1]);
    },
  },
};

describe("against TensorFlow.js on the CPU", () => {
  beforeAll(async () => {
    tf.env().set("IS_TEST", true); // no advertisement for its native backend
    await tf.setBackend("cpu");
  });

  for (const [label, oneCase] of Object.entries(cases)) it(label, () => compare(oneCase));
});
