// A whole training step of the CIFAR ResNet: forward, loss, backward, SGD with momentum.

import type { BenchGroup } from "./lib/runner.ts";
import { captured, FUSIONS, trainingStep } from "./lib/training.ts";
import type { Suite } from "./list.ts";

export const trainingStepSuite: Suite = {
  name: "training_step",
  about: "a ResNet training step: what is fused into what, captured; eager against captured",
  groups(gpu, { quick, batch }) {
    const sizes = gpu.isSoftware ? { small: 8, large: 32, deep: 8 } : { small: 8, large: 128, deep: 128 };
    const small = batch || sizes.small;
    // Small steps are where the host's share shows.
    const short = [fusionGroup(20, small), captureGroup(20, small)];
    if (quick) return short;
    const long = [fusionGroup(20, batch || sizes.large), fusionGroup(110, batch || sizes.deep)];
    return [...new Map([...long, ...short].map((group) => [group.id, group])).values()];
  },
};

function groupOf(depth: number, batch: number, kind: string): Omit<BenchGroup, "baseline" | "cases"> {
  return {
    id: `training_step/resnet-${depth}/batch-${batch}/${kind}`,
    suite: "training_step",
    title: `ResNet-${depth} training step, batch ${batch}, ${kind}`,
    where: "32×32×3 images, SGD with momentum",
    tensorBytes: 4 * batch * 32 * 32 * 16, // an activation of the first stage
  };
}

/** Batch-norm composed of plain ops, as an op of its own, and folded into the convolutions around it; all captured. */
function fusionGroup(depth: number, batch: number): BenchGroup {
  return {
    ...groupOf(depth, batch, "captured"),
    baseline: "unfused",
    cases: Object.entries(FUSIONS).map(([name, fused]) => ({
      name,
      make: (gpu) => captured(gpu, trainingStep(gpu, { depth, batch, fused })),
      over: name === "fused" ? "elementwise" : undefined,
    })),
  };
}

function captureGroup(depth: number, batch: number): BenchGroup {
  return {
    ...groupOf(depth, batch, "fused"),
    baseline: "eager",
    cases: [
      { name: "eager", make: (gpu) => trainingStep(gpu, { depth, batch }) },
      { name: "captured", make: (gpu) => captured(gpu, trainingStep(gpu, { depth, batch })) },
    ],
  };
}
