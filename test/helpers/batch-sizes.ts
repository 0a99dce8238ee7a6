// A small network on batches of many sizes, for what must not grow with their number.

import { noGrad } from "../../src/autograd/tape.ts";
import type { Gpu } from "../../src/gpu.ts";
import { BatchNorm2d, Conv2d, Linear, ReLU, Sequential } from "../../src/nn/layers.ts";
import { maxPool2d } from "../../src/ops/pool2d.ts";
import { mean, sum } from "../../src/ops/reduce/reduce.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";

const [H, W, C] = [2, 2, 4];
const CLASSES = 5;
/** The largest batch. */
export const MOST_IMAGES = 10_000;

const values = Float32Array.from({ length: MOST_IMAGES * H * W * C }, (_, i) => Math.sin(i * 1.7));
const classes = Uint32Array.from({ length: MOST_IMAGES }, (_, i) => i % CLASSES);

export class SmallNetwork {
  private readonly features: Sequential;
  private readonly head: Linear;

  constructor(private readonly gpu: Gpu) {
    const conv = (from: number, to: number, options = {}) =>
      new Conv2d(gpu, from, to, 3, { padding: 1, ...options });
    this.features = new Sequential(
      conv(C, 8),
      new BatchNorm2d(gpu, 8),
      new ReLU(),
      conv(8, 8, { groups: 8 }),
      conv(8, 6),
      new BatchNorm2d(gpu, 6),
    );
    this.head = new Linear(gpu, 6, CLASSES);
  }

  private logits(x: Tensor): Tensor {
    const maps = maxPool2d(this.features.forward(x), 2);
    return this.head.forward(mean(maps, [1, 2]));
  }

  /** A prediction and a training step's gradients for `n` images; gives the sum of the logits. */
  run(n: number): Tensor {
    const { gpu } = this;
    return gpu.scope(() => {
      const x = gpu.tensor(values.subarray(0, n * H * W * C), [n, H, W, C], { requiresGrad: true });
      const labels = gpu.tensor(classes.subarray(0, n), [n], { dtype: "uint32" });
      const prediction = this.predict(n);
      softmaxCrossEntropy(this.logits(x), labels).backward();
      for (const leaf of [x, ...this.parameters()]) {
        leaf.grad?.dispose();
        leaf.grad = null;
      }
      return prediction;
    });
  }

  /** The sum of the logits of `n` images from `first` on. */
  predict(n: number, first = 0): Tensor {
    const { gpu } = this;
    return gpu.scope(() => {
      const x = gpu.tensor(values.subarray(first * H * W * C, (first + n) * H * W * C), [n, H, W, C]);
      this.features.eval();
      const total = noGrad(() => sum(this.logits(x), [0, 1]));
      this.features.train();
      return total;
    });
  }

  private parameters(): Tensor[] {
    return [...this.features.parameters(), ...this.head.parameters()];
  }

  dispose(): void {
    this.features.dispose();
    this.head.dispose();
  }
}
