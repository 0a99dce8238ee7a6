import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { philox4x32, Random } from "../../src/tensor/random.ts";

const draw = (random: Random, n: number) => Array.from({ length: n }, () => random.uint32());

describe("Random", () => {
  // The known-answer vectors published with Random123 (kat_vectors, philox4x32 with 10 rounds).
  it.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as const)("is Philox 4×32-10 (counter %j)", (counter, key, expected) => {
    expect(philox4x32(counter, key)).toEqual(expected);
  });

  it("walks the counter under the seed as key", () => {
    expect(draw(new Random(0), 4)).toEqual([...philox4x32([0, 0, 0, 0], [0, 0])]);
    expect(draw(new Random(5 * 2 ** 32 + 7, 9), 8).slice(4)).toEqual([...philox4x32([1, 0, 9, 0], [7, 5])]);
  });

  it("repeats for equal seeds, and differs by seed, stream and label", () => {
    const sequences = [
      new Random(1),
      new Random(2),
      new Random("1"),
      new Random(1, 1),
      new Random(1, "a"),
      new Random(1).fork("a"),
      new Random(1).fork("b"),
      new Random(1).fork("a").fork("a"),
      new Random(2).fork("a"),
    ].map((random) => draw(random, 8).join());
    expect(new Set(sequences).size).toBe(sequences.length);
    expect(draw(new Random("seed", "x"), 20)).toEqual(draw(new Random("seed", "x"), 20));
  });

  it("forks alike whatever was drawn before", () => {
    const used = new Random(3);
    draw(used, 13);
    expect(draw(used.fork("layer"), 6)).toEqual(draw(new Random(3).fork("layer"), 6));
  });

  it("has the moments of uniform and normal", () => {
    const n = 200_000;
    const moments = (values: Float64Array) => {
      const mean = values.reduce((a, b) => a + b) / n;
      const central = (power: number) => values.reduce((sum, v) => sum + (v - mean) ** power, 0) / n;
      const variance = central(2);
      return { mean, variance, skewness: central(3) / variance ** 1.5, kurtosis: central(4) / variance ** 2 };
    };
    // Tolerances are five standard errors of each moment.
    const uniform = moments(new Random(11).fillUniform(new Float64Array(n)));
    expect(Math.abs(uniform.mean - 0.5)).toBeLessThan(5 * Math.sqrt(1 / 12 / n));
    expect(Math.abs(uniform.variance - 1 / 12)).toBeLessThan(5 * Math.sqrt(1 / 180 / n));
    const normal = moments(new Random(12).fillNormal(new Float64Array(n)));
    expect(Math.abs(normal.mean)).toBeLessThan(5 / Math.sqrt(n));
    expect(Math.abs(normal.variance - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
    expect(Math.abs(normal.skewness)).toBeLessThan(5 * Math.sqrt(6 / n));
    expect(Math.abs(normal.kurtosis - 3)).toBeLessThan(5 * Math.sqrt(24 / n));
    const shifted = moments(new Random(13).fillNormal(new Float64Array(n), 10, 3));
    expect(Math.abs(shifted.mean - 10)).toBeLessThan((5 * 3) / Math.sqrt(n));
    expect(Math.abs(shifted.variance / 9 - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
  });

  it("draws integers evenly and shuffles without loss", () => {
    const random = new Random(21);
    const counts = new Array<number>(7).fill(0);
    for (let i = 0; i < 70_000; i++) counts[random.int(7)]!++;
    const chi2 = counts.reduce((sum, count) => sum + (count - 10_000) ** 2 / 10_000, 0);
    expect(chi2).toBeLessThan(22.46); // 99.9 % quantile, 6 degrees of freedom
    const shuffled = random.shuffle(Uint32Array.from({ length: 1000 }, (_, i) => i));
    expect(shuffled.some((value, i) => value !== i)).toBe(true);
    expect([...shuffled].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    // All six orders of three items, equally often.
    const orders = new Map<string, number>();
    for (let i = 0; i < 6000; i++) {
      const order = random.shuffle([0, 1, 2]).join("");
      orders.set(order, (orders.get(order) ?? 0) + 1);
    }
    expect(orders.size).toBe(6);
    for (const count of orders.values()) expect(Math.abs(count - 1000)).toBeLessThan(5 * Math.sqrt(833));
  });

  it("rejects seeds and ranges that are none", () => {
    for (const seed of [Number.NaN, -1, 0.5, Number.POSITIVE_INFINITY, 2 ** 53]) {
      expect(() => new Random(seed)).toThrow(ShapeError);
    }
    expect(() => new Random(1, -3)).toThrow(/stream is -3; expected a string or an integer from 0/);
    for (const n of [0, -1, 1.5, Number.NaN, 2 ** 32 + 1]) {
      expect(() => new Random(1).int(n)).toThrow(/expected an integer from 1 to 2\^32/);
    }
  });
});
