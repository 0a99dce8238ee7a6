// RMSprop (Hinton 2012), the update rule of PyTorch's torch.optim.RMSprop, over packed parameters:
//
//   g = grad + decay · w
//   s = s + GAIN · (g² − s), or ∞ from the first g² on that float32 does not hold: such parameters stand still, as there
//   a = a + GAIN · (g − a)                      (centered; else a = 0)
//   d = g / (√(s − a²) + EPS)
//   w = w − lr · d, or b = MOMENTUM · b + d and w = w − lr · b
//
// Four entry points, by what they bind: step, and with the buffer b (_momentum), with the mean a of gradients (_centered), with both.
//
// Layouts: w, grad, square_avg (s), grad_avg (a), momentum_buffer (b) flat and equally long, in whole vec4s; rates = (lr, decay) of
// each parameter. One invocation owns one vec4 per step of its walk (lib/blocks.wgsl). No barriers. Traffic: five passes, two more for b
// and two more for a.

//#import blocks
//#import special

override WORKGROUP_SIZE: u32 = 64;
override GAIN: f32 = 0; // 1 − alpha, rounded once: 1.0 − f32(alpha) would be off by some 1e-6 of it
override EPS: f32 = 0;
override MOMENTUM: f32 = 0;

@group(0) @binding(0) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> rates: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> blocks: array<u32>;
@group(0) @binding(4) var<uniform> size: Size;
@group(0) @binding(5) var<storage, read_write> square_avg: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> momentum_buffer: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> grad_avg: array<vec4<f32>>;

fn rate_of(i: u32) -> vec2<f32> {
  return rates[parameter_of(blocks[block_of(i)])];
}

fn gradient(i: u32, decay: f32) -> vec4<f32> {
  return grad[i] + decay * w[i];
}

fn new_square(i: u32, g: vec4<f32>) -> vec4<f32> {
  let before = square_avg[i];
  let squared = g * g;
  let beyond = is_infinite(squared) | is_infinite(before);
  let square = select(before + GAIN * (squared - before), squared + before, beyond);
  square_avg[i] = square;
  return square;
}

// s − a², which rounding may make less than 0.
fn new_variance(i: u32, g: vec4<f32>) -> vec4<f32> {
  let before = grad_avg[i];
  let average = before + GAIN * (g - before);
  grad_avg[i] = average;
  let square = new_square(i, g);
  // Beyond float32 the square of the average may be infinite, too.
  return select(max(square - average * average, vec4<f32>(0.0)), square, is_infinite(square));
}

fn direction(g: vec4<f32>, square: vec4<f32>) -> vec4<f32> {
  return g / (sqrt(square) + EPS);
}

fn with_momentum(i: u32, d: vec4<f32>) -> vec4<f32> {
  let buffer = MOMENTUM * momentum_buffer[i] + d;
  momentum_buffer[i] = buffer;
  return buffer;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let rate = rate_of(i);
    let g = gradient(i, rate.y);
    w[i] -= rate.x * direction(g, new_square(i, g));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn step_momentum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let rate = rate_of(i);
    let g = gradient(i, rate.y);
    w[i] -= rate.x * with_momentum(i, direction(g, new_square(i, g)));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn step_centered(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let rate = rate_of(i);
    let g = gradient(i, rate.y);
    w[i] -= rate.x * direction(g, new_variance(i, g));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn step_centered_momentum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let rate = rate_of(i);
    let g = gradient(i, rate.y);
    w[i] -= rate.x * with_momentum(i, direction(g, new_variance(i, g)));
  }
}
