// Statistics of one tensor, computed on the GPU: only results are read back.

import { noGrad } from "../autograd/tape.ts";
import type { Bindings } from "../device/bindings.ts";
import type { EntryOf } from "../device/kernels.ts";
import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { mul, scale, sub } from "../ops/elementwise/elementwise.ts";
import { strideGrid } from "../ops/grid.ts";
import { mean, sum } from "../ops/reduce/reduce.ts";
import { checkOptions, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { formatShape, sameShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Dispatches `entry` of shaders/probe.wgsl for `count` elements, or rows. */
export function runProbe<E extends EntryOf<typeof shaders.probe>>(
  gpu: Gpu,
  entry: E,
  count: number,
  bindings: Bindings<typeof shaders.probe, E>,
): void {
  const { size, grid } = strideGrid(gpu, count);
  gpu.run(
    { shader: shaders.probe, entry, constants: { WORKGROUP_SIZE: size } },
    bindings,
    grid,
    `probe ${entry}`,
  );
}

/** What `count` leaves in a number for each bin. */
async function counted(gpu: Gpu, bins: number, count: (counts: Tensor) => void): Promise<Uint32Array> {
  const counts = gpu.keep(gpu.zeros([bins], { dtype: "uint32" }));
  try {
    count(counts);
    return (await counts.read()) as Uint32Array;
  } finally {
    counts.dispose();
  }
}

const MOST_BINS = 2 ** 24;

/** Counts of elements in bins of equal width. */
export interface Histogram {
  low: number;
  high: number;
  /** Elements per bin; the bins are equally wide over [low, high). */
  counts: number[];
  below: number;
  /** At or above `high`. */
  above: number;
  notFinite: number;
}

/**
 * Counts the elements of `x` (float32, any shape) in `bins` equally wide bins over [low, high).
 * @throws ShapeError unless low < high, both finite, and bins ≥ 1
 */
export async function histogram(
  x: Tensor,
  options: { low: number; high: number; bins: number },
): Promise<Histogram> {
  checkTensor("histogram", "x", x);
  checkOptions("histogram", options, ["low", "high", "bins"]);
  const { low, high, bins } = options;
  const ordered = Number.isFinite(low) && Number.isFinite(high) && low < high;
  if (!ordered || !Number.isInteger(bins) || bins < 1 || bins > MOST_BINS) {
    throw new ShapeError(
      `histogram: ${show(bins)} bins from ${show(low)} to ${show(high)}; expected finite low < high and 1 to ${MOST_BINS} bins`,
    );
  }
  const all = await counted(x.gpu, bins + 3, (counts) => {
    runProbe(x.gpu, "histogram", x.size, { counts, x, of_histogram: { count: x.size, bins, low, high } });
  });
  return {
    low,
    high,
    counts: Array.from(all.subarray(0, bins)),
    below: all[bins]!,
    above: all[bins + 1]!,
    notFinite: all[bins + 2]!,
  };
}

/**
 * The element of `x` with `rank` smaller or equal ones before it (0: the smallest), exactly: a radix selection by bytes.
 * NaNs rank beyond the infinities of their sign.
 */
export async function orderStatistic(x: Tensor, rank: number): Promise<number> {
  checkTensor("orderStatistic", "x", x);
  if (!Number.isInteger(rank) || rank < 0 || rank >= x.size) {
    throw new ShapeError(
      `orderStatistic: rank is ${show(rank)}; expected an integer from 0 to ${x.size - 1}, as x has ${x.size} elements`,
    );
  }
  let before = rank;
  let prefix = 0;
  let mask = 0;
  for (const shift of [24, 16, 8, 0]) {
    const of_digits = { count: x.size, shift, prefix, mask };
    const counts = await counted(x.gpu, 256, (counts) => {
      runProbe(x.gpu, "digits", x.size, { counts, x, of_digits });
    });
    let digit = 0;
    for (; before >= counts[digit]!; digit += 1) before -= counts[digit]!;
    prefix = (prefix | (digit << shift)) >>> 0;
    mask = (mask | (255 << shift)) >>> 0;
  }
  const bits = prefix >>> 31 === 1 ? prefix ^ 0x80000000 : ~prefix;
  return new Float32Array(new Uint32Array([bits]).buffer)[0]!;
}

/** The median of `x`: with an even number of elements, the mean of the two in the middle. */
export async function median(x: Tensor): Promise<number> {
  checkTensor("median", "x", x);
  const low = await orderStatistic(x, (x.size - 1) >> 1);
  return x.size % 2 === 1 ? low : (low + (await orderStatistic(x, x.size >> 1))) / 2;
}

/** What `describe` says of a tensor. */
export interface TensorStatistics {
  count: number;
  /** Elements that are NaN or infinite; with any, the figures below are NaN. */
  notFinite: number;
  min: number;
  max: number;
  mean: number;
  /** Biased: divided by the count. */
  variance: number;
  median: number;
  /** Median of |x − median|. */
  mad: number;
  /** E(x − mean)⁴ / variance²: 3 for normal numbers. */
  kurtosis: number;
  /** Share of elements with |x − median| ≥ 5 MAD: 7.4e-4 for normal numbers. */
  tailMass: number;
}

/** Range, moments and tails of all elements of `x` (float32, any shape). */
export async function describe(x: Tensor): Promise<TensorStatistics> {
  checkTensor("describe", "x", x);
  const { gpu, size: count } = x;
  const { notFinite } = await histogram(x, { low: 0, high: 1, bins: 1 });
  const unknown = Number.NaN;
  if (notFinite > 0) {
    return {
      count,
      notFinite,
      min: unknown,
      max: unknown,
      mean: unknown,
      variance: unknown,
      median: unknown,
      mad: unknown,
      kurtosis: unknown,
      tailMass: unknown,
    };
  }
  const min = await orderStatistic(x, 0);
  const max = await orderStatistic(x, count - 1);
  const middle = await median(x);
  // Divided by the largest element first: fourth powers leave float32's range soon.
  const largest = Math.max(Math.abs(min), Math.abs(max)) || 1;
  const [centre, second, fourth, deviation] = noGrad(() =>
    gpu.scope(() => {
      // Not by one factor: the inverse of a subnormal number overflows.
      const unit = scale(scale(x, 1 / Math.sqrt(largest)), 1 / Math.sqrt(largest));
      const average = mean(unit);
      const centred = sub(unit, average);
      const squares = mul(centred, centred);
      const distance = gpu.empty(x.shape);
      runProbe(gpu, "deviation", count, { out: distance, x, of_deviation: { count, centre: middle } });
      return [average, mean(squares), mean(mul(squares, squares)), distance] as const;
    }),
  );
  try {
    const variance = await second.item();
    const mad = await median(deviation);
    const tail = mad > 0 ? (await histogram(deviation, { low: 0, high: 5 * mad, bins: 1 })).above : unknown;
    return {
      count,
      notFinite,
      min,
      max,
      mean: (await centre.item()) * largest,
      variance: variance * largest ** 2,
      median: middle,
      mad,
      kurtosis: variance > 0 ? (await fourth.item()) / variance ** 2 : unknown,
      tailMass: tail / count,
    };
  } finally {
    for (const tensor of [centre, second, fourth, deviation]) tensor.dispose();
  }
}

/** Cosine of the angle between each two rows of `x` [rows, columns], as [rows, rows]; 0 for rows of zeros. */
export function rowCosines(x: Tensor): Tensor {
  const [rows, columns] = matrix("rowCosines", x);
  const out = x.gpu.empty([rows, rows]);
  runProbe(x.gpu, "cosines", rows * rows, { out, x, of_cosines: { rows, columns } });
  return out;
}

/** How many rows of `x` [rows, columns] have their (first) largest element in each column. */
export async function argmaxCounts(x: Tensor): Promise<number[]> {
  const [rows, columns] = matrix("argmaxCounts", x);
  const all = await counted(x.gpu, columns, (counts) => {
    runProbe(x.gpu, "argmax", rows, { counts, x, of_argmax: { rows, columns } });
  });
  return Array.from(all);
}

/** Σ (a − b)² over all elements. */
export async function squaredDistance(a: Tensor, b: Tensor): Promise<number> {
  checkTensor("squaredDistance", "a", a);
  checkTensor("squaredDistance", "b", b, { with: ["a", a] });
  if (!sameShape(a.shape, b.shape)) {
    throw new ShapeError(
      `squaredDistance: a is ${formatShape(a.shape)}, b is ${formatShape(b.shape)}; expected the same shape`,
    );
  }
  const result = noGrad(() =>
    a.gpu.scope(() => {
      const difference = sub(a, b);
      return sum(mul(difference, difference));
    }),
  );
  try {
    return await result.item();
  } finally {
    result.dispose();
  }
}

function matrix(what: string, x: Tensor): [number, number] {
  checkTensor(what, "x", x, { shape: "[rows, columns]" });
  return [x.shape[0]!, x.shape[1]!];
}
