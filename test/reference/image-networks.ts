// The logits of resnet18 … resnet50, vgg11 … vgg16 and mobilenetV2 in float64, from parameters by their names.

import type { ActivationName } from "./activations.ts";
import type { Tape, Value } from "./autodiff.ts";

export class ReferenceNetwork {
  constructor(
    private readonly tape: Tape,
    private readonly w: Record<string, Value>,
  ) {}

  private conv(x: Value, name: string, stride = 1): Value {
    const weight = this.w[`${name}.weight`]!;
    const pad = (weight.shape[1]! - 1) / 2;
    return this.tape.conv2d(x, weight, {
      bias: this.w[`${name}.bias`] ?? null,
      stride: [stride, stride],
      padding: [pad, pad, pad, pad],
      groups: x.shape[3]! / weight.shape[3]!,
    });
  }

  private norm(x: Value, name: string, activation: ActivationName = "none"): Value {
    const [gamma, beta] = [this.w[`${name}.weight`]!, this.w[`${name}.bias`]!];
    return this.tape.batchNorm(x, gamma, beta, { eps: 1e-5, activation });
  }

  private linear(x: Value, name: string): Value {
    return this.tape.linear(x, this.w[`${name}.weight`]!, this.w[`${name}.bias`]!);
  }

  private maxPool(x: Value, size: number, stride: number, pad: number): Value {
    const geometry = {
      kernel: [size, size],
      stride: [stride, stride],
      padding: [pad, pad, pad, pad],
    } as const;
    return this.tape.maxPool2d(x, geometry);
  }

  resnet(x: Value, blocks: readonly number[], stem: "imagenet" | "cifar"): Value {
    const { tape, w } = this;
    let y = this.norm(this.conv(x, "conv1", stem === "imagenet" ? 2 : 1), "bn1", "relu");
    if (stem === "imagenet") y = this.maxPool(y, 3, 2, 1);
    for (const [stage, count] of blocks.entries()) {
      for (let i = 0; i < count; i += 1) {
        const of = (part: string) => `layer${stage + 1}.${i}.${part}`;
        const stride = stage > 0 && i === 0 ? 2 : 1;
        const bottleneck = of("conv3.weight") in w;
        let z = this.norm(this.conv(y, of("conv1"), bottleneck ? 1 : stride), of("bn1"), "relu");
        z = this.norm(this.conv(z, of("conv2"), bottleneck ? stride : 1), of("bn2"));
        if (bottleneck) z = this.norm(this.conv(tape.relu(z), of("conv3")), of("bn3"));
        const skip =
          of("downsample.0.weight") in w
            ? this.norm(this.conv(y, of("downsample.0"), stride), of("downsample.1"))
            : y;
        y = tape.relu(tape.add(z, skip));
      }
    }
    return this.linear(tape.mean(y, [1, 2]), "fc");
  }

  vgg(x: Value, convolutions: readonly number[], head: "imagenet" | "cifar"): Value {
    const { tape, w } = this;
    let y = x;
    let at = 0;
    for (const count of convolutions) {
      for (let i = 0; i < count; i += 1) {
        y = this.conv(y, `features.${at}`);
        const normed = w[`features.${at + 1}.weight`]?.shape.length === 1;
        y = normed ? this.norm(y, `features.${at + 1}`, "relu") : tape.relu(y);
        at += normed ? 3 : 2;
      }
      y = this.maxPool(y, 2, 2, 0);
      at += 1;
    }
    if (head === "cifar") return this.linear(tape.mean(y, [1, 2]), "classifier.0");
    const flat = tape.reshape(y, [y.shape[0]!, y.data.length / y.shape[0]!]);
    const hidden = tape.relu(this.linear(tape.relu(this.linear(flat, "classifier.0")), "classifier.3"));
    return this.linear(hidden, "classifier.6");
  }

  /** @param strides of the stem and of the first block of each stage */
  mobilenetV2(x: Value, blocks: readonly number[], strides: readonly number[]): Value {
    const { tape, w } = this;
    let y = this.norm(this.conv(x, "features.0.0", strides[0]), "features.0.1", "relu6");
    let at = 1;
    for (const [stage, count] of blocks.entries()) {
      for (let i = 0; i < count; i += 1, at += 1) {
        const of = (part: string) => `features.${at}.conv.${part}`;
        const stride = i === 0 ? strides[stage + 1]! : 1;
        const expands = of("3.weight") in w;
        let z = y;
        if (expands) z = this.norm(this.conv(z, of("0.0")), of("0.1"), "relu6");
        const deep = expands ? 1 : 0;
        z = this.norm(this.conv(z, of(`${deep}.0`), stride), of(`${deep}.1`), "relu6");
        z = this.norm(this.conv(z, of(`${deep + 1}`)), of(`${deep + 2}`));
        y = stride === 1 && z.shape[3] === y.shape[3] ? tape.add(z, y) : z;
      }
    }
    y = this.norm(this.conv(y, `features.${at}.0`), `features.${at}.1`, "relu6");
    return this.linear(tape.mean(y, [1, 2]), "classifier.1");
  }
}
