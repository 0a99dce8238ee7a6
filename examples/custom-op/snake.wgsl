// snake(x) = x + sin²(x), with the derivative 1 + sin(2x): an activation for what repeats.

struct Size { count: u32 }

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<uniform> size: Size;

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < size.count) {
    let s = sin(x[id.x]);
    out[id.x] = x[id.x] + s * s;
  }
}

@compute @workgroup_size(64)
fn grad_x(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < size.count) {
    out[id.x] = dy[id.x] * (1 + sin(2 * x[id.x]));
  }
}
