// One read per input, one write: the plain elementwise ops, and what their gradients need.
//
//   scale                               out = factor·a
//   add, sub, sub_reversed, mul, …      out = f(a, b)       a as large as out, b broadcast
//   eq, ne, lt, le, gt, ge              out = 1 or 0        a as large as out, b broadcast
//   normalized, variance_grad, chosen   out = f(a, b, c)    a as large as out, b and c broadcast alike
//   expand                              out = factor·b      b broadcast
//
// Layout: flat row-major float32, taken as vec4s (buffers are padded to 16 bytes). One invocation owns one vec4
// of the output per step of a grid-stride loop, so any size fits any grid. No barriers, no workgroup memory.
//
// MODE says where vec4 i of the output finds its broadcast operand:
//   SAME      b has the shape of out
//   CHANNELS  b repeats every `inner` vec4s, a power of two: [C] against [..., C]
//   MIDDLE    out is [outer, middle, inner], b is [outer, 1, inner]: [C], [N, 1, 1, C]
//   SPLAT     out is [outer, middle], b is [outer, 1]: scalars, [N, 1, 1, 1]
//   ANY       per element, by dimensions and strides (stride 0 where b repeats)
//   NUMBER    b is `factor`, a number

//#import nan

override WORKGROUP_SIZE: u32 = 256;
override MODE: u32 = SAME;

const SAME = 0u;
const CHANNELS = 1u;
const MIDDLE = 2u;
const SPLAT = 3u;
const ANY = 4u;
const NUMBER = 5u;

struct Sizes {
  vec4s: u32, // of the output
  factor: f32,
  inner: u32, // vec4s
  block: u32, // vec4s of middle × inner (MIDDLE), of middle (SPLAT)
  rank: u32, // ANY: of dims and strides, outermost first
  dims: array<vec4<u32>, 2>,
  strides: array<vec4<u32>, 2>,
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> sizes: Sizes;
// Both views of one buffer: an override can't choose a type, only which one is read.
@group(0) @binding(3) var<storage, read> b_vec4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> b_scalar: array<f32>;
@group(0) @binding(5) var<storage, read> c_vec4: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> c_scalar: array<f32>;

// Index of output vec4 i's operand: of a vec4 (SAME, CHANNELS, MIDDLE) or of a scalar (SPLAT).
fn operand(i: u32) -> u32 {
  if (MODE == CHANNELS) {
    return i & (sizes.inner - 1u);
  }
  if (MODE == MIDDLE) {
    return (i / sizes.block) * sizes.inner + i % sizes.inner;
  }
  if (MODE == SPLAT) {
    return i / sizes.block;
  }
  return i;
}

// Index of the operand of one output element.
fn strided(element: u32) -> u32 {
  var rest = element;
  var index = 0u;
  for (var d = sizes.rank; d > 0u; d--) {
    let axis = d - 1u;
    let dim = sizes.dims[axis / 4u][axis % 4u];
    index += (rest % dim) * sizes.strides[axis / 4u][axis % 4u];
    rest /= dim;
  }
  return index;
}

fn load_b(i: u32) -> vec4<f32> {
  if (MODE == NUMBER) {
    return vec4<f32>(sizes.factor);
  }
  if (MODE < SPLAT) {
    return b_vec4[operand(i)];
  }
  if (MODE == SPLAT) {
    return vec4<f32>(b_scalar[operand(i)]);
  }
  return vec4<f32>(
    b_scalar[strided(4u * i)],
    b_scalar[strided(4u * i + 1u)],
    b_scalar[strided(4u * i + 2u)],
    b_scalar[strided(4u * i + 3u)],
  );
}

fn load_c(i: u32) -> vec4<f32> {
  if (MODE < SPLAT) {
    return c_vec4[operand(i)];
  }
  if (MODE == SPLAT) {
    return vec4<f32>(c_scalar[operand(i)]);
  }
  return vec4<f32>(
    c_scalar[strided(4u * i)],
    c_scalar[strided(4u * i + 1u)],
    c_scalar[strided(4u * i + 2u)],
    c_scalar[strided(4u * i + 3u)],
  );
}

// The larger of two; NaN if one of them is.
fn larger(x: vec4<f32>, y: vec4<f32>) -> vec4<f32> {
  return select(select(max(x, y), y, are_nan(y)), x, are_nan(x));
}

fn share(x: vec4<f32>, y: vec4<f32>) -> vec4<f32> {
  return select(select(vec4<f32>(0.0), vec4<f32>(0.5), x == y), vec4<f32>(1.0), x > y);
}

// 1 where the comparison holds, and 0 elsewhere; `of_nan` where x or y is NaN.
fn flags(holds: vec4<bool>, x: vec4<f32>, y: vec4<f32>, of_nan: f32) -> vec4<f32> {
  return select(select(vec4<f32>(0.0), vec4<f32>(1.0), holds), vec4<f32>(of_nan), are_nan(x) | are_nan(y));
}

// Whether a condition is not 0, by its bits: NaN and numbers too small for a device's arithmetic are not 0.
fn are_true(v: vec4<f32>) -> vec4<bool> {
  return (bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu)) != vec4<u32>(0u);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn scale(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = sizes.factor * a[i];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn add(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = a[i] + load_b(i);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn sub(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = a[i] - load_b(i);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn sub_reversed(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = load_b(i) - a[i];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn mul(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = a[i] * load_b(i);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn div(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = a[i] / load_b(i);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn div_reversed(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = load_b(i) / a[i];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn maximum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = larger(a[i], load_b(i));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn minimum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = -larger(-a[i], -load_b(i));
  }
}

// What of the gradient of maximum goes to a: all where a is larger, half where both are equal.
@compute @workgroup_size(WORKGROUP_SIZE)
fn share_of_maximum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = share(a[i], load_b(i));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn share_of_minimum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = share(load_b(i), a[i]);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn eq(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let y = load_b(i);
    out[i] = flags(a[i] == y, a[i], y, 0.0);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn ne(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let y = load_b(i);
    out[i] = flags(a[i] != y, a[i], y, 1.0);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn lt(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let y = load_b(i);
    out[i] = flags(a[i] < y, a[i], y, 0.0);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn le(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let y = load_b(i);
    out[i] = flags(a[i] <= y, a[i], y, 0.0);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn gt(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let y = load_b(i);
    out[i] = flags(a[i] > y, a[i], y, 0.0);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn ge(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let y = load_b(i);
    out[i] = flags(a[i] >= y, a[i], y, 0.0);
  }
}

// where: a is the condition
@compute @workgroup_size(WORKGROUP_SIZE)
fn chosen(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = select(load_c(i), load_b(i), are_true(a[i]));
  }
}

// Gradients of where: a = dy, b the condition
@compute @workgroup_size(WORKGROUP_SIZE)
fn where_true(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = select(vec4<f32>(0.0), a[i], are_true(load_b(i)));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn where_false(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = select(a[i], vec4<f32>(0.0), are_true(load_b(i)));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn squared_difference(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let difference = a[i] - load_b(i);
    out[i] = difference * difference;
  }
}

// dx of normalize: a = dy, b the variance, factor its epsilon
@compute @workgroup_size(WORKGROUP_SIZE)
fn times_rstd(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = a[i] * inverseSqrt(load_b(i) + sizes.factor);
  }
}

// dmean of normalize: a = Σ dy
@compute @workgroup_size(WORKGROUP_SIZE)
fn minus_times_rstd(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = -a[i] * inverseSqrt(load_b(i) + sizes.factor);
  }
}

// dvariance of normalize: a = Σ dy·(x − mean)
@compute @workgroup_size(WORKGROUP_SIZE)
fn normalize_grad_variance(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    let rstd = inverseSqrt(load_b(i) + sizes.factor);
    out[i] = ((-0.5 * a[i] * rstd) * rstd) * rstd;
  }
}

// b the mean, c the variance
@compute @workgroup_size(WORKGROUP_SIZE)
fn normalized(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = (a[i] - load_b(i)) * inverseSqrt(load_c(i) + sizes.factor);
  }
}

// b the mean, c upstream
@compute @workgroup_size(WORKGROUP_SIZE)
fn variance_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = sizes.factor * (a[i] - load_b(i)) * load_c(i);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn expand(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = sizes.factor * load_b(i);
  }
}
