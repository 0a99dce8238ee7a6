import { beforeAll, describe, expect, it } from "vitest";
import { noGrad } from "../../src/autograd/tape.ts";
import type { Gpu } from "../../src/gpu.ts";
import { testGpu } from "../helpers/gpu.ts";
import { relativeError } from "../helpers/numbers.ts";
import { square } from "../helpers/square.ts";

describe("autograd", () => {
  let gpu: Gpu;
  beforeAll(async () => {
    gpu = await testGpu();
  });

  const leaf = (data: number[]) => gpu.tensor(data, [data.length], { requiresGrad: true });

  it("follows the chain rule through a custom op", async () => {
    const x = leaf([1.5, -2, 0.5]);
    const up = gpu.tensor([0.3, -0.7, 1.1], [3]);
    gpu.scope(() => square(square(x)).backward(up));
    // d(x⁴) = 4x³
    const expected = [1.5, -2, 0.5].map((v, i) => 4 * v ** 3 * [0.3, -0.7, 1.1][i]!);
    const actual = [...(await x.grad!.read())];
    expect(relativeError(actual, expected)).toBeLessThan(1e-6);
    x.dispose();
    up.dispose();
  });

  it("adds up gradients over backward calls until zeroGrad", async () => {
    const x = leaf([3]);
    for (let i = 0; i < 3; i += 1) gpu.scope(() => square(x).backward());
    expect([...(await x.grad!.read())]).toEqual([18]);
    x.zeroGrad();
    expect(x.grad).toBeNull();
    gpu.scope(() => square(x).backward());
    expect([...(await x.grad!.read())]).toEqual([6]);
    x.dispose();
  });

  it("adds up gradients of a tensor that is used twice", async () => {
    const x = leaf([2]);
    const y = gpu.scope(() => square(x));
    gpu.scope(() => square(y).backward());
    expect([...(await x.grad!.read())]).toEqual([32]); // d(x⁴) = 4·8
    const z = gpu.scope(() => square(x));
    gpu.scope(() => z.backward());
    expect([...(await x.grad!.read())]).toEqual([36]);
    for (const t of [x, y, z]) t.dispose();
  });

  it("builds no graph under noGrad or from a detached tensor", () => {
    const x = leaf([2]);
    gpu.scope(() => {
      expect(noGrad(() => square(x)).requiresGrad).toBe(false);
      expect(square(x.detach()).requiresGrad).toBe(false);
      expect(() => square(x.detach()).backward()).toThrow(/does not depend on any tensor with requiresGrad/);
    });
    x.dispose();
  });

  it("names the op when the graph was freed by an earlier backward", () => {
    const x = leaf([2]);
    gpu.scope(() => {
      const y = square(x);
      y.backward();
      expect(() => y.backward()).toThrow(/graph of square was freed by an earlier backward/);
    });
    x.dispose();
  });

  it("asks for an upstream gradient of the right shape", () => {
    const x = leaf([1, 2]);
    gpu.scope(() => {
      const y = square(x);
      expect(() => y.backward()).toThrow(/shape \[2\] needs an upstream gradient/);
      expect(() => y.backward(gpu.zeros([3]))).toThrow(/grad is \[3\], the tensor \[2\]/);
    });
    x.dispose();
  });

  it("frees what a forward saved when nobody will ask for the backward", () => {
    const x = leaf([1, 2]);
    const before = gpu.stats.liveBuffers;
    gpu.scope(() => {
      square(square(square(x)));
    });
    expect(gpu.stats.liveBuffers).toBe(before);
    x.dispose();
  });

  it("frees the gradients of intermediate tensors as it goes", () => {
    const x = leaf([1, 2]);
    const up = gpu.tensor([1, 1], [2]);
    const before = gpu.stats.liveBuffers;
    gpu.scope(() => square(square(square(x))).backward(up));
    expect(gpu.stats.liveBuffers).toBe(before + 1); // x.grad
    x.dispose();
    up.dispose();
  });

  it("lets the user dispose of intermediate tensors before backward", async () => {
    const x = leaf([2]);
    const y = square(x);
    const z = square(y);
    y.dispose();
    z.backward();
    expect([...(await x.grad!.read())]).toEqual([32]);
    z.dispose();
    x.dispose();
  });
});
