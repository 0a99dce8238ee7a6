// Work that has not run yet: what is written, disposed of or thrown in between must not show, and debug modes see the same
// program as production.

import { beforeEach, describe, expect, it } from "vitest";
import { noGrad } from "../../src/autograd/tape.ts";
import { NonFiniteError, OverwrittenTensorError, ShapeError } from "../../src/errors.ts";
import { relu } from "../../src/ops/activations.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { customOp } from "../../src/ops/define-op.ts";
import { add, mul, scale } from "../../src/ops/elementwise/elementwise.ts";
import { reshape } from "../../src/ops/reshape.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { withChoices } from "../helpers/choices.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { FOLDED, leavesOf, lineOf, tally, within } from "./check.ts";
import { leafData, type Ops, packageOps, reference } from "./program.ts";
import { programs } from "./programs.ts";

const gpu = await testGpu();
const folded = FOLDED[0]!;
const MAP = [2, 5, 6, 8];
const PADDED = { padding: 1 };

const source = /* wgsl */ `
  @group(0) @binding(0) var<storage, read_write> y: array<f32>;
  @group(0) @binding(1) var<storage, read> x: array<f32>;
  @compute @workgroup_size(64) fn overwrite(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < arrayLength(&y)) { y[id.x] = 0.25 * f32(id.x % 7u) + 2; }
  }
  @compute @workgroup_size(64) fn double(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < arrayLength(&y)) { y[id.x] = 2 * x[id.x]; }
  }`;
const own = (entry: string) => ({ shader: { name: "own", source }, entry });
const groups = (t: Tensor): [number] => [Math.ceil(t.size / 64)];

gpu.debug.checkFinite = true;
gpu.scope(() => void relu(gpu.zeros([4]))); // makes the flag that the device then keeps
gpu.debug.checkFinite = false;

/** Every test leaves as many buffers as it found, and nothing that waits. */
beforeEach(({ onTestFinished }) => {
  gpu.flush();
  const before = gpu.stats.liveBuffers;
  onTestFinished(async () => {
    await gpu.sync();
    expect(gpu.stats.liveBuffers, "live buffers").toBe(before);
  });
});

/** Of `t`, and of what `body` makes in a scope of its own. */
async function using<T>(t: Record<string, Tensor>, body: () => T | Promise<T>): Promise<T> {
  try {
    return await body();
  } finally {
    for (const tensor of Object.values(t)) tensor.dispose();
  }
}

const bits = async (tensor: Tensor) => [...(await tensor.read())];

// --- writes in between ------------------------------------------------------------------------------------

/** Ways to overwrite a tensor on the GPU, which a plan records too, and from the host. */
const ON_GPU: Record<string, (t: Tensor) => void> = {
  fill: (t) => t.fill(1.5),
  "a kernel": (t) => gpu.run(own("overwrite"), [t], groups(t)),
  "a kernel on a range": (t) => gpu.run(own("overwrite"), [t.range], groups(t)),
  "a kernel on part of it": (t) => {
    const { storage, byteOffset } = t.range;
    gpu.run(own("overwrite"), [{ storage, byteOffset, byteLength: 16 }], [1]);
  },
  "a view's fill": (t) => gpu.scope(() => reshape(t, [t.size]).fill(-1)),
};
const FROM_HOST: Record<string, (t: Tensor) => void> = {
  write: (t) => t.write(normals(t.size, 77, 1)),
  "a view's write": (t) => gpu.scope(() => t.detach().write(normals(t.size, 78, 1))),
};
/** With a pipeline of one's own, or without any: by the buffer that `tensor.buffer` gives. */
const BY_BUFFER = (t: Tensor) => {
  const { byteOffset } = t.range;
  gpu.device.queue.writeBuffer(t.buffer, byteOffset, Float32Array.from(normals(t.size, 79, 1)));
};

/** A program with a moment in between, `then`, at which one of the `sources` is overwritten: a leaf, or one of what it made. */
interface Between {
  sources: readonly string[];
  run(o: Ops<Tensor>, t: Record<string, Tensor>, then: (made: Record<string, Tensor>) => void): Tensor;
}

const leaves = {
  ...{ x: MAP, z: MAP, w1: [8, 3, 3, 8], w2: [8, 3, 3, 8], b: [8] },
  ...{ gamma: [8], beta: [8], gamma2: [8], beta2: [8], mean: [8], variance: [8] },
};

const betweens: Record<string, Between> = {
  conv: {
    sources: ["x", "w1", "b"],
    run(o, t, then) {
      const y = o.conv(t.x!, t.w1!, { bias: t.b! });
      then({});
      return y;
    },
  },
  "conv, then its norm": {
    sources: ["x", "w1", "b"],
    run(o, t, then) {
      const y = o.conv(t.x!, t.w1!, { bias: t.b! });
      then({});
      return o.norm(y, { activation: "relu" });
    },
  },
  "conv → norm": {
    sources: ["x", "w1", "gamma", "beta", "raw"],
    run(o, t, then) {
      const raw = o.conv(t.x!, t.w1!);
      const y = o.norm(raw, { activation: "relu" });
      then({ raw });
      return y;
    },
  },
  "conv → norm, then conv": {
    sources: ["x", "w1", "gamma", "beta", "raw"],
    run(o, t, then) {
      const raw = o.conv(t.x!, t.w1!);
      const y = o.norm(raw, { activation: "relu" });
      then({ raw });
      return o.conv(y, t.w2!);
    },
  },
  "conv → norm → relu → conv": {
    sources: ["x", "w1", "gamma", "beta", "w2", "raw", "normed"],
    run(o, t, then) {
      const raw = o.conv(t.x!, t.w1!);
      const normed = o.norm(raw);
      const y = o.conv(o.relu(normed), t.w2!);
      then({ raw, normed });
      return y;
    },
  },
  "norm of a leaf → conv": {
    sources: ["x", "gamma", "beta", "w1"],
    run(o, t, then) {
      const y = o.conv(o.norm(t.x!, { activation: "relu" }), t.w1!);
      then({});
      return y;
    },
  },
  "norm of a leaf, then conv": {
    sources: ["x", "gamma", "beta"],
    run(o, t, then) {
      const y = o.norm(t.x!, { activation: "relu" });
      then({});
      return o.conv(y, t.w1!);
    },
  },
  "conv → frozen norm, then conv": {
    sources: ["x", "w1", "gamma", "beta", "mean", "variance", "raw"],
    run(o, t, then) {
      const raw = o.conv(t.x!, t.w1!);
      const y = o.norm(raw, { activation: "relu", frozen: "" });
      then({ raw });
      return o.conv(y, t.w2!);
    },
  },
  "two convs, then their norms": {
    sources: ["x", "z", "w1", "w2"],
    run(o, t, then) {
      const [a, b] = [o.conv(t.x!, t.w1!), o.conv(t.z!, t.w2!)];
      then({});
      const [n, m] = [o.norm(b, { name: "2" }), o.norm(a)];
      return o.add(m, n);
    },
  },
  "norm with a residual": {
    sources: ["x", "z", "w1", "gamma", "raw"],
    run(o, t, then) {
      const raw = o.conv(t.x!, t.w1!);
      const y = o.norm(raw, { residual: t.z!, activation: "relu" });
      then({ raw });
      return y;
    },
  },
  "norm, then add and relu": {
    sources: ["x", "w1", "gamma", "raw"],
    run(o, t, then) {
      const raw = o.conv(t.x!, t.w1!);
      const y = o.norm(raw);
      then({ raw });
      return o.relu(o.add(y, t.z!));
    },
  },
  "add of a norm": {
    sources: ["x", "z", "w1", "gamma", "raw", "normed"],
    run(o, t, then) {
      const raw = o.conv(t.x!, t.w1!);
      const normed = o.norm(raw);
      const y = o.relu(o.add(normed, t.z!));
      then({ raw, normed });
      return y;
    },
  },
};

/** What comes out with `way` applied to `source`, in new tensors; of a plan, if its replay gives the same bits. */
function outcome(
  { run }: Between,
  source: string | null,
  way: (t: Tensor) => void,
  { folds = true, captured = false } = {},
): Promise<number[]> {
  return within(folded, async () => {
    const t = leavesOf({ leaves }, 5);
    const step = () =>
      noGrad(() =>
        run(packageOps(t, folds), t, (made) => {
          if (source) way({ ...t, ...made }[source]!);
        }),
      );
    return using(t, async () => {
      if (!captured) {
        const out = gpu.scope(step);
        return using({ out }, () => bits(out));
      }
      const plan = gpu.capture(step);
      try {
        const first = await bits(plan.result);
        for (const [name, shape] of Object.entries(leaves)) t[name]!.write(leafData(name, shape, 5));
        plan.run();
        expect(await bits(plan.result), `${source} overwritten in a plan: its replay`).toEqual(first);
        return first;
      } finally {
        plan.dispose();
      }
    });
  });
}

describe("a write in between does not show in", () => {
  for (const [label, between] of Object.entries(betweens)) {
    const shows = async (ways: Record<string, (t: Tensor) => void>, captured: boolean) => {
      const expected = await outcome(between, null, () => {}, { folds: false });
      for (const source of between.sources) {
        for (const [name, way] of Object.entries(ways)) {
          const got = await outcome(between, source, way, { captured });
          expect(relativeError(got, expected), `${source} by ${name}`).toBeLessThan(1e-5);
        }
      }
    };
    it(label, () => shows({ ...ON_GPU, ...FROM_HOST }, false));
    it(`${label}, captured and replayed`, () => shows(ON_GPU, true));
    it(`${label}, by a buffer that was asked for`, () => shows({ "the queue": BY_BUFFER }, false));
  }

  it("a norm of what is written over a pending convolution: that is what it normalises", async () => {
    for (const overwrite of [...Object.values(ON_GPU), ...Object.values(FROM_HOST)]) {
      await within(folded, async () => {
        const t = leavesOf({ leaves }, 5);
        const outcome = async (folds: boolean) => {
          const out = gpu.scope(() =>
            noGrad(() => {
              const raw = conv2d(t.x!, t.w1!, PADDED);
              overwrite(raw);
              return batchNorm(raw, t.gamma!, t.beta!, { training: true, folds });
            }),
          );
          return using({ out }, () => bits(out));
        };
        await using(t, async () => {
          const [got, expected] = [await outcome(true), await outcome(false)];
          const error = Math.hypot(...got.map((v, i) => v - expected[i]!));
          expect(error / Math.hypot(...expected)).toBeLessThan(1e-4);
        });
      });
    }
  });
});

describe("pending work and", () => {
  it("an optimizer's step, and an optimizer that is made: the old weights count", async () => {
    await within(folded, async () => {
      const t = leavesOf({ leaves }, 6);
      await using(t, async () => {
        const forward = () =>
          noGrad(() => batchNorm(conv2d(t.x!, t.w1!, PADDED), t.gamma!, t.beta!, { training: true }));
        const expected = gpu.scope(forward);
        const numbers = await bits(expected);
        const made = gpu.scope(forward);
        const raw = noGrad(() => conv2d(t.x!, t.w1!, PADDED));
        const optimizer = new SGD([t.w1!, t.gamma!], { lr: 0.5, momentum: 0.9 });
        const late = noGrad(() => batchNorm(raw, t.gamma!, t.beta!, { training: true }));
        const up = gpu.tensor(normals(made.size, 3), MAP);
        gpu.scope(() =>
          batchNorm(conv2d(t.x!, t.w1!, PADDED), t.gamma!, null, { training: true }).backward(up),
        );
        const stepped = gpu.scope(forward);
        const rawStepped = noGrad(() => conv2d(t.x!, t.w1!, PADDED));
        optimizer.step();
        for (const [name, y] of Object.entries({ made, late, stepped })) {
          expect(relativeError(await bits(y), numbers), name).toBeLessThan(1e-5);
        }
        expect(relativeError(await bits(rawStepped), await bits(raw)), "raw").toBeLessThan(1e-6);
        const after = gpu.scope(forward);
        expect(relativeError(await bits(after), numbers), "after the step").toBeGreaterThan(1e-2);
        for (const y of [expected, made, raw, late, up, stepped, rawStepped, after]) y.dispose();
        optimizer.dispose();
      });
    });
  });

  it("whatever is overwritten right after backward: gradients are of before", async () => {
    await within(folded, async () => {
      for (const label of ["conv → norm → relu → conv", "two branches of one map", "norm with residual x"]) {
        const program = programs[label]!;
        const { upstream, leaves: expected } = reference(program, 4);
        const t = leavesOf(program, 4);
        const up = gpu.tensor(upstream, MAP);
        await using({ ...t, up }, async () => {
          gpu.scope(() => program.run(packageOps(t, true), t).backward(up));
          for (const tensor of [...Object.values(t), up]) tensor.fill(0.5);
          for (const [name, leaf] of Object.entries(t)) {
            expect(relativeError(await bits(leaf.grad!), expected[name]!), `${label}: d${name}`).toBeLessThan(
              1e-4,
            );
          }
        });
      }
    });
  });

  it("a plan that overwrites a source when it is run", async () => {
    await within(folded, async () => {
      const t = leavesOf({ leaves }, 7);
      await using(t, async () => {
        const plan = gpu.capture(() => t.x!.fill(4));
        t.x!.write(normals(t.x!.size, 1));
        const expected = gpu.scope(() =>
          noGrad(() => batchNorm(conv2d(t.x!, t.w1!, PADDED), null, null, { training: true, folds: false })),
        );
        const numbers = await bits(expected);
        const raw = noGrad(() => conv2d(t.x!, t.w1!, PADDED));
        const normed = gpu.scope(() =>
          noGrad(() => batchNorm(conv2d(t.x!, t.w1!, PADDED), null, null, { training: true })),
        );
        plan.run();
        const late = noGrad(() => batchNorm(raw, null, null, { training: true }));
        expect(relativeError(await bits(normed), numbers)).toBeLessThan(1e-5);
        expect(relativeError(await bits(late), numbers)).toBeLessThan(1e-5);
        for (const y of [expected, raw, normed, late]) y.dispose();
        plan.dispose();
      });
    });
  });

  it("a kernel of one's own that reads it", async () => {
    await within(folded, async () => {
      const t = leavesOf({ leaves }, 8);
      await using(t, async () => {
        const out = gpu.empty(MAP);
        const makers: Record<string, () => Tensor> = {
          conv: () => conv2d(t.x!, t.w1!, PADDED),
          norm: () => batchNorm(conv2d(t.x!, t.w1!, PADDED), null, null, { training: true }),
        };
        for (const [name, make] of Object.entries(makers)) {
          gpu.scope(() => noGrad(() => gpu.run(own("double"), [out, make()], groups(out))));
          const doubled = await bits(out);
          const made = gpu.scope(() => noGrad(() => scale(make(), 2)));
          expect(relativeError(doubled, await bits(made)), name).toBeLessThan(1e-6);
          made.dispose();
        }
        out.dispose();
      });
    });
  });

  it("running statistics: moved once, in order, whoever asks for the output", async () => {
    await within(folded, async () => {
      const t = leavesOf({ leaves }, 9);
      await using(t, async () => {
        const reset = () => {
          t.mean!.fill(0);
          t.variance!.fill(1);
        };
        const norm = (x: Tensor, folds: boolean) =>
          batchNorm(x, null, null, {
            ...{ training: true, runningMean: t.mean!, runningVar: t.variance!, momentum: 0.6, folds },
          });
        const twice = async (folds: boolean, crossed: boolean) => {
          reset();
          gpu.scope(() =>
            noGrad(() => {
              const [a, b] = [conv2d(t.x!, t.w1!, PADDED), conv2d(t.z!, t.w2!, PADDED)];
              for (const x of crossed ? [b, a] : [a, b]) norm(x, folds); // of no use but for the statistics
            }),
          );
          return [...(await bits(t.mean!)), ...(await bits(t.variance!))];
        };
        for (const crossed of [false, true]) {
          expect(relativeError(await twice(true, crossed), await twice(false, crossed))).toBeLessThan(1e-5);
        }
        expect(relativeError(await twice(true, true), await twice(true, false))).toBeGreaterThan(1e-3);
        // Overwritten after they moved, and before.
        reset();
        const y = gpu.scope(() => noGrad(() => norm(conv2d(t.x!, t.w1!, PADDED), true)));
        t.mean!.fill(5);
        y.buffer;
        expect(new Set(await bits(t.mean!))).toEqual(new Set([5]));
        y.dispose();
      });
    });
  });

  it("its inputs' disposal: they live as long as it needs them", async () => {
    await within(folded, async () => {
      const t = leavesOf({ leaves }, 10);
      const [x, w] = [t.x!, t.w1!];
      const expected = gpu.scope(() => noGrad(() => scale(conv2d(x, w, PADDED), 1)));
      const numbers = await bits(expected);
      const y = noGrad(() => conv2d(x, w, PADDED));
      const z = noGrad(() => batchNorm(y, null, null, { training: true }));
      const alias = y.detach();
      for (const tensor of [...Object.values(t), y, expected]) tensor.dispose();
      // Whoever takes their buffers now must not get them.
      const others = Array.from({ length: 6 }, () => gpu.full(MAP, 9));
      expect(relativeError(await bits(alias), numbers)).toBeLessThan(1e-6);
      expect((await bits(z)).every(Number.isFinite)).toBe(true);
      for (const tensor of [z, alias, ...others]) tensor.dispose();
    });
  });
});

// --- disposal ---------------------------------------------------------------------------------------------

describe("disposed of before it ran", () => {
  /** What is dispatched when `made` by `make` is disposed of at once. */
  async function dispatched(make: (t: Record<string, Tensor>) => Tensor): Promise<string[]> {
    return within(folded, () => {
      const t = leavesOf({ leaves }, 11);
      return using(t, () =>
        tally(gpu.explain(() => gpu.scope(() => void make(t)))).filter((line) => !line.startsWith("memory")),
      );
    });
  }

  it("a convolution dispatches nothing", async () => {
    expect(await dispatched((t) => conv2d(t.x!, t.w1!, PADDED))).toEqual([]);
  });

  it("a convolution outside of the graph dispatches nothing", async () => {
    expect(await dispatched((t) => noGrad(() => conv2d(t.x!, t.w1!, PADDED)))).toEqual([]);
  });

  it("one of two convolutions dispatches nothing", async () => {
    const lines = await dispatched((t) =>
      noGrad(() => {
        const [a, b] = [conv2d(t.x!, t.w1!, PADDED), conv2d(t.x!, t.w2!, PADDED)];
        a.dispose();
        return relu(b);
      }),
    );
    expect(lines).toEqual(["conv2d.forward", "relu"]);
  });

  it("a norm that tracks moves its running statistics, and is not applied", async () => {
    const lines = await dispatched((t) =>
      noGrad(() =>
        batchNorm(conv2d(t.x!, t.w1!, PADDED), null, null, {
          ...{ training: true, runningMean: t.mean!, runningVar: t.variance! },
        }),
      ),
    );
    expect(lines).toEqual(["batch_norm.finalize", "conv2d.forward +statistics"]);
  });

  it("in a plan: replays leave nothing", async () => {
    await within(folded, async () => {
      const t = leavesOf({ leaves }, 12);
      await using(t, async () => {
        const plan = gpu.capture(() =>
          noGrad(() => {
            conv2d(t.x!, t.w1!, PADDED).dispose();
            conv2d(t.z!, t.w1!, PADDED);
            return scale(t.x!, 2);
          }),
        );
        const live = gpu.stats.liveBuffers;
        for (let i = 0; i < 3; i += 1) plan.run();
        expect(gpu.stats.liveBuffers).toBe(live);
        expect(
          relativeError(
            await bits(plan.result),
            (await bits(t.x!)).map((v) => 2 * v),
          ),
        ).toBe(0);
        plan.dispose();
      });
    });
  });
});

// --- exceptions -------------------------------------------------------------------------------------------

describe("an exception in between leaks nothing, and what comes next is right:", () => {
  const fails: Record<string, { error: unknown; body(t: Record<string, Tensor>): void }> = {
    "after a convolution": {
      error: /mine/,
      body: (t) => {
        conv2d(t.x!, t.w1!, PADDED);
        throw new Error("mine");
      },
    },
    "after a norm": {
      error: /mine/,
      body: (t) => {
        batchNorm(conv2d(t.x!, t.w1!, PADDED), t.gamma!, t.beta!, { training: true });
        conv2d(t.z!, t.w1!, PADDED);
        throw new Error("mine");
      },
    },
    "a norm that refuses": {
      error: ShapeError,
      body: (t) => void batchNorm(conv2d(t.x!, t.w1!, PADDED), t.x!, t.beta!, { training: true }),
    },
    "an op that fails with pending inputs": {
      error: /in the op/,
      body: (t) => {
        const y = batchNorm(conv2d(t.x!, t.w1!, PADDED), t.gamma!, t.beta!, { training: true });
        failing({ x: y }, null);
      },
    },
    "a backward that refuses": {
      error: OverwrittenTensorError,
      body: (t) => {
        const y = batchNorm(conv2d(t.x!, t.w1!, PADDED), t.gamma!, t.beta!, { training: true });
        const out = conv2d(relu(y), t.w2!, PADDED);
        t.x!.fill(1);
        out.backward(gpu.full(MAP, 1));
      },
    },
    "a backward that fails half way": {
      error: /in its backward/,
      body: (t) => {
        const x = failingBack({ x: t.x! }, null);
        const y = batchNorm(conv2d(x, t.w1!, PADDED), t.gamma!, t.beta!, { training: true });
        conv2d(relu(y), t.w2!, PADDED).backward(gpu.full(MAP, 1));
      },
    },
  };
  const failing = customOp({
    name: "failing",
    inputs: { x: "..." },
    infer: ({ x }) => ({ out: x }),
    forward(ctx, _inputs, plan) {
      ctx.empty(plan.out);
      throw new Error("in the op");
    },
  });
  const failingBack = customOp({
    name: "failing_back",
    inputs: { x: "..." },
    infer: ({ x }) => ({ out: x }),
    forward: (_ctx, { x }) => ({ out: x.detach(), saved: {} }),
    backward(): never {
      throw new Error("in its backward");
    },
  });
  for (const [label, { error, body }] of Object.entries(fails)) {
    for (const [how, around] of Object.entries({
      "in a scope": (t: Record<string, Tensor>) => gpu.scope(() => body(t)),
      explained: (t: Record<string, Tensor>) => gpu.explain(() => gpu.scope(() => body(t))),
      captured: (t: Record<string, Tensor>) => gpu.capture(() => body(t)),
    })) {
      it(`${label}, ${how}`, async () => {
        await within(folded, async () => {
          const t = leavesOf({ leaves }, 13);
          await using(t, async () => {
            expect(() => around(t)).toThrow(error as RegExp);
            t.x!.write(normals(t.x!.size, 2));
            const of = (folds: boolean) =>
              gpu.scope(() =>
                noGrad(() => batchNorm(conv2d(t.x!, t.w1!, PADDED), null, null, { training: true, folds })),
              );
            const [y, z] = [of(true), of(false)];
            expect(relativeError(await bits(y), await bits(z))).toBeLessThan(1e-5);
            y.dispose();
            z.dispose();
          });
        });
      });
    }
  }
});

// --- bounds -----------------------------------------------------------------------------------------------

it("a hundred pending convolutions hold no hundred inputs, and each has its own numbers", async () => {
  await within(folded, async () => {
    const [many, wide] = [100, [1, 8, 8, 64]];
    const base = gpu.tensor(normals(64 * 64, 1), wide);
    const w = gpu.tensor(normals(4 * 64, 2, 0, 0.1), [4, 1, 1, 64]);
    await using({ base, w }, async () => {
      const first = gpu.scope(() => conv2d(base, w));
      const numbers = await bits(first);
      first.dispose();
      gpu.trim();
      gpu.resetPeak();
      const before = gpu.stats.liveBytes;
      const ys = Array.from({ length: many }, (_, i) => {
        const x = scale(base, i + 1);
        const y = conv2d(x, w);
        x.dispose();
        return y;
      });
      const outputs = ys.reduce((sum, y) => sum + y.byteLength, 0);
      const held = gpu.stats.peakBytes - before - outputs;
      expect(held, "bytes besides the outputs").toBeLessThan((many / 2) * base.byteLength);
      for (const i of [many - 1, 0, 37, 64]) {
        const expected = numbers.map((v) => v * (i + 1));
        expect(relativeError(await bits(ys[i]!), expected), `convolution ${i}`).toBeLessThan(1e-5);
      }
      for (const y of ys) y.dispose();
    });
  });
});

it("many pending convolutions and norms within one scope, asked for in any order", async () => {
  await within(folded, async () => {
    const t = leavesOf({ leaves }, 14);
    await using(t, async () => {
      const [n, step] = [40, 13];
      const sumOf = (folds: boolean) =>
        gpu.scope(() =>
          noGrad(() => {
            const raws = Array.from({ length: n }, (_, i) => conv2d(i % 2 ? t.x! : t.z!, t.w1!, PADDED));
            const order = Array.from({ length: n }, (_, i) => (i * step) % n);
            const normed = order.map((i) => batchNorm(raws[i]!, null, null, { training: true, folds }));
            return order.map((_, i) => normed[(i * 7) % n]!).reduce((a, b, i) => add(a, scale(b, 1 + i / n)));
          }),
        );
      const [y, z] = [sumOf(true), sumOf(false)];
      expect(relativeError(await bits(y), await bits(z))).toBeLessThan(1e-5);
      y.dispose();
      z.dispose();
    });
  });
});

// --- the same program in every mode -----------------------------------------------------------------------

describe("the same dispatches are seen by", () => {
  const label = "conv → norm → relu → conv, an op of its own";
  const program = programs[label]!;

  /** `body` gets one step: forward and backward. */
  function stepping<T>(body: (step: () => void) => T | Promise<T>): Promise<T> {
    return within(folded, async () => {
      const t = leavesOf(program, 3);
      const up = gpu.tensor(normals(480, 4), MAP);
      return using({ ...t, up }, () =>
        body(() => {
          for (const leaf of Object.values(t)) leaf.zeroGrad();
          gpu.scope(() => program.run(packageOps(t, true), t).backward(up));
        }),
      );
    });
  }
  const lines = (notes: readonly { op: string; kernel: string }[]) =>
    notes.filter(({ op }) => op !== "check_finite").flatMap((note) => lineOf(note) ?? []);

  it("production and explain", async () => {
    await stepping((step) => {
      const { debug } = gpu;
      debug.poison = false;
      try {
        step();
        const start = gpu.stats.dispatches;
        step();
        gpu.flush();
        const plain = gpu.stats.dispatches - start;
        expect(gpu.explain(step)).toHaveLength(plain);
      } finally {
        debug.poison = true;
      }
    });
  });

  it("a plan and its replay", async () => {
    await stepping((step) => {
      const expected = lines(gpu.explain(step));
      const plan = gpu.capture(step);
      expect(lines(gpu.explain(() => plan.run()))).toEqual(expected);
      plan.dispose();
    });
  });

  it.skipIf(!gpu.features.has("timestamp-query"))("a profile", async () => {
    await stepping(async (step) => {
      const expected = lines(gpu.explain(step));
      const timings = await gpu.profile(step);
      expect(lines(timings.map(({ label, kernel }) => ({ op: label, kernel })))).toEqual(expected);
    });
  });

  it("autotune, which listens to each choice", async () => {
    await stepping((step) => {
      const expected = lines(gpu.explain(step));
      gpu.variants.onPick = () => {};
      try {
        expect(lines(gpu.explain(step))).toEqual(expected);
      } finally {
        gpu.variants.onPick = null;
      }
    });
  });

  const checkingFinite = async (body: () => void | Promise<void>) => {
    const { debug } = gpu;
    debug.checkFinite = true;
    try {
      await body();
    } finally {
      debug.checkFinite = false;
    }
  };

  it("debug.checkFinite", async () => {
    await stepping(async (step) => {
      const expected = lines(gpu.explain(step));
      await checkingFinite(async () => {
        expect(lines(gpu.explain(step))).toEqual(expected);
      });
      await gpu.sync();
    });
  });

  it("and debug.checkFinite still names the op whose output is not finite", async () => {
    await within(folded, async () => {
      const t = leavesOf(program, 3);
      await using(t, async () => {
        for (const [leaf, names] of Object.entries({ w1: /conv2d/, gamma: /batchNorm/, w2: /conv2d/ })) {
          const old = await t[leaf]!.read();
          t[leaf]!.fill(Number.POSITIVE_INFINITY);
          await checkingFinite(async () => {
            gpu.scope(() => void program.run(packageOps(t, true), t).materialize());
            const error = await gpu.sync().then(
              () => null,
              (e: Error) => e,
            );
            expect(error, leaf).toBeInstanceOf(NonFiniteError);
            expect(error!.message, leaf).toMatch(names);
          });
          t[leaf]!.write(old);
        }
      });
    });
  });
});

it("what is made of a caller's own buffer is submitted by flush, and read with what is read", async () => {
  await within(folded, async () => {
    const shape = [2, 9, 7, 8];
    const size = 2 * 9 * 7 * 8;
    const buffer = gpu.device.createBuffer({
      size: 4 * size,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    const values = Float32Array.from(normals(size, 21));
    const other = gpu.tensor([1, 2], [2]);
    for (const submit of [() => gpu.flush(), () => other.read()]) {
      gpu.device.queue.writeBuffer(buffer, 0, values);
      const x = Tensor.fromBuffer(buffer, shape, { gpu });
      const normal = batchNorm(x, null, null, { training: true });
      const again = batchNorm(x, null, null, { training: true });
      const rectified = relu(again);
      await submit();
      gpu.device.queue.writeBuffer(buffer, 0, new Float32Array(size).fill(3));
      const y = [...(await normal.read())];
      for (let c = 0; c < 8; c += 1) {
        const own = y.filter((_, i) => i % 8 === c);
        expect(Math.abs(own.reduce((a, b) => a + b, 0) / own.length)).toBeLessThan(1e-5);
        expect(own.reduce((a, b) => a + b * b, 0) / own.length).toBeCloseTo(1, 3);
      }
      expect([...(await rectified.read())]).toEqual(y.map((v) => Math.max(v, 0)));
      for (const tensor of [x, normal, again, rectified]) tensor.dispose();
    }
    other.dispose();
    buffer.destroy();
  });
});

it("an activation of what was written over a batch-norm's output masks by what was written", async () => {
  await within(folded, async () => {
    const t = leavesOf({ leaves }, 22);
    await using(t, async () => {
      const [written, upstream, channels] = gpu.scope(() => {
        const y = batchNorm(conv2d(t.x!, t.w1!, PADDED), t.gamma!, t.beta!, { training: true });
        const values = [normals(y.size, 23), normals(y.size, 24)] as const;
        y.write(values[0]);
        relu(y).backward(gpu.tensor(values[1], y.shape));
        return [...values, y.shape.at(-1)!] as const;
      });
      // dβ is the sum of the gradient that came through.
      const sums = new Float64Array(channels);
      upstream.forEach((value, i) => {
        if (written[i]! > 0) sums[i % sums.length]! += value;
      });
      expect(relativeError(await t.beta!.grad!.read(), sums)).toBeLessThan(1e-5);
    });
  });
});

it("elements that are written by their range or buffer are not worked out again", async () => {
  const shape = [2, 6, 6, 8];
  const size = 2 * 6 * 6 * 8;
  const source =
    "@group(0) @binding(0) var<storage, read_write> a: array<f32>;\n@compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3u) { a[id.x] = 5.0; }";
  const fives = new Float32Array(size).fill(5);
  const own = gpu.device.createBuffer({
    size: 4 * size,
    usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  });
  gpu.device.queue.writeBuffer(own, 0, fives);
  const ways: Record<string, (y: Tensor) => void> = {
    range: (y) => gpu.run({ shader: { name: "fives", source }, entry: "main" }, [y.range], [size]),
    tensor: (y) => gpu.run({ shader: { name: "fives", source }, entry: "main" }, [y], [size]),
    buffer: (y) => {
      const encoder = gpu.device.createCommandEncoder();
      encoder.copyBufferToBuffer(own, 0, y.buffer, y.range.byteOffset, 4 * size);
      gpu.device.queue.submit([encoder.finish()]);
    },
  };
  const choices = { family: "software", folding: "all", seed: 1 } as const;
  for (const [way, write] of Object.entries(ways)) {
    await withChoices(gpu, choices, async () => {
      const [x, v] = [1, 2].map((seed) => gpu.tensor(normals(size, seed), shape, { requiresGrad: true }));
      const up = gpu.full(shape, 1);
      const y = batchNorm(x!, null, null, { training: true });
      expect(y.recomputes).toBe(true);
      write(y);
      const z = mul(y, v!);
      y.dispose(); // the graph alone has it now
      z.backward(up);
      expect(await v!.grad!.read(), way).toEqual(fives);
      for (const t of [x, v, up, z]) t!.dispose();
    });
  }
  own.destroy();
});

it("a product with itself asks for a pending tensor once", async () => {
  await within(folded, async () => {
    const t = leavesOf({ leaves }, 15);
    await using(t, () => {
      const notes = gpu.explain(() =>
        gpu.scope(() =>
          noGrad(() => {
            const y = batchNorm(conv2d(t.x!, t.w1!, PADDED), null, null, { training: true });
            add(mul(y, y), y);
          }),
        ),
      );
      expect(tally(notes)).toEqual([
        ...["add", "batch_norm.apply", "batch_norm.finalize", "conv2d.forward +statistics", "mul"],
      ]);
    });
  });
});
