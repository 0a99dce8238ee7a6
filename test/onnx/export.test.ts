// Networks as ONNX models, run by ONNX Runtime: the logits are those of the network here.

import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-web";
import { describe, expect, it } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import {
  AdaptiveAvgPool2d,
  AvgPool2d,
  add,
  avgPool2d,
  BatchNorm2d,
  Conv2d,
  ConvTranspose2d,
  concat,
  Dropout,
  Dropout2d,
  div,
  Flatten,
  flatten,
  foldBatchNorm,
  GELU,
  GlobalAvgPool2d,
  GroupNorm,
  Hardswish,
  InstanceNorm2d,
  LayerNorm,
  LeakyReLU,
  Linear,
  LogSoftmax,
  MaxPool2d,
  Module,
  manualSeed,
  maximum,
  maxPool2d,
  mean,
  minimum,
  mobilenetV2,
  mul,
  noGrad,
  pad2d,
  plainCifar,
  pow,
  preactResnetCifar,
  Random,
  resnet18,
  resnet50,
  resnetCifar,
  Sequential,
  Sigmoid,
  SiLU,
  Softplus,
  StochasticDepth,
  scale,
  sigmoid,
  softplus,
  sub,
  Tanh,
  type Tensor,
  Upsample,
  vgg11,
  weightNorm,
} from "../../src/index.ts";
import { exportOnnx } from "../../src/onnx/index.ts";
import { testGpu } from "../helpers/gpu.ts";

/** Statistics and weights of norms as training leaves them: none of them 0 or 1. */
function roughen(model: Module): void {
  const random = new Random(11);
  for (const [, module] of model.modules()) {
    if (!(module instanceof BatchNorm2d)) continue;
    const { runningMean, runningVar, weight, bias } = module;
    const fill = (size: number, at: number, by: number) =>
      Float32Array.from({ length: size }, () => at + by * random.normal());
    runningMean!.write(fill(runningMean!.size, 0.1, 0.2));
    runningVar!.write(fill(runningVar!.size, 1, 0.1).map(Math.abs));
    weight?.write(fill(weight.size, 1, 0.2));
    bias?.write(fill(bias.size, 0, 0.2));
  }
}

async function logitsHere(gpu: Gpu, model: Module, x: Float32Array, shape: number[]): Promise<Float32Array> {
  const out = noGrad(() => gpu.scope(() => gpu.keep(model.forward(gpu.tensor(x, shape)).materialize())));
  const values = (await out.read()) as Float32Array;
  out.dispose();
  return values;
}

async function logitsThere(file: Uint8Array, x: Float32Array, shape: number[]): Promise<Float32Array> {
  const session = await InferenceSession.create(file);
  const [N, H, W, C] = shape as [number, number, number, number];
  const there = new Float32Array(x.length);
  for (let n = 0; n < N; n += 1)
    for (let p = 0; p < H * W; p += 1)
      for (let c = 0; c < C; c += 1) there[(n * C + c) * H * W + p] = x[(n * H * W + p) * C + c]!;
  const { output } = await session.run({ input: new OrtTensor("float32", there, [N, C, H, W]) });
  await session.release();
  return output!.data as Float32Array;
}

function difference(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  let [squares, total] = [0, 0];
  a.forEach((value, i) => {
    squares += (value - b[i]!) ** 2;
    total += b[i]! ** 2;
  });
  expect(total).toBeGreaterThan(0);
  return Math.sqrt(squares / total);
}

const image = (count: number, seed: number) => {
  const random = new Random(seed);
  return Float32Array.from({ length: count }, () => random.normal());
};

/** An alias is in no scope: it goes into the innermost one. */
function inScope(alias: Tensor): Tensor {
  alias.gpu.track(alias);
  return alias;
}

/** A network of one layer, whose output goes through any ops. */
class Through extends Module {
  readonly conv: Conv2d;

  constructor(
    gpu: Gpu,
    private readonly ops: (x: Tensor, gpu: Gpu) => Tensor,
  ) {
    super();
    manualSeed(6);
    this.conv = new Conv2d(gpu, 2, 3, 1);
  }

  forward(x: Tensor): Tensor {
    return x.gpu.scope(() => this.ops(this.conv.forward(x), x.gpu));
  }
}

/** Of an op that has no ONNX nodes here. */
class Power extends Module {
  forward(x: Tensor): Tensor {
    return pow(x, 3);
  }
}

/** As a U-Net joins what goes down and what comes up. */
class Joined extends Module {
  readonly down: Conv2d;
  readonly up: ConvTranspose2d;

  constructor(gpu: Gpu) {
    super();
    this.down = new Conv2d(gpu, 3, 4, 3, { stride: 2, padding: 1 });
    this.up = new ConvTranspose2d(gpu, 4, 3, 2, { stride: 2 });
  }

  forward(x: Tensor): Tensor {
    const up = this.up.forward(this.down.forward(x));
    return pad2d(concat([x, up, maximum(x, up)]), [1, 0, 2, 3], 0.5);
  }
}

const cases: Record<string, { make: (gpu: Gpu) => Module; size: [number, number, number] }> = {
  "resnet18, CIFAR's stem": {
    make: (gpu) => resnet18(gpu, { images: "cifar", width: 8, inChannels: 1, seed: 1 }),
    size: [28, 26, 1],
  },
  "resnet18, ImageNet's stem": {
    make: (gpu) => resnet18(gpu, { width: 8, classes: 7, seed: 2 }),
    size: [65, 64, 3],
  },
  resnet50: { make: (gpu) => resnet50(gpu, { images: "cifar", width: 4, seed: 3 }), size: [16, 16, 3] },
  "vgg11 with batch-norm": {
    make: (gpu) => vgg11(gpu, { images: "cifar", width: 8, norm: "batch", seed: 4 }),
    size: [32, 32, 3],
  },
  "vgg11 without": {
    make: (gpu) => vgg11(gpu, { images: "cifar", width: 4, seed: 4 }),
    size: [32, 32, 3],
  },
  "vgg11, ImageNet's classifier": {
    make: (gpu) => vgg11(gpu, { width: 2, classes: 10, norm: "batch", seed: 4 }),
    size: [224, 224, 3],
  },
  mobilenetV2: {
    make: (gpu) => mobilenetV2(gpu, { images: "cifar", widthMult: 0.25, seed: 5 }),
    size: [32, 32, 3],
  },
  plainCifar: { make: (gpu) => plainCifar(gpu, { depth: 8, width: 8, seed: 6 }), size: [20, 24, 3] },
  resnetCifar: { make: (gpu) => resnetCifar(gpu, { depth: 14, width: 6, seed: 7 }), size: [15, 17, 3] },
  "resnetCifar, projections, SiLU": {
    make: (gpu) => resnetCifar(gpu, { depth: 8, shortcut: "projection", activation: "silu", seed: 8 }),
    size: [16, 16, 3],
  },
  "resnetCifar, leaky ReLU": {
    make: (gpu) =>
      resnetCifar(gpu, { depth: 8, activation: { name: "leakyRelu", negativeSlope: 0.3 }, seed: 8 }),
    size: [16, 16, 3],
  },
  preactResnetCifar: { make: (gpu) => preactResnetCifar(gpu, { depth: 8, seed: 9 }), size: [16, 16, 3] },
  "Fixup, with the start of a training": {
    make: (gpu) => {
      const model = resnetCifar(gpu, { depth: 8, norm: "fixup", seed: 9 });
      const random = new Random(1);
      for (const parameter of model.parameters())
        parameter.write(Float32Array.from({ length: parameter.size }, () => 0.2 * random.normal()));
      return model;
    },
    size: [16, 16, 3],
  },
  "weight normalisation": {
    make: (gpu) => resnetCifar(gpu, { depth: 8, norm: "weight", seed: 10 }),
    size: [16, 16, 3],
  },
  "transposed convolutions": {
    make: (gpu) => {
      manualSeed(4);
      return new Sequential(
        new ConvTranspose2d(gpu, 4, 6, [3, 2], { stride: [2, 1], padding: [1, 0], groups: 2 }),
        new BatchNorm2d(gpu, 6),
        new Sigmoid(),
        new ConvTranspose2d(gpu, 6, 5, 3, { stride: 2, padding: [0, 1, 2, 1], outputPadding: [1, 0] }),
        new Tanh(),
        weightNorm(new ConvTranspose2d(gpu, 5, 4, 2, { dilation: [2, 3], bias: false })),
        // More than the stride, as a dilation allows: within what is cut off, and beyond it.
        new ConvTranspose2d(gpu, 4, 4, 2, { dilation: [3, 2], padding: [2, 1], outputPadding: [2, 1] }),
        new ConvTranspose2d(gpu, 4, 4, 3, { dilation: 3, padding: [1, 0], outputPadding: [2, 1] }),
        new Softplus(),
        new ConvTranspose2d(gpu, 4, 4, 3, { groups: 4, stride: 2, padding: 1, outputPadding: 1 }),
        new Softplus({ beta: 2.5 }),
        new GlobalAvgPool2d(),
        new LogSoftmax(),
      );
    },
    size: [5, 4, 4],
  },
  "maps made larger and smaller": {
    make: (gpu) => {
      manualSeed(5);
      return new Sequential(
        new Conv2d(gpu, 2, 3, 1),
        new Upsample({ scaleFactor: [2, 1.7] }),
        new Upsample({ size: [9, 20], mode: "bilinear" }),
        new Upsample({ scaleFactor: 1.3, mode: "bilinear" }),
        new Upsample({ size: [8, 12], mode: "bilinear", alignCorners: true }),
        new AdaptiveAvgPool2d([4, 3]),
        new Upsample({ size: 7 }),
        new AdaptiveAvgPool2d([null, 1]),
        new Flatten(),
      );
    },
    size: [6, 9, 2],
  },
  "operands in their order, the smaller one first": {
    make: (gpu) =>
      new Through(gpu, (x) => {
        const vector = gpu.tensor(Float32Array.of(0.5, -2, 3), [3]);
        const pixels = mean(x, [1, 2], { keepDims: true });
        const square = maximum(div(6, add(mul(mul(x, x), 0.5), 1)), sub(1.5, minimum(x, 0.25)));
        return flatten(
          add(sub(vector, x), add(div(vector, square), sub(div(pixels, square), sub(pixels, x)))),
        );
      }),
    size: [5, 4, 2],
  },
  "softplus that ends at its threshold": {
    make: (gpu) =>
      new Through(gpu, (x) => flatten(softplus(softplus(x, { threshold: 0.1 }), { beta: 3, threshold: 1 }))),
    size: [6, 5, 2],
  },
  "an output that is not worked out last, through handles": {
    make: (gpu) =>
      new Through(gpu, (x) => {
        const y = flatten(sub(x.detach(), sigmoid(x.detach())));
        add(y, y);
        return y.detach();
      }),
    size: [4, 4, 2],
  },
  ...Object.fromEntries(
    ([true, false] as const).map((countIncludePad) => [
      `pools whose last windows begin in the padding, or reach past it, ${countIncludePad}`,
      {
        make: (gpu: Gpu) =>
          new Through(gpu, (x) => {
            const average = { ceilMode: true, countIncludePad };
            const pooled = avgPool2d(x, 2, { ...average, stride: [2, 3], padding: 1 });
            const again = avgPool2d(pooled, [2, 1], { ...average, stride: 3 });
            return flatten(maxPool2d(again, 2, { stride: 3, padding: 1, dilation: [1, 2], ceilMode: true }));
          }),
        size: [15, 21, 2] as [number, number, number],
      },
    ]),
  ),
  "norms of each image": {
    make: (gpu) => {
      manualSeed(8);
      const model = new Sequential(
        new Conv2d(gpu, 3, 8, 3),
        new GroupNorm(gpu, 2, 8),
        new LayerNorm(gpu, 8),
        new SiLU(),
        new LayerNorm(gpu, [5, 8], { bias: false }),
        new InstanceNorm2d(gpu, 8, { affine: true }),
        new LayerNorm(gpu, [4, 5, 8], { elementwiseAffine: false }),
        new InstanceNorm2d(gpu, 8, { trackRunningStats: true, affine: true }),
        new LayerNorm(gpu, [4, 5, 8]),
        new Flatten(),
        new GroupNorm(gpu, 4, 160, { affine: false }),
        new Linear(gpu, 160, 12),
        new LayerNorm(gpu, 12),
        new GroupNorm(gpu, 3, 12),
      );
      const random = new Random(5);
      for (const [, tensor] of model.tensors()) {
        const values = Float32Array.from({ length: tensor.size }, () => random.uniform(0.5, 1.5));
        if (tensor.rank < 4) tensor.write(values);
      }
      return model;
    },
    size: [6, 7, 3],
  },
  "maps side by side": {
    make: (gpu) => new Sequential(new Joined(gpu), new GlobalAvgPool2d()),
    size: [6, 8, 3],
  },
  "layers by hand": {
    make: (gpu) => {
      manualSeed(3);
      return new Sequential(
        new Conv2d(gpu, 2, 8, [3, 5], { padding: "same" }),
        new GELU(),
        new Conv2d(gpu, 8, 12, 3, { padding: [0, 1, 2, 1], stride: [2, 1], groups: 2 }),
        new GELU({ approximate: "tanh" }),
        new MaxPool2d(3, { stride: 2, padding: 1, ceilMode: true }),
        new Hardswish(),
        new AvgPool2d(2, { stride: 1, padding: 1, countIncludePad: false }),
        new SiLU(),
        weightNorm(new Conv2d(gpu, 12, 5, 2, { dilation: 2 })),
        new LeakyReLU({ negativeSlope: 0.2 }),
        new Flatten(),
        new Linear(gpu, 5 * 3 * 5, 9),
      );
    },
    size: [14, 9, 2],
  },
};

describe("exportOnnx", () => {
  it.each(Object.keys(cases))("%s: equal logits, batch-norms folded and not", async (name) => {
    const gpu = await testGpu();
    const { make, size } = cases[name]!;
    const before = gpu.stats.liveBuffers;
    const model = make(gpu).eval();
    roughen(model);
    const counts: number[] = [];
    for (const folded of [false, true]) {
      if (folded && foldBatchNorm(model).folded.length === 0) continue;
      const file = await exportOnnx(model, { shape: size });
      counts.push(new TextDecoder("latin1").decode(file).split("BatchNormalization").length);
      for (const rows of [1, 5]) {
        const shape = [rows, ...size];
        const x = image(
          shape.reduce((a, b) => a * b),
          rows,
        );
        const [here, there] = [await logitsHere(gpu, model, x, shape), await logitsThere(file, x, shape)];
        expect(difference(there, here), `${rows} rows, folded ${folded}`).toBeLessThan(5e-6);
      }
    }
    if (counts.length === 2) expect(counts[1]).toBeLessThan(counts[0]!);
    model.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("names input, output and metadata as asked", async () => {
    const gpu = await testGpu();
    const model = new Sequential(new Linear(gpu, 3, 2)).eval();
    const names = { name: "mine", inputName: "x", outputName: "logits", metadata: { classes: "a,b" } };
    const file = await exportOnnx(model, { shape: [3], ...names });
    const session = await InferenceSession.create(file);
    expect(session.inputNames).toEqual(["x"]);
    expect(session.outputNames).toEqual(["logits"]);
    const x = image(6, 1);
    const { logits } = await session.run({ x: new OrtTensor("float32", x, [2, 3]) });
    expect(difference(logits!.data as Float32Array, await logitsHere(gpu, model, x, [2, 3]))).toBeLessThan(
      1e-6,
    );
    const { onnx } = (await import("onnx-proto")).default;
    const { graph, metadataProps } = onnx.ModelProto.decode(file);
    expect(graph!.name).toBe("mine");
    expect(metadataProps!.map(({ key, value }) => [key, value])).toEqual([["classes", "a,b"]]);
    await session.release();
    model.dispose();
  });

  it("refuses what it can't write down, by name", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const training = new Sequential(new Conv2d(gpu, 4, 4, 1), new BatchNorm2d(gpu, 4));
    const tracked = (training.layers[1] as BatchNorm2d).numBatchesTracked!;
    await expect(exportOnnx(training, { shape: [4, 4, 4] })).rejects.toThrow(
      /layers.1 is in training mode; expected model.eval/,
    );
    expect(await tracked.item()).toBe(0);
    training.dispose();
    const model = new Sequential(new Conv2d(gpu, 4, 4, 1), new Power(), new GlobalAvgPool2d());
    model.eval();
    await expect(exportOnnx(model, { shape: [4, 4, 4] })).rejects.toThrow(/runs pow, which has no ONNX/);
    await expect(exportOnnx(model, { shape: [4, 4] })).rejects.toThrow(
      /shape is \[4, 4\]; expected \[H, W, C\]/,
    );
    await expect(exportOnnx(model, { shpe: [4] } as never)).rejects.toThrow(/did you mean "shape"/);
    await expect(exportOnnx({} as never, { shape: [4] })).rejects.toThrow(/model is \{\}; expected a Module/);
    model.dispose();
    const live = new Sequential(
      new Conv2d(gpu, 4, 4, 1),
      new BatchNorm2d(gpu, 4, { trackRunningStats: false }),
    );
    await expect(exportOnnx(live.eval(), { shape: [4, 4, 4] })).rejects.toThrow(
      /uses the batch's statistics/,
    );
    live.dispose();
    const refused: [(x: Tensor) => Tensor, RegExp][] = [
      [
        (x) => sigmoid(inScope(x.alias([3, 48]))),
        /sigmoid takes an alias of another shape, \[3, 48\]; expected.*reshape/,
      ],
      [() => gpu.full([3, 4], 1), /the output does not depend on the input/],
      [() => 3 as never, /what the model gave is 3; expected a Tensor/],
    ];
    for (const [ops, message] of refused) {
      const wrong = new Through(gpu, ops);
      await expect(exportOnnx(wrong, { shape: [4, 4, 2] })).rejects.toThrow(message);
      wrong.dispose();
    }
    for (const drops of [new Dropout2d(gpu, 0.5), new StochasticDepth(gpu, 0.5, "row"), new Dropout(gpu)]) {
      const model = new Sequential(new Conv2d(gpu, 2, 2, 1), drops);
      await expect(exportOnnx(model, { shape: [4, 4, 2] })).rejects.toThrow(/layers.1 is in training mode/);
      expect((await exportOnnx(model.eval(), { shape: [4, 4, 2] })).length).toBeGreaterThan(0);
      model.dispose();
    }
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("refuses what a network computes without ops, and what hangs on the batch, the values, chance or earlier calls", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    const source = `
      @group(0) @binding(0) var<storage, read_write> out: array<f32>;
      @group(0) @binding(1) var<storage, read> x: array<f32>;
      @compute @workgroup_size(64)
      fn twice(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x < arrayLength(&out)) { out[id.x] = 2 * x[id.x % arrayLength(&x)]; }
      }`;
    const shader = { name: "twice", source };
    const twice = (x: Tensor, out = gpu.empty(x.shape)) => {
      gpu.run({ shader, entry: "twice" }, { out, x }, [Math.ceil(out.size / 64)]);
      return out;
    };
    const one = gpu.tensor([0.5], [1]);
    const many = gpu.full([3, 4, 4, 3], 0.25);
    const random = new Random(1);
    let calls = 0;
    /** What a pass of one's own makes of the elements: here a copy. */
    const copied = (x: Tensor) => {
      const out = gpu.full([1], 0);
      const encoder = gpu.device.createCommandEncoder();
      const [from, to] = [x.buffer, out.buffer];
      encoder.copyBufferToBuffer(from, x.range.byteOffset, to, out.range.byteOffset, 4);
      gpu.device.queue.submit([encoder.finish()]);
      return out;
    };
    const kernel =
      /forward runs the kernel twice by gpu.run on what depends on the input; expected ops alone/;
    const write = /forward overwrites what an op has taken or given; expected a new tensor/;
    const constant = (shape: string) =>
      new RegExp(`a constant ${shape} of \\w+ differs between two inputs, of 3 and 2 rows; expected`);
    const refused: [string, (x: Tensor) => Tensor, RegExp][] = [
      ["its output is used", (x) => add(sigmoid(x), twice(x)), kernel],
      ["its output is the output", (x) => twice(sigmoid(x)), kernel],
      [
        "it overwrites what an op gave",
        (x) => {
          const y = sigmoid(x);
          twice(x, y);
          return mul(y, one);
        },
        kernel,
      ],
      ["a range", (x) => add(x, twice(x.range as never, one)), kernel],
      [
        "a constant written anew",
        (x) => {
          one.write([0.5]);
          const y = mul(x, one);
          one.write([0.25]);
          return mul(y, one);
        },
        write,
      ],
      [
        "the host overwrites what an op gave",
        (x) => {
          const y = sigmoid(x);
          y.fill(1);
          return mul(y, one);
        },
        write,
      ],
      ["a pass of its own", (x) => mul(x, copied(x)), constant("\\[1\\]")],
      ["the batch's size as a number", (x) => scale(sigmoid(x), 1 / x.shape[0]!), constant("\\[\\]")],
      [
        "the batch's size as a shape",
        (x) => add(x, gpu.full([x.shape[0]!, 1, 1, 1], 2)),
        constant("\\[3, 1, 1, 1\\]"),
      ],
      ["one number of images", (x) => (x.shape[0] === 3 ? mul(x, many) : x), /node \d, \w+, differs/],
      ["chance", (x) => add(x, gpu.full([1], random.normal())), constant("\\[1\\]")],
      ["earlier calls", (x) => (calls++ % 2 === 0 ? sigmoid(x) : add(x, one)), /node 1, Sigmoid, differs/],
      [
        "rows on end",
        (x) => concat([x, x], 0),
        /the output of 3 rows is \[6, 4, 4, 3\]; expected as many rows/,
      ],
    ];
    const wrong: string[] = [];
    for (const [what, ops, message] of refused) {
      const model = new Through(gpu, ops);
      const told = await exportOnnx(model, { shape: [4, 4, 2] }).then(
        () => "nothing",
        (error: Error) => error.message,
      );
      if (!message.test(told)) wrong.push(`${what}: ${told}`);
      model.dispose();
    }
    expect(wrong).toEqual([]);
    // Constants may be worked out in any way, if they are the same each time.
    const plan = gpu.capture(() => mul(one, one));
    const fixed = new Through(gpu, (x) => {
      one.write([0.75]);
      plan.run();
      const size = gpu.empty([1]);
      size.fill(0.5);
      return flatten(add(mul(mul(x, twice(one)), add(size, plan.result)), gpu.full([1], 3)));
    });
    const file = await exportOnnx(fixed, { shape: [4, 4, 2] });
    const x = image(2 * 32, 4);
    const [here, there] = [
      await logitsHere(gpu, fixed, x, [2, 4, 4, 2]),
      await logitsThere(file, x, [2, 4, 4, 2]),
    ];
    expect(difference(there, here)).toBeLessThan(5e-6);
    fixed.dispose();
    plan.dispose();
    for (const tensor of [one, many]) tensor.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });
});
