// From statistics to the numbers of the channels, `saved`, and to the running statistics. A file of batch_norm.wgsl.
//
//   finalize            merges the partials of batch_norm_measure.wgsl
//   finalize_folded     merges those of a convolution's epilogue, and measures x again where their squares left float32's range
//   finalize_given      takes statistics from elsewhere, as a tensor; finalize_statistics writes such a tensor
//   finalize_inference  takes the running statistics
//
// With `_running`: the running statistics move, too.

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
  var again = false; // as in `measure`
  loop {
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
    if (COUNTED || again || !any(unsafe_squares(vec4<f32>(variance)))) { break; }
    again = true;
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

// Invocations of a workgroup of 1 by Y that merge a channel's partials: a smaller batch has fewer, and runs the same kernel.
fn mergers() -> u32 {
  return min(Y, params.slices * (4 * params.width4 / params.channels));
}

// A channel by a workgroup of 1 by Y; the result is good at lane.y = 0.
fn merge_workgroup(channel: u32, lane: vec3<u32>) -> Merged {
  var mine = Merged(0, 0, 0, 0, 1);
  if (channel < params.channels) { mine = merge_slices(channel, lane.y, Y); }
  return merged_of(combine_workgroup(lane, tally_of(mine), mergers()), 0);
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
  return merged_of(combine_workgroup(lane, measure_channel(channel, lane.y, Y), Y), 0);
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
