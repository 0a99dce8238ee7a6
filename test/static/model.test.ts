import { expect, test } from "vitest";
import { bytesPerCycle, type Chip, chips, peakOf } from "../../scripts/kernels-static/chips.ts";
import { analyze, busy, count, fmaCycles, gridCycles, sharesOf } from "../../scripts/kernels-static/model.ts";
import { NESTED } from "./fixtures.ts";

const chip = (family: string): Chip => chips.find((one) => one.family === family)!;
const [rdna3, rdna2, gcn] = [chip("navi31"), chip("navi21"), chip("vega10")];

test.each([
  // Instruction; cycles of RDNA3 in waves of 64 and 32, of RDNA2 in both, of GCN
  ["v_fmac_f32_e32 v1, v2, v3", 1, 1, 2, 1, 4],
  ["v_mov_b32_e32 v1, v2", 1, 1, 2, 1, 4],
  ["v_dual_fmac_f32 v1, v2, v3 :: v_dual_mov_b32 v4, v5", 2, 1, 2, 1, 4],
  ["v_add_nc_u32_e32 v1, 16, v1", 2, 1, 2, 1, 4],
  ["v_mul_lo_u32 v1, v2, v3", 8, 4, 8, 4, 16],
  ["v_rcp_f32_e32 v1, v2", 8, 4, 8, 4, 16],
  ["s_add_u32 s1, s1, 1", 0, 0, 0, 0, 0],
  ["ds_load_b128 v[1:4], v5", 0, 0, 0, 0, 0],
])("issue cycles of %s", (line, ...cycles) => {
  const cases = [
    [rdna3, 64],
    [rdna3, 32],
    [rdna2, 64],
    [rdna2, 32],
    [gcn, 64],
  ] as const;
  expect(cases.map(([one, wave]) => count([line], one, wave).cycles)).toEqual(cycles);
});

test("bytes are those of all lanes; pairs of addresses count twice, three words as four", () => {
  const bytes = (line: string) => {
    const { loadBytes, storeBytes, ldsBytes } = count([line], rdna3, 64);
    return [loadBytes, storeBytes, ldsBytes];
  };
  expect(bytes("buffer_load_b32 v1, v2, s[0:3], 0 offen")).toEqual([256, 0, 0]);
  expect(bytes("buffer_load_dwordx4 v[1:4], v5, s[0:3], 0 offen")).toEqual([1024, 0, 0]);
  expect(bytes("global_load_b96 v[1:3], v[4:5], off")).toEqual([1024, 0, 0]);
  expect(bytes("buffer_store_b64 v[1:2], v3, s[0:3], 0 offen")).toEqual([0, 512, 0]);
  expect(bytes("ds_read2_b64 v[1:4], v5 offset1:1")).toEqual([0, 0, 1024]);
  expect(bytes("ds_store_2addr_b32 v1, v2, v3 offset1:1")).toEqual([0, 0, 512]);
});

test("instructions by kind", () => {
  const code = NESTED.split("\n").map((line) => line.split(";")[0]!.trim());
  expect(count(code, rdna3, 64)).toMatchObject({
    ...{ valu: 8, fma: 3, move: 1, integer: 4, slow: 1, matrix: 0 },
    ...{ smem: 1, loads: 1, stores: 1, ldsLoads: 1, ldsStores: 1, barriers: 1 },
    salu: 9, // mov, cmp, cselect, mov, add, cmp, add, cmp, add; not what only steers
  });
});

test("a turn of the outer loop: 8 of the inner one, and half of what some waves skip", () => {
  const { loop, inFlight } = analyze(NESTED, rdna3, 64);
  expect(loop).toMatchObject({ trips: 18, innerTrips: 8, innermost: { from: 3, to: 3 } });
  // The inner loop issues 1 + 1 + 2 + 2 cycles; of the guarded part, v_add_nc_u32's 2 count half.
  expect(loop!.turn.cycles).toBe(8 * 6 + 1);
  expect(loop!.turn.fma).toBe(8 * 3);
  expect(loop!.turn.ldsBytes).toBe(8 * 16 * 64 + 0.5 * 16 * 64);
  expect(loop!.turn.loadBytes).toBe(0.5 * 16 * 64);
  // Once: v_lshlrev_b32 with 2 cycles, v_mul_lo_u32 with 8.
  expect(loop!.once).toMatchObject({ cycles: 10, fma: 0, stores: 1 });
  expect(inFlight).toBe(1);
});

test("distance: the cycles between a load and its wait, also of the turn before", () => {
  // v_add_nc_u32 alone stands between them.
  expect(analyze(NESTED, rdna3, 64).loop!.distance).toBe(2);
  expect(analyze(NESTED, gcn, 64).loop!.distance).toBe(4);
  // Loaded at the end of a turn, waited for in the next one: 3 fmas, then the wait.
  const ahead = [
    "BB0:\n\ts_mov_b32 s4, 0\nBB1:",
    "v_fmac_f32_e32 v1, v2, v3",
    "v_fmac_f32_e32 v1, v2, v3",
    "v_fmac_f32_e32 v1, v2, v3",
    "s_waitcnt vmcnt(0)",
    "ds_store_b32 v9, v4",
    "buffer_load_b32 v4, v5, s[0:3], 0 offen",
    "v_add_nc_u32_e32 v5, 4, v5",
    "s_cbranch_scc0 BB1\nBB2:\n\ts_endpgm",
  ].join("\n\t");
  expect(analyze(ahead, rdna3, 64).loop!.distance).toBe(2 + 3);
  // vmcnt(1) lets the younger of two loads fly.
  const two = ahead
    .replace("vmcnt(0)", "vmcnt(1)")
    .replace("v_add_nc", "buffer_load_b32 v6, v7, s[0:3], 0 offen\n\tv_add_nc");
  expect(analyze(two, rdna3, 64)).toMatchObject({ inFlight: 2, loop: { distance: 5 } });
});

test("stores stand in the same queue as loads on GCN alone", () => {
  const code = [
    "BB0:\n\ts_nop 0\nBB1:",
    "buffer_load_b32 v4, v5, s[0:3], 0 offen",
    "v_fmac_f32_e32 v1, v2, v3",
    "buffer_store_b32 v1, v5, s[0:3], 0 offen",
    "v_fmac_f32_e32 v1, v2, v3",
    "s_waitcnt vmcnt(1)",
    "s_cbranch_scc0 BB1\nBB2:\n\ts_endpgm",
  ].join("\n\t");
  // GCN: one may fly, which is the store, so the load of this turn is waited for: 2 fmas of 4 cycles.
  expect(analyze(code, gcn, 64).loop!.distance).toBe(8);
  // RDNA: the load itself may fly, and is waited for a turn later: 4 fmas of 1 cycle.
  expect(analyze(code, rdna3, 64).loop!.distance).toBe(4);
});

test("what binds a turn: issuing, workgroup memory, or loads", () => {
  const nothing = count([], rdna3, 64);
  // A unit's 2 SIMDs share 128 bytes a cycle: 64 bytes for each.
  expect(busy({ ...nothing, cycles: 10, ldsBytes: 576 }, rdna3)).toEqual({ cycles: 10, bound: "issue" });
  expect(busy({ ...nothing, cycles: 8, ldsBytes: 576 }, rdna3)).toEqual({ cycles: 9, bound: "LDS" });
  expect(busy({ ...nothing, cycles: 8, loadBytes: 640 }, rdna3)).toEqual({ cycles: 10, bound: "L0" });
  // Four of GCN.
  expect(busy({ ...nothing, cycles: 8, ldsBytes: 576 }, gcn)).toEqual({ cycles: 18, bound: "LDS" });
});

test("fmas alone: a cycle for 64 lanes on RDNA3, 2 on RDNA2, 4 on GCN; half of that for 32", () => {
  expect([rdna3, rdna2, gcn].map((one) => fmaCycles({ fma: 10 }, one, 64))).toEqual([10, 20, 40]);
  expect([rdna3, rdna2].map((one) => fmaCycles({ fma: 10 }, one, 32))).toEqual([5, 10]);
});

test("a grid in rounds: n waves of a SIMD take n · work, or what one stalls", () => {
  const simds = rdna3.units * rdna3.simds;
  expect(simds).toBe(192);
  const cycles = (workgroups: number, waves: number, work: number, stall: number) =>
    gridCycles(rdna3, 64, { workgroups, lanes: 256, waves }, work, stall);
  // 4 waves of a workgroup: 48 workgroups give each SIMD one wave, 49 give some of them two.
  expect(cycles(48, 8, 100, 300)).toBe(400);
  expect(cycles(49, 8, 100, 300)).toBe(400); // two waves, busy for 200, still end with the stall
  expect(cycles(48 * 8, 8, 100, 300)).toBe(800);
  // 9 waves for each SIMD, 8 at a time: a round of 8, then one of 1.
  expect(cycles(48 * 9, 8, 100, 300)).toBe(800 + 400);
  // Fewer lanes than a wave are one wave.
  expect(gridCycles(rdna3, 64, { workgroups: 192, lanes: 10, waves: 8 }, 100, 0)).toBe(100);
});

test("shares of peak, by hand", () => {
  const { loop } = analyze(NESTED, rdna3, 64);
  // 24 fmas take 24 cycles. Workgroup memory: 8,704 bytes at 64 a cycle are 136 cycles, more than the 49 of issuing.
  const launched = { workgroups: 192, lanes: 256, waves: 4 };
  const fmas = 192 * 256 * 18 * 24;
  const got = sharesOf(loop!, rdna3, 64, launched, 2 * fmas);
  expect(got.bound).toBe("LDS");
  expect(got.ideal).toBeCloseTo((100 * 24) / 136, 10);
  // 768 waves for 192 SIMDs: 4 each. A turn: 4 · 136 = 544 busy; one wave: 136 + (700 − 2) + 100 for the barrier = 934.
  expect(got.est).toBeCloseTo((100 * 4 * 24) / 934, 10);
  // Whole: 18 turns, then 10 cycles; no load before or behind the loop.
  expect(got.whole).toBeCloseTo((100 * 4 * 24 * 18) / (18 * 934 + 10), 10);
  // Half of the FLOP asked for, as where tiles hang over: half of the share, for the same time.
  expect(sharesOf(loop!, rdna3, 64, launched, fmas).whole).toBeCloseTo(got.whole / 2, 10);
});

test("lanes that the last wave of a workgroup has to spare count against it", () => {
  const { loop } = analyze(NESTED, rdna3, 64);
  const flopsOf = (lanes: number) => 2 * 192 * lanes * 18 * 24;
  const sharesWith = (lanes: number) =>
    sharesOf(loop!, rdna3, 64, { workgroups: 192, lanes, waves: 4 }, flopsOf(lanes));
  const [full, spare] = [sharesWith(128), sharesWith(72)];
  for (const share of ["ideal", "est", "whole"] as const)
    expect(spare[share]).toBeCloseTo((full[share] * 72) / 128, 10);
  // Nor do they take turns off the others.
  const { loop: unknown } = analyze(NESTED.replace("s7, 18", "s7, s13"), rdna3, 64);
  expect(
    sharesOf(unknown!, rdna3, 64, { workgroups: 192, lanes: 72, waves: 4 }, flopsOf(72)).whole,
  ).toBeCloseTo(spare.whole, 10);
});

test("with an unknown number of turns the FLOP tell", () => {
  const { loop } = analyze(NESTED.replace("s7, 18", "s7, s13"), rdna3, 64);
  expect(loop!.trips).toBeNull();
  const launched = { workgroups: 192, lanes: 256, waves: 4 };
  const flops = 2 * 192 * 256 * 18 * 24;
  expect(sharesOf(loop!, rdna3, 64, launched, flops).whole).toBeCloseTo(
    (100 * 4 * 24 * 18) / (18 * 934 + 10),
    10,
  );
});

test("a kernel without fmas has no loop of interest", () => {
  const copy =
    "BB0:\n\tbuffer_load_b128 v[0:3], v5, s[0:3], 0 offen\n\tbuffer_store_b128 v[0:3], v5, s[0:3], 0 offen\n";
  expect(analyze(copy, rdna3, 64)).toMatchObject({ loop: null, inFlight: 1, widest: { loadBytes: 1024 } });
});

test("the cards' numbers", () => {
  expect(peakOf(rdna3)).toBeCloseTo(61.44, 2);
  expect(peakOf(rdna2)).toBeCloseTo(23.04, 2);
  expect(peakOf(gcn)).toBeCloseTo(12.7, 1);
  expect(bytesPerCycle(rdna3)).toBeCloseTo(4, 10);
});
