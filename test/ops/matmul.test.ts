import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { matmulVariants } from "../../src/ops/matmul/kernels.ts";
import { matmul } from "../../src/ops/matmul/matmul.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { withFoldAt } from "../helpers/fold.ts";
import { testGpu } from "../helpers/gpu.ts";
import { matmulReference } from "../reference/matmul.ts";

const gpu = await testGpu();

function matmulCase(m: number, n: number, k: number, transposeA = false, transposeB = false): OpCase {
  const options = { transposeA, transposeB };
  return {
    label: `${m}×${k} · ${k}×${n}${transposeA ? ", a transposed" : ""}${transposeB ? ", b transposed" : ""}`,
    inputs: { a: transposeA ? [k, m] : [m, k], b: transposeB ? [n, k] : [k, n] },
    run: (t) => matmul(t.a!, t.b!, options),
    variants: { "matmul.forward": matmulVariants(gpu, { M: m, N: n, K: k }) },
    reference: (v) => matmulReference([m, n, k], { a: v.a!, b: v.b! }, options),
    referenceGrad: (v, dy) => {
      // da = dy·bᵀ and db = aᵀ·dy, transposed where the input was.
      const right = { transposeB: !transposeB };
      const left = { transposeA: !transposeA };
      return {
        a: transposeA
          ? matmulReference([k, m, n], { a: v.b!, b: dy }, { transposeA: transposeB, transposeB: true })
          : matmulReference([m, k, n], { a: dy, b: v.b! }, right),
        b: transposeB
          ? matmulReference([n, k, m], { a: dy, b: v.a! }, { transposeA: true, transposeB: transposeA })
          : matmulReference([k, n, m], { a: v.a!, b: dy }, left),
      };
    },
  };
}

describe("matmul", () => {
  it("multiplies matrices of any size, either of them transposed", async () => {
    const sizes: [number, number, number][] = [
      [1, 1, 1],
      [5, 3, 7],
      [17, 13, 11],
      [64, 64, 64],
      [65, 33, 20],
      [1, 129, 8],
      [257, 4, 3],
      [36, 24, 40],
    ];
    await checkOp(
      sizes.flatMap(([m, n, k]) => [
        matmulCase(m, n, k),
        matmulCase(m, n, k, true, false),
        matmulCase(m, n, k, false, true),
        matmulCase(m, n, k, true, true),
      ]),
    );
  });

  it("fills rows to the last, in several workgroups", async () => {
    await checkOp(matmulCase(512, 3, 2));
  });

  it("runs past 65,535 workgroups", async () => {
    const columns = 16 * 65_537;
    const data = Float32Array.from({ length: columns }, (_, i) => (i * 31) % 257);
    const a = gpu.tensor([2], [1, 1]);
    const b = gpu.tensor(data, [1, columns]);
    const out = matmul(a, b);
    const values = await out.read();
    expect(values.findIndex((value, i) => value !== 2 * data[i]!)).toBe(-1);
    for (const tensor of [a, b, out]) tensor.dispose();
  });

  it("takes folded grids in every variant", async () => {
    // As past 65,535 workgroups, but at three.
    await withFoldAt(gpu, 3, async () => {
      await checkOp(matmulCase(130, 150, 20));
    });
  });

  it("names what does not fit", async () => {
    const a = gpu.tensor(new Float32Array(6), [2, 3]);
    const b = gpu.tensor(new Float32Array(8), [2, 4]);
    const vector = gpu.tensor(new Float32Array(3), [3]);
    const fails = (run: () => unknown, message: RegExp) => {
      expect(run).toThrow(ShapeError);
      expect(run).toThrow(message);
    };
    fails(
      () => matmul(a, b),
      /matmul: a \[2, 3\] has 3 columns, b \[2, 4\] has 2 rows; expected the same number/,
    );
    fails(() => matmul(a, b, { transposeB: true }), /b \[2, 4\] transposed has 4 rows/);
    fails(() => matmul(a, vector), /matmul: b has rank 1/);
    expect(gpu.scope(() => matmul(a, b, { transposeA: true }).shape)).toEqual([3, 4]);
    for (const tensor of [a, b, vector]) tensor.dispose();
  });
});
