// Convolution for GPUs: an implicit matrix product in tiles of workgroup memory and registers.
//
//   conv         y = conv(x, w) + bias; with GRAD the same loops give dx = conv_transposed(dy, w): see the phases below
//   grad_weight  dw, as partial sums over slices of the output rows (added up by conv2d.wgsl `sum_partials`)
//
// Layouts: x [N, IH, IW, IC]   w [OC, R, S, ICG]   out [N, OH, OW, OC]   ICG = IC / GROUPS, OCG = OC / GROUPS.
// With GRAD, x is dy and out is dx, and w is transposed beforehand (conv2d.wgsl `transpose_weight`).
//
//                rows of a tile (BM)     columns (BN)         summed over, BK at a time
//   conv         pixels of `out`         output channels      (r, s, c), c rounded up to a multiple of 4
//   grad_weight  channels of dy          (r, s, c), likewise  pixels of dy
//
// One workgroup owns one tile; one invocation owns 8 rows × 8 columns of it, or 8 × 4, as two halves of 4, so that
// neighbours read neighbouring vec4s of workgroup memory. A chunk of both operands is loaded in blocks of 4 × 4; one
// barrier stands before it is read, one before it is overwritten.
//
// OCG is a multiple of 4. VEC4 says that ICG is one, too; without it x and w are loaded number by number.

override N: u32 = 1;
override IH: u32 = 1;
override IW: u32 = 1;
override IC: u32 = 1;
override OH: u32 = 1;
override OW: u32 = 1;
override OC: u32 = 1;
override R: u32 = 1;
override S: u32 = 1;
override SH: i32 = 1;
override SW: i32 = 1;
override PT: i32 = 0;
override PL: i32 = 0;
override DH: i32 = 1;
override DW: i32 = 1;
override GROUPS: u32 = 1;
override GRAD: bool = false;
override VEC4: bool = true;
override HAS_BIAS: bool = false;
override SLICES: u32 = 1; // of the N·OH output rows, in grad_weight
override BM: u32 = 64;
override BN: u32 = 64;
override BK: u32 = 16;
override WORKGROUP: u32 = 64; // BM / 8 · BN / (8 or 4)

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
// Each input is bound twice, as numbers and as vec4s.
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> x4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> w: array<f32>; // dy in grad_weight
@group(0) @binding(4) var<storage, read> w4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> bias: array<vec4<f32>>;

// One chunk of each operand, [BK][row or column in fours]; the odd one out spreads stores over the banks.
var<workgroup> rows_tile: array<vec4<f32>, BK * (BM / 4 + 1)>;
var<workgroup> columns_tile: array<vec4<f32>, BK * (BN / 4 + 1)>;

// Four numbers of x from element `at` on, of which the first `count` exist; zeros outside of the map.
fn input(at: u32, count: u32, inside: bool) -> vec4<f32> {
  if (VEC4) {
    return select(vec4<f32>(0), x4[select(0u, at, inside) / 4], inside);
  }
  let exists = vec4<bool>(inside) & (vec4<u32>(0, 1, 2, 3) < vec4<u32>(count));
  let i = select(vec4<u32>(0), at + vec4<u32>(0, 1, 2, 3), exists);
  return select(vec4<f32>(0), vec4<f32>(x[i.x], x[i.y], x[i.z], x[i.w]), exists);
}

// Likewise of w.
fn weights(at: u32, count: u32, inside: bool) -> vec4<f32> {
  if (VEC4) {
    return select(vec4<f32>(0), w4[select(0u, at, inside) / 4], inside);
  }
  let exists = vec4<bool>(inside) & (vec4<u32>(0, 1, 2, 3) < vec4<u32>(count));
  let i = select(vec4<u32>(0), at + vec4<u32>(0, 1, 2, 3), exists);
  return select(vec4<f32>(0), vec4<f32>(w[i.x], w[i.y], w[i.z], w[i.w]), exists);
}

// --- the product of two chunks ---------------------------------------------------------------------------

// acc[row][half of the columns]
fn multiply_8x8(acc: ptr<function, array<vec4<f32>, 16>>, row: u32, column: u32) {
  for (var k = 0u; k < BK; k++) {
    let a0 = rows_tile[k * (BM / 4 + 1) + row];
    let a1 = rows_tile[k * (BM / 4 + 1) + BM / 8 + row];
    let b0 = columns_tile[k * (BN / 4 + 1) + column];
    let b1 = columns_tile[k * (BN / 4 + 1) + BN / 8 + column];
    (*acc)[0] = fma(vec4<f32>(a0.x), b0, (*acc)[0]);
    (*acc)[1] = fma(vec4<f32>(a0.x), b1, (*acc)[1]);
    (*acc)[2] = fma(vec4<f32>(a0.y), b0, (*acc)[2]);
    (*acc)[3] = fma(vec4<f32>(a0.y), b1, (*acc)[3]);
    (*acc)[4] = fma(vec4<f32>(a0.z), b0, (*acc)[4]);
    (*acc)[5] = fma(vec4<f32>(a0.z), b1, (*acc)[5]);
    (*acc)[6] = fma(vec4<f32>(a0.w), b0, (*acc)[6]);
    (*acc)[7] = fma(vec4<f32>(a0.w), b1, (*acc)[7]);
    (*acc)[8] = fma(vec4<f32>(a1.x), b0, (*acc)[8]);
    (*acc)[9] = fma(vec4<f32>(a1.x), b1, (*acc)[9]);
    (*acc)[10] = fma(vec4<f32>(a1.y), b0, (*acc)[10]);
    (*acc)[11] = fma(vec4<f32>(a1.y), b1, (*acc)[11]);
    (*acc)[12] = fma(vec4<f32>(a1.z), b0, (*acc)[12]);
    (*acc)[13] = fma(vec4<f32>(a1.z), b1, (*acc)[13]);
    (*acc)[14] = fma(vec4<f32>(a1.w), b0, (*acc)[14]);
    (*acc)[15] = fma(vec4<f32>(a1.w), b1, (*acc)[15]);
  }
}

fn multiply_8x4(acc: ptr<function, array<vec4<f32>, 8>>, row: u32, column: u32) {
  for (var k = 0u; k < BK; k++) {
    let a0 = rows_tile[k * (BM / 4 + 1) + row];
    let a1 = rows_tile[k * (BM / 4 + 1) + BM / 8 + row];
    let b = columns_tile[k * (BN / 4 + 1) + column];
    (*acc)[0] = fma(vec4<f32>(a0.x), b, (*acc)[0]);
    (*acc)[1] = fma(vec4<f32>(a0.y), b, (*acc)[1]);
    (*acc)[2] = fma(vec4<f32>(a0.z), b, (*acc)[2]);
    (*acc)[3] = fma(vec4<f32>(a0.w), b, (*acc)[3]);
    (*acc)[4] = fma(vec4<f32>(a1.x), b, (*acc)[4]);
    (*acc)[5] = fma(vec4<f32>(a1.y), b, (*acc)[5]);
    (*acc)[6] = fma(vec4<f32>(a1.z), b, (*acc)[6]);
    (*acc)[7] = fma(vec4<f32>(a1.w), b, (*acc)[7]);
  }
}

// --- conv ------------------------------------------------------------------------------------------------

// Forward: out(i) reads x(i·SH + r·DH − PT). Backward, the other way round: dx(h) reads dy((h + PT − r·DH) / SH) for
// the taps r where that is whole. The rows h with the same (h + PT) % SH, one phase, use the same taps and neighbouring
// rows of dy, so a phase is a stride-1 problem; a workgroup stays within one. Forward has one phase.
struct Axis {
  first: i32, // position in `out`
  count: u32, // of positions, the last of which may lie past the end
  out_step: i32,
  in_step: i32,
  tap: i32, // the first that counts
  tap_step: i32,
  taps: u32,
}
fn axis(phase: i32, size: u32, taps: u32, stride: i32, padding: i32, dilation: i32) -> Axis {
  if (!GRAD) { return Axis(0, size, 1, stride, 0, 1, taps); }
  let first = (phase + stride - padding % stride) % stride;
  var tap = 0;
  while (tap < i32(taps) && (first + padding - tap * dilation) % stride != 0) { tap++; }
  var step = 1;
  while ((step * dilation) % stride != 0) { step++; }
  let count = u32((i32(taps) - tap + step - 1) / step);
  return Axis(first, (size + u32(stride) - 1) / u32(stride), stride, 1, tap, step, count);
}
// What is added to position · in_step.
fn offset(a: Axis, tap: i32, stride: i32, padding: i32, dilation: i32) -> i32 {
  return select(tap * dilation - padding, (a.first + padding - tap * dilation) / stride, GRAD);
}

struct Problem { k_block: u32, group: u32, vertical: Axis, horizontal: Axis, first_pixel: u32 }
fn problem_of(workgroup: vec3<u32>, groups: vec3<u32>) -> Problem {
  let phases_h = select(1u, u32(SH), GRAD);
  let phases_w = select(1u, u32(SW), GRAD);
  var id = workgroup.x + workgroup.y * groups.x;
  var problem: Problem;
  let k_blocks = (OC / GROUPS + BN - 1) / BN;
  problem.k_block = id % k_blocks;
  id /= k_blocks;
  problem.group = id % GROUPS;
  id /= GROUPS;
  problem.horizontal = axis(i32(id % phases_w), OW, S, SW, PL, DW);
  id /= phases_w;
  problem.vertical = axis(i32(id % phases_h), OH, R, SH, PT, DH);
  problem.first_pixel = (id / phases_h) * BM;
  return problem;
}

const NOWHERE = 0xffffffffu;

// By row of the tile: image · IH, the positions in x before a tap's offset, and the pixel of `out` or NOWHERE.
var<workgroup> pixels: array<vec4<u32>, BM>;

fn find_pixels(problem: Problem, lane: u32) {
  let rows = problem.vertical.count;
  let columns = problem.horizontal.count;
  for (var i = lane; i < BM; i += WORKGROUP) {
    let m = problem.first_pixel + i;
    let row = m / columns;
    let column = m - row * columns;
    let image = row / rows;
    let position = vec2<i32>(i32(row - image * rows), i32(column));
    let h = position.x * problem.vertical.out_step + problem.vertical.first;
    let v = position.y * problem.horizontal.out_step + problem.horizontal.first;
    let valid = image < N && h < i32(OH) && v < i32(OW);
    pixels[i] = vec4<u32>(
      image * IH,
      u32(position.x * problem.vertical.in_step),
      u32(position.y * problem.horizontal.in_step),
      select(NOWHERE, (image * OH + u32(h)) * OW + u32(v), valid),
    );
  }
}

// Loads chunk `chunk` of both operands. The sum runs over quads of channels of the taps of this phase.
fn load_chunk(problem: Problem, chunk: u32, quads: u32, lane: u32) {
  let ICG = IC / GROUPS;
  let per_tap = (ICG + 3) / 4;
  let k_first = problem.group * (OC / GROUPS) + problem.k_block * BN;
  let k_last = (problem.group + 1) * (OC / GROUPS) - 1;
  for (var block = lane; block < BK / 4 * (BM + BN) / 4; block += WORKGROUP) {
    // Neighbouring lanes read neighbouring channels.
    let k = block % (BK / 4);
    let line = block / (BK / 4);
    let quad = chunk * (BK / 4) + k;
    let tap_index = quad / per_tap;
    let c = (quad - tap_index * per_tap) * 4;
    let tap_row = tap_index / max(problem.horizontal.taps, 1u);
    let r = problem.vertical.tap + i32(tap_row) * problem.vertical.tap_step;
    let s = problem.horizontal.tap + i32(tap_index - tap_row * problem.horizontal.taps) * problem.horizontal.tap_step;
    var values: mat4x4<f32>;
    if (line < BM / 4) {
      let down = offset(problem.vertical, r, SH, PT, DH);
      let right = offset(problem.horizontal, s, SW, PL, DW);
      for (var i = 0u; i < 4; i++) {
        let pixel = pixels[line * 4 + i];
        let h = i32(pixel.y) + down;
        let v = i32(pixel.z) + right;
        let inside = quad < quads && pixel.w != NOWHERE && h >= 0 && h < i32(IH) && v >= 0 && v < i32(IW);
        values[i] = input(((pixel.x + u32(h)) * IW + u32(v)) * IC + problem.group * ICG + c, ICG - c, inside);
      }
    } else {
      let tap = u32(r) * S + u32(s);
      for (var i = 0u; i < 4; i++) {
        let out_channel = min(k_first + (line - BM / 4) * 4 + i, k_last);
        values[i] = weights((out_channel * R * S + tap) * ICG + c, ICG - c, quad < quads);
      }
    }
    let turned = transpose(values);
    if (line < BM / 4) {
      for (var i = 0u; i < 4; i++) { rows_tile[(k * 4 + i) * (BM / 4 + 1) + line] = turned[i]; }
    } else {
      for (var i = 0u; i < 4; i++) { columns_tile[(k * 4 + i) * (BN / 4 + 1) + line - BM / 4] = turned[i]; }
    }
  }
}

fn store(problem: Problem, row: u32, column: u32, value: vec4<f32>) {
  let OCG = OC / GROUPS;
  let pixel = pixels[row].w;
  let k = problem.k_block * BN + column;
  if (pixel != NOWHERE && k < OCG) {
    let channel = problem.group * OCG + k;
    let b = select(vec4<f32>(0), bias[select(0u, channel / 4, HAS_BIAS)], HAS_BIAS);
    out[(pixel * OC + channel) / 4] = value + b;
  }
}

@compute @workgroup_size(WORKGROUP)
fn conv_8x8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let problem = problem_of(workgroup, groups);
  let quads = problem.vertical.taps * problem.horizontal.taps * ((IC / GROUPS + 3) / 4);
  let column = lane % (BN / 8);
  let row = lane / (BN / 8);
  find_pixels(problem, lane);
  workgroupBarrier();
  var acc: array<vec4<f32>, 16>;
  for (var chunk = 0u; chunk * (BK / 4) < quads; chunk++) {
    load_chunk(problem, chunk, quads, lane);
    workgroupBarrier();
    multiply_8x8(&acc, row, column);
    workgroupBarrier();
  }
  for (var i = 0u; i < 4; i++) {
    store(problem, row * 4 + i, column * 4, acc[i * 2]);
    store(problem, row * 4 + i, BN / 2 + column * 4, acc[i * 2 + 1]);
    store(problem, BM / 2 + row * 4 + i, column * 4, acc[8 + i * 2]);
    store(problem, BM / 2 + row * 4 + i, BN / 2 + column * 4, acc[9 + i * 2]);
  }
}

@compute @workgroup_size(WORKGROUP)
fn conv_8x4(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let problem = problem_of(workgroup, groups);
  let quads = problem.vertical.taps * problem.horizontal.taps * ((IC / GROUPS + 3) / 4);
  let column = lane % (BN / 4);
  let row = lane / (BN / 4);
  find_pixels(problem, lane);
  workgroupBarrier();
  var acc: array<vec4<f32>, 8>;
  for (var chunk = 0u; chunk * (BK / 4) < quads; chunk++) {
    load_chunk(problem, chunk, quads, lane);
    workgroupBarrier();
    multiply_8x4(&acc, row, column);
    workgroupBarrier();
  }
  for (var i = 0u; i < 4; i++) {
    store(problem, row * 4 + i, column * 4, acc[i]);
    store(problem, BM / 2 + row * 4 + i, column * 4, acc[4 + i]);
  }
}

// --- grad_weight -----------------------------------------------------------------------------------------

// x [N, IH, IW, IC] and dy (`w`) [N, OH, OW, OC] → partial sums [SLICES, OC, R·S·ICG rounded up to a multiple of 4].
struct Slice { k_first: u32, k_last: u32, group: u32, column: u32, first_pixel: u32, end_pixel: u32, index: u32 }
fn slice_of(workgroup: vec3<u32>, groups: vec3<u32>) -> Slice {
  let OCG = OC / GROUPS;
  let k_blocks = (OCG + BM - 1) / BM;
  let column_blocks = (R * S * (IC / GROUPS) + BN - 1) / BN;
  var id = workgroup.x + workgroup.y * groups.x;
  var slice: Slice;
  slice.column = (id % column_blocks) * BN;
  id /= column_blocks;
  let k_block = id % k_blocks;
  id /= k_blocks;
  slice.group = id % GROUPS;
  slice.index = id / GROUPS;
  slice.k_first = slice.group * OCG + k_block * BM;
  slice.k_last = (slice.group + 1) * OCG - 1;
  let per_slice = (N * OH + SLICES - 1) / SLICES;
  slice.first_pixel = slice.index * per_slice * OW;
  slice.end_pixel = min((slice.index + 1) * per_slice, N * OH) * OW;
  return slice;
}

// Four columns of x at one pixel of dy.
fn x_columns(slice: Slice, column: u32, image: u32, p: u32, q: u32) -> vec4<f32> {
  let ICG = IC / GROUPS;
  let last = R * S * ICG - 1;
  var values: vec4<f32>;
  // With VEC4 the four are neighbours: the first pass loads them all.
  for (var i = 0u; i < select(4u, 1u, VEC4); i++) {
    let tap = min(column + i, last) / ICG;
    let c = min(column + i, last) - tap * ICG;
    let h = i32(p) * SH + i32(tap / S) * DH - PT;
    let v = i32(q) * SW + i32(tap % S) * DW - PL;
    let inside = image < N && h >= 0 && h < i32(IH) && v >= 0 && v < i32(IW);
    let at = select(0u, ((image * IH + u32(h)) * IW + u32(v)) * IC + slice.group * ICG + c, inside);
    if (VEC4) {
      values = select(vec4<f32>(0), x4[at / 4], inside);
    } else {
      values[i] = select(0.0, x[at], inside);
    }
  }
  return values;
}

fn load_pixels(slice: Slice, first: u32, lane: u32) {
  for (var block = lane; block < BK / 4 * (BM + BN) / 4; block += WORKGROUP) {
    // Neighbouring lanes read neighbouring channels.
    let line = block % ((BM + BN) / 4);
    let k = block / ((BM + BN) / 4) * 4;
    let m = first + k;
    let row = m / OW;
    var q = m - row * OW;
    var image = row / OH;
    var p = row - image * OH;
    for (var i = 0u; i < 4; i++) {
      let inside = m + i < slice.end_pixel;
      if (line < BM / 4) {
        let channel = min(slice.k_first + line * 4, slice.k_last - 3);
        let at = select(0u, ((m + i) * OC + channel) / 4, inside);
        rows_tile[(k + i) * (BM / 4 + 1) + line] = select(vec4<f32>(0), w4[at], inside);
      } else {
        let values = x_columns(slice, slice.column + (line - BM / 4) * 4, image, p, q);
        columns_tile[(k + i) * (BN / 4 + 1) + line - BM / 4] = select(vec4<f32>(0), values, inside);
      }
      q++;
      if (q == OW) { q = 0; p++; }
      if (p == OH) { p = 0; image++; }
    }
  }
}

fn store_partial(slice: Slice, row: u32, column: u32, value: vec4<f32>) {
  let quads = (R * S * (IC / GROUPS) + 3) / 4;
  let k = slice.k_first + row;
  let quad = (slice.column + column) / 4;
  if (slice.index < SLICES && k <= slice.k_last && quad < quads) {
    out[(slice.index * OC + k) * quads + quad] = value;
  }
}

@compute @workgroup_size(WORKGROUP)
fn grad_weight_8x8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let slice = slice_of(workgroup, groups);
  let column = lane % (BN / 8);
  let row = lane / (BN / 8);
  var acc: array<vec4<f32>, 16>;
  for (var m = slice.first_pixel; m < slice.end_pixel; m += BK) {
    load_pixels(slice, m, lane);
    workgroupBarrier();
    multiply_8x8(&acc, row, column);
    workgroupBarrier();
  }
  for (var i = 0u; i < 4; i++) {
    store_partial(slice, row * 4 + i, column * 4, acc[i * 2]);
    store_partial(slice, row * 4 + i, BN / 2 + column * 4, acc[i * 2 + 1]);
    store_partial(slice, BM / 2 + row * 4 + i, column * 4, acc[8 + i * 2]);
    store_partial(slice, BM / 2 + row * 4 + i, BN / 2 + column * 4, acc[9 + i * 2]);
  }
}

@compute @workgroup_size(WORKGROUP)
fn grad_weight_8x4(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let slice = slice_of(workgroup, groups);
  let column = lane % (BN / 4);
  let row = lane / (BN / 4);
  var acc: array<vec4<f32>, 8>;
  for (var m = slice.first_pixel; m < slice.end_pixel; m += BK) {
    load_pixels(slice, m, lane);
    workgroupBarrier();
    multiply_8x4(&acc, row, column);
    workgroupBarrier();
  }
  for (var i = 0u; i < 4; i++) {
    store_partial(slice, row * 4 + i, column * 4, acc[i]);
    store_partial(slice, BM / 2 + row * 4 + i, column * 4, acc[4 + i]);
  }
}
