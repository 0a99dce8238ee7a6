import { describe, expect, it } from "vitest";
import { accuracy } from "../../src/ops/accuracy.ts";
import { testGpu } from "../helpers/gpu.ts";
import { generator, normals } from "../helpers/numbers.ts";

async function count(logits: ArrayLike<number>, classes: number, labels: number[]): Promise<number> {
  const gpu = await testGpu();
  const before = gpu.stats.liveBuffers;
  const out = gpu.scope(() =>
    accuracy(
      gpu.tensor(logits, [labels.length, classes], { requiresGrad: true }),
      gpu.tensor(labels, [labels.length], { dtype: "uint32" }),
    ),
  );
  expect(out.shape).toEqual([1]);
  expect(out.requiresGrad).toBe(false);
  const value = await out.item();
  out.dispose();
  expect(gpu.stats.liveBuffers).toBe(before);
  return value;
}

describe("accuracy", () => {
  it("counts rows whose first largest logit is the label", async () => {
    expect(await count([1, 3, 2, 5, 4, 5, 0, 0, 0], 3, [1, 0, 0])).toBe(3);
    expect(await count([5, 4, 5, 0, 0, 0], 3, [2, 1])).toBe(0);
    expect(await count([-7], 1, [0])).toBe(1);
  });

  it("counts NaN and labels out of range as wrong", async () => {
    expect(await count([Number.NaN, 1, 1, Number.NaN, 2, 1], 2, [0, 0, 0])).toBe(1);
    expect(await count([1, 2, 1, 2], 2, [2, 0xffffffff])).toBe(0);
    expect(
      await count(
        [Number.POSITIVE_INFINITY, 1, Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY],
        2,
        [0, 0],
      ),
    ).toBe(2);
  });

  it("agrees with a loop, past 65,535 rows", async () => {
    for (const [rows, classes] of [
      [7, 3],
      [128, 10],
      [2 ** 16 + 3, 5],
    ] as const) {
      const logits = normals(rows * classes, 7).map(Math.round);
      const next = generator(3);
      const labels = Array.from({ length: rows }, () => Math.floor(next() * classes));
      const expected = labels.filter((label, n) => {
        const row = [...logits.subarray(n * classes, (n + 1) * classes)];
        return row.indexOf(Math.max(...row)) === label;
      }).length;
      expect(await count(logits, classes, labels)).toBe(expected);
    }
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const labels = gpu.zeros([4], { dtype: "uint32" });
      expect(() => accuracy(gpu.zeros([4, 2, 2]), labels)).toThrow("accuracy: logits has rank 3");
      expect(() => accuracy(gpu.zeros([3, 2]), labels)).toThrow("accuracy: labels [N] has N = 4");
    });
  });
});
