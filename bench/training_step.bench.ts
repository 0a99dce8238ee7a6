// A whole training step of the CIFAR ResNet: forward, loss, backward, SGD with momentum.

import type { Gpu } from "../src/gpu/device.ts";
import { resnetCifar } from "../src/nn/models/resnet.ts";
import { softmaxCrossEntropy } from "../src/ops/softmax_cross_entropy.ts";
import { SGD } from "../src/optim/sgd.ts";
import type { BenchGroup, Runnable } from "./lib/runner.ts";
import { LEARNING_RATE, MOMENTUM, normals } from "./lib/work.ts";
import type { Suite } from "./list.ts";

export const trainingStepSuite: Suite = {
  name: "training_step",
  about: "a ResNet training step: batch-norm unfused and fused, eager and captured",
  groups(gpu, { quick, batch }) {
    const sizes: [depth: number, batch: number][] = gpu.isSoftware
      ? [[20, batch || 8], [20, batch || 32], ...(quick ? [] : [[110, batch || 8] as [number, number]])]
      : [
          [20, batch || 128],
          [110, batch || 128],
        ];
    const distinct = [...new Map(sizes.map((size) => [size.join(), size])).values()];
    return (quick ? distinct.slice(0, 1) : distinct).map(([depth, images]) => group(depth, images));
  },
};

function group(depth: number, batch: number): BenchGroup {
  return {
    id: `training_step/resnet-${depth}/batch-${batch}`,
    suite: "training_step",
    title: `ResNet-${depth} training step, batch ${batch}`,
    where: "32×32×3 images, SGD with momentum",
    baseline: "unfused, eager",
    tensorBytes: 4 * batch * 32 * 32 * 16, // an activation of the first stage
    cases: [
      { name: "unfused, eager", make: (gpu) => trainingStep(gpu, depth, batch, false) },
      { name: "fused, eager", make: (gpu) => trainingStep(gpu, depth, batch, true) },
      {
        name: "fused, captured",
        make: (gpu) => {
          const eager = trainingStep(gpu, depth, batch, true);
          const plan = gpu.capture(() => eager.step());
          return {
            step: () => plan.run(),
            peak: () => plan.byteLength,
            dispose() {
              plan.dispose();
              eager.dispose();
            },
          };
        },
      },
    ],
  };
}

function trainingStep(gpu: Gpu, depth: number, batch: number, fused: boolean): Runnable {
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
