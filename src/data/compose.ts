// A list of transforms, and what it makes of batches of one size.

import { ShapeError, UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import { Gpu } from "../gpu.ts";
import { strideGrid } from "../ops/grid.ts";
import { checkArray, checkInteger, checkOptions, isPlain, optionNames, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { formatShape, type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { pcg } from "./augment.ts";

/** [N, H, W, C] */
export type BatchShape = readonly [number, number, number, number];

/** What draws the numbers of a batch. */
export interface BatchDraw {
  /** Of the images that come in, [N, H, W, C]. */
  shape: Shape;
  /** Numbers from 0 to below 1, for an image of the batch: the same ones in whatever batch of the epoch the image is. */
  image(row: number): () => number;
  /** For the batch as a whole. */
  batch(): () => number;
}

/** Tensors of one batch. */
export interface BatchTensors {
  /** [N, H, W, C] */
  images: Tensor;
  /** What the images become; `images` itself where the transform works in place. */
  out: Tensor;
  /** [N, numbers], as `draw` has filled them. */
  numbers: Tensor;
}

/** A change of batches of images: what a function of `transforms` makes, or an object of your own. */
export interface Transform {
  readonly name: string;
  /** Shape of what it makes of images [N, H, W, C]. Left out: it works in place. @throws ShapeError for what it can't take */
  shape?(images: Shape): Shape;
  /** How many numbers an image is given. Left out: none. */
  readonly numbers?: number;
  /** Fills `numbers` [N, numbers]. */
  draw?(numbers: Float32Array, batch: BatchDraw): void;
  /** Dispatches what fills `out`. */
  run(batch: BatchTensors): void;
  /** The classes of labels that are mixed as the images are: numbers are then a share and a partner. */
  readonly mixes?: number;
}

const OF_IMAGES = { shape: "[N, H, W, C]" };

/** `Sizes` of shaders/transform.wgsl. */
export function sizesOf(images: Tensor, out: Tensor) {
  const [batch, height, width, channels] = images.shape as BatchShape;
  const [, out_height, out_width] = out.shape as BatchShape;
  return { batch, height, width, channels, out_height, out_width };
}

/** A grid-stride loop over pixels or elements, and its constants. */
export function loopOver(gpu: Gpu, items: number) {
  const { size, grid } = strideGrid(gpu, items);
  return { constants: { WORKGROUP_SIZE: size }, grid };
}

export const shader = shaders.transform;

/** Uniform numbers that hang on the seed, the epoch, the transform's place and an image alone. */
function uniforms(seed: number, epoch: number, place: number, index: number): () => number {
  const key = pcg((index + pcg((epoch + pcg((seed + pcg(place)) >>> 0)) >>> 0)) >>> 0);
  let count = 0;
  return () => {
    count += 1;
    return pcg((key + count) >>> 0) / 2 ** 32;
  };
}

/** @throws UsageError unless `list` is one of transforms. */
export function checkTransforms(op: string, list: unknown): asserts list is readonly Transform[] {
  checkArray(op, "transforms", list, "transforms, such as transforms.randomHorizontalFlip()");
  for (const [i, one] of (list as unknown[]).entries()) {
    const { name, run } = (isPlain(one) ? one : {}) as Partial<Transform>;
    if (typeof name !== "string" || typeof run !== "function") {
      throw new UsageError(
        `${op}: transforms[${i}] is ${show(one)}; expected { name, run }, such as transforms.randomHorizontalFlip() makes`,
      );
    }
  }
  const mixing = (list as Transform[]).filter(({ mixes }) => mixes !== undefined);
  if (mixing.length > 1) {
    throw new UsageError(
      `${op}: ${mixing.map(({ name }) => name).join(" and ")} mix labels; expected one that does`,
    );
  }
}

/** What a `Compose` works on. */
export interface ComposeOptions {
  /** [N, H, W, C]; transforms that work in place change it. */
  images: Tensor;
  /** [N], uint32. */
  labels: Tensor;
  /** An integer from 0 to 2³² − 1. Default 0. */
  seed?: number;
}

interface Stage extends BatchTensors {
  transform: Transform;
  drawn: Float32Array;
}

/**
 * Transforms one after the other, for batches of one size:
 *
 * ```ts
 * const compose = new transforms.Compose(gpu, [transforms.randomHorizontalFlip(), transforms.normalize(moments)], { images, labels });
 * images.write(pixels); // from 0 to 1
 * compose.draw(epoch, indices); // what is random, on the host
 * compose.run(); // dispatches alone: it may be captured
 * const loss = softmaxCrossEntropy(model.forward(compose.images), compose.targets);
 * ```
 */
export class Compose {
  /** What the images become. */
  readonly images: Tensor;
  /** The labels, or where the transforms mix them probabilities [N, classes]. */
  readonly targets: Tensor;
  private readonly labels: Tensor;
  private readonly seed: number;
  private readonly stages: Stage[] = [];
  private readonly own: Tensor[] = [];

  constructor(gpu: Gpu, list: readonly Transform[], options: ComposeOptions) {
    const op = "Compose";
    if (!(gpu instanceof Gpu)) throw new UsageError(`${op}: gpu is ${show(gpu)}; expected a Gpu`);
    checkTransforms(op, list);
    checkOptions(op, options, optionNames<ComposeOptions>({ images: 0, labels: 0, seed: 0 }));
    const { images, labels, seed = 0 } = options;
    checkTensor(op, "images", images, OF_IMAGES);
    checkTensor(op, "labels", labels, { dtypes: ["uint32"], with: ["images", images], shape: "[N]" });
    checkInteger(op, "seed", seed, 0, 2 ** 32 - 1);
    const rows = images.shape[0]!;
    if (labels.size !== rows) {
      throw new ShapeError(
        `${op}: labels are ${formatShape(labels.shape)}, images ${formatShape(images.shape)}; expected a label an image`,
      );
    }
    this.labels = labels;
    this.seed = seed;
    const hold = (shape: Shape) => {
      const tensor = gpu.keep(gpu.empty(shape));
      this.own.push(tensor);
      return tensor;
    };
    let at = images;
    // Before anything is allocated: what can't be is refused.
    const shapes = shapesOf(images.shape, list);
    for (const [i, transform] of list.entries()) {
      const { numbers: each = 0, shape } = transform;
      const numbers = each > 0 ? hold([rows, each]) : labels;
      const out = shape ? hold(shapes[i]!) : at;
      this.stages.push({ transform, images: at, out, numbers, drawn: new Float32Array(rows * each) });
      at = out;
    }
    this.images = at;
    const mixes = list.find((one) => one.mixes !== undefined)?.mixes;
    this.targets = mixes === undefined ? labels : hold([rows, mixes]);
    this.draw(0, new Uint32Array(rows)); // so that nothing undefined is read if the caller forgets to
  }

  /** Draws what is random in a batch and brings it to the GPU. `indices`: which images of the data set they are, [N]. */
  draw(epoch: number, indices: ArrayLike<number>): void {
    checkInteger("Compose.draw", "epoch", epoch, 0, 2 ** 32 - 1);
    const rows = this.labels.size;
    if (indices?.length !== rows) {
      throw new ShapeError(`Compose.draw: indices are ${show(indices)}; expected ${rows} image numbers`);
    }
    for (const [place, { transform, images, numbers, drawn }] of this.stages.entries()) {
      if (!transform.draw || drawn.length === 0) continue;
      const draws = (index: number, offset: number) => uniforms(this.seed, epoch, 2 * place + offset, index);
      transform.draw(drawn, {
        shape: images.shape,
        image: (row) => draws(indices[row]!, 0),
        batch: () => draws(indices[0]!, 1),
      });
      numbers.write(drawn);
    }
  }

  /** Dispatches all transforms, with the numbers drawn last. */
  run(): void {
    for (const { transform, images, out, numbers } of this.stages) {
      transform.run({ images, out, numbers });
      if (transform.mixes === undefined) continue;
      const { gpu, size } = this.targets;
      const { constants, grid } = loopOver(gpu, size);
      const sizes = { ...sizesOf(images, out), channels: transform.mixes };
      const bindings = { y: this.targets, sizes, numbers, labels: this.labels };
      gpu.run({ shader, entry: "mix_labels", constants }, bindings, grid);
    }
  }

  /** Gives back what it has on the GPU; images and labels that it was given live on. */
  dispose(): void {
    for (const tensor of this.own) tensor.dispose();
  }
}

/** Shapes after each transform. @throws ShapeError */
export function shapesOf(images: Shape, list: readonly Transform[]): Shape[] {
  let at = images;
  return list.map(({ name, shape }) => {
    at = shape?.(at) ?? at;
    if (at.length !== 4 || !(sizeOf(at) > 0)) {
      throw new ShapeError(
        `transforms: ${name} makes ${show(at)} of ${formatShape(images)}; expected [N, H, W, C]`,
      );
    }
    return at;
  });
}
