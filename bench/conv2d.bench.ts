// 3×3 and 1×1 convolutions of the residual networks, forward and backward.

import type { Gpu } from "../src/gpu.ts";
import { conv2d } from "../src/ops/conv2d/conv2d.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import type { BenchCase, BenchGroup, Runnable } from "./lib/runner.ts";
import { withVariants } from "./lib/variants.ts";
import { normals, type Size4 } from "./lib/work.ts";
import type { Suite } from "./list.ts";

interface ConvShape {
  where: string;
  x: Size4;
  outChannels: number;
  filter: 1 | 3;
  stride: 1 | 2;
}

const PASSES = ["forward", "grad_input", "grad_weight", "forward+backward"] as const;
type Pass = (typeof PASSES)[number];

export const conv2dSuite: Suite = {
  name: "conv2d",
  about: "convolutions of ResNet-20/110 and ResNet-50, each pass by itself and together",
  groups(gpu, { quick, variants, batch }) {
    const cifarBatch = batch || (gpu.isSoftware ? 32 : 128);
    const imagenetBatch = batch || (gpu.isSoftware ? 2 : 32);
    const shapes: ConvShape[] = [
      { where: "resnet-20/110 stage 1", x: [cifarBatch, 32, 32, 16], outChannels: 16, filter: 3, stride: 1 },
      { where: "resnet-20/110 stage 2", x: [cifarBatch, 16, 16, 32], outChannels: 32, filter: 3, stride: 1 },
      { where: "resnet-20/110 stage 3", x: [cifarBatch, 8, 8, 64], outChannels: 64, filter: 3, stride: 1 },
      {
        where: "resnet-20/110, into stage 2",
        x: [cifarBatch, 32, 32, 16],
        outChannels: 32,
        filter: 3,
        stride: 2,
      },
      { where: "resnet-50 stage 1", x: [imagenetBatch, 56, 56, 64], outChannels: 64, filter: 3, stride: 1 },
      {
        where: "resnet-50 stage 1, last",
        x: [imagenetBatch, 56, 56, 64],
        outChannels: 256,
        filter: 1,
        stride: 1,
      },
      { where: "resnet-50 stage 3", x: [imagenetBatch, 14, 14, 256], outChannels: 256, filter: 3, stride: 1 },
    ];
    const chosen = quick ? shapes.slice(0, 3) : shapes;
    const passes = quick ? (["forward", "forward+backward"] as const) : PASSES;
    return chosen.flatMap((shape) => passes.map((pass) => group(gpu, shape, pass, variants)));
  },
};

function group(gpu: Gpu, shape: ConvShape, pass: Pass, variants: boolean): BenchGroup {
  const { where, x, outChannels, filter, stride } = shape;
  const [n, h, w, c] = x;
  const [p, q] = [Math.ceil(h / stride), Math.ceil(w / stride)];
  const onePass = 2 * n * p * q * outChannels * filter * filter * c;
  const one: BenchCase = { name: "fusenorm", make: (device) => prepare(device, shape, pass) };
  return {
    id: `conv2d/${pass}/${filter}x${filter}s${stride}/${x.join("x")}-${outChannels}`,
    suite: "conv2d",
    title: `conv ${filter}×${filter}${stride === 2 ? "/2" : ""} ${pass} ${x.join("×")}→${outChannels}`,
    where,
    baseline: "fusenorm",
    tensorBytes: 4 * n * h * w * c,
    flops: (pass === "forward+backward" ? 3 : 1) * onePass,
    cases: variants ? [one, ...withVariants(gpu, one)] : [one],
  };
}

function prepare(gpu: Gpu, { x: size, outChannels, filter, stride }: ConvShape, pass: Pass): Runnable {
  const [n, h, w, c] = size;
  const both = pass === "forward+backward";
  const x = gpu.keep(
    gpu.tensor(normals(n * h * w * c, 1), size, { requiresGrad: both || pass === "grad_input" }),
  );
  const weight = gpu.keep(
    gpu.tensor(normals(outChannels * filter * filter * c, 2, 0, 0.1), [outChannels, filter, filter, c], {
      requiresGrad: both || pass === "grad_weight",
    }),
  );
  const forward = () => conv2d(x, weight, { stride, padding: filter === 3 ? 1 : 0 }).materialize();
  const sample = forward();
  const dy = gpu.keep(gpu.tensor(normals(sample.size, 3), sample.shape));
  sample.dispose();
  const backward = (y: Tensor) => {
    y.backward(dy);
    x.zeroGrad();
    weight.zeroGrad();
    y.dispose();
  };
  const graphs: Tensor[] = [];
  const single = pass === "grad_input" || pass === "grad_weight";
  return {
    step: single
      ? () => backward(graphs.shift()!)
      : both
        ? () => backward(forward())
        : () => forward().dispose(),
    prepare: single ? () => void graphs.push(forward()) : undefined,
    dispose() {
      for (const y of graphs.splice(0)) y.dispose();
      for (const tensor of [x, weight, dy]) tensor.dispose();
    },
  };
}
