// Batches that are loaded as they are needed: their order, how many at a time, failures, and a run that resumes among them.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, describe, expect, it } from "vitest";
import {
  channelMoments,
  DataLoader,
  type HostBatch,
  Random,
  resnetCifar,
  SGD,
  StreamLoader,
  type StreamLoaderOptions,
  Trainer,
} from "../../src/index.ts";
import { loadImageFolder, streamImageFolder } from "../../src/node/index.ts";
import { testGpu } from "../helpers/gpu.ts";

const folder = mkdtempSync(join(tmpdir(), "fusenorm-stream-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const batchOf = (indices: Uint32Array): HostBatch => ({
  images: Float32Array.from(indices),
  shape: [indices.length, 1],
  labels: indices,
});
const make = (options: Partial<StreamLoaderOptions>) =>
  new StreamLoader({ count: 23, batchSize: 5, seed: 3, load: batchOf, ...options });
const pause = (ms = 0) => new Promise((resolve) => setTimeout(resolve, ms));

describe("StreamLoader", () => {
  it("gives the batches of DataLoader's order, from anywhere on, the last one not full", async () => {
    // Those that take longest come first, and the order stays.
    const loader = make({
      prefetch: 4,
      load: async (indices, { index }) => {
        await pause(20 - 4 * index);
        return batchOf(indices);
      },
    });
    expect(loader.batchesPerEpoch).toBe(5);
    const read = async (epoch: number, start?: number) => {
      const rows: number[][] = [];
      for await (const { labels } of loader.epoch(epoch, start)) rows.push([...labels]);
      return rows;
    };
    const first = await read(0);
    expect(first.map((rows) => rows.length)).toEqual([5, 5, 5, 5, 3]);
    expect(first.flat().sort((a, b) => a - b)).toEqual(Array.from({ length: 23 }, (_, i) => i));
    expect(await read(1)).not.toEqual(first);
    expect(await read(0, 3)).toEqual(first.slice(3));
    expect(await read(0, 5)).toEqual([]);
  });

  it.each([0, 1, 3])("has %i batches on the way while one is used, and no more", async (prefetch) => {
    let [under, most, begun] = [0, 0, 0];
    const loader = make({
      prefetch,
      load: async (indices) => {
        begun += 1;
        under += 1;
        most = Math.max(most, under);
        await pause();
        under -= 1;
        return batchOf(indices);
      },
    });
    let used = 0;
    for await (const _ of loader.epoch(0)) {
      used += 1;
      await pause(5);
      expect(begun).toBe(Math.min(used + prefetch, 5));
    }
    expect(most).toBeLessThanOrEqual(prefetch + 1);
    expect(used).toBe(5);
  });

  it("tells a failure when its batch is due, and those who still load that nobody waits", async () => {
    const signals: AbortSignal[] = [];
    const loader = make({
      load: (indices, { index, signal }) => {
        signals.push(signal);
        if (index === 2) throw new Error("no such image");
        return batchOf(indices);
      },
    });
    let used = 0;
    const read = async () => {
      for await (const _ of loader.epoch(0)) used += 1;
    };
    await expect(read()).rejects.toThrow("no such image");
    expect(used).toBe(2);
    for await (const _ of loader.epoch(1)) break;
    expect(signals.every(({ aborted }) => aborted)).toBe(true);
  });

  it("refuses options that are out of range", () => {
    expect(() => make({ prefetch: -1 })).toThrow(/StreamLoader: prefetch is -1/);
    expect(() => make({ batchSize: 24, dropLast: true })).toThrow(/leaves no batch of 23 images/);
    expect(() => make({ load: 1 as never })).toThrow(/load is 1; expected a function/);
    expect(() => make({ prefech: 1 } as never)).toThrow(/did you mean "prefetch"/);
  });
});

describe("streamImageFolder", () => {
  it("trains as the data set in memory does, and resumes in the middle of an epoch", async () => {
    const random = new Random(6);
    for (const name of ["ant", "bee", "cat"]) {
      mkdirSync(join(folder, name));
      for (let i = 0; i < 9; i += 1) {
        const pixels = Uint8Array.from({ length: 8 * 8 * 3 }, () => random.uint32() & 255);
        const image = sharp(pixels, { raw: { width: 8, height: 8, channels: 3 } });
        writeFileSync(join(folder, name, `${i}.png`), await image.png().toBuffer());
      }
    }
    const size = { height: 8, width: 8 };
    const set = await loadImageFolder(folder, size);
    const moments = channelMoments(set);
    const sampling = { batchSize: 6, seed: 2 };
    const stream = await streamImageFolder(folder, { ...size, ...moments, ...sampling });
    expect(stream).toMatchObject({ count: 27, classNames: ["ant", "bee", "cat"], batchesPerEpoch: 5 });
    const memory = new DataLoader(set, { ...moments, ...sampling });
    const batches = memory.epoch(4);
    for await (const { images, labels, shape } of stream.epoch(4)) {
      const expected = batches.next().value!;
      expect({ images, labels, shape }).toEqual({
        ...{ images: expected.images, labels: expected.labels, shape: expected.shape },
      });
    }

    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const run = async (train: typeof stream | DataLoader, stopAt?: number) => {
      const model = resnetCifar(gpu, { depth: 8, width: 4, classes: 3, seed: 1 });
      const optimizer = new SGD(model.parameters(), { lr: 0.05 });
      const options = { model, optimizer, data: { train }, epochs: 2, logEvery: 1 };
      let trainer = new Trainer(options);
      if (stopAt !== undefined) {
        const part = new Trainer({ ...options, maxSteps: stopAt });
        await part.run();
        trainer.resume(await part.state());
        part.dispose();
      }
      const { log } = await trainer.run();
      for (const one of [trainer, optimizer, model]) one.dispose();
      trainer = null as never;
      return log.map(({ loss }) => loss);
    };
    const whole = await run(memory);
    expect(whole).toHaveLength(10);
    expect(await run(stream)).toEqual(whole);
    expect(await run(stream, 7)).toEqual(whole);
    expect(gpu.stats.liveBuffers).toBe(before);

    writeFileSync(join(folder, "bee", "3.png"), "no image");
    const broken = await streamImageFolder(folder, { ...size, ...moments, ...sampling, shuffle: false });
    const seen: number[] = [];
    const read = async () => {
      for await (const { labels } of broken.epoch(0)) seen.push(...labels);
    };
    await expect(read()).rejects.toThrow(/3.png: can't be decoded as an image/);
    expect(seen).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
    await expect(streamImageFolder(folder, { ...size, ...sampling, mean: [0], std: [1] })).rejects.toThrow(
      /mean is \[0\], .* has 3 channels/,
    );
  });
});

describe("a last batch that is not full", () => {
  it("makes no kernels of its own", async () => {
    const gpu = await testGpu();
    const counts: number[] = [];
    for (const count of [24, 31]) {
      const random = new Random(1);
      const images = Float32Array.from({ length: count * 192 }, () => random.normal());
      const load = (indices: Uint32Array): HostBatch => ({
        images: Float32Array.from(
          indices.length === 8 ? images.slice(0, 1536) : images.slice(0, 192 * indices.length),
        ),
        shape: [indices.length, 8, 8, 3],
        labels: indices.map((i) => i % 10),
      });
      const train = new StreamLoader({ count, batchSize: 8, seed: 1, load });
      const model = resnetCifar(gpu, { depth: 8, width: 16, seed: 1 });
      const optimizer = new SGD(model.parameters(), { lr: 0.05 });
      const trainer = new Trainer({ model, optimizer, data: { train }, epochs: 2, seed: 1 });
      const { log } = await trainer.run();
      expect(Number.isFinite(log.at(-1)!.loss)).toBe(true);
      counts.push(gpu.stats.pipelines);
      for (const one of [trainer, optimizer, model]) one.dispose();
    }
    expect(counts[1]).toBe(counts[0]);
  });
});
