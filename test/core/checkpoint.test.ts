import { describe, expect, it } from "vitest";
import { checkpoint } from "../../src/autograd/checkpoint.ts";
import { noGrad } from "../../src/autograd/tape.ts";
import { BatchNorm2d, Conv2d, ReLU, Sequential } from "../../src/nn/layers.ts";
import { relu } from "../../src/ops/activations.ts";
import { scale } from "../../src/ops/elementwise/elementwise.ts";
import { Random } from "../../src/tensor/random.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";

describe("checkpoint", () => {
  it("gives the numbers of the plain run, holds less, and moves running statistics once", async () => {
    const gpu = await testGpu();
    const block = (random: Random, from: number) =>
      new Sequential(
        new Conv2d(gpu, from, 8, 3, { padding: 1, bias: false, random }),
        new BatchNorm2d(gpu, 8),
        new ReLU(),
        new Conv2d(gpu, 8, 8, 3, { padding: 1, bias: false, random }),
        new BatchNorm2d(gpu, 8),
        new ReLU(),
        new Conv2d(gpu, 8, 8, 3, { padding: 1, bias: false, random }),
        new BatchNorm2d(gpu, 8),
        new ReLU(),
      );
    const outcomes = [];
    const held = [];
    for (const save of [false, true]) {
      const live = gpu.stats.liveBuffers;
      const random = new Random(4);
      const blocks = [block(random, 3), block(random, 8)];
      const x = gpu.tensor(normals(4 * 12 * 12 * 3, 1), [4, 12, 12, 3], { requiresGrad: true });
      const up = gpu.tensor(normals(4 * 12 * 12 * 8, 2), [4, 12, 12, 8]);
      const before = gpu.stats.liveBytes;
      const out = gpu.scope(() => {
        const run = (part: Sequential, input: Tensor) =>
          save ? checkpoint((z) => part.forward(z), input) : part.forward(input);
        return run(blocks[1]!, run(blocks[0]!, x));
      });
      held.push(gpu.stats.liveBytes - before);
      out.backward(up);
      const outcome = [await out.read(), await x.grad!.read()];
      for (const part of blocks) {
        for (const [, parameter] of part.namedParameters()) outcome.push(await parameter.grad!.read());
        for (const { data } of Object.values(await part.stateDict())) outcome.push(data);
      }
      outcomes.push(outcome);
      for (const thing of [out, up, x, ...blocks]) thing.dispose();
      expect(gpu.stats.liveBuffers).toBe(live);
    }
    expect(outcomes[1]![0]).toEqual(outcomes[0]![0]);
    // Sums are taken in another order where a batch-norm's gradient does not come from a convolution.
    for (const [i, plain] of outcomes[0]!.entries()) {
      expect(relativeError(outcomes[1]![i]!, plain)).toBeLessThan(1e-5);
    }
    expect(held[1]! / held[0]!).toBeLessThan(0.5);
  });

  it("gives back what its function made on the way, with a graph and without", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor(normals(24, 1), [3, 8], { requiresGrad: true });
    const before = gpu.stats.liveBuffers;
    for (const around of [noGrad, (run: () => Tensor) => run()]) {
      const y = around(() => checkpoint((t) => relu(scale(scale(t, 2), -3)), x));
      expect([...(await y.read())]).toEqual([...normals(24, 1)].map((v) => Math.fround(Math.max(-6 * v, 0))));
      y.dispose();
      expect(gpu.stats.liveBuffers).toBe(before);
    }
    x.dispose();
  });
});
