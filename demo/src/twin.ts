// One of the two networks: its steps, and looks inside it.

import type { DatasetSplits } from "../../src/data/dataset.ts";
import { convolutionNames, freshNetwork } from "../../src/experiments/setup.ts";
import {
  accuracy,
  Conv2d,
  concat,
  crossEntropy,
  describe,
  type Gpu,
  histogram,
  type Module,
  noGrad,
  type Plan,
  probe,
  reshape,
  SGD,
  softmax,
  softmaxCrossEntropy,
  type Tensor,
} from "../../src/index.ts";
import { hasDiverged } from "../../src/train/run-state.ts";
import type { Failure, Landscape, LayerMoments, Look, Reading, Side } from "./messages.ts";
import { type Settings, STANDS } from "./settings.ts";

/** Channels of the first stage. */
const WIDTH = 8;
/** A layer has blown up where its activations are so many times as wide as at the start. */
const BLOWN_UP = 10;
/** Logits that differ less between images are the same answer to each. */
const SAME_ANSWER = 1e-4;
const BINS = 41;

/** What both networks are given. */
export interface Batch {
  images: Tensor;
  labels: Tensor;
}

export class Twin {
  /** Steps made. */
  step = 0;
  failure: Failure | null = null;
  /** Names of the main path's convolutions, and of the classifier. */
  readonly layers: readonly string[];
  private readonly model: Module;
  private readonly optimizer: SGD;
  private plan: Plan<Tensor> | null = null;
  private startLoss = 0;
  private start: LayerMoments[] | null = null;
  private latest: Reading = { loss: Number.NaN, accuracy: Number.NaN };

  constructor(
    private readonly gpu: Gpu,
    private readonly data: DatasetSplits,
    readonly side: Side,
    private readonly settings: Settings,
    private readonly batch: Batch,
  ) {
    const { rate } = settings;
    this.model = this.fresh();
    this.layers = [...convolutionNames(this.model), "classifier"];
    this.optimizer = new SGD(this.model.parameters(), { lr: rate, momentum: 0.9, weightDecay: 5e-4 });
  }

  /** Takes over weights, momentum and all that is known of `other`, a twin with the same settings. */
  async goOnFrom(other: Twin): Promise<void> {
    this.model.loadStateDict(await other.model.stateDict());
    this.optimizer.loadStateDict(await other.optimizer.stateDict());
    this.optimizer.lr = other.optimizer.lr;
    const { step, failure, startLoss, start, latest } = other;
    Object.assign(this, { step, failure, startLoss, start, latest });
  }

  /** The network as it is before the first step. */
  private fresh(): Module {
    const { norms, depth, seed } = this.settings;
    const network = { norm: norms[this.side], shortcut: "projection", depth, width: WIDTH } as const;
    return freshNetwork(this.gpu, this.data, network, seed);
  }

  set rate(rate: number) {
    this.optimizer.lr = rate;
  }

  /** Encodes forward and backward of the batch; `read` tells what came out, and `update` makes the step. */
  compute(): void {
    this.model.train();
    if (this.plan) {
      this.plan.run();
      return;
    }
    this.model.zeroGrad();
    const { images, labels } = this.batch;
    this.plan = this.gpu.capture(() => {
      const logits = this.model.forward(images);
      const loss = softmaxCrossEntropy(logits, labels);
      loss.backward();
      return noGrad(() => concat([reshape(loss.detach(), [1]), accuracy(logits, labels)], 0));
    });
  }

  /** Of the batch that `compute` was about. A loss that has diverged leaves the weights that gave it as they are. */
  async read(): Promise<Reading> {
    const [loss, correct] = (await this.plan!.result.read()) as unknown as [number, number];
    if (this.step === 0) this.startLoss = loss;
    this.latest = { loss, accuracy: correct / this.settings.batchSize };
    return this.latest;
  }

  get hasDiverged(): boolean {
    return hasDiverged(this.latest.loss, this.startLoss);
  }

  /** Whether it gives every image of the batch the same answer. */
  async isStuck(): Promise<boolean> {
    this.model.train();
    const [logits] = await this.moments(this.model, this.layers.slice(-1));
    return isSameAnswer(logits!);
  }

  update(): void {
    this.optimizer.step();
    this.step += 1;
  }

  /** Between `read` and `update`: gradients are those of the batch. */
  async look(test: Batch, shown: number): Promise<Look> {
    const { model, batch } = this;
    model.train();
    const layers = await this.moments(model);
    this.start ??= await this.startMoments();
    const gradient = await this.middleGradient();
    const { gradients: logitGradients } = await probe.logitGradients(model, batch.images, batch.labels);
    const { answers, share } = await this.answersTo(test, shown);
    const { side, step, start } = this;
    return { side, step, layers, start, gradient, logitGradients, answers, testAccuracy: share };
  }

  private async startMoments(): Promise<LayerMoments[]> {
    const model = this.fresh();
    try {
      return await this.moments(model);
    } finally {
      model.dispose();
    }
  }

  private async moments(model: Module, layers = this.layers): Promise<LayerMoments[]> {
    const found = await probe.activations(model, this.batch.images, {
      layers: (name, module) => (module instanceof Conv2d || name === "classifier") && layers.includes(name),
    });
    const byName = new Map(found.map((layer) => [layer.name, layer]));
    return layers.map((name) => {
      const { mean, variance } = byName.get(name)!;
      return { mean: average(mean.map(Math.abs)), std: average(variance.map(Math.sqrt)) };
    });
  }

  private async middleGradient(): Promise<Look["gradient"]> {
    const middle = Math.floor((this.layers.length - 1) / 2);
    const layer = this.layers[middle];
    // Of a weight norm: the directions.
    const names = [`${layer}.weight`, `${layer}.parametrizations.weight.original1`];
    const parameter = this.model.namedParameters().find(([path]) => names.includes(path))![1];
    const gradient = parameter.grad!;
    const { min, max, variance, kurtosis } = await describe(gradient);
    const limit = Math.max(-min, max) * (1 + 1e-6);
    if (!(limit > 0 && Number.isFinite(limit))) return null;
    return {
      layer: middle + 1,
      std: Math.sqrt(variance),
      kurtosis,
      histogram: await histogram(gradient, { low: -limit, high: limit, bins: BINS }),
    };
  }

  /** Probabilities for the first `shown` images, and the share of all that is classified right; as in use, not in training. */
  private async answersTo({ images, labels }: Batch, shown: number) {
    const { model, gpu } = this;
    model.eval();
    const [probabilities, correct] = noGrad(() =>
      gpu.scope(() => {
        const logits = model.forward(images);
        return [softmax(logits), accuracy(logits, labels)] as const;
      }),
    );
    model.train();
    const [count, classes] = probabilities.shape as [number, number];
    const [values, right] = await Promise.all([probabilities.read(), correct.item()]);
    probabilities.dispose();
    correct.dispose();
    const answers = Array.from({ length: Math.min(count, shown) }, (_, i) =>
      Array.from(values.subarray(i * classes, (i + 1) * classes)),
    );
    return { answers, share: right / count };
  }

  /** Probabilities of one image's classes. */
  async answer(images: Tensor): Promise<number[]> {
    const labels = this.gpu.zeros([1], { dtype: "uint32" });
    try {
      return (await this.answersTo({ images, labels }, 1)).answers[0]!;
    } finally {
      labels.dispose();
    }
  }

  /** Why this network learns no more, if a look shows that. */
  judge({ layers, step }: Look, rate: number): Failure | null {
    const start = this.start!;
    // Fixup begins with a classifier of zeros: the same answer to each image is where it starts from, not what became of it.
    const stuck = isSameAnswer(layers.at(-1)!) && (step >= STANDS || !isSameAnswer(start.at(-1)!));
    if (!this.hasDiverged && !stuck) return null;
    const growth = layers.map(({ std }, i) => {
      const before = start[i]!.std;
      return before > 0 || !Number.isFinite(std) ? std / before : null;
    });
    const layer = growth.findIndex((times) => times !== null && !(times < BLOWN_UP));
    this.failure = {
      ...{ side: this.side, step, rate, loss: this.latest.loss, growth },
      kind: this.hasDiverged ? "diverged" : "stuck",
      layer: layer < 0 ? null : layer + 1,
    };
    return this.failure;
  }

  /** The loss of the batch along its own gradient. */
  async landscape(alphas: readonly number[]): Promise<Landscape> {
    const { model, batch, side, step } = this;
    const { images, labels } = batch;
    const found = await probe.landscape(model, crossEntropy(model, images, labels), alphas);
    // The probe has dropped the gradients that the plan writes.
    this.plan?.dispose();
    this.plan = null;
    return { side, step, ...found };
  }

  dispose(): void {
    this.plan?.dispose();
    this.optimizer.dispose();
    this.model.dispose();
  }
}

const isSameAnswer = ({ std }: LayerMoments) => std < SAME_ANSWER;

function average(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i += 1) sum += values[i]!;
  return sum / values.length;
}
