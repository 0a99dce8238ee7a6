import { describe, expect, it } from "vitest";
import { augmentation, augmentImage, pcg } from "../../src/data/augment.ts";
import { channelMoments, imageDataset } from "../../src/data/dataset.ts";
import { BatchSampler, DataLoader, type DataLoaderOptions, epochOrder } from "../../src/data/loader.ts";
import { ShapeError } from "../../src/errors.ts";
import { Random } from "../../src/tensor/random.ts";

function dataset(count: number, height = 5, width = 4, channels = 3) {
  const random = new Random(count);
  return imageDataset({
    name: "made up",
    images: Uint8Array.from({ length: count * height * width * channels }, () => random.int(256)),
    labels: Uint8Array.from({ length: count }, () => random.int(10)),
    height,
    width,
    channels,
    classNames: "0123456789".split(""),
  });
}

describe("augmentation", () => {
  it("hashes as PCG-RXS-M-XS does in 64-bit integers", () => {
    const mask = 0xffffffffn;
    const reference = (x: number) => {
      const state = (BigInt(x) * 747796405n + 2891336453n) & mask;
      const word = (((state >> ((state >> 28n) + 4n)) ^ state) * 277803737n) & mask;
      return Number((word >> 22n) ^ word);
    };
    const random = new Random(1);
    for (const x of [0, 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1]) expect(pcg(x)).toBe(reference(x));
    for (let i = 0; i < 2000; i++) {
      const x = random.uint32();
      expect(pcg(x)).toBe(reference(x));
    }
  });

  it("chooses all offsets and both flips equally often, and anew in each epoch", () => {
    const counts = new Map<string, number>();
    const n = 16_200;
    for (let index = 0; index < n; index++) {
      const { dy, dx, flip } = augmentation(7, 3, index, { pad: 4, flip: true });
      const key = `${dy} ${dx} ${flip}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    expect(counts.size).toBe(9 * 9 * 2);
    const chi2 = [...counts.values()].reduce((sum, count) => sum + (count - 100) ** 2 / 100, 0);
    expect(chi2).toBeLessThan(224); // 99.9 % quantile, 161 degrees of freedom
    const of = (seed: number, epoch: number) =>
      Array.from({ length: 50 }, (_, i) =>
        JSON.stringify(augmentation(seed, epoch, i, { pad: 4, flip: true })),
      ).join();
    expect(of(7, 3)).toBe(of(7, 3));
    expect(new Set([of(7, 3), of(7, 4), of(8, 3)]).size).toBe(3);
    expect(augmentation(7, 3, 5, { pad: 0, flip: false })).toEqual({ dy: 0, dx: 0, flip: false });
  });

  it("crops from the padded image, then mirrors: against an explicit padded copy", () => {
    const [height, width, channels, pad] = [5, 4, 2, 3];
    const image = dataset(1, height, width, channels).images;
    const at = (y: number, x: number, c: number) =>
      y < 0 || x < 0 || y >= height || x >= width ? 0 : image[(y * width + x) * channels + c]!;
    const padded: number[][][] = [];
    for (let y = 0; y < height + 2 * pad; y++) {
      padded.push([]);
      for (let x = 0; x < width + 2 * pad; x++) {
        padded[y]!.push(Array.from({ length: channels }, (_, c) => at(y - pad, x - pad, c)));
      }
    }
    for (let dy = 0; dy <= 2 * pad; dy++) {
      for (let dx = 0; dx <= 2 * pad; dx++) {
        for (const flip of [false, true]) {
          const rows = padded.slice(dy, dy + height).map((row) => row.slice(dx, dx + width));
          const expected = rows.map((row) => (flip ? row.toReversed() : row)).flat(2);
          expect([...augmentImage(image, [height, width, channels], pad, { dy, dx, flip })]).toEqual(
            expected,
          );
        }
      }
    }
  });
});

describe("BatchSampler", () => {
  it("has the order of seed 0 unless told otherwise", () => {
    const [plain, zero, one] = [undefined, 0, 1].map((seed) =>
      new BatchSampler({ count: 50, batchSize: 50, seed }).indices(2, 0).join(),
    );
    expect(plain).toBe(zero);
    expect(plain).not.toBe(one);
  });

  it("visits every image once per epoch, in a new order each epoch", () => {
    const sampler = new BatchSampler({ count: 103, batchSize: 10, seed: 5 });
    expect(sampler.batchesPerEpoch).toBe(11);
    const orders = [0, 1].map((epoch) =>
      Array.from({ length: 11 }, (_, b) => [...sampler.indices(epoch, b)]).flat(),
    );
    for (const order of orders) {
      expect(order.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 103 }, (_, i) => i));
    }
    expect(orders[0]).not.toEqual(orders[1]);
    expect(orders[1]).toEqual([...epochOrder(5, 1, 103)]);
    expect([...epochOrder(6, 1, 103)]).not.toEqual(orders[1]);
  });

  it("keeps the file's order without shuffling, and drops a last batch that is not full", () => {
    const sampler = new BatchSampler({ count: 7, batchSize: 3, seed: 0, shuffle: false, dropLast: true });
    expect(sampler.batchesPerEpoch).toBe(2);
    expect([...sampler.indices(4, 1)]).toEqual([3, 4, 5]);
  });

  it("rejects options and positions out of range", () => {
    const good = { count: 10, batchSize: 4, seed: 1 };
    for (const bad of [
      { batchSize: 0 },
      { batchSize: 1.5 },
      { batchSize: Number.NaN },
      { count: 0 },
      { seed: -1 },
      { seed: 2 ** 32 },
      { seed: Number.NaN },
    ]) {
      const [name, value] = Object.entries(bad)[0]!;
      expect(() => new BatchSampler({ ...good, ...bad })).toThrow(
        new RegExp(`BatchSampler: ${name} is ${value}; expected an integer from`),
      );
    }
    expect(() => new BatchSampler({ ...good, batchSize: 11, dropLast: true })).toThrow(
      /batchSize 11 with dropLast leaves no batch of 10 images; use a batchSize of at most 10/,
    );
    const sampler = new BatchSampler(good);
    expect(() => sampler.indices(0, 3)).toThrow(/batch index is 3; expected an integer from 0 to 2/);
    expect(() => sampler.indices(-1, 0)).toThrow(/epoch is -1/);
  });
});

describe("DataLoader", () => {
  const data = dataset(53);
  const options: DataLoaderOptions = {
    ...channelMoments(data),
    batchSize: 8,
    seed: 9,
    augment: { pad: 2, flip: true },
  };

  it("gives the same batches to a run that resumes in the middle of an epoch", () => {
    const whole = new DataLoader(data, options);
    const batches = [0, 1, 2].flatMap((epoch) => [...whole.epoch(epoch)]);
    expect(batches.length).toBe(3 * 7);
    const resumed = new DataLoader(data, options);
    expect([...resumed.epoch(1, 4), ...resumed.epoch(2)]).toEqual(batches.slice(7 + 4));
    expect(whole.batch(0, 2)).toEqual(batches[2]); // back again, after later epochs
  });

  it("normalises the augmented bytes of the right images", () => {
    const loader = new DataLoader(data, options);
    const batch = loader.batch(2, 6);
    expect(batch.shape).toEqual([5, 5, 4, 3]);
    expect(batch.images.length).toBe(5 * 60);
    batch.indices.forEach((from, i) => {
      expect(batch.labels[i]).toBe(data.labels[from]);
      const bytes = augmentImage(
        data.images.subarray(from * 60, (from + 1) * 60),
        [5, 4, 3],
        2,
        augmentation(9, 2, from, { pad: 2, flip: true }),
      );
      const expected = Float32Array.from(
        bytes,
        (byte, j) => (byte / 255 - options.mean[j % 3]!) / options.std[j % 3]!,
      );
      expect(batch.images.slice(i * 60, (i + 1) * 60)).toEqual(expected);
    });
  });

  it("gives zero mean and unit variance with the set's own moments", () => {
    const { images } = new DataLoader(data, { ...options, augment: null, batchSize: 53 }).batch(0, 0);
    for (let c = 0; c < 3; c++) {
      const values = [...images].filter((_, i) => i % 3 === c);
      const mean = values.reduce((a, b) => a + b) / values.length;
      const variance = values.reduce((sum, v) => sum + v * v, 0) / values.length - mean * mean;
      expect(Math.abs(mean)).toBeLessThan(1e-5);
      expect(Math.abs(variance - 1)).toBeLessThan(1e-5);
    }
  });

  it("centres images in padTo, and augments the larger image", () => {
    const base = { batchSize: 4, seed: 0, shuffle: false, mean: [0, 0, 0], std: [1, 1, 1] };
    const loader = new DataLoader(data, { ...base, padTo: [8, 6] });
    expect([loader.height, loader.width]).toEqual([8, 6]);
    const { images, shape } = loader.batch(0, 0);
    expect(shape).toEqual([4, 8, 6, 3]);
    const at = (values: Float32Array, n: number, y: number, x: number, c: number) =>
      values[((n * 8 + y) * 6 + x) * 3 + c];
    for (let n = 0; n < 4; n++) {
      for (let y = 0; y < 8; y++) {
        for (let x = 0; x < 6; x++) {
          for (let c = 0; c < 3; c++) {
            const [sy, sx] = [y - 1, x - 1]; // floor((8 − 5) / 2), floor((6 − 4) / 2)
            const inside = sy >= 0 && sy < 5 && sx >= 0 && sx < 4;
            const byte = inside ? data.images[((n * 5 + sy) * 4 + sx) * 3 + c]! : 0;
            expect(at(images, n, y, x, c)).toBe(Math.fround(byte / 255));
          }
        }
      }
    }
    // An augmented, padded batch is the augmentation of the padded one.
    const bytes = Uint8Array.from(images, (value) => Math.round(value * 255));
    const moved = new DataLoader(data, { ...base, padTo: [8, 6], augment: { pad: 1, flip: true } }).batch(
      3,
      0,
    );
    for (let n = 0; n < 4; n++) {
      const choice = augmentation(0, 3, n, { pad: 1, flip: true });
      const expected = augmentImage(bytes.subarray(n * 144, (n + 1) * 144), [8, 6, 3], 1, choice);
      expect(Uint8Array.from(moved.images.slice(n * 144, (n + 1) * 144), (v) => Math.round(v * 255))).toEqual(
        expected,
      );
    }
  });

  it("rejects options that don't fit", () => {
    const bad: [Partial<DataLoaderOptions>, RegExp][] = [
      [{ mean: [0] }, /mean is \[0\], made up has 3 channels; expected one finite number per channel/],
      [{ std: [1, 1, Number.NaN] }, /std is \[1, 1, NaN\]/],
      [{ std: [1, 0, 1] }, /std is \[1, 0, 1\]; expected values above 0/],
      [{ augment: { pad: -1, flip: true } }, /DataLoader: augment.pad is -1; expected an integer from 0/],
      [{ augment: { pad: 1.5, flip: true } }, /pad is 1.5/],
      [{ padTo: [4, 4] }, /padTo height is 4; expected an integer from 5/],
      [{ batchSize: -2 }, /batchSize is -2/],
    ];
    for (const [change, message] of bad) {
      expect(() => new DataLoader(data, { ...options, ...change })).toThrow(message);
      expect(() => new DataLoader(data, { ...options, ...change })).toThrow(ShapeError);
    }
  });
});
