import { describe, expect, it } from "vitest";
import {
  constant,
  cosine,
  multiStep,
  oneCycle,
  onPlateau,
  polynomial,
  stepDecay,
  warmup,
} from "../../src/optim/schedule.ts";

const close = (got: readonly number[], expected: readonly number[]) => {
  expect(got.length).toBe(expected.length);
  for (const [i, value] of got.entries()) expect(value, `${i}`).toBeCloseTo(expected[i]!, 9);
};

describe("schedules", () => {
  it("multiStep divides at its milestones", () => {
    const schedule = multiStep(0.8, [5, 8], 0.5);
    expect([0, 4, 5, 7, 8, 100].map(schedule)).toEqual([0.8, 0.8, 0.4, 0.4, 0.2, 0.2]);
  });

  it("stepDecay divides every few steps", () => {
    expect([0, 2, 3, 6].map(stepDecay(1, 3, 0.5))).toEqual([1, 1, 0.5, 0.25]);
  });

  it("cosine falls from lr to its minimum, and stays there", () => {
    const schedule = cosine(1, 10, 0.2);
    expect(schedule(0)).toBe(1);
    expect(schedule(5)).toBeCloseTo(0.6, 12);
    expect(schedule(10)).toBeCloseTo(0.2, 12);
    expect(schedule(15)).toBeCloseTo(0.2, 12);
  });

  it("warmup rises linearly to the schedule", () => {
    const schedule = warmup(multiStep(1, [6]), 4);
    expect([0, 1, 3, 4, 6].map(schedule)).toEqual([0.25, 0.5, 1, 1, 0.1]);
  });

  it("constant, polynomial and linear warm-up are those of PyTorch's manual", () => {
    expect([0, 7].map(constant(0.3))).toEqual([0.3, 0.3]);
    close([0, 1, 2, 3, 4, 9].map(polynomial(0.05, 4)), [0.05, 0.0375, 0.025, 0.0125, 0, 0]);
    close([0, 1, 2, 3, 4].map(polynomial(1, 4, 2)), [1, 0.5625, 0.25, 0.0625, 0]);
    const linear = warmup(constant(0.05), 4, 0.5);
    close([0, 1, 2, 3, 4, 9].map(linear), [0.025, 0.03125, 0.0375, 0.04375, 0.05, 0.05]);
  });

  it("oneCycle rises and falls as OneCycleLR does", () => {
    // Rises until step 0.3·10 − 1 = 2, from 1/25; falls in 7 steps to 1/25/10⁴. cos(π/7) = 0.9009688679.
    const schedule = oneCycle(1, 10);
    const third = 4e-6 + ((1 - 4e-6) * 1.9009688679) / 2;
    close([0, 1, 2, 3, 9, 20].map(schedule), [0.04, 0.52, 1, third, 4e-6, 4e-6]);
    // Three phases, that end at 0.4·11 − 1 = 3.4, 6.8 and 10.
    const linear = oneCycle(1, 11, {
      ...{ pctStart: 0.4, divFactor: 10, finalDivFactor: 10, annealStrategy: "linear", threePhase: true },
    });
    close([0, 3, 5, 8, 10].map(linear), [0.1, 0.1 + 2.7 / 3.4, 1 - (0.9 * 1.6) / 3.4, 0.06625, 0.01]);
    for (const steps of [1, 2, 3]) {
      for (const step of [0, 1, 2]) expect(oneCycle(1, steps)(step)).toBeLessThanOrEqual(1);
    }
  });

  it("onPlateau reduces when the metric has stopped getting better, worked out by hand", () => {
    const along = (schedule: (metrics: readonly number[]) => number, metrics: readonly number[]) =>
      metrics.map((_, i) => schedule(metrics.slice(0, i + 1)));
    // Patience 2: the third in a row that is no better reduces, and the count starts anew.
    const losses = [5, 4, 4, 4.1, 4, 4, 4, 4, 3];
    close(along(onPlateau(1, { patience: 2, factor: 0.5 }), losses), [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]);
    // A cooldown of 2 after a reduction: those two don't count.
    const cooled = onPlateau(1, { patience: 0, factor: 0.5, cooldown: 2 });
    close(along(cooled, [1, 1, 1, 1, 1, 1]), [1, 0.5, 0.5, 0.5, 0.25, 0.25]);
    // Thresholds: 10 % of 1 better is 0.9; 1.05 is no more than 5 % above 1; absolute ones.
    const rel = { patience: 0, threshold: 0.1 };
    close(along(onPlateau(1, rel), [1, 0.91, 0.89]), [1, 0.1, 0.1]);
    close(along(onPlateau(1, { ...rel, mode: "max" }), [1, 1.05, 1.2]), [1, 0.1, 0.1]);
    const abs = { patience: 0, threshold: 0.5, thresholdMode: "abs" } as const;
    close(along(onPlateau(1, abs), [9, 8.6, 8.4]), [1, 0.1, 0.1]);
    close(along(onPlateau(1, { ...abs, mode: "max" }), [-9, -8.6, -8.4]), [1, 0.1, 0.1]);
    // Not below minLr, nor by less than eps; NaN is no better.
    close(along(onPlateau(1, { patience: 0, minLr: 0.05 }), [Number.NaN, 1, 1, 1]), [0.1, 0.1, 0.05, 0.05]);
    close(along(onPlateau(1e-8, { patience: 0 }), [1, 1]), [1e-8, 1e-8]);
  });

  it("refuses numbers that can't be", () => {
    expect(() => oneCycle(1, 10, { pctStart: 2 })).toThrow(
      /oneCycle: pctStart is 2; expected a finite number from 0 to 1/,
    );
    expect(() => onPlateau(1, { factor: 1 })).toThrow(/onPlateau: factor is 1/);
    expect(() => onPlateau(1)([1, "2" as never])).toThrow(/onPlateau: metrics\[1\] is "2"/);
    expect(() => polynomial(1, 0)).toThrow(/polynomial: totalSteps is 0/);
    expect(() => warmup(constant(1), 4, 2)).toThrow(/warmup: startFactor is 2/);
    expect(() => multiStep(Number.NaN, [])).toThrow(/multiStep: lr is NaN/);
    expect(() => cosine(0.1, 0)).toThrow(/cosine: totalSteps is 0/);
    expect(() => stepDecay(0.1, 0.5)).toThrow(/stepDecay: size is 0.5/);
    expect(() => warmup(() => 1, -1)).toThrow(/warmup: steps is -1/);
  });
});
