import { customOp } from "../../src/ops/define-op.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";

const shader = {
  name: "square",
  source: `
struct Size { count: u32 }
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<uniform> size: Size;
@compute @workgroup_size(64) fn forward(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < size.count) { out[id.x] = x[id.x] * x[id.x]; }
}
@compute @workgroup_size(64) fn grad_input(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < size.count) { out[id.x] = 2 * x[id.x] * dy[id.x]; }
}`,
};

const op = customOp({
  name: "square",
  inputs: { x: "..." },
  infer: ({ x }, _params: object) => ({ out: x, count: sizeOf(x) }),
  forward(ctx, { x }, { out: shape, count }) {
    const out = ctx.empty(shape);
    const size = new Uint32Array([count]);
    ctx.run({ shader, entry: "forward" }, [out, x, null, size], [Math.ceil(count / 64)]);
    return { out, saved: { x } };
  },
  backward(ctx, grad, { x }, { count }) {
    const dx = ctx.grad("x");
    ctx.run(
      { shader, entry: "grad_input" },
      [dx, x, grad, new Uint32Array([count])],
      [Math.ceil(count / 64)],
    );
    return { x: dx };
  },
});

/** x², by a user's own shader: the smallest op there is. */
export function square(x: Tensor): Tensor {
  return op({ x }, {});
}
