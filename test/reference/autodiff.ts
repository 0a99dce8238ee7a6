// Reverse-mode differentiation in float64: every op by naive loops, a closure for its gradient, nothing saved or fused.

import { halfToNumber, numberToHalf } from "../../src/tensor/tensor.ts";
import { type ActivationName, activations } from "./activations.ts";
import { batchNormReference, batchNormReferenceGrad, channelStatistics } from "./batch-norm.ts";
import {
  conv2dReference,
  conv2dReferenceGrad,
  convTranspose2dReference,
  convTranspose2dReferenceGrad,
  outputShape,
  type ReferenceConv,
  type ReferenceConvTranspose,
  transposedShape,
} from "./conv2d.ts";
import {
  broadcastIndex,
  elementwise,
  forEachIndex,
  meanOf,
  reduceReference,
  reductionGroups,
  sumTo,
  varianceOf,
} from "./elementwise.ts";
import { groupNormReference, groupNormReferenceGrad } from "./group-norm.ts";
import { matmulReference } from "./matmul.ts";
import { type Pool2dGeometry, pool2dReference, windowCount } from "./pool2d.ts";
import {
  type CrossEntropyOptions,
  crossEntropyReference,
  crossEntropyReferenceGrad,
  rowsOf,
  softmaxRow,
} from "./softmax.ts";
import { moved } from "./strided.ts";

type Shape = readonly number[];
type Shape4 = readonly [number, number, number, number];
type Gradients = readonly (Float64Array | null)[];

/** A value of the reference: its elements may be replaced, its gradient adds up until it is set to null. */
export interface Value {
  shape: Shape;
  data: Float64Array;
  requiresGrad: boolean;
  grad: Float64Array | null;
}

export interface ConvOptions {
  bias?: Value | null;
  stride?: readonly [number, number];
  /** top, bottom, left, right */
  padding?: Shape4;
  dilation?: readonly [number, number];
  groups?: number;
}

export interface NormOptions {
  eps: number;
  /** Default none. */
  activation?: ActivationName;
  residual?: Value | null;
  /** Given: inference with these. */
  running?: { mean: ArrayLike<number>; variance: ArrayLike<number> };
}

export const sizeOf = (shape: Shape) => shape.reduce((a, b) => a * b, 1);

/** Normal numbers for `Tape.noise`, by Box and Muller. */
export function noiseOf(next: () => number, size: number): (values: Float64Array) => Float64Array {
  return (values) =>
    values.map((v) => v * (1 + size * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())));
}

export class Tape {
  recording = true;
  /** What ReLU and maximum decide on: how far each of these numbers is from 0 tells how sure the decision is. */
  readonly decisions: Float64Array[] = [];
  private readonly steps: {
    out: Value;
    inputs: readonly (Value | null)[];
    run: (dy: Float64Array) => Gradients;
  }[] = [];

  /** @param noise what becomes of every result and every gradient: rounding errors, made larger, to see what they do */
  constructor(private readonly noise: (values: Float64Array) => Float64Array = (values) => values) {}

  leaf(shape: Shape, data: ArrayLike<number>, requiresGrad = false): Value {
    return { shape, data: Float64Array.from(data), requiresGrad, grad: null };
  }

  detach(x: Value): Value {
    return { ...x, requiresGrad: false, grad: null };
  }

  noGrad<T>(body: () => T): T {
    const outer = this.recording;
    this.recording = false;
    try {
      return body();
    } finally {
      this.recording = outer;
    }
  }

  /** Adds dL/dleaf to every leaf, for L = Σ root·upstream, and forgets the steps. */
  backward(root: Value, upstream: Float64Array): void {
    root.grad = upstream;
    for (const { out, inputs, run } of this.steps.splice(0).reverse()) {
      if (!out.grad) continue;
      const grads = run(out.grad);
      out.grad = null;
      inputs.forEach((input, i) => {
        if (!input?.requiresGrad || !grads[i]) return;
        const part = this.noise(grads[i]!);
        input.grad = input.grad ? input.grad.map((v, j) => v + part[j]!) : part;
      });
    }
  }

  private record(
    shape: Shape,
    data: Float64Array,
    inputs: readonly (Value | null)[],
    run: (dy: Float64Array) => Gradients,
  ): Value {
    const requiresGrad = this.recording && inputs.some((input) => input?.requiresGrad);
    const out: Value = { shape, data: this.noise(data), requiresGrad, grad: null };
    if (requiresGrad) this.steps.push({ out, inputs, run });
    return out;
  }

  /** A difference has the rounding errors of what it is a difference of. */
  private spread(difference: Float64Array, of: Float64Array): void {
    const noisy = this.noise(of);
    for (const [i, value] of of.entries()) difference[i]! += noisy[i]! - value;
  }

  // --- moves -------------------------------------------------------------------------------------------

  /** out[i] = x[from[i]], or `otherwise` where that is negative. */
  private gather(x: Value, shape: Shape, from: Float64Array, otherwise = 0): Value {
    const { data } = x;
    const out = from.map((at) => (at < 0 ? otherwise : data[at]!));
    return this.record(shape, out, [x], (dy) => {
      const dx = new Float64Array(data.length);
      from.forEach((at, i) => {
        if (at >= 0) dx[at]! += dy[i]!;
      });
      return [dx];
    });
  }

  private move(
    x: Value,
    shape: Shape,
    source: (index: readonly number[]) => readonly number[] | null,
    otherwise = 0,
  ): Value {
    const places = Float64Array.from({ length: x.data.length }, (_, i) => i);
    return this.gather(x, shape, moved(places, x.shape, shape, source, -1), otherwise);
  }

  reshape(x: Value, shape: Shape): Value {
    return this.record(shape, x.data, [x], (dy) => [dy]);
  }

  slice(x: Value, starts: Shape, ends: Shape, steps: Shape): Value {
    const shape = starts.map((start, axis) => Math.ceil((ends[axis]! - start) / steps[axis]!));
    return this.move(x, shape, (index) => index.map((i, axis) => starts[axis]! + i * steps[axis]!));
  }

  pad(x: Value, padding: readonly (readonly [number, number])[], value: number): Value {
    const shape = x.shape.map((size, axis) => size + padding[axis]![0] + padding[axis]![1]);
    const inside = (index: readonly number[]) => {
      const from = index.map((i, axis) => i - padding[axis]![0]);
      return from.every((i, axis) => i >= 0 && i < x.shape[axis]!) ? from : null;
    };
    return this.move(x, shape, inside, value);
  }

  permute(x: Value, axes: Shape): Value {
    const shape = axes.map((axis) => x.shape[axis]!);
    return this.move(x, shape, (index) => x.shape.map((_, axis) => index[axes.indexOf(axis)]!));
  }

  subsample(x: Value, stride: number, channels: number): Value {
    const [n, h, w, c] = x.shape as Shape4;
    const before = Math.floor((channels - c) / 2);
    const shape = [n, Math.ceil(h / stride), Math.ceil(w / stride), channels];
    return this.move(x, shape, ([i, p, q, k]) =>
      k! < before || k! >= before + c ? null : [i!, p! * stride, q! * stride, k! - before],
    );
  }

  expand(x: Value, shape: Shape): Value {
    return this.move(x, shape, (index) =>
      index.slice(shape.length - x.shape.length).map((i, axis) => (x.shape[axis] === 1 ? 0 : i)),
    );
  }

  concat(xs: readonly Value[], axis: number): Value {
    const along = axis < 0 ? axis + xs[0]!.shape.length : axis;
    const total = xs.reduce((sum, x) => sum + x.shape[along]!, 0);
    const shape = xs[0]!.shape.map((size, i) => (i === along ? total : size));
    const datas = xs.map(({ data }) => data);
    const out = new Float64Array(sizeOf(shape));
    const places = datas.map((data) => new Float64Array(data.length));
    forEachIndex(shape, (index, flat) => {
      let i = 0;
      const from = [...index];
      while (from[along]! >= xs[i]!.shape[along]!) from[along]! -= xs[i++]!.shape[along]!;
      const at = broadcastIndex(from, xs[i]!.shape);
      out[flat] = datas[i]![at]!;
      places[i]![at] = flat;
    });
    return this.record(shape, out, xs, (dy) => places.map((place) => place.map((flat) => dy[flat]!)));
  }

  // --- elementwise -------------------------------------------------------------------------------------

  relu(x: Value): Value {
    const { data } = x;
    this.decisions.push(data);
    return this.record(
      x.shape,
      data.map((v) => Math.max(v, 0)),
      [x],
      (dy) => [dy.map((v, i) => (data[i]! > 0 ? v : 0))],
    );
  }

  activation(x: Value, name: ActivationName): Value {
    const { f, df, kinks } = activations[name];
    return this.map(x, f, df, kinks);
  }

  /** f of each element; where its derivative df jumps are `kinks`. */
  map(x: Value, f: (v: number) => number, df: (v: number) => number, kinks: readonly number[] = []): Value {
    const { data } = x;
    for (const kink of kinks) this.decisions.push(data.map((v) => v - kink));
    return this.record(x.shape, data.map(f), [x], (dy) => [dy.map((v, i) => v * df(data[i]!))]);
  }

  /** Rounded to float16 and back; so is the gradient. */
  half(x: Value): Value {
    const rounded = (values: Float64Array) => values.map((v) => halfToNumber(numberToHalf(v)));
    return this.record(x.shape, rounded(x.data), [x], (dy) => [rounded(dy)]);
  }

  scale(x: Value, factor: number): Value {
    return this.record(
      x.shape,
      x.data.map((v) => v * factor),
      [x],
      (dy) => [dy.map((v) => v * factor)],
    );
  }

  /** f(a, b), broadcast; `partials` are ∂f/∂a and ∂f/∂b. */
  private binary(
    a: Value,
    b: Value,
    f: (a: number, b: number) => number,
    partials: readonly [(a: number, b: number) => number, (a: number, b: number) => number],
  ): Value {
    const rank = Math.max(a.shape.length, b.shape.length);
    const size = (shape: Shape, axis: number) => shape[axis - rank + shape.length] ?? 1;
    const shape = Array.from({ length: rank }, (_, axis) =>
      Math.max(size(a.shape, axis), size(b.shape, axis)),
    );
    const operands = [
      { data: a.data, shape: a.shape },
      { data: b.data, shape: b.shape },
    ];
    return this.record(shape, elementwise(shape, operands, f), [a, b], (dy) =>
      partials.map((partial, i) =>
        sumTo(
          elementwise(shape, [{ data: dy, shape }, ...operands], (d, u, v) => d * partial(u, v)),
          shape,
          operands[i]!.shape,
        ),
      ),
    );
  }

  add(a: Value, b: Value): Value {
    return this.binary(a, b, (u, v) => u + v, [() => 1, () => 1]);
  }

  sub(a: Value, b: Value): Value {
    return this.binary(a, b, (u, v) => u - v, [() => 1, () => -1]);
  }

  mul(a: Value, b: Value): Value {
    return this.binary(a, b, (u, v) => u * v, [(_, v) => v, (u) => u]);
  }

  /** Of two of one shape; where they are equal each gets half of the gradient. */
  maximum(a: Value, b: Value): Value {
    this.decisions.push(a.data.map((v, i) => v - b.data[i]!));
    const share = (own: number, other: number) => (own > other ? 1 : own === other ? 0.5 : 0);
    return this.binary(a, b, Math.max, [share, (u, v) => share(v, u)]);
  }

  /** As `maximum`. */
  minimum(a: Value, b: Value): Value {
    return this.scale(this.maximum(this.scale(a, -1), this.scale(b, -1)), -1);
  }

  /** a where x compares so with a number, b elsewhere; all of one shape. */
  where(x: Value, is: "lt" | "le" | "gt" | "ge", than: number, a: Value, b: Value): Value {
    this.decisions.push(x.data.map((v) => v - than));
    const holds = { lt: (v: number) => v < than, le: (v: number) => v <= than };
    const others = { gt: (v: number) => v > than, ge: (v: number) => v >= than };
    const takesA = Array.from(x.data, { ...holds, ...others }[is]);
    const data = a.data.map((v, i) => (takesA[i] ? v : b.data[i]!));
    return this.record(x.shape, data, [a, b], (dy) => [
      dy.map((v, i) => (takesA[i] ? v : 0)),
      dy.map((v, i) => (takesA[i] ? 0 : v)),
    ]);
  }

  /** Both bounds belong to it: there the gradient passes. */
  clamp(x: Value, min: number | null, max: number | null): Value {
    const [low, high] = [min ?? Number.NEGATIVE_INFINITY, max ?? Number.POSITIVE_INFINITY];
    const kinks = [low, high].filter(Number.isFinite);
    return this.map(
      x,
      (v) => Math.min(Math.max(v, low), high),
      (v) => (v >= low && v <= high ? 1 : 0),
      kinks,
    );
  }

  power(x: Value, exponent: number): Value {
    return this.map(
      x,
      (v) => v ** exponent,
      (v) => exponent * v ** (exponent - 1),
    );
  }

  /** To powers that broadcast to x. */
  powerOf(x: Value, exponent: Value): Value {
    return this.binary(x, exponent, Math.pow, [(u, v) => v * u ** (v - 1), (u, v) => u ** v * Math.log(u)]);
  }

  /** (x − mean) / √(variance + eps) */
  normalize(x: Value, mean: Value, variance: Value, eps: number): Value {
    return this.binary(this.sub(x, mean), variance, (d, v) => d / Math.sqrt(v + eps), [
      (_, v) => 1 / Math.sqrt(v + eps),
      (d, v) => (-0.5 * d) / (v + eps) ** 1.5,
    ]);
  }

  // --- reductions --------------------------------------------------------------------------------------

  private reduce(
    x: Value,
    axes: Shape,
    keepDims: boolean,
    f: (values: number[]) => number,
    slope: (value: number, values: number[]) => number,
  ): Value {
    const { data } = x;
    const reduced = axes.map((axis) => (axis < 0 ? axis + x.shape.length : axis));
    const shape = keepDims
      ? x.shape.map((size, axis) => (reduced.includes(axis) ? 1 : size))
      : x.shape.filter((_, axis) => !reduced.includes(axis));
    return this.record(shape, reduceReference(data, x.shape, axes, f), [x], (dy) => {
      const dx = new Float64Array(data.length);
      reductionGroups(x.shape, axes).forEach((group, out) => {
        const values = group.map((i) => data[i]!);
        for (const i of group) dx[i]! += dy[out]! * slope(data[i]!, values);
      });
      return [dx];
    });
  }

  sum(x: Value, axes: Shape, keepDims = false): Value {
    return this.reduce(
      x,
      axes,
      keepDims,
      (values) => values.reduce((a, b) => a + b, 0),
      () => 1,
    );
  }

  mean(x: Value, axes: Shape, keepDims = false): Value {
    return this.reduce(x, axes, keepDims, meanOf, (_, values) => 1 / values.length);
  }

  /** The largest or smallest by `most`; equal ones share the gradient. */
  extreme(x: Value, axes: Shape, most: (a: number, b: number) => number, keepDims = false): Value {
    const best = (values: number[]) => values.reduce((a, b) => most(a, b));
    for (const group of reductionGroups(x.shape, axes)) {
      const values = group.map((i) => x.data[i]!);
      this.decisions.push(Float64Array.from(values, (v) => v - best(values)));
    }
    return this.reduce(x, axes, keepDims, best, (value, values) => {
      const found = best(values);
      return value === found ? 1 / values.filter((v) => v === found).length : 0;
    });
  }

  /** f over axes, of which there is no gradient. */
  of(x: Value, axes: Shape, f: (values: number[]) => number, keepDims = false): Value {
    return this.reduce(this.detach(x), axes, keepDims, f, () => 0);
  }

  variance(x: Value, axes: Shape, correction: number, keepDims = false): Value {
    return this.reduce(
      x,
      axes,
      keepDims,
      (values) => varianceOf(values, correction),
      (value, values) => (2 * (value - meanOf(values))) / (values.length - correction),
    );
  }

  softmax(x: Value): Value {
    const classes = x.shape.at(-1)!;
    const y = Float64Array.from(rowsOf(x.data, classes).flatMap(softmaxRow));
    const out: Value = this.record(x.shape, y, [x], (dy) => {
      // With what noise has made of the probabilities: where one is nearly 1, the difference below is all rounding.
      const p = out.data;
      const dx = new Float64Array(p.length);
      for (let row = 0; row < p.length; row += classes) {
        let dot = 0;
        for (let k = 0; k < classes; k += 1) dot += dy[row + k]! * p[row + k]!;
        for (let k = 0; k < classes; k += 1) dx[row + k] = p[row + k]! * (dy[row + k]! - dot);
      }
      return [dx];
    });
    return out;
  }

  /** `targets`: a label for each row, or probabilities. */
  crossEntropy(
    logits: Value,
    targets: ArrayLike<number> | { probabilities: Value },
    options: CrossEntropyOptions = {},
  ): Value {
    const [n, classes] = logits.shape as [number, number];
    const probabilities = "probabilities" in targets ? targets.probabilities : null;
    const of = probabilities
      ? { probabilities: probabilities.data }
      : { labels: targets as ArrayLike<number> };
    const { data } = logits;
    const out = crossEntropyReference(data, classes, of, options);
    return this.record(options.reduction === "none" ? [n] : [], out, [logits, probabilities], (dy) => {
      const grads = crossEntropyReferenceGrad(data, classes, of, options, dy);
      return [grads.logits, grads.targets];
    });
  }

  // --- products ----------------------------------------------------------------------------------------

  matmul(a: Value, b: Value, { transposeA = false, transposeB = false } = {}): Value {
    const [m, k] = transposeA ? [a.shape[1]!, a.shape[0]!] : [a.shape[0]!, a.shape[1]!];
    const n = transposeB ? b.shape[0]! : b.shape[1]!;
    const [da, db] = [a.data, b.data];
    const data = matmulReference([m, n, k], { a: da, b: db }, { transposeA, transposeB });
    return this.record([m, n], data, [a, b], (dy) => {
      const ga = new Float64Array(da.length);
      const gb = new Float64Array(db.length);
      for (let i = 0; i < m; i += 1)
        for (let j = 0; j < n; j += 1)
          for (let l = 0; l < k; l += 1) {
            const atA = transposeA ? l * m + i : i * k + l;
            const atB = transposeB ? j * k + l : l * n + j;
            ga[atA]! += dy[i * n + j]! * db[atB]!;
            gb[atB]! += dy[i * n + j]! * da[atA]!;
          }
      return [ga, gb];
    });
  }

  linear(x: Value, weight: Value, bias: Value | null): Value {
    const y = this.matmul(x, weight, { transposeB: true });
    return bias ? this.add(y, bias) : y;
  }

  conv2d(x: Value, weight: Value, options: ConvOptions = {}): Value {
    const { bias = null, stride = [1, 1], padding = [0, 0, 0, 0], dilation = [1, 1], groups = 1 } = options;
    const c: ReferenceConv = {
      x: x.shape as Shape4,
      weight: weight.shape as Shape4,
      stride,
      padding,
      dilation,
      groups,
    };
    const arrays = { x: x.data, weight: weight.data, ...(bias && { bias: bias.data }) };
    return this.record(outputShape(c), conv2dReference(c, arrays), [x, weight, bias], (dy) => {
      const grads = conv2dReferenceGrad(c, arrays, dy);
      return [grads.x, grads.weight, grads.bias];
    });
  }

  /** Weight [K, R, S, C / groups]. */
  convTranspose2d(x: Value, weight: Value, bias: Value | null, c: ReferenceConvTranspose): Value {
    const arrays = { x: x.data, weight: weight.data, ...(bias && { bias: bias.data }) };
    return this.record(transposedShape(c), convTranspose2dReference(c, arrays), [x, weight, bias], (dy) => {
      const grads = convTranspose2dReferenceGrad(c, arrays, dy);
      return [grads.x, grads.weight, grads.bias];
    });
  }

  // --- pools -------------------------------------------------------------------------------------------

  private windows(
    x: Value,
    geometry: Pool2dGeometry,
  ): { shape: Shape; windows: { at: number[]; divisor: number }[] } {
    const [n, h, w, c] = x.shape as Shape4;
    const { kernel, stride, padding, dilation = [1, 1], ceilMode = false } = geometry;
    const spans = kernel.map((size, axis) => dilation[axis]! * (size - 1) + 1);
    const windows: { at: number[]; divisor: number }[] = [];
    const places = Float64Array.from({ length: x.data.length }, (_, i) => i);
    pool2dReference(places, [n, h, w, c], geometry, (at, divisor) => windows.push({ at, divisor }));
    const rows = windowCount(h, spans[0]!, stride[0], padding[0], padding[1], ceilMode);
    const columns = windowCount(w, spans[1]!, stride[1], padding[2], padding[3], ceilMode);
    return { shape: [n, rows, columns, c], windows };
  }

  maxPool2d(x: Value, geometry: Pool2dGeometry): Value {
    const { data } = x;
    const { shape, windows } = this.windows(x, geometry);
    const best = windows.map(({ at }) =>
      at.reduce((a, b) => (data[b]! > data[a]! || Number.isNaN(data[b]!) ? b : a)),
    );
    this.decisions.push(
      Float64Array.from(
        windows.flatMap(({ at }, i) =>
          at.filter((j) => j !== best[i]).map((j) => data[best[i]!]! - data[j]!),
        ),
      ),
    );
    return this.gather(x, shape, Float64Array.from(best));
  }

  avgPool2d(x: Value, geometry: Pool2dGeometry): Value {
    const { data } = x;
    const { shape, windows } = this.windows(x, geometry);
    const out = Float64Array.from(
      windows,
      ({ at, divisor }) => at.reduce((sum, i) => sum + data[i]!, 0) / divisor,
    );
    return this.record(shape, out, [x], (dy) => {
      const dx = new Float64Array(data.length);
      windows.forEach(({ at, divisor }, out) => {
        for (const i of at) dx[i]! += dy[out]! / divisor;
      });
      return [dx];
    });
  }

  /** f is linear: each column of its matrix is what it makes of one element. */
  linearMap(x: Value, shape: Shape, f: (data: Float64Array) => Float64Array): Value {
    const size = x.data.length;
    return this.record(shape, f(x.data), [x], (dy) => {
      const one = new Float64Array(size);
      const dx = new Float64Array(size);
      for (let i = 0; i < size; i += 1) {
        one[i] = 1;
        f(one).forEach((value, j) => {
          dx[i]! += value * dy[j]!;
        });
        one[i] = 0;
      }
      return [dx];
    });
  }

  // --- normalisation -----------------------------------------------------------------------------------

  batchNorm(x: Value, gamma: Value | null, beta: Value | null, options: NormOptions): Value {
    const { eps, activation = "none", residual = null, running } = options;
    const channels = x.shape.at(-1)!;
    const b = { count: x.data.length / channels, channels, eps, relu: false, ...(running && { running }) };
    const arrays = {
      x: x.data,
      ...(gamma && { gamma: gamma.data }),
      ...(beta && { beta: beta.data }),
      ...(residual && { residual: residual.data }),
    };
    const y = this.record(x.shape, batchNormReference(b, arrays), [x, gamma, beta, residual], (dy) => {
      const grads = batchNormReferenceGrad(b, arrays, dy);
      if (!running) {
        const statistics = { running: channelStatistics(b, arrays.x) };
        this.spread(grads.x, batchNormReferenceGrad({ ...b, ...statistics }, arrays, dy).x);
      }
      return [grads.x, grads.gamma, grads.beta, grads.residual];
    });
    return activation === "none" ? y : this.activation(y, activation);
  }

  /** Of each channel: mean, biased variance, count. */
  channelStatistics(x: Value) {
    const channels = x.shape.at(-1)!;
    const count = x.data.length / channels;
    return { ...channelStatistics({ count, channels }, x.data), count };
  }

  groupNorm(x: Value, groups: number, gamma: Value | null, beta: Value | null, eps: number): Value {
    const channels = x.shape.at(-1)!;
    const images = x.shape[0]!;
    return this.units(
      x,
      { images, pixels: x.data.length / (images * channels), channels, groups },
      gamma,
      beta,
      eps,
    );
  }

  layerNorm(x: Value, width: number, gamma: Value | null, beta: Value | null, eps: number): Value {
    return this.units(
      x,
      { images: x.data.length / width, pixels: 1, channels: width, groups: 1 },
      gamma,
      beta,
      eps,
    );
  }

  private units(
    x: Value,
    units: { images: number; pixels: number; channels: number; groups: number },
    gamma: Value | null,
    beta: Value | null,
    eps: number,
  ): Value {
    const arrays = { x: x.data, ...(gamma && { gamma: gamma.data }), ...(beta && { beta: beta.data }) };
    const g = { ...units, eps };
    return this.record(x.shape, groupNormReference(g, arrays), [x, gamma, beta], (dy) => {
      const grads = groupNormReferenceGrad(g, arrays, dy);
      this.spread(grads.x, grads.direct);
      return [grads.x, grads.gamma, grads.beta];
    });
  }
}

/**
 * Whether rounding could turn a decision of `tape`: one that is nearer to 0 than 1e-5 of what such numbers are, or than what
 * noise makes of it. Exact zeros count only where noise moves them; NaN and infinity are nowhere near.
 */
export function isOnKink(tape: Tape, noisy: readonly Tape[]): boolean {
  return tape.decisions.some((values, k) => {
    const others = noisy.map(({ decisions }) => decisions[k]!);
    const places = [...values.keys()].filter((i) => Number.isFinite(values[i]!));
    const rms = (of: (i: number) => number) =>
      Math.sqrt(places.reduce((sum, i) => sum + of(i) ** 2, 0) / places.length);
    const moved = Math.max(...others.map((other) => rms((i) => other[i]! - values[i]!)));
    const margin = Math.max(1e-5 * rms((i) => values[i]!), 30 * moved);
    return places.some((i) => {
      const value = values[i]!;
      return Math.abs(value) <= margin && !(value === 0 && others.every((other) => other[i] === 0));
    });
  });
}
