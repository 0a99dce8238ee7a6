import { describe, expect, it } from "vitest";
import { DeviceError, DeviceLostError } from "../../src/errors.ts";
import type { Gpu } from "../../src/gpu.ts";
import { requestGpu } from "../../src/node/request.ts";
import type { Checkpoint } from "../../src/train/checkpoint.ts";
import { type DeviceLoss, type RecoveryOptions, trainThroughLosses } from "../../src/train/recovery.ts";
import type { TrainOptions } from "../../src/train/train-options.ts";
import { generator } from "../helpers/numbers.ts";
import { squares } from "../helpers/squares.ts";

const data = { train: squares("squares train", 40, 1), test: squares("squares test", 20, 2) };
const options: Partial<TrainOptions> = {
  depth: 8,
  width: 4,
  batchSize: 10,
  epochs: 2,
  schedule: "cosine",
  logEvery: 2,
  seed: 7,
};
/** Devices lost at random moments; more by FUSENORM_LOSSES. */
const LOSSES = Number(process.env.FUSENORM_LOSSES ?? 4);

/** A device that calls `tick` whenever it is given something to do: a kernel, a replayed step, a read. */
async function watched(tick: (gpu: Gpu) => void): Promise<Gpu> {
  const gpu = await requestGpu();
  for (const name of ["run", "replay", "readRange"] as const) {
    const inner = (gpu[name] as (...args: unknown[]) => unknown).bind(gpu);
    Object.assign(gpu, {
      [name]: (...args: unknown[]) => {
        tick(gpu);
        return inner(...args);
      },
    });
  }
  return gpu;
}

async function train(tick: (gpu: Gpu) => void, more: RecoveryOptions = {}) {
  const losses: DeviceLoss[] = [];
  let last: Checkpoint | null = null;
  const { history, step } = await trainThroughLosses(() => watched(tick), data, options, {
    checkpointEvery: 3,
    pauseMs: 0,
    onLoss: (loss) => void losses.push(loss),
    onCheckpoint: (state) => {
      last = state;
    },
    ...more,
  });
  return { history, step, losses, state: last };
}

async function count() {
  let ticks = 0;
  const result = await train(() => {
    ticks += 1;
  });
  return { result, ticks };
}
const undisturbed = count();

describe("trainThroughLosses", () => {
  it("without a loss is one run", async () => {
    const { result } = await undisturbed;
    expect(result.losses).toEqual([]);
    expect(result.step).toBe(8);
    expect(result.history.evals).toHaveLength(2);
  });

  it(`gives the same losses and weights after ${LOSSES} losses at random moments`, async () => {
    const { result, ticks } = await undisturbed;
    const seed = Number(process.env.FUSENORM_SEED ?? 20);
    const next = generator(seed);
    for (let i = 0; i < LOSSES; i += 1) {
      const at = 1 + Math.floor(next() * ticks);
      const delay = [null, 0, 1, 4][Math.floor(next() * 4)]!;
      let seen = 0;
      const disturbed = await train((gpu) => {
        seen += 1;
        if (seen !== at) return;
        if (delay === null) gpu.device.destroy();
        else setTimeout(() => gpu.device.destroy(), delay);
      });
      const told = `seed ${seed}, loss ${i}: at ${at} of ${ticks}, delay ${delay}`;
      expect({ told, history: disturbed.history }).toEqual({ told, history: result.history });
      expect({ told, state: disturbed.state }).toEqual({ told, state: result.state });
      // With a delay the run may have been over.
      expect(disturbed.losses.length).toBeLessThanOrEqual(1);
      if (delay === null) expect({ told, lost: disturbed.losses.length }).toEqual({ told, lost: 1 });
      for (const { error, attempt } of disturbed.losses) {
        expect(error).toBeInstanceOf(DeviceLostError);
        expect(error.message).toMatch(/^the device was lost/);
        expect(attempt).toBe(1);
      }
    }
  });

  it("goes on from the last checkpoint, or from the start where there is none, as often as there is progress", async () => {
    const { result } = await undisturbed;
    let due = true;
    let state: Checkpoint | null = null;
    const disturbed = await train(
      (gpu) => {
        if (due) gpu.device.destroy();
        due = false;
      },
      {
        attempts: 2,
        onCheckpoint: (latest) => {
          state = latest;
          due = true;
        },
      },
    );
    expect(disturbed.losses.map(({ step, attempt }) => [step, attempt])).toEqual([
      [0, 1],
      [3, 1],
      [4, 1],
      [7, 1],
    ]);
    expect(disturbed.history).toEqual(result.history);
    expect(state).toEqual(result.state);
  });

  it("gives up after some devices in a row without a checkpoint", async () => {
    const losses: DeviceLoss[] = [];
    let seen = 0;
    const hopeless = train(
      (gpu) => {
        seen += 1;
        if (seen % 40 === 0) gpu.device.destroy();
      },
      { attempts: 3, onLoss: (loss) => void losses.push(loss) },
    );
    await expect(hopeless).rejects.toThrow(DeviceLostError);
    expect(losses.map(({ attempt, attempts, step }) => [attempt, attempts, step])).toEqual([
      [1, 3, 0],
      [2, 3, 0],
    ]);
  });

  it("asks again where the driver needs a moment, but not for the first device, nor goes on with another one", async () => {
    const { result } = await undisturbed;
    const lose = (gpu: Gpu) => {
      if (seen++ === 100) gpu.device.destroy();
    };
    let seen = 0;
    let asked = 0;
    const losses: DeviceLoss[] = [];
    const request = async () => {
      asked += 1;
      if (asked === 2) throw new DeviceError("adapter: none for now");
      return watched(lose);
    };
    const settings = { pauseMs: 0, onLoss: (loss: DeviceLoss) => void losses.push(loss) };
    const run = await trainThroughLosses(request, data, options, settings);
    expect(run.history).toEqual(result.history);
    expect(losses.map(({ error, attempt }) => [error.name, attempt])).toEqual([
      ["DeviceLostError", 1],
      ["DeviceError", 2],
    ]);
    asked = 1;
    await expect(trainThroughLosses(request, data, options, settings)).rejects.toThrow(/none for now/);
    expect(losses).toHaveLength(2);

    seen = 0;
    asked = 0;
    const changing = async () => {
      asked += 1;
      const gpu = await watched(lose);
      if (asked > 1) Object.assign(gpu.info, { name: "another" });
      return gpu;
    };
    await expect(trainThroughLosses(changing, data, options, settings)).rejects.toThrow(
      /now there is another; expected the same adapter/,
    );
  });

  it("passes other errors on at once", async () => {
    const full = () => {
      throw new Error("disk full");
    };
    await expect(train(() => {}, { onCheckpoint: full })).rejects.toThrow("disk full");
    await expect(train(() => {}, { onLos: full } as never)).rejects.toThrow(/no option "onLos"/);
    await expect(train(() => {}, { attempts: 0 })).rejects.toThrow(/attempts is 0/);
  });
});
