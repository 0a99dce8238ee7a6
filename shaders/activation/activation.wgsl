// y = act(x), element by element; its gradient is dx = dy * act'(x). The activation is a part of this module: one of
// activation_*.wgsl, each of which defines
//
//   fn activation(z: vec4<f32>) -> vec4<f32>                              act(z)
//   fn activation_grad(dy: vec4<f32>, z: vec4<f32>) -> vec4<f32>          dy * act'(z)
//
// Layout: flat float32, taken as vec4s (buffers are padded to 16 bytes). One invocation owns one vec4 per step of a
// grid-stride loop. No barriers, no workgroup memory.

//#hole activation: activation_none

override WORKGROUP_SIZE: u32 = 256;

struct Size { vec4s: u32 }

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>; // y, dx
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> size: Size;
@group(0) @binding(3) var<storage, read> dy: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = activation(x[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = activation_grad(dy[i], x[i]); }
}
