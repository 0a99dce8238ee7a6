import { Recent } from "../device/recent.ts";
import { ShapeError } from "../errors.ts";
import { checkTensors } from "../tensor/check.ts";
import { formatShape, normalizeAxes, type Shape, sameShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { defineOp, type Op } from "./define-op.ts";
import { gatherInto, type StridedPart, scatterInto, stridesOf } from "./strided.ts";

type ConcatOp = Op<Record<string, string>, { axis: number }>;

const WORDS = ["float32", "uint32"] as const;

/** The op for so many inputs: the contract names each one. */
function makeConcat(count: number): ConcatOp {
  const names = Array.from({ length: count }, (_, i) => `x${i}`);
  return defineOp({
    name: "concat",
    inputs: Object.fromEntries(names.map((name) => [name, "..."])) as Record<string, string>,
    dtypes: Object.fromEntries(names.map((name) => [name, WORDS])),
    infer(shapes, { axis }: { axis: number }) {
      const first = shapes.x0 as Shape;
      const along = normalizeAxes("concat", [axis], first.length)[0]!;
      for (const name of names) {
        const shape = shapes[name] as Shape;
        if (shape.length !== first.length || shape.some((size, i) => i !== along && size !== first[i])) {
          throw new ShapeError(
            `concat: ${name} is ${formatShape(shape)}, x0 ${formatShape(first)}; expected equal sizes but for axis ${along}`,
          );
        }
      }
      const sizes = names.map((name) => (shapes[name] as Shape)[along]!);
      const out = first.map((size, i) => (i === along ? sizes.reduce((a, b) => a + b, 0) : size));
      const strides = stridesOf(out);
      let offset = 0;
      const parts = Object.fromEntries(
        names.map((name, i): [string, StridedPart] => {
          const part = { offset, dims: shapes[name] as Shape, strides };
          offset += sizes[i]! * strides[along]!;
          return [name, part];
        }),
      );
      return { out, parts };
    },
    forward(ctx, inputs, plan) {
      const out = ctx.empty(plan.out, (inputs.x0 as Tensor).dtype);
      for (const name of names) scatterInto(ctx, "concat", out, inputs[name] as Tensor, plan.parts[name]!);
      return { out, saved: {} };
    },
    // dxᵢ = its part of dy
    backward(ctx, grad, _, plan) {
      const grads: Record<string, Tensor | null> = {};
      for (const name of names) {
        const part = plan.parts[name]!;
        grads[name] = ctx.needsGrad[name] ? ctx.grad(name) : null;
        if (grads[name]) gatherInto(ctx, "concat", grads[name], grad, part);
      }
      return grads;
    },
  });
}

const byCount = new Recent<number, ConcatOp>(64);

/**
 * The tensors one after the other along `axis` (default: the last), all other sizes equal; all of them floats, or integers (uint32).
 * @throws ShapeError for an empty list, or shapes that differ elsewhere.
 */
export function concat(tensors: readonly Tensor[], axis = -1): Tensor {
  checkTensors("concat", "tensors", tensors, {
    dtypes: tensors?.[0]?.dtype === "uint32" ? ["uint32"] : ["float32"],
  });
  if (tensors.length === 0) throw new ShapeError("concat: the list is empty; expected at least one tensor");
  let op = byCount.get(tensors.length);
  if (!op) {
    op = makeConcat(tensors.length);
    byCount.set(tensors.length, op);
  }
  return op(Object.fromEntries(tensors.map((tensor, i) => [`x${i}`, tensor])), { axis });
}

/** Maps [N, H, W, Cᵢ] side by side: [N, H, W, ΣCᵢ]. @throws ShapeError as `concat`, or if a rank is not 4. */
export function concatChannels(tensors: readonly Tensor[]): Tensor {
  checkTensors("concatChannels", "tensors", tensors, { shape: "[N, H, W, C]" });
  if (tensors.length === 0) {
    throw new ShapeError("concatChannels: the list is empty; expected at least one tensor");
  }
  const [first] = tensors;
  for (const { shape } of tensors) {
    if (!sameShape(shape.slice(0, 3), first!.shape.slice(0, 3))) {
      throw new ShapeError(
        `concatChannels: one is ${formatShape(shape)}, the first ${formatShape(first!.shape)}; expected equal N, H and W`,
      );
    }
  }
  return concat(tensors);
}
