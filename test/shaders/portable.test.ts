// What every shader must keep to so that it compiles on other implementations than Dawn.

import { describe, expect, it } from "vitest";
import * as wgsl from "../../src/generated/wgsl.ts";

/** The sizes of the arrays in workgroup memory that are neither a number nor a name. */
function anonymousSizes(source: string): string[] {
  const code = source.replace(/\/\/.*|\/\*[\s\S]*?\*\//g, "");
  const types = [...code.matchAll(/var\s*<\s*workgroup\s*>\s*\w+\s*:\s*([^;=]*)/g)].map(([, type]) => type!);
  // An array's size is what follows the last comma outside of inner brackets.
  return types.flatMap((type) =>
    [...type.matchAll(/,([^,<]*)>/g)]
      .map(([, size]) => size!.trim().replace(/,$/, ""))
      .filter((size) => !/^(\w+)$/.test(size)),
  );
}

// naga (Firefox, Deno) panics on an array that is sized by an expression of overrides, where others are declared after it.
describe("workgroup arrays are sized by a number or a named constant", () => {
  it.each(Object.values(wgsl))("$path", ({ text }) => {
    expect(anonymousSizes(text)).toEqual([]);
  });

  it("finds an anonymous one, in whatever place", () => {
    expect(anonymousSizes("var<workgroup> a: array<f32, X * Y>;")).toEqual(["X * Y"]);
    expect(anonymousSizes("var<workgroup> a: array<array<vec4<f32>, N>, M + 1>;")).toEqual(["M + 1"]);
    expect(anonymousSizes("var<workgroup> a: array<array<vec4<f32>, 2 * N>, M>;")).toEqual(["2 * N"]);
    expect(anonymousSizes("var<workgroup> a : array<\n  f32,\n  max(1, N),\n>;")).not.toEqual([]);
    expect(anonymousSizes("var<workgroup> a: array<f32, SIZE>; var b: array<f32, 4>;")).toEqual([]);
  });
});
