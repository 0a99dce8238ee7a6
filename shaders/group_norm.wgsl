// Group normalisation, and layer normalisation as its case of one group over one pixel:
//
//   mean, var over a unit: the pixels of one image and the channels of one group;  rstd = 1 / sqrt(var + eps)
//   y  = xhat * gamma + beta,  xhat = (x - mean) * rstd
//   dx = rstd * (g - sum(g) / n - xhat * sum(g * xhat) / n),  g = dy * gamma, sums over the unit
//   dgamma = sum(dy * xhat), dbeta = sum(dy), sums over all images and pixels
//   (Wu & He 2018; Ba, Kiros & Hinton 2016.)
//
// Layout. x, y and their gradients are [images, pixels, groups * width], gamma and beta [groups * width]. A unit is read
// in quads, four channels of a pixel, the last of a group masked where width % 4 != 0; VEC4 loads a quad at once. Per unit
// `saved` holds (origin, offset, rstd): mean = origin + offset. lib/moments.wgsl says why, and what is done
// about squares out of range.
//
// Two families. `forward` and `backward`: one invocation takes a unit, without barriers. `_workgroup`: LANES invocations
// take a unit, and combine in a tree in workgroup memory with a barrier before each step. Every sum has a fixed order.

//#import moments

override WORKGROUP_SIZE: u32 = 64;
// Invocations that share a unit; 1 without workgroup memory.
override LANES: u32 = 1;
override VEC4: bool = false;
override HAS_GAMMA: bool = true;
override HAS_BETA: bool = true;

struct Params {
  images: u32,
  pixels: u32,
  groups: u32,
  width: u32, // channels of a group
  slices: u32, // of images, for the gradients of gamma and beta
  slice_images: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(0) var<storage, read_write> dx: array<f32>;
@group(0) @binding(0) var<storage, read_write> partials: array<f32>; // [slices, 2, C]
@group(0) @binding(0) var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> sums: array<f32>; // partials, to read
@group(0) @binding(2) var<storage, read> x4: array<vec4<f32>>; // x by quads
@group(0) @binding(2) var<storage, read_write> dbeta: array<f32>;
@group(0) @binding(3) var<storage, read_write> saved: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> statistics: array<vec4<f32>>; // saved, to read
@group(0) @binding(4) var<storage, read> gamma: array<f32>;
@group(0) @binding(5) var<storage, read> beta: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;
@group(0) @binding(7) var<storage, read> dy: array<f32>;
@group(0) @binding(8) var<storage, read> dy4: array<vec4<f32>>; // dy by quads

// --- walking over a unit ---------------------------------------------------------------------------------

// A place in a unit: quad `quad` of pixel `pixel`.
struct Place { pixel: u32, quad: u32 }

fn quads() -> u32 { return (params.width + 3) / 4; }

fn first_place(lane: u32) -> Place { return Place(lane / quads(), lane % quads()); }

// LANES quads further.
fn next_place(p: Place) -> Place {
  let q = quads();
  let quad = p.quad + LANES % q;
  let over = quad >= q;
  return Place(p.pixel + LANES / q + select(0u, 1u, over), quad - select(0u, q, over));
}

// Index of the first element of a quad.
fn index_of(unit: u32, p: Place) -> u32 {
  let image = unit / params.groups;
  let group = unit % params.groups;
  return (image * params.pixels + p.pixel) * params.groups * params.width + group * params.width + 4 * p.quad;
}

fn channel_of(unit: u32, p: Place) -> u32 { return (unit % params.groups) * params.width + 4 * p.quad; }

fn valid_of(p: Place) -> vec4<bool> {
  return vec4<u32>(4 * p.quad) + vec4<u32>(0, 1, 2, 3) < vec4<u32>(params.width);
}

fn x_quad(i: u32, valid: vec4<bool>) -> vec4<f32> {
  if (VEC4) { return x4[i / 4]; }
  return select(vec4<f32>(0), vec4<f32>(x[i], x[i + 1], x[i + 2], x[i + 3]), valid);
}

fn dy_quad(i: u32, valid: vec4<bool>) -> vec4<f32> {
  if (VEC4) { return dy4[i / 4]; }
  return select(vec4<f32>(0), vec4<f32>(dy[i], dy[i + 1], dy[i + 2], dy[i + 3]), valid);
}

fn gamma_quad(c: u32) -> vec4<f32> {
  if (!HAS_GAMMA) { return vec4<f32>(1); }
  return vec4<f32>(gamma[c], gamma[c + 1], gamma[c + 2], gamma[c + 3]);
}

fn beta_quad(c: u32) -> vec4<f32> {
  if (!HAS_BETA) { return vec4<f32>(0); }
  return vec4<f32>(beta[c], beta[c + 1], beta[c + 2], beta[c + 3]);
}

// --- forward ---------------------------------------------------------------------------------------------

// This lane's part of a unit: four running sets, one for each place in a quad, combined at the end; twice where squares leave
// their range, the second time in other units. The result is the same in all four.
fn measure(unit: u32, lane: u32) -> Tally {
  let first = vec4<f32>(x[index_of(unit, Place(0, 0))]);
  var extent: Extent;
  var scale = vec4<f32>(1);
  var n = vec4<f32>(0);
  var mean: Mean;
  var variance = vec4<f32>(0);
  var again = false; // no number of turns that a compiler knows, so that none writes the body twice
  loop {
    n = vec4<f32>(0);
    mean = Mean(first * scale, vec4<f32>(0));
    variance = vec4<f32>(0);
    for (var p = first_place(lane); p.pixel < params.pixels; p = next_place(p)) {
      let valid = valid_of(p);
      let delta = difference(x_quad(index_of(unit, p), valid) * scale, mean.origin) - mean.offset;
      n += select(vec4<f32>(0), vec4<f32>(1), valid);
      let weight = select(vec4<f32>(0), 1 / max(n, vec4<f32>(1)), valid);
      variance += select(vec4<f32>(0), weight * (delta * delta * (1 - weight) - variance), valid);
      mean = recentred(mean.origin, mean.offset + select(vec4<f32>(0), delta * weight, valid));
    }
    let bad = unsafe_squares(variance);
    if (again || !any(bad)) { break; }
    again = true;
    // The first value is every place's origin, also where it is none of the place's values.
    extent = extended(extent_of(unit, lane), first);
    scale = select(vec4<f32>(1), scale_for(bitcast<vec4<f32>>(extent.largest)), bad);
  }
  let unit_of_x = inverse_power(scale);
  let tally = Tally(n, mean.origin * unit_of_x, mean.offset * unit_of_x, sqrt(variance) * unit_of_x);
  let four = with_specials(tally, extent);
  let two = combine(four, Tally(four.count.zwxy, four.origin.zwxy, four.offset.zwxy, four.deviation.zwxy));
  return combine(two, Tally(two.count.yxwz, two.origin.yxwz, two.offset.yxwz, two.deviation.yxwz));
}

fn extent_of(unit: u32, lane: u32) -> Extent {
  var extent: Extent;
  for (var p = first_place(lane); p.pixel < params.pixels; p = next_place(p)) {
    let valid = valid_of(p);
    extent = extended(extent, select(vec4<f32>(0), x_quad(index_of(unit, p), valid), valid));
  }
  return extent;
}

// (origin, offset, rstd) of a unit.
fn numbers_of(tally: Tally) -> vec4<f32> {
  let scale = scale_for(tally.deviation);
  let scaled = (tally.deviation * scale).x;
  let rstd = scale.x * refined_inverse_sqrt(scaled * scaled + params.eps * scale.x * scale.x);
  return vec4<f32>(settled(tally.origin.x, tally.offset.x), rstd, 0);
}

fn xhat_of(v: vec4<f32>, s: vec4<f32>) -> vec4<f32> { return (difference(v, s.xxxx) - s.y) * s.z; }

fn apply(unit: u32, lane: u32, s: vec4<f32>) {
  for (var p = first_place(lane); p.pixel < params.pixels; p = next_place(p)) {
    let valid = valid_of(p);
    let i = index_of(unit, p);
    let c = channel_of(unit, p);
    let z = xhat_of(x_quad(i, valid), s) * gamma_quad(c) + beta_quad(c);
    y[i] = z.x;
    if (valid.y) { y[i + 1] = z.y; }
    if (valid.z) { y[i + 2] = z.z; }
    if (valid.w) { y[i + 3] = z.w; }
  }
}

// One invocation: one unit.
@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let unit = id.x + id.y * groups.x * WORKGROUP_SIZE;
  if (unit >= params.images * params.groups) { return; }
  let s = numbers_of(measure(unit, 0));
  saved[unit] = s;
  apply(unit, 0, s);
}

var<workgroup> shared_values: array<vec4<f32>, LANES>;

fn packed(t: Tally) -> vec4<f32> { return vec4<f32>(t.count.x, t.origin.x, t.offset.x, t.deviation.x); }

fn unpacked(v: vec4<f32>) -> Tally { return Tally(v.xxxx, v.yyyy, v.zzzz, v.wwww); }

// One workgroup: one unit.
@compute @workgroup_size(LANES)
fn forward_workgroup(
  @builtin(local_invocation_index) lane: u32,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  // Workgroups past the end repeat the last unit, and write the same.
  let unit = min(group.x + group.y * groups.x, params.images * params.groups - 1);
  var tally = measure(unit, lane);
  shared_values[lane] = packed(tally);
  for (var size = LANES; size > 1;) {
    let half = (size + 1) / 2;
    workgroupBarrier();
    if (lane + half < size) {
      tally = combine(tally, unpacked(shared_values[lane + half]));
      shared_values[lane] = packed(tally);
    }
    size = half;
  }
  workgroupBarrier();
  let s = numbers_of(unpacked(shared_values[0]));
  if (lane == 0) { saved[unit] = s; }
  apply(unit, lane, s);
}

// --- backward --------------------------------------------------------------------------------------------

// sum(g) and sum(g * xhat) of this lane's part, each place in a quad apart until the end; in blocks, since a part may be long.
fn sum_unit(unit: u32, lane: u32, s: vec4<f32>) -> vec2<f32> {
  var g_sum = vec4<f32>(0);
  var gx_sum = vec4<f32>(0);
  var p = first_place(lane);
  while (p.pixel < params.pixels) {
    var g_part = vec4<f32>(0);
    var gx_part = vec4<f32>(0);
    for (var i = 0; i < 128 && p.pixel < params.pixels; i += 1) {
      let valid = valid_of(p);
      let at = index_of(unit, p);
      let g = select(vec4<f32>(0), dy_quad(at, valid) * gamma_quad(channel_of(unit, p)), valid);
      g_part += g;
      gx_part += select(vec4<f32>(0), g * xhat_of(x_quad(at, valid), s), valid);
      p = next_place(p);
    }
    g_sum += g_part;
    gx_sum += gx_part;
  }
  return vec2<f32>((g_sum.x + g_sum.y) + (g_sum.z + g_sum.w), (gx_sum.x + gx_sum.y) + (gx_sum.z + gx_sum.w));
}

fn apply_grad(unit: u32, lane: u32, s: vec4<f32>, sum: vec2<f32>) {
  let means = sum / f32(params.pixels * params.width);
  for (var p = first_place(lane); p.pixel < params.pixels; p = next_place(p)) {
    let valid = valid_of(p);
    let i = index_of(unit, p);
    let g = dy_quad(i, valid) * gamma_quad(channel_of(unit, p));
    let xhat = xhat_of(x_quad(i, valid), s);
    let d = s.z * (g - means.x - xhat * means.y);
    dx[i] = d.x;
    if (valid.y) { dx[i + 1] = d.y; }
    if (valid.z) { dx[i + 2] = d.z; }
    if (valid.w) { dx[i + 3] = d.w; }
  }
}

// One invocation: one unit.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let unit = id.x + id.y * groups.x * WORKGROUP_SIZE;
  if (unit >= params.images * params.groups) { return; }
  let s = statistics[unit];
  apply_grad(unit, 0, s, sum_unit(unit, 0, s));
}

// One workgroup: one unit.
@compute @workgroup_size(LANES)
fn grad_input_workgroup(
  @builtin(local_invocation_index) lane: u32,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let unit = min(group.x + group.y * groups.x, params.images * params.groups - 1);
  let s = statistics[unit];
  var sum = sum_unit(unit, lane, s);
  shared_values[lane] = vec4<f32>(sum, 0, 0);
  for (var size = LANES; size > 1;) {
    let half = (size + 1) / 2;
    workgroupBarrier();
    if (lane + half < size) {
      sum += shared_values[lane + half].xy;
      shared_values[lane] = vec4<f32>(sum, 0, 0);
    }
    size = half;
  }
  workgroupBarrier();
  apply_grad(unit, lane, s, shared_values[0].xy);
}

// dgamma and dbeta of four channels of a group, summed over one slice of images. One invocation: one quad of channels,
// groups * quads() of them to a slice.
@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_affine(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let at = id.x + id.y * groups.x * WORKGROUP_SIZE;
  let columns = params.groups * quads();
  let slice = at / columns;
  if (slice >= params.slices) { return; }
  let group = (at % columns) / quads();
  var place = Place(0, at % quads());
  let valid = valid_of(place);
  var dgamma_sum = vec4<f32>(0);
  var dbeta_sum = vec4<f32>(0);
  let last = min((slice + 1) * params.slice_images, params.images);
  for (var image = slice * params.slice_images; image < last; image += 1) {
    let unit = image * params.groups + group;
    let s = statistics[unit];
    // In blocks, for precision.
    for (place.pixel = 0; place.pixel < params.pixels;) {
      var gamma_part = vec4<f32>(0);
      var beta_part = vec4<f32>(0);
      let end = min(place.pixel + 128, params.pixels);
      for (; place.pixel < end; place.pixel += 1) {
        let i = index_of(unit, place);
        let g = dy_quad(i, valid);
        beta_part += g;
        gamma_part += g * xhat_of(x_quad(i, valid), s);
      }
      dgamma_sum += gamma_part;
      dbeta_sum += beta_part;
    }
  }
  let channels = params.groups * params.width;
  let c = group * params.width + 4 * place.quad;
  for (var k = 0u; k < 4; k += 1) {
    if (valid[k]) {
      partials[2 * slice * channels + c + k] = dgamma_sum[k];
      partials[(2 * slice + 1) * channels + c + k] = dbeta_sum[k];
    }
  }
}

// One invocation: one channel.
@compute @workgroup_size(WORKGROUP_SIZE)
fn finish_affine(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let c = id.x + id.y * groups.x * WORKGROUP_SIZE;
  let channels = params.groups * params.width;
  if (c >= channels) { return; }
  var g = 0.0;
  var b = 0.0;
  for (var slice = 0u; slice < params.slices;) {
    var g_part = 0.0;
    var b_part = 0.0;
    let end = min(slice + 128, params.slices);
    for (; slice < end; slice += 1) {
      g_part += sums[2 * slice * channels + c];
      b_part += sums[(2 * slice + 1) * channels + c];
    }
    g += g_part;
    b += b_part;
  }
  dgamma[c] = g;
  dbeta[c] = b;
}
