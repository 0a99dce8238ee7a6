import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { conv2dVariants } from "../../src/ops/conv2d/choose.ts";
import { type Conv2dOptions, conv2d, inferConv2d } from "../../src/ops/conv2d/conv2d.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { withFoldAt } from "../helpers/fold.ts";
import { testGpu } from "../helpers/gpu.ts";
import {
  conv2dReference,
  conv2dReferenceGrad,
  outputShape,
  type ReferenceConv,
} from "../reference/conv2d.ts";

type Four = readonly [number, number, number, number];
interface Extra {
  stride?: [number, number];
  padding?: [number, number, number, number];
  dilation?: [number, number];
  groups?: number;
  bias?: boolean;
  /**
   * Check every variant of every kernel, not only those that are chosen; of the tiles two blockings, or all; or only
   * the rows. Each one is compiled for each case.
   */
  variants?: "rows" | "some tiles" | "all";
}

const gpu = await testGpu();

/** A case of checkOp: x [N, H, W, C], weight [K, R, S, C / groups]. */
function convCase(label: string, x: Four, weight: Four, extra: Extra = {}): OpCase {
  const { stride = [1, 1], padding = [0, 0, 0, 0], dilation = [1, 1], groups = 1, bias = false } = extra;
  const c: ReferenceConv = { x, weight, stride, padding, dilation, groups };
  const [N, H, W, C] = x;
  const [K, R, S, perGroup] = weight;
  const geometry = inferConv2d({ N, H, W, C, K, R, S, "C/groups": perGroup }, extra, String(weight));
  const known = conv2dVariants(gpu, geometry);
  // The first of each list is the chosen one, which runs anyway.
  const wanted = (list: readonly string[]) =>
    list.slice(1).filter((name) => {
      if (extra.variants === "rows") return name.startsWith("subgroup_row");
      return extra.variants === "all" || !/^tile_(?!64x64|256x16|16x144)/.test(name);
    });
  const variants = {
    "conv2d.forward": wanted(known.forward),
    "conv2d.grad_input": wanted(known.grad_input),
    "conv2d.grad_weight": wanted(known.grad_weight),
  };
  return {
    label: `${label} ${x.join("×")} * ${weight.join("×")}`,
    inputs: { x, weight, ...(bias ? { bias: [weight[0]] } : {}) },
    run: (t) => conv2d(t.x!, t.weight!, { stride, padding, dilation, groups, bias: t.bias ?? null }),
    reference: (a) => conv2dReference(c, { x: a.x!, weight: a.weight!, bias: a.bias! }),
    referenceGrad: (a, dy) => ({ ...conv2dReferenceGrad(c, { x: a.x!, weight: a.weight! }, dy) }),
    ...(extra.variants ? { variants } : {}),
  };
}

const SAME3: [number, number, number, number] = [1, 1, 1, 1];

describe("conv2d", () => {
  it("does the layers of a residual network", async () => {
    await checkOp([
      convCase("first layer", [2, 8, 8, 3], [16, 3, 3, 3], { padding: SAME3 }),
      convCase("3×3", [2, 8, 8, 16], [16, 3, 3, 16], { padding: SAME3, bias: true }),
      convCase("stride 2", [2, 8, 8, 16], [32, 3, 3, 16], { padding: SAME3, stride: [2, 2] }),
      convCase("1×1, stride 2", [2, 6, 7, 8], [16, 1, 1, 8], { stride: [2, 2], bias: true }),
    ]);
  });

  it("takes sizes that fill no block", async () => {
    await checkOp([
      convCase("one number", [1, 1, 1, 1], [1, 1, 1, 1], { bias: true }),
      convCase("one pixel", [3, 1, 1, 5], [7, 3, 3, 5], { padding: SAME3, bias: true }),
      convCase("just past blocks", [1, 5, 13, 9], [9, 3, 2, 9], { padding: [0, 2, 1, 0] }),
      convCase("just past blocks of 4 and 8", [1, 5, 13, 12], [20, 3, 3, 12], { padding: SAME3 }),
      convCase("a large filter", [1, 9, 9, 4], [4, 7, 7, 4], { padding: [3, 3, 3, 3], bias: true }),
      convCase("a filter as large as the map", [2, 4, 5, 8], [8, 4, 5, 8]),
      convCase("a row", [1, 1, 300, 4], [8, 1, 5, 4], { padding: [0, 0, 2, 2] }),
    ]);
  });

  it("strides, pads and dilates in each direction on its own", async () => {
    await checkOp([
      convCase("stride [2, 1]", [1, 7, 6, 4], [8, 3, 3, 4], { stride: [2, 1], padding: SAME3 }),
      convCase("stride [1, 3]", [2, 5, 11, 4], [4, 3, 3, 4], { stride: [1, 3], padding: [0, 1, 2, 3] }),
      convCase("stride beyond the filter", [1, 9, 10, 3], [5, 2, 1, 3], { stride: [4, 3] }),
      convCase("stride beyond the map", [2, 1, 2, 4], [4, 1, 1, 4], { stride: [3, 4] }),
      convCase("dilation", [1, 9, 8, 4], [8, 3, 3, 4], { dilation: [2, 3], padding: [2, 2, 3, 3] }),
      convCase("asymmetric padding", [1, 4, 5, 4], [8, 3, 3, 4], { padding: [0, 1, 2, 3] }),
      convCase("padding beyond the filter", [1, 3, 3, 4], [4, 2, 2, 4], { padding: [3, 2, 4, 3] }),
    ]);
  });

  it("keeps groups apart", async () => {
    await checkOp([
      convCase("3 groups of 5 → 7", [1, 4, 5, 15], [21, 3, 3, 5], { groups: 3, padding: SAME3 }),
      convCase("4 groups, stride 2", [1, 8, 8, 32], [32, 3, 3, 8], {
        groups: 4,
        padding: SAME3,
        stride: [2, 2],
      }),
    ]);
  });

  it("is right in every variant", async () => {
    await checkOp([
      convCase("3×3", [1, 7, 9, 24], [24, 3, 3, 24], { variants: "all", padding: SAME3 }),
      convCase("1×1", [2, 5, 7, 16], [24, 1, 1, 16], { variants: "some tiles" }),
      convCase("primes", [1, 11, 5, 13], [17, 3, 3, 13], {
        variants: "some tiles",
        padding: SAME3,
        bias: true,
      }),
      convCase("three to four", [2, 5, 6, 3], [20, 3, 3, 3], {
        variants: "some tiles",
        padding: SAME3,
        bias: true,
      }),
    ]);
  });

  it("takes rows of any width, padding and number of weights", async () => {
    const rows = { variants: "rows" } as const;
    await checkOp([
      convCase("rows of many quads", [1, 3, 69, 4], [16, 3, 3, 4], { ...rows, padding: SAME3 }),
      convCase("rows without padding", [2, 4, 18, 4], [20, 3, 3, 4], rows),
      convCase("more padding than filter", [2, 3, 14, 16], [16, 3, 3, 16], {
        ...rows,
        padding: [2, 0, 2, 2],
      }),
      convCase("padding on one side", [2, 3, 8, 16], [16, 3, 3, 16], { ...rows, padding: [1, 1, 0, 2] }),
      convCase("steps and taps down", [2, 9, 8, 16], [16, 5, 3, 16], {
        ...rows,
        stride: [2, 1],
        dilation: [2, 1],
        padding: [3, 4, 1, 1],
      }),
      // The bias gradient by more than one workgroup of channels.
      convCase("many channels", [1, 2, 8, 100], [180, 3, 3, 100], { ...rows, padding: SAME3, bias: true }),
    ]);
  });

  it("is right in every variant, with strides, dilation and groups", async () => {
    await checkOp([
      convCase("stride 2, odd map", [1, 9, 7, 16], [8, 3, 3, 16], {
        variants: "some tiles",
        padding: SAME3,
        stride: [2, 2],
      }),
      convCase("dilation and stride", [1, 11, 10, 8], [4, 3, 3, 8], {
        variants: "some tiles",
        dilation: [3, 2],
        stride: [2, 3],
        padding: [3, 1, 1, 2],
        bias: true,
      }),
      convCase("2 groups, stride and dilation down only", [2, 5, 6, 8], [24, 3, 3, 4], {
        variants: "some tiles",
        groups: 2,
        stride: [2, 1],
        dilation: [2, 1],
        padding: [1, 3, 2, 0],
        bias: true,
      }),
    ]);
  });

  it("does depthwise filters with any multiplier", async () => {
    const depthwise = (channels: number, multiplier: number, extra: Extra = {}) =>
      convCase(`multiplier ${multiplier}`, [2, 6, 7, channels], [channels * multiplier, 3, 3, 1], {
        groups: channels,
        padding: SAME3,
        ...extra,
      });
    await checkOp([
      depthwise(8, 1, { bias: true }),
      depthwise(5, 1),
      depthwise(4, 2, { bias: true }),
      depthwise(3, 3),
      depthwise(8, 1, { stride: [2, 2] }),
      depthwise(16, 1, { dilation: [2, 1], padding: [2, 2, 1, 1] }),
    ]);
  });

  it("runs past 65,535 workgroups", async () => {
    // 1×1 over one channel: the output is the input times one number; a workgroup takes at most 256 pixels.
    const [height, width] = [4099, 4099];
    const data = Float32Array.from({ length: height * width }, (_, i) => (i * 7919) % 1021);
    const x = gpu.tensor(data, [1, height, width, 1], { requiresGrad: true });
    const weight = gpu.tensor([3], [1, 1, 1, 1], { requiresGrad: true });
    const y = conv2d(x, weight);
    const out = await y.read();
    y.backward(x.detach());
    const dx = await x.grad!.read();
    let wrong = 0;
    let sum = 0;
    for (let i = 0; i < data.length; i += 1) {
      if (out[i] !== 3 * data[i]! || dx[i] !== 3 * data[i]!) wrong += 1;
      sum += data[i]! * data[i]!;
    }
    expect(wrong).toBe(0);
    expect(Math.abs((await weight.grad!.read())[0]! / sum - 1)).toBeLessThan(1e-5);
    for (const tensor of [x, weight, y]) tensor.dispose();
  });

  it("runs past 65,535 workgroups of blocks of channels", async () => {
    // A workgroup keeps to one group of channels.
    const groups = 65_540;
    await checkOp(convCase("many groups", [1, 1, 2, 4 * groups], [4 * groups, 1, 1, 4], { groups }));
  });

  it("takes folded grids in every variant", async () => {
    // As past 65,535 workgroups, but at three.
    await withFoldAt(gpu, 3, async () => {
      await checkOp(
        convCase("folded at 3", [4, 12, 12, 8], [24, 3, 3, 8], {
          variants: "all",
          padding: SAME3,
          bias: true,
        }),
      );
    });
  });

  it("gives the same bits on every run", async () => {
    const values = (count: number) => Float32Array.from({ length: count }, (_, i) => Math.sin(i * 1.7) * 3);
    const run = async () => {
      const x = gpu.tensor(values(4 * 9 * 9 * 16), [4, 9, 9, 16], { requiresGrad: true });
      const weight = gpu.tensor(values(16 * 9 * 16), [16, 3, 3, 16], { requiresGrad: true });
      const bias = gpu.tensor(values(16), [16], { requiresGrad: true });
      const y = conv2d(x, weight, { bias, padding: 1 });
      y.backward(y.detach());
      const result = await Promise.all([y, x.grad!, weight.grad!, bias.grad!].map((t) => t.read()));
      for (const tensor of [x, weight, bias, y]) tensor.dispose();
      return result.map((array) => new Uint32Array(array.buffer));
    };
    expect(await run()).toEqual(await run());
  });

  it("computes only the gradients that are wanted", async () => {
    const x = gpu.tensor(new Float32Array(2 * 4 * 4 * 4), [2, 4, 4, 4]);
    const weight = gpu.tensor(new Float32Array(8 * 9 * 4), [8, 3, 3, 4], { requiresGrad: true });
    const y = conv2d(x, weight, { padding: "same" });
    y.backward(y.detach());
    expect(x.grad).toBeNull();
    expect(weight.grad!.shape).toEqual(weight.shape);
    for (const tensor of [x, weight, y]) tensor.dispose();
  });

  it("reads padding as PyTorch does", async () => {
    const x = gpu.tensor(new Float32Array(7 * 8), [1, 7, 8, 1]);
    const weight = gpu.tensor(new Float32Array(4 * 3), [1, 4, 3, 1]);
    const shape = (options: Conv2dOptions) => gpu.scope(() => conv2d(x, weight, options).shape);
    expect(shape({})).toEqual([1, 4, 6, 1]);
    expect(shape({ padding: "valid" })).toEqual([1, 4, 6, 1]);
    expect(shape({ padding: "same" })).toEqual([1, 7, 8, 1]);
    expect(shape({ padding: "same", dilation: [1, 2] })).toEqual([1, 7, 8, 1]);
    expect(shape({ padding: 1 })).toEqual([1, 6, 8, 1]);
    expect(shape({ padding: [2, 0] })).toEqual([1, 8, 6, 1]);
    expect(shape({ padding: [1, 2, 3, 4] })).toEqual([1, 7, 13, 1]);
    expect(shape({ stride: 2 })).toEqual([1, 2, 3, 1]);
    expect(shape({ stride: [3, 2], padding: 1 })).toEqual([1, 2, 4, 1]);
    x.dispose();
    weight.dispose();
    // "same" with an even filter: the odd zero comes last.
    const c: ReferenceConv = {
      x: [1, 4, 4, 1],
      weight: [1, 2, 2, 1],
      stride: [1, 1],
      padding: [0, 1, 0, 1],
      dilation: [1, 1],
      groups: 1,
    };
    expect(outputShape(c)).toEqual([1, 4, 4, 1]);
    await checkOp({
      label: "same, even filter",
      inputs: { x: c.x, weight: c.weight },
      run: (t) => conv2d(t.x!, t.weight!, { padding: "same" }),
      reference: (a) => conv2dReference(c, { x: a.x!, weight: a.weight! }),
    });
  });

  it("names what does not fit", async () => {
    const made = [
      gpu.tensor(new Float32Array(1 * 4 * 4 * 8), [1, 4, 4, 8]),
      gpu.tensor(new Float32Array(16 * 9 * 8), [16, 3, 3, 8]),
      gpu.tensor(new Float32Array(16 * 9 * 4), [16, 3, 3, 4]),
      gpu.tensor(new Float32Array(16), [16]),
      gpu.tensor(new Float32Array(8), [8]),
    ] as const;
    const [x, weight, narrow, bias, shortBias] = made;
    const fails = (run: () => unknown, message: RegExp) => {
      expect(run).toThrow(ShapeError);
      expect(run).toThrow(message);
    };
    fails(() => conv2d(bias, weight), /conv2d: x has rank 1, got \[16\]; expected \[N, H, W, C\] of rank 4/);
    fails(() => conv2d(x, bias), /conv2d: weight has rank 1, got \[16\]; expected \[K, R, S, C\/groups\]/);
    fails(
      () => conv2d(x, narrow),
      /conv2d: weight has 4 input channels, x has 8 in 1 group; expected .* C \/ groups = 8, got \[16, 3, 3, 4\]/,
    );
    fails(() => conv2d(x, weight, { bias: shortBias }), /conv2d: bias \[K\] has K = 8, weight .* has K = 16/);
    fails(() => conv2d(x, weight, { groups: 3 }), /groups is 3, x has C = 8 channels and weight K = 16/);
    fails(() => conv2d(x, weight, { groups: 0 }), /groups is 0; expected a positive integer/);
    fails(() => conv2d(x, weight, { stride: 0 }), /stride is 0; expected a positive integer/);
    fails(() => conv2d(x, weight, { stride: [1, 1.5] }), /stride is \[1, 1\.5\]/);
    fails(() => conv2d(x, weight, { dilation: -1 }), /dilation is -1; expected a positive integer/);
    fails(() => conv2d(x, weight, { padding: -1 }), /padding is -1; expected a non-negative integer/);
    fails(() => conv2d(x, weight, { padding: [1, 2, 3] as never }), /padding is \[1, 2, 3\]/);
    fails(() => conv2d(x, weight, { padding: "SAME" as never }), /padding is "SAME"/);
    fails(() => conv2d(x, weight, { padding: "same", stride: 2 }), /padding is "same" with stride \[2, 2\]/);
    fails(
      () => conv2d(x, weight, { dilation: [1, 2], padding: [0, 0] }),
      /the filter spans 5 pixels, x has W = 4 and 0 of padding/,
    );
    fails(() => conv2d(x, null as never), /conv2d: weight is null/);
    fails(() => gpu.tensor([], [1, 0, 4, 8]), /dimension 0; every dimension must be a positive integer/);
    for (const tensor of made) tensor.dispose();
  });
});
