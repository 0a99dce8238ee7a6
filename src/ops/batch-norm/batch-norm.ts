// Training: stats → finalize → apply; backward: grad_stats → grad_finalize → grad_apply; small tensors in one dispatch
// each. See shaders/batch_norm/batch_norm.wgsl. Next to convolutions they do the first and last of these, as they store and load.

import { isRecomputing } from "../../autograd/checkpoint.ts";
import { watcher } from "../../autograd/tape.ts";
import { ShapeError } from "../../errors.ts";
import {
  type ActivationPart,
  type GradientSink,
  isRectifier,
  isSome,
  NO_ACTIVATION,
} from "../../fusion/ports.ts";
import type { Gpu } from "../../gpu.ts";
import { checkFlag, checkOptions, optionNames, show } from "../../options.ts";
import { checkTensor, FLOAT32, FLOATS, type TensorRule } from "../../tensor/check.ts";
import type { Work } from "../../tensor/lazy.ts";
import { formatShape, type Shape, sameShape, sizeOf } from "../../tensor/shape.ts";
import { Tensor } from "../../tensor/tensor.ts";
import { type Activation, activationPart } from "../activations.ts";
import { defineOp, inLayer } from "../define-op.ts";
import { nchwHint } from "../nchw.ts";
import { type BatchNormChoice, takesOne } from "./choose.ts";
import { type BatchNormKernels, batchNormKernels } from "./kernels.ts";

/** Options of `batchNorm`; names and defaults are PyTorch's. */
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
  activation?: Activation;
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
    const choice = kernels.choose("forward", params.folds);
    const folds = params.folds && kernels.foldable && !takesOne(choice.variant);
    const sums = folds && params.training && !statistics ? x.store(STATISTICS) : null;
    const numbers = ctx.empty([5, kernels.width]);
    const graph = Object.values(ctx.needsGrad).includes(true);
    // x alone gives the ReLU's mask, but for the residual.
    const mask =
      isRectifier(plan.activation) && residual && graph ? ctx.empty([kernels.maskWords], "uint32") : null;
    const { activation } = plan;
    const { runningMean, runningVar, numBatchesTracked, momentum, eps } = params;
    const all = {
      gamma,
      beta,
      runningMean,
      runningVar,
      numBatchesTracked,
      momentum,
      eps,
      residual,
      activation,
      mask,
    };
    // Without a mask, backward works out what the activation was of.
    const summand = isSome(plan.activation) && graph && !mask ? residual : null;
    const saved = { x, numbers, mask, summand, given: statistics !== null };
    if (params.training) overwriteRunning(params);
    const counter = params.training ? kernels.counter(params) : null;
    const lazily = folds && !counter;
    if (sums) {
      try {
        kernels.finalize(ctx, x, numbers, sums, all, choice);
      } finally {
        sums.values.dispose();
      }
    } else if (!params.training) kernels.infer(ctx, numbers, all);
    else if (statistics) kernels.measureGiven(ctx, x, numbers, statistics, all);
    else if (lazily) kernels.measure(ctx, x, numbers, all, choice);
    else {
      const out = ctx.empty(plan.out, x.dtype);
      kernels.train(ctx, out, x, numbers, all, choice);
      return { out, saved };
    }
    if (lazily) {
      return {
        out: normalised({ gpu, kernels, choice, x, numbers, activation, residual, mask, graph }),
        saved,
      };
    }
    const out = ctx.empty(plan.out, x.dtype);
    kernels.apply(ctx, out, x, numbers, all, counter, choice);
    return { out, saved };
  },
  // dz = dy·act'(z); dx = γ·rstd·(dz − Σdz/n − x̂·Σ(dz·x̂)/n); dγ = Σ dz·x̂, dβ = Σ dz, dresidual = dz
  backward(ctx, grad, { x, numbers, mask, summand, given }, plan, params) {
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
    const batchStatistics = params.training && !given;
    const { sums } = ctx;
    const choice = kernels.choose("backward", params.folds && !given);
    const folds = params.folds && !given && kernels.foldable && !takesOne(choice.variant);
    if (sums || (folds && needsGrad.x)) {
      const slopes = ctx.empty([4, kernels.width]);
      const coefficients = { dgamma, dbeta, batchStatistics };
      const joined = !sums && (mask !== null || summand !== null);
      const dz = !joined ? grad : needsGrad.residual ? ctx.grad("residual") : ctx.empty(plan.out);
      const activation = sums || joined ? NO_ACTIVATION : plan.activation;
      const unused = !batchStatistics && !needsGrad.gamma && !needsGrad.beta && !joined;
      // The kernel that made the gradient has masked it and summed it up; or nobody asks for the sums.
      if (sums) kernels.finalizeGrad(ctx, slopes, sums, numbers, coefficients, choice);
      else if (unused)
        kernels.finalizeGrad(ctx, slopes, { values: numbers, groups: 0 }, numbers, coefficients, choice);
      else {
        const all = { activation: plan.activation, mask, residual: summand, dz, ...coefficients };
        kernels.measureGrad(ctx, x, grad, numbers, slopes, all, choice);
      }
      return {
        x: needsGrad.x
          ? inputGradient({ gpu: ctx.gpu, kernels, choice, x, dz, numbers, slopes, activation })
          : null,
        gamma: needsGrad.gamma ? dgamma : null,
        beta: needsGrad.beta ? dbeta : null,
        residual: !needsGrad.residual ? null : joined ? dz : grad.alias(),
        statistics: null,
      };
    }
    const like = (name: "x" | "residual") => (half ? ctx.empty(plan.out, x.dtype) : ctx.grad(name));
    const dx = needsGrad.x ? like("x") : null;
    const joined = mask !== null || summand !== null;
    const dz = !joined ? grad : needsGrad.residual ? like("residual") : ctx.temp(plan.out, x.dtype);
    const all = {
      activation: plan.activation,
      mask,
      residual: summand,
      dz,
      dgamma,
      dbeta,
      dx,
      batchStatistics,
    };
    kernels.backward(ctx, x, grad, numbers, all, choice);
    const dstatistics = needsGrad.statistics ? ctx.grad("statistics") : null;
    if (dstatistics) {
      kernels.statisticsKernel(ctx, "given_grad", { out: dstatistics, a: numbers, dgamma, dbeta });
    }
    return {
      x: dx,
      gamma: needsGrad.gamma ? dgamma : null,
      beta: needsGrad.beta ? dbeta : null,
      residual: !needsGrad.residual ? null : joined ? dz : grad.alias(),
      statistics: dstatistics,
    };
  },
  sink(gpu, { x, numbers, mask, summand, given }, plan, params) {
    const kernels = batchNormKernels(gpu, plan.count, plan.channels, x.dtype);
    if (!params.folds || given || !kernels.foldable || summand) return null;
    const choice = kernels.choose("backward", true);
    if (takesOne(choice.variant)) return null;
    return gradientSink(kernels, choice, x, numbers, {
      activation: plan.activation,
      mask,
      added: plan.residual,
    });
  },
});

/** What a batch-norm asks of the kernel that makes x: count, origin, offset and deviation of each channel. */
const STATISTICS = { part: "statistics", rows: 4, constants: {}, activation: null, bindings: {} };

/** What comes after the normalisation in the op, and in ops after it. */
interface After {
  activation: ActivationPart;
  /** A ReLU's, where x alone does not give it. */
  mask: Tensor | null;
  /** Something is added before the activation. */
  added: boolean;
}

/** The gradient masked, and summed up: Σdz and Σdz·x̂ of each channel. */
function gradientSink(
  kernels: BatchNormKernels,
  choice: BatchNormChoice,
  x: Tensor,
  numbers: Tensor,
  after: After,
): GradientSink {
  const { activation, mask, added } = after;
  return {
    part: "gradient_sums",
    rows: 2,
    constants: { MASKED: mask ? 1 : 0 },
    activation: mask ? NO_ACTIVATION : activation,
    bindings: { sink_input: x, sink_numbers: numbers, sink_mask: mask ?? numbers },
    activated(next, bits) {
      if (isSome(activation) || (added && !bits)) return null;
      return gradientSink(kernels, choice, x, numbers, {
        activation: next,
        mask: added ? bits : null,
        added,
      });
    },
    // The other summand would get the masked gradient, too.
    plus() {
      if (isSome(activation) || added) return null;
      return gradientSink(kernels, choice, x, numbers, { ...after, added: true });
    },
    apply(grad) {
      if (!isSome(activation)) return null;
      const { gpu } = x;
      const dz = gpu.keep(gpu.empty(grad.shape));
      try {
        const make = (shape: Shape) => gpu.keep(gpu.empty(shape));
        const partials = inLayer(gpu, "batch_norm backward", gpu.layer, (ctx) =>
          kernels.sumGrad(ctx, make, x, grad, numbers, { activation, mask, residual: null, dz }, choice),
        );
        return { grad: dz, partials };
      } catch (error) {
        dz.dispose();
        throw error;
      }
    },
  };
}

/** The output of a batch-norm that is not in memory. */
interface Normalised {
  gpu: Gpu;
  kernels: BatchNormKernels;
  choice: BatchNormChoice;
  x: Tensor;
  numbers: Tensor;
  activation: ActivationPart;
  residual: Tensor | null;
  /** Where the mask goes, once. */
  mask: Tensor | null;
  graph: boolean;
}

/**
 * y, to be worked out when somebody wants it. With a graph its memory is given back when only that holds it, and y is worked
 * out once more in backward; of the outputs along a chain of residuals every second one, since the next needs it for that.
 */
function normalised(given: Normalised): Tensor {
  const { gpu, kernels, choice, activation, graph } = given;
  const [x, numbers, residual] = [given.x.alias(), given.numbers.alias(), given.residual?.alias() ?? null];
  const { layer } = gpu;
  let unwritten = given.mask;
  const work: Work = {
    sources: residual ? [x, numbers, residual] : [x, numbers],
    recompute: graph && !residual?.recomputes,
    run(y) {
      inLayer(gpu, "batch_norm", layer, (ctx) =>
        kernels.apply(ctx, y, x, numbers, { activation, residual, mask: unwritten }, null, choice),
      );
      unwritten = null;
      return null;
    },
    // Nobody adds a residual while loading.
    load: residual ? null : { part: "affine", elements: x, bindings: { numbers }, constants: {}, activation },
    activated(next, newMask) {
      // With a residual only a ReLU's gradient can do without what it was of.
      if (isSome(activation) || (residual && newMask && !isRectifier(next))) return null;
      const mask = residual && newMask ? newMask(kernels.maskWords) : null;
      const out = normalised({
        ...given,
        x,
        numbers,
        residual,
        activation: next,
        mask,
        graph: newMask !== null,
      });
      return { out, mask };
    },
    plus(other, _self, needsGrad) {
      if (isSome(activation) || residual) return null;
      return normalised({ ...given, x, numbers, residual: other, mask: null, graph: needsGrad });
    },
  };
  gpu.checkFinite(numbers, "batchNorm"); // y may never be in memory
  const y = Tensor.lazy(gpu, x.shape, work, "batchNorm");
  if (unwritten) y.materialize(); // backward wants the mask
  return y;
}

/** dx that is not in memory: a·(dz + (x − origin)·p + q). */
interface InputGradient {
  gpu: Gpu;
  kernels: BatchNormKernels;
  choice: BatchNormChoice;
  x: Tensor;
  /** The gradient, still to go through the activation. */
  dz: Tensor;
  numbers: Tensor;
  slopes: Tensor;
  activation: ActivationPart;
}

function inputGradient(given: InputGradient, others: Tensor | null = null): Tensor {
  const { gpu, kernels, choice, activation } = given;
  const [x, dz] = [given.x.alias(), given.dz.alias()];
  const [numbers, slopes] = [given.numbers.alias(), given.slopes.alias()];
  const addend = others?.alias() ?? null;
  const { layer } = gpu;
  const work: Work = {
    sources: [x, dz, numbers, slopes, ...(addend ? [addend] : [])],
    recompute: false,
    run(dx) {
      inLayer(gpu, "batch_norm backward", layer, (ctx) =>
        kernels.applyGrad(ctx, dx, x, dz, numbers, slopes, activation, addend, choice),
      );
      return null;
    },
    load:
      isSome(activation) || addend
        ? null
        : {
            part: "affine_pair",
            elements: dz,
            bindings: { numbers: slopes, other: x },
            activation: null,
            constants: {},
          },
    plus: (other) => (addend ? null : inputGradient({ ...given, x, dz, numbers, slopes }, other)),
  };
  return Tensor.lazy(gpu, x.shape, work, "batchNorm backward");
}

/**
 * Batch normalisation over every axis but the last, with an optional residual and activation in the same pass:
 * `y = act((x − mean) / √(var + eps) · γ + β [+ residual])`. Ioffe & Szegedy 2015; semantics of PyTorch's `batch_norm`.
 * Training uses the batch's mean and biased variance, and moves the running statistics (with the unbiased variance)
 * towards them on the GPU. Differentiable in x, gamma, beta and residual; keeps x (and, with a residual and ReLU, one bit
 * for each element of y; with a residual and another activation, the residual) for backward.
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
  const { residual = null, statistics = null } = options;
  const params = batchNormParams(options);
  // No inputs of the op, but read all the same.
  if (!params.training)
    watcher()?.("batchNorm", { runningMean: params.runningMean, runningVar: params.runningVar });
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
        `${op}: ${name} is ${formatShape(shape)}, x has ${channels} channels, got ${formatShape(x)}; expected [${channels}]` +
          nchwHint("x", x, sizeOf(shape)),
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
  const part: ActivationPart = activationPart(op, activation);
  return { out: x, count, channels, activation: part, residual: residual !== null };
}
