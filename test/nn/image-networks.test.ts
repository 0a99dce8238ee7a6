// resnet18 … resnet50, vgg11 … vgg16, mobilenetV2: torchvision's numbers of parameters and names, gradients of float64, training.

import { describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import { Linear } from "../../src/nn/layers.ts";
import { mobilenetV2 } from "../../src/nn/models/mobilenet.ts";
import { resnet18, resnet34, resnet50 } from "../../src/nn/models/resnet-imagenet.ts";
import { vgg11, vgg13, vgg16 } from "../../src/nn/models/vgg.ts";
import type { Module, StateDict } from "../../src/nn/module.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { withChoices } from "../helpers/choices.ts";
import { sampled, testGpu } from "../helpers/gpu.ts";
import { checkGradients } from "../helpers/networks.ts";
import { normals } from "../helpers/numbers.ts";
import { Tape, type Value } from "../reference/autodiff.ts";
import { ReferenceNetwork } from "../reference/image-networks.ts";

const gpu = await testGpu();

const same = (a: StateDict[string], b: StateDict[string]) => a.data.every((value, i) => value === b.data[i]);

function count(model: Module): number {
  const total = model.parameters().reduce((sum, { size }) => sum + size, 0);
  model.dispose();
  return total;
}

/**
 * Parameters of a network of 64 channels, without 500 MB of them: every weight has as many elements as a quadratic polynomial of
 * the width says, so three small widths tell it, and a fourth that it is one.
 */
function countAt64(make: (width: number) => Module): number {
  const [a, b, c, d] = [1, 2, 3, 4].map((width) => count(make(width)));
  const square = (c! - 2 * b! + a!) / 2;
  const at = (width: number) => a! + (b! - a!) * (width - 1) + square * (width - 1) * (width - 2);
  expect(at(4)).toBe(d);
  return at(64);
}

describe("parameters are torchvision's", () => {
  const networks: [string, (width: number) => Module, number][] = [
    ["resnet18", (width) => resnet18(gpu, { width }), 11_689_512],
    ["resnet34", (width) => resnet34(gpu, { width }), 21_797_672],
    ["resnet50", (width) => resnet50(gpu, { width }), 25_557_032],
    ["vgg11", (width) => vgg11(gpu, { width }), 132_863_336],
    ["vgg11_bn", (width) => vgg11(gpu, { width, norm: "batch" }), 132_868_840],
    ["vgg13", (width) => vgg13(gpu, { width }), 133_047_848],
    ["vgg13_bn", (width) => vgg13(gpu, { width, norm: "batch" }), 133_053_736],
    ["vgg16_bn", (width) => vgg16(gpu, { width, norm: "batch" }), 138_365_992],
    ["vgg16", (width) => vgg16(gpu, { width }), 138_357_544],
  ];
  for (const [name, make, expected] of networks) {
    it(name, () => expect(countAt64(make)).toBe(expected));
  }

  it("mobilenet_v2, resnet18, as they are made by default", () => {
    expect(count(mobilenetV2(gpu))).toBe(3_504_872);
    expect(count(resnet18(gpu))).toBe(11_689_512);
  });
});

describe("names are torchvision's, in this package's spelling of the last word", () => {
  const list = (model: Module) => {
    const names = [...model.tensors()].map(([name]) => name);
    model.dispose();
    return names;
  };
  const bn = (of: string) =>
    ["weight", "bias", "runningMean", "runningVar", "numBatchesTracked"].map((name) => `${of}.${name}`);
  const dense = (of: string) => [`${of}.weight`, `${of}.bias`];

  it("resnet18", () => {
    const block = (of: string) => [
      ...[`${of}.conv1.weight`, ...bn(`${of}.bn1`), `${of}.conv2.weight`, ...bn(`${of}.bn2`)],
    ];
    const down = (of: string) => [`${of}.downsample.0.weight`, ...bn(`${of}.downsample.1`)];
    expect(list(resnet18(gpu, { width: 2 }))).toEqual([
      ...["conv1.weight", ...bn("bn1"), ...block("layer1.0"), ...block("layer1.1")],
      ...[...block("layer2.0"), ...down("layer2.0"), ...block("layer2.1")],
      ...[...block("layer3.0"), ...down("layer3.0"), ...block("layer3.1")],
      ...[...block("layer4.0"), ...down("layer4.0"), ...block("layer4.1")],
      ...dense("fc"),
    ]);
  });

  it("resnet50", () => {
    const names = list(resnet50(gpu, { width: 2 }));
    expect(names).toHaveLength(320);
    expect(names.filter((name) => name.startsWith("layer1.0."))).toEqual([
      ...["layer1.0.conv1.weight", ...bn("layer1.0.bn1"), "layer1.0.conv2.weight", ...bn("layer1.0.bn2")],
      ...["layer1.0.conv3.weight", ...bn("layer1.0.bn3")],
      ...["layer1.0.downsample.0.weight", ...bn("layer1.0.downsample.1")],
    ]);
  });

  it("vgg11, vgg11_bn", () => {
    const classifier = ["classifier.0", "classifier.3", "classifier.6"].flatMap(dense);
    const plain = [0, 3, 6, 8, 11, 13, 16, 18].flatMap((i) => dense(`features.${i}`));
    expect(list(vgg11(gpu, { width: 1 }))).toEqual([...plain, ...classifier]);
    const normed = [0, 4, 8, 11, 15, 18, 22, 25].flatMap((i) => [
      ...dense(`features.${i}`),
      ...bn(`features.${i + 1}`),
    ]);
    expect(list(vgg11(gpu, { width: 1, norm: "batch" }))).toEqual([...normed, ...classifier]);
    expect(list(vgg16(gpu, { width: 1, images: "cifar" })).slice(-2)).toEqual(dense("classifier.0"));
  });

  it("mobilenet_v2", () => {
    const names = list(mobilenetV2(gpu, { widthMult: 0.1 }));
    expect(names).toHaveLength(314);
    expect(names.filter((name) => /^features\.(0|1|2|18)\./.test(name))).toEqual([
      ...["features.0.0.weight", ...bn("features.0.1")],
      ...["features.1.conv.0.0.weight", ...bn("features.1.conv.0.1")],
      ...["features.1.conv.1.weight", ...bn("features.1.conv.2")],
      ...["features.2.conv.0.0.weight", ...bn("features.2.conv.0.1")],
      ...["features.2.conv.1.0.weight", ...bn("features.2.conv.1.1")],
      ...["features.2.conv.2.weight", ...bn("features.2.conv.3")],
      ...["features.18.0.weight", ...bn("features.18.1")],
    ]);
    expect(names.slice(-2)).toEqual(dense("classifier.1"));
  });
});

/** Kernels that compile fast. */
const QUICK = { family: "software", folding: "default", seed: 1, quick: () => true } as const;

/** The losses of steps on one batch. */
async function train(
  model: Module,
  batch: { data: Float64Array; shape: readonly number[]; labels: readonly number[] },
  steps: number,
): Promise<number[]> {
  const x = gpu.tensor(batch.data, batch.shape);
  const labels = gpu.tensor(batch.labels, [batch.labels.length], { dtype: "uint32" });
  const optimizer = new SGD(model.parameters(), { lr: 0.005, momentum: 0.9 });
  const losses: number[] = [];
  for (let step = 0; step < steps; step += 1) {
    const loss = gpu.scope(() => {
      const result = softmaxCrossEntropy(model.forward(x), labels);
      result.backward();
      return result;
    });
    losses.push(await loss.item());
    optimizer.step();
    model.zeroGrad();
    loss.dispose();
  }
  for (const each of [x, labels, optimizer]) each.dispose();
  return losses;
}

describe("loss and gradients of float64; and steps on a batch make its loss fall", () => {
  const blocks18 = [2, 2, 2, 2];
  const blocks34 = [3, 4, 6, 3];
  const cases: {
    name: string;
    make: (gpu: Gpu) => Module;
    size: number;
    images?: number;
    trains?: boolean;
    logits: (network: ReferenceNetwork, x: Value) => Value;
  }[] = [
    {
      name: "resnet18, cifar",
      trains: true,
      make: () => resnet18(gpu, { images: "cifar", width: 4, classes: 5 }),
      size: 16,
      logits: (network, x) => network.resnet(x, blocks18, "cifar"),
    },
    {
      name: "resnet50",
      make: () => resnet50(gpu, { width: 2, classes: 5 }),
      size: 48,
      logits: (network, x) => network.resnet(x, blocks34, "imagenet"),
    },
    {
      name: "vgg11 with batch-norm, cifar",
      trains: true,
      make: () => vgg11(gpu, { images: "cifar", norm: "batch", width: 2 }),
      size: 32,
      logits: (network, x) => network.vgg(x, [1, 1, 2, 2, 2], "cifar"),
    },
    {
      name: "vgg11",
      make: () => vgg11(gpu, { width: 1, classes: 5, classifierInit: "he" }),
      size: 224,
      images: 1,
      logits: (network, x) => network.vgg(x, [1, 1, 2, 2, 2], "imagenet"),
    },
    {
      name: "mobilenetV2, cifar",
      trains: true,
      make: () => mobilenetV2(gpu, { images: "cifar", widthMult: 0.05, classes: 5 }),
      size: 12,
      logits: (network, x) => network.mobilenetV2(x, [1, 2, 3, 4, 3, 3, 1], [1, 1, 1, 2, 2, 1, 2, 1]),
    },
  ];
  for (const { name, make, size, images = 4, trains = false, logits } of sampled(cases)) {
    it(name, async () => {
      const live = gpu.stats.liveBuffers;
      const shape = [images, size, size, 3];
      const data = normals(images * size * size * 3, 5);
      const labels = Array.from({ length: images }, (_, i) => (3 * i + 1) % 5);
      await withChoices(gpu, QUICK, async () => {
        const model = make(gpu);
        await checkGradients(
          gpu,
          model,
          { data, shape, labels },
          (w) => {
            const tape = new Tape();
            const y = logits(new ReferenceNetwork(tape, w), tape.leaf(shape, data));
            const loss = tape.crossEntropy(y, labels);
            tape.backward(loss, Float64Array.of(1));
            return loss.data[0]!;
          },
          1e-3,
        );
        const losses = trains ? await train(model, { data, shape, labels }, 10) : [1, 0];
        expect(losses.at(-1)!, `${losses}`).toBeLessThan(0.8 * losses[0]!);
        model.dispose();
      });
      expect(gpu.stats.liveBuffers).toBe(live);
    });
  }
});

it("takes another classifier in the place of its own, as PyTorch's networks do, and trains it", async () => {
  const model = resnet18(gpu, { classes: 10, width: 4, images: "cifar" });
  const { fc } = model;
  expect([fc.inFeatures, fc.outFeatures]).toEqual([32, 10]);
  model.freeze();
  model.fc = new Linear(gpu, fc.inFeatures, 3);
  fc.dispose();
  const parameters = model.parameters();
  expect(parameters).toEqual([model.fc.weight, model.fc.bias]);
  const before = await model.stateDict();
  const optimizer = new SGD(parameters, { lr: 0.1 });
  const images = gpu.tensor(normals(2 * 8 * 8 * 3, 5), [2, 8, 8, 3]);
  const labels = gpu.tensor(Uint32Array.of(2, 0), [2], { dtype: "uint32" });
  gpu.scope(() => {
    const logits = model.forward(images);
    expect(logits.shape).toEqual([2, 3]);
    softmaxCrossEntropy(logits, labels).backward();
    optimizer.step();
  });
  const after = await model.stateDict();
  expect(after["fc.weight"]!.shape).toEqual([3, 32]);
  const moved = Object.keys(after).filter(
    (name) => !/running|Tracked/.test(name) && !same(before[name]!, after[name]!),
  );
  expect(moved).toEqual(["fc.weight", "fc.bias"]);
  for (const one of [optimizer, model, images, labels]) one.dispose();
});

it("VGG's classifier says which images it takes", () => {
  const model = vgg11(gpu, { width: 1 });
  const x = gpu.zeros([1, 64, 64, 3]);
  expect(() => gpu.scope(() => model.forward(x))).toThrow(
    /VGG: x is \[1, 64, 64, 3\], the last maps \[1, 2, 2, 8\]; expected maps of 7×7/,
  );
  for (const each of [x, model]) each.dispose();
});
