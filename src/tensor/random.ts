import { ShapeError } from "../errors.ts";
import { checkNumber, show } from "../options.ts";

/** A seed or a stream label: a non-negative safe integer, or any string. */
export type Seed = number | string;

/** 64 bits as two unsigned 32-bit words. */
type Words = readonly [lo: number, hi: number];

/** High 32 bits of the 64-bit product of two unsigned 32-bit integers, which a double can't hold whole. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const cross = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + (middle >>> 16) + (cross >>> 16)) >>> 0;
}

/**
 * Philox 4×32-10: four random words for a 128-bit counter under a 64-bit key.
 *
 * Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Counter-based: the
 * n-th number needs none of the ones before it.
 */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: Words,
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(0xd2511f53, c0);
    const low0 = Math.imul(0xd2511f53, c0) >>> 0;
    const high1 = mulHigh(0xcd9e8d57, c2);
    const low1 = Math.imul(0xcd9e8d57, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

function isWords(seed: unknown): seed is Words {
  return Array.isArray(seed) && seed.length === 2 && seed.every((word) => word >>> 0 === word);
}

/** @throws ShapeError unless `seed` is a string or a non-negative safe integer. */
export function checkSeed(op: string, name: string, seed: unknown): asserts seed is Seed {
  if (typeof seed !== "string" && !(Number.isSafeInteger(seed) && (seed as number) >= 0)) {
    throw new ShapeError(
      `${op}: ${name} is ${show(seed)}; expected a string or an integer from 0 to ${Number.MAX_SAFE_INTEGER}`,
    );
  }
}

/** 64-bit words of a seed: an integer as it is, a string by FNV-1a over its UTF-8 bytes. */
export function seedWords(op: string, name: string, seed: Seed): Words {
  checkSeed(op, name, seed);
  if (typeof seed === "string") {
    let hash = 0xcbf29ce484222325n;
    for (const byte of new TextEncoder().encode(seed)) {
      hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
    }
    return [Number(hash & 0xffffffffn), Number(hash >> 32n)];
  }
  return [seed >>> 0, Math.floor(seed / 2 ** 32)];
}

function checkFloats(method: string, out: unknown): void {
  if (!(out instanceof Float32Array) && !(out instanceof Float64Array)) {
    throw new ShapeError(`Random.${method}: out is ${show(out)}; expected a Float32Array or Float64Array`);
  }
}

/**
 * A seeded, splittable random number generator: Philox 4×32-10 with the seed as key, and (position, stream) as
 * counter. Equal (seed, stream) give equal numbers on every machine; different streams of one seed are
 * independent, so that each layer, epoch or worker can `fork` its own without touching anyone else's numbers.
 */
export class Random {
  private readonly key: Words;
  private readonly stream: Words;
  private position = 0;
  private block: readonly number[] = [];
  private used = 4;
  private spareNormal: number | undefined;

  /** @throws ShapeError if the seed or the stream is a number but not a non-negative safe integer. */
  constructor(seed: Seed | Words, stream: Seed | Words = 0) {
    this.key = isWords(seed) ? seed : seedWords("Random", "seed", seed);
    this.stream = isWords(stream) ? stream : seedWords("Random", "stream", stream);
  }

  /** An integer, uniform over 0 … 2³²−1. */
  uint32(): number {
    if (this.used === 4) {
      const lo = this.position >>> 0;
      const hi = Math.floor(this.position / 2 ** 32);
      this.block = philox4x32([lo, hi, this.stream[0], this.stream[1]], this.key);
      this.position++;
      this.used = 0;
    }
    return this.block[this.used++]!;
  }

  /** Uniform over [low, high), from 32 random bits. */
  uniform(low = 0, high = 1): number {
    checkNumber("Random.uniform", "low", low);
    checkNumber("Random.uniform", "high", high);
    return low + (high - low) * (this.uint32() * 2 ** -32);
  }

  /** Normal with the given mean and standard deviation, by Box–Muller; |z| stays under 6.7. */
  normal(mean = 0, std = 1): number {
    checkNumber("Random.normal", "mean", mean);
    checkNumber("Random.normal", "std", std);
    let z = this.spareNormal;
    if (z === undefined) {
      const radius = Math.sqrt(-2 * Math.log((this.uint32() + 1) * 2 ** -32)); // log of (0, 1], never of zero
      const angle = 2 * Math.PI * this.uint32() * 2 ** -32;
      z = radius * Math.cos(angle);
      this.spareNormal = radius * Math.sin(angle);
    } else {
      this.spareNormal = undefined;
    }
    return mean + std * z;
  }

  /** An integer, uniform over 0 … n−1 without bias; 1 ≤ n ≤ 2³². */
  int(n: number): number {
    if (!Number.isInteger(n) || n < 1 || n > 2 ** 32) {
      throw new ShapeError(`Random.int: n is ${show(n)}; expected an integer from 1 to 2^32`);
    }
    const limit = 2 ** 32 - (2 ** 32 % n); // the largest multiple of n; words past it would favour small results
    let word = this.uint32();
    while (word >= limit) word = this.uint32();
    return word % n;
  }

  /** Shuffles in place (Fisher–Yates) and returns its argument. */
  shuffle<T extends { length: number; [index: number]: unknown }>(items: T): T {
    if (!Array.isArray(items) && (!ArrayBuffer.isView(items) || items instanceof DataView)) {
      throw new ShapeError(`Random.shuffle: items is ${show(items)}; expected an array or a typed array`);
    }
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.int(i + 1);
      const item = items[i];
      items[i] = items[j];
      items[j] = item;
    }
    return items;
  }

  /** Fills a float array with `uniform(low, high)` and returns it. */
  fillUniform<T extends Float32Array | Float64Array>(out: T, low = 0, high = 1): T {
    checkFloats("fillUniform", out);
    checkNumber("Random.fillUniform", "low", low);
    checkNumber("Random.fillUniform", "high", high);
    for (let i = 0; i < out.length; i++) out[i] = this.uniform(low, high);
    return out;
  }

  /** Fills a float array with `normal(mean, std)` and returns it. */
  fillNormal<T extends Float32Array | Float64Array>(out: T, mean = 0, std = 1): T {
    checkFloats("fillNormal", out);
    checkNumber("Random.fillNormal", "mean", mean);
    checkNumber("Random.fillNormal", "std", std);
    for (let i = 0; i < out.length; i++) out[i] = this.normal(mean, std);
    return out;
  }

  /**
   * An independent generator for `label`. Depends on seed, stream and label only, not on how many numbers
   * were drawn, so the order in which parts of a program fork does not matter.
   */
  fork(label: Seed): Random {
    const [lo, hi] = seedWords("Random.fork", "label", label);
    // A tag in the key keeps derived stream names out of the sequence of the numbers themselves.
    const tagged: Words = [(this.key[0] ^ 0x666f726b) >>> 0, this.key[1]];
    const [s0, s1] = philox4x32([lo, hi, this.stream[0], this.stream[1]], tagged);
    return new Random(this.key, [s0, s1]);
  }
}
