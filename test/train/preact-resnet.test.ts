import { describe, expect, it } from "vitest";
import { preactResnetCifar } from "../../src/nn/models/preact-resnet.ts";
import { resnetCifar } from "../../src/nn/models/resnet.ts";
import type { Module } from "../../src/nn/module.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { withChoices } from "../helpers/choices.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { Tape, type Value } from "../reference/autodiff.ts";

const SHAPE = [3, 8, 8, 3];
const LABELS = [7, 0, 3];

/** The network of one block in a stage: loss and, on the values of `w`, the gradients. */
function referenceLoss(w: Record<string, Value>, images: Float64Array): number {
  const tape = new Tape();
  const normRelu = (x: Value, name: string) =>
    tape.batchNorm(x, w[`${name}.weight`]!, w[`${name}.bias`]!, { eps: 1e-5, activation: "relu" });
  const conv = (x: Value, name: string, stride: number) =>
    tape.conv2d(x, w[`${name}.weight`]!, { stride: [stride, stride], padding: [1, 1, 1, 1] });
  let y = conv(tape.leaf(SHAPE, images), "stem", 1);
  for (const [i, stride] of [1, 2, 2].entries()) {
    const of = (part: string) => `blocks.${i}.${part}`;
    const middle = conv(normRelu(y, of("firstNorm")), of("first"), stride);
    const branch = conv(normRelu(middle, of("secondNorm")), of("second"), 1);
    y = tape.add(branch, stride === 1 ? y : tape.subsample(y, stride, branch.shape[3]!));
  }
  const pooled = tape.mean(normRelu(y, "lastNorm"), [1, 2]);
  const logits = tape.linear(pooled, w["classifier.weight"]!, w["classifier.bias"]!);
  const loss = tape.crossEntropy(logits, LABELS, "mean", 0);
  tape.backward(loss, Float64Array.of(1));
  return loss.data[0]!;
}

describe("the pre-activation ResNet", () => {
  it("has as many parameters as the network that it is made from", async () => {
    const gpu = await testGpu();
    const count = (model: Module) => {
      const total = model.parameters().reduce((sum, { size }) => sum + size, 0);
      model.dispose();
      return total;
    };
    expect(count(preactResnetCifar(gpu))).toBe(269_722);
    expect(count(resnetCifar(gpu))).toBe(269_722);
    expect(() => preactResnetCifar(gpu, { depth: 18 })).toThrow(/preactResnetCifar: depth is 18/);
  });

  for (const fused of [true, false]) {
    it(`has the loss and the gradients of float64, fused: ${fused}`, async () => {
      const gpu = await testGpu();
      const live = gpu.stats.liveBuffers;
      await withChoices(
        gpu,
        { ...{ family: "software", folding: "all", seed: 1 }, quick: () => true },
        async () => {
          const model = preactResnetCifar(gpu, {
            ...{ depth: 8, width: 4, seed: 3, init: "he" },
            batchNorm: { fused },
          });
          const images = normals(3 * 8 * 8 * 3, 5);
          const w: Record<string, Value> = {};
          for (const [name, tensor] of model.namedParameters()) {
            // γ and β as they are after some training.
            if (tensor.rank === 1)
              tensor.write(normals(tensor.size, Object.keys(w).length, name.endsWith("weight") ? 1 : 0, 0.3));
            w[name] = {
              shape: tensor.shape,
              data: Float64Array.from(await tensor.read()),
              requiresGrad: true,
              grad: null,
            };
          }
          const expected = referenceLoss(w, images);
          const loss = gpu.scope(() => {
            const x = gpu.tensor(images, SHAPE);
            const labels = gpu.tensor(LABELS, [3], { dtype: "uint32" });
            const result = softmaxCrossEntropy(model.forward(x), labels);
            result.backward();
            return result;
          });
          expect(Math.abs((await loss.item()) - expected) / expected).toBeLessThan(1e-5);
          for (const [name, tensor] of model.namedParameters()) {
            expect(relativeError(await tensor.grad!.read(), w[name]!.grad!), `d ${name}`).toBeLessThan(1e-4);
          }
          loss.dispose();
          model.dispose();
        },
      );
      expect(gpu.stats.liveBuffers).toBe(live);
    });
  }
});
