import { afterAll, describe, expect, it } from "vitest";
import { type DatasetSplits, imageDataset } from "../../src/data/dataset.ts";
import { DataError, UsageError } from "../../src/errors.ts";
import { fromJson, toJson } from "../../src/json.ts";
import { type Checkpoint, decodeCheckpoint, encodeCheckpoint } from "../../src/train/checkpoint.ts";
import { RecipeTrainer } from "../../src/train/recipe.ts";
import type { TrainOptions } from "../../src/train/train-options.ts";
import type { Trainer } from "../../src/train/trainer.ts";
import { testGpu } from "../helpers/gpu.ts";
import { squares } from "../helpers/squares.ts";

const data: DatasetSplits = { train: squares("mine train", 40, 1), test: squares("mine test", 20, 2) };
const options: Partial<TrainOptions> = {
  depth: 8,
  width: 4,
  batchSize: 10,
  epochs: 3,
  augment: false,
  schedule: "cosine",
  logEvery: 3,
  seed: 7,
};

/** Every checkpoint of a run, one a step. */
async function everyStep(): Promise<{ states: Checkpoint[]; history: Trainer["history"] }> {
  const trainer = new RecipeTrainer(await testGpu(), data, options);
  const states: Checkpoint[] = [];
  const history = await trainer.run({ checkpointEvery: 1, onCheckpoint: (state) => void states.push(state) });
  trainer.dispose();
  return { states, history };
}
const run = everyStep();

/** A trainer that nobody may change, and its state. */
const untouched = (async () => {
  const trainer = new RecipeTrainer(await testGpu(), data, options);
  return { trainer, before: await trainer.state() };
})();
async function expectUntouched() {
  const { trainer, before } = await untouched;
  expect(await trainer.state()).toEqual(before);
}
afterAll(async () => (await untouched).trainer.dispose());

async function refusal(state: unknown, trainer?: Trainer) {
  try {
    (trainer ?? (await untouched).trainer).resume(state as Checkpoint);
    return "accepted";
  } catch (error) {
    expect(error).toBeInstanceOf(DataError);
    return (error as Error).message;
  }
}

/** What `resume` says to a run of other data or options, after checking that it changed nothing. */
async function refusalOf(state: Checkpoint, other: DatasetSplits, more: Partial<TrainOptions> = {}) {
  const trainer = new RecipeTrainer(await testGpu(), other, { ...options, ...more });
  const before = await trainer.state();
  const message = await refusal(state, trainer);
  expect(await trainer.state()).toEqual(before);
  trainer.dispose();
  return message;
}

describe("resume", () => {
  it("goes on from any step, also between two readings, to the same history and weights", async () => {
    const gpu = await testGpu();
    const { states, history } = await run;
    expect(states.map(({ metadata }) => metadata.step)).toEqual(
      Array.from({ length: 12 }, (_, i) => `${i + 1}`),
    );
    for (const state of [states[0]!, states[4]!, states[7]!, states[10]!]) {
      const trainer = new RecipeTrainer(gpu, data, options);
      trainer.resume(decodeCheckpoint(encodeCheckpoint(state), "test"));
      expect(await trainer.state()).toEqual(state);
      expect(await trainer.run()).toEqual(history);
      expect((await trainer.state()).tensors).toEqual(states.at(-1)!.tensors);
      trainer.dispose();
    }
  });

  it("goes on from what version 0.1.0 wrote", async () => {
    const { states, history } = await run;
    const { tensors, metadata } = states[4]!;
    const { imagesSinceLog: _images, optimizerTensors: _count, ...older } = metadata;
    const { "trainer.accuracy_sum": correct, ...rest } = tensors;
    const trainer = new RecipeTrainer(await testGpu(), data, options);
    trainer.resume({
      tensors: { ...rest, "trainer.correct_sum": correct! },
      metadata: { ...older, options: older.options!.replace("{", '{"capture":true,') },
    });
    expect(await trainer.run()).toEqual(history);
    trainer.dispose();
  });

  it("refuses other data, naming what differs and both values", async () => {
    const state = (await run).states[3]!;
    const changed = (split: "train" | "test", parts: Partial<DatasetSplits["train"]>): DatasetSplits => ({
      ...data,
      [split]: imageDataset({ ...data[split], ...parts }),
    });
    const flipped = (bytes: Uint8Array, at: number) =>
      bytes.map((byte, i) => (i === at ? (byte + 1) % 4 : byte));
    const both = (change: (set: DatasetSplits["train"]) => object): DatasetSplits => ({
      train: imageDataset({ ...data.train, ...change(data.train) }),
      test: imageDataset({ ...data.test, ...change(data.test) }),
    });
    const { train, test } = data;
    const cases: [DatasetSplits, RegExp][] = [
      [{ ...data, train: squares("mine train", 50, 1) }, /train data's count is 40 in the checkpoint, 50 in/],
      [
        { ...data, train: squares("others train", 40, 1) },
        /train data's name is "mine train" .*"others train"/,
      ],
      [{ ...data, train: squares("mine train", 40, 3) }, /train data's images have the hash "[0-9a-f]{16}"/],
      [changed("train", { images: flipped(train.images, 0) }), /train data's images have the hash/],
      [changed("train", { images: flipped(train.images, 40 * 64 - 1) }), /train data's images have the hash/],
      [changed("train", { labels: flipped(train.labels, 39) }), /train data's labels have the hash/],
      [changed("train", { images: train.images.slice().reverse() }), /train data's images have the hash/],
      [changed("test", { images: flipped(test.images, 77) }), /test data's images have the hash/],
      [{ ...data, test: squares("mine test", 30, 2) }, /test data's count is 20 in the checkpoint, 30 in/],
      [both(() => ({ height: 16, width: 4 })), /train data's height is 8 in the checkpoint, 16 in/],
      [both(({ classNames }) => ({ classNames: [...classNames, "e"] })), /train data's classes is 4 .* 5 in/],
      [both(() => ({ classNames: [..."abce"] })), /classNames is \["a", "b", "c", "d"\] in the checkpoint/],
    ];
    for (const [other, message] of cases) expect(await refusalOf(state, other)).toMatch(message);
  });

  it("compares options both ways", async () => {
    const state = (await run).states[3]!;
    expect(await refusalOf(state, data, { lr: 0.01 })).toMatch(/trained with lr 0.1, this run has 0.01/);
    expect(await refusalOf(state, data, { epochs: 4 })).toMatch(/trained with epochs 3, this run has 4/);
    const edited = (change: (options: Record<string, unknown>) => void): Checkpoint => {
      const theirs = fromJson(state.metadata.options!) as Record<string, unknown>;
      change(theirs);
      return { ...state, metadata: { ...state.metadata, options: toJson(theirs) } };
    };
    expect(await refusal(edited((theirs) => delete theirs.momentum))).toMatch(
      /trained with momentum nothing, this run has 0.9/,
    );
    expect(await refusal(edited((theirs) => Object.assign(theirs, { clip: 1 })))).toMatch(
      /trained with clip 1, this run has nothing/,
    );
    const trainer = new RecipeTrainer(await testGpu(), data, { ...options, capture: false });
    trainer.resume(state); // only how steps are dispatched
    trainer.dispose();
  });

  it("refuses metadata that is malformed or contradicts itself", async () => {
    const state = (await run).states[3]!; // step 4: read at steps 3 and 4
    const history = fromJson(state.metadata.history!) as { log: Record<string, unknown>[] };
    const entry = (change: Record<string, unknown>) =>
      toJson({ ...history, log: [{ ...history.log[0], ...change }, ...history.log.slice(1)] });
    const cases: [Record<string, unknown>, RegExp][] = [
      [{ format: undefined }, /format is missing/],
      [{ format: "fusenorm-train-9" }, /format is "fusenorm-train-9"; expected fusenorm-train-3/],
      [{ format: "fusenorm-train-1" }, /of an earlier version, which did not note the images/],
      [{ format: "fusenorm-train-2" }, /of an earlier version, which did not keep the largest loss/],
      [{ options: "{" }, /options is "\{"; expected JSON/],
      [{ options: "null" }, /options is null; expected an object/],
      [{ options: undefined }, /options is missing/],
      [{ data: undefined }, /data is missing/],
      [{ data: "{}" }, /data.train is missing/],
      [{ data: '{"train":[],"test":{}}' }, /data.train is \[\]/],
      [{ step: undefined }, /step is missing/],
      [{ step: "-1" }, /step is -1/],
      [{ step: "1.5" }, /step is 1.5/],
      [{ step: '"#NaN"' }, /step is NaN/],
      [{ step: "1e999" }, /step is Infinity/],
      [{ step: "13" }, /stepsSinceLog is 0; expected 9/],
      [{ step: "13", stepsSinceLog: "9" }, /is of step 13, this run ends after 12/],
      [{ step: "3" }, /history.log\[1\].step is 4/],
      [{ stepsSinceLog: "1" }, /stepsSinceLog is 1; expected 0/],
      [{ history: "[]" }, /history is \[\]/],
      [{ history: "{}" }, /history.log is missing/],
      [{ history: toJson({ ...history, log: 3 }) }, /history.log is 3; expected an array/],
      [{ history: toJson({ ...history, evals: undefined }) }, /history.evals is missing/],
      [{ history: toJson({ ...history, divergedAt: 4 }) }, /divergedAt is 4; expected null/],
      [{ history: toJson({ ...history, more: 1 }) }, /history.more is 1/],
      [{ history: entry({ loss: "low" }) }, /history.log\[0\].loss is "low"; expected a number/],
      [{ history: entry({ loss: null }) }, /history.log\[0\].loss is null/],
      [{ history: entry({ maxLoss: Number.NaN }) }, /divergedAt is null; expected 3/],
      [{ history: entry({ maxLoss: 1001 }) }, /divergedAt is null; expected 3/],
      [{ history: entry({ maxLoss: undefined }) }, /history.log\[0\].maxLoss is missing/],
      [{ history: toJson({ ...history, startLoss: null }) }, /history.startLoss is null; expected a number/],
      [{ history: entry({ accuracy: 1.5 }) }, /accuracy is 1.5; expected a share/],
      [{ history: entry({ lr: -1 }) }, /lr is -1/],
      [{ history: entry({ step: 0 }) }, /history.log\[0\].step is 0/],
      [{ history: entry({ step: 4 }) }, /history.log\[1\].step is 4; expected an integer above 4/],
      [{ history: entry({ extra: 1 }) }, /history.log\[0\].extra is 1/],
    ];
    for (const [change, message] of cases) {
      const metadata = { ...state.metadata, ...change } as Checkpoint["metadata"];
      for (const [name, value] of Object.entries(change)) if (value === undefined) delete metadata[name];
      expect(await refusal({ ...state, metadata })).toMatch(message);
    }
    for (const wrong of [null, undefined, 3, {}, { tensors: {} }, { metadata: state.metadata }]) {
      expect(await refusal(wrong)).toMatch(/^resume: the checkpoint/);
    }
    await expectUntouched();
  });

  it("refuses tensors that do not fit, before it writes any", async () => {
    const state = (await run).states[3]!;
    const cases: [(tensors: Checkpoint["tensors"]) => void, RegExp][] = [
      [(tensors) => delete tensors["model.classifier.bias"], /missing classifier.bias/],
      [(tensors) => delete tensors["optimizer.velocity.0"], /22 of the optimizer's 23 tensors/],
      [(tensors) => delete tensors["trainer.loss_sum"], /trainer.loss_sum is undefined/],
      [
        (tensors) => {
          tensors["trainer.accuracy_sum"] = { shape: [2], dtype: "float32", data: new Float32Array(2) };
        },
        /trainer.accuracy_sum is a Float32Array of 2/,
      ],
      [
        (tensors) => {
          tensors["trainer.loss_range"] = { shape: [2], dtype: "float32", data: new Float32Array(2) };
        },
        /trainer.loss_range is a Float32Array of 2.*; expected 2 uint32 numbers/,
      ],
      [
        (tensors) => {
          tensors["optimizer.velocity.0"] = { shape: [3], dtype: "float32", data: new Float32Array(3) };
        },
        /velocity/,
      ],
      [
        (tensors) => {
          tensors["toString.x"] = { shape: [1], dtype: "float32", data: new Float32Array(1) };
        },
        /holds "toString.x"; expected model/,
      ],
    ];
    for (const [change, message] of cases) {
      const tensors = { ...state.tensors };
      change(tensors);
      expect(await refusal({ ...state, tensors })).toMatch(message);
    }
    await expectUntouched();
  });
});

describe("Trainer", () => {
  it("refuses options and callbacks that do not exist, and data that do not fit together", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const make = (more: object) => new RecipeTrainer(gpu, data, { ...options, ...more });
    const take = (other: unknown) => new RecipeTrainer(gpu, other as DatasetSplits, options);
    expect(() => make({ learningRate: 1 })).toThrow(/no option "learningRate"; did you mean "lr"/);
    expect(() => make({ batchsize: 1 })).toThrow(/did you mean "batchSize"/);
    expect(() => make({ init: "kaiming" })).toThrow(/init is "kaiming"; expected .*did you mean "he"/);
    expect(() => make({ augment: 1 })).toThrow(/augment is 1; expected true or false/);
    expect(() => make({ momentum: "0.5" })).toThrow(/momentum is "0.5"/);
    expect(() => make({ epochs: 1e300 })).toThrow(/epochs is 1e\+300/);
    expect(() => new RecipeTrainer({} as never, data)).toThrow(UsageError);
    for (const wrong of [undefined, null, {}, { train: data.train }, { ...data, test: [] }]) {
      expect(() => take(wrong)).toThrow(DataError);
    }
    const taller = imageDataset({ ...data.test, height: 4, width: 16 });
    expect(() => take({ ...data, test: taller })).toThrow(
      /height is 8 in the training set, 4 in the test set/,
    );
    expect(gpu.stats.liveBuffers).toBe(before);
    const trainer = make({ seed: undefined });
    await expect(trainer.run({ onEpoch: () => {} } as never)).rejects.toThrow(/no option "onEpoch"/);
    await expect(trainer.run({ checkpointEvery: 0 })).rejects.toThrow(/checkpointEvery is 0/);
    trainer.dispose();
  });

  it("gives no state that is of several steps", async () => {
    const trainer = new RecipeTrainer(await testGpu(), data, options);
    const refused: unknown[] = [];
    const under = trainer.run({
      onLog: () => void refused.push(trainer.state().catch((error) => error)),
      onCheckpoint: () => void expect(() => trainer.resume({} as never)).toThrow(/under way/),
    });
    await expect(trainer.run()).rejects.toThrow(/a run of this trainer is under way/);
    await expect(trainer.profileStep()).rejects.toThrow(/a run of this trainer is under way/);
    await under;
    expect(refused.length).toBeGreaterThan(2);
    for (const error of await Promise.all(refused)) expect(error).toBeInstanceOf(UsageError);
    await trainer.state();
    trainer.dispose();
  });
});
