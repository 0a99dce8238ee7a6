// Cells that train for long: what is left of one that is killed, and that it goes on to the same numbers.

import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { DataError } from "../../src/errors.ts";
import { listCells, RunDirectory, type RunManifest } from "../../src/experiments/cells.ts";
import { defineExperiment } from "../../src/experiments/experiment.ts";
import { type Forecast, type RunnerOptions, runCells } from "../../src/experiments/runner.ts";
import {
  type TrainingCell,
  type TrainingData,
  training,
  trainingCell,
} from "../../src/experiments/training.ts";
import { decodeCheckpoint } from "../../src/train/checkpoint.ts";
import { testGpu } from "../helpers/gpu.ts";
import { squares } from "../helpers/squares.ts";

const manifest: RunManifest = { preset: "first-look", dataset: "squares", seeds: 1, experiments: ["long"] };
const cell = trainingCell({
  ...{ role: "train", norm: "batch", shortcut: "projection", depth: 8, width: 4, batchSize: 16, shrink: 1 },
  ...{ lr: 0.05, steps: 210, schedule: "step", augment: true },
});
const long = defineExperiment<TrainingCell, TrainingData>({
  ...{ id: "long", title: "", source: "", claim: "", about: "", measurements: [training] },
  configurations: () => [cell],
  verdict: () => [],
  compare: () => [],
  exhibit: async () => ({ figures: [] }),
});

async function run(directory: RunDirectory, options: Partial<RunnerOptions> = {}): Promise<void> {
  await runCells({
    gpu: await testGpu(),
    data: { train: squares("squares train", 330, 1), test: squares("squares test", 33, 2) },
    ...{ directory, manifest, experiments: [long], shard: { index: 0, count: 1 }, checkpointMs: 0 },
    ...options,
  });
}

describe("a cell that trains for long", () => {
  it("goes on after a kill, and after Ctrl-C, to the same numbers", async () => {
    const [key] = listCells([long], manifest);
    const temporary = () => new RunDirectory(mkdtempSync(join(tmpdir(), "fusenorm-long-")));
    const whole = temporary();
    const forecasts: Forecast[] = [];
    await run(whole, { onReady: (forecast) => void forecasts.push(forecast) });
    const expected = whole.read(key!, manifest);
    expect(existsSync(whole.checkpointOf(key!))).toBe(false);
    expect(forecasts).toMatchObject([{ cells: 1, kept: 0 }]);
    for (const name of ["flop", "flopPerSecond", "seconds"] as const) {
      expect(forecasts[0]![name], name).toBeGreaterThan(0);
    }

    const directory = temporary();
    const file = directory.checkpointOf(key!);
    // Killed at a point between two checkpoints.
    const killed = run(directory, {
      onPoint: (_key, _curve, step) => {
        if (step > 90) throw new Error("killed");
      },
    });
    await expect(killed).rejects.toThrow("killed");
    const first = Number(decodeCheckpoint(readFileSync(file), file).metadata.step);
    expect(first).toBeGreaterThan(50);
    // Interrupted: it leaves the very step.
    const abort = new AbortController();
    await run(directory, { signal: abort.signal, onPoint: (_k, _c, step) => step > 140 && abort.abort() });
    expect(Number(decodeCheckpoint(readFileSync(file), file).metadata.step)).toBeGreaterThan(140);
    expect(directory.has(key!)).toBe(false);
    const points: number[] = [];
    await run(directory, { onPoint: (_key, _curve, step) => void points.push(step) });
    expect(points[0]).toBeGreaterThan(140);
    const resumed = directory.read(key!, manifest);
    expect(resumed.data).toEqual(expected.data);
    expect((resumed.data as TrainingData).stepsDone).toBe(210);
    expect(existsSync(file)).toBe(false);
  });

  it("refuses what another run left, naming the file", async () => {
    const [key] = listCells([long], manifest);
    const directory = new RunDirectory(mkdtempSync(join(tmpdir(), "fusenorm-long-")));
    const file = directory.checkpointOf(key!);
    const abort = new AbortController();
    await run(directory, { signal: abort.signal, onPoint: () => abort.abort() });
    const other = { train: squares("squares train", 330, 3), test: squares("squares test", 33, 2) };
    const mixed = run(directory, { data: other });
    await expect(mixed).rejects.toThrow(DataError);
    await expect(mixed).rejects.toThrow(file);
    await expect(mixed).rejects.toThrow(
      /train data's images have the hash .*; delete it to begin the cell anew/,
    );
    writeFileSync(file, readFileSync(file).subarray(0, 100));
    await expect(run(directory)).rejects.toThrow(file);
  });
});
