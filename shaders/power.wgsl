// y = a^b, element by element, and its gradients:
//
//   da = dy · b·a^(b − 1), 0 where b = 0
//   db = dy · y·log a, 0 where a = 0 and b >= 0; NaN where a < 0
//
// Where an element is 0, 1, infinite, NaN, or a is negative, it is as in C's powf and PyTorch, by bits.
//
// Layout: flat float32 of one size, taken as vec4s (buffers are padded to 16 bytes). One invocation owns one vec4 per step of a
// grid-stride loop. No barriers, no workgroup memory.

//#import nan
//#import special

override WORKGROUP_SIZE: u32 = 256;

struct Size { vec4s: u32 }

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>; // y, da, db
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> size: Size;
@group(0) @binding(4) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> dy: array<vec4<f32>>;

fn power(v: vec4<f32>, p: vec4<f32>) -> vec4<f32> {
  let m = abs(v);
  let half = 0.5 * p;
  let is_whole = floor(p) == p;
  let is_odd = is_whole & (floor(half) != half) & !is_infinite(p);
  let is_up = p > vec4<f32>(0);
  let none = m == vec4<f32>(0);
  let all = is_infinite(v);
  var r = pow(m, p);
  r = patched(r, 0, (none & is_up) | (all & !is_up));
  r = patched(r, INFINITY, (none & !is_up) | (all & is_up));
  let grows = (m > vec4<f32>(1)) == is_up;
  r = patched(r, 0, is_infinite(p) & !grows);
  r = patched(r, INFINITY, is_infinite(p) & grows);
  r = select(r, vec4<f32>(1), is_infinite(p) & (m == vec4<f32>(1)));
  let has_sign = (bitcast<vec4<u32>>(v) & vec4<u32>(0x80000000u)) != vec4<u32>(0);
  r = select(r, -r, has_sign & is_odd);
  r = patched(r, NAN, is_negative(v) & !all & !is_whole);
  r = select(r, v, are_nan(v));
  r = select(r, p, are_nan(p));
  // Also of NaN.
  return select(r, vec4<f32>(1), (p == vec4<f32>(0)) | ((v == vec4<f32>(1)) & !are_nan(v)));
}

fn log_base(v: vec4<f32>) -> vec4<f32> {
  let zero = patched(log(v), 0xff800000u, v == vec4<f32>(0));
  return select(patched(zero, NAN, is_negative(v)), v, are_nan(v) | (is_infinite(v) & !is_negative(v)));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = power(a[i], b[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_base(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let p = b[i];
    out[i] = select(dy[i] * (p * power(a[i], p - 1)), vec4<f32>(0), (p == vec4<f32>(0)) & !are_nan(p));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_exponent(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let zero = (a[i] == vec4<f32>(0)) & (b[i] >= vec4<f32>(0)) & !are_nan(a[i]) & !are_nan(b[i]);
    out[i] = select(dy[i] * (y[i] * log_base(a[i])), vec4<f32>(0), zero);
  }
}
