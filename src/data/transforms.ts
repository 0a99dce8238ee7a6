// Changes of batches of images on the GPU, as torchvision's transforms: random ones by numbers that are drawn on the host, so that they
// are the same on every adapter, and in a step that is recorded.

import { ShapeError } from "../errors.ts";
import { checkArray, checkInteger, checkNumber, checkOptions, optionNames, show } from "../options.ts";
import { formatShape } from "../tensor/shape.ts";
import { MOST_SIDE } from "./bitmap.ts";
import { type BatchShape, type BatchTensors, loopOver, shader, sizesOf, type Transform } from "./compose.ts";
import type { ChannelMoments } from "./dataset.ts";

export {
  type BatchDraw,
  type BatchTensors,
  Compose,
  type ComposeOptions,
  type Transform,
} from "./compose.ts";

/** An entry point that takes numbers of each image and changes pixels, in place or not. */
function move({ images, out, numbers }: BatchTensors): void {
  const { gpu, size, shape } = out;
  const { constants, grid } = loopOver(gpu, size / shape[3]!);
  gpu.run(
    { shader, entry: "crop", constants },
    { y: out, sizes: sizesOf(images, out), x: images, numbers },
    grid,
  );
}

/** Options of `randomCrop`. */
export interface RandomCropOptions {
  /** Rows and columns of zeros on each side before the crop. Default 0. */
  padding?: number;
  /** Default: those of the images. */
  height?: number;
  width?: number;
}

const CROP = optionNames<RandomCropOptions>({ padding: 0, height: 0, width: 0 });

/** A part of each image, zeros around it, at a random place. */
export function randomCrop(options: RandomCropOptions = {}): Transform {
  checkOptions("randomCrop", options, CROP);
  const { padding = 0 } = options;
  checkInteger("randomCrop", "padding", padding, 0, MOST_SIDE);
  for (const side of ["height", "width"] as const) {
    if (options[side] !== undefined) checkInteger("randomCrop", side, options[side], 1, MOST_SIDE);
  }
  const sizeOfCrop = ([, height, width]: BatchShape) => {
    const size = [options.height ?? height, options.width ?? width] as const;
    if (size[0] > height + 2 * padding || size[1] > width + 2 * padding) {
      throw new ShapeError(
        `randomCrop: a crop of ${size.join("×")} is larger than images of ${height}×${width} with a padding of ${padding}; expected a smaller one, or more padding`,
      );
    }
    return size;
  };
  return {
    name: "randomCrop",
    numbers: 3,
    shape: (images) => {
      const [batch, , , channels] = images as BatchShape;
      return [batch, ...sizeOfCrop(images as BatchShape), channels];
    },
    draw: (numbers, { shape, image }) => {
      const [rows, height, width] = shape as BatchShape;
      const size = sizeOfCrop(shape as BatchShape);
      for (let row = 0; row < rows; row += 1) {
        const random = image(row);
        const place = (length: number, part: number) =>
          Math.floor(random() * (length + 2 * padding - part + 1)) - padding;
        numbers.set([place(height, size[0]), place(width, size[1]), 0], 3 * row);
      }
    },
    run: move,
  };
}

/** Options of `randomHorizontalFlip`. */
export interface RandomFlipOptions {
  /** Of an image to be mirrored. Default 0.5. */
  p?: number;
}

function checkShare(op: string, name: string, value: unknown): void {
  if (!(typeof value === "number" && value >= 0 && value <= 1)) {
    throw new ShapeError(`${op}: ${name} is ${show(value)}; expected a number from 0 to 1`);
  }
}

/** Mirrors images left to right. */
export function randomHorizontalFlip(options: RandomFlipOptions = {}): Transform {
  checkOptions("randomHorizontalFlip", options, optionNames<RandomFlipOptions>({ p: 0 }));
  const { p = 0.5 } = options;
  checkShare("randomHorizontalFlip", "p", p);
  return {
    name: "randomHorizontalFlip",
    numbers: 3,
    shape: (images) => images,
    draw: (numbers, { shape, image }) => {
      for (let row = 0; row < shape[0]!; row += 1) numbers.set([0, 0, image(row)() < p ? 1 : 0], 3 * row);
    },
    run: move,
  };
}

/** Options of `resize`. */
export interface ResizeOptions {
  height: number;
  width: number;
}

/** Images of another size: bilinear, and without aliases where they become smaller, as torchvision's and Pillow's. */
export function resize(options: ResizeOptions): Transform {
  checkOptions("resize", options, optionNames<ResizeOptions>({ height: 0, width: 0 }));
  const { height, width } = options;
  checkInteger("resize", "height", height, 1, MOST_SIDE);
  checkInteger("resize", "width", width, 1, MOST_SIDE);
  return {
    name: "resize",
    shape: ([batch, , , channels]) => [batch!, height, width, channels!],
    run: ({ images, out }) => {
      const { constants, grid } = loopOver(out.gpu, out.size);
      out.gpu.run(
        { shader, entry: "resize", constants },
        { y: out, sizes: sizesOf(images, out), x: images },
        grid,
      );
    },
  };
}

/** Options of `colorJitter`. */
export interface ColorJitterOptions {
  /** By how much the factor of each may differ from 1, in either direction; the factor is 0 at least. Default 0. */
  brightness?: number;
  contrast?: number;
  saturation?: number;
}

const JITTER = optionNames<ColorJitterOptions>({ brightness: 0, contrast: 0, saturation: 0 });

/** Changes brightness, contrast and saturation, in this order. Pixels have to be from 0 to 1, and stay so. */
export function colorJitter(options: ColorJitterOptions): Transform {
  checkOptions("colorJitter", options, JITTER);
  const { brightness = 0, contrast = 0, saturation = 0 } = options;
  const widths = Object.entries({ brightness, contrast, saturation }).map(([name, width]) => {
    checkNumber("colorJitter", name, width, 0);
    return width;
  });
  return {
    name: "colorJitter",
    numbers: 3,
    draw: (numbers, { shape, image }) => {
      for (let row = 0; row < shape[0]!; row += 1) {
        const random = image(row);
        const factors = widths.map((width) => {
          const low = Math.max(0, 1 - width);
          return low + random() * (1 + width - low);
        });
        numbers.set(factors, 3 * row);
      }
    },
    run: ({ images, out, numbers }) => {
      const { gpu } = out;
      const [batch, height, width, channels] = out.shape as BatchShape;
      if (channels !== 1 && channels !== 3) {
        throw new ShapeError(
          `colorJitter: images are ${formatShape(images.shape)}; expected 1 or 3 channels`,
        );
      }
      const sizes = sizesOf(images, out);
      const { constants, grid } = loopOver(gpu, batch * height * width);
      gpu.scope(() => {
        const grey = gpu.empty([batch]);
        const groups = [Math.min(batch, 16384)] as const;
        gpu.run({ shader, entry: "grey_mean", constants }, { y: grey, sizes, x: out, numbers }, groups);
        gpu.run({ shader, entry: "jitter", constants }, { y: out, sizes, numbers, grey }, grid);
      });
    },
  };
}

/** Options of `randomErasing`. */
export interface RandomErasingOptions {
  /** Of an image to lose a rectangle. Default 0.5. */
  p?: number;
  /** The rectangle's share of the image's area, at least and at most. Default [0.02, 0.33]. */
  scale?: readonly [number, number];
  /** Its height over its width. Default [0.3, 3.3]. */
  ratio?: readonly [number, number];
  /** What stands there afterwards. Default 0: after `normalize` the mean of all images. */
  value?: number;
}

const ERASING = optionNames<RandomErasingOptions>({ p: 0, scale: 0, ratio: 0, value: 0 });

function checkRange(op: string, name: string, range: unknown, most: number): readonly [number, number] {
  const numbers = Array.isArray(range) && range.every((v) => typeof v === "number") ? range : [];
  const [low, high] = numbers as [number, number];
  if (numbers.length !== 2 || !(low > 0 && low <= high && high <= most)) {
    const limit = Number.isFinite(most) ? ` and at most ${most}` : "";
    throw new ShapeError(`${op}: ${name} is ${show(range)}; expected [least, most], above 0${limit}`);
  }
  return [low, high];
}

/** Random erasing (Zhong et al. 2020), or cutout: one rectangle of an image gets one value. */
export function randomErasing(options: RandomErasingOptions = {}): Transform {
  checkOptions("randomErasing", options, ERASING);
  const { p = 0.5, value = 0 } = options;
  checkShare("randomErasing", "p", p);
  checkNumber("randomErasing", "value", value);
  const { scale: area = [0.02, 0.33], ratio: sides = [0.3, 3.3] } = options;
  const scale = checkRange("randomErasing", "scale", area, 1);
  const ratio = checkRange("randomErasing", "ratio", sides, Number.POSITIVE_INFINITY);
  return {
    name: "randomErasing",
    numbers: 4,
    draw: (numbers, { shape, image }) => {
      const [rows, height, width] = shape as BatchShape;
      for (let row = 0; row < rows; row += 1) {
        const random = image(row);
        const between = (low: number, high: number) => low + random() * (high - low);
        const rectangle = () => {
          const area = height * width * between(...scale);
          const aspect = Math.exp(between(Math.log(ratio[0]), Math.log(ratio[1])));
          return [Math.sqrt(area * aspect), Math.sqrt(area / aspect)].map(Math.round) as [number, number];
        };
        let [h, w] = random() < p ? rectangle() : [0, 0];
        // One that does not fit is drawn again, ten times at most, as in torchvision.
        for (let tries = 1; tries < 10 && (h > height || w > width); tries += 1) [h, w] = rectangle();
        if (h > height || w > width) [h, w] = [0, 0];
        const place = (length: number, part: number) => Math.floor(random() * (length - part + 1));
        numbers.set([place(height, h), place(width, w), h, w], 4 * row);
      }
    },
    run: ({ images, out, numbers }) => {
      const { gpu, size, shape } = out;
      const { constants, grid } = loopOver(gpu, size / shape[3]!);
      const spec = { shader, entry: "erase", constants: { ...constants, VALUE: value } } as const;
      gpu.run(spec, { y: out, sizes: sizesOf(images, out), numbers }, grid);
    },
  };
}

/** (x − mean) / std of each channel. */
export function normalize(options: { mean: readonly number[]; std: readonly number[] }): Transform {
  checkOptions("normalize", options, optionNames<ChannelMoments>({ mean: 0, std: 0 }));
  const { mean, std } = options;
  checkArray("normalize", "mean", mean, "numbers, one per channel");
  checkArray("normalize", "std", std, "numbers, one per channel");
  const right =
    mean.length === std.length &&
    [...mean, ...std].every(Number.isFinite) &&
    std.every((value) => value > 0) &&
    mean.length > 0;
  if (!right) {
    throw new ShapeError(
      `normalize: mean is ${show(mean)}, std ${show(std)}; expected as many finite numbers, those of std above 0`,
    );
  }
  return {
    name: "normalize",
    numbers: 2 * mean.length,
    draw: (numbers, { shape }) => {
      for (let row = 0; row < shape[0]!; row += 1) numbers.set([...mean, ...std], 2 * mean.length * row);
    },
    run: ({ images, out, numbers }) => {
      const { gpu, shape } = out;
      if (shape[3] !== mean.length) {
        throw new ShapeError(
          `normalize: images are ${formatShape(shape)}, mean and std have ${mean.length} numbers; expected one per channel`,
        );
      }
      const { constants, grid } = loopOver(gpu, out.size);
      // Of the first image: they are the same for all.
      const bindings = { y: out, sizes: sizesOf(images, out), moments: numbers };
      gpu.run({ shader, entry: "normalise", constants }, bindings, grid);
    },
  };
}

/** Options of `mixup`. */
export interface MixupOptions {
  /** Classes of the labels, which become probabilities [N, classes]. */
  classes: number;
  /** Of the share of each partner, which is drawn from Beta(alpha, alpha) once a batch. Default 0.2. */
  alpha?: number;
}

/**
 * Mixup (Zhang et al. 2018): each image is mixed with another of its batch, and so are their labels, of which
 * `softmaxCrossEntropy` takes the probabilities.
 */
export function mixup(options: MixupOptions): Transform {
  checkOptions("mixup", options, optionNames<MixupOptions>({ classes: 0, alpha: 0 }));
  const { classes, alpha = 0.2 } = options;
  checkInteger("mixup", "classes", classes, 1);
  if (!(Number.isFinite(alpha) && alpha > 0)) {
    throw new ShapeError(`mixup: alpha is ${show(alpha)}; expected a number above 0`);
  }
  return {
    name: "mixup",
    numbers: 2,
    mixes: classes,
    shape: (images) => images,
    draw: (numbers, { shape, batch }) => {
      const random = batch();
      const share = beta(alpha, random);
      const rows = shape[0]!;
      const partners = Array.from({ length: rows }, (_, row) => row);
      for (let row = rows - 1; row > 0; row -= 1) {
        const other = Math.floor(random() * (row + 1));
        [partners[row], partners[other]] = [partners[other]!, partners[row]!];
      }
      for (const [row, partner] of partners.entries()) numbers.set([share, partner], 2 * row);
    },
    run: ({ images, out, numbers }) => {
      const { constants, grid } = loopOver(out.gpu, out.size);
      const bindings = { y: out, sizes: sizesOf(images, out), x: images, numbers };
      out.gpu.run({ shader, entry: "mix", constants }, bindings, grid);
    },
  };
}

/** From Beta(a, a): X / (X + Y) of two from Gamma(a), in logarithms, as those of a small `a` are below what numbers hold. */
function beta(a: number, random: () => number): number {
  const difference = logGamma(a, random) - logGamma(a, random);
  return 1 / (1 + Math.exp(-difference));
}

/** The logarithm of a number from Gamma(a): Marsaglia & Tsang 2000, with their way to an `a` below 1. */
function logGamma(a: number, random: () => number): number {
  const d = (a < 1 ? a + 1 : a) - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    const v = (1 + c * x) ** 3;
    if (v <= 0 || Math.log(1 - random()) >= x * x * 0.5 + d - d * v + d * Math.log(v)) continue;
    return Math.log(d * v) + (a < 1 ? Math.log(1 - random()) / a : 0);
  }
}
