// What the subgroup kernels of conv2d do of the batch-norms around a convolution: kernels alone, each part forced.

import { describe, expect, it } from "vitest";
import { conv2dVariants } from "../../src/ops/conv2d/choose.ts";
import { onlyLanes } from "../../src/ops/subgroups.ts";
import { checkForward, checkGradInput, checkGradWeight, convOf } from "../helpers/conv2d-fused.ts";
import { withFoldAt } from "../helpers/fold.ts";
import { testGpu } from "../helpers/gpu.ts";

type Four = [number, number, number, number];
const gpu = await testGpu();

// Elsewhere these kernels do not reduce, or lack the bindings.
const { maxStorageBuffersPerShaderStage } = gpu.limits;
describe.skipIf(onlyLanes(gpu) === 0 || maxStorageBuffersPerShaderStage < 10)(
  "conv2d, subgroup kernels with parts of batch-norm",
  () => {
    it("knows the kernels", () => {
      const { geometry } = convOf([1, 8, 8, 16], [16, 3, 3, 16], { padding: [1, 1, 1, 1] });
      const { forward, grad_weight } = conv2dVariants(gpu, geometry);
      for (const name of ["subgroup_row_4x16", "subgroup_row_4x8", "subgroup_4x16", "subgroup_4x8"])
        expect(forward).toContain(name);
      for (const name of ["subgroup_row_4x16", "subgroup_row_4x8", "subgroup_4x16"])
        expect(grad_weight).toContain(name);
    });

    it("normalises x and measures y on the way", async () => {
      // Rows that end where subgroups do, then rows that do not.
      await checkForward({
        variant: "subgroup_row_4x16",
        x: [5, 8, 16, 16],
        weight: [24, 3, 3, 16],
        extra: { padding: [1, 1, 1, 1] },
        input: "rectify",
        statistics: true,
      });
      await checkForward({
        variant: "subgroup_row_4x16",
        x: [3, 7, 9, 16],
        weight: [24, 3, 3, 16],
        extra: { padding: [0, 1, 1, 2] },
        input: "rectify",
        statistics: true,
      });
      await checkForward({
        variant: "subgroup_row_4x8",
        x: [2, 5, 7, 8],
        weight: [24, 3, 3, 4],
        extra: { padding: [1, 1, 1, 1], groups: 2 },
        input: "normalise",
        statistics: true,
      });
      await checkForward({
        variant: "subgroup_4x16",
        x: [2, 9, 7, 16],
        weight: [40, 3, 3, 8],
        extra: { padding: [1, 1, 1, 1], groups: 2, stride: [2, 2] },
        input: "normalise",
        statistics: true,
        adds: true,
      });
      await checkForward({
        variant: "subgroup_4x8",
        x: [5, 5, 5, 8],
        weight: [8, 1, 1, 8],
        input: "rectify",
        statistics: false,
        adds: true,
      });
      // A last quad of input channels that is two channels.
      await checkForward({
        variant: "subgroup_4x8",
        x: [2, 6, 5, 6],
        weight: [12, 3, 3, 6],
        extra: { padding: [1, 1, 1, 1] },
        input: "plain",
        statistics: true,
      });
    });

    it("measures far from zero, and over many pixels", async () => {
      const many = { x: [9, 32, 33, 4], weight: [8, 1, 1, 4], input: "plain", statistics: true } as const;
      await checkForward({ ...many, variant: "subgroup_4x8", shift: 1000 });
      await checkForward({ ...many, variant: "subgroup_4x16", x: [9, 64, 33, 4] });
      const { x, weight } = { x: [9, 33, 32, 4], weight: [4, 1, 3, 4] } as const;
      await checkForward({
        ...many,
        x,
        weight,
        variant: "subgroup_row_4x8",
        extra: { padding: [0, 0, 1, 1] },
      });
    });

    it("measures in grids with workgroups to spare", async () => {
      for (const [variant, filters] of [
        ["subgroup_row_4x8", 8],
        ["subgroup_row_4x16", 16],
      ] as const) {
        await withFoldAt(gpu, 5, () =>
          checkForward({
            variant,
            x: [9, 33, 32, 4],
            weight: [filters, 1, 3, 4],
            extra: { padding: [0, 0, 1, 1] },
            ...{ input: "plain", statistics: true, shift: 1000 },
          }),
        );
      }
    });

    it("stages the weights of a last quad of input channels that is one channel", async () => {
      await checkForward({
        variant: "subgroup_row_4x16",
        x: [2, 4, 8, 5],
        weight: [16, 3, 3, 5],
        extra: { padding: [1, 1, 1, 1] },
        input: "plain",
        statistics: true,
      });
    });

    it("works dy out on the way, masks dx and adds it up", async () => {
      const padding: Four = [1, 1, 1, 1];
      await checkGradInput({
        variant: "subgroup_row_4x16",
        x: [3, 7, 9, 24],
        weight: [16, 3, 3, 24],
        extra: { padding: [...padding] },
        dy: "gradient",
        joins: false,
        mask: "input",
      });
      await checkGradInput({
        variant: "subgroup_row_4x8",
        x: [2, 5, 7, 12],
        weight: [8, 3, 3, 12],
        extra: { padding: [0, 1, 1, 2] },
        dy: "plain",
        joins: true,
        mask: "given",
      });
      await checkGradInput({
        variant: "subgroup_4x16",
        x: [2, 9, 7, 40],
        weight: [16, 3, 3, 20],
        extra: { padding: [...padding], groups: 2, stride: [2, 2] },
        dy: "gradient",
        joins: true,
        mask: "none",
      });
      await checkGradInput({
        variant: "subgroup_4x8",
        x: [2, 6, 7, 8],
        weight: [6, 3, 3, 8],
        extra: { padding: [...padding], stride: [2, 2] },
        dy: "plain",
        joins: false,
        mask: "given",
      });
      await checkGradInput({
        variant: "subgroup_4x16",
        x: [2, 5, 7, 24],
        weight: [8, 1, 1, 24],
        dy: "gradient",
        joins: true,
        mask: null,
      });
    });

    it("adds up many pixels, in phases", async () => {
      const many = { variant: "subgroup_4x8", weight: [4, 1, 1, 8], dy: "plain", joins: true } as const;
      await checkGradInput({ ...many, x: [9, 32, 33, 8], mask: "input" });
      await checkGradInput({ ...many, x: [9, 47, 33, 8], extra: { stride: [2, 2] }, mask: "given" });
      await checkGradInput({
        ...many,
        variant: "subgroup_row_4x16",
        x: [9, 33, 32, 8],
        weight: [4, 1, 3, 8],
        extra: { padding: [0, 0, 1, 1] },
        mask: "none",
      });
    });

    it("works out both sides of dw on the way", async () => {
      const padding: [number, number, number, number] = [1, 1, 1, 1];
      const variant = "subgroup_4x16";
      const one = { variant, x: [2, 7, 9, 16], weight: [24, 3, 3, 16], extra: { padding } } as const;
      await checkGradWeight({ ...one, input: "rectify", dy: "plain" });
      await checkGradWeight({ ...one, input: "plain", dy: "gradient" });
      await checkGradWeight({
        variant,
        x: [2, 9, 7, 8],
        weight: [24, 3, 3, 4],
        extra: { padding, stride: [2, 2], groups: 2 },
        input: "normalise",
        dy: "gradient",
      });
      // Three slices of ten rows: the last one has one.
      await checkGradWeight({
        variant,
        x: [2, 7, 6, 3],
        weight: [100, 3, 3, 3],
        input: "plain",
        dy: "gradient",
      });
    });

    it("works out both sides of dw on the way, along rows", async () => {
      for (const variant of ["subgroup_row_4x16", "subgroup_row_4x8"] as const) {
        const one = { variant, x: [2, 7, 9, 16], weight: [24, 3, 3, 16] } as const;
        const padding: [number, number, number, number] = [1, 1, 1, 1];
        await checkGradWeight({ ...one, extra: { padding }, input: "rectify", dy: "plain" });
        // With blocks of 8 channels three slices of ten rows: the last one has one.
        await checkGradWeight({ ...one, weight: [56, 3, 3, 16], input: "plain", dy: "gradient" });
        await checkGradWeight({
          variant,
          x: [3, 9, 7, 8],
          weight: [24, 3, 3, 4],
          extra: { padding: [0, 1, 2, 0], stride: [2, 1], groups: 2 },
          input: "normalise",
          dy: "gradient",
        });
        await checkGradWeight({
          variant,
          x: [2, 5, 10, 40],
          weight: [8, 2, 3, 20],
          extra: { padding: [2, 0, 0, 2], groups: 2 },
          input: "rectify",
          dy: "gradient",
        });
        // A map narrower than the filter.
        await checkGradWeight({
          variant,
          x: [2, 4, 1, 4],
          weight: [4, 3, 3, 4],
          extra: { padding: [1, 1, 2, 1] },
          input: "normalise",
          dy: "plain",
        });
      }
    });
  },
);
