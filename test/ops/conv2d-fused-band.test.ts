// The band kernels of conv2d: bands and images that share workgroups, and what they do of the batch-norms around a convolution.

import { describe, expect, it } from "vitest";
import { conv2dVariants } from "../../src/ops/conv2d/choose.ts";
import { checkForward, checkGradInput, convOf } from "../helpers/conv2d-fused.ts";
import { withFoldAt } from "../helpers/fold.ts";
import { sampled, testGpu } from "../helpers/gpu.ts";

const gpu = await testGpu();
const padding: [number, number, number, number] = [1, 1, 1, 1];

describe("conv2d, band kernels", () => {
  it("normalises x and measures y on the way", async () => {
    const cases: Parameters<typeof checkForward>[0][] = [
      // Bands that share workgroups; the last block of channels has one quad.
      {
        variant: "staged_band_8",
        x: [3, 9, 11, 8],
        weight: [12, 3, 3, 8],
        extra: { padding },
        input: "rectify",
        statistics: true,
      },
      // Images that share workgroups, with any padding.
      {
        variant: "band_16",
        x: [5, 6, 7, 8],
        weight: [20, 3, 3, 8],
        extra: { padding: [0, 2, 3, 1] },
        input: "normalise",
        statistics: true,
        adds: true,
      },
      // Whole images, so that the last lane's column ends where the tile does.
      {
        variant: "band_4",
        x: [4, 8, 8, 4],
        weight: [4, 3, 3, 4],
        extra: { padding },
        input: "plain",
        statistics: true,
      },
      // 128 lanes.
      {
        variant: "band_4",
        x: [2, 13, 30, 4],
        weight: [8, 3, 3, 4],
        extra: { padding },
        input: "plain",
        statistics: false,
      },
      // More weights than lanes: 144 for 64, of the second channels too.
      {
        variant: "staged_band_16",
        x: [2, 5, 7, 8],
        weight: [20, 3, 3, 8],
        extra: { padding: [2, 1, 0, 1] },
        input: "plain",
        statistics: false,
      },
    ];
    for (const one of sampled(cases)) await checkForward(one);
  });

  it("loads each pixel of its tile once, however many loads a lane makes", async () => {
    // Images of x, padded by as much on each side, and the loads of a lane. All lanes make the last one, but where it says "some".
    const shapes: [variant: "band_4" | "staged_band_4", height: number, width: number, pad: number][] = [
      // Eight whole images by 64 lanes.
      ["band_4", 1, 8, 1], // 1
      ["band_4", 2, 8, 1], // 2
      ["band_4", 3, 8, 1], // 3
      ["band_4", 4, 8, 1], // 4
      // Bands of several images.
      ["band_4", 10, 8, 1], // 5
      ["band_4", 7, 10, 0], // 7, some
      ["band_4", 2, 8, 2], // 6
      ["band_4", 5, 14, 1], // 7
      ["band_4", 7, 16, 0], // 8
      // One image, and parts of one.
      ["band_4", 16, 16, 1], // 4
      ["band_4", 11, 34, 0], // 6, some
      // By 128 lanes.
      ["staged_band_4", 32, 16, 1], // 4
      ["staged_band_4", 40, 14, 1], // 6, some
      ["staged_band_4", 6, 6, 2], // 3, some
    ];
    for (const [variant, height, width, pad] of sampled(shapes)) {
      await checkForward({
        variant,
        x: [height > 16 ? 1 : 9, height, width, 4],
        weight: [4, 3, 3, 4],
        extra: { padding: [pad, pad, pad, pad] },
        input: "normalise",
        statistics: false,
      });
    }
  });

  it("measures far from zero, in grids with workgroups to spare", async () => {
    await withFoldAt(gpu, 5, () =>
      checkForward({
        variant: "staged_band_4",
        x: [9, 5, 17, 4],
        weight: [8, 3, 3, 4],
        extra: { padding },
        input: "plain",
        statistics: true,
        shift: 1000,
      }),
    );
  });

  it("works dy out on the way, masks dx and adds it up", async () => {
    const cases: Parameters<typeof checkGradInput>[0][] = [
      {
        variant: "band_16",
        x: [3, 9, 11, 16],
        weight: [8, 3, 3, 16],
        extra: { padding },
        dy: "gradient",
        joins: false,
        mask: "input",
      },
      {
        variant: "staged_band_8",
        x: [3, 7, 9, 20],
        weight: [8, 3, 3, 20],
        extra: { padding: [0, 1, 1, 2] },
        dy: "plain",
        joins: true,
        mask: "given",
      },
      {
        variant: "band_4",
        x: [5, 8, 8, 8],
        weight: [8, 3, 3, 8],
        extra: { padding: [3, 2, 0, 1] },
        dy: "plain",
        joins: true,
        mask: null,
      },
      // Whole images, of dy more than dx needs on each side, or less.
      {
        variant: "band_8",
        x: [5, 8, 8, 8],
        weight: [4, 3, 3, 8],
        extra: { padding: [3, 2, 2, 3] },
        dy: "plain",
        joins: false,
        mask: null,
      },
      {
        variant: "staged_band_4",
        x: [3, 7, 16, 4],
        weight: [4, 3, 3, 4],
        extra: { padding: [0, 1, 0, 0] },
        dy: "gradient",
        joins: false,
        mask: "input",
      },
    ];
    for (const one of sampled(cases)) await checkGradInput(one);
  });

  it("is offered for 3×3 filters that take every pixel, four channels at a time", () => {
    const offered = (...[x, weight, extra]: Parameters<typeof convOf>) =>
      conv2dVariants(gpu, convOf(x, weight, extra).geometry).forward.some((name) => name.includes("band"));
    expect(offered([1, 8, 8, 8], [8, 3, 3, 8], { padding })).toBe(true);
    expect(offered([1, 8, 8, 8], [8, 3, 3, 8], { padding, stride: [1, 2] })).toBe(false);
    expect(offered([1, 8, 8, 8], [8, 3, 3, 4], { padding, groups: 2 })).toBe(false);
    expect(offered([1, 8, 8, 8], [8, 3, 1, 8], {})).toBe(false);
    expect(offered([1, 8, 8, 6], [8, 3, 3, 6], { padding })).toBe(false);
    // Of 500 columns a workgroup would read too much.
    expect(offered([1, 8, 500, 8], [8, 3, 3, 8], { padding })).toBe(false);
  });
});
