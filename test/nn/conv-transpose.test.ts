import { describe, expect, it } from "vitest";
import { fromTorch } from "../../src/formats/torch.ts";
import { ConvTranspose2d } from "../../src/nn/layers.ts";
import { convTranspose2d } from "../../src/ops/conv-transpose2d.ts";
import { Random } from "../../src/tensor/random.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { convTranspose2dReference } from "../reference/conv2d.ts";

describe("ConvTranspose2d", () => {
  it("is the op with its parameters, all of which get gradients", async () => {
    const gpu = await testGpu();
    const options = { stride: 2, padding: 1, outputPadding: 1, groups: 2 } as const;
    const layer = new ConvTranspose2d(gpu, 4, 6, [3, 2], { ...options, random: new Random(5) });
    expect(layer.namedParameters().map(([name, { shape }]) => [name, [...shape]])).toEqual([
      ["weight", [4, 3, 2, 3]],
      ["bias", [6]],
    ]);
    layer.bias!.write(normals(6, 2));
    const x = gpu.tensor(normals(4 * 12, 1), [1, 3, 4, 4]);
    const [y, own] = [layer.forward(x), convTranspose2d(x, layer.weight, { ...options, bias: layer.bias })];
    expect(y.shape).toEqual([1, 6, 7, 6]);
    expect([...(await y.read())]).toEqual([...(await own.read())]);
    const dy = gpu.full(y.shape, 1);
    y.backward(dy);
    for (const parameter of layer.parameters()) expect(parameter.grad).not.toBe(null);
    // Each of the 12 pixels' 4 channels meets a filter of 3·2·3.
    expect(layer.flop(x.shape, y.shape)).toBe(2 * 12 * 4 * 18);
    for (const tensor of [x, y, own, dy]) tensor.dispose();
    layer.dispose();
  });

  it("takes PyTorch's weights [in, out / groups, R, S]", async () => {
    const gpu = await testGpu();
    const layer = new ConvTranspose2d(gpu, 2, 3, [2, 1], { random: new Random(5) });
    const theirs = normals(2 * 3 * 2, 4);
    const bias = normals(3, 5);
    layer.loadStateDict(
      fromTorch(layer, {
        weight: { shape: [2, 3, 2, 1], dtype: "float32", data: Float32Array.from(theirs) },
        bias: { shape: [3], dtype: "float32", data: Float32Array.from(bias) },
      }),
    );
    const data = normals(2 * 4, 6);
    const x = gpu.tensor(data, [1, 2, 2, 2]);
    const y = layer.forward(x);
    const weight = new Float64Array(12);
    for (let k = 0; k < 2; k += 1)
      for (let c = 0; c < 3; c += 1)
        for (let r = 0; r < 2; r += 1) weight[(k * 2 + r) * 3 + c] = theirs[(k * 3 + c) * 2 + r]!;
    const expected = convTranspose2dReference(
      {
        ...{ x: [1, 2, 2, 2], weight: [2, 2, 1, 3], stride: [1, 1], padding: [0, 0, 0, 0] },
        ...{ dilation: [1, 1], groups: 1, outputPadding: [0, 0] },
      },
      { x: data, weight, bias },
    );
    expect(relativeError(await y.read(), expected)).toBeLessThan(1e-6);
    for (const tensor of [x, y]) tensor.dispose();
    layer.dispose();
  });

  it("says what is wrong", async () => {
    const gpu = await testGpu();
    expect(() => new ConvTranspose2d(gpu, 4, 6, 3, { groups: 4 })).toThrow(
      "ConvTranspose2d: 4 input and 6 output channels in 4 groups; expected both to be multiples of groups",
    );
    expect(() => new ConvTranspose2d(gpu, 4, 6, 0)).toThrow("ConvTranspose2d: kernelSize is 0; expected");
    expect(() => new ConvTranspose2d(gpu, 4, 6, 3, { outputPadding: 1 })).toThrow(
      "ConvTranspose2d: outputPadding is 1, stride 1, dilation 1",
    );
  });
});
