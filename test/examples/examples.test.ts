import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { decodeSafetensors } from "../../src/index.ts";
import { denoDrivers, denoProgram } from "../deno/program.ts";
import { buildPackage, example, logOf, lossesOf, root, run, visit } from "./run.ts";

const folder = mkdtempSync(join(tmpdir(), "fusenorm-examples-"));
beforeAll(buildPackage);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const node = (file: string, ...args: string[]) =>
  run(process.execPath, [example(file), ...args], { cwd: folder });

/** The mean of a list's last three, to be compared with its first. */
const end = (losses: number[]) => losses.slice(-3).reduce((sum, loss) => sum + loss, 0) / 3;

describe("examples", () => {
  it("node: trains and saves its weights", async () => {
    const losses = lossesOf(await node("node/train.js", "20"));
    expect(losses).toHaveLength(2);
    expect(losses[1]!).toBeLessThan(losses[0]!);
    const { tensors } = decodeSafetensors(readFileSync(join(folder, "model.safetensors")), "model");
    expect(tensors["stem.conv.weight"]!.shape).toEqual([8, 3, 3, 1]);
  });

  it("custom-op: its own kernels learn a sine", async () => {
    const losses = lossesOf(await node("custom-op/snake.js", "60"));
    expect(losses).toHaveLength(6);
    expect(losses[5]!).toBeLessThan(losses[0]! / 2);
  });

  it("own-device: the program and fusenorm see the same buffers", async () => {
    // 1 2 1, 2 4 2, 1 2 1: where a field is white, the four corners and the middle are, too.
    expect(await node("own-device/smooth.js")).toMatch(/the middle has become 0\.5 and 0\.5$/m);
  });

  it("deno: trains", async () => {
    const args = [
      "run",
      "-A",
      `--import-map=${example("deno/checkout.json")}`,
      example("deno/train.ts"),
      "12",
    ];
    const env = { ...(await denoDrivers()), DENO_DIR: folder };
    const losses = lossesOf(await run(process.execPath, [denoProgram(), ...args], { cwd: folder, env }));
    expect(losses).toHaveLength(12);
    expect(end(losses)).toBeLessThan(losses[0]!);
  });

  it("vite: a worker trains, the page shows it", async () => {
    const outDir = join(folder, "vite");
    await build({ root: example("vite"), configFile: false, logLevel: "silent", build: { outDir } });
    const lines = await visit(outDir, (page) => logOf(page, 21));
    expect(lines.at(-1)).toBe("done");
    const losses = lossesOf(lines.join("\n"));
    expect(losses).toHaveLength(20);
    expect(end(losses)).toBeLessThan(losses[0]! / 2);
  });

  it("import-map: one HTML file finds the line", async () => {
    const lines = await visit(example("import-map"), (page) => logOf(page, 5));
    expect(lines[4]).toBe("y = 3.00 x + -2.00");
  });

  it("one-kernel: the shader alone gives the cross entropy", async () => {
    const lines = await visit(example("one-kernel"), (page) => logOf(page, 8));
    const expected = Array.from({ length: 8 }, (_, row) => {
      const logits = Array.from({ length: 10 }, (_, k) => 3 * Math.sin((10 * row + k) ** 2));
      return Math.log(logits.reduce((sum, z) => sum + Math.exp(z), 0)) - logits[(3 * row) % 10]!;
    });
    for (const [row, loss] of expected.entries()) expect(Number(lines[row])).toBeCloseTo(loss, 5);
  });
});

describe("READMEs of the examples", () => {
  const index = readFileSync(example("README.md"), "utf8");
  const folders = readdirSync(example("."), { withFileTypes: true }).filter((entry) => entry.isDirectory());

  it.each(folders.map(({ name }) => name))("%s is in the index", (name) => {
    expect(index).toContain(`| [${name}](${name}/README.md) |`);
    expect(existsSync(example(`${name}/README.md`))).toBe(true);
  });

  it("name commands that are there", () => {
    for (const { name } of folders) {
      const readme = example(`${name}/README.md`);
      if (!existsSync(readme)) continue;
      const text = readFileSync(readme, "utf8");
      for (const [, file] of text.matchAll(/^(?:node|deno run -A) (\S+)/gm)) {
        expect(existsSync(example(`${name}/${file}`)), `${name}: ${file}`).toBe(true);
      }
      for (const [, path] of text.matchAll(/\b(examples\/[\w./-]+\w)/g)) {
        expect(existsSync(join(root, path!)), `${name}: ${path}`).toBe(true);
      }
    }
  });
});
