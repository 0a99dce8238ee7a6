// Random programs: straight-line code over tensors, as data. An executor runs it with the package, an interpreter in float64.

import { Random } from "../../src/tensor/random.ts";
import { type Shape, sizeOf } from "../../src/tensor/shape.ts";
import type { ACTIVATIONS } from "../helpers/activations.ts";
import { hash } from "../helpers/choices.ts";
import { normals } from "../helpers/numbers.ts";

/** A tensor by number: leaves first, then what steps make. */
export type Ref = number;

/** In the body of a chain: what the step before made. */
export const CHAIN: Ref = -1;

interface Moment {
  scale: number;
  offset: number;
}

/** An input or a parameter. */
export interface Leaf extends Moment {
  kind: "input" | "parameter";
  shape: Shape;
  requiresGrad: boolean;
}

/** A batch-norm's running statistics. */
export interface Running {
  channels: number;
  /** Counts batches. */
  tracked: boolean;
}

export interface Conv2dStep {
  op: "conv2d";
  x: Ref;
  /** Its direction, where there is a length. */
  weight: Ref;
  /** One for each filter, by `weightNorm`. */
  length: Ref | null;
  bias: Ref | null;
  stride: number;
  padding: number;
  groups: number;
}

export interface BatchNormStep {
  op: "batchNorm";
  x: Ref;
  gamma: Ref | null;
  beta: Ref | null;
  residual: Ref | null;
  activation: (typeof ACTIVATIONS)[number];
  training: boolean;
  /** The layer after `freezeBatchNorm` and `train()`: no training, whatever the layer is told. */
  frozen: boolean;
  /** The layer with `skipNonFinite`. */
  skips: boolean;
  /** Index into `Program.running`. */
  running: number | null;
  momentum: number | null;
  eps: number;
}

/** Over groups of channels of an image; over the last axes, of these sizes; over each channel of an image, or by running statistics. */
export type UnitNormStep = { x: Ref; gamma: Ref | null; beta: Ref | null; eps: number } & (
  | { op: "groupNorm"; channels: number; groups: number }
  | { op: "layerNorm"; shape: Shape }
  | { op: "instanceNorm"; channels: number; training: boolean; running: number | null; momentum: number }
);

/** To the power of a number or of a tensor of one for each channel, from `least` and up to `most` first. */
export interface PowStep {
  op: "pow";
  x: Ref;
  exponent: number;
  power: Ref | null;
  least: number | null;
  most: number | null;
}

export interface PoolStep {
  op: "maxPool2d" | "avgPool2d";
  x: Ref;
  kernel: number;
  stride: number;
  padding: number;
  ceilMode: boolean;
  /** Of averages. */
  countIncludePad: boolean;
}

export interface ConvTranspose2dStep {
  op: "convTranspose2d";
  x: Ref;
  weight: Ref;
  bias: Ref | null;
  stride: number;
  padding: number;
}

/** Of rows: one loss each, or their mean. */
export interface CrossEntropyStep {
  op: "crossEntropy";
  x: Ref;
  rows: number;
  classes: number;
  labelSmoothing: number;
  weighted: boolean;
  /** Rows of class 1. */
  ignores: boolean;
  reduction: "mean" | "none";
}

/** What is dropped together: each element by itself, channels of an image, or images. */
export interface DropoutStep {
  op: "dropout";
  x: Ref;
  p: number;
  together: "element" | "channel" | "image";
}

/** What a layer may do, and a chain. */
export type UnaryStep =
  | Conv2dStep
  | ConvTranspose2dStep
  | DropoutStep
  | { op: "activate"; x: Ref; activation: (typeof ACTIVATIONS)[number] }
  | { op: "interpolate"; x: Ref; size: readonly [number, number]; mode: "nearest" | "bilinear" }
  | { op: "adaptiveAvgPool2d"; x: Ref; size: readonly [number, number] }
  | BatchNormStep
  | UnitNormStep
  | PoolStep
  | PowStep
  | { op: "clamp"; x: Ref; min: number | null; max: number | null }
  | { op: "relu"; x: Ref }
  | { op: "flatten"; x: Ref }
  | { op: "reshape"; x: Ref; shape: Shape }
  | { op: "linear"; x: Ref; weight: Ref; length: Ref | null; bias: Ref | null };

export type MakingStep =
  | UnaryStep
  /** `half`: a cast to float16 and back. `double`: 2x by a kernel of the program's own, out of the graph. */
  | { op: "detach" | "globalAvgPool2d" | "softmax" | "half" | "double"; x: Ref }
  | CrossEntropyStep
  | { op: "max" | "min"; x: Ref; axes: readonly number[]; keepDims: boolean }
  | { op: "add" | "sub" | "mul" | "maximum" | "minimum"; a: Ref; b: Ref }
  /** a where x compares so with the number, b elsewhere. */
  | { op: "where"; x: Ref; is: "lt" | "le" | "gt" | "ge"; than: number; a: Ref; b: Ref }
  | { op: "scale"; x: Ref; factor: number }
  | { op: "permute"; x: Ref; axes: readonly number[] }
  | { op: "slice"; x: Ref; starts: readonly number[]; ends: readonly number[] }
  | { op: "pad"; x: Ref; padding: readonly (readonly [number, number])[] }
  | { op: "concat"; xs: readonly Ref[]; axis: number }
  | { op: "subsample"; x: Ref; stride: number; channels: number }
  | { op: "mean"; x: Ref; axes: readonly number[] }
  | {
      op: "chain";
      how: "scope" | "nested" | "layers" | "sequential" | "checkpoint";
      x: Ref;
      body: readonly UnaryStep[];
    };

export type Step = (
  | MakingStep
  | { op: "read" | "dispose"; x: Ref }
  /** By `tensor.fill`, or by a kernel of the program's own that gets the tensor or its range. */
  | { op: "fill"; x: Ref; value: number; by: "fill" | "kernel" | "range" }
  /** New numbers from the host, for an input. */
  | { op: "write"; x: Ref }
) & {
  /** Number of the tensor that it makes; those that make none have one too. */
  out: Ref;
  noGrad?: boolean;
};

export interface SgdOptions {
  lr: number;
  momentum: number;
  dampening: number;
  weightDecay: number;
  nesterov: boolean;
}

export interface Program {
  leaves: readonly Leaf[];
  running: readonly Running[];
  steps: readonly Step[];
  /** What no step reads: read in the end; those that require a gradient get an upstream one. */
  sinks: readonly { x: Ref; shape: Shape; requiresGrad: boolean }[];
  /** Optimiser steps, or runs of the plan. */
  iterations: number;
  /** Batches whose gradients add up before each of them. */
  batches: number;
  capture: boolean;
  scope: "none" | "forward" | "all";
  /** Disposes the handles of intermediate results before backward. */
  early: boolean;
  /** The only sink's `backward(upstream)`, instead of the sum of products of all of them. */
  upstream: boolean;
  sgd: SgdOptions | null;
  /** Of the gradients of the parameters, before each step of the optimiser. */
  clip: { norm: number; type: number } | { value: number } | null;
  /**
   * An input that gets one such element in every batch of an iteration. That iteration shows nothing, and ends without a step of the
   * optimiser; what it leaves behind is seen in the next one, and in the running statistics.
   */
  poison: { iteration: number; input: Ref; at: number; value: number } | null;
  seed: number;
}

/** The tensors that a step reads. */
export function refsOf(step: MakingStep | Step): Ref[] {
  switch (step.op) {
    case "convTranspose2d":
      return [step.x, step.weight, step.bias].filter((ref) => ref !== null);
    case "conv2d":
    case "linear":
      return [step.x, step.weight, step.length, step.bias].filter((ref) => ref !== null);
    case "groupNorm":
    case "layerNorm":
    case "instanceNorm":
      return [step.x, step.gamma, step.beta].filter((ref) => ref !== null);
    case "pow":
      return [step.x, step.power].filter((ref) => ref !== null);
    case "where":
      return [step.x, step.a, step.b];
    case "batchNorm":
      return [step.x, step.gamma, step.beta, step.residual].filter((ref) => ref !== null);
    case "add":
    case "sub":
    case "mul":
    case "maximum":
    case "minimum":
      return [step.a, step.b];
    case "concat":
      return [...step.xs];
    case "chain":
      return [step.x, ...step.body.flatMap(refsOf).filter((ref) => ref !== CHAIN)];
    default:
      return [step.x];
  }
}

/** A program as code to read: what fast-check prints for a case that fails. */
export function show(program: Program): string {
  const { leaves } = program;
  const name = (ref: Ref) =>
    ref === CHAIN
      ? "y"
      : ref >= leaves.length
        ? `v${ref}`
        : `${leaves[ref]!.kind === "input" ? "x" : "w"}${ref}`;
  const lines = leaves.map(({ shape, requiresGrad, scale, offset }, i) => {
    const numbers = `${scale} * normal${offset === 0 ? "" : ` + ${offset}`}`;
    return `const ${name(i)} = tensor(${numbers}, [${shape.join(", ")}]${requiresGrad ? ", requiresGrad" : ""})`;
  });
  const call = (step: MakingStep | Step): string => {
    const { op, ...rest } = step as { op: string } & Record<string, unknown>;
    const refs = ["length", "bias", "gamma", "beta", "residual", "power"];
    const defaults: Record<string, unknown> = {
      stride: 1,
      groups: 1,
      padding: 0,
      running: null,
      activation: "none",
      ceilMode: false,
      countIncludePad: true,
      by: "fill",
      frozen: false,
      skips: false,
      keepDims: false,
    };
    const options = Object.entries(rest)
      .filter(([key]) => !["x", "a", "b", "xs", "weight", "body", "out", "noGrad"].includes(key))
      .filter(([key, value]) => (refs.includes(key) ? value !== null : value !== defaults[key]))
      .map(([key, value]) => `${key}: ${refs.includes(key) ? name(value as Ref) : JSON.stringify(value)}`);
    const operands = ["x", "a", "b", "weight"]
      .filter((key) => key in rest)
      .map((key) => name(rest[key] as Ref));
    if (op === "concat") operands.push(`[${(rest.xs as Ref[]).map(name).join(", ")}]`);
    if (op === "chain") operands.unshift(`(y) => ${(rest.body as UnaryStep[]).map(call).join(" → ")}`);
    return `${op}(${[...operands, ...(options.length > 0 ? [`{ ${options.join(", ")} }`] : [])].join(", ")})`;
  };
  for (const step of program.steps) {
    const makes = !["read", "dispose", "fill", "write"].includes(step.op);
    const body = `${makes ? `const ${name(step.out)} = ` : ""}${call(step)}`;
    lines.push(step.noGrad ? `${body} // in noGrad` : body);
  }
  const { leaves: _, steps: __, running, sinks, ...how } = program;
  lines.push(
    `// sinks ${sinks.map(({ x, requiresGrad }) => name(x) + (requiresGrad ? "" : " (no gradient)")).join(", ")}`,
  );
  if (running.length > 0) lines.push(`// running ${JSON.stringify(running)}`);
  const spelt = (_: string, value: unknown) =>
    typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
  lines.push(`// ${JSON.stringify(how, spelt)}`);
  return lines.join("\n");
}

/** What a run of a program shows, by name; null for a gradient that there is none of. */
export type Observations = Map<string, Float64Array | null>;

/** Normal numbers for a program, the same for the same name: the executor and the interpreter start from them. */
export function dataOf(
  program: Program,
  what: string,
  shape: Shape,
  { scale, offset }: Moment = { scale: 1, offset: 0 },
): Float64Array {
  return normals(sizeOf(shape), hash(program.seed, what), offset, scale);
}

/** Those of leaf `ref`; of inputs for one batch, and after so many writes in it. */
export function leafData(program: Program, ref: Ref, batch: string, writes = 0): Float64Array {
  const leaf = program.leaves[ref]!;
  const isInput = leaf.kind === "input";
  const data = dataOf(program, isInput ? `${ref} ${batch} ${writes}` : `${ref}`, leaf.shape, leaf);
  const { poison } = program;
  if (poison?.input === ref && batchNames(program)[poison.iteration]!.includes(batch)) {
    data[poison.at % data.length] = poison.value;
  }
  return data;
}

export function runningData(program: Program, index: number): { mean: Float64Array; variance: Float64Array } {
  const shape = [program.running[index]!.channels];
  const variance = dataOf(program, `variance ${index}`, shape);
  return {
    mean: dataOf(program, `mean ${index}`, shape),
    variance: variance.map((v) => Math.fround(v * v + 0.2)),
  };
}

/** The labels of a loss, and the weights of its classes. */
export function lossData(
  program: Program,
  step: CrossEntropyStep,
): { labels: Uint32Array; weight: Float32Array } {
  const of = `${step.rows}x${step.classes}`;
  return {
    labels: Uint32Array.from({ length: step.rows }, (_, i) => hash(program.seed, of, i) % step.classes),
    weight: Float32Array.from(dataOf(program, of, [step.classes]), (v) => 0.3 + Math.abs(v)),
  };
}

/** By which a draw of a program's generator multiplies what is dropped together. */
export function dropoutMask(program: Program, draw: number, count: number, p: number): Float64Array {
  const random = new Random([program.seed, 0], [draw, 0]);
  return Float64Array.from({ length: count }, () =>
    random.uint32() >= Math.round(p * 2 ** 32) ? 1 / (1 - p) : 0,
  );
}

/** Names of batches, in the order in which they are run: [iteration][batch]. A plan sees one input in each run. */
export function batchNames({ iterations, batches, capture }: Program): string[][] {
  return Array.from({ length: iterations }, (_, t) =>
    Array.from({ length: batches }, (_, m) => (capture ? `run ${t}` : `step ${t} batch ${m}`)),
  );
}
