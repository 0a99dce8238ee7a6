// Singular values of products of Gaussian matrices: why deep linear maps without normalisation stretch some directions by
// far more than others.

import { Matrix, SingularValueDecomposition } from "ml-matrix";
import { Random } from "../tensor/random.ts";
import {
  type Cell,
  type Configuration,
  defineExperiment,
  defineMeasurement,
  judge,
  missing,
  type Preset,
} from "./experiment.ts";
import { histogramChart, lineChart } from "./plot.ts";
import { geometricMean, mean, sampleStd, show } from "./statistics.ts";

interface RandomMatrices extends Configuration {
  measure: "matrices";
  /** N: each matrix is N × N. */
  size: number;
  /** M: how many are multiplied. */
  factors: number;
}

interface SingularValues {
  /** Squared singular values of the product, largest first. Entries have variance 1/N: their mean is near 1. */
  squared: number[];
}

/** A point of the limiting distribution of x, the squared singular values, for 0 < φ < π / (M + 1). */
export interface TheoryPoint {
  x: number;
  /** Probability per unit of x. */
  density: number;
  /** Share of values up to x. */
  below: number;
}

/**
 * The limit for N → ∞: x(φ) = sin^{M+1}((M+1)φ) / (sin φ · sin^M(Mφ)), ρ(φ) = sin²φ · sin^{M−1}(Mφ) / (π · sin^M((M+1)φ)).
 * For ascending x; `below` integrates ρ dx by trapezoids in φ.
 */
export function theory(factors: number, points = 4000): TheoryPoint[] {
  const m = factors;
  const end = Math.PI / (m + 1);
  const curve: TheoryPoint[] = [];
  // x falls with φ from (M+1)^{M+1} / M^M to 0. Near φ = end, x ~ (end − φ)^{M+1}: square-root spacing there would still
  // be coarse in log x, so φ approaches both ends geometrically.
  const half = Math.floor(points / 2);
  const fractions = Array.from({ length: half }, (_, i) => 0.5 * 10 ** (-7 * (i / (half - 1))));
  const phis = [...fractions.map((f) => end * (1 - f)).reverse(), ...fractions.slice(1).map((f) => end * f)];
  let below = 0;
  let previous: { x: number; density: number } | null = null;
  for (const phi of phis) {
    const top = Math.sin((m + 1) * phi);
    const middle = Math.sin(m * phi);
    const x = top ** (m + 1) / (Math.sin(phi) * middle ** m);
    const density = (Math.sin(phi) ** 2 * middle ** (m - 1)) / (Math.PI * top ** m);
    // Near 0 the density is ~ x^(−M/(M+1)): integrate in log x, where x·ρ is smooth.
    if (previous) {
      below += ((x * density + previous.x * previous.density) / 2) * Math.log(x / previous.x);
    } else {
      below = (m + 1) * x * density;
    }
    previous = { x, density };
    curve.push({ x, density, below });
  }
  return curve;
}

/** Largest difference between the share of `values` up to a point and the theory's. */
export function kolmogorovSmirnov(values: readonly number[], curve: readonly TheoryPoint[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  let at = 0;
  let distance = 0;
  sorted.forEach((value, i) => {
    while (at < curve.length && curve[at]!.x < value) at += 1;
    const after = curve[at];
    const before = curve[at - 1];
    const share = !after
      ? 1
      : !before
        ? (after.below * value) / after.x
        : before.below + ((after.below - before.below) * (value - before.x)) / (after.x - before.x);
    distance = Math.max(
      distance,
      Math.abs(share - i / sorted.length),
      Math.abs(share - (i + 1) / sorted.length),
    );
  });
  return distance;
}

/** Squared singular values of a product of `factors` size × size matrices of normal numbers of variance 1 / size. */
export function squaredSingularValues(size: number, factors: number, random: Random): number[] {
  const gaussian = () => {
    const std = 1 / Math.sqrt(size);
    const matrix = new Matrix(size, size);
    for (let i = 0; i < size; i += 1)
      for (let j = 0; j < size; j += 1) matrix.set(i, j, std * random.normal());
    return matrix;
  };
  let product = gaussian();
  for (let i = 1; i < factors; i += 1) product = product.mmul(gaussian());
  const { diagonal } = new SingularValueDecomposition(product, {
    computeLeftSingularVectors: false,
    computeRightSingularVectors: false,
  });
  return diagonal.map((value) => value * value);
}

/** As in the paper. */
const REPEATS = 10;

/** N. */
const SIZES: Record<Preset, number> = { "first-look": 100, quick: 200, standard: 500, paper: 1000 };
/** M, as in the paper. */
const FACTORS = [1, 3, 5];

const matrices = defineMeasurement<RandomMatrices, SingularValues>({
  id: "matrices",
  async run(_context, { size, factors }, seed) {
    return { squared: squaredSingularValues(size, factors, new Random(seed).fork(`matrices ${factors}`)) };
  },
  work: ({ size, factors }) => ({
    ...{ flop: 0, passes: 0, programs: [] },
    hostFlop: size ** 3 * (4 + 2 * (factors - 1)),
  }),
});

const CRITERIA = {
  density:
    "For M = 1, 3 and 5 the squared singular values follow the theory: Kolmogorov–Smirnov distance ≤ 0.02",
  spread: "The largest singular value and the condition number grow with M",
};

/** Fewer show no spread of the largest and smallest values. */
const LEAST_REPEATS = 2;

function groupFactors(cells: readonly Cell<RandomMatrices, SingularValues>[]) {
  return [...new Set(cells.map(({ configuration }) => configuration.factors))]
    .sort((a, b) => a - b)
    .map((factors) => {
      const repeats = cells
        .filter(({ configuration }) => configuration.factors === factors)
        .map(({ data }) => data.squared);
      const values = repeats.flat();
      const curve = theory(factors);
      const largest = repeats.map((squared) => Math.sqrt(Math.max(...squared)));
      const conditions = repeats.map((squared) => Math.sqrt(Math.max(...squared) / Math.min(...squared)));
      return {
        factors,
        size: repeats[0]!.length,
        repeats: repeats.length,
        values,
        curve,
        distance: kolmogorovSmirnov(values, curve),
        largest: mean(largest),
        largestStd: sampleStd(largest),
        condition: geometricMean(conditions),
        conditions,
      };
    });
}

export const randomMatrices = defineExperiment<RandomMatrices, SingularValues>({
  id: "random-matrices",
  title: "Products of random matrices",
  source: "§ 4, Figs. 7 and 8",
  claim:
    "The more random matrices are multiplied, the more their product stretches some directions above all others.",
  about:
    "A network at initialisation is, but for its activations, a product of random matrices. The singular values of a product of M Gaussian " +
    "N × N matrices, ten products each, against their limiting density, which is the only thing here that comes from a formula.",
  measurements: [matrices],

  configurations: (preset) =>
    FACTORS.map((factors) => ({
      ...{ measure: "matrices", label: `N ${SIZES[preset]} M ${factors}` },
      size: SIZES[preset],
      factors,
    })),

  repeats: () => REPEATS,

  verdict(cells) {
    const groups = groupFactors(cells).filter(({ repeats }) => repeats >= LEAST_REPEATS);
    const absent = FACTORS.filter((factors) => !groups.some((group) => group.factors === factors));
    if (absent.length > 0) {
      const what = `${LEAST_REPEATS} products or more of M = ${absent.join(", ")}`;
      return Object.values(CRITERIA).map((criterion) => missing(criterion, what));
    }
    const grows = groups.every(
      (group, i) =>
        i === 0 || (group.largest > groups[i - 1]!.largest && group.condition > groups[i - 1]!.condition),
    );
    return [
      {
        criterion: CRITERIA.density,
        measured: groups.map(({ factors, distance }) => `M = ${factors}: ${show(distance, 2)}`).join(", "),
        verdict: judge(
          groups.every(({ distance }) => distance <= 0.02),
          ...groups.map(({ distance }) => distance),
        ),
      },
      {
        criterion: CRITERIA.spread,
        measured: groups
          .map((g) => `M = ${g.factors}: largest ${show(g.largest)}, condition ${show(g.condition, 2)}`)
          .join("; "),
        verdict: judge(grows, ...groups.flatMap(({ largest, condition }) => [largest, condition])),
      },
    ];
  },

  compare(cells) {
    const groups = groupFactors(cells);
    return [
      {
        what: "products, N",
        paper: "M = 1, 3, 5; N = 1000; ten each",
        mark: "F",
        ours:
          groups.length > 0
            ? `M = ${groups.map(({ factors }) => factors).join(", ")}; N = ${groups[0]!.size}; ${groups[0]!.repeats} each`
            : "–",
      },
    ];
  },

  async exhibit(cells) {
    const groups = groupFactors(cells);
    if (groups.length === 0) return { figures: [] };
    const figures = await Promise.all(
      groups.map(async (group, i) => {
        // Of the singular values, not their squares: half of the decades.
        const low = Math.max(-4, Math.log10(group.curve.find(({ below }) => below > 0.004)!.x) / 2);
        const high = Math.log10(group.curve.at(-1)!.x) / 2 + 0.1;
        const bins = 40;
        const width = (high - low) / bins;
        const edges = Array.from({ length: bins + 1 }, (_, b) => low + b * width);
        const counts = new Array<number>(bins).fill(0);
        for (const value of group.values) {
          const bin = Math.floor((Math.log10(value) / 2 - low) / width);
          if (bin >= 0 && bin < bins) counts[bin]! += 1;
        }
        const scale = 1 / (group.values.length * width);
        const svg = await histogramChart(
          {
            label: `${group.values.length} values, N = ${group.size}`,
            edges,
            counts: counts.map((c) => c * scale),
          },
          [
            {
              label: "theory, N → ∞",
              points: group.curve
                .filter(({ x }) => Math.log10(x) / 2 >= low)
                .map(({ x, density }) => [Math.log10(x) / 2, 2 * x * density * Math.LN10] as const),
            },
          ],
          {
            title: group.factors === 1 ? "One matrix" : `Product of ${group.factors} matrices`,
            x: "log₁₀ of the singular value",
            y: "density per decade",
          },
        );
        return { svg, caption: i === 0 ? "Each histogram pools ten products." : "" };
      }),
    );
    figures.push({
      svg: await lineChart(
        [
          {
            label: "condition number",
            points: groups.map(
              (g) => [g.factors, g.condition, Math.min(...g.conditions), Math.max(...g.conditions)] as const,
            ),
          },
          {
            label: "largest singular value",
            points: groups.map(
              (g) => [g.factors, g.largest, g.largest - g.largestStd, g.largest + g.largestStd] as const,
            ),
          },
        ],
        { title: "Growth with the number of factors", x: "factors M", y: "value", yScale: "log" },
      ),
      caption: "Condition number: geometric mean and range over ten products. Largest value: mean ± std.",
    });
    return { figures };
  },
});
