// A network's parameters as values of the float64 reference, and one step of it against that.

import { expect } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import type { Module } from "../../src/nn/module.ts";
import { softmaxCrossEntropy } from "../../src/ops/softmax/softmax-cross-entropy.ts";
import type { Value } from "../reference/autodiff.ts";
import { normals, relativeError } from "./numbers.ts";

/** Sets γ, β, biases and scalars to what they are after some training, and gives all parameters by name. */
export async function trainedValues(model: Module): Promise<Record<string, Value>> {
  const values: Record<string, Value> = {};
  for (const [i, [name, tensor]] of model.namedParameters().entries()) {
    if (tensor.rank === 1) {
      const near1 = name.endsWith("weight") || name.endsWith("scale");
      tensor.write(normals(tensor.size, i + 1, near1 ? 1 : 0, 0.3));
    }
    values[name] = {
      shape: tensor.shape,
      data: Float64Array.from(await tensor.read()),
      requiresGrad: true,
      grad: null,
    };
  }
  return values;
}

/** Loss and gradients of `model` on a batch against `reference`, which leaves its gradients on the values. */
export async function checkGradients(
  gpu: Gpu,
  model: Module,
  batch: { data: Float64Array; shape: readonly number[]; labels: readonly number[] },
  reference: (w: Record<string, Value>) => number,
  tolerance = 1e-4,
): Promise<void> {
  const w = await trainedValues(model);
  const expected = reference(w);
  const loss = gpu.scope(() => {
    const x = gpu.tensor(batch.data, batch.shape);
    const labels = gpu.tensor(batch.labels, [batch.labels.length], { dtype: "uint32" });
    const result = softmaxCrossEntropy(model.forward(x), labels);
    result.backward();
    return result;
  });
  // Of 50 layers of float32; 1.1e-5 is the most that was seen (ResNet-50, four lanes).
  expect(Math.abs((await loss.item()) - expected) / expected, "loss").toBeLessThan(2e-5);
  for (const [name, tensor] of model.namedParameters()) {
    const [own, wanted] = [await tensor.grad!.read(), w[name]!.grad!];
    // A bias before a batch-norm, say, has a gradient of 0 but for rounding.
    const size = Math.sqrt(wanted.reduce((sum, v) => sum + v * v, 0));
    if (size > 1e-7) expect(relativeError(own, wanted), `d ${name}`).toBeLessThan(tolerance);
    else expect(Math.max(...own.map(Math.abs)), `d ${name}`).toBeLessThan(1e-5);
  }
  loss.dispose();
  model.zeroGrad();
}
