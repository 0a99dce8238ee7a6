import { describe, expect, it } from "vitest";
import { channelMoments, imageDataset } from "../../src/data/dataset.ts";
import { DeviceDataset } from "../../src/data/device-dataset.ts";
import { DataLoader } from "../../src/data/loader.ts";
import { testGpu } from "../helpers/gpu.ts";
import { generator } from "../helpers/numbers.ts";

function randomDataset(count: number, height: number, width: number, channels: number) {
  const next = generator(5);
  return imageDataset({
    name: "random",
    images: Uint8Array.from({ length: count * height * width * channels }, () => 256 * next()),
    labels: Uint8Array.from({ length: count }, () => 7 * next()),
    height,
    width,
    channels,
    classNames: [..."abcdefg"],
  });
}

describe("DeviceDataset", () => {
  for (const augment of [null, { pad: 4, flip: true }, { pad: 1, flip: false }]) {
    it(`gathers the same floats as DataLoader, augment ${JSON.stringify(augment)}`, async () => {
      const gpu = await testGpu();
      // A batch has more pixels than a software adapter has invocations.
      const dataset = randomDataset(161, 9, 7, 3);
      const options = { ...channelMoments(dataset), seed: 12, augment };
      const loader = new DataLoader(dataset, { ...options, batchSize: 70 });
      const device = new DeviceDataset(gpu, dataset, options);
      const before = gpu.stats.liveBuffers;
      for (const epoch of [0, 3]) {
        for (const index of [0, 2]) {
          const batch = loader.batch(epoch, index);
          const count = batch.indices.length;
          const [indices, at, images, labels] = [
            gpu.tensor(batch.indices, [count], { dtype: "uint32" }),
            gpu.tensor([epoch], [1], { dtype: "uint32" }),
            gpu.empty(batch.shape),
            gpu.empty([count], "uint32"),
          ];
          device.gather(indices, at, images, labels);
          expect(await images.read()).toEqual(batch.images);
          expect(await labels.read()).toEqual(batch.labels);
          for (const tensor of [indices, at, images, labels]) tensor.dispose();
        }
      }
      expect(gpu.stats.liveBuffers).toBe(before);
      device.dispose();
    });
  }

  it("gathers from chunks where one binding can't hold the data set", async () => {
    const gpu = await testGpu();
    const dataset = randomDataset(40, 5, 5, 1);
    const options = { ...channelMoments(dataset), seed: 1, chunkBytes: 11 * 25 + 9 };
    const device = new DeviceDataset(gpu, dataset, options);
    const order = Uint32Array.from([39, 0, 11, 10, 22, 21, 33, 32, 5]);
    const images = gpu.empty([9, 5, 5, 1]);
    const labels = gpu.empty([9], "uint32");
    const indices = gpu.tensor(order, [9], { dtype: "uint32" });
    const epoch = gpu.tensor([0], [1], { dtype: "uint32" });
    device.gather(indices, epoch, images, labels);
    expect([...(await labels.read())]).toEqual([...order].map((i) => dataset.labels[i]));
    const { mean, std } = channelMoments(dataset);
    const expected = [...order].flatMap((i) =>
      [...dataset.images.subarray(25 * i, 25 * i + 25)].map((b) =>
        Math.fround((b / 255 - mean[0]!) / std[0]!),
      ),
    );
    expect([...(await images.read())]).toEqual(expected);
    const flat = images.alias([9, 25]);
    expect(() => device.gather(indices, epoch, flat, labels)).toThrow(/gather: images are \[9, 25\]/);
    flat.dispose();
    for (const seed of [-1, 0.5, 2 ** 32, Number.NaN]) {
      expect(() => new DeviceDataset(gpu, dataset, { ...options, seed })).toThrow(/seed is .*; expected/);
    }
    for (const tensor of [images, labels, indices, epoch]) tensor.dispose();
    device.dispose();
  });

  it("refuses chunks that hold no image", async () => {
    const gpu = await testGpu();
    const dataset = randomDataset(4, 5, 5, 1);
    const before = gpu.stats.liveBuffers;
    for (const chunkBytes of [24, 0, -1, Number.NaN]) {
      const options = { ...channelMoments(dataset), seed: 1, chunkBytes };
      expect(() => new DeviceDataset(gpu, dataset, options)).toThrow(
        /chunkBytes is .*; expected an integer of at least 25/,
      );
    }
    expect(gpu.stats.liveBuffers).toBe(before);
  });
});
