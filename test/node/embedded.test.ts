import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { cachedFolder } from "../../src/node/cache.ts";
import { embeddedArchive, embeddedVulkan } from "../../src/node/embedded.ts";
import { runScript } from "./children.ts";

const newCache = () => mkdtempSync(join(tmpdir(), "fusenorm-test-"));

describe("the embedded SwiftShader", () => {
  it("is unpacked once by two processes at the same time", async () => {
    const cache = newCache();
    const script = `
      import { embeddedVulkan } from "./src/node/embedded.ts";
      console.log(JSON.stringify(await embeddedVulkan()));`;
    const ends = await Promise.all([1, 2].map(() => runScript(script, { FUSENORM_CACHE: cache })));
    for (const { code, stderr } of ends) expect(code, stderr).toBe(0);
    expect(ends[0]!.stdout).toBe(ends[1]!.stdout);
    const { loader, manifest } = JSON.parse(ends[0]!.stdout) as { loader: string; manifest: string };
    expect(readFileSync(loader).subarray(0, 4).toString("latin1")).toBe("\x7fELF");
    const { ICD } = JSON.parse(readFileSync(manifest, "utf8")) as { ICD: { library_path: string } };
    expect(existsSync(join(manifest, "..", ICD.library_path))).toBe(true);
    for (const file of [loader, manifest]) expect(statSync(file).mode & 0o7022).toBe(0);
    // Nothing but the one folder is left.
    expect(readdirSync(cache)).toEqual([`swiftshader-${embeddedArchive().version}`]);
  });

  it("is unpacked anew where a file was lost", async () => {
    const cache = newCache();
    const { loader } = await embeddedVulkan(cache);
    rmSync(loader);
    expect((await embeddedVulkan(cache)).loader).toBe(loader);
    expect(existsSync(loader)).toBe(true);
    expect(readdirSync(cache)).toHaveLength(1);
  });

  it("says which machines it is for", () => {
    expect(() => embeddedArchive("darwin", "arm64")).toThrow(/Linux on x64, not for darwin on arm64/);
    expect(() => embeddedArchive("linux", "arm64")).toThrow(/not for linux on arm64/);
  });
});

describe("the package with the archives", () => {
  const NAME = "@sparticuz/chromium";
  const NO_ENTRY = { exports: { ".": { import: "./build/index.js" } } };
  const layouts = {
    "147: a CommonJS entry two folders down": {
      version: "147.0.0",
      entry: "build/cjs/index.cjs",
      fields: {
        main: "./build/cjs/index.cjs",
        exports: { ".": { import: "./build/esm/index.js", require: "./build/cjs/index.cjs" } },
      },
    },
    "149 and later: a module one folder down": {
      version: "153.0.0",
      entry: "build/index.js",
      fields: { exports: { ".": { types: "./build/index.d.ts", default: "./build/index.js" } } },
    },
    "an entry for `import` alone": { version: "200.0.0", entry: "build/index.js", fields: NO_ENTRY },
    "an entry at the top": { version: "201.0.0", entry: "index.js", fields: { main: "./index.js" } },
    "no entry where it is said to be": { version: "202.0.0", entry: "x.js", fields: { main: "./gone.js" } },
  };
  type Layout = { version: string; entry: string; fields: object };

  /** A file of a project that has such a package at `home`. */
  function project(
    { version, entry, fields }: Layout,
    home = join("node_modules", NAME),
    without = "",
  ): string {
    const root = mkdtempSync(join(tmpdir(), "fusenorm-test-"));
    const put = (file: string, text: string) => {
      mkdirSync(dirname(join(root, file)), { recursive: true });
      writeFileSync(join(root, file), text);
    };
    put("package.json", "{}");
    put(join(home, "package.json"), JSON.stringify({ name: NAME, version, type: "module", ...fields }));
    put(join(home, entry), "");
    // Between the entry and the package's own.
    if (entry.includes("cjs")) put(join(home, dirname(entry), "package.json"), '{ "type": "commonjs" }');
    for (const file of ["swiftshader.tar.br", "chromium.br", "al2023.tar.br"]) {
      if (file !== without) put(join(home, "bin", file), "");
    }
    return join(root, "package.json");
  }
  const found = (...seekers: string[]) => embeddedArchive("linux", "x64", seekers);

  it.each(Object.entries(layouts))("is found in whichever layout: %s", (_, layout) => {
    const file = project(layout);
    const bin = join(dirname(file), "node_modules", NAME, "bin");
    expect(found(file)).toEqual({ bin, version: layout.version });
    // From a module deep in the project; and where the first place doesn't have it.
    expect(found(join(dirname(file), "src", "deep", "file.js")).bin).toBe(bin);
    expect(found(join(newCache(), "package.json"), file).bin).toBe(bin);
  });

  it("is found by its entry where there is no node_modules", () => {
    // A package finds itself by its name.
    const file = project(layouts["147: a CommonJS entry two folders down"], "unplugged");
    const home = join(dirname(file), "unplugged");
    expect(found(join(home, "any.js"))).toEqual({ bin: join(home, "bin"), version: "147.0.0" });
  });

  it("is asked for where it is not, and another version where this one lacks an archive", () => {
    expect(() => found(join(newCache(), "package.json"))).toThrow(/not installed; `npm install --save-dev/);
    const file = project(layouts["149 and later: a module one folder down"], undefined, "chromium.br");
    expect(() => found(file)).toThrow(/153\.0\.0 in .* has no bin\/chromium\.br; versions 147 to 153 have/);
    expect(() => found(file)).not.toThrow(/not installed/);
    // One that has them elsewhere goes before.
    const whole = project(layouts["147: a CommonJS entry two folders down"]);
    expect(found(file, whole).version).toBe("147.0.0");
  });
});

describe("cachedFolder", () => {
  it("leaves nothing behind when filling fails", async () => {
    const cache = newCache();
    const fill = async (folder: string) => {
      writeFileSync(join(folder, "half"), "");
      throw new Error("no space");
    };
    await expect(cachedFolder("thing", ["whole"], fill, cache)).rejects.toThrow("no space");
    expect(readdirSync(cache)).toEqual([]);
  });

  it("names the way out of a cache that can't be written", async () => {
    const file = join(newCache(), "a-file");
    writeFileSync(file, "");
    await expect(cachedFolder("thing", ["x"], async () => {}, file)).rejects.toThrow(
      new RegExp(`${basename(file)} cannot be written.*FUSENORM_CACHE`),
    );
  });
});
