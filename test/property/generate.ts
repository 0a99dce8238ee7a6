// Draws programs. What fast-check draws and shrinks is a list of wishes; `build` makes of it a program whose shapes fit, and
// drops what can't be: any sublist of the wishes is a program again.

import fc from "fast-check";
import { type Shape, sameShape, sizeOf } from "../../src/tensor/shape.ts";
import { ACTIVATIONS } from "../helpers/activations.ts";
import { windowCount } from "../reference/pool2d.ts";
import { RUNS } from "./check.ts";
import {
  CHAIN,
  type DropoutStep,
  type Leaf,
  type MakingStep,
  type Program,
  type Ref,
  type Running,
  refsOf,
  type Step,
  type UnaryStep,
} from "./program.ts";

/**
 * A convolution is one of few, at one of few shapes: each takes kernels of its own, and compiling takes longer than anything
 * else here.
 */
interface ConvKind {
  x: readonly [number, number, number, number];
  K: number;
  size: 1 | 3;
  stride?: number;
  padding?: number;
  groups?: number;
}

/** The likeliest first. */
const SHORT: readonly ConvKind[] = [
  { x: [2, 4, 4, 8], K: 8, size: 1 },
  { x: [2, 4, 4, 8], K: 8, size: 3, padding: 1 },
  { x: [2, 4, 8, 4], K: 4, size: 1 },
  { x: [2, 4, 4, 4], K: 8, size: 1 },
  { x: [2, 4, 4, 8], K: 8, size: 3, stride: 2, padding: 1 },
  { x: [2, 4, 4, 8], K: 3, size: 1 },
];

/** Those of a long run. */
const LONG: readonly ConvKind[] = [
  ...SHORT,
  { x: [2, 2, 2, 8], K: 8, size: 1 },
  { x: [2, 4, 4, 3], K: 8, size: 3, padding: 1 },
  { x: [2, 4, 4, 8], K: 4, size: 1 },
  { x: [2, 4, 4, 8], K: 12, size: 1, stride: 2 },
  { x: [2, 4, 4, 8], K: 8, size: 3, padding: 1, groups: 2 },
  { x: [2, 4, 4, 8], K: 8, size: 3, padding: 1, groups: 8 },
  { x: [2, 4, 8, 4], K: 4, size: 3, padding: 1 },
  { x: [2, 4, 2, 16], K: 8, size: 1 },
  { x: [1, 5, 7, 8], K: 4, size: 3 },
  { x: [3, 3, 5, 4], K: 16, size: 3, padding: 1 },
  { x: [4, 2, 6, 12], K: 4, size: 1 },
];

export const CONVS = RUNS > 1000 ? LONG : SHORT;

/** The sizes of the likeliest as the chooser has them: N, H, W, C, K, R. */
export const LIKELIEST = SHORT.slice(0, RUNS > 500 ? 2 : 1).map(
  ({ x, K, size }) => `${x.join("x")}x${K}x${size}x`,
);

/** Transposed convolutions: each has kernels of its own, as those above. */
const TRANSPOSES: readonly (Omit<ConvKind, "K"> & { C: number; stride: number; padding: number })[] = [
  { x: [2, 4, 4, 8], C: 8, size: 3, stride: 1, padding: 1 },
  { x: [2, 4, 4, 4], C: 4, size: 3, stride: 2, padding: 1 },
  ...(RUNS > 1000 ? [{ x: [2, 2, 2, 8], C: 8, size: 3, stride: 2, padding: 0 } as const] : []),
];

type Which = number; // counted back from the latest

interface Norm {
  gamma: boolean;
  beta: boolean;
  activation: (typeof ACTIVATIONS)[number];
  residual: boolean;
  /** Inference takes running statistics; so does what is frozen, in training. What skips tracks batches that are finite. */
  mode: "training" | "tracking" | "skipping" | "inference" | "frozen";
  momentum: number | null;
  eps: number;
}

type UnaryWish =
  | { wish: "conv"; kind: number; bias: boolean; frozen: boolean; shared: boolean; length: boolean }
  | ({ wish: "norm"; frozen: boolean } & Norm)
  | { wish: "relu" }
  | { wish: "activate"; activation: (typeof ACTIVATIONS)[number] }
  | { wish: "dropout"; p: number; together: DropoutStep["together"] }
  | { wish: "transpose"; kind: number; bias: boolean; frozen: boolean }
  | { wish: "resize"; to: number; how: "nearest" | "bilinear" | "average" }
  | { wish: "pool"; max: boolean; overlap: boolean; ceil: boolean; countPad: boolean }
  | { wish: "flatten" }
  | { wish: "reshape"; to: number }
  | { wish: "linear"; bias: boolean; frozen: boolean; length: boolean }
  | ({ wish: "unitNorm"; frozen: boolean; kind: "group" | "layer" | "instance"; more: number } & Pick<
      Norm,
      "gamma" | "beta" | "mode" | "eps"
    >)
  | { wish: "clamp"; min: number | null; max: number | null }
  /** Of a tensor's power the number is not used. */
  | { wish: "pow"; exponent: number; byTensor: boolean; frozen: boolean };

export type Wish =
  | ({ x: Which; noGrad: boolean } & (
      | UnaryWish
      | { wish: "binary"; op: "add" | "sub" | "mul" | "maximum" | "minimum"; b: Which; channel: boolean }
      | { wish: "where"; is: "lt" | "le" | "gt" | "ge"; than: number; a: Which; b: Which }
      | { wish: "scale"; factor: number }
      | { wish: "permute"; to: number }
      | { wish: "slice"; axis: number; from: number; cut: number }
      | { wish: "pad"; axis: number; before: number; after: number }
      | { wish: "concat"; b: Which; axis: number }
      | { wish: "subsample"; stride: number; more: number }
      | { wish: "mean"; over: number }
      | { wish: "extreme"; axis: number; more: number; keepDims: boolean; largest: boolean }
      | {
          wish: "crossEntropy";
          labelSmoothing: number;
          weighted: boolean;
          ignores: boolean;
          reduction: "mean" | "none";
        }
      | { wish: "detach" | "softmax" | "globalAvgPool" | "half" | "double" }
      | { wish: "chain"; how: (MakingStep & { op: "chain" })["how"]; body: UnaryWish[] }
    ))
  /** A convolution, its batch-norm and what reads it, with reshapes in between or not. */
  | {
      wish: "block";
      x: Which;
      /** None: the batch-norm comes first. */
      kind: number | null;
      norm: Norm;
      before: number | null;
      after: number | null;
      next: "activate" | "conv" | "both";
      activation: (typeof ACTIVATIONS)[number];
    }
  /** Convolutions of one map or of several, their batch-norms after all of them, in any order; then their sum. */
  | { wish: "branches"; x: Which; kinds: number[]; order: number; apart: boolean; norm: Norm; relu: boolean }
  /** A sum, its batch-norm, a convolution; and the sum once more, or not. */
  | { wish: "preActivation"; x: Which; b: Which; kind: number; norm: Norm; relu: boolean; shortcut: boolean }
  /** A batch-norm without a residual, then the sum with one, an activation; and the sum once more, or not. */
  | {
      wish: "joined";
      x: Which;
      b: Which;
      kind: number;
      norm: Norm;
      swapped: boolean;
      again: boolean;
      activation: (typeof ACTIVATIONS)[number];
    }
  | { wish: "read" | "dispose"; x: Which; later: number }
  | { wish: "fill"; x: Which; value: number; by: "fill" | "kernel" | "range" }
  | { wish: "write"; x: Which };

type Composed = "branches" | "preActivation" | "joined";

const which = fc.oneof({ weight: 7, arbitrary: fc.constant(0) }, { weight: 3, arbitrary: fc.nat(5) });
const seldom = fc.nat(3).map((n) => n === 3);
const often = fc.nat(3).map((n) => n < 3);
const kind = fc.oneof(
  { weight: 6, arbitrary: fc.nat(2) },
  { weight: 3, arbitrary: fc.nat(CONVS.length - 1) },
);

const norm: fc.Arbitrary<Norm> = fc
  .record({
    gamma: often,
    beta: often,
    activation: fc.constantFrom(...ACTIVATIONS),
    residual: seldom,
    mode: fc.constantFrom(
      "training" as const,
      "tracking" as const,
      "skipping" as const,
      "training" as const,
      "training" as const,
      "inference" as const,
      "inference" as const,
      "frozen" as const,
    ),
    momentum: fc.constantFrom(0.1, 0.5, null),
    eps: fc.constantFrom(1e-5, 1e-2),
  })
  // Each of the two by itself makes other kernels: in a long run alone.
  .map((options) => (RUNS > 1000 ? options : { ...options, beta: options.gamma }));

const conv = fc.record({
  wish: fc.constant("conv" as const),
  kind,
  bias: fc.boolean(),
  frozen: seldom,
  shared: seldom,
  length: fc.nat(5).map((n) => n === 5),
});
const normWish = fc
  .tuple(norm, seldom)
  .map(([options, frozen]) => ({ wish: "norm" as const, frozen, ...options }));
const activated = fc.record({
  wish: fc.constant("activate" as const),
  activation: fc.constantFrom(...ACTIVATIONS),
});
const unary: fc.Arbitrary<UnaryWish> = fc.oneof(
  { weight: 6, arbitrary: conv },
  { weight: 8, arbitrary: normWish },
  { weight: 3, arbitrary: fc.constant({ wish: "relu" as const }) },
  { weight: 2, arbitrary: activated },
  {
    weight: 2,
    arbitrary: fc.record({
      wish: fc.constant("dropout" as const),
      p: fc.constantFrom(0.25, 0.5),
      together: fc.constantFrom("element" as const, "element" as const, "channel" as const, "image" as const),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      wish: fc.constant("transpose" as const),
      ...{ kind: fc.nat(TRANSPOSES.length - 1), bias: seldom, frozen: seldom },
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      wish: fc.constant("resize" as const),
      to: fc.nat(3),
      how: fc.constantFrom("nearest" as const, "bilinear" as const, "average" as const),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      wish: fc.constant("pool" as const),
      ...{ max: fc.boolean(), overlap: fc.boolean(), ceil: seldom, countPad: often },
    }),
  },
  { weight: 1, arbitrary: fc.constant({ wish: "flatten" as const }) },
  { weight: 2, arbitrary: fc.record({ wish: fc.constant("reshape" as const), to: fc.nat(9) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      wish: fc.constant("linear" as const),
      ...{ bias: fc.boolean(), frozen: seldom, length: seldom },
    }),
  },
  {
    weight: 2,
    arbitrary: fc
      .tuple(
        norm,
        fc.constantFrom("group" as const, "layer" as const, "instance" as const),
        fc.nat(3),
        seldom,
      )
      .map(([{ gamma, beta, mode, eps }, kind, more, frozen]) => ({
        ...{ wish: "unitNorm" as const, gamma, beta, mode, eps, kind, more, frozen },
      })),
  },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom([-0.5, 1.5], [-1, null], [null, 0.75])
      .map(([min, max]) => ({ wish: "clamp" as const, min: min!, max: max! })),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      wish: fc.constant("pow" as const),
      ...{ exponent: fc.constantFrom(2, 3, 0.5, -1, 1.75), byTensor: seldom, frozen: seldom },
    }),
  },
);

const record = <T extends string, R extends object>(wish: T, rest: { [K in keyof R]: fc.Arbitrary<R[K]> }) =>
  fc.record({ wish: fc.constant(wish), ...rest }) as unknown as fc.Arbitrary<{ wish: T } & R>;
const axis = fc.nat(3);

const making = fc.oneof(
  { weight: 18, arbitrary: unary },
  { weight: 4, arbitrary: record("reshape", { to: fc.nat(9) }) },
  {
    weight: 4,
    arbitrary: record("binary", {
      op: fc.constantFrom("add", "sub", "mul", "maximum", "minimum"),
      b: fc.nat(4),
      channel: seldom,
    }),
  },
  {
    weight: 1,
    arbitrary: record("where", {
      is: fc.constantFrom("lt", "le", "gt", "ge"),
      ...{ than: fc.constantFrom(0, 0.5, -1), a: fc.nat(3), b: fc.nat(3) },
    }),
  },
  { weight: 1, arbitrary: record("scale", { factor: fc.constantFrom(1, -0.5, 3) }) },
  { weight: 1, arbitrary: record("permute", { to: fc.nat(5) }) },
  { weight: 1, arbitrary: record("slice", { axis, from: fc.nat(1), cut: fc.nat(2) }) },
  { weight: 1, arbitrary: record("pad", { axis, before: fc.nat(2), after: fc.nat(2) }) },
  { weight: 1, arbitrary: record("concat", { b: fc.nat(3), axis }) },
  { weight: 1, arbitrary: record("subsample", { stride: fc.integer({ min: 1, max: 2 }), more: fc.nat(2) }) },
  { weight: 1, arbitrary: record("mean", { over: fc.nat(2) }) },
  {
    weight: 1,
    arbitrary: record("extreme", { axis, more: fc.nat(3), keepDims: fc.boolean(), largest: fc.boolean() }),
  },
  {
    weight: 2,
    arbitrary: record("crossEntropy", {
      labelSmoothing: fc.constantFrom(0, 0.1),
      ...{ weighted: fc.boolean(), ignores: seldom },
      reduction: fc.constantFrom("mean" as const, "none" as const),
    }),
  },
  {
    weight: 3,
    arbitrary: fc
      .constantFrom("detach", "softmax", "globalAvgPool")
      .map((wish) => ({ wish: wish as "detach" })),
  },
  {
    weight: 3,
    arbitrary: fc.constantFrom("half", "half", "double").map((wish) => ({ wish: wish as "half" })),
  },
  {
    weight: 3,
    arbitrary: record("chain", {
      how: fc.constantFrom("scope", "nested", "layers", "sequential", "checkpoint"),
      body: fc.array(unary, { minLength: 1, maxLength: 4, size: "max" }),
    }),
  },
);

const view = fc.oneof({ weight: 2, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: fc.nat(9) });
const block = record("block", {
  ...{ x: which, norm, before: view, after: view, next: fc.constantFrom("activate", "conv", "conv", "both") },
  activation: fc.constantFrom("relu" as const, "relu" as const, "relu" as const, ...ACTIVATIONS),
  kind: fc.oneof({ weight: 3, arbitrary: kind }, { weight: 1, arbitrary: fc.constant(null) }),
}) as fc.Arbitrary<Wish>;

const wish = fc.oneof(
  {
    weight: 20,
    arbitrary: fc
      .tuple(making, which, fc.nat(9))
      .map(([made, x, n]) => ({ ...made, x, noGrad: n === 9 }) as Wish),
  },
  { weight: 5, arbitrary: block },
  {
    weight: 1,
    arbitrary: record("branches", {
      ...{ x: which, norm, order: fc.nat(5), apart: fc.boolean(), relu: fc.boolean() },
      kinds: fc.array(fc.nat(2), { minLength: 2, maxLength: 3 }),
    }),
  },
  {
    weight: 2,
    arbitrary: record("preActivation", {
      ...{ x: which, b: fc.nat(3), kind: fc.nat(2), norm, relu: fc.boolean(), shortcut: fc.boolean() },
    }),
  },
  {
    weight: 1,
    arbitrary: record("joined", {
      ...{ x: which, b: fc.nat(3), kind: fc.nat(2), norm, swapped: fc.boolean(), again: seldom },
      activation: fc.constantFrom("relu" as const, ...ACTIVATIONS),
    }),
  },
  { weight: 1, arbitrary: record("read", { x: which, later: fc.constant(0) }) },
  { weight: 2, arbitrary: record("dispose", { x: which, later: fc.nat(5) }) },
  {
    weight: 1,
    arbitrary: record("fill", {
      ...{ x: which, value: fc.constantFrom(0, 7, -1.5), by: fc.constantFrom("fill", "kernel", "range") },
    }),
  },
  { weight: 1, arbitrary: record("write", { x: which }) },
) as fc.Arbitrary<Wish>;

interface Frame {
  inputs: { shape: number; requiresGrad: boolean; scale: number; offset: number }[];
  iterations: number;
  batches: number;
  capture: boolean;
  scope: Program["scope"];
  early: boolean;
  upstream: boolean;
  sgd: Program["sgd"];
  clip: Program["clip"];
  poison: { late: boolean; input: number; at: number; value: number } | null;
  seed: number;
}

const INPUTS: readonly Shape[] = [
  [2, 4, 4, 8],
  [2, 4, 4, 8],
  [2, 4, 4, 4],
  [2, 4, 8, 4],
  [2, 4, 4, 3],
  [8, 16],
  ...(RUNS > 1000
    ? [
        [1, 5, 7, 8],
        [3, 3, 5, 4],
        [4, 2, 6, 12],
      ]
    : []),
];

const frame: fc.Arbitrary<Frame> = fc.record({
  inputs: fc.array(
    fc.record({
      shape: fc.nat(INPUTS.length - 1),
      requiresGrad: often,
      scale: fc.constantFrom(1, 1, 0.01, 30),
      offset: fc.constantFrom(0, 0, 3),
    }),
    { minLength: 1, maxLength: 2 },
  ),
  iterations: fc.integer({ min: 1, max: 2 }),
  batches: fc.nat(3).map((n) => (n === 3 ? 2 : 1)),
  capture: seldom,
  scope: fc.constantFrom("none", "none", "forward", "all"),
  early: fc.boolean(),
  upstream: fc.boolean(),
  sgd: fc.option(
    fc
      .record({
        lr: fc.constantFrom(0.1, 0.01),
        momentum: fc.constantFrom(0, 0.9),
        dampening: fc.constantFrom(0, 0, 0.5),
        weightDecay: fc.constantFrom(0, 0.01),
        nesterov: fc.boolean(),
      })
      .map((sgd) => ({ ...sgd, nesterov: sgd.nesterov && sgd.momentum > 0 && sgd.dampening === 0 })),
  ),
  clip: fc.oneof(
    { weight: 3, arbitrary: fc.constant(null) },
    {
      weight: 2,
      arbitrary: fc.record({
        norm: fc.constantFrom(0.1, 5, 1000),
        type: fc.constantFrom(2, 2, 1, 3, Number.POSITIVE_INFINITY),
      }),
    },
    { weight: 1, arbitrary: fc.record({ value: fc.constantFrom(0.02, 1) }) },
  ),
  poison: fc.oneof(
    { weight: 4, arbitrary: fc.constant(null) },
    {
      weight: 1,
      arbitrary: fc.record({
        ...{ late: fc.boolean(), input: fc.nat(1), at: fc.nat(511) },
        value: fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY),
      }),
    },
  ),
  seed: fc.nat(2 ** 20),
});

/** Programs of up to `longest` wishes. */
export function programs(longest = 10): fc.Arbitrary<Program> {
  return fc
    .noBias(
      fc.tuple(
        frame,
        // Most begin with what folding is about.
        fc.oneof({ weight: 1, arbitrary: wish }, { weight: 2, arbitrary: block }),
        fc.array(wish, { minLength: 1, maxLength: longest - 1, size: "max" }),
      ),
    )
    .map(([around, first, wishes]) => new Builder(around).build([first, ...wishes]));
}

interface Made {
  ref: Ref;
  shape: Shape;
  requiresGrad: boolean;
  /** Where its elements are: views share them. */
  storage: number;
  /** Depends on a cast to float16: what rounding may change by 2^-11 decides on no kink. */
  rounded: boolean;
}

class Builder {
  private readonly leaves: Leaf[] = [];
  private readonly running: Running[] = [];
  private readonly steps: Step[] = [];
  private readonly made: Made[] = [];
  private readonly saved = new Set<number>();
  private readonly dead = new Set<Ref>();
  private readonly used = new Set<Ref>();
  private readonly dispositions: { x: Ref; later: number }[] = [];

  /** What is not finite may come to any norm: each that tracks must skip it. */
  private readonly isPoisoned: boolean;

  constructor(private readonly frame: Frame) {
    // A plan that was captured takes every step.
    this.isPoisoned = frame.poison !== null && !(frame.capture && frame.sgd);
  }

  build(wishes: readonly Wish[]): Program {
    const { frame } = this;
    for (const { shape, ...rest } of frame.inputs) {
      const leaf = { kind: "input" as const, shape: INPUTS[shape]!, ...rest };
      const ref = this.leafRef(leaf);
      this.made.push({
        ref,
        shape: leaf.shape,
        requiresGrad: leaf.requiresGrad,
        storage: ref,
        rounded: false,
      });
    }
    for (const each of wishes) this.grant(each);
    const outputs = this.made.filter(({ ref }) => ref > 1e6 && !this.used.has(ref));
    this.placeDispositions();
    return this.numbered(outputs);
  }

  // --- leaves ------------------------------------------------------------------------------------------

  private leafRef(leaf: Leaf): Ref {
    return this.leaves.push(leaf) - 1;
  }

  private parameter(shape: Shape, frozen: boolean, scale: number, offset = 0): Ref {
    return this.leafRef({ kind: "parameter", shape, requiresGrad: !frozen, scale, offset });
  }

  private shared(shape: Shape): Ref | null {
    const at = this.leaves.findIndex((leaf) => leaf.kind === "parameter" && sameShape(leaf.shape, shape));
    return at < 0 ? null : at;
  }

  // --- steps -------------------------------------------------------------------------------------------

  private pick(back: Which, fits: (made: Made) => boolean = () => true): Made | null {
    const candidates = this.made.filter((made) => !this.dead.has(made.ref) && fits(made));
    return candidates.length === 0 ? null : candidates[candidates.length - 1 - (back % candidates.length)]!;
  }

  private add(step: MakingStep, shape: Shape, noGrad: boolean): Made {
    const refs = refsOf(step);
    const grad = (ref: Ref) => this.wantsGrad(ref);
    const inner =
      step.op === "chain" && step.body.some((each) => refsOf(each).some((ref) => ref !== CHAIN && grad(ref)));
    const cut = noGrad || step.op === "detach" || step.op === "double";
    // Nothing flows through what only decides.
    const flows = step.op === "where" ? [step.a, step.b] : refs;
    const requiresGrad = !cut && (flows.some(grad) || inner);
    const rounded =
      step.op === "half" || this.made.some((other) => other.rounded && refs.includes(other.ref));
    const ref = 1e6 + 1 + this.steps.length;
    const storage = isView(step) ? this.storageOf(refs[0]!) : ref;
    const made = { ref, shape, requiresGrad, storage, rounded };
    this.steps.push({ ...step, out: ref, ...(noGrad && { noGrad }) });
    this.made.push(made);
    for (const used of refs) this.used.add(used);
    if (requiresGrad) {
      // What backward may look at again: writing to it would be an error.
      const linear = [
        "add",
        "sub",
        "scale",
        "reshape",
        "flatten",
        "slice",
        "pad",
        "concat",
        "permute",
        "mean",
        "half",
        "dropout",
        "interpolate",
        "adaptiveAvgPool2d",
      ];
      if (!linear.includes(step.op))
        for (const saved of [...refs, ref]) this.saved.add(this.storageOf(saved));
    }
    return made;
  }

  private wantsGrad(ref: Ref): boolean {
    return ref < 1e6
      ? this.leaves[ref]!.requiresGrad
      : this.made.find((made) => made.ref === ref)!.requiresGrad;
  }

  private storageOf(ref: Ref): number {
    return this.made.find((made) => made.ref === ref)?.storage ?? ref;
  }

  private grant(each: Wish): void {
    switch (each.wish) {
      case "read": {
        const x = this.frame.capture || this.frame.scope !== "none" ? null : this.pick(each.x);
        if (x) this.steps.push({ op: "read", x: x.ref, out: 1e6 + 1 + this.steps.length });
        return;
      }
      case "dispose": {
        // Inputs too, unless they are written or their gradient is read later.
        const { iterations, batches, capture } = this.frame;
        const once = iterations * batches === 1 && !capture && !this.isPoisoned;
        const x = this.pick(each.x, ({ ref, requiresGrad }) => ref > 1e6 || (once && !requiresGrad));
        if (x) this.dispositions.push({ x: x.ref, later: each.later });
        return;
      }
      case "fill":
      case "write":
        this.overwrite(each);
        return;
      case "branches":
        this.branches(each);
        return;
      case "preActivation":
        this.preActivation(each);
        return;
      case "joined":
        this.joined(each);
        return;
      case "block": {
        const plain = { x: 0, noGrad: false, frozen: false, length: false };
        const conv = { ...plain, wish: "conv" as const, bias: false, shared: false };
        if (each.kind !== null) this.grant({ ...conv, x: each.x, kind: each.kind });
        if (each.before !== null) this.grant({ ...plain, wish: "reshape", to: each.before });
        this.grant({ ...plain, wish: "norm", ...each.norm, x: each.kind === null ? each.x : 0 });
        if (each.after !== null) this.grant({ ...plain, wish: "reshape", to: each.after });
        const { activation } = each;
        if (each.next !== "conv") {
          this.grant({
            ...plain,
            ...(activation === "relu" ? { wish: "relu" } : { wish: "activate", activation }),
          });
        }
        if (each.next !== "activate") this.grant({ ...conv, kind: (each.kind ?? 0) + 1 });
        return;
      }
      default: {
        const made = this.makeOne(each);
        if (made) this.add(made.step, made.shape, each.noGrad);
      }
    }
  }

  /** Of what is neither saved nor seen through a view: an input at any time, anything else after its last use. */
  private overwrite(each: Wish & { wish: "fill" | "write" }): void {
    const alone = (made: Made) =>
      !this.saved.has(made.storage) &&
      this.made.filter(({ storage }) => storage === made.storage).length === 1;
    const x = this.pick(
      each.x,
      (made) => alone(made) && (made.ref < 1e6 || (this.used.has(made.ref) && each.wish === "fill")),
    );
    if (!x || (each.wish === "write" && this.frame.capture)) return;
    const out = 1e6 + 1 + this.steps.length;
    this.steps.push(
      each.wish === "fill"
        ? { op: "fill", x: x.ref, value: each.value, by: each.by, out }
        : { op: "write", x: x.ref, out },
    );
    if (x.ref > 1e6) this.dead.add(x.ref);
  }

  private branches({ x: back, kinds, order, apart, norm, relu }: Wish & { wish: "branches" }): void {
    const isMap = ({ shape }: Made) => shape.length === 4;
    const first = this.pick(back, isMap);
    const convs = kinds.map((kind, i) => {
      // Inputs of branches are leaves, or what is there already; not the branches before.
      const x = apart ? this.pick(back + 2 * i, isMap) : first;
      return x && this.convOf(x, kind);
    });
    if (convs.some((conv) => conv === null)) return;
    const waiting = convs.map((conv, i) => ({ conv: conv!, i }));
    const normed: Made[] = [];
    for (let left = order; waiting.length > 0; left = Math.floor(left / 2)) {
      const [{ conv, i }] = waiting.splice(left % waiting.length, 1) as [{ conv: Made; i: number }];
      normed[i] = this.normOf(conv, norm) ?? conv;
    }
    let sum = normed[0]!;
    for (const next of normed.slice(1)) sum = this.sumOf(sum, next) ?? sum;
    if (relu) this.reluOf(sum);
  }

  private preActivation({ x, b, kind, norm, relu, shortcut }: Wish & { wish: "preActivation" }): void {
    const first = this.pick(x, ({ shape }) => shape.length === 4);
    const second = first && this.pick(b, ({ shape }) => sameShape(shape, first.shape));
    const sum = first && this.sumOf(first, second!);
    const normed = sum && this.normOf(sum, norm);
    if (!normed) return;
    const out = this.convOf((relu && this.reluOf(normed)) || normed, kind);
    if (out && shortcut) this.sumOf(out, sum);
  }

  private joined({ x, b, kind, norm, swapped, again, activation }: Wish & { wish: "joined" }): void {
    const input = this.pick(x, ({ shape }) => shape.length === 4);
    const conv = input && this.convOf(input, kind);
    if (!conv) return;
    const other = this.pick(b + 1, (made) => made !== conv && sameShape(made.shape, conv.shape));
    const normed = this.normOf(conv, { ...norm, activation: "none" });
    if (!other || !normed) return;
    const sum = swapped ? this.sumOf(other, normed) : this.sumOf(normed, other);
    const out = sum && this.activated(sum, activation);
    if (out && again) this.sumOf(out, sum);
  }

  private convOf(x: Made, kind: number): Made | null {
    const made = this.conv(x, {
      wish: "conv",
      kind,
      bias: false,
      frozen: false,
      shared: false,
      length: false,
    });
    return made && this.add(made.step, made.shape, false);
  }

  private normOf(x: Made, norm: Norm): Made | null {
    const made = this.norm(x, { ...norm, residual: false, wish: "norm", frozen: false });
    return made && this.add(made.step, made.shape, false);
  }

  private reluOf(x: Made): Made | null {
    return x.rounded ? null : this.add({ op: "relu", x: x.ref }, x.shape, false);
  }

  private activated(x: Made, activation: (typeof ACTIVATIONS)[number]): Made | null {
    if (activation === "relu") return this.reluOf(x);
    return x.rounded || activation === "none"
      ? null
      : this.add({ op: "activate", x: x.ref, activation }, x.shape, false);
  }

  private sumOf(a: Made, b: Made): Made | null {
    return sameShape(a.shape, b.shape) ? this.add({ op: "add", a: a.ref, b: b.ref }, a.shape, false) : null;
  }

  private makeOne(
    each: Exclude<Wish, { wish: "block" | Composed | "read" | "dispose" | "fill" | "write" }>,
  ): Making | null {
    const map = ({ shape }: Made) => shape.length === 4;
    switch (each.wish) {
      case "conv":
      case "norm":
      case "relu":
      case "activate":
      case "dropout":
      case "transpose":
      case "resize":
      case "pool":
      case "flatten":
      case "reshape":
      case "linear":
      case "unitNorm":
      case "clamp":
      case "pow": {
        const fits: Partial<Record<Wish["wish"], (made: Made) => boolean>> = {
          conv: map,
          norm: ({ shape }) => shape.length >= 2 && sizeOf(shape) > shape.at(-1)!,
          pool: map,
          transpose: map,
          resize: map,
          dropout: ({ shape }) => shape.length > 1,
          flatten: ({ shape }) => shape.length > 1,
          reshape: ({ shape }) => sizeOf(shape) > 1,
          linear: ({ shape }) => shape.length === 2,
          unitNorm: ({ shape }) =>
            shape.length > 1 && (each.wish !== "unitNorm" || fitsUnitNorm(shape, each)),
          clamp: ({ rounded }) => !rounded,
          pow: ({ shape, rounded }) => shape.length > 0 && !rounded,
        };
        const x = this.pick(each.x, fits[each.wish]);
        return x && this.unary(each, x);
      }
      case "binary": {
        const a = this.pick(each.x);
        if (!a) return null;
        const picks = each.op === "maximum" || each.op === "minimum";
        if (each.channel && !picks) {
          const b = this.parameter([a.shape.at(-1) ?? 1], false, 0.3, 1);
          return { step: { op: each.op, a: a.ref, b }, shape: a.shape.length === 0 ? [1] : a.shape };
        }
        const b = this.pick(each.b, ({ shape }) => sameShape(shape, a.shape))!;
        if (picks && (a.rounded || b.rounded)) return null;
        return { step: { op: each.op, a: a.ref, b: b.ref }, shape: a.shape };
      }
      case "where": {
        const x = this.pick(each.x, ({ rounded }) => !rounded);
        if (!x) return null;
        const like = ({ shape }: Made) => sameShape(shape, x.shape);
        const [a, b] = [this.pick(each.a, like)!.ref, this.pick(each.b, like)!.ref];
        const { is, than } = each;
        return { step: { op: "where", x: x.ref, is, than, a, b }, shape: x.shape };
      }
      case "scale": {
        const x = this.pick(each.x);
        return x && { step: { op: "scale", x: x.ref, factor: each.factor }, shape: x.shape };
      }
      case "permute": {
        const x = this.pick(each.x, ({ shape }) => shape.length === 4 || shape.length === 2);
        if (!x) return null;
        const orders =
          x.shape.length === 2
            ? [[1, 0]]
            : [
                [0, 2, 1, 3],
                [1, 0, 2, 3],
                [0, 3, 1, 2],
                [3, 1, 2, 0],
              ];
        const axes = orders[each.to % orders.length]!;
        return { step: { op: "permute", x: x.ref, axes }, shape: axes.map((i) => x.shape[i]!) };
      }
      case "slice": {
        const x = this.pick(each.x, ({ shape }) => shape.length > 0);
        if (!x) return null;
        const along = each.axis % x.shape.length;
        const starts = x.shape.map((size, i) => (i === along ? Math.min(each.from, size - 1) : 0));
        const ends = x.shape.map((size, i) =>
          i === along ? Math.max(starts[i]! + 1, size - each.cut) : size,
        );
        return {
          step: { op: "slice", x: x.ref, starts, ends },
          shape: ends.map((end, i) => end - starts[i]!),
        };
      }
      case "pad": {
        const x = this.pick(each.x, ({ shape }) => shape.length > 0 && sizeOf(shape) <= 512);
        if (!x) return null;
        const along = each.axis % x.shape.length;
        const padding = x.shape.map(
          (_, i) => (i === along ? [each.before, each.after] : [0, 0]) as [number, number],
        );
        return {
          step: { op: "pad", x: x.ref, padding },
          shape: x.shape.map((size, i) => size + padding[i]![0] + padding[i]![1]),
        };
      }
      case "concat": {
        const a = this.pick(each.x, ({ shape }) => shape.length > 0 && sizeOf(shape) <= 512);
        if (!a) return null;
        const along = each.axis % a.shape.length;
        const b = this.pick(
          each.b,
          ({ shape }) =>
            shape.length === a.shape.length && shape.every((size, i) => i === along || size === a.shape[i]),
        )!;
        const shape = a.shape.map((size, i) => (i === along ? size + b.shape[i]! : size));
        return { step: { op: "concat", xs: [a.ref, b.ref], axis: along }, shape };
      }
      case "subsample": {
        const x = this.pick(each.x, map);
        if (!x) return null;
        const [n, h, w, c] = x.shape as [number, number, number, number];
        const channels = c + 4 * each.more;
        const shape = [n, Math.ceil(h / each.stride), Math.ceil(w / each.stride), channels];
        return { step: { op: "subsample", x: x.ref, stride: each.stride, channels }, shape };
      }
      case "mean": {
        const x = this.pick(each.x, ({ shape }) => shape.length > 1);
        if (!x) return null;
        const last = x.shape.length - 1;
        const axes = each.over === 0 ? [0] : each.over === 1 ? [last] : last === 3 ? [1, 2] : [0];
        return { step: { op: "mean", x: x.ref, axes }, shape: x.shape.filter((_, i) => !axes.includes(i)) };
      }
      case "extreme": {
        const x = this.pick(each.x, ({ shape, rounded }) => shape.length > 1 && !rounded);
        if (!x) return null;
        const rank = x.shape.length;
        const axes = [...new Set([each.axis % rank, (each.axis + each.more) % rank])];
        const op = each.largest ? "max" : "min";
        const { keepDims } = each;
        const shape = keepDims
          ? x.shape.map((size, i) => (axes.includes(i) ? 1 : size))
          : x.shape.filter((_, i) => !axes.includes(i));
        return { step: { op, x: x.ref, axes, keepDims }, shape };
      }
      case "crossEntropy": {
        const x = this.pick(each.x, ({ shape }) => shape.length === 2 && shape[1]! > 1);
        if (!x) return null;
        const { wish: _, x: __, noGrad: ___, ...options } = each;
        const [rows, classes] = x.shape as [number, number];
        return {
          step: { op: "crossEntropy", x: x.ref, rows, classes, ...options },
          shape: each.reduction === "mean" ? [] : [rows],
        };
      }
      case "globalAvgPool": {
        const x = this.pick(each.x, map);
        return x && { step: { op: "globalAvgPool2d", x: x.ref }, shape: [x.shape[0]!, x.shape[3]!] };
      }
      case "half": {
        // Where a parameter moves by it, another step may come to a kink.
        const { sgd, iterations } = this.frame;
        const x = this.pick(each.x);
        return x && (!sgd || (iterations === 1 && !this.isPoisoned))
          ? { step: { op: "half", x: x.ref }, shape: x.shape }
          : null;
      }
      case "double": {
        const x = this.pick(each.x);
        return x && { step: { op: "double", x: x.ref }, shape: x.shape };
      }
      case "softmax":
      case "detach": {
        const x = this.pick(each.x, ({ shape }) => shape.length > 0);
        return x && { step: { op: each.wish, x: x.ref }, shape: x.shape };
      }
      case "chain": {
        const x = this.pick(each.x, ({ shape }) => shape.length === 4);
        if (!x) return null;
        let shape = x.shape;
        const body: UnaryStep[] = [];
        for (const wanted of each.body) {
          const plain =
            wanted.wish === "norm" ? { ...wanted, residual: false, activation: "none" as const } : wanted;
          const { rounded } = x;
          const made = this.unary(plain, { ref: CHAIN, shape, requiresGrad: true, storage: CHAIN, rounded });
          if (!made) continue;
          body.push(made.step as UnaryStep);
          shape = made.shape;
        }
        return body.length === 0 ? null : { step: { op: "chain", how: each.how, x: x.ref, body }, shape };
      }
    }
  }

  private unary(each: UnaryWish, x: Made): Making | null {
    const { ref, shape } = x;
    switch (each.wish) {
      case "conv":
        return this.conv(x, each);
      case "norm":
        return this.norm(x, each);
      case "relu":
        return x.rounded ? null : { step: { op: "relu", x: ref }, shape };
      case "activate":
        return x.rounded || each.activation === "none"
          ? null
          : { step: { op: "activate", x: ref, activation: each.activation }, shape };
      case "dropout":
        return shape.length < 2
          ? null
          : { step: { op: "dropout", x: ref, p: each.p, together: each.together }, shape };
      case "transpose": {
        const fitting = TRANSPOSES.filter((one) => sameShape(one.x, shape));
        if (fitting.length === 0) return null;
        const { C, size, stride, padding } = fitting[each.kind % fitting.length]!;
        const [n, h, w, k] = shape as [number, number, number, number];
        const weight = this.parameter([k, size, size, C], each.frozen, 1 / Math.sqrt(size * size * k));
        const bias = each.bias ? this.parameter([C], each.frozen, 0.5) : null;
        const out = (extent: number) => (extent - 1) * stride - 2 * padding + size;
        return {
          step: { op: "convTranspose2d", x: ref, weight, bias, stride, padding },
          shape: [n, out(h), out(w), C],
        };
      }
      case "resize": {
        if (shape.length !== 4) return null;
        const [n, h, w, c] = shape as [number, number, number, number];
        const sizes = [
          [4, 4],
          [4, 8],
          [Math.ceil(h / 2), w],
          [h, 2 * w],
        ] as const;
        const size = sizes[each.to]!;
        const made = [n, ...size, c];
        if (sizeOf(made) > 1024) return null;
        return each.how === "average"
          ? { step: { op: "adaptiveAvgPool2d", x: ref, size }, shape: made }
          : { step: { op: "interpolate", x: ref, size, mode: each.how }, shape: made };
      }
      case "flatten":
        return shape.length < 2
          ? null
          : { step: { op: "flatten", x: ref }, shape: [shape[0]!, sizeOf(shape) / shape[0]!] };
      case "reshape":
        return reshaped(x, each.to);
      case "linear": {
        if (shape.length !== 2) return null;
        const weight = this.parameter([4, shape[1]!], each.frozen, 1 / Math.sqrt(shape[1]!));
        const length = each.length ? this.parameter([4, 1], each.frozen, 0.3, 1) : null;
        const bias = each.bias ? this.parameter([4], each.frozen, 0.5) : null;
        return { step: { op: "linear", x: ref, weight, length, bias }, shape: [shape[0]!, 4] };
      }
      case "unitNorm":
        return this.unitNorm(x, each);
      case "clamp":
        return x.rounded ? null : { step: { op: "clamp", x: ref, min: each.min, max: each.max }, shape };
      case "pow": {
        if (x.rounded || shape.length === 0) return null;
        const { byTensor, exponent } = each;
        const power = byTensor ? this.parameter([shape.at(-1)!], each.frozen, 0.5, 1) : null;
        // A tensor's powers are of numbers above 0, and so are roots; a reciprocal not of what is nearly 0.
        const least = byTensor || exponent < 1 || !Number.isInteger(exponent) ? 0.25 : null;
        const most = byTensor ? 4 : null;
        return { step: { op: "pow", x: ref, exponent, power, least, most }, shape };
      }
      case "pool": {
        if (shape.length !== 4 || Math.min(shape[1]!, shape[2]!) < 2) return null;
        const [kernel, stride, padding] = (each.overlap ? [3, 2, 1] : [2, 2, 0]) as [number, number, number];
        const out = (size: number) => windowCount(size, kernel, stride, padding, padding, each.ceil);
        const op = each.max && !x.rounded ? "maxPool2d" : "avgPool2d";
        const countIncludePad = op === "maxPool2d" || each.countPad;
        return {
          step: { op, x: ref, kernel, stride, padding, ceilMode: each.ceil, countIncludePad },
          shape: [shape[0]!, out(shape[1]!), out(shape[2]!), shape[3]!],
        };
      }
    }
  }

  /** Of a map of another shape after a reshape, if some convolution takes as many elements. */
  private conv(x: Made, each: UnaryWish & { wish: "conv" }): Making | null {
    const exact = CONVS.filter((kind) => sameShape(kind.x, x.shape));
    const sized = exact.length > 0 ? exact : CONVS.filter((kind) => sizeOf(kind.x) === sizeOf(x.shape));
    if (sized.length === 0) return null;
    const kind = sized[each.kind % sized.length]!;
    let { ref } = x;
    if (exact.length === 0) {
      if (ref === CHAIN) return null;
      ref = this.add({ op: "reshape", x: ref, shape: kind.x }, kind.x, false).ref;
    }
    const { K, size, stride = 1, padding = 0, groups = 1 } = kind;
    const [n, h, w, c] = kind.x;
    const shape = [K, size, size, c / groups];
    const scale = 1 / Math.sqrt((size * size * c) / groups);
    const weight = (each.shared ? this.shared(shape) : null) ?? this.parameter(shape, each.frozen, scale);
    const length = each.length ? this.parameter([K, 1, 1, 1], each.frozen, 0.3, 1) : null;
    const bias = each.bias ? this.parameter([K], each.frozen, 0.5) : null;
    const out = (extent: number) => Math.floor((extent + 2 * padding - size) / stride) + 1;
    return {
      step: { op: "conv2d", x: ref, weight, length, bias, stride, padding, groups },
      shape: [n, out(h), out(w), K],
    };
  }

  private norm(x: Made, each: UnaryWish & { wish: "norm" }): Making | null {
    const { shape } = x;
    const channels = shape.at(-1)!;
    if (shape.length < 2 || sizeOf(shape) / channels < 4) return null;
    const mode = this.isPoisoned && each.mode === "tracking" ? "skipping" : each.mode;
    const tracks = mode !== "training";
    const frozen = mode === "frozen";
    const running = tracks
      ? this.running.push({ channels, tracked: each.momentum === null || mode === "skipping" }) - 1
      : null;
    const gamma = each.gamma ? this.parameter([channels], each.frozen || frozen, 0.3, 1) : null;
    const beta = each.beta ? this.parameter([channels], each.frozen || frozen, 0.5) : null;
    const residual = each.residual
      ? this.pick(0, (made) => made.ref !== x.ref && sameShape(made.shape, shape))
      : null;
    const { eps } = each;
    const activation = x.rounded || residual?.rounded ? "none" : each.activation;
    const training = mode !== "inference" && !frozen;
    const momentum = tracks ? each.momentum : 0.1;
    return {
      step: {
        op: "batchNorm",
        x: x.ref,
        gamma,
        beta,
        residual: residual?.ref ?? null,
        activation,
        training,
        frozen,
        skips: mode === "skipping",
        running,
        momentum,
        eps,
      },
      shape,
    };
  }

  private unitNorm(x: Made, each: UnaryWish & { wish: "unitNorm" }): Making | null {
    const { shape } = x;
    if (!fitsUnitNorm(shape, each)) return null;
    const channels = shape.at(-1)!;
    const { kind, eps } = each;
    const sizes = kind === "layer" ? shape.slice(-unitAxes(shape, each.more)) : [channels];
    const gamma = each.gamma ? this.parameter(sizes, each.frozen, 0.3, 1) : null;
    const beta = each.beta ? this.parameter(sizes, each.frozen, 0.5) : null;
    const step = { x: x.ref, gamma, beta, eps };
    if (kind === "group")
      return { step: { op: "groupNorm", ...step, channels, groups: groupsOf(shape, each.more) }, shape };
    if (kind === "layer") return { step: { op: "layerNorm", ...step, shape: sizes }, shape };
    // It knows no `skipNonFinite`.
    const tracks = each.mode !== "training" && !this.isPoisoned;
    const running = tracks ? this.running.push({ channels, tracked: false }) - 1 : null;
    const training = !tracks || each.mode === "tracking" || each.mode === "skipping";
    return { step: { op: "instanceNorm", ...step, channels, training, running, momentum: 0.3 }, shape };
  }

  // --- the end -----------------------------------------------------------------------------------------

  /** Each somewhere after the last use. */
  private placeDispositions(): void {
    for (const { x, later } of this.dispositions) {
      const last = this.steps.findLastIndex((step) =>
        step.op === "dispose" ? step.x === x : refsOf(step).includes(x),
      );
      if (!this.used.has(x) || this.steps[last]!.op === "dispose") continue;
      const at = Math.min(this.steps.length, last + 1 + later);
      this.steps.splice(at, 0, { op: "dispose", x, out: 2e6 + this.steps.length });
    }
  }

  /** Leaves first, then what the steps make, without gaps; leaves that nothing reads are left out. */
  private numbered(outputs: readonly Made[]): Program {
    const read = new Set(this.steps.flatMap(refsOf));
    const kept = this.leaves.map((_, i) => i).filter((i) => read.has(i));
    const numbers = new Map<Ref, Ref>(kept.map((old, i) => [old, i]));
    numbers.set(CHAIN, CHAIN);
    for (const [i, { out }] of this.steps.entries()) numbers.set(out, kept.length + i);
    const renumber = <T extends object>(step: T): T => {
      const keys = ["x", "a", "b", "out", "weight", "length", "bias", "gamma", "beta", "residual", "power"];
      return Object.fromEntries(
        Object.entries(step).map(([key, value]) => {
          if (keys.includes(key)) return [key, value === null ? null : numbers.get(value)!];
          if (key === "xs") return [key, value.map((ref: Ref) => numbers.get(ref)!)];
          return [key, key === "body" ? value.map(renumber) : value];
        }),
      ) as T;
    };
    const { inputs, poison, ...frame } = this.frame;
    const iterations = this.isPoisoned ? 2 : frame.iterations;
    // Where nothing reads the input, nothing is poisoned.
    const poisoned = poison && this.isPoisoned ? numbers.get(poison.input % inputs.length) : undefined;
    return {
      ...frame,
      iterations,
      poison:
        poison && poisoned !== undefined
          ? { iteration: poison.late ? 1 : 0, input: poisoned, at: poison.at, value: poison.value }
          : null,
      leaves: kept.map((i) => this.leaves[i]!),
      running: this.running,
      steps: this.steps.map(renumber),
      sinks: outputs.map(({ ref, shape, requiresGrad }) => ({ x: numbers.get(ref)!, shape, requiresGrad })),
    };
  }
}

/** Axes of a layer norm: fewer than all, so that there are several units. */
const unitAxes = (shape: Shape, more: number) => 1 + (more % (shape.length - 1));

const groupsOf = (shape: Shape, more: number) => {
  const divisors = [1, 2, 4].filter((groups) => shape.at(-1)! % groups === 0);
  return divisors[more % divisors.length]!;
};

/** With a few values in each unit: of two alone the result is all rounding. */
function fitsUnitNorm(shape: Shape, { kind, more }: UnaryWish & { wish: "unitNorm" }): boolean {
  if (shape.length < 2) return false;
  const [images, channels] = [shape[0]!, shape.at(-1)!];
  if (kind === "layer") return sizeOf(shape.slice(-unitAxes(shape, more))) >= 4;
  const count = sizeOf(shape) / (images * channels);
  if (kind === "instance") return shape.length === 4 && count >= 4;
  return (count * channels) / groupsOf(shape, more) >= 4;
}

interface Making {
  step: MakingStep;
  shape: Shape;
}

/** Whether it gives the elements of what it takes; a chain of such steps does. */
function isView(step: MakingStep): boolean {
  return step.op === "chain" ? step.body.every(isView) : ["reshape", "flatten", "detach"].includes(step.op);
}

/** Into other channels, other maps, or rows: views that say something else of the same elements. */
function reshaped({ ref, shape }: Made, to: number): Making | null {
  const size = sizeOf(shape);
  const shapes: Shape[] = [
    ...[8, 4, 16].filter((c) => size % c === 0).map((c) => [size / c, c]),
    ...CONVS.map(({ x }) => x).filter((x) => sizeOf(x) === size),
    [shape[0] ?? 1, size / (shape[0] ?? 1)],
    [size],
    ...(size % 6 === 0 ? [[2, size / 6, 3]] : []),
  ].filter((other) => !sameShape(other, shape));
  const target = shapes[to % shapes.length];
  return target ? { step: { op: "reshape", x: ref, shape: target }, shape: target } : null;
}
