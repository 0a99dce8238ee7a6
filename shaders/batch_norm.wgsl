// Batch normalisation, fused with an optional residual and ReLU:
//
//   mean, var over all but the channel;  rstd = 1 / sqrt(var + eps)
//   y  = act((x - mean) * rstd * gamma + beta [+ residual])
//   dz = dy where y > 0 (ReLU), else dy
//   dx = gamma * rstd * (dz - sum(dz) / n - xhat * sum(dz * xhat) / n),   xhat = (x - mean) * rstd
//   dgamma = sum(dz * xhat),  dbeta = sum(dz),  dresidual = dz
//   (Ioffe & Szegedy 2015, section 3; the statistics are merged after Chan, Golub & LeVeque 1979.)
//
// Layout. x, y, residual and their gradients are [N, H, W, C], read as a flat array of vec4s. REPEAT rows of C
// channels make a *wide row* of WIDTH4 whole vec4s, so that a vec4 column always holds the same channels, also where
// C % 4 != 0. ROWS is the number of full wide rows; TAIL elements follow them. Element j of a wide row is channel
// j % C. An invocation owns one column: its per-channel numbers stay in registers.
//
// Numbers per channel live in rows of WIDTH elements, a channel repeated REPEAT times:
//   saved     [5, WIDTH]          origin, a, b, rstd, shift
//   partials  [SLICES, 3, WIDTH]  origin, offset, deviation             of x in one slice of rows
//             [SLICES, 2, WIDTH]  sum(dz), sum(dz * xhat)               in one slice of rows
//   affine    [2, WIDTH]          p, q                                  dx = a * (dz + (x - origin) * p + q)
//
// Precision. A mean of 1000 standard deviations, rounded to float32, is off by 3e-5 of them. So a mean is kept as
// origin + offset, where the origin is a value near it: (x - origin) is exact, and
//   y = (x - origin) * a + b,  a = rstd * gamma,  b = beta - offset * a;   xhat = (x - origin) * rstd + shift.
// Squares are averaged, not summed, and where they leave float32's range all the same (std near 1e19, or below 1e-18
// with a tiny eps) the slice is measured again in units of a power of two near its largest deviation.
//
// No workgroup memory here, and no barrier but in `update_running`; every sum has a fixed order.

override WORKGROUP_SIZE: u32 = 64;
override HAS_GAMMA: bool = true;
override HAS_BETA: bool = true;
override HAS_RESIDUAL: bool = false;
override RELU: bool = false;
// Elements after the last full wide row.
override HAS_TAIL: bool = false;
// False where the statistics are constants: dx = a * dz.
override BATCH_STATISTICS: bool = true;
// Measure again below 1e-27 also: only where eps is so small that it would matter.
override SMALL_EPS: bool = false;

const LARGE_BITS = 0x7f800000u; // the exponent of infinity and NaN

// Sizes are no override constants: compiling a kernel for each shape costs a software adapter a quarter of a second
// and gains nothing.
struct Params {
  channels: u32,
  width4: u32,
  rows: u32,
  tail: u32,
  slices: u32,
  slice_rows: u32,
  count: f32, // values per channel
  eps: f32,
  momentum: f32, // negative for the cumulative average
}

@group(0) @binding(7) var<uniform> params: Params;

// --- helpers ---------------------------------------------------------------------------------------------

// Whether a variance left the range where squares are good. By exponent bits: WGSL may assume that no infinity or NaN
// occurs.
fn unsafe_squares(variance: vec4<f32>) -> bool {
  let overflowed = (bitcast<vec4<u32>>(variance) & vec4<u32>(LARGE_BITS)) == vec4<u32>(LARGE_BITS);
  return any(overflowed) || (SMALL_EPS && any(variance < vec4<f32>(1e-27)));
}

// A power of two such that size * scale is near 1, within what leaves room for squares and for eps.
fn scale_for(size: f32) -> f32 {
  let exponent = clamp(bitcast<u32>(size) >> 23, 77u, 207u);
  return select(bitcast<f32>((254u - exponent) << 23), 1.0, size == 0.0);
}

// 1 / scale for a power of two, exactly (division may be off by 2.5 ulp).
fn inverse_power(scale: f32) -> f32 {
  return bitcast<f32>(0x7f000000u - bitcast<u32>(scale));
}

// max(z, 0) that lets NaN through, by its bits: zero where z is negative and not NaN.
fn relu(z: vec4<f32>) -> vec4<f32> {
  return select(z, vec4<f32>(0), bitcast<vec4<u32>>(z) - vec4<u32>(0x80000000u) <= vec4<u32>(LARGE_BITS));
}

fn in_tail(column: u32) -> vec4<bool> {
  return vec4<u32>(4 * column) + vec4<u32>(0, 1, 2, 3) < vec4<u32>(params.tail);
}

fn slice_start(slice: u32) -> u32 {
  return min(slice * params.slice_rows, params.rows);
}

// The end of a slice for kernels that treat elements alone: the last one also has the tail.
fn last_row(slice: u32, column: u32) -> u32 {
  return slice_start(slice + 1) + select(0u, 1u, slice == params.slices - 1 && 4 * column < params.tail);
}

// How many values of its channel element j of a wide row has in a slice.
fn slice_count(slice: u32, j: u32) -> f32 {
  return f32(slice_start(slice + 1) - slice_start(slice) + select(0u, 1u, slice == params.slices - 1 && j < params.tail));
}

// --- forward: statistics ---------------------------------------------------------------------------------

@group(0) @binding(0) var<storage, read_write> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

struct Moments { offset: vec4<f32>, variance: vec4<f32> }

// Mean and variance of (x - origin) * scale over a slice: blocks of four rows, two passes in registers, then merged.
fn measure(column: u32, slice: u32, origin: vec4<f32>, scale: vec4<f32>) -> Moments {
  let w = params.width4;
  let first = slice_start(slice);
  let rows = slice_start(slice + 1) - first;
  var i = first * w + column;
  var n = 0.0;
  var offset = vec4<f32>(0);
  var variance = vec4<f32>(0);
  for (var block = 0u; block < rows / 4; block += 1) {
    let d0 = (x[i] - origin) * scale;
    let d1 = (x[i + w] - origin) * scale;
    let d2 = (x[i + 2 * w] - origin) * scale;
    let d3 = (x[i + 3 * w] - origin) * scale;
    i += 4 * w;
    let mean = ((d0 + d1) + (d2 + d3)) * 0.25;
    let e0 = d0 - mean;
    let e1 = d1 - mean;
    let e2 = d2 - mean;
    let e3 = d3 - mean;
    let mean_square = ((e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)) * 0.25;
    n += 4;
    let weight = 4 / n;
    let delta = mean - offset;
    offset += delta * weight;
    variance += weight * (mean_square - variance + delta * delta * (1 - weight));
  }
  for (var row = 0u; row < rows % 4; row += 1) {
    n += 1;
    let delta = (x[i] - origin) * scale - offset;
    i += w;
    offset += delta / n;
    variance += (delta * delta * (1 - 1 / n) - variance) / n;
  }
  if (HAS_TAIL && slice == params.slices - 1) {
    n += 1;
    let valid = in_tail(column);
    let delta = (x[i] - origin) * scale - offset;
    offset += select(vec4<f32>(0), delta / n, valid);
    variance += select(vec4<f32>(0), (delta * delta * (1 - 1 / n) - variance) / n, valid);
  }
  return Moments(offset, variance);
}

// The largest |x - origin| of a slice.
fn largest_deviation(column: u32, slice: u32, origin: vec4<f32>) -> vec4<f32> {
  var largest = vec4<f32>(0);
  for (var row = slice_start(slice); row < slice_start(slice + 1); row += 1) {
    largest = max(largest, abs(x[row * params.width4 + column] - origin));
  }
  if (HAS_TAIL && slice == params.slices - 1) {
    largest = max(largest, select(vec4<f32>(0), abs(x[params.rows * params.width4 + column] - origin), in_tail(column)));
  }
  return largest;
}

// One invocation: the statistics of one column (four channels) in one slice of rows.
@compute @workgroup_size(WORKGROUP_SIZE)
fn stats(@builtin(global_invocation_id) id: vec3<u32>) {
  let w = params.width4;
  let column = id.x % w;
  let slice = id.x / w;
  if (slice >= params.slices) { return; }
  let first = slice_start(slice);
  var origin = vec4<f32>(0);
  if (first < params.rows) {
    origin = x[first * w + column];
  } else if (HAS_TAIL && slice == params.slices - 1) {
    origin = select(origin, x[params.rows * w + column], in_tail(column));
  }
  var scale = vec4<f32>(1);
  var moments: Moments;
  for (var attempt = 0; attempt < 2; attempt += 1) {
    moments = measure(column, slice, origin, scale);
    if (attempt == 1 || !unsafe_squares(moments.variance)) { break; }
    let largest = largest_deviation(column, slice, origin);
    scale = vec4<f32>(scale_for(largest.x), scale_for(largest.y), scale_for(largest.z), scale_for(largest.w));
  }
  let unit = vec4<f32>(inverse_power(scale.x), inverse_power(scale.y), inverse_power(scale.z), inverse_power(scale.w));
  let at = slice * 3 * w + column;
  partials[at] = origin;
  partials[at + w] = moments.offset * unit;
  partials[at + 2 * w] = sqrt(moments.variance) * unit;
}

// --- forward: finalize -----------------------------------------------------------------------------------

@group(0) @binding(0) var<storage, read_write> saved: array<f32>;
@group(0) @binding(1) var<storage, read> slices: array<f32>; // partials, by element
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(5) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> running_var: array<f32>;
@group(0) @binding(4) var<storage, read> batches_before: array<f32>;

// Statistics of one channel in units of 1 / scale: mean = origin + offset / scale, var = variance / scale^2.
struct Merged { origin: f32, offset: f32, variance: f32, scale: f32 }

// All partials of a channel, in the order of slices and then of places in the wide row; twice where squares overflow.
fn merge_slices(channel: u32) -> Merged {
  let width = 4 * params.width4;
  var merged = Merged(slices[channel], 0, 0, 1);
  for (var attempt = 0; attempt < 2; attempt += 1) {
    var n = 0.0;
    var offset = 0.0;
    var variance = 0.0;
    var largest = 0.0;
    for (var slice = 0u; slice < params.slices; slice += 1) {
      for (var j = channel; j < width; j += params.channels) {
        let count = slice_count(slice, j);
        if (count > 0) {
          let at = slice * 3 * width + j;
          let shift = (slices[at] - merged.origin) + slices[at + width];
          let deviation = slices[at + 2 * width];
          largest = max(largest, max(abs(shift), deviation));
          let delta = shift * merged.scale - offset;
          n += count;
          let weight = count / n;
          let square = (deviation * merged.scale) * (deviation * merged.scale);
          offset += delta * weight;
          variance += weight * (square - variance + delta * delta * (1 - weight));
        }
      }
    }
    merged.offset = offset;
    merged.variance = variance;
    if (attempt == 1 || !unsafe_squares(vec4<f32>(variance))) { break; }
    merged.scale = scale_for(largest);
  }
  return merged;
}

// 1 / sqrt(v): inverseSqrt may be off by 2 ulp, one Newton step makes it good.
fn refined_inverse_sqrt(v: f32) -> f32 {
  let r = inverseSqrt(v);
  return r * (1.5 - 0.5 * v * r * r);
}

fn save(channel: u32, origin: f32, offset: f32, rstd: f32) {
  var a = rstd;
  if (HAS_GAMMA) { a *= gamma[channel]; }
  var b = -offset * a;
  if (HAS_BETA) { b += beta[channel]; }
  let width = 4 * params.width4;
  for (var j = channel; j < width; j += params.channels) {
    saved[j] = origin;
    saved[width + j] = a;
    saved[2 * width + j] = b;
    saved[3 * width + j] = rstd;
    saved[4 * width + j] = -offset * rstd;
  }
}

fn save_merged(channel: u32, m: Merged) {
  let rstd = m.scale * refined_inverse_sqrt(m.variance + params.eps * m.scale * m.scale);
  save(channel, m.origin, m.offset * inverse_power(m.scale), rstd);
}

// One invocation: one channel.
@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.channels) { return; }
  save_merged(id.x, merge_slices(id.x));
}

// The same, and the running statistics (unbiased variance, as PyTorch has it).
@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize_running(@builtin(global_invocation_id) id: vec3<u32>) {
  let channel = id.x;
  if (channel >= params.channels) { return; }
  let m = merge_slices(channel);
  save_merged(channel, m);
  let unit = inverse_power(m.scale);
  let mean = m.origin + m.offset * unit;
  let unbiased = (m.variance * (params.count / (params.count - 1))) * unit * unit;
  var momentum = params.momentum;
  if (momentum < 0) { momentum = 1 / (batches_before[0] + 1); }
  running_mean[channel] += momentum * (mean - running_mean[channel]);
  running_var[channel] += momentum * (unbiased - running_var[channel]);
}

@group(0) @binding(5) var<storage, read> given_mean: array<f32>;
@group(0) @binding(6) var<storage, read> given_var: array<f32>;

// Inference: the running statistics instead of the batch's. One invocation: one channel.
@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize_inference(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.channels) { return; }
  save(id.x, given_mean[id.x], 0, refined_inverse_sqrt(given_var[id.x] + params.eps));
}

// What the composition of plain ops needs beside them: statistics computed elsewhere, into the running ones.
@group(0) @binding(1) var<storage, read> batch_mean: array<f32>;
@group(0) @binding(2) var<storage, read> batch_var: array<f32>; // biased
@group(0) @binding(3) var<storage, read_write> seen: array<f32>;

// One workgroup for all channels: the count of batches moves on after every channel has read it.
@compute @workgroup_size(WORKGROUP_SIZE)
fn update_running(@builtin(local_invocation_index) lane: u32) {
  var momentum = params.momentum;
  if (momentum < 0) { momentum = 1 / (seen[0] + 1); }
  for (var channel = lane; channel < params.channels; channel += WORKGROUP_SIZE) {
    let unbiased = batch_var[channel] * (params.count / (params.count - 1));
    running_mean[channel] += momentum * (batch_mean[channel] - running_mean[channel]);
    running_var[channel] += momentum * (unbiased - running_var[channel]);
  }
  storageBarrier();
  if (lane == 0) { seen[0] += 1; }
}

// --- forward: apply --------------------------------------------------------------------------------------

@group(0) @binding(0) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> constants: array<vec4<f32>>; // saved, by vec4
@group(0) @binding(4) var<storage, read_write> batches: array<f32>;

fn activate(v: vec4<f32>, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>, i: u32) -> vec4<f32> {
  var z = (v - origin) * a + b;
  if (HAS_RESIDUAL) { z += residual[i]; }
  if (RELU) { z = relu(z); }
  return z;
}

// One invocation: one column in one slice of rows, four loads in flight.
fn apply_slice(invocation: u32) {
  let w = params.width4;
  let column = invocation % w;
  let slice = invocation / w;
  if (slice >= params.slices) { return; }
  let origin = constants[column];
  let a = constants[w + column];
  let b = constants[2 * w + column];
  var i = slice_start(slice) * w + column;
  let end = last_row(slice, column) * w + column;
  for (; i + 3 * w < end; i += 4 * w) {
    let x0 = x[i];
    let x1 = x[i + w];
    let x2 = x[i + 2 * w];
    let x3 = x[i + 3 * w];
    y[i] = activate(x0, origin, a, b, i);
    y[i + w] = activate(x1, origin, a, b, i + w);
    y[i + 2 * w] = activate(x2, origin, a, b, i + 2 * w);
    y[i + 3 * w] = activate(x3, origin, a, b, i + 3 * w);
  }
  for (; i < end; i += w) { y[i] = activate(x[i], origin, a, b, i); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn apply(@builtin(global_invocation_id) id: vec3<u32>) {
  apply_slice(id.x);
}

// The same, and the number of batches seen: here, because every channel of `finalize_running` reads it.
@compute @workgroup_size(WORKGROUP_SIZE)
fn apply_counting(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x == 0) { batches[0] += 1; }
  apply_slice(id.x);
}

// --- backward: statistics --------------------------------------------------------------------------------

@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> out: array<vec4<f32>>; // y of the forward
@group(0) @binding(5) var<storage, read_write> dz_out: array<vec4<f32>>;

struct Sums { dz: vec4<f32>, dz_xhat: vec4<f32> }

// dy where the activation let z through; z is computed as in `activate`.
fn mask_by_input(grad: vec4<f32>, deviation: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  if (!RELU) { return grad; }
  return select(grad, vec4<f32>(0), deviation * a + b <= vec4<f32>(0));
}

fn write_sums(slice: u32, column: u32, sums: Sums) {
  let at = slice * 2 * params.width4 + column;
  partials[at] = sums.dz;
  partials[at + params.width4] = sums.dz_xhat;
}

// One invocation: the sums of one column in one slice of rows; runs of four are summed apart, for precision.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_stats(@builtin(global_invocation_id) id: vec3<u32>) {
  let w = params.width4;
  let column = id.x % w;
  let slice = id.x / w;
  if (slice >= params.slices) { return; }
  let origin = constants[column];
  let a = constants[w + column];
  let b = constants[2 * w + column];
  let rstd = constants[3 * w + column];
  let shift = constants[4 * w + column];
  var sums = Sums(vec4<f32>(0), vec4<f32>(0));
  var i = slice_start(slice) * w + column;
  let end = slice_start(slice + 1) * w + column;
  for (; i + 3 * w < end; i += 4 * w) {
    let d0 = x[i] - origin;
    let d1 = x[i + w] - origin;
    let d2 = x[i + 2 * w] - origin;
    let d3 = x[i + 3 * w] - origin;
    let z0 = mask_by_input(dy[i], d0, a, b);
    let z1 = mask_by_input(dy[i + w], d1, a, b);
    let z2 = mask_by_input(dy[i + 2 * w], d2, a, b);
    let z3 = mask_by_input(dy[i + 3 * w], d3, a, b);
    sums.dz += (z0 + z1) + (z2 + z3);
    sums.dz_xhat += (z0 * (d0 * rstd + shift) + z1 * (d1 * rstd + shift))
                  + (z2 * (d2 * rstd + shift) + z3 * (d3 * rstd + shift));
  }
  for (; i < end; i += w) {
    let deviation = x[i] - origin;
    let dz = mask_by_input(dy[i], deviation, a, b);
    sums.dz += dz;
    sums.dz_xhat += dz * (deviation * rstd + shift);
  }
  if (HAS_TAIL && slice == params.slices - 1) {
    let deviation = x[i] - origin;
    let dz = mask_by_input(dy[i], deviation, a, b);
    let valid = in_tail(column);
    sums.dz += select(vec4<f32>(0), dz, valid);
    sums.dz_xhat += select(vec4<f32>(0), dz * (deviation * rstd + shift), valid);
  }
  write_sums(slice, column, sums);
}

// dz = dy where y > 0, written on the way.
fn masked_by_output(i: u32) -> vec4<f32> {
  let dz = select(dy[i], vec4<f32>(0), out[i] <= vec4<f32>(0));
  dz_out[i] = dz;
  return dz;
}

// With residual and ReLU the mask is the sign of y, and dz is the residual's gradient.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_stats_residual(@builtin(global_invocation_id) id: vec3<u32>) {
  let w = params.width4;
  let column = id.x % w;
  let slice = id.x / w;
  if (slice >= params.slices) { return; }
  let origin = constants[column];
  let rstd = constants[3 * w + column];
  let shift = constants[4 * w + column];
  var sums = Sums(vec4<f32>(0), vec4<f32>(0));
  var i = slice_start(slice) * w + column;
  let end = slice_start(slice + 1) * w + column;
  for (; i + w < end; i += 2 * w) {
    let z0 = masked_by_output(i);
    let z1 = masked_by_output(i + w);
    sums.dz += z0 + z1;
    sums.dz_xhat += z0 * ((x[i] - origin) * rstd + shift) + z1 * ((x[i + w] - origin) * rstd + shift);
  }
  for (; i < end; i += w) {
    let dz = masked_by_output(i);
    sums.dz += dz;
    sums.dz_xhat += dz * ((x[i] - origin) * rstd + shift);
  }
  if (slice == params.slices - 1 && 4 * column < params.tail) {
    let dz = masked_by_output(i);
    let valid = in_tail(column);
    sums.dz += select(vec4<f32>(0), dz, valid);
    sums.dz_xhat += select(vec4<f32>(0), dz * ((x[i] - origin) * rstd + shift), valid);
  }
  write_sums(slice, column, sums);
}

// --- backward: finalize ----------------------------------------------------------------------------------

@group(0) @binding(0) var<storage, read_write> affine: array<f32>;
@group(0) @binding(2) var<storage, read> numbers: array<f32>; // saved, by element
@group(0) @binding(3) var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(5) var<storage, read_write> dbeta: array<f32>;

// One invocation: one channel.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_finalize(@builtin(global_invocation_id) id: vec3<u32>) {
  let channel = id.x;
  if (channel >= params.channels) { return; }
  let width = 4 * params.width4;
  var dz = 0.0;
  var dz_xhat = 0.0;
  for (var slice = 0u; slice < params.slices; slice += 1) {
    for (var j = channel; j < width; j += params.channels) {
      dz += slices[slice * 2 * width + j];
      dz_xhat += slices[(slice * 2 + 1) * width + j];
    }
  }
  dgamma[channel] = dz_xhat;
  dbeta[channel] = dz;
  var p = 0.0;
  var q = 0.0;
  if (BATCH_STATISTICS) {
    let mean = dz_xhat / params.count;
    p = -numbers[3 * width + channel] * mean;
    q = -dz / params.count - numbers[4 * width + channel] * mean;
  }
  for (var j = channel; j < width; j += params.channels) {
    affine[j] = p;
    affine[width + j] = q;
  }
}

// --- backward: apply -------------------------------------------------------------------------------------

@group(0) @binding(0) var<storage, read_write> dx: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> slopes: array<vec4<f32>>; // affine, by vec4

// One invocation: one column in one slice of rows.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_apply(@builtin(global_invocation_id) id: vec3<u32>) {
  let w = params.width4;
  let column = id.x % w;
  let slice = id.x / w;
  if (slice >= params.slices) { return; }
  let origin = constants[column];
  let a = constants[w + column];
  let b = constants[2 * w + column];
  let p = slopes[column];
  let q = slopes[w + column];
  var i = slice_start(slice) * w + column;
  let end = last_row(slice, column) * w + column;
  for (; i + w < end; i += 2 * w) {
    let d0 = x[i] - origin;
    let d1 = x[i + w] - origin;
    let g0 = dy[i];
    let g1 = dy[i + w];
    dx[i] = a * (mask_by_input(g0, d0, a, b) + (d0 * p + q));
    dx[i + w] = a * (mask_by_input(g1, d1, a, b) + (d1 * p + q));
  }
  for (; i < end; i += w) {
    let deviation = x[i] - origin;
    dx[i] = a * (mask_by_input(dy[i], deviation, a, b) + (deviation * p + q));
  }
}
