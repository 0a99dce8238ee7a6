import { noGrad } from "../autograd/tape.ts";
import type { BufferRange } from "../device/buffers.ts";
import { ShapeError, UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { checkState, Module, type StateDict } from "../nn/module.ts";
import { isParameter } from "../nn/module-state.ts";
import { checkInstance, checkOptions, isPlain, optionNames, show } from "../options.ts";
import { isTensor } from "../tensor/brand.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { areNeighbours, BLOCK_BYTES, gridOf, placeOf } from "./packed.ts";

interface Entry {
  readonly parameter: Tensor;
  readonly average: Tensor;
  readonly byteOffset: number;
  readonly byteEnd: number;
}

/** Parameters that lie side by side, and their averages. */
interface Stretch {
  w: BufferRange | Tensor;
  a: BufferRange;
}

/** What `EMA` and `SWA` have in common. */
abstract class WeightAverage {
  /** True while the model has the averages. */
  private swapped = false;
  private readonly gpu: Gpu;
  private readonly averages: Tensor;
  private readonly entries: readonly Entry[];
  /** By name: one that layers share has several, and one average. */
  private readonly named: readonly (readonly [name: string, entry: Entry])[];
  private readonly count: Tensor;
  private readonly share: Tensor;

  /** @param latest the share of the newest weights; 0 for the plain average */
  protected constructor(
    private readonly name: string,
    model: Module,
    private readonly latest: number,
  ) {
    checkInstance(name, "model", model, Module);
    const parameters = [...model.tensors()].filter(([, tensor]) => isParameter(tensor));
    for (const [own, { dtype }] of parameters) {
      if (dtype !== "float32") throw new ShapeError(`${name}: ${own} is ${dtype}; expected float32`);
    }
    if (parameters.length === 0) {
      throw new UsageError(`${name}: model is ${show(model)} without parameters; expected one with some`);
    }
    const { gpu } = parameters[0]![1];
    this.gpu = gpu;
    const each = [...new Set(parameters.map(([, parameter]) => parameter))];
    let end = 0;
    const places = each.map(({ byteLength }) => {
      const byteOffset = end;
      end += Math.ceil(byteLength / BLOCK_BYTES) * BLOCK_BYTES;
      return { byteOffset, byteEnd: end };
    });
    this.averages = gpu.keep(gpu.zeros([end / 4]));
    this.entries = each.map((parameter, i) => {
      const { byteOffset, byteEnd } = places[i]!;
      const average = this.averages.part(byteOffset, parameter.shape);
      return { parameter, average, byteOffset, byteEnd };
    });
    this.named = parameters.map(([own, parameter]) => [own, this.entries[each.indexOf(parameter)]!]);
    this.count = gpu.keep(gpu.zeros([1], { dtype: "uint32" }));
    this.share = gpu.keep(gpu.zeros([1]));
  }

  /** Whether the model has the averages now. */
  get isSwapped(): boolean {
    return this.swapped;
  }

  /** Takes the model's weights into the averages: after `optimizer.step()`. May be captured. */
  update(): void {
    const { gpu, count, share, latest } = this;
    const check = () => {
      if (!this.swapped) return;
      throw new UsageError(
        `${this.name}.update: the model has the averages; expected its own weights: swap() first`,
      );
    };
    check();
    gpu.beforeReplay(check);
    const shader = shaders.average;
    const advance = { shader, entry: "advance", constants: { SHARE: latest } } as const;
    gpu.run(advance, { count, new_share: share }, [1], "average");
    for (const { w, a } of this.stretches()) {
      const vec4s = Math.ceil(w.byteLength / 16);
      gpu.run({ shader, entry: "blend" }, { a, w, share, length: { vec4s } }, gridOf(gpu, vec4s), "average");
    }
  }

  /**
   * Exchanges the model's weights for the averages, to evaluate or save the model with them; a second call exchanges them back.
   * Batch-norm's running statistics are those of the model's own weights: see `updateBatchNorm`.
   */
  swap(): void {
    const { gpu } = this;
    const shader = shaders.average;
    for (const { w, a } of this.stretches()) {
      const vec4s = Math.ceil(w.byteLength / 16);
      const bindings = { a, exchanged: w, length: { vec4s } };
      gpu.run({ shader, entry: "exchange" }, bindings, gridOf(gpu, vec4s), "average");
    }
    this.swapped = !this.swapped;
  }

  /** Neighbours in an optimizer's buffer as one, since they are neighbours here too; others alone. */
  private stretches(): Stretch[] {
    const stretches: Stretch[] = [];
    let before: Entry | null = null;
    for (const entry of this.entries) {
      const { parameter, byteOffset, byteEnd } = entry;
      const slot = placeOf(parameter);
      const last = stretches.at(-1);
      const isNext =
        slot !== null && before !== null && areNeighbours(placeOf(before.parameter) ?? undefined, slot);
      if (isNext && last && !isTensor(last.w)) {
        last.w.byteLength = slot.byteEnd - last.w.byteOffset;
        last.a.byteLength = byteEnd - last.a.byteOffset;
      } else {
        const byteLength = byteEnd - byteOffset;
        const w = slot
          ? {
              ...slot.packed.values.range,
              byteOffset: slot.byteOffset,
              byteLength: slot.byteEnd - slot.byteOffset,
            }
          : parameter;
        stretches.push({ w, a: { ...this.averages.range, byteOffset, byteLength } });
      }
      before = entry;
    }
    return stretches;
  }

  /** The averages, under PyTorch's names (of `AveragedModel`): `n_averaged`, and `module.` with the parameter's name. */
  async stateDict(): Promise<StateDict> {
    const state: StateDict = {
      n_averaged: { shape: [], dtype: "uint32", data: await this.count.read() },
    };
    for (const [name, { parameter, average }] of this.named) {
      const tensor = this.swapped ? parameter : average;
      state[`module.${name}`] = { shape: parameter.shape, dtype: "float32", data: await tensor.read() };
    }
    return state;
  }

  /** Goes on from `stateDict()` of an average over the same network. @throws ShapeError before anything is written */
  loadStateDict(state: StateDict): void {
    const op = `${this.name}.loadStateDict`;
    if (!isPlain(state))
      throw new ShapeError(`${op}: state is ${show(state)}; expected what stateDict() gave`);
    const names = ["n_averaged", ...this.named.map(([name]) => `module.${name}`)];
    const missing = names.find((name) => !Object.hasOwn(state, name));
    const unexpected = Object.keys(state).find((name) => !names.includes(name));
    if (missing !== undefined || unexpected !== undefined) {
      throw new ShapeError(
        `${op}: ${missing ?? unexpected} is ${missing === undefined ? "unexpected" : "missing"}; expected the state of the same network's average`,
      );
    }
    const count = state.n_averaged as Partial<StateDict[string]> | undefined;
    const [n] = count?.data ?? [];
    if (!Number.isInteger(n) || n! < 0 || n! >= 2 ** 32 || count?.data?.length !== 1) {
      throw new ShapeError(
        `${op}: n_averaged is ${show(n ?? count)} in the state; expected one whole number from 0`,
      );
    }
    for (const [name, { average }] of this.named)
      checkState(op, `module.${name}`, state[`module.${name}`], average);
    this.count.write([n!]);
    for (const [name, { parameter, average }] of this.named) {
      (this.swapped ? parameter : average).write(state[`module.${name}`]!.data);
    }
  }

  /** Gives the averages back; the model keeps the weights that it has. */
  dispose(): void {
    for (const { average } of this.entries) average.dispose();
    for (const tensor of [this.averages, this.count, this.share]) tensor.dispose();
  }
}

/** Options of `EMA`. */
export interface EMAOptions {
  /** The share of the average so far, below 1. Default 0.999. */
  decay?: number;
}

const EMA_OPTIONS = optionNames<EMAOptions>({ decay: 0 });

/**
 * Exponential moving average of a model's weights: decay·average + (1 − decay)·weights in each `update()`, the weights themselves in
 * the first, as PyTorch's `AveragedModel` with `get_ema_multi_avg_fn(decay)`.
 */
export class EMA extends WeightAverage {
  constructor(model: Module, options: EMAOptions = {}) {
    checkOptions("EMA", options, EMA_OPTIONS);
    const { decay = 0.999 } = options;
    if (typeof decay !== "number" || !(decay >= 0 && decay < 1)) {
      throw new UsageError(`EMA: decay is ${show(decay)}; expected a number from 0 to 1, 1 not included`);
    }
    super("EMA", model, 1 - decay);
  }
}

/**
 * Stochastic weight averaging (Izmailov et al. 2018): the plain average of the weights at each `update()`, once an epoch, say, as
 * PyTorch's `AveragedModel`. `swap()`, then `updateBatchNorm`, before the model is used with it.
 */
export class SWA extends WeightAverage {
  constructor(model: Module) {
    super("SWA", model, 0);
  }
}

/** What `updateBatchNorm` takes for a batch: images on the GPU, alone or as `images`; or a `Batch` of a `DataLoader`. */
export type ImageBatch =
  | Tensor
  | { readonly images: Tensor }
  | { readonly images: Float32Array; readonly shape: readonly number[] };

/** A batch-norm with running statistics, that is not frozen. */
interface Tracked {
  runningMean: Tensor;
  momentum: number | null;
  frozen: false;
  resetRunningStats(): void;
}

/**
 * Works the running statistics of all batch-norms out anew, as the averages over the batches that `loader` gives, as PyTorch's
 * `update_bn`: for weights that no step of the training had, those of `EMA` and `SWA`. Batches count alike, so leave a small last
 * one out. The model's modes are as before when it is done.
 */
export async function updateBatchNorm(
  model: Module,
  loader: Iterable<ImageBatch> | AsyncIterable<ImageBatch>,
): Promise<void> {
  checkInstance("updateBatchNorm", "model", model, Module);
  const source = loader as unknown as Record<symbol, unknown> | null;
  if (
    typeof (source?.[Symbol.iterator] ?? source?.[Symbol.asyncIterator]) !== "function" ||
    typeof loader === "string"
  ) {
    throw new UsageError(
      `updateBatchNorm: loader is ${show(loader)}; expected batches, as dataLoader.epoch(0) gives them`,
    );
  }
  const modules = [...model.modules()].map(([, module]) => module);
  const norms = (modules as unknown as Tracked[]).filter(
    ({ runningMean, frozen }) => isTensor(runningMean) && frozen === false,
  );
  if (norms.length === 0) return;
  const modes = modules.map(({ training }) => training);
  const momenta = norms.map(({ momentum }) => momentum);
  const { gpu } = norms[0]!.runningMean;
  try {
    for (const norm of norms) {
      norm.resetRunningStats();
      norm.momentum = null;
    }
    model.train();
    for await (const batch of loader) {
      noGrad(() => gpu.scope(() => model.forward(imagesOf(gpu, batch)).materialize()).dispose());
    }
  } finally {
    for (const [i, module] of modules.entries()) module.training = modes[i]!;
    for (const [i, norm] of norms.entries()) norm.momentum = momenta[i]!;
  }
}

function imagesOf(gpu: Gpu, batch: ImageBatch): Tensor {
  if (isTensor(batch)) return batch.detach();
  const { images, shape } = (isPlain(batch) ? batch : {}) as { images?: unknown; shape?: readonly number[] };
  if (isTensor(images)) return images.detach();
  if (ArrayBuffer.isView(images) && Array.isArray(shape)) return gpu.tensor(images, shape);
  throw new UsageError(
    `updateBatchNorm: a batch is ${show(batch)}; expected a Tensor of images, { images: Tensor }, or a batch of a DataLoader`,
  );
}
