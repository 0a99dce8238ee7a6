import { ShapeError } from "../errors.ts";
import { Random } from "../tensor/random.ts";
import { type AugmentOptions, augmentation, checkAugment, copyWindow } from "./augment.ts";
import { type ImageDataset, normalizationTable } from "./dataset.ts";

/** The order in which `epoch` visits `count` images: a permutation that depends on its arguments only. */
export function epochOrder(seed: number, epoch: number, count: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  return new Random(seed, epoch).fork("epoch-order").shuffle(order);
}

export interface BatchSamplerOptions {
  /** Images in the data set. */
  count: number;
  batchSize: number;
  /** An integer from 0 to 2³²−1. */
  seed: number;
  /** A new order in each epoch; the file's order otherwise. Default true. */
  shuffle?: boolean;
  /** Leave out a last batch that is not full. Default false. */
  dropLast?: boolean;
}

/** Which images make up batch b of epoch e: random access, no state, so that a run resumes anywhere exactly. */
export class BatchSampler {
  readonly batchesPerEpoch: number;
  private readonly options: Required<BatchSamplerOptions>;
  private cached: { epoch: number; order: Uint32Array } | undefined;

  /** @throws ShapeError on a batch size, count or seed that is out of range, or an epoch without a batch. */
  constructor(options: BatchSamplerOptions) {
    this.options = { shuffle: true, dropLast: false, ...options };
    const { count, batchSize, seed, dropLast } = this.options;
    checkInteger("batchSize", batchSize, 1, 2 ** 32 - 1);
    checkInteger("count", count, 1, 2 ** 32 - 1);
    checkInteger("seed", seed, 0, 2 ** 32 - 1);
    this.batchesPerEpoch = dropLast ? Math.floor(count / batchSize) : Math.ceil(count / batchSize);
    if (this.batchesPerEpoch === 0) {
      throw new ShapeError(
        `DataLoader: batchSize ${batchSize} with dropLast leaves no batch of ${count} images; ` +
          `use a batchSize of at most ${count}, or dropLast: false`,
      );
    }
  }

  /** Data-set indices of batch `index` of `epoch`. */
  indices(epoch: number, index: number): Uint32Array {
    checkInteger("epoch", epoch, 0, 2 ** 32 - 1);
    checkInteger("batch index", index, 0, this.batchesPerEpoch - 1);
    const { seed, count, batchSize, shuffle } = this.options;
    if (this.cached?.epoch !== epoch) {
      const order = shuffle
        ? epochOrder(seed, epoch, count)
        : Uint32Array.from({ length: count }, (_, i) => i);
      this.cached = { epoch, order };
    }
    return this.cached.order.slice(index * batchSize, (index + 1) * batchSize);
  }
}

export interface DataLoaderOptions extends Omit<BatchSamplerOptions, "count"> {
  /** Per channel, in [0, 1] units: `channelMoments(train)`, for the test set too. */
  mean: readonly number[];
  /** Per channel, in [0, 1] units, above zero. */
  std: readonly number[];
  /** Default null: the images as they are. */
  augment?: AugmentOptions | null;
  /** Centre each image in a larger one of [height, width], zero bytes around it, before augmenting. */
  padTo?: readonly [number, number];
}

export interface Batch {
  /** (byte / 255 − mean) / std, [B, H, W, C]. */
  images: Float32Array;
  /** [B] */
  labels: Uint32Array;
  /** Where each image is in the data set, [B]. */
  indices: Uint32Array;
  /** [B, H, W, C] */
  shape: [number, number, number, number];
}

/** Normalised, augmented batches of a data set, each a function of (seed, epoch, batch index). */
export class DataLoader {
  readonly dataset: ImageDataset;
  readonly batchesPerEpoch: number;
  readonly batchSize: number;
  /** Size of the images it yields, after `padTo`. */
  readonly height: number;
  readonly width: number;
  private readonly sampler: BatchSampler;
  private readonly seed: number;
  private readonly augment: AugmentOptions | null;
  private readonly table: Float32Array; // [C, 256]: the normalised value of each byte

  /** @throws ShapeError on options that don't fit the data set or are out of range. */
  constructor(dataset: ImageDataset, options: DataLoaderOptions) {
    const { mean, std, augment = null, padTo = [dataset.height, dataset.width], ...sampling } = options;
    this.dataset = dataset;
    this.sampler = new BatchSampler({ ...sampling, count: dataset.count });
    this.batchesPerEpoch = this.sampler.batchesPerEpoch;
    this.batchSize = options.batchSize;
    this.seed = options.seed;
    this.augment = augment;
    if (augment) checkAugment(augment);
    [this.height, this.width] = padTo;
    checkInteger("padTo height", this.height, dataset.height, 2 ** 16);
    checkInteger("padTo width", this.width, dataset.width, 2 ** 16);
    this.table = normalizationTable("DataLoader", dataset, { mean, std });
  }

  /** Batch `index` (0 … batchesPerEpoch−1) of `epoch`. */
  batch(epoch: number, index: number): Batch {
    const { dataset, height, width } = this;
    const indices = this.sampler.indices(epoch, index);
    const bytesEach = dataset.height * dataset.width * dataset.channels;
    const valuesEach = height * width * dataset.channels;
    const images = new Float32Array(indices.length * valuesEach);
    const labels = new Uint32Array(indices.length);
    // padTo's border and the augmentation's both count from the top left; the crop moves the window over them.
    const borderTop = Math.floor((height - dataset.height) / 2);
    const borderLeft = Math.floor((width - dataset.width) / 2);
    const pad = this.augment?.pad ?? 0;
    indices.forEach((from, i) => {
      const { dy, dx, flip } = this.augment
        ? augmentation(this.seed, epoch, from, this.augment)
        : { dy: 0, dx: 0, flip: false };
      copyWindow(
        dataset.images.subarray(from * bytesEach, (from + 1) * bytesEach),
        [dataset.height, dataset.width, dataset.channels],
        { top: dy - pad - borderTop, left: dx - pad - borderLeft, height, width, flip },
        this.table,
        images,
        i * valuesEach,
      );
      labels[i] = dataset.labels[from]!;
    });
    return { images, labels, indices, shape: [indices.length, height, width, dataset.channels] };
  }

  /** The batches of one epoch, from batch `start` on. */
  *epoch(epoch: number, start = 0): Generator<Batch> {
    for (let index = start; index < this.batchesPerEpoch; index++) yield this.batch(epoch, index);
  }
}

function checkInteger(name: string, value: number, low: number, high: number): void {
  if (!Number.isInteger(value) || value < low || value > high) {
    throw new ShapeError(`DataLoader: ${name} is ${value}; expected an integer from ${low} to ${high}`);
  }
}
