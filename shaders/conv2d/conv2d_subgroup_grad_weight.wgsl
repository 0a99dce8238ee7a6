// Gradients of weights, as partial sums over slices of the output rows. A file of conv2d_subgroup.wgsl.

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
