import { expect, it } from "vitest";
import { BatchNorm2d, Conv2d, ReLU, Sequential } from "../../src/nn/layers.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";

it("explain lists dispatches by layer, forward and backward, and shows what was fused", async () => {
  const gpu = await testGpu();
  const x = gpu.tensor(normals(2 * 6 * 6 * 4, 1), [2, 6, 6, 4]);
  const notes = [true, false].map((fused) => {
    const net = new Sequential(new Conv2d(gpu, 4, 8, 3), new BatchNorm2d(gpu, 8, { fused }), new ReLU());
    const list = gpu.explain(() => gpu.scope(() => net.forward(x).backward(gpu.full([2, 4, 4, 8], 1))));
    net.dispose();
    return list.filter(({ op }) => op !== "fill");
  });
  expect(gpu.layer).toBe("");
  for (const list of notes) {
    const layers = list.filter(({ layer }) => layer).map(({ layer, op }) => `${layer} ${op}`);
    expect(layers[0]).toBe("layers.0 conv2d");
    expect(layers.at(-1)).toMatch(/^layers\.0 conv2d backward$/);
    expect(list.every(({ workgroups, bytes }) => workgroups > 0 && bytes > 0)).toBe(true);
  }
  const bn = notes.map((list) => list.filter(({ layer }) => layer === "layers.1"));
  expect(new Set(bn[0]!.map(({ op }) => op))).toEqual(new Set(["batch_norm", "batch_norm backward"]));
  expect(bn[1]!.map(({ op }) => op)).toEqual(
    expect.arrayContaining(["mean", "variance", "relu", "relu backward"]),
  );
  expect(bn[0]!.length).toBeLessThan(bn[1]!.length / 2);
  x.dispose();
});
