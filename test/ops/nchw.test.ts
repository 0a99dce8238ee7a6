// What is said to who comes from PyTorch with maps [N, C, H, W] or filters [K, C, R, S].

import { describe, expect, it } from "vitest";
import {
  avgPool2d,
  BatchNorm2d,
  batchNorm,
  Conv2d,
  conv2d,
  convTranspose2d,
  customOp,
  fromNCHW,
  type Gpu,
  groupNorm,
  maxPool2d,
  type Tensor,
  weightFromOIHW,
} from "../../src/index.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";

const MAPS = "; if x is [N, C, H, W], as in PyTorch, pass fromNCHW(x)";
const FILTERS = "; if weight is [K, C, R, S], as in PyTorch, pass weightFromOIHW(weight)";

describe("shapes of PyTorch", () => {
  const cases: [string, (gpu: Gpu, of: (...shape: number[]) => Tensor) => unknown, string][] = [
    ["conv2d's x", (_, of) => conv2d(of(2, 3, 8, 9), of(5, 3, 3, 3)), MAPS],
    ["conv2d's x, in groups", (_, of) => conv2d(of(2, 6, 8, 7), of(4, 3, 3, 3), { groups: 2 }), MAPS],
    ["Conv2d's x", (gpu, of) => new Conv2d(gpu, 3, 4, 3).forward(of(2, 3, 8, 8)), MAPS],
    ["conv2d's weight", (_, of) => conv2d(of(2, 8, 8, 6), of(4, 6, 3, 3)), FILTERS],
    ["conv2d's weight, depthwise", (_, of) => conv2d(of(2, 8, 8, 6), of(6, 1, 3, 3), { groups: 6 }), FILTERS],
    ["both", (_, of) => conv2d(of(2, 6, 8, 8), of(4, 6, 3, 3)), MAPS + FILTERS],
    ["convTranspose2d's x", (_, of) => convTranspose2d(of(2, 4, 8, 8), of(4, 3, 3, 5)), MAPS],
    ["batchNorm's x", (_, of) => batchNorm(of(2, 3, 8, 8), of(3), of(3), { training: true }), MAPS],
    ["BatchNorm2d's x", (gpu, of) => new BatchNorm2d(gpu, 3).forward(of(2, 3, 8, 8)), MAPS],
    ["groupNorm's x", (_, of) => groupNorm(of(2, 6, 8, 8), 2, of(6), of(6)), MAPS],
    ["groupNorm's x, by its groups", (_, of) => groupNorm(of(2, 6, 8, 8), 3, of(6), of(6)), MAPS],
    ["maxPool2d's x", (_, of) => maxPool2d(of(2, 3, 8, 8), 4), MAPS],
    ["avgPool2d's x", (_, of) => avgPool2d(of(2, 3, 8, 8), 5), MAPS],
    [
      "that of an op of one's own",
      (_, of) => {
        const own = customOp({
          name: "mine",
          inputs: { map: "N H W C", scale: "C" },
          infer: ({ map }) => ({ out: map }),
          forward: (ctx, _inputs, { out }) => ({ out: ctx.empty(out), saved: {} }),
        });
        return own({ map: of(2, 3, 8, 8), scale: of(3) }, undefined);
      },
      MAPS.replaceAll(/\bx\b/g, "map"),
    ],
    // Neither layout would fit, or nothing tells.
    ["conv2d, other channels", (_, of) => conv2d(of(2, 4, 8, 8), of(5, 3, 3, 3)), ""],
    ["batchNorm, other channels", (_, of) => batchNorm(of(2, 4, 8, 8), of(3), of(3), { training: true }), ""],
    ["batchNorm of rows", (_, of) => batchNorm(of(8, 3), of(8), of(8), { training: true }), ""],
    ["maxPool2d of a low map", (_, of) => maxPool2d(of(2, 3, 8, 6), 4), ""],
  ];
  it.each(cases)("%s: the message says how to convert it, or nothing of it", async (_, call, hint) => {
    const gpu = await testGpu();
    const of = (...shape: number[]) =>
      gpu.tensor(
        normals(
          shape.reduce((a, b) => a * b),
          1,
        ),
        shape,
      );
    gpu.scope(() => {
      let message = "";
      try {
        call(gpu, of);
      } catch (error) {
        message = (error as Error).message;
      }
      expect(message).toMatch(/expected/);
      expect(message.slice(message.length - hint.length)).toBe(hint);
      expect(message.includes("as in PyTorch")).toBe(hint !== "");
    });
  });

  it("what it says is right", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const of = (...shape: number[]) =>
        gpu.tensor(
          normals(
            shape.reduce((a, b) => a * b),
            1,
          ),
          shape,
        );
      const y = conv2d(fromNCHW(of(2, 6, 8, 8)), weightFromOIHW(of(4, 6, 3, 3)));
      expect(y.shape).toEqual([2, 6, 6, 4]);
    });
  });
});
