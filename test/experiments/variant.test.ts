// Runs with other networks, and with longer trainings: which cells they have, and that these run.

import { beforeAll, describe, expect, it } from "vitest";
import { imageDataset } from "../../src/data/dataset.ts";
import { listCells } from "../../src/experiments/cells.ts";
import { PRESETS } from "../../src/experiments/experiment.ts";
import { EXPERIMENTS, selectExperiments } from "../../src/experiments/index.ts";
import { convolutionNames, freshNetwork, type NetworkSettings } from "../../src/experiments/setup.ts";
import { checkVariant, RUN_NETWORKS, variantOf, vary, withNetworkOf } from "../../src/experiments/variant.ts";
import { forwardFlop, VGG_STAGES } from "../../src/experiments/work.ts";
import { type Gpu, noGrad, Random } from "../../src/index.ts";
import { Conv2d } from "../../src/nn/layers.ts";
import { testGpu } from "../helpers/gpu.ts";

const random = new Random(5);
const split = (count: number) =>
  imageDataset({
    ...{ name: "noise", height: 32, width: 32, channels: 3 },
    images: Uint8Array.from({ length: count * 3072 }, () => Math.floor(256 * random.uniform())),
    labels: Uint8Array.from({ length: count }, (_, i) => i % 3),
    classNames: ["a", "b", "c"],
  });
const data = { train: split(40), test: split(6) };
const base: NetworkSettings = {
  ...{ norm: "batch", shortcut: "projection", depth: 20, width: 4, batchSize: 6, shrink: 1 },
};

describe("a run's variant", () => {
  it("changes no cell of the paper's network", () => {
    for (const preset of PRESETS) {
      const usual = listCells(EXPERIMENTS, { preset, seeds: 2 });
      expect(
        listCells(EXPERIMENTS, { preset, seeds: 2, ...variantOf({ network: "resnetCifar", longer: 1 }) }),
      ).toEqual(usual);
      for (const { configuration } of usual) expect(configuration).not.toHaveProperty("network");
    }
  });

  it("gives every cell its network, each once, and those alone that the network can have", () => {
    for (const network of RUN_NETWORKS.slice(1)) {
      for (const preset of PRESETS) {
        const cells = listCells(EXPERIMENTS, { preset, seeds: 1, network });
        const names = cells.map(
          ({ configuration: { measure, label }, seed }) => `${measure} ${label} ${seed}`,
        );
        expect(new Set(names).size).toBe(names.length);
        const networks = cells.map(({ configuration }) => configuration as unknown as NetworkSettings);
        const norms = new Set(networks.map(({ norm }) => norm).filter(Boolean));
        expect(
          networks.every((settings) => settings.norm === undefined || settings.network === network),
        ).toBe(true);
        if (network.startsWith("vgg")) {
          expect([...norms].sort()).toEqual(["batch", "none"]);
          expect(networks.every(({ shrink = 1 }) => shrink === 1)).toBe(true);
        } else {
          expect(norms.has("fixup")).toBe(false);
          expect(norms.has("skipinit")).toBe(network === "preactResnetCifar");
          expect(norms.has("last")).toBe(true);
        }
      }
    }
  });

  it("makes trainings longer, and nothing else", () => {
    const configurations = selectExperiments(["learning-rates"])[0]!.configurations("quick");
    const longer = vary(configurations, { longer: 10 });
    for (const [i, before] of configurations.entries()) {
      const [a, b] = [before, longer[i]!] as unknown as { role: string; steps: number; label: string }[];
      expect(b!.steps).toBe(a!.role === "train" ? 10 * a!.steps : a!.steps);
      expect(b!.label).toBe(a!.label.replace(/steps \d+$/, `steps ${b!.steps}`));
    }
  });

  it("refuses images that five pools leave nothing of", () => {
    expect(() => checkVariant({ network: "vgg16" }, { height: 28, width: 28, channels: 1 })).toThrow(
      /--network vgg16, images of 28×28; expected at least 32×32 pixels/,
    );
    for (const network of RUN_NETWORKS) checkVariant({ network }, data.train);
    checkVariant({ network: "plainCifar" }, { height: 28, width: 28, channels: 1 });
  });
});

describe("each network", () => {
  let gpu: Gpu;
  beforeAll(async () => {
    gpu = await testGpu();
  });

  it.each([...RUN_NETWORKS])("%s has the depth and the work that its cells say", (network) => {
    const settings = withNetworkOf(base, variantOf({ network }))!;
    const model = freshNetwork(gpu, data, settings, 1);
    const convolutions = [...model.modules()].filter(([, module]) => module instanceof Conv2d);
    expect(convolutionNames(model)).toHaveLength(settings.depth - 1);
    let flop = 0;
    const handles = convolutions.map(([, module]) => {
      const conv = module as Conv2d;
      const forward = conv.forward.bind(conv);
      conv.forward = ((x, ...more) => {
        const y = forward(x, ...more);
        const [, kh, kw, from] = conv.weight.shape as [number, number, number, number];
        flop += 2 * kh * kw * from * (y.size / 6);
        return y;
      }) as typeof conv.forward;
      return () => {
        conv.forward = forward;
      };
    });
    noGrad(() => gpu.scope(() => void model.forward(gpu.zeros([6, 32, 32, 3]))));
    for (const restore of handles) restore();
    if (flop > 0) expect(forwardFlop(settings, data.train) / flop).toBeCloseTo(1, 6);
    if (network in VGG_STAGES) expect(flop).toBeGreaterThan(0);
    model.dispose();
  });

  it.each(["plainCifar", "vgg11"] as const)("%s is trained and looked at", async (network) => {
    const ids = [
      "learning-rates",
      "gradient-histogram",
      "loss-landscape",
      "moments-by-depth",
      "gradient-alignment",
    ];
    for (const experiment of selectExperiments([...ids, "logit-gradients"])) {
      const measured = new Map(experiment.measurements.map((measurement) => [measurement.id, measurement]));
      const configurations = vary(experiment.configurations("first-look"), { network });
      const cells = [];
      for (const configuration of new Map(
        configurations.map((each) => [`${each.measure} ${"norm" in each ? each.norm : ""}`, each]),
      ).values()) {
        const small = {
          ...configuration,
          width: 2,
          ...("batchSize" in configuration ? { batchSize: 4 } : {}),
        };
        if ("depth" in small && network === "plainCifar") small.depth = 8;
        if ("steps" in small) small.steps = 2;
        if ("alphas" in small) small.alphas = [1e-3, 0.1];
        const measurement = measured.get(configuration.measure)!;
        const result = await measurement.run({ gpu, data, onPoint: () => {} }, small, 0);
        expect(measurement.work(small, data.train).flop).toBeGreaterThan(0);
        cells.push({ configuration: small, seed: 0, seconds: 1, data: result });
      }
      const findings = experiment.verdict(cells as never);
      expect(findings.length).toBeGreaterThan(0);
      await experiment.exhibit(cells as never);
      if (experiment.id === "moments-by-depth") {
        expect(findings[1]).toMatchObject({
          measured: expect.stringMatching(/layers .*102: the network has fewer/),
        });
        if (network === "vgg11") {
          expect(findings[2]).toMatchObject({
            measured: expect.stringMatching(/vgg11 has none/),
            verdict: "inconclusive",
          });
        }
      }
    }
  });
});
