import { ShapeError } from "../errors.ts";
import { checkChoice, checkInstance, checkNumber } from "../options.ts";
import { checkSeed, Random, type Seed } from "../tensor/random.ts";
import { checkShape, formatShape, type Shape, sizeOf } from "../tensor/shape.ts";

export const INITS = ["xavier", "xavier_normal", "he", "he_uniform", "fan_in"] as const;
/**
 * How weights start. `xavier` is the paper's choice; `he` suits ReLU networks without normalisation; `fan_in` is what PyTorch's
 * own layers start with.
 */
export type Init = (typeof INITS)[number];

/** Elements: what 4 GiB hold. No adapter binds more. */
const MOST = 2 ** 30;

/** @throws UsageError for a name that is no way to start weights. */
export function checkInit(op: string, init: unknown, name = "init"): void {
  checkChoice(op, name, init, INITS);
}

/**
 * Initial weights of shape [K, R, S, C] or [K, C].
 *
 * - `xavier`: uniform in ±√(6 / (fanIn + fanOut)); `xavier_normal`: variance 2 / (fanIn + fanOut).
 *   Glorot & Bengio (2010).
 * - `he`: normal with variance 2 / fanIn; `he_uniform`: the same variance, uniform. He et al. (2015).
 * - `fan_in`: uniform in ±1/√fanIn. LeCun et al. (1998).
 *
 * fanIn = R·S·C, fanOut = R·S·K.
 * @param gain what they are multiplied by
 * @throws UsageError for a name that is none of these
 */
export function initWeights(shape: Shape, init: Init, random: Random, gain = 1): Float32Array {
  checkShape("initWeights", shape);
  if (shape.length < 2 || sizeOf(shape) > MOST) {
    throw new ShapeError(
      `initWeights: shape is ${formatShape(shape)}; expected [K, R, S, C] or [K, C] of at most 2^30 elements`,
    );
  }
  checkInit("initWeights", init);
  checkInstance("initWeights", "random", random, Random);
  checkNumber("initWeights", "gain", gain);
  const fanIn = sizeOf(shape.slice(1));
  const fanOut = (shape[0]! * fanIn) / shape.at(-1)!;
  const variances = { xavier: 2 / (fanIn + fanOut), he: 2 / fanIn, fan: 1 / (3 * fanIn) };
  const [family] = init.split("_") as [keyof typeof variances];
  const std = gain * Math.sqrt(variances[family]);
  const uniform = init === "xavier" || init === "he_uniform" || init === "fan_in";
  const bound = Math.sqrt(3) * std;
  return Float32Array.from({ length: sizeOf(shape) }, () =>
    uniform ? bound * (2 * random.uniform() - 1) : std * random.normal(),
  );
}

let shared = new Random(0);

/** The generator of layers that have no other. */
export function sharedRandom(): Random {
  return shared;
}

/**
 * Starts the generator anew that layers without a `random` of their own draw their weights from, as PyTorch's `manual_seed`:
 * the same layers made after it, in the same order, get the same weights. It starts with seed 0.
 */
export function manualSeed(seed: Seed): void {
  checkSeed("manualSeed", "seed", seed);
  shared = new Random(seed);
}
