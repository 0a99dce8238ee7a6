import { describe, expect, it } from "vitest";
import { resnetCifar } from "../../src/nn/models/resnet.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import { SGD } from "../../src/optim/sgd.ts";
import { testGpu } from "../helpers/gpu.ts";
import { generator, normals, relativeError } from "../helpers/numbers.ts";
import { lossAndGradients, type Parameters, sgdStep } from "../reference/resnet.ts";

const shape: [number, number, number, number] = [6, 8, 8, 3];
const sgd = { lr: 0.05, momentum: 0.9, weightDecay: 5e-4 };

describe("ten training steps against the float64 reference, parameter by parameter", () => {
  for (const norm of ["batch", "none", "last"] as const) {
    for (const fused of norm === "batch" ? [true, false] : [true]) {
      it(`norm ${norm}${fused ? "" : ", composed of plain ops"}`, async () => {
        const gpu = await testGpu();
        const live = gpu.stats.liveBuffers;
        const model = resnetCifar(gpu, {
          depth: 8,
          width: 4,
          norm,
          init: "he",
          seed: 3,
          batchNorm: { fused },
        });
        const optimizer = new SGD(model.parameters(), sgd);
        const parameters: Parameters = {};
        for (const [name, tensor] of model.namedParameters()) {
          parameters[name] = { data: Float64Array.from(await tensor.read()), shape: tensor.shape };
        }
        const velocity = {};
        const next = generator(8);
        for (let step = 0; step < 10; step += 1) {
          const images = normals(shape[0] * 8 * 8 * 3, 50 + step);
          const labels = Uint32Array.from({ length: shape[0] }, () => 10 * next());
          const expected = lossAndGradients(
            { blocks: 1, norm, eps: 1e-5 },
            parameters,
            images,
            shape,
            labels,
          );
          const loss = gpu.scope(() => {
            const x = gpu.tensor(images, shape);
            const y = gpu.tensor(labels, [shape[0]], { dtype: "uint32" });
            const result = softmaxCrossEntropy(model.forward(x), y);
            optimizer.zeroGrad();
            result.backward();
            return result;
          });
          expect(
            Math.abs((await loss.item()) - expected.loss) / expected.loss,
            `loss of step ${step}`,
          ).toBeLessThan(1e-4);
          loss.dispose();
          if (step === 0) {
            for (const [name, tensor] of model.namedParameters()) {
              expect(
                relativeError(await tensor.grad!.read(), expected.grads[name]!),
                `d ${name}`,
              ).toBeLessThan(1e-4);
            }
          }
          optimizer.step();
          sgdStep(parameters, expected.grads, velocity, sgd);
        }
        for (const [name, tensor] of model.namedParameters()) {
          expect(
            relativeError(await tensor.read(), parameters[name]!.data),
            `${name} after ten steps`,
          ).toBeLessThan(1e-3);
        }
        optimizer.dispose();
        model.dispose();
        expect(gpu.stats.liveBuffers).toBe(live);
      });
    }
  }
});
