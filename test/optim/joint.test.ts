import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { learningRateFinder, Module, SGD, sum, UsageError } from "../../src/index.ts";
import { mul } from "../../src/ops/elementwise/elementwise.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { clipGradNorm } from "../../src/optim/clip.ts";
import { JointOptimizer } from "../../src/optim/joint.ts";
import { Muon } from "../../src/optim/muon.ts";
import type { Optimizer } from "../../src/optim/optimizer.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";
import { owner } from "../helpers/owner.ts";
import { square } from "../helpers/square.ts";

const { owned, release } = owner();

const shapes = [[5, 12], [7], [6, 3, 3, 2], [130]];

async function parameters() {
  const gpu = await testGpu();
  const size = (shape: number[]) => shape.reduce((a, b) => a * b);
  const made = (seed: number, requiresGrad: boolean) =>
    shapes.map((shape, i) =>
      owned(gpu.tensor(normals(size(shape), seed + i, 1, 0.3), shape, { requiresGrad })),
    );
  return { gpu, w: made(1, true), a: made(20, false) };
}

/** Muon for what has axes enough, and AdamW for the rest, at another rate. */
const pair = (w: Tensor[]): [Muon, AdamW] => [
  new Muon(
    w.filter(({ rank }) => rank > 1),
    { lr: 0.02 },
  ),
  new AdamW(
    w.filter(({ rank }) => rank === 1),
    { lr: 0.01, weightDecay: 0 },
  ),
];

/** One step: the gradient of Σ a·w², clipped so that all parameters take part in the norm. */
function train(optimizers: readonly Optimizer[], w: Tensor[], a: Tensor[]): void {
  w[0]!.gpu.scope(() => {
    for (const optimizer of optimizers) optimizer.zeroGrad();
    for (const [i, parameter] of w.entries()) sum(mul(square(parameter), a[i]!)).backward();
    clipGradNorm(w, 5);
    for (const optimizer of optimizers) optimizer.step();
  });
}

const read = (w: Tensor[]) => Promise.all(w.map((x) => x.read()));

describe("JointOptimizer", () => {
  it.each([false, true])(
    "does what its optimizers do, one after the other; captured: %s",
    async (captured) => {
      const one = await parameters();
      const two = await parameters();
      const { gpu } = one;
      const apart = pair(one.w).map(owned);
      const joint = owned(new JointOptimizer(pair(two.w)));
      expect(joint.paramGroups.map(({ params }) => params.length)).toEqual([2, 2]);
      const plan = captured ? owned(gpu.capture(() => train([joint], two.w, two.a))) : null;
      if (!captured) train([joint], two.w, two.a);
      train(apart, one.w, one.a);
      for (const rate of [0.02, 0.005, 0.04]) {
        joint.lr = rate;
        apart[0]!.lr = rate;
        apart[1]!.lr = rate / 2;
        if (plan) plan.run();
        else train([joint], two.w, two.a);
        train(apart, one.w, one.a);
      }
      expect(joint.lr).toBe(0.04);
      expect(joint.paramGroups.map(({ lr }) => lr)).toEqual([0.04, 0.02]);
      const [weights, others] = await Promise.all([read(two.w), read(one.w)]);
      expect(weights).toEqual(others);
      joint.zeroGrad();
      expect(two.w.map(({ grad }) => grad)).toEqual([null, null, null, null]);
    },
  );

  it("goes on from its state as if it had never stopped, and gives all buffers back", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const run = async (parts: number[]) => {
      const { w, a } = await parameters();
      let joint = new JointOptimizer(pair(w));
      for (const steps of parts) {
        for (let i = 0; i < steps; i += 1) train([joint], w, a);
        const state = await joint.stateDict();
        expect(Object.keys(state)).toEqual(
          expect.arrayContaining([
            "0.momentum_buffer.0",
            "0.momentum_buffer.1",
            "1.exp_avg.0",
            "1.exp_avg_sq.1",
          ]),
        );
        joint.dispose();
        joint = new JointOptimizer(pair(w));
        joint.loadStateDict(state);
      }
      joint.dispose();
      return read(w);
    };
    expect(await run([1, 2])).toEqual(await run([3]));
    release();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("is put back by the learning-rate finder, rates and state", async () => {
    const { w, a } = await parameters();
    const joint = owned(new JointOptimizer(pair(w)));
    class Net extends Module {
      constructor() {
        super();
        Object.assign(this, w);
      }
      override forward(x: Tensor): Tensor {
        return x;
      }
    }
    train([joint], w, a);
    const [weights, state] = [await read(w), await joint.stateDict()];
    let steps = 0;
    const { rates } = await learningRateFinder(
      new Net(),
      joint,
      () => {
        train([joint], w, a);
        steps += 1;
        return 1 / steps;
      },
      { steps: 4, start: 1e-3, end: 1 },
    );
    expect(rates).toHaveLength(4);
    expect(await read(w)).toEqual(weights);
    expect(await joint.stateDict()).toEqual(state);
    expect(joint.paramGroups.map(({ lr }) => lr)).toEqual([0.02, 0.01]);
  });

  it("refuses a rate that one of them, or of its groups, would not take, before it sets any", async () => {
    const gpu = await testGpu();
    const [a, b, c] = [1, 2, 3].map((v) => gpu.full([2], v, { requiresGrad: true }));
    const groups = () => [{ params: [b!] }, { params: [c!], lr: 1e30 }];
    const joint = new JointOptimizer([new SGD([a!], { lr: 0.1 }), new SGD(groups(), { lr: 0.2 })]);
    const rates = () => [joint.lr, ...joint.paramGroups.map(({ lr }) => lr)];
    const before = rates();
    for (const wrong of [1e10, -1, Number.NaN]) {
      expect(() => {
        joint.lr = wrong;
      }).toThrow(UsageError);
      expect(rates()).toEqual(before);
    }
    joint.paramGroups[1]!.lr = 0.5; // by itself
    expect(() => {
      joint.lr = 1e10;
    }).toThrow(/SGD: group 1's lr is .*; expected a number that float32 holds/);
    expect(rates()).toEqual([0.1, 0.1, 0.5, 1e30]);
    joint.lr = 0.2;
    for (const [i, rate] of [0.2, 0.2, 0.4, 2e30].entries()) expect(rates()[i]! / rate).toBeCloseTo(1);
    joint.dispose();
    for (const t of [a, b, c]) t!.dispose();
  });

  it("shows what it is made of", async () => {
    const { w } = await parameters();
    const joint = owned(new JointOptimizer(pair(w)));
    expect(inspect(joint)).toBe(
      "JointOptimizer (Muon (2 parameters, lr 0.02), AdamW (2 parameters, lr 0.01))",
    );
  });

  it("refuses what it is not made for, and states of others before it writes any", async () => {
    const { w, a } = await parameters();
    const [muon, adamw] = pair(w).map(owned) as [Muon, AdamW];
    expect(() => new JointOptimizer([])).toThrow(/JointOptimizer: got no optimizers; expected at least one/);
    expect(() => new JointOptimizer(muon as never)).toThrow(
      /JointOptimizer: optimizers is .*; expected a list/,
    );
    expect(() => new JointOptimizer([muon, w[0] as never])).toThrow(
      /JointOptimizer: optimizer 1 is .*; expected an optimizer/,
    );
    expect(() => new JointOptimizer([muon, adamw, muon])).toThrow(
      /optimizers 0 and 2 both have a parameter of shape \[5, 12\]; expected each parameter in one/,
    );
    adamw.lr = 0;
    expect(() => new JointOptimizer([adamw, muon])).toThrow(/optimizer 0 has the rate 0, another 0.02/);
    adamw.lr = 0.01;
    const joint = new JointOptimizer([muon, adamw]);
    expect(() => {
      joint.lr = -1;
    }).toThrow(/Muon: lr is -1/);
    train([joint], w, a);
    const state = await joint.stateDict();
    const other = { ...state, "2.exp_avg.0": state["1.exp_avg.0"]! };
    expect(() => joint.loadStateDict(other)).toThrow(
      /"2.exp_avg.0" is unexpected; expected names that begin with the number of one of 2 optimizers/,
    );
    const halves = Object.fromEntries(
      Object.entries(state).map(([name, one]) => [
        name,
        name.startsWith("0.") ? { ...one, data: (one.data as Float32Array).map((value) => value / 2) } : one,
      ]),
    );
    const { "1.exp_avg.1": _gone, ...lacking } = halves;
    expect(() => joint.loadStateDict(lacking)).toThrow(/AdamW.loadStateDict: exp_avg.1 is missing/);
    expect(await joint.stateDict()).toEqual(state);
    expect(() => new JointOptimizer([new SGD([w[1]!], { lr: 1 })]).loadStateDict(null as never)).toThrow(
      /JointOptimizer.loadStateDict: state is null/,
    );
  });
});
