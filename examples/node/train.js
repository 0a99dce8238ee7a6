// Trains a small residual network on the sample of Fashion-MNIST that the package holds, and saves its weights.
import { writeFile } from "node:fs/promises";
import { encodeSafetensors, resnetCifar, SGD, Trainer } from "fusenorm";
import { loadDataset, requestGpu } from "fusenorm/node";

const maxSteps = Number(process.argv[2] ?? 120);
const gpu = await requestGpu();
const model = resnetCifar(gpu, { depth: 8, width: 8, inChannels: 1, seed: 1 });
const trainer = new Trainer({
  model,
  optimizer: new SGD(model.parameters(), { lr: 0.1, momentum: 0.9, weightDecay: 5e-4 }),
  data: await loadDataset("embedded"),
  epochs: 10,
  maxSteps,
});
const { evals } = await trainer.run({
  onLog: ({ step, loss }) => console.log(`step ${step}: loss ${loss.toFixed(3)}`),
});
console.log(`right on the test images: ${(100 * evals.at(-1).testAccuracy).toFixed(1)} %`);
await writeFile("model.safetensors", encodeSafetensors(await model.stateDict()));
gpu.destroy();
