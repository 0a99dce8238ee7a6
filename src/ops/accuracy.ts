import * as shaders from "../generated/shaders.ts";
import { checkTensor } from "../tensor/check.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";
import { strideGrid } from "./grid.ts";
import { reduceInto } from "./reduce/kernels.ts";

const accuracyOp = defineOp({
  name: "accuracy",
  inputs: { logits: "N K", labels: "N" },
  dtypes: { labels: ["uint32"] },
  infer: ({ logits }) => ({ out: [1], rows: logits[0]!, classes: logits[1]! }),
  forward(ctx, { logits, labels }, { out: shape, rows, classes }) {
    const out = ctx.empty(shape);
    const correct = ctx.temp([rows]);
    const { size, grid } = strideGrid(ctx.gpu, rows);
    ctx.run(
      { shader: shaders.accuracy, entry: "forward", constants: { WORKGROUP_SIZE: size } },
      { correct, sizes: { rows, classes }, logits, labels },
      grid,
    );
    reduceInto(ctx, out, correct, [rows], [true]);
    return { out, saved: {} };
  },
});

/**
 * How many rows of logits [N, K] have their largest value at the label in [N] (uint32): a count, float32 [1], that
 * can be summed over batches on the GPU. Among equal logits the first is the largest; rows with NaN, and labels of K
 * or more, count as wrong. Not differentiable.
 * @throws ShapeError if the shapes do not go together.
 */
export function accuracy(logits: Tensor, labels: Tensor): Tensor {
  checkTensor("accuracy", "logits", logits, { shape: "[N, K]" });
  return accuracyOp({ logits: logits.requiresGrad ? logits.detach() : logits, labels }, null);
}
