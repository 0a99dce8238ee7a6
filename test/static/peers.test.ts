import { expect, it } from "vitest";
import { chips } from "../../scripts/kernels-static/chips.ts";
import { peersText } from "../../scripts/kernels-static/peers.ts";
import type { Figures, Row } from "../../scripts/kernels-static/rows.ts";

const row = (id: string, kernel: string, wave: number, whole: number): Row => ({
  ...{ id, kernel, wave, whole, workloads: {}, workgroups: 9, lanes: 64, registers: 99, spills: 0 },
  ...{ scratch: 0, lds: 0, waves: 4, instructions: 500, inFlight: 2, flying: 64, distance: 40, room: 9 },
  mix: { fma: 50, integer: 20, move: 10, other: 5, scalar: 10, loads: 1, stores: 0, lds: 4 },
  ...{ bound: null, ideal: whole, est: whole, flops: 1e9, bytes: 1e6 },
});
const figures = (rows: Row[]): Figures => ({ family: "navi31", mesa: "25.0", totals: [], rows });

it("shows the share of each library for the same work and subgroup size, and how far this package is ahead", () => {
  const conv = "conv2d.forward 3×3 16→16 @32 ×128";
  const product = "matmul.forward 1024×1024×1024";
  const ours = figures([
    row(conv, "conv2d_band.conv", 32, 12),
    row(conv, "conv2d_band.conv", 64, 80),
    row(`${conv} +statistics`, "conv2d_band+statistics.conv", 64, 70),
    row(product, "matmul_tile.forward", 64, 45),
    row(`${product} aᵀ`, "matmul_tile.forward", 64, 5),
  ]);
  const theirs = figures([
    row(conv, "jax-js.main", 64, 20),
    row(`${conv} main`, "tfjs.main", 64, 32),
    row(`${product} main`, "tfjs.main", 64, 50),
    row("conv2d.forward 5×5 1→1 @2 ×1", "tfjs.main", 64, 1), // of which nothing is stored
  ]);
  expect(peersText(ours, theirs, chips[0]!).split("\n").slice(1)).toEqual([
    "                                   fusenorm  jax-js  ahead    tfjs  ahead",
    `${conv}    80.0 %  20.0 %   4.0×  32.0 %   2.5×`,
    `${product}        45.0 %       –      –  50.0 %   0.9×`,
  ]);
});
