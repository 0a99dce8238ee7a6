import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Variants } from "../../src/device/variants.ts";
import { choicesFile, keepChoices } from "../../src/node/choices.ts";
import { requestGpu } from "../../src/node/request.ts";

const ADAPTER = "an adapter | its driver 1.2";
let folder: string;
const warnings = () => vi.mocked(process.emitWarning).mock.calls.map(([message]) => String(message));

/** As a process has them that begins now. */
async function opened(adapter = ADAPTER): Promise<Variants> {
  const variants = new Variants(adapter);
  await keepChoices(variants);
  return variants;
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "fusenorm-choices-"));
  vi.stubEnv("FUSENORM_CHOICES", folder);
  vi.spyOn(process, "emitWarning").mockImplementation(() => {});
});

afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

describe("the variants that autotune chose", () => {
  it("are there in the next process, on the same adapter alone", async () => {
    const first = await opened();
    first.remember("conv2d.forward", "8x8", "tile_64x64");
    await first.keep!();
    expect((await opened()).toJSON()).toEqual({ "conv2d.forward|8x8": "tile_64x64" });
    expect((await opened("another adapter")).toJSON()).toEqual({});
    expect(warnings()).toEqual([]);
  });

  it("are joined with what another process chose meanwhile; its own go first", async () => {
    const [one, other] = [await opened(), await opened()];
    one.remember("reduce", "1x2x3", "tree");
    one.remember("reduce", "4x5x6", "tree");
    other.remember("reduce", "4x5x6", "lanes");
    await one.keep!();
    await other.keep!();
    const joined = { "reduce|1x2x3": "tree", "reduce|4x5x6": "lanes" };
    expect(other.toJSON()).toEqual(joined);
    expect((await opened()).toJSON()).toEqual(joined);
    expect(readdirSync(dirname(choicesFile(ADAPTER)!))).toHaveLength(1); // nothing half-written beside it
  });

  it("are of one version of the package", () => {
    const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
    expect(dirname(choicesFile(ADAPTER)!)).toBe(join(folder, version));
  });

  it("are not taken from a damaged file, which is told, and replaced by the next ones", async () => {
    const first = await opened();
    first.remember("reduce", "1x2x3", "tree");
    await first.keep!();
    const file = choicesFile(ADAPTER)!;
    for (const text of [
      "",
      "{",
      "[1]",
      '{"adapter":1}',
      '{"choices":{"a":1},"adapter":"an adapter | its driver 1.2"}',
    ]) {
      writeFileSync(file, text);
      const next = await opened();
      expect(next.toJSON(), text).toEqual({});
      expect(warnings().splice(0).at(-1), text).toMatch(/is left alone: variants\.restore: /);
    }
    const next = await opened();
    next.remember("reduce", "7x8x9", "lanes");
    await next.keep!();
    expect((await opened()).toJSON()).toEqual({ "reduce|7x8x9": "lanes" });
  });

  it("are not lost to the caller where they can't be kept", async () => {
    writeFileSync(join(folder, "file"), "");
    vi.stubEnv("FUSENORM_CHOICES", join(folder, "file"));
    const variants = await opened();
    variants.remember("reduce", "1x2x3", "tree");
    await variants.keep!();
    expect(variants.toJSON()).toEqual({ "reduce|1x2x3": "tree" });
    expect(warnings().at(-1)).toMatch(/what autotune chose is not kept: .*can't be written/);
  });

  it("are in the cache unless told otherwise, and stay in the process if switched off", async () => {
    vi.stubEnv("FUSENORM_CHOICES", "off");
    expect(choicesFile(ADAPTER)).toBeNull();
    expect((await opened()).keep).toBeNull();
    vi.stubEnv("FUSENORM_CHOICES", "");
    vi.stubEnv("FUSENORM_CACHE", folder);
    expect(choicesFile(ADAPTER)).toMatch(join(folder, "choices"));
  });

  it("are loaded by requestGpu", async () => {
    const before = await requestGpu();
    before.variants.remember("reduce", "1x2x3", "tree");
    await before.variants.keep!();
    before.destroy();
    const gpu = await requestGpu();
    expect(gpu.variants.toJSON()).toEqual({ "reduce|1x2x3": "tree" });
    gpu.destroy();
  });
});
