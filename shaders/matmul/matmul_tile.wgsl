// Matrix product for GPUs, in tiles of workgroup memory and registers:
//
//   out[m,n] = bias[n] + Σ_k a(m,k) · b(k,n)
//
// Layouts as in matmul.wgsl: out [M, N], a(m,k) = a[m·A_M + k·A_K], b(k,n) = b[k·B_K + n·B_N]. A_VEC4 and B_VEC4 say
// which way an operand may be read four at a time.
//
// One workgroup owns a tile of 64 × 64, one invocation 8 × 8 of it as two halves of 4 each way, so that neighbours read neighbouring
// vec4s of workgroup memory. 64 lanes load 16 k at a time, in blocks of 4 × 4; one barrier stands before they are read, one before
// they are overwritten. Where few tiles leave a GPU idle, two times 64 lanes have 16 k each, and the sums of the second are added to
// those of the first in the end.

//#import product_8x8

override A_VEC4: u32 = 0; // 0: number by number, 1: along k, 2: along m
override B_VEC4: u32 = 0; // 0: number by number, 1: along k, 2: along n

override PARTS: u32 = 1; // 1 or 2

const TILE = 64u;
const LANES = 64u; // of a part
const PART = 16u; // k of a part, in a chunk
const ROW = 17u; // TILE / 4 and one more, which spreads stores over the banks
override BK: u32 = PARTS * PART;
override WORKGROUP: u32 = PARTS * LANES;
override CHUNK_SIZE: u32 = BK * ROW;

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

// Where the block of 4 × 4 of an operand that a lane loads lies in the first chunk: its first k, its first row or column, and, where it is
// read by vec4s, these. Rows and columns past the end repeat the last ones.
struct Source { k: u32, line: u32, at: vec4<u32> }

fn source_of_a(m: u32, part: u32, lane: u32) -> Source {
  // Neighbouring lanes read along k, or along m or n if that is how the operand lies.
  let j = vec4<u32>(0, 1, 2, 3);
  if (A_VEC4 == 2) {
    let k = part * PART + lane / (TILE / 4) * 4;
    let line = m + lane % (TILE / 4) * 4;
    return Source(k, line, ((k + j) * size.A_K + min(line, size.M - 4)) / 4);
  }
  let k = part * PART + lane % (PART / 4) * 4;
  let line = m + lane / (PART / 4) * 4;
  return Source(k, line, (min(line + j, vec4<u32>(size.M - 1)) * size.A_M + k) / 4);
}
fn source_of_b(n: u32, part: u32, lane: u32) -> Source {
  let j = vec4<u32>(0, 1, 2, 3);
  if (B_VEC4 == 2) {
    let k = part * PART + lane / (TILE / 4) * 4;
    let line = n + lane % (TILE / 4) * 4;
    return Source(k, line, ((k + j) * size.B_K + min(line, size.N - 4)) / 4);
  }
  let k = part * PART + lane % (PART / 4) * 4;
  let line = n + lane / (PART / 4) * 4;
  return Source(k, line, (min(line + j, vec4<u32>(size.N - 1)) * size.B_N + k) / 4);
}

// Number by number: a(m, k) … a(m, k + 3), b(k, n) … b(k + 3, n).
fn row_of_a(m: u32, k: u32) -> vec4<f32> {
  let i = min(m, size.M - 1) * size.A_M + min(k + vec4<u32>(0, 1, 2, 3), vec4<u32>(size.K - 1)) * size.A_K;
  return vec4<f32>(a[i.x], a[i.y], a[i.z], a[i.w]);
}
fn column_of_b(n: u32, k: u32) -> vec4<f32> {
  let i = min(n, size.N - 1) * size.B_N + min(k + vec4<u32>(0, 1, 2, 3), vec4<u32>(size.K - 1)) * size.B_K;
  return vec4<f32>(b[i.x], b[i.y], b[i.z], b[i.w]);
}

// [k][line] of the chunk that begins at `start`; zeros past the end.
fn block_of_a(source: Source, start: u32) -> mat4x4<f32> {
  let k = start + source.k;
  var block: mat4x4<f32>;
  if (A_VEC4 == 0) {
    let m = source.line;
    block = transpose(mat4x4<f32>(row_of_a(m, k), row_of_a(m + 1, k), row_of_a(m + 2, k), row_of_a(m + 3, k)));
  } else {
    let at = source.at + start * select(1u, size.A_K, A_VEC4 == 2) / 4;
    block = mat4x4<f32>(a4[at.x], a4[at.y], a4[at.z], a4[at.w]);
    if (A_VEC4 == 1) { block = transpose(block); }
  }
  return within(block, k, start);
}
fn block_of_b(source: Source, start: u32) -> mat4x4<f32> {
  let k = start + source.k;
  var block: mat4x4<f32>;
  if (B_VEC4 == 0) {
    let n = source.line;
    block = transpose(
      mat4x4<f32>(column_of_b(n, k), column_of_b(n + 1, k), column_of_b(n + 2, k), column_of_b(n + 3, k)),
    );
  } else {
    let at = source.at + start * select(1u, size.B_K, B_VEC4 == 2) / 4;
    block = mat4x4<f32>(b4[at.x], b4[at.y], b4[at.z], b4[at.w]);
    if (B_VEC4 == 1) { block = transpose(block); }
  }
  return within(block, k, start);
}

// What lies past the last k counts as zero; only the last chunk has any.
fn within(block: mat4x4<f32>, k: u32, start: u32) -> mat4x4<f32> {
  if (start + BK <= size.K) { return block; }
  return mat4x4<f32>(
    select(vec4<f32>(0), block[0], k < size.K),
    select(vec4<f32>(0), block[1], k + 1 < size.K),
    select(vec4<f32>(0), block[2], k + 2 < size.K),
    select(vec4<f32>(0), block[3], k + 3 < size.K),
  );
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

// Four k, from those on that lie at `a_at` and `b_at`. In the text, so that constants are all that their addresses differ by; bounded
// once, where compilers can see that no load needs a bound of its own.
fn multiply_4(acc: ptr<function, array<vec4<f32>, 16>>, a_at: u32, b_at: u32) {
  let a = min(a_at, CHUNK_SIZE - 3 * ROW - 9);
  let b = min(b_at, CHUNK_SIZE - 3 * ROW - 9);
  add_8x8(acc, rows_tile[a], rows_tile[a + 8], columns_tile[b], columns_tile[b + 8]);
  add_8x8(acc, rows_tile[a + ROW], rows_tile[a + ROW + 8], columns_tile[b + ROW], columns_tile[b + ROW + 8]);
  add_8x8(
    acc,
    rows_tile[a + 2 * ROW],
    rows_tile[a + 2 * ROW + 8],
    columns_tile[b + 2 * ROW],
    columns_tile[b + 2 * ROW + 8],
  );
  add_8x8(
    acc,
    rows_tile[a + 3 * ROW],
    rows_tile[a + 3 * ROW + 8],
    columns_tile[b + 3 * ROW],
    columns_tile[b + 3 * ROW + 8],
  );
}

// The sums of the second 64 lanes, to those of the first.
fn add_parts(acc: ptr<function, array<vec4<f32>, 16>>, part: u32, lane: u32) {
  if (part == 1) {
    rows_tile[0 * LANES + lane] = (*acc)[0];
    rows_tile[1 * LANES + lane] = (*acc)[1];
    rows_tile[2 * LANES + lane] = (*acc)[2];
    rows_tile[3 * LANES + lane] = (*acc)[3];
    rows_tile[4 * LANES + lane] = (*acc)[4];
    rows_tile[5 * LANES + lane] = (*acc)[5];
    rows_tile[6 * LANES + lane] = (*acc)[6];
    rows_tile[7 * LANES + lane] = (*acc)[7];
    columns_tile[0 * LANES + lane] = (*acc)[8];
    columns_tile[1 * LANES + lane] = (*acc)[9];
    columns_tile[2 * LANES + lane] = (*acc)[10];
    columns_tile[3 * LANES + lane] = (*acc)[11];
    columns_tile[4 * LANES + lane] = (*acc)[12];
    columns_tile[5 * LANES + lane] = (*acc)[13];
    columns_tile[6 * LANES + lane] = (*acc)[14];
    columns_tile[7 * LANES + lane] = (*acc)[15];
  }
  workgroupBarrier();
  if (part == 0) {
    (*acc)[0] += rows_tile[0 * LANES + lane];
    (*acc)[1] += rows_tile[1 * LANES + lane];
    (*acc)[2] += rows_tile[2 * LANES + lane];
    (*acc)[3] += rows_tile[3 * LANES + lane];
    (*acc)[4] += rows_tile[4 * LANES + lane];
    (*acc)[5] += rows_tile[5 * LANES + lane];
    (*acc)[6] += rows_tile[6 * LANES + lane];
    (*acc)[7] += rows_tile[7 * LANES + lane];
    (*acc)[8] += columns_tile[0 * LANES + lane];
    (*acc)[9] += columns_tile[1 * LANES + lane];
    (*acc)[10] += columns_tile[2 * LANES + lane];
    (*acc)[11] += columns_tile[3 * LANES + lane];
    (*acc)[12] += columns_tile[4 * LANES + lane];
    (*acc)[13] += columns_tile[5 * LANES + lane];
    (*acc)[14] += columns_tile[6 * LANES + lane];
    (*acc)[15] += columns_tile[7 * LANES + lane];
  }
}

@compute @workgroup_size(WORKGROUP)
fn forward(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let part = select(0u, index / LANES, PARTS > 1); // a constant where there is one
  let lane = select(index, index % LANES, PARTS > 1);
  let id = workgroup.x + workgroup.y * groups.x;
  let blocks = (size.N + TILE - 1) / TILE;
  let n = (id % blocks) * TILE;
  let m = (id / blocks) * TILE;
  let column = lane % 8;
  let row = lane / 8;
  let from_a = source_of_a(m, part, lane);
  let from_b = source_of_b(n, part, lane);
  let to_a = min(from_a.k * ROW + (from_a.line - m) / 4, CHUNK_SIZE - 3 * ROW - 1);
  let to_b = min(from_b.k * ROW + (from_b.line - n) / 4, CHUNK_SIZE - 3 * ROW - 1);
  var acc: array<vec4<f32>, 16>; // [row][half of the columns]
  for (var start = 0u; start < size.K; start += BK) {
    let of_a = block_of_a(from_a, start);
    let of_b = block_of_b(from_b, start);
    rows_tile[to_a] = of_a[0];
    rows_tile[to_a + ROW] = of_a[1];
    rows_tile[to_a + 2 * ROW] = of_a[2];
    rows_tile[to_a + 3 * ROW] = of_a[3];
    columns_tile[to_b] = of_b[0];
    columns_tile[to_b + ROW] = of_b[1];
    columns_tile[to_b + 2 * ROW] = of_b[2];
    columns_tile[to_b + 3 * ROW] = of_b[3];
    workgroupBarrier();
    for (var k = 0u; k < PART; k += 4) {
      multiply_4(&acc, (part * PART + k) * ROW + row, (part * PART + k) * ROW + column);
    }
    workgroupBarrier();
  }
  if (PARTS > 1) { add_parts(&acc, part, lane); }
  if (part > 0) { return; }
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
