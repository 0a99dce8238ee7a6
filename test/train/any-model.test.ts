// `Trainer` with models, losses, optimizers and data of the caller's.

import { describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import {
  AdamW,
  accuracy,
  BatchNorm2d,
  bestCheckpoint,
  type Checkpoint,
  Conv2d,
  csvLog,
  DataLoader,
  Dropout,
  decayGroups,
  earlyStopping,
  evaluate,
  Flatten,
  freezeBatchNorm,
  GlobalAvgPool2d,
  type HostBatch,
  jsonLinesLog,
  Linear,
  type LogWriter,
  type Module,
  mseLoss,
  onPlateau,
  Random,
  ReLU,
  Sequential,
  SGD,
  StreamLoader,
  softmaxCrossEntropy,
  sub,
  sum,
  type Tensor,
  Trainer,
  type TrainerCallback,
  transforms,
} from "../../src/index.ts";
import { decodeCheckpoint, encodeCheckpoint } from "../../src/train/checkpoint.ts";
import { testGpu } from "../helpers/gpu.ts";
import { squares } from "../helpers/squares.ts";

const data = { train: squares("squares train", 70, 1), test: squares("squares test", 33, 2) };

function smallNetwork(gpu: Gpu, seed = 1): Sequential {
  const random = new Random(seed);
  return new Sequential(
    new Conv2d(gpu, 1, 8, 3, { padding: 1, bias: false, random }),
    new BatchNorm2d(gpu, 8),
    new ReLU(),
    new Conv2d(gpu, 8, 8, 3, { padding: 1, stride: 2, random }),
    new ReLU(),
    new Flatten(),
    new Linear(gpu, 8 * 16, 4, { random }),
  );
}

const values = async (model: Module) => {
  const state = await model.stateDict();
  return Object.values(state).flatMap(({ data: numbers }) => Array.from(numbers as Float32Array));
};

describe("Trainer", () => {
  it("makes the steps that one would write by hand, with the last batch that is not full", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const model = smallNetwork(gpu);
    const optimizer = new AdamW(decayGroups(model), { lr: 0.01, weightDecay: 0.1 });
    const rows: number[] = [];
    const trainer = new Trainer({
      ...{ model, optimizer, data, batchSize: 16, epochs: 2, seed: 3, logEvery: 1 },
      metrics: {},
      loss: (logits, labels) => {
        rows.push(logits.shape[0]!);
        return softmaxCrossEntropy(logits, labels, { labelSmoothing: 0.1 });
      },
    });
    expect(trainer.totalSteps).toBe(10); // 4 batches of 16 and one of 6, twice
    const { log, evals } = await trainer.run();
    expect(evals.map((entry) => Object.keys(entry))).toEqual([
      ["step", "epoch", "testLoss"],
      ["step", "epoch", "testLoss"],
    ]);
    // Recorded once for each size; the other calls are of the evaluations.
    expect(rows).toEqual([16, 6, 33, 33]);

    const { BatchSampler, channelMoments, DataLoader } = await import("../../src/index.ts");
    const sampler = new BatchSampler({ count: 70, batchSize: 16, seed: 3 });
    const loader = new DataLoader(data.train, { ...channelMoments(data.train), batchSize: 16, seed: 3 });
    const same = smallNetwork(gpu);
    const own = new AdamW(decayGroups(same), { lr: 0.01, weightDecay: 0.1 });
    const losses: number[] = [];
    for (let step = 0; step < 10; step += 1) {
      const batch = loader.batch(Math.floor(step / 5), step % 5);
      expect(batch.indices).toEqual(sampler.indices(Math.floor(step / 5), step % 5));
      const loss = gpu.scope(() => {
        const labels = gpu.tensor(batch.labels, [batch.labels.length], { dtype: "uint32" });
        const value = softmaxCrossEntropy(same.forward(gpu.tensor(batch.images, batch.shape)), labels, {
          labelSmoothing: 0.1,
        });
        own.zeroGrad();
        value.backward();
        own.step();
        return gpu.keep(value.detach());
      });
      losses.push(await loss.item());
      loss.dispose();
    }
    expect(log.map(({ loss }) => loss)).toEqual(losses);
    expect(await values(model)).toEqual(await values(same));
    trainer.dispose();
    for (const one of [optimizer, own, model, same]) one.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("compiles nothing for the last batch, and allocates nothing once both sizes have been", async () => {
    const gpu = await testGpu();
    const model = smallNetwork(gpu);
    const optimizer = new SGD(model.parameters(), { lr: 0.05, momentum: 0.9 });
    const trainer = new Trainer({
      ...{ model, optimizer, batchSize: 32, epochs: 3, logEvery: 1, metrics: {} },
      data: { train: data.train },
    });
    const seen: { pipelines: number; live: number }[] = [];
    await trainer.run({
      onLog: () => void seen.push({ pipelines: gpu.stats.pipelines, live: gpu.stats.liveBuffers }),
    });
    expect(seen.length).toBe(9); // 32, 32 and 6
    expect(seen[2]!.pipelines - seen[1]!.pipelines).toBe(0);
    expect(new Set(seen.slice(3).map(({ live }) => live)).size).toBe(1);
    for (const one of [trainer, optimizer, model]) one.dispose();
  });

  it("takes batches of numbers from an asynchronous loader, and asks for the next one ahead", async () => {
    const gpu = await testGpu();
    const random = new Random(5);
    const [a, b] = [0.7, -1.3];
    const events: string[] = [];
    const batch = (rows: number): HostBatch => {
      const images = Float32Array.from({ length: 2 * rows }, () => random.normal());
      const labels = Float32Array.from(
        { length: rows },
        (_, i) => a * images[2 * i]! + b * images[2 * i + 1]!,
      );
      return { images, shape: [rows, 2], labels, labelShape: [rows, 1] };
    };
    const loader = {
      ...{ batchSize: 20, batchesPerEpoch: 3 },
      async *epoch(_epoch: number, start = 0) {
        for (let i = start; i < 3; i += 1) {
          events.push(`made ${i}`);
          yield batch(i === 2 ? 7 : 20);
        }
      },
    };
    const model = new Linear(gpu, 2, 1, { random: new Random(1) });
    const optimizer = new SGD(model.parameters(), { lr: 0.1 });
    const trainer = new Trainer({
      ...{ model, optimizer, data: { train: loader, test: loader }, epochs: 40, logEvery: 1 },
      loss: mseLoss,
      // A sum over the rows; the mean of it is what is logged.
      metrics: {
        error: (output, targets) => {
          const difference = sub(output.detach(), targets);
          return sum(difference, [0, 1]);
        },
      },
      schedule: (step) => 0.1 / (1 + step / 20),
    });
    const { log, evals } = await trainer.run({
      onLog: ({ step }) => void (step <= 3 && events.push(`step ${step}`)),
    });
    expect(events.slice(0, 6)).toEqual(["made 0", "made 1", "step 1", "made 2", "step 2", "step 3"]);
    expect(evals).toHaveLength(40);
    expect(evals.at(-1)!.testLoss).toBeLessThan(1e-4);
    expect(Math.abs(evals.at(-1)!.testError)).toBeLessThan(0.01);
    expect(Math.abs(log[0]!.error)).toBeGreaterThan(0.01);
    expect(log[19]!.lr).toBeCloseTo(0.1 / (1 + 19 / 20), 12);
    const weights = (await model.weight.read()) as Float32Array;
    expect(Math.abs(weights[0]! - a) + Math.abs(weights[1]! - b)).toBeLessThan(0.02);
    for (const one of [trainer, optimizer, model]) one.dispose();
  });

  it("resumes exactly between two readings that a small batch lies between, with Adam, dropout and a plateau", async () => {
    const gpu = await testGpu();
    const make = () => {
      const dropout = new Dropout(gpu, 0.3, { random: new Random(2) });
      const model = new Sequential(smallNetwork(gpu), dropout);
      const optimizer = new AdamW(model.parameters(), { lr: 0.02 });
      const plateau = onPlateau(0.02, { patience: 0, factor: 0.5, threshold: 10, thresholdMode: "abs" });
      const trainer = new Trainer({
        ...{ model, optimizer, data, batchSize: 16, epochs: 3, logEvery: 4, settings: { width: 8 } },
        clipGradNorm: 0.5,
        schedule: (_step, { history }) => plateau(history.evals.map((entry) => entry.testLoss!)),
      });
      const dispose = () => {
        for (const one of [trainer, optimizer, model]) one.dispose();
      };
      return { trainer, dispose };
    };
    const whole = make();
    const states: Uint8Array[] = [];
    const expected = await whole.trainer.run({
      checkpointEvery: 1,
      onCheckpoint: (state) => void states.push(encodeCheckpoint(state)),
    });
    expect(new Set(expected.log.map(({ lr }) => lr)).size).toBeGreaterThan(1);
    for (const at of [2, 5, 6, 11]) {
      const second = make();
      second.trainer.resume(decodeCheckpoint(states[at]!, "test"));
      expect(await second.trainer.run()).toEqual(expected);
      second.dispose();
    }
    const other = make();
    const broken = decodeCheckpoint(states[3]!, "test");
    delete broken.tensors["optimizer.exp_avg.2"];
    delete broken.tensors["optimizer.exp_avg_sq.2"];
    delete broken.tensors["optimizer.step.2"];
    expect(() => other.trainer.resume(broken)).toThrow(/of the optimizer's \d+ tensors; expected all/);
    const settings = decodeCheckpoint(states[3]!, "test");
    settings.metadata.options = settings.metadata.options!.replace('"width":8', '"width":9');
    expect(() => other.trainer.resume(settings)).toThrow(/trained with width 9, this run has 8/);
    other.dispose();
    whole.dispose();
  });

  it("leaves frozen layers and their modes alone", async () => {
    const gpu = await testGpu();
    const model = smallNetwork(gpu);
    const norm = model.layers[1] as BatchNorm2d;
    norm.freeze().eval();
    (model.layers[0] as Conv2d).freeze();
    const before = await model.stateDict();
    const optimizer = new SGD(model.parameters(), { lr: 0.1 });
    const trainer = new Trainer({ model, optimizer, data, batchSize: 35 });
    await trainer.run();
    expect(norm.training).toBe(false);
    expect(model.training).toBe(true);
    const after = await model.stateDict();
    const changed = Object.keys(before).filter(
      (name) => String(before[name]!.data) !== String(after[name]!.data),
    );
    expect(changed).toEqual(["layers.3.weight", "layers.3.bias", "layers.6.weight", "layers.6.bias"]);
    for (const one of [trainer, optimizer, model]) one.dispose();
  });

  it("steps as the model is after each callback and before each run, recorded or not", async () => {
    const gpu = await testGpu();
    const histories: string[] = [];
    for (const capture of [true, false]) {
      const model = smallNetwork(gpu);
      const optimizer = new SGD(model.parameters(), { lr: 0.1, momentum: 0.9 });
      const options = { model, optimizer, data: { train: data.train }, batchSize: 30, logEvery: 1, capture };
      const trainer = new Trainer({ ...options, epochs: 4 });
      const [conv, norm] = [model.layers[0] as Conv2d, model.layers[1] as BatchNorm2d];
      const seen: number[][] = [];
      const see = async () => {
        for (const tensor of [conv.weight, norm.runningMean!])
          seen.push(Array.from(await tensor.read(), Number));
      };
      let hooked = 0;
      let remove = () => {};
      await trainer.run({
        onLog: async ({ step }) => {
          if (step === 2) {
            conv.freeze();
            freezeBatchNorm(model);
            await see();
          }
          if (step === 5) {
            await see();
            freezeBatchNorm(model, false);
            conv.freeze(false);
            remove = norm.registerForwardHook(() => {
              hooked += 1;
              return undefined;
            });
          }
          if (step === 7) {
            await see();
            trainer.stop();
          }
        },
      });
      const [w2, m2, w5, m5, w7, m7] = seen;
      expect(w5).toEqual(w2);
      expect(m5).toEqual(m2);
      expect(w7).not.toEqual(w5);
      expect(m7).not.toEqual(m5);
      expect(hooked).toBe(2);
      remove();
      norm.momentum = 0;
      await trainer.run({ onLog: () => trainer.stop() });
      expect(hooked).toBe(2);
      expect(Array.from(await norm.runningMean!.read(), Number)).toEqual(m7);
      norm.momentum = 0.5; // and nothing else
      await trainer.run();
      expect(Array.from(await norm.runningMean!.read(), Number)).not.toEqual(m7);
      histories.push(JSON.stringify([trainer.history.log, await values(model)]));
      for (const one of [trainer, optimizer, model]) one.dispose();
    }
    expect(histories[0]).toBe(histories[1]);
  });

  it("goes on where a loader failed, once it does not", async () => {
    const gpu = await testGpu();
    const whole = new DataLoader(data.train, { batchSize: 20, seed: 0, mean: [0.5], std: [0.5] });
    const results: number[][] = [];
    for (const failures of [0, 2]) {
      const model = smallNetwork(gpu);
      const optimizer = new SGD(model.parameters(), { lr: 0.1 });
      let left = failures;
      const load = async (_indices: Uint32Array, { epoch, index }: { epoch: number; index: number }) => {
        if (index === 2 && left > 0) {
          left -= 1;
          throw new Error("no network");
        }
        return whole.batch(epoch, index);
      };
      const train = new StreamLoader({ count: data.train.count, batchSize: 20, seed: 0, load });
      const trainer = new Trainer({ model, optimizer, data: { train }, epochs: 2 });
      for (let i = 0; i < failures; i += 1) await expect(trainer.run()).rejects.toThrow("no network");
      await trainer.run();
      expect(trainer.step).toBe(8);
      results.push(await values(model));
      for (const one of [trainer, optimizer, model]) one.dispose();
    }
    expect(results[1]).toEqual(results[0]);
  });

  it("counts each step that it made, and reads nothing of one that failed", async () => {
    const gpu = await testGpu();
    const whole = new DataLoader(data.train, { batchSize: 20, seed: 0, mean: [0.5], std: [0.5] });
    const results: unknown[] = [];
    for (const failing of [null, "loader", "metric"]) {
      const model = smallNetwork(gpu);
      freezeBatchNorm(model); // a step that fails would have moved running statistics
      const optimizer = new SGD(model.parameters(), { lr: 0.1, momentum: 0.9 });
      let left = failing === null ? 0 : 1;
      const fails = (what: string, here = true) => {
        if (failing !== what || !here || left === 0) return;
        left -= 1;
        throw new Error("mine");
      };
      const train = {
        ...{ batchSize: 20, batchesPerEpoch: whole.batchesPerEpoch },
        *epoch(epoch: number, start = 0) {
          for (let i = start; i < whole.batchesPerEpoch; i += 1) {
            fails("loader", i === 2); // when the batch is asked for ahead: the step before has been made
            yield whole.batch(epoch, i);
          }
        },
      };
      const metrics = {
        accuracy: (output: Tensor, labels: Tensor) => {
          fails("metric");
          return accuracy(output, labels);
        },
      };
      const trainer = new Trainer({ model, optimizer, data: { train }, epochs: 1, metrics });
      if (failing !== null) await expect(trainer.run()).rejects.toThrow("mine");
      expect(trainer.step).toBe(failing === "loader" ? 2 : 0);
      const { log, startLoss } = await trainer.run();
      results.push([await values(model), log, startLoss]);
      for (const one of [trainer, optimizer, model]) one.dispose();
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });

  it("makes no step where it is stopped before the first, and none while its state is read", async () => {
    const gpu = await testGpu();
    const model = smallNetwork(gpu);
    const optimizer = new SGD(model.parameters(), { lr: 0.1 });
    const trainer = new Trainer({ model, optimizer, data, batchSize: 20, epochs: 1 });
    const aborted = new AbortController();
    aborted.abort();
    const steps: string[] = [];
    const onCheckpoint = ({ metadata }: { metadata: Record<string, string> }) =>
      void steps.push(metadata.step!);
    await trainer.run({ signal: aborted.signal, onCheckpoint });
    await trainer.run({ onStart: () => trainer.stop("not now"), onCheckpoint });
    expect([trainer.step, trainer.stopped, ...steps]).toEqual([0, "not now", "0", "0"]);
    const states = [trainer.state(), trainer.state()];
    await expect(trainer.run()).rejects.toThrow(/Trainer\.run: state\(\) reads this trainer's tensors/);
    for (const { metadata } of await Promise.all(states)) expect(metadata.step).toBe("0");
    await trainer.run();
    expect(trainer.step).toBe(4);
    for (const one of [trainer, optimizer, model]) one.dispose();
  });

  it("resumes at the rates that were set by hand, and refuses what would make it another run", async () => {
    const gpu = await testGpu();
    const make = (more: object = {}) => {
      const model = smallNetwork(gpu);
      const [decayed, others] = decayGroups(model) as [object, object];
      const groups = [{ ...decayed, lr: 0.05 }, others] as never;
      const optimizer = new SGD(groups, { lr: 0.1, momentum: 0.9 });
      const given = {
        model,
        optimizer,
        data: { train: data.train },
        epochs: 4,
        batchSize: 20,
        clipGradNorm: 2,
      };
      const trainer = new Trainer({ ...given, ...more });
      const dispose = () => [trainer, optimizer, model].map((one) => one.dispose());
      return { trainer, optimizer, model, dispose };
    };
    /** Halves the rate after each epoch; stops, and is told what there is, after two. */
    const halving = (run: ReturnType<typeof make>, kept?: (state: Checkpoint) => void) =>
      run.trainer.run({
        onLog: ({ step }) => {
          if (step % 4 === 0) run.optimizer.lr /= 2;
          if (step === 4) run.optimizer.paramGroups[1]!.lr = 0.01;
          if (kept && step === 8) run.trainer.stop();
        },
        onCheckpoint: kept,
      });
    const whole = make();
    await halving(whole);
    let state: Checkpoint | null = null;
    const first = make();
    await halving(first, (checkpoint) => {
      state = decodeCheckpoint(encodeCheckpoint(checkpoint), "a run");
    });
    const second = make();
    second.trainer.resume(state!);
    expect(second.optimizer.lr).toBe(0.025);
    await halving(second);
    expect(await values(second.model)).toEqual(await values(whole.model));
    expect(second.trainer.history).toEqual(whole.trainer.history);
    const others: [object, RegExp][] = [
      [{ dropLast: true }, /trained with dropLast false, this run has true/],
      [{ clipGradNorm: 3 }, /trained with clipGradNorm 2, this run has 3/],
      [{ augment: { pad: 1, flip: false } }, /trained with augment null, this run has/],
      [{ transforms: [transforms.randomHorizontalFlip()] }, /trained with transforms \[\], this run has/],
      [{ moments: { mean: [0], std: [1] } }, /trained with moments \{/],
    ];
    for (const [more, message] of others) {
      const other = make(more);
      expect(() => other.trainer.resume(state!), message.source).toThrow(message);
      expect(other.trainer.step).toBe(0);
      other.dispose();
    }
    for (const rates of ["[0.1, -1, 1]", "[1e39, 1, 1]", '["x", 1, 1]', "3"]) {
      const metadata = { ...state!.metadata, rates };
      expect(() => second.trainer.resume({ ...state!, metadata })).toThrow(
        /rates is .*; expected a list of numbers/,
      );
    }
    const fewer = { ...state!, metadata: { ...state!.metadata, rates: "[0.1,0.1]" } };
    expect(() => second.trainer.resume(fewer)).toThrow(/had 1 groups of parameters, this run's has 2/);
    const { rates: _rates, how: _how, ...older } = state!.metadata;
    second.trainer.resume({ ...state!, metadata: older });
    for (const run of [whole, first, second]) run.dispose();
  });

  it("resumes with a metric of the name that version 0.1.0 had for accuracy", async () => {
    const gpu = await testGpu();
    const model = smallNetwork(gpu);
    const optimizer = new SGD(model.parameters(), { lr: 0.1 });
    const options = { model, optimizer, data: { train: data.train }, metrics: { correct: accuracy } };
    const trainer = new Trainer({ ...options, maxSteps: 2 });
    await trainer.run();
    const state = await trainer.state();
    trainer.resume(state);
    expect(trainer.step).toBe(2);
    for (const one of [trainer, optimizer, model]) one.dispose();
  });

  it("refuses what can't be trained", async () => {
    const gpu = await testGpu();
    const model = new Sequential(new GlobalAvgPool2d(), new Linear(gpu, 1, 4));
    const optimizer = new SGD(model.parameters(), { lr: 0.1 });
    const before = gpu.stats.liveBuffers;
    const make = (more: object) => new Trainer({ model, optimizer, data, ...more });
    const few = new Sequential(new GlobalAvgPool2d(), new Linear(gpu, 1, 3));
    const ofFew = new SGD(few.parameters(), { lr: 0.1 });
    const tooFew = make({ model: few, optimizer: ofFew, maxSteps: 1, batchSize: 4 });
    await expect(tooFew.run()).rejects.toThrow(
      /^Trainer: the model gives \[4, 3\] for a batch, the images have 4 classes; expected a logit for each, such as a last layer of 4 outputs$/,
    );
    for (const one of [tooFew, ofFew, few]) one.dispose();
    expect(() => make({ lerningRate: 1 })).toThrow(/Trainer: there is no option "lerningRate"/);
    expect(() => make({ metrics: { loss: () => 1 } })).toThrow(/a metric has the name "loss"/);
    for (const name of ["imagesPerSecond", "totalSteps"]) {
      expect(() => make({ metrics: { [name]: () => 1 } })).toThrow(
        `a metric has the name "${name}"; expected`,
      );
    }
    expect(() => make({ metrics: { Loss: () => 1 } })).toThrow(/name "Loss", and so would be testLoss/);
    expect(() => make({ metrics: { f1: () => 1, F1: () => 1 } })).toThrow(
      /name "F1", and so would be testF1/,
    );
    const stranger = smallNetwork(gpu);
    const its = new SGD(stranger.parameters(), { lr: 0.1 });
    expect(() => make({ optimizer: its })).toThrow(/none of the optimizer's parameters is one of the model/);
    for (const one of [its, stranger]) one.dispose();
    expect(() => make({ data: { train: 3 } })).toThrow(/data.train is 3; expected a data set/);
    model.freeze();
    expect(() => make({})).toThrow(/no parameters to train/);
    model.freeze(false);
    expect(gpu.stats.liveBuffers).toBe(before);
    const wrong = make({ loss: (logits: never) => logits });
    await expect(wrong.run()).rejects.toThrow(/Trainer: loss gave \[32, 4\]; expected one number/);
    wrong.dispose();
    const short = {
      ...{ batchSize: 2, batchesPerEpoch: 2 },
      *epoch() {
        yield { images: new Float32Array(2), shape: [2, 1, 1, 1], labels: Uint32Array.of(0, 1) };
      },
    };
    const ended = make({ data: { train: short } });
    await expect(ended.run()).rejects.toThrow(/epoch 0 ended with batch 1; expected 2 batches/);
    ended.dispose();
    const odd = { ...short, epoch: () => [{ images: new Float32Array(3), shape: [2, 1], labels: [1] }] };
    const strange = make({ data: { train: odd } });
    await expect(strange.run()).rejects.toThrow(/a batch is .* of images a Float32Array of 3/);
    strange.dispose();
    for (const batches of [0, 1]) {
      const loader = { ...short, epoch: () => [...short.epoch()].slice(0, batches) };
      await expect(evaluate(gpu, model, loader)).rejects.toThrow(
        `evaluate: the loader's epoch ended with batch ${batches}; expected 2 batches`,
      );
    }
    await expect(evaluate(gpu, model, 3 as never)).rejects.toThrow(/evaluate: loader is 3/);
    for (const one of [optimizer, model]) one.dispose();
  });
});

/** What callbacks see of a run whose evaluations gave `losses`. */
async function see(callback: TrainerCallback<never>, losses: readonly number[]) {
  const evals: { step: number; epoch: number; testLoss: number }[] = [];
  let stopped = 0;
  let state = 0;
  const trainer = {
    history: { log: [], evals, startLoss: null, divergedAt: null },
    ...{ step: 0, totalSteps: 99 },
    stop: () => {
      stopped ||= evals.length;
    },
    model: { stateDict: async () => ({ at: state }) as never },
  };
  for (const testLoss of losses) {
    state += 1;
    evals.push({ step: state, epoch: state, testLoss });
    await callback.onEval?.(evals.at(-1)! as never, trainer as never);
    if (stopped) break;
  }
  return stopped;
}

describe("callbacks", () => {
  it("earlyStopping ends after so many evaluations that are no better", async () => {
    const losses = [5, 4, 4.5, 3.9, 3.95, 3.9, 3.99, 1];
    expect(await see(earlyStopping({ patience: 3 }), losses)).toBe(7);
    expect(await see(earlyStopping({ patience: 4 }), losses)).toBe(0);
    expect(await see(earlyStopping({ patience: 2, minDelta: 0.5 }), losses)).toBe(4);
    expect(await see(earlyStopping({ patience: 2, mode: "max" }), losses)).toBe(3);
    expect(await see(earlyStopping({ patience: 2 }), [Number.NaN, Number.NaN])).toBe(2);
    await expect(see(earlyStopping({ monitor: "testAcuracy" }), losses)).rejects.toThrow(
      /no testAcuracy; expected one of testLoss/,
    );
  });

  it("bestCheckpoint keeps the state of the best evaluation", async () => {
    const saved: number[] = [];
    const best = bestCheckpoint({ save: (_state, { step }) => void saved.push(step) });
    await see(best, [5, 4, 4.5, 3.9, 3.95]);
    expect(saved).toEqual([1, 2, 4]);
    expect(best.state).toEqual({ at: 4 });
    expect(best.entry).toMatchObject({ step: 4, testLoss: 3.9 });
  });

  it("a run ends in order when one of them stops it, and runs all in turn", async () => {
    const gpu = await testGpu();
    const model = smallNetwork(gpu);
    const optimizer = new SGD(model.parameters(), { lr: 0.2 });
    const trainer = new Trainer({ model, optimizer, data, batchSize: 35, epochs: 50 });
    const calls: string[] = [];
    const best = bestCheckpoint({ monitor: "testAccuracy" });
    const told = (name: string): TrainerCallback => ({
      onStart: () => void calls.push(`${name} start`),
      onEval: async () => void calls.push(`${name} eval`),
      onEnd: () => void calls.push(`${name} end`),
    });
    let states = 0;
    const history = await trainer.run({
      ...told("first"),
      callbacks: [told("second"), best, earlyStopping({ monitor: "testAccuracy", patience: 2 })],
      onCheckpoint: () => {
        states += 1;
      },
    });
    const { evals } = history;
    expect(evals.length).toBeLessThan(50);
    expect(states).toBe(evals.length);
    expect(trainer.stopped).toMatch(/testAccuracy has been no better for 2 evaluations/);
    expect(calls.slice(0, 4)).toEqual(["first start", "second start", "first eval", "second eval"]);
    expect(calls.slice(-2)).toEqual(["first end", "second end"]);
    const top = Math.max(...evals.map(({ testAccuracy }) => testAccuracy));
    expect(best.entry).toMatchObject({ testAccuracy: top });
    model.loadStateDict(best.state!);
    const { channelMoments, DataLoader } = await import("../../src/index.ts");
    const loader = new DataLoader(data.test, {
      ...channelMoments(data.train),
      ...{ batchSize: 10, seed: 0, shuffle: false },
    });
    expect((await evaluate(gpu, model, loader)).testAccuracy).toBe(top);
    for (const one of [trainer, optimizer, model]) one.dispose();
  });
});

describe("logs", () => {
  it("are lines of JSON and CSV, and begin anew with the history where a run goes on", async () => {
    const gpu = await testGpu();
    const model = smallNetwork(gpu);
    const optimizer = new SGD(model.parameters(), { lr: 0.1 });
    const files = { csv: "", json: "" };
    const into =
      (name: keyof typeof files): LogWriter =>
      (text, { first }) => {
        files[name] = first ? text : files[name] + text;
      };
    const make = () =>
      new Trainer({ model, optimizer, data, batchSize: 35, epochs: 2, logEvery: 1, maxSteps: 4 });
    const trainer = make();
    let state: Checkpoint | null = null;
    const callbacks = [
      jsonLinesLog(into("json")),
      csvLog(into("csv"), ["step", "loss", "testLoss", "error"]),
    ];
    const history = await trainer.run({
      callbacks,
      onCheckpoint: (own) => {
        state ??= own;
      },
    });
    const { log, evals } = history;
    const lines = files.json.trimEnd().split("\n");
    const parsed = lines.map((line) => JSON.parse(line));
    expect(parsed.map(({ kind, step }) => `${kind} ${step}`)).toEqual([
      ...["log 1", "log 2", "eval 2", "log 3", "log 4", "eval 4"],
    ]);
    expect(parsed[0]).toMatchObject({ ...log[0] });
    expect(parsed[5]).toEqual({ kind: "eval", ...evals[1] });
    const rows = files.csv.split("\n");
    expect(rows[0]).toBe("step,loss,testLoss,error");
    expect(rows[1]).toBe(`1,${log[0]!.loss},,`);
    expect(rows[3]).toBe(`2,,${evals[0]!.testLoss},`);
    expect(rows).toHaveLength(8); // with the end of the last line
    const second = make();
    second.resume(state!);
    const before = files.csv;
    await second.run({ callbacks });
    expect(files.csv).toBe(before);
    for (const one of [trainer, second, optimizer, model]) one.dispose();
    expect(() => csvLog(() => {}, ["a,b"])).toThrow(/columns is \["a,b"\]/);
  });
});
