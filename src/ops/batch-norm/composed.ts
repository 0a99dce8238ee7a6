import { isRecomputing } from "../../autograd/checkpoint.ts";
import { noGrad } from "../../autograd/tape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { activate } from "../activations.ts";
import { add, mul, normalize } from "../elementwise/elementwise.ts";
import { mean, variance } from "../reduce/reduce.ts";
import { reshape } from "../reshape.ts";
import { slice } from "../slice.ts";
import {
  type BatchNormOptions,
  batchNormParams,
  checkBatchNorm,
  inferBatchNorm,
  overwriteRunning,
} from "./batch-norm.ts";
import { batchNormKernels } from "./kernels.ts";

/**
 * The same numbers as `batchNorm`, composed of plain ops: `mean`, `variance`, `normalize`, `mul`, `add`, and the activation, each
 * with its own pass over memory and its own backward. What fusing gains is measured against this.
 * Arguments, defaults and errors are those of `batchNorm`.
 */
export function batchNormComposed(
  x: Tensor,
  gamma: Tensor | null,
  beta: Tensor | null,
  options: BatchNormOptions,
): Tensor {
  checkBatchNorm("batchNormComposed", x, { gamma, beta }, options);
  const { gpu } = x;
  const { residual = null, statistics = null, ...rest } = options;
  const params = batchNormParams(rest);
  const shapes = {
    x: x.shape,
    gamma: gamma?.shape ?? null,
    beta: beta?.shape ?? null,
    residual: residual?.shape ?? null,
    statistics: statistics?.shape ?? null,
  };
  const plan = inferBatchNorm("batchNormComposed", shapes, params);
  return gpu.scope(() => {
    let m = params.runningMean!;
    let v = params.runningVar!;
    if (params.training) {
      const axes = x.shape.map((_, axis) => axis).slice(0, -1);
      if (statistics) {
        const row = (from: number) =>
          reshape(slice(statistics, [from, 0], [from + 1, plan.channels]), [plan.channels]);
        m = add(row(1), row(2));
        v = row(3);
      } else {
        m = mean(x, axes);
        v = variance(x, axes, { correction: 0, mean: m });
      }
      if (params.runningMean && !isRecomputing()) {
        overwriteRunning(params);
        const kernels = batchNormKernels(gpu, plan.count, plan.channels, x.dtype);
        noGrad(() => kernels.updateRunning(m, v, params));
      }
    }
    let y = normalize(x, m, v, params.eps);
    if (gamma) y = mul(y, gamma);
    if (beta) y = add(y, beta);
    if (residual) y = add(y, residual);
    return activate("batchNormComposed", y, params.activation);
  });
}
