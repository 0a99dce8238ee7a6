// Whole-buffer helpers of the tensor layer.
//
//   fill          out[i] = word                             any 4-byte type
//   copy          out[i] = source[i]                        any 4-byte type
//   accumulate    acc[i] = acc[i] + x[i]                    float32: the sum of two gradients
//   check_finite  flag = min(flag, ticket) if any x[i] is NaN or infinite
//
// Layout: flat arrays of `count` words, rounded up to whole vec4s by the host (buffers are padded to
// 16 bytes). One invocation owns one vec4 per step of a grid-stride loop. No barriers.

override WORKGROUP_SIZE: u32 = 64;

struct Size { vec4s: u32 }
struct Filling { vec4s: u32, word: u32 }
struct Check { words: u32, ticket: u32 }

@group(0) @binding(0) var<storage, read_write> out: array<vec4<u32>>;
@group(0) @binding(0) var<storage, read_write> acc: array<vec4<f32>>;
@group(0) @binding(0) var<storage, read_write> flag: atomic<u32>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(1) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(2) var<uniform> size: Size;
@group(0) @binding(2) var<uniform> filling: Filling;
@group(0) @binding(2) var<uniform> check: Check;

@compute @workgroup_size(WORKGROUP_SIZE)
fn fill(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let stride = groups.x * WORKGROUP_SIZE;
  for (var i = id.x; i < filling.vec4s; i += stride) {
    out[i] = vec4<u32>(filling.word);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn copy(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let stride = groups.x * WORKGROUP_SIZE;
  for (var i = id.x; i < size.vec4s; i += stride) {
    out[i] = source[i];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn accumulate(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let stride = groups.x * WORKGROUP_SIZE;
  for (var i = id.x; i < size.vec4s; i += stride) {
    acc[i] += x[i];
  }
}

// Exponent bits, not `x != x`: WGSL may assume that no NaN occurs.
@compute @workgroup_size(WORKGROUP_SIZE)
fn check_finite(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let stride = groups.x * WORKGROUP_SIZE;
  for (var i = id.x; i < check.words; i += stride) {
    if ((words[i] & 0x7f800000u) == 0x7f800000u) {
      atomicMin(&flag, check.ticket);
    }
  }
}
