// What is read off WGSL without compiling it, and how uniforms are packed by it.

import { describe, expect, it } from "vitest";
import { type Layout, readSource, reflect, slotsOf } from "../../src/device/reflect.ts";
import { pack } from "../../src/device/uniforms.ts";

const slots = (source: string, entry = "main") => slotsOf([reflect(readSource(source))], entry);
const layoutOf = (struct: string): Layout | null =>
  slots(`${struct}
@group(0) @binding(0) var<uniform> u: U;
@compute @workgroup_size(1) fn main() { _ = u; }`)![0]!.layout;

describe("what an entry point binds", () => {
  it("is what it and the functions that it calls name, in whatever order they are declared", () => {
    const source = `
@compute @workgroup_size(1) fn main() { first(); }
@compute @workgroup_size(1) fn other() { _ = d; }
fn first() { second(); _ = b[0]; }
fn second() -> f32 { return a[0]; /* c[0] /* nested */ c[1] */ } // c[2]
@group(0) @binding(7) var<storage, read_write> b: array<f32>;
@group(0) @binding(3) var<storage> a: array<f32>;
@binding(4) @group(0) var<storage, read> c: array<f32>;
@group(0) @binding(5) var<uniform> d: vec4<u32>;
@group(1) @binding(0) var<uniform> elsewhere: u32;
var<private> own: f32;`;
    expect(slots(source)!.map(({ name, binding, access }) => [name, binding, access])).toEqual([
      ["a", 3, "read"],
      ["b", 7, "read_write"],
    ]);
    expect(slots(source, "other")!.map(({ name, access }) => [name, access])).toEqual([["d", "uniform"]]);
    expect(slots(source, "third")).toBeNull();
  });

  it("is not what a local, a parameter or a member of that name stands for", () => {
    const source = `
struct Pair { a: f32, b: f32 }
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> c: array<f32>;
@group(0) @binding(3) var<storage, read> d: array<f32>;
fn f(a: f32) -> f32 { return a; }
@compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  var pair: Pair; pair.a = f(pair.b);
  { let b = 1.0; pair.a = b; }
  for (var c = 0; c < 2; c++) { pair.b += 1.0; }
  let d = d[0];
}`;
    // The initial value of the local d still is the binding.
    expect(slots(source)!.map(({ name }) => name)).toEqual(["d"]);
  });

  it("has other names where views of other types share its number", () => {
    const source = `
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> x4: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> written: array<f32>;
@compute @workgroup_size(1) fn main() { _ = x4[0]; }`;
    expect(slots(source)![0]).toMatchObject({ name: "x4", binding: 1, aliases: ["x"] });
  });

  it("tells overrides and integer constants", () => {
    const { overrides, values, entries } = reflect(
      readSource(`override SIZE: u32 = 4; @id(3) override HALF: u32 = SIZE / 2;
const FIRST = 0u; const HEX: i32 = 0x1F; const SUM = 1 + 1; const SCALE = 0.5;
@compute @workgroup_size(SIZE) fn main() {}`),
    );
    expect({ overrides, values, entries }).toEqual({
      overrides: ["SIZE", "HALF"],
      values: { FIRST: 0, HEX: 31 },
      entries: ["main"],
    });
  });
});

describe("a uniform", () => {
  // By the table "alignment and size" of the WGSL specification.
  it("lies in memory as WGSL has it", () => {
    const layout = layoutOf(`struct U {
  a: u32, b: vec2<f32>, c: vec3<i32>, d: f32, e: array<vec4<u32>, 2>, f: vec3f, g: array<vec3<f32>, 2>, h: vec2u,
}`)!;
    const offsets = Object.fromEntries(layout.fields.map(({ name, offset }) => [name, offset]));
    expect(offsets).toEqual({ a: 0, b: 2, c: 4, d: 7, e: 8, f: 16, g: 20, h: 28 });
    expect(layout.words).toBe(32);
    const numbers = {
      ...{ a: 7, b: [0.5, -2], c: [-1, 2, -3], d: 1.5, e: [1, 2, 3, 4, 5, 6, 7, 8] },
      ...{ f: [9, 10, 11], g: [1, 2, 3, 4, 5, 6], h: [12, 13] },
    };
    const words = pack("test", layout, numbers, true).slice(0, 32);
    const floats = new Float32Array(words.buffer);
    const ints = new Int32Array(words.buffer);
    expect(words[0]).toBe(7);
    expect([...floats.subarray(2, 4)]).toEqual([0.5, -2]);
    expect([...ints.subarray(4, 7)]).toEqual([-1, 2, -3]);
    expect(floats[7]).toBe(1.5);
    expect([...words.subarray(8, 16)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect([...floats.subarray(16, 20)]).toEqual([9, 10, 11, 0]);
    expect([...floats.subarray(20, 28)]).toEqual([1, 2, 3, 0, 4, 5, 6, 0]);
    expect([...words.subarray(28, 32)]).toEqual([12, 13, 0, 0]);
  });

  it("may be shorter than its array, and what is left is zero whatever was packed before", () => {
    const layout = layoutOf("struct U { dims: array<vec4<u32>, 2> }")!;
    pack("test", layout, { dims: [1, 2, 3, 4, 5, 6, 7, 8] }, true);
    expect([...pack("test", layout, { dims: [9, 10, 11] }, true).subarray(0, 8)]).toEqual([
      9, 10, 11, 0, 0, 0, 0, 0,
    ]);
  });

  it.each(["struct U { a: mat4x4<f32> }", "struct U { a: vec4<f16> }", "struct U { @size(16) a: u32 }"])(
    "of a type that is not packed takes bytes alone: %s",
    (struct) => expect(layoutOf(struct)).toBeNull(),
  );

  const layout = layoutOf("struct U { count: u32, scale: f32, dims: vec3<u32> }")!;
  it.each<[string, Record<string, unknown>, RegExp]>([
    [
      "missing",
      { count: 1, dims: [1, 2, 3] },
      /test: field scale is undefined; expected a number \(f32\) among count, scale/,
    ],
    [
      "too long",
      { count: 1, scale: 1, dims: [1, 2, 3, 4] },
      /field dims is \[1, 2, 3, 4\]; expected 3 numbers at most/,
    ],
    ["no number", { count: "1", scale: 1, dims: [1] }, /field count is "1"; expected a number/],
    ["no numbers", { count: 1, scale: 1, dims: [1, "2"] }, /field dims is \[1, "2"\]; expected numbers/],
    [
      "not there",
      { count: 1, scale: 1, dims: [1], scael: 2 },
      /there is no field scael; did you mean scale\?/,
    ],
  ])("refuses a field that is %s", (_what, fields, message) => {
    expect(() => pack("test", layout, fields as never, true)).toThrow(message);
  });
});
