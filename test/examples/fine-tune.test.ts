// The example that fine-tunes, for a few steps.

import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { buildPackage, example, run } from "./run.ts";

const folder = mkdtempSync(join(tmpdir(), "fusenorm-fine-tune-"));
beforeAll(buildPackage);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("fine-tune: trains, agrees with ONNX Runtime, and retrains the last layer", async () => {
  const printed = await run(process.execPath, [example("fine-tune/fine-tune.js"), "1", "8"], { cwd: folder });
  const [, largest, difference] = /logits to ([\d.]+), apart by ([\d.e+-]+)$/m.exec(printed)!;
  expect(Number(difference)).toBeLessThan(1e-5 * Math.max(1, Number(largest)));
  expect(printed).toMatch(/^loaded, but for fc.weight and fc.bias$/m);
  for (const what of ["clothes", "shoes"]) {
    const [, right] = new RegExp(`^${what}: ([\\d.]+) % right, [\\d.]+ s$`, "m").exec(printed)!;
    expect(Number(right)).toBeGreaterThan(0);
  }
  for (const file of ["clothes.onnx", "clothes.safetensors", "shoes/train/Sandal"]) {
    expect(existsSync(join(folder, file)), file).toBe(true);
  }
});
