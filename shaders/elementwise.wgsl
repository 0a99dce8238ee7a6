// One read per input, one write: the plain elementwise ops, and what their gradients need.
//
//   scale     out = factor·a
//   binary    out = f(a, b)                   a as large as out, b broadcast
//   ternary   out = f(a, b, c)                a as large as out, b and c broadcast alike
//   expand    out = factor·b                  b broadcast
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

override WORKGROUP_SIZE: u32 = 256;
override OP: u32 = 0;
override MODE: u32 = 0;

const SAME = 0u;
const CHANNELS = 1u;
const MIDDLE = 2u;
const SPLAT = 3u;

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

fn binary_op(x: vec4<f32>, y: vec4<f32>) -> vec4<f32> {
  switch (OP) {
    case 0u: { return x + y; }
    case 1u: { return x - y; }
    case 2u: { return y - x; }
    case 3u: { return x * y; }
    case 4u: { return (x - y) * (x - y); }
    // normalize's gradients; y is the variance, sizes.factor its epsilon
    case 5u: { return x * inverseSqrt(y + sizes.factor); } // dx, x = dy
    case 6u: { return -x * inverseSqrt(y + sizes.factor); } // dmean, x = Σ dy
    default: { // dvariance, x = Σ dy·(x − mean)
      let rstd = inverseSqrt(y + sizes.factor);
      return ((-0.5 * x * rstd) * rstd) * rstd;
    }
  }
}

fn ternary_op(x: vec4<f32>, y: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
  switch (OP) {
    case 0u: { return (x - y) * inverseSqrt(z + sizes.factor); } // normalize: y mean, z variance
    default: { return sizes.factor * (x - y) * z; } // variance's gradient: y mean, z upstream
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn scale(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = sizes.factor * a[i];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn binary(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = binary_op(a[i], load_b(i));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn ternary(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = ternary_op(a[i], load_b(i), load_c(i));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn expand(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    out[i] = sizes.factor * load_b(i);
  }
}
