// Data that an element type can't hold, and sizes that no buffer can: refused before anything is done.

import { describe, expect, it } from "vitest";
import * as core from "../../src/index.ts";
import { testGpu } from "../helpers/gpu.ts";

describe("data", () => {
  it("has to fit the element type", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const wrong: [data: unknown, dtype: core.DType, message: RegExp][] = [
      [[1, -100], "uint32", /data\[1\] is -100; uint32 holds integers from 0 to 4294967295/],
      [Int32Array.of(1, -100), "uint32", /data\[1\] is -100/],
      [Float32Array.of(1, 1.5), "uint32", /data\[1\] is 1\.5/],
      [Float64Array.of(1, 2 ** 32), "uint32", /data\[1\] is 4294967296/],
      [[Number.NaN, 1], "uint8", /data\[0\] is NaN; uint8 holds integers from 0 to 255/],
      [Uint16Array.of(255, 256), "uint8", /data\[1\] is 256/],
      [["1", 2], "float32", /data\[0\] is "1"; expected a number/],
      [[true, 2], "float32", /data\[0\] is true/],
      [new Array(2), "float32", /data\[0\] is undefined/],
      [[1, null], "float16", /data\[1\] is null/],
      [[[1], [2]], "float32", /data\[0\] is \[1\]; expected a number: flatten nested arrays/],
      [[[1, 2]], "float32", /data has 1 elements, shape \[2\] has 2; .*flat: data\.flat\(Infinity\)/],
      ["12", "float32", /data is "12"; expected an array of numbers or a typed array/],
      [new ArrayBuffer(8), "float32", /data is a ArrayBuffer; expected .*new Float32Array\(buffer\)/],
      [new BigInt64Array(2), "float32", /data is a BigInt64Array of 2/],
    ];
    const tensors = { float32: gpu.zeros([2]), float16: gpu.zeros([2], { dtype: "float16" }) } as Record<
      string,
      core.Tensor
    >;
    tensors.uint32 = gpu.zeros([2], { dtype: "uint32" });
    tensors.uint8 = gpu.zeros([2], { dtype: "uint8" });
    for (const [data, dtype, message] of wrong) {
      expect(() => gpu.tensor(data as never, [2], { dtype })).toThrow(message);
      expect(() => gpu.tensor(data as never, [2], { dtype })).toThrow(/^gpu\.tensor: /);
      expect(() => tensors[dtype]!.write(data as never)).toThrow(message);
      expect(() => tensors[dtype]!.write(data as never)).toThrow(/^tensor\.write: /);
    }
    for (const value of [-1, 0.5, Number.NaN, 2 ** 32]) {
      expect(() => tensors.uint32!.fill(value)).toThrow(/^tensor\.fill: value is/);
      expect(() => gpu.full([2], value, { dtype: "uint32" })).toThrow(/^gpu\.full: value is/);
    }
    expect(() => gpu.tensor([1, 2], [2], { dtype: "uint32", requiresGrad: true })).toThrow(
      /requiresGrad is true, dtype is uint32/,
    );
    for (const dtype of ["float32", "float16", "uint32", "uint8"])
      expect([...(await tensors[dtype]!.read())]).toEqual([0, 0]);
    for (const tensor of Object.values(tensors)) tensor.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("is taken from every kind of array that fits", async () => {
    const gpu = await testGpu();
    const values = [3, 0, 250];
    const kinds = [
      Array,
      Float32Array,
      Float64Array,
      Uint8Array,
      Uint8ClampedArray,
      Int16Array,
      Uint32Array,
      Int32Array,
    ];
    for (const dtype of ["float32", "float16", "uint32", "uint8"] as const) {
      for (const kind of kinds) {
        const tensor = gpu.tensor((kind as unknown as ArrayConstructor).from(values), [3], { dtype });
        expect([...(await tensor.read())]).toEqual(values);
        tensor.dispose();
      }
      const tensor = gpu.tensor(Buffer.from(values), [3], { dtype });
      expect([...(await tensor.read())]).toEqual(values);
      tensor.dispose();
    }
    const special = gpu.tensor([Number.NaN, Number.NEGATIVE_INFINITY, -0], [3]);
    expect([...(await special.read())]).toEqual([Number.NaN, Number.NEGATIVE_INFINITY, -0]);
    special.dispose();
  });

  it("keeps a shape of its own", async () => {
    const gpu = await testGpu();
    const sizes = [2, 3];
    const tensor = gpu.zeros(sizes);
    sizes[0] = 9;
    expect(tensor.shape).toEqual([2, 3]);
    tensor.dispose();
  });
});

describe("sizes", () => {
  it("that no buffer holds are refused before any work", async () => {
    const gpu = await testGpu();
    const began = performance.now();
    const before = gpu.stats.liveBuffers;
    const small = gpu.keep(gpu.zeros([1, 1, 1, 1]));
    const calls: [() => unknown, RegExp][] = [
      [
        () => gpu.zeros([1e6, 1e6]),
        /^gpu\.zeros: shape \[1000000, 1000000\] of float32 needs 4000000000000 bytes/,
      ],
      [() => gpu.empty([2 ** 52, 2 ** 52]), /^gpu\.empty: shape .* elements; expected at most 2\^53/],
      [() => new core.Linear(gpu, 1e6, 1e6), /^Linear: weight \[1000000, 1000000\]/],
      [() => new core.Conv2d(gpu, 1e5, 1e5, 3), /^Conv2d: weight/],
      [() => new core.BatchNorm2d(gpu, 1e12), /^BatchNorm2d: weight/],
      [() => core.resnetCifar(gpu, { width: 1e5 }), /^resnetCifar: a weight/],
      [() => core.resnetCifar(gpu, { depth: 6e9 + 2 }), /^resnetCifar: depth/],
      [() => core.initWeights([1e6, 1e6], "he", new core.Random(0)), /^initWeights: shape/],
      [() => core.expand(small, [1e6, 1e6, 1, 1]), /^expand: output/],
      [() => core.pad2d(small, [1e7, 0, 1e7, 0]), /^pad: output|^pad2d: /],
      [() => core.subsample(small, { channels: 1e12 }), /^subsample: output/],
      [() => core.conv2d(small, small, { padding: 1e6 }), /^conv2d: output/],
      [() => core.epochOrder(0, 0, 1e12), /^epochOrder: count/],
    ];
    for (const [call, message] of calls) expect(call).toThrow(message);
    small.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
    expect(performance.now() - began).toBeLessThan(2000);
  });
});
