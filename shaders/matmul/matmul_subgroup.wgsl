enable subgroups;

// Matrix product for adapters whose lanes are a processor's SIMD lanes; see conv2d_subgroup.wgsl for why.
//
//   out[m,n] = bias[n] + Σ_k a(m,k) · b(k,n)
//
// Layouts as in matmul.wgsl: out [M, N], a(m,k) = a[m·A_M + k·A_K], b(k,n) = b[k·B_K + n·B_N]. A_VEC4 and B_VEC4 say
// which way an operand may be read four at a time.
// One invocation owns 4 rows × 8 or 16 columns, a workgroup WORKGROUP · 4 rows of the same columns. Each lane loads one
// column of b, four k long, and hands it around with subgroupBroadcast. No barriers, no workgroup memory.

override A_VEC4: u32 = 0; // 0: number by number, 1: along k, 2: along m
override B_VEC4: u32 = 0; // 0: number by number, 1: along k
override NARROW: bool = false; // subgroups may have as few as 4 lanes
override WORKGROUP: u32 = 64;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
// Each input is bound twice, as numbers and as vec4s.
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> a4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read> b4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
struct Sizes { M: u32, N: u32, K: u32, A_M: u32, A_K: u32, B_K: u32, B_N: u32, has_bias: u32 }
@group(0) @binding(6) var<uniform> size: Sizes;

// a(m, k) … a(m, k + 3), zeros past the end
fn row_of_a(m: u32, k: u32) -> vec4<f32> {
  let at = min(m, size.M - 1) * size.A_M;
  if (A_VEC4 == 1) {
    return a4[(at + k) / 4];
  }
  let ks = k + vec4<u32>(0, 1, 2, 3);
  let i = at + min(ks, vec4<u32>(size.K - 1)) * size.A_K;
  return select(vec4<f32>(0), vec4<f32>(a[i.x], a[i.y], a[i.z], a[i.w]), ks < vec4<u32>(size.K));
}

// [k][row]: four of each
fn block_of_a(m: u32, k: u32) -> mat4x4<f32> {
  if (A_VEC4 == 2) {
    // K is a multiple of 4 here as well.
    let at = (k * size.A_K + min(m, size.M - 4)) / 4;
    return mat4x4<f32>(a4[at], a4[at + size.A_K / 4], a4[at + size.A_K / 2], a4[at + size.A_K / 4 * 3]);
  }
  return transpose(mat4x4<f32>(row_of_a(m, k), row_of_a(m + 1, k), row_of_a(m + 2, k), row_of_a(m + 3, k)));
}

// b(k, n) … b(k + 3, n), zeros past the end
fn column_of_b(k: u32, n: u32) -> vec4<f32> {
  let at = min(n, size.N - 1) * size.B_N;
  if (B_VEC4 == 1) {
    return b4[(at + k) / 4];
  }
  let ks = k + vec4<u32>(0, 1, 2, 3);
  let i = at + min(ks, vec4<u32>(size.K - 1)) * size.B_K;
  return select(vec4<f32>(0), vec4<f32>(b[i.x], b[i.y], b[i.z], b[i.w]), ks < vec4<u32>(size.K));
}

// acc[row] + Σ_k as_[k][row] · b[k], as a chain: fewer numbers in flight than with a product of its own.
fn chain(acc: vec4<f32>, as_: mat4x4<f32>, b_: vec4<f32>) -> vec4<f32> {
  var sum = fma(as_[0], vec4<f32>(b_.x), acc);
  sum = fma(as_[1], vec4<f32>(b_.y), sum);
  sum = fma(as_[2], vec4<f32>(b_.z), sum);
  return fma(as_[3], vec4<f32>(b_.w), sum);
}

// acc[n][row] += Σ_k as_[k][row] · b(k, n0 + n), n = 0 … 7
fn multiply(acc: ptr<function, array<vec4<f32>, 8>>, as_: mat4x4<f32>, k: u32, n0: u32, lane: u32) {
  let first = column_of_b(k, n0 + (lane & select(7u, 3u, NARROW)));
  (*acc)[0] = chain((*acc)[0], as_, subgroupBroadcast(first, 0u));
  (*acc)[1] = chain((*acc)[1], as_, subgroupBroadcast(first, 1u));
  (*acc)[2] = chain((*acc)[2], as_, subgroupBroadcast(first, 2u));
  (*acc)[3] = chain((*acc)[3], as_, subgroupBroadcast(first, 3u));
  if (NARROW) {
    let second = column_of_b(k, n0 + 4 + (lane & 3));
    (*acc)[4] = chain((*acc)[4], as_, subgroupBroadcast(second, 0u));
    (*acc)[5] = chain((*acc)[5], as_, subgroupBroadcast(second, 1u));
    (*acc)[6] = chain((*acc)[6], as_, subgroupBroadcast(second, 2u));
    (*acc)[7] = chain((*acc)[7], as_, subgroupBroadcast(second, 3u));
  } else {
    (*acc)[4] = chain((*acc)[4], as_, subgroupBroadcast(first, 4u));
    (*acc)[5] = chain((*acc)[5], as_, subgroupBroadcast(first, 5u));
    (*acc)[6] = chain((*acc)[6], as_, subgroupBroadcast(first, 6u));
    (*acc)[7] = chain((*acc)[7], as_, subgroupBroadcast(first, 7u));
  }
}

// Two quads of columns, one after the other in a loop, which keeps what there is to compile small. `acc` at constant indices: with
// others some compilers would keep it in memory throughout.
fn store(acc: ptr<function, array<vec4<f32>, 8>>, m: u32, n0: u32) {
  let low = mat4x4<f32>((*acc)[0], (*acc)[1], (*acc)[2], (*acc)[3]);
  let high = mat4x4<f32>((*acc)[4], (*acc)[5], (*acc)[6], (*acc)[7]);
  let end = min(n0 + 8, size.N);
  for (var n = n0; n < end; n++) {
    let is_high = n - n0 >= 4;
    let i = (n - n0) % 4;
    let first = select(low[0], high[0], is_high);
    let second = select(low[1], high[1], is_high);
    let third = select(low[2], high[2], is_high);
    let fourth = select(low[3], high[3], is_high);
    let column = select(select(first, second, i == 1), select(third, fourth, i == 3), i >= 2);
    store_column(column, m, n);
  }
}
fn store_column(column: vec4<f32>, m: u32, n: u32) {
  let sums = column + select(0.0, bias[n], size.has_bias != 0);
  for (var i = 0u; i < 4 && m + i < size.M; i++) {
    out[(m + i) * size.N + n] = sums[i];
  }
}

@compute @workgroup_size(WORKGROUP)
fn forward_8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let id = workgroup.x + workgroup.y * groups.x;
  let blocks = (size.N + 7) / 8;
  let n0 = (id % blocks) * 8;
  let m = ((id / blocks) * WORKGROUP + lane) * 4;
  var acc: array<vec4<f32>, 8>;
  for (var k = 0u; k < size.K; k += 4) {
    multiply(&acc, block_of_a(m, k), k, n0, sublane);
  }
  store(&acc, m, n0);
}

@compute @workgroup_size(WORKGROUP)
fn forward_16(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let id = workgroup.x + workgroup.y * groups.x;
  let blocks = (size.N + 15) / 16;
  let n0 = (id % blocks) * 16;
  let m = ((id / blocks) * WORKGROUP + lane) * 4;
  var low: array<vec4<f32>, 8>;
  var high: array<vec4<f32>, 8>;
  for (var k = 0u; k < size.K; k += 4) {
    let as_ = block_of_a(m, k);
    multiply(&low, as_, k, n0, sublane);
    multiply(&high, as_, k, n0 + 8, sublane);
  }
  store(&low, m, n0);
  store(&high, m, n0 + 8);
}
