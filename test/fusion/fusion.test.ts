// What is fused around batch-norm: the numbers of each program in every way to run it, and its dispatches where it folds.

import { describe, expect, it } from "vitest";
import { ACTIVATIONS } from "../helpers/activations.ts";
import { IS_SAMPLE } from "../helpers/gpu.ts";
import { activations } from "../reference/activations.ts";
import { bareLine, checkNumbers, type Dispatches, dispatchesOf, FOLDED, PACKED, timesOf } from "./check.ts";
import { activated, castPrograms, programs } from "./programs.ts";

/** Of programs that fold, all dispatches, in the order of the alphabet; see `lineOf`. */
const LISTS: Record<string, Dispatches> = {
  "conv → norm": {
    forward: ["batch_norm.apply", "batch_norm.finalize", "conv2d.forward +statistics"],
    backward: [
      ...["batch_norm.grad_finalize", "batch_norm.grad_stats"],
      ...["conv2d.grad_input +x_affine_pair", "conv2d.grad_weight +dy_affine_pair"],
    ],
  },
  "conv → norm → relu": {
    forward: ["batch_norm.apply", "batch_norm.finalize", "conv2d.forward +statistics"],
    backward: [
      ...["batch_norm.grad_apply", "batch_norm.grad_finalize", "batch_norm.grad_stats"],
      ...["conv2d.grad_input", "conv2d.grad_weight"],
    ],
  },
  "conv → norm → relu → conv": {
    forward: ["batch_norm.finalize", "conv2d.forward +statistics", "conv2d.forward +x_affine"],
    backward: [
      ...["batch_norm.grad_finalize", "conv2d.grad_input +gradient_sums", "conv2d.grad_input +x_affine_pair"],
      ...["conv2d.grad_weight +dy_affine_pair", "conv2d.grad_weight +x_affine"],
    ],
  },
  "norm with residual x": {
    forward: ["batch_norm.apply", "batch_norm.finalize", "conv2d.forward +statistics"],
    backward: [
      ...["batch_norm.grad_finalize", "batch_norm.grad_stats"],
      ...["conv2d.grad_input +x_affine_pair", "conv2d.grad_weight +dy_affine_pair"],
      ...["memory.accumulate", "memory.copy"],
    ],
  },
  "a conv that is read after its norm": {
    forward: ["add", "batch_norm.apply", "batch_norm.finalize", "conv2d.forward +statistics", "mul"],
    backward: [
      ...["batch_norm.grad_apply", "batch_norm.grad_finalize", "batch_norm.grad_stats"],
      ...["conv2d.grad_input", "conv2d.grad_weight", "memory.accumulate", "2× mul backward"],
    ],
  },
};

/** Programs that are to take the dispatches of another. */
const SAME: Record<string, string> = {
  "conv → norm, running statistics": "conv → norm",
  "conv → norm → conv": "conv → norm → relu → conv",
  "conv → norm → relu → conv, an op of its own": "conv → norm → relu → conv",
};

interface Goal {
  /** Lines that do not occur. */
  never: readonly string[];
  /** Dispatches in all. */
  atMost: number;
}

/** What is folded at least. */
const GOALS: Record<string, Partial<Record<keyof Dispatches, Goal>>> = {
  "conv → norm → relu, an op of its own": {
    forward: { never: ["batch_norm.stats", "relu"], atMost: 3 },
    backward: { never: ["relu backward"], atMost: 5 },
  },
  "norm → relu → conv": {
    forward: { never: ["batch_norm.apply"], atMost: 3 },
    backward: { never: ["batch_norm.grad_stats", "conv2d.grad_weight"], atMost: 4 },
  },
  "norm → relu → conv, an op of its own": {
    forward: { never: ["batch_norm.apply", "relu"], atMost: 3 },
    backward: { never: ["batch_norm.grad_stats", "conv2d.grad_weight", "relu backward"], atMost: 4 },
  },

  "two branches": { forward: { never: ["batch_norm.stats", "conv2d.forward"], atMost: 7 } },
  "two branches, crossed": { forward: { never: ["batch_norm.stats", "conv2d.forward"], atMost: 7 } },
  "three branches": { forward: { never: ["batch_norm.stats", "conv2d.forward"], atMost: 11 } },
  "two branches of deferred norms": {
    forward: { never: ["batch_norm.stats", "conv2d.forward"], atMost: 11 },
  },
  "two branches of deferred norms, crossed": {
    forward: { never: ["batch_norm.stats", "conv2d.forward"], atMost: 11 },
  },
  "two branches of one map": {
    forward: { never: ["batch_norm.stats", "conv2d.forward", "relu"], atMost: 7 },
    backward: { never: ["relu backward"], atMost: 11 },
  },

  // The sum is measured by a kernel of its own, or on its way out of the sum, or out of the convolution that it joins.
  "add → norm → relu → conv": { forward: { never: ["batch_norm.apply"], atMost: 5 } },
  "add → norm → relu → conv, an op of its own": {
    forward: { never: ["batch_norm.apply", "relu"], atMost: 5 },
    backward: { never: ["batch_norm.grad_stats", "relu backward"], atMost: 7 },
  },
  "add → norm → relu → conv, and a shortcut": { forward: { never: ["batch_norm.apply"], atMost: 6 } },

  "a conv that another conv reads too": { forward: { never: ["batch_norm.stats"], atMost: 5 } },

  "relu(add(norm, x))": {
    forward: { never: ["add", "relu", "batch_norm.stats"], atMost: 3 },
    backward: { never: ["relu backward"], atMost: 6 },
  },
  "relu(add(x, norm))": {
    forward: { never: ["add", "relu", "batch_norm.stats"], atMost: 3 },
    backward: { never: ["relu backward"], atMost: 6 },
  },
  "relu(add(norm, norm))": {
    forward: { never: ["add", "relu", "batch_norm.stats"], atMost: 6 },
    backward: { never: ["relu backward"], atMost: 11 },
  },
  "norm with a norm as its residual": { forward: { never: ["add", "relu", "batch_norm.stats"], atMost: 6 } },

  "conv → frozen norm → relu → conv": {
    forward: { never: ["batch_norm.apply", "batch_norm.stats"], atMost: 3 },
    backward: { never: ["batch_norm.grad_stats", "batch_norm.grad_apply"], atMost: 5 },
  },
  "frozen norm → relu → conv": { forward: { never: ["batch_norm.apply", "batch_norm.stats"], atMost: 2 } },
  "a frozen norm after one that trains": { forward: { never: ["batch_norm.stats"], atMost: 5 } },

  "conv → norm → relu → maxPool": { forward: { never: ["batch_norm.apply"], atMost: 3 } },
  "conv → norm → relu → avgPool": { forward: { never: ["batch_norm.apply"], atMost: 3 } },
  "conv → norm → relu → globalAvgPool": { forward: { never: ["batch_norm.apply"], atMost: 3 } },

  // Another view of the same channels is no reason not to fold.
  "conv → other maps → norm → relu → conv": {
    forward: { never: ["batch_norm.apply", "batch_norm.stats"], atMost: 3 },
  },
  "conv → norm → relu → other maps → conv": {
    forward: { never: ["batch_norm.apply", "batch_norm.stats"], atMost: 3 },
  },
};

/** Goals that are not reached yet. Their tests have to fail: whoever reaches one takes it out. */
const TO_COME = new Set<string>();

describe("the numbers of", () => {
  for (const [label, program] of Object.entries(programs)) {
    it(label, () => checkNumbers(label, program));
  }
  for (const [label, program] of Object.entries(castPrograms)) {
    it(label, () => checkNumbers(label, program, { forward: 5e-3, backward: 1e-2 }));
  }
});

/** Each has kernels of its own, and is right by itself in test/ops/activations.test.ts: `npm test` alone folds three of them. */
const folded = ACTIVATIONS.filter((name) => !IS_SAMPLE || ["none", "relu", "silu"].includes(name));

describe.each(folded)("the numbers with activation %s of", (activation) => {
  for (const [label, program] of Object.entries(activated(activation))) {
    it(label, () => checkNumbers(label, program));
  }
});

describe("the dispatches of", () => {
  for (const [label, same] of [...Object.keys(LISTS).map((name) => [name, name]), ...Object.entries(SAME)]) {
    it(label!, async () => {
      for (const mode of FOLDED) {
        expect(await dispatchesOf(programs[label!]!, mode), mode.name).toEqual(LISTS[same!]);
      }
    });
  }
  for (const [label, goals] of Object.entries(GOALS)) {
    for (const [direction, { never, atMost }] of Object.entries(goals)) {
      const test = TO_COME.has(`${label}, ${direction}`) ? it.fails : it;
      test(`${label}, ${direction}`, async () => {
        for (const mode of FOLDED) {
          const lines = (await dispatchesOf(programs[label]!, mode))[direction as keyof Dispatches];
          const [names, counts] = [lines.map(bareLine), lines.map(timesOf)];
          const found = never.filter((line) => names.includes(line));
          expect(found, `${mode.name}: of ${lines.join("; ")}`).toEqual([]);
          const total = counts.reduce((a, b) => a + b, 0);
          expect(total, `${mode.name}: ${lines.join("; ")}`).toBeLessThanOrEqual(atMost);
        }
      });
    }
  }
  it("what is finished beside the gradient of a weight, where gradients lie next to each other", async () => {
    for (const label of ["conv → norm → relu → conv", "conv → norm → conv"]) {
      const { forward, backward } = LISTS["conv → norm → relu → conv"]!;
      const own = "conv2d.grad_weight +x_affine";
      const rest = backward.filter((line) => line !== own && line !== "batch_norm.grad_finalize");
      const expected = { forward, backward: [...rest, `${own} +slopes`] };
      expect(await dispatchesOf(programs[label]!, PACKED), label).toEqual(expected);
    }
  });
  it("a program that is kept from folding: none is folded", async () => {
    for (const mode of FOLDED) {
      for (const kept of [
        { ...mode, folding: "none" as const },
        { ...mode, folds: false },
      ]) {
        const { forward, backward } = await dispatchesOf(programs["conv → norm → relu → conv"]!, kept);
        expect([...forward, ...backward].filter((line) => line.includes("+"))).toEqual([]);
      }
    }
  });
});

it("the reference's activations have the derivatives of their values", () => {
  for (const [name, { f, df }] of Object.entries(activations)) {
    for (let x = -7.13; x < 7; x += 0.37) {
      const slope = (f(x + 1e-5) - f(x - 1e-5)) / 2e-5;
      expect(Math.abs(df(x) - slope), `${name} at ${x}`).toBeLessThan(1e-9);
    }
  }
  // Of PyTorch, to seven digits.
  expect(activations.gelu.f(1)).toBeCloseTo(0.8413447, 7);
  expect(activations.gelu.f(-2.7)).toBeCloseTo(-0.009361, 6);
  expect(activations.geluTanh.f(1)).toBeCloseTo(0.841192, 7);
  expect(activations.silu.f(-1)).toBeCloseTo(-0.2689414, 7);
});
