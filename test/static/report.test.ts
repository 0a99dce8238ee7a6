import { expect, test } from "vitest";
import { checkFigures } from "../../scripts/kernels-static/check.ts";
import { chips } from "../../scripts/kernels-static/chips.ts";
import { beside, hottestFunction, innerLoop } from "../../scripts/kernels-static/listing.ts";
import { analyze } from "../../scripts/kernels-static/model.ts";
import {
  compareRows,
  comparisonText,
  EXPLANATION,
  figuresJson,
  figuresText,
  wrap,
} from "../../scripts/kernels-static/report.ts";
import { type Figures, idOf, type Row, shapeInWords } from "../../scripts/kernels-static/rows.ts";
import { NESTED } from "./fixtures.ts";

const CONV = "conv2d.grad_input 3×3 16→16 @32 ×128 +x_affine_pair+gradient_sums+relu";

const row = (changed: Partial<Row> = {}): Row => ({
  id: CONV,
  wave: 64,
  kernel: "conv2d_tile+x_affine_pair+gradient_sums+relu.conv_8x4",
  workloads: { "resnet-20": 5 },
  ...{ workgroups: 512, lanes: 128, registers: 144, spills: 0, scratch: 0, lds: 13312, waves: 5 },
  instructions: 1101,
  mix: { fma: 50, integer: 20, move: 10, other: 5, scalar: 10, loads: 1, stores: 0, lds: 4 },
  ...{ inFlight: 9, flying: 92160, distance: 42, room: 24, bound: "LDS" },
  ...{ ideal: 52.4, est: 37.2, whole: 33, flops: 1e9, bytes: 1e6 },
  ...changed,
});
const stream = row({
  ...{ id: "batch_norm.apply HAS_RESIDUAL=1 STRIDED=1 WORKGROUP_SIZE=256", lds: 0, bound: null },
  ...{ ideal: null, est: null, whole: null, distance: null },
});
const total = { workload: "resnet-20", wave: 64, gigaflops: 31, dispatches: 144 };
const figures = (rows: Row[], changed: Partial<Figures> = {}): Figures => ({
  ...{ family: "navi31", mesa: "25.0", rows },
  totals: [{ ...total, ideal: 59.1, est: 45.2, whole: 42 }],
  ...changed,
});
const chip = chips[0]!;

test.each([60, 80, 100, 120])("no line is wider than %i columns", (width) => {
  const rows = [row({ spills: 12, scratch: 1024 }), stream];
  const before = figures([row({ est: 30, registers: 120 }), row({ id: `${CONV} JOIN=1` })]);
  const texts = [
    figuresText(figures(rows), chip, rows, width),
    comparisonText(before, figures(rows), rows, width),
    ...EXPLANATION.flatMap((text) => wrap(text, width)),
    beside(
      innerLoop(analyze(NESTED, chip, 64), chip, 64),
      ["fn a_function_of_a_long_name() {".padEnd(59, ".")],
      width,
    ),
  ];
  const lines = texts.join("\n").split("\n");
  expect(lines.filter((line) => line.length > width)).toEqual([]);
});

test("a row has its figures in a line beside what it does, or beneath it", () => {
  const at = (width: number) => figuresText(figures([row()]), chip, [row()], width).split("\n");
  const wide = at(120).find((line) => line.includes("16→16"))!;
  expect(wide.split(/\s{2,}/).slice(1)).toEqual([
    "144",
    "0",
    "13.0K",
    "5",
    "42",
    "LDS",
    "52",
    "37",
    "33",
    "50/20/10/5/10/5",
  ]);
  const narrow = at(60);
  const figuresAt = narrow.findIndex((line) => line.includes("13.0K"));
  expect(narrow[figuresAt]!.trim().split(/\s+/)).toEqual([
    "144",
    "0",
    "13.0K",
    "5",
    "42",
    "LDS",
    "52",
    "37",
    "33",
  ]);
  expect(`${narrow[figuresAt - 2]}${narrow[figuresAt - 1]!.trim()}`).toBe(CONV);
  expect(figuresText(figures([stream]), chip, [stream], 120)).toMatch(/9\s+90K\s+512\s+6×/); // 24 of 4 bytes a cycle
});

test("spills are named below the tables, wherever they are", () => {
  const text = figuresText(figures([row(), row({ wave: 32, spills: 3, scratch: 256 })]), chip, [row()], 120);
  expect(text).toContain(`${CONV}, wave32: 3 registers, 256 B of scratch`);
  expect(text).toContain("Of 2 kernels 1 spill");
  expect(figuresText(figures([row()]), chip, [row()], 120)).toContain("Of 1 kernels none spills");
});

test("a comparison: what changed, what costs most first; gone and new kernels", () => {
  const small = { id: "conv2d.forward 1×1 16→16 @32 ×128", flops: 1e6 };
  const before = [row(), row(small), row({ id: "gone" }), row({ wave: 32 })];
  const now = [
    row({ ...small, est: 10 }),
    row({ est: 74.4, distance: null }),
    row({ id: "new" }),
    row({ wave: 32 }),
  ];
  const { changes, onlyBefore, onlyNow } = compareRows(before, now);
  // 1e9 FLOP at 37 % rather than 74 % cost more than 1e6 at 10 % rather than 37 %.
  expect(changes.map(({ now }) => now.id)).toEqual([CONV, small.id]);
  expect([onlyBefore, onlyNow].map((rows) => rows.map(({ id }) => id))).toEqual([["gone"], ["new"]]);
  const text = comparisonText(
    figures(before),
    figures(now, { totals: [{ ...total, ideal: 70, est: 60, whole: 50 }] }),
    now,
    120,
  );
  expect(text).toContain("est 37.2 → 74.4, distance 42 → –");
  expect(text).toContain("resnet-20, wave64: ideal 59.1 → 70, est 45.2 → 60, whole 42 → 50");
});

test("the check fails on spills, and on more than 5 % less than is stored", () => {
  const stored = figures([row(), stream]);
  expect(checkFigures(figures([row({ ideal: 50, est: 35.4, whole: 31.4 }), stream]), stored)).toEqual([]);
  expect(checkFigures(figures([row({ est: 35.3 })]), stored)).toEqual([
    `${CONV} on navi31: est is 35.3, stored is 37.2`,
  ]);
  expect(checkFigures(figures([row({ ideal: null })]), stored)[0]).toContain("ideal is null");
  expect(checkFigures(figures([row({ spills: 1 })]), stored)[0]).toContain("spills 1 registers");
  expect(checkFigures(figures([row({ scratch: 4 })]), stored)[0]).toContain("4 B of scratch");
  expect(checkFigures(figures([row({ id: "other" })]), stored)[0]).toContain("other on navi31 is not stored");
  // Of another Mesa, spills alone.
  const other = figures([row({ est: 1 }), row({ id: "other", spills: 2 })], { mesa: "26.1" });
  expect(checkFigures(other, stored)).toEqual([
    "other on navi31 spills 2 registers and takes 0 B of scratch",
  ]);
});

test("an id says what is done, whichever kernel does it", () => {
  const kernel = (shader: string, entry: string, constants = {}) => ({
    file: "0001",
    shader,
    entry,
    constants,
  });
  const work = "conv2d.forward|128x32x32x3x16x3x3x16x16x2x2x1x1x1x1x1";
  const folded = kernel("conv2d_tile+statistics+relu", "conv_8x4", { BM: 256 });
  expect(idOf(folded, work)).toBe("conv2d.forward 3×3/2 3→16 @16 ×128 +statistics+relu");
  expect(idOf(kernel("memory", "fill"), "")).toBe("memory.fill");
  expect(idOf(kernel("batch_norm+relu", "apply", { X: 1, Y: 64 }), "")).toBe(
    "batch_norm+relu.apply X=1 Y=64",
  );
  expect(shapeInWords("conv2d.forward", "2x8x16x32x32x1x1x8x16x1x1x0x0x2x2x4")).toBe(
    "1×1 32→32 @8×16 ×2 dilation 2 groups 4",
  );
  expect(shapeInWords("matmul.forward", "128x64x10x10x1x64x1x0")).toBe("128×64×10");
  expect(shapeInWords("matmul.forward", "10x64x128x1x10x1x64x1")).toBe("10×64×128 aᵀ bᵀ");
  expect(shapeInWords("other", "1x2")).toBe("1x2");
});

test("stored figures have a row on a line, and read back as they were", () => {
  const all = figures([row(), stream]);
  const text = figuresJson(all);
  expect(JSON.parse(text)).toEqual(all);
  expect(text.split("\n").filter((line) => line.includes('"id"'))).toHaveLength(2);
});

test("the listing shows the inner loop with its cycles, and the function with the products", () => {
  const lines = innerLoop(analyze(NESTED, chip, 64), chip, 64);
  expect(lines[0]).toBe("BB4:");
  expect(lines).toContain("  1  v_fmac_f32_e32 v20, v8, v9");
  expect(lines).toContain("     ds_load_b128 v[8:11], v3");
  expect(lines.join("\n")).not.toContain("v_mul_lo_u32");
  const source = `fn scaled(x: f32) -> f32 { return x * 2.0 * 3.0; }
fn product(n: u32) -> f32 {
  var sum = 0.0;
  for (var i = 0u; i < n; i++) { sum = fma(a[i], b[i], sum); }
  return sum;
}
fn unused() { for (;;) { x = a * b * c; } }
@compute @workgroup_size(64)
fn main() { out[0] = scaled(product(4u)); }
`;
  expect(hottestFunction(source, "main")).toMatch(/^fn product[\s\S]*return sum;\n}$/);
  expect(hottestFunction(source, "scaled")).toMatch(/^fn scaled/);
});
