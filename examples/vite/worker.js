// Learns to tell horizontal stripes from vertical ones, which it draws itself.
import { Gpu, resnetCifar, SGD, softmaxCrossEntropy } from "fusenorm";

const [batch, size] = [16, 16];

function stripes() {
  const labels = Uint32Array.from({ length: batch }, () => Math.floor(2 * Math.random()));
  const pixels = Float32Array.from({ length: batch * size * size }, (_, i) => {
    const [image, y, x] = [Math.floor(i / size ** 2), Math.floor(i / size) % size, i % size];
    return ((labels[image] ? x : y) % 4 < 2 ? 1 : -1) + 2 * Math.random() - 1;
  });
  return { pixels, labels };
}

// A function, since Vite bundles a worker as a script, where `await` stands in functions alone.
async function train() {
  const gpu = await Gpu.request();
  const model = resnetCifar(gpu, { depth: 8, width: 4, inChannels: 1, classes: 2, seed: 1 });
  const optimizer = new SGD(model.parameters(), { lr: 0.05, momentum: 0.9 });

  for (let step = 1; step <= 20; step += 1) {
    const { pixels, labels } = stripes();
    const loss = gpu.scope(() => {
      const images = gpu.tensor(pixels, [batch, size, size, 1]);
      const loss = softmaxCrossEntropy(
        model.forward(images),
        gpu.tensor(labels, [batch], { dtype: "uint32" }),
      );
      optimizer.zeroGrad();
      loss.backward();
      optimizer.step();
      return loss;
    });
    postMessage(`step ${step}: loss ${(await loss.item()).toFixed(3)}`);
    loss.dispose();
  }
  gpu.destroy();
  postMessage("done");
}

void train();
