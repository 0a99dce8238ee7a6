// The encode functions, in a program that has a device, encoders and buffers of its own and no `Gpu`: compared with float64.

import { afterAll, describe, expect, it } from "vitest";
import { alive } from "../../src/alive.ts";
import {
  batchNormBytes,
  conv2dBytes,
  type EncodeBatchNormOptions,
  type EncodeTarget,
  encodeBatchNorm,
  encodeBatchNormBackward,
  encodeConv2d,
  encodeConv2dGradInput,
  encodeConv2dGradWeight,
  releaseEncoders,
} from "../../src/index.ts";
import { requestAdapter } from "../../src/node/request.ts";
import { hostOf } from "../../src/ops/encode/encoding.ts";
import { halfToNumber, numberToHalf } from "../../src/tensor/tensor.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { activations } from "../reference/activations.ts";
import { batchNormReference, batchNormReferenceGrad, channelStatistics } from "../reference/batch-norm.ts";
import { conv2dReference, conv2dReferenceGrad, type ReferenceConv } from "../reference/conv2d.ts";

const { gpu: entry } = await requestAdapter();

async function makeDevice(requiredFeatures: GPUFeatureName[] = []): Promise<GPUDevice> {
  const adapter = (await entry.requestAdapter())!;
  const offered = requiredFeatures.filter((feature) => adapter.features.has(feature));
  return adapter.requestDevice({ requiredFeatures: offered });
}

const aliveBefore = alive.size;
const plain = await makeDevice();
const withSubgroups = await makeDevice(["subgroups"]);
// The kernels that GPUs take, on a third device: choices are remembered by device.
const likeHardware = await makeDevice(["subgroups"]);
(hostOf("test", likeHardware).info as { class: string }).class = "hardware";

const DEVICES: [name: string, device: GPUDevice][] = [
  ["a device without features", plain],
  ["a device with subgroups", withSubgroups],
  ["a device taken for hardware", likeHardware],
];

afterAll(() => {
  for (const [, device] of DEVICES) device.destroy();
});

const { STORAGE, COPY_DST, COPY_SRC, MAP_READ } = GPUBufferUsage;

/** A buffer of `bytes`, with `data` in it if that is given. */
function bufferOf(device: GPUDevice, bytes: number, data?: ArrayBufferView): GPUBuffer {
  const buffer = device.createBuffer({ size: bytes, usage: STORAGE | COPY_DST | COPY_SRC });
  if (data) {
    const padded = new Uint8Array(4 * Math.ceil(data.byteLength / 4));
    padded.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    device.queue.writeBuffer(buffer, 0, padded);
  }
  return buffer;
}

/** Rubbish, so that what no kernel writes shows. */
const rubbish = (bytes: number) => new Float32Array(bytes / 4).fill(Number.NaN);

async function read(device: GPUDevice, buffer: GPUBuffer, count: number, offset = 0): Promise<Float64Array> {
  const bytes = 16 * Math.ceil(count / 4);
  const staging = device.createBuffer({ size: bytes, usage: MAP_READ | COPY_DST });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, offset, staging, 0, bytes);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const values = Float64Array.from(new Float32Array(staging.getMappedRange()).subarray(0, count));
  staging.destroy();
  return values;
}

/** What the device has to say against `work`. */
async function submitted(device: GPUDevice, work: (encoder: GPUCommandEncoder) => void): Promise<void> {
  device.pushErrorScope("validation");
  const encoder = device.createCommandEncoder();
  work(encoder);
  device.queue.submit([encoder.finish()]);
  expect((await device.popErrorScope())?.message ?? null).toBeNull();
}

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b);
const float32 = (values: Float64Array) => Float32Array.from(values);
const float64 = (values: Float32Array) => Float64Array.from(values);

interface NormCase {
  name: string;
  shape: number[];
  options: Omit<EncodeBatchNormOptions, "device">;
  affine?: boolean;
  tracked?: boolean;
}

const NORMS: NormCase[] = [
  { name: "ragged, ReLU", shape: [3, 5, 7, 6], options: { training: true, activation: "relu" } },
  {
    name: "large, running statistics",
    shape: [5, 31, 33, 12],
    options: { training: true, activation: "none", momentum: 0.3 },
    tracked: true,
  },
  {
    name: "residual and ReLU",
    shape: [4, 17, 16, 20],
    options: { training: true, activation: "relu", residual: true, eps: 1e-3 },
    tracked: true,
  },
  {
    name: "residual and SiLU, average over batches",
    shape: [2, 9, 11, 5],
    options: { training: true, activation: "silu", residual: true, momentum: null },
    tracked: true,
  },
  {
    name: "residual without activation, no gamma and beta",
    shape: [6, 8, 9, 16],
    options: { training: true, residual: true },
    affine: false,
  },
  {
    name: "inference",
    shape: [1, 1, 1, 7],
    options: { training: false, activation: "relu" },
    tracked: true,
  },
];

describe.each(DEVICES)("batch-norm on %s", (_name, device) => {
  it.each(NORMS)("$name", async ({ shape, options, affine = true, tracked = false }) => {
    const channels = shape.at(-1)!;
    const size = sizeOf(shape);
    const count = size / channels;
    const { training, activation = "none", residual = false, momentum = 0.1, eps = 1e-5 } = options;
    const numbers = {
      x: float32(normals(size, 1, 1.5, 2)),
      dy: float32(normals(size, 2)),
      residual: float32(normals(size, 3)),
      gamma: float32(normals(channels, 4, 1, 0.5)),
      beta: float32(normals(channels, 5)),
      mean: float32(normals(channels, 6)),
      variance: float32(normals(channels, 7).map((v) => v * v + 0.5)),
    };
    const bytes = batchNormBytes(shape);
    const full = { ...options, device };
    const given = (name: keyof typeof numbers, size: number) => bufferOf(device, size, numbers[name]);
    const x = given("x", bytes.x);
    const added = residual ? given("residual", bytes.x) : null;
    const isRelu = activation === "relu";
    const forward = {
      x,
      y: bufferOf(device, bytes.x, rubbish(bytes.x)),
      gamma: affine ? given("gamma", bytes.channel) : null,
      beta: affine ? given("beta", bytes.channel) : null,
      residual: added,
      saved: bufferOf(device, bytes.saved, rubbish(bytes.saved)),
      mask: residual && isRelu ? bufferOf(device, bytes.mask, rubbish(bytes.mask)) : null,
      runningMean: tracked ? given("mean", bytes.channel) : null,
      runningVar: tracked ? given("variance", bytes.channel) : null,
      numBatchesTracked: tracked ? bufferOf(device, 16, new Float32Array([3])) : null,
    };
    const joined = residual && activation !== "none";
    const backward = {
      ...{ x, saved: forward.saved, mask: forward.mask },
      dy: given("dy", bytes.x),
      residual: joined && !isRelu ? added : null,
      dx: bufferOf(device, bytes.x, rubbish(bytes.x)),
      dgamma: bufferOf(device, bytes.channel, rubbish(bytes.channel)),
      dbeta: bufferOf(device, bytes.channel, rubbish(bytes.channel)),
      dresidual: joined ? bufferOf(device, bytes.x, rubbish(bytes.x)) : null,
    };
    await submitted(device, (encoder) => {
      encodeBatchNorm(encoder, forward, shape, full);
      encodeBatchNormBackward(encoder, backward, shape, full);
    });

    const reference = {
      ...{ count, channels, eps, relu: isRelu },
      activation: activation === "silu" ? activations.silu : undefined,
      running: training ? undefined : { mean: numbers.mean, variance: numbers.variance },
    };
    const arrays = {
      x: float64(numbers.x),
      gamma: affine ? float64(numbers.gamma) : undefined,
      beta: affine ? float64(numbers.beta) : undefined,
      residual: residual ? float64(numbers.residual) : undefined,
    };
    expect(
      relativeError(await read(device, forward.y, size), batchNormReference(reference, arrays)),
    ).toBeLessThan(1e-5);
    const gradients = batchNormReferenceGrad(reference, arrays, float64(numbers.dy));
    expect(relativeError(await read(device, backward.dx, size), gradients.x)).toBeLessThan(1e-5);
    expect(relativeError(await read(device, backward.dgamma, channels), gradients.gamma)).toBeLessThan(1e-5);
    expect(relativeError(await read(device, backward.dbeta, channels), gradients.beta)).toBeLessThan(1e-5);
    if (backward.dresidual) {
      expect(relativeError(await read(device, backward.dresidual, size), gradients.residual)).toBeLessThan(
        1e-5,
      );
    }
    if (tracked) {
      const { mean, variance } = channelStatistics({ count, channels }, arrays.x);
      const share = !training ? 0 : (momentum ?? 1 / 4);
      const moved = (old: Float32Array, now: Float64Array) =>
        Float64Array.from(old, (before, c) => (1 - share) * before + share * now[c]!);
      const unbiased = variance.map((v) => (v * count) / Math.max(1, count - 1));
      const [runningMean, runningVar] = [forward.runningMean!, forward.runningVar!];
      expect(
        relativeError(await read(device, runningMean, channels), moved(numbers.mean, mean)),
      ).toBeLessThan(1e-5);
      expect(
        relativeError(await read(device, runningVar, channels), moved(numbers.variance, unbiased)),
      ).toBeLessThan(1e-5);
      const batches = await read(device, forward.numBatchesTracked!, 1);
      expect(batches[0]).toBe(training ? 4 : 3);
    }
  });
});

interface ConvCase extends Omit<ReferenceConv, "stride" | "dilation" | "groups" | "padding"> {
  name: string;
  stride?: readonly [number, number];
  padding?: readonly [number, number, number, number];
  dilation?: readonly [number, number];
  groups?: number;
  bias?: boolean;
}

const CONVS: ConvCase[] = [
  { name: "ragged", x: [2, 7, 9, 3], weight: [5, 3, 2, 3], padding: [1, 0, 2, 1], bias: true },
  { name: "3×3, 16 channels", x: [3, 16, 17, 16], weight: [16, 3, 3, 16], padding: [1, 1, 1, 1] },
  {
    name: "stride 2",
    x: [2, 15, 14, 8],
    weight: [12, 3, 3, 8],
    stride: [2, 2],
    padding: [1, 1, 1, 1],
    bias: true,
  },
  { name: "1×1, wide", x: [2, 9, 10, 40], weight: [68, 1, 1, 40] },
  { name: "groups and dilation", x: [2, 11, 12, 8], weight: [16, 3, 3, 4], groups: 2, dilation: [2, 1] },
  {
    name: "depthwise",
    x: [2, 9, 11, 12],
    weight: [12, 3, 3, 1],
    groups: 12,
    padding: [1, 1, 1, 1],
    bias: true,
  },
];

describe.each(DEVICES)("a convolution on %s", (_name, device) => {
  it.each(CONVS)("$name", async ({ name: _, bias = false, ...rest }) => {
    const reference: ReferenceConv = {
      ...{ stride: [1, 1], padding: [0, 0, 0, 0], dilation: [1, 1], groups: 1 },
      ...rest,
    };
    const { x: xShape, weight: weightShape, ...settings } = reference;
    const shapes = { x: xShape, weight: weightShape };
    const { output, ...bytes } = conv2dBytes(shapes, settings);
    const [size, filters] = [sizeOf(xShape), sizeOf(weightShape)];
    const x = float32(normals(size, 1));
    const weight = float32(normals(filters, 2));
    const offset = float32(normals(output[3]!, 3));
    const dy = float32(normals(sizeOf(output), 4));
    const inputs = {
      x: bufferOf(device, bytes.x, x),
      weight: bufferOf(device, bytes.weight, weight),
      dy: bufferOf(device, bytes.y, dy),
      bias: bias ? bufferOf(device, bytes.bias, offset) : null,
    };
    const outputs = {
      y: bufferOf(device, bytes.y, rubbish(bytes.y)),
      dx: bufferOf(device, bytes.x, rubbish(bytes.x)),
      dweight: bufferOf(device, bytes.weight, rubbish(bytes.weight)),
      dbias: bias ? bufferOf(device, bytes.bias, rubbish(bytes.bias)) : null,
    };
    const options = { ...settings, device };
    await submitted(device, (encoder) => {
      const { y, dx, dweight, dbias } = outputs;
      encodeConv2d(encoder, { x: inputs.x, weight: inputs.weight, bias: inputs.bias, y }, shapes, options);
      encodeConv2dGradInput(encoder, { dy: inputs.dy, weight: inputs.weight, dx }, shapes, options);
      encodeConv2dGradWeight(encoder, { x: inputs.x, dy: inputs.dy, dweight, dbias }, shapes, options);
    });
    const arrays = { x: float64(x), weight: float64(weight), ...(bias && { bias: float64(offset) }) };
    const expected = conv2dReference(reference, arrays);
    expect([...output]).toHaveLength(4);
    expect(relativeError(await read(device, outputs.y, expected.length), expected)).toBeLessThan(1e-5);
    const gradients = conv2dReferenceGrad(reference, arrays, float64(dy));
    expect(relativeError(await read(device, outputs.dx, size), gradients.x)).toBeLessThan(1e-5);
    expect(relativeError(await read(device, outputs.dweight, filters), gradients.weight)).toBeLessThan(1e-5);
    if (outputs.dbias) {
      expect(relativeError(await read(device, outputs.dbias, output[3]!), gradients.bias)).toBeLessThan(1e-5);
    }
  });
});

/** A convolution with its batch-norm, forward and backward, on data by `seed`. */
function block(device: GPUDevice, seed: number) {
  const reference: ReferenceConv = {
    ...{
      x: [3, 10, 11, 4],
      weight: [8, 3, 3, 4],
      stride: [1, 1],
      padding: [1, 1, 1, 1],
      dilation: [1, 1],
      groups: 1,
    },
  };
  const { x: xShape, weight: weightShape, ...settings } = reference;
  const shapes = { x: xShape, weight: weightShape };
  const conv = conv2dBytes(shapes, settings);
  const { output } = conv;
  const norm = batchNormBytes(output);
  const x = float32(normals(sizeOf(xShape), seed));
  const weight = float32(normals(sizeOf(weightShape), seed + 1));
  const dy = float32(normals(sizeOf(output), seed + 2));
  const buffers = {
    x: bufferOf(device, conv.x, x),
    weight: bufferOf(device, conv.weight, weight),
    z: bufferOf(device, conv.y),
    y: bufferOf(device, norm.x),
    saved: bufferOf(device, norm.saved),
    dy: bufferOf(device, norm.x, dy),
    dz: bufferOf(device, norm.x),
    dweight: bufferOf(device, conv.weight, rubbish(conv.weight)),
  };
  const options = { ...settings, device };
  const normOptions = { device, training: true, activation: "relu" as const };
  return {
    encode(target: EncodeTarget) {
      const { x, weight, z, y, saved, dy, dz, dweight } = buffers;
      encodeConv2d(target, { x, weight, y: z }, shapes, options);
      encodeBatchNorm(target, { x: z, y, saved }, output, normOptions);
      encodeBatchNormBackward(target, { x: z, dy, saved, dx: dz }, output, normOptions);
      encodeConv2dGradWeight(target, { x, dy: dz, dweight }, shapes, options);
    },
    async check() {
      const arrays = { x: float64(x), weight: float64(weight) };
      const z = conv2dReference(reference, arrays);
      const layer = { count: z.length / output[3]!, channels: output[3]!, eps: 1e-5, relu: true };
      const dz = batchNormReferenceGrad(layer, { x: z }, float64(dy)).x;
      const expected = conv2dReferenceGrad(reference, arrays, dz).weight;
      expect(relativeError(await read(device, buffers.dweight, expected.length), expected)).toBeLessThan(
        3e-5,
      );
    },
  };
}

describe("encoding among the caller's own work", () => {
  it("goes into a compute pass that is open, and leaves it open", async () => {
    const one = block(plain, 11);
    await submitted(plain, (encoder) => {
      const pass = encoder.beginComputePass();
      one.encode(pass);
      pass.end();
    });
    await one.check();
  });

  it("shares its scratch with whatever is encoded elsewhere, in whatever order that is submitted", async () => {
    const [one, two] = [block(likeHardware, 21), block(likeHardware, 31)];
    const [first, second] = [likeHardware.createCommandEncoder(), likeHardware.createCommandEncoder()];
    one.encode(first);
    two.encode(second);
    likeHardware.queue.submit([second.finish()]);
    likeHardware.queue.submit([first.finish()]);
    await one.check();
    await two.check();
  });

  it("normalises maps of halves", async () => {
    const shape = [3, 5, 6, 10];
    const size = sizeOf(shape);
    const bytes = batchNormBytes(shape, { dtype: "float16" });
    const halves = Uint16Array.from(normals(size, 7, 1, 2), numberToHalf);
    const dyHalves = Uint16Array.from(normals(size, 8), numberToHalf);
    const x = bufferOf(plain, bytes.x, halves);
    const dy = bufferOf(plain, bytes.x, dyHalves);
    const [y, dx] = [bufferOf(plain, bytes.x, rubbish(bytes.x)), bufferOf(plain, bytes.x, rubbish(bytes.x))];
    const saved = bufferOf(plain, bytes.saved);
    const options = { device: plain, training: true, activation: "relu", dtype: "float16" } as const;
    await submitted(plain, (encoder) => {
      encodeBatchNorm(encoder, { x, y, saved }, shape, options);
      encodeBatchNormBackward(encoder, { x, dy, saved, dx }, shape, options);
    });
    const reference = { count: size / 10, channels: 10, eps: 1e-5, relu: true };
    const arrays = { x: Float64Array.from(halves, halfToNumber) };
    const got = async (buffer: GPUBuffer) => {
      const words = Float32Array.from(await read(plain, buffer, size / 2));
      return Float64Array.from(new Uint16Array(words.buffer), halfToNumber);
    };
    expect(relativeError(await got(y), batchNormReference(reference, arrays))).toBeLessThan(1e-3);
    const gradients = batchNormReferenceGrad(reference, arrays, Float64Array.from(dyHalves, halfToNumber));
    expect(relativeError(await got(dx), gradients.x)).toBeLessThan(1e-3);
  });

  it("takes parts of buffers", async () => {
    const shape = [2, 3, 3, 3];
    const { x: bytes, channel } = batchNormBytes(shape);
    const data = float32(normals(54, 5));
    const input = bufferOf(plain, 1024 + bytes);
    plain.queue.writeBuffer(input, 1024, data);
    const gamma = float32(normals(3, 6));
    plain.queue.writeBuffer(input, 256, gamma);
    const out = bufferOf(plain, 512 + bytes, rubbish(512 + bytes));
    await submitted(plain, (encoder) =>
      encodeBatchNorm(
        encoder,
        {
          x: { buffer: input, offset: 1024 },
          gamma: { buffer: input, offset: 256, size: channel },
          y: { buffer: out, offset: 512 },
        },
        shape,
        { device: plain, training: true },
      ),
    );
    const reference = { count: 18, channels: 3, eps: 1e-5, relu: false };
    const expected = batchNormReference(reference, { x: float64(data), gamma: float64(gamma) });
    expect(relativeError(await read(plain, out, 54, 512), expected)).toBeLessThan(1e-5);
    expect([...(await read(plain, out, 128))].every(Number.isNaN)).toBe(true);
  });

  it("keeps no buffer but scratch, submits nothing, and is no Gpu that calls without one could mean", async () => {
    const device = await makeDevice();
    block(device, 41).encode(device.createCommandEncoder());
    const { stats } = hostOf("test", device);
    expect(stats.liveBuffers).toBe(0);
    expect(stats.pooledBuffers).toBeGreaterThan(0);
    expect(stats.submits).toBe(0);
    expect(alive.size).toBe(aliveBefore);
    releaseEncoders(device);
    expect(hostOf("test", device).stats.pooledBuffers).toBe(0);
    const again = block(device, 51);
    await submitted(device, again.encode);
    await again.check();
    device.destroy();
  });

  it("does not take the caller's own mistakes for its own, and tells of a lost device", async () => {
    const device = await makeDevice();
    device.addEventListener("uncapturederror", (event) => event.preventDefault());
    const one = block(device, 61);
    device.createBuffer({ size: 16, usage: MAP_READ | STORAGE }); // which can't be
    await device.queue.onSubmittedWorkDone();
    await new Promise((resolve) => setTimeout(resolve, 20));
    await submitted(device, one.encode);
    await one.check();
    device.destroy();
    await device.lost;
    expect(() => one.encode(device.createCommandEncoder())).toThrow(/the device was lost/);
  });
});

describe("what can't be encoded", () => {
  const encoder = plain.createCommandEncoder();
  const shape = [2, 4, 4, 6];
  const bytes = batchNormBytes(shape);
  const make = (size = bytes.x) => bufferOf(plain, size);
  const [x, y] = [make(), make()];
  const options = { device: plain, training: true };
  const call = (buffers: object, more: object = {}) =>
    encodeBatchNorm(encoder, { x, y, ...buffers }, shape, { ...options, ...more });

  it.each<[string, () => void, RegExp]>([
    [
      "no encoder",
      () => encodeBatchNorm({} as never, { x, y }, shape, options),
      /encodeBatchNorm: encoder is \{\}; expected/,
    ],
    ["no device", () => call({}, { device: undefined }), /device is undefined; expected the GPUDevice/],
    [
      "a missing buffer",
      () => call({ y: undefined }),
      /y is undefined; expected a GPUBuffer.*\[2, 4, 4, 6\]/,
    ],
    [
      "a small buffer",
      () => call({ y: make(256) }),
      /y has 256 bytes at offset 0; expected 768 for \[2, 4, 4, 6\]/,
    ],
    ["a small part", () => call({ y: { buffer: y, size: 100 } }), /y has 100 bytes/],
    [
      "an offset past the end",
      () => call({ y: { buffer: y, offset: 1024 } }),
      /y has 0 bytes at offset 1024/,
    ],
    [
      "a crooked offset",
      () => call({ y: { buffer: y, offset: 16 } }),
      /y\.offset is 16; expected a multiple of 256/,
    ],
    [
      "another usage",
      () => call({ y: plain.createBuffer({ size: 768, usage: COPY_DST }) }),
      /y has usage \d+; expected STORAGE/,
    ],
    ["work in place", () => call({ y: x }), /y and x are in one buffer; expected/],
    ["outputs that overlap", () => call({ saved: y }), /(saved and y|y and saved) overlap/],
    [
      "a residual that is not said",
      () => call({ residual: make() }),
      /residual is a GPUBuffer; expected it with residual: true/,
    ],
    ["a residual that is not there", () => call({}, { residual: true }), /residual is missing/],
    [
      "no mask",
      () => call({ residual: make(), saved: make(bytes.saved) }, { residual: true, activation: "relu" }),
      /mask is missing; expected it with a residual, a ReLU and saved/,
    ],
    [
      "half of the running statistics",
      () => call({ runningMean: make(256) }),
      /runningVar is null; expected both or neither/,
    ],
    ["inference without them", () => call({}, { training: false }), /there are no running statistics/],
    ["an unknown buffer", () => call({ gama: make() }), /no option "gama"; did you mean "gamma"\?/],
    [
      "the residual's gradient without an activation",
      () =>
        encodeBatchNormBackward(encoder, { x, dy: make(), saved: make(bytes.saved), dresidual: y }, shape, {
          ...options,
          residual: true,
        }),
      /dresidual is a GPUBuffer.*without one it is dy/,
    ],
    [
      "channels that do not fit",
      () => conv2dBytes({ x: [1, 4, 4, 3], weight: [2, 3, 3, 4] }),
      /weight has 4 input channels, x has 3/,
    ],
    [
      "a rank",
      () => conv2dBytes({ x: [4, 4, 3], weight: [2, 3, 3, 3] }),
      /shapes\.x has rank 3.*\[N, H, W, C\]/,
    ],
  ])("%s", (_name, fn, message) => {
    expect(fn).toThrow(message);
    expect(hostOf("test", plain).stats.liveBuffers).toBe(0);
  });
});
