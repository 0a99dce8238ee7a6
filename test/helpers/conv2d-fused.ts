// Checks what the kernels of conv2d do of the batch-norms around a convolution: kernels alone, each part forced.

import { expect } from "vitest";
import type { NamedBindings } from "../../src/device/bindings.ts";
import type { KernelSpec } from "../../src/device/kernels.ts";
import type { Load, Partials, Store } from "../../src/fusion/ports.ts";
import { batchNormKernels } from "../../src/ops/batch-norm/kernels.ts";
import { accepts, type ConvVariant, pick } from "../../src/ops/conv2d/choose.ts";
import { type Conv2dOptions, inferConv2d } from "../../src/ops/conv2d/conv2d.ts";
import { gradInput, gradWeight, runForward } from "../../src/ops/conv2d/kernels.ts";
import { SliceSums } from "../../src/ops/conv2d/slice-sums.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { conv2dReference, conv2dReferenceGrad, type ReferenceConv } from "../reference/conv2d.ts";
import { testGpu } from "./gpu.ts";
import { normals, relativeError } from "./numbers.ts";

type Four = readonly [number, number, number, number];
interface Extra {
  stride?: [number, number];
  padding?: [number, number, number, number];
  groups?: number;
}

const gpu = await testGpu();

/** A convolution in numbers for the kernels and for the reference. */
export function convOf(x: Four, weight: Four, extra: Extra) {
  const { stride = [1, 1], padding = [0, 0, 0, 0], groups = 1 } = extra;
  const [N, H, W, C] = x;
  const [K, R, S, perGroup] = weight;
  const options: Conv2dOptions = { stride, padding, groups };
  const geometry = inferConv2d({ N, H, W, C, K, R, S, "C/groups": perGroup }, options, String(weight));
  const reference: ReferenceConv = { x, weight, stride, padding, dilation: [1, 1], groups };
  const y: Four = [N, geometry.P, geometry.Q, K];
  return {
    geometry,
    reference,
    x,
    weight,
    y,
    values: normals(sizeOf(x), 1),
    weights: normals(sizeOf(weight), 2),
  };
}

/** Runs `body` with variants forced, and with what a kernel would otherwise need an op for. */
async function forced<T>(
  variants: Record<string, string>,
  body: (ctx: Parameters<typeof runForward>[0]) => T | Promise<T>,
): Promise<T> {
  const before = gpu.stats.liveBuffers;
  const made: Tensor[] = [];
  const empty = (shape: readonly number[]) => {
    made.push(gpu.empty(shape));
    return made.at(-1)!;
  };
  for (const [kernel, variant] of Object.entries(variants)) gpu.variants.force(`conv2d.${kernel}`, variant);
  let result: T;
  try {
    result = await body({
      gpu,
      empty,
      temp: empty,
      run: (kernel, bindings, grid) =>
        gpu.dispatch(kernel as KernelSpec, bindings as NamedBindings, grid, "conv2d"),
    });
  } finally {
    for (const kernel of Object.keys(variants)) gpu.variants.force(`conv2d.${kernel}`, null);
    for (const tensor of made) tensor.dispose();
  }
  expect(gpu.stats.liveBuffers, "live buffers").toBe(before);
  return result;
}

const perChannel = (rows: number, channels: number, seed: number) => normals(rows * channels, seed, 0.2, 0.7);
const read = async (tensor: Tensor) => Float64Array.from(await tensor.read());

/** A tensor whose elements nobody may ask for: only how they are worked out. */
function loaded(shape: Four, load: Load): Tensor {
  const run = () => {
    throw new Error("a kernel asked for the elements of a tensor that is not in memory");
  };
  const sources = [load.elements, ...Object.values(load.bindings)];
  return Tensor.lazy(gpu, shape, { sources, recompute: false, load, run }, "a test");
}

/** What a batch-norm would have made of `x`, for the reference, and as a tensor that is not worked out. */
function normalised(shape: Four, relu: boolean, seed: number) {
  const channels = shape[3];
  const x = normals(sizeOf(shape), seed);
  const numbers = perChannel(5, channels, seed + 1);
  const values = x.map((value, i) => {
    const c = i % channels;
    const z = (value - numbers[c]!) * numbers[channels + c]! + numbers[2 * channels + c]!;
    return relu ? Math.max(z, 0) : z;
  });
  const tensor = loaded(shape, {
    part: "affine",
    constants: {},
    activation: { part: relu ? "activation_relu" : "activation_none", constants: {} },
    elements: gpu.tensor(x, shape),
    bindings: { numbers: gpu.tensor(numbers, [5, channels]) },
  });
  return { values, tensor };
}

/** The same for the gradient of a batch-norm's input. */
function inputGradient(shape: Four, seed: number) {
  const channels = shape[3];
  const dz = normals(sizeOf(shape), seed);
  const x = normals(sizeOf(shape), seed + 1);
  const slopes = perChannel(4, channels, seed + 2);
  const values = dz.map((value, i) => {
    const [p, q, origin, a] = [0, 1, 2, 3].map((row) => slopes[row * channels + (i % channels)]!);
    return a! * (value + (x[i]! - origin!) * p! + q!);
  });
  const tensor = loaded(shape, {
    part: "affine_pair",
    constants: {},
    activation: null,
    elements: gpu.tensor(dz, shape),
    bindings: { numbers: gpu.tensor(slopes, [4, channels]), other: gpu.tensor(x, shape) },
  });
  return { values, tensor };
}

function plain(shape: Four, seed: number) {
  const values = normals(sizeOf(shape), seed);
  return { values, tensor: gpu.tensor(values, shape) };
}

/** Mean and variance of each channel, from all of its values. */
function momentsOf(values: Float64Array, channels: number) {
  const count = values.length / channels;
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  values.forEach((value, i) => {
    mean[i % channels]! += value / count;
  });
  values.forEach((value, i) => {
    variance[i % channels]! += (value - mean[i % channels]!) ** 2 / count;
  });
  return { mean, variance };
}

/** The same, merged from partial results. */
async function merged({ values, groups }: Partials, channels: number) {
  const data = await values.read();
  const row = (group: number, index: number, c: number) => data[(group * 4 + index) * channels + c]!;
  const count = new Float64Array(channels);
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  for (let c = 0; c < channels; c += 1) {
    for (let group = 0; group < groups; group += 1) {
      count[c]! += row(group, 3, c);
      // Also of a group without pixels: anything finite.
      const partial = row(group, 0, c) + row(group, 1, c);
      mean[c]! += row(group, 3, c) * partial;
    }
    mean[c]! /= count[c]!;
    for (let group = 0; group < groups; group += 1) {
      const shift = row(group, 0, c) + row(group, 1, c) - mean[c]!;
      variance[c]! += (row(group, 3, c) / count[c]!) * (row(group, 2, c) ** 2 + shift ** 2);
    }
  }
  return { count, mean, variance };
}

export interface ForwardCase {
  variant: ConvVariant;
  x: Four;
  weight: Four;
  extra?: Extra;
  input: "plain" | "normalise" | "rectify";
  statistics: boolean;
  /** Added to every pixel, in standard deviations of the output. */
  shift?: number;
  /** Something is added on the way. Default false. */
  adds?: boolean;
}

export async function checkForward({
  variant,
  x,
  weight,
  extra = {},
  input,
  statistics,
  shift = 1,
  adds = false,
}: ForwardCase) {
  const conv = convOf(x, weight, extra);
  const K = weight[0];
  const label = `${variant} ${x.join("×")} * ${weight.join("×")}`;
  const variants = { forward: variant, "forward.input": "fused", "forward.output": "fused" };
  const source = input === "plain" ? plain(x, 5) : normalised(x, input === "rectify", 5);
  const size = shift * Math.sqrt(weight[1] * weight[2] * weight[3]);
  const offsets = normals(K, 7, size, size / 10);
  const tensors = [source.tensor, gpu.tensor(conv.weights, weight), gpu.tensor(offsets, [K])];
  const added = normals(sizeOf(conv.y), 9, 0, size);
  const addend = adds ? gpu.tensor(added, conv.y) : null;
  const expected = conv2dReference(conv.reference, { x: source.values, weight: conv.weights, bias: offsets });
  if (adds) for (let i = 0; i < expected.length; i += 1) expected[i]! += added[i]!;
  const runs: (readonly number[])[] = [];
  for (let run = 0; run < 2; run += 1) {
    await forced(variants, async (ctx) => {
      const store = { part: "statistics", rows: 4, constants: {}, activation: null, bindings: {} };
      if (statistics) expect(accepts(gpu, conv.geometry, "forward", variant, store.part), label).toBe(true);
      const out = ctx.empty(conv.y);
      const [first, w, bias] = tensors;
      const given = { out, x: first!, weight: w!, bias: bias! };
      const choice = pick(gpu, conv.geometry, "forward");
      const partials = runForward(ctx, conv.geometry, choice, given, {
        addend,
        store: statistics ? store : null,
      });
      const y = await read(out);
      expect(relativeError(y, expected), `${label}: y`).toBeLessThan(1e-5);
      runs.push([...y, ...(partials ? await read(partials.values) : [])]);
      if (!partials) return;
      const stored = momentsOf(y, K);
      const { count, mean, variance } = await merged(partials, K);
      expect([...count], `${label}: count`).toEqual(Array(K).fill(y.length / K));
      // The mean in standard deviations.
      const off = mean.map((value, c) => (value - stored.mean[c]!) / Math.sqrt(stored.variance[c]!));
      expect(Math.max(...off.map(Math.abs)), `${label}: mean`).toBeLessThan(1e-5);
      expect(relativeError(variance, stored.variance), `${label}: variance`).toBeLessThan(1e-5);
    });
  }
  expect(runs[1], `${label}: same bits`).toEqual(runs[0]);
  for (const tensor of [...tensors, addend]) tensor?.dispose();
}

export interface GradCase {
  variant: ConvVariant;
  /** Of the convolution's input; what is looked for is its gradient. */
  x: Four;
  weight: Four;
  extra?: Extra;
  dy: "plain" | "gradient";
  joins: boolean;
  /** Where the ReLU's mask comes from; null: no sums are taken. */
  mask: "none" | "input" | "given" | null;
}

export async function checkGradInput({ variant, x, weight, extra = {}, dy: kind, joins, mask }: GradCase) {
  const conv = convOf(x, weight, extra);
  const C = x[3];
  const label = `${variant} ${x.join("×")} * ${weight.join("×")}, ${kind}, mask ${mask}${joins ? ", joins" : ""}`;
  const variants = { grad_input: variant, "grad_input.input": "fused", "grad_input.output": "fused" };
  const dy = kind === "plain" ? plain(conv.y, 5) : inputGradient(conv.y, 5);
  const others = normals(sizeOf(x), 11);
  const normInput = normals(sizeOf(x), 12);
  const numbers = perChannel(5, C, 13);
  // A bit for each element: a word is eight pixels of four channels.
  const pixels = sizeOf(x) / C;
  const words = new Uint32Array(Math.ceil(pixels / 8) * (C / 4));
  const kept = normals(sizeOf(x), 14).map((value) => (value > 0 ? 1 : 0));
  kept.forEach((bit, i) => {
    const [pixel, c] = [Math.floor(i / C), i % C];
    words[Math.floor(pixel / 8) * (C / 4) + Math.floor(c / 4)]! |= bit << (4 * (pixel % 8) + (c % 4));
  });
  const number = (row: number, i: number) => numbers[row * C + (i % C)]!;
  const dx = conv2dReferenceGrad(conv.reference, { x: conv.values, weight: conv.weights }, dy.values).x;
  const expected = dx.map((value, i) => {
    const sum = value + (joins ? others[i]! : 0);
    const z = (normInput[i]! - number(0, i)) * number(1, i) + number(2, i);
    if (mask === "input") return z <= 0 ? 0 : sum;
    return mask === "given" && kept[i] === 0 ? 0 : sum;
  });
  const sums = new Float64Array(2 * C);
  expected.forEach((dz, i) => {
    sums[i % C]! += dz;
    sums[C + (i % C)]! += dz * ((normInput[i]! - number(0, i)) * number(3, i) + number(4, i));
  });
  const weights = gpu.tensor(conv.weights, weight);
  const bits = gpu.tensor(words, [words.length], { dtype: "uint32" });
  const sink: Store = {
    part: "gradient_sums",
    rows: 2,
    constants: { MASKED: mask === "given" ? 1 : 0 },
    activation: { part: mask === "input" ? "activation_relu" : "activation_none", constants: {} },
    bindings: {
      sink_input: gpu.tensor(normInput, x),
      sink_numbers: gpu.tensor(numbers, [5, C]),
      sink_mask: bits,
    },
  };
  const runs: (readonly number[])[] = [];
  for (let run = 0; run < 2; run += 1) {
    const out = gpu.tensor(others, x);
    await forced(variants, async (ctx) => {
      if (mask) expect(accepts(gpu, conv.geometry, "grad_input", variant, sink.part), label).toBe(true);
      const given = { out, dy: dy.tensor, weight: weights };
      const choice = pick(gpu, conv.geometry, "grad_input");
      const partials = gradInput(ctx, conv.geometry, choice, given, { joins, store: mask ? sink : null });
      const actual = await read(out);
      expect(relativeError(actual, expected), `${label}: dx`).toBeLessThan(1e-5);
      const parts = partials ? await read(partials.values) : new Float64Array();
      runs.push([...actual, ...parts]);
      if (!mask) return;
      const totals = new Float64Array(2 * C);
      parts.forEach((value, i) => {
        totals[i % (2 * C)]! += value;
      });
      expect(relativeError(totals, sums), `${label}: sums`).toBeLessThan(1e-5);
    });
    out.dispose();
  }
  expect(runs[1], `${label}: same bits`).toEqual(runs[0]);
  for (const tensor of [dy.tensor, weights, ...Object.values(sink.bindings)]) tensor.dispose();
}

export interface WeightCase {
  variant: ConvVariant;
  x: Four;
  weight: Four;
  extra?: Extra;
  input: "plain" | "normalise" | "rectify";
  dy: "plain" | "gradient";
}

export async function checkGradWeight({ variant, x, weight, extra = {}, input, dy: kind }: WeightCase) {
  const conv = convOf(x, weight, extra);
  const label = `${variant} ${x.join("×")} * ${weight.join("×")}, ${input}, ${kind}`;
  const variants = { grad_weight: variant, "grad_weight.input": "fused", "grad_weight.dy": "fused" };
  const source = input === "plain" ? plain(x, 5) : normalised(x, input === "rectify", 5);
  const dy = kind === "plain" ? plain(conv.y, 8) : inputGradient(conv.y, 8);
  const expected = conv2dReferenceGrad(conv.reference, { x: source.values, weight: conv.weights }, dy.values);
  const runs: Float64Array[] = [];
  for (let run = 0; run < 2; run += 1) {
    await forced(variants, async (ctx) => {
      const dw = gradWeight(ctx, conv.geometry, { dw: ctx.empty(weight), dy: dy.tensor, x: source.tensor });
      runs.push(await read(dw));
    });
  }
  expect(relativeError(runs[0]!, expected.weight), `${label}: dw`).toBeLessThan(1e-5);
  expect(runs[1], `${label}: same bits`).toEqual(runs[0]);
  source.tensor.dispose();
  dy.tensor.dispose();
}

export interface RiderCase extends WeightCase {
  /** Of the batch-norm whose sums ride along. */
  channels: number;
  groups: number;
  batchStatistics?: boolean;
}

/** The gradient of a weight, and in its dispatch what a batch-norm makes of partial sums of its gradient. */
export async function checkRider({ channels, groups, batchStatistics = true, ...conv }: RiderCase) {
  const { geometry, reference, weights, y } = convOf(conv.x, conv.weight, conv.extra ?? {});
  const label = `${conv.variant} ${conv.x.join("×")} * ${conv.weight.join("×")}, ${groups} groups of ${channels} channels`;
  const variants = { grad_weight: conv.variant, "grad_weight.input": "fused", "grad_weight.dy": "fused" };
  const source = conv.input === "plain" ? plain(conv.x, 5) : normalised(conv.x, conv.input === "rectify", 5);
  const dy = conv.dy === "plain" ? plain(y, 8) : inputGradient(y, 8);
  const dw = conv2dReferenceGrad(reference, { x: source.values, weight: weights }, dy.values).weight;

  const count = 3 * groups + 5;
  // Of no groups, there is something to read all the same.
  const partials = normals(Math.max(1, groups) * 2 * channels, 21, 0.3);
  const numbers = perChannel(5, channels, 22);
  const sums = new Float64Array(2 * channels);
  partials.subarray(0, groups * 2 * channels).forEach((value, i) => {
    sums[i % (2 * channels)]! += value;
  });
  const slopes = new Float64Array(4 * channels);
  for (let c = 0; c < channels; c += 1) {
    const [mean, meanXhat] = batchStatistics ? [sums[c]! / count, sums[channels + c]! / count] : [0, 0];
    slopes[c] = -numbers[3 * channels + c]! * meanXhat;
    slopes[channels + c] = -mean - numbers[4 * channels + c]! * meanXhat;
    slopes[2 * channels + c] = numbers[c]!;
    slopes[3 * channels + c] = numbers[channels + c]!;
  }

  const { info } = gpu as unknown as { info: { class: string } };
  const outer = info.class;
  info.class = "hardware"; // where the sums of slices wait for others
  const runs: (readonly number[])[] = [];
  try {
    for (const rides of [true, true, false]) {
      await forced(variants, async (ctx) => {
        const late = new SliceSums(gpu);
        const dwOut = ctx.empty(conv.weight);
        const values = gpu.tensor(partials, [Math.max(1, groups), 2, channels]);
        const saved = gpu.tensor(numbers, [5, channels]);
        const out = ctx.empty([4, channels]);
        // Not next to each other, nor at the beginning.
        const rowBytes = 256 * Math.ceil(channels / 64);
        const grads = gpu.zeros([rowBytes]);
        const places = [1, 3].map((row) => grads.part(row * rowBytes, [channels]));
        const kernels = batchNormKernels(gpu, count, channels, "float32");
        const [dgamma, dbeta] = places as [Tensor, Tensor];
        const coefficients = { dgamma, dbeta, batchStatistics };
        const notes = gpu.explain(() => {
          const given = { dw: dwOut, dy: dy.tensor, x: source.tensor };
          gradWeight(ctx, geometry, given, { late, carries: rides });
          const choice = kernels.choose("backward", false);
          kernels.finalizeGrad(ctx, out, { values, groups }, saved, coefficients, choice);
        });
        const own = notes.filter(({ kernel }) => kernel !== "memory.fill").map(({ kernel }) => kernel);
        expect(own, `${label}: dispatches`).toHaveLength(rides ? 1 : 2);
        expect(own[0]!.includes("+slopes.grad_weight"), `${label}: ${own[0]}`).toBe(rides);
        late.run();
        const results = await Promise.all([dwOut, out, ...places].map(read));
        const expected = [dw, slopes, sums.slice(channels), sums.slice(0, channels)];
        ["dw", "slopes", "dgamma", "dbeta"].forEach((name, i) => {
          const error =
            groups === 0 && i > 1 ? Math.hypot(...results[i]!) : relativeError(results[i]!, expected[i]!);
          expect(error, `${label}: ${name}`).toBeLessThan(1e-5);
        });
        if (rides) runs.push(results.flatMap((numbers) => [...numbers]));
        for (const tensor of [values, saved, grads, ...places]) tensor.dispose();
        late.dispose();
      });
    }
  } finally {
    info.class = outer;
  }
  expect(runs[1], `${label}: same bits`).toEqual(runs[0]);
  source.tensor.dispose();
  dy.tensor.dispose();
}
