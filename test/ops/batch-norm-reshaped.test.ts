// Folds are by channel: a reshape between a convolution and a batch-norm either keeps them right or ends them.

import { describe, expect, it } from "vitest";
import { relu } from "../../src/ops/activations.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { mul } from "../../src/ops/elementwise/elementwise.ts";
import { sum } from "../../src/ops/reduce/reduce.ts";
import { flatten, reshape } from "../../src/ops/reshape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { sampled, testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";

const gpu = await testGpu();

const FOLDS = [
  "conv2d.forward.input",
  "conv2d.forward.output",
  "conv2d.grad_input.input",
  "conv2d.grad_input.output",
  "conv2d.grad_weight.input",
  "conv2d.grad_weight.dy",
];

type Program = (t: { x: Tensor; w: Tensor; v: Tensor }, folds: boolean) => Tensor;

const norm = (x: Tensor, folds: boolean, activation: "none" | "relu" = "none") =>
  batchNorm(x, null, null, { training: true, folds, activation });

/** x [4, 6, 6, 8], w [16, 3, 3, 8], v [8, 1, 1, C] with the C that the program wants. */
const programs: Record<string, { channels: number; run: Program }> = {
  "batch-norm of a convolution with fewer channels": {
    channels: 8,
    run: ({ x, w, v }, folds) => {
      const y = norm(reshape(conv2d(x, w, { padding: 1 }), [8, 6, 6, 8]), folds);
      return conv2d(y, v);
    },
  },
  "batch-norm of a convolution with more channels": {
    channels: 32,
    run: ({ x, w, v }, folds) => {
      const y = norm(reshape(conv2d(x, w, { padding: 1 }), [2, 6, 6, 32]), folds, "relu");
      return conv2d(y, v);
    },
  },
  "the same channels in another rank, and back": {
    channels: 16,
    run: ({ x, w, v }, folds) => {
      const y = relu(norm(reshape(conv2d(x, w, { padding: 1 }), [144, 16]), folds));
      return conv2d(reshape(y, [4, 6, 6, 16]), v);
    },
  },
  "ReLU after a flatten": {
    channels: 16,
    run: ({ x, w, v }, folds) => {
      const y = relu(flatten(norm(conv2d(x, w, { padding: 1 }), folds)));
      return conv2d(reshape(y, [4, 6, 6, 16]), v);
    },
  },
  "convolution of a reshaped batch-norm": {
    channels: 4,
    run: ({ x, w, v }, folds) => {
      const y = norm(conv2d(x, w, { padding: 1 }), folds, "relu");
      return conv2d(reshape(y, [4, 12, 12, 4]), v);
    },
  },
  "ReLU of a reshaped batch-norm, convolved": {
    channels: 8,
    run: ({ x, w, v }, folds) => {
      const y = relu(reshape(norm(conv2d(x, w, { padding: 1 }), folds), [4, 6, 12, 8]));
      return conv2d(y, v, { stride: 2 });
    },
  },
  "a batch-norm that is read both ways": {
    channels: 8,
    run: ({ x, w, v }, folds) => {
      const y = norm(conv2d(x, w, { padding: 1 }), folds, "relu");
      const z = conv2d(reshape(y, [8, 6, 6, 8]), v);
      return mul(z, norm(reshape(conv2d(x, w, { padding: 1 }), [8, 6, 6, 8]), folds));
    },
  },
};

describe("a reshape between convolution and batch-norm", () => {
  for (const family of ["software", "hardware"] as const) {
    for (const [what, { channels, run }] of sampled(Object.entries(programs))) {
      it(`${what} (${family}): folded as unfolded, forward and backward`, async () => {
        const results: Float32Array[][] = [];
        const own = gpu.info.class;
        (gpu.info as { class: string }).class = family;
        for (const name of FOLDS) gpu.variants.force(name, "fused");
        const forced = family === "software" ? "software" : "workgroup";
        for (const pass of ["forward", "backward"]) gpu.variants.force(`batch_norm.${pass}`, forced);
        try {
          for (const folds of [true, false]) {
            const leaf = (shape: number[], seed: number) =>
              gpu.tensor(
                normals(
                  shape.reduce((a, b) => a * b),
                  seed,
                ),
                shape,
                { requiresGrad: true },
              );
            const t = {
              x: leaf([4, 6, 6, 8], 1),
              w: leaf([16, 3, 3, 8], 2),
              v: leaf([8, 1, 1, channels], 3),
            };
            const out = gpu.scope(() => {
              const y = run(t, folds);
              sum(mul(mul(y, y), y)).backward();
              return y.detach();
            });
            const read = [out, t.x.grad!, t.w.grad!, t.v.grad!];
            results.push(await Promise.all(read.map(async (r) => (await r.read()) as Float32Array)));
            for (const tensor of [out, t.x, t.w, t.v]) tensor.dispose();
          }
        } finally {
          (gpu.info as { class: string }).class = own;
          for (const name of [...FOLDS, "batch_norm.forward", "batch_norm.backward"])
            gpu.variants.force(name, null);
        }
        const [folded, plain] = results as [Float32Array[], Float32Array[]];
        for (const [i, values] of folded.entries())
          expect(relativeError(values, plain[i]!)).toBeLessThan(2e-5);
      });
    }
  }
});
