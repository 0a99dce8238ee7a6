import { describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import { BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Sequential } from "../../src/nn/layers.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { EMA, SWA, updateBatchNorm } from "../../src/optim/average.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { Random } from "../../src/tensor/random.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { owner } from "../helpers/owner.ts";

const { owned } = owner();

function network(gpu: Gpu) {
  const random = new Random(5);
  return owned(
    new Sequential(
      new Conv2d(gpu, 3, 4, 3, { random }),
      new BatchNorm2d(gpu, 4),
      new ReLU(),
      new Flatten(),
      new Linear(gpu, 4 * 4 * 4, 3, { random }),
    ),
  );
}

describe("EMA and SWA", () => {
  const updates = 5;
  const decay = 0.8;
  const blends: Record<string, (average: number, w: number, n: number) => number> = {
    EMA: (average, w, n) => (n === 0 ? w : decay * average + (1 - decay) * w),
    SWA: (average, w, n) => average + (w - average) / (n + 1),
  };
  for (const name of ["EMA", "SWA"] as const) {
    for (const how of ["alone", "packed", "captured"] as const) {
      it(`${name} averages as AveragedModel does, ${how}`, async () => {
        const gpu = await testGpu();
        const model = network(gpu);
        if (how !== "alone") owned(new SGD(model.parameters(), { lr: 1 }));
        const average = owned(name === "EMA" ? new EMA(model, { decay }) : new SWA(model));
        const names = model.namedParameters();
        const expected = names.map(([, x]) => new Float64Array(x.size));
        let plan: ReturnType<typeof gpu.capture> | null = null;
        for (let n = 0; n < updates; n += 1) {
          for (const [i, [, x]] of names.entries()) {
            const w = normals(x.size, 100 * n + i);
            x.write(w);
            expected[i] = expected[i]!.map((value, j) => blends[name]!(value, w[j]!, n));
          }
          if (how === "captured" && plan) plan.run();
          else if (how === "captured") plan = owned(gpu.capture(() => average.update()));
          else average.update();
        }
        const before = await model.stateDict();
        const state = await average.stateDict();
        expect(state.n_averaged!.data[0]).toBe(updates);
        for (const [i, [own]] of names.entries()) {
          expect(relativeError(state[`module.${own}`]!.data, expected[i]!), own).toBeLessThan(1e-6);
        }
        average.swap();
        for (const [i, [, x]] of names.entries()) {
          expect(relativeError(await x.read(), expected[i]!)).toBeLessThan(1e-6);
        }
        expect(() => average.update()).toThrow(/the model has the averages/);
        if (plan) expect(() => plan!.run()).toThrow(/the model has the averages/);
        expect(await average.stateDict()).toEqual(state);
        average.swap();
        expect(await model.stateDict()).toEqual(before);

        // Goes on from its state.
        const other = owned(name === "EMA" ? new EMA(model, { decay }) : new SWA(model));
        other.loadStateDict(state);
        for (const each of [average, other]) each.update();
        expect(await other.stateDict()).toEqual(await average.stateDict());
      });
    }
  }

  it("average and exchange more elements than a software adapter has invocations", async () => {
    const gpu = await testGpu();
    const model = owned(new Linear(gpu, 75, 70, { bias: false }));
    const average = owned(new EMA(model, { decay: 0.5 }));
    const weights = [1, 2].map((seed) => normals(75 * 70, seed));
    for (const w of weights) {
      model.weight.write(w);
      average.update();
    }
    average.swap();
    const expected = weights[0]!.map((value, i) => (value + weights[1]![i]!) / 2);
    expect(relativeError(await model.weight.read(), expected)).toBeLessThan(1e-6);
    average.swap();
    expect([...(await model.weight.read())]).toEqual([...weights[1]!]);
  });

  it("take a packed network in two dispatches", async () => {
    const gpu = await testGpu();
    const model = network(gpu);
    owned(new SGD(model.parameters(), { lr: 1 }));
    const average = owned(new EMA(model));
    const before = gpu.stats.dispatches;
    average.update();
    expect(gpu.stats.dispatches - before).toBe(2);
  });

  it("give a weight back that two layers share, under both of its names", async () => {
    const gpu = await testGpu();
    const model = owned(new Sequential(new Linear(gpu, 3, 3), new Linear(gpu, 3, 3)));
    const [first, second] = model.layers as [Linear, Linear];
    second.weight.dispose();
    second.weight = first.weight;
    const average = owned(new EMA(model, { decay: 0.75 }));
    const weights = [normals(9, 1), normals(9, 2)];
    for (const w of weights) {
      first.weight.write(w);
      average.update();
    }
    const expected = weights[0]!.map((w, i) => 0.75 * w + 0.25 * weights[1]![i]!);
    for (let swaps = 0; swaps < 4; swaps += 1) {
      const state = await average.stateDict();
      for (const i of [0, 1]) {
        expect(relativeError(state[`module.layers.${i}.weight`]!.data, expected)).toBeLessThan(1e-6);
      }
      const here = swaps % 2 === 0 ? weights[1]! : expected;
      expect(relativeError(await first.weight.read(), here), `${swaps} swaps`).toBeLessThan(1e-6);
      if (swaps === 2) average.loadStateDict(state);
      average.swap();
    }
  });

  it("refuse what they can't do", async () => {
    const gpu = await testGpu();
    const model = network(gpu);
    expect(() => new EMA(model, { decay: 1 })).toThrow(/EMA: decay is 1/);
    expect(() => new SWA(new ReLU())).toThrow(/without parameters/);
    const average = owned(new SWA(model));
    const state = await average.stateDict();
    const { n_averaged: _, ...rest } = state;
    expect(() => average.loadStateDict(rest)).toThrow(/SWA.loadStateDict: n_averaged is missing/);
    expect(() => average.loadStateDict({ ...state, more: state.n_averaged! })).toThrow(/more is unexpected/);
  });
});

describe("updateBatchNorm", () => {
  it("works statistics out anew, as plain averages over the batches, whatever kind they are", async () => {
    const gpu = await testGpu();
    const model = network(gpu);
    const norm = model.layers[1] as BatchNorm2d;
    const conv = model.layers[0] as Conv2d;
    norm.runningMean!.fill(7);
    model.eval();
    conv.train();
    const shape = [2, 6, 6, 3] as const;
    const data = [1, 2, 3].map((seed) => normals(2 * 6 * 6 * 3, seed));
    const batches = data.map((d, i) => {
      const images = Float32Array.from(d);
      if (i === 0) return { images, shape };
      const tensor = owned(gpu.tensor(images, [...shape]));
      return i === 1 ? tensor : { images: tensor };
    });
    async function* loader() {
      yield* batches;
    }
    const live = gpu.stats.liveBuffers;
    await updateBatchNorm(model, loader());
    expect(gpu.stats.liveBuffers).toBe(live);
    const [mean, variance] = [new Float64Array(4), new Float64Array(4)];
    for (const d of data) {
      const x = owned(gpu.tensor(d, [...shape]));
      const y = await owned(conv2d(x, conv.weight, { bias: conv.bias })).read();
      for (let c = 0; c < 4; c += 1) {
        const values = [...y].filter((_, i) => i % 4 === c);
        const average = values.reduce((sum, v) => sum + v, 0) / values.length;
        mean[c]! += average / 3;
        variance[c]! += values.reduce((sum, v) => sum + (v - average) ** 2, 0) / (values.length - 1) / 3;
      }
    }
    expect(relativeError(await norm.runningMean!.read(), mean)).toBeLessThan(1e-5);
    expect(relativeError(await norm.runningVar!.read(), variance)).toBeLessThan(1e-5);
    expect(await norm.numBatchesTracked!.item()).toBe(3);
    expect([model.training, conv.training, norm.training, norm.momentum]).toEqual([false, true, false, 0.1]);
  });

  it("refuses what is no loader and no batch, and leaves modes as they were", async () => {
    const gpu = await testGpu();
    const model = network(gpu).eval();
    await expect(updateBatchNorm(model, 3 as never)).rejects.toThrow(/updateBatchNorm: loader is 3/);
    await expect(updateBatchNorm(model, [4 as never])).rejects.toThrow(/a batch is 4/);
    expect([model.training, (model.layers[1] as BatchNorm2d).momentum]).toEqual([false, 0.1]);
  });
});
