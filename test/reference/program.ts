// Runs a program of test/property/program.ts in float64.

import {
  batchNames,
  CHAIN,
  dataOf,
  dropoutMask,
  leafData,
  lossData,
  type MakingStep,
  type Observations,
  type Program,
  runningData,
  type SgdOptions,
} from "../property/program.ts";
import { sizeOf, Tape, type Value } from "./autodiff.ts";
import { channelStatistics } from "./batch-norm.ts";
import { interpolateReference } from "./interpolate.ts";
import { adaptiveAvgPool2dReference } from "./pool2d.ts";

type Shape4 = readonly [number, number, number, number];

interface Running {
  mean: Float64Array;
  variance: Float64Array;
  count: number;
  noise: (values: Float64Array) => Float64Array;
}

/**
 * What the program shows. `noise`: see `Tape`; the leaves get it too.
 * `tapes`: of each batch, for the decisions that were taken.
 */
export function interpret(
  program: Program,
  noise: (values: Float64Array) => Float64Array = (values) => values,
): { observed: Observations; tapes: Tape[] } {
  const observed: Observations = new Map();
  const tapes: Tape[] = [];
  const leaves = program.leaves.map(
    ({ shape, requiresGrad }, i): Value => ({
      shape,
      data: noise(leafData(program, i, "")),
      requiresGrad,
      grad: null,
    }),
  );
  const draws = { count: 0 };
  const running = program.running.map((_, i): Running => ({ ...runningData(program, i), count: 0, noise }));
  const velocities = new Map<Value, Float64Array>();
  const trained = leaves.filter((leaf, i) => leaf.requiresGrad && program.leaves[i]!.kind === "parameter");
  batchNames(program).forEach((names, iteration) => {
    for (const leaf of leaves) leaf.grad = null;
    const isPoisoned = program.poison?.iteration === iteration;
    names.forEach((batch, m) => {
      const tape = new Tape(noise);
      tapes.push(tape);
      leaves.forEach((leaf, i) => {
        if (program.leaves[i]!.kind === "input" && !(program.capture && m > 0)) {
          leaf.data = noise(leafData(program, i, batch));
        }
      });
      const values = runSteps(tape, program, leaves, running, draws, (ref, writes) =>
        noise(leafData(program, ref, batch, writes)),
      );
      const last = !program.capture || m === names.length - 1;
      for (const { x } of program.sinks) {
        if (last && !isPoisoned) observed.set(`step ${iteration} batch ${m} v${x}`, values.get(x)!.data);
      }
      backward(tape, program, values);
    });
    if (isPoisoned) return;
    if (program.clip && trained.length > 0) {
      const norm = clipped(trained, program.clip);
      if (norm !== null) observed.set(`step ${iteration} norm`, Float64Array.of(norm));
    }
    leaves.forEach((leaf, i) => {
      if (leaf.requiresGrad) observed.set(`step ${iteration} gradient of ${i}`, leaf.grad);
      if (program.sgd && program.leaves[i]!.kind === "parameter" && leaf.grad) {
        sgdStep(leaf, velocities, program.sgd);
      }
    });
  });
  leaves.forEach((leaf, i) => {
    if (program.sgd && program.leaves[i]!.kind === "parameter") observed.set(`${i} in the end`, leaf.data);
  });
  running.forEach(({ mean, variance, count }, i) => {
    observed.set(`running mean ${i}`, mean);
    observed.set(`running variance ${i}`, variance);
    if (program.running[i]!.tracked) observed.set(`batches tracked ${i}`, Float64Array.of(count));
  });
  return { observed, tapes };
}

function backward(tape: Tape, program: Program, values: Map<number, Value>): void {
  const sinks = program.sinks.filter(({ requiresGrad }) => requiresGrad).map(({ x }) => x);
  if (sinks.length === 0) return;
  const upstream = (x: number) => dataOf(program, `upstream ${x}`, values.get(x)!.shape);
  if (program.upstream && sinks.length === 1) {
    tape.backward(values.get(sinks[0]!)!, upstream(sinks[0]!));
    return;
  }
  const terms = sinks.map((x) => {
    const y = values.get(x)!;
    return tape.sum(
      tape.mul(y, tape.leaf(y.shape, upstream(x))),
      y.shape.map((_, axis) => axis),
    );
  });
  tape.backward(
    terms.reduce((a, b) => tape.add(a, b)),
    Float64Array.of(1),
  );
}

function runSteps(
  tape: Tape,
  program: Program,
  leaves: readonly Value[],
  running: Running[],
  draws: { count: number },
  rewritten: (ref: number, writes: number) => Float64Array,
): Map<number, Value> {
  const values = new Map<number, Value>(leaves.entries());
  const writes = new Map<number, number>();
  const make = (step: MakingStep, chain: Value | null): Value => {
    const at = (ref: number) => (ref === CHAIN ? chain! : values.get(ref)!);
    const maybe = (ref: number | null) => (ref === null ? null : at(ref));
    const weightOf = ({ weight, length }: { weight: number; length: number | null }) => {
      const v = at(weight);
      if (length === null) return v;
      const rest = v.shape.map((_, axis) => axis).slice(1);
      const squares = tape.sum(tape.mul(v, v), rest, true);
      const none = tape.leaf(squares.shape, new Float64Array(squares.data.length));
      return tape.mul(tape.normalize(v, none, squares, 0), at(length));
    };
    switch (step.op) {
      case "conv2d": {
        const { stride: s, padding: p, groups } = step;
        const options = { bias: maybe(step.bias), stride: [s, s], padding: [p, p, p, p], groups } as const;
        return tape.conv2d(at(step.x), weightOf(step), options);
      }
      case "batchNorm": {
        const x = at(step.x);
        const stats = step.running === null ? null : running[step.running]!;
        const { eps, activation } = step;
        const options = { eps, activation, residual: maybe(step.residual) };
        const used = step.training ? options : { ...options, running: { ...stats! } };
        const y = tape.batchNorm(x, maybe(step.gamma), maybe(step.beta), used);
        if (step.training && stats) move(stats, tape.channelStatistics(x), step.momentum, step.skips);
        return y;
      }
      case "maxPool2d":
      case "avgPool2d": {
        const { kernel: k, stride: s, padding: p, ceilMode, countIncludePad } = step;
        const windows = { kernel: [k, k], stride: [s, s], padding: [p, p, p, p] } as const;
        return tape[step.op](at(step.x), { ...windows, ceilMode, countIncludePad });
      }
      case "convTranspose2d": {
        const [x, weight] = [at(step.x), at(step.weight)];
        const { stride: s, padding: p } = step;
        return tape.convTranspose2d(x, weight, maybe(step.bias), {
          ...{ x: x.shape as Shape4, weight: weight.shape as Shape4, groups: 1 },
          ...{ stride: [s, s], padding: [p, p, p, p], dilation: [1, 1], outputPadding: [0, 0] },
        });
      }
      case "activate":
        return step.activation === "none" ? at(step.x) : tape.activation(at(step.x), step.activation);
      case "dropout": {
        const x = at(step.x);
        const last = x.shape.length - 1;
        const shape = x.shape.map((size, i) =>
          step.together === "element" || i === 0 || (step.together === "channel" && i === last) ? size : 1,
        );
        const mask = dropoutMask(
          program,
          draws.count,
          shape.reduce((a, b) => a * b, 1),
          step.p,
        );
        draws.count += 1;
        return tape.mul(x, tape.leaf(shape, mask));
      }
      case "interpolate": {
        const x = at(step.x);
        const { size, mode } = step;
        const [n, , , c] = x.shape as Shape4;
        return tape.linearMap(x, [n, ...size, c], (data) =>
          interpolateReference(data, x.shape as Shape4, { mode, size, alignCorners: false, factor: null }),
        );
      }
      case "adaptiveAvgPool2d": {
        const x = at(step.x);
        const [n, , , c] = x.shape as Shape4;
        return tape.linearMap(x, [n, ...step.size, c], (data) =>
          adaptiveAvgPool2dReference(data, x.shape as Shape4, step.size),
        );
      }
      case "max":
      case "min":
        return tape.extreme(at(step.x), step.axes, Math[step.op], step.keepDims);
      case "crossEntropy": {
        const { labels, weight } = lossData(program, step);
        const { labelSmoothing, reduction } = step;
        return tape.crossEntropy(at(step.x), labels, {
          ...{ labelSmoothing, reduction },
          ...(step.weighted && { weight }),
          ...(step.ignores && { ignoreIndex: 1 }),
        });
      }
      case "relu":
      case "softmax":
      case "detach":
      case "half":
        return tape[step.op](at(step.x));
      case "double":
        return tape.detach(tape.scale(at(step.x), 2));
      case "flatten": {
        const x = at(step.x);
        return tape.reshape(x, [x.shape[0]!, x.data.length / x.shape[0]!]);
      }
      case "linear":
        return tape.linear(at(step.x), weightOf(step), maybe(step.bias));
      case "globalAvgPool2d":
        return tape.mean(at(step.x), [1, 2]);
      case "add":
      case "sub":
      case "mul":
      case "maximum":
      case "minimum":
        return tape[step.op](at(step.a), at(step.b));
      case "scale":
        return tape.scale(at(step.x), step.factor);
      case "reshape":
        return tape.reshape(at(step.x), step.shape);
      case "permute":
        return tape.permute(at(step.x), step.axes);
      case "slice":
        return tape.slice(
          at(step.x),
          step.starts,
          step.ends,
          step.starts.map(() => 1),
        );
      case "pad":
        return tape.pad(at(step.x), step.padding, 0);
      case "concat":
        return tape.concat(step.xs.map(at), step.axis);
      case "subsample":
        return tape.subsample(at(step.x), step.stride, step.channels);
      case "mean":
        return tape.mean(at(step.x), step.axes);
      case "where":
        return tape.where(at(step.x), step.is, step.than, at(step.a), at(step.b));
      case "clamp":
        return tape.clamp(at(step.x), step.min, step.max);
      case "pow": {
        const { exponent, least, most } = step;
        const x = least === null && most === null ? at(step.x) : tape.clamp(at(step.x), least, most);
        return step.power === null ? tape.power(x, exponent) : tape.powerOf(x, at(step.power));
      }
      case "groupNorm":
        return tape.groupNorm(at(step.x), step.groups, maybe(step.gamma), maybe(step.beta), step.eps);
      case "layerNorm":
        return tape.layerNorm(at(step.x), sizeOf(step.shape), maybe(step.gamma), maybe(step.beta), step.eps);
      case "instanceNorm": {
        const x = at(step.x);
        const [gamma, beta] = [maybe(step.gamma), maybe(step.beta)];
        const stats = step.running === null ? null : running[step.running]!;
        const { eps } = step;
        if (stats && !step.training) return tape.batchNorm(x, gamma, beta, { eps, running: { ...stats } });
        if (stats) moveToInstances(stats, x, step.momentum);
        return tape.groupNorm(x, x.shape.at(-1)!, gamma, beta, eps);
      }
      case "chain":
        return step.body.reduce((y, each) => make(each, y), at(step.x));
    }
  };
  for (const step of program.steps) {
    switch (step.op) {
      case "read":
      case "dispose":
        break;
      case "fill":
        values.get(step.x)!.data = values.get(step.x)!.data.map(() => Math.fround(step.value));
        break;
      case "write": {
        const count = (writes.get(step.x) ?? 0) + 1;
        writes.set(step.x, count);
        values.get(step.x)!.data = rewritten(step.x, count);
        break;
      }
      default:
        values.set(step.out, step.noGrad ? tape.noGrad(() => make(step, null)) : make(step, null));
    }
  }
  return values;
}

/** As PyTorch: the unbiased variance; without a momentum the average over all batches. `skips`: not if float32 could not hold it. */
function move(
  stats: Running,
  { mean, variance, count }: { mean: Float64Array; variance: Float64Array; count: number },
  momentum: number | null,
  skips: boolean,
): void {
  const share = momentum ?? 1 / (stats.count + 1);
  const moved = (old: Float64Array, now: (c: number) => number) => {
    const noisy = stats.noise(old); // what is rounded is of its size, also where nothing is left of it
    return old.map((value, c) => value + share * (now(c) - value) + (noisy[c]! - value));
  };
  const next = {
    mean: moved(stats.mean, (c) => mean[c]!),
    variance: moved(stats.variance, (c) => (variance[c]! * count) / (count - 1)),
  };
  const holds = (data: Float64Array) => data.every((value) => Number.isFinite(Math.fround(value)));
  if (skips && !(holds(next.mean) && holds(next.variance))) return;
  Object.assign(stats, next, { count: stats.count + 1 });
}

/** Towards the averages of the statistics of each image. */
function moveToInstances(stats: Running, { shape, data }: Value, momentum: number): void {
  const channels = shape.at(-1)!;
  const pixels = data.length / (shape[0]! * channels);
  const images = Array.from({ length: shape[0]! }, (_, i) =>
    channelStatistics(
      { count: pixels, channels },
      data.subarray(i * pixels * channels, (i + 1) * pixels * channels),
    ),
  );
  const average = (of: (image: (typeof images)[number]) => number) =>
    images.reduce((sum, image) => sum + of(image), 0) / images.length;
  move(
    stats,
    {
      mean: stats.mean.map((_, c) => average(({ mean }) => mean[c]!)),
      variance: stats.variance.map((_, c) => average(({ variance }) => variance[c]!)),
      count: pixels,
    },
    momentum,
    false,
  );
}

/** PyTorch's rules. Returns the norm before, if the norm is what is limited. */
function clipped(trained: readonly Value[], how: NonNullable<Program["clip"]>): number | null {
  const elements = trained.flatMap(({ grad }) => (grad ? [...grad] : []));
  if ("value" in how) {
    for (const leaf of trained)
      leaf.grad = leaf.grad?.map((g) => Math.min(Math.max(g, -how.value), how.value)) ?? null;
    return null;
  }
  const norm =
    how.type === Number.POSITIVE_INFINITY
      ? elements.reduce((most, g) => Math.max(most, Math.abs(g)), 0)
      : elements.reduce((sum, g) => sum + Math.abs(g) ** how.type, 0) ** (1 / how.type);
  const factor = Math.min(1, how.norm / (norm + 1e-6));
  for (const leaf of trained) leaf.grad = leaf.grad?.map((g) => g * factor) ?? null;
  return norm;
}

/** PyTorch's rule. */
function sgdStep(leaf: Value, velocities: Map<Value, Float64Array>, options: SgdOptions): void {
  const { lr, momentum, dampening, weightDecay, nesterov } = options;
  const decayed = leaf.grad!.map((g, i) => g + weightDecay * leaf.data[i]!);
  const old = velocities.get(leaf);
  const velocity = old ? old.map((v, i) => momentum * v + (1 - dampening) * decayed[i]!) : decayed;
  velocities.set(leaf, velocity);
  const update =
    momentum === 0 ? decayed : nesterov ? decayed.map((g, i) => g + momentum * velocity[i]!) : velocity;
  leaf.data = leaf.data.map((w, i) => w - lr * update[i]!);
}
