import { expect, it, describe as suite } from "vitest";
import { noGrad } from "../../src/autograd/tape.ts";
import {
  BatchNorm2d,
  Conv2d,
  Flatten,
  GlobalAvgPool2d,
  Linear,
  ReLU,
  Sequential,
} from "../../src/nn/layers.ts";
import { mul } from "../../src/ops/elementwise/elementwise.ts";
import { sum } from "../../src/ops/reduce/reduce.ts";
import { Random } from "../../src/tensor/random.ts";
import {
  activations,
  alignment,
  alignmentSums,
  crossEntropy,
  GradientLine,
  gradientNoise,
  gradients,
  landscape,
  logitGradients,
  tap,
} from "../../src/train/probes.ts";
import {
  argmaxCounts,
  describe,
  histogram,
  median,
  orderStatistic,
  rowCosines,
  runProbe,
  squaredDistance,
} from "../../src/train/statistics.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";

const gpu = await testGpu();

const mean = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0) / values.length;

/** A small network of every kind of layer that is probed; weights from a fixed seed. */
function network(channels = 3, classes = 4): Sequential {
  const random = new Random(5);
  return new Sequential(
    new Conv2d(gpu, channels, 6, 3, { padding: 1, bias: false, random }),
    new BatchNorm2d(gpu, 6),
    new ReLU(),
    new Conv2d(gpu, 6, 5, 3, { stride: 2, padding: 1, random }),
    new GlobalAvgPool2d(),
    new Flatten(),
    new Linear(gpu, 5, classes, { random }),
  );
}

function batch(size: number, seed = 1, channels = 3, classes = 4) {
  const images = gpu.tensor(normals(size * 7 * 6 * channels, seed), [size, 7, 6, channels]);
  const labels = gpu.tensor(
    Uint32Array.from({ length: size }, (_, i) => (i * 7 + seed) % classes),
    [size],
    {
      dtype: "uint32",
    },
  );
  const dispose = () => {
    images.dispose();
    labels.dispose();
  };
  return { images, labels, dispose };
}

suite("statistics of a tensor", () => {
  // A ragged size, above what a software adapter has invocations, with duplicates, both zeros and large values.
  const values = Float64Array.from([...normals(9037, 3, 0.3, 2), 0, -0, 5, 5, 5, -40, 37.5], Math.fround);

  it("finds order statistics and medians exactly", async () => {
    const x = gpu.tensor(values, [values.length]);
    const sorted = [...values].sort((a, b) => a - b);
    for (const rank of [0, 1, 4517, values.length - 2, values.length - 1]) {
      expect(await orderStatistic(x, rank)).toBe(sorted[rank]! + 0);
    }
    expect(await median(x)).toBe((sorted[4521]! + sorted[4522]!) / 2);
    await expect(orderStatistic(x, values.length)).rejects.toThrow(
      /orderStatistic: rank is 9044; expected .* 9043/,
    );
    x.dispose();
  });

  it("counts histograms with what lies outside", async () => {
    const data = Float32Array.from([...values, Number.NaN, Number.POSITIVE_INFINITY]);
    const x = gpu.tensor(data, [data.length]);
    const { counts, below, above, notFinite } = await histogram(x, { low: -2, high: 3, bins: 20 });
    const expected = new Array<number>(20).fill(0);
    for (const value of values) {
      // In float32, as the shader has it.
      const bin = Math.floor(Math.fround(Math.fround(Math.fround(value + 2) / 5) * 20));
      if (value >= -2 && value < 3) expected[bin]! += 1;
    }
    expect(counts).toEqual(expected);
    expect(below).toBe(values.filter((value) => value < -2).length);
    expect(above).toBe(values.filter((value) => value >= 3).length);
    expect(notFinite).toBe(2);
    await expect(histogram(x, { low: 1, high: 1, bins: 3 })).rejects.toThrow(/histogram: 3 bins from 1 to 1/);
    x.dispose();
  });

  it("counts what lies on a bound from below into the bins, and every pattern of NaN as not finite", async () => {
    const nan = [0x7f800001, 0xff800001, 0x7fc00001, 0xffffffff];
    const data = Float32Array.from([-2, -2, 3, 2.5, 0, 0, 0, 0]);
    new Uint32Array(data.buffer).set(nan, 4);
    const x = gpu.tensor(data, [data.length]);
    const { counts, below, above, notFinite } = await histogram(x, { low: -2, high: 3, bins: 5 });
    expect({ counts, below, above, notFinite }).toEqual({
      ...{ counts: [2, 0, 0, 0, 1], below: 0, above: 1, notFinite: 4 },
    });
    x.dispose();
  });

  it.each([1, 1e-20, 1e15])("describes moments and tails, scaled by %g", async (scale) => {
    const before = gpu.stats.liveBuffers;
    const scaled = values.map((value) => Math.fround(value * scale));
    const x = gpu.tensor(scaled, [2, values.length / 2]);
    const result = await describe(x);
    const average = mean(scaled);
    const moment = (power: number) => mean(scaled.map((value) => (value - average) ** power));
    const sorted = [...scaled].sort((a, b) => a - b);
    const middle = (sorted[4521]! + sorted[4522]!) / 2;
    const deviations = scaled.map((value) => Math.abs(value - middle)).sort();
    const mad = (deviations[4521]! + deviations[4522]!) / 2;
    expect(result).toMatchObject({ count: values.length, notFinite: 0, min: sorted[0], max: sorted.at(-1) });
    expect(result.mean / scale).toBeCloseTo(average / scale, 5);
    expect(result.variance / moment(2)).toBeCloseTo(1, 5);
    expect(result.kurtosis / (moment(4) / moment(2) ** 2)).toBeCloseTo(1, 4);
    expect(result.mad / mad).toBeCloseTo(1, 5);
    expect(result.tailMass).toBeCloseTo(
      deviations.filter((value) => value >= 5 * mad).length / values.length,
      9,
    );
    x.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("says so where values are not finite", async () => {
    const x = gpu.tensor([1, Number.NaN, 2], [3]);
    expect(await describe(x)).toMatchObject({ count: 3, notFinite: 1, mean: Number.NaN });
    x.dispose();
  });

  it.each([5, 8, 65])("gives cosines of %i rows, whatever their size", async (count) => {
    const rows = [
      [1, 2, 3],
      [-2, -4, -6],
      [1e-25, 0, 0],
      [1e25, 1e25, 0],
      [0, 0, 0],
      [-3, 1, 0.5],
      [0, -7, 2],
      [4, 0, -1],
      ...Array.from({ length: 57 }, (_, i) => [...normals(3, i)]),
    ].slice(0, count);
    const x = gpu.tensor(rows.flat(), [count, 3]);
    const cosines = rowCosines(x);
    const cosine = (a: number[], b: number[]) => {
      const dot = (u: number[], v: number[]) => u.reduce((total, value, i) => total + value * v[i]!, 0);
      const norm = Math.sqrt(dot(a, a)) * Math.sqrt(dot(b, b));
      return norm === 0 ? 0 : dot(a, b) / norm;
    };
    const expected = rows.flatMap((a) => rows.map((b) => cosine(a, b)));
    (await cosines.read()).forEach((value, i) => {
      expect(value).toBeCloseTo(expected[i]!, 5);
    });
    cosines.dispose();
    x.dispose();
  });

  it("counts predictions and adds up squares", async () => {
    const x = gpu.tensor([0, 2, 1, 5, 5, 1, -3, -1, -2, 0, 0, 9], [4, 3]);
    expect(await argmaxCounts(x)).toEqual([1, 2, 1]);
    const many = normals(3 * 20_001, 9);
    const counts = [0, 0, 0];
    for (let i = 0; i < many.length; i += 3) {
      const row = [...many.subarray(i, i + 3)];
      counts[row.indexOf(Math.max(...row))]! += 1;
    }
    const rows = gpu.tensor(many, [20_001, 3]);
    expect(await argmaxCounts(rows)).toEqual(counts);
    rows.dispose();
    const y = gpu.tensor(normals(12, 8), [4, 3]);
    const [a, b] = [await x.read(), await y.read()];
    const expected = Array.from(a).reduce((total, value, i) => total + (value - b[i]!) ** 2, 0);
    expect(await squaredDistance(x, y)).toBeCloseTo(expected, 3);
    x.dispose();
    y.dispose();
  });
});

suite("probes of a network", () => {
  it("measures each layer's channels, before the fused tail, and leaves the network alone", async () => {
    const model = network();
    const { images, dispose } = batch(5);
    const [conv, norm] = model.layers as [Conv2d, BatchNorm2d];
    const before = gpu.stats.liveBuffers;
    const result = await activations(model, images);
    expect(result.map(({ name, kind }) => `${name} ${kind}`)).toEqual([
      "layers.0 Conv2d",
      "layers.1 BatchNorm2d",
      "layers.3 Conv2d",
      "layers.6 Linear",
    ]);
    expect(gpu.stats.liveBuffers).toBe(before);

    const raw = noGrad(() => conv.forward(images));
    const values = await raw.read();
    for (let c = 0; c < 6; c += 1) {
      const channel = Array.from(values).filter((_, i) => i % 6 === c);
      const average = mean(channel);
      expect(result[0]!.mean[c]).toBeCloseTo(average, 5);
      expect(result[0]!.variance[c]).toBeCloseTo(mean(channel.map((value) => (value - average) ** 2)), 4);
      expect(result[1]!.mean[c]).toBeCloseTo(0, 5);
      expect(result[1]!.variance[c]).toBeCloseTo(1, 3);
    }
    raw.dispose();
    // Running statistics are untouched, and forwards are the classes' again.
    expect(Array.from(await norm.runningMean!.read())).toEqual(new Array(6).fill(0));
    expect(Object.keys(conv)).not.toContain("forward");
    dispose();
    model.dispose();
  });

  it("hands out the gradient of an intermediate result", async () => {
    const x = gpu.tensor([1, 2, 3], [3], { requiresGrad: true });
    let seen: Promise<ArrayLike<number>> | null = null;
    const loss = gpu.scope(() => {
      const doubled = tap(mul(x, x), (grad) => {
        const kept = gpu.keep(grad.alias());
        seen = kept.read().then((values) => {
          kept.dispose();
          return values;
        });
      });
      return sum(mul(doubled, doubled));
    });
    loss.backward();
    // d(Σ y²)/dy = 2y with y = x²; d/dx = 4x³
    expect(Array.from(await seen!)).toEqual([2, 8, 18]);
    expect(Array.from(await x.grad!.read())).toEqual([4, 32, 108]);
    loss.dispose();
    x.dispose();
  });

  it("describes the gradients that backward gives", async () => {
    const model = network();
    const { images, labels, dispose } = batch(6);
    const loss = crossEntropy(model, images, labels);
    const [only] = await gradients(model, loss, {
      parameters: (name) => name === "layers.3.weight",
      bins: 11,
    });
    expect(model.parameters().every(({ grad }) => grad === null)).toBe(true);
    const value = gpu.scope(loss);
    value.backward();
    const expected = await (model.layers[3] as Conv2d).weight.grad!.read();
    expect(only!.name).toBe("layers.3.weight");
    expect(only!.count).toBe(expected.length);
    expect(only!.max).toBe(Math.max(...expected));
    expect(only!.histogram!.counts.reduce((a, b) => a + b, 0)).toBe(expected.length);
    value.dispose();
    dispose();
    model.dispose();
  });

  it("gives the gradient with respect to the logits", async () => {
    const model = network();
    const { images, labels, dispose } = batch(6);
    const before = gpu.stats.liveBuffers;
    const result = await logitGradients(model, images, labels);
    expect(gpu.stats.liveBuffers).toBe(before);
    model.layers[1]!.training = true;
    const logits = noGrad(() => gpu.scope(() => model.forward(images)));
    const [values, truth] = [await logits.read(), await labels.read()];
    const rows = Array.from({ length: 6 }, (_, i) => Array.from(values.subarray(4 * i, 4 * i + 4)));
    const expected = rows.map((row, i) => {
      const total = row.reduce((sumOf, value) => sumOf + Math.exp(value), 0);
      return row.map((value, c) => (Math.exp(value) / total - (truth[i] === c ? 1 : 0)) / 6);
    });
    expect(relativeError(result.gradients.flat(), expected.flat())).toBeLessThan(1e-5);
    const predicted = [0, 0, 0, 0];
    for (const row of rows) predicted[row.indexOf(Math.max(...row))]! += 1;
    expect(result.predicted).toEqual(predicted);
    expect(result.modalShare).toBe(Math.max(...predicted) / 6);
    const cosines = expected.flatMap((a, i) =>
      expected.flatMap((b, j) => {
        const dot = (u: number[], v: number[]) => u.reduce((sumOf, value, c) => sumOf + value * v[c]!, 0);
        return i === j ? [] : [dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))];
      }),
    );
    expect(result.meanCosine).toBeCloseTo(mean(cosines), 4);
    logits.dispose();
    dispose();
    model.dispose();
  });

  it.each([3, 100])("walks along the gradient and back, of a network of %i channels", async (channels) => {
    const model = network(channels);
    const { images, labels, dispose } = batch(8, 1, channels);
    const loss = crossEntropy(model, images, labels);
    const before = await model.stateDict();
    const buffers = gpu.stats.liveBuffers;
    const { loss: start, losses } = await landscape(model, loss, [0, 1e-3, 1e30]);
    expect(gpu.stats.liveBuffers).toBe(buffers);
    expect(losses[0]).toBe(start);
    const line = await GradientLine.open(model, loss);
    const squared = Array.from(await line.gradient.read()).reduce((total, value) => total + value ** 2, 0);
    line.close();
    // To first order L(w − α∇L) = L − α‖∇L‖².
    expect((start - losses[1]!) / (1e-3 * squared)).toBeCloseTo(1, 1);
    // Even from weights that overflowed.
    const after = await model.stateDict();
    for (const [name, { data }] of Object.entries(before)) expect(after[name]!.data).toEqual(data);
    dispose();
    model.dispose();
  });

  it("steps from a place in a vector, and stays there at 0 even where the direction is not finite", async () => {
    const [offset, count] = [7, 10_001];
    const [origin, direction] = [normals(offset + count, 1), normals(offset + count, 2)];
    direction[offset + 3] = Infinity;
    direction[offset + count - 1] = Number.NaN;
    const out = gpu.zeros([count]);
    const [from, along] = [origin, direction].map((data) => gpu.tensor(data, [offset + count]));
    for (const alpha of [0, 1, -0.25]) {
      const of_step = { count, offset, alpha };
      runProbe(gpu, "step", count, { out, x: from!, of_step, direction: along! });
      const values = await out.read();
      const wrong = values.findIndex((value, i) => {
        const start = origin[offset + i]!;
        const end = alpha === 0 ? start : start - alpha * direction[offset + i]!;
        return !(Math.abs(value - end) <= 1e-6 * Math.max(1, Math.abs(end)) || Object.is(value, end));
      });
      expect(wrong, `alpha ${alpha}`).toBe(-1);
    }
    for (const tensor of [out, from!, along!]) tensor.dispose();
  });

  it("estimates the noise of steps from pairs of batches", async () => {
    const model = network();
    const [a, b] = [batch(4, 1), batch(4, 2)];
    const [lossA, lossB] = [crossEntropy(model, a.images, a.labels), crossEntropy(model, b.images, b.labels)];
    const grads: ArrayLike<number>[] = [];
    for (const loss of [lossA, lossB]) {
      const line = await GradientLine.open(model, loss);
      grads.push(await line.gradient.read());
      line.close();
    }
    const expected =
      Array.from(grads[0]!).reduce((total, value, i) => total + (value - grads[1]![i]!) ** 2, 0) / 2;
    const buffers = gpu.stats.liveBuffers;
    const noise = await gradientNoise(model, [[lossA, lossB]], [0.5]);
    expect(gpu.stats.liveBuffers).toBe(buffers);
    expect(noise.gradient / expected).toBeCloseTo(1, 4);
    expect(noise.steps[0]!.noise / (0.25 * expected)).toBeCloseTo(1, 3);
    a.dispose();
    b.dispose();
    model.dispose();
  });
});

suite("alignment of a kernel gradient's summands", () => {
  it.each([
    { C: 3, K: 5, stride: 1, padding: 1, dilation: 1, groups: 1 },
    { C: 4, K: 6, stride: 2, padding: 1, dilation: 1, groups: 2 },
    { C: 2, K: 2, stride: 1, padding: 2, dilation: 2, groups: 1 },
    { C: 3, K: 3, stride: 2, padding: 0, dilation: 1, groups: 3 },
    { C: 20, K: 11, stride: 1, padding: 1, dilation: 1, groups: 1 },
  ])("matches float64 loops: %o", async ({ C, K, groups, ...options }) => {
    const [N, H, W] = [3, 7, 5];
    const { stride, padding, dilation } = options;
    const conv = new Conv2d(gpu, C, K, 3, { ...options, groups, bias: false });
    const [P, Q] = [H, W].map((size) => Math.floor((size + 2 * padding - 2 * dilation - 1) / stride) + 1) as [
      number,
      number,
    ];
    const [x, dy] = [normals(N * H * W * C, 4), normals(N * P * Q * K, 5)];
    const [xs, dys] = [gpu.tensor(x, [N, H, W, C]), gpu.tensor(dy, [N, P, Q, K])];
    const { magnitude, total, terms } = alignmentSums(conv, xs, dys);
    expect(terms).toBe(N * P * Q);

    const depth = C / groups;
    const expected = { magnitude: [] as number[], total: [] as number[] };
    for (let k = 0; k < K; k += 1)
      for (let r = 0; r < 3; r += 1)
        for (let s = 0; s < 3; s += 1)
          for (let i = 0; i < depth; i += 1) {
            let [size, value] = [0, 0];
            const c = Math.floor(k / (K / groups)) * depth + i;
            for (let n = 0; n < N; n += 1)
              for (let p = 0; p < P; p += 1)
                for (let q = 0; q < Q; q += 1) {
                  const [h, w] = [p * stride + r * dilation - padding, q * stride + s * dilation - padding];
                  if (h < 0 || h >= H || w < 0 || w >= W) continue;
                  const d = dy[((n * P + p) * Q + q) * K + k]! * x[((n * H + h) * W + w) * C + c]!;
                  size += Math.abs(d);
                  value += d;
                }
            expected.magnitude.push(size);
            expected.total.push(value);
          }
    expect(relativeError(await magnitude.read(), expected.magnitude)).toBeLessThan(1e-5);
    expect(relativeError(await total.read(), expected.total)).toBeLessThan(1e-5);
    for (const tensor of [magnitude, total, xs, dys]) tensor.dispose();
    conv.dispose();
  });

  it("refuses a gradient of another shape", () => {
    const conv = new Conv2d(gpu, 2, 2, 3);
    const x = gpu.tensor(normals(2 * 5 * 5, 1), [1, 5, 5, 2]);
    expect(() => alignmentSums(conv, x, x)).toThrow(
      /alignmentSums: dy is \[1, 5, 5, 2\], the convolution's output \[1, 3, 3, 2\]/,
    );
    x.dispose();
    conv.dispose();
  });

  it("in a network, |Σd| is the weight's gradient", async () => {
    const model = network();
    const { images, labels, dispose } = batch(6);
    const loss = crossEntropy(model, images, labels);
    const buffers = gpu.stats.liveBuffers;
    const result = await alignment(model, loss);
    expect(gpu.stats.liveBuffers).toBe(buffers);
    expect(result.map(({ name }) => name)).toEqual(["layers.0", "layers.3"]);
    const value = gpu.scope(loss);
    value.backward();
    for (const [i, layer] of [0, 3].entries()) {
      const grad = await (model.layers[layer] as Conv2d).weight.grad!.read();
      expect(result[i]!.total / mean(Array.from(grad, Math.abs))).toBeCloseTo(1, 3);
      expect(result[i]!.ratio).toBeGreaterThan(1);
    }
    value.dispose();
    dispose();
    model.dispose();
  });
});
