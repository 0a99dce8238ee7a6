// Deno has a WebGPU of its own: nothing is needed but the package.
import {
  BatchNorm2d,
  Conv2d,
  GlobalAvgPool2d,
  Gpu,
  Linear,
  ReLU,
  Sequential,
  SGD,
  softmaxCrossEntropy,
} from "fusenorm";

const steps = Number(Deno.args[0] ?? 20);
const [batch, size] = [16, 12];
const gpu = await Gpu.request();
const model = new Sequential(
  new Conv2d(gpu, 1, 8, 3, { padding: 1, bias: false }),
  new BatchNorm2d(gpu, 8),
  new ReLU(),
  new GlobalAvgPool2d(),
  new Linear(gpu, 8, 2),
);
const optimizer = new SGD(model.parameters(), { lr: 0.1, momentum: 0.9 });

for (let step = 1; step <= steps; step += 1) {
  // Class 0 is noise, class 1 is noise that is twice as loud.
  const labels = Uint32Array.from({ length: batch }, (_, i) => i % 2);
  const pixels = Float32Array.from(
    { length: batch * size * size },
    (_, i) => (1 + labels[Math.floor(i / size ** 2)]!) * (2 * Math.random() - 1),
  );
  const loss = gpu.scope(() => {
    const output = model.forward(gpu.tensor(pixels, [batch, size, size, 1]));
    const loss = softmaxCrossEntropy(output, gpu.tensor(labels, [batch], { dtype: "uint32" }));
    optimizer.zeroGrad();
    loss.backward();
    optimizer.step();
    return loss;
  });
  console.log(`step ${step}: loss ${(await loss.item()).toFixed(3)}`);
  loss.dispose();
}
gpu.destroy();
