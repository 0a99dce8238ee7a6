// Which kernel of shaders/matmul*.wgsl does a product, and with what grid.

import type { Gpu } from "../gpu/device.ts";
import type { Variant } from "../gpu/variants.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { OpContext } from "./define-op.ts";
import { subgroupLanes } from "./subgroups.ts";

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

/** What this adapter can use for a product with `columns` columns; the first is chosen untuned. */
export function matmulVariants(gpu: Gpu, columns: number): Variant[] {
  const scalar = ["scalar_4x4"];
  if (subgroupLanes(gpu) === 0) return scalar;
  const subgroup = ["subgroup_4x16", "subgroup_4x8"];
  // A block of 16 columns takes about 1.6 times as long as one of 8.
  if (1.6 * Math.ceil(columns / 16) > Math.ceil(columns / 8)) subgroup.reverse();
  return gpu.isSoftware ? [...subgroup, ...scalar] : [...scalar, ...subgroup];
}

/** out = a·b + bias, out row-major [a.rows, b.columns] */
export function multiply(
  ctx: Pick<OpContext, "gpu" | "run">,
  out: Tensor,
  a: Operand,
  b: Operand,
  bias: Tensor | null = null,
): void {
  const [M, N, K] = [a.rows, b.columns, a.columns];
  const size = [M, N, K, a.rowStride, a.columnStride, b.rowStride, b.columnStride, bias ? 1 : 0];
  // Without a bias any buffer may stand at its place: what is read there is not used.
  const biasOrAny = bias ?? b.tensor;
  const candidates = matmulVariants(ctx.gpu, N);
  const shape = size.join("x");
  const variant = ctx.gpu.variants.pick("matmul.forward", shape, candidates, candidates[0]!);
  if (variant === "scalar_4x4") {
    const blocks = Math.ceil(N / 4) * Math.ceil(M / (4 * WORKGROUP));
    const bindings = [out, a.tensor, b.tensor, biasOrAny, new Uint32Array(size)];
    ctx.run({ shader: "matmul", entry: "forward" }, bindings, ctx.gpu.fold(blocks));
    return;
  }
  const columns = variant === "subgroup_4x16" ? 16 : 8;
  const workgroup = M <= 32 ? 8 : M <= 64 ? 16 : M <= 128 ? 32 : WORKGROUP; // no more idle lanes than need be
  const blocks = Math.ceil(N / columns) * Math.ceil(M / (4 * workgroup));
  const constants = {
    A_VEC4: K % 4 !== 0 ? 0 : a.columnStride === 1 && a.rowStride % 4 === 0 ? 1 : inRows(a) ? 2 : 0,
    B_VEC4: K % 4 === 0 && b.rowStride === 1 && b.columnStride % 4 === 0 ? 1 : 0,
    NARROW: subgroupLanes(ctx.gpu) < 8 ? 1 : 0,
    WORKGROUP: workgroup,
  };
  ctx.run(
    { shader: "matmul_subgroup", entry: `forward_${columns}`, constants },
    [out, a.tensor, a.tensor, b.tensor, b.tensor, biasOrAny, new Uint32Array(size)],
    ctx.gpu.fold(blocks),
  );
}

/** Whether whole vec4s run along the rows of `a` (it came transposed). */
function inRows(a: Operand): boolean {
  return a.rowStride === 1 && a.columnStride % 4 === 0 && a.rows % 4 === 0;
}
