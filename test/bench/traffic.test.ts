import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { heldForBackward } from "../../bench/lib/held.ts";
import { recordTraffic } from "../../bench/lib/traffic.ts";
import { FUSIONS, trainingStep } from "../../bench/lib/training.ts";
import { withVariants } from "../../bench/lib/variants.ts";
import { measureMemory } from "../../bench/memory.ts";
import { autotune } from "../../src/autotune.ts";
import type { Gpu } from "../../src/gpu.ts";
import { requestGpu } from "../../src/node/request.ts";
import { relu } from "../../src/ops/activations.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { batchNormComposed } from "../../src/ops/batch-norm/composed.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { add } from "../../src/ops/elementwise/elementwise.ts";
import { SGD } from "../../src/optim/sgd.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { normals } from "../helpers/numbers.ts";

// Large enough that the one-dispatch kernels for small tensors stay out of it, and per-channel numbers hardly count.
const SHAPE = [16, 64, 64, 16];
const T = 4 * 16 * 64 * 64 * 16;

let gpu: Gpu;
let x: Tensor;
let dy: Tensor;
let gamma: Tensor;
let beta: Tensor;

beforeAll(async () => {
  // Not the tests' own device: its debug mode fills buffers, by dispatches that would be counted.
  gpu = await requestGpu();
  x = gpu.keep(gpu.tensor(normals(T / 4, 1), SHAPE, { requiresGrad: true }));
  dy = gpu.keep(gpu.tensor(normals(T / 4, 2), SHAPE));
  gamma = gpu.keep(gpu.tensor(normals(16, 3), [16], { requiresGrad: true }));
  beta = gpu.keep(gpu.tensor(normals(16, 4), [16], { requiresGrad: true }));
});
afterAll(() => {
  gpu.destroy();
});

describe("the traffic model", () => {
  const passes = (fn: () => void) => recordTraffic(gpu, () => gpu.scope(fn)).bytes / T;

  it("counts each operand once", () => {
    expect(passes(() => void relu(x))).toBeCloseTo(2, 1);
    expect(passes(() => void add(x, dy))).toBeCloseTo(3, 1);
    // One buffer as both operands moves once.
    expect(passes(() => void add(dy, dy))).toBeCloseTo(2, 1);
  });

  it("finds the passes of fused batch-norm that its design promises: 3 forward, 5 backward", () => {
    const options = { training: true, activation: "relu" as const };
    let y!: Tensor;
    const forward = recordTraffic(gpu, () => {
      y = batchNorm(x, gamma, beta, options).materialize();
    });
    const backward = recordTraffic(gpu, () => y.backward(dy));
    y.dispose();
    for (const leaf of [x, gamma, beta]) leaf.zeroGrad();
    expect(forward.dispatches).toBeLessThanOrEqual(3);
    expect(backward.dispatches).toBeLessThanOrEqual(3);
    expect(forward.bytes / T).toBeGreaterThan(2.99);
    expect(forward.bytes / T).toBeLessThan(3.3);
    expect(backward.bytes / T).toBeGreaterThan(4.99);
    expect(backward.bytes / T).toBeLessThan(5.3);
  });

  it("counts a captured plan's dispatches", () => {
    const plan = gpu.capture(() => relu(dy));
    const replay = recordTraffic(gpu, () => plan.run());
    plan.dispose();
    expect(replay).toEqual({ dispatches: 1, bytes: 2 * T });
  });

  it("counts what is updated in place twice", () => {
    const sum = gpu.keep(gpu.tensor(normals(T / 4, 7), SHAPE));
    expect(passes(() => gpu.accumulate(sum, dy))).toBeCloseTo(3, 1);
    sum.dispose();
    for (const [momentum, expected] of [
      [0.9, 5],
      [0, 3],
    ] as const) {
      const w = gpu.keep(gpu.tensor(normals(T / 4, 8), SHAPE, { requiresGrad: true }));
      const optimizer = new SGD([w], { lr: 0.1, momentum });
      w.grad = gpu.keep(gpu.tensor(normals(T / 4, 9), SHAPE));
      expect(passes(() => optimizer.step())).toBeCloseTo(expected, 1);
      w.zeroGrad();
      optimizer.dispose();
      w.dispose();
    }
  });

  it("leaves the device as it was, also after an error", async () => {
    const y = gpu.keep(gpu.full([4], 3));
    const outer = recordTraffic(gpu, () => {
      const inner = () =>
        recordTraffic(
          gpu,
          () => {
            y.fill(5);
            throw new Error("in between");
          },
          { execute: false },
        );
      expect(inner).toThrow("in between");
      y.fill(7);
    });
    expect([outer.dispatches, ...(await y.read())]).toEqual([2, 7, 7, 7, 7]);
    y.dispose();
  });
});

describe("a training step that is counted and not carried out", () => {
  it.each(Object.entries(FUSIONS))("is that of a real one: %s", (name, fused) => {
    const options = { depth: 8, batch: 2, fused };
    const live = gpu.stats.liveBuffers;
    const counted = measureMemory(gpu, { ...options, id: "", title: "", name });
    const eager = trainingStep(gpu, options);
    gpu.resetPeak();
    const before = gpu.stats.liveBytes;
    const plan = gpu.capture(() => eager.step());
    expect(counted.dispatches).toBe(plan.dispatchCount);
    expect(counted.planBytes).toBe(plan.byteLength);
    expect(counted.peakBytes).toBe(gpu.stats.peakBytes - before);
    expect(counted.bytes).toBe(recordTraffic(gpu, () => plan.run()).bytes);
    plan.dispose();
    eager.dispose();
    expect(gpu.stats.liveBuffers).toBe(live);
  });

  it("leaves tensors as they were", async () => {
    const y = gpu.full([4], 3);
    const { dispatches } = recordTraffic(gpu, () => y.fill(5), { execute: false });
    expect([dispatches, ...(await y.read())]).toEqual([1, 3, 3, 3, 3]);
    y.dispose();
  });
});

describe("what is held for backward", () => {
  it("is the input alone when fused, and three tensors when not", () => {
    const options = { training: true, activation: "relu" as const };
    const before = gpu.stats.liveBuffers;
    const fused = heldForBackward(gpu, x, (input) => batchNorm(input, gamma, beta, options));
    const unfused = heldForBackward(gpu, x, (input) => batchNormComposed(input, gamma, beta, options));
    expect(fused / T).toBeGreaterThan(0.99);
    expect(fused / T).toBeLessThan(1.1);
    expect(unfused / T).toBeGreaterThan(2.5);
    expect(gpu.stats.liveBuffers).toBe(before);
  });
});

describe("variants", () => {
  const image = () => gpu.tensor(normals(2 * 8 * 8 * 8, 5), [2, 8, 8, 8], { requiresGrad: true });
  const weight = () => gpu.tensor(normals(8 * 9 * 8, 6), [8, 3, 3, 8], { requiresGrad: true });

  it("become cases of their own, forced for their steps alone", () => {
    const seen: string[] = [];
    const one = {
      name: "conv",
      make: (device: Gpu) => {
        const [input, filter] = [device.keep(image()), device.keep(weight())];
        return {
          step: () => conv2d(input, filter, { padding: 1 }).dispose(),
          dispose: () => void [input, filter].forEach((tensor) => void tensor.dispose()),
        };
      },
    };
    const cases = withVariants(gpu, one);
    expect(cases.length).toBeGreaterThan(0);
    for (const { name, make } of cases) {
      const [, forced, variant] = name.match(/\[(\S+) (\S+)\]/)!;
      const runnable = make(gpu);
      gpu.variants.onPick = ({ kernel }) =>
        void (kernel === forced && seen.push(`${kernel}, chosen by the chooser`));
      runnable.step();
      gpu.variants.onPick = null;
      runnable.dispose();
      expect(variant).not.toBe("");
    }
    expect(seen).toEqual([]);
  });

  it("are timed by autotune, which remembers the fastest for each shape", async () => {
    if (!gpu.features.has("timestamp-query")) {
      await expect(autotune(gpu, () => {})).rejects.toThrow(/no timestamp-query/);
      return;
    }
    const [input, filter] = [gpu.keep(image()), gpu.keep(weight())];
    const upstream = gpu.keep(gpu.tensor(normals(2 * 8 * 8 * 8, 7), [2, 8, 8, 8]));
    const step = () => {
      const y = conv2d(input, filter, { padding: 1 });
      y.backward(upstream);
      gpu.flush(); // while somebody wants y
      y.dispose();
      input.zeroGrad();
      filter.zeroGrad();
    };
    const remembered = gpu.variants.toJSON();
    const choices = await autotune(gpu, step, { rounds: 2 });
    expect(new Set(choices.map(({ kernel }) => kernel))).toEqual(
      new Set(["conv2d.forward", "conv2d.grad_input", "conv2d.grad_weight"]),
    );
    for (const { kernel, shape, chosen, ms } of choices) {
      expect(Object.keys(ms).length).toBeGreaterThan(1);
      expect(Object.values(ms).every((time) => time > 0)).toBe(true);
      expect(gpu.variants.toJSON()[`${kernel}|${shape}`]).toBe(chosen);
      // The chooser's own stays unless another one is clearly faster.
      expect(ms[chosen]).toBeLessThanOrEqual(1.0001 * Math.max(...Object.values(ms)));
    }
    gpu.variants.load(remembered);
    for (const tensor of [input, filter, upstream]) tensor.dispose();
  });
});
