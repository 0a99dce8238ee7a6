// Networks that leave as ONNX and come back as weights: names and layouts are those of `torchStateDict`, logits the same.

import { beforeAll, describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import {
  add,
  Conv2d,
  ConvTranspose2d,
  Flatten,
  foldBatchNorm,
  fromTorch,
  GroupNorm,
  LayerNorm,
  Linear,
  Module,
  manualSeed,
  mobilenetV2,
  mul,
  noGrad,
  plainCifar,
  preactResnetCifar,
  Random,
  ReLU,
  resnet18,
  resnetCifar,
  Sequential,
  type Tensor,
  torchStateDict,
  vgg11,
  weightNorm,
} from "../../src/index.ts";
import { decodeOnnx, exportOnnx } from "../../src/onnx/index.ts";
import { testGpu } from "../helpers/gpu.ts";

/** Parameters and statistics that are none of those of a new network. */
function roughen(model: Module): Module {
  const random = new Random(11);
  for (const [name, tensor] of model.tensors()) {
    const isVariance = name.endsWith("runningVar");
    const around = isVariance || tensor.rank === 1 ? 1 : 0;
    tensor.write(Float32Array.from({ length: tensor.size }, () => around + random.uniform(-0.3, 0.3)));
  }
  return model.eval();
}

async function logits(model: Module, shape: readonly number[]): Promise<Float32Array> {
  const random = new Random(3);
  const { gpu } = [...model.tensors()][0]![1];
  const whole = [2, ...shape];
  const length = whole.reduce((a, b) => a * b);
  const x = gpu.tensor(
    Float32Array.from({ length }, () => random.normal()),
    whole,
  );
  const y = noGrad(() => gpu.scope(() => gpu.keep(model.forward(x).materialize())));
  const values = (await y.read()) as Float32Array;
  for (const tensor of [x, y]) tensor.dispose();
  expect(values.every(Number.isFinite) && values.some((value) => value !== values[0])).toBe(true);
  return values;
}

/** Parameters of its own, of every rank, that meet maps. */
class Scaled extends Module {
  readonly conv: Conv2d;
  readonly gain: Tensor;
  readonly planes: Tensor;
  readonly whole: Tensor;
  readonly one: Tensor;
  readonly fc: Linear;

  constructor(gpu: Gpu) {
    super();
    const own = (shape: number[]) => {
      const tensor = gpu.keep(gpu.zeros(shape));
      tensor.requiresGrad = true;
      return tensor;
    };
    this.conv = new Conv2d(gpu, 3, 4, 1);
    this.gain = own([4]);
    this.planes = own([2, 3, 4]);
    this.whole = own([1, 2, 1, 4]);
    this.one = own([1]);
    this.fc = new Linear(gpu, 24, 24);
  }

  forward(x: Tensor): Tensor {
    return x.gpu.scope(() => {
      const y = add(mul(mul(this.conv.forward(x), this.gain), this.planes), this.whole);
      const rows = new Flatten().forward(mul(add(y, this.one), this.planes));
      return this.fc.forward(this.fc.forward(rows)); // twice: one initialiser
    });
  }
}

const small = { images: "cifar", width: 4 } as const;
const cases: Record<string, { make: (gpu: Gpu, seed: number) => Module; shape: number[] }> = {
  resnet18: { make: (gpu, seed) => resnet18(gpu, { ...small, seed }), shape: [8, 8, 3] },
  "vgg11 with batch-norm": {
    make: (gpu, seed) => vgg11(gpu, { ...small, norm: "batch", seed }),
    shape: [32, 32, 3],
  },
  vgg11: { make: (gpu, seed) => vgg11(gpu, { ...small, seed }), shape: [32, 32, 3] },
  mobilenetV2: {
    make: (gpu, seed) => mobilenetV2(gpu, { images: "cifar", widthMult: 0.25, seed }),
    shape: [32, 32, 3],
  },
  resnetCifar: { make: (gpu, seed) => resnetCifar(gpu, { depth: 8, width: 6, seed }), shape: [15, 17, 3] },
  "resnetCifar with Fixup's scalars": {
    make: (gpu, seed) => resnetCifar(gpu, { depth: 8, width: 6, norm: "fixup", seed }),
    shape: [15, 17, 3],
  },
  "resnetCifar with group norm": {
    make: (gpu, seed) => resnetCifar(gpu, { depth: 8, width: 8, norm: "group", seed }),
    shape: [15, 17, 3],
  },
  preactResnetCifar: { make: (gpu, seed) => preactResnetCifar(gpu, { depth: 8, seed }), shape: [8, 9, 3] },
  plainCifar: { make: (gpu, seed) => plainCifar(gpu, { depth: 8, width: 8, seed }), shape: [20, 24, 3] },
  "layers in a row": {
    make: (gpu, seed) => {
      manualSeed(seed);
      return new Sequential(
        new Conv2d(gpu, 4, 6, [3, 2], { groups: 2 }),
        new GroupNorm(gpu, 3, 6),
        new ConvTranspose2d(gpu, 6, 4, [2, 3], { stride: 2, groups: 2 }),
        new LayerNorm(gpu, 4),
        new ReLU(),
        new Flatten(),
        new Linear(gpu, 8 * 11 * 4, 5, { bias: false }),
      );
    },
    shape: [6, 6, 4],
  },
  "parameters that meet maps": {
    make: (gpu, seed) => {
      manualSeed(seed);
      return new Scaled(gpu);
    },
    shape: [2, 3, 3],
  },
};

const isCount = (name: string) => /num_?[bB]atches_?[tT]racked$/.test(name);

let gpu: Gpu;
beforeAll(async () => {
  gpu = await testGpu();
});

describe("exportOnnx, decodeOnnx, fromTorch", () => {
  it.each(Object.entries(cases))("%s comes back with equal logits", async (_, { make, shape }) => {
    const before = gpu.stats.liveBuffers;
    const [model, other] = [roughen(make(gpu, 1)), make(gpu, 2).eval()];
    const { tensors } = await decodeOnnx(await exportOnnx(model, { shape }), "own.onnx");
    const state = await torchStateDict(model);
    for (const name of Object.keys(state)) if (isCount(name)) delete state[name];
    expect(
      Object.keys(tensors)
        .filter((name) => !/^constant_\d+$/.test(name))
        .sort(),
    ).toEqual(Object.keys(state).sort());
    for (const [name, { shape: dims, data }] of Object.entries(state)) {
      expect([name, tensors[name]!.shape]).toEqual([name, dims]);
      expect(tensors[name]!.data, name).toEqual(data);
    }
    const report = other.loadStateDict(fromTorch(other, tensors), { strict: false });
    expect(report.missing.filter((name) => !isCount(name))).toEqual([]);
    expect(report).toMatchObject({ mismatched: [] });
    expect(report.hint).toBeUndefined();
    expect(await logits(other, shape)).toEqual(await logits(model, shape));
    for (const one of [model, other]) one.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("has the columns of flattened maps in PyTorch's order, if they are told", async () => {
    const make = () =>
      new Sequential(new Conv2d(gpu, 2, 3, 1), new Flatten(), new Linear(gpu, 60, 4), new Linear(gpu, 4, 3));
    const [model, other] = [roughen(make()), make()];
    const shape = [4, 5, 2];
    const flattened = { "2": [4, 5] } as const;
    const file = await exportOnnx(model, { shape, flattened });
    const { tensors } = await decodeOnnx(file, "own.onnx");
    const state = await torchStateDict(model, { flattened });
    for (const [name, { data }] of Object.entries(state)) expect(tensors[name]!.data, name).toEqual(data);
    other.loadStateDict(fromTorch(other, tensors, { flattened }));
    expect(await logits(other, shape)).toEqual(await logits(model, shape));
    // The graph computes with the columns as they are in the file.
    const { InferenceSession, Tensor: OrtTensor } = await import("onnxruntime-web");
    const session = await InferenceSession.create(file);
    const random = new Random(3);
    const x = Float32Array.from({ length: 2 * 40 }, () => random.normal());
    const turned = Float32Array.from(x, (_, at) => {
      const [n, c, p] = [Math.floor(at / 40), Math.floor(at / 20) % 2, at % 20];
      return x[n * 40 + p * 2 + c]!;
    });
    const { output } = await session.run({ input: new OrtTensor("float32", turned, [2, 2, 4, 5]) });
    await session.release();
    const here = await logits(model, shape);
    const there = output!.data as Float32Array;
    for (const [i, value] of here.entries()) expect(Math.abs(value - there[i]!)).toBeLessThan(1e-5);

    await expect(exportOnnx(model, { shape, flattened: { "2": [5, 4] } })).rejects.toThrow(
      /flattened says that 2.weight takes maps of 5×4, but its input is of maps \[4, 5, 3\]; expected the sizes/,
    );
    await expect(exportOnnx(model, { shape, flattened: { "3": [2, 2] } })).rejects.toThrow(
      /flattened says that 3.weight takes maps of 2×2, but its input is not what flatten gave/,
    );
    for (const one of [model, other]) one.dispose();
  });

  it("of a folded network goes into a folded one, and says so to others", async () => {
    const makes = [
      () => resnet18(gpu, { ...small, seed: 5 }),
      () => vgg11(gpu, { ...small, norm: "batch", seed: 5 }),
      () => preactResnetCifar(gpu, { depth: 8, seed: 5 }),
    ];
    for (const make of makes) {
      const shape = [32, 32, 3];
      const model = roughen(make());
      const unfolded = (await decodeOnnx(await exportOnnx(model, { shape }), "own.onnx")).tensors;
      const { folded } = foldBatchNorm(model);
      const { tensors } = await decodeOnnx(await exportOnnx(model, { shape }), "folded.onnx");
      const other = make().eval();
      const state = fromTorch(other, tensors);
      const said = /the batch-norm \S+ is folded into \S+ there.*no --fold.*foldBatchNorm\(model.eval\(\)\)/;
      expect(() => other.loadStateDict(state)).toThrow(said);
      expect(() => other.loadStateDict(state)).toThrow(/missing .*\.running/);
      expect(other.loadStateDict(state, { strict: false }).hint).toMatch(said);
      expect(foldBatchNorm(other).folded).toEqual(folded);
      const report = other.loadStateDict(fromTorch(other, tensors), { strict: false });
      expect(report.missing.filter((name) => !isCount(name))).toEqual([]);
      expect(report.hint).toBeUndefined();
      expect(await logits(other, shape)).toEqual(await logits(model, shape));
      // The other way round.
      const wrong = other.loadStateDict(fromTorch(other, unfolded), { strict: false });
      expect(wrong.hint).toMatch(
        /batch-norms seem to be folded, the state has .*load the state before foldBatchNorm/,
      );
      for (const one of [model, other]) one.dispose();
    }
  });

  it("gives no hint where a new batch-norm is what the state lacks by right, and keeps names apart", async () => {
    const plain = new Sequential(new Conv2d(gpu, 2, 3, 1), new ReLU());
    const model = new Sequential(new Conv2d(gpu, 2, 3, 1), new ReLU(), new Linear(gpu, 3, 2));
    const report = model.loadStateDict(await plain.stateDict(), { strict: false });
    expect(report.hint).toBeUndefined();
    const named = new Scaled(gpu).eval();
    const { shape } = cases["parameters that meet maps"]!;
    for (const [option, name] of [
      ["inputName", "fc.bias"],
      ["outputName", "one"],
    ] as const) {
      await expect(exportOnnx(named, { shape, [option]: name })).rejects.toThrow(
        new RegExp(
          `${option} is "${name}", which is the name of one of the model's tensors; expected another`,
        ),
      );
    }
    // A weight that is worked out has no name; what it is worked out of is missing then.
    const normed = new Sequential(weightNorm(new Conv2d(gpu, 2, 3, 1))).eval();
    const { tensors } = await decodeOnnx(await exportOnnx(normed, { shape: [4, 4, 2] }), "own.onnx");
    expect(normed.loadStateDict(fromTorch(normed, tensors), { strict: false }).missing).toEqual([
      "layers.0.parametrizations.weight.original0",
      "layers.0.parametrizations.weight.original1",
    ]);
    for (const one of [plain, model, named, normed]) one.dispose();
  });
});
