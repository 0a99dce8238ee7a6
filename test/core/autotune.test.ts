import { afterEach, describe, expect, it, vi } from "vitest";
import { autotune, type TunedChoice } from "../../src/autotune.ts";
import type { KernelTiming } from "../../src/device/profiler.ts";
import { Variants } from "../../src/device/variants.ts";
import { DataError } from "../../src/errors.ts";
import { relu } from "../../src/ops/activations.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { conv2d } from "../../src/ops/conv2d/conv2d.ts";

import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";

const gpu = await testGpu();
const timed = gpu.features.has("timestamp-query");

/** conv → batch-norm → ReLU → conv, forward and backward; large enough that batch-norm is no matter of one dispatch. */
function chain() {
  const parameter = (values: Float64Array | Float32Array | number[], shape: number[]) =>
    gpu.keep(gpu.tensor(values, shape, { requiresGrad: true }));
  const tensors = {
    x: gpu.keep(gpu.tensor(normals(2 * 31 * 33 * 8, 1), [2, 31, 33, 8])),
    first: parameter(normals(8 * 9 * 8, 2), [8, 3, 3, 8]),
    second: parameter(normals(8 * 9 * 8, 3), [8, 3, 3, 8]),
    gamma: parameter(normals(8, 4), [8]),
    beta: parameter(normals(8, 5), [8]),
    upstream: gpu.keep(gpu.tensor(normals(2 * 31 * 33 * 8, 6), [2, 31, 33, 8])),
  };
  const { x, first, second, gamma, beta, upstream } = tensors;
  const step = () =>
    gpu.scope(() => {
      const y = batchNorm(conv2d(x, first, { padding: 1 }), gamma, beta, { training: true });
      const out = conv2d(relu(y), second, { padding: 1 });
      out.backward(upstream);
      gpu.flush(); // somebody wants `out`
      for (const tensor of [first, second, gamma, beta]) tensor.zeroGrad();
    });
  return {
    step,
    dispose: () => {
      for (const tensor of Object.values<Tensor>(tensors)) tensor.dispose();
    },
  };
}

const opOf = (name: string) =>
  name.replace("sum_partials", "conv2d").split(/[._]/)[0]!.replace("batch", "batch_norm");

/** Tunes with `durationUs` in place of the GPU's clock. */
async function tuned(
  step: () => void,
  durationUs: (timing: KernelTiming) => number,
  seen: KernelTiming[][] = [],
): Promise<TunedChoice[]> {
  const profile = gpu.profile.bind(gpu);
  vi.spyOn(gpu, "profile").mockImplementation(async (fn) => {
    const timings = (await profile(fn)).map((timing) => ({ ...timing, durationUs: durationUs(timing) }));
    seen.push(timings);
    return timings;
  });
  // Tiles take seconds to compile on a processor.
  const { variants } = gpu;
  const pick = variants.pick.bind(variants);
  vi.spyOn(variants, "pick").mockImplementation((kernel, shape, candidates, fallback, reach) => {
    const quick = candidates.filter((name) => name === fallback || !name.startsWith("tile")).slice(0, 3);
    return pick(kernel, shape, kernel.startsWith("conv2d") ? quick : candidates, fallback, reach);
  });
  return autotune(gpu, step, { rounds: 1 });
}

describe.skipIf(!timed)("autotune", () => {
  afterEach(() => {
    vi.restoreAllMocks();
    (gpu.variants as unknown as { tuned: Map<string, string> }).tuned.clear();
  });

  it("books the time of each dispatch to the choices that it serves, however late it runs", async () => {
    const { step, dispose } = chain();
    const seen: KernelTiming[][] = [];
    const choices = await tuned(step, ({ kernel }) => (opOf(kernel) === "conv2d" ? 1000 : 1), seen);
    dispose();
    for (const { kernel, keys } of seen.flat()) {
      if (
        /^conv2d_(tile|subgroup|depthwise)|^batch_norm|^conv2d\.(forward|grad)|^sum_partials/.test(kernel)
      ) {
        expect(keys, kernel).toHaveLength(1);
      }
      for (const key of keys) expect(opOf(key), `${kernel} for ${key}`).toBe(opOf(kernel));
    }
    const ofKernel = choices.filter(({ kernel }) =>
      /^conv2d\.(forward|grad_input|grad_weight)$/.test(kernel),
    );
    expect(new Set(ofKernel.map(({ kernel }) => kernel)).size).toBe(3);
    // Both convolutions have the same sizes. dx is wanted of the second alone.
    for (const { kernel, ms } of ofKernel) {
      for (const [variant, time] of Object.entries(ms)) {
        // In ms, one for each dispatch of a convolution.
        expect(Number.isInteger(time), `${kernel} ${variant}`).toBe(true);
        if (kernel === "conv2d.forward") expect(time, variant).toBe(2);
        if (kernel === "conv2d.grad_input") expect(time, variant).toBe(1);
      }
    }
  });

  it("tries every variant of a batch-norm, and remembers the one with which all the work is fastest", async () => {
    const { step, dispose } = chain();
    const seen: KernelTiming[][] = [];
    const choices = await tuned(
      step,
      ({ kernel }) => (kernel.startsWith("batch_norm.forward") ? 1 : 100),
      seen,
    );
    dispose();
    const forward = choices.find(({ kernel }) => kernel === "batch_norm.forward")!;
    expect(Object.keys(forward.ms).sort()).toEqual(
      ["software", "software_one", "workgroup", "workgroup_one"].sort(),
    );
    expect(Object.values(forward.ms).every((ms) => ms > 0)).toBe(true);
    // The time of all the work in the profiles, and not of a part.
    const totals = seen.map((timings) => timings.reduce((sum, { durationUs }) => sum + durationUs, 0) / 1e3);
    for (const ms of Object.values(forward.ms)) expect(totals).toContain(ms);
    expect(gpu.variants.toJSON()[`${forward.kernel}|${forward.shape}`]).toBe(forward.chosen);
  });

  it("leaves nothing remembered where the work throws", async () => {
    const { step, dispose } = chain();
    let left = 6;
    const failing = () => {
      left -= 1;
      if (left === 0) throw new Error("enough");
      step();
    };
    gpu.variants.remember("conv2d.forward", "elsewhere", "tile_64x64");
    await expect(autotune(gpu, failing, { rounds: 1 })).rejects.toThrow("enough");
    dispose();
    expect(gpu.variants.toJSON()).toEqual({ "conv2d.forward|elsewhere": "tile_64x64" });
    expect(gpu.variants.onPick).toBeNull();
    expect(gpu.variants.trials.size).toBe(0);
  });
});

it("a forced variant of one dispatch never throws where a call can't take it", async () => {
  const x = gpu.tensor(normals(37 * 8, 1), [37, 8]);
  const [runningMean, runningVar, numBatchesTracked] = [gpu.zeros([8]), gpu.full([8], 1), gpu.zeros([1])];
  const options = { training: true, runningMean, runningVar, numBatchesTracked, momentum: null };
  const results: Float32Array[] = [];
  for (const variant of ["software_one", "software"]) {
    gpu.variants.force("batch_norm.forward", variant);
    try {
      const y = batchNorm(x, null, null, options);
      results.push((await y.read()) as Float32Array);
      y.dispose();
    } finally {
      gpu.variants.force("batch_norm.forward", null);
    }
  }
  expect(results[0]).toEqual(results[1]);
  // No call could take it: channels that are not whole vec4s.
  const ragged = gpu.tensor(normals(37 * 3, 1), [37, 3]);
  gpu.variants.force("batch_norm.forward", "software_one");
  try {
    expect(() => batchNorm(ragged, null, null, { training: true })).toThrow(/forced.*37x3/);
  } finally {
    gpu.variants.force("batch_norm.forward", null);
  }
  for (const tensor of [x, ragged, runningMean, runningVar, numBatchesTracked]) tensor.dispose();
});

describe("saved choices", () => {
  const saved = () => {
    const variants = new Variants("A GPU | driver 1");
    variants.remember("reduce", "1x2x3", "tree");
    variants.remember("conv2d.forward", "4x5", "tile_64x64");
    return variants;
  };

  it("come back on the same adapter", () => {
    const other = new Variants("A GPU | driver 1");
    expect(other.restore(saved().serialize())).toBe(true);
    expect(other.toJSON()).toEqual(saved().toJSON());
    expect(other.pick("reduce", "1x2x3", ["lanes", "tree"], "lanes").variant).toBe("tree");
  });

  it("of another adapter, or of another driver, are left alone", () => {
    for (const adapter of ["Another GPU | driver 1", "A GPU | driver 2", ""]) {
      const other = new Variants(adapter);
      expect(other.restore(saved().serialize())).toBe(false);
      expect(other.toJSON()).toEqual({});
    }
    expect(gpu.variants.restore(saved().serialize())).toBe(false);
    expect(JSON.parse(gpu.variants.serialize()).adapter).toContain(gpu.info.description || gpu.info.name);
  });

  it.each([
    "{",
    "null",
    "[]",
    "1",
    "{}",
    '{"adapter":1,"choices":{}}',
    '{"adapter":"A"}',
    '{"adapter":"A","choices":{"reduce|1x2":1}}',
    '{"adapter":"A","choices":{"reduce|1x2":"tree","no key":"tree"}}',
  ])("that are broken are refused whole: %s", (text) => {
    const variants = new Variants("A");
    expect(() => variants.restore(text)).toThrow(DataError);
    expect(variants.toJSON()).toEqual({});
  });
});
