// Networks, optimizers and schedules by name, as `fusenorm train` has them.

import { describe, expect, it } from "vitest";
import {
  Adam,
  AdamW,
  DataError,
  imageDataset,
  JointOptimizer,
  Linear,
  Muon,
  Random,
  RMSprop,
  SGD,
  Trainer,
} from "../../src/index.ts";
import { RecipeTrainer } from "../../src/train/recipe.ts";
import { OPTIMIZER_NAMES, trainOptions } from "../../src/train/train-options.ts";
import { testGpu } from "../helpers/gpu.ts";
import { squares } from "../helpers/squares.ts";

/** Images of noise, as large as VGG wants them. */
function noise(name: string, count: number) {
  const random = new Random(3);
  const images = Uint8Array.from({ length: count * 32 * 32 }, () => random.uint32() & 255);
  const labels = Uint8Array.from({ length: count }, (_, i) => i % 3);
  const classNames = ["a", "b", "c"];
  return imageDataset({ name, images, labels, height: 32, width: 32, channels: 1, classNames });
}

const data = { train: squares("squares train", 24, 1), test: squares("squares test", 6, 2) };

describe("RecipeTrainer", () => {
  const networks = ["preactResnetCifar", "plainCifar", "resnet18", "vgg11", "mobilenetV2"] as const;
  it.each(networks)("trains %s, and leaves no buffer behind", async (model) => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const own = model === "vgg11" ? { train: noise("train", 16), test: noise("test", 6) } : data;
    const trainer = new RecipeTrainer(gpu, own, {
      ...{ model, depth: 8, width: 4, augment: false, batchSize: 8, maxSteps: 2 },
    });
    const { log, evals } = await trainer.run();
    expect(log.at(-1)!.step).toBe(2);
    expect(evals.at(-1)!.testLoss).toBeGreaterThan(0);
    trainer.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("makes the optimizer and the schedule that are asked for", async () => {
    const gpu = await testGpu();
    const kinds = { sgd: SGD, adam: Adam, adamw: AdamW, rmsprop: RMSprop, muon: JointOptimizer };
    for (const optimizer of OPTIMIZER_NAMES) {
      const trainer = new RecipeTrainer(gpu, data, {
        ...{ optimizer, depth: 8, width: 4, batchSize: 8, epochs: 2, lr: 0.01, logEvery: 1 },
        ...{ schedule: "one-cycle", clipGradNorm: 1, weightDecay: 0.1 },
      });
      expect(trainer.optimizer).toBeInstanceOf(kinds[optimizer]);
      // All but SGD leave biases and norms without decay.
      const decays = trainer.optimizer.paramGroups.map(({ weightDecay }) => weightDecay);
      expect(decays).toEqual(optimizer === "sgd" ? [0.1] : [0.1, 0]);
      const { log } = await trainer.run({ evaluate: false });
      const rates = log.map(({ lr }) => lr);
      expect(rates[0]).toBeCloseTo(0.01 / 25, 12);
      expect(rates.at(-1)).toBeCloseTo(0.01 / 25e4, 12);
      expect(Math.max(...rates)).toBeGreaterThan(0.009);
      trainer.dispose();
    }
  });

  it("gives filters and matrices to Muon, scaled as AdamW's, and the rest to AdamW: as by hand", async () => {
    const gpu = await testGpu();
    const recipe = { lr: 0.01, weightDecay: 0.1, depth: 8, width: 4, batchSize: 8 } as const;
    const options = { ...recipe, maxSteps: 3, augment: false, schedule: "constant" } as const;
    const trainer = new RecipeTrainer(gpu, data, { ...options, optimizer: "muon" });
    const start = await trainer.model.stateDict();
    const { log } = await trainer.run({ evaluate: false });
    const trained = await trainer.model.stateDict();
    trainer.dispose();

    // The same network and batches by a trainer of one's own, with the two optimizers.
    const other = new RecipeTrainer(gpu, data, { ...options, optimizer: "sgd" });
    other.model.loadStateDict(start);
    const parameters = other.model.parameters();
    const optimizer = new JointOptimizer([
      new Muon(
        parameters.filter(({ rank }) => rank > 1),
        { lr: 0.01, weightDecay: 0.1, adjustLr: "match_rms_adamw" },
      ),
      new AdamW(
        parameters.filter(({ rank }) => rank === 1),
        { lr: 0.01, weightDecay: 0 },
      ),
    ]);
    const byHand = new Trainer({
      ...{ model: other.model, optimizer, data, batchSize: 8, epochs: 10, maxSteps: 3, dropLast: true },
    });
    expect((await byHand.run({ evaluate: false })).log).toEqual(log);
    expect(await other.model.stateDict()).toEqual(trained);
    byHand.dispose();
    optimizer.dispose();
    other.dispose();
  });

  it("hands the network to who prepares it, before the optimizer is made, and gives it back if that fails", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const options = { depth: 8, width: 4, batchSize: 8 } as const;
    const moments = { mean: [0.25], std: [0.5] };
    const trainer = new RecipeTrainer(gpu, data, options, {
      prepare: (model) => {
        model.freeze().apply((layer) => {
          if (layer instanceof Linear) layer.freeze(false);
        });
      },
      ...{ moments, settings: { weights: "mine" } },
    });
    const { paramGroups } = trainer.optimizer;
    expect(paramGroups.map(({ params }) => params.map(({ shape }) => shape))).toEqual([
      [[data.train.classes, 16], [data.train.classes]],
    ]);
    const { metadata } = await trainer.state();
    expect(JSON.parse(metadata.moments!)).toEqual(moments);
    expect(JSON.parse(metadata.options!).weights).toBe("mine");
    trainer.dispose();
    const fails = () => {
      throw new DataError("no such weights");
    };
    expect(() => new RecipeTrainer(gpu, data, options, { prepare: fails })).toThrow("no such weights");
    expect(() => new RecipeTrainer(gpu, data, options, { moments: { mean: [1], std: [0] } })).toThrow(
      /Trainer: std is \[0\]; expected values above 0/,
    );
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("has a width for each kind of network, and a momentum for each kind of optimizer", () => {
    expect(trainOptions({}).width).toBe(16);
    expect(trainOptions({ model: "plainCifar" }).width).toBe(16);
    expect(trainOptions({ model: "resnet18" }).width).toBe(64);
    expect(trainOptions({ model: "resnet18", width: 8 }).width).toBe(8);
    expect(trainOptions({}).momentum).toBe(0.9);
    expect(trainOptions({ optimizer: "muon" }).momentum).toBe(0.95);
    expect(trainOptions({ optimizer: "muon", momentum: 0.9 }).momentum).toBe(0.9);
    expect(() => trainOptions({ model: "resnet19" as never })).toThrow(/model is "resnet19".*did you mean/);
    expect(() => trainOptions({ clipGradNorm: -1 })).toThrow(/clipGradNorm is -1/);
  });
});
