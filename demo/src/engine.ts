// Trains the twins and tells the page about it. Knows no worker and no page: `demo/record.ts` runs it in Node.

import {
  channelMoments,
  type DatasetSplits,
  type ImageDataset,
  imageDataset,
} from "../../src/data/dataset.ts";
import { shrinkImages } from "../../src/experiments/setup.ts";
import { BatchSampler, DataLoader, DeviceDataset, type Gpu, type Tensor } from "../../src/index.ts";
import type { CompileAhead } from "./compile-ahead.ts";
import type { FromWorker, Reading, Sample, Search, Side } from "./messages.ts";
import { RateSearch, type Verdict } from "./rate-search.ts";
import { type Settings, STANDS } from "./settings.ts";
import { type Batch, Twin } from "./twin.ts";

/** Images are halved, so that a processor that plays GPU keeps up, too. */
const SHRINK = 2;
/** Test images that each look measures on, of which some are shown. */
const TESTED = 100;
const SHOWN = 12;
/** Looks take at most this share of the time. */
const LOOK_SHARE = 0.25;
const LOOK_EVERY_MS = 300;
/** The step before which nobody looks unasked: the curves come first, and a look takes kernels of its own. */
const FIRST_LOOK = 2;
/** Step sizes of the landscape: 10⁻⁴ … 10. */
const ALPHAS = Array.from({ length: 21 }, (_, i) => 10 ** (-4 + i / 4));

interface Run {
  gpu: Gpu;
  settings: Settings;
  twins: [Twin, Twin];
  sampler: BatchSampler;
  dataset: DeviceDataset;
  batch: Batch;
  /** The test images that looks measure on. */
  test: Batch;
  indices: Tensor;
  epoch: Tensor;
  step: number;
  rate: number;
  /** Whether the kernels of a look are compiled. */
  canLook: boolean;
  /** When the last look ended, and how long looks take. */
  looked: number;
  lookMs: number;
}

export class Engine {
  private readonly small: DatasetSplits;
  private readonly test: {
    pixels: Float32Array;
    shape: [number, number, number, number];
    labels: Uint32Array;
  };
  private readonly samples: Sample[];
  private run: Run | null = null;
  /** The number of the run that was asked for last. */
  private asked = 0;
  private playing = false;
  /** The search that is under way. */
  private searching: { stopped: boolean } | null = null;
  /** One thing after the other: whatever is asked for waits for the step that is under way. */
  private tail: Promise<void> = Promise.resolve();

  constructor(
    private readonly gpu: Gpu,
    private readonly data: DatasetSplits,
    private readonly say: (message: FromWorker) => void,
    private readonly now: () => number = () => performance.now(),
    /** Compiles for `gpu`. */
    private readonly ahead: CompileAhead | null = null,
    /** Has kernels that are compiled sooner and run longer: a run begins with them. */
    private readonly quick: CompileAhead | null = null,
  ) {
    this.small = shrinkImages(data, SHRINK);
    const { images, labels, shape, indices } = new DataLoader(this.small.test, {
      ...channelMoments(this.small.train),
      ...{ batchSize: TESTED, seed: 7, dropLast: true },
    }).batch(0, 0);
    this.test = { pixels: images, shape, labels };
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
    this.tail = this.tail.then(task).catch((error) => this.fail(error));
    return this.tail;
  }

  private fail(error: unknown): void {
    this.playing = false;
    this.stopSearch();
    this.say({ type: "error", what: "other", message: (error as Error).message });
    this.say({ type: "playing", playing: false });
  }

  /** Fresh networks, unless others are asked for before their turn comes. */
  begin(settings: Settings, number = this.asked + 1): Promise<void> {
    this.asked = number;
    // Of networks that nobody asks about any more: it does not go on with the run either.
    this.stopSearch();
    this.searching = null;
    return this.enqueue(async () => {
      if (number !== this.asked) return;
      this.close();
      const { ahead, quick } = this;
      const compiler = quick ?? ahead;
      const run = this.prepare(compiler?.gpu ?? this.gpu, settings);
      this.run = run;
      this.say({ type: "begin", run: number, settings, layers: run.twins[0].layers.length });
      await compiler?.before((gpu) => this.rehearse(gpu, settings, "step"));
    });
  }

  /** What a step dispatches, and what a look does. */
  private async rehearse(gpu: Gpu, settings: Settings, part: "step" | "look"): Promise<void> {
    const run = this.prepare(gpu, settings);
    this.gather(run);
    for (const twin of run.twins) {
      twin.compute();
      if (part === "look") await twin.look(run.test, SHOWN);
      else twin.update();
    }
    this.drop(run);
  }

  /** Goes on with `run` on `gpu`. */
  private move(run: Run): Promise<void> {
    return this.enqueue(async () => {
      if (this.run !== run) return;
      const { step, rate, looked, lookMs } = run;
      const next = this.prepare(this.gpu, run.settings);
      Object.assign(next, { step, rate, canLook: true, looked, lookMs });
      for (const side of [0, 1] as const) await next.twins[side].goOnFrom(run.twins[side]);
      this.run = next;
      this.drop(run);
    });
  }

  private prepare(gpu: Gpu, settings: Settings): Run {
    const { small } = this;
    const { batchSize, seed, rate } = settings;
    const { height, width, channels, count } = small.train;
    const batch = {
      images: gpu.keep(gpu.empty([batchSize, height, width, channels])),
      labels: gpu.keep(gpu.empty([batchSize], "uint32")),
    };
    const { pixels, shape, labels } = this.test;
    const test = {
      images: gpu.keep(gpu.tensor(pixels, shape)),
      labels: gpu.keep(gpu.tensor(labels, [labels.length], { dtype: "uint32" })),
    };
    const twin = (side: Side) => new Twin(gpu, small, side, settings, batch);
    return {
      ...{ gpu, settings, batch, test, rate, step: 0, lookMs: 0 },
      twins: [twin(0), twin(1)],
      ...{ canLook: false, looked: Number.NEGATIVE_INFINITY },
      sampler: new BatchSampler({ count, batchSize, seed, dropLast: true }),
      dataset: new DeviceDataset(gpu, small.train, { ...channelMoments(small.train), seed }),
      indices: gpu.keep(gpu.empty([batchSize], "uint32")),
      epoch: gpu.keep(gpu.tensor([0], [1], { dtype: "uint32" })),
    };
  }

  /** Encodes how the batch of this step gets to where the twins read it. */
  private gather({ step, sampler, dataset, indices, epoch, batch }: Run): void {
    const number = Math.floor(step / sampler.batchesPerEpoch);
    indices.write(sampler.indices(number, step % sampler.batchesPerEpoch));
    epoch.write([number]);
    dataset.gather(indices, epoch, batch.images, batch.labels);
  }

  rate(rate: number): Promise<void> {
    return this.enqueue(() => {
      if (!this.run) return;
      this.run.rate = rate;
      for (const twin of this.run.twins) twin.rate = rate;
    });
  }

  play(): void {
    this.stopSearch();
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
    const readings: [Reading | null, Reading | null] = [null, null];
    const tell = () =>
      this.say({ type: "step", step: run.step, rate: run.rate, readings: [readings[0], readings[1]] });
    this.gather(run);
    await Promise.all(
      alive.map(async (twin) => {
        twin.compute();
        readings[twin.side] = await twin.read();
        // The first curve does not wait for the other network.
        if (run.step < FIRST_LOOK) tell();
      }),
    );
    if (run.step >= FIRST_LOOK) tell();
    const late = this.now() - run.looked >= Math.max(LOOK_EVERY_MS, run.lookMs / LOOK_SHARE);
    const due = look || (run.canLook && late);
    const before = this.now();
    for (const twin of alive) if (due || twin.hasDiverged) await this.lookAt(run, twin);
    if (due) Object.assign(run, { looked: this.now(), lookMs: this.now() - before });
    for (const twin of alive) if (!twin.failure) twin.update();
    run.step += 1;
    // Not sooner: what is compiled beside the first steps holds them up.
    if (run.step === FIRST_LOOK) this.compileLater(run).catch((error) => this.fail(error));
  }

  /** The kernels of looks; and where the run began with quick kernels, those that it goes on with. */
  private async compileLater(run: Run): Promise<void> {
    const { quick, ahead } = this;
    await (quick ?? ahead)?.before((gpu) => this.rehearse(gpu, run.settings, "look"));
    run.canLook = true;
    if (!quick || !ahead || this.run !== run) return;
    await ahead.before(async (gpu) => {
      await this.rehearse(gpu, run.settings, "step");
      await this.rehearse(gpu, run.settings, "look");
    });
    await this.move(run);
  }

  private async lookAt(run: Run, twin: Twin): Promise<void> {
    const look = await twin.look(run.test, SHOWN);
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

  /** Looks for the largest rates that each network stands. The run waits meanwhile, and goes on afterwards if it was playing. */
  async search(): Promise<void> {
    const { playing } = this;
    this.pause();
    this.stopSearch();
    const order = { stopped: false };
    this.searching = order;
    await this.enqueue(() => {});
    if (!this.run || order.stopped) return;
    const { settings } = this.run;
    const searches = [new RateSearch(), new RateSearch()] as const;
    const search: Search = {
      ...{ state: "searching", settings, trial: 0, step: 0, steps: STANDS },
      ...{ rates: [null, null], limits: [null, null] },
    };
    // Of a search that a new run ended nothing is told: the run's beginning says it.
    const tell = (news: Partial<Search>) => {
      Object.assign(search, news);
      if (this.searching === order) this.say({ type: "search", search: { ...search } });
    };
    while (!order.stopped && searches.some(({ next }) => next !== null)) {
      tell({ trial: search.trial + 1, step: 0, rates: [searches[0].next, searches[1].next] });
      const verdicts = await this.attempt(search, order, (step) => tell({ step }));
      for (const side of [0, 1] as const) {
        if (verdicts[side]) searches[side].tell(search.rates[side]!, verdicts[side]);
      }
      search.limits = [searches[0].limits, searches[1].limits];
    }
    tell({ state: order.stopped ? "stopped" : "done", rates: [null, null] });
    if (this.searching !== order) return;
    this.searching = null;
    if (playing) this.play();
  }

  stopSearch(): void {
    if (this.searching) this.searching.stopped = true;
  }

  /** Trains fresh networks, each at a rate of its own: what becomes of them. Null for one that has no rate, or when it is stopped. */
  private async attempt(
    { settings, rates }: Search,
    order: { stopped: boolean },
    onStep: (step: number) => void,
  ): Promise<[Verdict | null, Verdict | null]> {
    const verdicts: [Verdict | null, Verdict | null] = [null, null];
    let trial: Run | null = null;
    await this.enqueue(() => {
      if (order.stopped || !this.run) return;
      trial = this.prepare(this.run.gpu, settings);
      for (const twin of trial.twins) twin.rate = rates[twin.side] ?? 0;
    });
    const going = () => trial!.twins.filter(({ side }) => rates[side] !== null && verdicts[side] === null);
    // What is asked for meanwhile comes between two steps.
    for (let step = 0; trial && !order.stopped && going().length > 0; step += 1) {
      await this.enqueue(async () => {
        const twins = going();
        this.gather(trial!);
        for (const twin of twins) twin.compute();
        await Promise.all(twins.map((twin) => twin.read()));
        for (const twin of twins) {
          if (twin.hasDiverged) verdicts[twin.side] = "diverged";
          else if (step < STANDS) twin.update();
          else verdicts[twin.side] = (await twin.isStuck()) ? "stuck" : "stands";
        }
        trial!.step += 1;
      });
      onStep(step);
    }
    await this.enqueue(() => {
      if (trial) this.drop(trial);
    });
    return verdicts;
  }

  /** Both networks' answers to an image of the data set's size. */
  ask(pixels: Uint8Array): Promise<void> {
    return this.enqueue(async () => {
      if (!this.run) return;
      const { data, small } = this;
      const { gpu } = this.run;
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
    this.run = null;
    if (run) this.drop(run);
  }

  private drop({ gpu, twins, dataset, batch, test, indices, epoch }: Run): void {
    for (const twin of twins) twin.dispose();
    dataset.dispose();
    for (const tensor of [batch.images, batch.labels, test.images, test.labels, indices, epoch])
      tensor.dispose();
    gpu.trim();
  }
}
