// Random programs: straight-line code over tensors, as data. An executor runs it with the package, an interpreter in float64.

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
  weight: Ref;
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
  /** Index into `Program.running`. */
  running: number | null;
  momentum: number | null;
  eps: number;
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

/** What a layer may do, and a chain. */
export type UnaryStep =
  | Conv2dStep
  | BatchNormStep
  | PoolStep
  | { op: "relu"; x: Ref }
  | { op: "flatten"; x: Ref }
  | { op: "reshape"; x: Ref; shape: Shape }
  | { op: "linear"; x: Ref; weight: Ref; bias: Ref | null };

export type MakingStep =
  | UnaryStep
  /** `half`: a cast to float16 and back. `double`: 2x by a kernel of the program's own, out of the graph. */
  | { op: "detach" | "globalAvgPool2d" | "softmax" | "half" | "double"; x: Ref }
  | { op: "add" | "sub" | "mul"; a: Ref; b: Ref }
  | { op: "scale"; x: Ref; factor: number }
  | { op: "permute"; x: Ref; axes: readonly number[] }
  | { op: "slice"; x: Ref; starts: readonly number[]; ends: readonly number[] }
  | { op: "pad"; x: Ref; padding: readonly (readonly [number, number])[] }
  | { op: "concat"; xs: readonly Ref[]; axis: number }
  | { op: "subsample"; x: Ref; stride: number; channels: number }
  | { op: "mean"; x: Ref; axes: readonly number[] }
  | { op: "groupNorm"; x: Ref; groups: number }
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
  seed: number;
}

/** The tensors that a step reads. */
export function refsOf(step: MakingStep | Step): Ref[] {
  switch (step.op) {
    case "conv2d":
    case "linear":
      return [step.x, step.weight, ...(step.bias === null ? [] : [step.bias])];
    case "batchNorm":
      return [step.x, step.gamma, step.beta, step.residual].filter((ref) => ref !== null);
    case "add":
    case "sub":
    case "mul":
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
    const refs = ["bias", "gamma", "beta", "residual"];
    const defaults: Record<string, unknown> = {
      stride: 1,
      groups: 1,
      padding: 0,
      running: null,
      activation: "none",
      ceilMode: false,
      countIncludePad: true,
      by: "fill",
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
  lines.push(`// ${JSON.stringify(how)}`);
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
  return dataOf(program, leaf.kind === "input" ? `${ref} ${batch} ${writes}` : `${ref}`, leaf.shape, leaf);
}

export function runningData(program: Program, index: number): { mean: Float64Array; variance: Float64Array } {
  const shape = [program.running[index]!.channels];
  const variance = dataOf(program, `variance ${index}`, shape);
  return {
    mean: dataOf(program, `mean ${index}`, shape),
    variance: variance.map((v) => Math.fround(v * v + 0.2)),
  };
}

/** Names of batches, in the order in which they are run: [iteration][batch]. A plan sees one input in each run. */
export function batchNames({ iterations, batches, capture }: Program): string[][] {
  return Array.from({ length: iterations }, (_, t) =>
    Array.from({ length: batches }, (_, m) => (capture ? `run ${t}` : `step ${t} batch ${m}`)),
  );
}
