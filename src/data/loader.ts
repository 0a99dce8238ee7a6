import { ShapeError } from "../errors.ts";
import { checkFlag, checkInteger, checkOptions, optionNames, show } from "../options.ts";
import { Random } from "../tensor/random.ts";
import { type AugmentOptions, augmentation, checkAugment, copyWindow } from "./augment.ts";
import { checkDataset, type ImageDataset, normalizationTable } from "./dataset.ts";

const UINT32_MAX = 2 ** 32 - 1;

/** Images: what a list of their numbers in a buffer of 4 GiB holds. */
const MOST_IMAGES = 2 ** 30;

/** The order in which `epoch` visits `count` images: a permutation that depends on its arguments only. */
export function epochOrder(seed: number, epoch: number, count: number): Uint32Array {
  checkInteger("epochOrder", "seed", seed, 0, UINT32_MAX);
  checkInteger("epochOrder", "epoch", epoch, 0, UINT32_MAX);
  checkInteger("epochOrder", "count", count, 0, MOST_IMAGES);
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  return new Random(seed, epoch).fork("epoch-order").shuffle(order);
}

/** Options of `BatchSampler`. */
export interface BatchSamplerOptions {
  /** Images in the data set. */
  count: number;
  batchSize: number;
  /** An integer from 0 to 2³²−1. Default 0. */
  seed?: number;
  /** A new order in each epoch; the file's order otherwise. Default true. */
  shuffle?: boolean;
  /** Leave out a last batch that is not full. Default false. */
  dropLast?: boolean;
}

const SAMPLER_OPTIONS = optionNames<BatchSamplerOptions>({
  ...{ count: 0, batchSize: 0, seed: 0, shuffle: 0, dropLast: 0 },
});

/** Which images make up batch b of epoch e: random access, no state, so that a run resumes anywhere exactly. */
export class BatchSampler {
  readonly batchesPerEpoch: number;
  private readonly options: Required<BatchSamplerOptions>;
  private cached: { epoch: number; order: Uint32Array } | undefined;

  /** @throws ShapeError on a batch size, count or seed that is out of range, or an epoch without a batch. */
  constructor(
    options: BatchSamplerOptions,
    private readonly op = "BatchSampler",
  ) {
    checkOptions(op, options, SAMPLER_OPTIONS);
    const { count, batchSize, seed = 0, shuffle = true, dropLast = false } = options;
    checkInteger(op, "batchSize", batchSize, 1, UINT32_MAX);
    checkInteger(op, "count", count, 1, MOST_IMAGES);
    checkInteger(op, "seed", seed, 0, UINT32_MAX);
    checkFlag(op, "shuffle", shuffle);
    checkFlag(op, "dropLast", dropLast);
    this.options = { count, batchSize, seed, shuffle, dropLast };
    this.batchesPerEpoch = dropLast ? Math.floor(count / batchSize) : Math.ceil(count / batchSize);
    if (this.batchesPerEpoch === 0) {
      throw new ShapeError(
        `${op}: batchSize ${batchSize} with dropLast leaves no batch of ${count} images; ` +
          `use a batchSize of at most ${count}, or dropLast: false`,
      );
    }
  }

  /** Data-set indices of batch `index` of `epoch`. */
  indices(epoch: number, index: number): Uint32Array {
    checkInteger(this.op, "epoch", epoch, 0, UINT32_MAX);
    checkInteger(this.op, "batch index", index, 0, this.batchesPerEpoch - 1);
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

/** Options of `DataLoader`. */
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

/** A batch on the host: what `DataLoader` yields. */
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

const LOADER_OPTIONS = optionNames<DataLoaderOptions>({
  ...{ batchSize: 0, seed: 0, shuffle: 0, dropLast: 0, mean: 0, std: 0, augment: 0, padTo: 0 },
});

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
    checkDataset("DataLoader", dataset);
    checkOptions("DataLoader", options, LOADER_OPTIONS);
    const { mean, std, augment = null, padTo = [dataset.height, dataset.width], ...sampling } = options;
    this.dataset = dataset;
    this.sampler = new BatchSampler({ ...sampling, count: dataset.count }, "DataLoader");
    this.batchesPerEpoch = this.sampler.batchesPerEpoch;
    this.batchSize = options.batchSize;
    this.seed = options.seed ?? 0;
    this.augment = augment;
    if (augment !== null) checkAugment(augment, "DataLoader", "augment.");
    if (!Array.isArray(padTo) || padTo.length !== 2) {
      throw new ShapeError(`DataLoader: padTo is ${show(padTo)}; expected [height, width]`);
    }
    [this.height, this.width] = padTo;
    checkInteger("DataLoader", "padTo height", this.height, dataset.height, 2 ** 16);
    checkInteger("DataLoader", "padTo width", this.width, dataset.width, 2 ** 16);
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
  epoch(epoch: number, start = 0): Generator<Batch> {
    checkInteger("DataLoader", "epoch", epoch, 0, UINT32_MAX);
    checkInteger("DataLoader", "start", start, 0, this.batchesPerEpoch);
    return this.batches(epoch, start);
  }

  private *batches(epoch: number, start: number): Generator<Batch> {
    for (let index = start; index < this.batchesPerEpoch; index++) yield this.batch(epoch, index);
  }
}
