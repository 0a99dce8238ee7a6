import { describe, expect, it } from "vitest";
import { OverwrittenTensorError } from "../../src/errors.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { add, mul } from "../../src/ops/elementwise/elementwise.ts";
import { SGD, type SGDOptions } from "../../src/optim/sgd.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { square } from "../helpers/square.ts";

const variants: SGDOptions[] = [
  { lr: 0.1 },
  { lr: 0.1, weightDecay: 0.05 },
  { lr: 0.05, momentum: 0.9 },
  { lr: 0.05, momentum: 0.9, weightDecay: 0.01, dampening: 0.3 },
  { lr: 0.05, momentum: 0.8, nesterov: true, weightDecay: 0.02 },
];

/** torch.optim.SGD in float64, for loss Σ a·w² whose gradient is 2·a·w. */
function reference(
  w: Float64Array,
  a: Float64Array,
  steps: number,
  options: SGDOptions,
  rates: readonly number[],
) {
  const { momentum = 0, dampening = 0, weightDecay = 0, nesterov = false } = options;
  const v = new Float64Array(w.length);
  for (let step = 0; step < steps; step += 1) {
    for (let i = 0; i < w.length; i += 1) {
      let g = 2 * a[i]! * w[i]! + weightDecay * w[i]!;
      if (momentum > 0) {
        v[i] = step === 0 ? g : momentum * v[i]! + (1 - dampening) * g;
        g = nesterov ? g + momentum * v[i]! : v[i]!;
      }
      w[i]! -= rates[step]! * g;
    }
  }
  return w;
}

describe("SGD", () => {
  // More than all invocations take in one round; the last fills its place in the packed buffer to the end.
  const sizes = [1, 5, 67, 9000, 128];
  const rates = Array.from({ length: 10 }, (_, i) => 0.1 / (1 + i));

  for (const options of variants) {
    for (const captured of [false, true]) {
      it(`follows PyTorch's rule ${JSON.stringify(options)}${captured ? ", captured" : ""}`, async () => {
        const gpu = await testGpu();
        const before = gpu.stats.liveBuffers;
        const data = sizes.map((size, i) => normals(size, 10 + i));
        const factors = sizes.map((size, i) => normals(size, 20 + i, 1, 0.3));
        const w = data.map((d) => gpu.tensor(d, [d.length], { requiresGrad: true }));
        const a = factors.map((d) => gpu.tensor(d, [d.length]));
        const ones = sizes.map((size) => gpu.full([size], 1));
        const optimizer = new SGD(w, options);
        const step = () =>
          gpu.scope(() => {
            optimizer.zeroGrad();
            for (const [i, parameter] of w.entries()) mul(square(parameter), a[i]!).backward(ones[i]!);
            optimizer.step();
          });
        let plan: ReturnType<typeof gpu.capture> | null = null;
        for (const rate of rates) {
          optimizer.lr = rate;
          if (!captured) step();
          else if (plan) plan.run();
          else plan = gpu.capture(step);
        }
        for (const [i, parameter] of w.entries()) {
          const expected = reference(data[i]!.slice(), factors[i]!, rates.length, options, rates);
          expect(relativeError(await parameter.read(), expected)).toBeLessThan(2e-6);
        }
        plan?.dispose();
        optimizer.dispose();
        for (const tensor of [...w, ...a, ...ones]) tensor.dispose();
        expect(gpu.stats.liveBuffers).toBe(before);
      });
    }
  }

  it("leaves parameters without a gradient alone, and takes gradients from anywhere", async () => {
    const gpu = await testGpu();
    const [x, idle, y] = [3, 5, 7].map((value) => gpu.tensor([value], [1], { requiresGrad: true }));
    const optimizer = new SGD([x!, idle!, y!], { lr: 0.5, momentum: 0.9 });
    gpu.scope(() => add(square(x!), y!).backward());
    gpu.scope(() => y!.backward()); // a second gradient on top
    const dispatches = gpu.stats.dispatches;
    optimizer.step();
    expect(gpu.stats.dispatches - dispatches).toBe(2);
    expect([await x!.item(), await idle!.item(), await y!.item()]).toEqual([0, 5, 6]);
    optimizer.dispose();
    for (const tensor of [x, idle, y]) tensor!.dispose();
  });

  it("writes no gradient over one that somebody still looks at, in a handle, a graph or work that waits", async () => {
    const gpu = await testGpu();
    const live = gpu.stats.liveBuffers;
    const tensor = (seed: number, requiresGrad = false) =>
      gpu.tensor(normals(32 * 32 * 8, seed), [32, 32, 8], { requiresGrad });
    const [w, v, x, up, other] = [tensor(1, true), tensor(2, true), tensor(3), tensor(4), tensor(5)];
    const optimizer = new SGD([w], { lr: 0.1 });
    const ones = gpu.full([32, 32, 8], 1);
    gpu.scope(() => mul(w, x).backward(up));
    const first = await w.grad!.read();
    const handle = w.grad!.detach();
    const graph = mul(v, w.grad!);
    const normalise = (folds: boolean) => batchNorm(w.grad!, null, null, { training: true, folds });
    const normed = normalise(false).materialize();
    const waits = normalise(true);
    optimizer.zeroGrad();
    gpu.scope(() => mul(w, x).backward(other));
    graph.backward(ones);
    expect(await handle.read()).toEqual(first);
    expect(await v.grad!.read()).toEqual(first);
    expect(relativeError(await waits.read(), await normed.read())).toBeLessThan(1e-5);
    optimizer.zeroGrad();
    gpu.scope(() => mul(w, x).backward(handle)); // would be read and written at once
    const numbers = [await x.read(), first];
    expect(await w.grad!.read()).toEqual(first.map((_, i) => numbers[0]![i]! * numbers[1]![i]!));

    // A replay writes to the same place each time: what is made of the gradient in between is refused a backward.
    for (const t of [handle, graph, normed, waits]) t.dispose();
    const dispatches = gpu.stats.dispatches;
    optimizer.step();
    expect(gpu.stats.dispatches - dispatches).toBe(1);
    const plan = gpu.capture(() => {
      optimizer.zeroGrad();
      mul(w, x).backward(up);
    });
    const late = mul(v, w.grad!);
    const lazily = normalise(true);
    const before = normalise(false).materialize();
    x.fill(0.5);
    plan.run();
    expect(() => late.backward(ones)).toThrow(OverwrittenTensorError);
    expect(relativeError(await lazily.read(), await before.read())).toBeLessThan(1e-5);
    plan.dispose();
    optimizer.dispose();
    for (const t of [late, lazily, before, w, v, x, up, other, ones]) t.dispose();
    expect(gpu.stats.liveBuffers).toBe(live);
  });

  it("updates many parameters in one dispatch", async () => {
    const gpu = await testGpu();
    const w = Array.from({ length: 20 }, (_, i) =>
      gpu.tensor(normals(i + 1, i), [i + 1], { requiresGrad: true }),
    );
    const optimizer = new SGD(w, { lr: 0.1, momentum: 0.9 });
    gpu.scope(() => {
      for (const parameter of w) square(parameter).backward(gpu.full(parameter.shape, 1));
    });
    const before = gpu.stats.dispatches;
    optimizer.step();
    expect(gpu.stats.dispatches - before).toBe(1);
    optimizer.dispose();
    for (const tensor of w) tensor.dispose();
  });

  it("goes on from its state as if it had never stopped", async () => {
    const gpu = await testGpu();
    const options = { lr: 0.1, momentum: 0.9, dampening: 0.2 };
    const run = async (parts: number[]) => {
      const w = gpu.tensor(normals(9, 4), [9], { requiresGrad: true });
      let optimizer = new SGD([w], options);
      for (const steps of parts) {
        for (let i = 0; i < steps; i += 1) {
          optimizer.zeroGrad();
          gpu.scope(() => square(w).backward(gpu.full([9], 1)));
          optimizer.step();
        }
        const state = await optimizer.stateDict();
        optimizer.dispose();
        optimizer = new SGD([w], options);
        optimizer.loadStateDict(state);
      }
      const result = await w.read();
      optimizer.dispose();
      w.dispose();
      return result;
    };
    expect(await run([2, 3, 1])).toEqual(await run([6]));
  });

  it("refuses what it can't do, naming value and rule", async () => {
    const gpu = await testGpu();
    const w = gpu.tensor([1], [1], { requiresGrad: true });
    const plain = gpu.tensor([1], [1]);
    expect(() => new SGD([], { lr: 1 })).toThrow(/got no parameters/);
    expect(() => new SGD([plain], { lr: 1 })).toThrow(/without requiresGrad/);
    expect(() => new SGD([w], { lr: Number.NaN })).toThrow(/lr is NaN/);
    expect(() => new SGD([w], { lr: 1, momentum: -1 })).toThrow(/momentum is -1/);
    expect(() => new SGD([w], { lr: 1, nesterov: true })).toThrow(/nesterov is true/);
    const first = new SGD([w], { lr: 1 });
    const second = new SGD([w], { lr: 1 });
    expect(() => first.step()).toThrow(/taken over by another optimizer/);
    expect(() => {
      second.lr = -1;
    }).toThrow(/lr is -1/);
    for (const thing of [first, second, w, plain]) thing.dispose();
  });
});
