// y = f(x), element by element, and dx = dy * f'(x): of x, or of y where that is less work. What functions give for NaN, for
// infinity and beyond float32's range is said here, by bits where need be: WGSL leaves it open.
//
// Layout: flat float32, taken as vec4s (buffers are padded to 16 bytes). One invocation owns one vec4 per step of a
// grid-stride loop. No barriers, no workgroup memory.

//#import nan
//#import near_zero
//#import special

override WORKGROUP_SIZE: u32 = 256;
override BETA: f32 = 1; // softplus
override THRESHOLD: f32 = 20;
override LOW: f32 = 0; // clamp
override HIGH: f32 = 0;
override HAS_LOW: bool = false;
override HAS_HIGH: bool = false;
override EXPONENT: f32 = 2; // pow
override IS_INTEGER: bool = true;
override IS_ODD: bool = false;

struct Size { vec4s: u32 }

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>; // y, dx
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> size: Size;
@group(0) @binding(3) var<storage, read> dy: array<vec4<f32>>;

fn exp_of(v: vec4<f32>) -> vec4<f32> {
  let inside = exp(clamp(v, vec4<f32>(-104), vec4<f32>(88.7)));
  // Between 88.7 and the largest number's logarithm the result is still finite.
  let near = inside * exp(clamp(v - 88.7, vec4<f32>(0), vec4<f32>(0.0228)));
  return select(patched(near, INFINITY, v > vec4<f32>(88.72284)), v, are_nan(v));
}

fn log_of(v: vec4<f32>) -> vec4<f32> {
  let zero = patched(log(v), 0xff800000u, v == vec4<f32>(0));
  let negative = patched(zero, NAN, is_negative(v));
  return select(negative, v, are_nan(v) | (is_infinite(v) & !is_negative(v)));
}

fn sqrt_of(v: vec4<f32>) -> vec4<f32> {
  let negative = patched(sqrt(v), NAN, is_negative(v));
  return select(negative, v, are_nan(v) | (v == vec4<f32>(0)) | (is_infinite(v) & !is_negative(v)));
}

fn rsqrt_of(v: vec4<f32>) -> vec4<f32> {
  let r = inverseSqrt(v);
  let refined = r * (1.5 - 0.5 * v * r * r); // inverseSqrt may be off by 2 ulp
  let zero = patched(refined, INFINITY, v == vec4<f32>(0));
  let infinite = patched(zero, 0, is_infinite(v));
  return select(patched(infinite, NAN, is_negative(v)), v, are_nan(v));
}

fn sigmoid_of(v: vec4<f32>) -> vec4<f32> {
  let e = exp(-min(abs(v), vec4<f32>(200))); // exp(-200) is 0
  let larger = 1 / (1 + e);
  return select(larger * select(e, vec4<f32>(1), v >= vec4<f32>(0)), v, are_nan(v));
}

fn tanh_of(v: vec4<f32>) -> vec4<f32> {
  // A continued fraction up to 1; beyond, exp loses nothing.
  let s = min(v * v, vec4<f32>(1));
  let small = v * (135135 + s * (17325 + s * (378 + s))) / (135135 + s * (62370 + s * (3150 + s * 28)));
  let t = exp(-2 * min(abs(v), vec4<f32>(20)));
  let large = sign(v) * ((1 - t) / (1 + t));
  return select(select(large, small, abs(v) < vec4<f32>(1)), v, are_nan(v));
}

fn softplus_of(v: vec4<f32>) -> vec4<f32> {
  let z = BETA * v;
  let soft = (max(z, vec4<f32>(0)) + log1p(exp(-min(abs(z), vec4<f32>(200))))) / BETA;
  return select(soft, v, are_nan(v) | (z > vec4<f32>(THRESHOLD)));
}

fn clamp_of(v: vec4<f32>) -> vec4<f32> {
  let low = select(v, max(v, vec4<f32>(LOW)), HAS_LOW);
  let high = select(low, min(low, vec4<f32>(HIGH)), HAS_HIGH);
  return select(high, v, are_nan(v));
}

fn is_within(v: vec4<f32>) -> vec4<bool> {
  let low = vec4<bool>(!HAS_LOW) | (v >= vec4<f32>(LOW));
  let high = vec4<bool>(!HAS_HIGH) | (v <= vec4<f32>(HIGH));
  return low & high & !are_nan(v);
}

// v to the power of p. Small integers by multiplication, since pow is off by more the larger its result is.
fn power(v: vec4<f32>, p: f32, odd: bool) -> vec4<f32> {
  if (p == 0) { return vec4<f32>(1); }
  let m = abs(v);
  var r: vec4<f32>;
  if (IS_INTEGER && abs(p) <= 8) {
    r = m;
    for (var i = 1.0; i < abs(p); i += 1) { r *= m; }
    if (p < 0) { r = 1 / r; }
  } else {
    r = pow(m, vec4<f32>(p));
  }
  r = patched(r, select(INFINITY, 0u, p > 0), m == vec4<f32>(0));
  r = patched(r, select(0u, INFINITY, p > 0), is_infinite(v));
  let negative = is_negative(v) | (bitcast<vec4<u32>>(v) == vec4<u32>(0x80000000u));
  if (IS_INTEGER) {
    r = select(r, -r, negative & vec4<bool>(odd));
  } else {
    r = patched(r, NAN, is_negative(v) & !is_infinite(v));
  }
  return select(r, v, are_nan(v));
}

fn power_slope(v: vec4<f32>) -> vec4<f32> {
  if (EXPONENT == 0) { return vec4<f32>(0); }
  return EXPONENT * power(v, EXPONENT - 1, !IS_ODD);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn exp_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = exp_of(x[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn exp_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = dy[i] * y[i]; }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn log_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = log_of(x[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn log_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = dy[i] / x[i]; }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn sqrt_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = sqrt_of(x[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn sqrt_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = dy[i] * 0.5 / y[i]; }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn rsqrt_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = rsqrt_of(x[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn rsqrt_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = -0.5 * dy[i] * y[i] * (y[i] * y[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn abs_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = abs(x[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn abs_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = select(dy[i] * sign(x[i]), x[i], are_nan(x[i])); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn sigmoid_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = sigmoid_of(x[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn sigmoid_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = dy[i] * (y[i] * (1 - y[i])); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn tanh_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = tanh_of(x[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn tanh_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = dy[i] * (1 - y[i] * y[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn softplus_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = softplus_of(x[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn softplus_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = select(dy[i] * sigmoid_of(BETA * x[i]), dy[i], BETA * x[i] > vec4<f32>(THRESHOLD)); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn clamp_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = clamp_of(x[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn clamp_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = select(vec4<f32>(0), dy[i], is_within(x[i])); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn pow_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = power(x[i], EXPONENT, IS_ODD); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn pow_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = dy[i] * power_slope(x[i]); }
}
