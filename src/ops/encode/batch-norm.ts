// Batch-norm for a device, an encoder and buffers of the caller's own.

import { ShapeError } from "../../errors.ts";
import { isRectifier, isSome } from "../../fusion/ports.ts";
import type { Gpu } from "../../gpu.ts";
import { checkChoice, checkFlag, checkOptions, optionNames, show } from "../../options.ts";
import { checkShape, type Shape } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { Activation } from "../activations.ts";
import { batchNormParams, inferBatchNorm } from "../batch-norm/batch-norm.ts";
import { batchNormLayout, maskWords } from "../batch-norm/choose.ts";
import { batchNormKernels } from "../batch-norm/kernels.ts";
import {
  Buffers,
  type EncodeBuffer,
  type EncodeOptions,
  type EncodeTarget,
  encodedBytes,
  encodeInto,
  hostOf,
} from "./encoding.ts";

/** Options of `encodeBatchNorm` and `encodeBatchNormBackward`: the same object for both. Names and defaults are PyTorch's. */
export interface EncodeBatchNormOptions extends EncodeOptions {
  /** True: the batch's own statistics, and the running ones are moved, if there are any. False: the running statistics. */
  training: boolean;
  /** Share of the new batch in the running statistics; null for the average over all batches. Default 0.1. */
  momentum?: number | null;
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Applied last, in the same pass. Default "none". */
  activation?: Activation;
  /** Something is added before the activation. Default false. */
  residual?: boolean;
  /** Of x, y, the residual and their gradients; everything per channel is float32. Default "float32". */
  dtype?: "float32" | "float16";
}

/** Buffers of `encodeBatchNorm`. Those per channel hold [C]. */
export interface BatchNormBuffers {
  /** Read. */
  x: EncodeBuffer;
  /** Written. */
  y: EncodeBuffer;
  /** Read; 1 where there is none. */
  gamma?: EncodeBuffer | null;
  /** Read; 0 where there is none. */
  beta?: EncodeBuffer | null;
  /** Read and written in training, read otherwise. */
  runningMean?: EncodeBuffer | null;
  /** The unbiased variance; likewise. */
  runningVar?: EncodeBuffer | null;
  /** Batches so far, one float32: counted up in training. */
  numBatchesTracked?: EncodeBuffer | null;
  /** x's shape, with `residual: true`. */
  residual?: EncodeBuffer | null;
  /** Written, for backward: `saved` bytes of `batchNormBytes`. */
  saved?: EncodeBuffer | null;
  /** Written, for backward of a ReLU with a residual: `mask` bytes of `batchNormBytes`. */
  mask?: EncodeBuffer | null;
}

/** Buffers of `encodeBatchNormBackward`. */
export interface BatchNormGradientBuffers {
  /** As the forward had it. */
  x: EncodeBuffer;
  /** The gradient of y. */
  dy: EncodeBuffer;
  /** What the forward left. */
  saved: EncodeBuffer;
  /** What the forward left, with a residual and a ReLU. */
  mask?: EncodeBuffer | null;
  /** As the forward had it, with a residual and another activation. */
  residual?: EncodeBuffer | null;
  /** Written, each if it is given. */
  dx?: EncodeBuffer | null;
  /** [C] */
  dgamma?: EncodeBuffer | null;
  /** [C] */
  dbeta?: EncodeBuffer | null;
  /** The gradient of the residual, with an activation; without one it is dy. */
  dresidual?: EncodeBuffer | null;
}

const OPTIONS = optionNames<EncodeBatchNormOptions>({
  ...{ device: 0, training: 0, momentum: 0, eps: 0, activation: 0, residual: 0, dtype: 0 },
});
const BUFFERS = optionNames<BatchNormBuffers>({
  ...{ x: 0, y: 0, gamma: 0, beta: 0, runningMean: 0, runningVar: 0, numBatchesTracked: 0 },
  ...{ residual: 0, saved: 0, mask: 0 },
});
const GRADIENTS = optionNames<BatchNormGradientBuffers>({
  ...{ x: 0, dy: 0, saved: 0, mask: 0, residual: 0, dx: 0, dgamma: 0, dbeta: 0, dresidual: 0 },
});
const ELEMENTS = ["float32", "float16"] as const;

type Given<B> = Readonly<Partial<B>>;

/**
 * What every call works out first. `tracked`: the tensors of the running statistics. `alone`: one value per channel will do, too.
 * @throws ShapeError, UsageError
 */
function plan(op: string, shape: Shape, options: Settings, tracked: RunningTensors, alone: boolean) {
  const { training, momentum, eps, activation } = options;
  const params = { ...batchNormParams({ training, momentum, eps, activation }), ...tracked };
  // The rule on values per channel is there for the batch's own statistics.
  const statistics = alone ? [4, shape.at(-1) ?? 1] : null;
  const shapes = { x: shape, gamma: null, beta: null, residual: null, statistics };
  const { count, channels, activation: part } = inferBatchNorm(op, shapes, params);
  return { ...params, activation: part, count, channels };
}

type Settings = Omit<EncodeBatchNormOptions, "device">;
type RunningTensors = Partial<Record<"runningMean" | "runningVar" | "numBatchesTracked", Tensor | null>>;

function checkCall(
  op: string,
  buffers: unknown,
  names: readonly string[],
  shape: unknown,
  options: unknown,
): Gpu {
  checkOptions(op, buffers, names, "buffers");
  checkShape(op, shape);
  checkOptions(op, options, OPTIONS);
  const { device, training, residual = false, dtype = "float32" } = options as EncodeBatchNormOptions;
  checkFlag(op, "training", training);
  checkFlag(op, "residual", residual);
  checkChoice(op, "dtype", dtype, ELEMENTS);
  return hostOf(op, device);
}

/** @throws ShapeError unless the buffer is given where it is `needed`, and only there. */
function checkGiven(op: string, buffers: object, name: string, needed: boolean, when: string): void {
  const value = (buffers as Record<string, unknown>)[name] ?? null;
  if ((value !== null) === needed) return;
  throw new ShapeError(
    `${op}: ${name} is ${value === null ? "missing" : show(value)}; expected it ${when}, and only then`,
  );
}

/**
 * Encodes `y = act((x − mean) / √(var + eps) · γ + β [+ residual])` over every axis of `shape` but the last, by the kernels and
 * the choice among them that `batchNorm` has. Nothing is submitted, and no element is read on the host.
 * @param shape [N, H, W, C] or [N, C], or any other rank with channels last
 * @throws ShapeError, UsageError for buffers, shapes and options that do not fit each other; DeviceLostError
 */
export function encodeBatchNorm(
  encoder: EncodeTarget,
  buffers: BatchNormBuffers,
  shape: Shape,
  options: EncodeBatchNormOptions,
): void {
  const op = "encodeBatchNorm";
  const gpu = checkCall(op, buffers, BUFFERS, shape, options);
  const { training, residual = false, dtype = "float32" } = options;
  encodeInto(op, encoder, gpu, (ctx) => {
    const bound = new Buffers(op, gpu, buffers as Given<BatchNormBuffers>);
    const channel = [shape.at(-1) ?? 1];
    const tracked = <T extends "runningMean" | "runningVar">(name: T) =>
      training ? bound.outputOrNull(name, channel) : bound.inputOrNull(name, channel);
    const running = {
      runningMean: tracked("runningMean"),
      runningVar: tracked("runningVar"),
      numBatchesTracked: training ? bound.outputOrNull("numBatchesTracked", [1]) : null,
    };
    const all = plan(op, shape, options, running, false);
    const { activation } = all;
    const kernels = batchNormKernels(gpu, all.count, all.channels, dtype);
    checkGiven(op, buffers, "residual", residual, "with residual: true");
    const wantsMask = residual && isRectifier(activation) && buffers.saved != null;
    checkGiven(op, buffers, "mask", wantsMask, "with a residual, a ReLU and saved");
    const x = bound.input("x", shape, dtype);
    const params = {
      ...all,
      gamma: bound.inputOrNull("gamma", channel),
      beta: bound.inputOrNull("beta", channel),
      residual: bound.inputOrNull("residual", shape, dtype),
      mask: bound.outputOrNull("mask", [kernels.maskWords], "uint32"),
    };
    const y = bound.output("y", shape, dtype);
    const numbers = [5, kernels.width];
    const saved = bound.outputOrNull("saved", numbers) ?? ctx.temp(numbers);
    bound.checkApart();
    if (training) kernels.train(ctx, y, x, saved, params, kernels.choose("forward", false));
    else {
      kernels.infer(ctx, saved, params);
      kernels.apply(ctx, y, x, saved, params, null, kernels.choose("forward", false));
    }
  });
}

/**
 * Encodes the gradients of `encodeBatchNorm`, called with the same `shape` and `options`: those that have a buffer.
 * @throws ShapeError, UsageError for buffers, shapes and options that do not fit each other; DeviceLostError
 */
export function encodeBatchNormBackward(
  encoder: EncodeTarget,
  buffers: BatchNormGradientBuffers,
  shape: Shape,
  options: EncodeBatchNormOptions,
): void {
  const op = "encodeBatchNormBackward";
  const gpu = checkCall(op, buffers, GRADIENTS, shape, options);
  const { training, residual = false, dtype = "float32" } = options;
  encodeInto(op, encoder, gpu, (ctx) => {
    const bound = new Buffers(op, gpu, buffers as Given<BatchNormGradientBuffers>);
    // The running statistics are in `saved`, as far as they count.
    const settings = { ...options, training: true };
    const { activation, count, channels } = plan(op, shape, settings, {}, !training);
    const kernels = batchNormKernels(gpu, count, channels, dtype);
    const joined = residual && isSome(activation);
    checkGiven(op, buffers, "mask", joined && isRectifier(activation), "with a residual and a ReLU");
    checkGiven(
      ...([op, buffers, "residual", joined && !isRectifier(activation)] as const),
      "with a residual and another activation than a ReLU",
    );
    if (!joined)
      checkGiven(op, buffers, "dresidual", false, "with a residual and an activation (without one it is dy)");
    const x = bound.input("x", shape, dtype);
    const dy = bound.input("dy", shape, dtype);
    const saved = bound.input("saved", [5, kernels.width]);
    const dresidual = bound.outputOrNull("dresidual", shape, dtype);
    const params = {
      activation,
      mask: bound.inputOrNull("mask", [kernels.maskWords], "uint32"),
      residual: bound.inputOrNull("residual", shape, dtype),
      dx: bound.outputOrNull("dx", shape, dtype),
      dgamma: bound.outputOrNull("dgamma", [channels]) ?? ctx.temp([channels]),
      dbeta: bound.outputOrNull("dbeta", [channels]) ?? ctx.temp([channels]),
      dz: joined ? (dresidual ?? ctx.temp(shape, dtype)) : dy,
      batchStatistics: training,
    };
    bound.checkApart();
    kernels.backward(ctx, x, dy, saved, params, kernels.choose("backward", false));
  });
}

/** Bytes of the buffers of `encodeBatchNorm` and its backward. */
export interface BatchNormBytes {
  /** x, y, the residual, and their gradients. */
  x: number;
  /** What holds [C]. */
  channel: number;
  saved: number;
  mask: number;
}

const BYTES_OPTIONS = optionNames<Pick<EncodeBatchNormOptions, "dtype">>({ dtype: 0 });

/**
 * How many bytes the buffers of `encodeBatchNorm` and its backward have at least.
 * @throws ShapeError, UsageError for a shape of rank 1, or a type that is none
 */
export function batchNormBytes(
  shape: Shape,
  options: Pick<EncodeBatchNormOptions, "dtype"> = {},
): BatchNormBytes {
  const op = "batchNormBytes";
  checkShape(op, shape);
  checkOptions(op, options, BYTES_OPTIONS);
  const { dtype = "float32" } = options;
  checkChoice(op, "dtype", dtype, ELEMENTS);
  const { count, channels } = plan(op, shape, { training: true }, {}, true);
  const layout = batchNormLayout(count, channels);
  return {
    x: encodedBytes(shape, dtype),
    channel: encodedBytes([channels]),
    saved: encodedBytes([5, 4 * layout.width4]),
    mask: encodedBytes([maskWords(layout)], "uint32"),
  };
}
