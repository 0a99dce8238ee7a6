import { describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import { mul } from "../../src/ops/elementwise/elementwise.ts";
import { Muon, type MuonOptions } from "../../src/optim/muon.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { owner } from "../helpers/owner.ts";
import { square } from "../helpers/square.ts";

const { owned, release } = owner();

type Matrix = number[][];
const times = (a: Matrix, b: Matrix): Matrix =>
  a.map((row) => b[0]!.map((_, j) => row.reduce((sum, value, k) => sum + value * b[k]![j]!, 0)));
const transposed = (a: Matrix): Matrix => a[0]!.map((_, j) => a.map((row) => row[j]!));

/** The Newton–Schulz iteration as PyTorch has it, in float64: the matrix lies on its side while it has more rows than columns. */
function orthogonal(flat: ArrayLike<number>, rows: number, steps: number): number[] {
  const columns = flat.length / rows;
  let x: Matrix = Array.from({ length: rows }, (_, i) =>
    Array.from({ length: columns }, (_, j) => flat[i * columns + j]!),
  );
  if (rows > columns) x = transposed(x);
  const norm = Math.max(1e-7, Math.hypot(...x.flat()));
  x = x.map((row) => row.map((value) => value / norm));
  for (let step = 0; step < steps; step += 1) {
    const gram = times(x, transposed(x));
    const squared = times(gram, gram);
    const mix = gram.map((row, i) => row.map((value, j) => -4.775 * value + 2.0315 * squared[i]![j]!));
    const more = times(mix, x);
    x = x.map((row, i) => row.map((value, j) => 3.4445 * value + more[i]![j]!));
  }
  return (rows > columns ? transposed(x) : x).flat();
}

function reference(
  w: Float64Array,
  a: Float64Array,
  rows: number,
  rates: readonly number[],
  options: MuonOptions,
) {
  const { weightDecay = 0.1, momentum = 0.95, nesterov = true, nsSteps = 5, adjustLr = "original" } = options;
  const columns = w.length / rows;
  const factor =
    adjustLr === "original"
      ? Math.sqrt(Math.max(1, rows / columns))
      : 0.2 * Math.sqrt(Math.max(rows, columns));
  const buffer = new Float64Array(w.length);
  for (const lr of rates) {
    const update = w.map((value, i) => {
      const g = 2 * a[i]! * value;
      buffer[i] = momentum * buffer[i]! + (1 - momentum) * g;
      return nesterov ? momentum * buffer[i]! + (1 - momentum) * g : buffer[i]!;
    });
    const u = orthogonal(update, rows, nsSteps);
    for (let i = 0; i < w.length; i += 1) w[i] = w[i]! * (1 - lr * weightDecay) - lr * factor * u[i]!;
  }
  return w;
}

function stepper(gpu: Gpu, optimizer: Muon, w: Tensor[], a: Tensor[]): () => void {
  const ones = w.map(({ shape }) => owned(gpu.full(shape, 1)));
  return () =>
    gpu.scope(() => {
      optimizer.zeroGrad();
      for (const [i, parameter] of w.entries()) mul(square(parameter), a[i]!).backward(ones[i]!);
      optimizer.step();
    });
}

describe("Muon", () => {
  // Wide, tall, square; a filter; one row; one for more than all invocations of a software adapter take in one round.
  const shapes = [
    [5, 12],
    [12, 5],
    [7, 7],
    [6, 3, 3, 2],
    [1, 9],
    [8, 600],
  ];
  const size = (shape: number[]) => shape.reduce((a, b) => a * b);
  const rates = [0.05, 0.02, 0.01];
  const make = (gpu: Gpu) => ({
    w: shapes.map((shape, i) => owned(gpu.tensor(normals(size(shape), i), shape, { requiresGrad: true }))),
    a: shapes.map((shape, i) => owned(gpu.tensor(normals(size(shape), 20 + i, 1, 0.3), shape))),
  });

  for (const options of [
    {},
    { nesterov: false, momentum: 0.5, nsSteps: 3, weightDecay: 0, adjustLr: "match_rms_adamw" },
  ] as MuonOptions[]) {
    for (const captured of [false, true]) {
      it(`follows PyTorch's rule ${JSON.stringify(options)}${captured ? ", captured" : ""}`, async () => {
        const gpu = await testGpu();
        const before = gpu.stats.liveBuffers;
        const { w, a } = make(gpu);
        const optimizer = owned(new Muon(w, { lr: rates[0]!, ...options }));
        const step = stepper(gpu, optimizer, w, a);
        let plan: ReturnType<typeof gpu.capture> | null = null;
        for (const rate of rates) {
          optimizer.lr = rate;
          if (!captured) step();
          else if (plan) plan.run();
          else plan = owned(gpu.capture(step));
        }
        for (const [i, shape] of shapes.entries()) {
          const [data, factors] = [normals(size(shape), i), normals(size(shape), 20 + i, 1, 0.3)];
          const expected = reference(data.slice(), factors, shape[0]!, rates, options);
          expect(relativeError(await w[i]!.read(), expected), `${shape}`).toBeLessThan(2e-5);
        }
        release();
        expect(gpu.stats.liveBuffers).toBe(before);
      });
    }
  }

  it("steps a row by its direction, worked out by hand; a gradient of zeros is no step", async () => {
    const gpu = await testGpu();
    const w = owned(gpu.tensor([0, 0], [1, 2], { requiresGrad: true }));
    const still = owned(gpu.tensor([1, 2], [1, 2], { requiresGrad: true }));
    const optimizer = owned(new Muon([w, still], { lr: 1, nsSteps: 1 }));
    w.grad = gpu.keep(gpu.tensor([3, -4], [1, 2]));
    still.grad = gpu.keep(gpu.tensor([0, 0], [1, 2]));
    optimizer.step();
    // Of length 1 the polynomial makes 3.4445 − 4.775 + 2.0315 = 0.701.
    expect(relativeError(await w.read(), [-0.6 * 0.701, 0.8 * 0.701])).toBeLessThan(1e-6);
    expect(relativeError(await still.read(), [0.9, 1.8])).toBeLessThan(1e-6); // the decay alone
  });

  it("goes on from its state as if it had never stopped", async () => {
    const gpu = await testGpu();
    const run = async (parts: number[]) => {
      const { w, a } = make(gpu);
      let optimizer = new Muon(w);
      for (const steps of parts) {
        const step = stepper(gpu, optimizer, w, a);
        for (let i = 0; i < steps; i += 1) step();
        const state = await optimizer.stateDict();
        expect(Object.keys(state)).toContain("momentum_buffer.0");
        optimizer.dispose();
        optimizer = new Muon(w);
        optimizer.loadStateDict(state);
      }
      optimizer.dispose();
      return Promise.all(w.map((x) => x.read()));
    };
    expect(await run([1, 2])).toEqual(await run([3]));
  });

  it("refuses what it is not made for", async () => {
    const gpu = await testGpu();
    const bias = owned(gpu.tensor([1], [1], { requiresGrad: true }));
    const live = gpu.stats.liveBuffers;
    expect(() => new Muon([bias])).toThrow(
      /Muon: parameter 0 is of shape \[1\]; expected matrices and filters/,
    );
    expect(() => new Muon([bias], { momentum: 1 })).toThrow(/Muon: momentum is 1/);
    expect(() => new Muon([bias], { adjustLr: "none" as never })).toThrow(/Muon: adjustLr is "none"/);
    expect(gpu.stats.liveBuffers).toBe(live);
  });
});
