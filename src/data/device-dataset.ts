import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { checkInteger, checkOptions, optionNames } from "../options.ts";
import { checkGpu, checkTensor, type TensorRule } from "../tensor/check.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type AugmentOptions, checkAugment } from "./augment.ts";
import { type ChannelMoments, checkDataset, type ImageDataset, normalizationTable } from "./dataset.ts";

/** Of `DeviceDataset`: by what images are normalised, and how they are augmented. */
export interface DeviceDatasetOptions extends ChannelMoments {
  seed: number;
  /** Default null: the images as they are. */
  augment?: AugmentOptions | null;
  /** Bytes of images in one buffer at most. Default: what the adapter can bind. */
  chunkBytes?: number;
}

const OPTIONS = optionNames<DeviceDatasetOptions>({ mean: 0, std: 0, seed: 0, augment: 0, chunkBytes: 0 });

interface Chunk {
  pixels: Tensor;
  labels: Tensor;
  first: number;
  count: number;
}

/**
 * A data set as bytes on the GPU. `gather` makes a batch there, so that a training step moves nothing but image
 * numbers from the host, and gives the same floats as `DataLoader`, bit for bit.
 */
export class DeviceDataset {
  private readonly chunks: Chunk[] = [];
  private readonly table: Tensor;
  private readonly augment: AugmentOptions | null;

  constructor(
    private readonly gpu: Gpu,
    private readonly dataset: ImageDataset,
    private readonly options: DeviceDatasetOptions,
  ) {
    checkGpu("DeviceDataset", gpu);
    checkDataset("DeviceDataset", dataset);
    checkOptions("DeviceDataset", options, OPTIONS);
    checkInteger("DeviceDataset", "seed", options.seed, 0, 2 ** 32 - 1);
    this.augment = options.augment ?? null;
    if (this.augment !== null) checkAugment(this.augment, "DeviceDataset", "augment.");
    const { images, labels, count, channels } = dataset;
    const bytesEach = images.length / count;
    const { chunkBytes: limit = gpu.limits.maxStorageBufferBindingSize - 16 } = options;
    checkInteger("DeviceDataset", "chunkBytes", limit, bytesEach); // a chunk holds an image at least
    const table = normalizationTable("DeviceDataset", dataset, options);
    this.table = gpu.keep(gpu.tensor(table, [channels * 256]));
    const perChunk = Math.floor(limit / bytesEach);
    for (let first = 0; first < count; first += perChunk) {
      const part = Math.min(perChunk, count - first);
      const pixels = images.subarray(first * bytesEach, (first + part) * bytesEach);
      this.chunks.push({
        pixels: gpu.keep(gpu.tensor(pixels, [pixels.length], { dtype: "uint8" })),
        labels: gpu.keep(gpu.tensor(labels.subarray(first, first + part), [part], { dtype: "uint8" })),
        first,
        count: part,
      });
    }
  }

  /**
   * Fills `images` [B, H, W, C] and `labels` (uint32 [B]) with the images that `indices` (uint32 [B]) names, augmented
   * as in the epoch that `epoch` (uint32 [1]) holds. Reads nothing from the host: it may be captured.
   */
  gather(indices: Tensor, epoch: Tensor, images: Tensor, labels: Tensor): void {
    const { height, width, channels } = this.dataset;
    const integers: TensorRule = { dtypes: ["uint32"], with: ["the data set", this.table], shape: "[B]" };
    checkTensor("gather", "indices", indices, integers);
    checkTensor("gather", "epoch", epoch, integers);
    checkTensor("gather", "images", images, { with: ["the data set", this.table] });
    checkTensor("gather", "labels", labels, integers);
    const batch = indices.size;
    const expected = [batch, height, width, channels];
    if (epoch.size !== 1) {
      throw new ShapeError(`gather: epoch is [${epoch.shape.join(", ")}]; expected one number, [1]`);
    }
    if (images.shape.join() !== expected.join() || labels.size !== batch) {
      throw new ShapeError(
        `gather: images are [${images.shape.join(", ")}] and labels [${labels.shape.join(", ")}] for ${batch} indices; ` +
          `expected [${expected.join(", ")}] and [${batch}]`,
      );
    }
    const sizes = { HEIGHT: height, WIDTH: width, CHANNELS: channels };
    const constants = {
      ...sizes,
      PAD: this.augment?.pad ?? 0,
      FLIP: this.augment?.flip ? 1 : 0,
    };
    const grid = Math.min(Math.ceil((batch * height * width) / 64), this.gpu.isSoftware ? 64 : 4096);
    for (const { pixels, labels: bytes, first, count } of this.chunks) {
      const chunk = { first, count, batch, seed: this.options.seed };
      this.gpu.run(
        { shader: shaders.gather_batch, entry: "forward", constants },
        { images, pixels, indices, chunk, epoch, table: this.table },
        [grid],
      );
      this.gpu.run(
        { shader: shaders.gather_batch, entry: "labels", constants: sizes },
        { labels_out: labels, pixels: bytes, indices, chunk },
        [Math.ceil(batch / 64)],
      );
    }
  }

  /** Gives the images and labels on the GPU back. */
  dispose(): void {
    this.table.dispose();
    for (const { pixels, labels } of this.chunks) {
      pixels.dispose();
      labels.dispose();
    }
  }
}
