// Batch-norm as a layer: BatchNorm1d, frozen ones, running statistics that are reset or that skip a batch; and those of InstanceNorm2d.

import { describe, expect, it } from "vitest";
import { checkpoint } from "../../src/autograd/checkpoint.ts";
import { noGrad } from "../../src/autograd/tape.ts";
import { BatchNorm1d, freezeBatchNorm } from "../../src/nn/batch-norm.ts";
import { foldBatchNorm } from "../../src/nn/fold.ts";
import { BatchNorm2d, Conv2d, Identity, Linear, ReLU, Sequential } from "../../src/nn/layers.ts";
import type { Module } from "../../src/nn/module.ts";
import { InstanceNorm2d } from "../../src/nn/norms.ts";
import { updateBatchNorm } from "../../src/optim/average.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { Random } from "../../src/tensor/random.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { trainedValues } from "../helpers/networks.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { channelStatistics } from "../reference/batch-norm.ts";

const gpu = await testGpu();

interface Tracking {
  runningMean: Tensor | null;
  runningVar: Tensor | null;
  numBatchesTracked: Tensor | null;
}

async function running({ runningMean, runningVar, numBatchesTracked }: Tracking) {
  return [
    [...(await runningMean!.read())],
    [...(await runningVar!.read())],
    [...(await numBatchesTracked!.read())],
  ];
}

/** Statistics that are not what they start as, and not far from those of normal numbers. */
function setRunning({ runningMean, runningVar, numBatchesTracked }: Tracking) {
  const { size } = runningMean!;
  runningMean!.write(normals(size, 91, 0.5, 0.2));
  runningVar!.write(normals(size, 92, 2, 0.1));
  numBatchesTracked!.write([4]);
}

/** A forward of `data`, and nothing else. */
function forward(layer: Module, data: ArrayLike<number>, shape: readonly number[]) {
  noGrad(() => gpu.scope(() => layer.forward(gpu.tensor(data, shape)).materialize())).dispose();
}

describe("BatchNorm1d", () => {
  it("normalises [N, C] and [N, L, C] per channel, fused with what follows, and tracks as PyTorch's", async () => {
    for (const shape of [
      [12, 6],
      [3, 4, 6],
    ]) {
      const norm = new BatchNorm1d(gpu, 6, { momentum: 0.3, eps: 0.01 });
      const w = await trainedValues(norm);
      const model = new Sequential(norm, new ReLU());
      const data = normals(72, 5, 1, 2);
      const x = gpu.tensor(data, shape);
      const y = noGrad(() => model.forward(x));
      const { mean, variance } = channelStatistics({ count: 12, channels: 6 }, data);
      const at = (name: string, i: number) => w[name]!.data[i % 6]!;
      const expected = data.map((v, i) =>
        Math.max(
          0,
          ((v - mean[i % 6]!) / Math.sqrt(variance[i % 6]! + 0.01)) * at("weight", i) + at("bias", i),
        ),
      );
      expect(y.shape).toEqual(shape);
      expect(relativeError(await y.read(), expected)).toBeLessThan(1e-6);
      const [movedMean, movedVar, count] = await running(norm);
      const moved = { mean: mean.map((m) => 0.3 * m), var: variance.map((v) => 0.7 + 0.3 * v * (12 / 11)) };
      expect(relativeError(movedMean!, moved.mean)).toBeLessThan(1e-6);
      expect(relativeError(movedVar!, moved.var)).toBeLessThan(1e-6);
      expect(count).toEqual([1]);
      for (const thing of [x, y, model]) thing.dispose();
    }
  });

  it("refuses maps, and is folded into a linear layer", async () => {
    const norm = new BatchNorm1d(gpu, 4);
    const maps = gpu.zeros([1, 2, 2, 4]);
    expect(() => norm.forward(maps)).toThrow(
      "BatchNorm1d: x has rank 4, got [1, 2, 2, 4]; expected [N, C] or [N, L, C]",
    );
    setRunning(norm);
    const model = new Sequential(new Linear(gpu, 5, 4, { random: new Random(2) }), norm, new ReLU()).eval();
    const x = gpu.tensor(normals(15, 1), [3, 5]);
    const before = noGrad(() => model.forward(x));
    expect(foldBatchNorm(model)).toEqual({ folded: ["layers.1"], left: [] });
    expect(model.layers[1]).toBeInstanceOf(Identity);
    const after = noGrad(() => model.forward(x));
    expect(relativeError(await after.read(), await before.read())).toBeLessThan(1e-6);
    for (const thing of [maps, x, before, after, model]) thing.dispose();
  });
});

describe("frozen batch-norm", () => {
  const channels = 6;
  const convolution = () => new Conv2d(gpu, 4, channels, 3, { padding: 1, random: new Random(8) });
  const shape = [3, 5, 4, 4];

  /** dx, dw and the output of conv → frozen norm → ReLU in training mode, against a norm in inference mode. */
  it("survives train(), is left alone by a step, and lets gradients through", async () => {
    const outcomes = [];
    for (const frozen of [true, false]) {
      const [conv, norm] = [convolution(), new BatchNorm2d(gpu, channels)];
      await trainedValues(norm);
      setRunning(norm);
      const model = new Sequential(conv, norm, new ReLU());
      if (frozen) {
        freezeBatchNorm(model);
        expect(model.namedParameters().map(([name]) => name)).toEqual(["layers.0.weight", "layers.0.bias"]);
        model.train();
      } else model.eval();
      const before = await running(norm);
      const gamma = await norm.weight!.read();
      const x = gpu.tensor(normals(240, 1), shape, { requiresGrad: true });
      const up = gpu.tensor(normals(3 * 5 * 4 * channels, 2), [3, 5, 4, channels]);
      const optimizer = new SGD(model.parameters(), { lr: 0.1 });
      const y = gpu.keep(gpu.scope(() => model.forward(x)));
      y.backward(up);
      expect(norm.weight!.grad !== null).toBe(!frozen);
      outcomes.push([await y.read(), await x.grad!.read(), await conv.weight.grad!.read()]);
      optimizer.step();
      expect(await running(norm)).toEqual(before);
      if (frozen) expect(await norm.weight!.read()).toEqual(gamma);
      optimizer.dispose();
      for (const thing of [x, up, y, model]) thing.dispose();
    }
    for (const [i, expected] of outcomes[1]!.entries()) {
      expect(relativeError(outcomes[0]![i]!, expected)).toBeLessThan(1e-6);
    }
  });

  it("has the gradient dy · γ / √(variance + eps)", async () => {
    const norm = new BatchNorm2d(gpu, channels, { frozen: true, eps: 0.02 });
    expect(norm.namedParameters()).toEqual([]);
    norm.weight!.write(normals(channels, 3));
    setRunning(norm);
    const [gamma, variance] = [await norm.weight!.read(), await norm.runningVar!.read()];
    const x = gpu.tensor(normals(90, 1), [15, channels], { requiresGrad: true });
    const up = normals(90, 2);
    const y = norm.forward(x);
    gpu.scope(() => y.backward(gpu.tensor(up, [15, channels])));
    const expected = up.map((v, i) => (v * gamma[i % channels]!) / Math.sqrt(variance[i % channels]! + 0.02));
    expect(relativeError(await x.grad!.read(), expected)).toBeLessThan(1e-6);
    for (const thing of [x, y, norm]) thing.dispose();
  });

  it("is folded in training mode, into weights that go on learning", async () => {
    const norm = new BatchNorm2d(gpu, channels);
    setRunning(norm);
    const model = new Sequential(convolution(), norm, new ReLU());
    expect(() => foldBatchNorm(model)).toThrow("training mode");
    freezeBatchNorm(model);
    const x = gpu.tensor(normals(240, 1), shape);
    const before = noGrad(() => model.forward(x));
    expect(foldBatchNorm(model)).toEqual({ folded: ["layers.1"], left: [] });
    const after = noGrad(() => model.forward(x));
    expect(relativeError(await after.read(), await before.read())).toBeLessThan(1e-6);
    expect(model.namedParameters().map(([name]) => name)).toEqual(["layers.0.weight", "layers.0.bias"]);
    for (const thing of [x, before, after, model]) thing.dispose();
  });

  it("is thawed, left alone by updateBatchNorm, and needs running statistics", async () => {
    const [cold, warm] = [new BatchNorm2d(gpu, 4, { frozen: true }), new BatchNorm2d(gpu, 4)];
    const model = new Sequential(cold, warm);
    for (const norm of [cold, warm]) setRunning(norm);
    const before = await running(cold);
    const batch = gpu.tensor(normals(80, 1), [20, 4]);
    await updateBatchNorm(model, [batch]);
    expect(await running(cold)).toEqual(before);
    expect((await running(warm))[2]).toEqual([1]);
    freezeBatchNorm(model, false);
    expect(cold.namedParameters().map(([name]) => name)).toEqual(["weight", "bias"]);
    forward(model, normals(80, 2), [20, 4]);
    expect((await running(cold))[2]).toEqual([5]);
    const without = new BatchNorm2d(gpu, 4, { trackRunningStats: false });
    expect(() => freezeBatchNorm(new Sequential(without))).toThrow("layers.0 has no running statistics");
    expect(() => new BatchNorm2d(gpu, 4, { trackRunningStats: false, frozen: true })).toThrow(
      "frozen is true",
    );
    for (const thing of [batch, model, without]) thing.dispose();
  });
});

describe("running statistics", () => {
  it("start anew", async () => {
    for (const norm of [new BatchNorm2d(gpu, 3), new InstanceNorm2d(gpu, 3, { trackRunningStats: true })]) {
      setRunning(norm);
      norm.resetRunningStats();
      expect(await running(norm)).toEqual([[0, 0, 0], [1, 1, 1], [0]]);
      norm.dispose();
    }
    const without = new BatchNorm2d(gpu, 3, { trackRunningStats: false });
    without.resetRunningStats();
    without.dispose();
  });

  const spoilt = (data: Float64Array, at: number, value: number) =>
    data.map((v, i) => (i === at ? value : v));

  it.each([
    ["alone", 70, 0.1, true],
    ["alone, plain average", 5, null, true],
    ["composed", 5, 0.1, false],
  ] as const)(
    "skip a batch with NaN or infinity as a whole if asked: %s",
    async (_, channels, momentum, fused) => {
      const shape = [4, 3, 3, channels];
      const size = 36 * channels;
      const [careful, plain] = [true, false].map(
        (skipNonFinite) => new BatchNorm2d(gpu, channels, { momentum, fused, skipNonFinite }),
      ) as [BatchNorm2d, BatchNorm2d];
      const good = [1, 2, 3].map((seed) => normals(size, seed, 1, 2));
      for (const [i, value] of [
        Number.NaN,
        Number.POSITIVE_INFINITY,
        Number.NEGATIVE_INFINITY,
        3e38,
      ].entries()) {
        const data = good[i % 3]!;
        forward(careful, data, shape);
        forward(plain, data, shape);
        const before = await running(careful);
        expect(before).toEqual(await running(plain));
        // In the last channel: all channels are left alone. Of 3e38 the square is too large.
        forward(careful, spoilt(data, size - 1, value), shape);
        expect(await running(careful)).toEqual(before);
      }
      const unguarded = spoilt(good[0]!, size - 1, Number.NaN);
      forward(plain, unguarded, shape);
      expect((await running(plain))[0]!.at(-1)).toBeNaN();
      for (const thing of [careful, plain]) thing.dispose();
    },
  );

  it("skip it, and move otherwise, in more channels than the largest grid has invocations", async () => {
    const channels = 1024 * 64 + 7;
    const [careful, plain] = [true, false].map(
      (skipNonFinite) => new BatchNorm1d(gpu, channels, { skipNonFinite }),
    ) as [BatchNorm1d, BatchNorm1d];
    const data = normals(2 * channels, 4, 1, 2);
    for (const norm of [careful, plain]) forward(norm, data, [2, channels]);
    const before = await running(careful);
    expect(before).toEqual(await running(plain));
    forward(careful, spoilt(data, 2 * channels - 1, Number.NaN), [2, channels]);
    expect(await running(careful)).toEqual(before);
    for (const norm of [careful, plain]) norm.dispose();
  });

  it("skip it in a captured step behind a convolution, and in a checkpoint, where they move once", async () => {
    const model = new Sequential(
      new Conv2d(gpu, 3, 8, 3, { padding: 1, random: new Random(1) }),
      new BatchNorm2d(gpu, 8, { skipNonFinite: true }),
      new ReLU(),
    );
    const norm = model.layers[1] as BatchNorm2d;
    const good = normals(2 * 6 * 6 * 3, 1);
    const x = gpu.tensor(good, [2, 6, 6, 3], { requiresGrad: true });
    const up = gpu.tensor(normals(2 * 6 * 6 * 8, 2), [2, 6, 6, 8]);
    const before = gpu.stats.liveBuffers;
    const plan = gpu.capture(() => gpu.scope(() => checkpoint((t) => model.forward(t), x).backward(up)));
    const once = await running(norm);
    expect(once[2]).toEqual([1]);
    x.write(spoilt(good, 7, Number.NaN));
    plan.run();
    expect(await running(norm)).toEqual(once);
    x.write(good);
    plan.run();
    const twice = await running(norm);
    expect(twice[2]).toEqual([2]);
    const [first, second] = [once[0]!, twice[0]!];
    expect(
      relativeError(
        second,
        first.map((m) => 1.9 * m),
      ),
    ).toBeLessThan(1e-5);
    plan.dispose();
    model.zeroGrad();
    x.zeroGrad();
    expect(gpu.stats.liveBuffers).toBe(before);
    for (const thing of [x, up, model]) thing.dispose();
  });
});

describe("InstanceNorm2d with running statistics", () => {
  it("moves those of more channels than one step of the grid has invocations", async () => {
    const channels = 1024 * 64 + 3;
    const norm = new InstanceNorm2d(gpu, channels, { trackRunningStats: true });
    const data = normals(2 * channels, 5, 1, 2);
    const x = gpu.tensor(data, [1, 2, 1, channels]);
    const y = noGrad(() => norm.forward(x));
    const { mean, variance } = channelStatistics({ count: 2, channels }, data);
    const [movedMean, movedVar] = await running(norm);
    expect(
      relativeError(
        movedMean!,
        mean.map((v) => 0.1 * v),
      ),
    ).toBeLessThan(1e-6);
    expect(
      relativeError(
        movedVar!,
        variance.map((v) => 0.9 + 0.2 * v),
      ),
    ).toBeLessThan(1e-6);
    for (const tensor of [x, y]) tensor.dispose();
    norm.dispose();
  });

  it("moves them by the averages of each image's own, and normalises by them in inference", async () => {
    const [n, channels, pixels, momentum, eps] = [3, 5, 12, 0.3, 0.01];
    const norm = new InstanceNorm2d(gpu, channels, { trackRunningStats: true, affine: true, momentum, eps });
    const plain = new InstanceNorm2d(gpu, channels, { affine: true, eps });
    const w = await trainedValues(norm);
    for (const name of ["weight", "bias"] as const) plain[name]!.write(await norm[name]!.read());
    expect(Object.keys(await norm.stateDict())).toEqual([
      ...["weight", "bias"],
      ...["runningMean", "runningVar", "numBatchesTracked"],
    ]);
    let mean = new Float64Array(channels);
    let variance = new Float64Array(channels).fill(1);
    const live = gpu.stats.liveBuffers;
    for (const seed of [1, 2]) {
      const data = normals(n * pixels * channels, seed, 2, 3);
      const x = gpu.tensor(data, [n, 4, 3, channels]);
      const [y, expected] = noGrad(() => [norm.forward(x), plain.forward(x)]);
      expect(await y!.read()).toEqual(await expected!.read());
      const images = Array.from({ length: n }, (_, i) =>
        channelStatistics(
          { count: pixels, channels },
          data.slice(i * pixels * channels, (i + 1) * pixels * channels),
        ),
      );
      const average = (of: (image: (typeof images)[number], c: number) => number) =>
        Float64Array.from({ length: channels }, (_, c) => images.reduce((sum, s) => sum + of(s, c), 0) / n);
      const moved = (from: Float64Array, to: Float64Array) => from.map((v, c) => v + momentum * (to[c]! - v));
      mean = moved(
        mean,
        average((s, c) => s.mean[c]!),
      );
      variance = moved(
        variance,
        average((s, c) => (s.variance[c]! * pixels) / (pixels - 1)),
      );
      for (const tensor of [x, y!, expected!]) tensor.dispose();
    }
    const [movedMean, movedVar, count] = await running(norm);
    expect(relativeError(movedMean!, mean)).toBeLessThan(1e-6);
    expect(relativeError(movedVar!, variance)).toBeLessThan(1e-6);
    expect(count).toEqual([0]);
    const data = normals(2 * pixels * channels, 5);
    const x = gpu.tensor(data, [2, 4, 3, channels]);
    const y = noGrad(() => norm.eval().forward(x));
    const at = (name: string, i: number) => w[name]!.data[i % channels]!;
    const expected = data.map((v, i) => {
      const c = i % channels;
      return ((v - mean[c]!) / Math.sqrt(variance[c]! + eps)) * at("weight", i) + at("bias", i);
    });
    expect(relativeError(await y.read(), expected)).toBeLessThan(1e-6);
    for (const tensor of [x, y]) tensor.dispose();
    expect(gpu.stats.liveBuffers).toBe(live);
    for (const layer of [norm, plain]) layer.dispose();
  });

  it("moves them once in a checkpoint", async () => {
    const norm = new InstanceNorm2d(gpu, 3, { trackRunningStats: true });
    const x = gpu.tensor(normals(2 * 4 * 3, 1), [2, 2, 2, 3], { requiresGrad: true });
    const y = checkpoint((t) => norm.forward(t), x);
    const before = await running(norm);
    gpu.scope(() => y.backward(gpu.tensor(normals(24, 2), [2, 2, 2, 3])));
    expect(await running(norm)).toEqual(before);
    expect(before[0]).not.toEqual([0, 0, 0]);
    for (const thing of [x, y, norm]) thing.dispose();
    expect(() => new InstanceNorm2d(gpu, 3, { momentum: 2 })).toThrow(
      "momentum is 2; expected a number from 0 to 1",
    );
  });
});
