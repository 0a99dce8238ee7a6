// Matrix product for GPUs, in tiles of workgroup memory and registers:
//
//   out[m,n] = bias[n] + Σ_k a(m,k) · b(k,n)
//
// Layouts as in matmul.wgsl: out [M, N], a(m,k) = a[m·A_M + k·A_K], b(k,n) = b[k·B_K + n·B_N]. A_VEC4 and B_VEC4 say
// which way an operand may be read four at a time.
//
// One workgroup of 64 owns a tile of 64 × 64, one invocation 8 × 8 of it as two halves of 4 each way, so that neighbours
// read neighbouring vec4s of workgroup memory. 16 k at a time are loaded, in blocks of 4 × 4; one barrier stands before
// they are read, one before they are overwritten.

override A_VEC4: u32 = 0; // 0: number by number, 1: along k, 2: along m
override B_VEC4: u32 = 0; // 0: number by number, 1: along k, 2: along n

const TILE = 64u;
const BK = 16u;
const WORKGROUP = 64u;
const ROW = 17u; // TILE / 4 and one more, which spreads stores over the banks
const CHUNK_SIZE = BK * ROW;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
// Each input is bound twice, as numbers and as vec4s.
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> a4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read> b4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
struct Sizes { M: u32, N: u32, K: u32, A_M: u32, A_K: u32, B_K: u32, B_N: u32, has_bias: u32 }
@group(0) @binding(6) var<uniform> size: Sizes;

var<workgroup> rows_tile: array<vec4<f32>, CHUNK_SIZE>; // [k][row in fours]
var<workgroup> columns_tile: array<vec4<f32>, CHUNK_SIZE>; // [k][column in fours]

// a(m, k) … a(m, k + 3), zeros past the end
fn row_of_a(m: u32, k: u32) -> vec4<f32> {
  let at = min(m, size.M - 1) * size.A_M;
  if (A_VEC4 == 1) {
    return select(vec4<f32>(0), a4[(at + min(k, size.K - 4)) / 4], k < size.K);
  }
  let ks = k + vec4<u32>(0, 1, 2, 3);
  let i = at + min(ks, vec4<u32>(size.K - 1)) * size.A_K;
  return select(vec4<f32>(0), vec4<f32>(a[i.x], a[i.y], a[i.z], a[i.w]), ks < vec4<u32>(size.K));
}

// b(k, n) … b(k + 3, n), zeros past the end
fn column_of_b(n: u32, k: u32) -> vec4<f32> {
  let at = min(n, size.N - 1) * size.B_N;
  if (B_VEC4 == 1) {
    return select(vec4<f32>(0), b4[(at + min(k, size.K - 4)) / 4], k < size.K);
  }
  let ks = k + vec4<u32>(0, 1, 2, 3);
  let i = at + min(ks, vec4<u32>(size.K - 1)) * size.B_K;
  return select(vec4<f32>(0), vec4<f32>(b[i.x], b[i.y], b[i.z], b[i.w]), ks < vec4<u32>(size.K));
}

// a(m, k) … a(m + 3, k), zeros past the end
fn column_of_a(m: u32, k: u32) -> vec4<f32> {
  let at = (min(k, size.K - 1) * size.A_K + min(m, size.M - 4)) / 4;
  return select(vec4<f32>(0), a4[at], k < size.K);
}
// b(k, n) … b(k, n + 3), zeros past the end
fn row_of_b(n: u32, k: u32) -> vec4<f32> {
  let at = (min(k, size.K - 1) * size.B_K + min(n, size.N - 4)) / 4;
  return select(vec4<f32>(0), b4[at], k < size.K);
}

// [k][line]: 4 × 4 of a, or of b. Written out, since a compiler that leaves a loop a loop keeps what it indexes in memory.
fn block_of_a(m: u32, k: u32) -> mat4x4<f32> {
  if (A_VEC4 == 2) {
    return mat4x4<f32>(column_of_a(m, k), column_of_a(m, k + 1), column_of_a(m, k + 2), column_of_a(m, k + 3));
  }
  return transpose(mat4x4<f32>(row_of_a(m, k), row_of_a(m + 1, k), row_of_a(m + 2, k), row_of_a(m + 3, k)));
}
fn block_of_b(n: u32, k: u32) -> mat4x4<f32> {
  if (B_VEC4 == 2) {
    return mat4x4<f32>(row_of_b(n, k), row_of_b(n, k + 1), row_of_b(n, k + 2), row_of_b(n, k + 3));
  }
  return transpose(
    mat4x4<f32>(column_of_b(n, k), column_of_b(n + 1, k), column_of_b(n + 2, k), column_of_b(n + 3, k)),
  );
}

fn load_chunk(m: u32, n: u32, k: u32, lane: u32) {
  for (var i = lane; i < BK / 4 * TILE / 4; i += WORKGROUP) {
    // Neighbouring lanes read along k, or along m or n if that is how the operand lies.
    let along = vec2<u32>(i % (BK / 4), i / (BK / 4));
    let across = vec2<u32>(i / (TILE / 4), i % (TILE / 4));
    let at_a = select(along, across, A_VEC4 == 2);
    let at_b = select(along, across, B_VEC4 == 2);
    let from_a = block_of_a(m + at_a.y * 4, k + at_a.x * 4);
    let from_b = block_of_b(n + at_b.y * 4, k + at_b.x * 4);
    let a_at = at_a.x * 4 * ROW + at_a.y;
    rows_tile[a_at] = from_a[0];
    rows_tile[a_at + ROW] = from_a[1];
    rows_tile[a_at + 2 * ROW] = from_a[2];
    rows_tile[a_at + 3 * ROW] = from_a[3];
    let b_at = at_b.x * 4 * ROW + at_b.y;
    columns_tile[b_at] = from_b[0];
    columns_tile[b_at + ROW] = from_b[1];
    columns_tile[b_at + 2 * ROW] = from_b[2];
    columns_tile[b_at + 3 * ROW] = from_b[3];
  }
}

fn store_one(m: u32, n: u32, value: f32) {
  if (m < size.M && n < size.N) {
    out[m * size.N + n] = value + select(0.0, bias[min(n, size.N - 1)], size.has_bias != 0);
  }
}
fn store(m: u32, n: u32, value: vec4<f32>) {
  store_one(m, n, value.x);
  store_one(m, n + 1, value.y);
  store_one(m, n + 2, value.z);
  store_one(m, n + 3, value.w);
}
// Two halves of a row.
fn store_row(m: u32, n: u32, left: vec4<f32>, right: vec4<f32>) {
  store(m, n, left);
  store(m, n + 32, right);
}

@compute @workgroup_size(64)
fn forward(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let id = workgroup.x + workgroup.y * groups.x;
  let blocks = (size.N + TILE - 1) / TILE;
  let n = (id % blocks) * TILE;
  let m = (id / blocks) * TILE;
  let column = lane % 8;
  let row = lane / 8;
  var acc: array<vec4<f32>, 16>; // [row][half of the columns]
  for (var start = 0u; start < size.K; start += BK) {
    load_chunk(m, n, start, lane);
    workgroupBarrier();
    for (var k = 0u; k < BK; k++) {
      let a0 = rows_tile[k * ROW + row];
      let a1 = rows_tile[k * ROW + 8 + row];
      let b0 = columns_tile[k * ROW + column];
      let b1 = columns_tile[k * ROW + 8 + column];
      acc[0] = fma(vec4<f32>(a0.x), b0, acc[0]);
      acc[1] = fma(vec4<f32>(a0.x), b1, acc[1]);
      acc[2] = fma(vec4<f32>(a0.y), b0, acc[2]);
      acc[3] = fma(vec4<f32>(a0.y), b1, acc[3]);
      acc[4] = fma(vec4<f32>(a0.z), b0, acc[4]);
      acc[5] = fma(vec4<f32>(a0.z), b1, acc[5]);
      acc[6] = fma(vec4<f32>(a0.w), b0, acc[6]);
      acc[7] = fma(vec4<f32>(a0.w), b1, acc[7]);
      acc[8] = fma(vec4<f32>(a1.x), b0, acc[8]);
      acc[9] = fma(vec4<f32>(a1.x), b1, acc[9]);
      acc[10] = fma(vec4<f32>(a1.y), b0, acc[10]);
      acc[11] = fma(vec4<f32>(a1.y), b1, acc[11]);
      acc[12] = fma(vec4<f32>(a1.z), b0, acc[12]);
      acc[13] = fma(vec4<f32>(a1.z), b1, acc[13]);
      acc[14] = fma(vec4<f32>(a1.w), b0, acc[14]);
      acc[15] = fma(vec4<f32>(a1.w), b1, acc[15]);
    }
    workgroupBarrier();
  }
  let first = m + row * 4;
  let left = n + column * 4;
  store_row(first, left, acc[0], acc[1]);
  store_row(first + 1, left, acc[2], acc[3]);
  store_row(first + 2, left, acc[4], acc[5]);
  store_row(first + 3, left, acc[6], acc[7]);
  store_row(first + 32, left, acc[8], acc[9]);
  store_row(first + 33, left, acc[10], acc[11]);
  store_row(first + 34, left, acc[12], acc[13]);
  store_row(first + 35, left, acc[14], acc[15]);
}
