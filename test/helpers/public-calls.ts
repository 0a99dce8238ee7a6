// Right arguments for every public function, constructor and method.

import type { Gpu } from "../../src/gpu.ts";
import * as core from "../../src/index.ts";
import * as node from "../../src/node/index.ts";
import {
  type Argument,
  choice,
  type Entry,
  either,
  flag,
  func,
  instance,
  integer,
  list,
  number,
  optional,
  options,
  orNull,
  shape,
  tensor,
  text,
} from "./wrong-things.ts";

const HALVES = ["float32", "float16"];
const ALL = ["float32", "float16", "uint32", "uint8"];

/** Not called by users: what TypeScript hides, and what the comments call internal. */
const INTERNAL: Record<string, string> = {
  Gpu: "checkSize track allocate adopt willWrite dispatch encode fillRange copyRange checkFinite readRange report retire replay beforeReplay check tellNewKernels",
  Tensor:
    "watch overwrite part moveTo takeGradSlot placeGrad joinSlot saved store activated plus beforeWrite checkData checkUpstream checkLive static empty " +
    "static from static full static over static lazy",
  Trainer: "evaluate begin trainStep countStep load currentState rate computeStep readLog forgetOldPlans",
  Module: "checkStateDict under namePaths children modules tensors flop normedLayers",
  Sequential: "normedLayers",
  ConvTranspose2d: "flop",
  JointOptimizer: "checkStateDict partsOf",
  SGD: "update isOtherState",
  RMSprop: "update",
  Muon: "update orthogonalize",
  DataLoader: "batches",
  StreamLoader: "batches",
};

/** Take no arguments. */
const PLAIN = new Set([
  ...["isRecording", "node.embeddedDirectory", "node.installHybridPoll"],
  ...[
    "Gpu.resetPeak",
    "Gpu.toString",
    "Gpu.flush",
    "Gpu.sync",
    "Gpu.trim",
    "Gpu.destroy",
    "Random.uint32",
    "DeviceDataset.dispose",
  ],
  ...[
    "GradientLine.weights",
    "GradientLine.close",
    "JointOptimizer.step",
    "JointOptimizer.zeroGrad",
    "JointOptimizer.toString",
    "JointOptimizer.stateDict",
    "JointOptimizer.dispose",
    "Muon.dispose",
  ],
  ...[
    "Module.toString",
    "Module.namedParameters",
    "Module.parameters",
    "Module.eval",
    "Module.zeroGrad",
    "Module.stateDict",
    "Module.dispose",
  ],
  ...[
    "Tensor.detach",
    "Tensor.materialize",
    "Tensor.read",
    "Tensor.print",
    "Tensor.toJSON",
    "Tensor.toString",
    "Tensor.item",
    "Tensor.zeroGrad",
    "Tensor.dispose",
  ],
  ...["Compose.run", "Compose.dispose"],
  ...["Trainer.profileStep", "Trainer.state", "Trainer.dispose", "RecipeTrainer.dispose"],
]);

const isEmpty = (value: unknown) =>
  value instanceof Object && value.constructor === Object && Object.keys(value).length === 0;

const isClass = (value: unknown): value is { prototype: object } & Record<string, unknown> =>
  typeof value === "function" && /^class\b/.test(Function.prototype.toString.call(value));

/** Functions, classes and methods that are exported, but for errors, constants and what is internal. */
export function publicNames(): string[] {
  const names: string[] = [];
  for (const [prefix, module] of Object.entries({
    "": core,
    "node.": node,
    "transforms.": core.transforms,
  })) {
    for (const [name, value] of Object.entries(module)) {
      if (typeof value !== "function") continue;
      if (!isClass(value)) {
        names.push(prefix + name);
        continue;
      }
      if ((value as unknown) === core.FusenormError || value.prototype instanceof core.FusenormError)
        continue;
      const methods = Object.entries(Object.getOwnPropertyDescriptors(value.prototype))
        .filter(([method, { value: own }]) => method !== "constructor" && typeof own === "function")
        .map(([method]) => method);
      const statics = Object.getOwnPropertyNames(value).filter((own) => typeof value[own] === "function");
      names.push(
        prefix + name,
        ...[...methods, ...statics.map((own) => `static ${own}`)].map((own) => `${name}.${own}`),
      );
    }
  }
  const internal = new Set(
    Object.entries(INTERNAL).flatMap(([name, list]) =>
      [...list.matchAll(/(static )?(\w+)/g)].map(([method]) => `${name}.${method}`),
    ),
  );
  return names.filter((name) => !internal.has(name) && !PLAIN.has(name));
}

/** Right arguments for all of them. */
export function publicCalls(gpu: Gpu): Record<string, Entry> {
  const random = new core.Random("arguments");
  const made = (...sizes: number[]) => {
    const data = random.fillUniform(new Float32Array(sizes.reduce((a, b) => a * b, 1)), 0.5, 1.5);
    return gpu.keep(gpu.tensor(data, sizes));
  };
  const x = made(2, 4, 4, 8);
  const x4 = tensor(x);
  const vector = made(8);
  const channels = orNull(tensor(vector));
  const matrix = made(6, 8);
  const labels = gpu.keep(gpu.tensor([0, 1, 2, 3, 4, 5], [6], { dtype: "uint32" }));
  const label = tensor(labels, ["uint32"]);
  const filter = made(8, 3, 3, 8);
  const aGpu = instance(gpu);
  const positive = (value: number) => integer(value, 1);
  const pair = (value: number, low: number) =>
    either(
      integer(value, low),
      list([value, value], (v) => Number.isInteger(v) && (v as number) >= low),
    );
  const sides = (value: number) => pair(value, 0);
  const axes = (value: number[]) =>
    list(value, (axis) => Number.isInteger(axis) && (axis as number) >= -4 && (axis as number) < 4);
  const oneOrMore = (value: number[]) => either(axes(value), integer(1, -4, 3));
  const eps = number(1e-5, 0);
  const slope = number(0.1, -3e38, 3e38);
  const approximate = choice("tanh", "none");
  const activation = either(
    choice("relu", "none", "relu6", "leakyRelu", "silu", "gelu", "geluTanh", "hardSwish"),
    options({ name: choice("leakyRelu"), negativeSlope: slope }, ["name", "negativeSlope"]),
  );
  const init = choice("he", "xavier", "xavier_normal", "he_uniform", "fan_in");
  /** Infinity and NaN included. */
  const anyNumber: Argument = { value: 2, accepts: (v) => typeof v === "number" };
  const numbersOrIntegers = tensor(x, ["float32", "uint32"]);
  const unary = (op: (t: never) => unknown, argument: Argument = x4): Entry => ({
    args: [argument],
    call: op as never,
  });
  const pool = { stride: pair(1, 1), padding: sides(0), ceilMode: flag(false) };
  const running = {
    runningMean: orNull(tensor(gpu.keep(gpu.zeros([8])))),
    runningVar: orNull(tensor(gpu.keep(gpu.full([8], 1)))),
    numBatchesTracked: orNull(tensor(gpu.keep(gpu.zeros([1])))),
  };
  const normOptions = {
    ...running,
    ...{ momentum: orNull(number(0.1, 0, 1)), eps, activation, folds: flag(true) },
  };
  const transposed = {
    ...{ stride: pair(1, 1), padding: sides(0), outputPadding: pair(0, 0) },
    ...{ dilation: pair(1, 1), groups: positive(1) },
  };
  const batchNormOptions = options(
    {
      ...normOptions,
      training: flag(true),
      residual: orNull(tensor(made(2, 4, 4, 8))),
      statistics: orNull({ value: null, accepts: tensor(x).accepts }),
    },
    ["training"],
  );
  const statistics = gpu.keep(core.batchNormStatistics(x));
  const ragged = (v: unknown) => v instanceof core.Tensor && !v.isDisposed && v.dtype === "float32";

  // layers
  const conv = new core.Conv2d(gpu, 8, 8, 3, { padding: 1, random });
  const upwards = new core.ConvTranspose2d(gpu, 8, 4, 2, { stride: 2, random });
  const norm = new core.BatchNorm2d(gpu, 8);
  const norm1d = new core.BatchNorm1d(gpu, 8);
  const dense = new core.Linear(gpu, 8, 4, { random });
  const relu = new core.ReLU();
  const drops = [
    new core.Dropout(gpu, 0.5, { random }),
    new core.Dropout2d(gpu, 0.5, { random }),
    new core.StochasticDepth(gpu, 0.5, "row", { random }),
  ];
  const drawsOf = tensor(gpu.keep(core.newGenerator(gpu, 1)), ["uint32"]);
  const probability = number(0.5, 0, 1);
  const mode = choice("row", "batch");
  const dropOptions = options({ p: probability, training: flag(true) });
  const groups = new core.GroupNorm(gpu, 2, 8);
  const instances = new core.InstanceNorm2d(gpu, 8);
  const rows = new core.LayerNorm(gpu, 8);
  const model = core.resnetCifar(gpu, { depth: 8, width: 4, inChannels: 8, classes: 6 });
  const images = made(6, 8, 8, 8);
  const layer = instance(random);
  const initOptions = { init, gain: number(1), random: layer, bias: flag(true) };
  // The end of an archive without files.
  const emptyNpz = new Uint8Array(22);
  emptyNpz.set([0x50, 0x4b, 5, 6]);
  const module: Argument = { value: model, accepts: (v) => v instanceof core.Module };
  const norm2d = {
    eps,
    momentum: orNull(number(0.1, 0, 1)),
    affine: flag(true),
    trackRunningStats: flag(true),
    fused: either(flag(true), choice("elementwise")),
    frozen: flag(false),
    skipNonFinite: flag(false),
  };

  const seed = integer(3, 0, 2 ** 32 - 1);
  const anySeed = either(integer(3, 0), text("seed"));
  const resnetNorm = choice(
    ...["batch", "none", "last", "layer", "group", "instance", "weight"],
    ...["fixup", "skipinit"],
  );
  const resnetOptions: Record<string, Argument> = {
    ...{ depth: { value: 8, accepts: () => false }, width: positive(4), norm: resnetNorm },
    ...{ shortcut: choice("zero-pad", "projection", "none"), activation, preActivation: flag(false) },
    ...{ init, classifierInit: init, seed: anySeed, inChannels: positive(3), classes: positive(10) },
    ...{
      groups: { value: 2, accepts: (v) => v === 1 || v === 4 },
      batchNorm: options(norm2d),
    },
  };
  const positive24 = (value: number) => integer(value, 1, 2 ** 24);
  const imageOptions = {
    ...{ images: choice("cifar", "imagenet"), classes: positive24(5), inChannels: positive24(3) },
    ...{ init, classifierInit: init, seed: anySeed, batchNorm: options(norm2d) },
  };
  const network = (own: Record<string, Argument>, call: Entry["call"]): Entry => ({
    args: [aGpu, optional(options({ ...imageOptions, ...own }))],
    call,
    accepted: "right",
  });
  const resnet = (call: Entry["call"]) => network({ width: positive24(2) }, call);
  const vgg = (call: Entry["call"]) =>
    network({ width: positive24(2), norm: choice("batch", "none"), dropout: probability }, call);
  const without = (name: string) =>
    Object.fromEntries(Object.entries(resnetOptions).filter(([own]) => own !== name));

  // data
  const dataset = core.imageDataset({
    ...{ name: "squares", height: 4, width: 4, channels: 1, classNames: ["a", "b"] },
    ...{
      images: Uint8Array.from({ length: 160 }, (_, i) => (i * 37) % 256),
      labels: Uint8Array.from({ length: 10 }, (_, i) => i % 2),
    },
  });
  const set: Argument = { value: dataset, accepts: () => false };
  const moments = core.channelMoments(dataset);
  const perChannel = (value: number[], low: number) =>
    list(value, (v) => Number.isFinite(v) && (v as number) > low);
  const mean = perChannel(moments.mean, Number.NEGATIVE_INFINITY);
  const std = perChannel(moments.std, 0);
  const words = either(
    anySeed,
    list([1, 2], (v) => Number.isInteger(v)),
  );
  const augment = options({ pad: integer(1, 0, 32767), flip: flag(true) }, ["pad", "flip"]);
  const sampling = {
    batchSize: integer(4, 1, 2 ** 32 - 1),
    seed,
    shuffle: flag(true),
    dropLast: flag(false),
  };
  const sampler = new core.BatchSampler({ count: 10, batchSize: 4, seed: 1 });
  const loader = new core.DataLoader(dataset, { ...moments, batchSize: 4, seed: 1 });
  const stream = new core.StreamLoader({ count: 10, batchSize: 4, seed: 1, load: () => undefined as never });
  const onDevice = new core.DeviceDataset(gpu, dataset, { ...moments, seed: 1 });
  const batch = {
    indices: gpu.keep(gpu.tensor([1, 2, 3], [3], { dtype: "uint32" })),
    epoch: gpu.keep(gpu.tensor([0], [1], { dtype: "uint32" })),
    images: gpu.keep(gpu.zeros([3, 4, 4, 1])),
    labels: gpu.keep(gpu.zeros([3], { dtype: "uint32" })),
  };
  const file = (bytes: Uint8Array) =>
    options({ name: text("file"), bytes: instance(bytes) }, ["name", "bytes"]);
  const idx = core.encodeIdx([2, 3], new Uint8Array(6));
  const nameless = ({ value, accepts }: Argument): Argument => ({ value, accepts });
  const cifar = new Uint8Array(3073);
  const typed = (value: Float32Array | Float64Array): Argument => ({
    value,
    accepts: (v) => v instanceof Float32Array || v instanceof Float64Array,
  });
  const items: Argument = {
    value: [1, 2, 3],
    accepts: (v) => Array.isArray(v) || (ArrayBuffer.isView(v) && !(v instanceof DataView)),
  };
  const numbers = (length: number): Argument => ({
    value: new Float32Array(length),
    accepts: (v) =>
      (Array.isArray(v) || v instanceof Float32Array) &&
      v.length === length &&
      v.every((n) => typeof n === "number"),
  });

  // training
  const loss = core.crossEntropy(model, images, labels);
  const lossOf: Argument = { value: loss, accepts: (v) => v === loss };
  const alphas = list([0, 0.1], Number.isFinite);
  const filterOf = (accepts: (name: string) => boolean) => optional(func(accepts as never));
  const first = made(3).detach();
  const weight = gpu.keep(gpu.full([3], 1, { requiresGrad: true }));
  let line: core.GradientLine;
  const sgd = options(
    {
      lr: number(0.1, 0),
      momentum: number(0, 0),
      dampening: number(0),
      weightDecay: number(0, 0),
      nesterov: flag(false),
    },
    ["lr"],
  );
  const optimizer = () => new core.SGD([weight], { lr: 1 });
  const joined = new core.SGD([gpu.keep(gpu.tensor([1], [1], { requiresGrad: true }))], { lr: 1 });
  const adam = options({
    ...{ lr: number(0.001, 0), eps: number(1e-8, 0), weightDecay: number(0, 0), amsgrad: flag(false) },
    betas: list([0.9, 0.999], (v) => typeof v === "number" && v >= 0 && v < 1),
  });
  const rmsprop = options({
    ...{ lr: number(0.01, 0), alpha: number(0.99, 0, 1), eps: number(1e-8, 0) },
    ...{ weightDecay: number(0, 0), momentum: number(0, 0), centered: flag(false) },
  });
  const weights: Argument = { value: [weight], accepts: () => false };
  const shader = {
    name: "copy_three",
    source: `@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < 3) { out[id.x] = a[id.x]; }
}`,
  };
  const kernel: Argument = { value: { shader, entry: "main" }, accepts: () => false };
  const dtype = choice("float32", "float16", "uint32", "uint8");
  const tensorOptions = options({ dtype, requiresGrad: flag(false) });
  const gpuOptions = {
    flushEvery: positive(64),
    debug: options({ poison: flag(false), checkFinite: flag(false) }),
  };
  const wish = {
    adapter: text("lavapipe"),
    powerPreference: choice("low-power", "high-performance"),
    toggles: options({}),
  };
  const buffer = gpu.device.createBuffer({
    size: 256,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  });
  const callbacks = {
    onLog: func(() => 1),
    onEval: func(() => 1),
    onStart: func(() => 1),
    onEnd: func(() => 1),
    callbacks: list(
      [],
      (one) => one !== null && typeof one === "object" && Object.getPrototypeOf(one) === Object.prototype,
    ),
    onCheckpoint: func(() => 1),
    checkpointEvery: { value: 5, accepts: (v: unknown) => typeof v === "number" && v >= 1 },
    signal: { value: undefined, accepts: (v: unknown) => v === undefined },
    evaluate: flag(true),
  };
  const trainer = new core.RecipeTrainer(
    gpu,
    { train: dataset, test: dataset },
    { depth: 8, width: 4, batchSize: 4, epochs: 1 },
  );
  const imageFields = {
    height: integer(4, 1, 2 ** 14),
    width: integer(4, 1, 2 ** 14),
    channels: { value: 3, accepts: (v: unknown) => v === 1 || v === 3 },
  };
  const only: Argument = { value: gpu.device, accepts: () => false };

  // without tensors
  const bufferOf = (bytes: number): Argument => ({
    value: gpu.device.createBuffer({ size: bytes, usage: GPUBufferUsage.STORAGE }),
    accepts: () => false,
  });
  const encoder: Argument = { value: gpu.device.createCommandEncoder(), accepts: () => false };
  const elements = choice("float32", "float16");
  const encodeNorm = options(
    {
      ...{ device: only, training: flag(true), momentum: orNull(number(0.1, 0, 1)), eps, activation },
      ...{ residual: flag(false), dtype: elements },
    },
    ["device", "training"],
  );
  const convSettings = { stride: pair(1, 1), padding: sides(1), dilation: pair(1, 1), groups: positive(1) };
  const encodeConv = options({ ...convSettings, device: only }, ["device"]);
  const convShapes = options({ x: shape([2, 4, 4, 8]), weight: shape([8, 3, 3, 8]) }, ["x", "weight"]);
  const absent: Argument = { value: null, accepts: (v) => v === null };
  const perChannelBuffer = () => orNull(bufferOf(32));

  const softplusOptions = options({ beta: number(1, 1e-3, 3e38), threshold: slope });
  const outputSize = either(
    positive(2),
    list([2, 3], (v) => v === null || (Number.isInteger(v) && (v as number) >= 1)),
  );
  const interpolation = options(
    {
      size: { value: [3, 5], accepts: (v) => pair(3, 1).accepts(v) },
      mode: choice("bilinear", "nearest"),
      alignCorners: flag(true),
    },
    ["size"],
  );
  const isAbove0 = (v: unknown) => typeof v === "number" && Number.isFinite(v) && v > 0;
  const isRange = (v: unknown) =>
    Array.isArray(v) && v.length === 2 && Array.from(v).every(isAbove0) && v[0] <= v[1];
  const side = (value: number, low: number) => integer(value, low, 2 ** 14);
  const composed = new core.transforms.Compose(gpu, [core.transforms.randomHorizontalFlip()], {
    images,
    labels,
  });
  const reduction = choice("mean", "sum", "none");

  const settings: Argument = {
    value: {},
    accepts: (v) => v !== null && typeof v === "object" && Object.getPrototypeOf(v) === Object.prototype,
  };
  const start = options({
    ...{ prepare: func(() => undefined), settings },
    moments: { value: core.channelMoments(dataset), accepts: () => false },
  });
  return {
    // ops
    accuracy: { args: [tensor(matrix), label], call: core.accuracy },
    add: { args: [either(x4, anyNumber), either(tensor(vector), anyNumber)], call: core.add },
    sub: { args: [either(x4, anyNumber), either(tensor(vector), anyNumber)], call: core.sub },
    mul: { args: [either(x4, anyNumber), either(tensor(vector), anyNumber)], call: core.mul },
    div: { args: [either(x4, anyNumber), either(tensor(vector), anyNumber)], call: core.div },
    maximum: { args: [either(x4, anyNumber), either(tensor(vector), anyNumber)], call: core.maximum },
    minimum: { args: [either(x4, anyNumber), either(tensor(vector), anyNumber)], call: core.minimum },
    eq: { args: [numbersOrIntegers, either(anyNumber, tensor(vector))], call: core.eq },
    ne: { args: [numbersOrIntegers, either(anyNumber, tensor(vector))], call: core.ne },
    lt: { args: [numbersOrIntegers, either(anyNumber, tensor(vector))], call: core.lt },
    le: { args: [numbersOrIntegers, either(anyNumber, tensor(vector))], call: core.le },
    gt: { args: [numbersOrIntegers, either(anyNumber, tensor(vector))], call: core.gt },
    ge: { args: [numbersOrIntegers, either(anyNumber, tensor(vector))], call: core.ge },
    where: {
      args: [x4, either(tensor(vector), anyNumber), either(tensor(vector), anyNumber)],
      call: core.where,
    },
    scale: { args: [x4, either(number(2), tensor(vector))], call: core.scale },
    relu: unary(core.relu),
    relu6: unary(core.relu6),
    leakyRelu: { args: [x4, optional(options({ negativeSlope: slope }))], call: core.leakyRelu },
    silu: unary(core.silu),
    gelu: { args: [x4, optional(options({ approximate }))], call: core.gelu },
    hardSwish: unary(core.hardSwish),
    mseLoss: { args: [x4, x4, optional(options({ reduction }))], call: core.mseLoss },
    l1Loss: { args: [x4, x4, optional(options({ reduction }))], call: core.l1Loss },
    huberLoss: {
      args: [x4, x4, optional(options({ reduction, delta: number(1, 1e-3, 3e38) }))],
      call: core.huberLoss,
    },
    smoothL1Loss: {
      args: [x4, x4, optional(options({ reduction, beta: number(1, 0, 3e38) }))],
      call: core.smoothL1Loss,
    },
    bceWithLogits: {
      args: [
        x4,
        x4,
        optional(options({ reduction, weight: orNull(tensor(vector)), posWeight: orNull(tensor(vector)) })),
      ],
      call: core.bceWithLogits,
    },
    exp: unary(core.exp),
    log: unary(core.log),
    sqrt: unary(core.sqrt),
    rsqrt: unary(core.rsqrt),
    abs: unary(core.abs),
    neg: unary(core.neg),
    sigmoid: unary(core.sigmoid),
    tanh: unary(core.tanh),
    softplus: {
      args: [x4, optional(softplusOptions)],
      call: core.softplus,
    },
    clamp: { args: [x4, orNull(slope), optional(orNull(slope))], call: core.clamp },
    pow: { args: [x4, either(slope, tensor(vector))], call: core.pow },
    softmax: { args: [x4, optional(integer(-1, -4, 3))], call: core.softmax },
    logSoftmax: { args: [x4, optional(integer(-1, -4, 3))], call: core.logSoftmax },
    expand: { args: [tensor(vector), shape([2, 8])], call: core.expand },
    normalize: { args: [x4, tensor(vector), tensor(made(8)), optional(eps)], call: core.normalize },
    sum: {
      args: [x4, optional(oneOrMore([1, 2])), optional(options({ keepDims: flag(true) }))],
      call: core.sum,
    },
    mean: {
      args: [x4, optional(oneOrMore([1, 2])), optional(options({ keepDims: flag(true) }))],
      call: core.mean,
    },
    max: {
      args: [x4, optional(oneOrMore([1, 2])), optional(options({ keepDims: flag(true) }))],
      call: core.max,
    },
    min: {
      args: [x4, optional(oneOrMore([1, 2])), optional(options({ keepDims: flag(true) }))],
      call: core.min,
    },
    argmax: {
      args: [x4, optional(orNull(integer(1, -4, 3))), optional(options({ keepDims: flag(true) }))],
      call: core.argmax,
    },
    argmin: {
      args: [x4, optional(orNull(integer(1, -4, 3))), optional(options({ keepDims: flag(true) }))],
      call: core.argmin,
    },
    variance: {
      args: [
        x4,
        optional(oneOrMore([1, 2])),
        optional(
          options({ keepDims: flag(true), correction: integer(1, 0, 1), mean: orNull(tensor(made(2, 8))) }),
        ),
      ],
      call: core.variance,
    },
    cast: { args: [tensor(x, [...HALVES, "uint32"]), choice("float32", "float16")], call: core.cast },
    concat: { args: [list([x, x], ragged), optional(integer(-1, -4, 3))], call: core.concat },
    concatChannels: { args: [list([x, x], ragged)], call: core.concatChannels },
    slice: {
      args: [
        numbersOrIntegers,
        axes([0, 0, 0, 0]),
        list([1, 1, 1, 1], Number.isInteger),
        optional(list([1, 1, 1, 1], Number.isInteger)),
      ],
      call: core.slice,
    },
    pad: {
      args: [
        tensor(matrix),
        list(
          [
            [0, 1],
            [1, 0],
          ],
          (v) => Array.isArray(v) && v.length === 2 && v.every(Number.isInteger),
        ),
        optional({ value: 0, accepts: (v) => typeof v === "number" && !Number.isNaN(v) }),
      ],
      call: core.pad,
    },
    pad2d: {
      args: [
        x4,
        { value: [1, 0, 1, 0], accepts: () => false },
        optional({ value: 0, accepts: (v) => typeof v === "number" && !Number.isNaN(v) }),
      ],
      call: core.pad2d,
    },
    permute: { args: [numbersOrIntegers, axes([0, 3, 1, 2])], call: core.permute },
    transpose: {
      args: [tensor(matrix, ["float32", "uint32"]), optional(integer(0, -2, 1)), optional(integer(1, -2, 1))],
      call: core.transpose,
    },
    reshape: { args: [tensor(x, ALL), shape([2, 128])], call: core.reshape },
    flatten: unary(core.flatten, tensor(x, ALL)),
    fromNCHW: unary(core.fromNCHW),
    toNCHW: unary(core.toNCHW),
    weightFromOIHW: unary(core.weightFromOIHW),
    weightToOIHW: unary(core.weightToOIHW),
    weightFromHWIO: unary(core.weightFromHWIO),
    weightToHWIO: unary(core.weightToHWIO),
    subsample: {
      args: [x4, optional(options({ stride: positive(2), channels: integer(16, 8) }))],
      call: core.subsample,
    },
    maxPool2d: {
      args: [x4, pair(2, 1), optional(options({ ...pool, dilation: pair(1, 1) }))],
      call: core.maxPool2d,
    },
    avgPool2d: {
      args: [x4, pair(2, 1), optional(options({ ...pool, countIncludePad: flag(true) }))],
      call: core.avgPool2d,
    },
    adaptiveAvgPool2d: {
      args: [x4, outputSize],
      call: core.adaptiveAvgPool2d,
    },
    interpolate: {
      args: [x4, interpolation],
      call: core.interpolate,
    },
    globalAvgPool2d: unary(core.globalAvgPool2d),
    matmul: {
      args: [
        tensor(matrix),
        tensor(made(8, 3)),
        optional(options({ transposeA: flag(false), transposeB: flag(false) })),
      ],
      call: core.matmul,
    },
    linear: {
      args: [tensor(matrix), tensor(made(3, 8)), optional(orNull(tensor(made(3))))],
      call: core.linear,
    },
    encodeBatchNorm: {
      args: [
        encoder,
        options(
          {
            ...{ x: bufferOf(1024), y: bufferOf(1024), gamma: perChannelBuffer(), beta: perChannelBuffer() },
            ...{ runningMean: perChannelBuffer(), runningVar: perChannelBuffer() },
            ...{ numBatchesTracked: orNull(bufferOf(16)), residual: absent },
            ...{ saved: orNull(bufferOf(160)), mask: absent },
          },
          ["x", "y"],
        ),
        shape([2, 4, 4, 8]),
        encodeNorm,
      ],
      call: core.encodeBatchNorm,
    },
    encodeBatchNormBackward: {
      args: [
        encoder,
        options(
          {
            ...{
              x: bufferOf(1024),
              dy: bufferOf(1024),
              saved: bufferOf(160),
              mask: absent,
              residual: absent,
            },
            ...{ dx: orNull(bufferOf(1024)), dgamma: perChannelBuffer(), dbeta: perChannelBuffer() },
            dresidual: absent,
          },
          ["x", "dy", "saved"],
        ),
        shape([2, 4, 4, 8]),
        encodeNorm,
      ],
      call: core.encodeBatchNormBackward,
    },
    batchNormBytes: {
      args: [shape([2, 4, 4, 8]), optional(options({ dtype: elements }))],
      call: core.batchNormBytes,
    },
    encodeConv2d: {
      names: ["encodeConv2d", "conv2d"],
      args: [
        encoder,
        options({ x: bufferOf(1024), weight: bufferOf(2304), bias: perChannelBuffer(), y: bufferOf(1024) }, [
          "x",
          "weight",
          "y",
        ]),
        convShapes,
        encodeConv,
      ],
      call: core.encodeConv2d,
    },
    encodeConv2dGradInput: {
      names: ["encodeConv2dGradInput", "conv2d"],
      args: [
        encoder,
        options({ dy: bufferOf(1024), weight: bufferOf(2304), dx: bufferOf(1024) }, ["dy", "weight", "dx"]),
        convShapes,
        encodeConv,
      ],
      call: core.encodeConv2dGradInput,
    },
    encodeConv2dGradWeight: {
      names: ["encodeConv2dGradWeight", "conv2d"],
      args: [
        encoder,
        options(
          { x: bufferOf(1024), dy: bufferOf(1024), dweight: bufferOf(2304), dbias: perChannelBuffer() },
          ["x", "dy", "dweight"],
        ),
        convShapes,
        encodeConv,
      ],
      call: core.encodeConv2dGradWeight,
    },
    conv2dBytes: {
      names: ["conv2dBytes", "conv2d"],
      args: [convShapes, optional(options(convSettings))],
      call: core.conv2dBytes,
    },
    releaseEncoders: { args: [only], call: core.releaseEncoders },
    conv2d: {
      args: [
        x4,
        tensor(filter),
        optional(
          options({
            bias: orNull(tensor(vector)),
            stride: pair(1, 1),
            padding: either(sides(1), choice("same", "valid")),
            dilation: pair(1, 1),
            groups: positive(1),
          }),
        ),
      ],
      call: core.conv2d,
    },
    newGenerator: { args: [aGpu, anySeed], call: core.newGenerator },
    dropout: { args: [x4, drawsOf, optional(dropOptions)], call: core.dropout, accepted: "right" },
    dropout2d: { args: [x4, drawsOf, optional(dropOptions)], call: core.dropout2d, accepted: "right" },
    stochasticDepth: {
      accepted: "right",
      args: [x4, drawsOf, options({ p: probability, mode, training: flag(true) }, ["p", "mode"])],
      call: core.stochasticDepth,
    },
    convTranspose2d: {
      args: [x4, tensor(filter), optional(options({ bias: orNull(tensor(vector)), ...transposed }))],
      call: core.convTranspose2d,
    },
    batchNorm: {
      accepted: "right",
      args: [tensor(x, HALVES), channels, channels, batchNormOptions],
      call: core.batchNorm,
    },
    batchNormComposed: {
      accepted: "right",
      args: [tensor(x, HALVES), channels, channels, batchNormOptions],
      call: core.batchNormComposed,
    },
    batchNormStatistics: unary(core.batchNormStatistics, tensor(x, HALVES)),
    mergeStatistics: { args: [list([statistics, statistics], ragged)], call: core.mergeStatistics },
    syncBatchNorm: {
      accepted: "right",
      args: [
        list([x, x], (v) => v instanceof core.Tensor && HALVES.includes(v.dtype)),
        channels,
        channels,
        optional(options({ ...normOptions, residuals: orNull(list([x, x], () => false)) })),
      ],
      call: core.syncBatchNorm,
    },
    groupNorm: {
      args: [x4, positive(2), optional(channels), optional(channels), optional(eps)],
      call: core.groupNorm,
    },
    layerNorm: {
      args: [x4, either(positive(8), shape([8])), optional(channels), optional(channels), optional(eps)],
      call: core.layerNorm,
    },
    softmaxCrossEntropy: {
      args: [
        tensor(matrix),
        label,
        optional(
          options({
            ...{ reduction, labelSmoothing: number(0.1, 0, 1), weight: orNull(tensor(vector)) },
            ignoreIndex: integer(3, -(2 ** 31), 2 ** 32 - 1),
          }),
        ),
      ],
      call: core.softmaxCrossEntropy,
    },

    // the graph
    checkpoint: {
      names: ["checkpoint", "relu"],
      args: [func((t: core.Tensor) => core.relu(t)), tensor(x, HALVES)],
      call: core.checkpoint,
    },
    noGrad: unary(
      core.noGrad,
      func(() => 1),
    ),
    enableGrad: unary(
      core.enableGrad,
      func(() => 1),
    ),
    tap: { args: [x4, func(() => undefined)], call: core.tap },

    // layers
    Conv2d: {
      args: [
        aGpu,
        positive(8),
        positive(4),
        pair(3, 1),
        optional(
          options({
            ...initOptions,
            ...{
              stride: pair(1, 1),
              padding: either(sides(1), choice("same", "valid")),
              dilation: pair(1, 1),
              groups: positive(1),
            },
          }),
        ),
      ],
      call: (...args: ConstructorParameters<typeof core.Conv2d>) => new core.Conv2d(...args),
    },
    ConvTranspose2d: {
      args: [
        aGpu,
        positive(8),
        positive(4),
        pair(3, 1),
        optional(options({ ...initOptions, ...transposed })),
      ],
      call: (...args: ConstructorParameters<typeof core.ConvTranspose2d>) =>
        new core.ConvTranspose2d(...args),
    },
    "ConvTranspose2d.forward": {
      names: ["ConvTranspose2d", "convTranspose2d"],
      ...unary((t: core.Tensor) => upwards.forward(t)),
    },
    "Conv2d.forward": { names: ["Conv2d", "conv2d"], ...unary((t: core.Tensor) => conv.forward(t)) },
    Linear: {
      args: [aGpu, positive(8), positive(4), optional(options(initOptions))],
      call: (...args: ConstructorParameters<typeof core.Linear>) => new core.Linear(...args),
    },
    "Linear.forward": {
      names: ["Linear", "linear"],
      ...unary((t: core.Tensor) => dense.forward(t), tensor(matrix)),
    },
    BatchNorm2d: {
      args: [aGpu, positive(8), optional(options(norm2d))],
      call: (...args: ConstructorParameters<typeof core.BatchNorm2d>) => new core.BatchNorm2d(...args),
    },
    "BatchNorm2d.resetRunningStats": { args: [], call: () => norm.resetRunningStats() },
    BatchNorm1d: {
      args: [aGpu, positive(8), optional(options(norm2d))],
      call: (...args: ConstructorParameters<typeof core.BatchNorm1d>) => new core.BatchNorm1d(...args),
    },
    "BatchNorm1d.forward": {
      names: ["BatchNorm1d", "BatchNorm2d", "batchNorm"],
      args: [
        tensor(matrix, HALVES),
        optional(options({ activation, residual: orNull(tensor(made(6, 8), HALVES)) })),
      ],
      call: (t: core.Tensor, tail: object) => norm1d.forward(t, tail),
    },
    freezeBatchNorm: {
      args: [module, optional(flag(false))],
      call: core.freezeBatchNorm,
      after: () => core.freezeBatchNorm(model, false),
    },
    "BatchNorm2d.forward": {
      names: ["BatchNorm2d", "batchNorm"],
      args: [
        tensor(x, HALVES),
        optional(options({ activation, residual: orNull(tensor(made(2, 4, 4, 8), HALVES)) })),
      ],
      call: (t: core.Tensor, tail: object) => norm.forward(t, tail),
    },
    ReLU: { args: [], call: () => new core.ReLU() },
    Dropout: {
      args: [aGpu, optional(probability), optional(options({ random: layer }))],
      call: (...args: ConstructorParameters<typeof core.Dropout>) => new core.Dropout(...args),
    },
    "Dropout.forward": { names: ["Dropout", "dropout"], ...unary((t: core.Tensor) => drops[0]!.forward(t)) },
    Dropout2d: {
      args: [aGpu, optional(probability), optional(options({ random: layer }))],
      call: (...args: ConstructorParameters<typeof core.Dropout2d>) => new core.Dropout2d(...args),
    },
    "Dropout2d.forward": {
      names: ["Dropout2d", "dropout2d"],
      ...unary((t: core.Tensor) => drops[1]!.forward(t)),
    },
    StochasticDepth: {
      args: [aGpu, probability, mode, optional(options({ random: layer }))],
      call: (...args: ConstructorParameters<typeof core.StochasticDepth>) =>
        new core.StochasticDepth(...args),
    },
    "StochasticDepth.forward": {
      names: ["StochasticDepth", "stochasticDepth"],
      ...unary((t: core.Tensor) => drops[2]!.forward(t)),
    },
    "ReLU.forward": { names: ["relu"], ...unary((t: core.Tensor) => new core.ReLU().forward(t)) },
    ReLU6: { args: [], call: () => new core.ReLU6() },
    "ReLU6.forward": { names: ["relu6"], ...unary((t: core.Tensor) => new core.ReLU6().forward(t)) },
    LeakyReLU: {
      args: [optional(options({ negativeSlope: slope }))],
      call: (...args: ConstructorParameters<typeof core.LeakyReLU>) => new core.LeakyReLU(...args),
    },
    "LeakyReLU.forward": {
      names: ["leakyRelu"],
      ...unary((t: core.Tensor) => new core.LeakyReLU().forward(t)),
    },
    SiLU: { args: [], call: () => new core.SiLU() },
    "SiLU.forward": { names: ["silu"], ...unary((t: core.Tensor) => new core.SiLU().forward(t)) },
    GELU: {
      args: [optional(options({ approximate }))],
      call: (...args: ConstructorParameters<typeof core.GELU>) => new core.GELU(...args),
    },
    "GELU.forward": { names: ["gelu"], ...unary((t: core.Tensor) => new core.GELU().forward(t)) },
    Hardswish: { args: [], call: () => new core.Hardswish() },
    "Hardswish.forward": {
      names: ["hardSwish"],
      ...unary((t: core.Tensor) => new core.Hardswish().forward(t)),
    },
    MaxPool2d: {
      args: [pair(2, 1), optional(options({ ...pool, dilation: pair(1, 1) }))],
      call: (...args: ConstructorParameters<typeof core.MaxPool2d>) => new core.MaxPool2d(...args),
    },
    "MaxPool2d.forward": {
      names: ["maxPool2d"],
      ...unary((t: core.Tensor) => new core.MaxPool2d(2).forward(t)),
    },
    AvgPool2d: {
      args: [pair(2, 1), optional(options({ ...pool, countIncludePad: flag(true) }))],
      call: (...args: ConstructorParameters<typeof core.AvgPool2d>) => new core.AvgPool2d(...args),
    },
    "AvgPool2d.forward": {
      names: ["avgPool2d"],
      ...unary((t: core.Tensor) => new core.AvgPool2d(2).forward(t)),
    },
    GlobalAvgPool2d: { args: [], call: () => new core.GlobalAvgPool2d() },
    "GlobalAvgPool2d.forward": {
      names: ["globalAvgPool2d"],
      ...unary((t: core.Tensor) => new core.GlobalAvgPool2d().forward(t)),
    },
    Sigmoid: { args: [], call: () => new core.Sigmoid() },
    "Sigmoid.forward": { names: ["sigmoid"], ...unary((t: core.Tensor) => new core.Sigmoid().forward(t)) },
    Tanh: { args: [], call: () => new core.Tanh() },
    "Tanh.forward": { names: ["tanh"], ...unary((t: core.Tensor) => new core.Tanh().forward(t)) },
    Softplus: {
      args: [optional(softplusOptions)],
      call: (...args: ConstructorParameters<typeof core.Softplus>) => new core.Softplus(...args),
    },
    "Softplus.forward": { names: ["softplus"], ...unary((t: core.Tensor) => new core.Softplus().forward(t)) },
    Softmax: {
      args: [optional(integer(1, -8, 7))],
      call: (...args: ConstructorParameters<typeof core.Softmax>) => new core.Softmax(...args),
    },
    "Softmax.forward": { names: ["softmax"], ...unary((t: core.Tensor) => new core.Softmax().forward(t)) },
    LogSoftmax: {
      args: [optional(integer(1, -8, 7))],
      call: (...args: ConstructorParameters<typeof core.LogSoftmax>) => new core.LogSoftmax(...args),
    },
    "LogSoftmax.forward": {
      names: ["logSoftmax"],
      ...unary((t: core.Tensor) => new core.LogSoftmax().forward(t)),
    },
    AdaptiveAvgPool2d: {
      args: [outputSize],
      call: (...args: ConstructorParameters<typeof core.AdaptiveAvgPool2d>) =>
        new core.AdaptiveAvgPool2d(...args),
    },
    "AdaptiveAvgPool2d.forward": {
      names: ["adaptiveAvgPool2d"],
      ...unary((t: core.Tensor) => new core.AdaptiveAvgPool2d(3).forward(t)),
    },
    Upsample: {
      args: [interpolation],
      call: (...args: ConstructorParameters<typeof core.Upsample>) => new core.Upsample(...args),
    },
    "Upsample.forward": {
      names: ["interpolate"],
      ...unary((t: core.Tensor) => new core.Upsample({ size: 3 }).forward(t)),
    },
    "transforms.randomCrop": {
      names: ["randomCrop"],
      args: [optional(options({ padding: side(1, 0), height: side(4, 1), width: side(4, 1) }))],
      call: core.transforms.randomCrop,
    },
    "transforms.randomHorizontalFlip": {
      names: ["randomHorizontalFlip"],
      args: [optional(options({ p: probability }))],
      call: core.transforms.randomHorizontalFlip,
    },
    "transforms.resize": {
      names: ["resize"],
      args: [options({ height: side(4, 1), width: side(4, 1) }, ["height", "width"])],
      call: core.transforms.resize,
    },
    "transforms.colorJitter": {
      names: ["colorJitter"],
      args: [options({ brightness: number(0.2, 0), contrast: number(0.2, 0), saturation: number(0.2, 0) })],
      call: core.transforms.colorJitter,
    },
    "transforms.randomErasing": {
      names: ["randomErasing"],
      args: [
        optional(
          options({
            ...{ p: probability, value: number(0) },
            scale: { value: [0.1, 0.3], accepts: () => false },
            ratio: { value: [0.3, 3.3], accepts: isRange },
          }),
        ),
      ],
      call: core.transforms.randomErasing,
    },
    "transforms.normalize": {
      names: ["normalize"],
      args: [
        options({ mean: list([0.5, 0.5], Number.isFinite), std: list([0.2, 0.2], isAbove0) }, [
          "mean",
          "std",
        ]),
      ],
      call: core.transforms.normalize,
    },
    "transforms.mixup": {
      names: ["mixup"],
      args: [options({ classes: positive(6), alpha: number(0.2, 1e-300) }, ["classes"])],
      call: core.transforms.mixup,
    },
    "transforms.Compose": {
      names: ["Compose"],
      args: [
        aGpu,
        list([core.transforms.randomHorizontalFlip()], () => false),
        options(
          { images: tensor(images), labels: tensor(labels, ["uint32"]), seed: integer(3, 0, 2 ** 32 - 1) },
          ["images", "labels"],
        ),
      ],
      call: (...args: ConstructorParameters<typeof core.transforms.Compose>) =>
        new core.transforms.Compose(...args).dispose(),
    },
    "Compose.draw": {
      args: [
        integer(1, 0, 2 ** 32 - 1),
        list([0, 1, 2, 3, 4, 5], (v) => Number.isSafeInteger(v) && (v as number) >= 0),
      ],
      call: (epoch: number, indices: ArrayLike<number>) => composed.draw(epoch, indices),
    },
    Identity: { args: [], call: () => new core.Identity() },
    "Identity.forward": {
      names: ["Identity"],
      ...unary((t: core.Tensor) => new core.Identity().forward(t).detach(), tensor(x, ALL)),
    },
    GroupNorm: {
      args: [
        aGpu,
        { value: 2, accepts: (v) => [1, 4, 8].includes(v as number) },
        { value: 8, accepts: (v) => Number.isInteger(v) && (v as number) > 0 && (v as number) % 2 === 0 },
        optional(options({ eps, affine: flag(true) })),
      ],
      call: (...args: ConstructorParameters<typeof core.GroupNorm>) => new core.GroupNorm(...args),
    },
    "GroupNorm.forward": {
      names: ["GroupNorm", "groupNorm"],
      ...unary((t: core.Tensor) => groups.forward(t)),
    },
    InstanceNorm2d: {
      args: [
        aGpu,
        positive(8),
        optional(
          options({
            ...{ eps, affine: flag(true), trackRunningStats: flag(true) },
            momentum: number(0.1, 0, 1),
          }),
        ),
      ],
      call: (...args: ConstructorParameters<typeof core.InstanceNorm2d>) => new core.InstanceNorm2d(...args),
    },
    "InstanceNorm2d.resetRunningStats": { args: [], call: () => instances.resetRunningStats() },
    "InstanceNorm2d.forward": {
      names: ["InstanceNorm2d"],
      ...unary((t: core.Tensor) => instances.forward(t)),
    },
    LayerNorm: {
      args: [
        aGpu,
        either(shape([4, 8]), positive(8)),
        optional(options({ eps, elementwiseAffine: flag(true), bias: flag(true) })),
      ],
      call: (...args: ConstructorParameters<typeof core.LayerNorm>) => new core.LayerNorm(...args),
    },
    "LayerNorm.forward": {
      names: ["LayerNorm", "layerNorm"],
      ...unary((t: core.Tensor) => rows.forward(t)),
    },
    weightNorm: {
      args: [{ value: dense, accepts: () => false }],
      // A new one for each call: a layer has one at most.
      call: (given: core.Linear) => core.weightNorm(given === dense ? new core.Linear(gpu, 3, 2) : given),
    },
    Flatten: { args: [], call: () => new core.Flatten() },
    "Flatten.forward": {
      names: ["flatten"],
      ...unary((t: core.Tensor) => new core.Flatten().forward(t), tensor(x, ALL)),
    },
    Sequential: {
      args: [module, module],
      call: (...layers: core.Module[]) => void new core.Sequential(...layers),
    },
    "Sequential.forward": {
      names: ["Sequential", "relu", "flatten"],
      ...unary(
        (t: core.Tensor) => new core.Sequential(new core.ReLU(), new core.Flatten()).forward(t),
        tensor(x, ALL),
      ),
    },
    resnetCifar: { args: [aGpu, optional(options(resnetOptions))], call: core.resnetCifar },
    preactResnetCifar: {
      args: [aGpu, optional(options(without("preActivation")))],
      call: core.preactResnetCifar,
    },
    resnet18: resnet(core.resnet18),
    resnet34: resnet(core.resnet34),
    resnet50: resnet(core.resnet50),
    vgg11: vgg(core.vgg11),
    vgg13: vgg(core.vgg13),
    vgg16: vgg(core.vgg16),
    mobilenetV2: network({ widthMult: number(0.1, 1e-9, 64), dropout: probability }, core.mobilenetV2),
    plainCifar: { args: [aGpu, optional(options(without("shortcut")))], call: core.plainCifar },
    Module: { args: [], call: () => undefined },
    "Module.train": {
      names: ["train"],
      args: [optional(flag(true))],
      call: (mode: boolean) => void model.train(mode),
      after: () => void model.train(),
    },
    foldBatchNorm: {
      args: [{ value: relu, accepts: () => false }],
      call: core.foldBatchNorm,
    },
    "Module.freeze": {
      names: ["freeze"],
      args: [optional(flag(true))],
      call: (frozen: boolean) => void model.freeze(frozen),
      after: () => void model.freeze(false),
    },
    "Module.apply": {
      names: ["apply"],
      args: [func(() => undefined)],
      call: (fn: () => void) => void conv.apply(fn),
    },
    "Module.registerForwardHook": {
      names: ["registerForwardHook"],
      args: [func(() => undefined)],
      call: (hook: core.ForwardHook) => conv.registerForwardHook(hook)(),
    },
    "Module.summary": {
      names: ["summary", "conv2d"],
      args: [shape([1, 4, 4, 8])],
      call: (sizes: number[]) => void conv.summary(sizes),
    },
    "Module.loadStateDict": {
      names: ["loadStateDict"],
      args: [{ value: {}, accepts: isEmpty }, optional(options({ strict: flag(true) }))],
      call: (...args: Parameters<core.Module["loadStateDict"]>) => new core.ReLU().loadStateDict(...args),
    },
    initWeights: { args: [shape([8, 3, 3, 8]), init, layer, optional(number(1))], call: core.initWeights },
    manualSeed: { args: [anySeed], call: core.manualSeed, after: () => core.manualSeed(0) },

    // numbers
    Random: {
      args: [words, optional(words)],
      call: (...args: ConstructorParameters<typeof core.Random>) => new core.Random(...args),
    },
    "Random.uniform": {
      args: [optional(number(0)), optional(number(1))],
      call: (low: number, high: number) => random.uniform(low, high),
    },
    "Random.normal": {
      args: [optional(number(0)), optional(number(1))],
      call: (low: number, high: number) => random.normal(low, high),
    },
    "Random.int": { args: [integer(5, 1, 2 ** 32)], call: (n: number) => random.int(n) },
    "Random.shuffle": { args: [items], call: (values: number[]) => random.shuffle(values) },
    "Random.fillUniform": {
      args: [typed(new Float32Array(2)), optional(number(0)), optional(number(1))],
      call: (out: Float32Array, low: number, high: number) => random.fillUniform(out, low, high),
    },
    "Random.fillNormal": {
      args: [typed(new Float64Array(2)), optional(number(0)), optional(number(1))],
      call: (out: Float64Array, low: number, high: number) => random.fillNormal(out, low, high),
    },
    "Random.fork": { args: [anySeed], call: (name: string) => random.fork(name) },
    multiStep: {
      args: [
        number(0.1, 0),
        list([3, 5], (v) => Number.isFinite(v) && (v as number) >= 0),
        optional(number(0.1, 0)),
      ],
      call: core.multiStep,
    },
    stepDecay: { args: [number(0.1, 0), number(3, 1), optional(number(0.1, 0))], call: core.stepDecay },
    cosine: { args: [number(0.1, 0), number(10, 1), optional(number(0, 0))], call: core.cosine },
    warmup: { args: [func(() => 0.1), number(5, 0), optional(number(0.5, 0, 1))], call: core.warmup },
    constant: { args: [number(0.1, 0)], call: core.constant },
    polynomial: { args: [number(0.1, 0), number(10, 1), optional(number(2, 0))], call: core.polynomial },
    oneCycle: {
      args: [
        number(0.1, 0),
        number(10, 1),
        optional(
          options({
            ...{ pctStart: number(0.3, 0, 1), annealStrategy: choice("cos", "linear") },
            ...{ divFactor: number(25, 1), finalDivFactor: number(100, 1), threePhase: flag(true) },
          }),
        ),
      ],
      call: core.oneCycle,
    },
    onPlateau: {
      args: [
        number(0.1, 0),
        optional(
          options({
            ...{ mode: choice("min", "max"), factor: number(0.1, 0, 1 - 2 ** -53), patience: number(3, 0) },
            ...{ threshold: number(0.1, 0), thresholdMode: choice("rel", "abs"), cooldown: number(1, 0) },
            ...{ minLr: number(0, 0), eps: number(0, 0) },
          }),
        ),
      ],
      call: core.onPlateau,
    },
    learningRateFinder: {
      accepted: "right",
      args: [
        module,
        instance(joined),
        func(() => 1),
        optional(
          options({
            ...{ start: number(1e-7, 1e-300, 9), end: number(10, 1e-6), steps: integer(3, 2) },
            ...{ smoothing: number(0.05, 1e-300, 1), divergence: number(5, 1 + 2 ** -52) },
          }),
        ),
      ],
      call: core.learningRateFinder,
    },
    Optimizer: { args: [], call: () => undefined },
    JointOptimizer: {
      args: [{ value: [joined], accepts: () => false }],
      call: (...args: ConstructorParameters<typeof core.JointOptimizer>) => new core.JointOptimizer(...args),
    },
    SGD: {
      args: [weights, sgd],
      call: (...args: ConstructorParameters<typeof core.SGD>) => new core.SGD(...args),
    },
    Adam: {
      args: [weights, optional(adam)],
      call: (...args: ConstructorParameters<typeof core.Adam>) => new core.Adam(...args),
    },
    AdamW: {
      args: [weights, optional(adam)],
      call: (...args: ConstructorParameters<typeof core.AdamW>) => new core.AdamW(...args),
    },
    RMSprop: {
      args: [weights, optional(rmsprop)],
      call: (...args: ConstructorParameters<typeof core.RMSprop>) => new core.RMSprop(...args),
    },
    Muon: {
      args: [
        { value: [made(2, 3)].map((x) => Object.assign(x, { requiresGrad: true })), accepts: () => false },
        optional(
          options({
            ...{ lr: number(0.001, 0), weightDecay: number(0.1, 0), momentum: number(0.95, 0, 1 - 2 ** -53) },
            ...{ nesterov: flag(true), nsSteps: integer(5, 1, 99) },
            ...{ adjustLr: choice("original", "match_rms_adamw") },
          }),
        ),
      ],
      call: (...args: ConstructorParameters<typeof core.Muon>) => new core.Muon(...args),
    },
    EMA: {
      args: [module, optional(options({ decay: number(0.9, 0, 1 - 2 ** -53) }))],
      call: (...args: ConstructorParameters<typeof core.EMA>) => new core.EMA(...args),
    },
    SWA: { args: [module], call: (of: core.Module) => new core.SWA(of) },
    updateBatchNorm: {
      args: [
        module,
        {
          value: [],
          accepts: (v) => typeof (v as Record<symbol, unknown> | null)?.[Symbol.iterator] === "function",
        },
      ],
      call: (of: core.Module, loader: Iterable<never>) => core.updateBatchNorm(of, loader),
    },
    clipGradNorm: {
      args: [
        { value: [weight], accepts: () => false },
        number(1, 0),
        optional(options({ normType: { value: 2, accepts: (v) => typeof v === "number" && v > 0 } })),
      ],
      call: core.clipGradNorm,
    },
    clipGradValue: {
      args: [{ value: [weight], accepts: () => false }, number(1, 0)],
      call: core.clipGradValue,
    },
    decayGroups: { args: [module], call: (of: core.Module) => core.decayGroups(of).length },
    "JointOptimizer.loadStateDict": {
      args: [{ value: {}, accepts: isEmpty }],
      call: (state: core.StateDict) => new core.JointOptimizer([joined]).loadStateDict(state),
    },
    "SGD.loadStateDict": {
      args: [{ value: {}, accepts: isEmpty }],
      call: (state: core.StateDict) => {
        const sgd = optimizer();
        try {
          sgd.loadStateDict(state);
        } finally {
          sgd.dispose();
        }
      },
    },

    // the device
    Gpu: { args: [], call: () => undefined },
    "Gpu.static request": {
      names: ["Gpu.request"],
      args: [
        optional(
          options({
            ...gpuOptions,
            powerPreference: wish.powerPreference,
            gpu: { value: undefined, accepts: (v) => v === undefined },
          }),
        ),
      ],
      call: core.Gpu.request,
      accepted: "none",
    },
    "Gpu.static fromAdapter": {
      names: ["Gpu.fromAdapter"],
      args: [only, optional(options(gpuOptions))],
      call: core.Gpu.fromAdapter,
      accepted: "none",
    },
    "Gpu.static fromDevice": {
      names: ["Gpu.fromDevice"],
      args: [only, optional(options(gpuOptions))],
      call: core.Gpu.fromDevice,
      accepted: "none",
    },
    "Gpu.tensor": {
      names: ["gpu.tensor"],
      args: [numbers(3), shape([3]), optional(tensorOptions)],
      call: (...args: Parameters<Gpu["tensor"]>) => gpu.tensor(...args),
    },
    "Gpu.empty": {
      names: ["gpu.empty"],
      args: [shape([3]), optional(dtype)],
      call: (...args: Parameters<Gpu["empty"]>) => gpu.empty(...args),
    },
    "Gpu.zeros": {
      names: ["gpu.zeros"],
      args: [shape([3]), optional(tensorOptions)],
      call: (...args: Parameters<Gpu["zeros"]>) => gpu.zeros(...args),
    },
    "Gpu.full": {
      names: ["gpu.full"],
      args: [shape([3]), { value: 1, accepts: (v) => typeof v === "number" }, optional(tensorOptions)],
      call: (...args: Parameters<Gpu["full"]>) => gpu.full(...args),
    },
    "Gpu.scope": { names: ["gpu.scope"], args: [func(() => 1)], call: (fn: () => number) => gpu.scope(fn) },
    "Gpu.keep": {
      names: ["gpu.keep"],
      args: [{ value: x, accepts: (v) => v instanceof core.Tensor }],
      call: (t: core.Tensor) => gpu.keep(t),
    },
    "Gpu.run": {
      names: ["gpu.run", "label", "wrong", "copy_three"],
      args: [
        kernel,
        list([made(3), first], () => false),
        list([1], (v) => Number.isInteger(v) && (v as number) > 0),
        optional(text("label")),
      ],
      call: (...args: Parameters<Gpu["run"]>) => {
        gpu.run(...args);
        return gpu.sync();
      },
    },
    "Gpu.warmup": {
      names: ["gpu.warmup"],
      args: [list([kernel.value], () => false)],
      call: (specs: never[]) => gpu.warmup(specs),
    },
    "Gpu.fold": {
      names: ["gpu.fold"],
      args: [integer(5, 1, 2 ** 32)],
      call: (count: number) => gpu.fold(count),
    },
    "Gpu.accumulate": {
      names: ["gpu.accumulate"],
      args: [tensor(made(3), HALVES), tensor(first, HALVES)],
      call: (...args: Parameters<Gpu["accumulate"]>) => gpu.accumulate(...args),
    },
    "Gpu.profile": {
      names: ["gpu.profile"],
      args: [func(() => 1)],
      call: (fn: () => void) => gpu.profile(fn),
    },
    "Gpu.capture": {
      names: ["gpu.capture"],
      args: [func(() => 1)],
      call: (fn: () => void) => gpu.capture(fn),
    },
    "Gpu.explain": {
      names: ["gpu.explain"],
      args: [func(() => 1)],
      call: (fn: () => void) => gpu.explain(fn),
    },
    "variants.force": {
      args: [text("kernel"), orNull(text("lanes"))],
      call: (kernel: string, variant: string) => gpu.variants.force(kernel, variant),
    },
    "variants.remember": {
      args: [text("kernel"), text("1x2"), text("lanes")],
      call: (kernel: string, size: string, variant: string) => gpu.variants.remember(kernel, size, variant),
    },
    "variants.load": {
      args: [
        {
          value: { "kernel|1x2": "lanes" },
          accepts: isEmpty,
        },
      ],
      call: (choices: Record<string, string>) => gpu.variants.load(choices),
    },
    "variants.restore": {
      args: [text(gpu.variants.serialize())],
      call: (saved: string) => gpu.variants.restore(saved),
    },
    autotune: {
      args: [
        aGpu,
        func(() => gpu.scope(() => core.relu(x).isDisposed)),
        optional(
          options({
            rounds: integer(1, 1, 7),
            margin: number(0.97, 0),
            budgetMs: { value: 1, accepts: (v) => typeof v === "number" && v >= 0 },
          }),
        ),
      ],
      call: core.autotune,
      accepted: "none",
    },
    Tensor: { args: [], call: () => undefined },
    "Tensor.static fromBuffer": {
      names: ["Tensor.fromBuffer"],
      args: [
        { value: buffer, accepts: () => false },
        shape([3]),
        optional(options({ gpu: aGpu, dtype, byteOffset: integer(0, 0) })),
      ],
      call: core.Tensor.fromBuffer,
    },
    "Tensor.alias": {
      names: ["tensor.alias"],
      args: [optional(shape([3]))],
      call: (size: number[]) => first.alias(size),
    },
    "Tensor.write": {
      names: ["tensor.write"],
      args: [
        either(numbers(3), {
          value: first,
          accepts: (v) => v instanceof core.Tensor && v.shape.join() === first.shape.join(),
        }),
      ],
      call: (data: number[]) => first.write(data),
    },
    "Tensor.fill": {
      names: ["tensor.fill"],
      args: [{ value: 1, accepts: (v) => typeof v === "number" }],
      call: (value: number) => first.fill(value),
    },
    "Tensor.backward": {
      names: ["backward"],
      args: [orNull(optional(tensor(made(3))))],
      call: (grad: core.Tensor) => gpu.scope(() => core.scale(weight, 2).backward(grad)),
      after: () => weight.zeroGrad(),
    },

    // data
    pcg: unary(core.pcg, integer(5, Number.MIN_SAFE_INTEGER)),
    augmentation: {
      args: [integer(1, -(2 ** 53) + 1), integer(1, -(2 ** 53) + 1), integer(1, -(2 ** 53) + 1), augment],
      call: core.augmentation,
    },
    augmentImage: {
      args: [
        instance(new Uint8Array(16)),
        shape([4, 4, 1]),
        integer(1, 0, 32767),
        options({ dy: integer(1, 0), dx: integer(0, 0), flip: flag(true) }, ["dy", "dx", "flip"]),
      ],
      call: core.augmentImage,
    },
    epochOrder: { args: [seed, seed, integer(5, 0, 2 ** 30)], call: core.epochOrder },
    BatchSampler: {
      args: [options({ ...sampling, count: integer(10, 1, 2 ** 30) }, ["batchSize", "count"])],
      call: (given: core.BatchSamplerOptions) => new core.BatchSampler(given),
    },
    "BatchSampler.indices": {
      names: ["BatchSampler"],
      args: [seed, integer(0, 0, 2)],
      call: (epoch: number, index: number) => sampler.indices(epoch, index),
    },
    DataLoader: {
      args: [
        set,
        options(
          {
            ...{ ...sampling, mean, std, augment: orNull(augment) },
            padTo: list([4, 4], (v) => Number.isInteger(v) && (v as number) >= 4 && (v as number) <= 2 ** 16),
          },
          ["batchSize", "mean", "std"],
        ),
      ],
      call: (...args: ConstructorParameters<typeof core.DataLoader>) => new core.DataLoader(...args),
    },
    "DataLoader.batch": {
      names: ["DataLoader"],
      args: [seed, integer(0, 0, 2)],
      call: (epoch: number, index: number) => loader.batch(epoch, index),
    },
    "DataLoader.epoch": {
      names: ["DataLoader"],
      args: [seed, optional(integer(0, 0, 3))],
      call: (epoch: number, start: number) => void loader.epoch(epoch, start),
    },
    decodeImageBitmap: {
      names: ["decodeImageBitmap", "file"],
      args: [
        { value: new Uint8Array(3), accepts: () => false },
        text("file"),
        options(imageFields, ["height", "width"]),
      ],
      call: core.decodeImageBitmap,
      accepted: "none",
    },
    StreamLoader: {
      args: [
        options(
          {
            ...{ ...sampling, count: integer(10, 1, 2 ** 30) },
            load: func(() => undefined),
            prefetch: integer(2, 0, 2 ** 16),
          },
          ["batchSize", "count", "load"],
        ),
      ],
      call: (given: core.StreamLoaderOptions) => new core.StreamLoader(given),
    },
    "StreamLoader.epoch": {
      names: ["StreamLoader"],
      args: [seed, optional(integer(0, 0, 3))],
      call: (epoch: number, start: number) => void stream.epoch(epoch, start),
    },
    DeviceDataset: {
      args: [
        aGpu,
        set,
        options({ mean, std, seed, augment: orNull(augment), chunkBytes: integer(64, 16) }, [
          "mean",
          "std",
          "seed",
        ]),
      ],
      call: (...args: ConstructorParameters<typeof core.DeviceDataset>) => new core.DeviceDataset(...args),
    },
    "DeviceDataset.gather": {
      names: ["gather"],
      args: [
        tensor(batch.indices, ["uint32"]),
        tensor(batch.epoch, ["uint32"]),
        tensor(batch.images),
        tensor(batch.labels, ["uint32"]),
      ],
      call: (...args: Parameters<core.DeviceDataset["gather"]>) => onDevice.gather(...args),
    },
    imageDataset: { args: [set], call: core.imageDataset },
    subset: {
      names: ["subset", "part"],
      args: [
        set,
        { value: [1, 2], accepts: (v) => Array.isArray(v) || v instanceof Float32Array },
        optional(text("part")),
      ],
      call: core.subset,
    },
    randomSplit: {
      args: [set, { value: [0.5, 0.5], accepts: () => false }, optional(options({ seed }))],
      call: core.randomSplit,
    },
    balancedIndices: { args: [set, integer(2, 1)], call: core.balancedIndices },
    channelMoments: unary(core.channelMoments, set),
    classCounts: unary(core.classCounts, set),
    encodeIdx: { args: [shape([2, 3]), instance(new Uint8Array(6))], call: core.encodeIdx },
    parseIdx: unary(core.parseIdx, nameless(file(idx))),
    gunzip: { args: [nameless(file(idx))], call: core.gunzip },
    readIdxDataset: {
      names: ["readIdxDataset", "file"],
      args: [
        text("small"),
        nameless(file(core.encodeIdx([2, 3, 3], new Uint8Array(18)))),
        nameless(file(core.encodeIdx([2], new Uint8Array(2)))),
        optional(list(["a", "b"], (v) => typeof v === "string")),
      ],
      call: core.readIdxDataset,
    },
    readCifarDataset: {
      args: [
        text("small"),
        choice("cifar10", "cifar100"),
        list([{ name: "file", bytes: cifar }], () => false),
      ],
      call: core.readCifarDataset,
    },

    // training
    encodeSafetensors: {
      args: [
        { value: {}, accepts: isEmpty },
        optional(options({ metadata: { value: {}, accepts: isEmpty }, storeAs: func(() => undefined) })),
      ],
      call: core.encodeSafetensors,
    },
    decodeSafetensors: {
      args: [{ value: core.encodeSafetensors({}), accepts: () => false }, text("file")],
      call: core.decodeSafetensors,
    },
    encodeNpy: {
      args: [
        { value: { shape: [1], dtype: "float32", data: Float32Array.of(1) }, accepts: () => false },
        optional(options({ storeAs: choice("F32", "F64", "I64") })),
      ],
      call: core.encodeNpy,
    },
    decodeNpy: {
      args: [
        {
          value: core.encodeNpy({ shape: [1], dtype: "float32", data: Float32Array.of(1) }),
          accepts: () => false,
        },
        text("file"),
      ],
      call: core.decodeNpy,
    },
    encodeNpz: {
      args: [{ value: {}, accepts: isEmpty }, optional(options({ compress: flag(true) }))],
      call: core.encodeNpz,
    },
    decodeNpz: {
      args: [
        { value: emptyNpz, accepts: () => false },
        text("file"),
        optional(options({ maxBytes: number(2 ** 20, 0) })),
      ],
      call: core.decodeNpz,
    },
    fromTorch: {
      args: [
        module,
        { value: {}, accepts: (v) => v instanceof Object && v.constructor === Object },
        optional(options({ flattened: { value: {}, accepts: isEmpty } })),
      ],
      call: core.fromTorch,
    },
    torchStateDict: {
      args: [module, optional(options({ flattened: { value: {}, accepts: isEmpty } }))],
      call: core.torchStateDict,
    },
    encodeCheckpoint: {
      args: [nameless(options({ tensors: options({}), metadata: options({}) }, ["tensors", "metadata"]))],
      call: core.encodeCheckpoint,
    },
    decodeCheckpoint: {
      names: ["decodeCheckpoint", "checkpoint"],
      args: [
        { value: core.encodeCheckpoint({ tensors: {}, metadata: {} }), accepts: () => false },
        text("file"),
      ],
      call: core.decodeCheckpoint,
    },
    evaluate: {
      args: [aGpu, module, instance(loader)],
      call: (...args: Parameters<typeof core.evaluate>) => core.evaluate(...args),
      accepted: "none",
    },
    earlyStopping: {
      args: [
        optional(
          options({
            monitor: { value: "testLoss", accepts: (v: unknown) => typeof v === "string" && v !== "" },
            ...{ mode: choice("min", "max"), minDelta: number(0, 0), patience: positive(5) },
          }),
        ),
      ],
      call: core.earlyStopping,
    },
    jsonLinesLog: { args: [func(() => undefined)], call: core.jsonLinesLog },
    csvLog: {
      args: [
        func(() => undefined),
        optional(list(["step"], (name) => typeof name === "string" && /^\w+$/.test(name))),
      ],
      call: core.csvLog,
      accepted: "right",
    },
    bestCheckpoint: {
      args: [
        optional(
          options({
            monitor: { value: "testLoss", accepts: (v: unknown) => typeof v === "string" && v !== "" },
            ...{ mode: choice("min", "max"), minDelta: number(0, 0), save: func(() => undefined) },
          }),
        ),
      ],
      call: core.bestCheckpoint,
    },
    Trainer: {
      args: [
        options(
          {
            model: module,
            data: { value: { train: dataset, test: dataset }, accepts: () => false },
            optimizer: instance(trainer.optimizer),
            ...{
              loss: func(core.softmaxCrossEntropy),
              metrics: options({}),
              schedule: orNull(func(() => 0.1)),
            },
            ...{ batchSize: positive(4), epochs: positive(1), maxSteps: orNull(positive(3)) },
            ...{
              dropLast: flag(true),
              augment: orNull(options({ pad: integer(1, 0, 32767), flip: flag(true) }, ["pad", "flip"])),
            },
            ...{ clipGradNorm: orNull(number(1, 0)), seed, logEvery: positive(10), capture: flag(true) },
            settings,
          },
          ["model", "data", "optimizer"],
        ),
      ],
      call: (...args: ConstructorParameters<typeof core.Trainer>) => new core.Trainer(...args),
      accepted: "none",
    },
    "Trainer.stop": { args: [], call: () => trainer.stop() },
    RecipeTrainer: {
      names: ["Trainer", "train", "resnetCifar"],
      args: [
        aGpu,
        { value: { train: dataset, test: dataset }, accepts: () => false },
        optional(
          options({
            ...{
              depth: { value: 8, accepts: () => false },
              width: positive(4),
              norm: resnetNorm,
              init,
            },
            ...{
              lr: number(0.1, Number.MIN_VALUE),
              schedule: choice("step", "cosine", "constant", "one-cycle"),
              warmupSteps: integer(0, 0),
            },
            ...{ momentum: number(0.9, 0, 0.999), nesterov: flag(false), weightDecay: number(0, 0), seed },
            ...{
              batchSize: positive(4),
              epochs: positive(1),
              maxSteps: orNull(positive(3)),
              augment: flag(true),
            },
            ...{ logEvery: positive(10), capture: flag(true), clipGradNorm: orNull(number(1, 0)) },
            ...{ model: choice("resnetCifar"), optimizer: choice("sgd", "adamw") },
            ...{ freeze: flag(false), freezeBatchNorm: flag(false) },
          }),
        ),
        optional(start),
      ],
      call: (...args: ConstructorParameters<typeof core.RecipeTrainer>) => new core.RecipeTrainer(...args),
      accepted: "right",
    },
    "Trainer.run": {
      args: [optional(options(callbacks))],
      call: (given: core.RunCallbacks) => trainer.run(given),
      accepted: "none",
    },
    "Trainer.resume": {
      names: ["resume"],
      args: [{ value: null, accepts: () => false }],
      call: (state: core.Checkpoint) => trainer.resume(state),
      accepted: "none",
    },
    trainThroughLosses: {
      names: ["trainThroughLosses", "Trainer", "train", "resnetCifar"],
      args: [
        func(() => Promise.reject(new core.UsageError("trainThroughLosses: none"))),
        { value: { train: dataset, test: dataset }, accepts: () => false },
        optional(options({ depth: { value: 8, accepts: () => false } })),
        optional(
          options({
            ...callbacks,
            from: { value: undefined, accepts: (v) => v === undefined },
            attempts: { value: 4, accepts: (v) => typeof v === "number" && v >= 1 },
            pauseMs: number(0, 0),
            start,
            onStart: func(() => 1),
            onLoss: func(() => 1),
          }),
        ),
      ],
      call: core.trainThroughLosses,
      accepted: "none",
    },
    crossEntropy: { args: [module, tensor(images, ALL), label], call: core.crossEntropy },
    activations: {
      accepted: "right",
      names: ["activations", "ResNetCifar", "conv2d"],
      args: [module, tensor(images), optional(options({ layers: filterOf((name) => name === "stem.conv") }))],
      call: core.activations,
    },
    gradients: {
      accepted: "right",
      args: [
        module,
        lossOf,
        optional(
          options({
            parameters: filterOf((name) => name === "classifier.bias"),
            bins: integer(5, 1, 2 ** 24),
          }),
        ),
      ],
      call: core.gradients,
    },
    logitGradients: {
      names: ["logitGradients", "ResNetCifar", "conv2d", "softmaxCrossEntropy"],
      args: [module, tensor(images), label],
      call: core.logitGradients,
    },
    landscape: {
      accepted: "right",
      names: ["landscape", "GradientLine.open"],
      args: [module, lossOf, alphas],
      call: core.landscape,
    },
    lossAt: { args: [module, lossOf], call: core.lossAt },
    gradientNoise: {
      accepted: "right",
      args: [module, list([[loss, loss]], () => false), optional(alphas)],
      call: core.gradientNoise,
    },
    alignment: {
      accepted: "right",
      args: [module, lossOf, optional(options({ layers: filterOf((name) => name === "stem.conv") }))],
      call: core.alignment,
    },
    alignmentSums: {
      args: [{ value: conv, accepts: () => false }, x4, tensor(made(2, 4, 4, 8))],
      call: core.alignmentSums,
    },
    GradientLine: { args: [], call: () => undefined },
    "GradientLine.static open": {
      names: ["GradientLine.open"],
      args: [module, lossOf],
      call: async (...args: Parameters<typeof core.GradientLine.open>) => {
        const opened = await core.GradientLine.open(...args);
        opened.close();
        line = opened;
      },
    },
    "GradientLine.moveTo": {
      args: [number(0)],
      call: (alpha: number) => (Number.isFinite(alpha) ? 0 : line.moveTo(alpha)),
    },
    describe: unary(core.describe),
    histogram: {
      args: [
        x4,
        options({ low: number(0), high: number(1), bins: integer(4, 1, 2 ** 24) }, ["low", "high", "bins"]),
      ],
      call: core.histogram,
    },
    median: unary(core.median),
    orderStatistic: { args: [x4, integer(3, 0, 255)], call: core.orderStatistic },
    rowCosines: unary(core.rowCosines, tensor(matrix)),
    argmaxCounts: unary(core.argmaxCounts, tensor(matrix)),
    squaredDistance: { args: [x4, tensor(made(2, 4, 4, 8))], call: core.squaredDistance },

    // Node
    "node.classify": {
      names: ["classify"],
      args: [
        {
          value: { device: "llvmpipe" },
          accepts: (v) => v !== null && typeof v === "object" && !Array.isArray(v),
        },
      ],
      call: node.classify,
    },
    "node.parseWish": { names: ["parseWish"], args: [optional(text("hardware"))], call: node.parseWish },
    "node.survey": {
      names: ["survey"],
      args: [optional({ value: undefined, accepts: () => false })],
      call: node.survey,
      accepted: "none",
    },
    "node.cacheDirectory": {
      names: ["cacheDirectory"],
      args: [optional(text("/tmp/cache"))],
      call: node.cacheDirectory,
    },
    "node.findDataset": {
      names: ["findDataset"],
      args: [text("/nowhere")],
      call: node.findDataset,
      accepted: "none",
    },
    "node.decodeImage": {
      names: ["decodeImage", "file"],
      args: [
        { value: new Uint8Array(3), accepts: () => false },
        text("file"),
        options(imageFields, ["height", "width"]),
      ],
      call: node.decodeImage,
      accepted: "none",
    },
    "node.tensorBoardLog": {
      names: ["tensorBoardLog"],
      args: [{ value: "/nowhere", accepts: (v) => typeof v === "string" && v !== "" }],
      call: node.tensorBoardLog,
    },
    "node.loadImageFolder": {
      names: ["loadImageFolder", "/nowhere", "wrong"],
      args: [
        { value: "/nowhere", accepts: (v) => typeof v === "string" && v !== "" },
        options({ ...imageFields, name: text("mine") }, ["height", "width"]),
      ],
      call: node.loadImageFolder,
      accepted: "none",
    },
    "node.streamImageFolder": {
      names: ["streamImageFolder", "/nowhere"],
      args: [
        { value: "/nowhere", accepts: (v) => typeof v === "string" && v !== "" },
        options(
          {
            ...imageFields,
            ...sampling,
            prefetch: integer(1, 0, 2 ** 16),
            mean: perChannel([0.4, 0.4, 0.4], Number.NEGATIVE_INFINITY),
            std: perChannel([0.2, 0.2, 0.2], 0),
          },
          ["height", "width"],
        ),
      ],
      call: node.streamImageFolder,
      accepted: "none",
    },
    "node.loadParquetImages": {
      names: ["loadParquetImages", "/nowhere", "wrong"],
      args: [
        { value: "/nowhere", accepts: (v) => typeof v === "string" && v !== "" },
        options(
          { ...imageFields, name: text("mine"), imageColumn: text("img"), labelColumn: text("label") },
          ["height", "width"],
        ),
      ],
      call: node.loadParquetImages,
      accepted: "none",
    },
    "node.loadDataset": {
      names: ["loadDataset"],
      args: [text("embedded"), optional(options({ cache: text("/tmp/cache"), name: text("name") }))],
      call: node.loadDataset,
      accepted: "none",
    },
    "node.downloadFile": {
      names: ["downloadFile"],
      args: [
        { value: { url: "http://127.0.0.1/file", md5: "0".repeat(32) }, accepts: () => false },
        text("/tmp/file"),
        optional(func(() => 1)),
      ],
      call: node.downloadFile,
      accepted: "none",
    },
    "node.fetchDataset": {
      names: ["fetchDataset"],
      args: [
        text("name"),
        {
          value: { files: [{ url: "http://127.0.0.1/file", md5: "0".repeat(32) }], archive: false },
          accepts: () => false,
        },
        optional(
          options({
            cache: text("/tmp/cache"),
            mirror: text("http://127.0.0.1/"),
            onProgress: func(() => 1),
          }),
        ),
      ],
      call: node.fetchDataset,
      accepted: "none",
    },
    "node.embeddedVulkan": {
      names: ["embeddedVulkan"],
      args: [optional(text("/tmp"))],
      call: node.embeddedVulkan,
      accepted: "none",
    },
    "node.embeddedChromium": {
      names: ["embeddedChromium"],
      args: [optional(text("/tmp"))],
      call: node.embeddedChromium,
      accepted: "none",
    },
    "node.requestAdapter": {
      names: ["requestAdapter"],
      args: [optional(options(wish))],
      call: node.requestAdapter,
      accepted: "none",
    },
    "node.requestGpu": {
      names: ["requestGpu"],
      args: [optional(options({ ...wish, ...gpuOptions }))],
      call: node.requestGpu,
      accepted: "none",
    },
    "node.installNavigatorGpu": {
      names: ["installNavigatorGpu"],
      args: [optional(options(wish))],
      call: node.installNavigatorGpu,
      accepted: "none",
    },
  };
}
