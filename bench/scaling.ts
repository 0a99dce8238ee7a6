// What a training step costs as the work grows along one axis: images in a batch, layers, channels, pixels. Time, dispatches,
// bytes and memory, each beside the floating-point operations, so that a cost that grows faster than the work shows.

import type { Gpu } from "../src/gpu.ts";
import { median } from "./lib/stats.ts";
import { trafficBytes } from "./lib/traffic.ts";
import { captured, trainingStep } from "./lib/training.ts";

const AXES = ["batch", "depth", "width", "map"] as const;
export type ScalingAxis = (typeof AXES)[number];

/** Of the CIFAR ResNet: images, layers, channels of the first stage, pixels along a side. */
type Sizes = Record<ScalingAxis, number>;

export interface ScalingCase extends Sizes {
  /** `scaling/batch/32` */
  id: string;
  axis: ScalingAxis;
}

export interface ScalingRow extends ScalingCase {
  /** Of a captured step, the median. */
  ms: number;
  dispatches: number;
  /** By the model of bench/lib/traffic.ts. */
  bytes: number;
  /** Of the buffers that the step keeps for its intermediate results. */
  peakBytes: number;
  flops: number;
}

/** Points along each axis, the others as in `base`. A processor is not asked for what would take it minutes. */
const POINTS: Record<"software" | "hardware", { base: Sizes } & Record<ScalingAxis, readonly number[]>> = {
  software: {
    base: { batch: 8, depth: 20, width: 16, map: 32 },
    batch: [2, 8, 32, 128],
    depth: [20, 32, 56, 110],
    width: [8, 16, 32, 64],
    map: [16, 32, 64, 128],
  },
  hardware: {
    base: { batch: 128, depth: 20, width: 16, map: 32 },
    batch: [8, 32, 128, 512],
    depth: [20, 32, 56, 110],
    width: [16, 32, 64, 128],
    map: [32, 64, 128, 224],
  },
};

export function scalingCases(gpu: Gpu, { quick, batch }: { quick: boolean; batch: number }): ScalingCase[] {
  const { base, ...points } = POINTS[gpu.info.class];
  const sizes = batch > 0 ? { ...base, batch } : base;
  const axes = AXES.filter((axis) => axis !== "batch" || batch === 0);
  return axes.flatMap((axis) =>
    (quick ? points[axis].slice(0, 2) : points[axis]).map((value) => {
      return { id: `scaling/${axis}/${value}`, axis, ...sizes, [axis]: value };
    }),
  );
}

/** Times the captured step of one case, `rounds` times; each time as many steps as fill `callMs`. */
export async function measureScaling(
  gpu: Gpu,
  one: ScalingCase,
  { rounds, callMs }: { rounds: number; callMs: number },
): Promise<ScalingRow> {
  const step = captured(gpu, trainingStep(gpu, one));
  try {
    const counted = { dispatches: 0, bytes: 0, flops: 0 };
    gpu.commands.observe(
      ({ kernel, bytes, flops }) => {
        counted.dispatches += 1;
        counted.bytes += trafficBytes(kernel.name, bytes);
        counted.flops += flops;
      },
      step.step,
      { execute: false },
    );
    const timed = async (steps: number) => {
      const began = performance.now();
      for (let i = 0; i < steps; i += 1) step.step();
      await gpu.sync();
      return (performance.now() - began) / steps;
    };
    await timed(1); // compiles
    const steps = Math.max(1, Math.round(callMs / (await timed(1))));
    const times: number[] = [];
    for (let round = 0; round < rounds; round += 1) times.push(await timed(steps));
    return { ...one, ...counted, ms: median(times), peakBytes: step.peak!() };
  } finally {
    step.dispose();
    gpu.trim();
  }
}
