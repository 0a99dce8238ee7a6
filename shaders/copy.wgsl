// y[i] = x[i]: the bandwidth that every other kernel is measured against.
//
// Layout: flat arrays of vec4s. One invocation owns one vec4 per step of a grid-stride loop, neighbours next
// to each other. No barriers, no workgroup memory. Moves 32 bytes per vec4: one read, one write.

override WORKGROUP_SIZE: u32 = 256;
override VEC4S: u32 = 1;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let stride = groups.x * WORKGROUP_SIZE;
  for (var i = id.x; i < VEC4S; i += stride) {
    y[i] = x[i];
  }
}
