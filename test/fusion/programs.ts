// The programs whose fusion is looked at. Few shapes: each takes kernels of its own, and compiling them takes longest.

import type { Shape } from "../../src/tensor/shape.ts";
import type { ActivationName } from "../reference/activations.ts";
import type { Ops, Program } from "./program.ts";

const MAP: Shape = [2, 5, 6, 8];
const WEIGHT: Shape = [8, 3, 3, 8];
const PER_CHANNEL: Shape = [8];

const norms = (...names: string[]) =>
  Object.fromEntries(names.flatMap((n) => [`gamma${n}`, `beta${n}`].map((key) => [key, PER_CHANNEL])));
const statistics = (...names: string[]) =>
  Object.fromEntries(names.flatMap((n) => [`mean${n}`, `variance${n}`].map((key) => [key, PER_CHANNEL])));
const maps = (...names: string[]) => Object.fromEntries(names.map((name) => [name, MAP]));
const weights = (...names: string[]) => Object.fromEntries(names.map((name) => [name, WEIGHT]));

type Run = Program["run"];

/** conv → batch-norm, `tail`: what comes after. */
function afterConv(tail: Run, more: Record<string, Shape> = {}): Program {
  return { leaves: { ...maps("x"), ...weights("w1"), ...norms(""), ...more }, run: tail };
}

/** conv → batch-norm → activation → conv */
const chain = (activation: ActivationName): Program =>
  afterConv((o, t) => o.conv(o.norm(o.conv(t.x!, t.w1!), { activation }), t.w2!), weights("w2"));

/** An activation wherever batch-norm has one: on its way out, into a convolution, after a residual, of a sum, frozen. */
export const activated = (activation: ActivationName): Record<string, Program> => ({
  [`conv → norm → ${activation}`]: afterConv((o, t) => o.norm(o.conv(t.x!, t.w1!), { activation })),
  [`conv → norm → ${activation} → conv`]: chain(activation),
  [`norm with residual → ${activation} → conv`]: afterConv(
    (o, t) => o.conv(o.norm(o.conv(t.x!, t.w1!), { residual: t.x!, activation }), t.w2!),
    weights("w2"),
  ),
  [`add → norm → ${activation} → conv`]: {
    leaves: { ...maps("x", "z"), ...weights("w1"), ...norms("") },
    run: (o, t) => o.conv(o.norm(o.add(t.x!, t.z!), { activation }), t.w1!),
  },
  [`conv → frozen norm → ${activation} → conv`]: afterConv(
    (o, t) => o.conv(o.norm(o.conv(t.x!, t.w1!), { activation, frozen: "" }), t.w2!),
    { ...weights("w2"), ...statistics("") },
  ),
});

/** `names` of branches, each a convolution of its own map; `order` of their batch-norms; then their sum. */
function branches(names: readonly string[], order: readonly string[], deferred: boolean): Program {
  const of = (prefix: string) => names.map((name) => prefix + name);
  return {
    leaves: {
      ...maps(...of("x")),
      ...weights(...of("w"), ...(deferred ? of("wBefore") : [])),
      ...norms(...names, ...(deferred ? of("Before") : [])),
    },
    run: <T>(o: Ops<T>, t: Record<string, T>) => {
      const inputs = names.map((name): T => {
        const x = t[`x${name}`]!;
        if (!deferred) return x;
        return o.norm(o.conv(x, t[`wBefore${name}`]!), { name: `Before${name}`, activation: "relu" });
      });
      const raw = new Map(names.map((name, i) => [name, o.conv(inputs[i]!, t[`w${name}`]!)]));
      const done = new Map(order.map((name) => [name, o.norm(raw.get(name)!, { name })]));
      return names.map((name): T => done.get(name)!).reduce((a, b) => o.add(a, b));
    },
  };
}

/** add → batch-norm → ReLU → conv, as in pre-activation blocks; `shortcut`: the sum is added again in the end. */
function preActivation(separate: boolean, shortcut: boolean): Program {
  return {
    leaves: { ...maps("x", "z"), ...weights("w1", "w2"), ...norms("") },
    run: (o, t) => {
      const s = o.add(o.conv(t.x!, t.w1!), t.z!);
      const y = separate ? o.relu(o.norm(s)) : o.norm(s, { activation: "relu" });
      const out = o.conv(y, t.w2!);
      return shortcut ? o.add(out, s) : out;
    },
  };
}

export const programs: Record<string, Program> = {
  "conv → norm": afterConv((o, t) => o.norm(o.conv(t.x!, t.w1!))),
  "conv → norm, running statistics": afterConv(
    (o, t) => o.norm(o.conv(t.x!, t.w1!), { running: "" }),
    statistics(""),
  ),
  "conv with a bias → norm → relu": afterConv(
    (o, t) => o.norm(o.conv(t.x!, t.w1!, { bias: t.b! }), { activation: "relu" }),
    { b: PER_CHANNEL },
  ),
  "conv → norm → relu": afterConv((o, t) => o.norm(o.conv(t.x!, t.w1!), { activation: "relu" })),
  "conv → norm → relu, an op of its own": afterConv((o, t) => o.relu(o.norm(o.conv(t.x!, t.w1!)))),
  "norm → relu → conv": {
    leaves: { ...maps("x"), ...weights("w1"), ...norms("") },
    run: (o, t) => o.conv(o.norm(t.x!, { activation: "relu" }), t.w1!),
  },
  "norm → relu → conv, an op of its own": {
    leaves: { ...maps("x"), ...weights("w1"), ...norms("") },
    run: (o, t) => o.conv(o.relu(o.norm(t.x!)), t.w1!),
  },
  "conv → norm → relu → conv": chain("relu"),
  "conv → norm → conv": chain("none"),
  "conv → norm → relu → conv, an op of its own": afterConv(
    (o, t) => o.conv(o.relu(o.norm(o.conv(t.x!, t.w1!))), t.w2!),
    weights("w2"),
  ),

  "two branches": branches(["A", "B"], ["A", "B"], false),
  "two branches, crossed": branches(["A", "B"], ["B", "A"], false),
  "three branches": branches(["A", "B", "C"], ["B", "C", "A"], false),
  "two branches of deferred norms": branches(["A", "B"], ["A", "B"], true),
  "two branches of deferred norms, crossed": branches(["A", "B"], ["B", "A"], true),
  "two branches of one map": {
    leaves: { ...maps("x"), ...weights("wA", "wB"), ...norms("A", "B") },
    run: (o, t) => {
      const [a, b] = [o.conv(t.x!, t.wA!), o.conv(t.x!, t.wB!)];
      return o.relu(o.add(o.norm(a, { name: "A" }), o.norm(b, { name: "B" })));
    },
  },

  "add → norm → relu → conv": preActivation(false, false),
  "add → norm → relu → conv, an op of its own": preActivation(true, false),
  "add → norm → relu → conv, and a shortcut": preActivation(false, true),

  "a conv that is read before its norm": afterConv((o, t) => {
    const a = o.conv(t.x!, t.w1!);
    const square = o.mul(a, a);
    return o.add(o.norm(a, { activation: "relu" }), square);
  }),
  "a conv that is read after its norm": afterConv((o, t) => {
    const a = o.conv(t.x!, t.w1!);
    const y = o.norm(a, { activation: "relu" });
    return o.add(y, o.mul(a, a));
  }),
  "a conv that another conv reads too": afterConv((o, t) => {
    const a = o.conv(t.x!, t.w1!);
    return o.add(o.norm(a), o.conv(a, t.w2!));
  }, weights("w2")),
  "a conv with two norms": afterConv((o, t) => {
    const a = o.conv(t.x!, t.w1!);
    return o.add(o.norm(a), o.norm(a, { name: "2", activation: "relu" }));
  }, norms("2")),

  "relu(add(norm, x))": afterConv((o, t) => o.relu(o.add(o.norm(o.conv(t.x!, t.w1!)), t.x!))),
  "relu(add(x, norm))": afterConv((o, t) => o.relu(o.add(t.x!, o.norm(o.conv(t.x!, t.w1!))))),
  "norm with residual x": afterConv((o, t) =>
    o.norm(o.conv(t.x!, t.w1!), { residual: t.x!, activation: "relu" }),
  ),
  "relu(add(norm, norm))": branchesAddRelu(false),
  "norm with a norm as its residual": branchesAddRelu(true),
  "a sum that is read elsewhere": afterConv((o, t) => {
    const s = o.add(o.norm(o.conv(t.x!, t.w1!)), t.x!);
    return o.add(o.relu(s), o.mul(s, s));
  }),
  "a residual block, then a conv": afterConv((o, t) => {
    const y = o.norm(o.conv(t.x!, t.w1!), { residual: t.x!, activation: "relu" });
    return o.add(o.conv(y, t.w2!), y);
  }, weights("w2")),

  "conv → frozen norm → relu → conv": afterConv(
    (o, t) => o.conv(o.norm(o.conv(t.x!, t.w1!), { activation: "relu", frozen: "" }), t.w2!),
    { ...weights("w2"), ...statistics("") },
  ),
  "frozen norm → relu → conv": {
    leaves: { ...maps("x"), ...weights("w1"), ...norms(""), ...statistics("") },
    run: (o, t) => o.conv(o.norm(t.x!, { activation: "relu", frozen: "" }), t.w1!),
  },
  "a frozen norm after one that trains": afterConv(
    (o, t) => {
      const y = o.norm(o.conv(t.x!, t.w1!), { activation: "relu", running: "" });
      return o.norm(o.conv(y, t.w2!), { name: "2", frozen: "2", activation: "relu" });
    },
    { ...weights("w2"), ...norms("2"), ...statistics("", "2") },
  ),

  "conv → norm → relu → maxPool": afterConv((o, t) =>
    o.maxPool(o.norm(o.conv(t.x!, t.w1!), { activation: "relu" })),
  ),
  "conv → norm → relu → avgPool": afterConv((o, t) =>
    o.avgPool(o.norm(o.conv(t.x!, t.w1!), { activation: "relu" })),
  ),
  "conv → norm → relu → globalAvgPool": afterConv((o, t) =>
    o.globalAvgPool(o.norm(o.conv(t.x!, t.w1!), { activation: "relu" })),
  ),
  "conv → norm → relu → flatten → linear": afterConv(
    (o, t) => o.linear(o.flatten(o.norm(o.conv(t.x!, t.w1!), { activation: "relu" })), t.w2!),
    { w2: [4, 5 * 6 * 8] },
  ),
  "linear → norm → relu → linear": {
    leaves: { x: [12, 8], w1: [8, 8], w2: [4, 8], ...norms("") },
    run: (o, t) => o.linear(o.norm(o.linear(t.x!, t.w1!), { activation: "relu" }), t.w2!),
  },

  "conv → other maps → norm → relu → conv": afterConv((o, t) => {
    const y = o.norm(o.reshape(o.conv(t.x!, t.w1!), [60, 8]), { activation: "relu" });
    return o.conv(o.reshape(y, MAP), t.w2!);
  }, weights("w2")),
  "conv → other channels → norm": afterConv(
    (o, t) => o.norm(o.reshape(o.conv(t.x!, t.w1!), [2, 5, 3, 16]), { name: "16", activation: "relu" }),
    { gamma16: [16], beta16: [16] },
  ),
  "conv → norm → other channels → relu → conv": afterConv((o, t) => {
    const y = o.relu(o.reshape(o.norm(o.conv(t.x!, t.w1!)), [2, 5, 12, 4]));
    return o.conv(o.reshape(y, MAP), t.w2!);
  }, weights("w2")),
  "conv → norm → relu → other maps → conv": afterConv((o, t) => {
    const y = o.norm(o.conv(t.x!, t.w1!), { activation: "relu" });
    return o.conv(o.reshape(y, [2, 6, 5, 8]), t.w2!);
  }, weights("w2")),
  "conv → norm → relu → other channels → conv": afterConv(
    (o, t) => {
      const y = o.norm(o.conv(t.x!, t.w1!), { activation: "relu" });
      return o.conv(o.reshape(y, [2, 5, 3, 16]), t.w16!);
    },
    { w16: [8, 1, 1, 16] },
  ),
  "conv → norm → flatten → norm": afterConv(
    (o, t) => {
      const y = o.norm(o.conv(t.x!, t.w1!), { activation: "relu" });
      return o.norm(o.reshape(y, [30, 16]), { name: "16" });
    },
    { gamma16: [16], beta16: [16] },
  ),
  "conv → slice → norm → relu": afterConv((o, t) =>
    o.norm(o.slice(o.conv(t.x!, t.w1!), [0, 1, 0, 0], [2, 5, 6, 8]), { activation: "relu" }),
  ),
  "conv → slice of channels → norm": {
    leaves: { ...maps("x"), ...weights("w1"), gamma4: [4], beta4: [4] },
    run: (o, t) => o.norm(o.slice(o.conv(t.x!, t.w1!), [0, 0, 0, 4], [2, 5, 6, 8]), { name: "4" }),
  },
  "conv → norm → slice → relu → conv": afterConv((o, t) => {
    const y = o.norm(o.conv(t.x!, t.w1!));
    return o.conv(o.relu(o.slice(y, [0, 1, 0, 0], [1, 5, 6, 8])), t.w2!);
  }, weights("w2")),
  "conv → norm → relu → slice → conv": afterConv((o, t) => {
    const y = o.norm(o.conv(t.x!, t.w1!), { activation: "relu" });
    return o.conv(o.slice(y, [0, 1, 0, 0], [1, 5, 6, 8]), t.w2!);
  }, weights("w2")),
};

/** With a cast on the way; float16 rounds, so they have a tolerance of their own. */
export const castPrograms: Record<string, Program> = {
  "conv → float16 → norm → relu → float32": afterConv((o, t) =>
    o.float(o.norm(o.half(o.conv(t.x!, t.w1!)), { activation: "relu" })),
  ),
  "conv → float16 → float32 → norm → relu → conv": afterConv((o, t) => {
    const a = o.float(o.half(o.conv(t.x!, t.w1!)));
    return o.conv(o.norm(a, { activation: "relu" }), t.w2!);
  }, weights("w2")),
  "conv → norm → float16 → float32 → relu → conv": afterConv((o, t) => {
    const y = o.norm(o.conv(t.x!, t.w1!));
    return o.conv(o.relu(o.float(o.half(y))), t.w2!);
  }, weights("w2")),
  "conv → norm → relu → float16 → float32 → conv": afterConv((o, t) => {
    const y = o.norm(o.conv(t.x!, t.w1!), { activation: "relu" });
    return o.conv(o.float(o.half(y)), t.w2!);
  }, weights("w2")),
};

function branchesAddRelu(residual: boolean): Program {
  return {
    leaves: { ...maps("x"), ...weights("wA", "wB"), ...norms("A", "B") },
    run: (o, t) => {
      const shortcut = o.norm(o.conv(t.x!, t.wB!), { name: "B" });
      const a = o.conv(t.x!, t.wA!);
      if (residual) return o.norm(a, { name: "A", residual: shortcut, activation: "relu" });
      return o.relu(o.add(o.norm(a, { name: "A" }), shortcut));
    },
  };
}
