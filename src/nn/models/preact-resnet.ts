import type { Gpu } from "../../gpu.ts";
import { add } from "../../ops/elementwise/elementwise.ts";
import { globalAvgPool2d } from "../../ops/pool2d.ts";
import { checkArray, checkInstance, checkInteger, checkOptions, optionNames } from "../../options.ts";
import { checkGpu, checkTensor } from "../../tensor/check.ts";
import { checkSeed, Random } from "../../tensor/random.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { checkInit } from "../init.ts";
import { BatchNorm2d, Conv2d, checkBatchNorm2d, Linear } from "../layers.ts";
import { Module } from "../module.ts";
import { checkResNetOptions, type ResNetCifarOptions, shortcutOf } from "./resnet.ts";

/** Those of `resnetCifar`; a batch-norm stands before every convolution but the stem. */
export type PreActResNetCifarOptions = Omit<ResNetCifarOptions, "norm">;

const OPTIONS = optionNames<PreActResNetCifarOptions>({
  ...{ depth: 0, width: 0, init: 0, seed: 0, inChannels: 0, classes: 0, batchNorm: 0 },
});

/**
 * x + conv(relu(norm(conv(relu(norm(x)))))): batch-norm and ReLU come before each convolution, and the sum is passed on as it
 * is (He et al. 2016, "Identity mappings in deep residual networks", figure 1b). A block that changes the shape takes every
 * second pixel of x and fills the new channels with zeros, as `BasicBlock` does.
 */
export class PreActBlock extends Module {
  readonly firstNorm: BatchNorm2d;
  readonly first: Conv2d;
  readonly secondNorm: BatchNorm2d;
  readonly second: Conv2d;

  constructor(
    firstNorm: BatchNorm2d,
    first: Conv2d,
    secondNorm: BatchNorm2d,
    second: Conv2d,
    private readonly stride: number,
    private readonly addedChannels: number,
  ) {
    super();
    checkInstance("PreActBlock", "firstNorm", firstNorm, BatchNorm2d);
    checkInstance("PreActBlock", "first", first, Conv2d);
    checkInstance("PreActBlock", "secondNorm", secondNorm, BatchNorm2d);
    checkInstance("PreActBlock", "second", second, Conv2d);
    checkInteger("PreActBlock", "stride", stride, 1);
    checkInteger("PreActBlock", "addedChannels", addedChannels, 0);
    this.firstNorm = firstNorm;
    this.first = first;
    this.secondNorm = secondNorm;
    this.second = second;
  }

  forward(x: Tensor): Tensor {
    checkTensor("PreActBlock", "x", x, { shape: "[N, H, W, C]" });
    const middle = normReluConv(this.firstNorm, this.first, x);
    const branch = normReluConv(this.secondNorm, this.second, middle);
    middle.dispose();
    const shortcut = shortcutOf(x, this.stride, this.addedChannels);
    const out = add(branch, shortcut);
    branch.dispose();
    if (shortcut !== x) shortcut.dispose();
    return out;
  }
}

/** conv(relu(norm(x))) */
function normReluConv(norm: BatchNorm2d, conv: Conv2d, x: Tensor): Tensor {
  const y = norm.forward(x, { activation: "relu" });
  const out = conv.forward(y);
  y.dispose();
  return out;
}

/** The pre-activation network for small images of He et al. 2016, "Identity mappings". Made by `preactResnetCifar`. */
export class PreActResNetCifar extends Module {
  constructor(
    readonly stem: Conv2d,
    readonly blocks: PreActBlock[],
    readonly lastNorm: BatchNorm2d,
    readonly classifier: Linear,
    readonly options: Required<Omit<PreActResNetCifarOptions, "batchNorm">>,
  ) {
    super();
    checkInstance("PreActResNetCifar", "stem", stem, Conv2d);
    checkArray("PreActResNetCifar", "blocks", blocks, "PreActBlocks");
    for (const [i, block] of blocks.entries())
      checkInstance("PreActResNetCifar", `blocks[${i}]`, block, PreActBlock);
    checkInstance("PreActResNetCifar", "lastNorm", lastNorm, BatchNorm2d);
    checkInstance("PreActResNetCifar", "classifier", classifier, Linear);
    checkOptions("PreActResNetCifar", options, OPTIONS);
    this.namePaths();
  }

  /** [N, H, W, inChannels] → logits [N, classes]. */
  forward(x: Tensor): Tensor {
    checkTensor("PreActResNetCifar", "x", x, { shape: "[N, H, W, C]" });
    let y = this.stem.forward(x);
    const step = (next: Tensor) => {
      y.dispose();
      y = next;
    };
    for (const block of this.blocks) step(block.forward(y));
    step(this.lastNorm.forward(y, { activation: "relu" }));
    step(globalAvgPool2d(y));
    step(this.classifier.forward(y));
    return y;
  }
}

/**
 * Pre-activation ResNet of 6n+2 layers: a 3×3 stem, three stages of n `PreActBlock`s with `width`, 2·`width` and 4·`width`
 * channels (the second and third start with stride 2), a last batch-norm with ReLU, global average pooling, a linear
 * classifier. No convolution has a bias.
 * @throws UsageError unless depth is 6n + 2 with n ≥ 1.
 */
export function preactResnetCifar(gpu: Gpu, options: PreActResNetCifarOptions = {}): PreActResNetCifar {
  checkGpu("preactResnetCifar", gpu);
  checkOptions("preactResnetCifar", options, OPTIONS);
  const { depth = 20, width = 16, init = "xavier", seed = 0, inChannels = 3, classes = 10 } = options;
  const { batchNorm = {} } = options;
  checkResNetOptions({ depth, width, norm: "batch", inChannels, classes }, "preactResnetCifar");
  checkInit("preactResnetCifar", init);
  checkSeed("preactResnetCifar", "seed", seed);
  checkBatchNorm2d("preactResnetCifar", batchNorm);
  for (const weight of [
    [4 * width, 3, 3, 4 * width],
    [width, 3, 3, inChannels],
    [classes, 4 * width],
  ]) {
    gpu.checkSize("preactResnetCifar", weight, "float32", "a weight");
  }
  const random = new Random(seed).fork("weights");
  const conv = (from: number, to: number, stride: number) =>
    new Conv2d(gpu, from, to, 3, { stride, padding: 1, bias: false, init, random });
  const norm = (channels: number) => new BatchNorm2d(gpu, channels, batchNorm);

  const stem = conv(inChannels, width, 1);
  const blocks: PreActBlock[] = [];
  let channels = width;
  for (const stage of [0, 1, 2]) {
    const to = width * 2 ** stage;
    for (let i = 0; i < (depth - 2) / 6; i += 1) {
      const stride = stage > 0 && i === 0 ? 2 : 1;
      const [first, second] = [conv(channels, to, stride), conv(to, to, 1)];
      blocks.push(new PreActBlock(norm(channels), first, norm(to), second, stride, to - channels));
      channels = to;
    }
  }
  const classifier = new Linear(gpu, channels, classes, { init, random });
  const settings = { depth, width, init, seed, inChannels, classes };
  return new PreActResNetCifar(stem, blocks, norm(channels), classifier, settings);
}
