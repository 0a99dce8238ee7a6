import type { Gpu } from "../../src/gpu.ts";
import { add } from "../../src/ops/elementwise/elementwise.ts";
import { mean } from "../../src/ops/reduce/reduce.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";

/**
 * Bytes that a graph keeps from the forward to the backward pass of `forward`, as it stands inside a network: x comes
 * out of another op and y goes into one, the caller drops both, and what is then alive is what backward needs.
 * Measured by the counters of the device, padding of buffers included.
 */
export function heldForBackward(gpu: Gpu, input: Tensor, forward: (x: Tensor) => Tensor): number {
  const zero = gpu.zeros([1], { requiresGrad: true });
  const before = gpu.stats.liveBytes;
  // Neither `add` nor `mean` keeps its input.
  const x = add(input, zero);
  const y = forward(x);
  const loss = mean(
    y,
    y.shape.map((_, axis) => axis),
  );
  x.dispose();
  y.dispose();
  const held = gpu.stats.liveBytes - before - 256; // `loss` itself, in the smallest buffer there is
  loss.dispose(); // frees the graph
  zero.dispose();
  return held;
}
