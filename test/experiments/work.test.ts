// What cells are said to cost, and how the time that is left is estimated.

import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { describe, expect, it } from "vitest";
import { listCells } from "../../src/experiments/cells.ts";
import { PRESETS } from "../../src/experiments/experiment.ts";
import { EXPERIMENTS } from "../../src/experiments/index.ts";
import { Estimate, forwardFlop, type Programs, type Work } from "../../src/experiments/work.ts";

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
  /** First looks on two processor cores, with nothing compiled before: what was measured first, and what each cell took. */
  const runs = JSON.parse(readFileSync(new URL("first-looks.json", import.meta.url), "utf8")) as Record<
    string,
    { secondsPerUnit: number; compileSeconds: number; seconds: number[] }
  >;
  const works = listCells(EXPERIMENTS, { preset: "first-look", seeds: 1 }).map(({ configuration }) =>
    measurements.get(configuration.measure)!.work(configuration, { height: 28, width: 28, channels: 1 }),
  );
  const usual: Programs = { channels: " 8", maps: "shrunk 2", norm: "batch", batchSize: 16 };
  const from = (seconds: readonly number[], i: number) => seconds.slice(i).reduce((a, b) => a + b, 0);

  it("is of networks that are measured first", () => {
    expect(works.some(({ programs }) => programs.some((one) => isDeepStrictEqual(one, usual)))).toBe(true);
  });

  // From the first minute on, but for the last seconds.
  for (const [adapter, { secondsPerUnit, compileSeconds, seconds }] of Object.entries(runs)) {
    it.each([
      ["right", 1, 0.3],
      ["half of what it should be", 0.5, 0.4],
      ["twice that", 2, 0.4],
    ])(`is near on ${adapter} when the first measurement was %s`, (_what, factor, near) => {
      const rate = { secondsPerUnit: factor * secondsPerUnit, compileSeconds: factor * compileSeconds };
      const estimate = new Estimate({ class: "software", programs: usual, ...rate });
      expect(works.length).toBe(seconds.length);
      let told = 0;
      works.forEach((work, i) => {
        estimate.done(work, seconds[i]!);
        const left = from(seconds, i + 1);
        if (compileSeconds + from(seconds, 0) - left < 60 || left < 8) return;
        told += 1;
        const ratio = estimate.left(works.slice(i + 1)) / left;
        expect(ratio, `after cell ${i + 1}, ${left.toFixed(0)} s left`).toBeGreaterThan(1 - near);
        expect(ratio, `after cell ${i + 1}, ${left.toFixed(0)} s left`).toBeLessThan(1 + near);
      });
      expect(told).toBeGreaterThan(20);
    });
  }

  it("keeps compilation apart from the time of cells", () => {
    const work: Work = { flop: 0, passes: 1000, programs: [{ ...usual, channels: "a" }] };
    const estimate = new Estimate({
      class: "software",
      programs: usual,
      secondsPerUnit: 1e-3,
      compileSeconds: 5,
    });
    expect(estimate.left([work])).toBeCloseTo(6, 6);
    expect(estimate.done(work, 8)).toBeCloseTo(7, 6);
    expect(estimate.done(work, 1)).toBe(0);
    expect(estimate.left([work])).toBeCloseTo(1, 6);
    const compile = (5 + 7) / 2;
    expect(estimate.left([{ ...work, programs: [{ ...usual, channels: "b" }] }])).toBeCloseTo(1 + compile, 6);
    // Kernels that other networks of these channels have, too; each is compiled once.
    const other = { ...work, programs: [{ ...usual, channels: "a", norm: "none" }] };
    expect(estimate.left([other, other])).toBeGreaterThan(2 + 0.3 * compile);
    expect(estimate.left([other, other])).toBeLessThan(2 + 0.7 * compile);
    expect(estimate.done({ flop: 0, passes: 0, hostFlop: 4e8, programs: [] }, 1)).toBe(0);
  });
});
