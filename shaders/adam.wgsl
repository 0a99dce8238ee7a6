// Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), the update rules of PyTorch's torch.optim.Adam and AdamW, over packed
// parameters, t the number of a parameter's steps with this one:
//
//   g = grad + decay · w, or w = w · (1 − lr · decay) first (DECOUPLED)
//   m = m + (1 − β1) · (g − m)
//   v = v + (1 − β2) · (g² − v), or ∞ from the first g² on that float32 does not hold: such parameters stand still, as there
//   w = w − lr / (1 − β1ᵗ) · m / (√(v or its maximum so far) / √(1 − β2ᵗ) + EPS)
//
// advance      counts the step of each parameter, and works out what depends on its number: coefficients = (lr / (1 − β1ᵗ),
//              1 / √(1 − β2ᵗ), decay, or lr · decay where it is DECOUPLED). One invocation a parameter
// step         one invocation owns one vec4 per step of its walk (lib/blocks.wgsl). Traffic: seven passes
// step_amsgrad the same with the maximum of all v so far (Reddi et al. 2018). Nine passes
//
// Layouts: w, grad, exp_avg (m), exp_avg_sq (v) flat and equally long, in whole vec4s; rates = (lr, decay) of each parameter. No
// barriers. The count is the GPU's, so that a replay of a captured step goes on counting.

//#import blocks
//#import special

override WORKGROUP_SIZE: u32 = 64;
override GAIN1: f32 = 0; // 1 − β1, rounded once: 1.0 − f32(β1) would be off by some 1e-5 of it
override GAIN2: f32 = 0; // 1 − β2
override LOG_BETA1: f32 = 0; // natural logarithms, finite
override LOG_BETA2: f32 = 0;
override EPS: f32 = 0;
override DECOUPLED: bool = false;

struct Range { first: u32, count: u32 }

@group(0) @binding(0) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> exp_avg: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> exp_avg_sq: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> max_exp_avg_sq: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> blocks: array<u32>;
@group(0) @binding(6) var<uniform> size: Size;
@group(0) @binding(7) var<storage, read> coefficients: array<vec3<f32>>;

@group(0) @binding(0) var<storage, read_write> steps: array<u32>;
@group(0) @binding(1) var<storage, read_write> new_coefficients: array<vec3<f32>>;
@group(0) @binding(2) var<storage, read> rates: array<vec2<f32>>;
@group(0) @binding(3) var<uniform> range: Range;

// 1 − exp(x) for x ≤ 0. Near 0 by the series, since the difference would cancel: its first nine terms, x > −0.5.
fn one_minus_exp(x: f32) -> f32 {
  if (x < -0.5) { return 1.0 - exp(max(x, -80.0)); }
  var sum = 1.0;
  for (var n = 9.0; n > 1.0; n -= 1.0) { sum = 1.0 + x / n * sum; }
  return -x * sum;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn advance(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= range.count) { return; }
  let parameter = range.first + id.x;
  let t = steps[parameter] + 1u;
  steps[parameter] = t;
  let rate = rates[parameter];
  new_coefficients[parameter] = vec3<f32>(
    rate.x / one_minus_exp(f32(t) * LOG_BETA1),
    1.0 / sqrt(one_minus_exp(f32(t) * LOG_BETA2)),
    select(rate.y, rate.x * rate.y, DECOUPLED),
  );
}

// The first moment, after which `w[i]` takes its step by `denominator` of the second.
struct Moments { w: vec4<f32>, first: vec4<f32>, second: vec4<f32> }

fn moved(i: u32, decay: f32) -> Moments {
  var old = w[i];
  var g = grad[i];
  if (DECOUPLED) { old *= 1.0 - decay; } else { g += decay * old; }
  let before = exp_avg[i];
  let first = before + GAIN1 * (g - before);
  let square = exp_avg_sq[i];
  let squared = g * g;
  let beyond = is_infinite(squared) | is_infinite(square);
  let second = select(square + GAIN2 * (squared - square), squared + square, beyond);
  exp_avg[i] = first;
  exp_avg_sq[i] = second;
  return Moments(old, first, second);
}

fn finish(i: u32, at: Moments, second: vec4<f32>, c: vec3<f32>) {
  w[i] = at.w - c.x * at.first / (sqrt(second) * c.y + EPS);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let c = coefficients[parameter_of(blocks[block_of(i)])];
    let at = moved(i, c.z);
    finish(i, at, at.second, c);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn step_amsgrad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let c = coefficients[parameter_of(blocks[block_of(i)])];
    let at = moved(i, c.z);
    let most = max(max_exp_avg_sq[i], at.second);
    max_exp_avg_sq[i] = most;
    finish(i, at, most, c);
  }
}
