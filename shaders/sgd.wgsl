// Stochastic gradient descent, the update rule of PyTorch's torch.optim.SGD, over packed parameters:
//
//   g = grad + WEIGHT_DECAY · w
//   v = first step ? g : MOMENTUM · v + (1 − DAMPENING) · g
//   w = w − lr · (NESTEROV ? g + MOMENTUM · v : v)
//
// plain is the rule without momentum, w = w − lr · g. advance counts the steps, for the first-step case.
//
// Layouts: w, v, grad flat and equally long, in whole vec4s; state = (lr, steps done). One invocation owns one vec4 per
// step of a grid-stride loop. No barriers. Traffic: five passes (three without momentum).

override WORKGROUP_SIZE: u32 = 64;
override MOMENTUM: f32 = 0;
override DAMPENING: f32 = 0;
override WEIGHT_DECAY: f32 = 0;
override NESTEROV: bool = false;

struct Size { vec4s: u32 }

@group(0) @binding(0) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> state: array<f32>;
@group(0) @binding(3) var<uniform> size: Size;
@group(0) @binding(4) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> counter: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let lr = state[0];
  // v starts at 0: only the dampening tells the first step from the others.
  let weight = select(1.0 - DAMPENING, 1.0, state[1] == 0.0);
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let old = w[i];
    let g = grad[i] + WEIGHT_DECAY * old;
    let velocity = MOMENTUM * v[i] + weight * g;
    v[i] = velocity;
    w[i] = old - lr * select(velocity, g + MOMENTUM * velocity, NESTEROV);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn plain(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let lr = state[0];
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let old = w[i];
    w[i] = old - lr * (grad[i] + WEIGHT_DECAY * old);
  }
}

@compute @workgroup_size(1)
fn advance() {
  counter[1] += 1.0;
}
