import { DataError } from "../errors.ts";
import { checkInteger, checkOptions, optionNames, show } from "../options.ts";
import { Random } from "../tensor/random.ts";
import { checkDataset, type ImageDataset, subset } from "./dataset.ts";

/** Options of `randomSplit`. */
export interface RandomSplitOptions {
  /** An integer from 0 to 2³²−1: which images go where. Default 0. */
  seed?: number;
}

const OPTIONS = optionNames<RandomSplitOptions>({ seed: 0 });

/** Of shares that are to come to 1. */
const ROUNDING = 1e-9;

/**
 * Parts of a data set that have no image in common, as PyTorch's `random_split`: `lengths` are numbers of images that come to all of
 * them, or shares that come to 1, of which each is rounded down and the images left over go to the first parts.
 *
 * ```ts
 * const [train, test] = randomSplit(all, [0.9, 0.1]);
 * ```
 * @throws DataError for lengths that do not come to all images, or a part without any
 */
export function randomSplit<const L extends readonly number[]>(
  dataset: ImageDataset,
  lengths: L,
  options: RandomSplitOptions = {},
): { -readonly [part in keyof L]: ImageDataset } {
  const op = "randomSplit";
  checkDataset(op, dataset);
  checkOptions(op, options, OPTIONS);
  const { seed = 0 } = options;
  checkInteger(op, "seed", seed, 0, 2 ** 32 - 1);
  const counts = countsOf(dataset, lengths);
  const order = Uint32Array.from({ length: dataset.count }, (_, i) => i);
  new Random(seed).fork("random-split").shuffle(order);
  let from = 0;
  const parts = counts.map((count, i) => {
    from += count;
    return subset(dataset, order.subarray(from - count, from), `${dataset.name}, part ${i + 1}`);
  });
  return parts as { -readonly [part in keyof L]: ImageDataset };
}

/** Images of each part. */
function countsOf({ count, name }: ImageDataset, lengths: readonly number[]): number[] {
  const refuse = (what: string): never => {
    throw new DataError(
      `randomSplit: ${what}; expected numbers of images that come to ${count}, those of ${show(name)}, or shares that come to 1`,
    );
  };
  if (
    !Array.isArray(lengths) ||
    lengths.length === 0 ||
    !lengths.every((each) => Number.isFinite(each) && each > 0)
  ) {
    return refuse(`lengths is ${show(lengths)}`);
  }
  const sum = lengths.reduce((a, b) => a + b, 0);
  let counts = [...lengths];
  if (Math.abs(sum - 1) < ROUNDING) {
    // A share of 0.7 of 10 images comes to 7, also where its float64 falls short of it.
    counts = lengths.map((share) => Math.floor(share * count + ROUNDING));
    const left = count - counts.reduce((a, b) => a + b, 0);
    for (let i = 0; i < left; i += 1) counts[i % counts.length]! += 1;
  } else if (sum !== count || !lengths.every(Number.isInteger)) return refuse(`lengths is ${show(lengths)}`);
  const empty = counts.indexOf(0);
  return empty < 0
    ? counts
    : refuse(`lengths is ${show(lengths)}, which leaves part ${empty + 1} without an image`);
}
