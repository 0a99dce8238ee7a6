// A ResNet-18 learns clothes, leaves as ONNX and as safetensors, comes back, and tells shoes apart with a new last layer.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import {
  AdamW,
  BatchNorm2d,
  channelMoments,
  decayGroups,
  decodeSafetensors,
  encodeSafetensors,
  fromTorch,
  imageDataset,
  noGrad,
  oneCycle,
  resnet18,
  subset,
  Trainer,
  torchStateDict,
} from "fusenorm";
import { loadDataset, loadImageFolder, requestGpu } from "fusenorm/node";
import { exportOnnx } from "fusenorm/onnx";
import { InferenceSession, Tensor } from "onnxruntime-web";
import sharp from "sharp";

const [epochs = 6, maxSteps = null] = process.argv.slice(2).map(Number);
const width = 16; // 64 on a GPU
const shoes = ["Sandal", "Sneaker", "Ankle boot"];
const gpu = await requestGpu();

/** The images of some classes, which get the labels 0, 1, 2 … */
function only(set, classNames) {
  const wanted = [...set.labels.keys()].filter((i) => classNames.includes(set.classNames[set.labels[i]]));
  const part = subset(set, wanted);
  const labels = part.labels.map((label) => classNames.indexOf(set.classNames[label]));
  return imageDataset({ ...part, labels, classNames });
}

async function train(what, model, data, lr, moments) {
  const optimizer = new AdamW(decayGroups(model), { lr, weightDecay: 0.05 });
  const trainer = new Trainer({
    ...{ model, optimizer, data, moments, epochs, maxSteps, batchSize: 32 },
    augment: { pad: 2, flip: true },
    schedule: (step, { totalSteps }) => oneCycle(lr, totalSteps)(step),
  });
  const started = performance.now();
  const { evals } = await trainer.run({
    onLog: ({ step, loss }) => console.log(`${what}, step ${step}: loss ${loss.toFixed(3)}`),
  });
  const seconds = ((performance.now() - started) / 1e3).toFixed(1);
  console.log(`${what}: ${(100 * evals.at(-1).testAccuracy).toFixed(1)} % right, ${seconds} s`);
  trainer.dispose();
  optimizer.dispose();
}

// 1. Seven kinds of clothes.
const { train: all, test } = await loadDataset("embedded");
const clothes = all.classNames.filter((name) => !shoes.includes(name));
const data = { train: only(all, clothes), test: only(test, clothes) };
const moments = channelMoments(data.train);
const model = resnet18(gpu, { images: "cifar", inChannels: 1, classes: clothes.length, width, seed: 1 });
await train("clothes", model, data, 3e-3, moments);

// 2. The same logits by ONNX Runtime. With one channel, [N, H, W, C] and [N, C, H, W] are the same numbers.
model.eval();
await writeFile("clothes.onnx", await exportOnnx(model, { shape: [28, 28, 1] }));
const pixels = Float32Array.from(data.test.images.subarray(0, 8 * 784), (byte) => {
  return (byte / 255 - moments.mean[0]) / moments.std[0];
});
const logits = noGrad(() => model.forward(gpu.tensor(pixels, [8, 28, 28, 1])));
const session = await InferenceSession.create(await readFile("clothes.onnx"));
const { output } = await session.run({ input: new Tensor("float32", pixels, [8, 1, 28, 28]) });
const here = await logits.read();
const difference = Math.max(...here.map((value, i) => Math.abs(value - output.data[i])));
console.log(
  `ONNX Runtime: logits to ${Math.max(...here.map(Math.abs)).toFixed(2)}, apart by ${difference.toExponential(1)}`,
);

// 3. To a file that PyTorch reads, and back to a network of three classes.
await writeFile("clothes.safetensors", encodeSafetensors(await torchStateDict(model)));
const { tensors } = decodeSafetensors(await readFile("clothes.safetensors"), "clothes.safetensors");
const tuned = resnet18(gpu, { images: "cifar", inChannels: 1, classes: shoes.length, width, seed: 2 });
const { mismatched } = tuned.loadStateDict(fromTorch(tuned, tensors), { strict: false });
console.log(`loaded, but for ${mismatched.map(({ name }) => name).join(" and ")}`);

// 4. Shoes, as PNGs in a folder for each class.
for (const [part, set] of Object.entries({ train: only(all, shoes), test: only(test, shoes) })) {
  for (const name of shoes) await mkdir(`shoes/${part}/${name}`, { recursive: true });
  for (let i = 0; i < set.count; i += 1) {
    const image = sharp(set.images.subarray(784 * i, 784 * (i + 1)), {
      raw: { width: 28, height: 28, channels: 1 },
    });
    await image.toFile(`shoes/${part}/${shoes[set.labels[i]]}/${i}.png`);
  }
}
const folder = (part) => loadImageFolder(`shoes/${part}`, { height: 28, width: 28, channels: 1 });

// 5. The last layer alone learns; the statistics of batch-norm stay those of the clothes, as does what images are normalised by.
tuned.freeze();
tuned.fc.freeze(false);
tuned.apply((layer) => {
  if (layer instanceof BatchNorm2d) layer.eval();
});
await train("shoes", tuned, { train: await folder("train"), test: await folder("test") }, 1e-2, moments);
gpu.destroy();
