// Convolutions with filters of width 3, without stride or dilation across: each x is loaded once for its three taps. A file of
// conv2d_subgroup.wgsl.

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
    put_totals_16(totals, task, lane, sublane);
  }
}
