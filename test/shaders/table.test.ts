// The table that ships beside the modules says what reflection says of the files that they are linked from.

import { describe, expect, it } from "vitest";
import { linkLibrary, wholeModules } from "../../scripts/link-wgsl.ts";
import { shaderFiles } from "../../scripts/shader-files.ts";
import { shaderTables, tableOf } from "../../scripts/shader-table.ts";
import { slotsOf } from "../../src/device/reflect.ts";

const files = shaderFiles();
const library = linkLibrary(files);
const modules = wholeModules(files, library);
const sections = new Map(
  shaderTables(modules)
    .split(/^## \[/m)
    .slice(1)
    .map((text) => [text.slice(0, text.indexOf(".wgsl")), text]),
);

/** The rows of a section's table whose head begins with `head`, cell by cell, without marks of code. */
function rowsOf(section: string, head: string): string[][] {
  const table = section.split("\n\n").find((text) => text.startsWith(`| ${head} |`));
  if (!table) return [];
  const lines = table.trimEnd().split("\n").slice(2);
  return lines.map((line) =>
    line
      .slice(2, -2)
      .split(" | ")
      .map((cell) => cell.trim().replaceAll("`", "")),
  );
}

describe("the table of the shaders", () => {
  it("has every module", () => {
    expect([...sections.keys()]).toEqual(Object.keys(library.modules));
    expect(sections.size).toBeGreaterThan(30);
  });

  it.each([...sections])("%s", (name, section) => {
    const { files: own, holes } = library.modules[name]!;
    const parts = Object.values(holes).flatMap((part) => library.parts[part]!.files);
    const linked = [...new Set([...own, ...parts])].map((file) => library.reflections[file]!);
    const entries = rowsOf(section, "entry point");
    expect(entries.map(([entry]) => entry)).toEqual(linked.flatMap((one) => one.entries));
    for (const [entry, workgroup, by, binds] of entries) {
      const slots = slotsOf(linked, entry!)!;
      expect(binds!.split(", ")).toEqual(slots.map((slot) => `${slot.binding} ${slot.name}`));
      // A number, or constants of the module.
      const known = new Set([
        ...linked.flatMap(({ overrides }) => overrides),
        ...linked.flatMap(({ values }) => Object.keys(values)),
      ]);
      for (const size of workgroup!.split(", "))
        expect(/^\d+$/.test(size) || known.has(size), size).toBe(true);
      expect(by).toMatch(
        /^(one invocation|(global_invocation|local_invocation|workgroup)_id|local_invocation_index|num_workgroups|subgroup_\w+|, )+$/,
      );
    }
    const bindings = rowsOf(section, "binding");
    const all = linked.flatMap((one) => one.entries).flatMap((entry) => slotsOf(linked, entry)!);
    expect(new Set(bindings.map(([number, own, access]) => `${number} ${own} ${access}`))).toEqual(
      new Set(all.map((slot) => `${slot.binding} ${slot.name} ${slot.access}`)),
    );
    for (const { name: own, layout } of all) {
      if (!layout) continue;
      const [, , , fields] = bindings.find(([, one]) => one === own)!;
      expect(fields).toBe(
        layout.fields
          .map(({ name, type, components, count, offset }) => {
            const vector = components === 1 ? type : `vec${components}<${type}>`;
            return `${name}: ${count === 1 ? vector : `array<${vector}, ${count}>`} @ ${4 * offset}`;
          })
          .join(", "),
      );
    }
    const constants = rowsOf(section, "constant").map(([one]) => one);
    expect(constants).toEqual(linked.flatMap((one) => one.overrides));
  });

  it("reads what no compiler is asked", () => {
    const table = tableOf(`enable f16, subgroups;
      override SIZE: u32;       // override OLD: u32 = 1;
      override SLOPE: f32 = 1e-2 * 3;
      @group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>;
      @compute @workgroup_size(SIZE, 2)
      fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) { out[id.x] = vec4(SLOPE); }
      fn helper(i: u32) -> u32 { return i; }`);
    expect(table.features).toEqual(["f16", "subgroups"]);
    expect(table.constants).toEqual([
      { name: "SIZE", type: "u32", value: null },
      { name: "SLOPE", type: "f32", value: "1e-2 * 3" },
    ]);
    expect(table.entries).toMatchObject([
      { name: "main", workgroup: "SIZE, 2", by: ["global_invocation_id", "num_workgroups"] },
    ]);
    expect([...table.types]).toEqual([["out", "array<vec4<f32>>"]]);
  });
});
