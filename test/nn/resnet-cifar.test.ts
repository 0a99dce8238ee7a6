// resnetCifar with every norm, shortcut and order, against float64; how Fixup and SkipInit start; names and counts.

import { describe, expect, it } from "vitest";
import { noGrad } from "../../src/autograd/tape.ts";
import {
  plainCifar,
  preactResnetCifar,
  type ResNetCifarOptions,
  resnetCifar,
} from "../../src/nn/models/resnet.ts";
import type { Module } from "../../src/nn/module.ts";
import { probe } from "../../src/train/probes.ts";
import { RecipeTrainer } from "../../src/train/recipe.ts";
import { withChoices } from "../helpers/choices.ts";
import { sampled, testGpu } from "../helpers/gpu.ts";
import { checkGradients } from "../helpers/networks.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { squares } from "../helpers/squares.ts";
import { type ReferenceResNet, referenceLoss } from "../reference/resnet-cifar.ts";

const gpu = await testGpu();

const SHAPE = [3, 9, 8, 3];
const LABELS = [7, 0, 3];

function count(model: Module): number {
  const total = model.parameters().reduce((sum, { size }) => sum + size, 0);
  model.dispose();
  return total;
}

describe("loss and gradients of float64", () => {
  const cases: Partial<ReferenceResNet & Pick<ResNetCifarOptions, "batchNorm">>[] = [
    { shortcut: "projection" },
    { norm: "none", shortcut: "projection", activation: "silu" },
    { norm: "last", activation: "leakyRelu" },
    { norm: "layer", shortcut: "projection" },
    { norm: "group", groups: 2 },
    { norm: "instance", shortcut: "projection" },
    { norm: "weight", shortcut: "projection" },
    { norm: "fixup" },
    { norm: "fixup", shortcut: "projection" },
    { norm: "skipinit" },
    { preActivation: true },
    { preActivation: true, batchNorm: { fused: false } },
    { preActivation: true, shortcut: "projection" },
    { preActivation: true, norm: "none", shortcut: "projection" },
    { preActivation: true, norm: "last", activation: "gelu" },
    { preActivation: true, norm: "group", groups: 2 },
    { preActivation: true, norm: "weight" },
    { preActivation: true, norm: "skipinit", shortcut: "projection" },
    { shortcut: "none" },
    { shortcut: "none", norm: "none", preActivation: true },
  ];
  for (const given of sampled(cases)) {
    const title = JSON.stringify(given).replaceAll('"', "");
    it(title, async () => {
      const live = gpu.stats.liveBuffers;
      const { norm = "batch", shortcut = "zero-pad", preActivation = false } = given;
      const { activation = "relu", groups = 4, batchNorm = {} } = given;
      const settings = { norm, shortcut, preActivation, activation, groups };
      const data = normals(3 * 9 * 8 * 3, 5);
      // Where batch-norm meets a projection, everything is folded, whatever is faster here.
      const folding = norm === "batch" && shortcut === "projection" ? "all" : "default";
      await withChoices(gpu, { family: "software", folding, seed: 1, quick: () => true }, async () => {
        const model = resnetCifar(gpu, {
          ...{ depth: 8, width: 4, seed: 3, init: "he", batchNorm },
          ...(settings as ResNetCifarOptions),
        });
        await checkGradients(gpu, model, { data, shape: SHAPE, labels: LABELS }, (w) =>
          referenceLoss({ ...settings, blocks: 1 }, w, { data, shape: SHAPE }, LABELS),
        );
        model.dispose();
      });
      expect(gpu.stats.liveBuffers).toBe(live);
    });
  }
});

describe("training", () => {
  const data = { train: squares("squares train", 40, 1), test: squares("squares test", 10, 2) };
  for (const norm of sampled(["group", "weight", "fixup", "skipinit"] as const)) {
    it(`learns with norm ${norm}, with the same bits captured and eager`, async () => {
      const live = gpu.stats.liveBuffers;
      const losses = async (capture: boolean) => {
        const trainer = new RecipeTrainer(gpu, data, {
          ...{ depth: 8, width: 4, norm, lr: 0.1, batchSize: 40, epochs: 20, augment: false },
          ...{ schedule: "constant", logEvery: 1, seed: 7, capture },
        });
        const { log } = await trainer.run({ evaluate: false });
        trainer.dispose();
        return log.map(({ loss }) => loss);
      };
      const [captured, eager] = [await losses(true), await losses(false)];
      expect(captured).toEqual(eager);
      expect(captured.at(-1)!).toBeLessThan(0.9 * captured[0]!);
      expect(gpu.stats.liveBuffers).toBe(live);
    });
  }
});

describe("parameters", () => {
  it("are as many as the papers have", () => {
    expect(count(resnetCifar(gpu))).toBe(269_722);
    expect(count(preactResnetCifar(gpu))).toBe(269_722);
    // He et al. 2016, table 6: 0.27M; the plain network has the same number.
    expect(count(plainCifar(gpu))).toBe(269_722);
    // Two 1×1 convolutions, 16 → 32 and 32 → 64, each with γ and β.
    expect(count(resnetCifar(gpu, { shortcut: "projection" }))).toBe(269_722 + 16 * 32 + 64 + 32 * 64 + 128);
    // Five scalars a block, one after the stem and one before the classifier; weights and the classifier's bias beside them.
    const weights = 9 * (3 * 16 + 6 * 16 ** 2 + 16 * 32 + 5 * 32 ** 2 + 32 * 64 + 5 * 64 ** 2);
    expect(count(resnetCifar(gpu, { norm: "fixup" }))).toBe(weights + 650 + 9 * 5 + 2);
    // A bias per channel in place of γ and β, and a scalar a block.
    expect(count(resnetCifar(gpu, { norm: "skipinit" }))).toBe(weights + 650 + 16 + 6 * (16 + 32 + 64) + 9);
  });

  it("have these names", () => {
    const names = (options: ResNetCifarOptions) => {
      const model = resnetCifar(gpu, { depth: 8, width: 4, ...options });
      const all = [...model.tensors()].map(([name]) => name);
      model.dispose();
      return all.filter((name) => !/^blocks\.[02]\./.test(name));
    };
    const bn = (of: string) =>
      ["weight", "bias", "runningMean", "runningVar", "numBatchesTracked"].map((name) => `${of}.${name}`);
    expect(names({})).toEqual([
      ...["stem.conv.weight", ...bn("stem.norm")],
      ...["blocks.1.first.conv.weight", ...bn("blocks.1.first.norm")],
      ...["blocks.1.second.conv.weight", ...bn("blocks.1.second.norm")],
      ...["classifier.weight", "classifier.bias"],
    ]);
    expect(names({ preActivation: true, shortcut: "projection" })).toEqual([
      "stem.conv.weight",
      ...["blocks.1.first.conv.weight", ...bn("blocks.1.first.norm")],
      ...["blocks.1.second.conv.weight", ...bn("blocks.1.second.norm")],
      "blocks.1.shortcut.conv.weight",
      ...bn("lastNorm"),
      ...["classifier.weight", "classifier.bias"],
    ]);
    expect(names({ norm: "fixup" })).toEqual([
      "lastBias",
      ...["stem.activationBias", "stem.conv.weight"],
      ...["convBias", "activationBias", "conv.weight"].map((name) => `blocks.1.first.${name}`),
      ...["convBias", "scale", "activationBias", "conv.weight"].map((name) => `blocks.1.second.${name}`),
      ...["classifier.weight", "classifier.bias"],
    ]);
    expect(names({ norm: "weight" }).slice(0, 3)).toEqual([
      "stem.conv.bias",
      "stem.conv.parametrizations.weight.original0",
      "stem.conv.parametrizations.weight.original1",
    ]);
  });
});

describe("at initialisation", () => {
  const images = normals(4 * 8 * 8 * 3, 2);
  const forward = (model: Module) =>
    noGrad(() => gpu.scope(() => model.forward(gpu.tensor(images, [4, 8, 8, 3]))));

  it("every branch of Fixup and of SkipInit is 0: a block is its shortcut", async () => {
    for (const norm of ["fixup", "skipinit"] as const) {
      const model = resnetCifar(gpu, { depth: 14, width: 4, norm });
      const x = gpu.tensor(normals(2 * 8 * 8 * 4, 1).map(Math.abs), [2, 8, 8, 4]);
      const [y, skipped] = [0, 2].map((i) => noGrad(() => model.blocks[i]!.forward(x)));
      expect(relativeError(await y!.read(), await x.read())).toBe(0);
      const shortcut = noGrad(() => model.blocks[2]!.shortcut!.forward(x));
      expect(skipped!.shape).toEqual([2, 4, 4, 8]);
      expect(relativeError(await skipped!.read(), await shortcut.read())).toBe(0);
      for (const tensor of [x, y!, skipped!, shortcut]) tensor.dispose();
      model.dispose();
    }
  });

  it("Fixup's first layers are L^(-1/2) of He's, its classifier gives 0", async () => {
    const options = { depth: 14, width: 4, seed: 5 };
    const fixup = resnetCifar(gpu, { ...options, norm: "fixup" });
    const he = resnetCifar(gpu, { ...options, norm: "none", init: "he" });
    for (const [i, block] of fixup.blocks.entries()) {
      const own = await block.first.conv.weight.read();
      // Six branches of two layers.
      const wanted = (await he.blocks[i]!.first.conv.weight.read()).map((v) => v / Math.sqrt(6));
      expect(relativeError(own, wanted)).toBeLessThan(1e-6);
      expect(Math.max(...(await block.second.conv.weight.read()).map(Math.abs))).toBe(0);
    }
    const logits = forward(fixup);
    expect([...(await logits.read())].map(Math.abs)).toEqual(new Array(40).fill(0));
    for (const each of [logits, fixup, he]) each.dispose();
  });

  it("weight normalisation changes nothing: g is the length of v", async () => {
    const options = { depth: 8, width: 4, seed: 5, shortcut: "projection" } as const;
    const [weight, none] = [
      resnetCifar(gpu, { ...options, norm: "weight" }),
      resnetCifar(gpu, { ...options, norm: "none" }),
    ];
    const [a, b] = [forward(weight!), forward(none!)];
    expect(relativeError(await a!.read(), await b!.read())).toBeLessThan(1e-5);
    const conv = weight!.stem.conv;
    const { original0, original1 } = conv.parametrizations!.weight;
    const v = await original1.read();
    const lengths = Array.from({ length: 4 }, (_, k) => Math.hypot(...v.subarray(27 * k, 27 * (k + 1))));
    expect(relativeError(await original0.read(), lengths)).toBeLessThan(1e-6);
    for (const each of [a!, b!, weight!, none!]) each.dispose();
  });

  it("a classifier has a scale of its own", async () => {
    const options = { depth: 8, width: 16, seed: 5 } as const;
    const model = resnetCifar(gpu, { ...options, classifierInit: "fan_in" });
    const weights = [...(await model.classifier.weight.read())];
    const rms = Math.sqrt(weights.reduce((sum, w) => sum + w * w, 0) / weights.length);
    expect(Math.max(...weights.map(Math.abs))).toBeLessThan(1 / 8);
    expect(rms * 8 * Math.sqrt(3)).toBeCloseTo(1, 1); // uniform in ±1/√64
    const same = resnetCifar(gpu, options);
    expect(relativeError(await model.stem.conv.weight.read(), await same.stem.conv.weight.read())).toBe(0);
    for (const each of [model, same]) each.dispose();
  });

  it("projections start the saw-tooth of Bjorck et al. (fig. 5) anew at each stage, zero padding does not", async () => {
    // ln of the channels' std of each block's first convolution, before its batch-norm. The paper's network has 0.6 to 0.9 near the
    // end of a stage, and 0 in the third block of the next.
    const stages = async (shortcut: "projection" | "zero-pad") => {
      const model = resnetCifar(gpu, { depth: 38, width: 8, seed: 1, shortcut });
      const x = gpu.tensor(normals(8 * 16 * 16 * 3, 3), [8, 16, 16, 3]);
      const firsts = model.blocks.map((_, i) => `blocks.${i}.first.conv`);
      const moments = await probe.activations(model, x, { layers: (name) => firsts.includes(name) });
      x.dispose();
      model.dispose();
      const logs = moments.map(
        ({ variance }) => Math.log([...variance].reduce((a, b) => a + b) / variance.length) / 2,
      );
      return [0, 6, 12].map((from) => ({ third: logs[from + 2]!, fifth: logs[from + 4]! }));
    };
    for (const { third, fifth } of await stages("projection")) {
      expect(Math.abs(third)).toBeLessThan(0.2);
      expect(fifth).toBeGreaterThan(third + 0.1);
    }
    const [, second, last] = await stages("zero-pad");
    expect(second!.third).toBeGreaterThan(0.3);
    expect(last!.third).toBeGreaterThan(0.4);
  });
});
