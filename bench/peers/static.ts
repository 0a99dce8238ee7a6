// The child of `npm run kernels:static -- --peers`: what scripts/kernels-static/compile.ts is for this package, for the convolutions and
// matrix products of jax-js and TensorFlow.js. One process for one family of GPUs and one subgroup size.
//   tsx static.ts FOLDER

import { createRequire } from "node:module";
import type * as Tf from "@tensorflow/tfjs-core";
import { type CompiledKernel, type Launch, writeCompiled } from "../../scripts/kernels-static/compiled.ts";
import { watchPipelines } from "../../scripts/kernels-static/watch.ts";
import { CONVOLUTIONS, MATRICES } from "../../scripts/kernels-static/workloads.ts";
import { installNavigatorGpu } from "../../src/node/index.ts";
import { type Contender, workData } from "../lib/work.ts";
import { jax } from "./jax.ts";
import { tfjs } from "./tfjs.ts";

const folder = process.argv[2]!;
const { adapter } = await installNavigatorGpu({ adapter: "hardware" });

let peer = "";
const { kernels, of } = watchPipelines(GPUDevice.prototype, folder, () => peer);
GPUDevice.prototype.createComputePipelineAsync = async function (descriptor) {
  return this.createComputePipeline(descriptor);
};

/** Of the work that is going on. */
let dispatched: { kernel: CompiledKernel; workgroups: number }[] = [];
const { setPipeline, dispatchWorkgroups } = GPUComputePassEncoder.prototype;
const current = new WeakMap<GPUComputePassEncoder, CompiledKernel>();
GPUComputePassEncoder.prototype.setPipeline = function (pipeline) {
  current.set(this, of(pipeline));
  return setPipeline.call(this, pipeline);
};
GPUComputePassEncoder.prototype.dispatchWorkgroups = function (x, y = 1, z = 1) {
  dispatched.push({ kernel: current.get(this)!, workgroups: x * y * z });
  return dispatchWorkgroups.call(this, x, y, z);
};

const launches: Launch[] = [];

/** `key`: the work's, as the chooser of this package would know it, so that rows are called alike. */
async function note(key: string, flops: number, work: () => Promise<unknown>): Promise<void> {
  dispatched = [];
  await work();
  if (dispatched.length !== 1) {
    const sizes = dispatched.map(({ workgroups }) => workgroups);
    throw new Error(`${peer}: ${key} took dispatches of ${sizes} workgroups; expected one dispatch to count`);
  }
  const [{ kernel, workgroups }] = dispatched as [(typeof dispatched)[0]];
  launches.push({ workload: peer, file: kernel.file, op: key, work: key, workgroups, flops, bytes: 0 });
}

async function convolutions(contender: Contender): Promise<void> {
  for (const [n, size, c, k, filter, stride] of CONVOLUTIONS) {
    if (filter !== 3 || stride !== 1) continue;
    const work = { op: "conv2d", pass: "forward", shape: [n, size, size, c], outChannels: k } as const;
    const key = [n, size, size, c, k, 3, 3, size, size, 1, 1, 1, 1, 1, 1, 1].join("x");
    const prepared = await contender.prepare(work, workData(work));
    await note(`conv2d.forward|${key}`, 2 * n * size * size * c * k * 9, () => prepared.run(1));
  }
}

async function products(run: (n: number) => Promise<unknown>): Promise<void> {
  for (const n of MATRICES)
    await note(`matmul.forward|${[n, n, n, n, 1, n, 1, 0].join("x")}`, 2 * n ** 3, () => run(n));
}

const zeros = (n: number) => new Float32Array(n * n);

peer = "jax-js";
await convolutions(await jax(adapter.info.device));
const { numpy } = await import("@jax-js/jax");
await products((n) => {
  const matrix = () => numpy.array(zeros(n), { shape: [n, n] });
  return numpy.matmul(matrix(), matrix()).data();
});

peer = "tfjs";
await convolutions(await tfjs(adapter.info.device));
const tf: typeof Tf = createRequire(import.meta.url)("@tensorflow/tfjs-core");
await products((n) => {
  const matrix = () => tf.tensor(zeros(n), [n, n]);
  return tf.matMul(matrix(), matrix()).data();
});

writeCompiled(folder, adapter.info.description, { kernels, launches });
process.exit(0); // whatever the peers still wait for
