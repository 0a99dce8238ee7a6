import { readFileSync } from "node:fs";
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
  for (const [, target] of text.matchAll(
    /^(?:import|export)\s(?!type\b)[^;]*?from\s+"([^"]+)"|^import\s+"[^"]+"/gm,
  )) {
    if (target?.startsWith(".")) reached(resolve(dirname(entry), target), seen, packages);
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
