// Small programs around batch-norm, written once: the package runs them, and the reference runs them in float64.

import { relu } from "../../src/ops/activations.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { cast } from "../../src/ops/cast.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { add, mul, scale } from "../../src/ops/elementwise/elementwise.ts";
import { linear } from "../../src/ops/linear.ts";
import { avgPool2d, globalAvgPool2d, maxPool2d } from "../../src/ops/pool2d.ts";
import { flatten, reshape } from "../../src/ops/reshape.ts";
import { slice } from "../../src/ops/slice.ts";
import type { Shape } from "../../src/tensor/shape.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { hash } from "../helpers/choices.ts";
import { normals } from "../helpers/numbers.ts";
import type { ActivationName } from "../reference/activations.ts";
import { Tape, type Value } from "../reference/autodiff.ts";

export interface NormOptions<T> {
  /** Names of the parameters. Default `gamma`, `beta`, each followed by the name of the batch-norm. */
  name?: string;
  activation?: ActivationName;
  residual?: T;
  /** Inference: with the running statistics of this name. */
  frozen?: string;
  /** Training that moves the running statistics of this name. */
  running?: string;
}

/** What a program can do. `T`: a tensor of the package, or a value of the reference. */
export interface Ops<T> {
  conv(x: T, weight: T, options?: { bias?: T; stride?: number; padding?: number }): T;
  /** Batch-norm with the parameters that the program has under that name. */
  norm(x: T, options?: NormOptions<T>): T;
  relu(x: T): T;
  add(a: T, b: T): T;
  mul(a: T, b: T): T;
  scale(x: T, factor: number): T;
  half(x: T): T;
  float(x: T): T;
  reshape(x: T, shape: Shape): T;
  flatten(x: T): T;
  slice(x: T, starts: Shape, ends: Shape): T;
  maxPool(x: T): T;
  avgPool(x: T): T;
  globalAvgPool(x: T): T;
  linear(x: T, weight: T): T;
}

export interface Program {
  /**
   * Shapes of the leaves. What begins with `w` is a weight, scaled by its fan-in; `gamma…` lies around 1; `mean…` and
   * `variance…` are running statistics and get no gradient.
   */
  leaves: Record<string, Shape>;
  /** Returns the one tensor that gets an upstream gradient. */
  run<T>(ops: Ops<T>, t: Record<string, T>): T;
}

export const isStatistic = (name: string) => /^(mean|variance)/.test(name);

/** The numbers that a leaf starts with. */
export function leafData(name: string, shape: Shape, seed: number): Float64Array {
  const size = sizeOf(shape);
  const of = hash(seed, name);
  if (name.startsWith("variance")) return normals(size, of).map((v) => Math.fround(v * v + 0.3));
  if (name.startsWith("gamma")) return normals(size, of, 1, 0.3);
  if (name.startsWith("w")) return normals(size, of, 0, Math.sqrt(shape[0]! / size));
  return normals(size, of, name.startsWith("x") ? 0.5 : 0);
}

const EPS = 1e-5;
const MOMENTUM = 0.1;

/** The package's ops on the tensors `t`; `folds` is `batchNorm`'s option of that name. */
export function packageOps(t: Record<string, Tensor>, folds: boolean): Ops<Tensor> {
  return {
    conv: (x, weight, { bias = undefined, stride = 1, padding = 1 } = {}) =>
      conv2d(x, weight, { stride, padding, bias: bias ?? null }),
    norm: (x, { name = "", activation = "none", residual, frozen, running } = {}) => {
      const statistics = frozen ?? running;
      return batchNorm(x, t[`gamma${name}`] ?? null, t[`beta${name}`] ?? null, {
        training: frozen === undefined,
        runningMean: statistics === undefined ? null : t[`mean${statistics}`]!,
        runningVar: statistics === undefined ? null : t[`variance${statistics}`]!,
        momentum: MOMENTUM,
        eps: EPS,
        activation: activation as "relu",
        residual: residual ?? null,
        folds,
      });
    },
    relu,
    add,
    mul,
    scale,
    half: (x) => cast(x, "float16"),
    float: (x) => cast(x, "float32"),
    reshape,
    flatten,
    slice,
    maxPool: (x) => maxPool2d(x, 3, { stride: 2, padding: 1 }),
    avgPool: (x) => avgPool2d(x, 2),
    globalAvgPool: globalAvgPool2d,
    linear: (x, weight) => linear(x, weight, null),
  };
}

function referenceOps(tape: Tape, t: Record<string, Value>): Ops<Value> {
  return {
    conv: (x, weight, { bias = undefined, stride = 1, padding: p = 1 } = {}) =>
      tape.conv2d(x, weight, { bias: bias ?? null, stride: [stride, stride], padding: [p, p, p, p] }),
    norm: (x, { name = "", activation = "none", residual, frozen, running } = {}) => {
      const given = frozen === undefined ? undefined : statisticsOf(t, frozen);
      const y = tape.batchNorm(x, t[`gamma${name}`] ?? null, t[`beta${name}`] ?? null, {
        eps: EPS,
        activation,
        residual: residual ?? null,
        ...(given && { running: given }),
      });
      if (running !== undefined) {
        const { mean, variance, count } = tape.channelStatistics(x);
        const moved = (old: Float64Array, now: (c: number) => number) =>
          old.map((v, c) => v + MOMENTUM * (now(c) - v));
        const [m, v] = [t[`mean${running}`]!, t[`variance${running}`]!];
        m.data = moved(m.data, (c) => mean[c]!);
        v.data = moved(v.data, (c) => (variance[c]! * count) / (count - 1));
      }
      return y;
    },
    relu: (x) => tape.activation(x, "relu"),
    add: (a, b) => tape.add(a, b),
    mul: (a, b) => tape.mul(a, b),
    scale: (x, factor) => tape.scale(x, factor),
    half: (x) => tape.half(x),
    float: (x) => x,
    reshape: (x, shape) => tape.reshape(x, shape),
    flatten: (x) => tape.reshape(x, [x.shape[0]!, sizeOf(x.shape) / x.shape[0]!]),
    slice: (x, starts, ends) =>
      tape.slice(
        x,
        starts,
        ends,
        starts.map(() => 1),
      ),
    maxPool: (x) => tape.maxPool2d(x, { kernel: [3, 3], stride: [2, 2], padding: [1, 1, 1, 1] }),
    avgPool: (x) => tape.avgPool2d(x, { kernel: [2, 2], stride: [2, 2], padding: [0, 0, 0, 0] }),
    globalAvgPool: (x) => tape.mean(x, [1, 2]),
    linear: (x, weight) => tape.linear(x, weight, null),
  };
}

const statisticsOf = (t: Record<string, Value>, name: string) => ({
  mean: t[`mean${name}`]!.data,
  variance: t[`variance${name}`]!.data,
});

export interface Expected {
  shape: Shape;
  out: Float64Array;
  upstream: Float64Array;
  /** By leaf: its gradient; for running statistics what they are afterwards. */
  leaves: Record<string, Float64Array | null>;
}

/** What a program gives in float64. @throws Error where rounding would decide on which side of a kink a number lies */
export function reference({ leaves, run }: Program, seed: number): Expected {
  const tape = new Tape();
  const values = Object.fromEntries(
    Object.entries(leaves).map(([name, shape]) => [
      name,
      tape.leaf(shape, leafData(name, shape, seed), !isStatistic(name)),
    ]),
  );
  const out = run(referenceOps(tape, values), values);
  const upstream = normals(out.data.length, hash(seed, "upstream"));
  // Zeros are what a ReLU has made: those are equal in float32 too.
  const nearest = Math.min(
    ...tape.decisions.flatMap((values) =>
      values.reduce((a, v) => (v === 0 ? a : Math.min(a, Math.abs(v))), 1),
    ),
  );
  if (nearest < 1e-6) throw new Error(`seed ${seed}: a number is ${nearest} from a kink; take another seed`);
  const { data, shape } = out;
  tape.backward(out, upstream);
  return {
    shape,
    out: data,
    upstream,
    leaves: Object.fromEntries(
      Object.entries(values).map(([name, value]) => [name, isStatistic(name) ? value.data : value.grad]),
    ),
  };
}
