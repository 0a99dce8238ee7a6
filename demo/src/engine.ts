// Trains the twins and tells the page about it. Knows no worker and no page: `demo/record.ts` runs it in Node.

import {
  channelMoments,
  type DatasetSplits,
  type ImageDataset,
  imageDataset,
} from "../../src/data/dataset.ts";
import { shrinkImages } from "../../src/experiments/setup.ts";
import { BatchSampler, DataLoader, DeviceDataset, type Gpu, type Tensor } from "../../src/index.ts";
import type { FromWorker, Reading, Sample, Side } from "./messages.ts";
import type { Settings } from "./settings.ts";
import { type Batch, Twin } from "./twin.ts";

/** Images are halved, so that a processor that plays GPU keeps up, too. */
const SHRINK = 2;
/** Test images that each look measures on, of which some are shown. */
const TESTED = 100;
const SHOWN = 12;
/** Looks take at most this share of the time. */
const LOOK_SHARE = 0.25;
const LOOK_EVERY_MS = 300;
/** Step sizes of the landscape: 10⁻⁴ … 10. */
const ALPHAS = Array.from({ length: 21 }, (_, i) => 10 ** (-4 + i / 4));

interface Run {
  settings: Settings;
  twins: [Twin, Twin];
  sampler: BatchSampler;
  dataset: DeviceDataset;
  batch: Batch;
  indices: Tensor;
  epoch: Tensor;
  step: number;
  rate: number;
  /** When the last look ended, and how long looks take. */
  looked: number;
  lookMs: number;
}

export class Engine {
  private readonly small: DatasetSplits;
  private readonly test: Batch;
  private readonly samples: Sample[];
  private run: Run | null = null;
  private playing = false;
  /** One thing after the other: whatever is asked for waits for the step that is under way. */
  private tail: Promise<void> = Promise.resolve();

  constructor(
    private readonly gpu: Gpu,
    private readonly data: DatasetSplits,
    private readonly say: (message: FromWorker) => void,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.small = shrinkImages(data, SHRINK);
    const { images, labels, shape, indices } = new DataLoader(this.small.test, {
      ...channelMoments(this.small.train),
      ...{ batchSize: TESTED, seed: 7, dropLast: true },
    }).batch(0, 0);
    this.test = {
      images: gpu.keep(gpu.tensor(images, shape)),
      labels: gpu.keep(gpu.tensor(labels, [labels.length], { dtype: "uint32" })),
    };
    const { test } = data;
    const bytesEach = test.images.length / test.count;
    this.samples = Array.from(indices.subarray(0, SHOWN), (index) => ({
      pixels: Array.from(test.images.subarray(index * bytesEach, (index + 1) * bytesEach)),
      label: test.labels[index]!,
    }));
  }

  greet(): void {
    const { gpu, data, samples } = this;
    this.say({ type: "ready", adapter: gpu.info, classNames: data.train.classNames, samples });
  }

  /** Runs `task` after all that was asked for before; what it throws is told. */
  private enqueue(task: () => void | Promise<void>): Promise<void> {
    this.tail = this.tail.then(task).catch((error: unknown) => {
      this.playing = false;
      this.say({ type: "error", what: "other", message: (error as Error).message });
      this.say({ type: "playing", playing: false });
    });
    return this.tail;
  }

  begin(settings: Settings): Promise<void> {
    return this.enqueue(() => {
      this.close();
      const { gpu, small } = this;
      const { batchSize, seed } = settings;
      const { height, width, channels, count } = small.train;
      const batch = {
        images: gpu.keep(gpu.empty([batchSize, height, width, channels])),
        labels: gpu.keep(gpu.empty([batchSize], "uint32")),
      };
      const twin = (side: Side) => new Twin(gpu, small, side, settings, batch);
      const twins: [Twin, Twin] = [twin(0), twin(1)];
      this.run = {
        ...{
          settings,
          twins,
          batch,
          step: 0,
          rate: settings.rate,
          looked: Number.NEGATIVE_INFINITY,
          lookMs: 0,
        },
        sampler: new BatchSampler({ count, batchSize, seed, dropLast: true }),
        dataset: new DeviceDataset(gpu, small.train, { ...channelMoments(small.train), seed }),
        indices: gpu.keep(gpu.empty([batchSize], "uint32")),
        epoch: gpu.keep(gpu.tensor([0], [1], { dtype: "uint32" })),
      };
      this.say({ type: "begin", settings, layers: twins[0].layers.length });
    });
  }

  rate(rate: number): Promise<void> {
    return this.enqueue(() => {
      if (!this.run) return;
      this.run.rate = rate;
      for (const twin of this.run.twins) twin.rate = rate;
    });
  }

  play(): void {
    if (this.playing) return;
    this.playing = true;
    this.say({ type: "playing", playing: true });
    void this.loop();
  }

  pause(): void {
    if (!this.playing) return;
    this.playing = false;
    this.say({ type: "playing", playing: false });
  }

  private async loop(): Promise<void> {
    while (this.playing) await this.enqueue(() => this.stepBoth());
  }

  /** One step, and a look at both networks, however lately they were looked at. */
  async step(look = true): Promise<void> {
    this.pause();
    await this.enqueue(() => this.stepBoth(look));
  }

  private async stepBoth(look = false): Promise<void> {
    const { run } = this;
    if (!run) return;
    const alive = run.twins.filter((twin) => !twin.failure);
    if (alive.length === 0) {
      this.pause();
      return;
    }
    const { sampler, batch } = run;
    const epoch = Math.floor(run.step / sampler.batchesPerEpoch);
    run.indices.write(sampler.indices(epoch, run.step % sampler.batchesPerEpoch));
    run.epoch.write([epoch]);
    run.dataset.gather(run.indices, run.epoch, batch.images, batch.labels);
    for (const twin of alive) twin.compute();
    const readings: [Reading | null, Reading | null] = [null, null];
    await Promise.all(
      alive.map(async (twin) => {
        readings[twin.side] = await twin.read();
      }),
    );
    this.say({ type: "step", step: run.step, rate: run.rate, readings });
    const due = look || this.now() - run.looked >= Math.max(LOOK_EVERY_MS, run.lookMs / LOOK_SHARE);
    const before = this.now();
    for (const twin of alive) if (due || twin.hasDiverged) await this.lookAt(run, twin);
    if (due) Object.assign(run, { looked: this.now(), lookMs: this.now() - before });
    for (const twin of alive) if (!twin.failure) twin.update();
    run.step += 1;
  }

  private async lookAt(run: Run, twin: Twin): Promise<void> {
    const look = await twin.look(this.test, SHOWN);
    this.say({ type: "look", look });
    const failure = twin.judge(look, run.rate);
    if (failure) this.say({ type: "failure", failure });
  }

  landscape(): Promise<void> {
    return this.enqueue(async () => {
      if (!this.run || this.run.step === 0) return;
      for (const twin of this.run.twins) {
        this.say({ type: "landscape", landscape: await twin.landscape(ALPHAS) });
      }
    });
  }

  /** Both networks' answers to an image of the data set's size. */
  ask(pixels: Uint8Array): Promise<void> {
    return this.enqueue(async () => {
      if (!this.run) return;
      const { gpu, data, small } = this;
      const { mean, std } = channelMoments(small.train);
      const one: ImageDataset = imageDataset({ ...data.test, images: pixels, labels: Uint8Array.of(0) });
      const { test } = shrinkImages({ train: data.train, test: one }, SHRINK);
      const { images, shape } = new DataLoader(test, { mean, std, batchSize: 1, seed: 0 }).batch(0, 0);
      const tensor = gpu.keep(gpu.tensor(images, shape));
      try {
        const [a, b] = this.run.twins;
        this.say({
          type: "answer",
          answer: { probabilities: [await a.answer(tensor), await b.answer(tensor)] },
        });
      } finally {
        tensor.dispose();
      }
    });
  }

  /** Runs `work` between steps, with the device to itself. */
  alone(work: (gpu: Gpu) => Promise<void>): Promise<void> {
    return this.enqueue(() => work(this.gpu));
  }

  private close(): void {
    const { run } = this;
    if (!run) return;
    this.run = null;
    for (const twin of run.twins) twin.dispose();
    run.dataset.dispose();
    for (const tensor of [run.batch.images, run.batch.labels, run.indices, run.epoch]) tensor.dispose();
    this.gpu.trim();
  }
}
