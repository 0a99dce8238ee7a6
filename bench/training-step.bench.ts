// A whole training step: forward, loss, backward, SGD with momentum. Of the CIFAR ResNet, of its pre-activation form, and of
// single blocks.

import type { Gpu } from "../src/gpu.ts";
import { preactResnetCifar } from "../src/nn/models/resnet.ts";
import type { BenchGroup, Runnable } from "./lib/runner.ts";
import { type Block, blockStep, captured, FUSIONS, type Fusion, trainingStep } from "./lib/training.ts";
import type { Suite } from "./list.ts";

export const trainingStepSuite: Suite = {
  name: "training_step",
  about: "a ResNet training step: what is fused into what, captured; eager against captured",
  groups(gpu, { quick, batch }) {
    const sizes = gpu.isSoftware ? { small: 8, large: 32, deep: 8 } : { small: 8, large: 128, deep: 128 };
    const small = batch || sizes.small;
    // Small steps are where the host's share shows.
    const short = [blockGroup("residual", small), fusionGroup(20, small), captureGroup(20, small)];
    if (quick) return short;
    const long = [
      fusionGroup(20, batch || sizes.large),
      fusionGroup(110, batch || sizes.deep),
      preactGroup(20, batch || 32),
      blockGroup("two-branch", batch || 32),
    ];
    return [...new Map([...long, ...short].map((group) => [group.id, group])).values()];
  },
};

function groupOf(depth: number, batch: number, kind: string): Omit<BenchGroup, "baseline" | "cases"> {
  return {
    ...commonOf(batch),
    id: `training_step/resnet-${depth}/batch-${batch}/${kind}`,
    title: `ResNet-${depth} training step, batch ${batch}, ${kind}`,
    where: "32×32×3 images, SGD with momentum",
  };
}

function commonOf(batch: number) {
  // An activation of the first stage.
  return { suite: "training_step", tensorBytes: 4 * batch * 32 * 32 * 16 };
}

/** Batch-norm composed of plain ops, as an op of its own, and folded into the convolutions around it; all captured. */
function fusions(step: (gpu: Gpu, fused: Fusion) => Runnable): Pick<BenchGroup, "baseline" | "cases"> {
  return {
    baseline: "unfused",
    cases: Object.entries(FUSIONS).map(([name, fused]) => ({
      name,
      make: (gpu) => captured(gpu, step(gpu, fused)),
      over: name === "fused" ? "elementwise" : undefined,
    })),
  };
}

function fusionGroup(depth: number, batch: number): BenchGroup {
  return {
    ...groupOf(depth, batch, "captured"),
    ...fusions((gpu, fused) => trainingStep(gpu, { depth, batch, fused })),
  };
}

function preactGroup(depth: number, batch: number): BenchGroup {
  return {
    ...commonOf(batch),
    id: `training_step/preact-resnet-${depth}/batch-${batch}`,
    title: `pre-activation ResNet-${depth} training step, batch ${batch}, captured`,
    where: "32×32×3 images, SGD with momentum",
    ...fusions((gpu, fused) => trainingStep(gpu, { network: preactResnetCifar, depth, batch, fused })),
  };
}

const BLOCK_TITLES: Record<Block, { title: string; where: string }> = {
  "two-branch": { title: "a block of two branches", where: "relu(norm(conv) + norm(conv))" },
  residual: { title: "a residual block", where: "relu(norm(conv(relu(norm(conv(x))))) + x)" },
};

function blockGroup(block: Block, batch: number): BenchGroup {
  const { title, where } = BLOCK_TITLES[block];
  return {
    ...commonOf(batch),
    id: `training_step/${block}/batch-${batch}`,
    title: `${title}, training step, batch ${batch}, captured`,
    where: `${where}, 3×3, 32×32×16, SGD with momentum`,
    ...fusions((gpu, fused) => blockStep(gpu, { block, batch, channels: 16, size: 32, fused })),
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
