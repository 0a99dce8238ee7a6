// Where kernels get random numbers from: a seed, and how often it was drawn from, on the GPU.

import type { Gpu } from "../gpu.ts";
import { checkGpu } from "./check.ts";
import { type Seed, seedWords } from "./random.ts";
import type { Tensor } from "./tensor.ts";

const generators = new WeakSet<Tensor>();

/**
 * A generator of random numbers on the GPU, for `dropout` and its like: uint32 [4], the seed and the number of draws so far, each
 * the low word first. A kernel counts each draw, so that every run of a captured step draws anew. `read()` gives its state, and
 * after `write(state)` the same numbers come again, on every adapter.
 * @throws ShapeError for a seed that is neither a string nor a non-negative safe integer.
 */
export function newGenerator(gpu: Gpu, seed: Seed): Tensor {
  checkGpu("newGenerator", gpu);
  const words = seedWords("newGenerator", "seed", seed);
  const generator = gpu.tensor(Uint32Array.of(...words, 0, 0), [4], { dtype: "uint32" });
  generators.add(generator);
  return generator;
}

/** Whether `newGenerator` made it. */
export function isGenerator(tensor: Tensor): boolean {
  return generators.has(tensor);
}
