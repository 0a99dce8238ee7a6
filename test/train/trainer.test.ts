import { describe, expect, it } from "vitest";
import { decodeCheckpoint, encodeCheckpoint } from "../../src/train/checkpoint.ts";
import { RecipeTrainer } from "../../src/train/recipe.ts";
import { hasDiverged, type LogEntry } from "../../src/train/run-state.ts";
import type { TrainOptions } from "../../src/train/train-options.ts";
import { testGpu } from "../helpers/gpu.ts";
import { squares } from "../helpers/squares.ts";

const data = { train: squares("squares train", 70, 1), test: squares("squares test", 33, 2) };
const options: Partial<TrainOptions> = {
  depth: 8,
  width: 4,
  lr: 0.05,
  batchSize: 16,
  epochs: 4,
  augment: false, // the class is a place: crops and flips would change it
  schedule: "cosine",
  logEvery: 3,
  seed: 7,
};

describe("Trainer", () => {
  it("learns, with the same bits captured and eager, and leaves no buffer behind", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const histories = [];
    for (const capture of [true, false]) {
      const trainer = new RecipeTrainer(gpu, data, { ...options, capture, epochs: 8 });
      histories.push(await trainer.run());
      trainer.dispose();
    }
    expect(histories[0]).toEqual(histories[1]);
    expect(histories[0]!.log.at(-1)!.loss).toBeLessThan(0.7 * histories[0]!.log[0]!.loss);
    expect(histories[0]!.evals).toHaveLength(8);
    expect(histories[0]!.evals.at(-1)!.testAccuracy).toBeGreaterThan(0.6);
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("keeps its buffers flat over steps", async () => {
    const gpu = await testGpu();
    const trainer = new RecipeTrainer(gpu, data, { ...options, capture: false, logEvery: 1 });
    const live: number[] = [];
    await trainer.run({ onLog: () => void live.push(gpu.stats.liveBuffers) });
    expect(new Set(live.slice(1)).size).toBe(1);
    trainer.dispose();
  });

  it("resumes exactly: the same losses as an uninterrupted run", async () => {
    const gpu = await testGpu();
    const whole = new RecipeTrainer(gpu, data, options);
    const expected = await whole.run();
    const abort = new AbortController();
    const first = new RecipeTrainer(gpu, data, options);
    let file: Uint8Array | null = null;
    await first.run({
      onLog: ({ step }) => step >= 6 && abort.abort(), // inside the second epoch
      onCheckpoint: (state) => {
        file = encodeCheckpoint(state);
      },
      signal: abort.signal,
    });
    expect(first.step).toBeLessThan(whole.totalSteps);
    const second = new RecipeTrainer(gpu, data, options);
    second.resume(decodeCheckpoint(file!, "test"));
    expect(second.step).toBe(first.step);
    const resumed = await second.run();
    expect(resumed.log.map(({ step, loss }) => [step, loss])).toEqual(
      expected.log.map(({ step, loss }) => [step, loss]),
    );
    expect(resumed.evals).toEqual(expected.evals);
    for (const trainer of [whole, first, second]) trainer.dispose();
  });

  it("refuses a checkpoint of another run, and changes nothing", async () => {
    const gpu = await testGpu();
    const trainer = new RecipeTrainer(gpu, data, options);
    const state = await trainer.state();
    const other = new RecipeTrainer(gpu, data, { ...options, lr: 0.01 });
    expect(() => other.resume(state)).toThrow(/trained with lr 0.05, this run has 0.01/);
    const bytes = encodeCheckpoint(state);
    expect(() => decodeCheckpoint(bytes.subarray(0, bytes.length - 5), "cut")).toThrow(
      /checkpoint cut: it ends at byte/,
    );
    expect(() => decodeCheckpoint(bytes.subarray(0, 20), "cut")).toThrow(/its header wants/);
    expect(decodeCheckpoint(bytes, "whole").tensors).toEqual(state.tensors);
    trainer.dispose();
    other.dispose();
  });

  it("keeps the largest loss of a step between two readings, and the first of all", async () => {
    const gpu = await testGpu();
    const rough = { ...options, norm: "none", lr: 0.4, schedule: "constant", epochs: 2 } as const;
    const logs = [];
    for (const logEvery of [1, 3]) {
      const trainer = new RecipeTrainer(gpu, data, { ...rough, logEvery });
      logs.push((await trainer.run({ evaluate: false })).log);
      expect(trainer.history.startLoss).toBe(logs[0]![0]!.loss);
      trainer.dispose();
    }
    const [fine, coarse] = logs as [LogEntry[], LogEntry[]];
    let from = 0;
    for (const { step, loss, maxLoss } of coarse) {
      expect(maxLoss).toBe(Math.max(...fine.slice(from, step).map((entry) => entry.loss)));
      if (step > from + 1) expect(maxLoss).toBeGreaterThan(loss);
      from = step;
    }
    expect(fine.map(({ maxLoss }) => maxLoss)).toEqual(fine.map(({ loss }) => loss));
  });

  it("calls divergence what is above 10³ and ten times the start, or not finite", () => {
    for (const [largest, start, diverged] of [
      [1000, 2, false],
      [1001, 2, true],
      [1001, 101, false],
      [1011, 101, true],
      [Number.NaN, 2, true],
      [Number.POSITIVE_INFINITY, 2, true],
      [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, true],
      [5, Number.NaN, true],
    ] as const) {
      expect(hasDiverged(largest, start), `${largest} from ${start}`).toBe(diverged);
    }
  });

  it("stops at divergence and says where", async () => {
    const gpu = await testGpu();
    const trainer = new RecipeTrainer(gpu, data, {
      ...options,
      norm: "none",
      lr: 1e4,
      schedule: "constant",
      logEvery: 1,
    });
    const history = await trainer.run();
    expect(history.divergedAt).toBeGreaterThan(0);
    expect(history.divergedAt).toBeLessThan(trainer.totalSteps);
    trainer.dispose();
  });

  it("refuses options out of range, naming value and rule", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const bad: [Partial<TrainOptions>, RegExp][] = [
      [{ lr: Number.NaN }, /lr is NaN; expected a number above 0/],
      [{ momentum: 1 }, /momentum is 1/],
      [{ depth: 21 }, /depth is 21; expected 6n \+ 2/],
      [{ norm: "spectral" as never }, /norm is "spectral"; expected "batch", "none", "last"/],
      [{ shortcut: "conv" as never }, /shortcut is "conv"; expected "zero-pad", "projection" or "none"/],
      [{ classifierInit: "lecun" as never }, /classifierInit is "lecun"; expected "xavier"/],
      [{ batchSize: 0 }, /batchSize is 0/],
      [{ batchSize: 71 }, /batchSize 71 with dropLast leaves no batch of 70/],
      [{ seed: -1 }, /seed is -1/],
      [{ schedule: "exponential" as never }, /schedule is "exponential"/],
      [{ nesterov: true, momentum: 0 }, /nesterov is true/],
    ];
    for (const [wrong, message] of bad)
      expect(() => new RecipeTrainer(gpu, data, { ...options, ...wrong })).toThrow(message);
    expect(gpu.stats.liveBuffers).toBe(before);
  });
});
