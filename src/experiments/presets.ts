// How long and how large networks are trained in each preset.

import type { Preset } from "./experiment.ts";
import { logGrid } from "./statistics.ts";
import type { TrainingPreset } from "./training.ts";

const paperSize = { shortcut: "projection", width: 16, batchSize: 128, shrink: 1 } as const;

/**
 * `first-look` and `quick` train a shallow network, as they can't afford a deep one for long, and sweep a deep one for a few steps.
 */
export const TRAINING: Record<Preset, TrainingPreset> = {
  "first-look": {
    network: { shortcut: "projection", width: 8, batchSize: 16, shrink: 2 },
    train: { depth: 20, steps: 40, schedule: "step", augment: false },
    sweep: { depth: 110, steps: 3 },
  },
  quick: {
    network: { shortcut: "projection", width: 8, batchSize: 32, shrink: 2 },
    train: { depth: 20, steps: 186, schedule: "step", augment: false },
    sweep: { depth: 110, steps: 8 },
  },
  standard: {
    network: paperSize,
    train: { depth: 56, steps: 3900, schedule: "step", augment: true },
    sweep: { depth: 56, steps: 100 },
  },
  paper: {
    network: paperSize,
    train: { depth: 110, steps: 165 * 390, schedule: "step", augment: true },
    sweep: { depth: 110, steps: 390 },
  },
};

/**
 * Rates of the sweeps with batch-norm and without: so far up that both diverge, and overlapping, so that a ratio below ten could be
 * seen.
 */
export const SWEPT: Record<Preset, { batch: number[]; none: number[] }> = {
  "first-look": { batch: logGrid(0.1, 100, 1), none: logGrid(1e-3, 1, 1) },
  quick: { batch: logGrid(0.01, 100, 1), none: logGrid(1e-4, 1, 1) },
  standard: { batch: logGrid(0.01, 100, 2), none: logGrid(1e-5, 1, 2) },
  paper: { batch: logGrid(0.01, 100, 4), none: logGrid(1e-5, 1, 4) },
};
