/**
 * Pad-crop and horizontal flip, on bytes: the CPU reference.
 *
 * The choice for an image is a function of (seed, epoch, image index) in 32-bit unsigned arithmetic only, so
 * that a shader makes the same choice bit for bit:
 *
 *     fn pcg(x: u32) -> u32 {
 *       let state = x * 747796405u + 2891336453u;
 *       let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
 *       return (word >> 22u) ^ word;
 *     }
 *     let h = pcg(index + pcg(epoch + pcg(seed)));
 *     let dy = ((h & 0xffffu) * (2u * pad + 1u)) >> 16u;
 *     let dx = ((h >> 16u) * (2u * pad + 1u)) >> 16u;
 *     let flip = (pcg(h) & 1u) == 1u;
 */
import { ShapeError } from "../errors.ts";
import { checkFlag, checkInstance, checkInteger, checkOptions, optionNames, show } from "../options.ts";
import { checkShape, formatShape } from "../tensor/shape.ts";

/** Which augmentation to apply; zeros are padded, in bytes, before the normalisation. */
export interface AugmentOptions {
  /** Rows and columns of zeros on each side before a crop of the original size; CIFAR's usual value is 4. */
  pad: number;
  /** Mirror half of the images left to right. */
  flip: boolean;
}

const OPTIONS = optionNames<AugmentOptions>({ pad: 0, flip: 0 });

/** Top-left corner of the crop within the padded image, 0 … 2·pad, and whether it is mirrored. */
export interface Augmentation {
  dy: number;
  dx: number;
  flip: boolean;
}

/** PCG-RXS-M-XS as a hash: Jarzynski & Olano, "Hash functions for GPU rendering" (JCGT 2020). */
export function pcg(x: number): number {
  checkInteger("pcg", "x", x, Number.MIN_SAFE_INTEGER);
  const state = (Math.imul(x, 747796405) + 2891336453) >>> 0;
  const word = Math.imul((state >>> ((state >>> 28) + 4)) ^ state, 277803737) >>> 0;
  return ((word >>> 22) ^ word) >>> 0;
}

/**
 * The augmentation of image `index` of the data set in `epoch`. All three numbers are taken modulo 2³².
 *
 * Offsets come from 16 random bits each: their bias is below 2·(2·pad + 1) / 65536.
 */
export function augmentation(
  seed: number,
  epoch: number,
  index: number,
  options: AugmentOptions,
): Augmentation {
  const least = Number.MIN_SAFE_INTEGER;
  checkInteger("augmentation", "seed", seed, least);
  checkInteger("augmentation", "epoch", epoch, least);
  checkInteger("augmentation", "index", index, least);
  checkAugment(options, "augmentation");
  const { pad, flip } = options;
  const h = pcg((index + pcg((epoch + pcg(seed)) >>> 0)) >>> 0);
  const choices = 2 * pad + 1;
  return {
    dy: ((h & 0xffff) * choices) >>> 16,
    dx: ((h >>> 16) * choices) >>> 16,
    flip: flip && (pcg(h) & 1) === 1,
  };
}

/** @throws ShapeError if `pad` is not an integer from 0 to 32767 (past which the shader's product overflows). */
export function checkAugment(options: AugmentOptions, op: string, path = ""): void {
  checkOptions(op, options, OPTIONS, "augment");
  const { pad, flip } = options;
  if (!Number.isInteger(pad) || pad < 0 || pad > 32767) {
    throw new ShapeError(
      `${op}: ${path}pad is ${show(pad)}; expected an integer from 0 to 32767 (4 is usual for 32×32)`,
    );
  }
  checkFlag(op, `${path}flip`, flip);
}

/** A window onto a source image: top-left corner in source coordinates (may be negative), and its mirroring. */
export interface Window {
  top: number;
  left: number;
  height: number;
  width: number;
  flip: boolean;
}

/**
 * Copies a window of `source` [height, width, channels] into `out` [window.height, window.width, channels] at
 * `offset`, mapping each byte by `table[channel·256 + byte]`. Outside the source the byte is 0.
 */
export function copyWindow(
  source: Uint8Array,
  [height, width, channels]: readonly [number, number, number],
  window: Window,
  table: ArrayLike<number>,
  out: Float32Array | Uint8Array,
  offset = 0,
): void {
  let to = offset;
  for (let y = 0; y < window.height; y++) {
    const row = window.top + y;
    for (let x = 0; x < window.width; x++) {
      const column = window.left + (window.flip ? window.width - 1 - x : x);
      const inside = row >= 0 && row < height && column >= 0 && column < width;
      const from = (row * width + column) * channels;
      for (let c = 0; c < channels; c++) out[to++] = table[c * 256 + (inside ? source[from + c]! : 0)]!;
    }
  }
}

/** Pads one image [height, width, channels] with zeros, crops it back to its size, and mirrors it if asked. */
export function augmentImage(
  image: Uint8Array,
  shape: readonly [number, number, number],
  pad: number,
  chosen: Augmentation,
): Uint8Array {
  checkInstance("augmentImage", "image", image, Uint8Array);
  checkShape("augmentImage", shape);
  const [height, width, channels] = shape;
  if (shape.length !== 3 || image.length !== height * width * channels) {
    throw new ShapeError(
      `augmentImage: shape is ${formatShape(shape)}, image has ${image.length} bytes; expected [height, width, channels] of as many`,
    );
  }
  checkInteger("augmentImage", "pad", pad, 0, 32767);
  checkOptions("augmentImage", chosen, ["dy", "dx", "flip"], "augmentation");
  const { dy, dx, flip } = chosen;
  checkInteger("augmentImage", "dy", dy, 0, 2 * pad);
  checkInteger("augmentImage", "dx", dx, 0, 2 * pad);
  checkFlag("augmentImage", "flip", flip);
  const identity = Uint8Array.from({ length: 256 * channels }, (_, i) => i & 255);
  const out = new Uint8Array(image.length);
  copyWindow(image, shape, { top: dy - pad, left: dx - pad, height, width, flip }, identity, out);
  return out;
}
