// The contenders of `bench:peers --page`, in the page: this package, and ONNX Runtime's WebGPU provider. page.ts calls them.
import type * as Ort from "onnxruntime-web";
import { Gpu } from "../../src/gpu.ts";
import { fusenorm } from "../lib/fusenorm.ts";
import { type PeerWork, type Prepared, workData } from "../lib/work.ts";

/** A model whose bytes, and those of its inputs, the page's server has. */
export interface ServedWork {
  model: string;
  feeds: Record<string, { address: string; shape: readonly number[] }>;
  outputs: Record<string, readonly number[]>;
}

const all: Prepared[] = [];
let gpu: Gpu;
let ort: typeof Ort;

const added = (prepared: Prepared) => all.push(prepared) - 1;

async function bytesOf(address: string): Promise<ArrayBuffer> {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  return response.arrayBuffer();
}

async function prepareOrt({ model, feeds, outputs }: ServedWork): Promise<Prepared> {
  const session = await ort.InferenceSession.create(new Uint8Array(await bytesOf(model)), {
    executionProviders: ["webgpu"],
    graphOptimizationLevel: "all",
    preferredOutputLocation: "gpu-buffer",
    // Its counterpart of our captured plans: the commands of a run are recorded, and replayed.
    enableGraphCapture: true,
    // No node may go to the processor unnoticed.
    extra: { session: { disable_cpu_ep_fallback: "1" } },
  });
  const device = await ort.env.webgpu.device;
  const buffers: GPUBuffer[] = [];
  const tensor = (shape: readonly number[]) => {
    const size = 4 * shape.reduce((a, b) => a * b, 1);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const buffer = device.createBuffer({ size, usage });
    buffers.push(buffer);
    return { buffer, tensor: ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims: [...shape] }) };
  };
  const given: Record<string, Ort.Tensor> = {};
  for (const [name, { address, shape }] of Object.entries(feeds)) {
    const one = tensor(shape);
    device.queue.writeBuffer(one.buffer, 0, await bytesOf(address));
    given[name] = one.tensor;
  }
  const outs = Object.entries(outputs).map(([name, shape]) => [name, tensor(shape)] as const);
  const fetches = Object.fromEntries(outs.map(([name, one]) => [name, one.tensor]));
  return {
    run: async (iterations) => {
      for (let i = 0; i < iterations; i += 1) await session.run(given, fetches);
      await device.queue.onSubmittedWorkDone();
    },
    result: async () => {
      for (const [, { buffer }] of outs) {
        device.queue.writeBuffer(buffer, 0, new Float32Array(buffer.size / 4).fill(Number.NaN));
      }
      await session.run(given, fetches);
      const results: Float32Array[] = [];
      for (const [, { buffer }] of outs) {
        const { size } = buffer;
        const copy = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
        const encoder = device.createCommandEncoder();
        encoder.copyBufferToBuffer(buffer, 0, copy, 0, size);
        device.queue.submit([encoder.finish()]);
        await copy.mapAsync(GPUMapMode.READ);
        results.push(new Float32Array(copy.getMappedRange().slice(0)));
        copy.destroy();
      }
      return results;
    },
    dispose: () => {
      void session.release();
      for (const buffer of buffers) buffer.destroy();
    },
  };
}

const calls = {
  async prepareOurs(work: PeerWork): Promise<number> {
    return added(await fusenorm(gpu).prepare(work, workData(work)));
  },
  async prepareOrt(work: ServedWork): Promise<number> {
    return added(await prepareOrt(work));
  },
  run: (id: number, iterations: number): Promise<void> => all[id]!.run(iterations),
  /** As lists, which survive the way out of the page. */
  async result(id: number): Promise<number[][]> {
    return (await all[id]!.result()).map((values) => [...values]);
  },
  dispose: (id: number): void => all[id]!.dispose(),
};

/** What page.ts may call. */
export type PageCalls = typeof calls;

/** @param address of ONNX Runtime's module */
export default async function start(address: string): Promise<Gpu["info"]> {
  gpu = await Gpu.request();
  ort = (await import(/* @vite-ignore */ address)) as typeof Ort;
  ort.env.wasm.numThreads = 1; // the work is the GPU's
  (globalThis as Record<string, unknown>).bench = calls;
  return gpu.info;
}
