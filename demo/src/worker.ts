// Trains off the page's thread: the page draws at its own pace.

import { DeviceError, FASHION_MNIST_CLASSES, Gpu, readIdxDataset } from "../../src/index.ts";
import { CompileAhead } from "./compile-ahead.ts";
import { Engine } from "./engine.ts";
import { measureKernels } from "./kernels.ts";
import type { FromWorker, ToWorker } from "./messages.ts";

const say = (message: FromWorker) => postMessage(message);

/** The embedded sample of Fashion-MNIST: see data/README.md. */
const FILES = {
  train: {
    images: new URL("../../data/train-images-idx3-ubyte.gz", import.meta.url),
    labels: new URL("../../data/train-labels-idx1-ubyte.gz", import.meta.url),
  },
  test: {
    images: new URL("../../data/t10k-images-idx3-ubyte.gz", import.meta.url),
    labels: new URL("../../data/t10k-labels-idx1-ubyte.gz", import.meta.url),
  },
};

async function read(url: URL) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server answers ${response.status}; expected the images`);
  return { name: url.pathname, bytes: new Uint8Array(await response.arrayBuffer()) };
}

async function load(part: "train" | "test") {
  const [images, labels] = await Promise.all([read(FILES[part].images), read(FILES[part].labels)]);
  return readIdxDataset(`Fashion-MNIST ${part}`, images, labels, FASHION_MNIST_CLASSES);
}

async function start(): Promise<Engine> {
  const [gpu, train, test] = await Promise.all([Gpu.request(), load("train"), load("test")]);
  const ahead = new CompileAhead(gpu.device);
  // A processor that plays GPU compiles the kernels without subgroups in a quarter of the time, and runs them in twice as much. It
  // needs batch-norm's several dispatches for large tensors anyway: those in one for small ones would be more to compile.
  const variants = { "batch_norm.forward": "software", "batch_norm.backward": "software" };
  const quick = gpu.isSoftware ? new CompileAhead(gpu.device, { without: ["subgroups"], variants }) : null;
  const engine = new Engine(ahead.gpu, { train, test }, say, undefined, ahead, quick);
  engine.greet();
  return engine;
}

const engine = start().catch((error: unknown) => {
  say({
    type: "error",
    what: error instanceof DeviceError ? "gpu" : "other",
    message: (error as Error).message,
  });
  return null;
});

addEventListener("message", async ({ data }: MessageEvent<ToWorker>) => {
  const it = await engine;
  if (!it) return;
  switch (data.type) {
    case "begin":
      void it.begin(data.settings, data.run);
      if (data.play) it.play();
      else it.pause();
      break;
    case "rate":
      void it.rate(data.rate);
      break;
    case "play":
      it.play();
      break;
    case "pause":
      it.pause();
      break;
    case "step":
      void it.step();
      break;
    case "landscape":
      void it.landscape();
      break;
    case "search":
      void it.search();
      break;
    case "stop-search":
      it.stopSearch();
      break;
    case "ask":
      void it.ask(Uint8Array.from(data.pixels));
      break;
    case "kernels":
      void it.alone(async (gpu) => {
        const tell = (progress: number) => say({ type: "kernels", progress, results: null });
        say({ type: "kernels", progress: 1, results: await measureKernels(gpu, tell) });
      });
      break;
  }
});
