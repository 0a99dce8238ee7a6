// y from x, and dx from dy. A file of conv2d_tile.wgsl.

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
    if (chunk > 0) { multiply_8x4(&acc, row, column, 0); }
    workgroupBarrier();
    if (chunk == chunks) { break; }
    keep_ahead(ahead, lane);
    workgroupBarrier();
  }
  store(problem, row, column, BN / 4, 0, acc);
}
