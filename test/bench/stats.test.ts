import { describe, expect, it } from "vitest";
import { sampleInterleaved } from "../../bench/lib/sampling.ts";
import { median, pairedRatio, quantile, relativeError, summarize } from "../../bench/lib/stats.ts";

describe("median and spread", () => {
  it("takes the middle, or the mean of the middle two", () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(median([])).toBeNaN();
  });

  it("interpolates quantiles between ranks", () => {
    expect(quantile([10, 20, 30, 40, 50], 0.25)).toBe(20);
    expect(quantile([10, 20], 0.75)).toBe(17.5);
  });

  it("measures spread between the quartiles, so that one outlier does not count", () => {
    const calm = summarize([10, 10, 10, 10, 10, 10, 10, 1000]);
    expect(calm).toEqual({ median: 10, min: 10, max: 1000, spread: 0, runs: 8 });
    expect(summarize([8, 9, 10, 11, 12]).spread).toBeCloseTo(0.2);
  });
});

describe("paired ratios", () => {
  it("are untouched by a machine that halves its speed between rounds", () => {
    const slow = [40, 80, 40, 80, 80];
    const fast = [10, 20, 10, 20, 20];
    expect(pairedRatio(slow, fast)).toBe(4);
    // The ratio of unpaired medians happens to agree here; with other rounds it does not.
    expect(pairedRatio([40, 80, 80], [10, 10, 20])).toBe(4);
  });

  it("need as many rounds of each", () => {
    expect(() => pairedRatio([1, 2], [1])).toThrow(/2 and 1 runs; expected as many rounds/);
  });
});

describe("relative error", () => {
  it("is infinite where something is missing or not finite", () => {
    expect(relativeError([1, 2], [1])).toBe(Number.POSITIVE_INFINITY);
    expect(relativeError([1, Number.NaN], [1, 2])).toBe(Number.POSITIVE_INFINITY);
    expect(relativeError([3, 4.5], [3, 4])).toBeCloseTo(0.1);
    expect(relativeError([0], [0])).toBe(0);
  });
});

describe("interleaved sampling", () => {
  const wait = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

  it("calls the cases in turn, each once a round, prepared for as many iterations as it is then asked for", async () => {
    const log: string[] = [];
    let prepared = 0;
    const samples = await sampleInterleaved(
      [
        {
          name: "a",
          run: async (n) => {
            log.push(`a${n}`);
            await wait(6 * n);
          },
        },
        {
          name: "b",
          before: async (n) => {
            prepared = n;
          },
          run: async (n) => {
            expect(n).toBe(prepared);
            prepared = 0;
            log.push(`b${n}`);
            await wait(2 * n);
          },
        },
      ],
      { rounds: 3, callMs: 30, maxIterations: 4 },
    );
    const [a, b] = samples;
    expect(a!.times).toHaveLength(3);
    expect(b!.iterations).toBeGreaterThan(1);
    const last = [`a${a!.iterations}`, `b${b!.iterations}`];
    expect(log.slice(-6)).toEqual([...last, ...last, ...last]);
    expect(median(a!.times)).toBeGreaterThan(median(b!.times));
  });

  it("passes errors on, also those of later rounds", async () => {
    let calls = 0;
    const run = async () => {
      calls += 1;
      if (calls > 4) throw new Error("the device is gone");
    };
    await expect(sampleInterleaved([{ name: "x", run }], { rounds: 9, callMs: 1 })).rejects.toThrow(
      "the device is gone",
    );
  });
});
