// Gradients of parameters, whose partial sums are added up at the end of a backward pass, many in one dispatch.

import { afterEach, describe, expect, it } from "vitest";
import { checkpoint } from "../../src/autograd/checkpoint.ts";
import { noGrad } from "../../src/autograd/tape.ts";
import * as shaders from "../../src/generated/shaders.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { customOp } from "../../src/ops/define-op.ts";
import { add } from "../../src/ops/elementwise/elementwise.ts";
import { SGD } from "../../src/optim/sgd.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";

const gpu = await testGpu();
const adapter = gpu.info as { class: string };
const ownClass = adapter.class;
afterEach(() => {
  adapter.class = ownClass;
});

/** Filters of 6 by 6 channels. */
function filters(count: number): Tensor[] {
  return Array.from({ length: count }, (_, i) =>
    gpu.keep(
      gpu.tensor(normals(6 * 9 * 6, i + 1), [6, 3, 3, 6], {
        requiresGrad: true,
      }),
    ),
  );
}

const SHAPE = [3, 11, 7, 6];
const SIZE = 3 * 11 * 7 * 6;

function input(): Tensor {
  return gpu.keep(gpu.tensor(normals(SIZE, 90), SHAPE, { requiresGrad: true }));
}

/** The filters one after the other; `dy` is the upstream gradient. */
function chain(x: Tensor, weights: readonly Tensor[]): Tensor {
  return weights.reduce((y, weight) => conv2d(y, weight, { padding: 1 }), x);
}

async function gradientsOf(tensors: readonly Tensor[]): Promise<Float32Array[]> {
  const all: Float32Array[] = [];
  for (const tensor of tensors) all.push((await tensor.grad!.read()) as Float32Array);
  return all;
}

function sumKernels(step: () => void): number {
  return gpu.explain(step).filter(({ kernel }) => kernel.startsWith("sum_partials")).length;
}

/** Each filter's gradient by a pass of its own, in which it alone requires one. */
async function oneByOne(x: Tensor, weights: readonly Tensor[], dy: Tensor): Promise<Float32Array[]> {
  const all: Float32Array[] = [];
  for (const weight of weights) {
    for (const other of weights) other.requiresGrad = other === weight;
    gpu.scope(() => chain(x, weights).backward(dy));
    all.push((await weight.grad!.read()) as Float32Array);
    weight.zeroGrad();
    x.zeroGrad();
  }
  for (const weight of weights) weight.requiresGrad = true;
  return all;
}

describe("sum_partials", () => {
  for (const entry of ["sum_partials", "sum_partials_workgroup"] as const) {
    it(`adds up gradients that lie anywhere in a buffer: ${entry}`, async () => {
      // [slices, rows, count, vec4s before, numbers before]; the last blocks are not full, and the last gradient has more vec4s
      // than two workgroups have invocations.
      const items = [
        [37, 5, 10, 3, 70],
        [1, 3, 7, 3 + 37 * 15 + 2, 0],
        [70, 33, 3, 3 + 37 * 15 + 2 + 6 + 1, 130],
        [2, 1, 4, 3 + 37 * 15 + 2 + 6 + 1 + 70 * 33, 121],
        [33, 5, 129, 3 + 37 * 15 + 2 + 6 + 1 + 70 * 33 + 2, 300],
      ] as const;
      const [lastSlices, lastRows, lastCount, lastAt] = items.at(-1)!;
      const values = normals(4 * (lastAt + lastSlices * lastRows * Math.ceil(lastCount / 4)), 3);
      const before = normals(960, 4);
      const expected = Float64Array.from(new Float32Array(before));
      for (const [slices, rows, count, at, outAt] of items) {
        const width = 4 * Math.ceil(count / 4);
        for (let i = 0; i < rows * count; i += 1) {
          const from = 4 * at + Math.floor(i / count) * width + (i % count);
          let sum = 0;
          for (let slice = 0; slice < slices; slice += 1)
            sum += Math.fround(values[from + slice * rows * width]!);
          expected[outAt + i] = sum;
        }
      }
      const partials = gpu.tensor(values, [values.length]);
      const out = gpu.tensor(before, [before.length]);
      const sums = {
        sizes: items.flatMap((item) => item.slice(0, 4)),
        out_at: items.map(([, , , , outAt]) => outAt),
      };
      gpu.run({ shader: shaders.sum_partials, entry }, { out, partials, sums }, [2, items.length]);
      const actual = await out.read();
      expect(relativeError(actual, expected)).toBeLessThan(1e-6);
      // What lies between the gradients is as it was.
      for (const i of [50, 69, 129, 229, 299, 945]) expect(actual[i]).toBe(expected[i]);
      for (const tensor of [partials, out]) tensor.dispose();
    });
  }
});

describe("gradients of parameters at the end of a pass", () => {
  it("are those of passes for one parameter each, in fewer dispatches, on both classes of adapters", async () => {
    const weights = filters(20);
    const optimizer = new SGD(weights, { lr: 0.1 });
    const x = input();
    const dy = gpu.keep(gpu.tensor(normals(SIZE, 91), SHAPE));
    for (const cls of [ownClass, "hardware"]) {
      adapter.class = cls;
      const expected = await oneByOne(x, weights, dy);
      // More than one dispatch has places for.
      const dispatches = sumKernels(() => gpu.scope(() => chain(x, weights).backward(dy)));
      expect(await gradientsOf(weights)).toEqual(expected);
      expect(dispatches).toBeGreaterThan(0);
      expect(dispatches).toBeLessThan(5);
      optimizer.zeroGrad();
      x.zeroGrad();
    }
    optimizer.dispose();
    for (const tensor of [...weights, x, dy]) tensor.dispose();
  });

  it("add to what a parameter has, in the pass or from one before", async () => {
    const [weight, other] = filters(2) as [Tensor, Tensor];
    const x = input();
    const dy = gpu.keep(gpu.tensor(normals(SIZE, 91), SHAPE));
    const single = async (uses: readonly number[]) => {
      // The same filter as leaves of its own.
      const copies = uses.map(() => gpu.tensor(normals(6 * 9 * 6, 1), [6, 3, 3, 6], { requiresGrad: true }));
      gpu.scope(() => chain(x, [copies[0]!, other, copies[1]!]).backward(dy));
      const [a, b] = await gradientsOf(copies);
      for (const copy of copies) copy.dispose();
      return Float64Array.from(a!, (value, i) => value + b![i]!);
    };
    const expected = await single([0, 1]);
    for (const tensor of [x, other]) tensor.zeroGrad();
    const optimizer = new SGD([weight, other], { lr: 0.1 });
    for (const times of [1, 2]) {
      gpu.scope(() => chain(x, [weight, other, weight]).backward(dy));
      const [sum] = await gradientsOf([weight]);
      expect(
        relativeError(
          sum!,
          expected.map((value) => times * value),
        ),
      ).toBeLessThan(1e-6);
    }
    // Through a checkpoint, whose pass is part of the other.
    optimizer.zeroGrad();
    const part = (z: Tensor) => chain(z, [other, weight]);
    gpu.scope(() => chain(checkpoint(part, chain(x, [weight])), [other, weight]).backward(dy));
    const [through] = await gradientsOf([weight]);
    optimizer.zeroGrad();
    gpu.scope(() => chain(x, [weight, other, weight, other, weight]).backward(dy));
    const [plain] = await gradientsOf([weight]);
    expect(relativeError(through!, plain!)).toBeLessThan(1e-5);
    optimizer.dispose();
    for (const tensor of [weight, other, x, dy]) tensor.dispose();
  });

  it("are whole, where a later op of the pass throws; and nothing is held on to", async () => {
    const live = gpu.stats.liveBuffers;
    const weights = filters(3);
    const x = input();
    const dy = gpu.keep(gpu.tensor(normals(SIZE, 91), SHAPE));
    const [, ...expected] = await oneByOne(x, weights, dy);
    const faulty = customOp({
      name: "faulty",
      inputs: { x: "..." },
      infer: ({ x: shape }) => ({ out: shape }),
      forward(ctx, { x: source }, { out: shape }) {
        const out = ctx.empty(shape);
        gpu.copyRange(source.range, out.range);
        return { out, saved: {} };
      },
      backward() {
        throw new Error("as it should");
      },
    });
    const [first, ...rest] = weights as [Tensor, Tensor, Tensor];
    const y = gpu.scope(() => chain(faulty({ x: chain(x, [first]) }, {}), rest));
    expect(() => y.backward(dy)).toThrow("as it should");
    expect(await gradientsOf(rest)).toEqual(expected);
    expect(first.grad).toBeNull();
    for (const tensor of [...weights, x, dy, y]) tensor.dispose();
    expect(gpu.stats.liveBuffers).toBe(live);
  });

  it("come to nothing for a parameter that is disposed of, and to all others as ever", async () => {
    const weights = filters(3);
    const x = input();
    const dy = gpu.keep(gpu.tensor(normals(SIZE, 91), SHAPE));
    const expected = await oneByOne(x, weights, dy);
    const y = gpu.scope(() => chain(x, weights));
    weights[1]!.dispose();
    y.backward(dy);
    const kept = [weights[0]!, weights[2]!];
    expect(await gradientsOf(kept)).toEqual([expected[0], expected[2]]);
    for (const tensor of [...kept, x, dy, y]) tensor.dispose();
  });

  it("are those of a captured step, again and again", async () => {
    const weights = filters(4);
    const optimizer = new SGD(weights, { lr: 1e-7 });
    const bias = gpu.keep(gpu.tensor(normals(6, 5), [6], { requiresGrad: true }));
    const x = input();
    const dy = gpu.keep(gpu.tensor(normals(SIZE, 91), SHAPE));
    const step = () => {
      const y = conv2d(chain(x, weights), weights[0]!, { bias, padding: 1 });
      const branch = add(y, conv2d(x, weights[1]!, { padding: 1 }));
      branch.backward(dy);
      noGrad(() => optimizer.step());
      optimizer.zeroGrad();
      bias.zeroGrad();
      x.zeroGrad();
    };
    const start = await Promise.all(weights.map((weight) => weight.read()));
    for (let i = 0; i < 3; i += 1) gpu.scope(step);
    const eager = await Promise.all(weights.map((weight) => weight.read()));
    const plan = gpu.capture(step);
    for (const [i, weight] of weights.entries()) weight.write(start[i]!);
    for (let i = 0; i < 3; i += 1) plan.run();
    for (const [i, weight] of weights.entries()) {
      const values = await weight.read();
      expect(relativeError(values, eager[i]!)).toBeLessThan(1e-6);
      expect(relativeError(values, start[i]!)).toBeGreaterThan(1e-3);
    }
    plan.dispose();
    optimizer.dispose();
    for (const tensor of [...weights, bias, x, dy]) tensor.dispose();
  });
});
