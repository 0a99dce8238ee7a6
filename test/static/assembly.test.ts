import { expect, test } from "vitest";
import { findLoops, parseBlocks, tripsOf } from "../../scripts/kernels-static/assembly.ts";
import { NESTED } from "./fixtures.ts";

test("blocks have their instructions without encodings, remarks and padding, and their jumps by index", () => {
  const blocks = parseBlocks(NESTED);
  expect(blocks.map(({ name }) => name)).toEqual(["BB0", "BB1", "BB3", "BB4", "BB6", "BB7", "BB9"]);
  expect(blocks[0]!.code).toEqual([
    "s_mov_b32 s7, 0",
    "s_load_b128 s[8:11], s[2:3], 0x20",
    "v_lshlrev_b32_e32 v1, 4, v0",
  ]);
  // To BB6 and BB1, not to the numbers in their names; BB99 is nowhere.
  expect(blocks.map(({ jumps }) => jumps)).toEqual([
    [],
    [{ op: "s_cbranch_execz", to: 3 }],
    [],
    [{ op: "s_cbranch_scc0", to: 3 }],
    [{ op: "s_cbranch_scc1", to: 6 }],
    [{ op: "s_branch", to: 1 }],
    [],
  ]);
});

test("a loop is a jump back, once for each start, inner loops first", () => {
  expect(findLoops(parseBlocks(NESTED))).toEqual([
    { from: 3, to: 3 },
    { from: 1, to: 5 },
  ]);
  const twoJumps = "BB0:\n\ts_nop 0\nBB1:\n\ts_cbranch_scc0 BB0\nBB2:\n\ts_branch BB0\n";
  expect(findLoops(parseBlocks(twoJumps))).toEqual([{ from: 0, to: 2 }]);
});

test("turns are read off the counter that ends a loop", () => {
  const blocks = parseBlocks(NESTED);
  expect(tripsOf(blocks, { from: 3, to: 3 })).toBe(16 / 2);
  // Its counter s7 leaves at 18; the comparison with 9 only skips a part, and s5 steps down against endless loops.
  expect(tripsOf(blocks, { from: 1, to: 5 })).toBe(18);
});

const loopWith = (start: string, step: string, end: string) =>
  parseBlocks(`BB0:\n\t${start}\nBB1:\n\t${step}\n\t${end}\n\ts_cbranch_scc1 BB1\nBB2:\n\ts_endpgm\n`);

test.each([
  ["s_mov_b32 s4, 0", "s_add_u32 s4, s4, 1", "s_cmp_lt_u32 s4, 16", 16],
  ["s_mov_b32 s4, 2", "s_add_i32 s4, 3, s4", "s_cmp_lt_i32 s4, 16", 5], // 2, 5, 8, 11, 14
  ["s_movk_i32 s4, 0", "s_addk_i32 s4, 0x20", "s_cmp_gt_u32 0x90, s4", 5], // 0 … 128
  ["s_mov_b32 s4, 0", "s_add_u32 s4, s4, 1", "s_cmp_le_u32 s4, 16", 17],
  ["s_mov_b32 s4, 0", "s_add_u32 s4, s4, 1", "s_cmp_ge_u32 16, s4", 17],
  ["s_mov_b32 s4, 0", "s_add_u32 s4, s4, 1", "s_cmp_lg_u32 s4, 16", 16],
  ["s_mov_b32 s4, 0", "s_add_u32 s4, s4, 1", "s_cmpk_lt_u32 s4, 0x48", 72],
  ["s_mov_b64 s[4:5], 2", "s_add_u32 s4, s4, 1", "s_cmp_lt_u32 s4, 16", 14],
  ["s_mov_b64 s[3:4], 0xffffffff", "s_add_u32 s4, s4, 1", "s_cmp_lt_u32 s4, 16", 16],
  ["s_bfm_b64 s[3:4], 32, 0", "s_add_u32 s4, s4, 1", "s_cmp_lt_u32 s4, 16", 16],
  ["s_bfm_b64 s[3:4], 2, 33", "s_add_u32 s4, s4, 1", "s_cmp_lt_u32 s4, 16", 10], // from 6
  ["s_mov_b64 s[3:4], -1", "s_add_u32 s4, s4, 1", "s_cmp_lt_i32 s4, 16", 17],
])("%s; %s; %s: %i turns", (start, step, end, turns) => {
  expect(tripsOf(loopWith(start, step, end), { from: 1, to: 1 })).toBe(turns);
});

test.each([
  ["a bound in a register", "s_mov_b32 s4, 0", "s_add_u32 s4, s4, 1", "s_cmp_lt_u32 s4, s9"],
  ["a start in a register", "s_mov_b32 s4, s6", "s_add_u32 s4, s4, 1", "s_cmp_lt_u32 s4, 16"],
  ["a counter down", "s_mov_b32 s4, -1", "s_add_u32 s4, s4, -1", "s_cmp_eq_u32 s4, 0"],
  ["no counter", "s_mov_b32 s4, 0", "s_nop 0", "s_cmp_lt_u32 s4, 16"],
])("%s: the turns are not known", (_, start, step, end) => {
  expect(tripsOf(loopWith(start, step, end), { from: 1, to: 1 })).toBeNull();
});
