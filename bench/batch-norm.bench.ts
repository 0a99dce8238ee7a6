// Batch-norm in training: fused kernels against the same numbers from plain ops, and SiLU in its pass against ReLU.

import type { Gpu } from "../src/gpu.ts";
import { batchNorm } from "../src/ops/batch-norm/batch-norm.ts";
import { batchNormComposed } from "../src/ops/batch-norm/composed.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { heldForBackward } from "./lib/held.ts";
import { input } from "./lib/inputs.ts";
import type { BenchCase, BenchGroup, Runnable } from "./lib/runner.ts";
import { cifarShapes, elements, imagenetShapes, type NamedShape, WIDE } from "./lib/shapes.ts";
import { withVariants } from "./lib/variants.ts";
import { normals, type Size4 } from "./lib/work.ts";
import type { Suite, SuiteOptions } from "./list.ts";

const PASSES = ["forward", "backward", "forward+backward"] as const;
const TAILS = ["plain", "relu", "residual+relu"] as const;
type Pass = (typeof PASSES)[number];
type Tail = (typeof TAILS)[number] | "silu";

export const batchNormSuite: Suite = {
  name: "batch_norm",
  about: "training-mode batch-norm: fused kernels against the composition of plain ops",
  groups(gpu, options) {
    return shapesFor(gpu, options).flatMap((shape) => [
      ...PASSES.flatMap((pass) => TAILS.map((tail) => group(gpu, shape, pass, tail, options))),
      activationGroup(shape),
    ]);
  },
};

/** The shapes of the networks that fit; large batches only where there is a GPU to fill. */
function shapesFor(gpu: Gpu, { quick, batch }: SuiteOptions): NamedShape[] {
  const cifar = cifarShapes(batch || (gpu.isSoftware ? 128 : 512));
  const imagenet = imagenetShapes(batch || (gpu.isSoftware ? 8 : 64));
  const shapes = quick ? [WIDE, ...cifar, imagenet[5]!] : [WIDE, ...cifar, ...imagenet];
  if (!gpu.isSoftware && !batch) {
    // 822 MB: past every cache, which bandwidth may be claimed on only.
    shapes.push({ label: "resnet-50 stage 1, last, batch 256", shape: [256, 56, 56, 256] });
  }
  const limit = Math.min(gpu.limits.maxStorageBufferBindingSize, gpu.limits.maxBufferSize);
  return shapes.filter(({ shape }) => 4 * elements(shape) <= limit);
}

function group(
  gpu: Gpu,
  { shape, label }: NamedShape,
  pass: Pass,
  tail: Tail,
  options: SuiteOptions,
): BenchGroup {
  const id = `batch_norm/${pass}/${tail}/${shape.join("x")}`;
  const cases: BenchCase[] = [
    { name: "unfused", make: (device) => prepare(device, shape, pass, tail, batchNormComposed) },
    { name: "fused", make: (device) => prepare(device, shape, pass, tail, batchNorm) },
  ];
  return {
    id,
    suite: "batch_norm",
    title: `BN${tail === "plain" ? "" : tail === "relu" ? "+ReLU" : "+add+ReLU"} ${pass} ${shape.join("×")}`,
    where: label,
    baseline: "unfused",
    tensorBytes: 4 * elements(shape),
    cases: options.variants ? [...cases, ...withVariants(gpu, cases[1]!)] : cases,
  };
}

/** What an activation that has to be worked out again in backward costs, over one whose output tells. */
function activationGroup({ shape, label }: NamedShape): BenchGroup {
  const pass = "forward+backward";
  return {
    id: `batch_norm/${pass}/silu/${shape.join("x")}`,
    suite: "batch_norm",
    title: `BN+SiLU against BN+ReLU ${pass} ${shape.join("×")}`,
    where: label,
    baseline: "relu",
    tensorBytes: 4 * elements(shape),
    cases: (["relu", "silu"] as const).map((tail) => ({
      name: tail,
      make: (gpu) => prepare(gpu, shape, pass, tail, batchNorm),
    })),
  };
}

function prepare(gpu: Gpu, shape: Size4, pass: Pass, tail: Tail, normalize: typeof batchNorm): Runnable {
  const requiresGrad = pass !== "forward";
  const channels = shape[3];
  const x = input(gpu, shape, 1, { requiresGrad, mean: 0.5, std: 2 });
  const dy = requiresGrad ? input(gpu, shape, 2) : null;
  const residual = tail === "residual+relu" ? input(gpu, shape, 3, { requiresGrad }) : null;
  const vector = (seed: number, mean: number) =>
    gpu.keep(gpu.tensor(normals(channels, seed, mean, 0.2), [channels], { requiresGrad }));
  const gamma = vector(4, 1);
  const beta = vector(5, 0);
  const activation = tail === "plain" ? "none" : tail === "silu" ? "silu" : "relu";
  const forward = (input: Tensor) =>
    normalize(input, gamma, beta, { training: true, activation, residual }).materialize();
  const leaves = [x, gamma, beta, ...(residual ? [residual] : [])];
  const backward = (y: Tensor) => {
    y.backward(dy!);
    for (const leaf of leaves) leaf.zeroGrad();
    y.dispose();
  };
  const graphs: Tensor[] = [];
  const tensors = [...leaves, ...(dy ? [dy] : [])];
  return {
    step: {
      forward: () => forward(x).dispose(),
      backward: () => backward(graphs.shift()!),
      "forward+backward": () => backward(forward(x)),
    }[pass],
    prepare: pass === "backward" ? () => void graphs.push(forward(x)) : undefined,
    held: requiresGrad ? () => heldForBackward(gpu, x, forward) : undefined,
    dispose() {
      for (const y of graphs.splice(0)) y.dispose();
      for (const one of tensors) one.dispose();
    },
  };
}
