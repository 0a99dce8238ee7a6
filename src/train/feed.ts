// Where a trainer's batches come from: a data set that lies on the GPU, or a loader that gives them one by one.

import type { AugmentOptions } from "../data/augment.ts";
import { Compose, type Transform } from "../data/compose.ts";
import type { ChannelMoments, ImageDataset } from "../data/dataset.ts";
import { DeviceDataset } from "../data/device-dataset.ts";
import { BatchSampler } from "../data/loader.ts";
import { DataError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import { isPlain, show } from "../options.ts";
import type { Plan } from "../plan.ts";
import { type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { describeData } from "./run-state.ts";

/** A batch in the host's memory. */
export interface HostBatch {
  /** What the model takes, of `shape`. */
  images: Float32Array;
  /** [B, …] */
  shape: readonly number[];
  /** Classes, or what a loss of numbers wants. */
  labels: Uint32Array | Float32Array;
  /** Of `labels`. Default [labels.length]. */
  labelShape?: readonly number[];
}

/** What gives batches, an epoch at a time: a `DataLoader`, a `StreamLoader`, or an object of your own. */
export interface BatchLoader {
  readonly batchSize: number;
  readonly batchesPerEpoch: number;
  /** The batches of an epoch, from number `start` on. Of an async one the next batch is asked for while the GPU has the last. */
  epoch(epoch: number, start?: number): Iterable<HostBatch> | AsyncIterable<HostBatch>;
}

/** The tensors of all batches of one size, and the step that was recorded with them. */
export interface Slot {
  readonly rows: number;
  readonly images: Tensor;
  readonly labels: Tensor;
  /** What the loss gets: the labels, or what transforms make of them. */
  readonly targets: Tensor;
  /** Dispatches what fills them, as part of the step; where nothing does, they are full. */
  gather(): void;
  plan: Plan<void> | null;
  dispose(): void;
}

export interface Feed {
  readonly batchesPerEpoch: number;
  /** Brings a batch to the GPU, or there what is needed to make it. */
  load(epoch: number, index: number): Slot | Promise<Slot>;
  /** Called when the step with the last batch is on its way: time to make the next. */
  ahead(): void;
  /** Forgets the recorded steps. */
  forgetPlans(): void;
  /** What has to be equal for a checkpoint to go on with these data. */
  describe(): Record<string, unknown>;
  dispose(): void;
}

export function isDataset(data: unknown): data is ImageDataset {
  const { images, labels } = (data ?? {}) as Partial<ImageDataset>;
  return images instanceof Uint8Array && labels instanceof Uint8Array;
}

export function isLoader(data: unknown): data is BatchLoader {
  const { batchSize, batchesPerEpoch, epoch } = (data ?? {}) as Partial<BatchLoader>;
  const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 1;
  return isCount(batchSize) && isCount(batchesPerEpoch) && typeof epoch === "function";
}

/** Batches of a data set on the GPU: a step moves nothing but image numbers from the host. */
export class DeviceFeed implements Feed {
  readonly batchesPerEpoch: number;
  private readonly sampler: BatchSampler;
  private readonly device: DeviceDataset;
  private readonly slots = new Map<number, Slot & { indices: Tensor; epoch: Tensor; compose: Compose }>();

  constructor(
    private readonly gpu: Gpu,
    private readonly dataset: ImageDataset,
    private readonly options: {
      batchSize: number;
      seed: number;
      dropLast: boolean;
      moments: ChannelMoments;
      augment: AugmentOptions | null;
      /** Of pixels from 0 to 1; `moments` are not used where there are some. */
      transforms: readonly Transform[];
    },
  ) {
    const { batchSize, seed, dropLast, augment, transforms } = options;
    const zeros = new Array<number>(dataset.channels).fill(0);
    const moments = transforms.length > 0 ? { mean: zeros, std: zeros.map(() => 1) } : options.moments;
    this.sampler = new BatchSampler({ count: dataset.count, batchSize, seed, dropLast });
    this.batchesPerEpoch = this.sampler.batchesPerEpoch;
    this.device = new DeviceDataset(gpu, dataset, { ...moments, seed, augment });
  }

  load(epoch: number, index: number): Slot {
    const indices = this.sampler.indices(epoch, index);
    const slot = this.slot(indices.length);
    slot.indices.write(indices);
    slot.epoch.write([epoch]);
    slot.compose.draw(epoch, indices);
    return slot;
  }

  private slot(rows: number) {
    const known = this.slots.get(rows);
    if (known) return known;
    const { gpu, dataset, device } = this;
    const { height, width, channels } = dataset;
    const indices = gpu.keep(gpu.empty([rows], "uint32"));
    const epoch = gpu.keep(gpu.empty([1], "uint32"));
    const gathered = gpu.keep(gpu.empty([rows, height, width, channels]));
    const labels = gpu.keep(gpu.empty([rows], "uint32"));
    const { transforms, seed } = this.options;
    const compose = new Compose(gpu, transforms, { images: gathered, labels, seed });
    const { images, targets } = compose;
    const slot = {
      ...{ rows, images, labels, targets, indices, epoch, compose, plan: null },
      gather: () => {
        device.gather(indices, epoch, gathered, labels);
        compose.run();
      },
      dispose: () => {
        disposeAll([indices, epoch, gathered, labels]);
        compose.dispose();
      },
    };
    this.slots.set(rows, slot);
    return slot;
  }

  ahead(): void {}

  forgetPlans(): void {
    forgetPlans(this.slots.values());
  }

  describe(): Record<string, unknown> {
    return { ...describeData(this.dataset) };
  }

  dispose(): void {
    disposeSlots(this.slots.values());
    this.device.dispose();
  }
}

/** Batches of a loader, written to tensors that stay. */
export class HostFeed implements Feed {
  readonly batchesPerEpoch: number;
  private readonly slots = new Map<string, Slot>();
  private batches: Iterator<HostBatch> | AsyncIterator<HostBatch> | null = null;
  private next: IteratorResult<HostBatch> | Promise<IteratorResult<HostBatch>> | null = null;
  private at = { epoch: 0, index: 0 };

  constructor(
    private readonly gpu: Gpu,
    private readonly loader: BatchLoader,
  ) {
    this.batchesPerEpoch = loader.batchesPerEpoch;
  }

  async load(epoch: number, index: number): Promise<Slot> {
    if (!this.batches || this.at.epoch !== epoch || this.at.index !== index) {
      this.close();
      const source = this.loader.epoch(epoch, index) as Iterable<HostBatch> & AsyncIterable<HostBatch>;
      this.batches = source[Symbol.asyncIterator]?.() ?? source[Symbol.iterator]();
    }
    const batch = await this.batch(epoch, index).catch((error: unknown) => {
      this.close(); // who tries again asks for this batch anew
      throw error;
    });
    this.at = { epoch, index: index + 1 };
    const { images, shape, labels, labelShape = [labels.length] } = batch;
    const key = `${shape}/${labelShape}/${labels.constructor.name}`;
    const slot = this.slots.get(key) ?? this.slot(key, shape, labelShape, labels instanceof Uint32Array);
    slot.images.write(images);
    slot.labels.write(labels);
    return slot;
  }

  private async batch(epoch: number, index: number): Promise<HostBatch> {
    const { done, value } = await (this.next ?? this.batches!.next());
    this.next = null;
    if (!done) return checkBatch(value);
    throw new DataError(
      `Trainer: the loader's epoch ${epoch} ended with batch ${index}; expected ${this.batchesPerEpoch} batches, as its batchesPerEpoch says`,
    );
  }

  private slot(key: string, shape: Shape, labelShape: Shape, classes: boolean): Slot {
    const { gpu } = this;
    const images = gpu.keep(gpu.empty(shape));
    const labels = gpu.keep(gpu.empty(labelShape, classes ? "uint32" : "float32"));
    const dispose = () => disposeAll([images, labels]);
    const targets = labels;
    const slot: Slot = { rows: shape[0]!, images, labels, targets, gather: () => {}, plan: null, dispose };
    this.slots.set(key, slot);
    return slot;
  }

  ahead(): void {
    if (!this.batches || this.at.index >= this.batchesPerEpoch) return;
    try {
      this.next = this.batches.next();
    } catch (error) {
      this.next = Promise.reject(error); // the step with the last batch is done, and counts
    }
    // Whoever awaits it hears of a failure; until then nobody does.
    if (this.next instanceof Promise) this.next.catch(() => {});
  }

  forgetPlans(): void {
    forgetPlans(this.slots.values());
  }

  private close(): void {
    const { batches } = this;
    this.batches = null;
    this.next = null;
    // Nobody waits for what a loader does at its end, or hears of its failure there.
    (async () => batches?.return?.())().catch(() => {});
  }

  describe(): Record<string, unknown> {
    const { batchSize, batchesPerEpoch } = this.loader;
    return { batchSize, batchesPerEpoch };
  }

  dispose(): void {
    this.close();
    disposeSlots(this.slots.values());
  }
}

/** @throws DataError unless it is a batch whose lengths go together. */
export function checkBatch(batch: unknown): HostBatch {
  const { images, shape, labels, labelShape } = (isPlain(batch) ? batch : {}) as Partial<HostBatch>;
  const isShape = (value: unknown): value is number[] =>
    Array.isArray(value) && value.length > 0 && value.every((size) => Number.isSafeInteger(size) && size > 0);
  const isRight =
    images instanceof Float32Array &&
    isShape(shape) &&
    sizeOf(shape) === images.length &&
    (labels instanceof Uint32Array || labels instanceof Float32Array) &&
    (labelShape === undefined
      ? labels.length === shape[0]
      : isShape(labelShape) && sizeOf(labelShape) === labels.length && labelShape[0] === shape[0]);
  if (isRight) return batch as HostBatch;
  throw new DataError(
    `Trainer: a batch is ${show(batch)} of images ${show(images)}, shape ${show(shape)}, labels ${show(labels)}, labelShape ${show(labelShape)}; ` +
      "expected { images: Float32Array, shape: [B, …], labels: Uint32Array or Float32Array } of lengths that go together",
  );
}

function forgetPlans(slots: Iterable<Slot>): void {
  for (const slot of slots) {
    slot.plan?.dispose();
    slot.plan = null;
  }
}

function disposeSlots(slots: Iterable<Slot>): void {
  for (const slot of slots) {
    slot.plan?.dispose();
    slot.dispose();
  }
}

function disposeAll(tensors: readonly Tensor[]): void {
  for (const tensor of tensors) tensor.dispose();
}
