// Averages of a model's weights over the steps of its training:
//
//   advance    n = n + 1; share = 1 in the first update, then SHARE, or 1 / n where SHARE is 0 (the plain average)
//   blend      a = a + share · (w − a)
//   exchange   a and w change places
//
// The count is the GPU's, so that a replay of a captured step goes on counting.
//
// Layouts: a, w flat and equally long, in whole vec4s. One invocation owns one vec4 per step of a grid-stride loop, advance is one
// invocation. No barriers.

override WORKGROUP_SIZE: u32 = 64;
override SHARE: f32 = 0;

struct Length { vec4s: u32 }

@group(0) @binding(0) var<storage, read_write> count: array<u32>;
@group(0) @binding(1) var<storage, read_write> new_share: array<f32>;

@group(0) @binding(0) var<storage, read_write> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> exchanged: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> share: array<f32>;
@group(0) @binding(3) var<uniform> length: Length;

@compute @workgroup_size(1)
fn advance() {
  let n = count[0] + 1u;
  count[0] = n;
  var by = SHARE;
  if (SHARE == 0.0 || n == 1u) { by = 1.0 / f32(n); }
  new_share[0] = by;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn blend(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < length.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let before = a[i];
    a[i] = before + share[0] * (w[i] - before);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn exchange(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < length.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let before = a[i];
    a[i] = exchanged[i];
    exchanged[i] = before;
  }
}
