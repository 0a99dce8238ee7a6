// What every module can do: hooks on its forward, freezing, applying a function, a summary.

import { describe, expect, it } from "vitest";
import { checkpoint } from "../../src/autograd/checkpoint.ts";
import { torchStateDict } from "../../src/formats/torch.ts";
import {
  BatchNorm2d,
  Conv2d,
  Flatten,
  GlobalAvgPool2d,
  Linear,
  ReLU,
  Sequential,
} from "../../src/nn/layers.ts";
import { resnetCifar } from "../../src/nn/models/resnet.ts";
import { Module } from "../../src/nn/module.ts";
import { weightNorm } from "../../src/nn/weight-norm.ts";
import { relu } from "../../src/ops/activations.ts";
import { mul, scale } from "../../src/ops/elementwise/elementwise.ts";
import { decayGroups } from "../../src/optim/groups.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { Random } from "../../src/tensor/random.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { probe } from "../../src/train/probes.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";

const gpu = await testGpu();

const SHAPE = [2, 6, 6, 3];

function network(): Sequential {
  const random = new Random(5);
  return new Sequential(
    new Conv2d(gpu, 3, 8, 3, { padding: 1, bias: false, random }),
    new BatchNorm2d(gpu, 8),
    new ReLU(),
    new GlobalAvgPool2d(),
    new Flatten(),
    new Linear(gpu, 8, 4, { random }),
  );
}

const input = () => gpu.tensor(normals(72 * 3, 1), SHAPE);

describe("registerForwardHook", () => {
  it("shows what a layer got and gave, in the order of the layers, until it is removed", async () => {
    const model = network();
    const x = input();
    const seen: string[] = [];
    const [conv, norm, activation] = model.layers as [Conv2d, BatchNorm2d, ReLU];
    let normed: Tensor | null = null;
    const removers = [conv, norm, activation].map((layer) =>
      layer.registerForwardHook((module, before, after) => {
        expect(module).toBe(layer);
        seen.push(`${module.constructor.name} ${before.shape} ${after.shape}`);
        if (module === norm) normed = gpu.keep(after.alias());
        if (module === activation) expect(before.shape).toEqual(after.shape);
        return undefined;
      }),
    );
    const y = gpu.scope(() => model.forward(x));
    const all = ["Conv2d 2,6,6,3 2,6,6,8", "BatchNorm2d 2,6,6,8 2,6,6,8", "ReLU 2,6,6,8 2,6,6,8"];
    expect(seen).toEqual(all);
    // Without the ReLU, which a batch-norm that nobody looks at does in the same pass.
    expect(Math.min(...(await normed!.read()))).toBeLessThan(-0.5);
    removers[1]!();
    removers[1]!();
    gpu.scope(() => void model.forward(x));
    expect(seen.slice(3)).toEqual([all[0], all[2]]);
    for (const remove of removers) remove();
    expect(Object.hasOwn(conv, "forward")).toBe(false);
    const plain = gpu.scope(() => model.forward(x));
    expect(seen).toHaveLength(5);
    expect(relativeError(await plain.read(), await y.read())).toBeLessThan(1e-6);
    for (const each of [x, y, plain, normed!, model]) (each as { dispose(): void }).dispose();
  });

  it("puts what a hook returns in the output's place, hook after hook, and gives the output back", async () => {
    const live = gpu.stats.liveBuffers;
    const layer = new Linear(gpu, 3, 2, { random: new Random(1) });
    const x = gpu.tensor(normals(12, 1), [4, 3], { requiresGrad: true });
    const plain = layer.forward(x);
    const removers = [2, 3].map((factor) => layer.registerForwardHook((_module, _x, y) => scale(y, factor)));
    const y = layer.forward(x);
    expect(
      relativeError(
        await y.read(),
        (await plain.read()).map((v) => 6 * v),
      ),
    ).toBeLessThan(1e-6);
    gpu.scope(() => y.backward(gpu.full([4, 2], 1)));
    const weight = await layer.weight.read();
    const columns = Array.from({ length: 12 }, (_, i) => 6 * (weight[i % 3]! + weight[3 + (i % 3)]!));
    expect(relativeError(await x.grad!.read(), columns)).toBeLessThan(1e-6);
    removers[0]!();
    const [third] = [layer.forward(x)];
    expect(
      relativeError(
        await third!.read(),
        (await plain.read()).map((v) => 3 * v),
      ),
    ).toBeLessThan(1e-6);
    const wrong = layer.registerForwardHook((() => 3) as never);
    expect(() => gpu.scope(() => layer.forward(x))).toThrow(
      /registerForwardHook: what the hook returned is 3; expected a Tensor/,
    );
    wrong();
    for (const each of [x, plain, y, third!, layer]) each.dispose();
    expect(gpu.stats.liveBuffers).toBe(live);
  });

  it("outlives a probe of the same layer, and works on a forward of the module's own", async () => {
    const model = network();
    const x = input();
    let calls = 0;
    const remove = model.layers[0]!.registerForwardHook(() => {
      calls += 1;
      return undefined;
    });
    await probe.activations(model, x);
    const during = calls;
    expect(during).toBeGreaterThan(0);
    gpu.scope(() => void model.forward(x));
    expect(calls).toBe(during + 1);
    remove();
    class Own extends Module {
      override forward = (input: Tensor) => relu(input);
    }
    const own = new Own();
    const stop = own.registerForwardHook((_module, _x, y) => scale(y, 2));
    const doubled = own.forward(x);
    stop();
    const plain = own.forward(x);
    expect(
      relativeError(
        await doubled.read(),
        (await plain.read()).map((v) => 2 * v),
      ),
    ).toBe(0);
    for (const each of [x, doubled, plain, model]) each.dispose();
  });
});

describe("freeze and apply", () => {
  it("leaves frozen parameters as they are, and their names where they were", async () => {
    const model = network();
    const names = Object.keys(await model.stateDict());
    const [conv, norm] = model.layers as [Conv2d, BatchNorm2d];
    conv.freeze();
    norm.freeze();
    expect(model.namedParameters().map(([name]) => name)).toEqual(["layers.5.weight", "layers.5.bias"]);
    const optimizer = new SGD(model.parameters(), { lr: 0.1 });
    const before = await model.stateDict();
    const x = input();
    gpu.scope(() => model.forward(x).backward(gpu.full([2, 4], 1)));
    expect(conv.weight.grad).toBe(null);
    optimizer.step();
    const after = await model.stateDict();
    expect(Object.keys(after)).toEqual(names);
    const moved = names.filter((name) => relativeError(after[name]!.data, before[name]!.data) > 0);
    expect(moved.sort()).toEqual([
      ...["layers.1.numBatchesTracked", "layers.1.runningMean", "layers.1.runningVar"],
      ...["layers.5.bias", "layers.5.weight"],
    ]);
    model.freeze(false);
    expect(model.namedParameters()).toHaveLength(5); // not the running statistics
    model.freeze();
    expect(model.parameters()).toEqual([]);
    for (const each of [x, optimizer, model]) each.dispose();
  });

  it("names a parameter once that two layers share", () => {
    const model = new Sequential(new Linear(gpu, 3, 3), new Linear(gpu, 3, 3));
    const [first, second] = model.layers as [Linear, Linear];
    second.weight.dispose();
    second.weight = first.weight;
    expect(model.namedParameters().map(([name]) => name)).toEqual([
      ...["layers.0.weight", "layers.0.bias", "layers.1.bias"],
    ]);
    const optimizer = new SGD(decayGroups(model), { lr: 1 });
    expect(optimizer.paramGroups.map(({ params }) => params.length)).toEqual([1, 2]);
    for (const one of [optimizer, model]) one.dispose();
  });

  it("finds layers and parameters in arrays and objects, however deep, and gives each its name", async () => {
    class Deep extends Module {
      readonly heads = { left: new Linear(gpu, 3, 2), right: [new Linear(gpu, 3, 1), new ReLU()] };
      readonly scales = [1, 2].map((value) => {
        const tensor = gpu.keep(gpu.full([1], value));
        tensor.requiresGrad = true;
        return tensor;
      });
      readonly stages = [[new Linear(gpu, 3, 3)], []];
      readonly options: Record<string, unknown> = { sizes: [1, 2], none: null };

      constructor() {
        super();
        this.options.self = this.options; // a circle
      }

      forward(x: Tensor): Tensor {
        return this.heads.left.forward(mul(this.stages[0]![0]!.forward(x), this.scales[1]!));
      }
    }
    const names = [
      ...["scales.0", "scales.1", "heads.left.weight", "heads.left.bias", "heads.right.0.weight"],
      ...["heads.right.0.bias", "stages.0.0.weight", "stages.0.0.bias"],
    ];
    const [model, other] = [new Deep(), new Deep()];
    expect(model.namedParameters().map(([name]) => name)).toEqual(names);
    expect(Object.keys(await model.stateDict())).toEqual(names);
    expect(Object.keys(await torchStateDict(model))).toEqual(names);
    other.loadStateDict(await model.stateDict());
    expect(await other.stateDict()).toEqual(await model.stateDict());
    model.eval();
    expect([model.heads.right[1]!.training, model.stages[0]![0]!.training]).toEqual([false, false]);
    expect(`${model}`).toContain("(heads.right.0): Linear(weight [1, 3], bias [1])");
    model.heads.left.freeze();
    expect(model.parameters()).toHaveLength(6);
    const before = gpu.stats.liveBuffers;
    for (const one of [model, other]) one.dispose();
    expect(gpu.stats.liveBuffers).toBe(before - 16);
  });

  it("gives layers of a network of one's own their places, in profiles and hooks", () => {
    class Own extends Module {
      readonly body = new Sequential(new Linear(gpu, 3, 3), new ReLU());
      readonly heads = { left: new Linear(gpu, 3, 2) };

      forward(x: Tensor): Tensor {
        return this.heads.left.forward(this.body.forward(x));
      }
    }
    const model = new Own();
    const first = model.body.layers[0];
    expect(first.path).toBe("layers.0");
    model.parameters();
    const paths = () => [first.path, model.body.path, model.heads.left.path, model.path];
    expect(paths()).toEqual(["body.layers.0", "body", "heads.left", ""]);
    model.body.eval(); // a part of it does not take them away
    expect(paths()).toEqual(["body.layers.0", "body", "heads.left", ""]);
    const x = gpu.zeros([2, 3]);
    const notes = gpu.explain(() => gpu.scope(() => void model.forward(x).materialize()));
    const layers = new Set(notes.map(({ layer }) => layer));
    expect([layers.has("body.layers.0"), layers.has("heads.left"), layers.has("layers.0")]).toEqual([
      ...[true, true, false],
    ]);
    for (const one of [x, model]) one.dispose();
  });

  it("visits children before their parents", () => {
    const model = new Sequential(new Sequential(new ReLU(), new Flatten()), new ReLU());
    const seen: Module[] = [];
    expect(model.apply((module) => void seen.push(module))).toBe(model);
    const inner = model.layers[0] as Sequential;
    expect(seen).toEqual([...inner.layers, inner, model.layers[1], model]);
  });
});

describe("summary", () => {
  it("counts, names and measures, and leaves no trace", async () => {
    const model = network();
    const before = await model.stateDict();
    const x = input();
    gpu.scope(() => model.forward(x).backward(gpu.full([2, 4], 1)));
    const state = await model.stateDict();
    expect(relativeError(state["layers.1.runningMean"]!.data, before["layers.1.runningMean"]!.data)).not.toBe(
      0,
    );
    const grad = await (model.layers[0] as Conv2d).weight.grad!.read();
    const live = gpu.stats.liveBuffers;
    const summary = model.summary([4, 9, 7, 3]);
    expect(gpu.stats.liveBuffers).toBe(live);
    expect(await (model.layers[0] as Conv2d).weight.grad!.read()).toEqual(grad);
    expect(await model.stateDict()).toEqual(state);
    expect(model.layers[0]!.path).toBe("layers.0");

    const rows = summary.layers.map(({ name, kind, output, parameters, flop }) => [
      ...[name, kind, output.join("×"), parameters, flop],
    ]);
    expect(rows).toEqual([
      ["layers.0", "Conv2d", "4×9×7×8", 216, 2 * 4 * 9 * 7 * 8 * 27],
      ["layers.1", "BatchNorm2d", "4×9×7×8", 16, 0],
      ["layers.2", "ReLU", "4×9×7×8", 0, 0],
      ["layers.3", "GlobalAvgPool2d", "4×8", 0, 0],
      ["layers.4", "Flatten", "4×8", 0, 0],
      ["layers.5", "Linear", "4×4", 36, 2 * 4 * 4 * 8],
    ]);
    expect(summary.parameters).toBe(268);
    expect(summary.flop).toBe(2 * 4 * 9 * 7 * 8 * 27 + 256);
    // What the convolution gave has to be there in backward, the normalised elements not.
    expect(summary.bytes).toBeGreaterThan(4 * 4 * 9 * 7 * 8);
    expect(summary.bytes).toBeLessThan(2 * 4 * 4 * 9 * 7 * 8);
    expect(summary.layers[2]!.folded).toEqual(["not run by itself"]);
    const inference = model.eval().summary([4, 9, 7, 3]);
    expect(inference.bytes).toBeLessThan(1000);
    expect(inference.layers[0]!.kernels).toHaveLength(1);
    for (const each of [x, model]) each.dispose();
  });

  it("tells what is folded", () => {
    const random = new Random(5);
    const model = new Sequential(
      new Conv2d(gpu, 4, 8, 3, { padding: 1, bias: false, random }),
      new BatchNorm2d(gpu, 8),
      new ReLU(),
      new Conv2d(gpu, 8, 8, 3, { padding: 1, random }),
    );
    const choices = ["conv2d.forward.output", "conv2d.grad_input.output", "conv2d.forward.input"];
    for (const choice of choices) gpu.variants.force(choice, "fused");
    try {
      const { layers } = model.summary([2, 32, 32, 4]);
      expect(layers[0]!.folded).toEqual(["statistics"]);
      expect(layers[3]!.folded).toEqual(["x_affine", "gradient_sums"]);
      // Which leaves the running statistics alone.
      expect(layers[1]!.kernels).toContain("batch_norm.finalize_folded");
    } finally {
      for (const choice of choices) gpu.variants.force(choice, null);
    }
    model.dispose();
  });

  it("counts what a weight is worked out of, frozen parameters, and those of composite modules", () => {
    const layer = weightNorm(new Linear(gpu, 8, 4, { random: new Random(1) }));
    expect(layer.summary([3, 8])).toMatchObject({ parameters: 4 + 4 + 32, flop: 2 * 3 * 4 * 8 });
    const model = resnetCifar(gpu, { depth: 8, width: 4, norm: "fixup" });
    model.blocks[0]!.freeze();
    const summary = model.summary([2, 8, 8, 3]);
    const total = [...model.tensors()].reduce((sum, [, { size }]) => sum + size, 0);
    expect(summary.parameters).toBe(total);
    expect(summary.layers.reduce((sum, { parameters }) => sum + parameters, 0)).toBe(total);
    expect(summary.trainable).toBe(total - 2 * 9 * 16 - 5);
    for (const each of [layer, model]) each.dispose();
    expect(() => new ReLU().summary([1])).toThrow(/summary: the module has no parameters/);
  });

  it("counts a layer once that backward runs again", () => {
    const [first, second] = [1, 2].map((seed) => new Linear(gpu, 5, 5, { random: new Random(seed) }));
    class Checkpointed extends Module {
      readonly first = first!;
      readonly second = second!;
      override forward(x: Tensor): Tensor {
        return checkpoint((y) => this.second.forward(relu(this.first.forward(y))), x);
      }
    }
    const model = new Checkpointed();
    expect(model.summary([4, 5]).layers.map(({ name, flop }) => [name, flop])).toEqual([
      ["first", 200],
      ["second", 200],
    ]);
    model.dispose();
  });

  it("is a table for wide and narrow terminals", () => {
    const model = resnetCifar(gpu, { depth: 8, width: 4, shortcut: "projection" });
    const summary = model.summary([2, 16, 16, 3]);
    for (const columns of [60, 80, 120]) {
      const lines = summary.table(columns).split("\n");
      expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(columns);
      expect(lines.filter((line) => line.includes("second.conv"))).toHaveLength(3);
    }
    const wide = summary.table(120).split("\n");
    expect(wide[0]).toMatch(/^layer +output +parameters +FLOP +bytes held +folded$/);
    expect(wide[2]).toMatch(/^stem\.conv +Conv2d +2×16×16×4 +108 +111 k +/);
    expect(wide.at(-1)).toMatch(/^total +5,\d{3} +\d/);
    expect(wide).toHaveLength(4 + summary.layers.length);
    expect(String(summary)).toBe(summary.table(100));
    model.dispose();
  });
});
