import { ShapeError } from "../../errors.ts";
import * as shaders from "../../generated/shaders.ts";
import { checkChoice, checkOptions, optionNames, show } from "../../options.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { defineOp } from "../define-op.ts";
import { strideGrid } from "../grid.ts";
import { reduceInto } from "../reduce/kernels.ts";
import { rowKernel } from "./softmax.ts";

/** Options of `softmaxCrossEntropy`. */
export interface SoftmaxCrossEntropyOptions {
  /** What becomes of the N losses: their mean (default), their sum, or themselves. */
  reduction?: "mean" | "sum" | "none";
  /** ε of Szegedy et al. (2016): the target is 1 − ε + ε/K for the label, ε/K for the others. Default 0. */
  labelSmoothing?: number;
}

const OPTIONS = optionNames<SoftmaxCrossEntropyOptions>({ reduction: 0, labelSmoothing: 0 });

const NAN_BITS = 0x7fc00000;

const softmaxCrossEntropyOp = defineOp({
  name: "softmaxCrossEntropy",
  inputs: { logits: "N K", labels: "N" },
  dtypes: { labels: ["uint32"] },
  infer({ logits }, { reduction, labelSmoothing }: Required<SoftmaxCrossEntropyOptions>) {
    checkChoice("softmaxCrossEntropy", "reduction", reduction, ["mean", "sum", "none"], ShapeError);
    if (typeof labelSmoothing !== "number" || !(labelSmoothing >= 0 && labelSmoothing <= 1)) {
      throw new ShapeError(`softmaxCrossEntropy: labelSmoothing is ${show(labelSmoothing)}; expected 0 to 1`);
    }
    const [rows, classes] = logits as readonly [number, number];
    const factor = reduction === "mean" ? 1 / rows : 1;
    const sizes = { rows, classes, factor, nan_bits: NAN_BITS };
    return { out: reduction === "none" ? [rows] : [], rows, classes, factor, sizes };
  },
  forward(
    ctx,
    { logits, labels },
    { out: shape, rows, classes, factor, sizes },
    { reduction, labelSmoothing },
  ) {
    const out = ctx.empty(shape);
    const losses = reduction === "none" ? out : ctx.temp([rows]);
    const statistics = ctx.empty([rows, 2]);
    const { suffix, serves, size, grid } = rowKernel(ctx.gpu, "softmax_cross_entropy", rows, classes);
    const constants = { WORKGROUP_SIZE: size, SMOOTHING: labelSmoothing };
    ctx.run(
      { shader: shaders.softmax_cross_entropy, entry: `forward${suffix}`, constants, serves },
      { loss: losses, saved: statistics, logits, labels, sizes },
      grid,
    );
    if (losses !== out) reduceInto(ctx, out, losses, [rows], [true], { scale: factor });
    return { out, saved: { logits, labels, statistics } };
  },
  backward(
    ctx,
    grad,
    { logits, labels, statistics },
    { rows, classes, sizes },
    { reduction, labelSmoothing },
  ) {
    const dlogits = ctx.grad("logits");
    const { size, grid } = strideGrid(ctx.gpu, rows * classes);
    const constants = {
      WORKGROUP_SIZE: size,
      SMOOTHING: labelSmoothing,
      PER_ROW: reduction === "none" ? 1 : 0,
    };
    ctx.run(
      { shader: shaders.softmax_cross_entropy, entry: "grad_input", constants },
      { dlogits, statistics, logits, labels, sizes, upstream: grad },
      grid,
    );
    return { logits: dlogits, labels: null };
  },
});

/**
 * −log softmax(logits)[label], one loss for each row of logits [N, K] with its label in [N] (uint32), by a
 * log-sum-exp that can't overflow. Shape [] for "mean" and "sum", [N] for "none".
 *
 * A label of K or more can't be seen from the host without waiting for the GPU: its loss and gradient are NaN.
 * @throws ShapeError if the shapes do not go together, or for an unknown reduction or a smoothing outside 0 … 1.
 */
export function softmaxCrossEntropy(
  logits: Tensor,
  labels: Tensor,
  options: SoftmaxCrossEntropyOptions = {},
): Tensor {
  checkOptions("softmaxCrossEntropy", options, OPTIONS);
  const { reduction = "mean", labelSmoothing = 0 } = options;
  return softmaxCrossEntropyOp({ logits, labels }, { reduction, labelSmoothing });
}
