// What captures, scopes, checkpoints and devices leave behind, also when something fails in the middle.

import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { checkpoint } from "../../src/autograd/checkpoint.ts";
import { enableGrad, noGrad } from "../../src/autograd/tape.ts";
import { DeviceError, DeviceLostError, FusenormError } from "../../src/errors.ts";
import { Gpu } from "../../src/gpu.ts";
import { manualSeed } from "../../src/nn/init.ts";
import { Conv2d, Linear } from "../../src/nn/layers.ts";
import { requestAdapter, requestGpu } from "../../src/node/request.ts";
import { relu } from "../../src/ops/activations.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { customOp } from "../../src/ops/define-op.ts";
import { add, mul, scale, sub } from "../../src/ops/elementwise/elementwise.ts";
import { linear } from "../../src/ops/linear.ts";
import { mseLoss } from "../../src/ops/losses.ts";
import { sum } from "../../src/ops/reduce/reduce.ts";
import { reshape } from "../../src/ops/reshape.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { normals, relativeError } from "../helpers/numbers.ts";

let gpu: Gpu;
beforeEach(async () => {
  gpu = await requestGpu({ debug: { poison: true } });
});
afterEach(() => gpu.destroy());

const leaf = (shape: number[], seed: number) =>
  gpu.tensor(
    normals(
      shape.reduce((a, b) => a * b, 1),
      seed,
    ),
    shape,
    { requiresGrad: true },
  );

/** An op whose backward throws. */
const failing = customOp({
  name: "failing",
  inputs: { x: "..." },
  infer: ({ x }) => ({ out: x }),
  forward(ctx, { x }) {
    const out = ctx.empty(x.shape);
    ctx.gpu.copyRange(x.range, out.range);
    return { out, saved: {} };
  },
  backward(): never {
    throw new Error("mine");
  },
});

describe("capture", () => {
  it("works out the gradient of an input in each replay, and what the function keeps elsewhere", async () => {
    for (const folds of [false, true]) {
      const [ofPlan, eager] = [leaf([4, 6, 6, 8], 1), leaf([4, 6, 6, 8], 1)];
      const [w, v] = [leaf([8, 1, 1, 8], 2), leaf([8, 1, 1, 8], 3)];
      let kept: Tensor | null = null;
      const step = (x: Tensor) => {
        x.zeroGrad();
        const y = conv2d(batchNorm(x, null, null, { training: true, folds }), w);
        const z = batchNorm(conv2d(y, v), null, null, { training: true, folds });
        kept = gpu.keep(relu(z.detach()));
        const loss = sum(mul(mul(z, y), y));
        loss.backward();
        return loss;
      };
      const plan = gpu.capture(() => step(ofPlan));
      const keptByPlan = kept!;
      for (const seed of [5, 6, 7]) {
        for (const x of [ofPlan, eager]) x.write(normals(x.size, seed));
        plan.run();
        const loss = gpu.scope(() => step(eager));
        const results = [
          [ofPlan.grad!, keptByPlan, plan.result],
          [eager.grad!, kept!, loss],
        ].map((tensors) => Promise.all(tensors.map((t) => t.read())));
        const [replayed, direct] = await Promise.all(results);
        expect(replayed).toEqual(direct);
        for (const t of [loss, kept!]) t.dispose();
      }
      plan.dispose();
      for (const t of [ofPlan, eager, w, v, keptByPlan]) t.dispose();
      expect(gpu.stats.liveBuffers).toBe(0);
    }
  });

  it("writes a tensor into another on the GPU: an update of one's own, eager and replayed", async () => {
    const rate = 0.25;
    const [x, target] = [gpu.tensor(normals(12, 1), [4, 3]), gpu.tensor(normals(8, 2), [4, 2])];
    const start = normals(6, 3);
    const [eager, captured] = [0, 1].map(() => gpu.tensor(start, [2, 3], { requiresGrad: true })) as [
      Tensor,
      Tensor,
    ];
    const step = (weight: Tensor) => {
      weight.zeroGrad();
      mseLoss(linear(x, weight), target).backward();
      noGrad(() => weight.write(sub(weight, mul(weight.grad!, rate))));
    };
    const plan = gpu.capture(() => step(captured));
    for (let i = 0; i < 3; i += 1) {
      gpu.scope(() => step(eager));
      if (i > 0) plan.run(); // it ran once when it was recorded
    }
    // By hand, in float64.
    const [w, xs, ts] = [[...start], await x.read(), await target.read()];
    for (let i = 0; i < 3; i += 1) {
      const gradient = new Float64Array(6);
      for (let n = 0; n < 4; n += 1) {
        for (let k = 0; k < 2; k += 1) {
          let error = -ts[2 * n + k]!;
          for (let c = 0; c < 3; c += 1) error += xs[3 * n + c]! * w[3 * k + c]!;
          for (let c = 0; c < 3; c += 1) gradient[3 * k + c]! += (2 / 8) * error * xs[3 * n + c]!;
        }
      }
      gradient.forEach((value, at) => {
        w[at]! -= rate * value;
      });
    }
    expect(relativeError(await eager.read(), w)).toBeLessThan(1e-6);
    expect(await captured.read()).toEqual(await eager.read());
    expect([eager.requiresGrad, eager.grad!.shape]).toEqual([true, [2, 3]]);
    // Bits of integers stay as they are, and itself is no other.
    const labels = gpu.tensor(Uint32Array.of(1, 0x7fc00001, 0xffffffff), [3], { dtype: "uint32" });
    const into = gpu.zeros([3], { dtype: "uint32" });
    into.write(labels);
    into.write(into.detach());
    expect([...(await into.read())]).toEqual([1, 0x7fc00001, 0xffffffff]);
    expect(() => into.write(x)).toThrow(/tensor.write: data is float32; expected uint32/);
    expect(() => x.write(target)).toThrow(
      "tensor.write: data is [4, 2], the tensor [4, 3]; expected equal shapes",
    );
    for (const one of [plan, x, target, eager, captured, labels, into]) one.dispose();
  });

  it("may be disposed twice, and refuses to run after that, inside a capture, and over a moved parameter", async () => {
    const [x, w] = [leaf([4], 1), leaf([4], 2)];
    const plan = gpu.capture(() => sum(mul(w, x)));
    expect(() => gpu.capture(() => plan.run())).toThrow(/plan\.run: called inside a captured function/);
    const optimizer = new SGD([w], { lr: 0.1 });
    expect(() => plan.run()).toThrow(
      /was moved to an optimizer's packed buffer.*make optimizers before gpu\.capture/,
    );
    plan.dispose();
    plan.dispose();
    const [before, other] = [await x.read(), gpu.full([4], 9)];
    expect(await x.read()).toEqual(before);
    expect(() => plan.run()).toThrow(/plan\.run: the plan was disposed/);
    optimizer.dispose();
    for (const t of [x, w, other]) t.dispose();
    expect(gpu.stats.liveBuffers).toBe(0);
  });

  it("gives its buffers back when the function throws, also those that the function kept", async () => {
    const kept: Tensor[] = [];
    for (let i = 0; i < 20; i += 1) {
      const capture = () =>
        gpu.capture(() => {
          kept.push(gpu.keep(scale(gpu.zeros([100_000]), 2)));
          conv2d(gpu.zeros([1, 8, 8, 8]), gpu.zeros([8, 3, 3, 8])); // still waits for a batch-norm
          throw new Error("mine");
        });
      expect(capture).toThrow("mine");
    }
    for (const t of kept) expect(await t.read()).toEqual(new Float32Array(100_000));
    for (const t of kept) t.dispose();
    await gpu.sync();
    gpu.trim();
    expect(gpu.stats).toMatchObject({ liveBuffers: 0, liveBytes: 0, pooledBuffers: 0, pooledBytes: 0 });
    const y = gpu.capture(() => relu(gpu.full([2], 3)));
    expect([...(await y.result.read())]).toEqual([3, 3]);
  });

  it("keeps what its plan needs from trim", async () => {
    const x = leaf([300], 1);
    const plan = gpu.capture(() => {
      const y = gpu.scope(() => mul(x.detach(), x.detach()));
      const z = mul(y, y);
      y.dispose();
      gpu.trim();
      return mul(z, z);
    });
    const first = await plan.result.read();
    x.write((await x.read()).slice());
    plan.run();
    expect(await plan.result.read()).toEqual(first);
    plan.dispose();
  });

  it("refuses a function that works on another Gpu, whose dispatches it does not record", async () => {
    const other = await requestGpu();
    try {
      const before = gpu.stats.liveBuffers;
      const x = other.full([2], 3);
      expect(() => gpu.capture(() => ({ y: scale(x, 2), z: gpu.full([2], 1) }))).toThrow(
        /^gpu\.capture: the function returned a Tensor \[2\].* of another Gpu; expected/,
      );
      expect(gpu.stats.liveBuffers).toBe(before);
      const plan = other.capture(() => scale(x, 2));
      x.fill(4);
      plan.run();
      expect([...(await plan.result.read())]).toEqual([8, 8]);
    } finally {
      other.destroy();
    }
  });

  it("leaves the gradients of a replay to the leaves, whatever they have had since", async () => {
    for (const packed of [false, true]) {
      const [w, x] = [leaf([2, 3], 1), leaf([2, 3], 2).detach()];
      const before = gpu.stats.liveBuffers;
      const optimizer = packed ? new SGD([w], { lr: 0.1 }) : null;
      const backward = () => sum(mul(w, x)).backward(); // dw = x
      const zeroing = () => {
        w.zeroGrad();
        backward();
      };
      const expectGrad = async (value: number) =>
        expect(await w.grad!.read()).toEqual(new Float32Array(6).fill(value));
      const ofZeroing = gpu.capture(zeroing);
      const ofPlain = gpu.capture(() => {
        w.zeroGrad();
        gpu.scope(backward);
        sum(mul(w, x)).backward(); // on top of it
      });
      w.zeroGrad();
      const ofFresh = gpu.capture(backward);
      const ofAdding = gpu.capture(backward);
      for (const value of [2, 3]) {
        x.fill(value);
        w.zeroGrad();
        ofZeroing.run();
        await expectGrad(value);
        gpu.scope(zeroing); // eagerly, in between
        ofPlain.run();
        await expectGrad(2 * value);
        w.zeroGrad();
        ofFresh.run();
        await expectGrad(value);
        ofAdding.run();
        await expectGrad(2 * value);
        w.zeroGrad();
        ofAdding.run();
        await expectGrad(value);
      }
      w.zeroGrad();
      w.grad = gpu.full([2, 3], 1); // a third one's
      ofFresh.run();
      await expectGrad(4);
      w.zeroGrad();
      w.grad = gpu.full([2, 3], 1);
      ofZeroing.run();
      await expectGrad(3);
      for (const plan of [ofZeroing, ofPlain, ofFresh, ofAdding]) plan.dispose();
      optimizer?.dispose();
      w.zeroGrad();
      // Parameters stay where an optimizer has put them.
      expect(gpu.stats.liveBuffers).toBe(before);
      w.dispose();
      x.dispose();
    }
  });

  it("leaves what was there before to its owner, though the function returns it", async () => {
    const [x, w] = [leaf([4], 1), leaf([4], 2)];
    const before = gpu.stats.liveBuffers;
    const plan = gpu.capture(() => ({
      y: mul(x, w).detach(),
      w,
      view: w.detach(),
      kept: gpu.keep(mul(w, w)),
    }));
    plan.run();
    const { y, view, kept } = plan.result;
    plan.dispose();
    expect([y, view, kept, w].map(({ isDisposed }) => isDisposed)).toEqual([true, true, true, false]);
    expect([...(await w.read())]).toEqual([...normals(4, 2)]);
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("is seen by explain when it is replayed", () => {
    const x = leaf([4], 1);
    const plan = gpu.capture(() => relu(mul(x.detach(), x.detach())));
    expect(gpu.explain(() => plan.run()).map(({ op }) => op)).toEqual(["mul", "relu"]);
  });
});

describe("an exception", () => {
  it("in backward frees the whole graph", async () => {
    const [x, w] = [leaf([4, 6, 6, 8], 1), leaf([8, 1, 1, 8], 2)];
    const before = gpu.stats.liveBuffers;
    for (let i = 0; i < 5; i += 1) {
      const step = () =>
        gpu.scope(() => {
          const y = conv2d(x, w);
          const z = batchNorm(y, null, null, { training: true });
          sum(add(failing({ x: mul(z, y) }, null), z)).backward();
        });
      expect(step).toThrow("mine");
    }
    x.zeroGrad();
    w.zeroGrad();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("in a scope, under noGrad or in a checkpoint leaves everything as it was", () => {
    const x = leaf([4], 1);
    const before = gpu.stats.liveBuffers;
    const fail = () => {
      relu(x);
      throw new Error("mine");
    };
    for (const run of [gpu.scope.bind(gpu), noGrad, enableGrad, gpu.explain.bind(gpu)]) {
      expect(() => gpu.scope(() => run(fail))).toThrow("mine");
    }
    expect(() => gpu.scope(() => checkpoint(fail, x))).toThrow("mine");
    expect(gpu.scope(() => relu(x).requiresGrad)).toBe(true);
    expect(gpu.stats.liveBuffers).toBe(before);
  });
});

describe("an async function", () => {
  it("is refused where its work would come too late, and its own error is not left unhandled", async () => {
    const x = leaf([1], 1);
    const unhandled: unknown[] = [];
    const listen = (error: unknown) => unhandled.push(error);
    process.on("unhandledRejection", listen);
    const late = async () => {
      await null;
      throw new Error("inner");
    };
    const calls: Record<string, () => unknown> = {
      "gpu.scope": () => gpu.scope(late),
      noGrad: () => noGrad(late),
      enableGrad: () => enableGrad(late),
      "gpu.capture": () => gpu.capture(late),
      "gpu.explain": () => gpu.explain(late),
      checkpoint: () => checkpoint(late as never, x),
    };
    for (const [name, call] of Object.entries(calls)) {
      expect(call, name).toThrow(FusenormError);
      expect(call, name).toThrow(new RegExp(`^${name.replace(".", "\\.")}:`));
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
    process.off("unhandledRejection", listen);
    expect(unhandled).toEqual([]);
    expect(relu(x).requiresGrad).toBe(true);
  });
});

describe("checkpoint", () => {
  it("of a part that needs no gradient needs none, and one that returns what it got is the identity", async () => {
    const [w, frozen] = [leaf([2], 1), gpu.tensor([1, -2], [2])];
    const y = checkpoint((t) => relu(t), frozen);
    expect(y.requiresGrad).toBe(false);
    sum(mul(y, w)).backward();
    expect([...(await w.grad!.read())]).toEqual([1, 0]);
    w.zeroGrad();
    sum(
      mul(
        checkpoint((t) => mul(t, w), frozen),
        w,
      ),
    ).backward(); // d(x·w²) = 2·x·w
    const values = await w.read();
    expect([...(await w.grad!.read())]).toEqual([2 * values[0]!, -4 * values[1]!].map(Math.fround));
    w.zeroGrad();
    sum(checkpoint((t) => t, w)).backward();
    expect([...(await w.grad!.read())]).toEqual([1, 1]);
    expect(checkpoint((t) => t, frozen)).not.toBe(frozen);
    expect(w.node).toBeNull();
    for (const wrong of [5, null, [w], "t"]) {
      expect(() => checkpoint((() => wrong) as never, w)).toThrow(/^checkpoint: what the function returned/);
      expect(() => checkpoint((t) => t, wrong as never)).toThrow(/^checkpoint: x is/);
    }
  });

  it("gives gradients to results of ops that its function has from elsewhere, and that others use, too", async () => {
    const [x, w] = [leaf([4, 3], 1), leaf([4, 3], 2)];
    const up = leaf([4, 3], 3).detach();
    type Wrap = (fn: (t: Tensor) => Tensor, t: Tensor) => Tensor;
    const plainly: Wrap = (fn, t) => fn(t);
    const nested: Wrap = (fn, t) => checkpoint((u) => checkpoint(fn, u), t);
    const programs: Record<string, (wrap: Wrap) => Tensor> = {
      "used after it": (wrap) => {
        const h = mul(w, w);
        return add(
          wrap((t) => mul(t, h), x),
          h,
        );
      },
      "used by two": (wrap) => {
        const h = mul(w, w);
        const first = wrap((t) => mul(t, reshape(h, [4, 3])), x);
        return wrap((t) => mul(t, h), first);
      },
      "returned as it is": (wrap) => {
        const h = mul(w, x);
        return mul(
          wrap(() => h, x),
          h,
        );
      },
      "what it gets": (wrap) => {
        const h = mul(w, x);
        return wrap((t) => mul(t, mul(h, w)), h);
      },
    };
    for (const [name, program] of Object.entries(programs)) {
      const gradients = async (wrap: Wrap) => {
        for (const t of [x, w]) t.zeroGrad();
        const live = gpu.stats.liveBuffers;
        gpu.scope(() => program(wrap).backward(up));
        const found = await Promise.all([x, w].map(async ({ grad }) => grad && [...(await grad.read())]));
        for (const t of [x, w]) t.zeroGrad();
        expect(gpu.stats.liveBuffers, name).toBe(live);
        return found;
      };
      const expected = await gradients(plainly);
      for (const wrap of [checkpoint, nested]) {
        for (const [i, own] of (await gradients(wrap)).entries()) {
          if (expected[i] === null) expect(own, name).toBeNull();
          else expect(relativeError(own!, expected[i]!), name).toBeLessThan(1e-6);
        }
      }
    }
  });

  it("moves running statistics once, also those of the op itself", async () => {
    const x = leaf([4, 2, 2, 4], 1);
    const run = async (saved: boolean) => {
      const [runningMean, runningVar] = [gpu.zeros([4]), gpu.full([4], 1)];
      const fn = (t: Tensor) => batchNorm(t, null, null, { training: true, runningMean, runningVar });
      const y = saved ? checkpoint(fn, x) : fn(x);
      sum(mul(y, y)).backward();
      return [await runningMean.read(), await runningVar.read()];
    };
    expect(await run(true)).toEqual(await run(false));
  });
});

describe("backward", () => {
  it("takes an upstream gradient of the tensor's own kind only, and keeps it apart from the leaf's", async () => {
    const x = leaf([2], 1);
    const grad = gpu.tensor([3, 4], [2]);
    expect(() => relu(x).backward([1, 1] as never)).toThrow(/^backward: grad is \[1, 1\].*expected a Tensor/);
    expect(() => relu(x).backward(gpu.tensor([1, 1], [2], { dtype: "uint32" }))).toThrow(
      /grad is uint32.*float32/,
    );
    const other = await requestGpu();
    expect(() => relu(x).backward(other.full([2], 1))).toThrow(/grad is on another Gpu/);
    other.destroy();
    const [a, b] = [leaf([2], 1), leaf([2], 2)];
    add(a, b).backward(grad);
    grad.fill(0);
    a.grad!.fill(7);
    expect([...(await b.grad!.read())]).toEqual([3, 4]);
    expect([...(await grad.read())]).toEqual([0, 0]);
  });
});

describe("layers", () => {
  it("made without a generator differ, and come again after manualSeed", async () => {
    const weights = async () => {
      const layers = [
        new Conv2d(gpu, 3, 8, 3),
        new Conv2d(gpu, 3, 8, 3),
        new Linear(gpu, 27, 8),
        new Linear(gpu, 27, 8),
      ];
      return Promise.all(layers.map(async ({ weight }) => String(await weight.read())));
    };
    manualSeed(4);
    const first = await weights();
    expect(new Set(first).size).toBe(4);
    expect(new Set([...first, ...(await weights())]).size).toBe(8);
    manualSeed(4);
    expect(await weights()).toEqual(first);
  });
});

describe("destroy", () => {
  it("always destroys, whatever failed before or still waits", async () => {
    const tensor = gpu.full([2], 1);
    conv2d(leaf([1, 4, 4, 4], 1), leaf([4, 1, 1, 4], 2));
    gpu.device.createBuffer({ size: 16, usage: 0x3ff }); // any validation error
    await new Promise((resolve) => setTimeout(resolve, 100));
    await expect(tensor.read()).rejects.toThrow(/CreateBuffer/);
    gpu.device.createBuffer({ size: 16, usage: 0x3ff });
    await new Promise((resolve) => setTimeout(resolve, 100));
    gpu.destroy();
    await expect(tensor.read()).rejects.toThrow(/used after destroy/);
    expect(gpu.stats).toMatchObject({ liveBuffers: 0, liveBytes: 0, pooledBuffers: 0 });
    expect((await gpu.device.lost).reason).toBe("destroyed");
  });

  it("leaves a caller's device alive, with what was encoded for the caller's buffers", async () => {
    const { device } = gpu;
    let lost = false;
    void device.lost.then(() => {
      lost = true;
    });
    const borrowed = Gpu.fromDevice(device);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = device.createBuffer({ size: 16, usage });
    Tensor.fromBuffer(buffer, [4], { gpu: borrowed }).fill(5);
    const plan = borrowed.capture(() => relu(borrowed.full([4], 1)));
    expect(borrowed.stats.liveBuffers).toBe(1);
    borrowed.destroy();
    plan.dispose();
    expect(borrowed.stats).toMatchObject({ liveBuffers: 0, liveBytes: 0, pooledBuffers: 0, pooledBytes: 0 });
    expect(() => borrowed.zeros([1])).toThrow(/used after destroy/);
    const again = Gpu.fromDevice(device);
    const [a, b] = [0, 0].map(() => Tensor.fromBuffer(buffer, [4], { gpu: again }));
    expect([...(await relu(a!).read())]).toEqual([5, 5, 5, 5]);
    const y = mul(leafOn(again), b!);
    a!.fill(1); // the same elements through another handle
    expect(() => sum(y).backward()).toThrow(/mul backward: b was overwritten/);
    again.destroy();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(lost).toBe(false);
  });

  it("says of a caller's device that is lost already that it was before", async () => {
    const { gpu: entry } = await requestAdapter();
    const ofCaller = async () => (await entry.requestAdapter())!.requestDevice();
    const told = (of: Gpu) =>
      relu(of.tensor([-1, 1], [2]))
        .read()
        .catch((error: Error) => `${error.name}: ${error.message}`);
    const device = await ofCaller();
    device.destroy();
    await device.lost;
    expect(await told(Gpu.fromDevice(device))).toMatch(
      /^DeviceLostError: the device was lost \(destroyed\) before this Gpu was made of it:/,
    );
    const later = await ofCaller();
    const alive = Gpu.fromDevice(later);
    expect(await told(alive)).toEqual(Float32Array.of(0, 1));
    later.destroy();
    expect(await told(alive)).toMatch(/^DeviceLostError: the device was lost \(destroyed\) near /);
  });
});

function leafOn(other: Gpu): Tensor {
  return other.tensor([1, 2, 3, 4], [4], { requiresGrad: true });
}

describe("tensor.buffer", () => {
  it("holds the elements by the time of the caller's own submit", async () => {
    const y = relu(gpu.tensor([-1, 2, -3, 4], [4]));
    const copy = gpu.device.createBuffer({
      size: 16,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const encoder = gpu.device.createCommandEncoder();
    encoder.copyBufferToBuffer(y.buffer, y.range.byteOffset, copy, 0, 16);
    gpu.device.queue.submit([encoder.finish()]);
    await copy.mapAsync(GPUMapMode.READ);
    expect([...new Float32Array(copy.getMappedRange())]).toEqual([0, 2, 0, 4]);
  });
});

describe("a lost device", () => {
  it("gives the same typed error from every later call", async () => {
    const x = leaf([2], 1);
    const y = relu(x);
    const plan = gpu.capture(() => relu(x.detach()));
    const reading = y.read();
    gpu.device.destroy();
    const told = (call: () => unknown) =>
      (async () => call())().then(
        () => "no error",
        (error: Error) => {
          expect(error).toBeInstanceOf(DeviceLostError);
          expect(error).toBeInstanceOf(DeviceError);
          return error.message;
        },
      );
    const messages = [await told(() => reading)];
    const shader = { name: "own", source: "@compute @workgroup_size(1) fn main() {}" };
    const calls: (() => unknown)[] = [
      () => y.read(),
      () => relu(x),
      () => gpu.zeros([3]),
      () => gpu.tensor([1], [1]),
      () => x.write([1, 2]),
      () => x.fill(1),
      () => sum(y).backward(),
      () => gpu.sync(),
      () => plan.run(),
      () => gpu.capture(() => relu(x)),
      () => gpu.warmup([{ shader, entry: "main" }]),
      () => gpu.profile(() => void relu(x)),
      () => gpu.run({ shader, entry: "main" }, [], [1]),
    ];
    for (const call of [...calls, ...calls]) messages.push(await told(call));
    expect([...new Set(messages)]).toHaveLength(1);
    expect(messages[0]).toMatch(/^the device was lost \(destroyed\) near \w+: .*ask for a new one/);
    plan.dispose();
    for (const t of [x, y]) t.dispose();
  });
});
