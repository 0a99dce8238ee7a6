// What a training step needs besides time: memory, and dispatches. Counted, not timed: nothing is executed.

import type { Gpu } from "../src/gpu.ts";
import type { Plan } from "../src/plan.ts";
import { recordTraffic } from "./lib/traffic.ts";
import { FUSIONS, type TrainingStepOptions, trainingStep } from "./lib/training.ts";

export interface MemoryCase extends TrainingStepOptions {
  /** `memory/resnet-110/batch-128/fused` */
  id: string;
  /** `ResNet-110 training step, batch 128` */
  title: string;
  /** `fused` … */
  name: string;
}

export interface MemoryRow extends Pick<MemoryCase, "id" | "title" | "name"> {
  dispatches: number;
  /** By the model of bench/lib/traffic.ts. */
  bytes: number;
  /** Most bytes in tensors during the step, beyond `residentBytes`. */
  peakBytes: number;
  /** Bytes of the buffers that a captured step keeps for its intermediate results. */
  planBytes: number;
  /** What outlives the step: parameters with their gradients and velocities, running statistics, the images. */
  residentBytes: number;
}

export function memoryCases({ batch }: { batch: number }): MemoryCase[] {
  const depth = 110;
  const images = batch || 128;
  return Object.entries(FUSIONS).map(([name, fused]) => ({
    id: `memory/resnet-${depth}/batch-${images}/${name}`,
    title: `ResNet-${depth} training step, batch ${images}`,
    name,
    depth,
    batch: images,
    fused,
  }));
}

/** Captures the step without carrying it out: buffers are handed out as ever, but nothing touches them. */
export function measureMemory(gpu: Gpu, one: MemoryCase): MemoryRow {
  const { id, title, name } = one;
  const before = gpu.stats.liveBytes;
  const eager = trainingStep(gpu, one);
  let plan: Plan<void> | null = null;
  try {
    const residentBytes = gpu.stats.liveBytes - before;
    gpu.resetPeak();
    const traffic = recordTraffic(
      gpu,
      () => {
        plan = gpu.capture(() => eager.step());
      },
      { execute: false },
    );
    const peakBytes = gpu.stats.peakBytes - before - residentBytes;
    return { id, title, name, ...traffic, peakBytes, planBytes: plan!.byteLength, residentBytes };
  } finally {
    (plan as Plan<void> | null)?.dispose();
    eager.dispose();
    gpu.trim();
  }
}
