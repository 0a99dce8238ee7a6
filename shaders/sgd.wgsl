// Stochastic gradient descent, the update rule of PyTorch's torch.optim.SGD, over packed parameters:
//
//   g = grad + decay · w
//   v = MOMENTUM · v + (1 − DAMPENING) · g, or g in a parameter's first step
//   w = w − lr · (NESTEROV ? g + MOMENTUM · v : v)
//
// plain is the rule without momentum, w = w − lr · g.
//
// Layouts: w, v, grad flat and equally long, in whole vec4s; rates = (lr, decay) of each parameter. One invocation owns one vec4
// per step of its walk (lib/blocks.wgsl). No barriers. Traffic: five passes (three without momentum).
//
// A parameter has had no step yet where its velocity holds UNSTEPPED, the bits of a NaN that arithmetic doesn't make: that
// needs no count of steps, and is right for each parameter, whenever it first has a gradient, also under a replay. The
// velocities are bound as integers, since a float may lose a NaN's bits on its way.

//#import blocks

override WORKGROUP_SIZE: u32 = 64;
override MOMENTUM: f32 = 0;
override DAMPENING: f32 = 0;
override NESTEROV: bool = false;
const UNSTEPPED = 0x7fc5eed0u;

@group(0) @binding(0) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> rates: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> blocks: array<u32>;
@group(0) @binding(4) var<uniform> size: Size;
@group(0) @binding(5) var<storage, read_write> v: array<vec4<u32>>; // the bits of floats

@compute @workgroup_size(WORKGROUP_SIZE)
fn step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let rate = rates[parameter_of(blocks[block_of(i)])];
    let old = w[i];
    let g = grad[i] + rate.y * old;
    let before = v[i];
    let moved = MOMENTUM * bitcast<vec4<f32>>(before) + (1.0 - DAMPENING) * g;
    let velocity = select(moved, g, before == vec4<u32>(UNSTEPPED));
    v[i] = bitcast<vec4<u32>>(velocity);
    w[i] = old - rate.x * select(velocity, g + MOMENTUM * velocity, NESTEROV);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn plain(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let rate = rates[parameter_of(blocks[block_of(i)])];
    let old = w[i];
    w[i] = old - rate.x * (grad[i] + rate.y * old);
  }
}
