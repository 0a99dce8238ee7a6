// The only doors between this package's layouts (maps [N, H, W, C], weights [K, R, S, C]) and others'. Each one copies,
// and is differentiable.

import { checkTensor } from "../tensor/check.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { permute } from "./permute.ts";

function convert(op: string, expected: string, x: Tensor, axes: readonly number[]): Tensor {
  checkTensor(op, op.startsWith("weight") ? "weight" : "x", x, { shape: expected });
  return permute(x, axes);
}

/** Maps [N, C, H, W] (PyTorch, ONNX) → [N, H, W, C]. @throws ShapeError if not of rank 4. */
export function fromNCHW(x: Tensor): Tensor {
  return convert("fromNCHW", "[N, C, H, W]", x, [0, 2, 3, 1]);
}

/** Maps [N, H, W, C] → [N, C, H, W]. @throws ShapeError if not of rank 4. */
export function toNCHW(x: Tensor): Tensor {
  return convert("toNCHW", "[N, H, W, C]", x, [0, 3, 1, 2]);
}

/** Weights [K, C, R, S] (PyTorch, ONNX) → [K, R, S, C]. @throws ShapeError if not of rank 4. */
export function weightFromOIHW(weight: Tensor): Tensor {
  return convert("weightFromOIHW", "[K, C, R, S]", weight, [0, 2, 3, 1]);
}

/** Weights [K, R, S, C] → [K, C, R, S]. @throws ShapeError if not of rank 4. */
export function weightToOIHW(weight: Tensor): Tensor {
  return convert("weightToOIHW", "[K, R, S, C]", weight, [0, 3, 1, 2]);
}

/** Weights [R, S, C, K] (TensorFlow) → [K, R, S, C]. @throws ShapeError if not of rank 4. */
export function weightFromHWIO(weight: Tensor): Tensor {
  return convert("weightFromHWIO", "[R, S, C, K]", weight, [3, 0, 1, 2]);
}

/** Weights [K, R, S, C] → [R, S, C, K]. @throws ShapeError if not of rank 4. */
export function weightToHWIO(weight: Tensor): Tensor {
  return convert("weightToHWIO", "[K, R, S, C]", weight, [1, 2, 3, 0]);
}
