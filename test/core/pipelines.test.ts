// What is kept of kernels, bind groups and constants does not grow with the number of shapes that were used.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { channelMoments, imageDataset } from "../../src/data/dataset.ts";
import { DeviceDataset } from "../../src/data/device-dataset.ts";
import { KernelCache, type KernelSpec, MOST_PIPELINES } from "../../src/device/kernels.ts";
import { Recent } from "../../src/device/recent.ts";
import type { WordCache } from "../../src/device/words.ts";
import * as shaders from "../../src/generated/shaders.ts";
import type { Gpu } from "../../src/gpu.ts";
import {
  BatchNorm2d,
  Conv2d,
  GlobalAvgPool2d,
  Linear,
  MaxPool2d,
  ReLU,
  Sequential,
} from "../../src/nn/layers.ts";
import { requestGpu } from "../../src/node/request.ts";
import { relu } from "../../src/ops/activations.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";
import { sum } from "../../src/ops/reduce/reduce.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { SGD } from "../../src/optim/sgd.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { SmallNetwork } from "../helpers/batch-sizes.ts";
import { normals } from "../helpers/numbers.ts";

describe("Recent", () => {
  it("never holds more than its capacity, and keeps the half that was used last", () => {
    const recent = new Recent<number, string>(8);
    for (let i = 0; i < 100; i += 1) {
      recent.set(i, `${i}`);
      expect(recent.size).toBeLessThanOrEqual(8);
      for (let back = 0; back < 4 && back <= i; back += 1) expect(recent.get(i - back)).toBe(`${i - back}`);
    }
    expect(recent.get(50)).toBeUndefined();
    expect([...recent.values()].length).toBe(recent.size);
  });

  it("keeps what is used now and again while others come and go", () => {
    const recent = new Recent<string, number>(6);
    recent.set("kept", 1);
    for (let i = 0; i < 50; i += 1) {
      recent.set(`passing ${i}`, i);
      if (i % 2 === 0) expect(recent.get("kept")).toBe(1);
    }
    recent.set("kept", 2);
    expect(recent.get("kept")).toBe(2);
    recent.clear();
    expect(recent.size).toBe(0);
    expect(recent.get("kept")).toBeUndefined();
  });

  it.each([0, 1, 2, 3])("is of use at a capacity of %d", (capacity) => {
    const recent = new Recent<number, number>(capacity);
    for (let i = 0; i < 5; i += 1) {
      recent.set(i, i);
      expect(recent.get(i)).toBe(i);
      expect(recent.size).toBeLessThanOrEqual(Math.max(2, capacity));
    }
  });
});

describe("the kernel cache", () => {
  /** Enough of a device to count what is made. */
  function fakeDevice() {
    let pipelines = 0;
    const device = {
      createShaderModule: () => ({}),
      createBindGroupLayout: (descriptor: unknown) => descriptor,
      createPipelineLayout: (descriptor: unknown) => descriptor,
      createComputePipeline: () => {
        pipelines += 1;
        return { getBindGroupLayout: () => ({}) };
      },
      pushErrorScope() {},
      popErrorScope: async () => null,
    };
    return { made: () => pipelines, cache: new KernelCache(device as unknown as GPUDevice, () => {}) };
  }
  const spec = (name: string, source: string, value = 0): KernelSpec => ({
    shader: { name, source },
    entry: "main",
    constants: { VALUE: value },
  });

  it("forgets pipelines and modules that nobody uses, of constants and of sources without end", () => {
    const { made, cache } = fakeDevice();
    const always = cache.get(spec("always", "// always"));
    for (let i = 0; i < 5000; i += 1) {
      const kernel = cache.get(i % 2 ? spec("one", "// one", i) : spec("many", `// ${i}`));
      expect(kernel.id).not.toBe(always.id);
      if (i % 100 === 0) expect(cache.get(spec("always", "// always"))).toBe(always);
    }
    expect(cache.count).toBeLessThanOrEqual(MOST_PIPELINES);
    expect(made()).toBe(5001);
    // Sources that were forgotten do not come back as others.
    const again = cache.get(spec("many", "// 0"));
    expect(again.id).toBeGreaterThan(5000);
    expect(cache.get(spec("many", "// 0"))).toBe(again);
  });

  it("shares a layout between the package's kernels that bind alike, and leaves users' WGSL its own", () => {
    const { cache } = fakeDevice();
    const entries = (kernel: KernelSpec) =>
      [...(cache.get(kernel).layout as unknown as GPUBindGroupLayoutDescriptor).entries].map(
        ({ binding, buffer }) => `${binding} ${buffer!.type}`,
      );
    const widen: KernelSpec = { shader: shaders.cast, entry: "widen" };
    const exp: KernelSpec = { shader: shaders.unary, entry: "exp_forward" };
    const softmax: KernelSpec = { shader: shaders.softmax, entry: "forward" };
    expect(entries(widen)).toEqual(["0 storage", "1 read-only-storage", "2 uniform"]);
    expect(entries(softmax)).toEqual(["0 storage", "1 uniform", "2 read-only-storage"]);
    // Of another module, and with other constants.
    expect(cache.get(exp).layout).toBe(cache.get(widen).layout);
    const smaller = { ...widen, constants: { WORKGROUP_SIZE: 16 } };
    expect(cache.get(smaller)).not.toBe(cache.get(widen));
    expect(cache.get(smaller).layout).toBe(cache.get(widen).layout);
    expect(cache.get(softmax).layout).not.toBe(cache.get(widen).layout);
    const own = (i: number) => cache.get(spec("own", `// ${i}`)).layout;
    expect(own(0)).not.toBe(own(1));
  });
});

describe.each(["software", "hardware"] as const)("batches of many sizes, with the kernels for %s", (kind) => {
  let gpu: Gpu;
  beforeEach(async () => {
    gpu = await requestGpu();
    (gpu.info as { class: string }).class = kind;
  });
  afterEach(() => gpu.destroy());

  const cacheSizes = () => {
    type Cache = WordCache<unknown>;
    const { bindGroups } = gpu as unknown as { bindGroups: { groups: Cache; uniforms: { buffers: Cache } } };
    return { uniforms: bindGroups.uniforms.buffers, bindGroups: bindGroups.groups };
  };

  it("share their pipelines, forward and backward", async () => {
    const network = new SmallNetwork(gpu);
    const live = gpu.stats.liveBuffers;
    // Every choice of kernels and of powers of two lanes that there is below 512.
    for (const n of [
      1, 2, 3, 4, 5, 7, 8, 12, 16, 23, 32, 45, 64, 90, 128, 180, 256, 300, 360, 400, 511, 512,
    ]) {
      network.run(n).dispose();
    }
    const few = gpu.stats.pipelines;
    for (let n = 1; n <= 512; n += n < 150 ? 1 : 7) network.run(n).dispose();
    await gpu.sync();
    // A choice at a size of its own, as of the tail of a row, may come late: a handful, not one for each size.
    expect(gpu.stats.pipelines - few).toBeLessThan(12);
    expect(gpu.stats.pipelines).toBeLessThan(90);
    expect(gpu.stats.liveBuffers).toBe(live);
    for (const cache of Object.values(cacheSizes())) expect(cache.size).toBeLessThanOrEqual(cache.capacity);
    network.dispose();
  });

  it.each([
    ["SGD", (parameters: Tensor[]) => new SGD(parameters, { lr: 0.1, momentum: 0.9 })],
    ["AdamW", (parameters: Tensor[]) => new AdamW(parameters)],
  ] as const)("compile nothing for the last one of an epoch, with %s", async (_name, make) => {
    const model = new Sequential(
      ...[new Conv2d(gpu, 3, 16, 3, { padding: 1 }), new BatchNorm2d(gpu, 16), new ReLU(), new MaxPool2d(2)],
      ...[new Conv2d(gpu, 16, 16, 3, { padding: 1, stride: 2 }), new BatchNorm2d(gpu, 16), new ReLU()],
      ...[new GlobalAvgPool2d(), new Linear(gpu, 16, 10)],
    );
    const optimizer = make(model.parameters());
    const counts: number[] = [];
    for (const n of [32, 32, 17]) {
      gpu.scope(() => {
        const x = gpu.tensor(normals(n * 16 * 16 * 3, n), [n, 16, 16, 3]);
        const classes = Uint32Array.from({ length: n }, (_, i) => i % 10);
        softmaxCrossEntropy(model.forward(x), gpu.tensor(classes, [n], { dtype: "uint32" })).backward();
        optimizer.step();
        model.zeroGrad();
      });
      await gpu.sync();
      counts.push(gpu.stats.pipelines);
    }
    expect(counts[0]).toBeGreaterThan(15);
    expect(counts[2]).toBe(counts[1]);
    optimizer.dispose();
    model.dispose();
  });

  it("give the numbers of one image after the other", async () => {
    const network = new SmallNetwork(gpu);
    const sums: number[] = [];
    for (const n of [1, 2, 37, 38]) {
      const total = network.predict(n);
      sums.push((await total.read())[0]!);
      total.dispose();
    }
    const [one, two, most, all] = sums as [number, number, number, number];
    const ofImage = async (i: number) => {
      const total = network.predict(1, i);
      const [value] = await total.read();
      total.dispose();
      return value!;
    };
    expect(two - one).toBeCloseTo(await ofImage(1), 4);
    expect(all - most).toBeCloseTo(await ofImage(37), 4);
    network.dispose();
  });

  it("and captured plans live on when what they use is dropped from the caches", async () => {
    const x = gpu.tensor(normals(3 * 6 * 6 * 4, 1), [3, 6, 6, 4]);
    const w = gpu.tensor(normals(8 * 3 * 3 * 4, 2), [8, 3, 3, 4]);
    const plan = gpu.capture(() => sum(relu(conv2d(x, w, { padding: 1 })), [0, 1, 2]));
    plan.run();
    const expected = await plan.result.read();

    const { kernels } = gpu as unknown as { kernels: Record<string, WordCache<unknown>> };
    for (const cache of [kernels.kernels!, kernels.modules!, ...Object.values(cacheSizes())]) {
      expect(cache.size).toBeGreaterThan(0);
      cache.clear();
    }
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    for (let round = 0; round < 3; round += 1) {
      collect();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    x.write(normals(3 * 6 * 6 * 4, 3));
    plan.run();
    expect(await plan.result.read()).not.toEqual(expected);
    x.write(normals(3 * 6 * 6 * 4, 1));
    plan.run();
    expect(await plan.result.read()).toEqual(expected);
    // Compiled anew, and the same.
    const fresh = gpu.scope(() => sum(relu(conv2d(x, w, { padding: 1 })), [0, 1, 2]));
    expect(await fresh.read()).toEqual(expected);
    plan.dispose();
  });
});

it("fills and batches out of a data set need no pipeline for each value, batch size or seed", async () => {
  const gpu = await requestGpu();
  const tensor = gpu.zeros([7]);
  const images = Uint8Array.from({ length: 20 * 12 }, (_, i) => (i * 37) % 251);
  const labels = Uint8Array.from({ length: 20 }, (_, i) => i % 3);
  const shape = { height: 4, width: 3, channels: 1, classNames: ["a", "b", "c"] };
  const dataset = imageDataset({ name: "any", images, labels, ...shape });
  const epoch = gpu.zeros([1], { dtype: "uint32" });
  const gather = (n: number, seed: number) => {
    const indices = gpu.tensor(
      Uint32Array.from({ length: n }, (_, i) => i),
      [n],
      { dtype: "uint32" },
    );
    const augment = { pad: 1, flip: true };
    const onDevice = new DeviceDataset(gpu, dataset, { ...channelMoments(dataset), seed, augment });
    onDevice.gather(indices, epoch, gpu.empty([n, 4, 3, 1]), gpu.empty([n], "uint32"));
  };
  gather(1, 0);
  const before = gpu.stats.pipelines;
  for (let value = 0; value < 50; value += 1) tensor.fill(value + 0.25);
  expect([...(await tensor.read())]).toEqual(Array(7).fill(49.25));
  for (let n = 2; n < 20; n += 1) gather(n, n);
  await gpu.sync();
  expect(gpu.stats.pipelines).toBe(before);
  gpu.destroy();
});
