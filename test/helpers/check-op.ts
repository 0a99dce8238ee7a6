// The test every op passes: float64 reference, finite differences of that reference, fused against composed,
// every variant, and buffers back to where they were.

import { expect } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import type { Shape } from "../../src/tensor/shape.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { sampled, testGpu } from "./gpu.ts";
import { generator, normals, relativeError } from "./numbers.ts";

type Arrays = Record<string, Float64Array>;

export interface OpCase {
  label: string;
  /** Shape of each differentiable float32 input, or shape with data; normal numbers otherwise. */
  inputs: Record<string, Shape | { shape: Shape; data: Float64Array }>;
  run(inputs: Record<string, Tensor>): Tensor;
  /** The op in float64, by naive loops (test/reference). */
  reference(inputs: Arrays): Float64Array;
  /** Its gradients in float64, for inputs too large for finite differences alone; itself checked by them. */
  referenceGrad?(inputs: Arrays, grad: Float64Array): Arrays;
  /** The same from public, unfused ops. */
  composed?(inputs: Record<string, Tensor>): Tensor;
  /** Kernel → variants to force, one after the other. */
  variants?: Record<string, readonly string[]>;
  /** ‖out − ref‖ / ‖ref‖; default 1e-5 forward, 1e-4 backward. */
  tolerance?: { forward?: number; backward?: number; composed?: number };
  /** False for ops without a backward. */
  differentiable?: boolean;
  seed?: number;
}

const FULL_DIFFERENCES = 400; // input elements up to which every partial derivative is checked
const SAMPLED_DIFFERENCES = 60;

export async function checkOp(cases: OpCase | readonly OpCase[]): Promise<void> {
  const gpu = await testGpu();
  const numbered = [...([cases].flat() as OpCase[]).entries()];
  for (const [index, oneCase] of sampled(numbered)) await checkCase(gpu, oneCase, index);
}

async function checkCase(gpu: Gpu, c: OpCase, index: number): Promise<void> {
  const seed = c.seed ?? 1000 + index;
  const names = Object.keys(c.inputs);
  const shapes: Record<string, Shape> = {};
  const arrays: Arrays = {};
  names.forEach((name, i) => {
    const input = c.inputs[name]!;
    shapes[name] = "shape" in input ? input.shape : input;
    arrays[name] =
      "shape" in input
        ? Float64Array.from(input.data, Math.fround)
        : normals(sizeOf(shapes[name]!), seed + 17 * i);
  });
  const expected = c.reference(arrays);
  const grad = normals(expected.length, seed + 999);
  const gradients = c.differentiable === false ? null : referenceGradients(c, names, arrays, grad, seed);

  const before = gpu.stats.liveBuffers;
  const compare = async (run: OpCase["run"], label: string, forward: number, backward: number) => {
    const tensors = Object.fromEntries(
      names.map((name) => [
        name,
        gpu.tensor(arrays[name]!, shapes[name]!, { requiresGrad: c.differentiable !== false }),
      ]),
    );
    const out = gpu.scope(() => run(tensors));
    expect(relativeError(await out.read(), expected), `${label}: output`).toBeLessThanOrEqual(forward);
    if (gradients) {
      const upstream = gpu.tensor(grad, out.shape);
      out.backward(upstream);
      upstream.dispose();
      for (const name of names) {
        const { at, values } = gradients[name]!;
        const actual = await tensors[name]!.grad!.read();
        expect(actual.length, `${label}: size of d${name}`).toBe(arrays[name]!.length);
        const picked = at ? Float64Array.from(at, (i) => actual[i]!) : actual;
        expect(relativeError(picked, values), `${label}: d${name}`).toBeLessThanOrEqual(backward);
      }
    }
    out.dispose();
    for (const name of names) tensors[name]!.dispose();
    expect(gpu.stats.liveBuffers, `${label}: live buffers`).toBe(before);
  };

  const forward = c.tolerance?.forward ?? 1e-5;
  const backward = c.tolerance?.backward ?? 1e-4;
  await compare(c.run, c.label, forward, backward);
  for (const [kernel, variants] of Object.entries(c.variants ?? {})) {
    for (const variant of sampled(variants)) {
      gpu.variants.force(kernel, variant);
      try {
        await compare(c.run, `${c.label} [${kernel} ${variant}]`, forward, backward);
      } finally {
        gpu.variants.force(kernel, null);
      }
    }
  }
  if (c.composed) {
    const loose = c.tolerance?.composed ?? 10;
    await compare(c.composed, `${c.label} (composed)`, forward * loose, backward * loose);
  }
}

/** By input: all partial derivatives, or those at the sampled indices `at`. */
function referenceGradients(
  c: OpCase,
  names: readonly string[],
  arrays: Arrays,
  grad: Float64Array,
  seed: number,
) {
  const given = c.referenceGrad?.(arrays, grad);
  const out: Record<string, { at: number[] | null; values: Float64Array }> = {};
  names.forEach((name, n) => {
    const size = arrays[name]!.length;
    const all = !given && size <= FULL_DIFFERENCES;
    const next = generator(seed + 31 * n + 5);
    const at = all
      ? Array.from({ length: size }, (_, i) => i)
      : Array.from({ length: Math.min(size, given ? 12 : SAMPLED_DIFFERENCES) }, () =>
          Math.floor(next() * size),
        );
    const differences = Float64Array.from(at, (i) => centralDifference(c, arrays, name, i, grad));
    if (given) {
      const picked = Float64Array.from(at, (i) => given[name]![i]!);
      const scale = Math.sqrt(given[name]!.reduce((sum, v) => sum + v * v, 0) / size) || 1;
      picked.forEach((value, i) => {
        const error = Math.abs(value - differences[i]!) / Math.max(scale, Math.abs(value));
        expect(
          error,
          `${c.label}: the reference's d${name}[${at[i]}] against finite differences`,
        ).toBeLessThan(1e-5);
      });
      out[name] = { at: null, values: given[name]! };
    } else {
      out[name] = { at: all ? null : at, values: differences };
    }
  });
  return out;
}

function centralDifference(c: OpCase, arrays: Arrays, name: string, i: number, grad: Float64Array): number {
  const array = arrays[name]!;
  const value = array[i]!;
  const step = 1e-5 * Math.max(1, Math.abs(value));
  const at = (x: number) => {
    array[i] = x;
    const out = c.reference(arrays);
    let sum = 0;
    for (let j = 0; j < out.length; j += 1) sum += out[j]! * grad[j]!;
    return sum;
  };
  const difference = (at(value + step) - at(value - step)) / (2 * step);
  array[i] = value;
  return difference;
}
