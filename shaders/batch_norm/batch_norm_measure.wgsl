// Statistics of x: origin, offset and deviation of each column in one slice of rows, into `partials`. A file of batch_norm.wgsl.

// The first of the values that `measure` measures.
fn first_of(run: Run, tail: bool) -> vec4<f32> {
  if (run.start < run.end) { return x_at(run.start); }
  if (tail) { return select(vec4<f32>(0), x_at(params.rows * params.width4 + run.column), in_tail(run.column)); }
  return vec4<f32>(0);
}

// Statistics of a run, and of the tail of its column if `tail` says so: blocks of four rows, two passes in registers, each merged
// into what was; twice where squares leave their range, the second time in other units.
fn measure(run: Run, tail: bool) -> Tally {
  let step = run.step;
  let first = first_of(run, tail);
  var extent: Extent;
  var scale = vec4<f32>(1);
  var n = 0.0;
  var mean: Mean;
  var variance = vec4<f32>(0);
  var again = false; // no number of turns that a compiler knows, so that none writes the body twice
  loop {
    n = 0;
    mean = Mean(first * scale, vec4<f32>(0));
    variance = vec4<f32>(0);
    var i = run.start;
    for (; i + 3 * step < run.end; i += 4 * step) {
      let d0 = difference(x_at(i) * scale, mean.origin);
      let d1 = difference(x_at(i + step) * scale, mean.origin);
      let d2 = difference(x_at(i + 2 * step) * scale, mean.origin);
      let d3 = difference(x_at(i + 3 * step) * scale, mean.origin);
      let middle = ((d0 + d1) + (d2 + d3)) * 0.25;
      let e0 = d0 - middle;
      let e1 = d1 - middle;
      let e2 = d2 - middle;
      let e3 = d3 - middle;
      let mean_square = ((e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)) * 0.25;
      n += 4;
      let weight = 4 / n;
      let delta = middle - mean.offset;
      variance += weight * (mean_square - variance + delta * delta * (1 - weight));
      mean = recentred(mean.origin, mean.offset + delta * weight);
    }
    for (; i < run.end; i += step) {
      n += 1;
      let delta = difference(x_at(i) * scale, mean.origin) - mean.offset;
      mean.offset += delta / n;
      variance += (delta * delta * (1 - 1 / n) - variance) / n;
    }
    if (tail) {
      let valid = in_tail(run.column);
      let delta = difference(x_at(params.rows * params.width4 + run.column) * scale, mean.origin) - mean.offset;
      mean.offset += select(vec4<f32>(0), delta / (n + 1), valid);
      variance += select(vec4<f32>(0), (delta * delta * (1 - 1 / (n + 1)) - variance) / (n + 1), valid);
    }
    let bad = unsafe_squares(variance);
    if (again || !any(bad)) { break; }
    again = true;
    extent = extent_of(run, tail);
    scale = select(vec4<f32>(1), scale_for(bitcast<vec4<f32>>(extent.largest)), bad);
  }
  let unit = inverse_power(scale);
  let count = vec4<f32>(n) + select(vec4<f32>(0), vec4<f32>(1), vec4<bool>(tail) & in_tail(run.column));
  return with_specials(Tally(count, mean.origin * unit, mean.offset * unit, sqrt(variance) * unit), extent);
}

fn extent_of(run: Run, tail: bool) -> Extent {
  var extent: Extent;
  for (var i = run.start; i < run.end; i += run.step) { extent = extended(extent, x_at(i)); }
  if (tail) {
    let last = x_at(params.rows * params.width4 + run.column);
    extent = extended(extent, select(vec4<f32>(0), last, in_tail(run.column)));
  }
  return extent;
}

fn write_tally(column: u32, slice: u32, tally: Tally) {
  let at = slice * 3 * params.width4 + column;
  partials[at] = tally.origin;
  partials[at + params.width4] = tally.offset;
  partials[at + 2 * params.width4] = tally.deviation;
}

// One invocation: one column (four channels) in one slice of rows.
@compute @workgroup_size(WORKGROUP_SIZE)
fn stats(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups) % params.width4;
  let slice = flat(id, groups) / params.width4;
  if (slice >= params.slices) { return; }
  write_tally(column, slice, measure(run_of_slice(column, slice, 0, 1), owns_tail(slice)));
}

override SHARED_SIZE: u32 = X * Y; // an element each invocation
var<workgroup> counts: array<f32, SHARED_SIZE>;
var<workgroup> origins: array<vec4<f32>, SHARED_SIZE>;
var<workgroup> firsts: array<vec4<f32>, SHARED_SIZE>;
var<workgroup> seconds: array<vec4<f32>, SHARED_SIZE>;

// The tallies of the first `many` of the Y invocations of each column, combined; the result is good at lane.y = 0. Only there may
// the counts of four channels differ.
fn combine_workgroup(lane: vec3<u32>, mine: Tally, many: u32) -> Tally {
  let at = lane.y * X + lane.x;
  var tally = mine;
  counts[at] = tally.count.x;
  origins[at] = tally.origin;
  firsts[at] = tally.offset;
  seconds[at] = tally.deviation;
  for (var size = many; size > 1;) {
    let half = (size + 1) / 2;
    workgroupBarrier();
    if (lane.y + half < size) {
      let other = at + half * X;
      tally = combine(tally, Tally(vec4<f32>(counts[other]), origins[other], firsts[other], seconds[other]));
      counts[at] = tally.count.x;
      origins[at] = tally.origin;
      firsts[at] = tally.offset;
      seconds[at] = tally.deviation;
    }
    size = half;
  }
  return tally;
}

// One workgroup: X columns in one slice of rows.
@compute @workgroup_size(X, Y)
fn stats_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  let column = group.x * X + lane.x;
  let slice = group.y;
  var tally: Tally;
  if (column < params.width4) {
    tally = measure(run_of_slice(column, slice, lane.y, Y), owns_tail(slice) && lane.y == 0);
  }
  tally = combine_workgroup(lane, tally, Y);
  if (lane.y == 0 && column < params.width4) { write_tally(column, slice, tally); }
}
