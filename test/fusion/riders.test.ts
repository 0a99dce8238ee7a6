// A dispatch that waits for something to ride along: when it is made all the same, and that nothing is lost with it.

import { describe, expect, it } from "vitest";
import { OverwrittenTensorError } from "../../src/errors.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { Packed } from "../../src/optim/packed.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";
import { leavesOf, PACKED, within } from "./check.ts";
import { programs } from "./programs.ts";

const gpu = await testGpu();

/** The names of what is dispatched by `body`, in order; `held`: what waited was. */
function order(body: (hold: () => void) => void): string[] {
  const names: string[] = [];
  gpu.commands.observe(
    ({ label }) => names.push(label),
    () =>
      body(() => gpu.riders.hold({ takes: ({ part }) => part === "known", run: () => names.push("held") })),
  );
  return names;
}

const rider = (part: string) => ({ part, constants: {}, divide: () => ({ workgroups: 1, bindings: {} }) });

describe("a dispatch that waits", () => {
  const x = gpu.tensor(normals(64, 1), [64]);

  it("is made before the next one, and before anything else that a queue does", async () => {
    expect(order((hold) => [hold(), x.fill(2)])).toEqual(["held", "fill"]);
    expect(order((hold) => [hold(), hold(), x.fill(2), x.fill(3)])).toEqual(["held", "held", "fill", "fill"]);
    expect(order((hold) => [hold(), gpu.flush()])).toEqual(["held"]);
    expect(order((hold) => [hold(), x.write(normals(64, 2))])).toEqual(["held"]);
    expect(order((hold) => hold())).toEqual(["held"]);
    expect(order((hold) => [hold(), gpu.explain(() => {})])).toEqual(["held"]);
    const plan = gpu.capture(() => void x.fill(4));
    expect(order((hold) => [hold(), plan.run()])).toEqual(["held", "fill"]);
    plan.dispose();
    let reading: Promise<unknown> | null = null;
    expect(
      order((hold) => {
        hold();
        reading = x.read();
        hold();
        gpu.riders.leave();
      }),
    ).toEqual(["held", "held"]);
    await reading;
  });

  it("takes what it knows along, once", () => {
    expect(order((hold) => [hold(), expect(gpu.riders.ride(rider("unknown"))).toBe(false)])).toEqual([
      "held",
    ]);
    const twice = order((hold) => {
      hold();
      expect(gpu.riders.ride(rider("known"))).toBe(true);
      expect(gpu.riders.ride(rider("known"))).toBe(false);
      x.fill(5);
    });
    expect(twice).toEqual(["held", "fill"]);
    expect(gpu.riders.ride(rider("known"))).toBe(false);
  });

  it("is recorded in a plan, within it", async () => {
    const y = gpu.tensor(normals(64, 3), [64]);
    const plan = gpu.capture(() => {
      gpu.riders.hold({ takes: () => false, run: () => y.fill(6) });
    });
    y.fill(7);
    plan.run();
    expect((await y.read())[0]).toBe(6);
    plan.dispose();
    y.dispose();
  });
});

it("a backward that fails meanwhile leaves no buffers, and the next one gives what it should", async () => {
  await within(PACKED, async () => {
    gpu.flush();
    const before = gpu.stats.liveBuffers;
    const t = leavesOf(programs["conv → norm → relu → conv"]!, 1);
    const leaves = Object.values(t);
    const pack = new Packed("a test", leaves);
    const upstream = gpu.tensor(normals(2 * 5 * 6 * 8, 4), [2, 5, 6, 8]);
    const step = (meanwhile: (h: Tensor) => void) =>
      gpu.scope(() => {
        const h = conv2d(t.x!, t.w1!, { padding: 1 });
        const y = batchNorm(h, t.gamma!, t.beta!, { training: true, activation: "relu" });
        const out = conv2d(y, t.w2!, { padding: 1 });
        meanwhile(h);
        out.backward(upstream);
      });
    const gradients = async () => {
      const numbers = await Promise.all(leaves.map(async ({ grad }) => [...(await grad!.read())]));
      for (const leaf of leaves) leaf.zeroGrad();
      return numbers;
    };
    step(() => {});
    const expected = await gradients();
    expect(() => step((h) => h.fill(1))).toThrow(OverwrittenTensorError);
    for (const leaf of leaves) leaf.zeroGrad();
    step(() => {});
    expect(await gradients()).toEqual(expected);
    pack.dispose();
    for (const tensor of [upstream, ...leaves]) tensor.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });
});
