// Batch normalisation, fused with an optional residual and an activation:
//
//   mean, var over all but the channel;  rstd = 1 / sqrt(var + eps)
//   y  = act((x - mean) * rstd * gamma + beta [+ residual])
//   dz = dy * act'(z), z what the activation is of
//   dx = gamma * rstd * (dz - sum(dz) / n - xhat * sum(dz * xhat) / n),   xhat = (x - mean) * rstd
//   dgamma = sum(dz * xhat),  dbeta = sum(dz),  dresidual = dz
//   (Ioffe & Szegedy 2015, section 3.)
//
// Layout. x, y, residual and their gradients are [N, H, W, C], read as a flat array of vec4s. One or more rows of C
// channels make a *wide row* of width4 whole vec4s, so that a vec4 column always holds the same channels, also where
// C % 4 != 0. `rows` is the number of full wide rows; `tail` elements follow them. Element j of a wide row is channel
// j % C. An invocation owns one column: its per-channel numbers stay in registers.
//
// Numbers per channel live in rows of 4 * width4 elements, each channel repeated as in a wide row:
//   saved     [5, 4 * width4]          origin, a, b, rstd, shift
//   partials  [slices, 3, 4 * width4]  origin, offset, deviation        of x in one slice of rows
//             [slices, 4, 4 * width4]  the same and the count           from a convolution's epilogue (COUNTED)
//             [slices, 2, 4 * width4]  sum(dz), sum(dz * xhat)          in one slice of rows, or from such an epilogue
//   slopes    [4, 4 * width4]          p, q, origin, a                  dx = a * (dz + (x - origin) * p + q)
//
// The ReLU's mask, where the input alone doesn't give it (that is, with a residual): a bit for each element of y. A word
// is a *block*, eight wide rows of one column: bit 4 * (row % 8) + k of word (row / 8) * width4 + column. Slices begin at
// whole blocks, and an invocation writes whole words.
//
// Precision. A mean of 1000 standard deviations, rounded to float32, is off by 3e-5 of them. So a mean is kept as
// origin + offset: (x - origin) is exact near it, and
//   y = (x - origin) * a + b,  a = rstd * gamma,  b = beta - offset * a;   xhat = (x - origin) * rstd + shift.
// lib/moments.wgsl says how the origin is found, and what is done about squares out of range.
//
// The activation is a part of this module: one of activation_*.wgsl (see activation.wgsl). Backward works z out again from x
// and, for activations other than the ReLU, the residual.
//
// Elements. x, y, residual and their gradients are read and written through `x_at`, `put_y` and so on, by vec4: the other
// part of this module is batch_norm_f32.wgsl, or batch_norm_f16.wgsl for tensors in float16. All else is float32.
//
// Two families. Software adapters: one invocation measures a column in a run of rows that lie next to each other in
// memory, with neither barrier nor workgroup memory (entry points without suffix). GPUs (`_workgroup`): X columns by Y
// rows in a workgroup, coalesced, then a tree over Y in workgroup memory; a barrier stands before each of its steps.
// Every sum has a fixed order: results have the same bits in every run on one adapter.

//#import moments
//#hole elements: batch_norm_f32
//#hole activation: activation_none

override WORKGROUP_SIZE: u32 = 64;
// Columns and rows of a workgroup in the `_workgroup` entry points.
override X: u32 = 1;
override Y: u32 = 64;
override HAS_GAMMA: bool = true;
override HAS_BETA: bool = true;
override HAS_RESIDUAL: bool = false;
// Elements after the last full wide row.
override HAS_TAIL: bool = false;
// False where the statistics are constants: dx = a * dz.
override BATCH_STATISTICS: bool = true;
// Partials are a convolution's, and tell how many values they are of.
override COUNTED: bool = false;
// Sums of the gradient: dz is written, too. Only of channels in whole vec4s, which leave no tail.
override KEEPS_DZ: bool = false;
// dx is added to what else makes the gradient.
override HAS_ADDEND: bool = false;
// Apply kernels: write the mask.
override HAS_MASK: bool = false;
// Apply kernels: neighbouring invocations take neighbouring vec4s of the whole tensor, rather than runs of rows.
override STRIDED: bool = false;

// Sizes are no override constants: compiling a kernel for each shape costs a software adapter a quarter of a second
// and gains nothing.
struct Params {
  channels: u32,
  width4: u32,
  rows: u32,
  tail: u32,
  slices: u32,
  slice_rows: u32,
  stride: u32, // invocations of a STRIDED kernel, a multiple of width4
  count: f32, // values per channel
  eps: f32,
  momentum: f32, // negative for the cumulative average
}

@group(0) @binding(0) var<storage, read_write> partials: array<vec4<f32>>;
@group(0) @binding(0) var<storage, read_write> new_slopes: array<f32>;
@group(0) @binding(1) var<storage, read> batch_mean: array<f32>;
@group(0) @binding(2) var<storage, read> batch_var: array<f32>; // biased
@group(0) @binding(2) var<storage, read> slices: array<f32>; // partials, by element
@group(0) @binding(3) var<storage, read_write> saved: array<f32>;
@group(0) @binding(3) var<storage, read> numbers: array<f32>; // saved, to read by element
@group(0) @binding(3) var<storage, read> numbers4: array<vec4<f32>>; // the same by vec4
@group(0) @binding(4) var<storage, read_write> batches: array<f32>; // seen so far
@group(0) @binding(4) var<storage, read> slopes: array<vec4<f32>>; // new_slopes, by vec4
@group(0) @binding(4) var<storage, read> mask_before: array<u32>; // the forward's
@group(0) @binding(5) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(5) var<storage, read> given_mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> running_var: array<f32>;
@group(0) @binding(6) var<storage, read> given_var: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;
@group(0) @binding(8) var<storage, read> gamma: array<f32>;
@group(0) @binding(8) var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(9) var<storage, read> beta: array<f32>;
@group(0) @binding(9) var<storage, read_write> dbeta: array<f32>;
@group(0) @binding(10) var<storage, read_write> mask: array<u32>;

// --- helpers ---------------------------------------------------------------------------------------------

// The place of an invocation in a grid that may be folded into two dimensions.
fn flat(id: vec3<u32>, groups: vec3<u32>) -> u32 {
  return id.x + id.y * groups.x * WORKGROUP_SIZE;
}

fn in_tail(column: u32) -> vec4<bool> {
  return vec4<u32>(4 * column) + vec4<u32>(0, 1, 2, 3) < vec4<u32>(params.tail);
}

fn slice_start(slice: u32) -> u32 {
  return min(slice * params.slice_rows, params.rows);
}

fn owns_tail(slice: u32) -> bool {
  return HAS_TAIL && slice == params.slices - 1;
}

// How many values of its channel element j of a wide row has in a slice.
fn slice_count(slice: u32, j: u32) -> f32 {
  return f32(slice_start(slice + 1) - slice_start(slice) + select(0u, 1u, owns_tail(slice) && j < params.tail));
}

// The same of a partial result, wherever it is from.
fn partial_count(slice: u32, j: u32) -> f32 {
  if (COUNTED) { return slices[(slice * 4 + 3) * 4 * params.width4 + j]; }
  return slice_count(slice, j);
}

// The vec4s of one invocation: from `start` in steps of `step` to before `end`, all of one column.
struct Run { column: u32, start: u32, step: u32, end: u32 }

// Every `lanes`-th row of a slice from row `lane` on.
fn run_of_slice(column: u32, slice: u32, lane: u32, lanes: u32) -> Run {
  let w = params.width4;
  return Run(column, (slice_start(slice) + lane) * w + column, lanes * w, slice_start(slice + 1) * w + column);
}

// Blocks of one column: the rows from `start`, eight of them every `step`, to before `end`.
struct Blocks { column: u32, start: u32, step: u32, end: u32 }

// Every `lanes`-th block of a slice from block `lane` on.
fn blocks_of_slice(column: u32, slice: u32, lane: u32, lanes: u32) -> Blocks {
  return Blocks(column, slice_start(slice) + 8 * lane, 8 * lanes, slice_start(slice + 1));
}

fn word_of(row: u32, column: u32) -> u32 {
  return (row / 8) * params.width4 + column;
}

// --- forward: statistics ---------------------------------------------------------------------------------

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
  for (var attempt = 0; attempt < 2; attempt += 1) {
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
    if (attempt == 1 || !any(bad)) { break; }
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

// The tallies of the Y invocations of each column, combined; the result is good at lane.y = 0. Only there may the counts of
// four channels differ.
fn combine_workgroup(lane: vec3<u32>, mine: Tally) -> Tally {
  let at = lane.y * X + lane.x;
  var tally = mine;
  counts[at] = tally.count.x;
  origins[at] = tally.origin;
  firsts[at] = tally.offset;
  seconds[at] = tally.deviation;
  for (var size = Y; size > 1;) {
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
  tally = combine_workgroup(lane, tally);
  if (lane.y == 0 && column < params.width4) { write_tally(column, slice, tally); }
}

// --- forward: finalize -----------------------------------------------------------------------------------

// One channel: mean = origin + offset, var = variance / scale^2.
struct Merged { count: f32, origin: f32, offset: f32, variance: f32, scale: f32 }

fn merged_of(tally: Tally, k: u32) -> Merged {
  let scale = scale_for(vec4<f32>(tally.deviation[k])).x;
  let scaled = tally.deviation[k] * scale;
  return Merged(tally.count[k], tally.origin[k], tally.offset[k], scaled * scaled, scale);
}

fn tally_of(m: Merged) -> Tally {
  let deviation = sqrt(m.variance) * inverse_power(vec4<f32>(m.scale)).x;
  return Tally(vec4<f32>(m.count), vec4<f32>(m.origin), vec4<f32>(m.offset), vec4<f32>(deviation));
}

// A channel's partials first, first + step, ..., slice after slice; in each, the places of the channel in a wide row.
// Twice where squares leave their range, but not of a convolution's partials, whose own squares have.
fn merge_slices(channel: u32, first: u32, step: u32) -> Merged {
  let width = 4 * params.width4;
  let repeats = width / params.channels;
  var scale = 1.0;
  var n = 0.0;
  var mean: Mean;
  var variance = 0.0;
  var total = 0.0;
  for (var attempt = 0; attempt < 2; attempt += 1) {
    var largest = 0.0;
    n = 0;
    variance = 0;
    total = 0;
    for (var p = first; p < params.slices * repeats; p += step) {
      let slice = p / repeats;
      let j = channel + (p - slice * repeats) * params.channels;
      let count = partial_count(slice, j);
      if (count > 0) {
        let at = slice * select(3u, 4u, COUNTED) * width + j;
        let origin = slices[at];
        let offset = slices[at + width];
        let deviation = slices[at + 2 * width];
        if (n == 0) { mean = Mean(vec4<f32>(origin * scale), vec4<f32>(0)); }
        n += count;
        let weight = count / n;
        let delta = difference(vec4<f32>(origin * scale), mean.origin).x + (offset * scale - mean.offset.x);
        let square = (deviation * scale) * (deviation * scale);
        variance += weight * (square - variance + delta * delta * (1 - weight));
        mean = recentred(mean.origin, mean.offset + delta * weight);
        total += origin * (count / params.count);
        largest = max(largest, max(abs(origin), deviation));
      }
    }
    if (COUNTED || attempt == 1 || !any(unsafe_squares(vec4<f32>(variance)))) { break; }
    scale = scale_for(vec4<f32>(largest)).x;
  }
  // The mean of an infinite value, or NaN.
  if (is_special(vec4<f32>(total)).x) { return Merged(n, total, 0, variance, scale); }
  let unit = inverse_power(vec4<f32>(scale)).x;
  return Merged(n, mean.origin.x * unit, mean.offset.x * unit, variance, scale);
}

// The numbers of a channel into `saved`; returns origin, a and b.
fn save(channel: u32, origin: f32, offset: f32, rstd: f32) -> vec3<f32> {
  let mean = settled(origin, offset);
  var a = rstd;
  if (HAS_GAMMA) { a *= gamma[channel]; }
  var b = -mean.y * a;
  if (HAS_BETA) { b += beta[channel]; }
  let width = 4 * params.width4;
  for (var j = channel; j < width; j += params.channels) {
    saved[j] = mean.x;
    saved[width + j] = a;
    saved[2 * width + j] = b;
    saved[3 * width + j] = rstd;
    saved[4 * width + j] = -mean.y * rstd;
  }
  return vec3<f32>(mean.x, a, b);
}

fn save_merged(channel: u32, m: Merged) -> vec3<f32> {
  let rstd = m.scale * refined_inverse_sqrt(m.variance + params.eps * m.scale * m.scale);
  return save(channel, m.origin, m.offset, rstd);
}

// Moves the running statistics of a channel: the unbiased variance, as PyTorch has it.
fn track(channel: u32, m: Merged, momentum: f32) {
  let unit = inverse_power(vec4<f32>(m.scale)).x;
  let mean = m.origin + m.offset;
  let unbiased = (m.variance * (m.count / (m.count - 1))) * unit * unit;
  running_mean[channel] = running_mean[channel] * (1 - momentum) + mean * momentum;
  running_var[channel] = running_var[channel] * (1 - momentum) + unbiased * momentum;
}

// One invocation: one channel.
@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let channel = flat(id, groups);
  if (channel >= params.channels) { return; }
  save_merged(channel, merge_slices(channel, 0, 1));
}

fn momentum_of(before: f32) -> f32 {
  return select(params.momentum, 1 / (before + 1), params.momentum < 0);
}

// The factor for the running statistics, of one channel of many. Counts the batch, unless every channel needs the count:
// then `apply_counting` does it, a dispatch later.
fn next_momentum(channel: u32) -> f32 {
  if (params.momentum < 0) { return momentum_of(batches[0]); }
  if (channel == 0) { batches[0] += 1; }
  return params.momentum;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize_running(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let channel = flat(id, groups);
  if (channel >= params.channels) { return; }
  let merged = merge_slices(channel, 0, 1);
  save_merged(channel, merged);
  track(channel, merged, next_momentum(channel));
}

// A channel by a workgroup of 1 by Y; the result is good at lane.y = 0.
fn merge_workgroup(channel: u32, lane: vec3<u32>) -> Merged {
  var mine = Merged(0, 0, 0, 0, 1);
  if (channel < params.channels) { mine = merge_slices(channel, lane.y, Y); }
  return merged_of(combine_workgroup(lane, tally_of(mine)), 0);
}

// One workgroup of 1 by Y: one channel.
@compute @workgroup_size(1, Y)
fn finalize_workgroup(
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let channel = group.x + group.y * groups.x;
  let merged = merge_workgroup(channel, lane);
  if (lane.y == 0 && channel < params.channels) { save_merged(channel, merged); }
}

@compute @workgroup_size(1, Y)
fn finalize_running_workgroup(
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let channel = group.x + group.y * groups.x;
  let merged = merge_workgroup(channel, lane);
  if (lane.y == 0 && channel < params.channels) {
    save_merged(channel, merged);
    track(channel, merged, next_momentum(channel));
  }
}

// The same of a convolution's partials, measured again where its squares left their range: of x itself, by every step-th
// row of a channel from row `first` on.
fn measure_channel(channel: u32, first: u32, step: u32) -> Tally {
  let w = params.width4;
  let tally = measure(Run(channel / 4, first * w + channel / 4, step * w, params.rows * w), false);
  let k = channel % 4;
  return Tally(
    vec4<f32>(tally.count[k]),
    vec4<f32>(tally.origin[k]),
    vec4<f32>(tally.offset[k]),
    vec4<f32>(tally.deviation[k]),
  );
}

fn is_unsafe(m: Merged) -> bool {
  let unit = inverse_power(vec4<f32>(m.scale)).x;
  return unsafe_squares(vec4<f32>((m.variance * unit) * unit)).x;
}

fn merge_folded(channel: u32) -> Merged {
  let merged = merge_slices(channel, 0, 1);
  if (is_unsafe(merged)) { return merged_of(measure_channel(channel, 0, 1), 0); }
  return merged;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize_folded(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let channel = flat(id, groups);
  if (channel >= params.channels) { return; }
  save_merged(channel, merge_folded(channel));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize_folded_running(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let channel = flat(id, groups);
  if (channel >= params.channels) { return; }
  let merged = merge_folded(channel);
  save_merged(channel, merged);
  track(channel, merged, next_momentum(channel));
}

var<workgroup> again: u32;

// The result is good at lane.y = 0.
fn merge_folded_workgroup(channel: u32, lane: vec3<u32>) -> Merged {
  let merged = merge_workgroup(channel, lane);
  if (lane.y == 0) { again = select(0u, 1u, channel < params.channels && is_unsafe(merged)); }
  if (workgroupUniformLoad(&again) == 0) { return merged; }
  return merged_of(combine_workgroup(lane, measure_channel(channel, lane.y, Y)), 0);
}

@compute @workgroup_size(1, Y)
fn finalize_folded_workgroup(
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let channel = group.x + group.y * groups.x;
  let merged = merge_folded_workgroup(channel, lane);
  if (lane.y == 0 && channel < params.channels) { save_merged(channel, merged); }
}

@compute @workgroup_size(1, Y)
fn finalize_folded_running_workgroup(
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let channel = group.x + group.y * groups.x;
  let merged = merge_folded_workgroup(channel, lane);
  if (lane.y == 0 && channel < params.channels) {
    save_merged(channel, merged);
    track(channel, merged, next_momentum(channel));
  }
}

// Statistics alone, as a tensor [4, C] of count, origin, offset and variance, to be merged with others.
@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize_statistics(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let channel = flat(id, groups);
  if (channel >= params.channels) { return; }
  let m = merge_slices(channel, 0, 1);
  let unit = inverse_power(vec4<f32>(m.scale)).x;
  saved[channel] = params.count;
  saved[params.channels + channel] = m.origin;
  saved[2 * params.channels + channel] = m.offset;
  saved[3 * params.channels + channel] = (m.variance * unit) * unit;
}

fn given_statistics(channel: u32) -> Merged {
  let c = params.channels;
  return Merged(slices[channel], slices[c + channel], slices[2 * c + channel], slices[3 * c + channel], 1);
}

// Training with statistics that came from elsewhere (`slices` is [4, C] here).
@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize_given(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let channel = flat(id, groups);
  if (channel >= params.channels) { return; }
  save_merged(channel, given_statistics(channel));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize_given_running(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let channel = flat(id, groups);
  if (channel >= params.channels) { return; }
  let m = given_statistics(channel);
  save_merged(channel, m);
  track(channel, m, next_momentum(channel));
}

// Inference: the running statistics instead of the batch's. One invocation: one channel.
@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize_inference(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let channel = flat(id, groups);
  if (channel >= params.channels) { return; }
  save(channel, given_mean[channel], 0, refined_inverse_sqrt(given_var[channel] + params.eps));
}

// What the composition of plain ops needs beside them: statistics computed elsewhere, into the running ones.
// One workgroup for all channels: the count of batches moves on after every channel has read it.
@compute @workgroup_size(WORKGROUP_SIZE)
fn update_running(@builtin(local_invocation_index) lane: u32) {
  let momentum = momentum_of(batches[0]);
  for (var channel = lane; channel < params.channels; channel += WORKGROUP_SIZE) {
    track(channel, Merged(params.count, batch_mean[channel], 0, batch_var[channel], 1), momentum);
  }
  storageBarrier();
  if (lane == 0) { batches[0] += 1; }
}

// --- forward: apply --------------------------------------------------------------------------------------

// What an invocation of the apply kernels treats. The tail goes to the last slice.
fn run_of_apply(invocation: u32) -> Run {
  let w = params.width4;
  let column = invocation % w;
  let has_tail = 4 * column < params.tail;
  if (STRIDED) {
    let end = params.rows * w + select(0u, column + 1, has_tail);
    return Run(column, invocation, params.stride, select(0u, end, invocation < params.stride));
  }
  let slice = invocation / w;
  var run = Run(column, 0, w, 0);
  if (slice < params.slices) {
    run = run_of_slice(column, slice, 0, 1);
    if (owns_tail(slice) && has_tail) { run.end += w; }
  }
  return run;
}

fn activate(v: vec4<f32>, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>, i: u32) -> vec4<f32> {
  var z = (v - origin) * a + b;
  if (HAS_RESIDUAL) { z += residual_at(i); }
  return activation(z);
}

// Four loads in flight.
fn apply_run(run: Run, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>) {
  let step = run.step;
  var i = run.start;
  for (; i + 3 * step < run.end; i += 4 * step) {
    let x0 = x_at(i);
    let x1 = x_at(i + step);
    let x2 = x_at(i + 2 * step);
    let x3 = x_at(i + 3 * step);
    put_y(i, activate(x0, origin, a, b, i));
    put_y(i + step, activate(x1, origin, a, b, i + step));
    put_y(i + 2 * step, activate(x2, origin, a, b, i + 2 * step));
    put_y(i + 3 * step, activate(x3, origin, a, b, i + 3 * step));
  }
  for (; i < run.end; i += step) { put_y(i, activate(x_at(i), origin, a, b, i)); }
}

// The same by blocks, for kernels that write the mask.
fn blocks_of_apply(invocation: u32) -> Blocks {
  let w = params.width4;
  let column = invocation % w;
  let has_tail = select(0u, 1u, 4 * column < params.tail);
  let piece = invocation / w;
  if (STRIDED) {
    let end = select(0u, params.rows + has_tail, invocation < params.stride);
    return Blocks(column, 8 * piece, 8 * (params.stride / w), end);
  }
  if (piece >= params.slices) { return Blocks(column, 0, 8, 0); }
  var blocks = blocks_of_slice(column, piece, 0, 1);
  if (owns_tail(piece)) { blocks.end += has_tail; }
  return blocks;
}

// Writes y, and returns the four bits of its mask.
fn put_masked(i: u32, z: vec4<f32>) -> u32 {
  let bits = select(vec4<u32>(0), vec4<u32>(1, 2, 4, 8), put_y(i, z));
  return (bits.x | bits.y) | (bits.z | bits.w);
}

// Four rows of a column, with four loads in flight.
fn apply_four(i: u32, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> u32 {
  let w = params.width4;
  let x0 = x_at(i);
  let x1 = x_at(i + w);
  let x2 = x_at(i + 2 * w);
  let x3 = x_at(i + 3 * w);
  let m0 = put_masked(i, activate(x0, origin, a, b, i));
  let m1 = put_masked(i + w, activate(x1, origin, a, b, i + w));
  let m2 = put_masked(i + 2 * w, activate(x2, origin, a, b, i + 2 * w));
  let m3 = put_masked(i + 3 * w, activate(x3, origin, a, b, i + 3 * w));
  return (m0 | (m1 << 4)) | ((m2 << 8) | (m3 << 12));
}

// Half a block at a time, and its word written twice: on lavapipe a loop of eight rows costs more than that store.
fn apply_blocks(blocks: Blocks, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>) {
  let w = params.width4;
  let column = blocks.column;
  var word = 0u;
  var row = blocks.start;
  for (; row + 3 < blocks.end; row += select(4, blocks.step - 4, row % 8 == 4)) {
    let bits = apply_four(row * w + column, origin, a, b);
    word = select(bits, word | (bits << 16), row % 8 == 4);
    mask[word_of(row, column)] = word;
  }
  for (; row < blocks.end; row += 1) {
    let i = row * w + column;
    let bits = put_masked(i, activate(x_at(i), origin, a, b, i)) << (4 * (row % 8));
    word = select(word | bits, bits, row % 8 == 0);
    mask[word_of(row, column)] = word;
  }
}

fn apply_column(invocation: u32) {
  let w = params.width4;
  let column = invocation % w;
  let origin = numbers4[column];
  let a = numbers4[w + column];
  let b = numbers4[2 * w + column];
  if (HAS_MASK) { apply_blocks(blocks_of_apply(invocation), origin, a, b); }
  else { apply_run(run_of_apply(invocation), origin, a, b); }
}

// All rows of a column by one of the one-dispatch kernels.
fn apply_slice(column: u32, lane: u32, lanes: u32, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>) {
  if (HAS_MASK) { apply_blocks(blocks_of_slice(column, 0, lane, lanes), origin, a, b); }
  else { apply_run(run_of_slice(column, 0, lane, lanes), origin, a, b); }
}

// One invocation: one column in one slice of rows, or in every stride-th vec4.
@compute @workgroup_size(WORKGROUP_SIZE)
fn apply(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  apply_column(flat(id, groups));
}

// The same, and the number of batches seen, where every channel of `finalize_running` has read it.
@compute @workgroup_size(WORKGROUP_SIZE)
fn apply_counting(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  if (flat(id, groups) == 0) { batches[0] += 1; }
  apply_column(flat(id, groups));
}

// --- forward: all in one dispatch, for small tensors with C % 4 = 0 ------------------------------------------

// Finalizes the four channels of a column.
struct Affine { origin: vec4<f32>, a: vec4<f32>, b: vec4<f32> }

fn save_column(column: u32, tally: Tally) -> Affine {
  var result: Affine;
  for (var k = 0u; k < 4; k += 1) {
    let numbers = save_merged(4 * column + k, merged_of(tally, k));
    result.origin[k] = numbers.x;
    result.a[k] = numbers.y;
    result.b[k] = numbers.z;
  }
  return result;
}

fn track_column(column: u32, tally: Tally) {
  for (var k = 0u; k < 4; k += 1) { track(4 * column + k, merged_of(tally, k), params.momentum); }
}

// One invocation: one column, all rows.
@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups);
  if (column >= params.width4) { return; }
  let run = run_of_slice(column, 0, 0, 1);
  let tally = measure(run, false);
  let affine_of = save_column(column, tally);
  apply_slice(column, 0, 1, affine_of.origin, affine_of.a, affine_of.b);
}

// The same with running statistics; momentum is a number here.
@compute @workgroup_size(WORKGROUP_SIZE)
fn forward_running(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups);
  if (column >= params.width4) { return; }
  if (column == 0) { batches[0] += 1; }
  let run = run_of_slice(column, 0, 0, 1);
  let tally = measure(run, false);
  let affine_of = save_column(column, tally);
  track_column(column, tally);
  apply_slice(column, 0, 1, affine_of.origin, affine_of.a, affine_of.b);
}

// What lane.y = 0 has for each column of the workgroup, to all.
fn share_affine(lane: vec3<u32>, affine_of: Affine) -> Affine {
  workgroupBarrier(); // the tree has been read
  if (lane.y == 0) {
    origins[lane.x] = affine_of.origin;
    firsts[lane.x] = affine_of.a;
    seconds[lane.x] = affine_of.b;
  }
  workgroupBarrier();
  return Affine(origins[lane.x], firsts[lane.x], seconds[lane.x]);
}

// One workgroup: X columns, all rows.
@compute @workgroup_size(X, Y)
fn forward_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  // Columns past the end repeat the last one, and write the same.
  let column = min(group.x * X + lane.x, params.width4 - 1);
  let run = run_of_slice(column, 0, lane.y, Y);
  let tally = combine_workgroup(lane, measure(run, false));
  var affine_of: Affine;
  if (lane.y == 0) { affine_of = save_column(column, tally); }
  affine_of = share_affine(lane, affine_of);
  apply_slice(column, lane.y, Y, affine_of.origin, affine_of.a, affine_of.b);
}

@compute @workgroup_size(X, Y)
fn forward_running_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  let column = min(group.x * X + lane.x, params.width4 - 1);
  let run = run_of_slice(column, 0, lane.y, Y);
  let tally = combine_workgroup(lane, measure(run, false));
  var affine_of: Affine;
  if (lane.y == 0) {
    affine_of = save_column(column, tally);
    // Once only: a repeated column would move the running statistics again.
    if (group.x * X + lane.x < params.width4) { track_column(column, tally); }
    if (group.x * X + lane.x == 0) { batches[0] += 1; }
  }
  affine_of = share_affine(lane, affine_of);
  apply_slice(column, lane.y, Y, affine_of.origin, affine_of.a, affine_of.b);
}

// --- backward: statistics --------------------------------------------------------------------------------

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

// The sums of the Y invocations of each column, added; the result is good at lane.y = 0.
fn add_workgroup(lane: vec3<u32>, mine: Sums) -> Sums {
  let at = lane.y * X + lane.x;
  var sums = mine;
  firsts[at] = sums.dz;
  seconds[at] = sums.dz_xhat;
  for (var size = Y; size > 1;) {
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
  sums = add_workgroup(lane, sums);
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
  sums = add_workgroup(lane, sums);
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
  sums = add_workgroup(lane, sums);
  if (lane.y == 0 && column < params.width4) { write_sums(column, slice, sums); }
}

// --- backward: finalize ----------------------------------------------------------------------------------

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
  let all = add_workgroup(lane, Sums(vec4<f32>(sums.x), vec4<f32>(sums.y)));
  if (lane.y == 0 && channel < params.channels) { finish_grad(channel, vec2<f32>(all.dz.x, all.dz_xhat.x)); }
}

// --- backward: apply -------------------------------------------------------------------------------------

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

// --- backward: all in one dispatch, for small tensors with C % 4 = 0 -----------------------------------------

fn finish_column(column: u32, sums: Sums) {
  for (var k = 0u; k < 4; k += 1) {
    dbeta[4 * column + k] = sums.dz[k];
    dgamma[4 * column + k] = sums.dz_xhat[k];
  }
}

fn slopes_of(c: Numbers, sums: Sums) -> Slopes {
  if (!BATCH_STATISTICS) { return Slopes(vec4<f32>(0), vec4<f32>(0)); }
  let mean = sums.dz_xhat / params.count;
  return Slopes(-c.rstd * mean, -sums.dz / params.count - c.shift * mean);
}

// One invocation: one column, all rows.
@compute @workgroup_size(WORKGROUP_SIZE)
fn backward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups);
  if (column >= params.width4) { return; }
  let run = run_of_slice(column, 0, 0, 1);
  let c = numbers_of(column);
  let sums = sum_grad(run, c, false);
  finish_column(column, sums);
  apply_grad_run(run, c, slopes_of(c, sums));
}

// dx from dz, which this invocation has written.
fn apply_residual_blocks(blocks: Blocks, c: Numbers, s: Slopes) {
  let w = params.width4;
  for (var row = blocks.start; row < blocks.end; row += blocks.step) {
    let end = min(row + 8, blocks.end) * w;
    for (var i = row * w + blocks.column; i < end; i += w) {
      put_dx(i, c.a * (dz_at(i) + ((x_at(i) - c.origin) * s.p + s.q)));
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_residual(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups);
  if (column >= params.width4) { return; }
  let blocks = blocks_of_slice(column, 0, 0, 1);
  let c = numbers_of(column);
  let sums = sum_grad_residual(blocks, c, false);
  finish_column(column, sums);
  apply_residual_blocks(blocks, c, slopes_of(c, sums));
}

// The same without a mask.
fn apply_joined_run(run: Run, c: Numbers, s: Slopes) {
  for (var i = run.start; i < run.end; i += run.step) {
    put_dx(i, c.a * (dz_at(i) + ((x_at(i) - c.origin) * s.p + s.q)));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_joined(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups);
  if (column >= params.width4) { return; }
  let run = run_of_slice(column, 0, 0, 1);
  let c = numbers_of(column);
  let sums = sum_grad_joined(run, c, false);
  finish_column(column, sums);
  apply_joined_run(run, c, slopes_of(c, sums));
}

// The sums of each column of the workgroup, from lane.y = 0 to all.
fn share_sums(lane: vec3<u32>, column: u32, mine: Sums) -> Sums {
  let sums = add_workgroup(lane, mine);
  if (lane.y == 0) { finish_column(column, sums); }
  workgroupBarrier(); // lane.y = 0 has written the last step of the tree
  return Sums(firsts[lane.x], seconds[lane.x]);
}

// One workgroup: X columns, all rows.
@compute @workgroup_size(X, Y)
fn backward_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  let column = min(group.x * X + lane.x, params.width4 - 1);
  let run = run_of_slice(column, 0, lane.y, Y);
  let c = numbers_of(column);
  let sums = share_sums(lane, column, sum_grad(run, c, false));
  apply_grad_run(run, c, slopes_of(c, sums));
}

@compute @workgroup_size(X, Y)
fn backward_residual_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  let column = min(group.x * X + lane.x, params.width4 - 1);
  let blocks = blocks_of_slice(column, 0, lane.y, Y);
  let c = numbers_of(column);
  let sums = share_sums(lane, column, sum_grad_residual(blocks, c, false));
  apply_residual_blocks(blocks, c, slopes_of(c, sums));
}

@compute @workgroup_size(X, Y)
fn backward_joined_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  let column = min(group.x * X + lane.x, params.width4 - 1);
  let run = run_of_slice(column, 0, lane.y, Y);
  let c = numbers_of(column);
  let sums = share_sums(lane, column, sum_grad_joined(run, c, false));
  apply_joined_run(run, c, slopes_of(c, sums));
}
