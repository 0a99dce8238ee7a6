// What the tile kernels of conv2d do of the batch-norms around a convolution.

import { describe, expect, it } from "vitest";
import { blockOf, conv2dVariants, tileSizes, vec4sOfTiles } from "../../src/ops/conv2d/choose.ts";
import {
  checkForward,
  checkGradInput,
  checkGradWeight,
  checkRider,
  convOf,
} from "../helpers/conv2d-fused.ts";
import { withFoldAt } from "../helpers/fold.ts";
import { sampled, testGpu } from "../helpers/gpu.ts";

const gpu = await testGpu();
const padding: [number, number, number, number] = [1, 1, 1, 1];

describe("conv2d, tile kernels with parts of batch-norm", () => {
  it("normalises x and measures y on the way", async () => {
    const cases: Parameters<typeof checkForward>[0][] = [
      {
        variant: "tile_256x16",
        x: [3, 9, 11, 16],
        weight: [16, 3, 3, 16],
        extra: { padding },
        input: "rectify",
        statistics: true,
      },
      {
        variant: "tile_128x32",
        x: [2, 17, 19, 40],
        weight: [40, 3, 3, 20],
        extra: { padding: [0, 1, 1, 2], groups: 2, stride: [2, 2] },
        input: "normalise",
        statistics: true,
        adds: true,
      },
      // Two blocks of channels, the second of which has one quad.
      {
        variant: "tile_128x64",
        x: [5, 5, 7, 8],
        weight: [68, 1, 1, 8],
        input: "rectify",
        statistics: true,
      },
      {
        variant: "tile_128x128",
        x: [2, 9, 9, 8],
        weight: [132, 1, 1, 8],
        input: "normalise",
        statistics: true,
      },
      {
        variant: "tile_64x64",
        x: [2, 6, 7, 3],
        weight: [36, 3, 3, 3],
        extra: { padding },
        input: "plain",
        statistics: true,
      },
      // A last quad of input channels that is two channels.
      {
        variant: "tile_64x64_8x4",
        x: [2, 5, 7, 6],
        weight: [20, 1, 1, 6],
        input: "plain",
        statistics: false,
        adds: true,
      },
    ];
    for (const one of sampled(cases)) await checkForward(one);
  });

  it("measures far from zero, and over many pixels", async () => {
    const many = { x: [9, 32, 33, 4], weight: [8, 1, 1, 4], input: "plain", statistics: true } as const;
    await checkForward({ ...many, variant: "tile_256x16", shift: 1000 });
    // In a grid with workgroups to spare.
    await withFoldAt(gpu, 5, () => checkForward({ ...many, variant: "tile_64x64_8x4", shift: 1000 }));
  });

  it("works dy out on the way, masks dx and adds it up", async () => {
    const cases: Parameters<typeof checkGradInput>[0][] = [
      {
        variant: "tile_256x16",
        x: [3, 9, 11, 16],
        weight: [16, 3, 3, 16],
        extra: { padding },
        dy: "gradient",
        joins: false,
        mask: "input",
      },
      {
        variant: "tile_128x32",
        x: [3, 7, 9, 20],
        weight: [8, 3, 3, 20],
        extra: { padding: [0, 1, 1, 2] },
        dy: "plain",
        joins: true,
        mask: "given",
      },
      {
        variant: "tile_64x64",
        x: [2, 9, 17, 40],
        weight: [16, 3, 3, 20],
        extra: { padding, groups: 2, stride: [2, 2] },
        dy: "gradient",
        joins: true,
        mask: "none",
      },
      {
        variant: "tile_128x64",
        x: [2, 6, 7, 68],
        weight: [6, 3, 3, 68],
        extra: { padding, stride: [2, 1] },
        dy: "plain",
        joins: false,
        mask: "given",
      },
      {
        variant: "tile_128x128",
        x: [2, 9, 9, 68],
        weight: [8, 1, 1, 68],
        dy: "gradient",
        joins: true,
        mask: null,
      },
    ];
    for (const one of sampled(cases)) await checkGradInput(one);
  });

  it("adds up many pixels, in phases without taps too", async () => {
    const many = { weight: [4, 1, 1, 8], dy: "plain", joins: true } as const;
    await checkGradInput({
      ...many,
      variant: "tile_64x64",
      x: [9, 47, 33, 8],
      extra: { stride: [2, 2] },
      mask: "given",
    });
  });

  it("works out both sides of dw on the way", async () => {
    const one = { x: [2, 7, 9, 16], weight: [24, 3, 3, 16], extra: { padding } } as const;
    const cases: Parameters<typeof checkGradWeight>[0][] = [
      { ...one, variant: "tile_16x144", input: "rectify", dy: "plain" },
      { ...one, variant: "tile_32x96", input: "plain", dy: "gradient" },
      // Parts of a chunk side by side, the last chunk of each slice with fewer pixels than parts.
      { ...one, variant: "tile_32x96x2", input: "normalise", dy: "plain" },
      {
        variant: "tile_16x72x7",
        x: [3, 11, 5, 12],
        weight: [20, 3, 3, 12],
        extra: { padding },
        input: "rectify",
        dy: "gradient",
      },
      // Both halves of a tile's rows and columns, and three slices of ten rows: the last one has one.
      {
        variant: "tile_64x64",
        x: [2, 9, 7, 32],
        weight: [80, 3, 3, 16],
        extra: { padding, stride: [2, 2], groups: 2 },
        input: "normalise",
        dy: "gradient",
      },
      // As many groups as there are channels in one.
      {
        variant: "tile_128x64",
        x: [2, 5, 6, 12],
        weight: [16, 3, 3, 3],
        extra: { groups: 4 },
        input: "plain",
        dy: "gradient",
      },
    ];
    for (const one of sampled(cases)) await checkGradWeight(one);
  });

  it("finishes the sums of another batch-norm beside dw", async () => {
    const one = { x: [2, 7, 9, 16], weight: [24, 3, 3, 16], extra: { padding } } as const;
    const wide = { x: [2, 9, 7, 32], weight: [80, 3, 3, 32], extra: { padding } } as const;
    const cases: Parameters<typeof checkRider>[0][] = [
      // More groups than lanes, and lanes that have no column.
      { ...one, variant: "tile_16x144", input: "rectify", dy: "gradient", channels: 16, groups: 523 },
      { ...one, variant: "tile_32x96", input: "plain", dy: "gradient", channels: 12, groups: 1 },
      { ...one, variant: "tile_32x96x2", input: "normalise", dy: "plain", channels: 4, groups: 3000 },
      { ...one, variant: "tile_16x72x7", input: "rectify", dy: "gradient", channels: 68, groups: 97 },
      // Several workgroups, the last one with columns to spare.
      { ...wide, variant: "tile_64x64", input: "plain", dy: "plain", channels: 520, groups: 24 },
      { ...wide, variant: "tile_128x64", input: "normalise", dy: "gradient", channels: 2052, groups: 2 },
    ];
    for (const one of sampled(cases)) await checkRider(one);
    const constants = { channels: 20, groups: 0, batchStatistics: false };
    await checkRider({ ...one, variant: "tile_32x96", input: "plain", dy: "gradient", ...constants });
    // In a grid with workgroups to spare.
    const folded = { channels: 64, groups: 300 };
    const plain = { ...wide, variant: "tile_64x64", input: "rectify", dy: "gradient" } as const;
    await withFoldAt(gpu, 5, () => checkRider({ ...plain, ...folded }));
  });

  it("has room in the tiles of every kernel of dw for what rides along", () => {
    const [N, H, W, C, K, R, S] = [8, 32, 32, 64, 64, 3, 3];
    const { geometry } = convOf([N, H, W, C], [K, R, S, C], { padding });
    const tiles = conv2dVariants(gpu, geometry).grad_weight.map(blockOf);
    const checked = tiles.filter((tile) => tile?.family === "tile");
    expect(checked.length).toBeGreaterThan(3);
    for (const tile of checked)
      expect(vec4sOfTiles(tile)).toBeGreaterThanOrEqual(2 * tileSizes(tile).WORKGROUP);
  });
});
