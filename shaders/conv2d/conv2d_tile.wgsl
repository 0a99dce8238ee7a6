// Convolution for GPUs: an implicit matrix product in tiles of workgroup memory and registers.
//
//   conv         y = conv(x, w) + bias; with GRAD the same loops give dx = conv_transposed(dy, w): see the phases below
//   grad_weight  dw, as partial sums over slices of the output rows (added up by sum_partials.wgsl)
//
// Layouts: x [N, IH, IW, IC]   w [OC, R, S, ICG]   out [N, OH, OW, OC]   ICG = IC / GROUPS, OCG = OC / GROUPS.
// With GRAD, x is dy, out is dx, and w stays as it is: [IC, R, S, OCG].
//
//                rows of a tile (BM)     columns (BN)         summed over, BK at a time
//   conv         pixels of `out`         output channels      (r, s, c), c rounded up to a multiple of 4
//   grad_weight  channels of dy          (r, s, c), likewise  pixels of dy
//
// One workgroup owns one tile; one invocation owns 8 rows × 8 columns of it, or 8 × 4, as two halves of 4, so that
// neighbours read neighbouring vec4s of workgroup memory. An invocation loads at most one block of 4 × 4 numbers of each
// operand per chunk, before it multiplies the chunk before; one barrier stands before a chunk is read, one before it is
// overwritten.
//
// OCG is a multiple of 4. VEC4 says that ICG is one, too; without it x, and w in forward, are loaded number by number.
//
// What x and dy are made from, and what becomes of the sums, is up to the other parts of this module: conv2d_input_*.wgsl,
// conv2d_dy_*.wgsl and conv2d_output_*.wgsl, which declare the bindings that are missing here. If the output REDUCES, the
// pixels of one tile are a group.

//#import conv2d_map
//#hole input: conv2d_input_plain
//#hole dy: conv2d_dy_plain
//#hole output: conv2d_output_plain
//#hole activation: activation_none

override BM: u32 = 64;
override BN: u32 = 64;
override BK: u32 = 16;
override WORKGROUP: u32 = 64; // BM / 8 · BN / (8 or 4), no less than either number of blocks

// 4 × 4 blocks of a chunk: which lanes load them.
override ROW_BLOCKS: u32 = BK / 4 * (BM / 4);
override COLUMN_BLOCKS: u32 = BK / 4 * (BN / 4);
// Other lanes, if there are enough.
override FIRST_COLUMN_LANE: u32 = select(0u, ROW_BLOCKS, ROW_BLOCKS + COLUMN_BLOCKS <= WORKGROUP);

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
// The same as numbers and as vec4s: the weights, or dy in grad_weight.
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read> w4: array<vec4<f32>>;
// What differs from batch to batch, so that a pipeline serves them all.
struct Batch {
  N: u32,
  SLICES: u32, // of the N·OH output rows, in grad_weight
}
@group(0) @binding(14) var<uniform> batch: Batch;

// A chunk of the rows, [BK][row in fours], then one of the columns; the odd one out spreads stores over the banks.
override ROW_STRIDE: u32 = BM / 4 + 1;
override COLUMN_STRIDE: u32 = BN / 4 + 1;
override COLUMNS: u32 = BK * ROW_STRIDE;
override TILES_SIZE: u32 = COLUMNS + BK * COLUMN_STRIDE;
var<workgroup> tiles: array<vec4<f32>, TILES_SIZE>;

// Writes a block of 4 × 4, k first, to `at`.
fn keep(at: u32, stride: u32, block: mat4x4<f32>) {
  tiles[at] = block[0];
  tiles[at + stride] = block[1];
  tiles[at + 2 * stride] = block[2];
  tiles[at + 3 * stride] = block[3];
}

// Columns of a block that do not exist become zeros.
fn masked(block: mat4x4<f32>, exists: vec4<bool>) -> mat4x4<f32> {
  return mat4x4<f32>(
    select(vec4<f32>(0), block[0], exists.x),
    select(vec4<f32>(0), block[1], exists.y),
    select(vec4<f32>(0), block[2], exists.z),
    select(vec4<f32>(0), block[3], exists.w),
  );
}

fn made(fetched: array<Fetched, 4>, channels: Channels) -> mat4x4<f32> {
  return mat4x4<f32>(
    x_made(fetched[0], channels),
    x_made(fetched[1], channels),
    x_made(fetched[2], channels),
    x_made(fetched[3], channels),
  );
}

// --- the product of two chunks ---------------------------------------------------------------------------

// acc[row][half of the columns]. Every lane's row and column are within the tile: `min` says so here, since compilers leave
// out the check of an index only where they see its bound in the same function.
fn multiply_8x8(acc: ptr<function, array<vec4<f32>, 16>>, any_row: u32, any_column: u32) {
  let row = min(any_row, BM / 8 - 1);
  let column = min(any_column, BN / 8 - 1);
  for (var k = 0u; k < BK; k++) {
    let a0 = tiles[k * ROW_STRIDE + row];
    let a1 = tiles[k * ROW_STRIDE + BM / 8 + row];
    let b0 = tiles[COLUMNS + k * COLUMN_STRIDE + column];
    let b1 = tiles[COLUMNS + k * COLUMN_STRIDE + BN / 8 + column];
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

fn multiply_8x4(acc: ptr<function, array<vec4<f32>, 8>>, any_row: u32, any_column: u32) {
  let row = min(any_row, BM / 8 - 1);
  let column = min(any_column, BN / 4 - 1);
  for (var k = 0u; k < BK; k++) {
    let a0 = tiles[k * ROW_STRIDE + row];
    let a1 = tiles[k * ROW_STRIDE + BM / 8 + row];
    let b = tiles[COLUMNS + k * COLUMN_STRIDE + column];
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

struct Problem { k_block: u32, group: u32, vertical: Axis, horizontal: Axis, first_pixel: u32, pixels: u32, block: u32 }
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
  problem.block = id;
  problem.horizontal = axis(i32(id % phases_w), OW, S, SW, PL, DW);
  id /= phases_w;
  problem.vertical = axis(i32(id % phases_h), OH, R, SH, PT, DH);
  problem.first_pixel = (id / phases_h) * BM;
  problem.pixels = batch.N * problem.vertical.count * problem.horizontal.count;
  return problem;
}

const NOWHERE = 0xffffffffu;

// By row of the tile: where the pixel lies in x and its position there before a tap's offset, and the pixel of `out` or
// NOWHERE; its position is then outside at any tap.
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
    let valid = image < batch.N && h < i32(OH) && v < i32(OW);
    let y = u32(position.x * problem.vertical.in_step);
    let x = u32(position.y * problem.horizontal.in_step);
    pixels[i] = vec4<u32>(
      ((image * IH + y) * IW + x) * IC,
      select(0x40000000u, y, valid),
      x,
      select(NOWHERE, (image * OH + u32(h)) * OW + u32(v), valid),
    );
  }
}

// Four channels, from c on, of one tap: those that exist, four of the BK that are summed over in a chunk.
struct Step { r: i32, s: i32, c: u32, exists: vec4<bool> }
fn chunks_of(problem: Problem) -> u32 {
  let quads = problem.vertical.taps * problem.horizontal.taps * ((IC / GROUPS + 3) / 4);
  return (quads + BK / 4 - 1) / (BK / 4);
}
fn step_of(problem: Problem, chunk: u32, k: u32) -> Step {
  let per_tap = (IC / GROUPS + 3) / 4;
  let taps = problem.vertical.taps * problem.horizontal.taps;
  // All taps for some channels, then all for the next ones; or, where a chunk doesn't keep to one tap, tap by tap.
  var quad = chunk / taps * (BK / 4) + k;
  var tap = chunk % taps;
  if (per_tap % (BK / 4) != 0) {
    tap = (chunk * (BK / 4) + k) / per_tap;
    quad = chunk * (BK / 4) + k - tap * per_tap;
  }
  let row = tap / problem.horizontal.taps;
  var step: Step;
  step.r = problem.vertical.tap + i32(row) * problem.vertical.tap_step;
  step.s = problem.horizontal.tap + i32(tap - row * problem.horizontal.taps) * problem.horizontal.tap_step;
  step.c = quad * 4;
  step.exists = vec4<bool>(tap < taps) & (quad * 4 + vec4<u32>(0, 1, 2, 3) < vec4<u32>(IC / GROUPS));
  return step;
}

// A lane's part of the next chunk, on its way while this one is multiplied: nothing looks at the numbers before `keep_ahead`.
struct Ahead {
  // Four pixels, of four channels each.
  fetched: array<Fetched, 4>, // with VEC4, else
  numbers: mat4x4<f32>,
  channels: Channels,
  inside: vec4<bool>,
  exists: vec4<bool>, // by channel
  // Four output channels, of four input channels each, or with GRAD the other way round. Of what doesn't exist any will do.
  weights: mat4x4<f32>,
}

fn look_ahead(problem: Problem, chunk: u32, lane: u32) -> Ahead {
  let ICG = IC / GROUPS;
  let OCG = OC / GROUPS;
  var ahead: Ahead;
  if (lane < ROW_BLOCKS) {
    // Neighbouring lanes read neighbouring channels.
    let step = step_of(problem, chunk, lane % (BK / 4));
    let line = lane / (BK / 4);
    let down = offset(problem.vertical, step.r, SH, PT, DH);
    let right = offset(problem.horizontal, step.s, SW, PL, DW);
    let c = problem.group * ICG + step.c;
    let further = u32(down * i32(IW) + right) * IC + c;
    ahead.exists = step.exists;
    if (VEC4) { ahead.channels = channels_of(select(0u, c, step.exists.x) / 4); }
    for (var i = 0u; i < 4; i++) {
      let pixel = pixels[line * 4 + i];
      let inside = step.exists.x && pixel.y + u32(down) < IH && pixel.z + u32(right) < IW;
      let at = select(0u, pixel.x + further, inside);
      ahead.inside[i] = inside;
      if (VEC4) {
        ahead.fetched[i] = x_fetch(at / 4);
      } else {
        let j = at + select(vec4<u32>(0), vec4<u32>(0, 1, 2, 3), step.exists & vec4<bool>(inside));
        ahead.numbers[i] = vec4<f32>(x_number(j.x), x_number(j.y), x_number(j.z), x_number(j.w));
      }
    }
  }
  let block = lane - FIRST_COLUMN_LANE; // wraps round
  if (block < COLUMN_BLOCKS) {
    // Neighbouring lanes read neighbouring input channels; with GRAD output channels.
    let line = select(block / (BK / 4), block % (BN / 4), GRAD);
    let step = step_of(problem, chunk, select(block % (BK / 4), block / (BN / 4), GRAD));
    let tap = select(0u, u32(step.r) * S + u32(step.s), step.exists.x);
    let k = min(problem.k_block * BN + line * 4, OCG - 4);
    let c = select(vec4<u32>(0), step.c + vec4<u32>(0, 1, 2, 3), step.exists);
    for (var i = 0u; i < 4; i++) {
      if (GRAD) {
        ahead.weights[i] = w4[(((problem.group * ICG + c[i]) * R * S + tap) * OCG + k) / 4];
      } else {
        let at = ((problem.group * OCG + k + i) * R * S + tap) * ICG;
        if (VEC4) {
          ahead.weights[i] = w4[(at + c.x) / 4];
        } else {
          ahead.weights[i] = vec4<f32>(w[at + c.x], w[at + c.y], w[at + c.z], w[at + c.w]);
        }
      }
    }
  }
  return ahead;
}

fn keep_ahead(ahead: Ahead, lane: u32) {
  if (lane < ROW_BLOCKS) {
    var block = ahead.numbers;
    if (VEC4) { block = made(ahead.fetched, ahead.channels); }
    block = transpose(masked(block, ahead.inside));
    if (!VEC4) { block = masked(block, ahead.exists); }
    keep(lane % (BK / 4) * 4 * ROW_STRIDE + lane / (BK / 4), ROW_STRIDE, block);
  }
  let block = lane - FIRST_COLUMN_LANE;
  if (block < COLUMN_BLOCKS) {
    var at = COLUMNS;
    var weights = ahead.weights;
    if (GRAD) {
      at += block / (BN / 4) * 4 * COLUMN_STRIDE + block % (BN / 4);
    } else {
      at += block % (BK / 4) * 4 * COLUMN_STRIDE + block / (BK / 4);
      weights = transpose(weights);
    }
    keep(at, COLUMN_STRIDE, weights);
  }
}

// Finishes and stores eight rows of four columns: quad `column` of the `columns` that one half has, which starts at `first`.
fn store(problem: Problem, row: u32, column: u32, columns: u32, first: u32, sums: array<vec4<f32>, 8>) {
  let OCG = OC / GROUPS;
  let k = problem.k_block * BN + first + column * 4;
  let quad = (problem.group * OCG + min(k, OCG - 4)) / 4;
  let channels = out_channels_of(quad);
  var origin = vec4<f32>(0);
  if (NEEDS_ORIGIN) {
    // The mean of what the first row of lanes stores.
    if (row == 0) {
      var stored = vec4<f32>(0);
      var count = 0.0;
      for (var i = 0u; i < 8; i++) {
        let pixel = pixels[i / 4 * (BM / 2) + i % 4].w;
        if (pixel != NOWHERE) {
          stored += finish(sums[i], pixel, quad, channels, vec4<f32>(0)).value;
          count += 1;
        }
      }
      tiles[BM / 4 * columns + column] = stored / max(count, 1);
    }
    workgroupBarrier();
    origin = tiles[BM / 4 * columns + column];
  }
  var u = vec4<f32>(0);
  var v = vec4<f32>(0);
  for (var i = 0u; i < 8; i++) {
    let pixel = pixels[i / 4 * (BM / 2) + row * 4 + i % 4].w;
    if (pixel != NOWHERE && k < OCG) {
      let finished = finish(sums[i], pixel, quad, channels, origin);
      out[pixel * (OC / 4) + quad] = finished.value;
      u += finished.u;
      v += finished.v;
    }
  }
  if (REDUCES) {
    tiles[row * columns + column] = u;
    tiles[(BM / 8 + row) * columns + column] = v;
    workgroupBarrier();
    if (row == 0 && k < OCG && problem.first_pixel < problem.pixels) {
      // By those that have pixels.
      for (var other = 1u; other < min(BM / 8, (problem.pixels - problem.first_pixel + 3) / 4); other++) {
        u += tiles[other * columns + column];
        v += tiles[(BM / 8 + other) * columns + column];
      }
      // Only forward is the number of pixels asked for, and there none of a phase is missing.
      let count = f32(min(BM, problem.pixels - problem.first_pixel));
      for (var r = 0u; r < PARTIAL_ROWS; r++) {
        put_partial((problem.block * PARTIAL_ROWS + r) * (OC / 4) + quad, partial_row(r, count, origin, u, v));
      }
    }
    workgroupBarrier(); // before the other half
  }
}

@compute @workgroup_size(WORKGROUP)
fn conv_8x8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let problem = problem_of(workgroup, groups);
  let column = lane % (BN / 8);
  let row = lane / (BN / 8);
  find_pixels(problem, lane);
  workgroupBarrier();
  let chunks = chunks_of(problem);
  var acc: array<vec4<f32>, 16>;
  for (var chunk = 0u; ; chunk++) {
    var ahead: Ahead;
    if (chunk < chunks) { ahead = look_ahead(problem, chunk, lane); }
    if (chunk > 0) { multiply_8x8(&acc, row, column); }
    workgroupBarrier();
    if (chunk == chunks) { break; }
    keep_ahead(ahead, lane);
    workgroupBarrier();
  }
  // The second half only if it has channels.
  let halves = min(2, (OC / GROUPS - problem.k_block * BN + BN / 2 - 1) / (BN / 2));
  for (var half = 0u; half < halves; half++) {
    let left = half == 0;
    store(problem, row, column, BN / 8, half * (BN / 2), array<vec4<f32>, 8>(
      select(acc[1], acc[0], left),
      select(acc[3], acc[2], left),
      select(acc[5], acc[4], left),
      select(acc[7], acc[6], left),
      select(acc[9], acc[8], left),
      select(acc[11], acc[10], left),
      select(acc[13], acc[12], left),
      select(acc[15], acc[14], left),
    ));
  }
}

@compute @workgroup_size(WORKGROUP)
fn conv_8x4(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let problem = problem_of(workgroup, groups);
  let column = lane % (BN / 4);
  let row = lane / (BN / 4);
  find_pixels(problem, lane);
  workgroupBarrier();
  let chunks = chunks_of(problem);
  var acc: array<vec4<f32>, 8>;
  for (var chunk = 0u; ; chunk++) {
    var ahead: Ahead;
    if (chunk < chunks) { ahead = look_ahead(problem, chunk, lane); }
    if (chunk > 0) { multiply_8x4(&acc, row, column); }
    workgroupBarrier();
    if (chunk == chunks) { break; }
    keep_ahead(ahead, lane);
    workgroupBarrier();
  }
  store(problem, row, column, BN / 4, 0, acc);
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

fn store_partial(slice: Slice, row: u32, column: u32, value: vec4<f32>) {
  let quads = (R * S * (IC / GROUPS) + 3) / 4;
  let k = slice.k_first + row;
  let quad = (slice.column + column) / 4;
  if (slice.index < batch.SLICES && k <= slice.k_last && quad < quads) {
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
  let sides = sides_of(slice, lane);
  for (var m = slice.first_pixel; ; m += BK) {
    let ahead = look_at_pixels(slice, sides, m, lane);
    if (m > slice.first_pixel) { multiply_8x4(&acc, row, column); }
    workgroupBarrier();
    if (m >= slice.end_pixel) { break; }
    keep_pixels(ahead, sides, lane);
    workgroupBarrier();
  }
  for (var i = 0u; i < 4; i++) {
    store_partial(slice, row * 4 + i, column * 4, acc[i]);
    store_partial(slice, BM / 2 + row * 4 + i, column * 4, acc[4 + i]);
  }
}
