// Ops that read the output of a batch-norm, which they can make as they load it.

import { expect } from "vitest";
import type { Gpu } from "../../src/gpu.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { type Shape, sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { batchNormReference } from "../reference/batch-norm.ts";
import { checkOp } from "./check-op.ts";
import { testGpu } from "./gpu.ts";
import { normals } from "./numbers.ts";

export interface AfterNorm {
  label: string;
  /** Of the batch-norm's input; channels last, in whole vec4s. */
  shape: Shape;
  data?: Float64Array;
  run(y: Tensor): Tensor;
  reference(y: Float64Array): Float64Array;
  /** Kernel → variants to force, one after the other. */
  variants?: Record<string, readonly string[]>;
}

const EPS = 1e-5;
const RELUS = [false, true];

/** A batch-norm with statistics of its own: that of the reference, too. */
function frozen(gpu: Gpu, shape: Shape, relu: boolean) {
  const channels = shape.at(-1)!;
  const running = {
    mean: normals(channels, 3, 0.3, 0.2).map(Math.fround),
    variance: normals(channels, 4).map((v) => Math.fround(0.5 + v * v)),
  };
  return {
    reference: { count: sizeOf(shape) / channels, channels, eps: EPS, relu, running },
    run: (t: Record<string, Tensor>) =>
      batchNorm(t.x!, t.gamma!, t.beta!, {
        training: false,
        runningMean: gpu.tensor(running.mean, [channels]),
        runningVar: gpu.tensor(running.variance, [channels]),
        eps: EPS,
        activation: relu ? "relu" : "none",
      }),
  };
}

/** `body` where a batch-norm, however small, leaves it to others to normalise; for each class of adapter. */
async function eachClass(gpu: Gpu, body: (label: string) => Promise<void>): Promise<void> {
  const info = gpu.info as { class: string };
  const outer = info.class;
  try {
    for (const family of ["software", "hardware"]) {
      info.class = family;
      gpu.variants.force("batch_norm.forward", family === "software" ? "software" : "workgroup");
      await body(family);
    }
  } finally {
    info.class = outer;
    gpu.variants.force("batch_norm.forward", null);
  }
}

/** `body` where kernels of `file` make what they load, or where they never do. */
async function loading<T>(gpu: Gpu, file: string, how: string, body: () => T | Promise<T>): Promise<T> {
  gpu.variants.force(`${file}.input`, how);
  try {
    return await body();
  } finally {
    gpu.variants.force(`${file}.input`, null);
  }
}

/**
 * The op after a batch-norm against float64, both ways to load; and that the one way gives the bits of the other, in the
 * output and in the gradients, and takes no kernel of the batch-norm's.
 */
export async function checkAfterNorm(file: "pool2d" | "reduce", cases: readonly AfterNorm[]): Promise<void> {
  const gpu = await testGpu();
  await eachClass(gpu, async (family) => {
    for (const { label, shape, data, run, reference, variants } of cases) {
      const channels = shape.at(-1)!;
      for (const relu of RELUS) {
        const name = `${family}, relu ${relu}: ${label}`;
        const norm = frozen(gpu, shape, relu);
        await checkOp({
          label: name,
          inputs: { x: data ? { shape, data } : shape, gamma: [channels], beta: [channels] },
          run: (t) => run(norm.run(t)),
          reference: (arrays) => reference(batchNormReference(norm.reference, arrays as { x: Float64Array })),
          variants: { ...variants, [`${file}.input`]: ["fused", "separate"] },
        });
        const values = data ?? normals(sizeOf(shape), 7);
        const [fused, separate] = [
          await loading(gpu, file, "fused", () => trained(gpu, values, shape, relu, run)),
          await loading(gpu, file, "separate", () => trained(gpu, values, shape, relu, run)),
        ];
        expect(fused.out, `${name}: bits of the output`).toEqual(separate.out);
        expect(fused.dx, `${name}: bits of dx`).toEqual(separate.dx);
        const made = (kernels: string[]) => kernels.some((kernel) => kernel.startsWith(`${file}+x_affine`));
        const applied = (kernels: string[]) => kernels.some((kernel) => kernel.includes(".apply"));
        expect([made(fused.kernels), applied(fused.kernels)], `${name}: ${fused.kernels}`).toEqual([
          true,
          false,
        ]);
        expect([made(separate.kernels), applied(separate.kernels)], `${name}: ${separate.kernels}`).toEqual([
          false,
          true,
        ]);
      }
    }
  });
}

/** The op after a batch-norm that trains: output, dx, and the kernels of forward. */
async function trained(
  gpu: Gpu,
  values: Float64Array,
  shape: Shape,
  relu: boolean,
  run: (y: Tensor) => Tensor,
) {
  const x = gpu.tensor(values, shape, { requiresGrad: true });
  let out: Tensor | undefined;
  const notes = gpu.explain(() => {
    out = gpu.scope(() =>
      run(batchNorm(x, null, null, { training: true, activation: relu ? "relu" : "none" })),
    );
  });
  const upstream = gpu.tensor(normals(out!.size, 9), out!.shape);
  out!.backward(upstream);
  const result = {
    out: await out!.read(),
    dx: await x.grad!.read(),
    kernels: notes.map(({ kernel }) => kernel),
  };
  for (const tensor of [x, out!, upstream]) tensor.dispose();
  return result;
}
