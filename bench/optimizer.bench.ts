// A step of an optimizer, of as many parameters as ResNet-18 has. "Of copy" is what a copy of the bytes that it moves would take of
// its time: weights, gradients and state, read and written.

import type { Gpu } from "../src/gpu.ts";
import { resnet18 } from "../src/nn/models/resnet-imagenet.ts";
import { scale } from "../src/ops/elementwise/elementwise.ts";
import { AdamW } from "../src/optim/adam.ts";
import type { Optimizer } from "../src/optim/optimizer.ts";
import { SGD } from "../src/optim/sgd.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import type { Runnable } from "./lib/runner.ts";
import { manyNormals } from "./lib/work.ts";
import type { Suite } from "./list.ts";

/** Channels of the first stage. */
const WIDTH = 64;
/** With 10 classes and the stem for 32×32 pixels. */
const PARAMETERS = 11_173_962;

export const optimizerSuite: Suite = {
  name: "optimizer",
  about: "an optimizer's step against a copy of the bytes that it moves",
  groups: () => [
    {
      id: `optimizer/step/${PARAMETERS}`,
      suite: "optimizer",
      title: "optimizer step, 11.2 M parameters",
      where: "resnet-18 for 32×32 pixels",
      baseline: "sgd",
      tensorBytes: 4 * PARAMETERS,
      cases: [
        { name: "sgd", make: (gpu) => prepare(gpu, (w) => new SGD(w, { lr: 1e-4, momentum: 0.9 })) },
        { name: "adamw", make: (gpu) => prepare(gpu, (w) => new AdamW(w, { lr: 1e-4 })) },
      ],
    },
  ],
};

function prepare(gpu: Gpu, make: (parameters: Tensor[]) => Optimizer): Runnable {
  const model = resnet18(gpu, { images: "cifar", width: WIDTH });
  const parameters = model.parameters();
  const optimizer = make(parameters);
  // By a backward, which leaves them where the optimizer wants them.
  for (const [i, parameter] of parameters.entries()) {
    gpu.scope(() => {
      const gradient = gpu.tensor(manyNormals(parameter.size, i + 1), parameter.shape);
      scale(parameter, 1e-3).backward(gradient);
    });
  }
  return {
    step: () => optimizer.step(),
    dispose() {
      optimizer.dispose();
      model.dispose();
    },
  };
}
