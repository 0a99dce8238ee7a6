import { ShapeError, UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import { checkChoice, checkFlag, checkOptions, optionNames, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { formatShape, type Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp } from "./define-op.ts";
import { strideGrid } from "./grid.ts";

type Pair = number | readonly [number, number];

/** Options of `interpolate`; names and defaults are PyTorch's. Either `size` or `scaleFactor` has to be given. */
export interface InterpolateOptions {
  /** Height and width of the output: one number for both, or [height, width]. */
  size?: Pair;
  /** How many times the size of x, rounded down: one number for both directions, or [vertical, horizontal]. */
  scaleFactor?: Pair;
  /** The nearest pixel (above and to the left), or a mixture of the four around. Default nearest. */
  mode?: "nearest" | "bilinear";
  /** Bilinear: the centres of the corner pixels stay where they are, rather than the corners of the map. Default false. */
  alignCorners?: boolean;
}

const OPTIONS = optionNames<InterpolateOptions>({ size: 0, scaleFactor: 0, mode: 0, alignCorners: 0 });

/** What the kernel's coordinates hold. */
const MOST = 2 ** 22;

/** @throws ShapeError, UsageError for options that fit no map at all */
export function checkInterpolate(op: string, options: InterpolateOptions): void {
  checkOptions(op, options, OPTIONS);
  const { size, scaleFactor, mode = "nearest", alignCorners = false } = options;
  if ((size === undefined) === (scaleFactor === undefined)) {
    const which =
      size === undefined ? "neither size nor scaleFactor is given" : "size and scaleFactor are given";
    throw new UsageError(
      `${op}: ${which} (scaleFactor is ${show(scaleFactor)}); expected one of them, not both`,
    );
  }
  const both = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : [value, value]);
  const fits = (value: unknown, is: (v: number) => boolean) =>
    both(value).length === 2 && both(value).every((v) => typeof v === "number" && is(v));
  if (size !== undefined && !fits(size, (v) => Number.isInteger(v) && v >= 1 && v <= MOST)) {
    throw new ShapeError(
      `${op}: size is ${show(size)}; expected an integer from 1 to ${MOST}, or [height, width]`,
    );
  }
  if (scaleFactor !== undefined && !fits(scaleFactor, (v) => v >= 1 / MOST && v <= MOST)) {
    throw new ShapeError(
      `${op}: scaleFactor is ${show(scaleFactor)}; expected a number from 2^-22 to 2^22, or [vertical, horizontal]`,
    );
  }
  checkChoice(op, "mode", mode, ["nearest", "bilinear"], ShapeError);
  checkFlag(op, "alignCorners", alignCorners);
  if (alignCorners && mode === "nearest") {
    throw new ShapeError(`${op}: alignCorners is true, mode "nearest"; expected mode "bilinear" with it`);
  }
}

const pair = (value: Pair): readonly [number, number] => (typeof value === "number" ? [value, value] : value);

const interpolateOp = defineOp({
  name: "interpolate",
  inputs: { x: "N H W C" },
  infer({ x }, { size, scaleFactor, mode = "nearest", alignCorners = false }: InterpolateOptions) {
    const [n, height, width, channels] = x as readonly [number, number, number, number];
    const along = (axis: 0 | 1, from: number) => {
      const factor = scaleFactor === undefined ? null : pair(scaleFactor)[axis];
      const to = factor === null ? pair(size!)[axis] : Math.floor(from * factor);
      if (to < 1 || to > MOST || from > MOST) {
        throw new ShapeError(
          `interpolate: x is ${formatShape(x)}, scaleFactor ${show(scaleFactor)}: ${to} pixels of ${from}; expected 1 to ${MOST} of both`,
        );
      }
      // As PyTorch: by the factor that was given, which the sizes only have to the nearest pixel.
      const scale = alignCorners
        ? to > 1
          ? (from - 1) / (to - 1)
          : 0
        : factor === null
          ? from / to
          : 1 / factor;
      return [to, Math.fround(scale)] as const;
    };
    const [rows, vertical] = along(0, height);
    const [columns, horizontal] = along(1, width);
    const out: Shape = [n, rows, columns, channels];
    return {
      out,
      constants: { BILINEAR: mode === "bilinear" ? 1 : 0, ALIGN_CORNERS: alignCorners ? 1 : 0 },
      sizes: (elements: number) => ({
        ...{ elements, channels, map: [height, width] as const, out: [rows, columns] as const },
        scale: [vertical, horizontal] as const,
      }),
    };
  },
  forward(ctx, { x }, { out: shape, constants, sizes }) {
    const y = ctx.empty(shape);
    const { size, grid } = strideGrid(ctx.gpu, y.size);
    const kernel = { shader: shaders.interpolate, constants: { ...constants, WORKGROUP_SIZE: size } };
    ctx.run({ ...kernel, entry: "forward" }, { y, x, sizes: sizes(y.size) }, grid);
    return { out: y, saved: {} };
  },
  backward(ctx, dy, _saved, { constants, sizes }) {
    const dx = ctx.grad("x");
    const { size, grid } = strideGrid(ctx.gpu, dx.size);
    const kernel = { shader: shaders.interpolate, constants: { ...constants, WORKGROUP_SIZE: size } };
    ctx.run({ ...kernel, entry: "grad" }, { dx, dy, sizes: sizes(dx.size) }, grid);
    return { x: dx };
  },
});

/**
 * x [N, H, W, C] at another size, [N, P, Q, C], as PyTorch's `interpolate` with mode "nearest" or "bilinear"; larger or smaller.
 * @throws ShapeError, UsageError for options that do not fit each other, or an output without pixels
 */
export function interpolate(x: Tensor, options: InterpolateOptions): Tensor {
  checkTensor("interpolate", "x", x, { shape: "[N, H, W, C]" });
  checkInterpolate("interpolate", options);
  return interpolateOp({ x }, options);
}
