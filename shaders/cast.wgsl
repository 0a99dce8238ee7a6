// float32 to float16 and back, and integers to float32, by vec4; float16 as two to a word, so that every adapter can.
//
//   narrow         out[i] = half(x[i]); beyond 65,504 (rounded) infinity, NaN stays NaN
//   widen          out[i] = float(x[i])
//   from_integers  out[i] = float(x[i]), rounded beyond 2^24
//   accumulate     acc[i] = half(float(acc[i]) + float(x[i])): the sum of two float16 gradients
//
// One invocation: every so many-th vec4. No barriers.

//#import float16

override WORKGROUP_SIZE: u32 = 64;

struct Size { vec4s: u32 }

@group(0) @binding(0) var<storage, read_write> halves: array<vec2<u32>>;
@group(0) @binding(0) var<storage, read_write> floats: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> from_floats: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> from_halves: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> integers: array<vec4<u32>>;
@group(0) @binding(2) var<uniform> size: Size;

@compute @workgroup_size(WORKGROUP_SIZE)
fn narrow(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { halves[i] = to_halves(from_floats[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn widen(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { floats[i] = to_floats(from_halves[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn from_integers(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { floats[i] = vec4<f32>(integers[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn accumulate(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) {
    halves[i] = to_halves(to_floats(halves[i]) + to_floats(from_halves[i]));
  }
}
