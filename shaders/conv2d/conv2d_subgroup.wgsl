enable subgroups;

// Convolution for adapters whose lanes are a processor's SIMD lanes (lavapipe: 8, SwiftShader: 4).
//
//   conv         y = conv(x, w) + bias; with GRAD the same loops give dx = conv_transposed(dy, w): see the phases below
//   conv_row     the same for filters of width 3 without stride or dilation: each x is loaded once for its three taps
//   grad_weight  dw, as partial sums over slices of the output rows (added up by sum_partials.wgsl);
//                grad_weight_row for such filters, again with each x loaded once for its three taps
//
// On such adapters a load costs the same for one number that all lanes share as for a vec4 of its own in each lane, and
// more than a dozen multiplications. So shared numbers, the weights in `conv`, are loaded as vec4s of their own, one
// output channel per lane, and then handed around with subgroupBroadcast, which is one shuffle of a register. There
// are no barriers and no workgroup memory, but for the weights of conv_row_16 (see `stage`).
//
// Layouts: x [N, IH, IW, IC]   w [OC, R, S, ICG]   out [N, OH, OW, OC]   ICG = IC / GROUPS, OCG = OC / GROUPS.
// With GRAD, x is dy, out is dx, and w is what the forward convolution read: [IC, R, S, OCG].
// One invocation owns 4 output pixels × 8 or 16 output channels (conv), or 4 columns (r, s, c) × 16 channels of dy
// (grad_weight). All lanes of a workgroup share their output channels (conv), or their slice of rows (grad_weight).
//
// OCG is a multiple of 4. VEC4 says that ICG is one, too; without it inputs are loaded number by number.
//
// How x and dy are read, and what becomes of the sums, is said by the other parts of the module: conv2d_input_*.wgsl,
// conv2d_dy_*.wgsl, conv2d_output_*.wgsl. Where the output REDUCES, the pixels of one subgroup make one partial result;
// an invocation then takes BLOCKS times four pixels, one after the other, so that there are fewer of them.

//#import conv2d_map
//#hole input: conv2d_input_plain
//#hole dy: conv2d_dy_plain
//#hole output: conv2d_output_plain
//#hole activation: activation_none

override K16: bool = true; // 16 output channels at a time in grad_weight_row, else 8
override NARROW: bool = false; // subgroups may have as few as 4 lanes
override LANES: u32 = 8; // of every subgroup, 4 or 8; counts only where the output REDUCES
override SEAMLESS: bool = false; // in conv_row_16, see `window_16`
override STAGED: u32 = 0; // in conv_row_16, see `stage`
override WORKGROUP: u32 = 64;

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
// As numbers and as vec4s; dy in grad_weight.
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read> w4: array<vec4<f32>>;
// What differs from batch to batch, so that a pipeline serves them all; and from map to map for the gathering kernels, as each takes the
// better part of a second to compile. Channels are constants, since the strides of the innermost loop hang on them, and so are
// the maps for grad_weight, whose innermost loop goes along their rows.
struct Batch {
  N: u32,
  IH: u32,
  IW: u32,
  OH: u32,
  OW: u32,
  SLICES: u32, // of the N·OH output rows, in grad_weight
  BLOCKS: u32, // where the output REDUCES; else 1
}
@group(0) @binding(14) var<uniform> batch: Batch;

// Addresses of x, and of w without GRAD, count vec4s with VEC4, else numbers.
fn unit() -> u32 {
  return select(1u, 4u, VEC4);
}

// Four channels of x from c on, `at` being where the first channel lies; zeros outside of the map, where `at` is 0, and
// past the last channel.
fn input(at: u32, c: u32, inside: bool, channels: Channels) -> vec4<f32> {
  if (VEC4) {
    return select(vec4<f32>(0), x_vec4(at + c / 4, channels), inside);
  }
  let exists = vec4<bool>(inside) & (c + vec4<u32>(0, 1, 2, 3) < vec4<u32>(IC / GROUPS));
  let i = at + select(vec4<u32>(0), c + vec4<u32>(0, 1, 2, 3), exists);
  return select(vec4<f32>(0), vec4<f32>(x_number(i.x), x_number(i.y), x_number(i.z), x_number(i.w)), exists);
}

// Eight output channels × four input channels of w at one tap: a vec4 in each lane of eight; in subgroups of four,
// `second` holds lanes 4 to 7. Lane i has output channel i; with GRAD, four output channels of input channel i / 2.
struct Shared8 { first: vec4<f32>, second: vec4<f32> }

// Where this lane finds its vec4s, for eight of the task's output channels from `offset` on.
struct Rows { first: u32, second: u32, c: u32 }
fn rows_of(task: Task, offset: u32, sublane: u32) -> Rows {
  let k0 = task.k0 + offset;
  let OCG = OC / GROUPS;
  let ICG = IC / GROUPS;
  let lane = sublane & select(7u, 3u, NARROW);
  if (GRAD) {
    let channels = (min(k0 + 4 * (lane & 1), task.k_end - 4) - task.block.group * OCG) / 4;
    let row = R * S * OCG / 4;
    let own = (task.block.group * ICG + lane / 2) * row + channels;
    return Rows(own, own + 2 * row, lane / 2);
  }
  let row = R * S * ICG / unit();
  return Rows(min(k0 + lane, task.k_end - 1) * row, min(k0 + 4 + lane, task.k_end - 1) * row, 0);
}

// The weights at one tap, four input channels from c on.
fn shared_weights(rows: Rows, tap: u32, c: u32) -> Shared8 {
  let own = weights(rows.first, tap, c, rows.c);
  if (NARROW) {
    return Shared8(own, weights(rows.second, tap, c, rows.c + 2));
  }
  return Shared8(own, own);
}
fn weights(at: u32, tap: u32, c: u32, c_lane: u32) -> vec4<f32> {
  let ICG = IC / GROUPS;
  if (GRAD) {
    let quads = OC / GROUPS / 4;
    let exists = VEC4 || c + c_lane < ICG;
    // Multiplied by constants, so that three taps share a product.
    let i = at + c * (R * S * quads) + tap * quads;
    return select(vec4<f32>(0), w4[select(0u, i, exists)], exists);
  }
  let first = tap * ICG + c;
  if (VEC4) {
    return w4[at + first / 4];
  }
  let exists = c + vec4<u32>(0, 1, 2, 3) < vec4<u32>(ICG);
  let i = at + first + select(vec4<u32>(0), vec4<u32>(0, 1, 2, 3), exists);
  return select(vec4<f32>(0), vec4<f32>(w[i.x], w[i.y], w[i.z], w[i.w]), exists);
}

// acc[pixel] + Σ_c xs[c][pixel] · w[c], as a chain: fewer numbers in flight than with a product of its own.
fn chain(acc: vec4<f32>, xs: mat4x4<f32>, w_: vec4<f32>) -> vec4<f32> {
  var sum = fma(xs[0], vec4<f32>(w_.x), acc);
  sum = fma(xs[1], vec4<f32>(w_.y), sum);
  sum = fma(xs[2], vec4<f32>(w_.z), sum);
  return fma(xs[3], vec4<f32>(w_.w), sum);
}

// With GRAD: one output channel's weights, from the even or the odd lanes of eight.
fn even_lanes(first: f32, second: f32) -> vec4<f32> {
  let low = vec2<f32>(subgroupBroadcast(first, 0u), subgroupBroadcast(first, 2u));
  if (NARROW) {
    return vec4<f32>(low, subgroupBroadcast(second, 0u), subgroupBroadcast(second, 2u));
  }
  return vec4<f32>(low, subgroupBroadcast(first, 4u), subgroupBroadcast(first, 6u));
}
fn odd_lanes(first: f32, second: f32) -> vec4<f32> {
  let low = vec2<f32>(subgroupBroadcast(first, 1u), subgroupBroadcast(first, 3u));
  if (NARROW) {
    return vec4<f32>(low, subgroupBroadcast(second, 1u), subgroupBroadcast(second, 3u));
  }
  return vec4<f32>(low, subgroupBroadcast(first, 5u), subgroupBroadcast(first, 7u));
}

// acc[k][pixel] += Σ_c xs[c][pixel] · w[k][c], k = 0 … 7
fn multiply(acc: ptr<function, array<vec4<f32>, 8>>, xs: mat4x4<f32>, ws: Shared8) {
  if (GRAD) {
    (*acc)[0] = chain((*acc)[0], xs, even_lanes(ws.first.x, ws.second.x));
    (*acc)[1] = chain((*acc)[1], xs, even_lanes(ws.first.y, ws.second.y));
    (*acc)[2] = chain((*acc)[2], xs, even_lanes(ws.first.z, ws.second.z));
    (*acc)[3] = chain((*acc)[3], xs, even_lanes(ws.first.w, ws.second.w));
    (*acc)[4] = chain((*acc)[4], xs, odd_lanes(ws.first.x, ws.second.x));
    (*acc)[5] = chain((*acc)[5], xs, odd_lanes(ws.first.y, ws.second.y));
    (*acc)[6] = chain((*acc)[6], xs, odd_lanes(ws.first.z, ws.second.z));
    (*acc)[7] = chain((*acc)[7], xs, odd_lanes(ws.first.w, ws.second.w));
    return;
  }
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

// What x needs to know of four channels, from c on: each lane loads one row of it.
fn shared_channels(group: u32, c: u32, sublane: u32) -> Channels {
  let quad = (group * (IC / GROUPS) + c) / 4;
  if (CHANNEL_ROWS == 0) { return channels_of(quad); }
  let own = channel_row(min(sublane, max(CHANNEL_ROWS, 1) - 1), quad);
  return channels_from(
    subgroupBroadcast(own, 0u),
    subgroupBroadcast(own, 1u),
    subgroupBroadcast(own, 2u),
    subgroupBroadcast(own, 3u),
  );
}

// The same for output channels. Where rows are to be shared, subgroups have LANES lanes.
fn shared_out_channels(quad: u32, sublane: u32) -> OutChannels {
  if (OUT_CHANNEL_ROWS == 0) { return out_channels_of(quad); }
  let own = out_channel_row(min(sublane, 4), quad);
  var row_4 = subgroupBroadcast(own, 4u);
  if (LANES == 4) { row_4 = out_channel_row(4, quad); }
  return out_channels_from(
    subgroupBroadcast(own, 0u),
    subgroupBroadcast(own, 1u),
    subgroupBroadcast(own, 2u),
    subgroupBroadcast(own, 3u),
    row_4,
  );
}

// What is added up over the pixels that an invocation stores, for four channels; `origin` is the subgroup's.
struct Totals { origin: vec4<f32>, u: vec4<f32>, v: vec4<f32> }
struct Totals8 { low: Totals, high: Totals, pixels: f32 }
struct Totals16 { low: Totals8, high: Totals8 }

// The sums of eight channels. Taken at constant indices: with others some compilers would keep `acc` in memory throughout.
struct Sums8 { low: mat4x4<f32>, high: mat4x4<f32> }
fn sums_of(acc: ptr<function, array<vec4<f32>, 8>>) -> Sums8 {
  return Sums8(
    mat4x4<f32>((*acc)[0], (*acc)[1], (*acc)[2], (*acc)[3]),
    mat4x4<f32>((*acc)[4], (*acc)[5], (*acc)[6], (*acc)[7]),
  );
}

fn either(low: mat4x4<f32>, high: mat4x4<f32>, is_high: bool) -> mat4x4<f32> {
  return mat4x4<f32>(
    select(low[0], high[0], is_high),
    select(low[1], high[1], is_high),
    select(low[2], high[2], is_high),
    select(low[3], high[3], is_high),
  );
}
fn either_totals(low: Totals, high: Totals, is_high: bool) -> Totals {
  return Totals(
    select(low.origin, high.origin, is_high), select(low.u, high.u, is_high), select(low.v, high.v, is_high),
  );
}
fn either_8(low: Totals8, high: Totals8, is_high: bool) -> Totals8 {
  return Totals8(
    either_totals(low.low, high.low, is_high),
    either_totals(low.high, high.high, is_high),
    select(low.pixels, high.pixels, is_high),
  );
}

// Four channels after the other in a loop: written out, stores and sums are most of what there is to compile.
fn store_8(
  sums: Sums8,
  pixels: vec4<u32>,
  valid: vec4<bool>,
  task: Task,
  first: u32,
  before: Totals8,
  b: u32,
  sublane: u32,
) -> Totals8 {
  var totals = before;
  totals.pixels += dot(select(vec4<f32>(0), vec4<f32>(1), valid), vec4<f32>(1));
  for (var half = 0u; half < quads_from(task, first); half++) {
    let is_high = half == 1;
    let own = either_totals(totals.low, totals.high, is_high);
    let k = task.k0 + first + 4 * half;
    let next = store_half(either(sums.low, sums.high, is_high), pixels, valid, k, own, b, sublane);
    totals.low = either_totals(next, totals.low, is_high);
    totals.high = either_totals(totals.high, next, is_high);
  }
  return totals;
}
fn store_16(
  low: Sums8,
  high: Sums8,
  pixels: vec4<u32>,
  valid: vec4<bool>,
  task: Task,
  before: Totals16,
  b: u32,
  sublane: u32,
) -> Totals16 {
  var totals = before;
  for (var eight = 0u; eight < eights_of(task); eight++) {
    let is_high = eight == 1;
    let sums = Sums8(either(low.low, high.low, is_high), either(low.high, high.high, is_high));
    let own = either_8(totals.low, totals.high, is_high);
    let next = store_8(sums, pixels, valid, task, 8 * eight, own, b, sublane);
    totals.low = either_8(next, totals.low, is_high);
    totals.high = either_8(totals.high, next, is_high);
  }
  return totals;
}
fn store_half(
  sums: mat4x4<f32>,
  pixels: vec4<u32>,
  valid: vec4<bool>,
  k: u32,
  before: Totals,
  b: u32,
  sublane: u32,
) -> Totals {
  var totals = before;
  let channels = shared_out_channels(k / 4, sublane);
  let y = transpose(sums);
  // Loops whose end no compiler knows to be 4: unrolled they take long to compile.
  let end = select(0u, 4u, any(valid));
  // The mean of what all lanes store for their first four pixels.
  if (NEEDS_ORIGIN && b == 0) {
    var first = vec4<f32>(0);
    for (var i = 0u; i < end; i++) {
      let one = one_of(y, pixels, valid, i);
      if (one.stored) { first += finish(one.sum, one.pixel, k / 4, channels, vec4<f32>(0)).value; }
    }
    let count = add_lanes(select(vec4<f32>(0), vec4<f32>(1), valid));
    totals.origin = add_lanes(first) / max(dot(count, vec4<f32>(1)), 1);
  }
  for (var i = 0u; i < end; i++) {
    let one = one_of(y, pixels, valid, i);
    if (one.stored) {
      let finished = finish(one.sum, one.pixel, k / 4, channels, totals.origin);
      out[one.pixel * (OC / 4) + k / 4] = finished.value;
      if (REDUCES) {
        totals.u += finished.u;
        totals.v += finished.v;
      }
    }
  }
  return totals;
}

// One of four pixels.
struct One { sum: vec4<f32>, pixel: u32, stored: bool }
fn one_of(sums: mat4x4<f32>, pixels: vec4<u32>, valid: vec4<bool>, i: u32) -> One {
  return One(
    select(select(sums[0], sums[1], i == 1), select(sums[2], sums[3], i == 3), i >= 2),
    select(select(pixels.x, pixels.y, i == 1), select(pixels.z, pixels.w, i == 3), i >= 2),
    select(select(valid.x, valid.y, i == 1), select(valid.z, valid.w, i == 3), i >= 2),
  );
}

// The sum over all lanes. Broadcasts from constant lanes are shuffles of a register; subgroupAdd would be a loop.
fn add_lanes(v: vec4<f32>) -> vec4<f32> {
  var sum = (subgroupBroadcast(v, 0u) + subgroupBroadcast(v, 1u)) + (subgroupBroadcast(v, 2u) + subgroupBroadcast(v, 3u));
  if (LANES == 8) {
    sum += (subgroupBroadcast(v, 4u) + subgroupBroadcast(v, 5u)) + (subgroupBroadcast(v, 6u) + subgroupBroadcast(v, 7u));
  }
  return sum;
}

// Of a task's channels in a kernel for 16: blocks of eight.
fn eights_of(task: Task) -> u32 {
  return (min(task.k_end - task.k0, 16) + 7) / 8;
}
// Quads of them from `first` on, two at most.
fn quads_from(task: Task, first: u32) -> u32 {
  let k = task.k0 + first;
  return select(0u, min((task.k_end - k + 3) / 4, 2), k < task.k_end);
}

// The partial result of a subgroup, eight channels of it; each lane writes a vec4 or none.
fn put_totals(totals: Totals8, task: Task, first: u32, lane: u32, sublane: u32) {
  let group = task.block.partial * (WORKGROUP / LANES) + lane / LANES;
  let pixels = add_lanes(vec4<f32>(totals.pixels)).x;
  for (var half = 0u; half < quads_from(task, first); half++) {
    let is_high = half == 1;
    let origin = select(totals.low.origin, totals.high.origin, is_high);
    let u = add_lanes(select(totals.low.u, totals.high.u, is_high));
    let v = add_lanes(select(totals.low.v, totals.high.v, is_high));
    if (sublane < PARTIAL_ROWS) {
      let at = (group * PARTIAL_ROWS + sublane) * (OC / 4) + (task.k0 + first) / 4 + half;
      put_partial(at, partial_row(sublane, pixels, origin, u, v));
    }
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
  if (GRAD) { return Axis(SH, (batch.OH + u32(SH) - 1) / u32(SH), SH, 1); }
  return Axis(1, batch.OH, 1, SH);
}
fn horizontal() -> Axis {
  if (GRAD) { return Axis(SW, (batch.OW + u32(SW) - 1) / u32(SW), SW, 1); }
  return Axis(1, batch.OW, 1, SW);
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

// `pixels`: where its pixels begin, in quads; `partial`: its place among the blocks that share its channels.
struct Block { k_block: u32, group: u32, first_h: i32, first_w: i32, pixels: u32, partial: u32 }

// What a workgroup works on; neighbouring workgroups share their pixels.
fn block_of(workgroup: vec3<u32>, groups: vec3<u32>, k_blocks: u32) -> Block {
  var id = workgroup.x + workgroup.y * groups.x;
  var block: Block;
  block.k_block = id % k_blocks;
  id /= k_blocks;
  block.group = id % GROUPS;
  id /= GROUPS;
  block.partial = id;
  let phases_w = u32(horizontal().phases);
  block.first_w = first(i32(id % phases_w), SW, PL);
  id /= phases_w;
  let phases_h = u32(vertical().phases);
  block.first_h = first(i32(id % phases_h), SH, PT);
  block.pixels = (id / phases_h) * WORKGROUP * batch.BLOCKS;
  return block;
}

// What a workgroup works on: a block's output channels from k0 on (before k_end). Lanes are no part of it, so that the
// compiler sees that it is the same for all of them.
struct Task { block: Block, k0: u32, k_end: u32 }
fn task_of(workgroup: vec3<u32>, groups: vec3<u32>, channels: u32) -> Task {
  let OCG = OC / GROUPS;
  let block = block_of(workgroup, groups, (OCG + channels - 1) / channels);
  let k0 = block.group * OCG + block.k_block * channels;
  return Task(block, k0, (block.group + 1) * OCG);
}

// m / d, for m below 2^31 and d below 2^22. Integers have no vector division. A quotient of floats is off by a few where m is large,
// and the next, of what is left, by one at most, however the adapter rounds.
fn quotient(m: u32, d: u32) -> u32 {
  let far = u32(f32(m) / f32(d));
  let near = u32(i32(far) + i32(floor(f32(i32(m - far * d)) / f32(d))));
  let rest = i32(m - near * d);
  return near + select(0u, 1u, rest >= i32(d)) - select(0u, 1u, rest < 0);
}

// Four consecutive pixels of a phase.
struct Pixels { image: vec4<u32>, i: vec4<i32>, j: vec4<i32>, out: vec4<u32>, valid: vec4<bool> }
fn pixels_of(block: Block, lane: u32) -> Pixels {
  let rows = vertical().count;
  let columns = horizontal().count;
  let total = batch.N * rows * columns;
  let wanted = (block.pixels + lane) * 4 + vec4<u32>(0, 1, 2, 3);
  // The first one by division, the others by counting on; past the end they repeat an earlier one.
  let m = min(wanted.x, total - 1);
  let row = quotient(m, columns);
  var at = vec3<u32>(quotient(row, rows), 0, m - row * columns); // image, i, j
  at.y = row - at.x * rows;
  var pixels: Pixels;
  for (var k = 0u; k < 4; k++) {
    pixels.image[k] = at.x;
    pixels.i[k] = i32(at.y);
    pixels.j[k] = i32(at.z);
    let next = at + vec3<u32>(0, 0, 1);
    let wrapped = select(next, vec3<u32>(at.x, at.y + 1, 0), next.z == columns);
    at = select(wrapped, vec3<u32>(at.x + 1, 0, 0), wrapped.y == rows);
    at.x = min(at.x, batch.N - 1);
  }
  let h = pixels.i * vertical().out_step + block.first_h;
  let w_ = pixels.j * horizontal().out_step + block.first_w;
  pixels.out = (pixels.image * batch.OH + vec4<u32>(h)) * batch.OW + vec4<u32>(w_);
  pixels.valid = (wanted < vec4<u32>(total)) & (h < vec4<i32>(i32(batch.OH))) & (w_ < vec4<i32>(i32(batch.OW)));
  return pixels;
}

// Where four pixels read x at one tap.
struct Source { at: vec4<u32>, inside: vec4<bool> }
fn source(pixels: Pixels, group: u32, offset_h: i32, offset_w: i32) -> Source {
  let h = pixels.i * vertical().in_step + offset_h;
  let v = pixels.j * horizontal().in_step + offset_w;
  var from_: Source;
  from_.inside = (h >= vec4<i32>(0)) & (h < vec4<i32>(i32(batch.IH))) & (v >= vec4<i32>(0)) & (v < vec4<i32>(i32(batch.IW)));
  let at = ((pixels.image * batch.IH + vec4<u32>(h)) * batch.IW + vec4<u32>(v)) * IC + group * (IC / GROUPS);
  from_.at = select(vec4<u32>(0), at / unit(), from_.inside);
  return from_;
}
// [c][pixel]: four channels of four pixels
fn load(from_: Source, c: u32, channels: Channels) -> mat4x4<f32> {
  return transpose(mat4x4<f32>(
    input(from_.at.x, c, from_.inside.x, channels),
    input(from_.at.y, c, from_.inside.y, channels),
    input(from_.at.z, c, from_.inside.z, channels),
    input(from_.at.w, c, from_.inside.w, channels),
  ));
}

fn block_8(task: Task, lane: u32, sublane: u32, b: u32, before: Totals8) -> Totals8 {
  let block = task.block;
  let rows = rows_of(task, 0, sublane);
  let pixels = pixels_of(block, b * WORKGROUP + lane);
  // By output channel: four pixels. Zeros in words: left out, Tint writes them only once for the loop over blocks.
  var acc = array<vec4<f32>, 8>();
  for (var r = 0u; r < R; r++) {
    let top = i32(r) * DH;
    if (skips(block.first_h, top, SH, PT)) { continue; }
    for (var s = 0u; s < S; s++) {
      let left = i32(s) * DW;
      if (skips(block.first_w, left, SW, PL)) { continue; }
      let from_ = source(pixels, block.group, offset(block.first_h, top, SH, PT), offset(block.first_w, left, SW, PL));
      for (var c = 0u; c < IC / GROUPS; c += 4) {
        let xs = load(from_, c, shared_channels(block.group, c, sublane));
        multiply(&acc, xs, shared_weights(rows, r * S + s, c));
      }
    }
  }
  return store_8(sums_of(&acc), pixels.out, pixels.valid, task, 0, before, b, sublane);
}

@compute @workgroup_size(WORKGROUP)
fn conv_8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let task = task_of(workgroup, groups, 8);
  var totals: Totals8;
  if (!REDUCES) {
    totals = block_8(task, lane, sublane, 0, totals);
    return;
  }
  for (var b = 0u; b < batch.BLOCKS; b++) {
    totals = block_8(task, lane, sublane, b, totals);
  }
  if (task.block.pixels < (batch.N * vertical().count * horizontal().count + 3) / 4) {
    put_totals(totals, task, 0, lane, sublane);
  }
}

fn block_16(task: Task, lane: u32, sublane: u32, b: u32, before: Totals16) -> Totals16 {
  let block = task.block;
  let low_rows = rows_of(task, 0, sublane);
  let high_rows = rows_of(task, 8, sublane);
  let pixels = pixels_of(block, b * WORKGROUP + lane);
  var low = array<vec4<f32>, 8>();
  var high = array<vec4<f32>, 8>();
  for (var r = 0u; r < R; r++) {
    let top = i32(r) * DH;
    if (skips(block.first_h, top, SH, PT)) { continue; }
    for (var s = 0u; s < S; s++) {
      let left = i32(s) * DW;
      if (skips(block.first_w, left, SW, PL)) { continue; }
      let from_ = source(pixels, block.group, offset(block.first_h, top, SH, PT), offset(block.first_w, left, SW, PL));
      for (var c = 0u; c < IC / GROUPS; c += 4) {
        let xs = load(from_, c, shared_channels(block.group, c, sublane));
        multiply(&low, xs, shared_weights(low_rows, r * S + s, c));
        multiply(&high, xs, shared_weights(high_rows, r * S + s, c));
      }
    }
  }
  return store_16(sums_of(&low), sums_of(&high), pixels.out, pixels.valid, task, before, b, sublane);
}

@compute @workgroup_size(WORKGROUP)
fn conv_16(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let task = task_of(workgroup, groups, 16);
  var totals: Totals16;
  if (!REDUCES) {
    totals = block_16(task, lane, sublane, 0, totals);
    return;
  }
  for (var b = 0u; b < batch.BLOCKS; b++) {
    totals = block_16(task, lane, sublane, b, totals);
  }
  if (task.block.pixels < (batch.N * vertical().count * horizontal().count + 3) / 4) {
    for (var eight = 0u; eight < eights_of(task); eight++) {
      put_totals(either_8(totals.low, totals.high, eight == 1), task, 8 * eight, lane, sublane);
    }
  }
}

// Four pixels of one row, and where their six neighbours in x begin: that is tap 0, or with GRAD tap 2.
struct Row { image: u32, i: i32, left: i32, out: vec4<u32>, valid: vec4<bool> }
fn row_of(block: Block, lane: u32) -> Row {
  let rows = vertical().count;
  let quads = (batch.OW + 3) / 4;
  let wanted = block.pixels + lane;
  let m = min(wanted, batch.N * rows * quads - 1);
  let image_row = quotient(m, quads);
  let image = quotient(image_row, rows);
  let j = (m - image_row * quads) * 4 + vec4<u32>(0, 1, 2, 3);
  var row: Row;
  row.image = image;
  row.i = i32(image_row - image * rows);
  row.left = i32(j.x) + select(-PL, PL - 2, GRAD);
  let h = row.i * vertical().out_step + block.first_h;
  row.out = (image * batch.OH + u32(h)) * batch.OW + j;
  row.valid = vec4<bool>(wanted < batch.N * rows * quads && h < i32(batch.OH)) & (j < vec4<u32>(batch.OW));
  return row;
}
// Where the six neighbours lie at one filter row, and four channels of each.
struct SixSources { at: array<u32, 6>, inside: array<bool, 6> }
fn six_sources(row: Row, block: Block, top: i32) -> SixSources {
  let h = row.i * vertical().in_step + offset(block.first_h, top, SH, PT);
  let first = ((row.image * batch.IH + u32(h)) * batch.IW + u32(row.left)) * IC + block.group * (IC / GROUPS);
  var from_: SixSources;
  for (var i = 0; i < 6; i++) {
    from_.inside[i] = h >= 0 && h < i32(batch.IH) && row.left + i >= 0 && row.left + i < i32(batch.IW);
    from_.at[i] = select(0u, (first + u32(i) * IC) / unit(), from_.inside[i]);
  }
  return from_;
}
struct Window { x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32> }
fn window(from_: SixSources, c: u32, channels: Channels) -> Window {
  return Window(
    input(from_.at[0], c, from_.inside[0], channels),
    input(from_.at[1], c, from_.inside[1], channels),
    input(from_.at[2], c, from_.inside[2], channels),
    input(from_.at[3], c, from_.inside[3], channels),
    input(from_.at[4], c, from_.inside[4], channels),
    input(from_.at[5], c, from_.inside[5], channels),
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

fn block_row_8(task: Task, lane: u32, sublane: u32, b: u32, before: Totals8) -> Totals8 {
  let block = task.block;
  let rows = rows_of(task, 0, sublane);
  let pixels = row_of(block, b * WORKGROUP + lane);
  var acc = array<vec4<f32>, 8>();
  for (var r = 0u; r < R; r++) {
    let top = i32(r) * DH;
    if (skips(block.first_h, top, SH, PT)) { continue; }
    let from_ = six_sources(pixels, block, top);
    for (var c = 0u; c < IC / GROUPS; c += 4) {
      let xs = window(from_, c, shared_channels(block.group, c, sublane));
      slide(&acc, xs, rows, r, c);
    }
  }
  return store_8(sums_of(&acc), pixels.out, pixels.valid, task, 0, before, b, sublane);
}

// S = 3 and no horizontal stride or dilation.
@compute @workgroup_size(WORKGROUP)
fn conv_row_8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let task = task_of(workgroup, groups, 8);
  var totals: Totals8;
  if (!REDUCES) {
    totals = block_row_8(task, lane, sublane, 0, totals);
    return;
  }
  for (var b = 0u; b < batch.BLOCKS; b++) {
    totals = block_row_8(task, lane, sublane, b, totals);
  }
  if (task.block.pixels < batch.N * vertical().count * ((batch.OW + 3) / 4)) {
    put_totals(totals, task, 0, lane, sublane);
  }
}

// The lane `step` further on, round in a circle of as many as are counted on.
fn beside(sublane: u32, step: i32) -> u32 {
  let last = select(7u, 3u, NARROW);
  return (sublane & ~last) | (u32(i32(sublane) + step) & last);
}
// Which of its outer neighbours a lane loads itself, as they are not inner ones of the lanes beside it. Where SEAMLESS,
// none: every row lies within one subgroup, and what is left and right of it is padding.
struct Outer { first: bool, last: bool }
fn outer_of(from_: SixSources, sublane: u32) -> Outer {
  if (SEAMLESS) { return Outer(false, false); }
  let nowhere = 0xffffffffu;
  let before = subgroupShuffle(select(nowhere, from_.at[4], from_.inside[4]), beside(sublane, -1));
  let after = subgroupShuffle(select(nowhere, from_.at[1], from_.inside[1]), beside(sublane, 1));
  return Outer(from_.inside[0] && before != from_.at[0], from_.inside[5] && after != from_.at[5]);
}
// As `window`, the outer neighbours from the lanes beside this one: a shuffle costs far less than a load.
fn window_16(from_: SixSources, outer: Outer, c: u32, channels: Channels, sublane: u32) -> Window {
  let x1 = input(from_.at[1], c, from_.inside[1], channels);
  let x2 = input(from_.at[2], c, from_.inside[2], channels);
  let x3 = input(from_.at[3], c, from_.inside[3], channels);
  let x4_ = input(from_.at[4], c, from_.inside[4], channels);
  var x0 = select(vec4<f32>(0), subgroupShuffle(x4_, beside(sublane, -1)), from_.inside[0]);
  var x5 = select(vec4<f32>(0), subgroupShuffle(x1, beside(sublane, 1)), from_.inside[5]);
  if (!SEAMLESS) {
    if (outer.first) { x0 = input(from_.at[0], c, true, channels); }
    if (outer.last) { x5 = input(from_.at[5], c, true, channels); }
  }
  return Window(x0, x1, x2, x3, x4_, x5);
}

// The weights of 16 output channels at the first STAGED taps of every filter row, by tap, quad of input channels and lane
// of sixteen: workgroup memory has no bounds to check, which halves what a load costs. All are staged before there are
// any sums, since lavapipe keeps in memory, throughout, what is alive at a barrier. Not with NARROW.
override STAGED_SIZE: u32 = max(1, R * STAGED * ((IC / GROUPS + 3) / 4) * 16);
var<workgroup> staged: array<vec4<f32>, STAGED_SIZE>;
fn stage(task: Task, lane: u32) {
  let rows = rows_of(task, lane & 8, lane & 7);
  let quads = (IC / GROUPS + 3) / 4;
  let taps = max(STAGED, 1);
  for (var i = lane / 16; i < R * taps * quads; i += WORKGROUP / 16) {
    let tap = i / quads;
    staged[i * 16 + (lane & 15)] = weights(rows.first, (tap / taps) * 3 + tap % taps, (i % quads) * 4, rows.c);
  }
  workgroupBarrier();
}
// As `shared_weights` of `rows_of(task, offset, sublane)`, at tap s of filter row r.
fn weights_16(rows: Rows, offset: u32, r: u32, s: u32, c: u32, sublane: u32) -> Shared8 {
  if (s >= STAGED) { return shared_weights(rows, r * 3 + s, c); }
  let quad = (r * STAGED + s) * ((IC / GROUPS + 3) / 4) + c / 4;
  let own = staged[quad * 16 + offset + (sublane & 7)];
  return Shared8(own, own);
}
fn slide_16(
  acc: ptr<function, array<vec4<f32>, 8>>,
  xs: Window,
  rows: Rows,
  offset: u32,
  r: u32,
  c: u32,
  sublane: u32,
) {
  let first = weights_16(rows, offset, r, select(0u, 2u, GRAD), c, sublane);
  multiply(acc, transpose(mat4x4<f32>(xs.x0, xs.x1, xs.x2, xs.x3)), first);
  let second = weights_16(rows, offset, r, 1, c, sublane);
  multiply(acc, transpose(mat4x4<f32>(xs.x1, xs.x2, xs.x3, xs.x4)), second);
  let third = weights_16(rows, offset, r, select(2u, 0u, GRAD), c, sublane);
  multiply(acc, transpose(mat4x4<f32>(xs.x2, xs.x3, xs.x4, xs.x5)), third);
}

fn block_row_16(task: Task, lane: u32, sublane: u32, b: u32, before: Totals16) -> Totals16 {
  let block = task.block;
  let low_rows = rows_of(task, 0, sublane);
  let high_rows = rows_of(task, 8, sublane);
  let pixels = row_of(block, b * WORKGROUP + lane);
  var low = array<vec4<f32>, 8>();
  var high = array<vec4<f32>, 8>();
  for (var r = 0u; r < R; r++) {
    let top = i32(r) * DH;
    if (skips(block.first_h, top, SH, PT)) { continue; }
    let from_ = six_sources(pixels, block, top);
    let outer = outer_of(from_, sublane);
    for (var c = 0u; c < IC / GROUPS; c += 4) {
      let xs = window_16(from_, outer, c, shared_channels(block.group, c, sublane), sublane);
      slide_16(&low, xs, low_rows, 0, r, c, sublane);
      slide_16(&high, xs, high_rows, 8, r, c, sublane);
    }
  }
  return store_16(sums_of(&low), sums_of(&high), pixels.out, pixels.valid, task, before, b, sublane);
}

@compute @workgroup_size(WORKGROUP)
fn conv_row_16(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let task = task_of(workgroup, groups, 16);
  if (STAGED > 0) { stage(task, lane); }
  var totals: Totals16;
  if (!REDUCES) {
    totals = block_row_16(task, lane, sublane, 0, totals);
    return;
  }
  for (var b = 0u; b < batch.BLOCKS; b++) {
    totals = block_row_16(task, lane, sublane, b, totals);
  }
  if (task.block.pixels < batch.N * vertical().count * ((batch.OW + 3) / 4)) {
    for (var eight = 0u; eight < eights_of(task); eight++) {
      put_totals(either_8(totals.low, totals.high, eight == 1), task, 8 * eight, lane, sublane);
    }
  }
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
  let dy_channels = dy_channels_of(k_lane / 4);
  let channels = channels_of((columns.c.x + group * ICG) / 4);

  let rows = batch.N * OH;
  let per_slice = (rows + batch.SLICES - 1) / batch.SLICES;
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
      let first = dy_vec4(((row * OW + min(q + q_lane, OW - 1)) * OC + k_lane) / 4, dy_channels);
      var second = first;
      if (NARROW) { second = dy_vec4(((row * OW + min(q + 1, OW - 1)) * OC + k_lane) / 4, dy_channels); }
      let v0 = i32(q) * SW + columns.left;
      let v1 = v0 + SW;
      let x0 = column_values(at_row, v0, columns.c + group * ICG, inside_h, channels);
      let x1 = column_values(at_row, v1, columns.c + group * ICG, inside_h & vec4<bool>(q + 1 < OW), channels);
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
  // Nothing of lanes past the end. That the count is a variable keeps the loop from being unrolled, which would take twice
  // as long to compile.
  var all = array<mat4x4<f32>, 4>(acc_0, acc_1, acc_2, acc_3);
  let count = select(0u, min(k_end - k0, 16), quad < quads && slice < batch.SLICES);
  for (var k = 0u; k < count; k++) {
    out[(slice * OC + k0 + k) * quads + quad] = all[k / 4][k % 4];
  }
}

fn column_values(at_row: vec4<u32>, v: vec4<i32>, c: vec4<u32>, wanted: vec4<bool>, channels: Channels) -> vec4<f32> {
  let inside = wanted & (v >= vec4<i32>(0)) & (v < vec4<i32>(i32(IW)));
  let at = select(vec4<u32>(0), (at_row + vec4<u32>(v)) * IC + c, inside);
  if (VEC4) {
    return select(vec4<f32>(0), x_vec4(at.x / 4, channels), inside.x);
  }
  return select(vec4<f32>(0), vec4<f32>(x_number(at.x), x_number(at.y), x_number(at.z), x_number(at.w)), inside);
}

// [k][channel]: four output channels × four input channels at the three taps of a filter row.
struct Taps { s0: mat4x4<f32>, s1: mat4x4<f32>, s2: mat4x4<f32> }
struct Taps8 { low: Taps, high: Taps }

// acc[k] += Σ_pixel x[pixel] · dy[k][pixel]
fn add_tap(acc: mat4x4<f32>, xs: mat4x4<f32>, d: mat4x4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(
    chain(acc[0], xs, d[0]), chain(acc[1], xs, d[1]), chain(acc[2], xs, d[2]), chain(acc[3], xs, d[3]),
  );
}
fn add_taps(acc: Taps, xs: Window, d: mat4x4<f32>) -> Taps {
  return Taps(
    add_tap(acc.s0, mat4x4<f32>(xs.x0, xs.x1, xs.x2, xs.x3), d),
    add_tap(acc.s1, mat4x4<f32>(xs.x1, xs.x2, xs.x3, xs.x4), d),
    add_tap(acc.s2, mat4x4<f32>(xs.x2, xs.x3, xs.x4, xs.x5), d),
  );
}
fn add_taps_8(acc: Taps8, xs: Window, ds: Shared8) -> Taps8 {
  let low = mat4x4<f32>(
    even_lanes(ds.first.x, ds.second.x), even_lanes(ds.first.y, ds.second.y),
    even_lanes(ds.first.z, ds.second.z), even_lanes(ds.first.w, ds.second.w),
  );
  let high = mat4x4<f32>(
    odd_lanes(ds.first.x, ds.second.x), odd_lanes(ds.first.y, ds.second.y),
    odd_lanes(ds.first.z, ds.second.z), odd_lanes(ds.first.w, ds.second.w),
  );
  return Taps8(add_taps(acc.low, xs, low), add_taps(acc.high, xs, high));
}

// This lane's share of dy at four pixels of eight output channels from k0 on: four channels of one pixel, or of two.
struct DyLane { k: u32, pixel: u32, channels: DyChannels }
fn dy_lane(k0: u32, k_end: u32, sublane: u32) -> DyLane {
  let k = min(k0 + (sublane & 1) * 4, k_end - 4);
  return DyLane(k, (sublane >> 1) & select(3u, 1u, NARROW), dy_channels_of(k / 4));
}
fn dy_pixels(row: u32, q: u32, lane: DyLane) -> Shared8 {
  let first = dy_pixel(row, q + lane.pixel, lane);
  if (NARROW) {
    return Shared8(first, dy_pixel(row, q + 2 + lane.pixel, lane));
  }
  return Shared8(first, first);
}
fn dy_pixel(row: u32, q: u32, lane: DyLane) -> vec4<f32> {
  let d = dy_vec4(((row * OW + min(q, OW - 1)) * OC + lane.k) / 4, lane.channels);
  return select(vec4<f32>(0), d, OW % 4 == 0 || q < OW);
}

// Four channels of a pixel of one row, which begins at vec4 `at` and may lie outside of the map.
fn row_pixel(at: u32, v: i32, inside_h: bool, channels: Channels) -> vec4<f32> {
  let inside = inside_h && v >= 0 && v < i32(IW);
  return input(select(0u, at + u32(v) * (IC / 4), inside), 0, inside, channels);
}

// As grad_weight_16, with VEC4, for filters of width 3 without stride or dilation across: an invocation owns four
// channels of all three taps of a filter row. Walking along the rows of the map, it loads each x once for the three.
@compute @workgroup_size(WORKGROUP)
fn grad_weight_row(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_invocation_id) sublane: u32,
) {
  let c_quads = IC / GROUPS / 4;
  let OCG = OC / GROUPS;
  let channels_per_block = select(8u, 16u, K16);
  let k_blocks = (OCG + channels_per_block - 1) / channels_per_block;
  let lanes = R * c_quads;
  let lane_blocks = (lanes + WORKGROUP - 1) / WORKGROUP;
  var id = workgroup.x + workgroup.y * groups.x;
  let index = (id % lane_blocks) * WORKGROUP + lane;
  id /= lane_blocks;
  let k_block = id % k_blocks;
  id /= k_blocks;
  let group = id % GROUPS;
  let slice = id / GROUPS;

  let own = min(index, lanes - 1);
  let r = own / c_quads;
  let c_quad = own - r * c_quads;
  let top = i32(r) * DH - PT;
  let channels = channels_of(group * c_quads + c_quad);
  let k0 = group * OCG + k_block * channels_per_block;
  let k_end = (group + 1) * OCG;
  let low_lane = dy_lane(k0, k_end, sublane);
  let high_lane = dy_lane(k0 + 8, k_end, sublane);

  let rows = batch.N * OH;
  let per_slice = (rows + batch.SLICES - 1) / batch.SLICES;
  let end = min((slice + 1) * per_slice, rows);
  var low: Taps8;
  var high: Taps8;
  var image = slice * per_slice / OH;
  var p = slice * per_slice - image * OH;
  for (var row = slice * per_slice; row < end; row++) {
    let h = i32(p) * SH + top;
    let inside_h = h >= 0 && h < i32(IH);
    let at_row = (image * IH + u32(h)) * IW * (IC / 4) + group * c_quads + c_quad;
    p += 1;
    if (p == OH) {
      p = 0;
      image += 1;
    }
    var x0 = row_pixel(at_row, -PL, inside_h, channels);
    var x1 = row_pixel(at_row, 1 - PL, inside_h, channels);
    for (var q = 0u; q < OW; q += 4) {
      let left = i32(q) - PL;
      let xs = Window(
        x0,
        x1,
        row_pixel(at_row, left + 2, inside_h, channels),
        row_pixel(at_row, left + 3, inside_h, channels),
        row_pixel(at_row, left + 4, inside_h, channels),
        row_pixel(at_row, left + 5, inside_h, channels),
      );
      // Past the end of the row dy is zero.
      low = add_taps_8(low, xs, dy_pixels(row, q, low_lane));
      if (K16) { high = add_taps_8(high, xs, dy_pixels(row, q, high_lane)); }
      x0 = xs.x4;
      x1 = xs.x5;
    }
  }
  // As in grad_weight_16.
  var all = array<mat4x4<f32>, 12>(
    low.low.s0, low.low.s1, low.low.s2, low.high.s0, low.high.s1, low.high.s2,
    high.low.s0, high.low.s1, high.low.s2, high.high.s0, high.high.s1, high.high.s2,
  );
  let count = select(0u, min(k_end - k0, channels_per_block), index < lanes && slice < batch.SLICES);
  for (var k = 0u; k < count; k++) {
    let at = ((slice * OC + k0 + k) * R + r) * 3 * c_quads + c_quad;
    for (var s = 0u; s < 3; s++) {
      out[at + s * c_quads] = all[k / 4 * 3 + s][k % 4];
    }
  }
}
