// What norms do with their running statistics beside their own kernels.

import { isRecomputing } from "../autograd/checkpoint.ts";
import { noGrad } from "../autograd/tape.ts";
import * as shaders from "../generated/shaders.ts";
import { mean, variance } from "../ops/reduce/reduce.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Of a norm that tracks them. */
export interface RunningStatistics {
  runningMean: Tensor;
  runningVar: Tensor;
  numBatchesTracked: Tensor;
}

const WORKGROUP_SIZE = 64;

/** For a loop over channels. */
const groupsOf = (channels: number) => Math.min(1024, Math.ceil(channels / WORKGROUP_SIZE));

/** As when nothing has been seen. */
export function resetRunning({ runningMean, runningVar, numBatchesTracked }: RunningStatistics): void {
  runningMean.fill(0);
  runningVar.fill(1);
  numBatchesTracked.fill(0);
}

/** Runs a norm that moves running statistics; those of a batch with which one of them is no longer finite are left as they were. */
export function movedIfFinite(
  running: RunningStatistics,
  norm: (trial: Partial<RunningStatistics>) => Tensor,
): Tensor {
  if (isRecomputing()) return norm({});
  const { gpu, size: channels } = running.runningMean;
  return gpu.scope(() => {
    const trial = {
      runningMean: gpu.empty([channels]),
      runningVar: gpu.empty([channels]),
      numBatchesTracked: gpu.empty([1]),
    };
    const run = (entry: "begin" | "commit", from: RunningStatistics, to: RunningStatistics) => {
      const kernel = { shader: shaders.running_statistics, entry, constants: { WORKGROUP_SIZE } };
      const bindings = {
        ...{ mean: to.runningMean, variance: to.runningVar, batches: to.numBatchesTracked },
        ...{ from_mean: from.runningMean, from_variance: from.runningVar },
        ...{ from_batches: from.numBatchesTracked, params: { channels, images: 1 } },
      };
      gpu.run(kernel, bindings, [entry === "begin" ? groupsOf(channels) : 1], "batch_norm");
    };
    run("begin", running, trial);
    const y = norm(trial);
    run("commit", trial, running);
    return y;
  });
}

/** Moves running statistics towards the averages of each image's own, with the unbiased variance; as PyTorch's `instance_norm`. */
export function moveToInstances(
  x: Tensor,
  { runningMean, runningVar }: RunningStatistics,
  momentum: number,
): void {
  if (isRecomputing()) return;
  const { gpu } = x;
  const pixels = x.shape.map((_, axis) => axis).slice(1, -1);
  const channels = x.shape.at(-1)!;
  noGrad(() =>
    gpu.scope(() => {
      const from_mean = mean(x, pixels);
      const from_variance = variance(x, pixels, { correction: 1 });
      const kernel = {
        shader: shaders.running_statistics,
        entry: "instances" as const,
        constants: { WORKGROUP_SIZE, MOMENTUM: momentum },
      };
      const bindings = {
        ...{ mean: runningMean, variance: runningVar, from_mean, from_variance },
        params: { channels, images: x.shape[0]! },
      };
      gpu.run(kernel, bindings, [groupsOf(channels)], "instance_norm");
    }),
  );
}
