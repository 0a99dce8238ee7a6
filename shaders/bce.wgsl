// Binary cross entropy of logits z against targets t, element by element, with a factor p for what positive targets add:
//
//   loss = p t l(-z) + (1 - t) l(z),   l(z) = log(1 + exp(z)), which is -log(1 - s(z)) of s(z) = 1 / (1 + exp(-z))
//   dz = dloss * ((1 - t) s(z) - p t s(-z))
//   dt = dloss * (p l(-z) - l(z)),     without p that is -z
//   dp = dloss * t l(-z)
//
// For targets from 0 to 1 nothing cancels in the loss, however sure the logits are; nor in dz, where t is 0 or 1.
//
// Layout: flat float32, taken as vec4s (buffers are padded to 16 bytes). One invocation owns one vec4 per step of a
// grid-stride loop. No barriers, no workgroup memory. NaN among the logits stays NaN, by its bits: min and max may lose it.

//#import nan
//#import near_zero

override WORKGROUP_SIZE: u32 = 256;
override WEIGHTED: bool = false;

struct Size { vec4s: u32 }

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>; // the loss, dz, dt, dp
@group(0) @binding(1) var<storage, read> z: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> t: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> size: Size;
@group(0) @binding(4) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> p: array<vec4<f32>>;

// l(-z) and l(z).
struct Soft { minus: vec4<f32>, plus: vec4<f32> }

fn soft_of(v: vec4<f32>) -> Soft {
  let both = log1p(exp(-min(abs(v), vec4<f32>(200)))); // exp(-200) is 0
  let is_nan = are_nan(v);
  return Soft(select(max(-v, vec4<f32>(0)) + both, v, is_nan), select(max(v, vec4<f32>(0)) + both, v, is_nan));
}

// p t
fn positive(i: u32) -> vec4<f32> {
  if (WEIGHTED) { return p[i] * t[i]; }
  return t[i];
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let soft = soft_of(z[i]);
    out[i] = positive(i) * soft.minus + (1 - t[i]) * soft.plus;
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_logits(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let e = exp(-min(abs(z[i]), vec4<f32>(200)));
    let larger = 1 / (1 + e);
    let is_positive = z[i] >= vec4<f32>(0);
    let plus = larger * select(e, vec4<f32>(1), is_positive);
    let minus = larger * select(vec4<f32>(1), e, is_positive);
    out[i] = dy[i] * select((1 - t[i]) * plus - positive(i) * minus, z[i], are_nan(z[i]));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_target(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) {
    if (WEIGHTED) {
      let soft = soft_of(z[i]);
      out[i] = dy[i] * (p[i] * soft.minus - soft.plus);
    } else {
      out[i] = dy[i] * -z[i];
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_pos_weight(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = dy[i] * (t[i] * soft_of(z[i]).minus); }
}
