import { describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import { mul } from "../../src/ops/elementwise/elementwise.ts";
import { Adam } from "../../src/optim/adam.ts";
import { clipGradNorm, clipGradValue } from "../../src/optim/clip.ts";
import { SGD } from "../../src/optim/sgd.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { owner } from "../helpers/owner.ts";
import { square } from "../helpers/square.ts";

const { owned } = owner();
const leaf = (gpu: Gpu, data: ArrayLike<number>) =>
  owned(gpu.tensor(data, [data.length], { requiresGrad: true }));

/** Gives each parameter the gradient named, through an op, so that packed ones have it in their slot. */
function backward(gpu: Gpu, parameters: readonly Tensor[], grads: readonly ArrayLike<number>[]): void {
  gpu.scope(() => {
    const one = gpu.full([1], 1);
    for (const [i, parameter] of parameters.entries()) {
      const grad = gpu.tensor(grads[i]!, [grads[i]!.length]);
      mul(parameter, mul(grad, one)).backward(gpu.full(parameter.shape, 1));
    }
  });
}

const norms: Record<string, (g: readonly number[]) => number> = {
  1: (g) => g.reduce((sum, x) => sum + Math.abs(x), 0),
  2: (g) => Math.sqrt(g.reduce((sum, x) => sum + x * x, 0)),
  2.5: (g) => g.reduce((sum, x) => sum + Math.abs(x) ** 2.5, 0) ** 0.4,
  Infinity: (g) => g.reduce((most, x) => Math.max(most, Math.abs(x)), 0),
};

describe("clipGradNorm", () => {
  // Of packed neighbours, more than all invocations of a software adapter take in one round, and odd ends.
  const sizes = [1, 5, 6000, 67, 128, 3];
  const grads = sizes.map((size, i) => normals(size, 40 + i));
  grads[2]![7] = 0;
  const flat = grads.flatMap((g) => [...g]);

  for (const [type, norm] of Object.entries(norms)) {
    for (const packed of ["all", "some", "none"] as const) {
      it(`scales to the norm ${type}, ${packed} packed`, async () => {
        const gpu = await testGpu();
        const w = sizes.map((size) => leaf(gpu, normals(size, size)));
        if (packed !== "none") owned(new SGD(packed === "all" ? w : [w[3]!, w[1]!, w[2]!], { lr: 1 }));
        // What pads a slot is nobody's: here it is NaN.
        for (const { gradSlot } of w) {
          if (!gradSlot) continue;
          const { range } = gradSlot;
          gpu.fillRange({ ...range, byteLength: Math.ceil(range.byteLength / 256) * 256 }, 0x7fc00000);
        }
        const idle = leaf(gpu, [1, 2]);
        const total = norm(flat);
        for (const [share, factor] of [
          [0.25, 0.25],
          [1.5, 1],
        ] as const) {
          for (const parameter of w) parameter.zeroGrad();
          backward(gpu, w, grads);
          const live = gpu.stats.liveBuffers;
          const got = clipGradNorm([...w, idle], share * total, { normType: Number(type) });
          expect(gpu.stats.liveBuffers).toBe(live + 1);
          expect(got.shape).toEqual([]);
          expect((await got.item()) / total).toBeCloseTo(1, 6);
          got.dispose();
          for (const [i, parameter] of w.entries()) {
            const expected = grads[i]!.map((x) => x * factor);
            expect(relativeError(await parameter.grad!.read(), expected)).toBeLessThan(3e-6);
          }
        }
      });
    }
  }

  it("is right by hand: 3 and 4 have norm 5", async () => {
    const gpu = await testGpu();
    const w = [leaf(gpu, [0]), leaf(gpu, [0])];
    backward(gpu, w, [[3], [-4]]);
    const norm = owned(clipGradNorm(w, 2.5));
    expect(await norm.item()).toBe(5);
    expect((await w[0]!.grad!.item()) / 1.5).toBeCloseTo(1, 5);
    expect((await w[1]!.grad!.item()) / -2).toBeCloseTo(1, 5);
  });

  it("takes a packed network in three dispatches, captured too, and the step sees it", async () => {
    const gpu = await testGpu();
    const w = sizes.map((size) => leaf(gpu, normals(size, size)));
    const optimizer = owned(new SGD(w, { lr: 0.5 }));
    const factors = grads.map((g) => owned(gpu.tensor(g, [g.length])));
    const before = await Promise.all(w.map((x) => x.read()));
    const ones = sizes.map((size) => owned(gpu.full([size], 1)));
    let dispatches = 0;
    const plan = owned(
      gpu.capture(() => {
        optimizer.zeroGrad();
        for (const [i, x] of w.entries()) mul(x, factors[i]!).backward(ones[i]!);
        const start = gpu.stats.dispatches;
        const norm = clipGradNorm(w, 2);
        dispatches = gpu.stats.dispatches - start;
        optimizer.step();
        return norm;
      }),
    );
    expect(dispatches).toBe(3);
    plan.run();
    const total = norms[2]!(flat);
    expect((await plan.result.item()) / total).toBeCloseTo(1, 6);
    for (const [i, x] of w.entries()) {
      const expected = before[i]!.map((value, j) => value - 2 * 0.5 * (2 / total) * grads[i]![j]!);
      expect(relativeError(await x.read(), expected)).toBeLessThan(1e-6);
    }
  });

  it("tells of gradients that are not finite, as PyTorch does", async () => {
    const gpu = await testGpu();
    for (const [bad, normType] of [
      [Number.NaN, 2],
      [Number.NaN, Number.POSITIVE_INFINITY],
      [Number.POSITIVE_INFINITY, 2],
    ] as const) {
      const w = leaf(gpu, [0, 0]);
      w.grad = gpu.keep(gpu.tensor([1, bad], [2]));
      const norm = owned(clipGradNorm([w], 1, { normType }));
      expect(await norm.item()).toBe(bad);
      expect((await w.grad.read())[1]).toBeNaN();
    }
  });

  it("refuses what it can't do, and takes parameters without gradients", async () => {
    const gpu = await testGpu();
    const w = leaf(gpu, [1]);
    expect(() => clipGradNorm([], 1)).toThrow(/clipGradNorm: got no parameters/);
    expect(() => clipGradNorm([w], -1)).toThrow(/maxNorm is -1/);
    expect(() => clipGradNorm([w], 1, { normType: 0 })).toThrow(/normType is 0/);
    expect(() => clipGradNorm([1 as never], 1)).toThrow(/clipGradNorm: parameter 0 is 1/);
    expect(await owned(clipGradNorm([w], 1)).item()).toBe(0);
  });
});

describe("clipGradValue", () => {
  it("limits each element, wherever the gradient lies", async () => {
    const gpu = await testGpu();
    const sizes = [130, 3, 1];
    const grads = sizes.map((size, i) => normals(size, 60 + i));
    grads[0]![5] = Number.NaN;
    const w = sizes.map((size) => leaf(gpu, normals(size, size)));
    owned(new Adam([w[0]!, w[1]!]));
    backward(gpu, w, grads);
    clipGradValue(w, 0.5);
    for (const [i, parameter] of w.entries()) {
      const limit = (x: number) => (Number.isNaN(x) ? x : Math.min(0.5, Math.max(-0.5, x)));
      expect([...(await parameter.grad!.read())]).toEqual([...grads[i]!].map(limit));
    }
    expect(() => clipGradValue(w, Number.NaN)).toThrow(/clipValue is NaN/);
  });
});

describe("gradient accumulation", () => {
  it("two backwards of half batches and a step are one of the whole batch, in one dispatch", async () => {
    const gpu = await testGpu();
    const [data, factors] = [normals(70, 1), [normals(70, 2), normals(70, 3)]];
    const run = async (parts: readonly Float64Array[][]) => {
      const w = [leaf(gpu, data), leaf(gpu, [2])];
      const optimizer = owned(new SGD(w, { lr: 0.1, momentum: 0.9 }));
      for (let step = 0; step < 3; step += 1) {
        optimizer.zeroGrad();
        for (const part of parts) {
          gpu.scope(() => {
            for (const factor of part) {
              // Each half's loss is divided by the number of halves: a mean over the whole batch.
              const a = gpu.tensor(
                factor.map((x) => x / 2),
                [70],
              );
              mul(square(w[0]!), a).backward(gpu.full([70], 1));
              square(w[1]!).backward(gpu.full([1], 0.5));
            }
          });
        }
        const before = gpu.stats.dispatches;
        optimizer.step();
        expect(gpu.stats.dispatches - before).toBe(1);
      }
      return Promise.all(w.map((x) => x.read()));
    };
    const [apart, together] = [await run(factors.map((f) => [f])), await run([factors])];
    for (const [i, x] of apart.entries()) expect(relativeError(x, together[i]!)).toBeLessThan(1e-6);
    const v = new Float64Array(70);
    const w = data.slice();
    for (let step = 0; step < 3; step += 1) {
      for (let i = 0; i < 70; i += 1) {
        const g = w[i]! * (factors[0]![i]! + factors[1]![i]!);
        v[i] = step === 0 ? g : 0.9 * v[i]! + g;
        w[i]! -= 0.1 * v[i]!;
      }
    }
    expect(relativeError(apart[0]!, w)).toBeLessThan(1e-6);
  });
});
