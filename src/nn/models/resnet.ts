import { UsageError } from "../../errors.ts";
import type { Gpu } from "../../gpu.ts";
import { relu } from "../../ops/activations.ts";
import { add } from "../../ops/elementwise/elementwise.ts";
import { globalAvgPool2d } from "../../ops/pool2d.ts";
import { subsample } from "../../ops/subsample.ts";
import {
  checkArray,
  checkChoice,
  checkInstance,
  checkInteger,
  checkOptions,
  optionNames,
  show,
} from "../../options.ts";
import { checkGpu, checkTensor } from "../../tensor/check.ts";
import { checkSeed, Random } from "../../tensor/random.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { checkInit, type Init } from "../init.ts";
import { BatchNorm2d, type BatchNorm2dOptions, Conv2d, checkBatchNorm2d, Linear } from "../layers.ts";
import { Module } from "../module.ts";

/** `batch`: after every convolution. `none`: nowhere. `last`: once, on the output of the last residual block. */
export type ResNetNorm = "batch" | "none" | "last";

export interface ResNetCifarOptions {
  /** 6n + 2: 20, 32, 44, 56, 110 … Default 20. */
  depth?: number;
  /** Channels of the first stage; the next two have twice and four times as many. Default 16. */
  width?: number;
  norm?: ResNetNorm;
  /** Default `xavier`, as in the paper. */
  init?: Init;
  seed?: number;
  /** Default 3. */
  inChannels?: number;
  /** Default 10. */
  classes?: number;
  batchNorm?: BatchNorm2dOptions;
}

const OPTIONS = optionNames<ResNetCifarOptions>({
  ...{ depth: 0, width: 0, norm: 0, init: 0, seed: 0, inChannels: 0, classes: 0, batchNorm: 0 },
});

const MOST_CHANNELS = 2 ** 30;

/** More layers than anybody has trained, fewer than would fill a machine. */
const MOST_LAYERS = 10_000;

/** conv → norm → relu with the norm left out where there is none. */
class ConvNorm extends Module {
  readonly conv: Conv2d;
  readonly norm: BatchNorm2d | null;

  constructor(conv: Conv2d, norm: BatchNorm2d | null) {
    super();
    this.conv = conv;
    this.norm = norm;
  }

  /** relu(norm(conv(x)) + residual) */
  forward(x: Tensor, residual: Tensor | null = null, activation: "none" | "relu" = "relu"): Tensor {
    const y = this.conv.forward(x);
    if (this.norm) {
      const z = this.norm.forward(y, { activation, residual });
      y.dispose();
      return z;
    }
    const sum = residual ? add(y, residual) : y;
    if (sum !== y) y.dispose();
    if (activation === "none") return sum;
    const z = relu(sum);
    sum.dispose();
    return z;
  }
}

/**
 * Two 3×3 convolutions around a shortcut; the shortcut of a block that changes shape takes every second pixel and
 * fills the new channels with zeros (option A of He et al. 2016: no parameters).
 */
export class BasicBlock extends Module {
  readonly first: ConvNorm;
  readonly second: ConvNorm;

  constructor(
    first: ConvNorm,
    second: ConvNorm,
    private readonly stride: number,
    private readonly addedChannels: number,
  ) {
    super();
    checkInstance("BasicBlock", "first", first, ConvNorm);
    checkInstance("BasicBlock", "second", second, ConvNorm);
    checkInteger("BasicBlock", "stride", stride, 1);
    checkInteger("BasicBlock", "addedChannels", addedChannels, 0);
    this.first = first;
    this.second = second;
  }

  forward(x: Tensor): Tensor {
    checkTensor("BasicBlock", "x", x, { shape: "[N, H, W, C]" });
    const middle = this.first.forward(x);
    // Behind the first convolution, so that in backward its gradient is the last that x gets.
    const shortcut = shortcutOf(x, this.stride, this.addedChannels);
    const out = this.second.forward(middle, shortcut);
    middle.dispose();
    if (shortcut !== x) shortcut.dispose();
    return out;
  }
}

/** Internal: what a block adds to its branch, without parameters; x itself where the branch has its shape. */
export function shortcutOf(x: Tensor, stride: number, addedChannels: number): Tensor {
  if (stride === 1 && addedChannels === 0) return x;
  return subsample(x, { stride, channels: x.shape[3]! + addedChannels });
}

/** The residual network for small images of He et al. (2016, § 4.2). Made by `resnetCifar`. */
export class ResNetCifar extends Module {
  constructor(
    readonly stem: ConvNorm,
    readonly blocks: BasicBlock[],
    readonly lastNorm: BatchNorm2d | null,
    readonly classifier: Linear,
    readonly options: Required<Omit<ResNetCifarOptions, "batchNorm">>,
  ) {
    super();
    checkInstance("ResNetCifar", "stem", stem, ConvNorm);
    checkArray("ResNetCifar", "blocks", blocks, "BasicBlocks");
    for (const [i, block] of blocks.entries())
      checkInstance("ResNetCifar", `blocks[${i}]`, block, BasicBlock);
    if (lastNorm !== null) checkInstance("ResNetCifar", "lastNorm", lastNorm, BatchNorm2d);
    checkInstance("ResNetCifar", "classifier", classifier, Linear);
    checkOptions("ResNetCifar", options, OPTIONS);
    this.namePaths();
  }

  /** [N, H, W, inChannels] → logits [N, classes]. */
  forward(x: Tensor): Tensor {
    checkTensor("ResNetCifar", "x", x, { shape: "[N, H, W, C]" });
    let y = this.stem.forward(x);
    const step = (next: Tensor) => {
      y.dispose();
      y = next;
    };
    for (const block of this.blocks) step(block.forward(y));
    if (this.lastNorm) step(this.lastNorm.forward(y));
    step(globalAvgPool2d(y));
    step(this.classifier.forward(y));
    return y;
  }
}

/** @throws UsageError naming the first option that is out of range. */
export function checkResNetOptions(
  {
    depth,
    width,
    norm,
    inChannels = 1,
    classes = 1,
  }: Required<Pick<ResNetCifarOptions, "depth" | "width" | "norm">> &
    Pick<ResNetCifarOptions, "inChannels" | "classes">,
  op = "resnetCifar",
): void {
  if (!Number.isInteger(depth) || depth < 8 || (depth - 2) % 6 !== 0 || depth > MOST_LAYERS) {
    throw new UsageError(
      `${op}: depth is ${show(depth)}; expected 6n + 2 with n ≥ 1, at most ${MOST_LAYERS}: 8, 14, 20, 32, 44, 56, 110 …`,
    );
  }
  for (const [name, value] of Object.entries({ width, inChannels, classes })) {
    if (!Number.isInteger(value) || value < 1 || value > MOST_CHANNELS) {
      throw new UsageError(`${op}: ${name} is ${show(value)}; expected a positive integer`);
    }
  }
  checkChoice(op, "norm", norm, ["batch", "none", "last"]);
}

/**
 * ResNet of 6n+2 layers: a 3×3 stem, three stages of n blocks with `width`, 2·`width` and 4·`width` channels (the
 * second and third start with stride 2), global average pooling, a linear classifier. Convolutions have biases only
 * where no batch-norm follows.
 * @throws UsageError unless depth is 6n + 2 with n ≥ 1.
 */
export function resnetCifar(gpu: Gpu, options: ResNetCifarOptions = {}): ResNetCifar {
  checkGpu("resnetCifar", gpu);
  checkOptions("resnetCifar", options, OPTIONS);
  const {
    depth = 20,
    width = 16,
    norm = "batch",
    init = "xavier",
    seed = 0,
    inChannels = 3,
    classes = 10,
    batchNorm = {},
  } = options;
  checkResNetOptions({ depth, width, norm, inChannels, classes });
  checkInit("resnetCifar", init);
  checkSeed("resnetCifar", "seed", seed);
  checkBatchNorm2d("resnetCifar", batchNorm);
  for (const weight of [
    [4 * width, 3, 3, 4 * width],
    [width, 3, 3, inChannels],
    [classes, 4 * width],
  ]) {
    gpu.checkSize("resnetCifar", weight, "float32", "a weight");
  }
  const random = new Random(seed).fork("weights");
  const convNorm = (from: number, to: number, stride: number) =>
    new ConvNorm(
      new Conv2d(gpu, from, to, 3, { stride, padding: 1, bias: norm !== "batch", init, random }),
      norm === "batch" ? new BatchNorm2d(gpu, to, batchNorm) : null,
    );

  const stem = convNorm(inChannels, width, 1);
  const blocks: BasicBlock[] = [];
  let channels = width;
  for (const stage of [0, 1, 2]) {
    const to = width * 2 ** stage;
    for (let i = 0; i < (depth - 2) / 6; i += 1) {
      const stride = stage > 0 && i === 0 ? 2 : 1;
      blocks.push(new BasicBlock(convNorm(channels, to, stride), convNorm(to, to, 1), stride, to - channels));
      channels = to;
    }
  }
  const lastNorm = norm === "last" ? new BatchNorm2d(gpu, channels, batchNorm) : null;
  const classifier = new Linear(gpu, channels, classes, { init, random });
  return new ResNetCifar(stem, blocks, lastNorm, classifier, {
    depth,
    width,
    norm,
    init,
    seed,
    inChannels,
    classes,
  });
}
