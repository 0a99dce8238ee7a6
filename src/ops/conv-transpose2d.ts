// Transposed convolution, by conv2d's kernels with the roles exchanged: y is what conv2d's gradient of its input is, dx is conv2d of
// dy, and dweight is that of conv2d where x takes the place of the upstream gradient.

import { ShapeError } from "../errors.ts";
import { checkOptions, optionNames, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { formatShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type ConvGeometry, pick, sameGeometry } from "./conv2d/choose.ts";
import { checkConv2d } from "./conv2d/conv2d.ts";
import { gradInput, gradWeight, runForward } from "./conv2d/kernels.ts";
import { SliceSums } from "./conv2d/slice-sums.ts";
import { defineOp } from "./define-op.ts";
import { add } from "./elementwise/elementwise.ts";

type Pair = number | readonly [number, number];

/** Options of `convTranspose2d`; names and defaults are PyTorch's. */
export interface ConvTranspose2dOptions {
  /** [C], added to every pixel. Default none. */
  bias?: Tensor | null;
  /** Distance between the pixels of x in the output, for both directions, or [vertical, horizontal]. Default 1. */
  stride?: Pair;
  /** Pixels cut off the output: all sides, [vertical, horizontal], or [top, bottom, left, right]. Default 0. */
  padding?: Pair | readonly [number, number, number, number];
  /** Pixels more at the bottom and right; less than the stride or the dilation. Default 0. */
  outputPadding?: Pair;
  /** Distance between the taps of the filter, for both directions, or [vertical, horizontal]. Default 1. */
  dilation?: Pair;
  /** Channels are split into this many groups, which do not see each other. Default 1. */
  groups?: number;
}

type Params = Omit<ConvTranspose2dOptions, "bias">;

const OPTIONS = optionNames<ConvTranspose2dOptions>({
  ...{ bias: 0, stride: 0, padding: 0, outputPadding: 0, dilation: 0, groups: 0 },
});

/** What the kernels' integers hold, with room for sums. */
const MOST = 2 ** 24;

const both = (value: Pair): readonly [number, number] => (typeof value === "number" ? [value, value] : value);

/** What needs no map to be checked. @throws ShapeError, UsageError */
export function checkConvTranspose2d(op: string, params: Params): void {
  const { padding = 0, outputPadding = 0, stride = 1, dilation = 1, groups } = params;
  if (typeof padding === "string") {
    throw new ShapeError(
      `${op}: padding is ${show(padding)}; expected a non-negative integer, [vertical, horizontal] or [top, bottom, left, right]`,
    );
  }
  checkConv2d(op, { stride, padding, dilation, ...(groups !== undefined && { groups }) });
  const extra: readonly unknown[] = Array.isArray(outputPadding)
    ? outputPadding
    : [outputPadding, outputPadding];
  if (extra.length !== 2 || !extra.every((v) => Number.isSafeInteger(v) && (v as number) >= 0)) {
    throw new ShapeError(
      `${op}: outputPadding is ${show(outputPadding)}; expected a non-negative integer, or [vertical, horizontal]`,
    );
  }
  [0, 1].forEach((axis) => {
    const [step, reach] = [both(stride)[axis]!, both(dilation)[axis]!];
    if ((extra[axis] as number) >= Math.max(step, reach)) {
      throw new ShapeError(
        `${op}: outputPadding is ${show(outputPadding)}, stride ${show(stride)}, dilation ${show(dilation)}; expected less than ` +
          "the stride or the dilation, since nothing else would reach those pixels",
      );
    }
  });
}

interface Dims {
  N: number;
  H: number;
  W: number;
  K: number;
  R: number;
  S: number;
  "C/groups": number;
}

/** The convolution of which this is the transposed one: from the output [N, P, Q, C] to x [N, H, W, K]. */
function inferGeometry(dims: Dims, params: Params): ConvGeometry {
  const op = "convTranspose2d";
  checkConvTranspose2d(op, params);
  const { N, H, W, K, R, S } = dims;
  const { stride = 1, padding = 0, outputPadding = 0, dilation = 1, groups = 1 } = params;
  if (K % groups !== 0) {
    throw new ShapeError(
      `${op}: groups is ${groups}, x has K = ${K} channels; expected groups to divide them`,
    );
  }
  const [strides, dilations, extra] = [both(stride), both(dilation), both(outputPadding)];
  const given = typeof padding === "number" ? [padding] : padding;
  const [top, bottom, left, right] =
    given.length === 4
      ? given
      : given.length === 2
        ? [given[0], given[0], given[1], given[1]]
        : Array(4).fill(given[0]);
  const size = (name: string, axis: 0 | 1, pixels: number, taps: number, cut: number) => {
    const span = dilations[axis] * (taps - 1) + 1;
    const count = (pixels - 1) * strides[axis] + span - cut + extra[axis];
    if (count < 1 || count > MOST) {
      throw new ShapeError(
        `${op}: x has ${name} = ${pixels}, stride ${strides[axis]}, a filter that spans ${span}, and ${cut} of padding: an output of ` +
          `${count} pixels; expected 1 to ${MOST} (${count < 1 ? "pad less, or use a larger filter" : "use smaller strides and dilations"})`,
      );
    }
    // Of one pixel the stride says nothing, of one tap the dilation.
    return [count, pixels === 1 ? 1 : strides[axis], taps === 1 ? 1 : dilations[axis]] as const;
  };
  const [outH, strideH, dilationH] = size("H", 0, H, R, top + bottom);
  const [outW, strideW, dilationW] = size("W", 1, W, S, left + right);
  return sameGeometry({
    ...{ N, H: outH, W: outW, C: dims["C/groups"] * groups, K, R, S, P: H, Q: W },
    ...{ strideH, strideW, top, left, dilationH, dilationW, groups },
  });
}

const convTranspose2dOp = defineOp({
  name: "convTranspose2d",
  inputs: { x: "N H W K", weight: "K R S C/groups" },
  infer(_shapes, params: Params, dims) {
    const geometry = inferGeometry(dims as unknown as Dims, params);
    return { out: [geometry.N, geometry.H, geometry.W, geometry.C], geometry };
  },
  forward(ctx, { x, weight }, { out: shape, geometry }) {
    const out = ctx.empty(shape);
    gradInput(ctx, geometry, pick(ctx.gpu, geometry, "grad_input"), { out, dy: x, weight });
    return { out, saved: { x: ctx.needsGrad.weight ? x : null, weight: ctx.needsGrad.x ? weight : null } };
  },
  backward(ctx, grad, { x, weight }, { geometry }) {
    const dx = weight && ctx.grad("x");
    if (dx) {
      const choice = pick(ctx.gpu, geometry, "forward");
      runForward(ctx, geometry, choice, { out: dx, x: grad, weight, bias: null });
    }
    return {
      x: dx,
      weight:
        x &&
        gradWeight(
          ctx,
          geometry,
          { dw: ctx.grad("weight"), dy: x, x: grad },
          { late: ctx.ending("weight", SliceSums) },
        ),
    };
  },
});

/**
 * 2-D transposed convolution over channels-last maps, as PyTorch's `conv_transpose2d`: each pixel of x adds its filter to the output,
 * `stride` pixels from that of its neighbour. Differentiable in every input for every option.
 *
 * @param x [N, H, W, K]
 * @param weight [K, R, S, C / groups]: what `weightFromOIHW` makes of PyTorch's
 * @returns [N, P, Q, C] with P = (H − 1)·stride − top − bottom + dilation·(R − 1) + outputPadding + 1, and Q likewise
 * @throws ShapeError for shapes and options that do not fit each other, or an output without pixels
 */
export function convTranspose2d(x: Tensor, weight: Tensor, options: ConvTranspose2dOptions = {}): Tensor {
  checkOptions("convTranspose2d", options, OPTIONS);
  const { bias = null, ...params } = options;
  if (bias === null) return convTranspose2dOp({ x, weight }, params);
  checkTensor("convTranspose2d", "x", x);
  checkTensor("convTranspose2d", "bias", bias, { with: ["x", x], shape: "[C]", orNull: true });
  return x.gpu.scope(() => {
    const y = convTranspose2dOp({ x, weight }, params);
    if (bias.size !== y.shape[3]) {
      throw new ShapeError(
        `convTranspose2d: bias is ${formatShape(bias.shape)}, the output ${formatShape(y.shape)}; expected a bias [C] for each of its channels`,
      );
    }
    return add(y, bias);
  });
}
