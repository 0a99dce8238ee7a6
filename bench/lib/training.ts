// The training step that the benchmarks time: forward, loss, backward, SGD with momentum, on one batch of images.

import type { Gpu } from "../../src/gpu/device.ts";
import type { BatchNorm2dOptions } from "../../src/nn/layers.ts";
import { resnetCifar } from "../../src/nn/models/resnet.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax_cross_entropy.ts";
import { SGD } from "../../src/optim/sgd.ts";
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
  /** Of `resnetCifar`. */
  depth: number;
  /** Images of 32×32×3. */
  batch: number;
  /** Default true. */
  fused?: Fusion;
}

export function trainingStep(gpu: Gpu, { depth, batch, fused = true }: TrainingStepOptions): Runnable {
  const model = resnetCifar(gpu, { depth, batchNorm: { fused }, init: "he" });
  const optimizer = new SGD(model.parameters(), { lr: LEARNING_RATE, momentum: MOMENTUM });
  const images = gpu.keep(gpu.tensor(normals(batch * 32 * 32 * 3, 1), [batch, 32, 32, 3]));
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
