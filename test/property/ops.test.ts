// Every op of src/index.ts at random shapes, options, numbers and variants, against float64: outputs, and gradients from
// random upstream ones.

import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Shape, Tensor } from "../../src/index.ts";
import * as fusenorm from "../../src/index.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import { ACTIVATIONS } from "../helpers/activations.ts";
import { hash, withChoices } from "../helpers/choices.ts";
import { withFoldAt } from "../helpers/fold.ts";
import { testGpu } from "../helpers/gpu.ts";
import { generator, normals } from "../helpers/numbers.ts";
import { isOnKink, noiseOf, Tape, type Value } from "../reference/autodiff.ts";
import { type ReferenceConvTranspose, transposedShape } from "../reference/conv2d.ts";
import { interpolateReference } from "../reference/interpolate.ts";
import { adaptiveAvgPool2dReference, pool2dReference } from "../reference/pool2d.ts";
import { casesOf, checkProperty, differs, RUNS, SEED } from "./check.ts";

const gpu = await testGpu();
const NOISE = 1e-7;

interface Input {
  shape: Shape;
  data: Float64Array;
  /** Default true, unless the case's `frozen` says otherwise. */
  grad?: boolean;
}

/** One call of one op. */
interface OpCase {
  inputs: Record<string, Input>;
  run(t: Record<string, Tensor>): Tensor | Tensor[];
  reference(tape: Tape, v: Record<string, Value>): Value | Value[];
  /** No rounding before a ReLU or a maximum decides: ties are ties on both sides. */
  exact?: boolean;
  /** Of outputs and gradients; default 1e-5 and 3e-5. */
  tolerance?: number;
  /** What WGSL lets each number be off by where the function itself comes near zero; default 0. */
  absolute?: number;
}

/** How a case is run. */
const circumstances = fc.record({
  seed: fc.nat(2 ** 20),
  family: fc.constantFrom("software" as const, "hardware" as const),
  /** Bit i: the i-th input needs no gradient. */
  frozen: fc.nat(7).map((bits) => (bits === 7 ? 0 : bits)),
  /** Workgroups in the first dimension of a grid before the second is used. */
  foldAt: fc.constantFrom(65535, 65535, 3),
});
type Circumstances = typeof circumstances extends fc.Arbitrary<infer C> ? C : never;

async function checkCase(c: OpCase, { seed, family, frozen, foldAt }: Circumstances): Promise<void> {
  const names = Object.keys(c.inputs);
  const needs = (name: string) =>
    c.inputs[name]!.grad !== false && (names.length === 1 || ((frozen >> names.indexOf(name)) & 1) === 0);
  const upstreamOf = (i: number, size: number) => normals(size, hash(seed, "upstream", i));
  const referenceRun = (noise?: (values: Float64Array) => Float64Array) => {
    const tape = new Tape(noise);
    const values = Object.fromEntries(
      names.map((name) => {
        const { shape, data } = c.inputs[name]!;
        return [name, tape.leaf(shape, noise ? noise(data) : data, needs(name))];
      }),
    );
    const outputs = [c.reference(tape, values)].flat();
    const results = outputs.map(({ data }) => data);
    const reached = outputs.filter(({ requiresGrad }) => requiresGrad);
    if (reached.length > 0) {
      const terms = reached.map((out) => {
        const up = tape.leaf(out.shape, upstreamOf(outputs.indexOf(out), out.data.length));
        return tape.sum(
          tape.mul(out, up),
          out.shape.map((_, axis) => axis),
        );
      });
      tape.backward(
        terms.reduce((a, b) => tape.add(a, b)),
        Float64Array.of(1),
      );
    }
    return {
      tape,
      results,
      shapes: outputs.map(({ shape }) => shape),
      grads: names.map((name) => values[name]!.grad),
    };
  };
  const exact = referenceRun();
  const noisy = [1, 2].map((i) => referenceRun(noiseOf(generator(hash(seed, "noise", i)), NOISE)));
  fc.pre(
    c.exact === true ||
      !isOnKink(
        exact.tape,
        noisy.map(({ tape }) => tape),
      ),
  );

  gpu.flush(); // what a case that failed left waiting
  const live = gpu.stats.liveBuffers;
  const quick = (_kernel: string, shape: string) => RUNS <= 1000 && hash(SEED, shape) % 8 > 0;
  const choices = { family, folding: "none" as const, seed: hash(SEED, RUNS > 1000 ? seed % 4 : 0), quick };
  const run = async () => {
    const tensors = Object.fromEntries(
      names.map((name) => {
        const { shape, data } = c.inputs[name]!;
        return [name, gpu.tensor(data, shape, { requiresGrad: needs(name) })];
      }),
    );
    const outputs = [gpu.scope(() => c.run(tensors))].flat();
    expect(
      outputs.map(({ shape }) => [...shape]),
      "shapes",
    ).toEqual(exact.shapes.map((shape) => [...shape]));
    for (const [i, out] of outputs.entries()) {
      expect(
        differs(
          await out.read(),
          exact.results[i]!,
          noisy.map(({ results }) => results[i]!),
          c.tolerance,
          c.absolute,
        ),
        `output ${i}`,
      ).toBe(null);
    }
    const ups = outputs.map((out, i) => gpu.tensor(upstreamOf(i, out.size), out.shape));
    const reached = outputs.map((out, i) => [out, ups[i]!] as const).filter(([out]) => out.requiresGrad);
    if (reached.length === 1) reached[0]![0].backward(reached[0]![1]);
    else if (reached.length > 1) {
      gpu.scope(() =>
        reached
          .map(([out, up]) => fusenorm.sum(fusenorm.mul(out, up)))
          .reduce((a, b) => fusenorm.add(a, b))
          .backward(),
      );
    }
    for (const [i, name] of names.entries()) {
      const { grad } = tensors[name]!;
      const expected = exact.grads[i]!;
      expect(grad === null, `d${name} is null`).toBe(expected === null);
      if (!grad || !expected) continue;
      const others = noisy.map(({ grads }) => grads[i]!);
      expect(
        differs(await grad.read(), expected, others, 3 * (c.tolerance ?? 1e-5), c.absolute),
        `d${name}`,
      ).toBe(null);
    }
    for (const tensor of [...outputs, ...ups, ...Object.values(tensors)]) tensor.dispose();
  };
  await withChoices(gpu, choices, () => withFoldAt(gpu, foldAt, run));
  expect(gpu.stats.liveBuffers, "live buffers").toBe(live);
}

// --- what is drawn ---------------------------------------------------------------------------------------

const scales = fc.constantFrom(1, 1, 0.01, 100);
/** In standard deviations. */
const offsets = fc.constantFrom(0, 0, 1, 30);
const moments = fc.record({ scale: scales, offset: offsets, seed: fc.nat(2 ** 20) });
type Named = readonly [string, Input];
type Moments = { scale: number; offset: number; seed: number };

const input = (shape: Shape, { scale, offset, seed }: Moments, grad?: boolean): Input => ({
  shape,
  data: normals(sizeOf(shape), seed, scale * offset, scale),
  ...(grad === undefined ? {} : { grad }),
});
const plain = (shape: Shape, seed: number, mean = 0, std = 1): Input => ({
  shape,
  data: normals(sizeOf(shape), hash(seed, mean, ...shape), mean, std),
});

const channels = fc.oneof(fc.constantFrom(4, 8, 12, 16), fc.integer({ min: 1, max: 20 }));
const extent = fc.integer({ min: 1, max: 9 });
const shapes = (ranks: { min: number; max: number }, most = 9) =>
  fc.array(fc.integer({ min: 1, max: most }), { minLength: ranks.min, maxLength: ranks.max, size: "max" });
const maps = fc.tuple(fc.integer({ min: 1, max: 3 }), extent, extent, channels);

/** A few of what `arbitrary` draws, for kernels that are compiled for each shape: more of them in a long run. */
function few<T>(arbitrary: fc.Arbitrary<T>, name: string): fc.Arbitrary<T> {
  const count = Math.ceil(2 + RUNS / 300);
  return fc.constantFrom(...fc.sample(arbitrary, { numRuns: count, seed: hash(SEED, name) }));
}

const tested = new Set<string>();

/** A test of `ops` (names of src/index.ts), with `share` of all cases. */
function property<O>(
  ops: string[],
  share: number,
  options: fc.Arbitrary<O>,
  caseOf: (options: O) => OpCase | null,
) {
  for (const op of ops) tested.add(op);
  it(ops.join(", "), { timeout: 3600_000 }, async () => {
    await checkProperty(
      ops[0]!,
      casesOf(share),
      fc.record({ options, how: circumstances }),
      async ({ options, how }) => {
        const c = caseOf(options);
        fc.pre(c !== null);
        await checkCase(c!, how);
      },
    );
  });
}

const { add, sub, mul, scale } = fusenorm;
const binary = { add, sub, mul, scale };

/** The conversions of src/ops/layout.ts, as permutations. */
const layouts = {
  fromNCHW: { run: fusenorm.fromNCHW, axes: [0, 2, 3, 1] },
  toNCHW: { run: fusenorm.toNCHW, axes: [0, 3, 1, 2] },
  weightFromOIHW: { run: fusenorm.weightFromOIHW, axes: [0, 2, 3, 1] },
  weightToOIHW: { run: fusenorm.weightToOIHW, axes: [0, 3, 1, 2] },
  weightFromHWIO: { run: fusenorm.weightFromHWIO, axes: [3, 0, 1, 2] },
  weightToHWIO: { run: fusenorm.weightToHWIO, axes: [1, 2, 3, 0] },
} as const;

describe("ops at random", () => {
  const pair = (most: number) =>
    fc.oneof(
      fc.integer({ min: 1, max: most }),
      fc.tuple(fc.integer({ min: 1, max: most }), fc.integer({ min: 1, max: most })),
    );
  const both = (value: number | readonly [number, number]) =>
    typeof value === "number" ? ([value, value] as const) : value;

  property(
    ["conv2d"],
    0.036,
    fc.record({
      geometry: few(
        fc.record({
          N: fc.integer({ min: 1, max: 3 }),
          H: fc.integer({ min: 1, max: 9 }),
          W: fc.integer({ min: 1, max: 9 }),
          R: fc.integer({ min: 1, max: 3 }),
          S: fc.integer({ min: 1, max: 3 }),
          groups: fc.constantFrom(1, 1, 1, 2, 3),
          perGroup: fc.constantFrom(1, 3, 4, 8),
          filters: fc.constantFrom(1, 3, 4, 8, 16),
          stride: pair(3),
          padding: fc.oneof(
            fc.nat(2),
            fc.tuple(fc.nat(2), fc.nat(2)),
            fc.tuple(fc.nat(2), fc.nat(2), fc.nat(2), fc.nat(2)),
            fc.constantFrom("same" as const, "valid" as const),
          ),
          dilation: pair(2),
        }),
        "conv2d",
      ),
      bias: fc.boolean(),
      x: moments,
    }),
    ({ geometry: g, bias, x }) => {
      const C = g.perGroup * g.groups;
      const K = g.filters * g.groups;
      const stride = g.padding === "same" ? 1 : g.stride;
      const [dh, dw] = both(g.dilation);
      const [spanH, spanW] = [dh * (g.R - 1), dw * (g.S - 1)];
      const sides =
        g.padding === "valid"
          ? [0, 0, 0, 0]
          : g.padding === "same"
            ? [Math.floor(spanH / 2), Math.ceil(spanH / 2), Math.floor(spanW / 2), Math.ceil(spanW / 2)]
            : typeof g.padding === "number"
              ? Array(4).fill(g.padding)
              : g.padding.length === 2
                ? [g.padding[0], g.padding[0], g.padding[1], g.padding[1]]
                : g.padding;
      const padding = sides as unknown as [number, number, number, number];
      if (g.H + padding[0] + padding[1] <= spanH || g.W + padding[2] + padding[3] <= spanW) return null;
      return {
        inputs: {
          x: input([g.N, g.H, g.W, C], x),
          weight: plain([K, g.R, g.S, g.perGroup], x.seed),
          ...(bias && { bias: plain([K], x.seed) }),
        },
        run: (t) =>
          fusenorm.conv2d(t.x!, t.weight!, {
            ...{ bias: t.bias ?? null, stride, padding: g.padding, dilation: g.dilation, groups: g.groups },
          }),
        reference: (tape, v) =>
          tape.conv2d(v.x!, v.weight!, {
            ...{ bias: v.bias ?? null, stride: both(stride), padding, dilation: [dh, dw], groups: g.groups },
          }),
      };
    },
  );

  property(
    ["convTranspose2d"],
    0.02,
    fc.record({
      geometry: few(
        fc.record({
          ...{ N: fc.integer({ min: 1, max: 2 }), H: fc.integer({ min: 1, max: 6 }) },
          ...{ W: fc.integer({ min: 1, max: 6 }), R: fc.integer({ min: 1, max: 4 }) },
          ...{ S: fc.integer({ min: 1, max: 4 }), groups: fc.constantFrom(1, 1, 2, 3) },
          ...{ perGroup: fc.constantFrom(1, 3, 4, 8), filters: fc.constantFrom(1, 3, 4, 8) },
          ...{ stride: pair(3), dilation: pair(2) },
          padding: fc.oneof(fc.nat(2), fc.tuple(fc.nat(2), fc.nat(2), fc.nat(2), fc.nat(2))),
          outputPadding: fc.tuple(fc.nat(2), fc.nat(2)),
        }),
        "convTranspose2d",
      ),
      bias: fc.boolean(),
      x: moments,
    }),
    ({ geometry: g, bias, x }) => {
      const [stride, dilation] = [both(g.stride), both(g.dilation)];
      const [C, K] = [g.perGroup * g.groups, g.filters * g.groups];
      const padding = typeof g.padding === "number" ? Array(4).fill(g.padding) : g.padding;
      const extra = g.outputPadding.map((more, i) => Math.min(more, Math.max(stride[i]!, dilation[i]!) - 1));
      const c: ReferenceConvTranspose = {
        ...{ x: [g.N, g.H, g.W, K], weight: [K, g.R, g.S, g.perGroup], stride, dilation, groups: g.groups },
        padding: padding as [number, number, number, number],
        outputPadding: extra as [number, number],
      };
      if (transposedShape(c).some((size) => size < 1)) return null;
      return {
        inputs: {
          x: input(c.x, x),
          weight: plain(c.weight, x.seed),
          ...(bias && { bias: plain([C], x.seed) }),
        },
        run: (t) =>
          fusenorm.convTranspose2d(t.x!, t.weight!, {
            ...{ bias: t.bias ?? null, stride: g.stride, padding: g.padding, dilation: g.dilation },
            ...{ outputPadding: c.outputPadding, groups: g.groups },
          }),
        reference: (tape, v) => tape.convTranspose2d(v.x!, v.weight!, v.bias ?? null, c),
      };
    },
  );

  const normFlags = fc.record({
    gamma: fc.boolean(),
    beta: fc.boolean(),
    residual: fc.boolean(),
    activation: fc.constantFrom(undefined, ...ACTIVATIONS),
    mode: fc.constantFrom("training", "tracking", "inference"),
    momentum: fc.constantFrom(undefined, 0, 0.3, 1, null),
    eps: fc.constantFrom(undefined, 1e-5, 1e-3, 0.1),
  });
  const normShapes = fc.oneof(
    fc.tuple(fc.integer({ min: 2, max: 40 }), channels),
    fc.tuple(fc.integer({ min: 2, max: 3 }), extent, extent, channels),
    fc.tuple(fc.integer({ min: 300, max: 1200 }), fc.constantFrom(1, 3, 4, 8)),
  );
  // Every flag makes other kernels.
  const norms = (name: string) =>
    fc.record({ call: few(fc.record({ shape: normShapes, flags: normFlags }), name), x: moments });
  type NormOptions = ReturnType<typeof norms> extends fc.Arbitrary<infer O> ? O : never;
  const normCase =
    (op: typeof fusenorm.batchNorm) =>
    ({ call: { shape, flags: o }, x }: NormOptions): OpCase | null => {
      const C = shape.at(-1)!;
      const count = sizeOf(shape) / C;
      if (count < 2) return null;
      const variance = plain([C], x.seed, 3);
      const running = {
        mean: plain([C], x.seed, 1),
        variance: { ...variance, data: variance.data.map((v) => Math.abs(v) + 0.1) },
        count: { shape: [1], data: Float64Array.of(3) },
      };
      const tracks = o.mode !== "training";
      const training = o.mode !== "inference";
      const { momentum = 0.1, eps = 1e-5 } = o;
      return {
        inputs: {
          x: input(shape, x),
          ...(o.gamma && { gamma: plain([C], x.seed, 1) }),
          ...(o.beta && { beta: plain([C], x.seed, 0.5) }),
          ...(o.residual && { residual: plain(shape, x.seed, 0.2) }),
        },
        run: (t) => {
          const mean = gpu.tensor(running.mean.data, [C]);
          const variances = gpu.tensor(running.variance.data, [C]);
          const batches = gpu.tensor(running.count.data, [1]);
          const y = op(t.x!, t.gamma ?? null, t.beta ?? null, {
            training,
            ...(tracks && { runningMean: mean, runningVar: variances, numBatchesTracked: batches }),
            ...(o.momentum !== undefined && tracks && { momentum: o.momentum }),
            ...(o.eps !== undefined && { eps: o.eps }),
            ...(o.activation && { activation: o.activation }),
            residual: t.residual ?? null,
          });
          return tracks ? [y, mean, variances, batches] : y;
        },
        reference: (tape, v) => {
          const options = { eps, activation: o.activation, residual: v.residual ?? null };
          const given = { mean: running.mean.data, variance: running.variance.data };
          const y = tape.batchNorm(
            v.x!,
            v.gamma ?? null,
            v.beta ?? null,
            training ? options : { ...options, running: given },
          );
          if (!tracks) return y;
          const batch = tape.channelStatistics(v.x!);
          const share = !training ? 0 : (momentum ?? 1 / 4);
          // In two terms, each with the noise of its own size.
          const moved = (old: Float64Array, now: Float64Array, factor: number) =>
            tape.add(
              tape.sub(tape.leaf([C], old), tape.scale(tape.leaf([C], old), share)),
              tape.scale(
                tape.leaf(
                  [C],
                  old.map((_, c) => factor * now[c]!),
                ),
                share,
              ),
            );
          return [
            y,
            moved(given.mean, batch.mean, 1),
            moved(given.variance, batch.variance, count / (count - 1)),
            tape.leaf([1], [training ? 4 : 3]),
          ];
        },
      };
    };
  property(["batchNorm"], 0.06, norms("batchNorm"), normCase(fusenorm.batchNorm));
  // In float16 between the casts; x in steps that float16 holds, so that no ReLU is decided by the rounding.
  property(["cast", "batchNorm"], 0.02, norms("cast"), ({ call: { shape, flags }, x }) => {
    const call = { shape, flags: { ...flags, mode: "training" as const } };
    const made = normCase(fusenorm.batchNorm)({ call, x });
    if (!made) return null;
    const steps = (name: string): Input => ({
      shape,
      data: plain(shape, x.seed, name.length).data.map((v) => Math.round(v * 64) / 64),
    });
    const halves = ["x", ...(flags.residual ? ["residual"] : [])];
    return {
      ...made,
      tolerance: 2e-3,
      inputs: { ...made.inputs, ...Object.fromEntries(halves.map((name) => [name, steps(name)])) },
      run: (t) => {
        const narrow = Object.fromEntries(halves.map((name) => [name, fusenorm.cast(t[name]!, "float16")]));
        return fusenorm.cast(made.run({ ...t, ...narrow }) as Tensor, "float32");
      },
    };
  });
  property(["batchNormComposed"], 0.02, norms("batchNormComposed"), normCase(fusenorm.batchNormComposed));

  property(
    ["syncBatchNorm", "batchNormStatistics", "mergeStatistics"],
    0.02,
    fc.record({
      call: few(
        fc.record({
          parts: fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 2, maxLength: 3 }),
          ...{ C: channels, activation: fc.constantFrom(...ACTIVATIONS), residual: fc.boolean() },
        }),
        "syncBatchNorm",
      ),
      x: moments,
    }),
    ({ call: { parts, C, activation, residual }, x }) => {
      const xs = parts.map((n, i): Named => [`x${i}`, input([n, C], { ...x, seed: x.seed + i })]);
      const residuals = residual ? parts.map((n, i): Named => [`r${i}`, plain([n, C], x.seed + i)]) : [];
      const of = (t: Record<string, Tensor>, some: readonly Named[]) => some.map(([name]) => t[name]!);
      return {
        inputs: { ...Object.fromEntries([...xs, ...residuals]), gamma: plain([C], x.seed, 1) },
        run: (t) => {
          const statistics = fusenorm.mergeStatistics(
            of(t, xs).map((each) => fusenorm.batchNormStatistics(each)),
          );
          const row = (i: number) => fusenorm.slice(statistics, [i, 0], [i + 1, C]);
          return [
            fusenorm.add(row(1), row(2)),
            row(3),
            ...fusenorm.syncBatchNorm(of(t, xs), t.gamma!, null, {
              activation,
              residuals: residual ? of(t, residuals) : null,
            }),
          ];
        },
        reference: (tape, v) => {
          const all = tape.concat(
            xs.map(([name]) => v[name]!),
            0,
          );
          const y = tape.batchNorm(all, v.gamma!, null, {
            ...{
              eps: 1e-5,
              activation,
              residual: residual
                ? tape.concat(
                    residuals.map(([name]) => v[name]!),
                    0,
                  )
                : null,
            },
          });
          let from = 0;
          const outs = parts.map((n) => {
            from += n;
            return tape.slice(y, [from - n, 0], [from, C], [1, 1]);
          });
          return [tape.mean(all, [0], true), tape.variance(all, [0], 0, true), ...outs];
        },
      };
    },
  );

  property(
    ["groupNorm", "layerNorm"],
    0.03,
    fc.record({
      shape: few(fc.oneof(maps, fc.tuple(fc.integer({ min: 1, max: 6 }), channels)), "groupNorm"),
      groups: fc.constantFrom(1, 2, 4),
      layer: fc.nat(2),
      gamma: fc.boolean(),
      beta: fc.boolean(),
      eps: fc.constantFrom(1e-5, 1e-2),
      x: moments,
    }),
    ({ shape, groups, layer, gamma, beta, eps, x }) => {
      const C = shape.at(-1)!;
      if (layer === 0 && C % groups !== 0) return null;
      const normalized = layer === 0 ? [C] : shape.slice(-Math.min(layer, shape.length));
      const width = sizeOf(normalized);
      if ((layer === 0 ? (sizeOf(shape) / shape[0]! / C) * (C / groups) : width) < 2) return null;
      return {
        inputs: {
          x: input(shape, x),
          ...(gamma && { gamma: plain(normalized, x.seed, 1) }),
          ...(beta && { beta: plain(normalized, x.seed, 0.5) }),
        },
        run: (t) =>
          layer === 0
            ? fusenorm.groupNorm(t.x!, groups, t.gamma ?? null, t.beta ?? null, eps)
            : fusenorm.layerNorm(t.x!, layer === 1 ? C : normalized, t.gamma ?? null, t.beta ?? null, eps),
        reference: (tape, v) =>
          layer === 0
            ? tape.groupNorm(v.x!, groups, v.gamma ?? null, v.beta ?? null, eps)
            : tape.layerNorm(v.x!, width, v.gamma ?? null, v.beta ?? null, eps),
      };
    },
  );

  property(
    ["maxPool2d", "avgPool2d", "globalAvgPool2d"],
    0.03,
    fc.record({
      shape: maps,
      op: fc.constantFrom("max", "avg", "global"),
      kernel: pair(4),
      stride: fc.option(pair(3), { nil: undefined }),
      padding: fc.option(
        fc.oneof(
          fc.nat(2),
          fc.tuple(fc.nat(2), fc.nat(2)),
          fc.tuple(fc.nat(2), fc.nat(2), fc.nat(2), fc.nat(2)),
        ),
        {
          nil: undefined,
        },
      ),
      ceilMode: fc.option(fc.boolean(), { nil: undefined }),
      countIncludePad: fc.option(fc.boolean(), { nil: undefined }),
      dilation: fc.option(pair(3), { nil: undefined }),
      /** Equal pixels: the first of them wins. */
      ties: fc.boolean(),
      x: moments,
    }),
    ({ shape, op, kernel, stride, padding, ceilMode, countIncludePad, dilation, ties, x }) => {
      const given = input(shape, x);
      const data = ties
        ? given.data.map((v) => Math.round(v / x.scale) * x.scale).map(Math.fround)
        : given.data;
      if (op === "global") {
        return {
          inputs: { x: { shape, data } },
          run: (t) => fusenorm.globalAvgPool2d(t.x!),
          reference: (tape, v) => tape.mean(v.x!, [1, 2]),
        };
      }
      const [kh, kw] = both(kernel);
      const sides =
        padding === undefined
          ? [0, 0, 0, 0]
          : typeof padding === "number"
            ? Array(4).fill(padding)
            : padding.length === 2
              ? [padding[0], padding[0], padding[1], padding[1]]
              : padding;
      const [top, bottom, left, right] = sides as [number, number, number, number];
      const [dh, dw] = op === "max" && dilation !== undefined ? both(dilation) : [1, 1];
      const [spanH, spanW] = [dh * (kh - 1) + 1, dw * (kw - 1) + 1];
      if (2 * Math.max(top, bottom) > kh || 2 * Math.max(left, right) > kw) return null;
      if (shape[1]! + top + bottom < spanH || shape[2]! + left + right < spanW) return null;
      const geometry = {
        dilation: [dh, dw] as const,
        ...{
          kernel: [kh, kw] as const,
          stride: both(stride ?? kernel),
          padding: [top, bottom, left, right] as const,
        },
        ...{ ceilMode: ceilMode ?? false, countIncludePad: countIncludePad ?? true },
      };
      // A window of padding alone is −∞: no number for relative errors.
      const counts = pool2dReference(data, shape, geometry, (values) => values.length);
      if (op === "max" && counts.includes(0)) return null;
      const options = {
        ...(stride !== undefined && { stride }),
        ...(padding !== undefined && { padding }),
        ...(ceilMode !== undefined && { ceilMode }),
      };
      return {
        exact: true,
        inputs: { x: { shape, data } },
        run: (t) =>
          op === "max"
            ? fusenorm.maxPool2d(t.x!, kernel, { ...options, ...(dilation !== undefined && { dilation }) })
            : fusenorm.avgPool2d(t.x!, kernel, {
                ...options,
                ...(countIncludePad !== undefined && { countIncludePad }),
              }),
        reference: (tape, v) =>
          op === "max" ? tape.maxPool2d(v.x!, geometry) : tape.avgPool2d(v.x!, geometry),
      };
    },
  );

  property(
    ["interpolate"],
    0.01,
    fc.record({
      shape: fc.tuple(fc.integer({ min: 1, max: 2 }), extent, extent, fc.integer({ min: 1, max: 5 })),
      size: fc.tuple(fc.integer({ min: 1, max: 20 }), extent),
      factor: fc.option(fc.tuple(fc.constantFrom(1, 2, 0.5, 1.3), fc.constantFrom(1, 3, 0.7, 2)), {
        nil: null,
      }),
      how: fc.constantFrom("nearest" as const, "bilinear" as const, "corners" as const),
      x: moments,
    }),
    ({ shape, size, factor, how, x }): OpCase | null => {
      const out = factor
        ? ([Math.floor(shape[1] * factor[0]), Math.floor(shape[2] * factor[1])] as const)
        : size;
      if (out[0] < 1 || out[1] < 1) return null;
      const mode = how === "nearest" ? "nearest" : "bilinear";
      const alignCorners = how === "corners";
      return {
        inputs: { x: input(shape, x) },
        run: (t) =>
          fusenorm.interpolate(t.x!, {
            ...(factor ? { scaleFactor: factor } : { size }),
            mode,
            alignCorners,
          }),
        reference: (tape, v) =>
          tape.linearMap(v.x!, [shape[0], ...out, shape[3]], (data) =>
            interpolateReference(data, shape, { mode, alignCorners, size: out, factor }),
          ),
      };
    },
  );

  property(
    ["adaptiveAvgPool2d"],
    0.01,
    fc.record({
      shape: fc.tuple(fc.integer({ min: 1, max: 2 }), extent, extent, fc.integer({ min: 1, max: 5 })),
      size: fc.oneof(extent, fc.tuple(fc.option(extent), fc.option(extent))),
      x: moments,
    }),
    ({ shape, size, x }): OpCase => {
      const [h, w] = typeof size === "number" ? [size, size] : [size[0] ?? shape[1], size[1] ?? shape[2]];
      return {
        inputs: { x: input(shape, x) },
        run: (t) => fusenorm.adaptiveAvgPool2d(t.x!, size),
        reference: (tape, v) =>
          tape.linearMap(v.x!, [shape[0], h, w, shape[3]], (data) =>
            adaptiveAvgPool2dReference(data, shape, [h, w]),
          ),
      };
    },
  );

  const size = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(1, 4, 8, 16, 64, 65, 130));
  property(
    ["matmul", "linear"],
    0.03,
    fc.record({
      call: few(
        fc.record({
          ...{ M: size, K: size, N: size, linear: fc.boolean() },
          ...{ transposeA: fc.boolean(), transposeB: fc.boolean(), bias: fc.boolean() },
        }),
        "matmul",
      ),
      x: moments,
    }),
    ({ call: { M, K, N, transposeA, transposeB, linear, bias }, x }): OpCase =>
      linear
        ? {
            inputs: {
              x: input([M, K], x),
              weight: plain([N, K], x.seed),
              ...(bias && { bias: plain([N], x.seed) }),
            },
            run: (t) => (bias ? fusenorm.linear(t.x!, t.weight!, t.bias!) : fusenorm.linear(t.x!, t.weight!)),
            reference: (tape, v) => tape.linear(v.x!, v.weight!, v.bias ?? null),
          }
        : {
            inputs: {
              a: input(transposeA ? [K, M] : [M, K], x),
              b: plain(transposeB ? [N, K] : [K, N], x.seed),
            },
            run: (t) => fusenorm.matmul(t.a!, t.b!, { transposeA, transposeB }),
            reference: (tape, v) => tape.matmul(v.a!, v.b!, { transposeA, transposeB }),
          },
  );

  const anyAxes = fc.option(fc.nat(2 ** 8 - 1), { nil: undefined });
  /** The axes whose bits are set, some counted from the end; all of them for none. */
  const axesOf = (shape: Shape, bits: number | undefined): number[] | undefined => {
    if (bits === undefined || shape.length === 0) return undefined;
    const axes = shape.map((_, i) => i).filter((i) => (bits >> i) & 1);
    const some = axes.length > 0 ? axes : [0];
    return some.map((i) => ((bits >> (i + 4)) & 1 ? i - shape.length : i));
  };
  property(
    ["sum", "mean", "variance"],
    0.04,
    fc.record({
      shape: few(
        fc.oneof(
          shapes({ min: 0, max: 4 }),
          fc.tuple(fc.integer({ min: 200, max: 1000 })),
          fc.tuple(fc.integer({ min: 260, max: 600 }), fc.integer({ min: 1, max: 9 })),
        ),
        "sum",
      ),
      op: fc.constantFrom("sum", "mean", "variance"),
      axes: anyAxes,
      keepDims: fc.option(fc.boolean(), { nil: undefined }),
      correction: fc.option(fc.constantFrom(0 as const, 1 as const), { nil: undefined }),
      given: fc.boolean(),
      x: moments,
    }),
    ({ shape, op, axes: bits, keepDims, correction, given, x }) => {
      const axes = axesOf(shape, bits);
      const all = axes ?? shape.map((_, i) => i);
      const count = all.reduce((product, axis) => product * shape.at(axis)!, 1);
      if (op === "variance" && count < 2) return null;
      const options = { ...(keepDims !== undefined && { keepDims }) };
      return {
        inputs: { x: input(shape, x) },
        run: (t) => {
          if (op === "sum") return fusenorm.sum(t.x!, axes, options);
          if (op === "mean") return fusenorm.mean(t.x!, axes, options);
          const mean = given ? fusenorm.mean(t.x!, axes, options).detach() : undefined;
          return fusenorm.variance(t.x!, axes, {
            ...options,
            ...(correction !== undefined && { correction }),
            ...(mean && { mean }),
          });
        },
        reference: (tape, v) =>
          op === "variance"
            ? tape.variance(v.x!, all, correction ?? 1, keepDims)
            : tape[op as "sum"](v.x!, all, keepDims),
      };
    },
  );

  const { max, min, argmax, argmin } = fusenorm;
  const extremes = { max, min };
  const places = { max: argmax, min: argmin };
  property(
    ["max", "min", "argmax", "argmin"],
    0.02,
    fc.record({
      shape: fc.oneof(
        shapes({ min: 0, max: 4 }),
        fc.tuple(fc.integer({ min: 250, max: 3000 })),
        fc.tuple(fc.integer({ min: 260, max: 600 }), fc.integer({ min: 1, max: 9 })),
      ),
      op: fc.constantFrom("max" as const, "min" as const),
      axes: anyAxes,
      axis: fc.option(fc.nat(3), { nil: null }),
      keepDims: fc.option(fc.boolean(), { nil: undefined }),
      ties: fc.boolean(),
      x: moments,
    }),
    ({ shape, op, axes: bits, axis, keepDims, ties, x }) => {
      const axes = axesOf(shape, bits);
      const all = axes ?? shape.map((_, i) => i);
      const along = axis === null || axis >= shape.length ? null : axis;
      const options = { ...(keepDims !== undefined && { keepDims }) };
      const given = input(shape, x);
      const data = ties ? given.data.map((v) => Math.fround(Math.round(v / x.scale) * x.scale)) : given.data;
      const most = op === "max" ? Math.max : Math.min;
      return {
        exact: true,
        inputs: { x: { shape, data } },
        run: (t) => [extremes[op](t.x!, axes, options), places[op](t.x!, along, options)],
        reference: (tape, v) => {
          const first = (values: number[]) => values.indexOf(values.reduce((a, b) => most(a, b)));
          return [
            tape.extreme(v.x!, all, most, keepDims),
            tape.of(v.x!, along === null ? shape.map((_, i) => i) : [along], first, keepDims),
          ];
        },
      };
    },
  );

  property(
    ["softmax", "logSoftmax"],
    0.016,
    fc.record({
      shape: fc.oneof(
        shapes({ min: 1, max: 3 }),
        fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 60, max: 300 })),
      ),
      log: fc.boolean(),
      x: moments,
    }),
    ({ shape, log, x }) => ({
      // Differences count alone: of thousands in float32, few digits are left.
      inputs: { x: input(shape, { ...x, scale: Math.min(x.scale, 3), offset: Math.min(x.offset, 1) }) },
      run: (t) => (log ? fusenorm.logSoftmax(t.x!) : fusenorm.softmax(t.x!)),
      reference(tape, v) {
        const y = tape.softmax(v.x!);
        return log ? tape.map(y, Math.log, (p) => 1 / p) : y;
      },
    }),
  );

  property(
    ["softmaxCrossEntropy", "accuracy"],
    0.03,
    fc.record({
      N: fc.integer({ min: 1, max: 12 }),
      K: few(fc.oneof(fc.integer({ min: 2, max: 12 }), fc.integer({ min: 60, max: 200 })), "classes"),
      reduction: fc.constantFrom(undefined, "mean" as const, "sum" as const, "none" as const),
      labelSmoothing: fc.constantFrom(undefined, 0, 0.1, 1),
      weighted: fc.boolean(),
      soft: fc.boolean(),
      ignores: fc.boolean(),
      ties: fc.boolean(),
      x: moments,
    }),
    ({ N, K, reduction, labelSmoothing, weighted, soft, ignores, ties, x }) => {
      const next = generator(x.seed);
      const labels = Uint32Array.from({ length: N }, () => Math.floor(next() * K));
      const given = input([N, K], { ...x, scale: Math.min(x.scale, 3), offset: Math.min(x.offset, 1) });
      const logits = {
        shape: [N, K],
        data: ties ? given.data.map((v) => Math.fround(Math.round(v))) : given.data,
      };
      const weight = plain([K], x.seed, 1, 0.2).data.map((v) => Math.max(v, 0.1));
      const probabilities = { shape: [N, K], data: plain([N, K], x.seed + 1).data.map((v) => v * v) };
      // Another class than that of the first row, so that there is something left.
      const ignoreIndex = ignores && !soft ? (labels[0]! + 1) % K : undefined;
      const options = {
        ...(reduction && { reduction }),
        ...(labelSmoothing !== undefined && { labelSmoothing }),
        ...(ignoreIndex !== undefined && { ignoreIndex }),
      };
      return {
        // p − q of equal logits, smoothed wholly: the division's error is all there is.
        absolute: 1e-6,
        inputs: { logits, ...(soft && { probabilities }) },
        run: (t) => {
          const label = gpu.tensor(labels, [N], { dtype: "uint32" });
          return [
            fusenorm.softmaxCrossEntropy(t.logits!, t.probabilities ?? label, {
              ...options,
              ...(weighted && { weight: gpu.tensor(weight, [K]) }),
            }),
            fusenorm.accuracy(t.logits!, label),
          ];
        },
        reference: (tape, v) => {
          let correct = 0;
          for (let n = 0; n < N; n += 1) {
            const row = [...logits.data.subarray(n * K, (n + 1) * K)];
            if (row.indexOf(Math.max(...row)) === labels[n]) correct += 1;
          }
          return [
            tape.crossEntropy(v.logits!, v.probabilities ? { probabilities: v.probabilities } : labels, {
              ...options,
              ...(weighted && { weight: weight.map(Math.fround) }),
            }),
            tape.leaf([1], [correct]),
          ];
        },
      };
    },
  );

  /** A shape that broadcasts to `shape`: sizes of 1 by bits, the first axes left out. */
  const smaller = (shape: Shape, ones: number, dropped: number): Shape =>
    shape.map((s, i) => ((ones >> i) & 1 ? 1 : s)).slice(Math.min(dropped, shape.length));
  property(
    ["add", "sub", "mul", "scale", "relu"],
    0.04,
    fc.record({
      shape: shapes({ min: 0, max: 5 }, 6),
      op: fc.constantFrom("add", "sub", "mul", "scale", "relu"),
      ones: fc.tuple(fc.nat(31), fc.nat(31)),
      dropped: fc.tuple(fc.nat(2), fc.nat(2)),
      equal: fc.boolean(),
      factor: fc.constantFrom(0, 1, -2.5, 1e3),
      x: moments,
      y: moments,
    }),
    ({ shape, op, ones, dropped, equal, factor, x, y }): OpCase => {
      if (op === "relu") {
        return {
          exact: true,
          inputs: { x: input(shape, x) },
          run: (t) => fusenorm.relu(t.x!),
          reference: (tape, v) => tape.relu(v.x!),
        };
      }
      if (op === "scale" && equal) {
        return {
          inputs: { x: input(shape, x) },
          run: (t) => fusenorm.scale(t.x!, factor),
          reference: (tape, v) => tape.scale(v.x!, factor),
        };
      }
      const a = equal || op === "scale" ? shape : smaller(shape, ones[0], dropped[0]);
      const b = equal ? shape : smaller(shape, ones[1], dropped[1]);
      const name = op as keyof typeof binary;
      return {
        inputs: { a: input(a, x), b: input(b, y) },
        run: (t) => binary[name](t.a!, t.b!),
        reference: (tape, v) => tape[name === "scale" ? "mul" : name](v.a!, v.b!),
      };
    },
  );

  property(
    ["mseLoss", "l1Loss", "huberLoss", "smoothL1Loss", "bceWithLogits"],
    0.03,
    fc.record({
      shape: shapes({ min: 0, max: 4 }, 6),
      loss: fc.constantFrom("mse", "l1", "huber", "smoothL1", "bce", "weighted bce"),
      delta: fc.constantFrom(0.25, 1, 3),
      ones: fc.nat(15),
      x: moments,
      y: moments,
    }),
    ({ shape, loss, delta, ones, x, y }): OpCase => ({
      inputs: {
        ...{ a: input(shape, x), b: input(shape, y) },
        ...(loss === "weighted bce" && { p: plain(smaller(shape, ones, 0), x.seed, 2, 0.3) }),
      },
      run({ a, b, p }) {
        const reduction = "none";
        if (loss === "mse") return fusenorm.mseLoss(a!, b!, { reduction });
        if (loss === "l1") return fusenorm.l1Loss(a!, b!, { reduction });
        if (loss === "huber") return fusenorm.huberLoss(a!, b!, { reduction, delta });
        if (loss === "smoothL1") return fusenorm.smoothL1Loss(a!, b!, { reduction, beta: delta });
        return fusenorm.bceWithLogits(a!, b!, { reduction, posWeight: p ?? null });
      },
      reference(tape, { a, b, p }) {
        const d = tape.sub(a!, b!);
        if (loss === "mse") return tape.mul(d, d);
        if (loss === "l1") return tape.map(d, Math.abs, Math.sign, [0]);
        if (loss === "huber" || loss === "smoothL1") {
          const huber = (v: number) =>
            Math.abs(v) <= delta ? (v * v) / 2 : delta * (Math.abs(v) - delta / 2);
          const slope = (v: number) => Math.min(Math.max(v, -delta), delta);
          const value = tape.map(d, huber, slope, [-delta, delta]);
          return loss === "huber" ? value : tape.scale(value, 1 / delta);
        }
        const soft = (v: number) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));
        if (p) {
          const below = tape.map(tape.scale(a!, -1), soft, logistic);
          const above = tape.map(a!, soft, logistic);
          return tape.add(tape.mul(tape.mul(b!, p), below), tape.sub(above, tape.mul(above, b!)));
        }
        return tape.sub(tape.map(a!, soft, logistic), tape.mul(a!, b!));
      },
    }),
  );

  property(
    ["div", "maximum", "minimum", "pow"],
    0.03,
    fc.record({
      shape: shapes({ min: 0, max: 5 }, 6),
      op: fc.constantFrom("div", "maximum", "minimum", "pow"),
      ones: fc.tuple(fc.nat(31), fc.nat(31)),
      dropped: fc.tuple(fc.nat(2), fc.nat(2)),
      x: moments,
      y: moments,
    }),
    ({ shape, op, ones, dropped, x, y }): OpCase => {
      // A divisor, or a base, between e⁻² and e².
      const divisor = (v: number) => Math.exp(Math.min(Math.max(v, -2), 2));
      return {
        inputs: {
          a: input(smaller(shape, ones[0], dropped[0]), x),
          b: input(smaller(shape, ones[1], dropped[1]), y),
        },
        run: ({ a, b }) =>
          op === "pow"
            ? fusenorm.pow(fusenorm.exp(fusenorm.clamp(a!, -2, 2)), fusenorm.clamp(b!, -2, 2))
            : op === "div"
              ? fusenorm.div(a!, fusenorm.exp(fusenorm.clamp(b!, -2, 2)))
              : (op === "maximum" ? fusenorm.maximum : fusenorm.minimum)(a!, b!),
        reference(tape, { a, b }) {
          if (op === "pow") {
            const kept = (t: Value) =>
              tape.map(
                t,
                (v) => Math.min(Math.max(v, -2), 2),
                (v) => (Math.abs(v) <= 2 ? 1 : 0),
                [-2, 2],
              );
            return tape.map(tape.mul(kept(a!), kept(b!)), Math.exp, Math.exp);
          }
          if (op === "div") {
            const inverse = (v: number) => 1 / divisor(v);
            return tape.mul(
              a!,
              tape.map(b!, inverse, (v) => (Math.abs(v) <= 2 ? -inverse(v) : 0), [-2, 2]),
            );
          }
          const above = tape.relu(tape.sub(a!, b!));
          return op === "maximum" ? tape.add(b!, above) : tape.sub(a!, above);
        },
      };
    },
  );

  const { eq, ne, lt, le, gt, ge } = fusenorm;
  const comparisons = {
    eq: [eq, (u: number, v: number) => u === v],
    ne: [ne, (u: number, v: number) => u !== v],
    lt: [lt, (u: number, v: number) => u < v],
    le: [le, (u: number, v: number) => u <= v],
    gt: [gt, (u: number, v: number) => u > v],
    ge: [ge, (u: number, v: number) => u >= v],
  } as const;
  property(
    ["where", "eq", "ne", "lt", "le", "gt", "ge"],
    0.03,
    fc.record({
      shape: shapes({ min: 0, max: 4 }, 6),
      op: fc.constantFrom(...(Object.keys(comparisons) as (keyof typeof comparisons)[])),
      number: fc.boolean(),
      ones: fc.tuple(fc.nat(15), fc.nat(15), fc.nat(15)),
      dropped: fc.tuple(fc.nat(2), fc.nat(2), fc.nat(2)),
      x: moments,
      y: moments,
    }),
    ({ shape, op, number, ones, dropped, x, y }): OpCase => {
      const [a, b, c] = ones.map((bits, i) => smaller(shape, bits, dropped[i]!)) as [Shape, Shape, Shape];
      const next = generator(x.seed);
      const compared = Float64Array.from({ length: sizeOf(c) }, () => Math.floor(3 * next()));
      const [compare, holds] = comparisons[op];
      const mask = compared.map((v) => Number(holds(v, 1)));
      return {
        inputs: { a: input(a, x), b: input(b, y) },
        run(t) {
          const left = gpu.tensor(compared, c);
          const right = number ? 1 : gpu.full([], 1);
          return fusenorm.where(compare(left, right), t.a!, t.b!);
        },
        reference: (tape, v) =>
          tape.add(
            tape.mul(v.a!, tape.leaf(c, mask)),
            tape.mul(
              v.b!,
              tape.leaf(
                c,
                mask.map((taken) => 1 - taken),
              ),
            ),
          ),
      };
    },
  );

  const { relu6, leakyRelu, silu, gelu, hardSwish } = fusenorm;
  const activationOps = {
    relu6,
    leakyRelu,
    silu,
    gelu,
    geluTanh: (x: Tensor) => gelu(x, { approximate: "tanh" }),
    hardSwish,
  };
  property(
    ["relu6", "leakyRelu", "silu", "gelu", "hardSwish"],
    0.03,
    fc.record({
      shape: shapes({ min: 0, max: 5 }, 6),
      name: fc.constantFrom(...(Object.keys(activationOps) as (keyof typeof activationOps)[])),
      x: moments,
    }),
    ({ shape, name, x }): OpCase => ({
      inputs: { x: input(shape, x) },
      run: (t) => activationOps[name](t.x!),
      reference: (tape, v) => tape.activation(v.x!, name),
    }),
  );

  const { abs, clamp, exp, log, neg, pow, rsqrt, sigmoid, softplus, sqrt, tanh } = fusenorm;
  const logistic = (v: number) => 1 / (1 + Math.exp(-v));
  const unaryOps: Record<
    string,
    [run: (x: Tensor) => Tensor, f: (v: number) => number, df: (v: number) => number, kinks?: number[]]
  > = {
    abs: [abs, Math.abs, Math.sign, [0]],
    neg: [neg, (v) => -v, () => -1],
    softplus: [softplus, (v) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v))), logistic],
    square: [(x) => pow(x, 2), (v) => v * v, (v) => 2 * v],
  };
  /** Those of positive numbers, of exp(x) kept near 1. */
  const positiveOps: typeof unaryOps = {
    exp: [(x) => x, (v) => v, () => 1],
    log: [log, Math.log, (v) => 1 / v],
    sqrt: [sqrt, Math.sqrt, (v) => 0.5 / Math.sqrt(v)],
    rsqrt: [rsqrt, (v) => v ** -0.5, (v) => -0.5 * v ** -1.5],
    pow: [(x) => pow(x, 1.7), (v) => v ** 1.7, (v) => 1.7 * v ** 0.7],
  };
  for (const [name, [run, f, df]] of Object.entries(positiveOps)) {
    const kept = (v: number) => Math.exp(Math.min(Math.max(v, -2), 2));
    unaryOps[`${name} of exp`] = [
      (x) => run(exp(clamp(x, -2, 2))),
      (v) => f(kept(v)),
      (v) => (Math.abs(v) <= 2 ? df(kept(v)) * kept(v) : 0),
      [-2, 2],
    ];
  }
  // Far out, 1 − y has no digits left, as in PyTorch.
  for (const [name, run, f, df] of [
    ["sigmoid", sigmoid, logistic, (v: number) => logistic(v) * logistic(-v)],
    ["tanh", tanh, Math.tanh, (v: number) => 1 - Math.tanh(v) ** 2],
  ] as const) {
    const kept = (v: number) => Math.min(Math.max(v, -3), 3);
    unaryOps[name] = [
      (x) => run(clamp(x, -3, 3)),
      (v) => f(kept(v)),
      (v) => (Math.abs(v) <= 3 ? df(v) : 0),
      [-3, 3],
    ];
  }
  property(
    ["abs", "neg", "sigmoid", "tanh", "softplus", "exp", "log", "sqrt", "rsqrt", "pow", "clamp"],
    0.03,
    fc.record({
      shape: shapes({ min: 0, max: 5 }, 6),
      name: fc.constantFrom(...Object.keys(unaryOps)),
      x: moments,
    }),
    ({ shape, name, x }): OpCase => {
      const [run, f, df, kinks] = unaryOps[name]!;
      return {
        inputs: { x: input(shape, x) },
        run: (t) => run(t.x!),
        reference: (tape, v) => tape.map(v.x!, f, df, kinks),
        ...(name === "log of exp" && { absolute: 2 ** -21 }), // WGSL's bound between 0.5 and 2
      };
    },
  );

  property(
    ["expand", "normalize"],
    0.02,
    fc.record({
      shape: shapes({ min: 1, max: 5 }, 6),
      normalize: fc.boolean(),
      ones: fc.nat(31),
      dropped: fc.nat(2),
      eps: fc.constantFrom(1e-5, 0.1),
      x: moments,
    }),
    ({ shape, normalize, ones, dropped, eps, x }): OpCase => {
      const small = smaller(shape, ones, dropped);
      if (!normalize) {
        return {
          inputs: { x: input(small, x) },
          run: (t) => fusenorm.expand(t.x!, shape),
          reference: (tape, v) => tape.expand(v.x!, shape),
        };
      }
      const variance = plain(small, x.seed, 2);
      return {
        inputs: {
          x: input(shape, { ...x, offset: Math.min(x.offset, 1) }),
          mean: plain(small, x.seed),
          variance: { shape: small, data: variance.data.map((v) => Math.fround(v * v + 0.1)) },
        },
        run: (t) => fusenorm.normalize(t.x!, t.mean!, t.variance!, eps),
        reference: (tape, v) => tape.normalize(v.x!, v.mean!, v.variance!, eps),
      };
    },
  );

  property(
    ["slice", "pad", "pad2d", "permute", "transpose"],
    0.04,
    fc.record({
      shape: shapes({ min: 1, max: 5 }, 7),
      op: fc.constantFrom("slice", "pad", "pad2d", "permute", "transpose"),
      cuts: fc.array(fc.tuple(fc.nat(6), fc.nat(6), fc.integer({ min: 1, max: 3 }), fc.boolean()), {
        minLength: 5,
        maxLength: 5,
      }),
      steps: fc.boolean(),
      value: fc.constantFrom(undefined, 0, -1.5),
      order: fc.array(fc.nat(100), { minLength: 5, maxLength: 5 }),
      x: moments,
    }),
    ({ shape, op, cuts, steps, value, order, x }) => {
      const rank = shape.length;
      const inputs = { x: input(shape, x) };
      if (op === "slice") {
        const starts = shape.map((s, i) => cuts[i]![0] % s);
        const ends = shape.map((s, i) => s - (cuts[i]![1] % (s - starts[i]!)));
        const by = shape.map((_, i) => (steps ? cuts[i]![2] : 1));
        const negative = (values: number[], i: number) =>
          cuts[i]![3] && values[i]! < shape[i]! ? values[i]! - shape[i]! : values[i]!;
        const [from, to] = [starts, ends].map((values) => values.map((_, i) => negative(values, i)));
        return {
          inputs,
          run: (t) => (steps ? fusenorm.slice(t.x!, from!, to!, by) : fusenorm.slice(t.x!, from!, to!)),
          reference: (tape, v) => tape.slice(v.x!, starts, ends, by),
        };
      }
      if (op === "pad" || (op === "pad2d" && rank === 4)) {
        const sides = shape.map((_, i) => [cuts[i]![0] % 4, cuts[i]![1] % 4] as const);
        const padding =
          op === "pad" ? sides : sides.map((side, i) => (i === 1 || i === 2 ? side : ([0, 0] as const)));
        const more = value === undefined ? [] : [value];
        return {
          inputs,
          run: (t) =>
            op === "pad"
              ? fusenorm.pad(t.x!, padding, ...more)
              : fusenorm.pad2d(t.x!, [...padding[1]!, ...padding[2]!], ...more),
          reference: (tape, v) => tape.pad(v.x!, padding, value ?? 0),
        };
      }
      if (op === "permute") {
        const axes = shape.map((_, i) => i).sort((a, b) => order[a]! - order[b]!);
        return {
          inputs,
          run: (t) =>
            fusenorm.permute(
              t.x!,
              axes.map((axis, i) => (cuts[i]![3] ? axis - rank : axis)),
            ),
          reference: (tape, v) => tape.permute(v.x!, axes),
        };
      }
      if (rank < 2) return null;
      const [a, b] = steps ? [rank - 2, rank - 1] : [order[0]! % rank, order[1]! % rank];
      const axes = shape.map((_, i) => (i === a ? b! : i === b ? a! : i));
      return {
        inputs,
        run: (t) => (steps ? fusenorm.transpose(t.x!) : fusenorm.transpose(t.x!, a, b! - rank)),
        reference: (tape, v) => tape.permute(v.x!, axes),
      };
    },
  );

  property(
    ["concat", "concatChannels", "subsample"],
    0.03,
    fc.record({
      shape: shapes({ min: 1, max: 4 }, 7),
      op: fc.constantFrom("concat", "concatChannels", "subsample"),
      sizes: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4, size: "max" }),
      axis: fc.option(fc.nat(3), { nil: undefined }),
      map: maps,
      stride: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
      more: fc.option(fc.oneof(fc.nat(5), fc.constantFrom(4, 8, 16)), { nil: undefined }),
      x: moments,
    }),
    ({ shape, op, sizes, axis, map, stride, more, x }) => {
      if (op === "subsample") {
        const channels = more === undefined ? undefined : map[3] + more;
        return {
          inputs: { x: input(map, x) },
          run: (t) => fusenorm.subsample(t.x!, { ...(stride && { stride }), ...(channels && { channels }) }),
          reference: (tape, v) => tape.subsample(v.x!, stride ?? 1, channels ?? map[3]),
        };
      }
      const base: Shape = op === "concat" ? shape : map;
      const along = op === "concat" && axis !== undefined ? axis % base.length : base.length - 1;
      const inputs = Object.fromEntries(
        sizes.map((size, i) => [
          `x${i}`,
          input(
            base.map((s, a) => (a === along ? size : s)),
            { ...x, seed: x.seed + i },
          ),
        ]),
      );
      const list = <T>(of: Record<string, T>) => sizes.map((_, i) => of[`x${i}`]!);
      return {
        inputs,
        run: (t) =>
          op === "concatChannels"
            ? fusenorm.concatChannels(list(t))
            : axis === undefined
              ? fusenorm.concat(list(t))
              : fusenorm.concat(list(t), x.seed % 2 ? along : along - base.length),
        reference: (tape, v) => tape.concat(list(v), along),
      };
    },
  );

  const doors = Object.keys(layouts) as (keyof typeof layouts)[];
  property(
    ["reshape", "flatten", ...doors],
    0.02,
    fc.record({
      shape: maps,
      op: fc.constantFrom("reshape", "flatten", ...doors),
      free: fc.boolean(),
      split: fc.constantFrom(1, 2, 3, 4),
      x: moments,
    }),
    ({ shape, op, free, split, x }) => {
      const inputs = { x: input(shape, x) };
      if (op === "reshape" || op === "flatten") {
        const all = sizeOf(shape);
        if (all % split !== 0) return null;
        const target = op === "flatten" ? [shape[0], all / shape[0]] : [split, all / split];
        return {
          inputs,
          run: (t) =>
            op === "flatten" ? fusenorm.flatten(t.x!) : fusenorm.reshape(t.x!, free ? [split, -1] : target),
          reference: (tape, v) => tape.reshape(v.x!, target),
        };
      }
      return {
        inputs,
        run: (t) => layouts[op].run(t.x!),
        reference: (tape, v) => tape.permute(v.x!, layouts[op].axes),
      };
    },
  );

  property(
    ["dropout", "dropout2d", "stochasticDepth"],
    0.01,
    fc.record({
      shape: shapes({ min: 2, max: 4 }),
      op: fc.constantFrom("dropout", "dropout2d", "row", "batch"),
      p: fc.constantFrom(0, 0.1, 0.5, 0.9, 1),
      seed: fc.nat(2 ** 30),
      x: moments,
    }),
    ({ shape, op, p, seed, x }) => {
      const channels = shape.at(-1)!;
      const perImage = sizeOf(shape.slice(1));
      const place = (i: number) => {
        if (op === "dropout") return i;
        const image = Math.floor(i / perImage);
        return op === "batch" ? 0 : op === "row" ? image : image * channels + (i % channels);
      };
      const random = new fusenorm.Random([seed, 0], [0, 0]);
      const words = Array.from({ length: sizeOf(shape) }, () => random.uint32());
      const isKept = (i: number) => p === 0 || (p < 1 && words[place(i)]! >= Math.round(p * 2 ** 32));
      const mask = Float64Array.from(words, (_, i) => (isKept(i) ? 1 / (1 - p) : 0));
      return {
        inputs: { x: input(shape, x) },
        run: (t) => {
          const generator = fusenorm.newGenerator(gpu, seed);
          if (op === "dropout") return fusenorm.dropout(t.x!, generator, { p });
          if (op === "dropout2d") return fusenorm.dropout2d(t.x!, generator, { p });
          return fusenorm.stochasticDepth(t.x!, generator, { p, mode: op });
        },
        reference: (tape, v) => tape.mul(v.x!, tape.leaf(shape, mask)),
      };
    },
  );

  property(["cast"], 0.01, fc.record({ shape: shapes({ min: 0, max: 3 }), x: moments }), ({ shape, x }) => ({
    // There and back: the gradient goes the same way.
    tolerance: 1e-3,
    inputs: { x: input(shape, x) },
    run: (t) => fusenorm.cast(fusenorm.cast(t.x!, "float16"), "float32"),
    reference: (tape, v) => tape.scale(v.x!, 1),
  }));
});

it("no op of the package is left out", () => {
  const index = readFileSync(new URL("../../src/index.ts", import.meta.url), "utf8");
  // What encodes kernels for others' devices is no op of tensors.
  const names = [...index.matchAll(/export \{([^}]*)\} from "\.\/ops\/(?!encode\/)/g)]
    .flatMap(([, list]) => list!.split(","))
    .map((name) => name.trim())
    .filter((name) => /^[a-z]/.test(name) && !name.startsWith("type "));
  expect(names.length).toBeGreaterThan(25);
  expect(names.filter((name) => !tested.has(name) && !/^(customOp|defineOp)/.test(name))).toEqual([]);
});
