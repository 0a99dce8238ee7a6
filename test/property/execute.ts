// Runs a program of ./program.ts with the package.

import { checkpoint } from "../../src/autograd/checkpoint.ts";
import { noGrad } from "../../src/autograd/tape.ts";
import type { Binding } from "../../src/device/bindings.ts";
import type { Gpu } from "../../src/gpu.ts";
import { BatchNorm2d, freezeBatchNorm } from "../../src/nn/batch-norm.ts";
import { AvgPool2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential } from "../../src/nn/layers.ts";
import { Module } from "../../src/nn/module.ts";
import { GroupNorm, InstanceNorm2d, LayerNorm } from "../../src/nn/norms.ts";
import { weightNorm } from "../../src/nn/weight-norm.ts";
import { activate, relu } from "../../src/ops/activations.ts";
import { adaptiveAvgPool2d } from "../../src/ops/adaptive-pool2d.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { cast } from "../../src/ops/cast.ts";
import { concat } from "../../src/ops/concat.ts";
import { convTranspose2d } from "../../src/ops/conv-transpose2d.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { dropout, dropout2d, stochasticDepth } from "../../src/ops/dropout.ts";
import { ge, gt, le, lt, where } from "../../src/ops/elementwise/compare.ts";
import { add, maximum, minimum, mul, scale, sub } from "../../src/ops/elementwise/elementwise.ts";
import { groupNorm } from "../../src/ops/group-norm/group-norm.ts";
import { layerNorm } from "../../src/ops/group-norm/layer-norm.ts";
import { interpolate } from "../../src/ops/interpolate.ts";
import { linear } from "../../src/ops/linear.ts";
import { pad } from "../../src/ops/pad.ts";
import { permute } from "../../src/ops/permute.ts";
import { avgPool2d, globalAvgPool2d, maxPool2d } from "../../src/ops/pool2d.ts";
import { max, min } from "../../src/ops/reduce/extremes.ts";
import { mean, sum } from "../../src/ops/reduce/reduce.ts";
import { flatten, reshape } from "../../src/ops/reshape.ts";
import { slice } from "../../src/ops/slice.ts";
import { softmax } from "../../src/ops/softmax/softmax.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { subsample } from "../../src/ops/subsample.ts";
import { clamp, pow } from "../../src/ops/unary.ts";
import { clipGradNorm, clipGradValue } from "../../src/optim/clip.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { newGenerator } from "../../src/tensor/generator.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import {
  batchNames,
  CHAIN,
  type CrossEntropyStep,
  type DropoutStep,
  dataOf,
  leafData,
  lossData,
  type MakingStep,
  type Observations,
  type PoolStep,
  type PowStep,
  type Program,
  type Ref,
  runningData,
  type Step,
  type UnaryStep,
} from "./program.ts";

export interface Executed {
  observed: Observations;
  /** Names of the kernels that ran; empty where the host reads in between. */
  kernels: string[];
}

/**
 * @param folds `batchNorm`'s option of that name
 * @param spoilt a tensor that is overwritten between forward and backward
 */
export async function execute(
  gpu: Gpu,
  program: Program,
  folds: boolean,
  spoilt: Ref | null = null,
): Promise<Executed> {
  const run = new Run(gpu, program, folds, spoilt);
  try {
    return await run.execute();
  } finally {
    run.dispose();
  }
}

/** A user's own kernels. */
const OWN = {
  name: "own",
  source: /* wgsl */ `
    @group(0) @binding(0) var<storage, read_write> y: array<f32>;
    @group(0) @binding(1) var<storage, read> x: array<f32>;
    @group(0) @binding(2) var<uniform> p: vec2<f32>; // elements, value
    @compute @workgroup_size(64) fn assign(@builtin(global_invocation_id) id: vec3<u32>) {
      if (id.x < u32(p.x)) { y[id.x] = p.y; }
    }
    @compute @workgroup_size(64) fn multiply(@builtin(global_invocation_id) id: vec3<u32>) {
      if (id.x < u32(p.x)) { y[id.x] = p.y * x[id.x]; }
    }`,
};

const COMPARISONS = { lt, le, gt, ge };

const poolOptions = ({ stride, padding, ceilMode }: PoolStep) => ({ stride, padding, ceilMode });
const averageOptions = (step: PoolStep) => ({ ...poolOptions(step), countIncludePad: step.countIncludePad });

/** As float16 has it. */
function half(x: Tensor): Tensor {
  const narrow = cast(x, "float16");
  const out = cast(narrow, "float32");
  narrow.dispose();
  return out;
}

/** A user's own layer. */
class Own extends Module {
  constructor(private readonly op: (x: Tensor) => Tensor) {
    super();
  }
  forward(x: Tensor): Tensor {
    return this.op(x);
  }
}

/** What only a layer does. */
function isLayer(step: MakingStep | Step): boolean {
  switch (step.op) {
    case "conv2d":
    case "linear":
      return step.length !== null;
    case "batchNorm":
      return step.frozen || step.skips;
    default:
      return step.op === "instanceNorm";
  }
}

class Run {
  private readonly leaves: Tensor[];
  private readonly running: { mean: Tensor; variance: Tensor; count: Tensor | null }[];
  private readonly upstream = new Map<Ref, Tensor>();
  private readonly losses = new Map<MakingStep, { labels: Tensor; weight: Tensor }>();
  private readonly generator: Tensor;
  private readonly layers = new Map<UnaryStep, Module>();
  private readonly sequences = new Map<MakingStep, Sequential>();
  private readonly trained: Tensor[];
  private readonly optimizer: SGD | null;
  private readonly observed: Observations = new Map();
  private readonly kernels: string[] = [];

  constructor(
    private readonly gpu: Gpu,
    private readonly program: Program,
    private readonly folds: boolean,
    private readonly spoilt: Ref | null,
  ) {
    this.leaves = program.leaves.map(({ shape, requiresGrad }, i) =>
      gpu.tensor(leafData(program, i, ""), shape, { requiresGrad }),
    );
    this.running = program.running.map(({ channels, tracked }, i) => {
      const { mean, variance } = runningData(program, i);
      const vector = (data: Float64Array) => gpu.tensor(data, [channels]);
      return { mean: vector(mean), variance: vector(variance), count: tracked ? gpu.zeros([1]) : null };
    });
    for (const { x, shape } of program.sinks)
      this.upstream.set(x, gpu.tensor(dataOf(program, `upstream ${x}`, shape), shape));
    this.generator = newGenerator(gpu, program.seed);
    for (const step of program.steps) {
      if (step.op === "crossEntropy") {
        const { labels, weight } = lossData(program, step);
        this.losses.set(step, {
          labels: gpu.tensor(labels, [step.rows], { dtype: "uint32" }),
          weight: gpu.tensor(weight, [step.classes]),
        });
      }
      if (step.op !== "chain") {
        if (isLayer(step)) this.layers.set(step as UnaryStep, this.layerOf(step as UnaryStep));
        continue;
      }
      for (const each of step.body) this.layers.set(each, this.layerOf(each));
      this.sequences.set(step, new Sequential(...step.body.map((each) => this.layers.get(each)!)));
    }
    this.trained = this.leaves.filter(
      (leaf, i) => program.leaves[i]!.kind === "parameter" && leaf.requiresGrad,
    );
    this.optimizer = program.sgd && this.trained.length > 0 ? new SGD(this.trained, program.sgd) : null;
  }

  async execute(): Promise<Executed> {
    const { program, gpu } = this;
    const names = batchNames(program);
    if (program.capture) {
      this.writeInputs(names[0]![0]!);
      const plan = this.explained(() =>
        gpu.capture(() => {
          this.zeroGrad();
          let sinks: Tensor[] = [];
          for (const batch of names[0]!) {
            for (const sink of sinks) sink.dispose();
            sinks = this.forwardBackward(batch);
          }
          const norm = this.clip();
          this.optimizer?.step();
          return norm ? [...sinks, norm] : sinks;
        }),
      );
      try {
        for (const [t, [batch]] of names.entries()) {
          if (t > 0) {
            this.writeInputs(batch!);
            plan.run();
          }
          if (program.poison?.iteration === t) continue;
          await this.observeSinks(`step ${t} batch ${program.batches - 1}`, plan.result);
          const norm = plan.result[program.sinks.length];
          if (norm) this.observed.set(`step ${t} norm`, Float64Array.from(await norm.read()));
          await this.observeGradients(t);
        }
      } finally {
        this.zeroGrad();
        plan.dispose();
      }
    } else {
      for (const [t, batches] of names.entries()) {
        this.zeroGrad();
        for (const [m, batch] of batches.entries()) {
          this.writeInputs(batch);
          const sinks = this.readsBetween
            ? await this.withReads(batch)
            : this.explained(() => this.forwardBackward(batch));
          if (program.poison?.iteration !== t) await this.observeSinks(`step ${t} batch ${m}`, sinks);
          for (const sink of sinks) sink.dispose();
        }
        if (program.poison?.iteration === t) continue;
        const norm = this.clip();
        if (norm) {
          this.observed.set(`step ${t} norm`, Float64Array.from(await norm.read()));
          norm.dispose();
        }
        await this.observeGradients(t);
        this.optimizer?.step();
      }
    }
    await this.observeEnd();
    return { observed: this.observed, kernels: this.kernels };
  }

  dispose(): void {
    this.optimizer?.dispose();
    const stats = this.running.flatMap(({ mean, variance, count }) => [mean, variance, count]);
    const losses = [...this.losses.values()].flatMap(({ labels, weight }) => [labels, weight]);
    for (const tensor of [...this.leaves, ...stats, ...losses, ...this.upstream.values(), this.generator])
      tensor?.dispose();
  }

  private get readsBetween(): boolean {
    return this.program.steps.some(({ op }) => op === "read");
  }

  private explained<T>(body: () => T): T {
    let result: T | undefined;
    const notes = this.gpu.explain(() => {
      result = body();
    });
    this.kernels.push(...notes.map(({ kernel }) => kernel));
    return result!;
  }

  /** The norm before, if the norm is what is limited. */
  private clip(): Tensor | null {
    const { clip } = this.program;
    if (!clip || this.trained.length === 0) return null;
    if ("norm" in clip) return clipGradNorm(this.trained, clip.norm, { normType: clip.type });
    clipGradValue(this.trained, clip.value);
    return null;
  }

  // --- one batch ---------------------------------------------------------------------------------------

  private forwardBackward(batch: string): Tensor[] {
    const { gpu, program } = this;
    const forward = () => {
      const steps = this.runSteps(batch);
      const next = steps.next();
      if (!next.done) throw new Error("a read where nothing can wait");
      return next.value;
    };
    if (program.scope === "all") {
      return gpu.scope(() => {
        const values = forward();
        this.backward(values);
        return this.sinksOf(values);
      });
    }
    let values: Map<Ref, Tensor>;
    if (program.scope === "forward") {
      const sinks = gpu.scope(() => this.sinksOf(forward()));
      values = new Map(program.sinks.map(({ x }, i) => [x, sinks[i]!]));
    } else values = forward();
    return this.finish(values);
  }

  private async withReads(batch: string): Promise<Tensor[]> {
    const steps = this.runSteps(batch);
    let next = steps.next();
    while (!next.done) {
      await next.value;
      next = steps.next();
    }
    return this.finish(next.value);
  }

  private finish(values: Map<Ref, Tensor>): Tensor[] {
    const sinks = this.sinksOf(values);
    const others = [...values].filter(([ref, value]) => ref >= this.leaves.length && !sinks.includes(value));
    const dispose = () => {
      for (const [, value] of others) value.dispose();
    };
    try {
      if (this.spoilt !== null) values.get(this.spoilt)!.fill(7);
      if (this.program.early) dispose();
      this.backward(values);
    } catch (error) {
      for (const sink of sinks) sink.dispose();
      throw error;
    } finally {
      dispose();
    }
    return sinks;
  }

  private sinksOf(values: Map<Ref, Tensor>): Tensor[] {
    return this.program.sinks.map(({ x }) => values.get(x)!);
  }

  private backward(values: Map<Ref, Tensor>): void {
    const { program, gpu } = this;
    const sinks = program.sinks.filter(({ requiresGrad }) => requiresGrad).map(({ x }) => x);
    if (sinks.length === 0) return;
    if (program.upstream && sinks.length === 1) {
      values.get(sinks[0]!)!.backward(this.upstream.get(sinks[0]!)!);
      return;
    }
    gpu.scope(() => {
      const terms = sinks.map((x) => sum(mul(values.get(x)!, this.upstream.get(x)!)));
      terms.reduce((a, b) => add(a, b)).backward();
    });
  }

  private *runSteps(batch: string): Generator<Promise<unknown>, Map<Ref, Tensor>> {
    const values = new Map<Ref, Tensor>(this.leaves.entries());
    const writes = new Map<Ref, number>();
    for (const step of this.program.steps) {
      switch (step.op) {
        case "read":
          yield values.get(step.x)!.read();
          break;
        case "dispose":
          values.get(step.x)!.dispose();
          break;
        case "fill":
          this.fill(values.get(step.x)!, step.value, step.by);
          break;
        case "write": {
          const count = (writes.get(step.x) ?? 0) + 1;
          writes.set(step.x, count);
          values.get(step.x)!.write(leafData(this.program, step.x, batch, count));
          break;
        }
        default:
          values.set(step.out, step.noGrad ? noGrad(() => this.make(step, values)) : this.make(step, values));
      }
    }
    return values;
  }

  private make(step: MakingStep, values: Map<Ref, Tensor>, chain: Tensor | null = null): Tensor {
    const at = (ref: Ref) => (ref === CHAIN ? chain! : values.get(ref)!);
    const maybe = (ref: Ref | null) => (ref === null ? null : at(ref));
    if (isLayer(step)) {
      const layer = this.layers.get(step as UnaryStep)!;
      if (step.op !== "batchNorm") return layer.forward(at((step as UnaryStep).x));
      const tail = { activation: step.activation, residual: maybe(step.residual) };
      return (layer as BatchNorm2d).forward(at(step.x), tail);
    }
    switch (step.op) {
      case "conv2d": {
        const { stride, padding, groups } = step;
        return conv2d(at(step.x), at(step.weight), { bias: maybe(step.bias), stride, padding, groups });
      }
      case "batchNorm": {
        const stats = step.running === null ? null : this.running[step.running]!;
        return batchNorm(at(step.x), maybe(step.gamma), maybe(step.beta), {
          training: step.training,
          runningMean: stats?.mean ?? null,
          runningVar: stats?.variance ?? null,
          numBatchesTracked: stats?.count ?? null,
          momentum: step.momentum,
          eps: step.eps,
          activation: step.activation,
          residual: maybe(step.residual),
          folds: this.folds,
        });
      }
      case "maxPool2d":
        return maxPool2d(at(step.x), step.kernel, poolOptions(step));
      case "avgPool2d":
        return avgPool2d(at(step.x), step.kernel, averageOptions(step));
      case "half":
        return half(at(step.x));
      case "double":
        return this.double(at(step.x));
      case "convTranspose2d": {
        const { stride, padding } = step;
        return convTranspose2d(at(step.x), at(step.weight), { bias: maybe(step.bias), stride, padding });
      }
      case "activate":
        return activate("activate", at(step.x), step.activation);
      case "dropout":
        return this.dropout(step, at(step.x));
      case "interpolate":
        return interpolate(at(step.x), { size: step.size, mode: step.mode });
      case "adaptiveAvgPool2d":
        return adaptiveAvgPool2d(at(step.x), step.size);
      case "max":
        return max(at(step.x), step.axes, { keepDims: step.keepDims });
      case "min":
        return min(at(step.x), step.axes, { keepDims: step.keepDims });
      case "maximum":
        return maximum(at(step.a), at(step.b));
      case "minimum":
        return minimum(at(step.a), at(step.b));
      case "where": {
        const condition = COMPARISONS[step.is](at(step.x), step.than);
        const out = where(condition, at(step.a), at(step.b));
        condition.dispose();
        return out;
      }
      case "clamp":
        return clamp(at(step.x), step.min, step.max);
      case "pow":
        return this.power(step, at(step.x), maybe(step.power));
      case "crossEntropy":
        return this.crossEntropy(step, at(step.x));
      case "relu":
        return relu(at(step.x));
      case "softmax":
        return softmax(at(step.x));
      case "detach":
        return at(step.x).detach();
      case "flatten":
        return flatten(at(step.x));
      case "linear":
        return linear(at(step.x), at(step.weight), maybe(step.bias));
      case "globalAvgPool2d":
        return globalAvgPool2d(at(step.x));
      case "add":
        return add(at(step.a), at(step.b));
      case "sub":
        return sub(at(step.a), at(step.b));
      case "mul":
        return mul(at(step.a), at(step.b));
      case "scale":
        return scale(at(step.x), step.factor);
      case "reshape":
        return reshape(at(step.x), step.shape);
      case "permute":
        return permute(at(step.x), step.axes);
      case "slice":
        return slice(at(step.x), step.starts, step.ends);
      case "pad":
        return pad(at(step.x), step.padding);
      case "concat":
        return concat(step.xs.map(at), step.axis);
      case "subsample":
        return subsample(at(step.x), { stride: step.stride, channels: step.channels });
      case "mean":
        return mean(at(step.x), step.axes);
      case "groupNorm":
        return groupNorm(at(step.x), step.groups, maybe(step.gamma), maybe(step.beta), step.eps);
      case "layerNorm":
        return layerNorm(at(step.x), step.shape, maybe(step.gamma), maybe(step.beta), step.eps);
      case "instanceNorm":
        throw new Error("instance norms are layers");
      case "chain":
        return this.chain(step, values, at(step.x));
    }
  }

  private dropout({ p, together }: DropoutStep, x: Tensor): Tensor {
    const { generator } = this;
    if (together === "element") return dropout(x, generator, { p });
    if (together === "channel") return dropout2d(x, generator, { p });
    return stochasticDepth(x, generator, { p, mode: "row" });
  }

  private power({ exponent, least, most }: PowStep, x: Tensor, power: Tensor | null): Tensor {
    if (least === null && most === null) return pow(x, power ?? exponent);
    const bounded = clamp(x, least, most);
    const out = pow(bounded, power ?? exponent);
    bounded.dispose();
    return out;
  }

  private crossEntropy(step: CrossEntropyStep, logits: Tensor): Tensor {
    const { labels, weight } = this.losses.get(step)!;
    const { labelSmoothing, reduction } = step;
    return softmaxCrossEntropy(logits, labels, {
      ...{ labelSmoothing, reduction },
      ...(step.weighted && { weight }),
      ...(step.ignores && { ignoreIndex: 1 }),
    });
  }

  private fill(x: Tensor, value: number, by: "fill" | "kernel" | "range"): void {
    if (by === "fill") x.fill(value);
    else this.ownKernel("assign", [by === "range" ? x.range : x, null], x.size, value);
  }

  private double(x: Tensor): Tensor {
    const y = this.gpu.empty(x.shape);
    this.ownKernel("multiply", [y, x], x.size, 2);
    return y;
  }

  private ownKernel(entry: string, bindings: Binding[], size: number, value: number): void {
    const constants = Float32Array.of(size, value);
    this.gpu.run({ shader: OWN, entry }, [...bindings, constants], [Math.ceil(size / 64)]);
  }

  private chain(step: MakingStep & { op: "chain" }, values: Map<Ref, Tensor>, x: Tensor): Tensor {
    const { gpu } = this;
    const functions = (input: Tensor) => step.body.reduce((y, each) => this.make(each, values, y), input);
    const layers = (input: Tensor) => step.body.reduce((y, each) => this.layers.get(each)!.forward(y), input);
    switch (step.how) {
      case "scope":
        return gpu.scope(() => functions(x));
      case "nested":
        return gpu.scope(() => gpu.scope(() => functions(x)));
      case "layers":
        return gpu.scope(() => layers(x));
      case "sequential":
        return this.sequences.get(step)!.forward(x);
      case "checkpoint":
        return checkpoint(layers, x);
    }
  }

  private layerOf(step: UnaryStep): Module {
    const { gpu } = this;
    const shape = (ref: Ref) => this.program.leaves[ref]!.shape;
    const own = (ref: Ref | null) => (ref === null ? null : this.leaves[ref]!);
    switch (step.op) {
      case "conv2d": {
        const [K, R, S, C] = shape(step.weight) as [number, number, number, number];
        const { stride, padding, groups } = step;
        const layer = new Conv2d(gpu, C * groups, K, [R, S], { stride, padding, groups, bias: false });
        layer.weight.dispose();
        return this.weighted(Object.assign(layer, { bias: own(step.bias) }), step);
      }
      case "linear": {
        const [K, C] = shape(step.weight) as [number, number];
        const layer = new Linear(gpu, C, K, { bias: false });
        layer.weight.dispose();
        return this.weighted(Object.assign(layer, { bias: own(step.bias) }), step);
      }
      case "batchNorm": {
        const stats = step.running === null ? null : this.running[step.running]!;
        const channels = stats?.mean.size ?? (step.gamma === null ? 1 : shape(step.gamma)[0]!);
        const { eps, momentum } = step;
        const layer = new BatchNorm2d(gpu, channels, {
          ...{ eps, momentum, affine: false, trackRunningStats: false, fused: this.folds || "elementwise" },
          skipNonFinite: step.skips,
        });
        Object.assign(layer, {
          ...{ weight: own(step.gamma), bias: own(step.beta) },
          ...{ runningMean: stats?.mean ?? null, runningVar: stats?.variance ?? null },
          ...{ numBatchesTracked: stats?.count ?? null },
        });
        if (!step.frozen) return layer.train(step.training);
        for (const tensor of [layer.weight, layer.bias]) if (tensor) tensor.requiresGrad = true;
        return freezeBatchNorm(layer).train();
      }
      case "groupNorm": {
        const channels = step.channels;
        const layer = new GroupNorm(gpu, step.groups, channels, { eps: step.eps, affine: false });
        return Object.assign(layer, { weight: own(step.gamma), bias: own(step.beta) });
      }
      case "layerNorm": {
        const layer = new LayerNorm(gpu, step.shape, { eps: step.eps, elementwiseAffine: false });
        return Object.assign(layer, { weight: own(step.gamma), bias: own(step.beta) });
      }
      case "instanceNorm": {
        const stats = step.running === null ? null : this.running[step.running]!;
        const { eps, momentum } = step;
        const layer = new InstanceNorm2d(gpu, step.channels, { eps, momentum, affine: false });
        return Object.assign(layer, {
          ...{ weight: own(step.gamma), bias: own(step.beta) },
          ...{ runningMean: stats?.mean ?? null, runningVar: stats?.variance ?? null },
        }).train(step.training);
      }
      case "relu":
        return new ReLU();
      case "flatten":
        return new Flatten();
      case "maxPool2d":
        return new MaxPool2d(step.kernel, poolOptions(step));
      case "avgPool2d":
        return new AvgPool2d(step.kernel, averageOptions(step));
      default:
        return new Own((x) => this.make(step, new Map(this.leaves.entries()), x));
    }
  }

  /** With the program's own weight, or the two that it is worked out of. */
  private weighted<T extends Conv2d | Linear>(
    layer: T,
    { weight, length }: { weight: Ref; length: Ref | null },
  ): T {
    layer.weight = this.leaves[weight]!;
    if (length === null) return layer;
    weightNorm(layer);
    const { weight: parametrization } = layer.parametrizations!;
    parametrization.original0.dispose();
    Object.assign(parametrization, { original0: this.leaves[length]! });
    return layer;
  }

  // --- around it ---------------------------------------------------------------------------------------

  private zeroGrad(): void {
    for (const leaf of this.leaves) leaf.zeroGrad();
  }

  private writeInputs(batch: string): void {
    this.program.leaves.forEach(({ kind }, i) => {
      if (kind === "input") this.leaves[i]!.write(leafData(this.program, i, batch));
    });
  }

  private async observeSinks(where: string, sinks: readonly Tensor[]): Promise<void> {
    const read = await Promise.all(sinks.map((sink) => sink.read()));
    this.program.sinks.forEach(({ x }, i) => {
      this.observed.set(`${where} v${x}`, Float64Array.from(read[i]!));
    });
  }

  private async observeGradients(iteration: number): Promise<void> {
    await Promise.all(
      this.leaves.map(async (leaf, i) => {
        if (!leaf.requiresGrad) return;
        const data = leaf.grad && Float64Array.from(await leaf.grad.read());
        this.observed.set(`step ${iteration} gradient of ${i}`, data);
      }),
    );
  }

  private async observeEnd(): Promise<void> {
    const read = async (name: string, tensor: Tensor | null) => {
      if (tensor) this.observed.set(name, Float64Array.from(await tensor.read()));
    };
    await Promise.all([
      ...this.leaves.map((leaf, i) =>
        read(
          `${i} in the end`,
          this.program.sgd && this.program.leaves[i]!.kind === "parameter" ? leaf : null,
        ),
      ),
      ...this.running.flatMap(({ mean, variance, count }, i) => [
        read(`running mean ${i}`, mean),
        read(`running variance ${i}`, variance),
        read(`batches tracked ${i}`, count),
      ]),
    ]);
  }
}
