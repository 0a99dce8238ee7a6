// What is compiled: each workload makes what it needs, and gives the work that counts, forward and backward, by the package's
// public API. Nothing is computed, so nothing is given back: the process ends soon.

import * as F from "../../src/index.ts";

type Work = () => void;
type Workload = (gpu: F.Gpu) => Work;

export const workloads: Readonly<Record<string, Workload>> = {
  "resnet-20": (gpu) => step(gpu, F.resnetCifar(gpu, { depth: 20 }), [128, 32, 32, 3]),
  "resnet-110": (gpu) => step(gpu, F.resnetCifar(gpu, { depth: 110 }), [128, 32, 32, 3]),
  "resnet-50": (gpu) => step(gpu, F.resnet50(gpu, { classes: 1000 }), [32, 224, 224, 3]),
  conv2d: (gpu) => inTurn(CONVOLUTIONS.map((sizes) => convolution(gpu, ...sizes))),
  "batch-norm": (gpu) =>
    inTurn(
      NORM_SHAPES.flatMap((shape) => [
        batchNorm(gpu, shape, "none", false),
        batchNorm(gpu, shape, "relu", false),
        batchNorm(gpu, shape, "none", true),
        batchNorm(gpu, shape, "relu", true),
      ]),
    ),
  matmul: (gpu) => inTurn(MATRICES.map((n) => matmul(gpu, n))),
  // What `--check` compiles: convolutions with all that folds into them, and products of matrices.
  check: (gpu) => inTurn([foldedConvolutions(gpu, [128, 32, 32, 16]), matmul(gpu, 1024)]),
};

export const WORKLOADS = Object.keys(workloads);

/** Images, size of the map, channels in and out, size of the filter, stride: without batch-norm around them. */
export const CONVOLUTIONS: readonly (readonly [number, number, number, number, number, number])[] = [
  [128, 32, 16, 16, 3, 1],
  [128, 16, 32, 32, 3, 1],
  [128, 8, 64, 64, 3, 1],
  [32, 56, 64, 64, 3, 1],
  [32, 28, 128, 128, 3, 1],
  [32, 14, 256, 256, 3, 1],
  [32, 56, 256, 64, 1, 1],
  [32, 56, 64, 256, 1, 1],
  [32, 56, 256, 512, 1, 2],
  [32, 224, 3, 64, 7, 2],
];

/** Rows, and columns, of the factors of products. */
export const MATRICES: readonly number[] = [1024, 4096];

const NORM_SHAPES = [
  [128, 32, 32, 16],
  [32, 56, 56, 256],
  [32, 7, 7, 2048],
] as const;

function inTurn(works: readonly Work[]): Work {
  return () => {
    for (const work of works) work();
  };
}

/** Forward, all of it though nobody reads the result, and backward. */
function bothWays(gpu: F.Gpu, forward: () => F.Tensor, dy: F.Tensor): Work {
  return () => {
    gpu.scope(() => {
      const y = forward();
      gpu.flush();
      y.backward(dy);
    });
  };
}

function leaf(gpu: F.Gpu, shape: readonly number[]): F.Tensor {
  return gpu.zeros(shape, { requiresGrad: true });
}

/** A step of training. */
function step(
  gpu: F.Gpu,
  model: F.Module & { forward(x: F.Tensor): F.Tensor },
  images: readonly number[],
): Work {
  const optimizer = new F.SGD(model.parameters(), { lr: 0.1, momentum: 0.9, weightDecay: 5e-4 });
  const x = gpu.empty(images);
  const labels = gpu.tensor(new Uint32Array(images[0]!), [images[0]!], { dtype: "uint32" });
  return () => {
    gpu.scope(() => {
      F.softmaxCrossEntropy(model.forward(x), labels).backward();
      optimizer.step();
      model.zeroGrad();
    });
  };
}

function convolution(
  gpu: F.Gpu,
  batch: number,
  size: number,
  from: number,
  to: number,
  filter: number,
  stride: number,
): Work {
  // Nobody asks for the gradient of images.
  const x = gpu.zeros([batch, size, size, from], { requiresGrad: from > 3 });
  const weight = leaf(gpu, [to, filter, filter, from]);
  const dy = gpu.zeros([batch, size / stride, size / stride, to]);
  return bothWays(gpu, () => F.conv2d(x, weight, { stride, padding: (filter - 1) / 2 }), dy);
}

/** conv(relu(bn(conv(relu(bn(x)))))): forward and backward, the convolutions take in all of batch-norm. */
function foldedConvolutions(gpu: F.Gpu, shape: readonly number[]): Work {
  const channels = shape[3]!;
  const conv = () => new F.Conv2d(gpu, channels, channels, 3, { padding: 1, bias: false });
  const layers = [0, 1].map(() => ({ norm: new F.BatchNorm2d(gpu, channels), conv: conv() }));
  const [x, dy] = [leaf(gpu, shape), gpu.zeros(shape)];
  const forward = () =>
    layers.reduce((z, { norm, conv }) => conv.forward(norm.forward(z, { activation: "relu" })), x);
  return bothWays(gpu, forward, dy);
}

function batchNorm(
  gpu: F.Gpu,
  shape: readonly number[],
  activation: "none" | "relu",
  withResidual: boolean,
): Work {
  const norm = new F.BatchNorm2d(gpu, shape[3]!);
  const [x, dy] = [leaf(gpu, shape), gpu.zeros(shape)];
  const residual = withResidual ? leaf(gpu, shape) : null;
  return bothWays(gpu, () => norm.forward(x, { activation, residual }), dy);
}

/** C = A·B, dA and dB. */
function matmul(gpu: F.Gpu, n: number): Work {
  const [a, b, dc] = [leaf(gpu, [n, n]), leaf(gpu, [n, n]), gpu.zeros([n, n])];
  return bothWays(gpu, () => F.matmul(a, b), dc);
}
