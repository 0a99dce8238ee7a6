// Which kernel of shaders/matmul.wgsl does a product, and with what grid.

import type { Tensor } from "../tensor/tensor.ts";
import type { OpContext } from "./define-op.ts";

/** A matrix in a tensor: element (i, j) lies at i·rowStride + j·columnStride. */
export interface Operand {
  tensor: Tensor;
  rows: number;
  columns: number;
  rowStride: number;
  columnStride: number;
}

/** A row-major matrix. */
export function matrix(tensor: Tensor): Operand {
  const [rows, columns] = tensor.shape as [number, number];
  return { tensor, rows, columns, rowStride: columns, columnStride: 1 };
}

export function transposed({ tensor, rows, columns, rowStride, columnStride }: Operand): Operand {
  return { tensor, rows: columns, columns: rows, rowStride: columnStride, columnStride: rowStride };
}

const WORKGROUP = 64;

/** out = a·b + bias, out row-major [a.rows, b.columns] */
export function multiply(
  ctx: Pick<OpContext, "gpu" | "run">,
  out: Tensor,
  a: Operand,
  b: Operand,
  bias: Tensor | null = null,
): void {
  const constants = {
    ...{ M: a.rows, N: b.columns, K: a.columns },
    ...{ A_M: a.rowStride, A_K: a.columnStride, B_K: b.rowStride, B_N: b.columnStride },
    HAS_BIAS: bias ? 1 : 0,
  };
  const blocks = Math.ceil(b.columns / 4) * Math.ceil(a.rows / (4 * WORKGROUP));
  // Without a bias any buffer may stand at its place: what is read there is not used.
  ctx.run(
    { shader: "matmul", entry: "forward", constants },
    [out, a.tensor, b.tensor, bias ?? b.tensor],
    ctx.gpu.fold(blocks),
  );
}
