// Clipping of gradients, of PyTorch's torch.nn.utils.clip_grad_norm_ and clip_grad_value_:
//
//   norm     = (Σ |g|ᴾ)^(1/P) over the elements of all gradients, or the largest |g|
//   factor   = maximum / (norm + 1e-6), at most 1, and g = factor · g
//   limit    g = g, at most `maximum` and at least −maximum
//
// packed_terms  adds |g|ᴾ up over neighbours in the packed gradients (blocks.wgsl); what pads a parameter to whole blocks is left
//               out, since kernels may leave anything there. Lane l's sum goes to partials[first + l]
// loose_terms   the same over one gradient of `elements`
// total         one workgroup adds up the `count` partial sums of all runs; norm and factor
// rescale       g = factor · g, where that is not 1
//
// Sums are made in blocks of 16 vec4s, so that rounding does not grow with the number of parameters. The largest |g| is that of
// its bits as integers, so that a NaN counts as larger than infinity, and the norm of a gradient with one is NaN.
//
// Layout: gradients flat, in whole vec4s. One invocation owns one vec4 per step of its walk (lib/blocks.wgsl); barriers in total alone.

//#import blocks

override WORKGROUP_SIZE: u32 = 64;
override TERM: u32 = SQUARE;
const SQUARE = 0u;
const ABSOLUTE = 1u;
const LARGEST = 2u;
const POWER = 3u;

struct Sums {
  first: u32, // of the partial sums, of this run
  elements: u32, // loose_terms
  count: u32, // total
  power: f32, // POWER
  maximum: f32,
}

@group(0) @binding(0) var<storage, read_write> partials: array<f32>;
@group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> blocks: array<u32>;
@group(0) @binding(3) var<uniform> size: Size;
@group(0) @binding(4) var<uniform> sums: Sums;

@group(0) @binding(0) var<storage, read_write> norm: array<f32>;
@group(0) @binding(1) var<storage, read_write> factor: array<f32>;
@group(0) @binding(2) var<storage, read> all_partials: array<f32>;

@group(0) @binding(0) var<storage, read_write> clipped: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> by: array<f32>;

const LANES = 64u;
var<workgroup> shared_sums: array<f32, LANES>;

// The larger of two that are not negative, or NaN.
fn larger(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(max(bitcast<vec4<u32>>(a), bitcast<vec4<u32>>(b)));
}

fn joined(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  if (TERM == LARGEST) { return larger(a, b); }
  return a + b;
}

fn term(g: vec4<f32>) -> vec4<f32> {
  if (TERM == SQUARE) { return g * g; }
  let magnitude = abs(g);
  // pow of 0 may be anything but 0 where a compiler takes it by logarithms
  if (TERM == POWER) { return select(pow(magnitude, vec4<f32>(sums.power)), vec4<f32>(0.0), magnitude == vec4<f32>(0.0)); }
  return magnitude;
}

// The terms of the first `count` of four elements.
fn terms(i: u32, count: u32) -> vec4<f32> {
  return select(vec4<f32>(0.0), term(grad[i]), vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count));
}

fn store_sum(lane: u32, sum: vec4<f32>) {
  let first = joined(vec4<f32>(sum.x), vec4<f32>(sum.y));
  let second = joined(vec4<f32>(sum.z), vec4<f32>(sum.w));
  partials[sums.first + lane] = joined(first, second).x;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn packed_terms(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  var sum = vec4<f32>(0.0);
  var part = vec4<f32>(0.0);
  var taken = 0u;
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let count = blocks[block_of(i)] & 127u;
    let before = 4u * (i % BLOCK_VEC4S);
    part = joined(part, terms(i, max(count, before) - before));
    taken += 1u;
    if (taken % 16u == 0u) { sum = joined(sum, part); part = vec4<f32>(0.0); }
  }
  store_sum(id.x, joined(sum, part));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn loose_terms(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  var sum = vec4<f32>(0.0);
  var part = vec4<f32>(0.0);
  var taken = 0u;
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    part = joined(part, terms(i, sums.elements - 4u * i));
    taken += 1u;
    if (taken % 16u == 0u) { sum = joined(sum, part); part = vec4<f32>(0.0); }
  }
  store_sum(id.x, joined(sum, part));
}

@compute @workgroup_size(LANES)
fn total(@builtin(local_invocation_index) lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < sums.count; i += LANES) {
    sum = joined(vec4<f32>(sum), vec4<f32>(all_partials[i])).x;
  }
  shared_sums[lane] = sum;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      shared_sums[lane] = joined(vec4<f32>(shared_sums[lane]), vec4<f32>(shared_sums[lane + half])).x;
    }
    workgroupBarrier();
  }
  if (lane > 0u) { return; }
  var result = shared_sums[0];
  if (TERM == SQUARE) { result = sqrt(result); }
  if (TERM == POWER) { result = select(pow(result, 1.0 / sums.power), 0.0, result == 0.0); }
  norm[0] = result;
  let share = sums.maximum / (result + 1e-6);
  factor[0] = select(share, 1.0, share > 1.0); // a NaN stays one
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn rescale(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let scale = by[0];
  if (scale == 1.0) { return; }
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) { clipped[i] *= scale; }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn limit(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let most = vec4<f32>(sums.maximum);
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let g = clipped[i];
    clipped[i] = select(select(g, most, g > most), -most, g < -most); // a NaN stays one
  }
}
