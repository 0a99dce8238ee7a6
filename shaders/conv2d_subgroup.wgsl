enable subgroups;

// Convolution for adapters whose lanes are a processor's SIMD lanes (lavapipe: 8, SwiftShader: 4).
//
//   conv         y = conv(x, w) + bias; with GRAD the same loops give dx = conv_transposed(dy, w): see the phases below
//   conv_row     the same for filters of width 3 without stride or dilation: each x is loaded once for its three taps
//   grad_weight  dw, as partial sums over slices of the output rows (added up by conv2d.wgsl `sum_partials`)
//
// On such adapters a load costs the same for one number that all lanes share as for a vec4 of its own in each lane, and
// more than a dozen multiplications. So shared numbers, the weights in `conv`, are loaded as vec4s of their own, one
// output channel per lane, and then handed around with subgroupBroadcast, which is one shuffle of a register. There
// are no barriers and no workgroup memory.
//
// Layouts: x [N, IH, IW, IC]   w [OC, R, S, ICG]   out [N, OH, OW, OC]   ICG = IC / GROUPS, OCG = OC / GROUPS.
// With GRAD, x is dy and out is dx, and w is transposed beforehand (conv2d.wgsl `transpose_weight`).
// One invocation owns 4 output pixels × 8 or 16 output channels (conv), or 4 columns (r, s, c) × 16 channels of dy
// (grad_weight). All lanes of a workgroup share their output channels (conv), or their slice of rows (grad_weight).
//
// OCG is a multiple of 4. VEC4 says that ICG is one, too; without it inputs are loaded number by number.

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
override NARROW: bool = false; // subgroups may have as few as 4 lanes
override WORKGROUP: u32 = 64;

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
// Each input is bound twice, as numbers and as vec4s.
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> x4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> w: array<f32>; // dy in grad_weight
@group(0) @binding(4) var<storage, read> w4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> bias: array<vec4<f32>>;

// Addresses of x and w count vec4s with VEC4, else numbers.
fn unit() -> u32 {
  return select(1u, 4u, VEC4);
}

// Four channels of x from c on, `at` being where the first channel lies; zeros outside of the map, where `at` is 0, and
// past the last channel.
fn input(at: u32, c: u32, inside: bool) -> vec4<f32> {
  if (VEC4) {
    return select(vec4<f32>(0), x4[at + c / 4], inside);
  }
  let exists = vec4<bool>(inside) & (c + vec4<u32>(0, 1, 2, 3) < vec4<u32>(IC / GROUPS));
  let i = at + select(vec4<u32>(0), c + vec4<u32>(0, 1, 2, 3), exists);
  return select(vec4<f32>(0), vec4<f32>(x[i.x], x[i.y], x[i.z], x[i.w]), exists);
}

// Four channels of w from c on, `at` being where the row of its output channel begins.
fn weights(at: u32, tap: u32, c: u32) -> vec4<f32> {
  let first = tap * (IC / GROUPS) + c;
  if (VEC4) {
    return w4[at + first / 4];
  }
  let exists = c + vec4<u32>(0, 1, 2, 3) < vec4<u32>(IC / GROUPS);
  let i = at + first + select(vec4<u32>(0), vec4<u32>(0, 1, 2, 3), exists);
  return select(vec4<f32>(0), vec4<f32>(w[i.x], w[i.y], w[i.z], w[i.w]), exists);
}

// What lane `i` of eight holds; in subgroups of four, `second` holds lanes 4 to 7.
struct Shared8 { first: vec4<f32>, second: vec4<f32> }

// acc[pixel] + Σ_c xs[c][pixel] · w[c], as a chain: fewer numbers in flight than with a product of its own.
fn chain(acc: vec4<f32>, xs: mat4x4<f32>, w_: vec4<f32>) -> vec4<f32> {
  var sum = fma(xs[0], vec4<f32>(w_.x), acc);
  sum = fma(xs[1], vec4<f32>(w_.y), sum);
  sum = fma(xs[2], vec4<f32>(w_.z), sum);
  return fma(xs[3], vec4<f32>(w_.w), sum);
}

// acc[k][pixel] += Σ_c xs[c][pixel] · w[k][c], k = 0 … 7 from lanes 0 … 7
fn multiply(acc: ptr<function, array<vec4<f32>, 8>>, xs: mat4x4<f32>, ws: Shared8) {
  (*acc)[0] = chain((*acc)[0], xs, subgroupBroadcast(ws.first, 0u));
  (*acc)[1] = chain((*acc)[1], xs, subgroupBroadcast(ws.first, 1u));
  (*acc)[2] = chain((*acc)[2], xs, subgroupBroadcast(ws.first, 2u));
  (*acc)[3] = chain((*acc)[3], xs, subgroupBroadcast(ws.first, 3u));
  if (NARROW) {
    (*acc)[4] = chain((*acc)[4], xs, subgroupBroadcast(ws.second, 0u));
    (*acc)[5] = chain((*acc)[5], xs, subgroupBroadcast(ws.second, 1u));
    (*acc)[6] = chain((*acc)[6], xs, subgroupBroadcast(ws.second, 2u));
    (*acc)[7] = chain((*acc)[7], xs, subgroupBroadcast(ws.second, 3u));
  } else {
    (*acc)[4] = chain((*acc)[4], xs, subgroupBroadcast(ws.first, 4u));
    (*acc)[5] = chain((*acc)[5], xs, subgroupBroadcast(ws.first, 5u));
    (*acc)[6] = chain((*acc)[6], xs, subgroupBroadcast(ws.first, 6u));
    (*acc)[7] = chain((*acc)[7], xs, subgroupBroadcast(ws.first, 7u));
  }
}

// Where the rows of this lane's output channels begin, out of k0 … k0 + 7 (no further than k_last).
struct Rows { first: u32, second: u32 }
fn rows_of(k0: u32, k_last: u32, lane: u32) -> Rows {
  let row = R * S * (IC / GROUPS) / unit();
  if (NARROW) {
    return Rows(min(k0 + (lane & 3), k_last) * row, min(k0 + 4 + (lane & 3), k_last) * row);
  }
  let own = min(k0 + (lane & 7), k_last) * row;
  return Rows(own, own);
}

// The weights of eight output channels at one tap, four input channels from c on.
fn shared_weights(rows: Rows, tap: u32, c: u32) -> Shared8 {
  let own = weights(rows.first, tap, c);
  if (NARROW) {
    return Shared8(own, weights(rows.second, tap, c));
  }
  return Shared8(own, own);
}

// Two halves with constant indices: with a loop over them some compilers would keep `acc` in memory throughout.
fn store(acc: ptr<function, array<vec4<f32>, 8>>, pixels: vec4<u32>, valid: vec4<bool>, k0: u32, k_end: u32) {
  store_half(mat4x4<f32>((*acc)[0], (*acc)[1], (*acc)[2], (*acc)[3]), pixels, valid, k0, k_end);
  store_half(mat4x4<f32>((*acc)[4], (*acc)[5], (*acc)[6], (*acc)[7]), pixels, valid, k0 + 4, k_end);
}
fn store_half(sums: mat4x4<f32>, pixels: vec4<u32>, valid: vec4<bool>, k: u32, k_end: u32) {
  if (k < k_end) {
    let b = select(vec4<f32>(0), bias[select(0u, k / 4, HAS_BIAS)], HAS_BIAS);
    let y = transpose(sums);
    if (valid.x) { out[(pixels.x * OC + k) / 4] = y[0] + b; }
    if (valid.y) { out[(pixels.y * OC + k) / 4] = y[1] + b; }
    if (valid.z) { out[(pixels.z * OC + k) / 4] = y[2] + b; }
    if (valid.w) { out[(pixels.w * OC + k) / 4] = y[3] + b; }
  }
}

// Forward: out(i) reads x(i·SH + r·DH − PT). Backward, the other way round: dx(h) reads dy((h + PT − r·DH) / SH) for
// the taps r where that is whole. The rows h with the same (h + PT) % SH, one phase, use the same taps and neighbouring
// rows of dy, so a phase is a stride-1 problem; a workgroup stays within one. Forward has one phase.
struct Axis {
  phases: i32,
  count: u32, // positions in a phase, the last of which may lie past the end
  out_step: i32,
  in_step: i32,
}
fn vertical() -> Axis {
  if (GRAD) { return Axis(SH, (OH + u32(SH) - 1) / u32(SH), SH, 1); }
  return Axis(1, OH, 1, SH);
}
fn horizontal() -> Axis {
  if (GRAD) { return Axis(SW, (OW + u32(SW) - 1) / u32(SW), SW, 1); }
  return Axis(1, OW, 1, SW);
}
// First position of a phase in `out`.
fn first(phase: i32, stride: i32, padding: i32) -> i32 {
  return select(0, (phase + stride - padding % stride) % stride, GRAD);
}
fn skips(first: i32, tap: i32, stride: i32, padding: i32) -> bool {
  return GRAD && (first + padding - tap) % stride != 0;
}
// What is added to position · in_step.
fn offset(first: i32, tap: i32, stride: i32, padding: i32) -> i32 {
  return select(tap - padding, (first + padding - tap) / stride, GRAD);
}

struct Block { k_block: u32, group: u32, first_h: i32, first_w: i32, pixels: u32 }

// What a workgroup works on; neighbouring workgroups share their pixels.
fn block_of(workgroup: vec3<u32>, groups: vec3<u32>, k_blocks: u32) -> Block {
  var id = workgroup.x + workgroup.y * groups.x;
  var block: Block;
  block.k_block = id % k_blocks;
  id /= k_blocks;
  block.group = id % GROUPS;
  id /= GROUPS;
  let phases_w = u32(horizontal().phases);
  block.first_w = first(i32(id % phases_w), SW, PL);
  id /= phases_w;
  let phases_h = u32(vertical().phases);
  block.first_h = first(i32(id % phases_h), SH, PT);
  block.pixels = (id / phases_h) * WORKGROUP;
  return block;
}

// Four consecutive pixels of a phase.
struct Pixels { image: vec4<u32>, i: vec4<i32>, j: vec4<i32>, out: vec4<u32>, valid: vec4<bool> }
fn pixels_of(block: Block, lane: u32) -> Pixels {
  let rows = vertical().count;
  let columns = horizontal().count;
  let total = N * rows * columns;
  let wanted = (block.pixels + lane) * 4 + vec4<u32>(0, 1, 2, 3);
  // The first one by division, the others by counting on; past the end they repeat an earlier one.
  let m = min(wanted.x, total - 1);
  let row = m / columns;
  var at = vec3<u32>(row / rows, 0, m - row * columns); // image, i, j
  at.y = row - at.x * rows;
  var pixels: Pixels;
  for (var k = 0u; k < 4; k++) {
    pixels.image[k] = at.x;
    pixels.i[k] = i32(at.y);
    pixels.j[k] = i32(at.z);
    let next = at + vec3<u32>(0, 0, 1);
    let wrapped = select(next, vec3<u32>(at.x, at.y + 1, 0), next.z == columns);
    at = select(wrapped, vec3<u32>(at.x + 1, 0, 0), wrapped.y == rows);
    at.x = min(at.x, N - 1);
  }
  let h = pixels.i * vertical().out_step + block.first_h;
  let w_ = pixels.j * horizontal().out_step + block.first_w;
  pixels.out = (pixels.image * OH + vec4<u32>(h)) * OW + vec4<u32>(w_);
  pixels.valid = (wanted < vec4<u32>(total)) & (h < vec4<i32>(i32(OH))) & (w_ < vec4<i32>(i32(OW)));
  return pixels;
}

// Where four pixels read x at one tap.
struct Source { at: vec4<u32>, inside: vec4<bool> }
fn source(pixels: Pixels, group: u32, offset_h: i32, offset_w: i32) -> Source {
  let h = pixels.i * vertical().in_step + offset_h;
  let v = pixels.j * horizontal().in_step + offset_w;
  var from_: Source;
  from_.inside = (h >= vec4<i32>(0)) & (h < vec4<i32>(i32(IH))) & (v >= vec4<i32>(0)) & (v < vec4<i32>(i32(IW)));
  let at = ((pixels.image * IH + vec4<u32>(h)) * IW + vec4<u32>(v)) * IC + group * (IC / GROUPS);
  from_.at = select(vec4<u32>(0), at / unit(), from_.inside);
  return from_;
}
// [c][pixel]: four channels of four pixels
fn load(from_: Source, c: u32) -> mat4x4<f32> {
  return transpose(mat4x4<f32>(
    input(from_.at.x, c, from_.inside.x),
    input(from_.at.y, c, from_.inside.y),
    input(from_.at.z, c, from_.inside.z),
    input(from_.at.w, c, from_.inside.w),
  ));
}

@compute @workgroup_size(WORKGROUP)
fn conv_8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let ICG = IC / GROUPS;
  let OCG = OC / GROUPS;
  let block = block_of(workgroup, groups, (OCG + 7) / 8);
  let pixels = pixels_of(block, lane);
  let k0 = block.group * OCG + block.k_block * 8;
  let k_end = (block.group + 1) * OCG;

  let weight_rows = rows_of(k0, k_end - 1, sublane);
  var acc: array<vec4<f32>, 8>; // by output channel: four pixels
  for (var r = 0u; r < R; r++) {
    let top = i32(r) * DH;
    if (skips(block.first_h, top, SH, PT)) { continue; }
    for (var s = 0u; s < S; s++) {
      let left = i32(s) * DW;
      if (skips(block.first_w, left, SW, PL)) { continue; }
      let from_ = source(pixels, block.group, offset(block.first_h, top, SH, PT), offset(block.first_w, left, SW, PL));
      for (var c = 0u; c < ICG; c += 4) {
        multiply(&acc, load(from_, c), shared_weights(weight_rows, r * S + s, c));
      }
    }
  }
  store(&acc, pixels.out, pixels.valid, k0, k_end);
}

@compute @workgroup_size(WORKGROUP)
fn conv_16(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let ICG = IC / GROUPS;
  let OCG = OC / GROUPS;
  let block = block_of(workgroup, groups, (OCG + 15) / 16);
  let pixels = pixels_of(block, lane);
  let k0 = block.group * OCG + block.k_block * 16;
  let k_end = (block.group + 1) * OCG;

  let low_rows = rows_of(k0, k_end - 1, sublane);
  let high_rows = rows_of(k0 + 8, k_end - 1, sublane);
  var low: array<vec4<f32>, 8>;
  var high: array<vec4<f32>, 8>;
  for (var r = 0u; r < R; r++) {
    let top = i32(r) * DH;
    if (skips(block.first_h, top, SH, PT)) { continue; }
    for (var s = 0u; s < S; s++) {
      let left = i32(s) * DW;
      if (skips(block.first_w, left, SW, PL)) { continue; }
      let from_ = source(pixels, block.group, offset(block.first_h, top, SH, PT), offset(block.first_w, left, SW, PL));
      for (var c = 0u; c < ICG; c += 4) {
        let xs = load(from_, c);
        multiply(&low, xs, shared_weights(low_rows, r * S + s, c));
        multiply(&high, xs, shared_weights(high_rows, r * S + s, c));
      }
    }
  }
  store(&low, pixels.out, pixels.valid, k0, k_end);
  store(&high, pixels.out, pixels.valid, k0 + 8, k_end);
}

// Four pixels of one row, and where their six neighbours in x begin: that is tap 0, or with GRAD tap 2.
struct Row { image: u32, i: i32, left: i32, pixels: vec4<u32>, valid: vec4<bool> }
fn row_of(block: Block, lane: u32) -> Row {
  let rows = vertical().count;
  let quads = (OW + 3) / 4;
  let wanted = block.pixels + lane;
  let m = min(wanted, N * rows * quads - 1);
  let image_row = m / quads;
  let image = image_row / rows;
  let j = (m - image_row * quads) * 4 + vec4<u32>(0, 1, 2, 3);
  var row: Row;
  row.image = image;
  row.i = i32(image_row - image * rows);
  row.left = i32(j.x) + select(-PL, PL - 2, GRAD);
  let h = row.i * vertical().out_step + block.first_h;
  row.pixels = (image * OH + u32(h)) * OW + j;
  row.valid = vec4<bool>(wanted < N * rows * quads && h < i32(OH)) & (j < vec4<u32>(OW));
  return row;
}
// Where the six neighbours lie at one filter row, and four channels of each.
struct SixSources { at: array<u32, 6>, inside: array<bool, 6> }
fn six_sources(row: Row, block: Block, top: i32) -> SixSources {
  let h = row.i * vertical().in_step + offset(block.first_h, top, SH, PT);
  let first = ((row.image * IH + u32(h)) * IW + u32(row.left)) * IC + block.group * (IC / GROUPS);
  var from_: SixSources;
  for (var i = 0; i < 6; i++) {
    from_.inside[i] = h >= 0 && h < i32(IH) && row.left + i >= 0 && row.left + i < i32(IW);
    from_.at[i] = select(0u, (first + u32(i) * IC) / unit(), from_.inside[i]);
  }
  return from_;
}
struct Window { x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32> }
fn window(from_: SixSources, c: u32) -> Window {
  return Window(
    input(from_.at[0], c, from_.inside[0]),
    input(from_.at[1], c, from_.inside[1]),
    input(from_.at[2], c, from_.inside[2]),
    input(from_.at[3], c, from_.inside[3]),
    input(from_.at[4], c, from_.inside[4]),
    input(from_.at[5], c, from_.inside[5]),
  );
}
// The three taps of filter row r, eight output channels.
fn slide(acc: ptr<function, array<vec4<f32>, 8>>, xs: Window, rows: Rows, r: u32, c: u32) {
  let tap_0 = r * 3 + select(0u, 2u, GRAD);
  let tap_2 = r * 3 + select(2u, 0u, GRAD);
  multiply(acc, transpose(mat4x4<f32>(xs.x0, xs.x1, xs.x2, xs.x3)), shared_weights(rows, tap_0, c));
  multiply(acc, transpose(mat4x4<f32>(xs.x1, xs.x2, xs.x3, xs.x4)), shared_weights(rows, r * 3 + 1, c));
  multiply(acc, transpose(mat4x4<f32>(xs.x2, xs.x3, xs.x4, xs.x5)), shared_weights(rows, tap_2, c));
}

// S = 3 and no horizontal stride or dilation.
@compute @workgroup_size(WORKGROUP)
fn conv_row_8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let OCG = OC / GROUPS;
  let block = block_of(workgroup, groups, (OCG + 7) / 8);
  let row = row_of(block, lane);
  let k0 = block.group * OCG + block.k_block * 8;
  let k_end = (block.group + 1) * OCG;

  let weight_rows = rows_of(k0, k_end - 1, sublane);
  var acc: array<vec4<f32>, 8>;
  for (var r = 0u; r < R; r++) {
    let top = i32(r) * DH;
    if (skips(block.first_h, top, SH, PT)) { continue; }
    let from_ = six_sources(row, block, top);
    for (var c = 0u; c < IC / GROUPS; c += 4) {
      slide(&acc, window(from_, c), weight_rows, r, c);
    }
  }
  store(&acc, row.pixels, row.valid, k0, k_end);
}

@compute @workgroup_size(WORKGROUP)
fn conv_row_16(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let OCG = OC / GROUPS;
  let block = block_of(workgroup, groups, (OCG + 15) / 16);
  let row = row_of(block, lane);
  let k0 = block.group * OCG + block.k_block * 16;
  let k_end = (block.group + 1) * OCG;

  let low_rows = rows_of(k0, k_end - 1, sublane);
  let high_rows = rows_of(k0 + 8, k_end - 1, sublane);
  var low: array<vec4<f32>, 8>;
  var high: array<vec4<f32>, 8>;
  for (var r = 0u; r < R; r++) {
    let top = i32(r) * DH;
    if (skips(block.first_h, top, SH, PT)) { continue; }
    let from_ = six_sources(row, block, top);
    for (var c = 0u; c < IC / GROUPS; c += 4) {
      let xs = window(from_, c);
      slide(&low, xs, low_rows, r, c);
      slide(&high, xs, high_rows, r, c);
    }
  }
  store(&low, row.pixels, row.valid, k0, k_end);
  store(&high, row.pixels, row.valid, k0 + 8, k_end);
}

// Four columns (r, s, c) of dw; with VEC4 four channels of one tap. Past the end the last one repeats.
struct Columns { c: vec4<u32>, top: vec4<i32>, left: vec4<i32> }
fn columns_of(quad: u32, ICG: u32) -> Columns {
  let column = min(quad * 4 + vec4<u32>(0, 1, 2, 3), vec4<u32>(R * S * ICG - 1));
  return Columns(column % ICG, vec4<i32>(column / (S * ICG)) * DH - PT, vec4<i32>((column / ICG) % S) * DW - PL);
}

// acc[k] += x · dy[k], k = 0 … 3
fn rank1(acc: mat4x4<f32>, xs: vec4<f32>, d: vec4<f32>) -> mat4x4<f32> {
  return acc + mat4x4<f32>(xs * d.x, xs * d.y, xs * d.z, xs * d.w);
}

// x [N, IH, IW, IC] and dy (`w`) [N, OH, OW, OC] → partial sums [SLICES, OC, R·S·ICG rounded up to a multiple of 4].
@compute @workgroup_size(WORKGROUP)
fn grad_weight_16(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let ICG = IC / GROUPS;
  let OCG = OC / GROUPS;
  let k_blocks = (OCG + 15) / 16;
  let quads = (R * S * ICG + 3) / 4;
  let quad_blocks = (quads + WORKGROUP - 1) / WORKGROUP;
  var id = workgroup.x + workgroup.y * groups.x;
  let quad = (id % quad_blocks) * WORKGROUP + lane;
  id /= quad_blocks;
  let k_block = id % k_blocks;
  id /= k_blocks;
  let group = id % GROUPS;
  let slice = id / GROUPS;

  let columns = columns_of(quad, ICG);
  let k0 = group * OCG + k_block * 16;
  let k_end = (group + 1) * OCG;
  // This lane's share of dy: four channels of one pixel of two.
  let k_lane = min(k0 + (sublane & 3) * 4, k_end - 4);
  let q_lane = select((sublane >> 2) & 1, 0u, NARROW);

  let rows = N * OH;
  let per_slice = (rows + SLICES - 1) / SLICES;
  let end = min((slice + 1) * per_slice, rows);
  var acc_0: mat4x4<f32>; // [k][column]
  var acc_1: mat4x4<f32>;
  var acc_2: mat4x4<f32>;
  var acc_3: mat4x4<f32>;
  var image = slice * per_slice / OH;
  var p = slice * per_slice - image * OH;
  for (var row = slice * per_slice; row < end; row++) {
    let h = i32(p) * SH + columns.top;
    let inside_h = (h >= vec4<i32>(0)) & (h < vec4<i32>(i32(IH)));
    let at_row = (image * IH + vec4<u32>(h)) * IW;
    p += 1;
    if (p == OH) {
      p = 0;
      image += 1;
    }
    for (var q = 0u; q < OW; q += 2) {
      // Past the end of the row dy repeats, and x is zero.
      let first = w4[((row * OW + min(q + q_lane, OW - 1)) * OC + k_lane) / 4];
      var second = first;
      if (NARROW) { second = w4[((row * OW + min(q + 1, OW - 1)) * OC + k_lane) / 4]; }
      let v0 = i32(q) * SW + columns.left;
      let v1 = v0 + SW;
      let x0 = column_values(at_row, v0, columns.c + group * ICG, inside_h);
      let x1 = column_values(at_row, v1, columns.c + group * ICG, inside_h & vec4<bool>(q + 1 < OW));
      acc_0 = rank1(acc_0, x0, subgroupBroadcast(first, 0u));
      acc_1 = rank1(acc_1, x0, subgroupBroadcast(first, 1u));
      acc_2 = rank1(acc_2, x0, subgroupBroadcast(first, 2u));
      acc_3 = rank1(acc_3, x0, subgroupBroadcast(first, 3u));
      acc_0 = rank1(acc_0, x1, select(subgroupBroadcast(first, 4u), subgroupBroadcast(second, 0u), NARROW));
      acc_1 = rank1(acc_1, x1, select(subgroupBroadcast(first, 5u), subgroupBroadcast(second, 1u), NARROW));
      acc_2 = rank1(acc_2, x1, select(subgroupBroadcast(first, 6u), subgroupBroadcast(second, 2u), NARROW));
      acc_3 = rank1(acc_3, x1, select(subgroupBroadcast(first, 7u), subgroupBroadcast(second, 3u), NARROW));
    }
  }
  if (quad < quads && slice < SLICES) {
    store_columns(acc_0, slice * OC + k0, k_end - k0, quad, quads);
    store_columns(acc_1, slice * OC + k0 + 4, max(k_end - k0, 4) - 4, quad, quads);
    store_columns(acc_2, slice * OC + k0 + 8, max(k_end - k0, 8) - 8, quad, quads);
    store_columns(acc_3, slice * OC + k0 + 12, max(k_end - k0, 12) - 12, quad, quads);
  }
}

fn column_values(at_row: vec4<u32>, v: vec4<i32>, c: vec4<u32>, wanted: vec4<bool>) -> vec4<f32> {
  let inside = wanted & (v >= vec4<i32>(0)) & (v < vec4<i32>(i32(IW)));
  let at = select(vec4<u32>(0), (at_row + vec4<u32>(v)) * IC + c, inside);
  if (VEC4) {
    return select(vec4<f32>(0), x4[at.x / 4], inside.x);
  }
  return select(vec4<f32>(0), vec4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]), inside);
}

fn store_columns(acc: mat4x4<f32>, k: u32, count: u32, quad: u32, quads: u32) {
  for (var i = 0u; i < min(count, 4); i++) {
    out[(k + i) * quads + quad] = acc[i];
  }
}
