// Which kernel of shaders/matmul*.wgsl does a product, and with what grid.

import type { Variant } from "../../device/variants.ts";
import * as shaders from "../../generated/shaders.ts";
import type { Gpu } from "../../gpu.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { OpContext } from "../define-op.ts";
import { subgroupLanes } from "../subgroups.ts";

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

/** Workgroup memory of two parts of a tile. */
const PARTS_BYTES = 2 * 2 * 16 * 17 * 16;

/** Tiles below which a large GPU has lanes to spare, and terms of a sum above which it is worth dividing. */
const FEW_TILES = 512;
const LONG_SUM = 128;

/** What this adapter can use for a product of [M, K] and [K, N]; the first is chosen untuned. */
export function matmulVariants(gpu: Gpu, { M, N, K }: { M: number; N: number; K: number }): Variant[] {
  const subgroup = subgroupLanes(gpu) > 0 ? ["subgroup_4x16", "subgroup_4x8"] : [];
  // A block of 16 columns takes about 1.6 times as long as one of 8.
  if (1.6 * Math.ceil(N / 16) > Math.ceil(N / 8)) subgroup.reverse();
  const tiles = ["tile_64x64"];
  if (PARTS_BYTES <= gpu.limits.maxComputeWorkgroupStorageSize) tiles.push("tile_64x64x2");
  if (tilesOf(M, N) <= FEW_TILES && K >= LONG_SUM) tiles.reverse();
  return gpu.isSoftware ? [...subgroup, "scalar_4x4", ...tiles] : [...tiles, ...subgroup, "scalar_4x4"];
}

function tilesOf(M: number, N: number): number {
  return Math.ceil(M / 64) * Math.ceil(N / 64);
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
  const size = {
    ...{ M, N, K, A_M: a.rowStride, A_K: a.columnStride, B_K: b.rowStride, B_N: b.columnStride },
    has_bias: bias ? 1 : 0,
  };
  // Without a bias any buffer may stand at its place: what is read there is not used.
  const biasOrAny = bias ?? b.tensor;
  const candidates = matmulVariants(ctx.gpu, size);
  const shape = Object.values(size).join("x");
  const choice = ctx.gpu.variants.pick("matmul.forward", shape, candidates, candidates[0]!);
  const { variant } = choice;
  const counted = { flops: 2 * M * N * K, serves: [choice] };
  if (variant === "scalar_4x4") {
    const blocks = Math.ceil(N / 4) * Math.ceil(M / (4 * WORKGROUP));
    const bindings = { out, a: a.tensor, b: b.tensor, bias: biasOrAny, size };
    ctx.run({ shader: shaders.matmul, entry: "forward", ...counted }, bindings, ctx.gpu.fold(blocks));
    return;
  }
  const parts = variant === "tile_64x64" ? 1 : variant === "tile_64x64x2" ? 2 : 0;
  const tile = parts > 0;
  const kWhole = K % 4 === 0 || tile; // the subgroup kernels read four k whichever way they lie
  const vec4 = {
    A_VEC4: K % 4 === 0 && alongColumns(a) ? 1 : kWhole && alongColumns(transposed(a)) ? 2 : 0,
    B_VEC4: K % 4 === 0 && alongColumns(transposed(b)) ? 1 : tile && alongColumns(b) ? 2 : 0,
  };
  const bindings = { out, a: a.tensor, a4: a.tensor, b: b.tensor, b4: b.tensor, bias: biasOrAny, size };
  if (tile) {
    const constants = { ...vec4, PARTS: parts };
    ctx.run(
      { shader: shaders.matmul_tile, entry: "forward", constants, ...counted },
      bindings,
      ctx.gpu.fold(tilesOf(M, N)),
    );
    return;
  }
  const columns = variant === "subgroup_4x16" ? 16 : 8;
  const workgroup = M <= 32 ? 8 : M <= 64 ? 16 : M <= 128 ? 32 : WORKGROUP; // no more idle lanes than need be
  const constants = { ...vec4, NARROW: subgroupLanes(ctx.gpu) < 8 ? 1 : 0, WORKGROUP: workgroup };
  const blocks = Math.ceil(N / columns) * Math.ceil(M / (4 * workgroup));
  ctx.run(
    { shader: shaders.matmul_subgroup, entry: `forward_${columns}`, constants, ...counted },
    bindings,
    ctx.gpu.fold(blocks),
  );
}

/** Whether a matrix's rows can be read in whole vec4s. */
function alongColumns({ columnStride, rowStride, columns }: Operand): boolean {
  return columnStride === 1 && rowStride % 4 === 0 && columns % 4 === 0;
}
