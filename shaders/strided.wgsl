// Copies between a whole tensor and a strided part of one. Elements are moved as 32-bit words, whatever they mean.
//
//   gather   out[i] = x[offset + Σ_d index_d·stride_d]     i = index in dims   (permute, slice)
//   scatter  out[offset + Σ_d index_d·stride_d] = x[i]                          (concat)
//   place    out[i] = x[Σ_d (index_d − start_d)/step_d · stride_d] where that is whole and inside x, else VALUE
//                                                                               (pad, the gradient of slice)
//
// One invocation owns one vec4 (the _vec4 entry points: innermost axes contiguous and of multiples of 4, all
// numbers counted in vec4s) or one word per step of a grid-stride loop over i. No barriers.

override WORKGROUP_SIZE: u32 = 256;

// Dimensions and strides are of the walk through the strided side, outermost first.
struct Sizes {
  count: u32,
  rank: u32,
  offset: u32,
  dims: array<vec4<u32>, 2>,
  strides: array<vec4<u32>, 2>,
}

struct Places {
  count: u32,
  rank: u32,
  value_bits: u32,
  dims: array<vec4<u32>, 2>, // of out
  strides: array<vec4<u32>, 2>,
  starts: array<vec4<u32>, 2>,
  steps: array<vec4<u32>, 2>,
  extents: array<vec4<u32>, 2>, // of x
}

@group(0) @binding(0) var<storage, read_write> out_vec4: array<vec4<u32>>;
@group(0) @binding(0) var<storage, read_write> out_word: array<u32>;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<uniform> places: Places;
@group(0) @binding(2) var<storage, read> x_vec4: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> x_word: array<u32>;

fn strided(i: u32) -> u32 {
  var rest = i;
  var index = sizes.offset;
  for (var d = sizes.rank; d > 0u; d--) {
    let dim = sizes.dims[(d - 1u) / 4u][(d - 1u) % 4u];
    index += (rest % dim) * sizes.strides[(d - 1u) / 4u][(d - 1u) % 4u];
    rest /= dim;
  }
  return index;
}

const OUTSIDE = 0xffffffffu;

fn placed(i: u32) -> u32 {
  var rest = i;
  var index = 0u;
  var inside = true;
  for (var d = places.rank; d > 0u; d--) {
    let j = (d - 1u) / 4u;
    let k = (d - 1u) % 4u;
    let dim = places.dims[j][k];
    let distance = rest % dim - places.starts[j][k]; // before the start: wraps to a large number
    let step = places.steps[j][k];
    inside = inside && distance % step == 0u && distance / step < places.extents[j][k];
    index += (distance / step) * places.strides[j][k];
    rest /= dim;
  }
  return select(OUTSIDE, index, inside);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn gather(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.count; i += groups.x * WORKGROUP_SIZE) {
    out_word[i] = x_word[strided(i)];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn gather_vec4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.count; i += groups.x * WORKGROUP_SIZE) {
    out_vec4[i] = x_vec4[strided(i)];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn scatter(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.count; i += groups.x * WORKGROUP_SIZE) {
    out_word[strided(i)] = x_word[i];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn scatter_vec4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.count; i += groups.x * WORKGROUP_SIZE) {
    out_vec4[strided(i)] = x_vec4[i];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn place(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < places.count; i += groups.x * WORKGROUP_SIZE) {
    let index = placed(i);
    var word = places.value_bits;
    if (index != OUTSIDE) {
      word = x_word[index];
    }
    out_word[i] = word;
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn place_vec4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < places.count; i += groups.x * WORKGROUP_SIZE) {
    let index = placed(i);
    var words = vec4<u32>(places.value_bits);
    if (index != OUTSIDE) {
      words = x_vec4[index];
    }
    out_vec4[i] = words;
  }
}
