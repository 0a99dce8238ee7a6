// What scripts/test-install.ts puts into each program that it installs the package for: a small network learns which half of an
// image is bright.

import {
  BatchNorm2d,
  Conv2d,
  Flatten,
  GlobalAvgPool2d,
  type Gpu,
  Linear,
  Random,
  ReLU,
  Sequential,
  SGD,
  softmaxCrossEntropy,
} from "fusenorm";

const [COUNT, SIZE, STEPS] = [32, 8, 20];

/** The losses of some steps. */
export async function train(gpu: Gpu): Promise<number[]> {
  const random = new Random(7);
  const pixels = random.fillUniform(new Float32Array(COUNT * SIZE * SIZE), 0, 1);
  for (let i = 0; i < pixels.length; i += 1) {
    const bright = Math.floor(i / (SIZE * SIZE)) % 2;
    if ((i % SIZE < SIZE / 2 ? 0 : 1) === bright) pixels[i]! += 0.3;
  }
  const images = gpu.tensor(pixels, [COUNT, SIZE, SIZE, 1]);
  const labels = gpu.tensor(
    Uint32Array.from({ length: COUNT }, (_, i) => i % 2),
    [COUNT],
    { dtype: "uint32" },
  );
  const model = new Sequential(
    new Conv2d(gpu, 1, 8, 3, { padding: 1, random }),
    new BatchNorm2d(gpu, 8),
    new ReLU(),
    new Conv2d(gpu, 8, 16, 5, { stride: 2, random }),
    new GlobalAvgPool2d(),
    new Flatten(),
    new Linear(gpu, 16, 2, { random }),
  );
  const optimizer = new SGD(model.parameters(), { lr: 0.02, momentum: 0.9 });
  const losses: number[] = [];
  for (let step = 0; step < STEPS; step += 1) {
    const loss = gpu.scope(() => {
      optimizer.zeroGrad();
      const value = softmaxCrossEntropy(model.forward(images), labels);
      value.backward();
      optimizer.step();
      return value;
    });
    losses.push(await loss.item());
    loss.dispose();
  }
  return losses;
}
