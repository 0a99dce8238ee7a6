// ONNX Runtime's native CPU provider: what the processor can do without the detour through WebGPU.
import { cpus } from "node:os";
import * as ort from "onnxruntime-node";
import type { Contender, PeerWork, Prepared, WorkData } from "../lib/work.ts";
import { onnxWork, refusedAsGraph, resultsOf } from "./graphs.ts";

export async function onnxRuntime(): Promise<Contender> {
  return new OrtContender();
}

class OrtContender implements Contender {
  readonly name = "ONNX Runtime CPU";
  readonly device = `${cpus().length} × ${cpus()[0]?.model ?? "unknown processor"}`;

  refuses(work: PeerWork): string | null {
    return refusedAsGraph(work);
  }

  async prepare(work: PeerWork, data: WorkData): Promise<Prepared> {
    const { model, feeds: given, outputs } = onnxWork(work, data);
    const session = await ort.InferenceSession.create(model, {
      executionProviders: ["cpu"],
      graphOptimizationLevel: "all",
    });
    const feeds = Object.fromEntries(
      Object.entries(given).map(([name, { data: values, shape }]) => [
        name,
        new ort.Tensor("float32", values, shape),
      ]),
    );
    // Outputs go to the same memory each time, as on the GPU.
    const fetches = Object.fromEntries(
      Object.entries(outputs).map(([name, shape]) => [
        name,
        new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b, 1)), shape),
      ]),
    );
    return {
      run: async (iterations) => {
        for (let i = 0; i < iterations; i += 1) await session.run(feeds, fetches);
      },
      result: async () => {
        const results = await session.run(feeds);
        return resultsOf(outputs, (name) => results[name]!.data as Float32Array);
      },
      dispose: () => void session.release(),
    };
  }

  async close(): Promise<void> {}
}
