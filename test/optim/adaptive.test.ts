import { describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import { BatchNorm2d, Conv2d, Linear, Sequential } from "../../src/nn/layers.ts";
import { weightNorm } from "../../src/nn/weight-norm.ts";
import { mul, scale } from "../../src/ops/elementwise/elementwise.ts";
import { Adam, type AdamOptions, AdamW } from "../../src/optim/adam.ts";
import { decayGroups } from "../../src/optim/groups.ts";
import type { Optimizer, Parameters } from "../../src/optim/optimizer.ts";
import { RMSprop, type RMSpropOptions } from "../../src/optim/rmsprop.ts";
import { SGD } from "../../src/optim/sgd.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { owner } from "../helpers/owner.ts";
import { square } from "../helpers/square.ts";
import { adamRule, type Rule, rmspropRule } from "../reference/optimizers.ts";

interface Variant {
  title: string;
  make: (parameters: Parameters, lr?: number) => Optimizer;
  rule: (size: number) => Rule;
  state: string[];
}

const adam = (options: AdamOptions = {}, state: string[] = []): Variant => ({
  title: `Adam ${JSON.stringify(options)}`,
  make: (parameters, lr) => new Adam(parameters, lr === undefined ? options : { lr, ...options }),
  rule: (size) => adamRule(size, options, false),
  state: ["exp_avg", "exp_avg_sq", ...state, "step"],
});
const adamW = (options: AdamOptions = {}): Variant => ({
  ...adam(options, options.amsgrad ? ["max_exp_avg_sq"] : []),
  title: `AdamW ${JSON.stringify(options)}`,
  make: (parameters, lr) => new AdamW(parameters, lr === undefined ? options : { lr, ...options }),
  rule: (size) => adamRule(size, options, true),
});
const rmsprop = (options: RMSpropOptions, state: string[]): Variant => ({
  title: `RMSprop ${JSON.stringify(options)}`,
  make: (parameters, lr) => new RMSprop(parameters, lr === undefined ? options : { lr, ...options }),
  rule: (size) => rmspropRule(size, options),
  state: ["square_avg", ...state],
});

const variants: Variant[] = [
  adam(),
  adam({ betas: [0.8, 0.95], eps: 1e-3, weightDecay: 0.1 }),
  adam({ amsgrad: true, betas: [0, 0.5] }, ["max_exp_avg_sq"]),
  adamW(),
  adamW({ weightDecay: 0.2, amsgrad: true, betas: [0.9, 0.99] }),
  rmsprop({}, []),
  rmsprop({ alpha: 0.9, momentum: 0.8, weightDecay: 0.05, eps: 1e-4 }, ["momentum_buffer"]),
  rmsprop({ alpha: 0.7, centered: true, eps: 1e-2 }, ["grad_avg"]),
  rmsprop({ alpha: 0.8, centered: true, momentum: 0.5, eps: 1e-2 }, ["momentum_buffer", "grad_avg"]),
];

const { owned, release } = owner();

const leaf = (gpu: Gpu, data: ArrayLike<number>) =>
  owned(gpu.tensor(data, [data.length], { requiresGrad: true }));

/** A step on Σ a·w², whose gradient is 2·a·w. */
function stepper(gpu: Gpu, optimizer: Optimizer, w: Tensor[], a: Tensor[]): () => void {
  const ones = w.map(({ shape }) => owned(gpu.full(shape, 1)));
  return () =>
    gpu.scope(() => {
      optimizer.zeroGrad();
      for (const [i, parameter] of w.entries()) mul(square(parameter), a[i]!).backward(ones[i]!);
      optimizer.step();
    });
}

describe("adaptive optimizers", () => {
  // More than all invocations take in one round; the last fills its place in the packed buffer to the end.
  const sizes = [1, 5, 67, 5000, 128];
  const rates = Array.from({ length: 8 }, (_, i) => 0.05 / (1 + i));

  for (const { title, make, rule } of variants) {
    for (const captured of [false, true]) {
      it(`${title} follows PyTorch's rule${captured ? ", captured" : ""}`, async () => {
        const gpu = await testGpu();
        const before = gpu.stats.liveBuffers;
        const data = sizes.map((size, i) => normals(size, 10 + i));
        const factors = sizes.map((size, i) => normals(size, 20 + i, 1, 0.3));
        const w = data.map((d) => leaf(gpu, d));
        const a = factors.map((d) => owned(gpu.tensor(d, [d.length])));
        const optimizer = owned(make(w, rates[0]));
        const step = stepper(gpu, optimizer, w, a);
        let plan: ReturnType<typeof gpu.capture> | null = null;
        for (const rate of rates) {
          optimizer.lr = rate;
          if (!captured) step();
          else if (plan) plan.run();
          else plan = owned(gpu.capture(step));
        }
        for (const [i, parameter] of w.entries()) {
          const reference = rule(sizes[i]!);
          const expected = data[i]!.slice();
          for (const rate of rates) {
            const g = expected.map((value, j) => 2 * factors[i]![j]! * value);
            reference.step(expected, g, rate);
          }
          expect(relativeError(await parameter.read(), expected)).toBeLessThan(3e-6);
        }
        release();
        expect(gpu.stats.liveBuffers).toBe(before);
      });
    }
  }

  it("Adam's first steps are those worked out by hand", async () => {
    // w = 1, loss 3·w: g = 3 always, so both corrected averages are those of a constant, and each step is lr.
    const gpu = await testGpu();
    const [w, three] = [leaf(gpu, [1]), owned(gpu.tensor([3], [1]))];
    const optimizer = owned(new Adam([w], { lr: 0.25, eps: 0 }));
    for (const expected of [0.75, 0.5, 0.25]) {
      optimizer.zeroGrad();
      gpu.scope(() => mul(w, three).backward());
      optimizer.step();
      expect((await w.read())[0]).toBeCloseTo(expected, 6);
    }
    const state = await optimizer.stateDict();
    expect(state["step.0"]).toEqual({ shape: [], dtype: "float32", data: Float32Array.of(3) });
    expect(state["exp_avg.0"]!.data[0]).toBeCloseTo(3 * (1 - 0.9 ** 3), 6);
    expect(state["exp_avg_sq.0"]!.data[0]! / (9 * (1 - 0.999 ** 3))).toBeCloseTo(1, 5);
  });

  it("counts no step of the neighbour of a parameter that has one", async () => {
    const gpu = await testGpu();
    const [a, b] = [leaf(gpu, [1]), leaf(gpu, [1])];
    const optimizer = owned(new Adam([a, b], { lr: 0.25, eps: 0 }));
    const step = (...parameters: Tensor[]) => {
      optimizer.zeroGrad();
      for (const w of parameters) gpu.scope(() => mul(w, w).backward());
      optimizer.step();
    };
    for (let i = 0; i < 3; i += 1) step(a);
    expect([...(await b.read())]).toEqual([1]);
    // The first step is as long as the rate, whatever the gradient.
    step(a, b);
    expect((await b.read())[0]).toBeCloseTo(0.75, 6);
    const state = await optimizer.stateDict();
    expect([state["step.0"]!.data[0], state["step.1"]!.data[0]]).toEqual([4, 1]);
  });

  it("corrects the bias right however many steps there were", async () => {
    const gpu = await testGpu();
    const w = leaf(gpu, [0]);
    const one = owned(gpu.tensor([1], [1]));
    const [b1, b2] = [0.9, 0.999];
    const optimizer = owned(new Adam([w], { lr: 0.5, betas: [b1, b2] }));
    for (const t of [2, 5, 6, 17, 100, 499, 501, 693, 5000, 1e5, 2 ** 24]) {
      const scalar = (value: number) => ({
        shape: [1],
        dtype: "float32" as const,
        data: Float32Array.of(value),
      });
      optimizer.loadStateDict({
        "step.0": scalar(t - 1),
        "exp_avg.0": scalar(0.25),
        "exp_avg_sq.0": scalar(0.0625),
      });
      w.fill(0);
      optimizer.zeroGrad();
      gpu.scope(() => mul(w, one).backward());
      optimizer.step();
      const m = b1 * 0.25 + (1 - b1);
      const v = b2 * 0.0625 + (1 - b2);
      const expected = ((-0.5 / (1 - b1 ** t)) * m) / (Math.sqrt(v / (1 - b2 ** t)) + 1e-8);
      expect((await w.item()) / expected, `step ${t}`).toBeCloseTo(1, 6);
    }
  });

  it("counts the steps of each parameter, in two dispatches for all", async () => {
    const gpu = await testGpu();
    const [x, y, z] = [leaf(gpu, [1]), leaf(gpu, [2, 3]), leaf(gpu, [4])];
    const optimizer = owned(new Adam([x, y, z], { lr: 0.1 }));
    gpu.scope(() => {
      square(y).backward(gpu.full([2], 1));
      square(z).backward();
    });
    const before = gpu.stats.dispatches;
    optimizer.step();
    expect(gpu.stats.dispatches - before).toBe(2);
    gpu.scope(() => square(x).backward());
    optimizer.step();
    const state = await optimizer.stateDict();
    expect([0, 1, 2].map((i) => state[`step.${i}`]!.data[0])).toEqual([1, 2, 2]);
  });

  for (const { title, make, state: names } of variants) {
    it(`${title} goes on from its state as if it had never stopped`, async () => {
      const gpu = await testGpu();
      const [data, factors] = [normals(70, 4), normals(70, 5, 1, 0.2)];
      const run = async (parts: number[]) => {
        const w = [leaf(gpu, data.subarray(0, 65)), leaf(gpu, data.subarray(65)), leaf(gpu, [1])];
        const a = [factors.subarray(0, 65), factors.subarray(65)].map((f) =>
          owned(gpu.tensor(f, [f.length])),
        );
        let optimizer = make(w, 0.05);
        for (const steps of parts) {
          const step = stepper(gpu, optimizer, w.slice(0, 2), a);
          for (let i = 0; i < steps; i += 1) step();
          const state = await optimizer.stateDict();
          const first = Object.keys(state).filter((name) => name.endsWith(".0"));
          expect(first.sort()).toEqual(names.map((name) => `${name}.0`).sort());
          optimizer.dispose();
          optimizer = make(w, 0.05);
          optimizer.loadStateDict(state);
        }
        optimizer.dispose();
        return Promise.all(w.map((parameter) => parameter.read()));
      };
      expect(await run([2, 3, 1])).toEqual(await run([6]));
    });
  }

  for (const { title, make } of variants) {
    it(`${title} stands still where the square of a gradient is beyond float32, as PyTorch's`, async () => {
      const gpu = await testGpu();
      const w = leaf(gpu, [1, -2, 3, 4, 5]);
      const optimizer = owned(make([w], 0.05));
      const decays = title.startsWith("AdamW");
      let before = [1, -2, 3, 4, 5];
      for (const large of [1e20, 1, 2, -3e30, 1]) {
        const gradient = owned(gpu.tensor([large, -large, 0.5, Number.NaN, large], [5]));
        optimizer.zeroGrad();
        gpu.scope(() => mul(w, gradient).backward(gpu.full([5], 1)));
        optimizer.step();
        const now = Array.from(await w.read(), Number);
        for (const i of [0, 1, 4]) {
          // Decay alone, where it is decoupled.
          expect(now[i]! / before[i]!).toBeGreaterThan(decays ? 0.98 : 1 - 1e-7);
          expect(now[i]! / before[i]!).toBeLessThan(decays ? 1 : 1 + 1e-7);
        }
        expect(now[2]).toBeLessThan(before[2]!);
        expect(now[3]).toBeNaN();
        before = now;
      }
    });
  }

  it("refuses a rate that float32 does not hold", async () => {
    const gpu = await testGpu();
    const w = leaf(gpu, [1]);
    const message = "lr is 1e+39; expected a number that float32 holds";
    expect(() => new Adam([w], { lr: 1e39 })).toThrow(message);
    const optimizer = owned(new Adam([w]));
    expect(() => {
      optimizer.lr = 1e39;
    }).toThrow(message);
    expect(() => new Adam([w], { weightDecay: 1e39 })).toThrow(
      "weightDecay is 1e+39; expected a number that",
    );
  });

  it("refuses a state that is not its own, before anything is written", async () => {
    const gpu = await testGpu();
    const w = leaf(gpu, [1, 2]);
    const optimizer = owned(new AdamW([w]));
    const tensor = (data: number[], shape = [data.length]) => ({
      shape,
      dtype: "float32" as const,
      data: Float32Array.from(data),
    });
    const right = { "step.0": tensor([3], []), "exp_avg.0": tensor([1, 2]), "exp_avg_sq.0": tensor([3, 4]) };
    optimizer.loadStateDict(right);
    const { "step.0": _, ...noStep } = right;
    const { "exp_avg_sq.0": __, ...noSquare } = right;
    expect(() => optimizer.loadStateDict(noStep)).toThrow(/AdamW.loadStateDict: step.0 is missing/);
    expect(() => optimizer.loadStateDict(noSquare)).toThrow(/exp_avg_sq.0 is missing, exp_avg.0 is there/);
    expect(() => optimizer.loadStateDict({ ...right, "step.0": tensor([0.5]) })).toThrow(/step.0 is 0.5/);
    expect(() => optimizer.loadStateDict({ ...right, "step.1": tensor([1]) })).toThrow(
      /step.1 is unexpected; expected exp_avg.0/,
    );
    expect(() => optimizer.loadStateDict({ ...right, "exp_avg.0": tensor([1]) })).toThrow(
      /exp_avg.0 is \[1\]/,
    );
    expect(await optimizer.stateDict()).toEqual(right);
    optimizer.loadStateDict({});
    expect(await optimizer.stateDict()).toEqual({});
  });

  it("refuses options out of range", async () => {
    const gpu = await testGpu();
    const w = leaf(gpu, [1]);
    expect(() => new Adam([w], { betas: [0.9, 1] })).toThrow(/Adam: betas is \[0.9, 1\]/);
    expect(() => new AdamW([w], { eps: -1 })).toThrow(/AdamW: eps is -1/);
    expect(() => new AdamW([w], { weightDecay: -1 })).toThrow(/AdamW: weightDecay is -1/);
    expect(() => new RMSprop([w], { alpha: 1.5 })).toThrow(/RMSprop: alpha is 1.5/);
    expect(() => new RMSprop([w], { momentum: -1 })).toThrow(/RMSprop: momentum is -1/);
  });
});

describe("parameter groups", () => {
  for (const Kind of [SGD, Adam, AdamW, RMSprop]) {
    it(`${Kind.name}: have rates and decay of their own, in one dispatch, under one schedule`, async () => {
      const gpu = await testGpu();
      const data = [normals(70, 1), normals(3, 2), normals(130, 3)];
      const run = async (grouped: boolean) => {
        const w = data.map((d) => leaf(gpu, d));
        const a = data.map(({ length }) => owned(gpu.full([length], 0.7)));
        const options = { lr: 0.1, weightDecay: 0.3, momentum: 0.5 };
        const { momentum, ...others } = options;
        const own = Kind === SGD || Kind === RMSprop ? options : others;
        // Apart: an optimizer for each group, with the rates set by hand.
        const optimizers = grouped
          ? [
              new Kind(
                [
                  { params: w.slice(0, 2), weightDecay: 0 },
                  { params: [w[2]!], lr: 0.02 },
                ],
                own,
              ),
            ]
          : [new Kind(w.slice(0, 2), { ...own, weightDecay: 0 }), new Kind([w[2]!], { ...own, lr: 0.02 })];
        optimizers.forEach(owned);
        const steps = grouped
          ? [stepper(gpu, optimizers[0]!, w, a)]
          : [stepper(gpu, optimizers[0]!, w.slice(0, 2), a), stepper(gpu, optimizers[1]!, [w[2]!], [a[2]!])];
        for (const step of steps) step();
        optimizers[0]!.lr = 0.05;
        if (!grouped) optimizers[1]!.lr = 0.01;
        else expect(optimizers[0]!.paramGroups.map(({ lr }) => lr)).toEqual([0.05, 0.01]);
        for (const step of steps) step();
        if (grouped) optimizers[0]!.paramGroups[1]!.lr = 0.3;
        else optimizers[1]!.lr = 0.3;
        const before = gpu.stats.dispatches;
        for (const step of steps) step();
        return { read: await Promise.all(w.map((x) => x.read())), dispatches: gpu.stats.dispatches - before };
      };
      const [together, apart] = [await run(true), await run(false)];
      expect(together.read).toEqual(apart.read);
      expect(apart.dispatches - together.dispatches).toBe(Kind === Adam || Kind === AdamW ? 2 : 1);
    });
  }

  it("decayGroups leaves norms, biases and lengths without decay", async () => {
    const gpu = await testGpu();
    const model = owned(
      new Sequential(new Conv2d(gpu, 1, 4, 3), new BatchNorm2d(gpu, 4), weightNorm(new Linear(gpu, 4, 2))),
    );
    const names = new Map(model.namedParameters().map(([name, tensor]) => [tensor, name]));
    const [decayed, others] = decayGroups(model).map(({ params }) => [...params].map((p) => names.get(p)));
    expect(decayed).toEqual(["layers.0.weight", "layers.2.parametrizations.weight.original1"]);
    expect(others!.sort()).toEqual(
      ["0.bias", "1.bias", "1.weight", "2.bias", "2.parametrizations.weight.original0"].map(
        (n) => `layers.${n}`,
      ),
    );
    const optimizer = owned(new AdamW(decayGroups(model), { weightDecay: 0.05 }));
    expect(optimizer.paramGroups.map(({ weightDecay }) => weightDecay)).toEqual([0.05, 0]);
  });

  it("refuses groups that can't be", async () => {
    const gpu = await testGpu();
    const w = leaf(gpu, [1]);
    expect(() => new Adam([{ params: [w] }, { params: [w] }])).toThrow(/in the groups twice/);
    expect(() => new Adam([{ params: [w], lr: -1 }])).toThrow(/group 0's lr is -1/);
    expect(() => new SGD([{ params: [w], lr: 1 }], { lr: 0 })).toThrow(/keep their ratio/);
    expect(() => new Adam([{ params: [w], momentum: 1 } as never])).toThrow(/no option "momentum"/);
    expect(() => new Adam([w, { params: [w] }] as never)).toThrow(/Adam: group 0 is a Tensor/);
  });
});

it("takes the same step whichever vec4s an invocation goes over", async () => {
  const gpu = await testGpu();
  const info = gpu.info as { class: string };
  const outer = info.class;
  const sizes = [10, 70_001, 64];
  const results: number[][][] = [];
  for (const family of ["software", "hardware"]) {
    info.class = family;
    const weights = sizes.map((size, i) => gpu.tensor(normals(size, i + 1), [size], { requiresGrad: true }));
    const optimizer = new AdamW(weights, { lr: 0.1 });
    for (const [i, weight] of weights.entries()) {
      gpu.scope(() => scale(weight, 2).backward(gpu.tensor(normals(weight.size, i + 9), weight.shape)));
    }
    optimizer.step();
    results.push(await Promise.all(weights.map(async (weight) => [...(await weight.read())])));
    for (const each of [optimizer, ...weights]) each.dispose();
  }
  info.class = outer;
  expect(results[0]![1]![70_000]).not.toBe(Math.fround(normals(70_001, 2)[70_000]!));
  expect(results[0]).toEqual(results[1]);
});
