import type { BufferRange } from "../device/buffers.ts";
import { UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import { checkOptions, optionNames, show } from "../options.ts";
import { checkTensor, FLOATS } from "../tensor/check.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { BLOCK_BYTES, checkIterable, gradientRuns, gridOf, rangeOf, walkOf } from "./packed.ts";

/** Options of `clipGradNorm`. */
export interface ClipGradNormOptions {
  /** A power above 0, or Infinity for the largest magnitude. Default 2. */
  normType?: number;
}

const OPTIONS = optionNames<ClipGradNormOptions>({ normType: 0 });

/** Gradients that one dispatch goes over. */
interface Piece {
  grad: BufferRange | Tensor;
  size: ReturnType<typeof walkOf>;
  /** The table of blocks, where the gradients are packed. */
  blocks: Tensor | null;
  elements: number;
}

function pieces(op: string, parameters: Iterable<Tensor>): { list: Piece[]; first: Tensor } {
  checkIterable(op, parameters);
  const all = [...new Set(parameters)];
  if (all.length === 0) throw new UsageError(`${op}: got no parameters; expected at least one tensor`);
  for (const [i, parameter] of all.entries()) {
    const rule = { dtypes: FLOATS, ...(i > 0 ? { with: ["parameter 0", all[0]!] as [string, Tensor] } : {}) };
    checkTensor(op, `parameter ${i}`, parameter, rule);
  }
  const first = all[0]!;
  const list = gradientRuns(op, all).map(({ slots, grad }): Piece => {
    const first_block = slots.length > 0 ? slots[0]!.byteOffset / BLOCK_BYTES : 0;
    if (grad) {
      const size = walkOf(first.gpu, Math.ceil(grad.byteLength / 16), first_block);
      return { grad, size, blocks: null, elements: grad.size };
    }
    const { gradients, blocks } = slots[0]!.packed;
    const range = rangeOf(gradients, slots);
    return { grad: range, size: walkOf(first.gpu, range.byteLength / 16, first_block), blocks, elements: 0 };
  });
  return { list, first };
}

/**
 * Scales the gradients of `parameters` so that their norm, taken as one vector, is at most `maxNorm`, as PyTorch's
 * `clip_grad_norm_`: by maxNorm/(norm + 1e-6) where that is below 1. Nothing is read back, so it may be captured. Call it between
 * `backward` and `optimizer.step()`.
 * @returns the norm before clipping, float32 []; NaN or infinity there tells of such gradients, which become NaN
 * @throws UsageError for a norm or power out of range; ShapeError for what is no tensor
 */
export function clipGradNorm(
  parameters: Iterable<Tensor>,
  maxNorm: number,
  options: ClipGradNormOptions = {},
): Tensor {
  checkOptions("clipGradNorm", options, OPTIONS);
  const { normType = 2 } = options;
  checkMaximum("clipGradNorm", "maxNorm", maxNorm);
  if (typeof normType !== "number" || !(normType > 0)) {
    throw new UsageError(
      `clipGradNorm: normType is ${show(normType)}; expected a number above 0, or Infinity for the largest magnitude`,
    );
  }
  const { list, first } = pieces("clipGradNorm", parameters);
  const { gpu } = first;
  const terms = { 1: "ABSOLUTE", 2: "SQUARE", Infinity: "LARGEST" } as const;
  const TERM = terms[normType as keyof typeof terms] ?? "POWER";
  const constants = { TERM };
  const lanes = list.map(({ size }) => gridOf(gpu, size.vec4s)[0] * 64);
  const count = lanes.reduce((sum, own) => sum + own, 0);
  const shader = shaders.clip;
  const common = { count, power: Number.isFinite(normType) ? normType : 0, maximum: maxNorm };
  const norm = gpu.empty([]);
  const factor = gpu.keep(gpu.empty([1]));
  const partials = gpu.keep(gpu.empty([Math.max(1, count)]));
  let at = 0;
  for (const [i, { grad, size, blocks, elements }] of list.entries()) {
    const grid = gridOf(gpu, size.vec4s);
    const bindings = { partials, grad, size, sums: { ...common, first: at, elements } };
    at += lanes[i]!;
    if (blocks) gpu.run({ shader, entry: "packed_terms", constants }, { ...bindings, blocks }, grid, "clip");
    else gpu.run({ shader, entry: "loose_terms", constants }, bindings, grid, "clip");
  }
  const sums = { ...common, first: 0, elements: 0 };
  gpu.run({ shader, entry: "total", constants }, { norm, factor, all_partials: partials, sums }, [1], "clip");
  for (const { grad, size } of list) {
    const bindings = { clipped: grad, by: factor, size };
    gpu.run({ shader, entry: "rescale" }, bindings, gridOf(gpu, size.vec4s), "clip");
  }
  factor.dispose();
  partials.dispose();
  return norm;
}

/**
 * Limits each element of the gradients of `parameters` to −clipValue … clipValue, as PyTorch's `clip_grad_value_`. May be captured.
 * @throws UsageError for a value out of range; ShapeError for what is no tensor
 */
export function clipGradValue(parameters: Iterable<Tensor>, clipValue: number): void {
  checkMaximum("clipGradValue", "clipValue", clipValue);
  const { list, first } = pieces("clipGradValue", parameters);
  const sums = { first: 0, elements: 0, count: 0, power: 0, maximum: clipValue };
  for (const { grad, size } of list) {
    const spec = { shader: shaders.clip, entry: "limit" } as const;
    first.gpu.run(spec, { clipped: grad, size, sums }, gridOf(first.gpu, size.vec4s), "clip");
  }
}

function checkMaximum(op: string, name: string, value: unknown): void {
  if (!Number.isFinite(value) || (value as number) < 0) {
    throw new UsageError(`${op}: ${name} is ${show(value)}; expected a finite number of at least 0`);
  }
}
