// The engine with each norm of the menus: whatever a visitor chooses can be trained and looked into.

import { expect, it } from "vitest";
import { Engine } from "../../demo/src/engine.ts";
import type { FromWorker, Look } from "../../demo/src/messages.ts";
import { DEFAULTS, NORMS } from "../../demo/src/settings.ts";
import { loadDataset } from "../../src/node/index.ts";
import { testGpu } from "../helpers/gpu.ts";

it("each norm of the menus trains, and can be looked into", async () => {
  const gpu = await testGpu();
  const data = await loadDataset("embedded");
  const settings = { ...DEFAULTS, depth: 8, batchSize: 8, rate: 0.001 };
  for (let i = 0; i < NORMS.length; i += 2) {
    const norms = [NORMS[i]!.norm, NORMS[(i + 1) % NORMS.length]!.norm] as const;
    const said: FromWorker[] = [];
    const engine = new Engine(
      gpu,
      data,
      (message) => said.push(message),
      () => 0,
    );
    await engine.begin({ ...settings, norms });
    for (let step = 0; step < 3; step += 1) await engine.step(step !== 1);
    expect(
      said.filter(({ type }) => type === "error" || type === "failure"),
      norms.join(),
    ).toEqual([]);
    norms.forEach((norm, side) => {
      const looks = said.flatMap((one): Look[] =>
        one.type === "look" && one.look.side === side ? [one.look] : [],
      );
      expect(
        looks.map(({ step }) => step),
        norm,
      ).toEqual([0, 2]);
      for (const { layers, logitGradients, answers } of looks) {
        expect(layers, norm).toHaveLength(8);
        expect(Math.max(...layers.map(({ std }) => std)), norm).toBeGreaterThan(0.01);
        expect(logitGradients.flat().every(Number.isFinite), norm).toBe(true);
        expect(answers, norm).toHaveLength(12);
      }
      // Fixup begins with a classifier of zeros, and with one answer to all images: it is not stuck. Its gradients need three steps.
      if (norm === "fixup") expect(looks[0]!.layers.at(-1)!.std).toBe(0);
      expect(looks[1]!.gradient!.std, norm).toBeGreaterThan(0);
    });
  }
}, 60_000);
