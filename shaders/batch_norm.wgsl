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
override CHANNELS: u32 = 4;
override WIDTH4: u32 = 1;
override ROWS: u32 = 1;
override TAIL: u32 = 0;
override SLICES: u32 = 1;
override SLICE_ROWS: u32 = 1;
// Invocations of the apply kernels: a multiple of WIDTH4.
override STRIDE: u32 = 1;
override HAS_GAMMA: bool = true;
override HAS_BETA: bool = true;
override HAS_RESIDUAL: bool = false;
override RELU: bool = false;
// False where the statistics are constants: dx = a * dz.
override BATCH_STATISTICS: bool = true;
// Measure again below 1e-27 also: only where eps is so small that it would matter.
override SMALL_EPS: bool = false;

const LARGE_BITS = 0x7f800000u; // the exponent of infinity and NaN

// --- helpers ---------------------------------------------------------------------------------------------

// By exponent bits: WGSL may assume that no infinity or NaN occurs.
fn overflowed(v: vec4<f32>) -> bool {
  return any((bitcast<vec4<u32>>(v) & vec4<u32>(LARGE_BITS)) == vec4<u32>(LARGE_BITS));
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
  return vec4<u32>(4 * column) + vec4<u32>(0, 1, 2, 3) < vec4<u32>(TAIL);
}

fn slice_start(slice: u32) -> u32 {
  return min(slice * SLICE_ROWS, ROWS);
}

// How many values of its channel element j of a wide row has in a slice.
fn slice_count(slice: u32, j: u32) -> f32 {
  return f32(slice_start(slice + 1) - slice_start(slice) + select(0u, 1u, slice == 0 && j < TAIL));
}

// --- forward: statistics ---------------------------------------------------------------------------------

@group(0) @binding(0) var<storage, read_write> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

struct Moments { offset: vec4<f32>, variance: vec4<f32> }

// Mean and variance of (x - origin) * scale over a slice: blocks of eight rows, two passes in registers, then merged.
fn measure(column: u32, slice: u32, origin: vec4<f32>, scale: vec4<f32>) -> Moments {
  let first = slice_start(slice);
  let rows = slice_start(slice + 1) - first;
  var i = first * WIDTH4 + column;
  var n = 0.0;
  var offset = vec4<f32>(0);
  var variance = vec4<f32>(0);
  for (var block = 0u; block < rows / 8; block += 1) {
    let d0 = (x[i] - origin) * scale;
    let d1 = (x[i + WIDTH4] - origin) * scale;
    let d2 = (x[i + 2 * WIDTH4] - origin) * scale;
    let d3 = (x[i + 3 * WIDTH4] - origin) * scale;
    let d4 = (x[i + 4 * WIDTH4] - origin) * scale;
    let d5 = (x[i + 5 * WIDTH4] - origin) * scale;
    let d6 = (x[i + 6 * WIDTH4] - origin) * scale;
    let d7 = (x[i + 7 * WIDTH4] - origin) * scale;
    i += 8 * WIDTH4;
    let mean = (((d0 + d1) + (d2 + d3)) + ((d4 + d5) + (d6 + d7))) * 0.125;
    let e0 = d0 - mean;
    let e1 = d1 - mean;
    let e2 = d2 - mean;
    let e3 = d3 - mean;
    let e4 = d4 - mean;
    let e5 = d5 - mean;
    let e6 = d6 - mean;
    let e7 = d7 - mean;
    let squares = ((e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3)) + ((e4 * e4 + e5 * e5) + (e6 * e6 + e7 * e7));
    n += 8;
    let weight = 8 / n;
    let delta = mean - offset;
    offset += delta * weight;
    variance += weight * (squares * 0.125 - variance + delta * delta * (1 - weight));
  }
  for (var row = 0u; row < rows % 8; row += 1) {
    n += 1;
    let delta = (x[i] - origin) * scale - offset;
    i += WIDTH4;
    offset += delta / n;
    variance += (delta * delta * (1 - 1 / n) - variance) / n;
  }
  if (TAIL > 0 && slice == 0) {
    n += 1;
    let valid = in_tail(column);
    let delta = (x[ROWS * WIDTH4 + column] - origin) * scale - offset;
    offset += select(vec4<f32>(0), delta / n, valid);
    variance += select(vec4<f32>(0), (delta * delta * (1 - 1 / n) - variance) / n, valid);
  }
  return Moments(offset, variance);
}

// The largest |x - origin| of a slice.
fn largest_deviation(column: u32, slice: u32, origin: vec4<f32>) -> vec4<f32> {
  var largest = vec4<f32>(0);
  for (var row = slice_start(slice); row < slice_start(slice + 1); row += 1) {
    largest = max(largest, abs(x[row * WIDTH4 + column] - origin));
  }
  if (TAIL > 0 && slice == 0) {
    largest = max(largest, select(vec4<f32>(0), abs(x[ROWS * WIDTH4 + column] - origin), in_tail(column)));
  }
  return largest;
}

// One invocation: the statistics of one column (four channels) in one slice of rows.
@compute @workgroup_size(WORKGROUP_SIZE)
fn stats(@builtin(global_invocation_id) id: vec3<u32>) {
  let column = id.x % WIDTH4;
  let slice = id.x / WIDTH4;
  if (slice >= SLICES) { return; }
  let first = slice_start(slice);
  var origin = vec4<f32>(0);
  if (first < ROWS) {
    origin = x[first * WIDTH4 + column];
  } else if (TAIL > 0 && slice == 0) {
    origin = select(origin, x[ROWS * WIDTH4 + column], in_tail(column));
  }
  var scale = vec4<f32>(1);
  var moments = measure(column, slice, origin, scale);
  if (overflowed(moments.variance) || (SMALL_EPS && any(moments.variance < vec4<f32>(1e-27)))) {
    let largest = largest_deviation(column, slice, origin);
    scale = vec4<f32>(scale_for(largest.x), scale_for(largest.y), scale_for(largest.z), scale_for(largest.w));
    moments = measure(column, slice, origin, scale);
  }
  let unit = vec4<f32>(inverse_power(scale.x), inverse_power(scale.y), inverse_power(scale.z), inverse_power(scale.w));
  let at = slice * 3 * WIDTH4 + column;
  partials[at] = origin;
  partials[at + WIDTH4] = moments.offset * unit;
  partials[at + 2 * WIDTH4] = sqrt(moments.variance) * unit;
}

// --- forward: finalize -----------------------------------------------------------------------------------

// count: values per channel; momentum < 0: the cumulative average.
struct Params { eps: f32, momentum: f32, count: f32 }

@group(0) @binding(0) var<storage, read_write> saved: array<f32>;
@group(0) @binding(1) var<storage, read> slices: array<f32>; // partials, by element
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> running_var: array<f32>;
@group(0) @binding(7) var<storage, read> batches_before: array<f32>;

// Statistics of one channel in units of 1 / scale: mean = origin + offset / scale, var = variance / scale^2.
struct Merged { origin: f32, offset: f32, variance: f32, scale: f32 }

// All partials of a channel, in the order of slices and then of places in the wide row.
fn merge_slices(channel: u32) -> Merged {
  let width = 4 * WIDTH4;
  let origin = slices[channel];
  var largest = 0.0;
  for (var slice = 0u; slice < SLICES; slice += 1) {
    for (var j = channel; j < width; j += CHANNELS) {
      let at = slice * 3 * width + j;
      if (slice_count(slice, j) > 0) {
        let shift = (slices[at] - origin) + slices[at + width];
        largest = max(largest, max(abs(shift), slices[at + 2 * width]));
      }
    }
  }
  let scale = scale_for(largest);
  var n = 0.0;
  var offset = 0.0;
  var variance = 0.0;
  for (var slice = 0u; slice < SLICES; slice += 1) {
    for (var j = channel; j < width; j += CHANNELS) {
      let at = slice * 3 * width + j;
      let count = slice_count(slice, j);
      if (count > 0) {
        let deviation = slices[at + 2 * width] * scale;
        let delta = ((slices[at] - origin) + slices[at + width]) * scale - offset;
        n += count;
        let weight = count / n;
        offset += delta * weight;
        variance += weight * (deviation * deviation - variance + delta * delta * (1 - weight));
      }
    }
  }
  return Merged(origin, offset, variance, scale);
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
  let width = 4 * WIDTH4;
  for (var j = channel; j < width; j += CHANNELS) {
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
  if (id.x >= CHANNELS) { return; }
  save_merged(id.x, merge_slices(id.x));
}

// The same, and the running statistics (unbiased variance, as PyTorch has it).
@compute @workgroup_size(WORKGROUP_SIZE)
fn finalize_running(@builtin(global_invocation_id) id: vec3<u32>) {
  let channel = id.x;
  if (channel >= CHANNELS) { return; }
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
  if (id.x >= CHANNELS) { return; }
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
  for (var channel = lane; channel < CHANNELS; channel += WORKGROUP_SIZE) {
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

// One invocation: every STRIDE-th vec4, all of one column.
fn apply_from(start: u32) {
  if (start >= STRIDE) { return; }
  let column = start % WIDTH4;
  let origin = constants[column];
  let a = constants[WIDTH4 + column];
  let b = constants[2 * WIDTH4 + column];
  let end = ROWS * WIDTH4 + (TAIL + 3) / 4;
  for (var i = start; i < end; i += STRIDE) {
    var z = (x[i] - origin) * a + b;
    if (HAS_RESIDUAL) { z += residual[i]; }
    if (RELU) { z = relu(z); }
    y[i] = z;
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn apply(@builtin(global_invocation_id) id: vec3<u32>) {
  apply_from(id.x);
}

// The same, and the number of batches seen: here, because every channel of `finalize_running` reads it.
@compute @workgroup_size(WORKGROUP_SIZE)
fn apply_counting(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x == 0) { batches[0] += 1; }
  apply_from(id.x);
}

// --- backward: statistics --------------------------------------------------------------------------------

@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> out: array<vec4<f32>>; // y of the forward
@group(0) @binding(5) var<storage, read_write> dz_out: array<vec4<f32>>;

struct Sums { dz: vec4<f32>, dz_xhat: vec4<f32> }

// dy where the activation let z through; z is computed as in `apply_from`.
fn mask_by_input(grad: vec4<f32>, deviation: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  if (!RELU) { return grad; }
  return select(grad, vec4<f32>(0), deviation * a + b <= vec4<f32>(0));
}

fn write_sums(slice: u32, column: u32, sums: Sums) {
  let at = slice * 2 * WIDTH4 + column;
  partials[at] = sums.dz;
  partials[at + WIDTH4] = sums.dz_xhat;
}

// One invocation: the sums of one column in one slice of rows; runs of eight are summed apart, for precision.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_stats(@builtin(global_invocation_id) id: vec3<u32>) {
  let column = id.x % WIDTH4;
  let slice = id.x / WIDTH4;
  if (slice >= SLICES) { return; }
  let origin = constants[column];
  let a = constants[WIDTH4 + column];
  let b = constants[2 * WIDTH4 + column];
  let rstd = constants[3 * WIDTH4 + column];
  let shift = constants[4 * WIDTH4 + column];
  var sums = Sums(vec4<f32>(0), vec4<f32>(0));
  let end = slice_start(slice + 1);
  for (var row = slice_start(slice); row < end;) {
    var run = Sums(vec4<f32>(0), vec4<f32>(0));
    let stop = min(row + 8, end);
    for (; row < stop; row += 1) {
      let i = row * WIDTH4 + column;
      let deviation = x[i] - origin;
      let dz = mask_by_input(dy[i], deviation, a, b);
      run.dz += dz;
      run.dz_xhat += dz * (deviation * rstd + shift);
    }
    sums.dz += run.dz;
    sums.dz_xhat += run.dz_xhat;
  }
  if (TAIL > 0 && slice == 0) {
    let i = ROWS * WIDTH4 + column;
    let deviation = x[i] - origin;
    let dz = mask_by_input(dy[i], deviation, a, b);
    let valid = in_tail(column);
    sums.dz += select(vec4<f32>(0), dz, valid);
    sums.dz_xhat += select(vec4<f32>(0), dz * (deviation * rstd + shift), valid);
  }
  write_sums(slice, column, sums);
}

// With residual and ReLU the mask is the sign of y; dz, which is the residual's gradient, is written on the way.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_stats_residual(@builtin(global_invocation_id) id: vec3<u32>) {
  let column = id.x % WIDTH4;
  let slice = id.x / WIDTH4;
  if (slice >= SLICES) { return; }
  let origin = constants[column];
  let rstd = constants[3 * WIDTH4 + column];
  let shift = constants[4 * WIDTH4 + column];
  var sums = Sums(vec4<f32>(0), vec4<f32>(0));
  let end = slice_start(slice + 1);
  for (var row = slice_start(slice); row < end;) {
    var run = Sums(vec4<f32>(0), vec4<f32>(0));
    let stop = min(row + 8, end);
    for (; row < stop; row += 1) {
      let i = row * WIDTH4 + column;
      let dz = select(dy[i], vec4<f32>(0), out[i] <= vec4<f32>(0));
      dz_out[i] = dz;
      run.dz += dz;
      run.dz_xhat += dz * ((x[i] - origin) * rstd + shift);
    }
    sums.dz += run.dz;
    sums.dz_xhat += run.dz_xhat;
  }
  if (TAIL > 0 && slice == 0 && 4 * column < TAIL) {
    let i = ROWS * WIDTH4 + column;
    let dz = select(dy[i], vec4<f32>(0), out[i] <= vec4<f32>(0));
    dz_out[i] = dz;
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
  if (channel >= CHANNELS) { return; }
  let width = 4 * WIDTH4;
  var dz = 0.0;
  var dz_xhat = 0.0;
  for (var slice = 0u; slice < SLICES; slice += 1) {
    for (var j = channel; j < width; j += CHANNELS) {
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
  for (var j = channel; j < width; j += CHANNELS) {
    affine[j] = p;
    affine[width + j] = q;
  }
}

// --- backward: apply -------------------------------------------------------------------------------------

@group(0) @binding(0) var<storage, read_write> dx: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> slopes: array<vec4<f32>>; // affine, by vec4

// One invocation: every STRIDE-th vec4, all of one column.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_apply(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= STRIDE) { return; }
  let column = id.x % WIDTH4;
  let origin = constants[column];
  let a = constants[WIDTH4 + column];
  let b = constants[2 * WIDTH4 + column];
  let p = slopes[column];
  let q = slopes[WIDTH4 + column];
  let end = ROWS * WIDTH4 + (TAIL + 3) / 4;
  for (var i = id.x; i < end; i += STRIDE) {
    let deviation = x[i] - origin;
    dx[i] = a * (mask_by_input(dy[i], deviation, a, b) + (deviation * p + q));
  }
}
