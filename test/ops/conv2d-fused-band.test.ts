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
    const shapes: [variant: "band_4" | "staged_band_4", height: number, width: number][] = [
      ["band_4", 16, 16], // 324 pixels by 64 lanes: the sixth load is a lane's last one
      ["staged_band_4", 32, 16], // 612 by 128: the fifth
      ["staged_band_4", 40, 14], // 768 by 128: six each
      ["band_4", 16, 6], // 448 by 64: seven each
    ];
    for (const [variant, height, width] of sampled(shapes)) {
      await checkForward({
        variant,
        x: [1, height, width, 4],
        weight: [4, 3, 3, 4],
        extra: { padding },
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
