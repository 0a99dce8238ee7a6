// Transforms on the GPU against float64 formulas on the host, what is drawn for them, and a Trainer that has some.

import { describe, expect, it } from "vitest";
import type { BatchDraw, Transform } from "../../src/data/transforms.ts";
import {
  channelMoments,
  imageDataset,
  Random,
  resnetCifar,
  SGD,
  ShapeError,
  Trainer,
  transforms,
  UsageError,
} from "../../src/index.ts";
import { testGpu } from "../helpers/gpu.ts";
import { generator, relativeError } from "../helpers/numbers.ts";

type Shape4 = [number, number, number, number];
type Pixel = (n: number, i: number, j: number, c: number) => number;

const pixels = (shape: readonly number[], seed = 3) => {
  const next = generator(seed);
  return Float32Array.from({ length: shape.reduce((a, b) => a * b) }, next);
};
const indicesOf = (rows: number) => Array.from({ length: rows }, (_, row) => 7 * row + 2);

/** The numbers of a transform's images in a batch, from outside. */
function drawn(transform: Transform, shape: Shape4, seed: number, epoch: number, indices: readonly number[]) {
  const numbers = new Float32Array(shape[0] * transform.numbers!);
  let seen: BatchDraw | null = null;
  const spy: Transform = {
    name: "spy",
    numbers: transform.numbers!,
    draw: (own, batch) => {
      seen = batch;
      transform.draw!(own, batch);
      numbers.set(own);
    },
    run: () => {},
  };
  return async () => {
    const gpu = await testGpu();
    const [images, labels] = [gpu.zeros(shape), gpu.zeros([shape[0]], { dtype: "uint32" })];
    const compose = new transforms.Compose(gpu, [spy], { images, labels, seed });
    compose.draw(epoch, indices);
    expect(seen).not.toBeNull();
    for (const one of [compose, images, labels]) one.dispose();
    return numbers;
  };
}

/** What the transforms make of a batch. */
async function transformed(list: readonly Transform[], x: Float32Array, shape: Shape4, seed = 5, epoch = 2) {
  const gpu = await testGpu();
  const before = gpu.stats.liveBuffers;
  const images = gpu.tensor(x, shape);
  const labels = gpu.tensor(
    indicesOf(shape[0]).map((i) => i % 4),
    [shape[0]],
    { dtype: "uint32" },
  );
  const compose = new transforms.Compose(gpu, list, { images, labels, seed });
  compose.draw(epoch, indicesOf(shape[0]));
  compose.run();
  const result = {
    shape: compose.images.shape as unknown as Shape4,
    values: (await compose.images.read()) as Float32Array,
    targets: await compose.targets.read(),
  };
  for (const one of [compose, images, labels]) one.dispose();
  expect(gpu.stats.liveBuffers).toBe(before);
  return result;
}

function at(x: ArrayLike<number>, [, H, W, C]: Shape4): Pixel {
  return (n, i, j, c) => (i >= 0 && i < H && j >= 0 && j < W ? x[((n * H + i) * W + j) * C + c]! : 0);
}

function made([N, H, W, C]: Shape4, pixel: Pixel): Float64Array {
  const out = new Float64Array(N * H * W * C);
  let k = 0;
  for (let n = 0; n < N; n += 1)
    for (let i = 0; i < H; i += 1)
      for (let j = 0; j < W; j += 1) for (let c = 0; c < C; c += 1) out[k++] = pixel(n, i, j, c);
  return out;
}

const SHAPES: Shape4[] = [
  [5, 9, 7, 3],
  [3, 8, 12, 1],
  [67, 5, 6, 3],
  [73, 9, 8, 3], // more pixels than a software adapter has invocations, also of one that is cropped
];

describe.each(SHAPES)("transforms of [%i, %i, %i, %i]", (...shape) => {
  const [N, H, W, C] = shape;
  const x = pixels(shape);
  const pixel = at(x, shape);
  const numbersOf = (transform: Transform) => drawn(transform, shape, 5, 2, indicesOf(N))();

  it("randomCrop and randomHorizontalFlip move pixels, exactly", async () => {
    for (const options of [{ padding: 2 }, { height: H - 2, width: W - 1 }, { padding: 1, height: H + 2 }]) {
      const crop = transforms.randomCrop(options);
      const { values, shape: out } = await transformed([crop], x, shape);
      const size = { height: H, width: W, ...options };
      expect(out).toEqual([N, size.height, size.width, C]);
      const numbers = await numbersOf(crop);
      const expected = made(out, (n, i, j, c) => pixel(n, i + numbers[3 * n]!, j + numbers[3 * n + 1]!, c));
      expect([...values]).toEqual([...expected]);
    }
    const flip = transforms.randomHorizontalFlip();
    const { values } = await transformed([flip], x, shape);
    const numbers = await numbersOf(flip);
    expect(new Set(Array.from({ length: N }, (_, n) => numbers[3 * n + 2]))).toEqual(new Set([0, 1]));
    const expected = made(shape, (n, i, j, c) => pixel(n, i, numbers[3 * n + 2] ? W - 1 - j : j, c));
    expect([...values]).toEqual([...expected]);
    const never = await transformed([transforms.randomHorizontalFlip({ p: 0 })], x, shape);
    expect([...never.values]).toEqual([...x]);
  });

  it("resize is bilinear, and a mean over what it covers where it makes smaller", async () => {
    const sizes = [
      [H, W],
      [2 * H + 1, W + 3],
      [Math.ceil(H / 3), Math.ceil(W / 2)],
      [H + 4, 2],
      [1, 1],
    ] as const;
    for (const [height, width] of sizes) {
      const { values, shape: out } = await transformed([transforms.resize({ height, width })], x, shape);
      expect(out).toEqual([N, height, width, C]);
      const weights = (to: number, length: number, outLength: number) => {
        const ratio = length / outLength;
        const list = Array.from({ length }, (_, from) => {
          const distance = Math.abs(from + 0.5 - (to + 0.5) * ratio);
          return Math.max(0, 1 - distance / Math.max(ratio, 1));
        });
        const total = list.reduce((a, b) => a + b);
        return list.map((weight) => weight / total);
      };
      const down = Array.from({ length: height }, (_, i) => weights(i, H, height));
      const across = Array.from({ length: width }, (_, j) => weights(j, W, width));
      const expected = made(out, (n, i, j, c) => {
        let value = 0;
        down[i]!.forEach((a, h) => {
          if (a > 0)
            across[j]!.forEach((b, w) => {
              value += b > 0 ? a * b * pixel(n, h, w, c) : 0;
            });
        });
        return value;
      });
      expect(relativeError(values, expected)).toBeLessThan(1e-6);
    }
  });

  it("colorJitter changes brightness, contrast and saturation, in this order, within 0 … 1", async () => {
    for (const options of [
      { brightness: 0.8 },
      { contrast: 0.7 },
      { saturation: 1.5 },
      { brightness: 0.5, contrast: 0.4, saturation: 0.9 },
    ]) {
      const jitter = transforms.colorJitter(options);
      const { values } = await transformed([jitter], x, shape);
      const numbers = await numbersOf(jitter);
      const cut = (value: number) => Math.min(1, Math.max(0, value));
      const grey = (of: (c: number) => number) =>
        C === 1 ? of(0) : 0.299 * of(0) + 0.587 * of(1) + 0.114 * of(2);
      const bright: Pixel = (n, i, j, c) => cut(numbers[3 * n]! * pixel(n, i, j, c));
      const means = Array.from({ length: N }, (_, n) => {
        let total = 0;
        for (let i = 0; i < H; i += 1)
          for (let j = 0; j < W; j += 1) total += grey((c) => bright(n, i, j, c));
        return total / (H * W);
      });
      const contrasted: Pixel = (n, i, j, c) => {
        const k = numbers[3 * n + 1]!;
        return cut(k * bright(n, i, j, c) + (1 - k) * means[n]!);
      };
      const expected = made(shape, (n, i, j, c) => {
        const s = numbers[3 * n + 2]!;
        return cut(s * contrasted(n, i, j, c) + (1 - s) * grey((d) => contrasted(n, i, j, d)));
      });
      expect(relativeError(values, expected)).toBeLessThan(2e-6);
      expect(relativeError(values, x)).toBeGreaterThan(
        C === 1 && !("brightness" in options) && !("contrast" in options) ? -1 : 0.02,
      );
    }
  });

  it("randomErasing fills one rectangle, normalize scales each channel", async () => {
    const erasing = transforms.randomErasing({ p: 0.7, value: 0.25, scale: [0.1, 0.6] });
    const { values } = await transformed([erasing], x, shape);
    const numbers = await numbersOf(erasing);
    const expected = made(shape, (n, i, j, c) => {
      const [top, left, height, width] = numbers.subarray(4 * n) as unknown as [
        number,
        number,
        number,
        number,
      ];
      return i >= top && i < top + height && j >= left && j < left + width ? 0.25 : pixel(n, i, j, c);
    });
    expect([...values]).toEqual([...expected]);
    const moments = { mean: [0.4, 0.1, 0.7].slice(0, C), std: [0.3, 1.7, 0.05].slice(0, C) };
    const normal = await transformed([transforms.normalize(moments)], x, shape);
    const scaled = made(shape, (n, i, j, c) => (pixel(n, i, j, c) - moments.mean[c]!) / moments.std[c]!);
    expect(relativeError(normal.values, scaled)).toBeLessThan(1e-6);
  });

  it("mixup mixes images and labels with a partner in the batch", async () => {
    const classes = 57; // of 73 images more than a software adapter has invocations
    const mix = transforms.mixup({ classes, alpha: 0.8 });
    const { values, targets } = await transformed([mix], x, shape);
    const numbers = await numbersOf(mix);
    const share = numbers[0]!;
    expect(share > 0 && share < 1).toBe(true);
    const partners = Array.from({ length: N }, (_, n) => numbers[2 * n + 1]!);
    expect([...partners].sort((a, b) => a - b)).toEqual(partners.map((_, n) => n));
    const expected = made(
      shape,
      (n, i, j, c) => share * pixel(n, i, j, c) + (1 - share) * pixel(partners[n]!, i, j, c),
    );
    expect(relativeError(values, expected)).toBeLessThan(1e-6);
    const label = (n: number) => indicesOf(N)[n]! % 4;
    const soft = Array.from({ length: classes * N }, (_, at) => {
      const [n, k] = [Math.floor(at / classes), at % classes];
      return (label(n) === k ? share : 0) + (label(partners[n]!) === k ? 1 - share : 0);
    });
    expect(relativeError(targets, soft)).toBeLessThan(1e-6);
  });

  it("come one after the other as they do alone", async () => {
    const list = [
      transforms.randomCrop({ padding: 2 }),
      transforms.colorJitter({ brightness: 0.3, contrast: 0.2 }),
      transforms.resize({ height: 6, width: 11 }),
      transforms.normalize({ mean: [0.5, 0.4, 0.3].slice(0, C), std: [0.2, 0.3, 0.4].slice(0, C) }),
    ];
    const whole = await transformed(list, x, shape);
    // Each alone stands at the first place; what is drawn hangs on the place, too.
    const still: Transform = { name: "still", run: () => {} };
    let now: { values: Float32Array; shape: Shape4 } = { values: x, shape };
    for (const [i, one] of list.entries()) {
      now = await transformed([...Array<Transform>(i).fill(still), one], now.values, now.shape);
    }
    expect(whole.shape).toEqual([N, 6, 11, C]);
    expect([...whole.values]).toEqual([...now.values]);
  });
});

describe("what is drawn", () => {
  const MANY: Shape4 = [4000, 12, 10, 3];
  const all = Array.from({ length: 4000 }, (_, i) => i);
  const column = (numbers: Float32Array, width: number, at: number) =>
    Array.from({ length: numbers.length / width }, (_, row) => numbers[row * width + at]!);

  it("is of an image, an epoch and a seed, whatever batch the image is in", async () => {
    for (const [transform, width] of [
      [transforms.randomCrop({ padding: 4 }), 3],
      [transforms.colorJitter({ brightness: 0.5 }), 3],
      [transforms.randomErasing(), 4],
    ] as const) {
      const whole = await drawn(transform, [40, 12, 10, 3], 1, 3, all.slice(0, 40))();
      const part = await drawn(transform, [2, 12, 10, 3], 1, 3, [31, 7])();
      const row = (i: number) => [...whole.subarray(i * width, (i + 1) * width)];
      expect([...part]).toEqual([...row(31), ...row(7)]);
      for (const [seed, epoch] of [
        [2, 3],
        [1, 4],
      ] as const) {
        expect([...(await drawn(transform, [40, 12, 10, 3], seed, epoch, all.slice(0, 40))())]).not.toEqual([
          ...whole,
        ]);
      }
    }
  });

  it("has the ranges and frequencies that were asked for", async () => {
    const crop = await drawn(transforms.randomCrop({ padding: 2 }), MANY, 1, 0, all)();
    for (const axis of [0, 1]) {
      const values = column(crop, 3, axis);
      for (let place = -2; place <= 2; place += 1) {
        const share = values.filter((value) => value === place).length / 4000;
        expect(Math.abs(share - 0.2)).toBeLessThan(0.03); // five standard deviations
      }
    }
    const flips = column(await drawn(transforms.randomHorizontalFlip({ p: 0.3 }), MANY, 1, 0, all)(), 3, 2);
    expect(Math.abs(flips.reduce((a, b) => a + b) / 4000 - 0.3)).toBeLessThan(0.04);
    const jitter = await drawn(transforms.colorJitter({ brightness: 0.4, saturation: 2 }), MANY, 1, 0, all)();
    const [bright, contrast, saturation] = [0, 1, 2].map((at) => column(jitter, 3, at));
    expect(Math.min(...bright!)).toBeGreaterThanOrEqual(Math.fround(0.6));
    expect(Math.max(...bright!)).toBeLessThanOrEqual(Math.fround(1.4));
    expect(Math.abs(bright!.reduce((a, b) => a + b) / 4000 - 1)).toBeLessThan(0.02);
    expect(new Set(contrast)).toEqual(new Set([1]));
    expect(Math.min(...saturation!)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...saturation!)).toBeGreaterThan(2.9);
    const erased = await drawn(transforms.randomErasing({ p: 0.6 }), MANY, 1, 0, all)();
    let some = 0;
    for (let row = 0; row < 4000; row += 1) {
      const [top, left, height, width] = erased.subarray(4 * row) as unknown as [
        number,
        number,
        number,
        number,
      ];
      expect(top >= 0 && left >= 0 && top + height <= 12 && left + width <= 10).toBe(true);
      if (height * width === 0) continue;
      some += 1;
      // Sides are rounded: half a pixel each.
      expect((height - 0.5) * (width - 0.5)).toBeLessThanOrEqual(0.33 * 120);
      expect((height + 0.5) * (width + 0.5)).toBeGreaterThanOrEqual(0.02 * 120);
    }
    expect(Math.abs(some / 4000 - 0.6)).toBeLessThan(0.05);
  });

  it.each([0.2, 0.4, 1, 3])(
    "mixes by Beta(alpha, alpha), alpha %d, by its mean and variance",
    async (alpha) => {
      const mix = transforms.mixup({ classes: 3, alpha });
      const shares: number[] = [];
      for (let i = 0; i < 1500; i += 1) {
        const numbers = new Float32Array(2);
        const random = new Random(i).fork("test");
        mix.draw!(numbers, {
          shape: [1, 4, 4, 1],
          image: () => () => 0,
          batch: () => () => random.uint32() / 2 ** 32,
        });
        shares.push(numbers[0]!);
      }
      const mean = shares.reduce((a, b) => a + b) / shares.length;
      const variance = shares.reduce((a, b) => a + (b - mean) ** 2, 0) / shares.length;
      const exact = 1 / (4 * (2 * alpha + 1));
      expect(shares.every((share) => share >= 0 && share <= 1)).toBe(true);
      expect(Math.abs(mean - 0.5)).toBeLessThan(5 * Math.sqrt(exact / 1500));
      expect(Math.abs(variance / exact - 1)).toBeLessThan(0.12);
    },
  );
});

describe("a Trainer with transforms", () => {
  const random = new Random(9);
  const set = imageDataset({
    ...{ name: "noise", images: Uint8Array.from({ length: 30 * 192 }, () => random.uint32() & 255) },
    labels: Uint8Array.from({ length: 30 }, (_, i) => i % 3),
    ...{ height: 8, width: 8, channels: 3, classNames: [..."abc"] },
  });

  it("trains on what Compose makes, replayed as dispatched anew, and judges by the labels themselves", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const losses: number[][] = [];
    for (const capture of [true, false]) {
      const model = resnetCifar(gpu, { depth: 8, width: 4, classes: 3, seed: 1 });
      const optimizer = new SGD(model.parameters(), { lr: 0.05 });
      const trainer = new Trainer({
        ...{
          model,
          optimizer,
          data: { train: set, test: set },
          batchSize: 12,
          epochs: 2,
          logEvery: 1,
          seed: 4,
          capture,
        },
        augment: { pad: 1, flip: true },
        transforms: [
          transforms.colorJitter({ brightness: 0.3, saturation: 0.3 }),
          transforms.normalize(channelMoments(set)),
          transforms.randomErasing(),
          transforms.mixup({ classes: 3 }),
        ],
      });
      const { log } = await trainer.run({ evaluate: false });
      losses.push(log.flatMap(({ loss, accuracy }) => [loss, accuracy]));
      expect(log).toHaveLength(6);
      for (const { accuracy } of log) expect(accuracy >= 0 && accuracy <= 1).toBe(true);
      for (const one of [trainer, optimizer, model]) one.dispose();
    }
    expect(losses[0]).toEqual(losses[1]);
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("normalises last unless told where, to what it does without transforms", async () => {
    const gpu = await testGpu();
    const still: Transform = { name: "still", run: () => {} };
    const losses: number[] = [];
    for (const list of [[], [still], [transforms.normalize(channelMoments(set)), still]]) {
      const model = resnetCifar(gpu, { depth: 8, width: 4, classes: 3, seed: 1 });
      const optimizer = new SGD(model.parameters(), { lr: 0.05 });
      const trainer = new Trainer({
        model,
        optimizer,
        data: { train: set },
        batchSize: 10,
        transforms: list,
      });
      losses.push((await trainer.run()).log.at(-1)!.loss);
      for (const one of [trainer, optimizer, model]) one.dispose();
    }
    for (const loss of losses) expect(Math.abs(loss / losses[0]! - 1)).toBeLessThan(1e-4);
  });

  it("refuses what can't be, by name", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const model = resnetCifar(gpu, { depth: 8, width: 4, classes: 3 });
    const optimizer = new SGD(model.parameters(), { lr: 0.1 });
    const data = { train: set, test: set };
    const make = (list: readonly unknown[]) => () =>
      new Trainer({ model, optimizer, data, transforms: list as Transform[] });
    expect(make([{ run: 1 }])).toThrow(/transforms\[0\] is \{.*; expected \{ name, run \}/);
    expect(make([transforms.resize({ height: 4, width: 8 })])).toThrow(
      /make images of 4×8×3 of those of 8×8×3/,
    );
    expect(make([transforms.mixup({ classes: 3 }), transforms.mixup({ classes: 3 })])).toThrow(
      /mixup and mixup mix labels/,
    );
    expect(make([transforms.randomCrop({ height: 20 })])).toThrow(
      /a crop of 20×8 is larger than images of 8×8/,
    );
    const loader = { batchSize: 2, batchesPerEpoch: 1, epoch: () => [] };
    expect(
      () =>
        new Trainer({ model, optimizer, data: { train: loader }, transforms: [transforms.randomErasing()] }),
    ).toThrow(/data.train is a loader; expected a data set in memory/);
    for (const one of [optimizer, model]) one.dispose();
    const wrong: [() => unknown, RegExp][] = [
      [() => transforms.randomCrop({ padding: -1 }), /randomCrop: padding is -1/],
      [() => transforms.randomCrop({ pading: 1 } as never), /did you mean "padding"/],
      [() => transforms.randomHorizontalFlip({ p: 2 }), /p is 2; expected a number from 0 to 1/],
      [() => transforms.resize({ height: 0, width: 1 }), /height is 0/],
      [() => transforms.colorJitter({ contrast: -0.5 }), /contrast is -0.5/],
      [
        () => transforms.randomErasing({ scale: [0.4, 0.2] }),
        /scale is \[0.4, 0.2\]; expected \[least, most\]/,
      ],
      [() => transforms.randomErasing({ ratio: [0, 1] }), /ratio is \[0, 1\]/],
      [() => transforms.normalize({ mean: [0], std: [0] }), /those of std above 0/],
      [() => transforms.normalize({ mean: [0, 1], std: [1] }), /as many finite numbers/],
      [() => transforms.mixup({ classes: 0 }), /classes is 0/],
      [() => transforms.mixup({ classes: 2, alpha: 0 }), /alpha is 0; expected a number above 0/],
    ];
    for (const [call, message] of wrong) {
      expect(call).toThrow(message);
      expect(call).toSatisfy((fn: () => unknown) => {
        try {
          fn();
          return false;
        } catch (error) {
          return error instanceof ShapeError || error instanceof UsageError;
        }
      });
    }
    const [images, labels] = [gpu.zeros([2, 4, 4, 2]), gpu.zeros([2], { dtype: "uint32" })];
    const two = new transforms.Compose(gpu, [transforms.colorJitter({ contrast: 1 })], { images, labels });
    expect(() => two.run()).toThrow(/colorJitter: images are \[2, 4, 4, 2\]; expected 1 or 3 channels/);
    expect(() => two.draw(0, [1])).toThrow(/indices are \[1\]; expected 2 image numbers/);
    expect(() => new transforms.Compose(gpu, [], { images, labels: images as never })).toThrow(/labels/);
    for (const one of [two, images, labels]) one.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });
});
