// What `npm run gpu:suite` compares with PyTorch, and the table of it.

import { alignedTable, formatMs } from "./lib/report.ts";
import type { Summary } from "./lib/stats.ts";
import type { ResNetWork, Size4, Tail, Work } from "./lib/work.ts";

export interface OurRow {
  work: string;
  wall: Summary;
  /** Sum of the kernels' times; null without timestamp queries. */
  gpuMs: number | null;
  gflopPerSecond: number | null;
}

/** A line of bench/peers/pytorch.py's output. */
export interface TorchRow {
  work: string;
  /** `eager` or `compile`. */
  mode: string;
  /** `fp32` (no TF32) or `default`. */
  precision: string;
  /** Median ms of one iteration; null if it failed. */
  ms: number | null;
  error?: string;
}

/** What is compared with PyTorch. `batch` overrides every batch size, for rehearsals on software. */
export function suiteWorks(software: boolean, batch?: number): Work[] {
  const size = (n: number, h: number, c: number): Size4 => [batch ?? n, h, h, c];
  const normShapes = software
    ? [size(8, 32, 16)]
    : [
        size(256, 56, 256), // 822 MB: past every cache
        size(512, 32, 16),
        size(512, 16, 32),
        size(512, 8, 64),
        size(64, 112, 64),
        size(64, 28, 512),
        size(64, 7, 2048),
      ];
  const convs: [Size4, number][] = software
    ? [[size(8, 16, 32), 32]]
    : [
        [size(128, 32, 16), 16],
        [size(128, 16, 32), 32],
        [size(128, 8, 64), 64],
        [size(64, 56, 64), 64],
        [size(64, 28, 128), 128],
        [size(64, 14, 256), 256],
      ];
  const tails: Tail[] = ["plain", "relu", "residual+relu"];
  const passes = ["forward", "forward+backward"] as const;
  const norms = normShapes.flatMap((shape) =>
    tails.flatMap((tail) => passes.map((pass): Work => ({ op: "batch_norm", pass, shape, tail }))),
  );
  const convolutions = convs.flatMap(([shape, outChannels]) =>
    passes.map((pass): Work => ({ op: "conv2d", pass, shape, outChannels })),
  );
  const steps = (software ? [20] : [20, 110]).map(
    (depth): ResNetWork => ({
      op: "resnet_step",
      depth,
      batch: batch ?? (software ? 4 : 128),
      size: 32,
      classes: 10,
    }),
  );
  const epochs = steps.map((work): Work => ({ ...work, images: software ? 500 : 50_000 }));
  // What is quick to prepare first.
  return [...steps, ...epochs, ...convolutions, ...norms];
}

/** Floating-point operations of a convolution; null for the rest. */
export function flopsOf(work: Work): number | null {
  if (work.op !== "conv2d") return null;
  const [n, h, w, c] = work.shape;
  return (work.pass === "forward" ? 1 : 3) * 2 * n * h * w * c * 9 * work.outChannels;
}

/** What stands beneath the table. */
export const TABLE_NOTE = [
  "Ours is captured, PyTorch's fp32 has TF32 off; of its memory formats the faster one counts. Ratios above 1: ours is faster.",
  "An epoch is so many training steps, each on a batch gathered from images on the device, cropped and flipped there; no",
  "evaluation. Some of the steps were timed, and the time scaled to all of them.",
].join("\n");

/** Our times and PyTorch's side by side. Ratios above 1: we are faster than PyTorch's eager float32. */
export function suiteTable(ours: readonly OurRow[], torch: readonly TorchRow[]): string {
  const kinds = ["eager fp32", "compile fp32", "eager default", "compile default"] as const;
  const cell = (row?: TorchRow) => (!row ? "–" : row.ms === null ? "failed" : formatMs(row.ms));
  const rows = ours.map(({ work, wall, gpuMs, gflopPerSecond }) => {
    const theirs = kinds.map((kind) =>
      torch.find((row) => row.work === work && `${row.mode} ${row.precision}` === kind),
    );
    const eager = theirs[0]?.ms;
    return [
      work,
      formatMs(wall.median),
      gpuMs === null ? "–" : formatMs(gpuMs),
      gflopPerSecond === null ? "–" : (gflopPerSecond / 1e3).toFixed(2),
      ...theirs.map(cell),
      eager ? `${(eager / wall.median).toFixed(2)}×` : "–",
      eager && gpuMs ? `${(eager / gpuMs).toFixed(2)}×` : "–",
    ];
  });
  return alignedTable(
    [
      "work",
      "ours ms",
      "GPU ms",
      "TFLOP/s",
      ...kinds.map((kind) => `torch ${kind}`),
      "eager/ours",
      "eager/GPU",
    ],
    rows,
    1,
  );
}
