import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { batchNormComposed } from "../../src/ops/batch-norm/composed.ts";
import { batchNormStatistics, mergeStatistics, syncBatchNorm } from "../../src/ops/batch-norm/statistics.ts";
import { concat } from "../../src/ops/concat.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { withFoldAt } from "../helpers/fold.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { batchNormReference, channelStatistics } from "../reference/batch-norm.ts";

/** Micro-batches of `counts` values per channel, against one batch of all of them. */
function syncCase(
  label: string,
  counts: readonly number[],
  channels: number,
  extra: Partial<{ mean: number; relu: boolean; residual: boolean; composed: boolean }> = {},
): OpCase {
  const { mean = 0, relu = false, residual = false } = extra;
  const b = { count: counts.reduce((a, c) => a + c), channels, eps: 1e-3, relu };
  const flat = (arrays: Record<string, Float64Array>, name: string) =>
    Float64Array.from(counts.flatMap((_, i) => [...arrays[`${name}${i}`]!]));
  const many = (t: Record<string, Tensor>, name: string) => counts.map((_, i) => t[`${name}${i}`]!);
  const options = { eps: 1e-3, activation: relu ? "relu" : "none" } as const;
  return {
    label: `${label} ${counts.join("+")}×${channels}`,
    inputs: {
      ...Object.fromEntries(
        counts.flatMap((count, i) => [
          [`x${i}`, { shape: [count, channels], data: normals(count * channels, 40 + i, mean + i, 1 + i) }],
          ...(residual ? [[`r${i}`, [count, channels]]] : []),
        ]),
      ),
      gamma: [channels],
      beta: [channels],
    },
    run: (t) =>
      concat(
        syncBatchNorm(many(t, "x"), t.gamma!, t.beta!, {
          ...options,
          residuals: residual ? many(t, "r") : null,
        }),
        0,
      ),
    composed: (t) => {
      const statistics = mergeStatistics(many(t, "x").map(batchNormStatistics));
      const residuals = many(t, "r");
      const ys = many(t, "x").map((x, i) =>
        batchNormComposed(x, t.gamma!, t.beta!, {
          ...options,
          training: true,
          statistics,
          residual: residuals[i] ?? null,
        }),
      );
      return concat(ys, 0);
    },
    reference: (a) =>
      batchNormReference(b, {
        x: flat(a, "x"),
        gamma: a.gamma!,
        beta: a.beta!,
        ...(residual && { residual: flat(a, "r") }),
      }),
  };
}

describe("synchronised batch_norm", () => {
  it("gives the numbers and gradients of the whole batch", async () => {
    await checkOp([
      syncCase("two", [8, 8], 4),
      syncCase("ragged", [7, 1, 12], 5, { relu: true, residual: true }),
      syncCase("one", [9], 3, { relu: true }),
      syncCase("far from zero", [11, 14], 3, { mean: 300 }),
    ]);
  });

  it("measures and merges", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const all = normals(1000 * 6, 3, 1000, 1);
    const parts = [all.slice(0, 137 * 6), all.slice(137 * 6, 600 * 6), all.slice(600 * 6)];
    const merged = gpu.scope(() =>
      mergeStatistics(parts.map((part) => batchNormStatistics(gpu.tensor(part, [part.length / 6, 6])))),
    );
    const values = await merged.read();
    const row = (k: number) => Float64Array.from(values.slice(6 * k, 6 * k + 6));
    const { mean, variance } = channelStatistics({ count: 1000, channels: 6 }, all);
    expect([...row(0)]).toEqual(new Array(6).fill(1000));
    // The mean to a millionth of a standard deviation, which is a billionth of the mean.
    row(2).forEach((offset, c) => {
      expect(Math.abs(row(1)[c]! + offset - mean[c]!)).toBeLessThan(1e-6);
    });
    expect(relativeError(row(3), variance)).toBeLessThan(1e-6);
    merged.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("gives gradients of mean and variance, none of count and origin, of given and of merged statistics", async () => {
    const gpu = await testGpu();
    const [channels, counts] = [5, [7, 12]] as const;
    const [a, b] = counts.map((count, i) => {
      // Rows: count, origin, offset, variance.
      const near = normals(3 * channels, 60 + i);
      const rows = [
        Array(channels).fill(count),
        [...near.slice(0, 5)],
        [...near.slice(5, 10)],
        near.slice(10),
      ];
      rows[3] = [...rows[3]!].map((v) => v * v + 0.5);
      return gpu.tensor(rows.flat(), [4, channels], { requiresGrad: true });
    }) as [Tensor, Tensor];
    const dy = normals(6 * channels, 70);
    const xs = normals(6 * channels, 71);
    /** y = (x − mean) / √(variance + eps) of the merged statistics in float64, times dy, added up. */
    const value = (arrays: Float64Array[]) => {
      let sum = 0;
      for (let c = 0; c < channels; c += 1) {
        const [p, q] = arrays.map((rows) => ({
          n: rows[c]!,
          mean: rows[channels + c]! + rows[2 * channels + c]!,
          variance: rows[3 * channels + c]!,
        })) as [{ n: number; mean: number; variance: number }, { n: number; mean: number; variance: number }];
        const w = q.n / (p.n + q.n);
        const mean = (1 - w) * p.mean + w * q.mean;
        const variance = (1 - w) * p.variance + w * q.variance + w * (1 - w) * (p.mean - q.mean) ** 2;
        for (let i = 0; i < 6; i += 1) {
          const at = i * channels + c;
          sum += (dy[at]! * (xs[at]! - mean)) / Math.sqrt(variance + 1e-3);
        }
      }
      return sum;
    };
    gpu.scope(() => {
      const y = batchNorm(gpu.tensor(xs, [6, channels]), null, null, {
        training: true,
        statistics: mergeStatistics([a, b]),
        eps: 1e-3,
      });
      y.backward(gpu.tensor(dy, [6, channels]));
    });
    const arrays = await Promise.all([a, b].map(async (tensor) => Float64Array.from(await tensor.read())));
    for (const [k, tensor] of [a, b].entries()) {
      const grad = await tensor.grad!.read();
      expect([...grad.subarray(0, 2 * channels)]).toEqual(Array(2 * channels).fill(0));
      const expected = Float64Array.from({ length: 2 * channels }, (_, i) => {
        const at = (delta: number) => {
          const moved = arrays.map((rows) => rows.slice());
          moved[k]![2 * channels + i]! += delta;
          return value(moved);
        };
        return (at(1e-5) - at(-1e-5)) / 2e-5;
      });
      expect(relativeError(grad.subarray(2 * channels), expected)).toBeLessThan(1e-5);
      tensor.dispose();
    }
  });

  it("takes folded grids", async () => {
    // As past 65,535 workgroups, but at two.
    await withFoldAt(await testGpu(), 2, async () => {
      await checkOp(syncCase("many channels", [3, 4], 700));
    });
  });

  it("moves the running statistics once", async () => {
    const gpu = await testGpu();
    const [channels, momentum] = [5, 0.3];
    const all = normals(60 * channels, 3, 2, 3);
    const running = {
      runningMean: gpu.zeros([channels]),
      runningVar: gpu.full([channels], 1),
      numBatchesTracked: gpu.zeros([1]),
    };
    gpu.scope(() => {
      const xs = [all.slice(0, 20 * channels), all.slice(20 * channels)].map((part) =>
        gpu.tensor(part, [part.length / channels, channels]),
      );
      syncBatchNorm(xs, null, null, { ...running, momentum });
    });
    const { mean, variance } = channelStatistics({ count: 60, channels }, all);
    expect(
      relativeError(
        await running.runningMean.read(),
        mean.map((m) => momentum * m),
      ),
    ).toBeLessThan(1e-6);
    const unbiased = variance.map((v) => 1 + momentum * ((v * 60) / 59 - 1));
    expect(relativeError(await running.runningVar.read(), unbiased)).toBeLessThan(1e-6);
    expect(await running.numBatchesTracked.item()).toBe(1);
    for (const tensor of Object.values(running)) tensor.dispose();
  });

  it("names what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([3, 4]);
      const wrong: [RegExp, () => unknown][] = [
        [
          /^batchNormStatistics: x has rank 1, got \[4\]; expected/,
          () => batchNormStatistics(gpu.zeros([4])),
        ],
        [/^mergeStatistics: the list is empty/, () => mergeStatistics([])],
        [
          /^mergeStatistics: statistics is \[3, 4\], the first \[3, 4\]; expected \[4, C\]/,
          () => mergeStatistics([x]),
        ],
        [
          /^mergeStatistics: statistics is \[4, 2\], the first \[4, 4\]; expected \[4, C\] of equal C/,
          () => mergeStatistics([batchNormStatistics(x), gpu.zeros([4, 2])]),
        ],
        [/^syncBatchNorm: the list of batches is empty/, () => syncBatchNorm([], null, null)],
        [
          /^syncBatchNorm: 1 residuals for 2 batches/,
          () => syncBatchNorm([x, x], null, null, { residuals: [x] }),
        ],
        [
          /^syncBatchNorm: the batches have 1 value per channel together/,
          () => syncBatchNorm([gpu.zeros([1, 4])], null, null),
        ],
        [
          /^batchNorm: statistics is \[3, 4\], x has 4 channels.*expected \[4, 4\]/,
          () => batchNorm(x, null, null, { training: true, statistics: x }),
        ],
        [
          /^batchNorm: training is false and statistics are given/,
          () =>
            batchNorm(x, null, null, {
              training: false,
              statistics: gpu.zeros([4, 4]),
              runningMean: gpu.zeros([4]),
              runningVar: gpu.zeros([4]),
            }),
        ],
      ];
      for (const [message, call] of wrong) {
        expect(call).toThrow(ShapeError);
        expect(call).toThrow(message);
      }
    });
  });
});
