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

it("explain shows what is folded into the convolutions, and that a layer can be kept out of it", async () => {
  const gpu = await testGpu();
  const x = gpu.tensor(normals(2 * 33 * 32 * 8, 1), [2, 33, 32, 8]);
  const kernelsOf = (fused: true | "elementwise") => {
    const net = new Sequential(
      new Conv2d(gpu, 8, 8, 3, { padding: 1, bias: false }),
      new BatchNorm2d(gpu, 8, { fused }),
      new ReLU(),
      new Conv2d(gpu, 8, 8, 3, { padding: 1 }),
    );
    const list = gpu.explain(() => {
      const y = gpu.keep(net.forward(x));
      gpu.scope(() => y.backward(gpu.full([2, 33, 32, 8], 1)));
      y.materialize(); // what nobody asks for is not computed
      y.dispose();
    });
    net.dispose();
    return (layer: string) =>
      list
        .filter((note) => note.layer === `layers.${layer}` && note.op !== "fill")
        .map(({ kernel }) => kernel);
  };
  const choices = [
    "conv2d.forward.output",
    "conv2d.grad_input.output",
    "conv2d.forward.input",
    "conv2d.grad_weight.input",
  ];
  for (const choice of choices) gpu.variants.force(choice, "fused");
  try {
    const folded = kernelsOf(true);
    expect(folded("0")[0]).toMatch(/\+statistics\./);
    expect(folded("3").filter((kernel) => kernel.includes("+x_affine"))).toHaveLength(2);
    expect(folded("3").filter((kernel) => kernel.includes("+gradient_sums"))).toHaveLength(1);
    expect(folded("1")).toEqual([
      "batch_norm.finalize_folded_running",
      "batch_norm.grad_finalize",
      "batch_norm.grad_apply",
    ]);
    const kept = kernelsOf("elementwise");
    expect([...kept("0"), ...kept("3")].filter((kernel) => kernel.includes("+"))).toEqual([]);
    expect(kept("1")).toHaveLength(6);
  } finally {
    for (const choice of choices) gpu.variants.force(choice, null);
  }
  x.dispose();
});
