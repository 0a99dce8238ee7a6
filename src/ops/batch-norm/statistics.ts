import { ShapeError } from "../../errors.ts";
import { checkOptions, optionNames } from "../../options.ts";
import { checkTensors, FLOATS } from "../../tensor/check.ts";
import { formatShape, sameShape, sizeOf } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { defineOp } from "../define-op.ts";
import {
  type BatchNormOptions,
  batchNorm,
  batchNormParams,
  checkBatchNorm,
  inferBatchNorm,
} from "./batch-norm.ts";
import { batchNormKernels } from "./kernels.ts";

const statisticsOp = defineOp({
  name: "batch_norm_statistics",
  inputs: { x: "..." },
  dtypes: { x: ["float32", "float16"] },
  infer({ x }) {
    if (x.length < 2) {
      throw new ShapeError(
        `batchNormStatistics: x has rank ${x.length}, got ${formatShape(x)}; expected [N, H, W, C] or [N, C], channels last`,
      );
    }
    const channels = x.at(-1)!;
    return { out: [4, channels], x, count: sizeOf(x) / channels, channels };
  },
  forward(ctx, { x }, plan) {
    const out = ctx.empty(plan.out);
    batchNormKernels(ctx.gpu, plan.count, plan.channels, x.dtype).statistics(ctx, out, x);
    return { out, saved: { x, out } };
  },
  // dx = dmean/n + 2·dvariance/n·(x − mean)
  backward(ctx, grad, { x, out }, plan) {
    const dx = x.dtype === "float16" ? ctx.empty(plan.x, x.dtype) : ctx.grad("x");
    batchNormKernels(ctx.gpu, plan.count, plan.channels, x.dtype).statisticsGrad(ctx, dx, x, out, grad);
    return { x: dx };
  },
});

const mergeOp = defineOp({
  name: "merge_statistics",
  inputs: { a: "four C", b: "four C" },
  infer({ a }) {
    return { out: a, channels: a[1]! };
  },
  forward(ctx, { a, b }, plan) {
    const out = ctx.empty(plan.out);
    const kernels = batchNormKernels(ctx.gpu, 1, plan.channels, "float32");
    kernels.statisticsKernel(ctx, "merge", { out, a, b });
    return { out, saved: { a, b } };
  },
  backward(ctx, grad, { a, b }, plan) {
    const da = ctx.needsGrad.a ? ctx.grad("a") : ctx.temp(plan.out);
    const db = ctx.needsGrad.b ? ctx.grad("b") : ctx.temp(plan.out);
    const kernels = batchNormKernels(ctx.gpu, 1, plan.channels, "float32");
    kernels.statisticsKernel(ctx, "merge_grad", { da, db, a, b, grad });
    return { a: ctx.needsGrad.a ? da : null, b: ctx.needsGrad.b ? db : null };
  },
});

/**
 * Count, origin, offset and biased variance of each channel: [4, C], with mean = origin + offset. The origin is a value
 * near the mean and a constant for the gradient; kept apart, it costs no digits where |mean| ≫ std.
 * Differentiable in x. `mergeStatistics` joins those of several batches, `batchNorm` takes them as `statistics`.
 * @param x [N, H, W, C] or [N, C], or any other rank above 1 with channels last
 * @throws ShapeError for a tensor of rank 1.
 */
export function batchNormStatistics(x: Tensor): Tensor {
  return statisticsOp({ x }, null);
}

/**
 * The statistics [4, C] of all batches together, from `batchNormStatistics` of each; in the order given.
 * @throws ShapeError for an empty list, or statistics of different shapes.
 */
export function mergeStatistics(statistics: readonly Tensor[]): Tensor {
  checkTensors("mergeStatistics", "statistics", statistics);
  const [first, ...others] = statistics;
  if (!first) {
    throw new ShapeError("mergeStatistics: the list is empty; expected the statistics of at least one batch");
  }
  for (const { shape } of statistics) {
    if (shape.length !== 2 || shape[0] !== 4 || !sameShape(shape, first.shape)) {
      throw new ShapeError(
        `mergeStatistics: statistics is ${formatShape(shape)}, the first ${formatShape(first.shape)}; expected [4, C] of ` +
          "equal C, from batchNormStatistics",
      );
    }
  }
  return others.reduce((a, b) => mergeOp({ a, b }, null), first);
}

/** Options of `syncBatchNorm`. */
export interface SyncBatchNormOptions extends Omit<BatchNormOptions, "training" | "residual" | "statistics"> {
  /** One for each batch, of its shape; added before the activation. */
  residuals?: readonly Tensor[] | null;
}

const OPTIONS = optionNames<SyncBatchNormOptions>({
  ...{ residuals: 0, runningMean: 0, runningVar: 0, numBatchesTracked: 0 },
  ...{ momentum: 0, eps: 0, activation: 0, folds: 0 },
});

/**
 * `batchNorm` in training over several micro-batches with the statistics of all of them together, forward and
 * backward: the numbers of one batch made of all. The running statistics move once.
 * @param xs [N, H, W, C] or [N, C] each; the N may differ
 * @throws ShapeError for an empty list, another number of residuals, or what `batchNorm` refuses.
 */
export function syncBatchNorm(
  xs: readonly Tensor[],
  gamma: Tensor | null,
  beta: Tensor | null,
  options: SyncBatchNormOptions = {},
): Tensor[] {
  checkTensors("syncBatchNorm", "xs", xs, { dtypes: FLOATS });
  const [first] = xs;
  if (!first) throw new ShapeError("syncBatchNorm: the list of batches is empty; expected at least one");
  checkOptions("syncBatchNorm", options, OPTIONS);
  const { residuals = null, runningMean, runningVar, numBatchesTracked, ...rest } = options;
  if (residuals !== null)
    checkTensors("syncBatchNorm", "residuals", residuals, { dtypes: FLOATS, with: ["xs[0]", first] });
  const all = { ...rest, runningMean, runningVar, numBatchesTracked, training: true };
  for (const x of xs) checkBatchNorm("syncBatchNorm", x, { gamma, beta }, all);
  if (residuals && residuals.length !== xs.length) {
    throw new ShapeError(
      `syncBatchNorm: ${residuals.length} residuals for ${xs.length} batches; expected one for each`,
    );
  }
  const count = xs.reduce((sum, x) => sum + x.size / (x.shape.at(-1) ?? 1), 0);
  for (const [i, x] of xs.entries()) {
    const shapes = {
      ...{ x: x.shape, gamma: gamma?.shape ?? null, beta: beta?.shape ?? null },
      ...{ residual: residuals?.[i]?.shape ?? null, statistics: x.rank < 2 ? null : [4, x.shape.at(-1)!] },
    };
    inferBatchNorm("syncBatchNorm", shapes, batchNormParams(all));
    if (x.shape.at(-1) !== first.shape.at(-1) || x.dtype !== first.dtype) {
      throw new ShapeError(
        `syncBatchNorm: xs[${i}] is ${x.dtype} ${formatShape(x.shape)}, xs[0] ${first.dtype} ${formatShape(first.shape)}; ` +
          "expected equal types and channels",
      );
    }
    if (residuals && residuals[i]!.dtype !== x.dtype) {
      throw new ShapeError(
        `syncBatchNorm: residuals[${i}] is ${residuals[i]!.dtype}, xs[${i}] is ${x.dtype}; expected the same, see cast`,
      );
    }
  }
  if (count === 1) {
    throw new ShapeError(
      "syncBatchNorm: the batches have 1 value per channel together, and training needs more than 1 for a variance; " +
        "use larger batches",
    );
  }
  return first.gpu.scope(() => {
    const statistics = mergeStatistics(xs.map((x) => batchNormStatistics(x)));
    const tracked = { runningMean, runningVar, numBatchesTracked };
    return xs.map((x, i) =>
      batchNorm(x, gamma, beta, {
        ...rest,
        ...(i === 0 && tracked),
        training: true,
        statistics,
        residual: residuals?.[i] ?? null,
      }),
    );
  });
}
