// Gradients of weights, as partial sums over slices of the pixels. A file of conv2d_tile.wgsl.

// x [N, IH, IW, IC] and dy (`w`) [N, OH, OW, OC] → partial sums [SLICES · PARTS, OC, R·S·ICG rounded up to a multiple of 4].
struct Slice { k_first: u32, k_last: u32, group: u32, column: u32, first_pixel: u32, end_pixel: u32, index: u32 }
fn slice_of(own: u32) -> Slice {
  let OCG = OC / GROUPS;
  let k_blocks = (OCG + BM - 1) / BM;
  let column_blocks = (R * S * (IC / GROUPS) + BN - 1) / BN;
  var id = own;
  var slice: Slice;
  slice.column = (id % column_blocks) * BN;
  id /= column_blocks;
  let k_block = id % k_blocks;
  id /= k_blocks;
  slice.group = id % GROUPS;
  slice.index = id / GROUPS;
  slice.k_first = slice.group * OCG + k_block * BM;
  slice.k_last = (slice.group + 1) * OCG - 1;
  let per_slice = (batch.N * OH + batch.SLICES - 1) / batch.SLICES;
  slice.first_pixel = slice.index * per_slice * OW;
  slice.end_pixel = min((slice.index + 1) * per_slice, batch.N * OH) * OW;
  return slice;
}

// What a lane loads throughout: four channels of dy, and four columns of x, which with VEC4 are channels of one tap.
struct Sides { dy: u32, dy_channels: DyChannels, column: u32, x: u32, down: i32, right: i32, channels: Channels }
fn sides_of(slice: Slice, lane: u32) -> Sides {
  let ICG = IC / GROUPS;
  var sides: Sides;
  // Neighbouring lanes read neighbouring channels.
  sides.dy = min(slice.k_first + lane % (BM / 4) * 4, slice.k_last - 3) / 4;
  sides.dy_channels = dy_channels_of(sides.dy);
  sides.column = slice.column + (lane - FIRST_COLUMN_LANE) % (BN / 4) * 4;
  if (VEC4) {
    let column = min(sides.column, R * S * ICG - 4);
    let tap = column / ICG;
    sides.x = slice.group * ICG + column - tap * ICG;
    sides.down = i32(tap / S) * DH - PT;
    sides.right = i32(tap % S) * DW - PL;
    sides.channels = channels_of(sides.x / 4);
  }
  return sides;
}

// A lane's part of the next chunk, as above: four pixels of each side.
struct PixelsAhead {
  dy: array<DyFetched, 4>,
  exists: vec4<bool>,
  fetched: array<Fetched, 4>, // with VEC4, else
  numbers: mat4x4<f32>,
  inside: vec4<bool>,
}

// Four columns of x at one pixel of dy, number by number.
fn x_columns(slice: Slice, column: u32, image: u32, p: u32, q: u32) -> vec4<f32> {
  let ICG = IC / GROUPS;
  var values: vec4<f32>;
  for (var i = 0u; i < 4; i++) {
    let tap = min(column + i, R * S * ICG - 1) / ICG;
    let c = min(column + i, R * S * ICG - 1) - tap * ICG;
    let h = i32(p) * SH + i32(tap / S) * DH - PT;
    let v = i32(q) * SW + i32(tap % S) * DW - PL;
    let inside = image < batch.N && h >= 0 && h < i32(IH) && v >= 0 && v < i32(IW);
    let at = select(0u, ((image * IH + u32(h)) * IW + u32(v)) * IC + slice.group * ICG + c, inside);
    values[i] = select(0.0, x_number(at), inside);
  }
  return values;
}

fn look_at_pixels(slice: Slice, sides: Sides, first: u32, lane: u32) -> PixelsAhead {
  var ahead: PixelsAhead;
  if (lane < ROW_BLOCKS) {
    let m = first + lane / (BM / 4) * 4;
    for (var i = 0u; i < 4; i++) {
      ahead.exists[i] = m + i < slice.end_pixel;
      ahead.dy[i] = dy_fetch(select(0u, (m + i) * (OC / 4) + sides.dy, m + i < slice.end_pixel));
    }
  }
  let block = lane - FIRST_COLUMN_LANE; // wraps round
  if (block < COLUMN_BLOCKS) {
    let m = first + block / (BN / 4) * 4;
    let row = m / OW;
    var q = m - row * OW;
    var image = row / OH;
    var p = row - image * OH;
    for (var i = 0u; i < 4; i++) {
      if (VEC4) {
        let h = i32(p) * SH + sides.down;
        let v = i32(q) * SW + sides.right;
        let inside = m + i < slice.end_pixel && u32(h) < IH && u32(v) < IW;
        ahead.inside[i] = inside;
        ahead.fetched[i] = x_fetch(select(0u, ((image * IH + u32(h)) * IW + u32(v)) * IC + sides.x, inside) / 4);
      } else {
        ahead.inside[i] = m + i < slice.end_pixel;
        ahead.numbers[i] = x_columns(slice, sides.column, image, p, q);
      }
      q++;
      if (q == OW) { q = 0; p++; }
      if (p == OH) { p = 0; image++; }
    }
  }
  return ahead;
}

fn keep_pixels(ahead: PixelsAhead, sides: Sides, lane: u32) {
  if (lane < ROW_BLOCKS) {
    let block = mat4x4<f32>(
      dy_made(ahead.dy[0], sides.dy_channels),
      dy_made(ahead.dy[1], sides.dy_channels),
      dy_made(ahead.dy[2], sides.dy_channels),
      dy_made(ahead.dy[3], sides.dy_channels),
    );
    keep(lane / (BM / 4) * 4 * ROW_STRIDE + lane % (BM / 4), ROW_STRIDE, masked(block, ahead.exists));
  }
  let block = lane - FIRST_COLUMN_LANE;
  if (block < COLUMN_BLOCKS) {
    var values = ahead.numbers;
    if (VEC4) { values = made(ahead.fetched, sides.channels); }
    let at = COLUMNS + block / (BN / 4) * 4 * COLUMN_STRIDE + block % (BN / 4);
    keep(at, COLUMN_STRIDE, masked(values, ahead.inside));
  }
}

fn store_partial(slice: Slice, part: u32, row: u32, column: u32, value: vec4<f32>) {
  let quads = (R * S * (IC / GROUPS) + 3) / 4;
  let k = slice.k_first + row;
  let quad = (slice.column + column) / 4;
  if (slice.index < batch.SLICES && k <= slice.k_last && quad < quads) {
    out[((slice.index * PARTS + part) * OC + k) * quads + quad] = value;
  }
}

@compute @workgroup_size(WORKGROUP)
fn grad_weight_8x8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup.x + workgroup.y * groups.x;
  if (is_riders(index)) {
    ride_along(index, lane);
    return;
  }
  let slice = slice_of(carried(index));
  let column = lane % (BN / 8);
  let row = lane / (BN / 8);
  var acc: array<vec4<f32>, 16>;
  let sides = sides_of(slice, lane);
  for (var m = slice.first_pixel; ; m += BK) {
    let ahead = look_at_pixels(slice, sides, m, lane);
    if (m > slice.first_pixel) { multiply_8x8(&acc, row, column); }
    workgroupBarrier();
    if (m >= slice.end_pixel) { break; }
    keep_pixels(ahead, sides, lane);
    workgroupBarrier();
  }
  for (var i = 0u; i < 4; i++) {
    store_partial(slice, 0, row * 4 + i, column * 4, acc[i * 2]);
    store_partial(slice, 0, row * 4 + i, BN / 2 + column * 4, acc[i * 2 + 1]);
    store_partial(slice, 0, BM / 2 + row * 4 + i, column * 4, acc[8 + i * 2]);
    store_partial(slice, 0, BM / 2 + row * 4 + i, BN / 2 + column * 4, acc[9 + i * 2]);
  }
}

@compute @workgroup_size(WORKGROUP)
fn grad_weight_8x4(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup.x + workgroup.y * groups.x;
  if (is_riders(index)) {
    ride_along(index, lane);
    return;
  }
  let slice = slice_of(carried(index));
  let column = lane % (BN / 4);
  let row = lane / (BN / 4) % (BM / 8);
  let part = lane / (BN / 4) / (BM / 8);
  var acc: array<vec4<f32>, 8>;
  let sides = sides_of(slice, lane);
  for (var m = slice.first_pixel; ; m += BK) {
    let ahead = look_at_pixels(slice, sides, m, lane);
    if (m > slice.first_pixel) { multiply_8x4(&acc, row, column, part); }
    workgroupBarrier();
    if (m >= slice.end_pixel) { break; }
    keep_pixels(ahead, sides, lane);
    workgroupBarrier();
  }
  for (var i = 0u; i < 4; i++) {
    store_partial(slice, part, row * 4 + i, column * 4, acc[i]);
    store_partial(slice, part, BM / 2 + row * 4 + i, column * 4, acc[4 + i]);
  }
}
