import { describe, expect, it } from "vitest";
import { checkpoint } from "../../src/autograd/checkpoint.ts";
import { noGrad } from "../../src/autograd/tape.ts";
import { crc32 } from "../../src/formats/crc32.ts";
import { torchStateDict } from "../../src/formats/torch.ts";
import { Dropout, Dropout2d, StochasticDepth } from "../../src/nn/dropout.ts";
import { BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Sequential } from "../../src/nn/layers.ts";
import { mobilenetV2 } from "../../src/nn/models/mobilenet.ts";
import { vgg11 } from "../../src/nn/models/vgg.ts";
import type { Module } from "../../src/nn/module.ts";
import { relu } from "../../src/ops/activations.ts";
import { dropout, dropout2d, stochasticDepth } from "../../src/ops/dropout.ts";
import { add } from "../../src/ops/elementwise/elementwise.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { newGenerator } from "../../src/tensor/generator.ts";
import { Random } from "../../src/tensor/random.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";

const gpu = await testGpu();
const SEED = 2 ** 40 + 12345; // both words of it

/** What the `draw`-th draw of a generator with that seed keeps, by the package's generator on the host. */
function keptOnHost(seed: number, draw: number, count: number, p: number): boolean[] {
  const random = new Random([seed >>> 0, Math.floor(seed / 2 ** 32)], [draw, 0]);
  return Array.from({ length: count }, () => random.uint32() >= Math.round(p * 2 ** 32));
}

/** Elements that are not 0. */
const kept = (y: ArrayLike<number>) => Array.from(y, (value) => value !== 0);

describe("dropout", () => {
  it("keeps what Philox on the host keeps, and the same on every adapter", async () => {
    const count = 1003;
    const data = normals(count, 1);
    const x = gpu.tensor(data, [count]);
    const generator = newGenerator(gpu, SEED);
    const masks: Uint8Array[] = [];
    for (const [draw, p] of [0.1, 0.5, 0.9].entries()) {
      const y = dropout(x, generator, { p });
      const values = await y.read();
      const keeps = keptOnHost(SEED, draw, count, p);
      const scale = Math.fround(1 / (1 - p));
      expect([...values]).toEqual([...data].map((v, i) => (keeps[i] ? Math.fround(scale * v) : v * 0)));
      masks.push(Uint8Array.from(kept(values), Number));
      y.dispose();
    }
    expect([...(await generator.read())]).toEqual([SEED >>> 0, 256, 3, 0]);
    expect(crc32(...masks)).toBe(127975274);
    for (const tensor of [x, generator]) tensor.dispose();
  });

  it("counts draws in two words", async () => {
    const x = gpu.full([8], 1);
    const generator = newGenerator(gpu, 3);
    generator.write(Uint32Array.of(3, 0, 2 ** 32 - 1, 6));
    const [a, b] = [dropout(x, generator), dropout(x, generator)];
    expect([...(await generator.read())]).toEqual([3, 0, 1, 7]);
    const host = (stream: readonly [number, number]) => {
      const random = new Random([3, 0], stream);
      return Array.from({ length: 8 }, () => random.uint32() >= 2 ** 31);
    };
    expect(kept(await a.read())).toEqual(host([2 ** 32 - 1, 6]));
    expect(kept(await b.read())).toEqual(host([0, 7]));
    for (const tensor of [x, generator, a, b]) tensor.dispose();
  });

  it("drops as a binomial, each element and each draw by itself", async () => {
    const n = 2 ** 18;
    const x = gpu.full([n], 1);
    const generator = newGenerator(gpu, "statistics");
    for (const p of [0.02, 0.5, 0.8]) {
      const [first, second] = [dropout(x, generator, { p }), dropout(x, generator, { p })];
      const masks = [kept(await first.read()), kept(await second.read())] as const;
      const isWithin = (hits: number, chance: number, trials = n) =>
        Math.abs(hits - trials * chance) < 5 * Math.sqrt(trials * chance * (1 - chance));
      const count = (test: (i: number) => boolean) => {
        let hits = 0;
        for (let i = 0; i < n; i += 1) if (test(i)) hits += 1;
        return hits;
      };
      for (const mask of masks)
        expect(
          isWithin(
            count((i) => mask[i]!),
            1 - p,
          ),
        ).toBe(true);
      // Both of a pair: of neighbours, of elements in the same place of neighbouring groups, of two draws.
      for (const lag of [1, 4, 64]) {
        expect(
          isWithin(
            count((i) => masks[0][i]! && masks[0][(i + lag) % n]!),
            (1 - p) ** 2,
          ),
        ).toBe(true);
      }
      expect(
        isWithin(
          count((i) => masks[0][i]! && masks[1][i]!),
          (1 - p) ** 2,
        ),
      ).toBe(true);
      for (const tensor of [first, second]) tensor.dispose();
    }
    for (const tensor of [x, generator]) tensor.dispose();
  });

  it("has the gradient of the mask it drew, also when others draw before backward", async () => {
    const shape = [3, 5, 7, 3];
    const size = 315;
    const generator = newGenerator(gpu, 11);
    const ones = gpu.full(shape, 1);
    const masks = [dropout(ones, generator, { p: 0.3 }), dropout(ones, generator, { p: 0.3 })];
    generator.write(Uint32Array.of(11, 0, 0, 0));
    const before = gpu.stats.liveBuffers;
    const xs = [1, 2].map((seed) => gpu.tensor(normals(size, seed), shape, { requiresGrad: true }));
    const ys = xs.map((x) => dropout(x, generator, { p: 0.3 }));
    for (const i of [0, 1]) {
      const up = gpu.tensor(normals(size, 7 + i), shape);
      ys[i]!.backward(up);
      const mask = await masks[i]!.read();
      const product = (data: Float64Array) => data.map((v, j) => v * mask[j]!);
      expect(relativeError(await ys[i]!.read(), product(normals(size, 1 + i)))).toBeLessThan(1e-7);
      expect(relativeError(await xs[i]!.grad!.read(), product(normals(size, 7 + i)))).toBeLessThan(1e-7);
      for (const tensor of [up, xs[i]!, ys[i]!]) tensor.dispose();
    }
    expect(gpu.stats.liveBuffers).toBe(before);
    for (const tensor of [generator, ones, ...masks]) tensor.dispose();
  });

  it("is x itself for p = 0 and in inference, and 0 for p = 1", async () => {
    const generator = newGenerator(gpu, 5);
    const x = gpu.tensor(normals(30, 1), [2, 3, 5], { requiresGrad: true });
    expect(dropout(x, generator, { p: 0 })).toBe(x);
    expect(dropout(x, generator, { p: 0.5, training: false })).toBe(x);
    expect(dropout2d(x, generator, { training: false })).toBe(x);
    expect(stochasticDepth(x, generator, { p: 0.5, mode: "row", training: false })).toBe(x);
    expect([...(await generator.read())]).toEqual([5, 0, 0, 0]);
    const whole = [
      dropout(x, generator, { p: 1 }),
      dropout2d(x, generator, { p: 1 }),
      stochasticDepth(x, generator, { p: 1, mode: "row" }),
      stochasticDepth(x, generator, { p: 1, mode: "batch" }),
    ];
    for (const y of whole) {
      y.backward(gpu.full([2, 3, 5], 3));
      expect((await y.read()).every((value) => value === 0)).toBe(true);
      expect((await x.grad!.read()).every((value) => value === 0)).toBe(true);
      y.dispose();
    }
    for (const tensor of [x, generator]) tensor.dispose();
  });

  it.each([
    [6, 3, 2, 5],
    [130, 1, 1, 128], // more channels than a software adapter has invocations
  ])("drops channels, images and batches as a whole: [%i, %i, %i, %i]", async (n, h, w, c) => {
    const size = n * h * w * c;
    const data = normals(size, 3);
    const up = normals(size, 4);
    const cases = [
      { groups: n * c, of: (i: number) => Math.floor(i / (h * w * c)) * c + (i % c), run: dropout2d },
      {
        ...{ groups: n, of: (i: number) => Math.floor(i / (h * w * c)) },
        run: (x: Tensor, g: Tensor, o: { p: number }) => stochasticDepth(x, g, { ...o, mode: "row" }),
      },
      {
        ...{ groups: 1, of: () => 0 },
        run: (x: Tensor, g: Tensor, o: { p: number }) => stochasticDepth(x, g, { ...o, mode: "batch" }),
      },
    ];
    for (const { groups, of, run } of cases) {
      const generator = newGenerator(gpu, 17);
      const seen = new Set<boolean>();
      for (let draw = 0; draw < 6; draw += 1) {
        const x = gpu.tensor(data, [n, h, w, c], { requiresGrad: true });
        const y = run(x, generator, { p: 0.4 });
        const upstream = gpu.tensor(up, [n, h, w, c]);
        y.backward(upstream);
        const keeps = keptOnHost(17, draw, groups, 0.4);
        for (const keep of keeps) seen.add(keep);
        const product = (of64: Float64Array) => of64.map((v, i) => (keeps[of(i)] ? v / 0.6 : 0));
        expect(relativeError(await y.read(), product(data))).toBeLessThan(1e-6);
        expect(relativeError(await x.grad!.read(), product(up))).toBeLessThan(1e-6);
        for (const tensor of [x, y, upstream]) tensor.dispose();
      }
      expect(seen.size).toBe(2);
      generator.dispose();
    }
  });

  it("refuses what is no probability or no generator", () => {
    const x = gpu.full([2, 3], 1);
    const generator = newGenerator(gpu, 1);
    expect(() => dropout(x, generator, { p: 1.5 })).toThrow(
      "dropout: p is 1.5; expected a probability, from 0 to 1",
    );
    expect(() => dropout(x, x)).toThrow("dropout: generator is float32; expected uint32");
    const short = gpu.zeros([3], { dtype: "uint32" });
    expect(() => dropout(x, short)).toThrow("newGenerator");
    expect(() => stochasticDepth(x, generator, { p: 0.5, mode: "column" as never })).toThrow("mode");
    expect(() => new Dropout(gpu, Number.NaN)).toThrow("Dropout: p is NaN");
    for (const tensor of [x, generator, short]) tensor.dispose();
  });
});

/** A network that drops in three ways, and draws its weights and seeds from one generator. */
function network(): Sequential {
  const random = new Random(21);
  return new Sequential(
    new Conv2d(gpu, 3, 8, 3, { padding: 1, random }),
    new BatchNorm2d(gpu, 8),
    new ReLU(),
    new Dropout2d(gpu, 0.25, { random }),
    new Conv2d(gpu, 8, 4, 3, { padding: 1, random }),
    new StochasticDepth(gpu, 0.3, "row", { random }),
    new Flatten(),
    new Dropout(gpu, 0.5, { random }),
    new Linear(gpu, 144, 5, { random }),
  );
}

const labelsOf = () => gpu.tensor([0, 3, 1, 4, 2, 0], [6], { dtype: "uint32" });

describe("dropout in a step", () => {
  const images = () => gpu.tensor(normals(6 * 6 * 6 * 3, 2), [6, 6, 6, 3]);

  /** Losses of some steps, captured or not, and the state after them; `half` of the steps after the state was saved and loaded. */
  async function trained(how: "eager" | "captured" | "resumed", saves = false) {
    let model = network();
    let optimizer = new SGD(model.parameters(), { lr: 0.05, momentum: 0.9 });
    const [x, labels] = [images(), labelsOf()];
    const step = () =>
      gpu.scope(() => {
        optimizer.zeroGrad();
        const logits = saves ? checkpoint((t) => model.forward(t), x) : model.forward(x);
        const loss = softmaxCrossEntropy(logits, labels);
        loss.backward();
        optimizer.step();
        return loss;
      });
    const losses: number[] = [];
    if (how === "captured") {
      const plan = gpu.capture(() => ({ loss: step() }));
      for (let i = 0; i < 6; i += 1) {
        if (i > 0) plan.run();
        losses.push((await plan.result.loss.read())[0]!);
      }
      plan.dispose();
    } else {
      for (let i = 0; i < 6; i += 1) {
        if (how === "resumed" && i === 3) {
          const [weights, velocity] = [await model.stateDict(), await optimizer.stateDict()];
          optimizer.dispose();
          model.dispose();
          model = network();
          model.loadStateDict(weights);
          optimizer = new SGD(model.parameters(), { lr: 0.05, momentum: 0.9 });
          optimizer.loadStateDict(velocity);
        }
        const loss = step();
        losses.push((await loss.read())[0]!);
        loss.dispose();
      }
    }
    const state = Object.values(await model.stateDict()).map(({ data }) => [...data]);
    optimizer.dispose();
    for (const thing of [model, x, labels]) thing.dispose();
    return { losses, state };
  }

  it("draws anew at each run of a captured step, as eager steps do, and goes on exactly from a saved state", async () => {
    const eager = await trained("eager");
    expect(new Set(eager.losses).size).toBe(6);
    expect(await trained("captured")).toEqual(eager);
    expect(await trained("resumed")).toEqual(eager);
    const saved = await trained("eager", true);
    expect(await trained("captured", true)).toEqual(saved);
    expect(relativeError(saved.losses, eager.losses)).toBeLessThan(1e-3);
  });

  it("drops the same elements in the second forward of checkpoints, one within another too", async () => {
    const run = async (depth: number) => {
      const random = new Random(9);
      const drops = [new Dropout(gpu, 0.5, { random }), new StochasticDepth(gpu, 0.4, "row", { random })];
      const again = new Dropout(gpu, 0.2, { random });
      const x = gpu.tensor(normals(6 * 40, 1), [6, 40], { requiresGrad: true });
      const up = gpu.tensor(normals(6 * 40, 2), [6, 40]);
      const before = gpu.stats.liveBuffers;
      const around = (deep: number, fn: (t: Tensor) => Tensor, t: Tensor) =>
        depth >= deep ? checkpoint(fn, t) : fn(t);
      const y = gpu.scope(() => {
        const inner = (t: Tensor) => add(t, drops[1]!.forward(relu(drops[0]!.forward(t))));
        const outer = (t: Tensor) => again.forward(around(2, inner, drops[0]!.forward(t)));
        return around(1, outer, around(1, outer, x));
      });
      const dropped = noGrad(() => drops[0]!.forward(x)); // the generators move on before backward
      y.backward(up);
      dropped.dispose();
      const numbers = [await y.read(), await x.grad!.read()];
      for (const layer of [...drops, again]) numbers.push((await layer.generator.read()) as never);
      y.dispose();
      x.zeroGrad();
      expect(gpu.stats.liveBuffers).toBe(before);
      for (const thing of [x, up, ...drops, again]) thing.dispose();
      return numbers.map((data) => [...data]);
    };
    const plain = await run(0);
    for (const depth of [1, 2]) {
      const saved = await run(depth);
      expect(saved[0]).toEqual(plain[0]);
      expect(relativeError(saved[1]!, plain[1]!)).toBeLessThan(1e-6);
      expect(saved.slice(2)).toEqual(plain.slice(2));
    }
  });

  it("gives the draws back if the function of a checkpoint throws, or nothing depends on a gradient", () => {
    const generator = newGenerator(gpu, 4);
    const x = gpu.full([4], 1);
    const before = gpu.stats.liveBuffers;
    const fails = (t: Tensor) => {
      dropout(t, generator);
      throw new Error("no");
    };
    expect(() => checkpoint(fails, x)).toThrow("no");
    checkpoint((t) => dropout(t, generator), x).dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
    for (const tensor of [x, generator]) tensor.dispose();
  });

  it("leaves no trace in a summary, is nothing in inference, and PyTorch's states do without generators", async () => {
    const model = network();
    const generators = async () =>
      Object.entries(await model.stateDict())
        .filter(([name]) => name.endsWith("generator"))
        .map(([, { data }]) => [...data]);
    const start = await generators();
    expect(start).toHaveLength(3);
    expect(new Set(start.map(String)).size).toBe(3);
    model.summary([6, 6, 6, 3]);
    const x = images();
    model.eval();
    const [a, b] = noGrad(() => [model.forward(x), model.forward(x)]);
    expect(await a!.read()).toEqual(await b!.read());
    expect(await generators()).toEqual(start);
    const there = await torchStateDict(model);
    expect(Object.keys(there).some((name) => name.includes("generator"))).toBe(false);
    const { ...state } = await model.stateDict();
    for (const name of Object.keys(state)) if (name.endsWith("generator")) delete state[name];
    expect(model.loadStateDict(state)).toEqual({ missing: [], unexpected: [], mismatched: [] });
    for (const thing of [a!, b!, x, model]) thing.dispose();
  });

  it("goes into VGG and MobileNetV2 without a change of their weights, names and inference", async () => {
    const x = gpu.tensor(normals(2 * 32 * 32 * 3, 1), [2, 32, 32, 3]);
    const networks = {
      mobilenet: (dropout?: number) => mobilenetV2(gpu, { images: "cifar", widthMult: 0.1, dropout }),
      vgg: (dropout?: number) => vgg11(gpu, { width: 1, dropout }).classifier,
    };
    for (const [name, make] of Object.entries(networks)) {
      const [without, with_] = [make(), make(0.5)];
      const input = name === "vgg" ? gpu.tensor(normals(2 * 392, 3), [2, 392]) : x;
      const outputs = noGrad(() => [without, with_].map((model) => model.eval().forward(input)));
      expect(await outputs[1]!.read()).toEqual(await outputs[0]!.read());
      const names = async (model: Module) => Object.keys(await model.stateDict());
      const drops = name === "vgg" ? ["2.generator", "5.generator"] : ["classifier.0.generator"];
      expect((await names(with_)).filter((own) => !own.endsWith("generator"))).toEqual(await names(without));
      expect((await names(with_)).filter((own) => own.endsWith("generator"))).toEqual(drops);
      const seeds = new Set(
        [...with_.tensors()].filter(([own]) => drops.includes(own)).map(([, tensor]) => tensor),
      );
      const states = await Promise.all([...seeds].map(async (tensor) => String(await tensor.read())));
      expect(new Set(states).size).toBe(drops.length);
      const [y, trained] = noGrad(() => [outputs[0]!, with_.train().forward(input)]);
      expect(await trained!.read()).not.toEqual(await y!.read());
      for (const thing of [without, with_, trained!, ...outputs]) thing.dispose();
    }
    x.dispose();
  });
});
