import { ShapeError } from "../../errors.ts";
import * as shaders from "../../generated/shaders.ts";
import type { Gpu } from "../../gpu.ts";
import { checkChoice, checkOptions, optionNames, show } from "../../options.ts";
import { checkTensor } from "../../tensor/check.ts";
import { formatShape, type Shape, sameShape } from "../../tensor/shape.ts";
import { Tensor } from "../../tensor/tensor.ts";
import { defineOp } from "../define-op.ts";
import { largestWorkgroup, strideGrid } from "../grid.ts";
import { reduceInto } from "../reduce/kernels.ts";
import { reshape } from "../reshape.ts";
import { rowKernel } from "./softmax.ts";

/** Options of `softmaxCrossEntropy`. */
export interface SoftmaxCrossEntropyOptions {
  /**
   * What becomes of the N losses: their mean (default), their sum, or themselves. With labels the mean's divisor is the sum of the
   * weights of the labels that are not ignored; with probabilities it is N.
   */
  reduction?: "mean" | "sum" | "none";
  /** ε of Szegedy et al. (2016): the target is 1 − ε + ε/K for the label, ε/K for the others. Default 0. */
  labelSmoothing?: number;
  /** A factor for each class, float32 [K]. Default none. It gets no gradient. */
  weight?: Tensor | null;
  /** Rows with this label have loss and gradient 0. Default −100, which is 4294967196 in uint32. */
  ignoreIndex?: number;
}

const OPTIONS = optionNames<SoftmaxCrossEntropyOptions>({
  ...{ reduction: 0, labelSmoothing: 0, weight: 0, ignoreIndex: 0 },
});

const NAN_BITS = 0x7fc00000;

type Params = Required<Omit<SoftmaxCrossEntropyOptions, "weight">>;

function checkParams({ reduction, labelSmoothing, ignoreIndex }: Params): void {
  checkChoice("softmaxCrossEntropy", "reduction", reduction, ["mean", "sum", "none"], ShapeError);
  if (typeof labelSmoothing !== "number" || !(labelSmoothing >= 0 && labelSmoothing <= 1)) {
    throw new ShapeError(`softmaxCrossEntropy: labelSmoothing is ${show(labelSmoothing)}; expected 0 to 1`);
  }
  if (!Number.isInteger(ignoreIndex) || ignoreIndex < -(2 ** 31) || ignoreIndex >= 2 ** 32) {
    throw new ShapeError(
      `softmaxCrossEntropy: ignoreIndex is ${show(ignoreIndex)}; expected an integer from -2^31 to 2^32 - 1`,
    );
  }
}

/** A power of two such that the sum of `rows` losses times it does not overflow. */
const shrinkFor = (rows: number) => 2 ** -Math.ceil(Math.log2(rows));

/** With labels [N], or with probabilities [N, K]. */
function define(probabilities: boolean) {
  return defineOp({
    name: "softmaxCrossEntropy",
    inputs: { logits: "N K", labels: probabilities ? "N K" : "N", weight: "K?" } as {
      logits: "N K";
      labels: "N";
      weight: "K?";
    },
    dtypes: { labels: [probabilities ? "float32" : "uint32"] },
    infer({ logits }, params: Params) {
      checkParams(params);
      const { reduction, labelSmoothing, ignoreIndex } = params;
      const [rows, classes] = logits as readonly [number, number];
      const out: Shape = reduction === "none" ? [rows] : [];
      const sizes = (factor: number) => ({
        ...{ rows, classes, factor, ignored: ignoreIndex >>> 0, nan_bits: NAN_BITS },
      });
      return {
        ...{ out, rows, classes, sizes },
        /** What the losses are multiplied by in a sum, where that is known here. */
        factor: reduction === "mean" ? 1 / rows : 1,
        /** The mean's divisor is known on the GPU alone. */
        divided: reduction === "mean" && !probabilities,
        constants: { SMOOTHING: labelSmoothing, PROBABILITIES: probabilities ? 1 : 0 },
      };
    },
    forward(ctx, { logits, labels, weight }, plan, { reduction }) {
      const { rows, classes, factor, sizes } = plan;
      const out = ctx.empty(plan.out);
      const losses = reduction === "none" ? out : ctx.temp([rows]);
      const statistics = ctx.empty([rows, 4]);
      const { suffix, serves, size, grid } = rowKernel(ctx.gpu, "softmax_cross_entropy", rows, classes);
      const constants = { ...plan.constants, WORKGROUP_SIZE: size, WEIGHTED: weight ? 1 : 0 };
      ctx.run(
        { shader: shaders.softmax_cross_entropy, entry: `forward${suffix}`, constants, serves },
        { loss: losses, saved: statistics, logits, labels, sizes: sizes(1), weight: weight ?? logits },
        grid,
      );
      let divisor: Tensor | null = null;
      if (plan.divided) {
        divisor = ctx.empty([1]);
        ctx.run(
          {
            shader: shaders.softmax_cross_entropy,
            entry: "mean",
            constants: { WORKGROUP_SIZE: meanWorkgroup(ctx.gpu, rows) },
          },
          { loss: out, statistics, losses, total: divisor, sizes: sizes(shrinkFor(rows)) },
          [1],
        );
      } else if (losses !== out) reduceInto(ctx, out, losses, [rows], [true], { scale: factor });
      return { out, saved: { logits, labels, weight, statistics, divisor } };
    },
    backward(ctx, grad, { logits, labels, weight, statistics, divisor }, plan, { reduction }) {
      const { size, grid } = strideGrid(ctx.gpu, plan.rows * plan.classes);
      const constants = {
        ...plan.constants,
        ...{ WORKGROUP_SIZE: size, WEIGHTED: weight ? 1 : 0 },
        ...{ PER_ROW: reduction === "none" ? 1 : 0, DIVIDED: divisor ? 1 : 0 },
      };
      const bindings = {
        ...{ statistics, logits, labels, sizes: plan.sizes(plan.factor), upstream: grad },
        ...{ weight: weight ?? logits, divisor: divisor ?? statistics },
      };
      const shader = shaders.softmax_cross_entropy;
      const dlogits = ctx.needsGrad.logits ? ctx.grad("logits") : null;
      if (dlogits) ctx.run({ shader, entry: "grad_input", constants }, { ...bindings, dlogits }, grid);
      const dtargets = ctx.needsGrad.labels ? ctx.grad("labels") : null;
      if (dtargets) ctx.run({ shader, entry: "grad_targets", constants }, { ...bindings, dtargets }, grid);
      return { logits: dlogits, labels: dtargets, weight: null };
    },
  });
}

/** One workgroup adds up all rows: of as many lanes as there are rows for, as a power of two. */
function meanWorkgroup(gpu: Gpu, rows: number): number {
  return Math.min(largestWorkgroup(gpu), 2 ** Math.ceil(Math.log2(rows)));
}

const ofLabels = define(false);
const ofProbabilities = define(true);

/** One loss for each place of maps of logits. */
function ofMaps(logits: Tensor, labels: Tensor, options: SoftmaxCrossEntropyOptions): Tensor {
  checkTensor("softmaxCrossEntropy", "logits", logits);
  const places = logits.shape.slice(0, -1);
  const isLabels = labels.dtype === "uint32";
  if (!sameShape(labels.shape, isLabels ? places : logits.shape)) {
    throw new ShapeError(
      `softmaxCrossEntropy: logits is ${formatShape(logits.shape)}, labels ${formatShape(labels.shape)} of ${labels.dtype}; expected labels ` +
        `${formatShape(places)} (uint32), or probabilities ${formatShape(logits.shape)} (float32): classes are the last axis`,
    );
  }
  return logits.gpu.scope(() => {
    const rows = reshape(logits, [-1, logits.shape.at(-1)!]);
    const loss = softmaxCrossEntropy(rows, reshape(labels, isLabels ? [-1] : rows.shape), options);
    return options.reduction === "none" ? reshape(loss, places) : loss;
  });
}

/**
 * −Σ_k target_k · log softmax(logits)_k, one loss for each row of logits [N, K], by a log-sum-exp that can't overflow; shape [] for
 * "mean" and "sum", [N] for "none". The targets are labels [N] (uint32), or probabilities [N, K] (float32), which get gradients
 * too. Of maps of logits, [N, H, W, K], each pixel is a row: labels are [N, H, W] then, and so are the losses of "none". PyTorch's
 * `cross_entropy`: weights and smoothing are as there where they meet, and the mean is NaN if all rows are ignored.
 *
 * A label of K or more that is not `ignoreIndex` can't be seen from the host without waiting for the GPU: its loss and gradient are
 * NaN. A class whose target is 0 adds nothing, also where its logit is −∞ (PyTorch: NaN with probabilities).
 * @throws ShapeError if the shapes do not go together, for an unknown reduction or a smoothing outside 0 … 1, or for an
 * `ignoreIndex` beside probabilities.
 */
export function softmaxCrossEntropy(
  logits: Tensor,
  labels: Tensor,
  options: SoftmaxCrossEntropyOptions = {},
): Tensor {
  checkOptions("softmaxCrossEntropy", options, OPTIONS);
  const { reduction = "mean", labelSmoothing = 0, weight = null, ignoreIndex = -100 } = options;
  if (logits instanceof Tensor && labels instanceof Tensor && logits.rank > 2) {
    return ofMaps(logits, labels, options);
  }
  const params = { reduction, labelSmoothing, ignoreIndex };
  if (weight !== null) checkTensor("softmaxCrossEntropy", "weight", weight, { shape: "[K]", orNull: true });
  checkTensor("softmaxCrossEntropy", "labels", labels, { dtypes: ["uint32", "float32"] });
  if (labels.rank === 2 && labels.dtype === "uint32") {
    throw new ShapeError(
      `softmaxCrossEntropy: labels is ${formatShape(labels.shape)} of uint32; expected labels [N] (reshape(labels, [-1])), or probabilities [N, K] (float32)`,
    );
  }
  if (labels.rank !== 2) return ofLabels({ logits, labels, weight }, params);
  if (ignoreIndex >= 0) {
    throw new ShapeError(
      `softmaxCrossEntropy: ignoreIndex is ${show(ignoreIndex)}, labels are probabilities ${formatShape(labels.shape)}; expected labels [N] (uint32) with it`,
    );
  }
  return ofProbabilities({ logits, labels, weight }, params);
}
