import { describe, expect, it } from "vitest";
import { relu } from "../../src/ops/activations.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { add, mul } from "../../src/ops/elementwise/elementwise.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { batchNormReference } from "../reference/batch-norm.ts";
import { conv2dReference } from "../reference/conv2d.ts";

const gpu = await testGpu();
const N = 2;
const H = 6;
const W = 5;
const C = 8;
const WEIGHT = [C, 3, 3, C];
const MAP = [N, H, W, C];
const PADDED = { padding: 1 };

/** What may be folded, by the names under which the chooser knows it. */
const PARTS = [
  "conv2d.forward.input",
  "conv2d.forward.output",
  "conv2d.grad_input.input",
  "conv2d.grad_input.output",
  "conv2d.grad_weight.input",
  "conv2d.grad_weight.dy",
];

type Choices = Record<string, string>;
const folded = Object.fromEntries(PARTS.map((part) => [part, "fused"]));

/** Small tensors would go in one dispatch, beside every convolution. */
async function withChoices(choices: Choices, body: () => Promise<void>): Promise<void> {
  const all: Choices = { "batch_norm.forward": "software", "batch_norm.backward": "software", ...choices };
  for (const [kernel, variant] of Object.entries(all)) gpu.variants.force(kernel, variant);
  try {
    await body();
  } finally {
    for (const kernel of Object.keys(all)) gpu.variants.force(kernel, null);
  }
}

const forward = (x: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor | null, rectify = true) =>
  batchNorm(x, gamma, beta, { training: true, residual, activation: rectify ? "relu" : "none" });

/**
 * What surrounds a batch-norm in residual blocks. Of the two outputs with a residual the second is given back in between, and
 * worked out again in backward.
 */
const network: OpCase = {
  label: "conv → norm → conv → norm + residual → conv → norm + residual → conv",
  inputs: {
    x: MAP,
    w1: WEIGHT,
    gamma1: [C],
    beta1: [C],
    w2: WEIGHT,
    gamma2: [C],
    beta2: [C],
    w3: WEIGHT,
    gamma3: [C],
    beta3: [C],
    w4: WEIGHT,
    gamma4: [C],
    beta4: [C],
    last: [12, 1, 1, C],
    bias: [12],
  },
  run: (t) => {
    const stem = forward(conv2d(t.x!, t.w1!, PADDED), t.gamma1!, t.beta1!, null);
    const middle = forward(conv2d(stem, t.w2!, PADDED), t.gamma2!, t.beta2!, null, false);
    const out = forward(conv2d(middle, t.w3!, PADDED), t.gamma3!, t.beta3!, stem);
    const next = forward(conv2d(out, t.w4!, PADDED), t.gamma4!, t.beta4!, out);
    return conv2d(next, t.last!, { stride: [2, 1], bias: t.bias! });
  },
  reference: (a) => {
    const c = { x: MAP, weight: WEIGHT, stride: [1, 1], padding: [1, 1, 1, 1], dilation: [1, 1], groups: 1 };
    const conv = (x: Float64Array, weight: Float64Array) => conv2dReference(c as never, { x, weight });
    const norm = (
      x: Float64Array,
      gamma: Float64Array,
      beta: Float64Array,
      relu: boolean,
      residual?: Float64Array,
    ) =>
      batchNormReference(
        { count: N * H * W, channels: C, eps: 1e-5, relu },
        { x, gamma, beta, ...(residual && { residual }) },
      );
    const stem = norm(conv(a.x!, a.w1!), a.gamma1!, a.beta1!, true);
    const middle = norm(conv(stem, a.w2!), a.gamma2!, a.beta2!, false);
    const out = norm(conv(middle, a.w3!), a.gamma3!, a.beta3!, true, stem);
    const next = norm(conv(out, a.w4!), a.gamma4!, a.beta4!, true, out);
    const last = { ...c, weight: [12, 1, 1, C], stride: [2, 1], padding: [0, 0, 0, 0] };
    return conv2dReference(last as never, { x: next, weight: a.last!, bias: a.bias! });
  },
};

describe("batch-norm in the convolutions around it", () => {
  it("gives the same numbers, whatever is folded", async () => {
    await withChoices({}, async () => {
      await checkOp({
        ...network,
        variants: Object.fromEntries(PARTS.map((part) => [part, ["fused", "separate"]])),
      });
    });
    await withChoices(folded, () => checkOp(network));
  });

  it("likewise with ReLUs of their own", async () => {
    const norm = (x: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor | null) =>
      batchNorm(x, gamma, beta, { training: true, residual });
    const run: OpCase["run"] = (t) => {
      const stem = relu(norm(conv2d(t.x!, t.w1!, PADDED), t.gamma1!, t.beta1!, null));
      const middle = norm(conv2d(stem, t.w2!, PADDED), t.gamma2!, t.beta2!, null);
      const out = relu(norm(conv2d(middle, t.w3!, PADDED), t.gamma3!, t.beta3!, stem));
      const next = relu(norm(conv2d(out, t.w4!, PADDED), t.gamma4!, t.beta4!, out));
      return conv2d(next, t.last!, { stride: [2, 1], bias: t.bias! });
    };
    await withChoices(folded, () => checkOp({ ...network, run }));
    await withChoices({}, () => checkOp({ ...network, run }));
    const x = gpu.tensor(normals(N * H * W * C, 1), MAP, { requiresGrad: true });
    const w = gpu.tensor(normals(C * 9 * C, 2), WEIGHT);
    const up = gpu.tensor(normals(N * (H - 2) * (W - 2) * C, 3), [N, H - 2, W - 2, C]);
    await withChoices(folded, async () => {
      const notes = gpu.explain(() =>
        gpu.scope(() => {
          const y = batchNorm(conv2d(x, w, PADDED), null, null, { training: true });
          conv2d(relu(y), w).backward(up);
        }),
      );
      expect(notes.filter(({ kernel }) => kernel.startsWith("elementwise"))).toEqual([]);
    });
    for (const tensor of [x, w, up]) tensor.dispose();
  });

  it("likewise in every family", async () => {
    const families = [
      ["subgroup_4x8", "subgroup_4x16"],
      ["tile_64x64", "tile_16x144"],
    ] as const;
    for (const [gather, weights] of families) {
      const variants = {
        "conv2d.forward": gather,
        "conv2d.grad_input": gather,
        "conv2d.grad_weight": weights,
      };
      await withChoices({ ...folded, ...variants }, () => checkOp(network));
    }
  });

  it("works out a normalised tensor for those who need it in memory, once", async () => {
    await withChoices(folded, async () => {
      const x = gpu.tensor(normals(N * H * W * C, 1), MAP);
      const w = gpu.tensor(normals(C * 9 * C, 2), WEIGHT);
      const notes = gpu.explain(() =>
        gpu.scope(() => {
          const y = batchNorm(conv2d(x, w, PADDED), null, null, { training: true });
          add(mul(y, y), y);
        }),
      );
      // Of whichever family: their names differ in no more than this.
      const kernels = notes.map(({ kernel }) =>
        kernel
          .replace(/^conv2d_[a-z]+/, "conv2d")
          .replace(/conv_\w+/, "conv")
          .replace(/_workgroup$/, ""),
      );
      expect(kernels.filter((kernel) => kernel !== "memory.fill")).toEqual([
        "conv2d+statistics.conv",
        "batch_norm.finalize_folded",
        "batch_norm.apply",
        "elementwise.mul",
        "elementwise.add",
      ]);
      x.dispose();
      w.dispose();
    });
  });

  it("normalises what was there when it was called, whatever is written later", async () => {
    await withChoices(folded, async () => {
      const live = gpu.stats.liveBuffers;
      const x = gpu.tensor(normals(N * H * W * C, 1), MAP);
      const w = gpu.tensor(normals(C * 9 * C, 2), WEIGHT);
      const raw = conv2d(x, w, PADDED);
      w.fill(0); // the convolution waited for what comes behind it
      const expected = batchNorm(raw, null, null, { training: true, folds: false });
      const numbers = await expected.read();
      w.write(normals(C * 9 * C, 2));
      const again = conv2d(x, w, PADDED);
      const z = batchNorm(again, null, null, { training: true });
      again.fill(7); // the batch-norm waits
      expect(relativeError(await z.read(), numbers)).toBeLessThan(1e-6);
      z.fill(3);
      expect((await z.read())[5]).toBe(3);
      for (const tensor of [x, w, raw, expected, again, z]) tensor.dispose();
      await gpu.sync();
      expect(gpu.stats.liveBuffers).toBe(live);
    });
  });

  it("gives the bits of the eager run when captured", async () => {
    await withChoices(folded, async () => {
      const tensors = Object.fromEntries(
        Object.entries(network.inputs).map(([name, shape], i) => {
          const size = (shape as number[]).reduce((a, b) => a * b, 1);
          return [name, gpu.tensor(normals(size, 50 + i), shape as number[], { requiresGrad: true })];
        }),
      );
      const up = gpu.tensor(normals(N * 3 * W * 12, 3), [N, 3, W, 12]);
      const step = () => {
        for (const tensor of Object.values(tensors)) tensor.zeroGrad();
        const out = network.run(tensors);
        out.backward(up);
        return [out, ...Object.values(tensors).map((tensor) => tensor.grad!)].map((tensor) =>
          tensor.detach(),
        );
      };
      const eager = gpu.scope(step);
      const plan = gpu.capture(step);
      plan.run();
      for (const [i, tensor] of eager.entries()) {
        expect(await plan.result[i]!.read()).toEqual(await tensor.read());
        tensor.dispose();
      }
      plan.dispose();
      for (const tensor of [up, ...Object.values(tensors)]) tensor.dispose();
    });
  });

  it("sums nothing up for parameters that are frozen", async () => {
    for (const family of ["software", "workgroup"]) {
      await withChoices({ "batch_norm.forward": family, "batch_norm.backward": family }, async () => {
        for (const activation of ["none", "relu"] as const) {
          const values = normals(N * H * W * C, 31);
          const perChannel = [1, 2, 3, 4].map((seed) => normals(C, 40 + seed, seed === 4 ? 2 : 0.5, 0.3));
          const x = gpu.tensor(values, MAP, { requiresGrad: true });
          const [gamma, beta, runningMean, runningVar] = perChannel.map((data) => gpu.tensor(data, [C]));
          const upstream = normals(values.length, 32);
          const dy = gpu.tensor(upstream, MAP);
          const notes = gpu.explain(() =>
            gpu.scope(() => {
              const y = batchNorm(x, gamma!, beta!, { training: false, activation, runningMean, runningVar });
              y.backward(dy);
            }),
          );
          expect(notes.filter(({ kernel }) => kernel.includes("grad_stats"))).toEqual([]);
          const expected = values.map((value, i) => {
            const [g, b, mean, variance] = perChannel.map((data) => data[i % C]!) as [
              number,
              number,
              number,
              number,
            ];
            const slope = g / Math.sqrt(variance + 1e-5);
            return activation === "relu" && (value - mean) * slope + b <= 0 ? 0 : upstream[i]! * slope;
          });
          expect(relativeError(await x.grad!.read(), expected)).toBeLessThan(1e-5);
          for (const tensor of [x, dy, gamma, beta, runningMean, runningVar]) tensor!.dispose();
        }
      });
    }
  });
});
