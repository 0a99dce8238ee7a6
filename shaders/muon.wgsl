// Muon (Jordan et al. 2024), the parts of PyTorch's torch.optim.Muon that go element by element, over packed parameters:
//
//   direct   b = b + GAIN · (g − b); d = NESTEROV ? g + MOMENTUM · (b − g) : b
//   apply    w = w − lr · (decay · w + d), d made orthogonal in between
//
// Layouts: w, grad, momentum_buffer (b), direction (d) flat and equally long, in whole vec4s; rates = (lr, decay) of each parameter.
// One invocation owns one vec4 per step of its walk (lib/blocks.wgsl). No barriers.

//#import blocks

override WORKGROUP_SIZE: u32 = 64;
override GAIN: f32 = 0; // 1 − momentum, rounded once
override MOMENTUM: f32 = 0;
override NESTEROV: bool = false;

@group(0) @binding(0) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> rates: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> blocks: array<u32>;
@group(0) @binding(4) var<uniform> size: Size;
@group(0) @binding(5) var<storage, read_write> momentum_buffer: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> new_direction: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> direction: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn direct(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let g = grad[i];
    let before = momentum_buffer[i];
    let buffer = before + GAIN * (g - before);
    momentum_buffer[i] = buffer;
    new_direction[i] = select(buffer, g + MOMENTUM * (buffer - g), NESTEROV);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn apply(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let walk = walk_of(id.x, groups.x * WORKGROUP_SIZE);
  for (var i = walk.first; i < walk.end; i += walk.step) {
    let rate = rates[parameter_of(blocks[block_of(i)])];
    let old = w[i];
    w[i] = old - rate.x * (rate.y * old + direction[i]);
  }
}
