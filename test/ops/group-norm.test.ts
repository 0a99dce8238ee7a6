import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { add, mul, normalize } from "../../src/ops/elementwise/elementwise.ts";
import { groupNorm } from "../../src/ops/group-norm/group-norm.ts";
import { layerNorm } from "../../src/ops/group-norm/layer-norm.ts";
import { mean, variance } from "../../src/ops/reduce/reduce.ts";
import { reshape } from "../../src/ops/reshape.ts";
import { type Shape, sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { withFoldAt } from "../helpers/fold.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { groupNormReference, groupNormReferenceGrad } from "../reference/group-norm.ts";

const VARIANTS = {
  "group_norm.forward": ["lanes", "workgroup"],
  "group_norm.grad_input": ["lanes", "workgroup"],
};

interface Extra {
  gamma?: boolean;
  beta?: boolean;
  data?: Float64Array;
}

function groupCase(label: string, shape: Shape, groups: number, extra: Extra = {}): OpCase {
  const { gamma = true, beta = true, data } = extra;
  const channels = shape.at(-1)!;
  const [images, eps] = [shape[0]!, 1e-5];
  const g = { images, pixels: sizeOf(shape) / (images * channels), channels, groups, eps };
  return {
    label: `${label} ${shape.join("×")} in ${groups}`,
    inputs: {
      x: data ? { shape, data } : shape,
      ...(gamma && { gamma: [channels] }),
      ...(beta && { beta: [channels] }),
    },
    run: (t) => groupNorm(t.x!, groups, t.gamma ?? null, t.beta ?? null, eps),
    composed: (t) => {
      const x = reshape(t.x!, [images, g.pixels, groups, channels / groups]);
      const m = mean(x, [1, 3], { keepDims: true });
      const v = variance(x, [1, 3], { keepDims: true, correction: 0, mean: m });
      return affine(reshape(normalize(x, m, v, eps), shape), t);
    },
    reference: (a) => groupNormReference(g, a as never),
    referenceGrad: (a, dy) => ({ ...groupNormReferenceGrad(g, a as never, dy) }),
    variants: VARIANTS,
  };
}

function affine(x: Tensor, { gamma, beta }: Record<string, Tensor>): Tensor {
  const scaled = gamma ? mul(x, gamma) : x;
  return beta ? add(scaled, beta) : scaled;
}

function layerCase(label: string, shape: Shape, normalizedShape: Shape, extra: Extra = {}): OpCase {
  const { gamma = true, beta = true, data } = extra;
  const width = sizeOf(normalizedShape);
  const g = { images: sizeOf(shape) / width, pixels: 1, channels: width, groups: 1, eps: 1e-5 };
  return {
    label: `${label} ${shape.join("×")} over ${normalizedShape.join("×")}`,
    inputs: {
      x: data ? { shape, data } : shape,
      ...(gamma && { gamma: normalizedShape }),
      ...(beta && { beta: normalizedShape }),
    },
    run: (t) => layerNorm(t.x!, normalizedShape, t.gamma ?? null, t.beta ?? null),
    composed: (t) => {
      const axes = normalizedShape.map((_, i) => i - normalizedShape.length);
      const m = mean(t.x!, axes, { keepDims: true });
      const v = variance(t.x!, axes, { keepDims: true, correction: 0, mean: m });
      return affine(normalize(t.x!, m, v, 1e-5), t);
    },
    reference: (a) => groupNormReference(g, a as never),
    referenceGrad: (a, dy) => ({ ...groupNormReferenceGrad(g, a as never, dy) }),
    variants: VARIANTS,
  };
}

describe("group_norm", () => {
  it("normalises each group of each image", async () => {
    await checkOp([
      groupCase("maps", [2, 5, 7, 8], 2),
      groupCase("maps", [3, 4, 4, 16], 4),
      groupCase("a group for each channel", [2, 5, 5, 6], 6),
      groupCase("one group", [2, 5, 5, 7], 1),
      groupCase("groups of three", [2, 3, 5, 9], 3),
      groupCase("rows", [9, 20], 5),
      groupCase("one image", [1, 31, 33, 12], 3),
      groupCase("many images", [301, 2, 1, 4], 1),
      groupCase("wide", [2, 1, 3, 520], 2),
      groupCase("no gamma", [2, 4, 4, 8], 2, { gamma: false }),
      groupCase("no beta", [2, 4, 4, 8], 2, { beta: false }),
      groupCase("neither", [2, 4, 4, 6], 2, { gamma: false, beta: false }),
      groupCase("far from zero", [2, 11, 13, 8], 2, { data: normals(2 * 143 * 8, 3, 1000, 1) }),
    ]);
  });

  it("takes folded grids", async () => {
    // As past 65,535 workgroups, but at two; the last round is not full.
    await withFoldAt(await testGpu(), 2, async () => {
      await checkOp([groupCase("folded", [67, 3, 1, 20], 5), groupCase("folded", [7, 2, 2, 6], 1)]);
    });
  });

  it("keeps gradients apart from what they have in common, over many pixels", async () => {
    const gpu = await testGpu();
    const shape = [1, 300, 300, 4];
    const count = sizeOf(shape);
    const [data, grad] = [normals(count, 3), normals(count, 4, 1000, 1)];
    const g = { images: 1, pixels: count / 4, channels: 4, groups: 1, eps: 1e-5 };
    const expected = groupNormReferenceGrad(g, { x: data }, grad).x;
    for (const variant of ["lanes", "workgroup"]) {
      gpu.variants.force("group_norm.grad_input", variant);
      const x = gpu.tensor(data, shape, { requiresGrad: true });
      const [y, dy] = [groupNorm(x, 1, null, null), gpu.tensor(grad, shape)];
      y.backward(dy);
      gpu.variants.force("group_norm.grad_input", null);
      // Sums without blocks are off by 6e-4.
      expect(relativeError(await x.grad!.read(), expected), variant).toBeLessThan(4e-4);
      for (const tensor of [x, y, dy]) tensor.dispose();
    }
  });

  it("gives the same bits in every run", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor(normals(3 * 77 * 12, 3), [3, 7, 11, 12]);
    const first = groupNorm(x, 3);
    const again = groupNorm(x, 3);
    expect(await again.read()).toEqual(await first.read());
    for (const tensor of [x, first, again]) tensor.dispose();
  });

  it("names what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([2, 3, 3, 8]);
      const wrong: [RegExp, () => unknown][] = [
        [/^groupNorm: x has rank 1, got \[8\]; expected/, () => groupNorm(gpu.zeros([8]), 2)],
        [/^groupNorm: groups is 3, x has 8 channels.*divisor/, () => groupNorm(x, 3)],
        [/^groupNorm: groups is 0, x has 8 channels/, () => groupNorm(x, 0)],
        [/^groupNorm: gamma is \[4\], x has 8 channels/, () => groupNorm(x, 2, gpu.zeros([4]))],
        [/^groupNorm: eps is NaN/, () => groupNorm(x, 2, null, null, Number.NaN)],
      ];
      for (const [message, call] of wrong) {
        expect(call).toThrow(ShapeError);
        expect(call).toThrow(message);
      }
    });
  });
});

describe("layer_norm", () => {
  it("normalises over the last axes", async () => {
    await checkOp([
      layerCase("rows", [6, 16], [16]),
      layerCase("odd rows", [5, 3, 7], [7]),
      layerCase("two axes", [4, 3, 6], [3, 6]),
      layerCase("all axes", [3, 5, 4], [3, 5, 4]),
      layerCase("one value", [5, 1], [1], { data: normals(5, 3) }),
      layerCase("long rows", [3, 1031], [1031]),
      layerCase("many rows", [2053, 8], [8]),
      layerCase("neither", [7, 12], [12], { gamma: false, beta: false }),
      layerCase("far from zero", [9, 260], [260], { data: normals(9 * 260, 3, 1000, 1) }),
    ]);
  });

  it("takes more rows than a dispatch dimension has workgroups", async () => {
    // No finite differences here: the reference is checked by the cases above.
    const gpu = await testGpu();
    const data = normals(65_537 * 4, 3);
    const expected = groupNormReference(
      { images: 65_537, pixels: 1, channels: 4, groups: 1, eps: 1e-5 },
      { x: data },
    );
    const x = gpu.tensor(data, [65_537, 4]);
    for (const variant of VARIANTS["group_norm.forward"]) {
      gpu.variants.force("group_norm.forward", variant);
      const y = layerNorm(x, 4);
      const out = await y.read();
      y.dispose();
      gpu.variants.force("group_norm.forward", null);
      // Rows of nearly equal values lose digits: by element, in the units of y.
      out.forEach((value, i) => {
        if (Math.abs(value - expected[i]!) > 1e-4)
          throw new Error(`${variant}: y[${i}] is ${value}, not ${expected[i]}`);
      });
    }
    x.dispose();
  });

  it("names what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([2, 3, 8]);
      const wrong: [RegExp, () => unknown][] = [
        [
          /^layerNorm: normalizedShape is \[3\], x is \[2, 3, 8\]; expected the last sizes/,
          () => layerNorm(x, 3),
        ],
        [/^layerNorm: normalizedShape is \[\]/, () => layerNorm(x, [])],
        [/^layerNorm: gamma is \[4\], normalizedShape \[8\]/, () => layerNorm(x, 8, gpu.zeros([4]))],
        [/^layerNorm: eps is -1/, () => layerNorm(x, 8, null, null, -1)],
      ];
      for (const [message, call] of wrong) {
        expect(call).toThrow(ShapeError);
        expect(call).toThrow(message);
      }
    });
  });
});
