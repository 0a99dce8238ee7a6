// Backward needs tensors as the forward saw them: whoever overwrites one in between is told, whatever the way.

import { beforeAll, describe, expect, it } from "vitest";
import { checkpoint } from "../../src/autograd/checkpoint.ts";
import { enableGrad, noGrad } from "../../src/autograd/tape.ts";
import { imageDataset } from "../../src/data/dataset.ts";
import { DeviceDataset } from "../../src/data/device-dataset.ts";
import { OverwrittenTensorError } from "../../src/errors.ts";
import type { Gpu } from "../../src/gpu.ts";
import { BatchNorm2d } from "../../src/nn/layers.ts";
import { relu } from "../../src/ops/activations.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { batchNormStatistics, mergeStatistics } from "../../src/ops/batch-norm/statistics.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { customOp } from "../../src/ops/define-op.ts";
import { add, mul, normalize, scale, sub } from "../../src/ops/elementwise/elementwise.ts";
import { groupNorm } from "../../src/ops/group-norm/group-norm.ts";
import { layerNorm } from "../../src/ops/group-norm/layer-norm.ts";
import { linear } from "../../src/ops/linear.ts";
import { matmul } from "../../src/ops/matmul/matmul.ts";
import { sum, variance } from "../../src/ops/reduce/reduce.ts";
import { reshape } from "../../src/ops/reshape.ts";
import { softmax } from "../../src/ops/softmax/softmax.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { SGD } from "../../src/optim/sgd.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";

let gpu: Gpu;
beforeAll(async () => {
  gpu = await testGpu();
});

const tensor = (shape: number[], seed: number, mean = 0) =>
  gpu.tensor(
    normals(
      shape.reduce((a, b) => a * b, 1),
      seed,
      mean,
    ),
    shape,
    { requiresGrad: true },
  );

interface Case {
  inputs: Record<string, () => Tensor>;
  run(t: Record<string, Tensor>): Tensor;
  /** Inputs that backward reads again. The output is called `out`. */
  saved: readonly string[];
}

const labels = () => gpu.tensor([1, 0, 2], [3], { dtype: "uint32" });
const x = () => tensor([2, 4, 4, 8], 1);
const c = (seed: number) => () => tensor([8], seed, 2);

const cases: Record<string, Case> = {
  relu: { inputs: { x }, run: (t) => relu(t.x!), saved: ["out"] },
  mul: { inputs: { a: x, b: x }, run: (t) => mul(t.a!, t.b!), saved: ["a", "b"] },
  scale: { inputs: { x, factor: c(2) }, run: (t) => scale(t.x!, t.factor!), saved: ["x", "factor"] },
  normalize: {
    inputs: {
      x,
      mean: c(2),
      variance: () => gpu.tensor([1, 2, 3, 4, 5, 6, 7, 8], [8], { requiresGrad: true }),
    },
    run: (t) => normalize(t.x!, t.mean!, t.variance!),
    saved: ["x", "mean", "variance"],
  },
  variance: { inputs: { x }, run: (t) => variance(t.x!, [0, 1, 2]), saved: ["x"] },
  softmax: { inputs: { x: () => tensor([3, 5], 1) }, run: (t) => softmax(t.x!), saved: ["out"] },
  softmaxCrossEntropy: {
    inputs: { logits: () => tensor([3, 5], 1), labels },
    run: (t) => softmaxCrossEntropy(t.logits!, t.labels!),
    saved: ["logits", "labels"],
  },
  linear: {
    inputs: { x: () => tensor([3, 5], 1), weight: () => tensor([4, 5], 2), bias: () => tensor([4], 3) },
    run: (t) => linear(t.x!, t.weight!, t.bias!),
    saved: ["x", "weight"],
  },
  matmul: {
    inputs: { a: () => tensor([3, 5], 1), b: () => tensor([5, 4], 2) },
    run: (t) => matmul(t.a!, t.b!),
    saved: ["a", "b"],
  },
  conv2d: {
    inputs: { x, weight: () => tensor([8, 3, 3, 8], 2), bias: c(3) },
    run: (t) => conv2d(t.x!, t.weight!, { bias: t.bias, padding: 1 }),
    saved: ["x", "weight"],
  },
  batchNorm: {
    inputs: { x, gamma: c(2), beta: c(3), residual: x },
    run: (t) =>
      batchNorm(t.x!, t.gamma!, t.beta!, { training: true, residual: t.residual, activation: "relu" }),
    saved: ["x"],
  },
  batchNormStatistics: { inputs: { x }, run: (t) => batchNormStatistics(t.x!), saved: ["x", "out"] },
  mergeStatistics: {
    inputs: { a: () => tensor([4, 8], 1, 5), b: () => tensor([4, 8], 2, 5) },
    run: (t) => mergeStatistics([t.a!, t.b!]),
    saved: ["a", "b"],
  },
  groupNorm: {
    inputs: { x, gamma: c(2), beta: c(3) },
    run: (t) => groupNorm(t.x!, 2, t.gamma!, t.beta!),
    saved: ["x", "gamma"],
  },
  layerNorm: {
    inputs: { x, gamma: c(2), beta: c(3) },
    run: (t) => layerNorm(t.x!, 8, t.gamma!, t.beta!),
    saved: ["x", "gamma"],
  },
  add: { inputs: { a: x, b: x }, run: (t) => add(t.a!, t.b!), saved: [] },
  sub: { inputs: { a: x, b: c(2) }, run: (t) => sub(t.a!, t.b!), saved: [] },
  sum: { inputs: { x }, run: (t) => sum(t.x!), saved: [] },
};

const source = /* wgsl */ `
  @group(0) @binding(0) var<storage, read_write> y: array<f32>;
  @group(0) @binding(1) var<storage, read> x: array<f32>;
  fn store(i: u32) { y[i] = 2 * x[0]; } // y is written in a function that main calls
  @compute @workgroup_size(1) fn main() { store(0); }
  @compute @workgroup_size(1) fn other() { _ = x[0]; }`;

/** Ways to overwrite a float32 tensor. */
const ways: Record<string, (t: Tensor) => void> = {
  write: (t) => t.write(t.dtype === "uint32" ? new Uint32Array(t.size) : normals(t.size, 99)),
  fill: (t) => t.fill(1),
  "another tensor's write": (t) => {
    const from = t.gpu.full(t.shape, 3, { dtype: t.dtype });
    t.write(from);
    from.dispose();
  },
  "a view's write": (t) =>
    t.detach().write(t.dtype === "uint32" ? new Uint32Array(t.size) : normals(t.size, 98)),
  "a kernel": (t) => gpu.run({ shader: { name: "own", source }, entry: "main" }, [t, gpu.zeros([4])], [1]),
};

function upstream(out: Tensor): Tensor {
  return gpu.tensor(normals(out.size, 5), out.shape);
}

describe("a tensor that was overwritten before backward", () => {
  for (const [op, { inputs, run, saved }] of Object.entries(cases)) {
    it(`${op}: ${saved.join(", ") || "nothing"} is saved, and watched`, async () => {
      const before = gpu.stats.liveBuffers;
      for (const name of [...Object.keys(inputs), "out"]) {
        for (const [way, overwrite] of Object.entries(ways)) {
          const made = Object.fromEntries(Object.entries(inputs).map(([key, make]) => [key, make()]));
          const gradients = async (touch: boolean) => {
            for (const t of Object.values(made)) t.zeroGrad();
            const again = gpu.scope(() => {
              const out = run(made);
              if (touch) overwrite(name === "out" ? out.detach() : made[name]!);
              return { out, up: upstream(out) };
            });
            try {
              again.out.backward(again.up);
              return await Promise.all(
                Object.values(made).map(async (t) => (t.grad ? [...(await t.grad.read())] : null)),
              );
            } finally {
              again.out.dispose();
              again.up.dispose();
            }
          };
          const expected = await gradients(false);
          if (saved.includes(name)) {
            const error = await gradients(true).then(
              () => null,
              (e: Error) => e,
            );
            expect(error, `${op}, ${name} by ${way}`).toBeInstanceOf(OverwrittenTensorError);
            expect(error!.message).toMatch(
              / backward: .* was overwritten after the forward.*call backward\(\) before/,
            );
          } else {
            expect(await gradients(true), `${op}, ${name} by ${way}`).toEqual(expected);
          }
          for (const t of Object.values(made)) t.dispose();
        }
      }
      expect(gpu.stats.liveBuffers).toBe(before);
    });
  }

  it("is found where an optimizer's step changed it, and only where it did", async () => {
    const [w, v] = [tensor([8], 1), tensor([8], 2)];
    const optimizer = new SGD([w, v], { lr: 0.1, momentum: 0.9 });
    gpu.scope(() => {
      const [saved, other] = [mul(w, w), mul(v, v)];
      sum(mul(w, w)).backward(); // w alone has a gradient
      optimizer.step();
      expect(() => sum(saved).backward()).toThrow(/mul backward: a was overwritten/);
      expect(() => sum(other).backward()).not.toThrow(); // its neighbour in the packed buffer has not moved
      const late = mul(v, v);
      w.write(normals(8, 3));
      expect(() => sum(late).backward()).not.toThrow();
    });
    optimizer.dispose();
    w.dispose();
    v.dispose();
  });

  it("is found where a plan's replay changed it: parameters, inputs and results", () => {
    const w = tensor([8], 1);
    const optimizer = new SGD([w], { lr: 0.1 });
    const plan = gpu.capture(() => {
      optimizer.zeroGrad();
      const y = mul(w, w);
      sum(y).backward();
      optimizer.step();
      return y.detach();
    });
    gpu.scope(() => {
      const [ofParameter, ofResult] = [mul(w, w), mul(plan.result, w)];
      plan.run();
      expect(() => sum(ofParameter).backward()).toThrow(OverwrittenTensorError);
      expect(() => sum(ofResult).backward()).toThrow(OverwrittenTensorError);
      expect(() => sum(mul(plan.result, w)).backward()).not.toThrow();
    });
    plan.dispose();
    optimizer.dispose();
    w.dispose();
  });

  it("is found where the next batch was gathered over it, and where running statistics moved", () => {
    const data = imageDataset({
      name: "tiny",
      images: Uint8Array.from({ length: 4 * 16 }, (_, i) => i),
      labels: Uint8Array.of(0, 1, 0, 1),
      height: 4,
      width: 4,
      channels: 1,
      classNames: ["a", "b"],
      source: { images: "made", labels: "made" },
    });
    gpu.scope(() => {
      const dataset = new DeviceDataset(gpu, data, { mean: [0.5], std: [0.5], seed: 0 });
      const images = gpu.empty([2, 4, 4, 1]);
      const classes = gpu.empty([2], "uint32");
      const gather = (a: number, b: number) =>
        dataset.gather(
          gpu.tensor([a, b], [2], { dtype: "uint32" }),
          gpu.tensor([0], [1], { dtype: "uint32" }),
          images,
          classes,
        );
      const weight = tensor([4, 3, 3, 1], 1);
      gather(0, 1);
      const y = sum(conv2d(images, weight));
      gather(2, 3);
      expect(() => y.backward()).toThrow(/conv2d backward: x was overwritten/);
      dataset.dispose();

      const bn = new BatchNorm2d(gpu, 8);
      const w = tensor([8], 3);
      const z = sum(mul(w, bn.runningMean!));
      noGrad(() => bn.forward(tensor([2, 4, 4, 8], 2)));
      expect(() => z.backward()).toThrow(/mul backward: b was overwritten/);
      bn.dispose();
    });
  });

  it("is found through reshapes and in a checkpoint", () => {
    gpu.scope(() => {
      const a = tensor([2, 3, 8], 1);
      const y = mul(reshape(a, [6, 8]), reshape(a, [6, 8]));
      a.fill(2);
      expect(() => sum(y).backward()).toThrow(OverwrittenTensorError);

      const [input, w] = [tensor([4, 8], 2), tensor([8], 3)];
      const twice = () => checkpoint((t) => mul(relu(t), w), input);
      const first = twice();
      w.write(normals(8, 9));
      expect(() => sum(first).backward()).toThrow(/checkpoint backward: b of mul was overwritten/);
      const second = twice();
      input.write(normals(32, 9));
      expect(() => sum(second).backward()).toThrow(/checkpoint backward: x of relu was overwritten/);
      sum(twice()).backward();
    });
  });

  it("is found in a checkpoint: statistics that it normalises by, and what it reads under noGrad and enableGrad", () => {
    gpu.scope(() => {
      const bn = new BatchNorm2d(gpu, 8);
      bn.eval();
      const x = tensor([4, 8], 1);
      const frozen = checkpoint((t) => bn.forward(t), x);
      const others = [() => bn.forward(x), () => checkpoint((t) => checkpoint((u) => bn.forward(u), t), x)];
      bn.train();
      expect(() => sum(frozen).backward()).not.toThrow();
      for (const make of [() => checkpoint((t) => bn.forward(t), x), others[1]!]) {
        bn.eval();
        const late = make();
        bn.train();
        noGrad(() => bn.forward(x));
        bn.eval();
        expect(() => sum(late).backward()).toThrow(
          /checkpoint backward: running\w+ of batchNorm was overwritten/,
        );
      }
      const plain = others[0]!(); // keeps what it needs of them
      bn.train();
      noGrad(() => bn.forward(x));
      expect(() => sum(plain).backward()).not.toThrow();
      bn.dispose();

      for (const around of [noGrad, enableGrad]) {
        const w = tensor([8], 2);
        const y = checkpoint(
          (t) =>
            mul(
              t,
              around(() => checkpoint((u) => scale(u, 2), w)),
            ),
          x,
        );
        w.write(normals(8, 3));
        expect(() => sum(y).backward()).toThrow(/checkpoint backward: x of scale was overwritten/);
      }
    });
  });

  it("does not count kernels that only read it, nor what an op writes while it makes its output", () => {
    gpu.scope(() => {
      const a = tensor([8], 1);
      const y = mul(a, a);
      gpu.run({ shader: { name: "own", source }, entry: "other" }, [null, a], [1]);
      gpu.run({ shader: { name: "own", source }, entry: "main" }, [gpu.zeros([4]), a], [1]);
      sum(y).backward();

      const twice = customOp({
        name: "twice_first",
        inputs: { x: "..." },
        infer: ({ x: shape }) => ({ out: shape }),
        forward(ctx, inputs, plan) {
          const out = ctx.empty(plan.out);
          ctx.run({ shader: { name: "own", source }, entry: "main" }, [out, inputs.x], [1]);
          return { out, saved: { out, x: inputs.x } };
        },
        backward: (_ctx, grad) => ({ x: grad.alias() }),
      });
      sum(twice({ x: a }, null)).backward();
      const inPlace = customOp({
        name: "in_place",
        inputs: { x: "..." },
        infer: ({ x: shape }) => ({ out: shape }),
        forward(ctx, inputs) {
          ctx.run({ shader: { name: "own", source }, entry: "main" }, [inputs.x, ctx.temp([4])], [1]);
          return { out: inputs.x.alias(), saved: {} };
        },
        backward: (_ctx, grad) => ({ x: grad.alias() }),
      });
      const kept = mul(a, a);
      noGrad(() => inPlace({ x: a }, null));
      expect(() => sum(kept).backward()).toThrow(OverwrittenTensorError);
    });
  });
});
