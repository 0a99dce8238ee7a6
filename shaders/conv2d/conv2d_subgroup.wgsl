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
// Where to look: conv2d_subgroup_conv.wgsl and conv2d_subgroup_row.wgsl have the gathering kernels, conv2d_subgroup_grad_weight.wgsl those of dw,
// and conv2d_subgroup_store.wgsl what becomes of sums. All are of this module, and share what stands here.
//
// How x and dy are read, and what becomes of the sums, is said by the other parts of the module: conv2d_input_*.wgsl,
// conv2d_dy_*.wgsl, conv2d_output_*.wgsl. Where the output REDUCES, the pixels of one subgroup make one partial result;
// an invocation then takes BLOCKS times four pixels, one after the other, so that there are fewer of them.

//#import conv2d_map
//#import conv2d_subgroup_conv
//#import conv2d_subgroup_row
//#import conv2d_subgroup_grad_weight
//#import conv2d_subgroup_store
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
