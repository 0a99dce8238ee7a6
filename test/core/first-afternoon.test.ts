// What is said to who writes what would be right in PyTorch.

import { describe, expect, it } from "vitest";
import {
  BatchNorm2d,
  Conv2d,
  decodeSafetensors,
  encodeSafetensors,
  fromTorch,
  Linear,
  Sequential,
  softmaxCrossEntropy,
  torchStateDict,
} from "../../src/index.ts";
import { dropout } from "../../src/ops/dropout.ts";
import { testGpu } from "../helpers/gpu.ts";

const gpu = await testGpu();

describe("messages name the call that is right", () => {
  it.each([
    [[1, 2, 3], ", such as gpu.tensor(data, [3])"],
    [Float32Array.of(1, 2), ", such as gpu.tensor(data, [2])"],
    [
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
      ", such as gpu.tensor(data.flat(Infinity), [2, 3])",
    ],
    [[[[1]], [[2]]], ", such as gpu.tensor(data.flat(Infinity), [2, 1, 1])"],
    [[], ""],
    [7, ""],
  ])("gpu.tensor(%j) without a shape", (data, hint) => {
    const call = () => gpu.tensor(data as never, undefined as never);
    expect(call).toThrow(
      expect.objectContaining({
        message: `gpu.tensor: shape is undefined; expected an array of positive integers${hint}`,
      }),
    );
  });

  it("labels that are floats, and a generator, which is none of data", () => {
    gpu.scope(() => {
      const logits = gpu.zeros([2, 3]);
      expect(() => softmaxCrossEntropy(logits, gpu.tensor([1, 2], [2]))).toThrow(
        /labels is float32; expected uint32: gpu.tensor\(data, shape, \{ dtype: "uint32" \}\)$/,
      );
      expect(() => dropout(logits, gpu.zeros([4]))).toThrow(/generator is float32; expected uint32$/);
    });
  });

  it("maps where rows are expected", () => {
    gpu.scope(() => {
      const layer = new Linear(gpu, 2, 3);
      expect(() => layer.forward(gpu.zeros([4, 5, 5, 2]))).toThrow(
        /linear: x has rank 4, got \[4, 5, 5, 2\]; expected \[N, C\] of rank 2: flatten\(x\) or globalAvgPool2d\(x\) makes rows of maps$/,
      );
      expect(() => layer.forward(gpu.zeros([5, 5, 2]))).toThrow(/of rank 2$/);
      layer.dispose();
    });
  });

  it("all that a file holds, in place of its tensors", async () => {
    const model = new Linear(gpu, 2, 3);
    const file = decodeSafetensors(encodeSafetensors(await model.stateDict()), "x.safetensors");
    expect(() => model.loadStateDict(file as never)).toThrow(
      /^loadStateDict: state is \{ tensors, … \}, all that a file holds; expected its tensors alone: state.tensors$/,
    );
    expect(() => fromTorch(model, file as never)).toThrow(/^fromTorch: state is \{ tensors, … \}/);
    model.loadStateDict(file.tensors);
    model.dispose();
  });

  it("a state of PyTorch's names or layouts", async () => {
    const model = new Sequential(new Conv2d(gpu, 3, 4, 3), new BatchNorm2d(gpu, 4));
    const state = await torchStateDict(model);
    expect(() => model.loadStateDict(state)).toThrow(
      /unexpected 0.weight, 0.bias, 1.weight, .*; expected the state of the same network, by names of its own: fromTorch\(model, state\) makes them of PyTorch's$/,
    );
    const conv = new Conv2d(gpu, 3, 4, 5);
    const filters = await torchStateDict(conv);
    expect(() => conv.loadStateDict(filters)).toThrow(
      /weight is \[4, 3, 5, 5\] in the state, \[4, 5, 5, 3\] here; expected equal shapes: fromTorch\(model, state\) turns PyTorch's \[K, C, R, S\]$/,
    );
    // Of another network nothing is said of PyTorch.
    const other = new Conv2d(gpu, 2, 4, 5);
    const mine = await other.stateDict();
    expect(() => conv.loadStateDict(mine)).toThrow(/\[4, 5, 5, 2\] in the state, .*; expected equal shapes$/);
    const linear = new Linear(gpu, 2, 2);
    expect(() => linear.loadStateDict(mine)).toThrow(
      /\[4, 5, 5, 2\] in the state, .*; expected equal shapes$/,
    );
    expect(() => linear.loadStateDict({ head: mine.bias! })).toThrow(
      /unexpected head; expected the state of the same network$/,
    );
    for (const one of [model, conv, other, linear]) one.dispose();
  });
});
