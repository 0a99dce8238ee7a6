// Losses and activations where a network is sure: results near 0 have the digits that float32 has for them, one element at a time,
// and so have gradients. A norm over all elements would not see it.

import { describe, expect, it } from "vitest";
import { gelu, hardSwish, leakyRelu, relu, relu6, silu } from "../../src/ops/activations.ts";
import { bceWithLogits, huberLoss, l1Loss, mseLoss, smoothL1Loss } from "../../src/ops/losses.ts";
import { logSoftmax, softmax } from "../../src/ops/softmax/softmax.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { sigmoid, softplus, tanh } from "../../src/ops/unary.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { activations } from "../reference/activations.ts";

const gpu = await testGpu();
/** exp of −60 may be off by 60 units in the last place. */
const TOLERANCE = 2e-5;
/** Below it float32 has fewer digits. */
const LEAST = 2 ** -125;

/** The largest relative error of an element. */
function worst(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  let most = 0;
  for (let i = 0; i < expected.length; i += 1) {
    const [a, b] = [actual[i]!, expected[i]!];
    if (!Number.isFinite(a)) return Number.POSITIVE_INFINITY;
    most = Math.max(most, (Math.abs(a - b) - LEAST) / Math.max(Math.abs(b), LEAST));
  }
  return most;
}

/** From −60 to 60, denser around 0, as float32 has them. */
const logits = Float64Array.from({ length: 241 }, (_, i) => Math.fround(((i - 120) / 120) ** 3 * 60));
const σ = (z: number) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
const soft = (z: number) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));

/** Output and gradients of `run`, of an upstream gradient of its own for each element. */
async function both(
  run: (...inputs: Tensor[]) => Tensor,
  ...arrays: { data: Float64Array; shape: number[] }[]
) {
  const inputs = arrays.map(({ data, shape }) => gpu.tensor(data, shape, { requiresGrad: true }));
  const out = gpu.scope(() => run(...inputs));
  const upstream = normals(out.size, 77, 2, 0.3);
  const dy = gpu.tensor(upstream, out.shape);
  out.backward(dy);
  const found = { out: await out.read(), grads: [] as Float32Array[], upstream };
  for (const input of inputs) found.grads.push((await input.grad!.read()) as Float32Array);
  for (const tensor of [...inputs, out, dy]) tensor.dispose();
  return found;
}

describe("binary cross entropy", () => {
  const positive = Float64Array.of(0, 1, 0.25, 0.75, 0.999, 0.001, 0.5).map(Math.fround);
  const z = Float64Array.from(
    { length: logits.length * positive.length },
    (_, i) => logits[i % logits.length]!,
  );
  const t = z.map((_, i) => positive[Math.floor(i / logits.length)]!);
  const shape = [positive.length, logits.length];

  it("has the digits of small losses at both ends, and of their gradients", async () => {
    const run = (a: Tensor, b: Tensor) => bceWithLogits(a, b, { reduction: "none" });
    const { out, grads, upstream } = await both(run, { data: z, shape }, { data: t, shape });
    expect(
      worst(
        out,
        z.map((x, i) => t[i]! * soft(-x) + (1 - t[i]!) * soft(x)),
      ),
    ).toBeLessThan(TOLERANCE);
    // Where the target is neither 0 nor 1 the gradient is 0 somewhere, and has no more digits there than the target.
    const slopes = z.map((x, i) => upstream[i]! * ((1 - t[i]!) * σ(x) - t[i]! * σ(-x)));
    const sharp = (values: ArrayLike<number>) =>
      Array.from(values).filter((_, i) => t[i] === 0 || t[i] === 1);
    expect(worst(sharp(grads[0]!), sharp(slopes))).toBeLessThan(TOLERANCE);
    expect(relativeError(grads[0]!, slopes)).toBeLessThan(1e-6);
    expect(
      worst(
        grads[1]!,
        z.map((x, i) => -upstream[i]! * x),
      ),
    ).toBeLessThan(1e-6);
  });

  it("has them with weights too", async () => {
    const weight = normals(logits.length, 5).map((v) => Math.fround(0.2 + Math.abs(v)));
    const posWeight = normals(logits.length, 6).map((v) => Math.fround(0.01 + Math.abs(v)));
    for (const which of [
      [weight, null],
      [null, posWeight],
      [weight, posWeight],
    ] as const) {
      const [w, p] = which.map((data) => (data ? gpu.tensor(data, [logits.length]) : null));
      const run = (a: Tensor, b: Tensor) =>
        bceWithLogits(a, b, { reduction: "none", weight: w!, posWeight: p! });
      const { out, grads, upstream } = await both(run, { data: z, shape }, { data: t, shape });
      const factors = (i: number) =>
        [which[0]?.[i % logits.length] ?? 1, which[1]?.[i % logits.length] ?? 1] as const;
      const expected = z.map((x, i) => {
        const [a, b] = factors(i);
        return a * (b * t[i]! * soft(-x) + (1 - t[i]!) * soft(x));
      });
      const slopes = z.map((x, i) => {
        const [a, b] = factors(i);
        return upstream[i]! * a * ((1 - t[i]!) * σ(x) - b * t[i]! * σ(-x));
      });
      const sharp = (values: ArrayLike<number>) =>
        Array.from(values).filter((_, i) => t[i] === 0 || t[i] === 1);
      expect(worst(out, expected)).toBeLessThan(TOLERANCE);
      expect(worst(sharp(grads[0]!), sharp(slopes))).toBeLessThan(TOLERANCE);
      expect(relativeError(grads[0]!, slopes)).toBeLessThan(1e-6);
      w?.dispose();
      p?.dispose();
    }
  });
});

describe.each([3, 300])("of %i classes", (classes) => {
  // Row r: class r % classes is ahead of all others by a growing margin; the others differ.
  const rows = 25;
  const noise = normals(rows * classes, 8, 0, 0.5);
  const x = noise.map((v, i) => {
    const row = Math.floor(i / classes);
    return Math.fround(i % classes === (row * 7) % classes ? 3 + row * 3 : v);
  });
  const best = Array.from({ length: rows }, (_, row) => (row * 7) % classes);
  const shape = [rows, classes];
  /** log p and 1 − p of the row's best class, p of the others. */
  const reference = best.map((own, row) => {
    const values = x.subarray(row * classes, (row + 1) * classes);
    const others = values.reduce((sum, v, k) => (k === own ? sum : sum + Math.exp(v - values[own]!)), 0);
    return {
      log: (k: number) => values[k]! - values[own]! - Math.log1p(others),
      p: (k: number) => Math.exp(values[k]! - values[own]!) / (1 + others),
      /** p − 1 of the best class; p of another. */
      slope: (k: number) =>
        k === own ? -others / (1 + others) : Math.exp(values[k]! - values[own]!) / (1 + others),
    };
  });
  const each = (of: (r: (typeof reference)[number], k: number, row: number) => number) =>
    Float64Array.from(x, (_, i) =>
      of(reference[Math.floor(i / classes)]!, i % classes, Math.floor(i / classes)),
    );

  it("the cross entropy of the right one has the digits of small losses, and of their gradients", async () => {
    const labels = gpu.tensor(Uint32Array.from(best), [rows], { dtype: "uint32" });
    const weight = normals(classes, 9).map((v) => Math.fround(0.5 + Math.abs(v)));
    const weights = gpu.tensor(weight, [classes]);
    const losses = reference.map(({ log }, row) => -log(best[row]!));
    expect(Math.min(...losses)).toBeLessThan(1e-25);
    for (const w of [null, weights]) {
      const factor = (row: number) => (w ? weight[best[row]!]! : 1);
      const run = (a: Tensor) => softmaxCrossEntropy(a, labels, { reduction: "none", weight: w });
      const { out, grads, upstream } = await both(run, { data: x, shape });
      expect(
        worst(
          out,
          losses.map((loss, row) => factor(row) * loss),
        ),
      ).toBeLessThan(TOLERANCE);
      const slopes = each((r, k, row) => upstream[row]! * factor(row) * r.slope(k));
      expect(worst(grads[0]!, slopes)).toBeLessThan(TOLERANCE);
    }
    // The same labels as probabilities, and what their gradient is.
    const sure = each((_, k, row) => (k === best[row] ? 1 : 0));
    const run = (a: Tensor, b: Tensor) => softmaxCrossEntropy(a, b, { reduction: "none" });
    const { out, grads, upstream } = await both(run, { data: x, shape }, { data: sure, shape });
    expect(worst(out, losses)).toBeLessThan(TOLERANCE);
    expect(
      worst(
        grads[0]!,
        each((r, k, row) => upstream[row]! * r.slope(k)),
      ),
    ).toBeLessThan(TOLERANCE);
    expect(
      worst(
        grads[1]!,
        each((r, k, row) => -upstream[row]! * r.log(k)),
      ),
    ).toBeLessThan(TOLERANCE);
    labels.dispose();
    weights.dispose();
  });

  it("the mean of small losses has their digits", async () => {
    const from = 5;
    const labels = gpu.tensor(Uint32Array.from(best.slice(from)), [rows - from], { dtype: "uint32" });
    const some = { data: x.slice(from * classes), shape: [rows - from, classes] };
    const { out } = await both((a) => softmaxCrossEntropy(a, labels), some);
    const expected = reference.slice(from).reduce((sum, { log }, i) => sum - log(best[from + i]!), 0);
    expect(worst(out, [expected / (rows - from)])).toBeLessThan(TOLERANCE);
    labels.dispose();
  });

  it("logSoftmax has the digits of logarithms near 0, and of the gradient of one class", async () => {
    const own = gpu.tensor(
      each((_, k, row) => (k === best[row] ? 1 : 0)),
      shape,
    );
    const { out } = await both((a) => logSoftmax(a), { data: x, shape });
    expect(
      worst(
        out,
        each((r, k) => r.log(k)),
      ),
    ).toBeLessThan(TOLERANCE);
    const input = gpu.tensor(x, shape, { requiresGrad: true });
    const y = logSoftmax(input);
    y.backward(own);
    expect(
      worst(
        await input.grad!.read(),
        each((r, k) => -r.slope(k)),
      ),
    ).toBeLessThan(TOLERANCE);
    for (const tensor of [own, input, y]) tensor.dispose();
  });

  it("softmax has the digits of small probabilities", async () => {
    const { out } = await both((a) => softmax(a), { data: x, shape });
    expect(
      worst(
        out,
        each((r, k) => r.p(k)),
      ),
    ).toBeLessThan(TOLERANCE);
  });
});

describe("three classes, at every distance of one", () => {
  const gaps = Float64Array.from({ length: 97 }, (_, i) => Math.fround(0.04 * i));
  const row = (i: number) => Math.floor(i / 3);
  const x = Float64Array.from({ length: 3 * gaps.length }, (_, i) => (i % 3 === 0 ? gaps[row(i)]! : 0));
  const shape = [gaps.length, 3];

  it("losses and gradients are as good as those of the distance", async () => {
    const labels = gpu.tensor(new Uint32Array(gaps.length), [gaps.length], { dtype: "uint32" });
    const first = gpu.tensor(
      x.map((_, i) => (i % 3 === 0 ? 1 : 0)),
      shape,
    );
    const losses = gaps.map((gap) => soft(Math.LN2 - gap));
    const slope = (i: number) => (i % 3 === 0 ? -1 : 0.5) * σ(Math.LN2 - gaps[row(i)]!);
    const { out, grads, upstream } = await both(
      (a) => softmaxCrossEntropy(a, labels, { reduction: "none" }),
      { data: x, shape },
    );
    expect(worst(out, losses)).toBeLessThan(1e-6);
    expect(
      worst(
        grads[0]!,
        x.map((_, i) => upstream[row(i)]! * slope(i)),
      ),
    ).toBeLessThan(1e-6);
    const input = gpu.tensor(x, shape, { requiresGrad: true });
    const y = logSoftmax(input);
    y.backward(first);
    const log = await y.read();
    expect(
      worst(
        log.filter((_, i) => i % 3 === 0),
        losses.map((v) => -v),
      ),
    ).toBeLessThan(1e-6);
    expect(
      worst(
        await input.grad!.read(),
        x.map((_, i) => -slope(i)),
      ),
    ).toBeLessThan(1e-6);
    for (const tensor of [labels, first, input, y]) tensor.dispose();
  });

  it("softplus too", async () => {
    const { out } = await both((a) => softplus(a), { data: gaps.map((gap) => -gap), shape: [gaps.length] });
    expect(
      worst(
        out,
        gaps.map((gap) => soft(-gap)),
      ),
    ).toBeLessThan(1e-6);
  });
});

describe("activations", () => {
  const wide = { data: logits, shape: [logits.length] };
  const tails: Record<
    string,
    [(x: Tensor) => Tensor, (x: number) => number, ((x: number) => number) | null]
  > = {
    sigmoid: [sigmoid, σ, null], // its gradient is that of its output, as in PyTorch
    softplus: [softplus, soft, σ],
    "softplus, beta 0.5": [
      (x) => softplus(x, { beta: 0.5, threshold: 40 }),
      (x) => 2 * soft(x / 2),
      (x) => σ(x / 2),
    ],
    tanh: [tanh, Math.tanh, null],
    silu: [silu, (x) => x * σ(x), (x) => σ(x) * (1 + x * σ(-x))],
    relu: [relu, (x) => Math.max(x, 0), (x) => (x > 0 ? 1 : 0)],
    relu6: [relu6, (x) => Math.min(Math.max(x, 0), 6), (x) => (x > 0 && x < 6 ? 1 : 0)],
    leakyRelu: [
      leakyRelu,
      (x) => (x > 0 ? x : Math.fround(0.01) * x),
      (x) => (x > 0 ? 1 : Math.fround(0.01)),
    ],
    hardSwish: [hardSwish, (x) => (x * Math.min(Math.max(x + 3, 0), 6)) / 6, null],
  };
  it.each(Object.entries(tails))("%s has the digits of small values", async (_, [run, f, df]) => {
    const { out, grads, upstream } = await both(run, wide);
    expect(worst(out, logits.map(f))).toBeLessThan(TOLERANCE);
    if (df)
      expect(
        worst(
          grads[0]!,
          logits.map((x, i) => upstream[i]! * df(x)),
        ),
      ).toBeLessThan(TOLERANCE);
  });

  it.each(["none", "tanh"] as const)(
    "gelu, approximate %s, has the digits of small values",
    async (approximate) => {
      // Beyond −9 the tail is below 1e-19.
      const data = Float64Array.from({ length: 101 }, (_, i) => Math.fround(-9 + 0.17 * i));
      const { f, df } = activations[approximate === "none" ? "gelu" : "geluTanh"];
      const { out, grads, upstream } = await both((x) => gelu(x, { approximate }), { data, shape: [101] });
      expect(relativeError(out, data.map(f))).toBeLessThan(1e-6);
      expect(
        relativeError(
          grads[0]!,
          data.map((x, i) => upstream[i]! * df(x)),
        ),
      ).toBeLessThan(1e-6);
    },
  );

  const far = { data: logits.map((v) => Math.fround(v / 7)), shape: [logits.length] };
  const near = { data: normals(logits.length, 3), shape: [logits.length] };
  const huber = (delta: number) => (d: number) =>
    Math.abs(d) <= delta ? (d * d) / 2 : delta * (Math.abs(d) - delta / 2);
  const distances: Record<string, [typeof mseLoss, (d: number) => number]> = {
    mseLoss: [mseLoss, (d) => d * d],
    l1Loss: [l1Loss, Math.abs],
    huberLoss: [huberLoss, huber(1)],
    smoothL1Loss: [smoothL1Loss, huber(1)],
  };
  it.each(Object.entries(distances))("%s has the digits of small differences", async (_, [run, f]) => {
    const none = (a: Tensor, b: Tensor) => run(a, b, { reduction: "none" });
    const { out } = await both(none, far, near);
    const d = far.data.map((a, i) => Math.fround(a - near.data[i]!));
    expect(worst(out, d.map(f))).toBeLessThan(1e-6);
  });
});
