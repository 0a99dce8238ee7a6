import { ShapeError } from "../../errors.ts";
import { checkFlag, checkOptions, optionNames } from "../../options.ts";
import { formatShape } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { defineOp } from "../define-op.ts";
import { multiply, type Operand, transposed } from "./kernels.ts";

/** Options of `matmul`. */
export interface MatmulOptions {
  /** Use aᵀ: a is [K, M]. Default false. */
  transposeA?: boolean;
  /** Use bᵀ: b is [N, K]. Default false. */
  transposeB?: boolean;
}

const OPTIONS = optionNames<MatmulOptions>({ transposeA: 0, transposeB: 0 });

const op = defineOp({
  name: "matmul",
  inputs: { a: "rows columns", b: "rows2 columns2" },
  infer({ a, b }, { transposeA = false, transposeB = false }: MatmulOptions) {
    const [M, K] = transposeA ? [a[1]!, a[0]!] : [a[0]!, a[1]!];
    const [inner, N] = transposeB ? [b[1]!, b[0]!] : [b[0]!, b[1]!];
    if (inner !== K) {
      throw new ShapeError(
        `matmul: a ${formatShape(a)}${transposeA ? " transposed" : ""} has ${K} columns, b ${formatShape(b)}` +
          `${transposeB ? " transposed" : ""} has ${inner} rows; expected the same number (see transposeA and transposeB)`,
      );
    }
    return { out: [M, N], M, N, K };
  },
  forward(ctx, { a, b }, { out: shape, M, N, K }, { transposeA, transposeB }) {
    const out = ctx.empty(shape);
    multiply(ctx, out, operand(a, M, K, transposeA), operand(b, K, N, transposeB));
    return { out, saved: { a: ctx.needsGrad.b ? a : null, b: ctx.needsGrad.a ? b : null } };
  },
  backward(ctx, grad, { a, b }, { M, N, K }, { transposeA, transposeB }) {
    const dy = operand(grad, M, N);
    // da = dy·bᵀ, or its transpose b·dyᵀ where a came transposed; db alike.
    let da: Tensor | null = null;
    if (b) {
      da = ctx.grad("a");
      const right = operand(b, K, N, transposeB);
      if (transposeA) multiply(ctx, da, right, transposed(dy));
      else multiply(ctx, da, dy, transposed(right));
    }
    let db: Tensor | null = null;
    if (a) {
      db = ctx.grad("b");
      const left = operand(a, M, K, transposeA);
      if (transposeB) multiply(ctx, db, transposed(dy), left);
      else multiply(ctx, db, transposed(left), dy);
    }
    return { a: da, b: db };
  },
});

/**
 * Matrix product a·b.
 *
 * @param a [M, K], or [K, M] with `transposeA`
 * @param b [K, N], or [N, K] with `transposeB`
 * @returns [M, N]
 * @throws ShapeError if the inner sizes differ or an input is no matrix
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  checkOptions("matmul", options, OPTIONS);
  const { transposeA = false, transposeB = false } = options;
  checkFlag("matmul", "transposeA", transposeA);
  checkFlag("matmul", "transposeB", transposeB);
  return op({ a, b }, options);
}

/** `rows`×`columns` as they enter the product; stored the other way round if `transpose`. */
function operand(tensor: Tensor, rows: number, columns: number, transpose = false): Operand {
  return { tensor, rows, columns, rowStride: transpose ? 1 : columns, columnStride: transpose ? rows : 1 };
}
