// The device goes away at a random moment of some work: that work, and every call after it, must say so, by the same typed
// error; nothing may hang, reject unseen, or keep the process.

import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { autotune } from "../../src/autotune.ts";
import { DeviceDataset } from "../../src/data/device-dataset.ts";
import { DataLoader } from "../../src/data/loader.ts";
import { DeviceLostError } from "../../src/errors.ts";
import * as shaders from "../../src/generated/shaders.ts";
import type { Gpu } from "../../src/gpu.ts";
import { resnetCifar } from "../../src/nn/models/resnet.ts";
import { requestGpu } from "../../src/node/request.ts";
import { relu } from "../../src/ops/activations.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { matmul } from "../../src/ops/matmul/matmul.ts";
import { sum } from "../../src/ops/reduce/reduce.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { Random } from "../../src/tensor/random.ts";
import { evaluate } from "../../src/train/evaluate.ts";
import { RecipeTrainer } from "../../src/train/recipe.ts";
import { describe as describeTensor, histogram } from "../../src/train/statistics.ts";
import { squares } from "../helpers/squares.ts";
import { runScript } from "../node/children.ts";

const LOSSES = 50;
const SEED = Number(process.env.FUSENORM_FAULT_SEED ?? 1);

const data = { train: squares("squares train", 70, 1), test: squares("squares test", 33, 2) };
const moments = { mean: [0.5], std: [0.3], seed: 3 };
const options = {
  depth: 8,
  width: 4,
  batchSize: 16,
  epochs: 1000,
  logEvery: 2,
  schedule: "constant",
} as const;
const bins = { low: -3, high: 3, bins: 10 };
const random = (shape: number[], seed: number) => {
  const next = new Random(seed);
  return Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => next.normal());
};
const normal = (gpu: Gpu, shape: number[], seed: number, requiresGrad = false) =>
  gpu.keep(gpu.tensor(random(shape, seed), shape, { requiresGrad }));

/** Work that goes on until the device is lost, by name. */
const work: Record<string, (gpu: Gpu) => Promise<unknown>> = {
  "training, eager": (gpu) => new RecipeTrainer(gpu, data, { ...options, capture: false }).run(),
  "training, captured": (gpu) => new RecipeTrainer(gpu, data, options).run(),
  async reading(gpu) {
    const x = normal(gpu, [1000], 1);
    for (;;) {
      const total = gpu.scope(() => sum(relu(x)));
      await Promise.all([x.read(), total.item(), x.read()]);
      total.dispose();
    }
  },
  async "warming up"(gpu) {
    const source = `override VALUE: u32 = 0;
      @group(0) @binding(0) var<storage, read_write> out: array<u32>;
      @compute @workgroup_size(1) fn main() { out[0] = VALUE; }`;
    for (let i = 0; ; i += 1) {
      await gpu.warmup([{ shader: { name: "own", source }, entry: "main", constants: { VALUE: i } }]);
    }
  },
  async profiling(gpu) {
    const trainer = new RecipeTrainer(gpu, data, { ...options, capture: false });
    for (;;) await trainer.profileStep();
  },
  async capturing(gpu) {
    const x = normal(gpu, [2, 6, 6, 4], 1);
    const weight = normal(gpu, [8, 3, 3, 4], 2, true);
    for (;;) {
      const plan = gpu.capture(() => {
        weight.zeroGrad();
        const y = sum(relu(conv2d(x, weight, { padding: 1 })));
        y.backward();
        return y;
      });
      plan.run();
      await plan.result.read();
      plan.dispose();
    }
  },
  async "gathering batches"(gpu) {
    const dataset = new DeviceDataset(gpu, data.train, { ...moments, augment: { pad: 2, flip: true } });
    const indices = gpu.keep(gpu.zeros([16], { dtype: "uint32" }));
    const epoch = gpu.keep(gpu.zeros([1], { dtype: "uint32" }));
    const images = gpu.keep(gpu.empty([16, 8, 8, 1]));
    const labels = gpu.keep(gpu.empty([16], "uint32"));
    for (let i = 0; ; i += 1) {
      indices.write(Uint32Array.from({ length: 16 }, (_, j) => (i + 3 * j) % 70));
      dataset.gather(indices, epoch, images, labels);
      await images.read();
    }
  },
  async evaluating(gpu) {
    const model = resnetCifar(gpu, { depth: 8, width: 4, inChannels: 1, classes: 4 });
    const loader = new DataLoader(data.test, { ...moments, batchSize: 8, shuffle: false });
    for (;;) await evaluate(gpu, model, loader);
  },
  async measuring(gpu) {
    const x = normal(gpu, [5000], 1);
    for (;;) {
      await histogram(x, bins);
      await describeTensor(x);
    }
  },
  async tuning(gpu) {
    const a = normal(gpu, [32, 16], 1);
    const b = normal(gpu, [16, 24], 2);
    for (;;) await autotune(gpu, () => void matmul(a, b).dispose());
  },
};

/** What every call must throw from then on. */
function isTyped(error: unknown): boolean {
  return error instanceof DeviceLostError && /the device was lost \(.+\) near .+/.test(error.message);
}

function onlyTyped(error: unknown): void {
  if (!isTyped(error)) throw error;
}

/** Rejects if `promise` takes longer than any of this may. */
function bounded<T>(promise: Promise<T>, what: string): Promise<T> {
  const late = new AbortController();
  return Promise.race([
    promise.finally(() => late.abort()),
    delay(30_000, null, { signal: late.signal }).then(
      () => Promise.reject(new Error(`${what}: nothing came in 30 s`)),
      () => promise,
    ),
  ]);
}

const unseen: unknown[] = [];
const note = (error: unknown) => void unseen.push(error);
beforeAll(() => void process.on("unhandledRejection", note));
afterAll(() => void process.off("unhandledRejection", note));

describe(`losing the device, seed ${SEED}`, () => {
  const names = Object.keys(work);
  for (let i = 0; i < LOSSES; i += 1) {
    const name = names[i % names.length]!;
    const chance = new Random(SEED, i);
    // Inside a dispatch, or in some turn of the event loop: of promises, of timers, of the poll for the GPU.
    const moment = (["dispatch", "microtask", "timer", "immediate"] as const)[chance.int(4)]!;
    const count = chance.int(moment === "dispatch" ? 300 : 40);
    it(`${i}: ${name}, at ${moment} ${count}`, async () => {
      const gpu = await requestGpu({ debug: { poison: chance.int(2) === 1 } });
      const before = await survivors(gpu);
      const failed = work[name]!(gpu).then(
        () => Promise.reject(new Error("the work came to an end")),
        (error: unknown) => error,
      );
      await destroyAt(gpu, moment, count);
      await bounded(failed, name).then(onlyTyped);
      for (let round = 0; round < 2; round += 1) {
        const wrong: string[] = [];
        for (const [call, fn] of Object.entries<() => unknown>(calls(gpu, before))) {
          await bounded(Promise.resolve().then(fn), call).then(
            () => wrong.push(`${call} did as if nothing had happened`),
            (error: Error) => isTyped(error) || wrong.push(`${call}: ${error.name} ${error.message}`),
          );
        }
        expect(wrong).toEqual([]);
      }
      // Giving back is no use of the device.
      for (const tensor of [before.x, before.loss, before.plan.result]) tensor.dispose();
      before.plan.dispose();
      before.optimizer.dispose();
      gpu.destroy();
      gpu.destroy();
      await delay(0);
      expect(unseen).toEqual([]);
    });
  }
});

/** Things made while the device was there. */
async function survivors(gpu: Gpu) {
  const x = normal(gpu, [4, 6], 1, true);
  const optimizer = new SGD([x], { lr: 0.1, momentum: 0.9 });
  const labels = gpu.keep(gpu.zeros([4], { dtype: "uint32" }));
  const plan = gpu.capture(() => relu(x));
  plan.run();
  const loss = () => gpu.keep(softmaxCrossEntropy(x, labels));
  loss().backward();
  await gpu.sync();
  return { x, loss: loss(), plan, optimizer, labels };
}

function calls(gpu: Gpu, { x, loss, plan, optimizer, labels }: Awaited<ReturnType<typeof survivors>>) {
  return {
    "tensor.read": () => x.read(),
    "tensor.item": () => loss.item(),
    "tensor.write": () => x.write(random([4, 6], 2)),
    "tensor.fill": () => x.fill(1),
    backward: () => loss.backward(),
    "gpu.flush": () => gpu.flush(),
    "gpu.sync": () => gpu.sync(),
    "gpu.tensor": () => gpu.tensor([1], [1]),
    "gpu.zeros": () => gpu.zeros([1]),
    "gpu.empty": () => gpu.empty([1]),
    "gpu.capture": () => gpu.capture(() => relu(x)),
    "gpu.profile": () => gpu.profile(() => void relu(x)),
    "gpu.warmup": () => gpu.warmup([{ shader: shaders.memory, entry: "copy" }]),
    "gpu.run": () => gpu.run({ shader: shaders.accuracy, entry: "forward" }, [x, x, x, x], [1]),
    "plan.run": () => plan.run(),
    relu: () => relu(x),
    softmaxCrossEntropy: () => softmaxCrossEntropy(x, labels),
    "optimizer.step": () => optimizer.step(),
    "optimizer.stateDict": () => optimizer.stateDict(),
    resnetCifar: () => resnetCifar(gpu, { depth: 8, width: 4 }),
    Trainer: () => new RecipeTrainer(gpu, data, options),
    histogram: () => histogram(x, bins),
  } satisfies Record<string, () => unknown>;
}

async function destroyAt(
  gpu: Gpu,
  moment: "dispatch" | "microtask" | "timer" | "immediate",
  count: number,
): Promise<void> {
  const { commands, device } = gpu;
  if (moment === "dispatch") {
    const dispatch = commands.dispatch.bind(commands);
    let left = count;
    commands.dispatch = (...args) => {
      if (left === 0) device.destroy();
      left -= 1;
      dispatch(...args);
    };
    // Work that dispatches nothing, as compiling, meets its end all the same.
    setTimeout(() => device.destroy(), 2000).unref();
    return;
  }
  for (let turn = 0; turn < count; turn += 1) {
    if (moment === "microtask") await null;
    else if (moment === "timer") await delay(1);
    else await new Promise((resolve) => setImmediate(resolve));
  }
  device.destroy();
}

describe("a process that lost its device", () => {
  it("ends by itself", async () => {
    const { code, signal, stdout, stderr } = await runScript(`
      import { requestGpu } from "./src/node/index.ts";
      import { relu } from "./src/index.ts";
      const gpu = await requestGpu();
      const x = gpu.tensor([1, 2], [2]);
      const reading = relu(x).read();
      gpu.device.destroy();
      for (const read of [reading, x.read(), x.read()])
        console.log(await read.then(() => "read", (error) => error.name));`);
    expect(stderr.replace(/^Warning: .*\n/gm, "")).toBe("");
    expect({ code, signal }).toEqual({ code: 0, signal: null });
    expect(stdout).toMatch(/^(read|DeviceLostError)\nDeviceLostError\nDeviceLostError\n$/);
  });
});
