import { describe, expect, it } from "vitest";
import { cosine, multiStep, stepDecay, warmup } from "../../src/optim/schedule.ts";

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

  it("refuses numbers that can't be", () => {
    expect(() => multiStep(Number.NaN, [])).toThrow(/multiStep: lr is NaN/);
    expect(() => cosine(0.1, 0)).toThrow(/cosine: totalSteps is 0/);
    expect(() => stepDecay(0.1, 0.5)).toThrow(/stepDecay: size is 0.5/);
    expect(() => warmup(() => 1, -1)).toThrow(/warmup: steps is -1/);
  });
});
