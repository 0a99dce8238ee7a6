// The linker of shaders/, on made-up files: what it joins, and what it says of mistakes.

import { describe, expect, it } from "vitest";
import { combinations, generate, LinkError, linkLibrary, wholeModules } from "../../scripts/link-wgsl.ts";
import type { ShaderFile } from "../../scripts/shader-files.ts";
import { slotsOf } from "../../src/device/reflect.ts";

const files = (texts: Record<string, string>): ShaderFile[] =>
  Object.entries(texts).map(([path, text]) => ({
    name: path.replace(/^.*\/|\.wgsl$/g, ""),
    path,
    text: `${text.trim()}\n`,
  }));

const BUFFERS = `
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;`;
const PLAIN = `//#fills load as plain\nfn load(i: u32) -> f32 { return x[i]; }`;
const SCALED = `
// Times a number per element.
//#fills load as scaled
//#import twice
@group(0) @binding(2) var<storage, read> factors: array<f32>;
fn load(i: u32) -> f32 { return twice(x[i]) * factors[i]; }`;
const MAIN = `
// The module.
//#import twice
//#hole load: load_plain
override SIZE: u32 = 4;
${BUFFERS}
@compute @workgroup_size(SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>) { // one each
  out[id.x] = twice(load(id.x));
}`;
const TWICE = "fn twice(v: f32) -> f32 { return v + v; }";
const good = {
  "main.wgsl": MAIN,
  "load/load_plain.wgsl": PLAIN,
  "load/load_scaled.wgsl": SCALED,
  "lib/twice.wgsl": TWICE,
};

const refusal = (changes: Record<string, string | null>): string => {
  const texts: Record<string, string> = { ...good };
  for (const [path, text] of Object.entries(changes)) {
    if (text === null) delete texts[path];
    else texts[path] = text;
  }
  try {
    linkLibrary(files(texts));
  } catch (error) {
    expect(error).toBeInstanceOf(LinkError);
    return (error as Error).message;
  }
  return "";
};

describe("the linker", () => {
  it("joins imports once, and offers each part for its hole", () => {
    const library = linkLibrary(files(good));
    expect(library.modules).toEqual({ main: { files: ["main", "twice"], holes: { load: "load_plain" } } });
    expect(library.parts).toEqual({
      load_plain: { hole: "load", label: "plain", files: ["load_plain"] },
      load_scaled: { hole: "load", label: "scaled", files: ["load_scaled", "twice"] },
    });
    expect(combinations(library, library.modules.main!.holes)).toEqual([["load_plain"], ["load_scaled"]]);
    expect(library.paths.load_scaled).toBe("load/load_scaled.wgsl");
  });

  it("knows what an entry point binds, through functions and with each part", () => {
    const { reflections } = linkLibrary(files(good));
    const bound = (...names: string[]) =>
      slotsOf(
        names.map((name) => reflections[name]!),
        "forward",
      )!.map(({ name, binding, access }) => [binding, name, access]);
    const both = [
      [0, "out", "read_write"],
      [1, "x", "read"],
    ];
    expect(bound("main", "twice", "load_plain")).toEqual(both);
    expect(bound("main", "twice", "load_scaled")).toEqual([...both, [2, "factors", "read"]]);
  });

  it("leaves out comments but no line", () => {
    const { texts } = linkLibrary(files(good));
    expect(texts.main).not.toContain("//");
    const lines = (text: string) => text.split("\n");
    expect(lines(texts.main!).length).toBe(lines(`${MAIN.trim()}\n`).length);
    expect(lines(texts.main!).findIndex((line) => line.includes("fn forward"))).toBe(
      lines(MAIN.trim()).findIndex((line) => line.includes("fn forward")),
    );
  });

  it("makes one module of a file and those that it imports, entry points included", () => {
    const at = MAIN.indexOf("@compute");
    const texts = {
      ...good,
      "main.wgsl": `//#import more\n${MAIN.slice(0, at)}`,
      "more.wgsl": MAIN.slice(at),
    };
    const library = linkLibrary(files(texts));
    expect(Object.keys(library.modules)).toEqual(["main"]);
    expect(generate(library)["shaders.ts"]).toContain("forward: { out: T; x: T }");
    expect(wholeModules(files(texts), library).main).toMatch(
      /^\s*\/\/ The module\.[\s\S]*more\.wgsl[\s\S]*fn forward/,
    );
    const wrong = { ...texts, "load/load_scaled.wgsl": SCALED.replace("binding(2)", "binding(1)") };
    expect(() => linkLibrary(files(wrong))).toThrow(/more\.wgsl:2: forward uses .*@binding\(1\)/);
  });

  it("ships modules with everything in them, comments included", () => {
    const all = files(good);
    const { main, ...others } = wholeModules(all, linkLibrary(all));
    expect(others).toEqual({});
    expect(main!.match(/fn twice/g)).toHaveLength(1);
    expect(main).toMatch(/^\/\/ The module\.\n/);
    expect(main).toContain("fn load(i: u32) -> f32 { return x[i]; }");
    expect(main).not.toMatch(/\/\/#|factors/);
  });

  it("says for the compiler what may be given", () => {
    const { "shaders.ts": text, "wgsl.ts": sources } = generate(linkLibrary(files(good)));
    expect(sources).toContain('"path":"load/load_scaled.wgsl"');
    expect(text).toContain('constants: "SIZE"');
    expect(text).toContain('parts: { load: "load_plain" | "load_scaled" }');
    expect(text).toContain("forward: { out: T; x: T }"); // factors is the part's to say
  });

  it.each<[string, Record<string, string | null>, RegExp]>([
    ["an import that is not there", { "lib/twice.wgsl": null }, /main\.wgsl:2: there is no twice\.wgsl/],
    [
      "imports in a circle",
      {
        "lib/twice.wgsl": `//#import thrice\n${TWICE}`,
        "lib/thrice.wgsl": "//#import twice\nfn thrice() {}",
      },
      /circle: main → twice → thrice → twice/,
    ],
    [
      "a default part that is not there",
      { "load/load_plain.wgsl": null },
      /main\.wgsl:3: the part load_plain does not/,
    ],
    [
      "a default part that is none",
      { "load/load_plain.wgsl": PLAIN.replace(/^.*\n/, "") },
      /main\.wgsl:3: the part load_plain says no \/\/#fills load/,
    ],
    [
      "a part for another hole",
      { "load/load_plain.wgsl": PLAIN.replace("load as", "store as") },
      /load_plain fills store, not load/,
    ],
    [
      "a part for a hole that nothing has",
      { "other.wgsl": "//#fills elsewhere as other\nfn other() {}" },
      /other\.wgsl:1: no module has a hole elsewhere/,
    ],
    ["a file that nothing uses", { "idle.wgsl": "fn idle() {}" }, /idle\.wgsl:1: no module uses this file/],
    [
      "a name that is declared twice",
      { "load/load_scaled.wgsl": `${SCALED}\nfn twice(v: f32) -> f32 { return v; }` },
      /(load_scaled\.wgsl:6|twice\.wgsl:1): twice is declared in shaders\/.* already/,
    ],
    [
      "a name that is declared nowhere",
      { "main.wgsl": MAIN.replace("twice(load", "thrice(load") },
      /main\.wgsl:10: thrice is not declared, nor imported \(linked: main, twice, load_plain\)/,
    ],
    [
      "a name that only one of the parts lacks",
      { "load/load_scaled.wgsl": SCALED.replace("fn load", "fn other") },
      /main\.wgsl:10: load is not declared, nor imported \(linked: main, twice, load_scaled\)/,
    ],
    [
      "two bindings of one number",
      { "load/load_scaled.wgsl": SCALED.replace("binding(2)", "binding(1)") },
      /main\.wgsl:9: forward uses (x and factors|factors and x), both @binding\(1\)/,
    ],
    [
      "a directive that is none",
      { "lib/twice.wgsl": `//#include y\n${TWICE}` },
      /twice\.wgsl:1: can't read \/\/#include y/,
    ],
    [
      "a part with an entry point",
      { "load/load_plain.wgsl": `${PLAIN}\n@compute @workgroup_size(1) fn other() {}` },
      /load_plain\.wgsl:1: a part can't have entry points/,
    ],
    [
      "a part that imports one",
      {
        "load/load_plain.wgsl": `//#import other\n${PLAIN}`,
        "other.wgsl": "@compute @workgroup_size(1) fn other() {}",
      },
      /load_plain\.wgsl:2: a part can't have entry points/,
    ],
    [
      "an extension that is enabled by an import",
      { "lib/twice.wgsl": `enable subgroups;\n${TWICE}` },
      /twice\.wgsl:1: only a module can enable/,
    ],
  ])("refuses %s, and says where", (_what, changes, message) => {
    expect(refusal(changes)).toMatch(message);
    expect(refusal(changes)).toMatch(/^shaders\//);
  });

  it("takes names of locals, parameters and members for what they are", () => {
    const main = MAIN.replace(
      "out[id.x] = twice(load(id.x));",
      `struct_free(); var y = load(id.x); for (var k = 0u; k < 2u; k++) { let z = y; y = twice(z); }
  let pair = Pair(y, y); out[id.x] = pair.first + select(0.0, 1.0, y > 0.0);`,
    );
    const all = `struct Pair { first: f32, second: f32 }\nfn struct_free() {}\n${main}`;
    expect(refusal({ "main.wgsl": all })).toBe("");
    expect(refusal({ "main.wgsl": all.replace("pair.first + ", "z + ") })).toMatch(/z is not declared/);
  });
});
