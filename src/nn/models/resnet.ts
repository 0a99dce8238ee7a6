// The residual networks for small images of He et al. 2016, with what else may be in the place of batch-norm, and without shortcuts.

import { UsageError } from "../../errors.ts";
import type { Gpu } from "../../gpu.ts";
import { type Activation, activationPart } from "../../ops/activations.ts";
import { add } from "../../ops/elementwise/elementwise.ts";
import { globalAvgPool2d } from "../../ops/pool2d.ts";
import { subsample } from "../../ops/subsample.ts";
import { checkChoice, checkFlag, checkOptions, optionNames, show } from "../../options.ts";
import { checkGpu, checkTensor } from "../../tensor/check.ts";
import { checkSeed, Random, type Seed } from "../../tensor/random.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { checkInit, type Init } from "../init.ts";
import {
  BatchNorm2d,
  type BatchNorm2dOptions,
  Conv2d,
  type Conv2dLayerOptions,
  checkBatchNorm2d,
  Identity,
  Linear,
} from "../layers.ts";
import { Module, type NormedLayer } from "../module.ts";
import { weightNorm } from "../weight-norm.ts";
import {
  ConvNorm,
  chain,
  NORM_LAYERS,
  type NormLayer,
  type NormLayerName,
  normAddActivate,
  normedBy,
  normLayer,
  PreNormConv,
  scalar,
} from "./parts.ts";

export const RESNET_NORMS = [
  ...["batch", "none", "last", "layer", "group", "instance", "weight", "fixup", "skipinit"],
] as readonly ResNetNorm[];

/**
 * - `batch`, `layer`, `group`, `instance`: after every convolution (before it in a pre-activation network). A layer norm is one
 *   over channels and pixels, with γ and β per channel; a group norm has `groups` groups.
 * - `none`: nowhere. `last`: a batch-norm once, on the output of the last residual block.
 * - `weight`: every convolution has a `weightNorm`.
 * - `fixup`: no norm; initial weights, and scalars that are learned, as in Zhang, Dauphin & Ma 2019, "Fixup Initialization".
 * - `skipinit`: no norm; every residual branch ends with a factor that is learned and starts at 0 (De & Smith 2020, "Batch
 *   Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks").
 */
export type ResNetNorm = NormLayerName | "none" | "last" | "weight" | "fixup" | "skipinit";

/**
 * What goes around a residual branch that changes the shape. `zero-pad`: every second pixel, with zeros for the new channels
 * (option A of He et al. 2016, no parameters). `projection`: a 1×1 convolution of stride 2 with a norm of its own (option B).
 * `none`: nothing goes around any branch, as in the plain networks that He et al. compare with.
 */
export type ResNetShortcut = "zero-pad" | "projection" | "none";

/** Options of `resnetCifar` and its relatives. */
export interface ResNetCifarOptions {
  /** 6n + 2: 20, 32, 44, 56, 110 … Default 20. */
  depth?: number;
  /** Channels of the first stage; the next two have twice and four times as many. Default 16. */
  width?: number;
  /** Default `batch`. */
  norm?: ResNetNorm;
  /** Default `zero-pad`. */
  shortcut?: ResNetShortcut;
  /** After each norm, or each convolution. Default `relu`. */
  activation?: Activation;
  /** Norm and activation stand before each convolution, and the sum is passed on as it is (He et al. 2016, "Identity mappings"). Default false. */
  preActivation?: boolean;
  /** Of the convolutions. Default `xavier`, as in the paper; `he` with `fixup` and `skipinit`, as in theirs. */
  init?: Init;
  /** Of the classifier's weights. Default that of the convolutions. Fixup's are 0. */
  classifierInit?: Init;
  seed?: Seed;
  /** Default 3. */
  inChannels?: number;
  /** Default 10. */
  classes?: number;
  /** Of norm `group`, a divisor of the width. Default the largest of 8, 4, 2 and 1 that divides it. */
  groups?: number;
  /** Of norm `batch` and `last`. */
  batchNorm?: BatchNorm2dOptions;
}

/** The options of a network with their defaults, but for those of its norms. */
export type ResNetCifarSettings = Required<Omit<ResNetCifarOptions, "batchNorm">>;

const OPTIONS = optionNames<ResNetCifarOptions>({
  ...{ depth: 0, width: 0, norm: 0, shortcut: 0, activation: 0, preActivation: 0, init: 0 },
  ...{ classifierInit: 0, seed: 0, inChannels: 0, classes: 0, groups: 0, batchNorm: 0 },
});

const MOST_CHANNELS = 2 ** 30;

/** More layers than anybody has trained, fewer than would fill a machine. */
const MOST_LAYERS = 10_000;

/** Every `stride`-th pixel, and zeros for the channels that x does not have. */
class ZeroPad extends Module {
  constructor(
    private readonly stride: number,
    private readonly channels: number,
  ) {
    super();
  }

  forward(x: Tensor): Tensor {
    return subsample(x, { stride: this.stride, channels: this.channels });
  }
}

/** act(norm(conv(act(norm(conv(x))))) + shortcut(x)), both convolutions 3×3; nothing is added where there is no shortcut. */
export class BasicBlock extends Module {
  constructor(
    readonly first: ConvNorm,
    readonly second: ConvNorm,
    readonly shortcut: Module | null,
    private readonly activation: Activation,
  ) {
    super();
  }

  forward(x: Tensor): Tensor {
    checkTensor("BasicBlock", "x", x, { shape: "[N, H, W, C]" });
    const { activation } = this;
    const middle = this.first.forward(x, { activation });
    // Behind the first convolution, so that in backward its gradient is the last that x gets.
    const residual = this.shortcut?.forward(x) ?? null;
    const out = this.second.forward(middle, { activation, residual });
    middle.dispose();
    if (residual !== x) residual?.dispose();
    return out;
  }
}

/** conv(act(norm(conv(act(norm(x)))))) + shortcut(x). A projection is of act(norm(x)). */
export class PreActBlock extends Module {
  constructor(
    readonly first: PreNormConv,
    readonly second: PreNormConv,
    readonly shortcut: Module | null,
  ) {
    super();
  }

  override normedLayers(): NormedLayer[] {
    const { first, second } = this;
    return normedBy(first.conv, second.norm, () => {
      second.norm = null;
    });
  }

  forward(x: Tensor): Tensor {
    checkTensor("PreActBlock", "x", x, { shape: "[N, H, W, C]" });
    const { first, second, shortcut } = this;
    const active = first.activated(x);
    const middle = first.convolved(active);
    const residual = shortcut?.forward(shortcut instanceof ConvNorm ? active : x) ?? null;
    if (active !== x) active.dispose();
    const out = chain(middle, (y) => second.forward(y), residual && ((y) => add(y, residual)));
    middle.dispose();
    if (residual !== x) residual?.dispose();
    return out;
  }
}

/** A residual network for small images. Made by `resnetCifar`, `preactResnetCifar` and `plainCifar`. */
export class ResNetCifar extends Module {
  readonly stem: ConvNorm;
  readonly blocks: readonly (BasicBlock | PreActBlock)[];
  readonly lastNorm: NormLayer | null;
  /** Fixup's number before the classifier; [1]. */
  readonly lastBias: Tensor | null;
  /** May be replaced by one of other classes; make the optimizer after it. */
  classifier: Linear;
  readonly options: ResNetCifarSettings;

  /** @param op whose name errors begin with */
  constructor(gpu: Gpu, options: ResNetCifarOptions, op: string) {
    super();
    const all = settings(gpu, options, op);
    const { depth, width, norm, preActivation, init, classifierInit, inChannels, classes } = all;
    const { batchNorm = {} } = options;
    const make = new Parts(gpu, all, batchNorm);
    this.options = all;
    this.stem = make.stem(inChannels, width);
    const blocks: (BasicBlock | PreActBlock)[] = [];
    let channels = width;
    for (const stage of [0, 1, 2]) {
      const to = width * 2 ** stage;
      for (let i = 0; i < (depth - 2) / 6; i += 1) {
        blocks.push(make.block(channels, to, stage > 0 && i === 0 ? 2 : 1));
        channels = to;
      }
    }
    this.blocks = blocks;
    if (norm === "last") this.lastNorm = new BatchNorm2d(gpu, channels, batchNorm);
    else this.lastNorm = preActivation ? make.norm(channels) : null;
    this.lastBias = make.fixupBias();
    this.classifier = new Linear(gpu, channels, classes, {
      init: classifierInit ?? init,
      gain: norm === "fixup" ? 0 : 1,
      random: make.random,
    });
    this.namePaths();
  }

  /** [N, H, W, inChannels] → logits [N, classes]. */
  forward(x: Tensor): Tensor {
    checkTensor("ResNetCifar", "x", x, { shape: "[N, H, W, C]" });
    const { preActivation, activation } = this.options;
    const { lastNorm, lastBias } = this;
    return chain(
      x,
      (y) => this.stem.forward(y, preActivation ? {} : { activation }),
      ...this.blocks.map((block) => (y: Tensor) => block.forward(y)),
      (y) => normAddActivate(lastNorm, y, preActivation ? { activation } : {}),
      (y) => globalAvgPool2d(y),
      lastBias && ((y) => add(y, lastBias)),
      (y) => this.classifier.forward(y),
    );
  }
}

/** Makes the parts of one network, which take their weights from `random` in the order in which they are made. */
class Parts {
  readonly random: Random;
  private readonly layerName: NormLayerName | null;

  constructor(
    private readonly gpu: Gpu,
    private readonly of: ResNetCifarSettings,
    private readonly batchNorm: BatchNorm2dOptions,
  ) {
    this.random = new Random(of.seed).fork("weights");
    this.layerName = (NORM_LAYERS as readonly string[]).includes(of.norm) ? (of.norm as NormLayerName) : null;
  }

  norm(channels: number): NormLayer | null {
    const { batchNorm } = this;
    return (
      this.layerName && normLayer(this.gpu, this.layerName, channels, { batchNorm, groups: this.of.groups })
    );
  }

  /** Fixup's scalars that are added: before each convolution but the first, each activation, and the classifier. */
  fixupBias(): Tensor | null {
    return this.of.norm === "fixup" ? scalar(this.gpu, 0) : null;
  }

  stem(from: number, to: number): ConvNorm {
    const conv = this.conv(from, to, 3);
    return this.of.preActivation
      ? new ConvNorm(conv, null)
      : new ConvNorm(conv, this.norm(to), { activationBias: this.fixupBias() });
  }

  block(from: number, to: number, stride: number): BasicBlock | PreActBlock {
    const { norm, preActivation, activation, depth } = this.of;
    // Fixup, rules 1 and 2: the last convolution of a branch starts at 0, and of the m = 2 of each of the L branches the other at
    // L^(−1/(2m − 2)) of what it would be.
    const [firstGain, secondGain] = norm === "fixup" ? [((depth - 2) / 2) ** -0.5, 0] : [1, 1];
    const first = this.conv(from, to, 3, { stride, gain: firstGain });
    const second = this.conv(to, to, 3, { gain: secondGain });
    const scale = norm === "fixup" ? scalar(this.gpu, 1) : norm === "skipinit" ? scalar(this.gpu, 0) : null;
    const shortcut = this.shortcut(from, to, stride);
    if (preActivation) {
      return new PreActBlock(
        new PreNormConv(first, this.norm(from), {}, activation),
        new PreNormConv(second, this.norm(to), { scale }, activation),
        shortcut,
      );
    }
    const biases = () => ({ convBias: this.fixupBias(), activationBias: this.fixupBias() });
    return new BasicBlock(
      new ConvNorm(first, this.norm(to), biases()),
      new ConvNorm(second, this.norm(to), { ...biases(), scale }),
      shortcut,
      activation,
    );
  }

  private shortcut(from: number, to: number, stride: number): Module | null {
    const { shortcut, preActivation } = this.of;
    if (shortcut === "none") return null;
    if (stride === 1 && from === to) return new Identity();
    if (shortcut === "zero-pad") return new ZeroPad(stride, to);
    const conv = this.conv(from, to, 1, { stride });
    return new ConvNorm(conv, preActivation ? null : this.norm(to), { convBias: this.fixupBias() });
  }

  /** With a bias where neither a norm nor one of Fixup's scalars follows. */
  private conv(from: number, to: number, size: number, options: Conv2dLayerOptions = {}): Conv2d {
    const { norm, init } = this.of;
    const conv = new Conv2d(this.gpu, from, to, size, {
      padding: (size - 1) / 2,
      bias: this.layerName === null && norm !== "fixup",
      init,
      random: this.random,
      ...options,
    });
    return norm === "weight" ? weightNorm(conv) : conv;
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
  checkChoice(op, "norm", norm, RESNET_NORMS);
}

/** The options with their defaults. @throws UsageError, ShapeError for what no network can be made of */
function settings(gpu: Gpu, options: ResNetCifarOptions, op: string): ResNetCifarSettings {
  checkGpu(op, gpu);
  checkOptions(op, options, OPTIONS);
  const { depth = 20, width = 16, norm = "batch", inChannels = 3, classes = 10, seed = 0 } = options;
  checkResNetOptions({ depth, width, norm, inChannels, classes }, op);
  const { shortcut = "zero-pad", activation = "relu", preActivation = false, batchNorm = {} } = options;
  const { init = norm === "fixup" || norm === "skipinit" ? "he" : "xavier" } = options;
  const { classifierInit = init, groups = [8, 4, 2, 1].find((count) => width % count === 0)! } = options;
  checkChoice(op, "shortcut", shortcut, ["zero-pad", "projection", "none"]);
  activationPart(op, activation);
  checkFlag(op, "preActivation", preActivation);
  checkInit(op, init);
  checkInit(op, classifierInit, "classifierInit");
  checkSeed(op, "seed", seed);
  if (!Number.isInteger(groups) || groups < 1 || width % groups !== 0) {
    throw new UsageError(`${op}: groups is ${show(groups)}, width ${width}; expected a divisor of the width`);
  }
  checkBatchNorm2d(op, batchNorm);
  if (norm === "fixup" && (preActivation || shortcut === "none")) {
    const what = preActivation ? "preActivation is true" : 'shortcut is "none"';
    throw new UsageError(
      `${op}: norm is "fixup", ${what}; expected a network with shortcuts and activations after them, for which Fixup is defined`,
    );
  }
  if (norm === "skipinit" && shortcut === "none") {
    throw new UsageError(
      `${op}: norm is "skipinit", shortcut is "none"; expected shortcuts: every branch starts as 0`,
    );
  }
  for (const weight of [
    [4 * width, 3, 3, 4 * width],
    [width, 3, 3, inChannels],
    [classes, 4 * width],
  ]) {
    gpu.checkSize(op, weight, "float32", "a weight");
  }
  return {
    ...{ depth, width, norm, shortcut, activation, preActivation, init, classifierInit },
    ...{ seed, inChannels, classes, groups },
  };
}

/**
 * ResNet of 6n+2 layers: a 3×3 stem, three stages of n blocks of two 3×3 convolutions with `width`, 2·`width` and 4·`width`
 * channels (the second and third start with stride 2), global average pooling, a linear classifier. Convolutions have biases only
 * where no norm follows. He et al. 2016, "Deep Residual Learning for Image Recognition", § 4.2.
 * @throws UsageError unless depth is 6n + 2 with n ≥ 1.
 */
export function resnetCifar(gpu: Gpu, options: ResNetCifarOptions = {}): ResNetCifar {
  return new ResNetCifar(gpu, options, "resnetCifar");
}

/** `resnetCifar` with `preActivation`: He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 1b. */
export function preactResnetCifar(
  gpu: Gpu,
  options: Omit<ResNetCifarOptions, "preActivation"> = {},
): ResNetCifar {
  return new ResNetCifar(
    gpu,
    withFixed("preactResnetCifar", options, { preActivation: true }),
    "preactResnetCifar",
  );
}

/** `resnetCifar` without shortcuts: the plain networks that He et al. 2016 compare theirs with. */
export function plainCifar(gpu: Gpu, options: Omit<ResNetCifarOptions, "shortcut"> = {}): ResNetCifar {
  return new ResNetCifar(gpu, withFixed("plainCifar", options, { shortcut: "none" }), "plainCifar");
}

/** The options of a function that has decided on some itself. */
function withFixed(op: string, options: ResNetCifarOptions, fixed: ResNetCifarOptions): ResNetCifarOptions {
  checkOptions(
    op,
    options,
    OPTIONS.filter((name) => !(name in fixed)),
  );
  return { ...options, ...fixed };
}
