// What cells are said to cost, and how the time that is left is estimated.

import { describe, expect, it } from "vitest";
import { listCells } from "../../src/experiments/cells.ts";
import { PRESETS } from "../../src/experiments/experiment.ts";
import { EXPERIMENTS } from "../../src/experiments/index.ts";
import { Estimate, forwardFlop, unitsOf, type Work } from "../../src/experiments/work.ts";

const image = { height: 32, width: 32, channels: 3 };
const measurements = new Map(EXPERIMENTS.flatMap((e) => e.measurements).map((m) => [m.id, m]));

describe("work", () => {
  it("counts the operations of a residual network layer by layer", () => {
    for (const [depth, width, shrink] of [
      [110, 16, 1],
      [20, 8, 2],
    ] as const) {
      let side = 32 / shrink;
      let from = 3;
      let flop = 0;
      const convolution = (size: number, to: number) => {
        flop += 2 * size * size * from * to * side * side;
      };
      convolution(3, width);
      from = width;
      for (const stage of [0, 1, 2]) {
        const to = width * 2 ** stage;
        for (let block = 0; block < (depth - 2) / 6; block += 1) {
          if (to !== from) {
            side /= 2;
            convolution(1, to);
          }
          convolution(3, to);
          from = to;
          convolution(3, to);
        }
      }
      expect(forwardFlop({ depth, width, shrink }, image)).toBeCloseTo(flop, -2);
    }
  });

  it("is known of every cell of every preset", () => {
    for (const preset of PRESETS) {
      for (const { configuration } of listCells(EXPERIMENTS, { preset, seeds: 1 })) {
        const {
          flop,
          passes,
          hostFlop = 0,
        } = measurements.get(configuration.measure)!.work(configuration, image);
        expect(flop + hostFlop, configuration.label).toBeGreaterThan(0);
        expect(Number.isFinite(flop + passes + hostFlop)).toBe(true);
      }
    }
    // A faithful Fig. 1 is about 2.4·10¹⁸ FLOP.
    const figure1 = listCells(EXPERIMENTS.slice(0, 1), { preset: "paper", seeds: 5 })
      .map(({ configuration }) => measurements.get(configuration.measure)!.work(configuration, image).flop)
      .reduce((a, b) => a + b, 0);
    expect(figure1).toBeGreaterThan(2e18);
    expect(figure1).toBeLessThan(3.2e18);
  });
});

describe("the estimate", () => {
  /** Cells of a first look, and what each takes on a machine of this speed. */
  function machine(perUnit: number, compile: number) {
    const works = listCells(EXPERIMENTS, { preset: "first-look", seeds: 1 }).map(({ configuration }) =>
      measurements.get(configuration.measure)!.work(configuration, image),
    );
    const seen = new Set<string>();
    const seconds = works.map((work) => {
      const units = unitsOf(work, "software");
      const waits = units > 0 && !seen.has(work.programs);
      seen.add(work.programs);
      return units * perUnit + (waits ? compile : 0) + (work.hostFlop ?? 0) / 4e8;
    });
    return { works, seconds };
  }
  const from = (seconds: readonly number[], i: number) => seconds.slice(i).reduce((a, b) => a + b, 0);

  it.each([
    ["right", 1e-3, 6],
    ["half", 2e-3, 12],
    ["twice", 5e-4, 3],
  ])(
    "is within 30 %% after a quarter of the run, when the first measurement was %s",
    (_what, perUnit, compile) => {
      const { works, seconds } = machine(perUnit, compile);
      const estimate = new Estimate({ class: "software", secondsPerUnit: 1e-3, compileSeconds: 6 });
      let told = 0;
      works.forEach((work, i) => {
        estimate.done(work, seconds[i]!);
        const left = from(seconds, i + 1);
        if (from(seconds, 0) - left < from(seconds, 0) / 4 || left < 3) return;
        told += 1;
        expect(estimate.left(works.slice(i + 1)) / left, `after cell ${i + 1}`).toBeGreaterThan(0.7);
        expect(estimate.left(works.slice(i + 1)) / left, `after cell ${i + 1}`).toBeLessThan(1.3);
      });
      expect(told).toBeGreaterThan(20);
    },
  );

  it("keeps compilation apart from the time of cells", () => {
    const work: Work = { flop: 0, passes: 1000, programs: "a" };
    const estimate = new Estimate({ class: "software", secondsPerUnit: 1e-3, compileSeconds: 5 });
    expect(estimate.left([work])).toBeCloseTo(6, 6);
    expect(estimate.done(work, 8)).toBeCloseTo(7, 6);
    expect(estimate.done(work, 1)).toBe(0);
    expect(estimate.left([work])).toBeCloseTo(1, 6);
    expect(estimate.left([{ ...work, programs: "b" }])).toBeCloseTo(1 + (5 + 7) / 2, 6);
    expect(estimate.done({ flop: 0, passes: 0, hostFlop: 4e8, programs: "" }, 1)).toBe(0);
  });
});
