// Training: stats → finalize → apply; backward: grad_stats → grad_finalize → grad_apply; small tensors in one dispatch
// each. See shaders/batch_norm.wgsl. Next to convolutions they do the first and last of these, as they store and load.

import { isRecomputing } from "../autograd/checkpoint.ts";
import type { NormTail } from "../autograd/tape.ts";
import { ShapeError } from "../errors.ts";
import type { Gpu } from "../gpu/device.ts";
import { checkChoice, checkFlag, checkOptions, optionNames, show } from "../options.ts";
import { checkTensor, FLOAT32, FLOATS, type TensorRule } from "../tensor/check.ts";
import { formatShape, type Shape, sameShape, sizeOf } from "../tensor/shape.ts";
import { Tensor } from "../tensor/tensor.ts";
import { type BatchNormKernels, batchNormKernels } from "./batch_norm_kernels.ts";
import { defineOp, inLayer } from "./define-op.ts";

export interface BatchNormOptions {
  /** True: the batch's own statistics, and the running ones are updated. False: the running statistics. */
  training: boolean;
  /** [C]; updated in place in training, needed otherwise. */
  runningMean?: Tensor | null;
  /** [C]; the unbiased variance, as in PyTorch. */
  runningVar?: Tensor | null;
  /** [1], counts training batches; needed for `momentum: null`. */
  numBatchesTracked?: Tensor | null;
  /** Share of the new batch in the running statistics; null for the average over all batches. Default 0.1. */
  momentum?: number | null;
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Applied last, in the same pass. Default "none". */
  activation?: "none" | "relu";
  /**
   * Let the convolutions next to it do part of the work: in training the one before measures its output as it stores it, the
   * one behind normalises as it loads, also in inference, and likewise in backward; each where that is faster here
   * (`gpu.variants`). The same numbers up to rounding. Default true.
   */
  folds?: boolean;
  /**
   * In training, instead of x's own: what `batchNormStatistics` or `mergeStatistics` gave, [4, C]. Differentiable: the
   * gradients of every use add up, so that batches which share statistics also share their backward.
   */
  statistics?: Tensor | null;
  /** x's shape; added before the activation, in the same pass. */
  residual?: Tensor | null;
}

const OPTIONS = optionNames<BatchNormOptions>({
  ...{ training: 0, runningMean: 0, runningVar: 0, numBatchesTracked: 0, momentum: 0, eps: 0 },
  ...{ activation: 0, folds: 0, statistics: 0, residual: 0 },
});

/** What does not depend on shapes. @throws ShapeError, UsageError for wrong options, and tensors that are none. */
export function checkBatchNorm(
  op: string,
  x: Tensor,
  parameters: { gamma: Tensor | null; beta: Tensor | null },
  options: BatchNormOptions,
): void {
  const dtypes = op === "batchNormComposed" ? FLOAT32 : FLOATS;
  checkTensor(op, "x", x, { dtypes });
  const rule: TensorRule = { with: ["x", x], orNull: true };
  for (const name of ["gamma", "beta"] as const) {
    if (parameters[name] !== null) checkTensor(op, name, parameters[name], rule);
  }
  checkOptions(op, options, OPTIONS);
  const { training, folds = true } = options;
  checkFlag(op, "training", training);
  checkFlag(op, "folds", folds);
  for (const name of ["runningMean", "runningVar", "numBatchesTracked", "statistics", "residual"] as const) {
    const tensor = options[name] ?? null;
    if (tensor !== null) checkTensor(op, name, tensor, name === "residual" ? { ...rule, dtypes } : rule);
  }
}

export interface BatchNormParams extends Required<Omit<BatchNormOptions, "residual" | "statistics">> {}

const batchNormOp = defineOp({
  name: "batch_norm",
  inputs: { x: "...", gamma: "C?", beta: "C?", residual: "...?", statistics: "...?" },
  dtypes: { x: ["float32", "float16"], residual: ["float32", "float16"] },
  infer(shapes, params: BatchNormParams) {
    return inferBatchNorm("batchNorm", shapes, params);
  },
  forward(ctx, { x, gamma, beta, residual, statistics }, plan, params) {
    if (residual && residual.dtype !== x.dtype) {
      throw new ShapeError(
        `batchNorm: residual is ${residual.dtype}, x is ${x.dtype}; expected the same, see cast`,
      );
    }
    const { gpu } = ctx;
    const kernels = batchNormKernels(gpu, plan.count, plan.channels, x.dtype);
    const folds = params.folds && !statistics && kernels.folds;
    // Before anything else: the convolution that made x may still wait.
    const producer = folds ? gpu.commands.claim(x) : null;
    const partials = producer?.run(params.training) ?? null;
    const numbers = ctx.empty([5, kernels.width]);
    const graph = Object.values(ctx.needsGrad).includes(true);
    // x alone gives the ReLU's mask, but for the residual.
    const mask = plan.relu && residual && graph ? ctx.empty([kernels.maskWords], "uint32") : null;
    const all = { ...params, gamma, beta, residual, relu: plan.relu, mask };
    const saved = { x, numbers, mask, given: statistics !== null };
    if (params.training) overwriteRunning(params);
    if (partials) {
      try {
        kernels.finalize(ctx, x, numbers, partials, all);
      } finally {
        partials.values.dispose();
      }
    } else if (!params.training) kernels.infer(ctx, numbers, all);
    const counter = params.training ? kernels.counter(params) : null;
    if (producer && !counter) {
      return {
        out: deferredOutput(gpu, kernels, { x, numbers, relu: plan.relu, residual, mask, graph }),
        saved,
      };
    }
    const out = ctx.empty(plan.out, x.dtype);
    if (partials || !params.training) kernels.apply(ctx, out, x, numbers, all, counter);
    else if (statistics) kernels.trainGiven(ctx, out, x, numbers, statistics, all);
    else kernels.train(ctx, out, x, numbers, all);
    return { out, saved };
  },
  // dz = dy where y > 0; dx = γ·rstd·(dz − Σdz/n − x̂·Σ(dz·x̂)/n); dγ = Σ dz·x̂, dβ = Σ dz, dresidual = dz
  backward(ctx, grad, { x, numbers, mask, given }, plan, params) {
    const { needsGrad } = ctx;
    if (grad.dtype !== x.dtype) {
      throw new ShapeError(
        `batchNorm backward: the gradient is ${grad.dtype}, y is ${x.dtype}; expected the same, see cast`,
      );
    }
    const kernels = batchNormKernels(ctx.gpu, plan.count, plan.channels, x.dtype);
    const half = x.dtype === "float16";
    const dgamma = needsGrad.gamma ? ctx.grad("gamma") : ctx.temp([plan.channels]);
    const dbeta = needsGrad.beta ? ctx.grad("beta") : ctx.temp([plan.channels]);
    const { partials } = grad;
    if (partials) {
      // A convolution has masked the gradient and summed it up.
      const slopes = ctx.empty([4, kernels.width]);
      kernels.finalizeGrad(ctx, slopes, partials, numbers, { dgamma, dbeta, batchStatistics: true });
      return {
        x: needsGrad.x ? deferredGradient(ctx.gpu, kernels, x, grad, numbers, slopes) : null,
        gamma: needsGrad.gamma ? dgamma : null,
        beta: needsGrad.beta ? dbeta : null,
        residual: needsGrad.residual ? grad.alias() : null,
        statistics: null,
      };
    }
    const like = (name: "x" | "residual") => (half ? ctx.empty(plan.out, x.dtype) : ctx.grad(name));
    const dx = needsGrad.x ? like("x") : null;
    const dz = !mask ? grad : needsGrad.residual ? like("residual") : ctx.temp(plan.out, x.dtype);
    const batchStatistics = params.training && !given;
    const all = { relu: plan.relu, mask, dz, dgamma, dbeta, dx, batchStatistics };
    kernels.backward(ctx, x, grad, numbers, all);
    const dstatistics = needsGrad.statistics ? ctx.grad("statistics") : null;
    if (dstatistics) {
      kernels.statisticsKernel(ctx, "given_grad", { 0: dstatistics, 2: numbers, 5: dgamma, 6: dbeta });
    }
    return {
      x: dx,
      gamma: needsGrad.gamma ? dgamma : null,
      beta: needsGrad.beta ? dbeta : null,
      residual: !needsGrad.residual ? null : mask ? dz : grad.alias(),
      statistics: dstatistics,
    };
  },
  norm(gpu, { x, numbers, mask, given }, plan, params): NormTail | null {
    const kernels = batchNormKernels(gpu, plan.count, plan.channels, x.dtype);
    if (!params.training || !params.folds || given || !kernels.folds) return null;
    return { x, numbers, mask, relu: plan.relu, residual: plan.residual };
  },
});

/**
 * y, to be worked out when somebody wants it. With a graph its memory is given back when only that holds it, and y is worked
 * out once more in backward; of the outputs along a chain of residuals every second one, since the next needs it for that.
 */
function deferredOutput(
  gpu: Gpu,
  kernels: BatchNormKernels,
  {
    x,
    numbers,
    relu,
    residual,
    mask,
    graph,
  }: {
    x: Tensor;
    numbers: Tensor;
    relu: boolean;
    residual: Tensor | null;
    mask: Tensor | null;
    graph: boolean;
  },
): Tensor {
  const recipe = {
    kind: "normalise" as const,
    x: x.alias(),
    numbers: numbers.alias(),
    relu,
    residual: residual?.alias() ?? null,
  };
  const { layer } = gpu;
  let unwritten = mask;
  const compute = (y: Tensor) =>
    inLayer(gpu, "batch_norm", layer, (ctx) => {
      kernels.apply(
        ctx,
        y,
        recipe.x,
        recipe.numbers,
        { relu, residual: recipe.residual, mask: unwritten },
        null,
      );
      unwritten = null;
    });
  const y = Tensor.deferred(gpu, x.shape, recipe, compute, graph && !residual?.comesAgain);
  if (residual) y.range; // no kernel adds one while it loads, and backward wants the mask
  return y;
}

/** relu(x) in one pass with the batch-norm that makes x, if that has not been carried out yet; else null. */
export function rectified(x: Tensor, graph: boolean): Tensor | null {
  const recipe = x.deferred;
  if (recipe?.kind !== "normalise" || recipe.residual || !sameShape(recipe.x.shape, x.shape)) return null;
  const kernels = batchNormKernels(x.gpu, x.size / x.shape.at(-1)!, x.shape.at(-1)!, x.dtype);
  return deferredOutput(x.gpu, kernels, { ...recipe, relu: true, residual: null, mask: null, graph });
}

/** dx, likewise. */
function deferredGradient(
  gpu: Gpu,
  kernels: BatchNormKernels,
  x: Tensor,
  dz: Tensor,
  numbers: Tensor,
  slopes: Tensor,
): Tensor {
  const recipe = {
    kind: "gradient" as const,
    x: x.alias(),
    dz: dz.alias(),
    numbers: numbers.alias(),
    slopes: slopes.alias(),
  };
  const { layer } = gpu;
  return Tensor.deferred(gpu, x.shape, recipe, (dx) =>
    inLayer(gpu, "batch_norm backward", layer, (ctx) =>
      kernels.applyGrad(ctx, dx, recipe.x, recipe.dz, recipe.numbers, recipe.slopes, false),
    ),
  );
}

/**
 * Batch normalisation over every axis but the last, with an optional residual and ReLU in the same pass:
 * `y = act((x − mean) / √(var + eps) · γ + β [+ residual])`. Ioffe & Szegedy 2015; semantics of PyTorch's `batch_norm`.
 * Training uses the batch's mean and biased variance, and moves the running statistics (with the unbiased variance)
 * towards them on the GPU. Differentiable in x, gamma, beta and residual; keeps x (and, with residual and ReLU, one bit
 * for each element of y) for backward.
 * @param x [N, H, W, C] or [N, C], or any other rank with channels last; in float16, y, the residual and their gradients
 *   are float16 too, and all sums and everything per channel are float32
 * @param gamma [C], or null for 1
 * @param beta [C], or null for 0
 * @throws ShapeError for one value per channel in training, mismatched channels, inference without running statistics,
 *   or an eps or momentum out of range.
 */
export function batchNorm(
  x: Tensor,
  gamma: Tensor | null,
  beta: Tensor | null,
  options: BatchNormOptions,
): Tensor {
  checkBatchNorm("batchNorm", x, { gamma, beta }, options);
  const { residual = null, statistics = null, ...rest } = options;
  const params = batchNormParams(rest);
  // The second forward of a checkpoint sees the same batch: the running statistics have had it.
  const tracked = params.training && isRecomputing() ? { ...params, ...UNTRACKED } : params;
  return batchNormOp({ x, gamma, beta, residual, statistics }, tracked);
}

const UNTRACKED = { runningMean: null, runningVar: null, numBatchesTracked: null, momentum: 0 };

/** The batch's statistics go into the running ones: whoever saved these must not take them for what they were. */
export function overwriteRunning({
  runningMean,
  runningVar,
  numBatchesTracked,
}: Pick<BatchNormParams, "runningMean" | "runningVar" | "numBatchesTracked">): void {
  for (const tensor of [runningMean, runningVar, numBatchesTracked]) tensor?.overwrite();
}

/** The options with PyTorch's defaults. */
export function batchNormParams(options: Omit<BatchNormOptions, "residual" | "statistics">): BatchNormParams {
  const { training, runningMean = null, runningVar = null, numBatchesTracked = null } = options;
  const { momentum = 0.1, eps = 1e-5, activation = "none", folds = true } = options;
  return {
    training,
    runningMean,
    runningVar,
    numBatchesTracked,
    momentum,
    eps,
    activation,
    folds,
  };
}

/** Checks shapes and parameters for `op`. `count` is the number of values per channel. */
export function inferBatchNorm(
  op: string,
  shapes: { [K in "gamma" | "beta" | "residual" | "statistics"]: Shape | null } & { x: Shape },
  params: BatchNormParams,
) {
  const { x, residual, statistics } = shapes;
  const { training, runningMean, runningVar, numBatchesTracked, momentum, eps, activation } = params;
  if (x.length < 2) {
    throw new ShapeError(
      `${op}: x has rank ${x.length}, got ${formatShape(x)}; expected [N, H, W, C] or [N, C], channels last`,
    );
  }
  const channels = x.at(-1)!;
  const count = sizeOf(x) / channels;
  const perChannel: Record<string, Shape | null> = {
    gamma: shapes.gamma,
    beta: shapes.beta,
    runningMean: runningMean?.shape ?? null,
    runningVar: runningVar?.shape ?? null,
  };
  for (const [name, shape] of Object.entries(perChannel)) {
    if (shape && !sameShape(shape, [channels])) {
      throw new ShapeError(
        `${op}: ${name} is ${formatShape(shape)}, x has ${channels} channels, got ${formatShape(x)}; expected [${channels}]`,
      );
    }
  }
  if (residual && !sameShape(residual, x)) {
    throw new ShapeError(
      `${op}: residual is ${formatShape(residual)}, x is ${formatShape(x)}; expected the same shape`,
    );
  }
  if (!runningMean !== !runningVar) {
    throw new ShapeError(
      `${op}: runningMean is ${runningMean ? "given" : "null"}, runningVar is ${runningVar ? "given" : "null"}; ` +
        "expected both or neither",
    );
  }
  if (!training && !runningMean) {
    throw new ShapeError(
      `${op}: training is false and there are no running statistics; pass runningMean and runningVar, or training: true`,
    );
  }
  if (statistics && !training) {
    throw new ShapeError(
      `${op}: training is false and statistics are given; pass them as runningMean and runningVar, or training: true`,
    );
  }
  if (statistics && !sameShape(statistics, [4, channels])) {
    throw new ShapeError(
      `${op}: statistics is ${formatShape(statistics)}, x has ${channels} channels, got ${formatShape(x)}; expected ` +
        `[4, ${channels}] from batchNormStatistics or mergeStatistics`,
    );
  }
  if (training && !statistics && count === 1) {
    throw new ShapeError(
      `${op}: x ${formatShape(x)} has 1 value per channel, and training needs more than 1 for a variance; ` +
        "use a larger batch, or training: false",
    );
  }
  if (numBatchesTracked && sizeOf(numBatchesTracked.shape) !== 1) {
    throw new ShapeError(
      `${op}: numBatchesTracked is ${formatShape(numBatchesTracked.shape)}; expected one number, [1]`,
    );
  }
  const share = typeof momentum === "number" && momentum >= 0 && momentum <= 1;
  if (momentum === null ? training && runningMean && !numBatchesTracked : !share) {
    throw new ShapeError(
      momentum === null
        ? `${op}: momentum is null, the average over all batches, and numBatchesTracked is null; pass a tensor [1] to count in`
        : `${op}: momentum is ${show(momentum)}; expected a number from 0 to 1, or null for the average over all batches`,
    );
  }
  if (!(Number.isFinite(eps) && eps >= 0)) {
    throw new ShapeError(
      `${op}: eps is ${show(eps)}; expected a finite number that is not negative, such as 1e-5`,
    );
  }
  checkChoice(op, "activation", activation, ["none", "relu"], ShapeError);
  return { out: x, count, channels, relu: activation === "relu", residual: residual !== null };
}
