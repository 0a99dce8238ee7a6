import type { Tensor } from "../tensor/tensor.ts";
import { enableGrad, isRecording, noGrad, record } from "./tape.ts";

let recomputing = 0;

/** True while `checkpoint` runs its function again: layers must not update running statistics a second time. */
export function isRecomputing(): boolean {
  return recomputing > 0;
}

/**
 * `fn(x)`, keeping only x for backward: the intermediate results are computed a second time there (Chen et al. 2016,
 * "Training deep nets with sublinear memory cost"). The same numbers as `fn(x)` (gradients up to rounding), at the price of
 * a second forward; running statistics are updated once.
 *
 * `fn` must be a pure function of x and of parameters: called twice, it must do the same.
 */
export function checkpoint(fn: (x: Tensor) => Tensor, x: Tensor): Tensor {
  const { gpu } = x;
  if (!isRecording()) return fn(x);
  const out = noGrad(() => gpu.scope(() => fn(x)));
  const kept = x.alias();
  record(
    out,
    "checkpoint",
    [x],
    (grad) => {
      const input = kept.detach();
      input.requiresGrad = x.requiresGrad;
      recomputing += 1;
      try {
        enableGrad(() => fn(input)).backward(grad);
      } finally {
        recomputing -= 1;
      }
      const dx = input.grad;
      input.grad = null; // the caller's now
      return [dx];
    },
    () => kept.dispose(),
  );
  return out;
}
