import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
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
