// Looks into a network while it runs: activations, gradients, the loss along the gradient. Everything is computed on the
// GPU from the very passes that training makes; weights and running statistics are left as they were.

import { withoutTracking } from "../autograd/checkpoint.ts";
import { noGrad } from "../autograd/tape.ts";
import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { Conv2d } from "../nn/layers.ts";
import { Module } from "../nn/module.ts";
import { type Forward, wrapForward } from "../nn/module-state.ts";
import { inferConv2d } from "../ops/conv2d/conv2d.ts";
import { defineOp } from "../ops/define-op.ts";
import { strideGrid } from "../ops/grid.ts";
import { mean, sum, variance } from "../ops/reduce/reduce.ts";
import { softmaxCrossEntropy } from "../ops/softmax/softmax-cross-entropy.ts";
import {
  checkArray,
  checkFunction,
  checkInstance,
  checkInteger,
  checkNumber,
  checkOptions,
  isPlain,
  show,
} from "../options.ts";
import { ANY, checkTensor } from "../tensor/check.ts";
import { formatShape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  argmaxCounts,
  describe,
  type Histogram,
  histogram,
  rowCosines,
  runProbe,
  squaredDistance,
  type TensorStatistics,
} from "./statistics.ts";

/** Runs the network once and returns the loss, a tensor of one element. */
export type LossFunction = () => Tensor;

/** Which modules of a network to look at, by their name in it (`blocks.3.first.conv`) and their class. */
export type LayerFilter = (name: string, module: Module) => boolean;

/** Mean cross-entropy of `model` on a batch: images [N, H, W, C], labels [N] of uint32. */
export function crossEntropy(model: Module, images: Tensor, labels: Tensor): LossFunction {
  checkInstance("crossEntropy", "model", model, Module);
  checkTensor("crossEntropy", "images", images, { dtypes: ANY });
  checkTensor("crossEntropy", "labels", labels, {
    dtypes: ["uint32"],
    with: ["images", images],
    shape: "[N]",
  });
  return () => softmaxCrossEntropy(model.forward(images), labels);
}

const tapOp = defineOp({
  name: "tap",
  inputs: { x: "..." },
  infer: ({ x }, _params: { onGrad: (grad: Tensor) => void }) => ({ out: x }),
  forward(ctx, { x }) {
    const out = x.alias();
    ctx.gpu.track(out);
    return { out, saved: {} };
  },
  backward(_ctx, grad, _saved, _plan, { onGrad }) {
    onGrad(grad);
    return { x: grad.alias() };
  },
});

/**
 * `x` itself, with a view of its gradient: `onGrad` gets dLoss/dx during `backward`. The gradient is freed afterwards;
 * `gpu.keep(grad.alias())` holds on to it.
 */
export function tap(x: Tensor, onGrad: (grad: Tensor) => void): Tensor {
  checkFunction("tap", "onGrad", onGrad);
  return tapOp({ x }, { onGrad });
}

/** Runs `fn` with `around` in place of the forward of each module that `filter` takes. */
function instrument<T>(
  model: Module,
  filter: LayerFilter,
  around: (name: string, module: Module, forward: Forward) => Forward,
  fn: () => T,
): T {
  const undo: (() => void)[] = [];
  try {
    for (const [name, module] of model.modules()) {
      if (filter(name, module)) undo.push(wrapForward(module, (forward) => around(name, module, forward)));
    }
    return fn();
  } finally {
    for (const restore of undo) restore();
  }
}

/** Every convolution, linear layer and batch-norm. */
const weightLayers: LayerFilter = (_name, module) => "weight" in module;

// --- activations ---------------------------------------------------------------------------------------

/** Moments of one layer's output, over all axes but the channels. */
export interface LayerMoments {
  name: string;
  /** Class of the layer: `Conv2d`, `BatchNorm2d`, … */
  kind: string;
  /** [C] */
  mean: Float32Array;
  /** [C], biased. */
  variance: Float32Array;
}

/**
 * Mean and variance of each channel of each layer's output, in the order in which the layers run. Layers that fuse a
 * residual or an activation into their pass (`BatchNorm2d`) are measured before these.
 *
 * @param x what the model takes, [N, H, W, C] for images
 * @param options.layers which modules to measure; default those with weights
 */
export async function activations(
  model: Module,
  x: Tensor,
  options: { layers?: LayerFilter } = {},
): Promise<LayerMoments[]> {
  checkInstance("activations", "model", model, Module);
  checkTensor("activations", "x", x, { dtypes: ANY });
  checkOptions("activations", options, ["layers"]);
  const { layers = weightLayers } = options;
  checkFunction("activations", "layers", layers);
  const { gpu } = x;
  const found: { name: string; kind: string; mean: Tensor; variance: Tensor }[] = [];
  const around = (name: string, module: Module, forward: Forward): Forward => {
    return (input, ...rest) => {
      // Without the fused tail; with the same batch statistics.
      const out = forward(input);
      const axes = out.shape.map((_, axis) => axis).slice(0, -1);
      const average = mean(out, axes);
      found.push({
        name,
        kind: module.constructor.name,
        mean: gpu.keep(average),
        variance: gpu.keep(variance(out, axes, { correction: 0, mean: average })),
      });
      if (rest.length === 0) return out;
      out.dispose();
      return forward(input, ...rest);
    };
  };
  try {
    noGrad(() =>
      gpu.scope(() => {
        withoutTracking(() => instrument(model, layers, around, () => model.forward(x)));
      }),
    );
    const moments: LayerMoments[] = [];
    for (const layer of found) {
      moments.push({
        name: layer.name,
        kind: layer.kind,
        mean: (await layer.mean.read()) as Float32Array,
        variance: (await layer.variance.read()) as Float32Array,
      });
    }
    return moments;
  } finally {
    for (const layer of found) {
      layer.mean.dispose();
      layer.variance.dispose();
    }
  }
}

// --- gradients -----------------------------------------------------------------------------------------

/** The Gpu of the model's parameters. @throws ShapeError, UsageError for wrong arguments. */
function gpuOf(op: string, model: Module, loss: LossFunction): Gpu {
  checkInstance(op, "model", model, Module);
  checkFunction(op, "loss", loss);
  const [parameter] = model.parameters();
  if (!parameter) throw new ShapeError(`${op}: the model has no parameters; expected at least one`);
  return parameter.gpu;
}

function checkedLoss(op: string, loss: LossFunction): Tensor {
  const value: unknown = loss();
  checkTensor(op, "what loss() returned", value);
  if (value.size !== 1) {
    throw new ShapeError(
      `${op}: loss() returned ${formatShape(value.shape)}; expected one element, such as a mean`,
    );
  }
  return value;
}

/** One forward and backward: gradients lie on the parameters when `fn` runs, and are dropped afterwards. */
async function withGradients<T>(
  op: string,
  model: Module,
  loss: LossFunction,
  fn: (lossValue: number) => Promise<T>,
): Promise<T> {
  const gpu = gpuOf(op, model, loss);
  model.zeroGrad();
  try {
    const value = gpu.scope(() =>
      withoutTracking(() => {
        const result = checkedLoss(op, loss);
        result.backward();
        return result;
      }),
    );
    const number = await value.item();
    value.dispose();
    return await fn(number);
  } finally {
    model.zeroGrad();
  }
}

/** The gradient of one parameter. */
export interface GradientStatistics extends TensorStatistics {
  /** Of the parameter: `blocks.3.first.conv.weight`. */
  name: string;
  /** Over ± the largest magnitude; null for a gradient of zeros, or one that is not finite. */
  histogram: Histogram | null;
}

/**
 * Histogram, moments and tails of the gradients of parameters.
 *
 * @param options.parameters which ones, by name; default all
 * @param options.bins of the histograms; default 101, so that one bin is centred on 0
 */
export async function gradients(
  model: Module,
  loss: LossFunction,
  options: { parameters?: (name: string) => boolean; bins?: number } = {},
): Promise<GradientStatistics[]> {
  checkOptions("gradients", options, ["parameters", "bins"]);
  const { parameters = () => true, bins = 101 } = options;
  checkFunction("gradients", "parameters", parameters);
  checkInteger("gradients", "bins", bins, 1, 2 ** 24);
  return withGradients("gradients", model, loss, async () => {
    const all: GradientStatistics[] = [];
    for (const [name, parameter] of model.namedParameters()) {
      if (!parameter.grad || !parameters(name)) continue;
      const statistics = await describe(parameter.grad);
      const limit = Math.max(Math.abs(statistics.min), Math.abs(statistics.max)) * (1 + 1e-6);
      const counts = limit > 0 ? await histogram(parameter.grad, { low: -limit, high: limit, bins }) : null;
      all.push({ name, ...statistics, histogram: counts });
    }
    return all;
  });
}

/** The gradient with respect to the logits. */
export interface LogitGradients {
  loss: number;
  /** dLoss/dLogits, [images][classes], of the mean loss. */
  gradients: number[][];
  /** Images for which each class has the largest logit. */
  predicted: number[];
  /** Share of images whose predicted class is the most common one: 1 where all get the same. */
  modalShare: number;
  /** Mean cosine between the gradients of two different images. */
  meanCosine: number;
}

/** How `model` treats the images of a batch alike: gradients with respect to its logits. */
export async function logitGradients(model: Module, images: Tensor, labels: Tensor): Promise<LogitGradients> {
  checkInstance("logitGradients", "model", model, Module);
  checkTensor("logitGradients", "images", images, { dtypes: ANY });
  checkTensor("logitGradients", "labels", labels, {
    dtypes: ["uint32"],
    with: ["images", images],
    shape: "[N]",
  });
  const { gpu } = images;
  const logits = noGrad(() => gpu.scope(() => withoutTracking(() => model.forward(images))));
  const held: Tensor[] = [logits];
  try {
    const leaf = gpu.keep(logits.detach());
    held.push(leaf);
    leaf.requiresGrad = true;
    const loss = softmaxCrossEntropy(leaf, labels);
    held.push(loss);
    loss.backward();
    const grad = leaf.grad!;
    const cosines = rowCosines(grad);
    held.push(cosines);
    const [rows, columns] = logits.shape as [number, number];
    const values = await grad.read();
    const predicted = await argmaxCounts(logits);
    const total = noGrad(() => sum(cosines));
    held.push(total);
    return {
      loss: await loss.item(),
      gradients: Array.from({ length: rows }, (_, i) =>
        Array.from(values.subarray(i * columns, (i + 1) * columns)),
      ),
      predicted,
      modalShare: Math.max(...predicted) / rows,
      // Each row with itself gives 1.
      meanCosine: ((await total.item()) - rows) / (rows * (rows - 1)),
    };
  } finally {
    for (const tensor of held) tensor.dispose();
  }
}

// --- along the gradient --------------------------------------------------------------------------------

/**
 * The weights w − α·∇L(w) of a network for any α, from one gradient taken at w. Between `open` and `close` the network
 * holds whatever `moveTo` set last; `close` puts w back.
 */
export class GradientLine {
  private constructor(
    private readonly gpu: Gpu,
    private readonly parameters: readonly { tensor: Tensor; offset: number }[],
    private readonly origin: Tensor,
    /** ∇L(w), all parameters in one vector, in the order of `model.parameters()`. */
    readonly gradient: Tensor,
    /** L(w). */
    readonly loss: number,
  ) {}

  /** Takes the gradient at the network's present weights. */
  static async open(model: Module, loss: LossFunction): Promise<GradientLine> {
    return withGradients("GradientLine.open", model, loss, async (value) => {
      const tensors = model.parameters().filter((parameter) => parameter.grad);
      const { gpu } = tensors[0]!;
      let offset = 0;
      const parameters = tensors.map((tensor) => {
        const entry = { tensor, offset };
        offset += tensor.size;
        return entry;
      });
      const origin = gpu.keep(gpu.empty([offset]));
      const gradient = gpu.keep(gpu.empty([offset]));
      for (const { tensor, offset: at } of parameters) {
        const of_pack = { count: tensor.size, offset: at };
        runProbe(gpu, "pack", tensor.size, { out: origin, x: tensor, of_pack });
        runProbe(gpu, "pack", tensor.size, { out: gradient, x: tensor.grad!, of_pack });
      }
      return new GradientLine(gpu, parameters, origin, gradient, value);
    });
  }

  /** Sets the network's weights to w − α·∇L(w). */
  moveTo(alpha: number): void {
    checkNumber("GradientLine.moveTo", "alpha", alpha);
    for (const { tensor, offset } of this.parameters) {
      runProbe(this.gpu, "step", tensor.size, {
        out: tensor,
        x: this.origin,
        of_step: { count: tensor.size, offset, alpha },
        direction: this.gradient,
      });
    }
  }

  /** The network's weights as they are now, in one vector; the caller disposes it. */
  weights(): Tensor {
    const packed = this.gpu.keep(this.gpu.empty(this.origin.shape));
    for (const { tensor, offset } of this.parameters) {
      const of_pack = { count: tensor.size, offset };
      runProbe(this.gpu, "pack", tensor.size, { out: packed, x: tensor, of_pack });
    }
    return packed;
  }

  /** Puts the weights back and frees what the line holds. */
  close(): void {
    this.moveTo(0);
    this.origin.dispose();
    this.gradient.dispose();
  }
}

function checkAlphas(op: string, alphas: readonly number[]): void {
  checkArray(op, "alphas", alphas, "numbers");
  for (const [i, alpha] of alphas.entries()) checkNumber(op, `alphas[${i}]`, alpha);
}

/** The loss along the gradient: what `probe.landscape` gives. */
export interface Landscape {
  /** L(w). */
  loss: number;
  alphas: number[];
  /** L(w − α·∇L(w)) for each α; may be NaN or infinite. */
  losses: number[];
}

/** The loss after one gradient step of each size, on the batch that gave the gradient. */
export async function landscape(
  model: Module,
  loss: LossFunction,
  alphas: readonly number[],
): Promise<Landscape> {
  gpuOf("landscape", model, loss);
  checkAlphas("landscape", alphas);
  const line = await GradientLine.open(model, loss);
  try {
    const losses: number[] = [];
    for (const alpha of alphas) {
      line.moveTo(alpha);
      losses.push(await lossAt(model, loss));
    }
    return { loss: line.loss, alphas: [...alphas], losses };
  } finally {
    line.close();
  }
}

/** The loss at the network's present weights, without a gradient. */
export async function lossAt(model: Module, loss: LossFunction): Promise<number> {
  const gpu = gpuOf("lossAt", model, loss);
  const value = noGrad(() => gpu.scope(() => withoutTracking(() => checkedLoss("lossAt", loss))));
  try {
    return await value.item();
  } finally {
    value.dispose();
  }
}

/** How much gradients and steps of independent batches differ: what `probe.gradientNoise` gives. */
export interface StepNoise {
  /** ½ E‖g − g′‖² for gradients of two independent batches: the variance of the gradient, summed over parameters. */
  gradient: number;
  /** The same of the change of the weights, Δw = −α·g as it was written to them, for each α. */
  steps: { alpha: number; noise: number }[];
}

/**
 * How much a gradient step depends on which batch it is taken on. Batches of a pair that share no image, drawn without
 * replacement, make ½‖g − g′‖² an unbiased estimate of S²/|B|, S² the variance of single images' gradients: no mean
 * gradient is needed, and nothing cancels.
 */
export async function gradientNoise(
  model: Module,
  pairs: Iterable<readonly [LossFunction, LossFunction]>,
  alphas: readonly number[] = [],
): Promise<StepNoise> {
  checkInstance("gradientNoise", "model", model, Module);
  if (
    typeof (pairs as Partial<typeof pairs> | null)?.[Symbol.iterator] !== "function" ||
    typeof pairs === "string"
  ) {
    throw new ShapeError(`gradientNoise: pairs is ${show(pairs)}; expected pairs of loss functions`);
  }
  checkAlphas("gradientNoise", alphas);
  let gradient = 0;
  let count = 0;
  const steps = alphas.map((alpha) => ({ alpha, noise: 0 }));
  for (const pair of pairs) {
    if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((loss) => typeof loss === "function")) {
      throw new ShapeError(`gradientNoise: a pair is ${show(pair)}; expected two loss functions`);
    }
    const [lossA, lossB] = pair as [LossFunction, LossFunction];
    const lines: GradientLine[] = [];
    try {
      for (const loss of [lossA, lossB]) lines.push(await GradientLine.open(model, loss));
      const [a, b] = lines as [GradientLine, GradientLine];
      gradient += (await squaredDistance(a.gradient, b.gradient)) / 2;
      for (const step of steps) {
        a.moveTo(step.alpha);
        const afterA = a.weights();
        b.moveTo(step.alpha);
        const afterB = b.weights();
        step.noise += (await squaredDistance(afterA, afterB)) / 2;
        afterA.dispose();
        afterB.dispose();
      }
    } finally {
      for (const line of lines) line.close();
    }
    count += 1;
  }
  return { gradient: gradient / count, steps: steps.map((step) => ({ ...step, noise: step.noise / count })) };
}

// --- alignment -----------------------------------------------------------------------------------------

/** How far the summands d of one kernel's gradient Σ d (over images and pixels) cancel. */
export interface LayerAlignment {
  /** Of the convolution: `blocks.3.first.conv`. */
  name: string;
  /** Mean over the kernel's entries of Σ|d|. */
  magnitude: number;
  /** Mean over the kernel's entries of |Σd|. */
  total: number;
  /** magnitude / total: 1 where all summands of an entry have one sign, about √n for n independent ones. */
  ratio: number;
  /** Summands per entry. */
  terms: number;
}

/**
 * Σ|d| and |Σd| per entry of the kernel gradients of convolutions, d = dLoss/dOutput · input per image and pixel
 * (Bjorck et al. 2018, § 3.3 and Table 1).
 */
export async function alignment(
  model: Module,
  loss: LossFunction,
  options: { layers?: LayerFilter } = {},
): Promise<LayerAlignment[]> {
  checkOptions("alignment", options, ["layers"]);
  const { layers = (_name, module) => module instanceof Conv2d } = options;
  checkFunction("alignment", "layers", layers);
  const gpu = gpuOf("alignment", model, loss);
  const found: { name: string; terms: number; magnitude: Tensor; total: Tensor }[] = [];
  const inputs: Tensor[] = [];
  const around = (name: string, module: Module, forward: Forward): Forward => {
    if (!(module instanceof Conv2d)) {
      throw new ShapeError(`alignment: ${name} is a ${module.constructor.name}; expected a Conv2d`);
    }
    return (input) => {
      const x = gpu.keep(input.detach());
      inputs.push(x);
      const raw = forward(input);
      const out = tap(raw, (dy) => {
        const sums = alignmentSums(module, x, dy);
        found.push({
          name,
          terms: sums.terms,
          magnitude: gpu.keep(sums.magnitude),
          total: gpu.keep(sums.total),
        });
        x.dispose();
      });
      raw.dispose();
      return out;
    };
  };
  try {
    // Forward and backward both run before this first waits: the layers are as they were by then.
    await instrument(model, layers, around, () => withGradients("alignment", model, loss, async () => {}));
    const results: LayerAlignment[] = [];
    for (const { name, terms, magnitude, total } of found) {
      const a = average(await magnitude.read());
      const b = average((await total.read()).map(Math.abs));
      results.push({ name, magnitude: a, total: b, ratio: a / b, terms });
    }
    // Backward visits the last layer first.
    return results.reverse();
  } finally {
    for (const x of inputs) x.dispose();
    for (const layer of found) {
      layer.magnitude.dispose();
      layer.total.dispose();
    }
  }
}

/**
 * Σ|d| and Σd of each entry of `conv`'s kernel gradient, both [K, R, S, C / groups], with the number of summands.
 *
 * @param x the convolution's input [N, H, W, C]
 * @param dy the gradient of its output [N, P, Q, K]
 */
export function alignmentSums(
  conv: Pick<Conv2d, "weight" | "options">,
  x: Tensor,
  dy: Tensor,
): { magnitude: Tensor; total: Tensor; terms: number } {
  if (conv === null || typeof conv !== "object") {
    throw new ShapeError(`alignmentSums: conv is ${show(conv)}; expected a Conv2d`);
  }
  const { weight, options } = conv;
  checkTensor("alignmentSums", "conv.weight", weight, { shape: "[K, R, S, C]" });
  if (!isPlain(options)) {
    throw new ShapeError(`alignmentSums: conv.options is ${show(options)}; expected the options of a Conv2d`);
  }
  checkTensor("alignmentSums", "x", x, { with: ["conv.weight", weight], shape: "[N, H, W, C]" });
  checkTensor("alignmentSums", "dy", dy, { with: ["x", x], shape: "[N, P, Q, K]" });
  const { gpu } = x;
  const [N, H, W, C] = x.shape as [number, number, number, number];
  const [K, R, S, depth] = weight.shape as [number, number, number, number];
  const g = inferConv2d({ N, H, W, C, K, R, S, "C/groups": depth }, options, formatShape(weight.shape));
  if (formatShape(dy.shape) !== formatShape([N, g.P, g.Q, K])) {
    throw new ShapeError(
      `alignmentSums: dy is ${formatShape(dy.shape)}, the convolution's output ${formatShape([N, g.P, g.Q, K])}; expected equal shapes`,
    );
  }
  const entries = N * sizeOf(weight.shape);
  const { size, grid } = strideGrid(gpu, entries);
  const constants = {
    WORKGROUP_SIZE: size,
    ...{ H, W, C, K, R, S, P: g.P, Q: g.Q },
    ...{ STRIDE_H: g.strideH, STRIDE_W: g.strideW, DILATION_H: g.dilationH, DILATION_W: g.dilationW },
    ...{ TOP: g.top, LEFT: g.left, GROUPS: g.groups },
  };
  return noGrad(() =>
    gpu.scope(() => {
      const perImage = [N, ...weight.shape];
      const magnitude = gpu.empty(perImage);
      const total = gpu.empty(perImage);
      gpu.run(
        { shader: shaders.alignment, entry: "per_image", constants },
        { magnitude, total, x, dy, batch: { N } },
        grid,
        "probe alignment",
      );
      return { magnitude: sum(magnitude, [0]), total: sum(total, [0]), terms: N * g.P * g.Q };
    }),
  );
}

function average(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i += 1) total += values[i]!;
  return total / values.length;
}

/** Every probe under one name: `probe.activations(model, x)`. */
export const probe = {
  activations,
  gradients,
  logitGradients,
  landscape,
  gradientNoise,
  alignment,
  tap,
  describe,
  histogram,
};
