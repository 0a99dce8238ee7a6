import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { linear } from "../../src/ops/linear.ts";
import { matmulVariants } from "../../src/ops/matmul/kernels.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { matmulReference } from "../reference/matmul.ts";

const gpu = await testGpu();

function linearCase(n: number, c: number, k: number, bias: boolean): OpCase {
  return {
    label: `${n}×${c} → ${k}${bias ? " with bias" : ""}`,
    inputs: { x: [n, c], weight: [k, c], ...(bias ? { bias: [k] } : {}) },
    variants: { "matmul.forward": matmulVariants(gpu, { M: n, N: k, K: c }) },
    run: (t) => linear(t.x!, t.weight!, t.bias ?? null),
    reference: (v) =>
      matmulReference([n, k, c], { a: v.x!, b: v.weight!, bias: v.bias! }, { transposeB: true }),
    referenceGrad: (v, dy) => ({
      x: matmulReference([n, c, k], { a: dy, b: v.weight! }),
      weight: matmulReference([k, c, n], { a: dy, b: v.x! }, { transposeA: true }),
      bias: Float64Array.from({ length: k }, (_, j) => {
        let sum = 0;
        for (let i = 0; i < n; i += 1) sum += dy[i * k + j]!;
        return sum;
      }),
    }),
  };
}

describe("linear", () => {
  it("is x·weightᵀ + bias", async () => {
    await checkOp([
      linearCase(1, 1, 1, true),
      linearCase(32, 64, 10, true),
      linearCase(5, 7, 3, false),
      linearCase(130, 33, 65, true),
      linearCase(3, 12, 8, true),
    ]);
  });

  it("names what does not fit", async () => {
    const x = gpu.tensor(new Float32Array(8), [2, 4]);
    const weight = gpu.tensor(new Float32Array(15), [3, 5]);
    const bias = gpu.tensor(new Float32Array(2), [2]);
    const fitting = gpu.tensor(new Float32Array(12), [3, 4]);
    expect(() => linear(x, weight)).toThrow(ShapeError);
    expect(() => linear(x, weight)).toThrow(/linear: weight \[K, C\] has C = 5, x \[N, C\] has C = 4/);
    expect(() => linear(x, fitting, bias)).toThrow(/linear: bias \[K\] has K = 2, weight \[K, C\] has K = 3/);
    for (const tensor of [x, weight, bias, fitting]) tensor.dispose();
  });
});
