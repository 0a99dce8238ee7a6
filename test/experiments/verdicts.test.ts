// Each criterion of each experiment: made-up cells for which it must hold, not hold, and be left open. A criterion that cannot fail
// would be none.

import { describe, expect, it } from "vitest";
import {
  type Cell,
  type Configuration,
  PRESETS,
  type Preset,
  type Verdict,
} from "../../src/experiments/experiment.ts";
import { EXPERIMENTS, selectExperiments } from "../../src/experiments/index.ts";
import { theory } from "../../src/experiments/random-matrices.ts";

type Settings = Configuration & Record<string, unknown>;
/** The data of a cell; undefined leaves the cell out. */
type Make = (configuration: Settings, seed: number) => unknown;

function cellsOf(id: string, make: Make, preset: Preset = "quick", seeds = 2): Cell[] {
  const experiment = selectExperiments([id])[0]!;
  return experiment.configurations(preset).flatMap((configuration) =>
    Array.from({ length: experiment.repeats?.(configuration, seeds) ?? seeds }, (_, seed) => ({
      configuration,
      seed,
      seconds: 1,
      data: make(configuration as Settings, seed),
    })).filter(({ data }) => data !== undefined),
  );
}

/** By norm. */
type By<T> = { batch: T; none: T; last?: T };
const of = <T>(by: By<T>, { norm }: Settings) => by[norm as "batch"];

/** A run that diverges from a rate on, and reaches an accuracy; it is flat from a quarter of its length on, unless it `rises`. */
function trained(options: {
  limit?: By<number> | ((c: Settings) => number);
  accuracy?: (c: Settings, seed: number) => number;
  rises?: boolean;
  /** Answers each image alike, from the first step to the last. */
  stuck?: (c: Settings) => boolean;
}): Make {
  const { limit = { batch: 50, none: 0.05, last: 5 }, accuracy = () => 0.5, rises = false } = options;
  return (c, seed) => {
    const lr = c.lr as number;
    const diverged = lr >= (typeof limit === "function" ? limit(c) : of(limit, c));
    const steps = c.steps as number;
    const isStuck = options.stuck?.(c) ?? false;
    const loss = isStuck ? Math.log(10) : 2;
    const log = Array.from({ length: 16 }, (_, i) => ({
      ...{ step: ((i + 1) * steps) / 16, epoch: i + 1, loss, maxLoss: loss, lr },
      accuracy: rises ? 0.05 * i : i < 4 ? 0.1 * i : 0.9,
    }));
    const testAccuracy = diverged ? Number.NaN : (isStuck ? 0.1 : accuracy(c, seed)) + 0.001 * seed;
    return {
      log,
      evals: [{ step: steps, epoch: 1, testLoss: 1, testAccuracy }],
      ...{ startLoss: 2.3, divergedAt: diverged ? 2 : null, testAccuracy, stepsDone: steps },
      ...{ batchesPerEpoch: 62, classes: 10 },
    };
  };
}

/** Of rates up to 0.05, and beyond. */
const bySize = (small: number, large: number) => (c: Settings) => ((c.lr as number) > 0.05 ? large : small);

/** What `by` says of the gradients of the middle layer. */
const gradient =
  (by: By<{ kurtosis: number; tailMass: number; std: number }>): Make =>
  (c) => {
    const { std, ...tails } = of(by, c);
    return { layer: 55, count: 100, min: -1, max: 1, variance: std ** 2, ...tails, histogram: null };
  };
const [heavy, light] = [
  { kurtosis: 12, tailMass: 0.2, std: 1 },
  { kurtosis: 3, tailMass: 0.001, std: 0.01 },
];

/** Landscapes that fall to 0.9 before `edge` and rise as the square beyond. */
const landscape =
  (edge: By<number>): Make =>
  (c) => {
    const alphas = c.alphas as number[];
    const at = of(edge, c);
    const losses = alphas.map((alpha) => (alpha < at ? 0.9 : 0.9 + (alpha / at) ** 2));
    return { landscapes: [1, 4, 7].map(() => ({ loss: 1, alphas, losses })) };
  };

const diverging =
  (variances: (seed: number) => number[]): Make =>
  (c, seed) => ({
    ...{ lr: 0.1, update: 3, losses: [] },
    layers: variances(seed).map((variance, i) => ({
      layer: [8, 44, 80][i]!,
      name: `${i}`,
      mean: (c.fractions as number[]).map(() => [1, -2]),
      variance: (c.fractions as number[]).map((fraction) => [fraction * variance, fraction * variance]),
    })),
  });

/** Layers whose ln std `of` gives by depth, from 1; the logits come last. */
const moments =
  (std: By<(layer: number) => number>): Make =>
  (c) => ({
    layers: Array.from({ length: 110 }, (_, i) => ({
      ...{ layer: i + 1, name: `${i}`, logMean: 0, logMeanSpread: 0.1, logStdSpread: 0.1 },
      logStd: of(std, c)(i + 1),
    })),
  });
/** Rises by `height` over each of three stages of 36 layers. */
const sawTooth = (height: number) => (layer: number) => (height * ((layer - 1) % 36)) / 36;
const linear = (perLayer: number) => (layer: number) => perLayer * layer;

const logits =
  (by: By<{ saturated: number; strongestShare: number; meanCosine: number }>, jitter = 0): Make =>
  (c, seed) => {
    const { saturated, strongestShare, meanCosine } = of(by, c);
    const noise = jitter * (seed - 1.5);
    return {
      ...{ loss: 3, gradients: [[0.1, -0.1]], modalShare: 1, largestInOne: 0.9, classNames: ["a", "b"] },
      ...{ saturated, strongestShare: strongestShare + noise, meanCosine: meanCosine + noise },
    };
  };
const sure = { saturated: 0.98, strongestShare: 0.95, meanCosine: 0.6 };
const unsure = { saturated: 0.01, strongestShare: 0.25, meanCosine: 0.2 };

const aligned =
  (by: By<number>): Make =>
  (c) => ({
    layers: [18, 54, 90].map((layer) => {
      const ratio = of(by, c);
      return { name: "", layer, magnitude: 4, total: 4 / ratio, ratio, terms: 10 };
    }),
  });

/** Squared singular values as the theory for M = `of(factors)` has them, times `scale`. */
const matrices =
  (of: (factors: number) => number, scale = 1): Make =>
  (c, seed) => {
    const curve = theory(of(c.factors as number));
    const squared = Array.from({ length: 200 }, (_, i) => {
      const below = (i + 0.5 + 0.01 * seed) / 200.2;
      return scale * curve.find((point) => point.below >= below)!.x;
    });
    return { squared };
  };

const grid =
  (accuracy: (noise: number, c: Settings) => number): Make =>
  (c, seed) =>
    c.measure === "noise"
      ? undefined
      : trained({ limit: () => 10, accuracy: () => accuracy((c.lr as number) / (c.batchSize as number), c) })(
          c,
          seed,
        );

/** Criterion (from 0), what is made up, and what must be said of it. */
const CASES: Record<
  string,
  [criterion: number, what: string, verdict: Verdict, make: Make, seeds?: number][]
> = {
  "learning-rates": [
    [0, "1000 times larger", "holds", trained({})],
    [0, "equal", "does not hold", trained({ limit: { batch: 0.5, none: 0.5 } })],
    [0, "nothing diverges without", "inconclusive", trained({ limit: { batch: 50, none: 1e9 } })],
    [0, "all diverges with", "inconclusive", trained({ limit: { batch: 0, none: 0.05 } })],
    [1, "equal at the small rate, better at a large one", "holds", trained({ accuracy: bySize(0.5, 0.9) })],
    [
      ...([1, "as good at the small rate as at the best", "does not hold"] as const),
      trained({ accuracy: (c) => (c.norm === "batch" ? 0.9 : 0.5) }),
    ],
    [1, "not plateaued", "inconclusive", trained({ accuracy: bySize(0.5, 0.9), rises: true })],
    [
      ...([1, "seeds that differ more than the gain", "inconclusive"] as const),
      trained({ accuracy: (c, seed) => (c.norm === "none" ? 0.3 + 0.4 * seed : bySize(0.5, 0.7)(c)) }),
    ],
    [
      ...([1, "stuck at every rate", "inconclusive"] as const),
      trained({ accuracy: bySize(0.5, 0.9), stuck: (c) => c.norm === "none" }),
    ],
    [1, "diverged at the small rate", "inconclusive", trained({ limit: { batch: 50, none: 1e-9 } })],
    [2, "better at a large rate", "holds", trained({ accuracy: bySize(0.5, 0.9) })],
    [2, "no better", "does not hold", trained({ accuracy: (c) => 0.5 - 0.05 * Math.log10(c.lr as number) })],
    [2, "one seed", "inconclusive", (c, seed) => (seed === 0 ? trained({})(c, 0) : undefined)],
  ],
  "gradient-histogram": [
    [0, "heavy without", "holds", gradient({ batch: light, none: heavy })],
    [0, "heavy with", "does not hold", gradient({ batch: heavy, none: light })],
    [
      ...([0, "heavy without in one seed alone", "does not hold"] as const),
      (c, seed) =>
        gradient(seed === 0 ? { batch: light, none: heavy } : { batch: light, none: light })(c, seed),
    ],
    [0, "not finite", "inconclusive", gradient({ batch: light, none: { ...heavy, kurtosis: Number.NaN } })],
    [
      0,
      "one seed",
      "inconclusive",
      (c, seed) => (seed === 0 ? gradient({ batch: light, none: heavy })(c, 0) : undefined),
    ],
    [1, "wide without", "holds", gradient({ batch: light, none: heavy })],
    [1, "nine times", "does not hold", gradient({ batch: light, none: { ...heavy, std: 0.09 } })],
    [1, "not finite", "inconclusive", gradient({ batch: light, none: { ...heavy, std: Number.NaN } })],
  ],
  "loss-landscape": [
    [0, "reaches further with", "holds", landscape({ batch: 0.1, none: 1e-3 })],
    [0, "five times as far", "does not hold", landscape({ batch: 5e-3, none: 1e-3 })],
    [0, "never falls with", "does not hold", landscape({ batch: 0, none: 1e-3 })],
    [
      ...([0, "not a number", "inconclusive"] as const),
      (c, seed) => {
        const { landscapes } = landscape({ batch: 0.1, none: 1e-3 })(c, seed) as { landscapes: object[] };
        return { landscapes: landscapes.map((each) => ({ ...each, alphas: [Number.NaN] })) };
      },
    ],
    [1, "diverges later with", "holds", landscape({ batch: 0.1, none: 1e-3 })],
    [1, "diverges earlier with", "does not hold", landscape({ batch: 1e-3, none: 0.1 })],
    [1, "does not diverge without", "inconclusive", landscape({ batch: 0.1, none: 1e9 })],
  ],
  divergence: [
    [0, "10³ a step, and more", "holds", diverging(() => [1, 5e6, 5e16])],
    [0, "flat", "does not hold", diverging(() => [1, 1, 1])],
    [0, "large everywhere", "does not hold", diverging(() => [1e9, 1e10, 1e11])],
    [0, "grows early alone", "does not hold", diverging(() => [1, 1e6, 1e7])],
    [
      0,
      "one run",
      "inconclusive",
      (c, seed) => (seed === 0 ? diverging(() => [1, 5e6, 5e16])(c, 0) : undefined),
    ],
    [
      ...([0, "no run that diverged", "inconclusive"] as const),
      () => ({ lr: null, update: 0, losses: [], layers: [] }),
    ],
    [0, "never finite", "inconclusive", diverging(() => [1, Number.NaN, Number.POSITIVE_INFINITY])],
  ],
  "moments-by-depth": [
    [0, "exponential without", "holds", moments({ batch: sawTooth(0.9), none: linear(0.04) })],
    [0, "flat without", "does not hold", moments({ batch: sawTooth(0.9), none: linear(0) })],
    [
      ...([0, "one jump without", "does not hold"] as const),
      moments({ batch: sawTooth(0.9), none: (layer) => (layer > 108 ? 100 : 0) }),
    ],
    [0, "not finite", "inconclusive", moments({ batch: sawTooth(0.9), none: () => Number.NaN })],
    [1, "low saw-tooth", "holds", moments({ batch: sawTooth(0.9), none: linear(0.04) })],
    [1, "high saw-tooth", "does not hold", moments({ batch: sawTooth(2), none: linear(0.04) })],
    [1, "not finite", "inconclusive", moments({ batch: () => Number.NaN, none: linear(0.04) })],
    [2, "saw-tooth", "holds", moments({ batch: sawTooth(0.9), none: linear(0.04) })],
    [2, "grows on", "does not hold", moments({ batch: linear(0.01), none: linear(0.04) })],
    [2, "flat", "does not hold", moments({ batch: linear(0), none: linear(0.04) })],
    [2, "not finite", "inconclusive", moments({ batch: () => Number.NaN, none: linear(0.04) })],
  ],
  "logit-gradients": [
    [0, "sure without", "holds", logits({ batch: unsure, none: sure })],
    [0, "sure with, too", "does not hold", logits({ batch: sure, none: sure })],
    [0, "not finite", "inconclusive", logits({ batch: unsure, none: { ...sure, saturated: Number.NaN } })],
    [1, "one class without", "holds", logits({ batch: unsure, none: sure })],
    [1, "0.1 apart", "does not hold", logits({ batch: { ...sure, strongestShare: 0.85 }, none: sure })],
    [
      1,
      "0.2 apart, give or take",
      "inconclusive",
      logits({ batch: { ...sure, strongestShare: 0.75 }, none: sure }, 0.2),
    ],
    [2, "alike without", "holds", logits({ batch: unsure, none: sure })],
    [2, "alike with", "does not hold", logits({ batch: sure, none: unsure })],
    [2, "noise", "inconclusive", logits({ batch: sure, none: sure }, 0.1)],
  ],
  "gradient-alignment": [
    [0, "the paper's", "holds", aligned({ batch: 40, none: 2 })],
    [0, "five times", "does not hold", aligned({ batch: 10, none: 2 })],
    [0, "not finite", "inconclusive", aligned({ batch: Number.NaN, none: 2 })],
    [1, "the paper's", "holds", aligned({ batch: 40, none: 2 })],
    [1, "cancel without, too", "does not hold", aligned({ batch: 100, none: 8 })],
    [1, "not finite", "inconclusive", aligned({ batch: 100, none: Number.NaN })],
  ],
  "random-matrices": [
    [0, "as in theory", "holds", matrices((m) => m)],
    [0, "too large", "does not hold", matrices((m) => m, 1.3)],
    [0, "one M's as another's", "does not hold", matrices((m) => Math.min(m, 3))],
    [0, "no M = 5", "inconclusive", (c, seed) => (c.factors === 5 ? undefined : matrices((m) => m)(c, seed))],
    [1, "grows", "holds", matrices((m) => m)],
    [1, "does not", "does not hold", matrices(() => 3)],
    [
      1,
      "one product each",
      "inconclusive",
      (c, seed) => (seed > 0 ? undefined : matrices((m) => m)(c, seed)),
    ],
  ],
  "bn-last-layer": [
    [0, "between both", "holds", trained({})],
    [0, "as without", "does not hold", trained({ limit: { batch: 50, none: 0.05, last: 0.05 } })],
    [0, "nothing diverges without", "inconclusive", trained({ limit: { batch: 50, none: 1e9, last: 5 } })],
    [
      ...([1, "two thirds of the gain", "holds"] as const),
      trained({ accuracy: (c) => of({ batch: 0.9, last: 0.8, none: 0.6 }, c) }),
    ],
    [
      ...([1, "a third of the gain", "does not hold"] as const),
      trained({ accuracy: (c) => of({ batch: 0.9, last: 0.7, none: 0.6 }, c) }),
    ],
    [1, "no gain to share", "inconclusive", trained({ accuracy: () => 0.6 })],
    [
      ...([1, "one seed", "inconclusive"] as const),
      (c, seed) =>
        seed > 0 ? undefined : trained({ accuracy: () => of({ batch: 0.9, last: 0.8, none: 0.6 }, c) })(c, 0),
    ],
  ],
  "sgd-noise": [
    [0, "goes with α/|B|", "holds", grid((noise) => 0.5 + 0.05 * Math.log10(noise))],
    [0, "goes against it", "does not hold", grid((noise) => 0.3 - 0.05 * Math.log10(noise))],
    [0, "goes with |B|", "does not hold", grid((_noise, c) => 0.3 + 0.001 * (c.batchSize as number))],
    [0, "hardly anything trains", "inconclusive", grid((noise) => (noise > 1e-5 ? 0.1 : 0.5))],
    [0, "constant", "inconclusive", (c) => grid(() => 0.5)(c, 0)],
  ],
  depth: [
    [0, "falls without", "holds", trained({ limit: byDepth({ 20: 5, 56: 0.5, 110: 0.05 }) })],
    [0, "does not fall", "does not hold", trained({ limit: byDepth({ 20: 0.05, 56: 0.05, 110: 0.05 }) })],
    [0, "rises on the way", "does not hold", trained({ limit: byDepth({ 20: 0.5, 56: 0.005, 110: 0.05 }) })],
    [0, "nothing diverges at 110", "inconclusive", trained({ limit: byDepth({ 20: 5, 56: 0.5, 110: 1e9 }) })],
    [0, "all diverges at 110", "inconclusive", trained({ limit: byDepth({ 20: 5, 56: 0.5, 110: 0 }) })],
    [1, "stays with", "holds", trained({ limit: byDepth({ 20: 5, 56: 0.5, 110: 0.05 }) })],
    [1, "falls with", "does not hold", trained({ limit: byDepth({}, { 20: 50, 56: 5, 110: 0.3 }) })],
    [
      1,
      "falls by a step of the grid",
      "inconclusive",
      trained({ limit: byDepth({}, { 20: 11, 56: 11, 110: 3.2 }) }),
    ],
    [
      1,
      "nothing diverges at 20",
      "inconclusive",
      trained({ limit: byDepth({}, { 20: 1e9, 56: 5, 110: 0.5 }) }),
    ],
  ],
};

function byDepth(none: Record<number, number>, batch: Record<number, number> = { 20: 50, 56: 50, 110: 50 }) {
  return (c: Settings) => (c.norm === "batch" ? batch : none)[c.depth as number] ?? 0.05;
}

describe.each(EXPERIMENTS.map(({ id }) => id))("%s", (id) => {
  const experiment = selectExperiments([id])[0]!;
  const cases = CASES[id] ?? [];

  if (cases.length > 0) {
    // In each preset: a grid of rates that does not reach far enough could not fail.
    it.each(cases)("criterion %i: %s: %s", (criterion, _what, verdict, make) => {
      for (const preset of PRESETS) {
        const finding = experiment.verdict(cellsOf(id, make, preset))[criterion]!;
        expect(finding.verdict, `${preset}: ${finding.criterion}: ${finding.measured}`).toBe(verdict);
      }
    });
  }

  it("has cases of every verdict for every criterion", () => {
    const count = experiment.verdict([]).length;
    const wanted = Array.from({ length: count }, (_, i) =>
      (["does not hold", "holds", "inconclusive"] as const).map((verdict) => `${i} ${verdict}`),
    ).flat();
    const there = new Set(cases.map(([criterion, , verdict]) => `${criterion} ${verdict}`));
    expect([...there].sort()).toEqual(wanted.sort());
    // A table judges nothing.
    if (id !== "norms") expect(count).toBeGreaterThan(0);
  });

  it("says what is missing where there are no cells, or those of one network only", () => {
    for (const { verdict, measured } of experiment.verdict([])) {
      expect(verdict).toBe("inconclusive");
      expect(measured).toMatch(/^missing: ./);
    }
    const make = cases.find(([, , verdict]) => verdict === "holds")?.[3];
    if (!make || !cellsOf(id, make).some(({ configuration }) => (configuration as Settings).norm === "none"))
      return;
    for (const norm of ["batch", "none"]) {
      const half = cellsOf(id, (c, seed) => (c.norm === norm ? make(c, seed) : undefined));
      if (half.length === 0 || id === "divergence") continue;
      const verdicts = experiment.verdict(half).map(({ verdict }) => verdict);
      expect(verdicts, norm).toContain("inconclusive");
    }
  });

  it("compares and draws what there is, and nothing where there is nothing", async () => {
    for (const { paper, mark } of experiment.compare([])) {
      expect(paper).not.toBe("");
      expect(["F", "N", "R"]).toContain(mark);
    }
    expect((await experiment.exhibit([])).figures).toEqual([]);
    const make = cases.find(([, , verdict]) => verdict === "holds")?.[3];
    if (!make) return;
    const cells = cellsOf(id, make);
    for (const { ours } of experiment.compare(cells)) expect(ours).not.toMatch(/undefined|NaN/);
    const { figures } = await experiment.exhibit(cells);
    for (const { svg } of figures) if (svg) expect(svg).toMatch(/^<svg[^>]*viewBox/);
  });
});
