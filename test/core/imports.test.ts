import { readdirSync, readFileSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const src = fileURLToPath(new URL("../../src", import.meta.url));

/** Every module that a file loads before it runs, and what of it is no file of ours. */
function reached(entry: string, seen = new Set<string>(), packages = new Set<string>()) {
  if (seen.has(entry)) return { seen, packages };
  seen.add(entry);
  const text = readFileSync(entry, "utf8");
  // `import type` is gone after compiling; `import()` loads when it is needed.
  for (const [, from, effect] of text.matchAll(
    /^(?:import|export)\s(?!type\b)[^;]*?from\s+"([^"]+)"|^import\s+"([^"]+)"/gm,
  )) {
    const target = (from ?? effect)!;
    if (target.startsWith(".")) reached(resolve(dirname(entry), target), seen, packages);
    else packages.add(`${target} in ${relative(src, entry)}`);
  }
  return { seen, packages };
}

describe("the core that browsers load", () => {
  it("imports no package and nothing of Node before it is used", () => {
    const { seen, packages } = reached(resolve(src, "index.ts"));
    expect([...packages]).toEqual([]);
    expect(seen.size).toBeGreaterThan(50);
    expect([...seen].filter((file) => /^(node|cli|experiments)\//.test(relative(src, file)))).toEqual([]);
    // It can tell: Node's own part reaches for both.
    expect([...reached(resolve(src, "node/index.ts")).packages].join()).toMatch(
      /node:fs.*tar in node\/unpack\.ts/,
    );
  });
});

/** What a file takes from others at run time; with `types`, at compile time too. */
function importsOf(file: string, types: boolean): string[] {
  const text = readFileSync(resolve(src, file), "utf8");
  const pattern = types
    ? /^(?:import|export)\s[^;]*?from\s+"(\.[^"]+)"/gm
    : /^(?:import|export)\s(?!type\b)[^;]*?from\s+"(\.[^"]+)"/gm;
  return [...text.matchAll(pattern)].map(([, target]) => relative(src, resolve(src, dirname(file), target!)));
}

const filesOf = (room: string) =>
  readdirSync(resolve(src, room), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => `${room}/${file.replaceAll("\\", "/")}`);

/** The rooms that a room may load from, beside itself and the files that belong to none (errors, options). */
const ROOMS: Record<string, readonly string[]> = {
  device: [],
  fusion: [],
  tensor: ["device", "fusion", "autograd"],
  autograd: ["device", "fusion", "tensor"],
  ops: ["device", "fusion", "tensor", "autograd"],
  optim: ["device", "tensor", "autograd", "ops", "nn"],
  nn: ["device", "fusion", "tensor", "autograd", "ops"],
  data: ["device", "tensor", "ops", "nn"],
  formats: ["tensor", "nn"],
  train: ["device", "tensor", "autograd", "ops", "optim", "nn", "data", "formats", "fusion"],
};
const FACADE = ["gpu.ts", "plan.ts", "autotune.ts", "alive.ts"];
const COMMON = ["errors.ts", "options.ts", "foreign.ts", "json.ts", "inspect.ts"];

describe("the rooms of docs/architecture.md", () => {
  it.each(Object.entries(ROOMS))("%s loads from those below it alone", (room, below) => {
    const files = filesOf(room);
    expect(files.length).toBeGreaterThan(0);
    const rooms = new Set([room, "generated", ...below]);
    const elsewhere = files.flatMap((file) =>
      importsOf(file, false)
        .filter((target) => {
          const from = target.includes("/") ? target.split("/")[0]! : null;
          if (from !== null) return !rooms.has(from);
          return !COMMON.includes(target) && (room === "device" || !FACADE.includes(target));
        })
        .map((target) => `${file} ← ${target}`),
    );
    expect(elsewhere).toEqual([]);
  });

  it("device knows no tensor and no op, not even their types", () => {
    const named = filesOf("device").flatMap((file) =>
      importsOf(file, true).filter((target) => !/^(device|generated)\/|^(errors|options)\.ts$/.test(target)),
    );
    expect(named).toEqual([]);
    expect(importsOf("gpu.ts", true)).toContain("tensor/tensor.ts"); // it can tell
  });

  it("device, tensor, fusion and autograd name no op", () => {
    const ops = readdirSync(resolve(src, "ops")).map((name) => name.replace(/\.ts$/, ""));
    expect(ops).toContain("batch-norm");
    const named = ["device", "tensor", "fusion", "autograd"].flatMap(filesOf).flatMap((file) =>
      importsOf(file, true)
        .filter((target) => target.startsWith("ops/"))
        .map((target) => `${file} ← ${target}`),
    );
    expect(named).toEqual([]);
  });
});
