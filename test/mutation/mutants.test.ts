import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { applies, type Explained, sameChange } from "../../scripts/mutation/explain.ts";
import { mutantsOf, mutated } from "../../scripts/mutation/mutants.ts";
import { shaderFiles } from "../../scripts/shader-files.ts";
import explained from "./explained.json" with { type: "json" };
import { testsOf } from "./tests-of.ts";

const root = new URL("../../", import.meta.url);
const files = new Map(shaderFiles().map(({ name, text }) => [name, text]));
const modules = [...files.keys()];
const textOf = (module: string) => files.get(module)!;

const changes = (text: string) =>
  mutantsOf("m", text).map(({ line, kind, fn, before, after }) => [line, kind, fn, before, after]);

describe("mutants of a shader", () => {
  it("are operators, bounds, constants, components, arguments and statements, one at a time", () => {
    const text = `
@group(0) @binding(1) var<storage, read> x: array<vec2<f32>>; // 1 + 1
override WORKGROUP_SIZE: u32 = 64;
struct Sizes { count: u32 }
@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>) {
  for (var i = id.x; i < 7u; i++) {
    out[i] = select(-x[i].y, min(vec2<f32>(0.5).x, 1.0), i >> 2u == 0x1fu);
  }
}
fn other(a: ptr<function, f32>) { *a = 1e-3; workgroupBarrier(); }`;
    const loop = "for (var i = id.x; i < 7u; i++) {";
    const body = "out[i] = select(-x[i].y, min(vec2<f32>(0.5).x, 1.0), i >> 2u == 0x1fu);";
    const last = "fn other(a: ptr<function, f32>) { *a = 1e-3; workgroupBarrier(); }";
    const expected: [number, string, string, string, string][] = [];
    const add = (line: number, kind: string, fn: string, before: string, from: string, to: string) => {
      expect(before.split(from).length, from).toBe(2);
      expected.push([line, kind, fn, before, before.replace(from, to).replace(/\s+/g, " ").trim()]);
    };
    add(7, "bound", "forward", loop, "id.x;", "id.x + 1;");
    add(7, "bound", "forward", loop, "i <", "i + 1 <");
    add(7, "bound", "forward", loop, "7u", "7u + 1");
    add(7, "component", "forward", loop, "id.x", "id.y");
    add(7, "operator", "forward", loop, " < ", " <= ");
    add(7, "operator", "forward", loop, " < ", " >= ");
    add(7, "constant", "forward", loop, "7u", "8u");
    add(7, "constant", "forward", loop, "7u", "6u");
    add(7, "operator", "forward", loop, "++", "--");
    add(8, "removed", "forward", body, body, ";");
    add(
      8,
      "arguments",
      "forward",
      body,
      "-x[i].y, min(vec2<f32>(0.5).x, 1.0)",
      "min(vec2<f32>(0.5).x, 1.0), -x[i].y",
    );
    add(8, "operator", "forward", body, "-x", "x");
    add(8, "component", "forward", body, ".y", ".x");
    add(8, "bound", "forward", body, "min(vec2<f32>(0.5).x, 1.0)", "(vec2<f32>(0.5).x)");
    add(8, "bound", "forward", body, "min(vec2<f32>(0.5).x, 1.0)", "(1.0)");
    add(8, "constant", "forward", body, "0.5", "1.0");
    add(8, "component", "forward", body, ".x", ".y");
    add(8, "constant", "forward", body, "1.0", "0.0");
    add(8, "constant", "forward", body, "1.0", "2.0");
    add(8, "operator", "forward", body, ">>", "<<");
    add(8, "constant", "forward", body, "2u", "3u");
    add(8, "constant", "forward", body, "2u", "1u");
    add(8, "operator", "forward", body, "==", "!=");
    add(8, "constant", "forward", body, "0x1fu", "0x20u");
    add(8, "constant", "forward", body, "0x1fu", "0x1eu");
    add(11, "removed", "other", last, "*a = 1e-3;", ";");
    add(11, "constant", "other", last, "1e-3", "0.002");
    add(11, "removed", "other", last, "workgroupBarrier();", ";");
    const sorted = (all: unknown[]) => all.map((one) => JSON.stringify(one)).sort();
    expect(sorted(changes(text))).toEqual(sorted(expected));
  });

  it("leaves types, template lists, attributes and bindings", () => {
    expect(
      changes(`
enable f16;
@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
var<workgroup> tiles: array<vec4<f32>, BK * (ROW_STRIDE + 1)>;
alias Pair = array<vec2<f32>, 2>;
fn f(a: array<u32, 3>) -> vec2<f32> { return bitcast<vec2<f32>>(a.yz); }`),
    ).toEqual([[6, "component", "f", expect.any(String), expect.stringContaining("a.zy")]]);
  });

  it("are made of every module, each at the line that it names", () => {
    for (const module of modules) {
      const text = textOf(module);
      const lines = text.split("\n").map((line) => line.replace(/\s+/g, " ").trim());
      for (const mutant of mutantsOf(module, text)) {
        expect(mutant.before.startsWith(lines[mutant.line - 1]!), `${module}:${mutant.line}`).toBe(true);
        expect(mutated(text, mutant) === text, `${module}:${mutant.line} ${mutant.after}`).toBe(false);
      }
    }
  });
});

describe("the table of shaders and their tests", () => {
  it("names every shader, and files that exist", () => {
    expect(Object.keys(testsOf).sort()).toEqual(modules.sort());
    for (const files of Object.values(testsOf)) {
      expect(files.length).toBeGreaterThan(0);
      for (const file of files) expect(existsSync(new URL(file, root)), file).toBe(true);
    }
  });

  it("explains only mutants that exist", () => {
    const all = modules.flatMap((module) => mutantsOf(module, textOf(module)));
    const { rules, mutants }: Explained = explained;
    expect(mutants.filter((one) => !all.some((mutant) => sameChange(one, mutant)))).toEqual([]);
    expect(rules.filter((rule) => !all.some((mutant) => applies(rule, mutant)))).toEqual([]);
  });
});
