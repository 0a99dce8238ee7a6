// The training step that the benchmarks time: forward, loss, backward, SGD with momentum, on one batch of images.

import type { Gpu } from "../../src/gpu.ts";
import { BatchNorm2d, type BatchNorm2dOptions, Conv2d } from "../../src/nn/layers.ts";
import { type preactResnetCifar, resnetCifar } from "../../src/nn/models/resnet.ts";
import { relu } from "../../src/ops/activations.ts";
import { add } from "../../src/ops/elementwise/elementwise.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { SGD } from "../../src/optim/sgd.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import type { Runnable } from "./runner.ts";
import { LEARNING_RATE, MOMENTUM, normals } from "./work.ts";

/** How batch-norm runs; see `BatchNorm2dOptions.fused`. */
export type Fusion = NonNullable<BatchNorm2dOptions["fused"]>;

/** By the names that tables show, from none to most. */
export const FUSIONS = {
  unfused: false,
  elementwise: "elementwise",
  fused: true,
} as const satisfies Record<string, Fusion>;

export interface TrainingStepOptions {
  /** Default `resnetCifar`. */
  network?: typeof resnetCifar | typeof preactResnetCifar;
  /** Of the network. */
  depth: number;
  /** Images of `map`×`map`×3. */
  batch: number;
  /** Channels of the first stage. Default 16. */
  width?: number;
  /** Default 32. */
  map?: number;
  /** Default true. */
  fused?: Fusion;
}

export function trainingStep(gpu: Gpu, options: TrainingStepOptions): Runnable {
  const { network = resnetCifar, depth, batch, width = 16, map = 32, fused = true } = options;
  const model = network(gpu, { depth, width, batchNorm: { fused }, init: "he" });
  const optimizer = new SGD(model.parameters(), { lr: LEARNING_RATE, momentum: MOMENTUM });
  const images = gpu.keep(gpu.tensor(normals(batch * map * map * 3, 1), [batch, map, map, 3]));
  const labels = gpu.keep(
    gpu.tensor(
      Uint32Array.from({ length: batch }, (_, i) => i % 10),
      [batch],
      { dtype: "uint32" },
    ),
  );
  return {
    step() {
      gpu.scope(() => {
        softmaxCrossEntropy(model.forward(images), labels).backward();
      });
      optimizer.step();
      model.zeroGrad();
    },
    dispose() {
      model.dispose();
      optimizer.dispose();
      images.dispose();
      labels.dispose();
    },
  };
}

/** How two 3×3 convolutions, each with a batch-norm, make a block. */
const BLOCKS = {
  /** Both convolutions come before either batch-norm. */
  "two-branch": ([conv, other], [norm, otherNorm], x) => {
    const [a, b] = [conv.forward(x), other.forward(x)];
    return relu(add(norm.forward(a), otherNorm.forward(b)));
  },
  residual: ([first, second], [norm, last], x) => {
    const middle = norm.forward(first.forward(x), { activation: "relu" });
    return last.forward(second.forward(middle), { activation: "relu", residual: x });
  },
} satisfies Record<
  string,
  (convs: readonly [Conv2d, Conv2d], norms: readonly [BatchNorm2d, BatchNorm2d], x: Tensor) => Tensor
>;
export type Block = keyof typeof BLOCKS;

/** One block: forward, backward from a given gradient, SGD with momentum. */
export function blockStep(
  gpu: Gpu,
  {
    block,
    batch,
    channels,
    size,
    fused,
  }: { block: Block; batch: number; channels: number; size: number; fused: Fusion },
): Runnable {
  const conv = () => new Conv2d(gpu, channels, channels, 3, { padding: 1, bias: false });
  const norm = () => new BatchNorm2d(gpu, channels, { fused });
  const convs = [conv(), conv()] as const;
  const norms = [norm(), norm()] as const;
  const layers = [...convs, ...norms];
  const optimizer = new SGD(
    layers.flatMap((layer) => layer.parameters()),
    { lr: LEARNING_RATE, momentum: MOMENTUM },
  );
  const shape = [batch, size, size, channels];
  const numbers = (seed: number, requiresGrad: boolean) =>
    gpu.keep(gpu.tensor(normals(batch * size * size * channels, seed), shape, { requiresGrad }));
  const x = numbers(1, true);
  const dy = numbers(2, false);
  return {
    step() {
      gpu.scope(() => BLOCKS[block](convs, norms, x).backward(dy));
      optimizer.step();
      optimizer.zeroGrad();
      x.zeroGrad();
    },
    dispose() {
      for (const layer of layers) layer.dispose();
      for (const tensor of [x, dy]) tensor.dispose();
      optimizer.dispose();
    },
  };
}

/** The same step as a captured plan; takes `eager` over. */
export function captured(gpu: Gpu, eager: Runnable): Runnable {
  const plan = gpu.capture(() => eager.step());
  return {
    step: () => plan.run(),
    peak: () => plan.byteLength,
    dispose() {
      plan.dispose();
      eager.dispose();
    },
  };
}
