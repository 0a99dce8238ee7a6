// Convolution for a device, an encoder and buffers of the caller's own.

import { ShapeError } from "../../errors.ts";
import type { Gpu } from "../../gpu.ts";
import { checkOptions, optionNames } from "../../options.ts";
import { checkShape, formatShape, type Shape } from "../../tensor/shape.ts";
import { type ConvGeometry, pick } from "../conv2d/choose.ts";
import { type Conv2dOptions, inferConv2d } from "../conv2d/conv2d.ts";
import { gradBias, gradInput, gradWeight, runForward } from "../conv2d/kernels.ts";
import {
  Buffers,
  type EncodeBuffer,
  type EncodeContext,
  type EncodeOptions,
  type EncodeTarget,
  encodedBytes,
  encodeInto,
  hostOf,
} from "./encoding.ts";

type ConvSettings = Omit<Conv2dOptions, "bias">;

/** Options of the functions that encode a convolution or its gradients: `conv2d`'s, and the device. */
export interface EncodeConv2dOptions extends EncodeOptions, ConvSettings {}

/** Shapes of a convolution, the same for forward and gradients. */
export interface Conv2dShapes {
  /** [N, H, W, C] */
  x: Shape;
  /** [K, R, S, C / groups] */
  weight: Shape;
}

/** Buffers of `encodeConv2d`. */
export interface Conv2dBuffers {
  /** Read. */
  x: EncodeBuffer;
  /** Read. */
  weight: EncodeBuffer;
  /** [K], read; 0 where there is none. */
  bias?: EncodeBuffer | null;
  /** Written: [N, P, Q, K]. */
  y: EncodeBuffer;
}

/** Buffers of `encodeConv2dGradInput`. */
export interface Conv2dGradInputBuffers {
  /** The gradient of y. */
  dy: EncodeBuffer;
  weight: EncodeBuffer;
  /** Written. */
  dx: EncodeBuffer;
}

/** Buffers of `encodeConv2dGradWeight`. */
export interface Conv2dGradWeightBuffers {
  x: EncodeBuffer;
  /** The gradient of y. */
  dy: EncodeBuffer;
  /** Written. */
  dweight: EncodeBuffer;
  /** [K], written if it is given. */
  dbias?: EncodeBuffer | null;
}

const SETTINGS = optionNames<ConvSettings>({ stride: 0, padding: 0, dilation: 0, groups: 0 });
const OPTIONS = optionNames<EncodeConv2dOptions>({
  device: 0,
  stride: 0,
  padding: 0,
  dilation: 0,
  groups: 0,
});
const SHAPES = optionNames<Conv2dShapes>({ x: 0, weight: 0 });
const FORWARD = optionNames<Conv2dBuffers>({ x: 0, weight: 0, bias: 0, y: 0 });
const GRAD_INPUT = optionNames<Conv2dGradInputBuffers>({ dy: 0, weight: 0, dx: 0 });
const GRAD_WEIGHT = optionNames<Conv2dGradWeightBuffers>({ x: 0, dy: 0, dweight: 0, dbias: 0 });

/** @throws ShapeError, UsageError */
function geometryOf(op: string, shapes: Conv2dShapes, settings: ConvSettings): ConvGeometry {
  checkOptions(op, shapes, SHAPES, "shapes");
  for (const [name, letters] of [
    ["x", "[N, H, W, C]"],
    ["weight", "[K, R, S, C / groups]"],
  ] as const) {
    checkShape(op, shapes[name], `shapes.${name}`);
    if (shapes[name].length !== 4) {
      throw new ShapeError(
        `${op}: shapes.${name} has rank ${shapes[name].length}, got ${formatShape(shapes[name])}; expected ${letters}`,
      );
    }
  }
  const [N, H, W, C] = shapes.x as [number, number, number, number];
  const [K, R, S, perGroup] = shapes.weight as [number, number, number, number];
  return inferConv2d({ N, H, W, C, K, R, S, "C/groups": perGroup }, settings, formatShape(shapes.weight));
}

const outputOf = ({ N, P, Q, K }: ConvGeometry): Shape => [N, P, Q, K];

/** Checks a call, and encodes its kernels. */
function encode<Name extends string>(
  op: string,
  encoder: EncodeTarget,
  { given, names }: { given: Readonly<Partial<Record<Name, EncodeBuffer | null>>>; names: readonly string[] },
  shapes: Conv2dShapes,
  options: EncodeConv2dOptions,
  body: (ctx: EncodeContext, geometry: ConvGeometry, bound: Buffers<Name>, gpu: Gpu) => void,
): void {
  checkOptions(op, given, names, "buffers");
  checkOptions(op, options, OPTIONS);
  const { device, ...settings } = options;
  const gpu = hostOf(op, device);
  const geometry = geometryOf(op, shapes, settings);
  encodeInto(op, encoder, gpu, (ctx) => body(ctx, geometry, new Buffers(op, gpu, given), gpu));
}

/**
 * Encodes `y = conv2d(x, weight) + bias`, by the kernels and the choice among them that `conv2d` has. Nothing is submitted, and no
 * element is read on the host.
 * @throws ShapeError, UsageError for buffers, shapes and options that do not fit each other; DeviceLostError
 */
export function encodeConv2d(
  encoder: EncodeTarget,
  buffers: Conv2dBuffers,
  shapes: Conv2dShapes,
  options: EncodeConv2dOptions,
): void {
  encode<keyof Conv2dBuffers>(
    ...(["encodeConv2d", encoder, { given: buffers, names: FORWARD }, shapes, options] as const),
    (ctx, geometry, bound, gpu) => {
      const x = bound.input("x", shapes.x);
      const weight = bound.input("weight", shapes.weight);
      const bias = bound.inputOrNull("bias", [geometry.K]);
      const out = bound.output("y", outputOf(geometry));
      bound.checkApart();
      runForward(ctx, geometry, pick(gpu, geometry, "forward"), { out, x, weight, bias });
    },
  );
}

/**
 * Encodes the gradient of x, of the convolution that `shapes` and `options` are of.
 * @throws ShapeError, UsageError for buffers, shapes and options that do not fit each other; DeviceLostError
 */
export function encodeConv2dGradInput(
  encoder: EncodeTarget,
  buffers: Conv2dGradInputBuffers,
  shapes: Conv2dShapes,
  options: EncodeConv2dOptions,
): void {
  encode<keyof Conv2dGradInputBuffers>(
    ...(["encodeConv2dGradInput", encoder, { given: buffers, names: GRAD_INPUT }, shapes, options] as const),
    (ctx, geometry, bound, gpu) => {
      const dy = bound.input("dy", outputOf(geometry));
      const weight = bound.input("weight", shapes.weight);
      const out = bound.output("dx", shapes.x);
      bound.checkApart();
      gradInput(ctx, geometry, pick(gpu, geometry, "grad_input"), { out, dy, weight });
    },
  );
}

/**
 * Encodes the gradients of weight and bias, of the convolution that `shapes` and `options` are of.
 * @throws ShapeError, UsageError for buffers, shapes and options that do not fit each other; DeviceLostError
 */
export function encodeConv2dGradWeight(
  encoder: EncodeTarget,
  buffers: Conv2dGradWeightBuffers,
  shapes: Conv2dShapes,
  options: EncodeConv2dOptions,
): void {
  encode<keyof Conv2dGradWeightBuffers>(
    ...([
      "encodeConv2dGradWeight",
      encoder,
      { given: buffers, names: GRAD_WEIGHT },
      shapes,
      options,
    ] as const),
    (ctx, geometry, bound) => {
      const x = bound.input("x", shapes.x);
      const dy = bound.input("dy", outputOf(geometry));
      const dweight = bound.output("dweight", shapes.weight);
      const dbias = bound.outputOrNull("dbias", [geometry.K]);
      bound.checkApart();
      gradWeight(ctx, geometry, { dw: dweight, dy, x });
      if (dbias) gradBias(ctx, geometry, dbias, dy);
    },
  );
}

/** Bytes of the buffers of `encodeConv2d` and its gradients, and the shape of what comes out. */
export interface Conv2dBytes {
  /** [N, P, Q, K] */
  output: Shape;
  /** x and its gradient. */
  x: number;
  weight: number;
  bias: number;
  /** y and its gradient. */
  y: number;
}

/**
 * How many bytes the buffers of `encodeConv2d` and its gradients have at least.
 * @throws ShapeError, UsageError for shapes and options that do not fit each other
 */
export function conv2dBytes(shapes: Conv2dShapes, options: ConvSettings = {}): Conv2dBytes {
  checkOptions("conv2dBytes", options, SETTINGS);
  const geometry = geometryOf("conv2dBytes", shapes, options);
  const output = outputOf(geometry);
  return {
    output,
    x: encodedBytes(shapes.x),
    weight: encodedBytes(shapes.weight),
    bias: encodedBytes([geometry.K]),
    y: encodedBytes(output),
  };
}
