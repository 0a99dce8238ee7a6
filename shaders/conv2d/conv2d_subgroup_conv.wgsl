// Convolutions with filters of any size, tap by tap. A file of conv2d_subgroup.wgsl.

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
    put_totals_16(totals, task, lane, sublane);
  }
}
