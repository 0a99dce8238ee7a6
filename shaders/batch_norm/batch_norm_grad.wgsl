// Backward in three dispatches. A file of batch_norm.wgsl.
//
//   grad_stats     sum(dz) and sum(dz * xhat) of each column in one slice of rows, into `partials`
//   grad_finalize  dbeta, dgamma and the coefficients of dx, `slopes`
//   grad_apply     dx
//
// With `_residual` dz is made by the forward's mask, with `_joined` by the sum of the normalised input and the residual; both
// write it.

// --- sums ------------------------------------------------------------------------------------------------

struct Sums { dz: vec4<f32>, dz_xhat: vec4<f32> }

// The saved numbers of a column.
struct Numbers { origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>, rstd: vec4<f32>, shift: vec4<f32> }

fn numbers_of(column: u32) -> Numbers {
  let w = params.width4;
  return Numbers(
    numbers4[column],
    numbers4[w + column],
    numbers4[2 * w + column],
    numbers4[3 * w + column],
    numbers4[4 * w + column],
  );
}

// dz; z is computed as in `activate`.
fn grad_by_input(grad: vec4<f32>, deviation: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  return activation_grad(grad, deviation * a + b);
}

// The same with a residual, written on the way: it is the residual's gradient.
fn grad_by_sum(i: u32, deviation: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  let dz = activation_grad(dy_at(i), deviation * a + b + summand_at(i));
  put_dz(i, dz);
  return dz;
}

// dy where the mask's lowest four bits let it through, written on the way: it is the residual's gradient.
fn mask_by_output(i: u32, bits: u32) -> vec4<f32> {
  let dz = select(vec4<f32>(0), dy_at(i), (vec4<u32>(bits) & vec4<u32>(1, 2, 4, 8)) != vec4<u32>(0));
  put_dz(i, dz);
  return dz;
}

// The sums of a run, two rows at a time.
fn sum_grad(run: Run, c: Numbers, tail: bool) -> Sums {
  let step = run.step;
  var sums = Sums(vec4<f32>(0), vec4<f32>(0));
  var i = run.start;
  for (; i + step < run.end; i += 2 * step) {
    let d0 = x_at(i) - c.origin;
    let d1 = x_at(i + step) - c.origin;
    let z0 = grad_by_input(dy_at(i), d0, c.a, c.b);
    let z1 = grad_by_input(dy_at(i + step), d1, c.a, c.b);
    if (KEEPS_DZ) {
      put_dz(i, z0);
      put_dz(i + step, z1);
    }
    sums.dz += z0 + z1;
    sums.dz_xhat += z0 * (d0 * c.rstd + c.shift) + z1 * (d1 * c.rstd + c.shift);
  }
  for (; i < run.end; i += step) {
    let deviation = x_at(i) - c.origin;
    let dz = grad_by_input(dy_at(i), deviation, c.a, c.b);
    if (KEEPS_DZ) { put_dz(i, dz); }
    sums.dz += dz;
    sums.dz_xhat += dz * (deviation * c.rstd + c.shift);
  }
  if (tail) {
    let at = params.rows * params.width4 + run.column;
    let deviation = x_at(at) - c.origin;
    let dz = grad_by_input(dy_at(at), deviation, c.a, c.b);
    let valid = in_tail(run.column);
    sums.dz += select(vec4<f32>(0), dz, valid);
    sums.dz_xhat += select(vec4<f32>(0), dz * (deviation * c.rstd + c.shift), valid);
  }
  return sums;
}

// The mask of an element and those that follow it in its word.
fn mask_at(row: u32, column: u32) -> u32 {
  return mask_before[word_of(row, column)] >> (4 * (row % 8));
}

// The same by blocks, with dz by the forward's mask.
fn sum_grad_residual(blocks: Blocks, c: Numbers, tail: bool) -> Sums {
  let w = params.width4;
  let column = blocks.column;
  var sums = Sums(vec4<f32>(0), vec4<f32>(0));
  var row = blocks.start;
  for (; row + 1 < blocks.end; row += select(2, blocks.step - 6, row % 8 == 6)) {
    let i = row * w + column;
    let bits = mask_at(row, column);
    let z0 = mask_by_output(i, bits);
    let z1 = mask_by_output(i + w, bits >> 4);
    sums.dz += z0 + z1;
    sums.dz_xhat += z0 * ((x_at(i) - c.origin) * c.rstd + c.shift) + z1 * ((x_at(i + w) - c.origin) * c.rstd + c.shift);
  }
  if (row < blocks.end) {
    let i = row * w + column;
    let dz = mask_by_output(i, mask_at(row, column));
    sums.dz += dz;
    sums.dz_xhat += dz * ((x_at(i) - c.origin) * c.rstd + c.shift);
  }
  if (tail && 4 * column < params.tail) {
    let at = params.rows * w + column;
    let dz = mask_by_output(at, mask_at(params.rows, column));
    let valid = in_tail(column);
    sums.dz += select(vec4<f32>(0), dz, valid);
    sums.dz_xhat += select(vec4<f32>(0), dz * ((x_at(at) - c.origin) * c.rstd + c.shift), valid);
  }
  return sums;
}

// The sums of a run, with dz by the sum of the normalised input and the residual.
fn sum_grad_joined(run: Run, c: Numbers, tail: bool) -> Sums {
  var sums = Sums(vec4<f32>(0), vec4<f32>(0));
  for (var i = run.start; i < run.end; i += run.step) {
    let deviation = x_at(i) - c.origin;
    let dz = grad_by_sum(i, deviation, c.a, c.b);
    sums.dz += dz;
    sums.dz_xhat += dz * (deviation * c.rstd + c.shift);
  }
  if (tail && 4 * run.column < params.tail) {
    let at = params.rows * params.width4 + run.column;
    let deviation = x_at(at) - c.origin;
    let dz = grad_by_sum(at, deviation, c.a, c.b);
    let valid = in_tail(run.column);
    sums.dz += select(vec4<f32>(0), dz, valid);
    sums.dz_xhat += select(vec4<f32>(0), dz * (deviation * c.rstd + c.shift), valid);
  }
  return sums;
}

fn write_sums(column: u32, slice: u32, sums: Sums) {
  let at = slice * 2 * params.width4 + column;
  partials[at] = sums.dz;
  partials[at + params.width4] = sums.dz_xhat;
}

// One invocation: one column in one slice of rows.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_stats(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups) % params.width4;
  let slice = flat(id, groups) / params.width4;
  if (slice >= params.slices) { return; }
  write_sums(column, slice, sum_grad(run_of_slice(column, slice, 0, 1), numbers_of(column), owns_tail(slice)));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_stats_residual(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups) % params.width4;
  let slice = flat(id, groups) / params.width4;
  if (slice >= params.slices) { return; }
  let blocks = blocks_of_slice(column, slice, 0, 1);
  write_sums(column, slice, sum_grad_residual(blocks, numbers_of(column), owns_tail(slice)));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_stats_joined(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups) % params.width4;
  let slice = flat(id, groups) / params.width4;
  if (slice >= params.slices) { return; }
  let run = run_of_slice(column, slice, 0, 1);
  write_sums(column, slice, sum_grad_joined(run, numbers_of(column), owns_tail(slice)));
}

// The sums of the first `many` of the Y invocations of each column, added; the result is good at lane.y = 0.
fn add_workgroup(lane: vec3<u32>, mine: Sums, many: u32) -> Sums {
  let at = lane.y * X + lane.x;
  var sums = mine;
  firsts[at] = sums.dz;
  seconds[at] = sums.dz_xhat;
  for (var size = many; size > 1;) {
    let half = (size + 1) / 2;
    workgroupBarrier();
    if (lane.y + half < size) {
      sums.dz += firsts[at + half * X];
      sums.dz_xhat += seconds[at + half * X];
      firsts[at] = sums.dz;
      seconds[at] = sums.dz_xhat;
    }
    size = half;
  }
  return sums;
}

// One workgroup: X columns in one slice of rows.
@compute @workgroup_size(X, Y)
fn grad_stats_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  let column = group.x * X + lane.x;
  let slice = group.y;
  var sums = Sums(vec4<f32>(0), vec4<f32>(0));
  if (column < params.width4) {
    let run = run_of_slice(column, slice, lane.y, Y);
    sums = sum_grad(run, numbers_of(column), owns_tail(slice) && lane.y == 0);
  }
  sums = add_workgroup(lane, sums, Y);
  if (lane.y == 0 && column < params.width4) { write_sums(column, slice, sums); }
}

@compute @workgroup_size(X, Y)
fn grad_stats_residual_workgroup(
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(workgroup_id) group: vec3<u32>,
) {
  let column = group.x * X + lane.x;
  let slice = group.y;
  var sums = Sums(vec4<f32>(0), vec4<f32>(0));
  if (column < params.width4) {
    let blocks = blocks_of_slice(column, slice, lane.y, Y);
    sums = sum_grad_residual(blocks, numbers_of(column), owns_tail(slice) && lane.y == 0);
  }
  sums = add_workgroup(lane, sums, Y);
  if (lane.y == 0 && column < params.width4) { write_sums(column, slice, sums); }
}

@compute @workgroup_size(X, Y)
fn grad_stats_joined_workgroup(
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(workgroup_id) group: vec3<u32>,
) {
  let column = group.x * X + lane.x;
  let slice = group.y;
  var sums = Sums(vec4<f32>(0), vec4<f32>(0));
  if (column < params.width4) {
    let run = run_of_slice(column, slice, lane.y, Y);
    sums = sum_grad_joined(run, numbers_of(column), owns_tail(slice) && lane.y == 0);
  }
  sums = add_workgroup(lane, sums, Y);
  if (lane.y == 0 && column < params.width4) { write_sums(column, slice, sums); }
}

// --- finalize --------------------------------------------------------------------------------------------

// A channel's partial sums first, first + step, ...
fn add_slices(channel: u32, first: u32, step: u32) -> vec2<f32> {
  let width = 4 * params.width4;
  let repeats = width / params.channels;
  var sums = vec2<f32>(0);
  for (var p = first; p < params.slices * repeats;) {
    // In blocks: there may be thousands.
    let end = min(p + 64 * step, params.slices * repeats);
    var part = vec2<f32>(0);
    for (; p < end; p += step) {
      let slice = p / repeats;
      let at = slice * 2 * width + channel + (p - slice * repeats) * params.channels;
      part += vec2<f32>(slices[at], slices[at + width]);
    }
    sums += part;
  }
  return sums;
}

// dbeta, dgamma and the coefficients of dx from sum(dz) and sum(dz * xhat).
fn finish_grad(channel: u32, sums: vec2<f32>) {
  let width = 4 * params.width4;
  dbeta[channel] = sums.x;
  dgamma[channel] = sums.y;
  var p = 0.0;
  var q = 0.0;
  if (BATCH_STATISTICS) {
    let means = sums / params.count;
    p = -numbers[3 * width + channel] * means.y;
    q = -means.x - numbers[4 * width + channel] * means.y;
  }
  for (var j = channel; j < width; j += params.channels) {
    new_slopes[j] = p;
    new_slopes[width + j] = q;
    new_slopes[2 * width + j] = numbers[j];
    new_slopes[3 * width + j] = numbers[width + j];
  }
}

// One invocation: one channel.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_finalize(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let channel = flat(id, groups);
  if (channel >= params.channels) { return; }
  finish_grad(channel, add_slices(channel, 0, 1));
}

// One workgroup of 1 by Y: one channel.
@compute @workgroup_size(1, Y)
fn grad_finalize_workgroup(
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let channel = group.x + group.y * groups.x;
  var sums = vec2<f32>(0);
  if (channel < params.channels) { sums = add_slices(channel, lane.y, Y); }
  let all = add_workgroup(lane, Sums(vec4<f32>(sums.x), vec4<f32>(sums.y)), mergers());
  if (lane.y == 0 && channel < params.channels) { finish_grad(channel, vec2<f32>(all.dz.x, all.dz_xhat.x)); }
}

// --- apply -----------------------------------------------------------------------------------------------

// Coefficients of one column: dx = a * (dz + (x - origin) * p + q).
struct Slopes { p: vec4<f32>, q: vec4<f32> }

fn apply_grad_run(run: Run, c: Numbers, s: Slopes) {
  let step = run.step;
  var i = run.start;
  for (; i + step < run.end; i += 2 * step) {
    let d0 = x_at(i) - c.origin;
    let d1 = x_at(i + step) - c.origin;
    let g0 = dy_at(i);
    let g1 = dy_at(i + step);
    put_dx(i, c.a * (grad_by_input(g0, d0, c.a, c.b) + (d0 * s.p + s.q)));
    put_dx(i + step, c.a * (grad_by_input(g1, d1, c.a, c.b) + (d1 * s.p + s.q)));
  }
  for (; i < run.end; i += step) {
    let deviation = x_at(i) - c.origin;
    put_dx(i, c.a * (grad_by_input(dy_at(i), deviation, c.a, c.b) + (deviation * s.p + s.q)));
  }
}

// The same, with the addend if there is one.
fn apply_grad_sum(run: Run, c: Numbers, s: Slopes) {
  if (!HAS_ADDEND) {
    apply_grad_run(run, c, s);
    return;
  }
  for (var i = run.start; i < run.end; i += run.step) {
    let deviation = x_at(i) - c.origin;
    put_dx(i, addend_at(i) + c.a * (grad_by_input(dy_at(i), deviation, c.a, c.b) + (deviation * s.p + s.q)));
  }
}

// One invocation: one column in one slice of rows, or in every stride-th vec4. With a residual and an activation, dy is dz here.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_apply(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let run = run_of_apply(flat(id, groups));
  apply_grad_sum(run, numbers_of(run.column), Slopes(slopes[run.column], slopes[params.width4 + run.column]));
}
