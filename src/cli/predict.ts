import type { Command } from "commander";
import { noGrad } from "../autograd/tape.ts";
import { imageDataset } from "../data/dataset.ts";
import { DataLoader } from "../data/loader.ts";
import { DataError } from "../errors.ts";
import { textTable } from "../experiments/page.ts";
import { printable } from "../foreign.ts";
import type { Gpu } from "../gpu.ts";
import type { Module } from "../nn/module.ts";
import { readNamed } from "../node/files.ts";
import { decodeImage } from "../node/images.ts";
import { requestGpu } from "../node/request.ts";
import { softmax } from "../ops/softmax/softmax.ts";
import { examples } from "./help.ts";
import { addAdapterOption, addJsonOption, positiveInteger } from "./options.ts";
import {
  addNetworkOptions,
  makeSavedNetwork,
  type NetworkFlags,
  type NetworkNote,
  readNetwork,
} from "./saved-network.ts";

/** Images of one run of the network. */
const AT_ONCE = 32;
const TOP = 5;

interface PredictFlags extends NetworkFlags {
  top: number;
  adapter?: string;
  json?: boolean;
}

interface Prediction {
  class: string;
  /** Of the class. */
  index: number;
  probability: number;
}

/** Adds `fusenorm predict IMAGE…`. */
export function registerPredict(program: Command): void {
  const command = program
    .command("predict")
    .description("the classes of images, by a network that train or another program has saved")
    .argument(
      "<images...>",
      "PNG, JPEG or other image files; each is scaled to cover what the network takes",
    );
  addNetworkOptions(command, "runs/train/checkpoint.safetensors");
  command.option("--top <n>", "classes of an image, the most probable first", positiveInteger, TOP);
  addAdapterOption(command);
  addJsonOption(command, "the classes and probabilities");
  examples(command, [
    "fusenorm predict shoe.png coat.jpg",
    "fusenorm predict shoe.png --from model.safetensors --top 3 --json",
    "fusenorm predict cat.jpg --from resnet18.safetensors --model resnet18 --classes imagenet.txt --size 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
  ]);
  command.action(predict);
}

async function predict(images: string[], flags: PredictFlags): Promise<void> {
  const saved = await readNetwork("predict", flags);
  const pixels = await decodeAll(images, saved.note);
  const gpu = await requestGpu({ adapter: flags.adapter });
  try {
    const model = makeSavedNetwork(gpu, saved);
    const probabilities = await classify(gpu, model, pixels, saved.note);
    const { classNames } = saved.note;
    const told = images.map((image, i) => {
      const row = probabilities.subarray(i * classNames.length, (i + 1) * classNames.length);
      return { image, predictions: topOf(row, classNames, flags.top) };
    });
    if (flags.json) {
      console.log(JSON.stringify(told, null, 2));
      return;
    }
    const percent = ({ probability }: Prediction) => `${(100 * probability).toFixed(1)} %`;
    const rows = told.flatMap(({ image, predictions }) =>
      predictions.map((one, rank) => [
        rank === 0 ? printable(image) : "",
        printable(one.class),
        percent(one),
      ]),
    );
    console.log(textTable(["image", "class", "probability"], rows));
  } finally {
    gpu.destroy();
  }
}

/** Pixels of all images, [N, H, W, C]. */
async function decodeAll(
  files: readonly string[],
  { height, width, channels }: NetworkNote,
): Promise<Uint8Array> {
  if (channels !== 1 && channels !== 3) {
    throw new DataError(`predict: the network takes images of ${channels} channels; expected 1 or 3`);
  }
  const each = height * width * channels;
  const pixels = new Uint8Array(files.length * each);
  for (const [i, file] of files.entries()) {
    const { bytes, name } = await readNamed(file);
    pixels.set(await decodeImage(bytes, name, { height, width, channels }), i * each);
  }
  return pixels;
}

/** Probabilities [N, classes]. */
async function classify(
  gpu: Gpu,
  model: Module,
  images: Uint8Array,
  note: NetworkNote,
): Promise<Float32Array> {
  const { height, width, channels, classNames, mean, std } = note;
  const labels = new Uint8Array(images.length / (height * width * channels));
  const set = imageDataset({ name: "images", images, labels, height, width, channels, classNames });
  const loader = new DataLoader(set, { batchSize: AT_ONCE, seed: 0, shuffle: false, mean, std });
  const all = new Float32Array(labels.length * classNames.length);
  let at = 0;
  for (const batch of loader.epoch(0)) {
    const output = noGrad(() =>
      gpu.scope(() => gpu.keep(softmax(model.forward(gpu.tensor(batch.images, batch.shape))))),
    );
    const values = await output.read();
    output.dispose();
    all.set(values, at);
    at += values.length;
  }
  return all;
}

/** The most probable classes; of equal ones those that come first. @throws DataError for a network that gives no numbers */
function topOf(probabilities: Float32Array, classNames: readonly string[], count: number): Prediction[] {
  if (!probabilities.every(Number.isFinite)) {
    throw new DataError(
      "predict: the network gives numbers that are not finite; expected one whose training did not diverge",
    );
  }
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b]! - probabilities[a]!);
  return order
    .slice(0, count)
    .map((index) => ({ class: classNames[index]!, index, probability: probabilities[index]! }));
}
