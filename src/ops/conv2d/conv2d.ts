// Convolution: shapes and parameters here, the choice of kernels in kernels.ts.

import { ShapeError } from "../../errors.ts";
import type { Partials } from "../../fusion/ports.ts";
import type { Gpu } from "../../gpu.ts";
import { checkInteger, checkOptions, optionNames, show } from "../../options.ts";
import type { Work } from "../../tensor/lazy.ts";
import { formatShape, type Shape } from "../../tensor/shape.ts";
import { Tensor } from "../../tensor/tensor.ts";
import { defineOp, inLayer, type OpContext } from "../define-op.ts";
import { binary, sameLayout } from "../elementwise/kernels.ts";
import { nchwHint, oihwHint } from "../nchw.ts";
import { accepts, adds, type ConvChoice, type ConvGeometry, gathers, pick, sameGeometry } from "./choose.ts";
import { gradBias, gradInput, gradWeight, runForward, type Tail } from "./kernels.ts";
import { SliceSums } from "./slice-sums.ts";

/** Options of `conv2d`; names and defaults are PyTorch's. */
export interface Conv2dOptions {
  /** [K], added to every pixel. Default none. */
  bias?: Tensor | null;
  /** Step of the filter in both directions, or [vertical, horizontal]. Default 1. */
  stride?: number | readonly [number, number];
  /**
   * Zeros around the map: one number for all sides, [vertical, horizontal], [top, bottom, left, right], `"valid"`
   * (none), or `"same"` (the output has the size of the input; the odd zero goes to the bottom and right; stride 1
   * only). Default 0.
   */
  padding?: number | readonly [number, number] | readonly [number, number, number, number] | "same" | "valid";
  /** Distance between the taps of the filter, for both directions, or [vertical, horizontal]. Default 1. */
  dilation?: number | readonly [number, number];
  /** Channels are split into this many groups, which do not see each other. `groups = C` is depthwise. Default 1. */
  groups?: number;
}

const OPTIONS = optionNames<Conv2dOptions>({ bias: 0, stride: 0, padding: 0, dilation: 0, groups: 0 });

type ConvParams = Omit<Conv2dOptions, "bias">;

const op = defineOp({
  name: "conv2d",
  inputs: { x: "N H W C", weight: "K R S C/groups", bias: "K?" },
  infer(shapes, params: ConvParams, dims) {
    const geometry = inferConv2d(dims as Dims, params, formatShape(shapes.weight));
    return { out: [geometry.N, geometry.P, geometry.Q, geometry.K], geometry };
  },
  forward(ctx, { x, weight, bias }, { out: shape, geometry }) {
    const saved = { x: ctx.needsGrad.weight ? x : null, weight: ctx.needsGrad.x ? weight : null };
    const choice = pick(ctx.gpu, geometry, "forward");
    if (gathers(choice.variant)) {
      const kernel = { gpu: ctx.gpu, layer: ctx.gpu.layer, geometry, choice, x, weight, bias };
      return { out: Tensor.lazy(ctx.gpu, shape, forwardWork(kernel), "conv2d"), saved };
    }
    const out = ctx.empty(shape);
    runForward(ctx, geometry, choice, { out, x, weight, bias });
    return { out, saved };
  },
  backward(ctx, grad, { x, weight }, { geometry }) {
    const dx = weight && contribute(ctx, geometry, grad, weight);
    const dbias = ctx.needsGrad.bias
      ? gradBias(ctx, geometry, ctx.grad("bias"), grad, ctx.ending("bias", SliceSums))
      : null;
    // Last of all, since whoever gets the sums of dx may ride along.
    const how = { late: ctx.ending("weight", SliceSums), carries: dx?.delivered ?? false };
    const dweight = x && gradWeight(ctx, geometry, { dw: ctx.grad("weight"), dy: grad, x }, how);
    return { x: dx?.grad ?? null, weight: dweight, bias: dbias };
  },
});

/** A forward convolution that has not run. */
interface Forward {
  gpu: Gpu;
  layer: string;
  geometry: ConvGeometry;
  choice: ConvChoice;
  x: Tensor;
  weight: Tensor;
  bias: Tensor | null;
}

/** It waits for what comes after it: sums of what it stores, or something that is added on the way. */
function forwardWork(given: Forward): Work {
  const { gpu, geometry, choice } = given;
  const kernel = held(given);
  return {
    sources: sourcesOf(kernel),
    recompute: false,
    accepts: (part) => accepts(gpu, geometry, "forward", choice.variant, part),
    run: (out, store) => run(kernel, out, { store }),
    plus: (other, self) =>
      adds(gpu, geometry) ? Tensor.lazy(gpu, self.shape, sumWork(kernel, self, other), "add") : null,
  };
}

/** The sum of the convolution's output `self` and `other`; by the convolution, unless its output has come into memory meanwhile. */
function sumWork(given: Forward, self: Tensor, other: Tensor): Work {
  const { gpu, geometry, choice, layer } = given;
  const kernel = held(given);
  const own = self.saved();
  const addend = other.alias();
  return {
    sources: [...sourcesOf(kernel), own, addend],
    recompute: false,
    accepts: (part) => own.isPending && accepts(gpu, geometry, "forward", choice.variant, part),
    run(out, store) {
      if (own.isPending) return run(kernel, out, { store, addend });
      inLayer(gpu, "add", layer, (ctx) => binary(ctx, "add", out, own, addend, sameLayout(out.shape)));
      return null;
    },
  };
}

function run(
  { gpu, layer, geometry, choice, ...tensors }: Forward,
  out: Tensor,
  tail: Tail,
): Partials | null {
  return inLayer(gpu, "conv2d", layer, (ctx) => runForward(ctx, geometry, choice, { out, ...tensors }, tail));
}

/** With handles of its own. */
function held(kernel: Forward): Forward {
  const { x, weight, bias } = kernel;
  return { ...kernel, x: x.alias(), weight: weight.alias(), bias: bias?.alias() ?? null };
}

function sourcesOf({ x, weight, bias }: Forward): Tensor[] {
  return bias ? [x, weight, bias] : [x, weight];
}

/**
 * dx. If this is the last contribution to it, the others are added on the way, and the gradient goes through x's sink; `delivered`: it
 * has, and the sink's op will get its sums.
 */
function contribute(
  ctx: OpContext<{ x: "N H W C" }>,
  geometry: ConvGeometry,
  grad: Tensor,
  weight: Tensor,
): { grad: Tensor; delivered: boolean } {
  const { gpu } = ctx;
  const choice = pick(gpu, geometry, "grad_input");
  const contribution = gathers(choice.variant) ? ctx.contribution("x") : null;
  const others = contribution?.take() ?? null;
  const out = others ?? ctx.grad("x");
  const sink = contribution?.sink ?? null;
  const store = sink && accepts(gpu, geometry, "grad_input", choice.variant, sink.part) ? sink : null;
  // The sums are the tape's.
  const kept = { gpu, temp: ctx.temp, run: ctx.run, empty: (shape: Shape) => gpu.keep(gpu.empty(shape)) };
  const sums = gradInput(
    kept,
    geometry,
    choice,
    { out, dy: grad, weight },
    { joins: others !== null, store },
  );
  if (sums) contribution!.deliver(sums);
  return { grad: out, delivered: sums !== null };
}

/**
 * 2-D convolution (cross-correlation) over channels-last maps, as PyTorch's `conv2d`; differentiable in every input for
 * every stride, padding, dilation and group count.
 *
 * @param x [N, H, W, C]
 * @param weight [K, R, S, C / groups]
 * @returns [N, P, Q, K] with P = ⌊(H + top + bottom − dilation·(R − 1) − 1) / stride⌋ + 1, and Q likewise
 * @throws ShapeError for shapes and options that do not fit each other, or an output without pixels
 */
export function conv2d(x: Tensor, weight: Tensor, options: Conv2dOptions = {}): Tensor {
  checkOptions("conv2d", options, OPTIONS);
  const { bias = null, ...params } = options;
  return op({ x, weight, bias }, params);
}

type Dims = {
  N: number;
  H: number;
  W: number;
  C: number;
  K: number;
  R: number;
  S: number;
  "C/groups": number;
};

interface Step {
  stride: number;
  dilation: number;
}

/** Checks the options against the sizes, and works out padding and output size. */
export function inferConv2d(dims: Dims, params: ConvParams, weightShape: string): ConvGeometry {
  const { N, H, W, C, K, R, S } = dims;
  const { groups = 1, stride = 1, padding = 0, dilation = 1 } = params;
  const strides = pair("conv2d", "stride", stride);
  const dilations = pair("conv2d", "dilation", dilation);
  const [rows, columns] = [0, 1].map((i) => ({ stride: strides[i]!, dilation: dilations[i]! })) as [
    Step,
    Step,
  ];
  if (!Number.isInteger(groups) || groups < 1) {
    throw new ShapeError(
      `conv2d: groups is ${show(groups)}; expected a positive integer that divides C = ${C} and K = ${K}`,
    );
  }
  const perGroup = dims["C/groups"];
  /** What in these shapes looks like PyTorch's. */
  const hint = () => {
    const weight = [K, R, S, perGroup];
    const of = (channels: number) => nchwHint("x", [N, H, W, C], channels);
    return (
      of(perGroup * groups) ||
      oihwHint(weight, C / groups) ||
      (H === R * groups ? `${of(R * groups)}${oihwHint(weight, H / groups)}` : "")
    );
  };
  if (C % groups !== 0 || K % groups !== 0) {
    throw new ShapeError(
      `conv2d: groups is ${groups}, x has C = ${C} channels and weight K = ${K}; expected groups to divide both${hint()}`,
    );
  }
  if (perGroup * groups !== C) {
    throw new ShapeError(
      `conv2d: weight has ${perGroup} input channels, x has ${C} in ${groups} group${groups > 1 ? "s" : ""}; ` +
        `expected weight [K, R, S, C / groups] with C / groups = ${C / groups}, got ${weightShape}${hint()}`,
    );
  }
  const [top, bottom, left, right] = sides("conv2d", padding, {
    strides,
    spans: [rows.dilation * (R - 1), columns.dilation * (S - 1)],
  });
  const size = (
    name: string,
    input: number,
    padding: number,
    dilation: number,
    taps: number,
    stride: number,
  ) => {
    const room = input + padding - dilation * (taps - 1) - 1;
    if (room < 0) {
      throw new ShapeError(
        `conv2d: the filter spans ${dilation * (taps - 1) + 1} pixels, x has ${name} = ${input} and ${padding} of ` +
          `padding; expected the filter to fit into the padded map (pad more, or use a smaller filter or dilation)`,
      );
    }
    // A step past the map, and the distance between the taps of one, make no difference: kept within the kernels' integers.
    return [Math.floor(room / stride) + 1, Math.min(stride, room + 1), taps === 1 ? 1 : dilation] as const;
  };
  const [P, strideH, dilationH] = size("H", H, top + bottom, rows.dilation, R, rows.stride);
  const [Q, strideW, dilationW] = size("W", W, left + right, columns.dilation, S, columns.stride);
  return sameGeometry({
    N,
    H,
    W,
    C,
    K,
    R,
    S,
    P,
    Q,
    strideH,
    strideW,
    top,
    left,
    dilationH,
    dilationW,
    groups,
  });
}

/** What needs no map to be checked. @throws ShapeError, UsageError */
export function checkConv2d(
  op: string,
  { stride = 1, padding = 0, dilation = 1, groups = 1 }: ConvParams,
): void {
  const strides = pair(op, "stride", stride);
  pair(op, "dilation", dilation);
  sides(op, padding, { strides, spans: [0, 0] });
  checkInteger(op, "groups", groups, 1);
}

function pair(op: string, name: string, value: unknown): [number, number] {
  const values: readonly unknown[] = Array.isArray(value) ? value : [value, value];
  if (values.length !== 2 || !values.every((v) => Number.isSafeInteger(v) && (v as number) >= 1)) {
    throw new ShapeError(
      `${op}: ${name} is ${show(value)}; expected a positive integer, or two as [vertical, horizontal]`,
    );
  }
  return values as [number, number];
}

function sides(
  op: string,
  padding: NonNullable<Conv2dOptions["padding"]>,
  { strides, spans }: { strides: [number, number]; spans: [number, number] },
): [number, number, number, number] {
  if (padding === "valid") return [0, 0, 0, 0];
  if (padding === "same") {
    if (strides.some((stride) => stride !== 1)) {
      throw new ShapeError(
        `${op}: padding is "same" with stride ${show(strides)}; "same" needs stride 1, give the padding in numbers`,
      );
    }
    const [vertical, horizontal] = spans;
    const top = Math.floor(vertical / 2);
    const left = Math.floor(horizontal / 2);
    return [top, vertical - top, left, horizontal - left];
  }
  const values =
    typeof padding === "number" ? [padding] : Array.isArray(padding) ? [...padding] : [Number.NaN];
  if (![1, 2, 4].includes(values.length) || !values.every((v) => Number.isSafeInteger(v) && v >= 0)) {
    throw new ShapeError(
      `${op}: padding is ${show(padding)}; expected a non-negative integer, [vertical, horizontal], [top, bottom, left, right], "same" or "valid"`,
    );
  }
  if (values.length === 1) return [values[0]!, values[0]!, values[0]!, values[0]!];
  if (values.length === 2) return [values[0]!, values[0]!, values[1]!, values[1]!];
  return values as [number, number, number, number];
}
