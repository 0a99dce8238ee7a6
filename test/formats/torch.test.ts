import { describe, expect, it } from "vitest";
import { decodeSafetensors, encodeSafetensors } from "../../src/formats/safetensors.ts";
import { fromTorch, torchStateDict } from "../../src/formats/torch.ts";
import { BatchNorm2d, Conv2d, Flatten, Linear, Sequential } from "../../src/nn/layers.ts";
import { resnet18 } from "../../src/nn/models/resnet-imagenet.ts";
import type { StateDict } from "../../src/nn/module.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { owner } from "../helpers/owner.ts";

const { owned } = owner();

const floats = (shape: number[], data: ArrayLike<number>): StateDict[string] => ({
  ...{ shape, dtype: "float32" },
  data: Float32Array.from(data),
});

/** conv → norm → flatten → linear over 3×2 maps of 4 channels, and its state as PyTorch has it. */
async function network() {
  const gpu = await testGpu();
  const model = owned(
    new Sequential(new Conv2d(gpu, 3, 4, 2), new BatchNorm2d(gpu, 4), new Flatten(), new Linear(gpu, 24, 5)),
  );
  const state: StateDict = {
    "0.weight": floats([4, 3, 2, 2], normals(48, 1)),
    "0.bias": floats([4], normals(4, 2)),
    "1.weight": floats([4], normals(4, 3)),
    "1.bias": floats([4], normals(4, 4)),
    "1.running_mean": floats([4], normals(4, 5)),
    "1.running_var": floats([4], normals(4, 6).map(Math.abs)),
    "1.num_batches_tracked": { shape: [], dtype: "uint32", data: Uint32Array.of(17) },
    "3.weight": floats([5, 24], normals(120, 7)),
    "3.bias": floats([5], normals(5, 8)),
  };
  return { gpu, model, state, options: { flattened: { "3": [3, 2] as const } } };
}

describe("PyTorch's state dictionaries", () => {
  it("give a network that computes what PyTorch's does, in its layout", async () => {
    const { gpu, model, state, options } = await network();
    expect(model.loadStateDict(fromTorch(model, state, options))).toEqual({
      ...{ missing: [], unexpected: [], mismatched: [] },
    });
    expect(await (model.layers[1] as BatchNorm2d).numBatchesTracked!.item()).toBe(17);
    // [N, C, H, W] in float64, with the state as PyTorch has it.
    const x = normals(3 * 4 * 3, 9);
    const at = (c: number, h: number, w: number) => x[(c * 4 + h) * 3 + w]!;
    const of = (name: string, i: number) => state[name]!.data[i]!;
    const maps: number[] = [];
    for (let k = 0; k < 4; k += 1) {
      for (let p = 0; p < 3; p += 1) {
        for (let q = 0; q < 2; q += 1) {
          let sum = of("0.bias", k);
          for (let c = 0; c < 3; c += 1) {
            for (let r = 0; r < 2; r += 1) {
              for (let s = 0; s < 2; s += 1) {
                sum += at(c, p + r, q + s) * of("0.weight", ((k * 3 + c) * 2 + r) * 2 + s);
              }
            }
          }
          const normal = (sum - of("1.running_mean", k)) / Math.sqrt(of("1.running_var", k) + 1e-5);
          maps.push(normal * of("1.weight", k) + of("1.bias", k));
        }
      }
    }
    const expected = Array.from({ length: 5 }, (_, j) =>
      maps.reduce((sum, value, i) => sum + value * of("3.weight", j * 24 + i), of("3.bias", j)),
    );
    const nhwc = Array.from({ length: 36 }, (_, i) => at(i % 3, Math.floor(i / 9), Math.floor(i / 3) % 3));
    const images = owned(gpu.tensor(nhwc, [1, 4, 3, 3]));
    const y = owned(model.eval().forward(images));
    expect(relativeError(await y.read(), expected)).toBeLessThan(1e-5);
  });

  it("go out as they came in, through a file", async () => {
    const { model, state, options } = await network();
    model.loadStateDict(fromTorch(model, state, options));
    const out = await torchStateDict(model, options);
    const count = "1.num_batches_tracked";
    expect(out).toEqual({ ...state, [count]: floats([], [17]) });
    const storeAs = (name: string) => (name === count ? "I64" : undefined);
    const file = encodeSafetensors(out, { storeAs, metadata: { format: "pt" } });
    const { tensors } = decodeSafetensors(file, "f");
    expect(tensors[count]).toEqual({ ...state[count], stored: "I64" });
    const before = await model.stateDict();
    model.loadStateDict(fromTorch(model, tensors, options));
    expect(await model.stateDict()).toEqual(before);
  });

  it("have torchvision's names for a ResNet-18, and filters in OIHW", async () => {
    const gpu = await testGpu();
    const model = owned(resnet18(gpu, { width: 4, classes: 3 }));
    const names = Object.entries(await torchStateDict(model));
    const shapes = new Map(names.map(([name, { shape }]) => [name, shape]));
    expect(shapes.get("conv1.weight")).toEqual([4, 3, 7, 7]);
    expect(shapes.get("layer2.0.downsample.0.weight")).toEqual([8, 4, 1, 1]);
    expect(shapes.get("layer1.1.bn2.running_var")).toEqual([4]);
    expect(shapes.get("bn1.num_batches_tracked")).toEqual([]);
    expect(shapes.get("fc.weight")).toEqual([3, 32]);
    expect(shapes.size).toBe(122); // as torchvision's
  });

  it("report what does not fit, and load the rest", async () => {
    const { model, state, options } = await network();
    const { "0.bias": _, ...without } = state;
    const odd = {
      ...without,
      "3.weight": floats([7, 24], normals(168, 1)),
      "3.bias": { ...state["3.bias"]!, dtype: "int4" as never },
      "aux.weight": floats([1], [1]),
    };
    const before = await model.stateDict();
    const theirs = fromTorch(model, odd, options);
    expect(() => model.loadStateDict(theirs)).toThrow(/missing layers.0.bias, unexpected aux.weight/);
    expect(await model.stateDict()).toEqual(before);
    const report = model.loadStateDict(theirs, { strict: false });
    expect(report.missing).toEqual(["layers.0.bias"]);
    expect(report.unexpected).toEqual(["aux.weight"]);
    expect(report.mismatched.map(({ name }) => name)).toEqual(["layers.3.weight", "layers.3.bias"]);
    expect(report.mismatched[0]!.why).toMatch(/layers.3.weight is \[7, 24\] in the state, \[5, 24\] here/);
    const after = await model.stateDict();
    for (const name of ["layers.0.bias", "layers.3.weight", "layers.3.bias"]) {
      expect(after[name]).toEqual(before[name]);
    }
    expect(after["layers.1.weight"]!.data).toEqual(state["1.weight"]!.data);
  });

  it("refuse maps that a layer can't have", async () => {
    const { model, state } = await network();
    expect(() => fromTorch(model, state, { flattened: { "3": [5, 5] } })).toThrow(
      /3.weight is \[5, 24\], flattened says maps of 5×5/,
    );
    expect(() => fromTorch(model, state, { flattened: { "3": [5] as never } })).toThrow(
      /fromTorch: flattened/,
    );
  });
});
