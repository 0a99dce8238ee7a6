// Maximum and average over windows of x [N, H, W, C], to y [N, P, Q, C].
//
//   max         y = max over the window's pixels inside the map, which are `dilation` apart; `taps` [N, P, Q, C] keeps which one
//               (r·S + s), the first of equal ones; NaN wins; -∞ for a window of which no pixel is inside
//   max_grad    dx[n, h, w, c] = Σ dy over the windows whose tap is this pixel
//   avg         y = Σ x / divisor, a row of the window at a time; the divisor counts the window's pixels inside the map, or inside the padded map
//   avg_grad    dx[n, h, w, c] = Σ dy / divisor over the windows that cover this pixel
//
// The gradients gather: each element of dx looks for its windows in a fixed order, so nothing is added from two
// sides and results are equal from run to run. One invocation owns one vec4 of the output per step of a
// grid-stride loop: four channels of a pixel (VEC4: C is a multiple of 4), or any four neighbours, taken singly.
// No barriers.
//
// What the forward kernels read goes through a part that is joined to this file: load_plain.wgsl, or with VEC4
// load_affine.wgsl, which makes x of what lies in memory.

//#import nan
//#hole load: load_plain
//#hole activation: activation_none

override WORKGROUP_SIZE: u32 = 256;
override VEC4: bool = true;
override KEEP_TAPS: bool = false;
override COUNT_PADDING: bool = true;

struct Sizes {
  vec4s: u32, // of y (max, avg) or dx
  channels: u32,
  height: i32,
  width: i32,
  rows: i32, // P
  columns: i32, // Q
  kernel: vec2<i32>,
  stride: vec2<i32>,
  dilation: vec2<i32>, // 1 for averages
  before: vec2<i32>, // padding at the top and left
  after: vec2<i32>, // at the bottom and right
}

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<uniform> sizes: Sizes;
// Both views of one buffer, x or dy: an override can't choose a type, only which one is read.
@group(0) @binding(2) var<storage, read> in_vec4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> in_scalar: array<f32>;
@group(0) @binding(4) var<storage, read_write> taps: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> taps_vec4: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read> taps_scalar: array<u32>;

struct Place { n: i32, y: i32, x: i32, channel: u32 }

struct Best { value: vec4<f32>, tap: vec4<u32> }

// Where `element` of a tensor [N, rows, columns, C] stands.
fn place(element: u32, rows: i32, columns: i32) -> Place {
  let pixel = i32(element / sizes.channels);
  return Place(pixel / (rows * columns), (pixel / columns) % rows, pixel % columns, element % sizes.channels);
}

fn load(n: i32, y: i32, x: i32, channel: u32, rows: i32, columns: i32) -> vec4<f32> {
  let element = u32((n * rows + y) * columns + x) * sizes.channels + channel;
  if (VEC4) {
    return in_vec4[element / 4u];
  }
  return vec4<f32>(in_scalar[element]);
}

fn load_taps(n: i32, y: i32, x: i32, channel: u32) -> vec4<u32> {
  let element = u32((n * sizes.rows + y) * sizes.columns + x) * sizes.channels + channel;
  if (VEC4) {
    return taps_vec4[element / 4u];
  }
  return vec4<u32>(taps_scalar[element]);
}

fn max_window(element: u32) -> Best {
  let at = place(element, sizes.rows, sizes.columns);
  let top = at.y * sizes.stride.x - sizes.before.x;
  let left = at.x * sizes.stride.y - sizes.before.y;
  let d = sizes.dilation;
  let r_end = min(sizes.kernel.x, (sizes.height - top + d.x - 1) / d.x);
  let s_start = max(0, (d.y - 1 - left) / d.y);
  let s_end = min(sizes.kernel.y, (sizes.width - left + d.y - 1) / d.y);
  let channels = channels_of(at.channel / 4u, sizes.channels / 4u);
  var best = Best(vec4<f32>(0.0), vec4<u32>(0xffffffffu));
  for (var r = max(0, (d.x - 1 - top) / d.x); r < r_end; r++) {
    for (var s = s_start; s < s_end; s++) {
      let value = made(load(at.n, top + d.x * r, left + d.y * s, at.channel, sizes.height, sizes.width), channels);
      let first = best.tap == vec4<u32>(0xffffffffu);
      let better = first | are_nan(value) | ((value > best.value) & !are_nan(best.value));
      best.value = select(best.value, value, better);
      best.tap = select(best.tap, vec4<u32>(u32(r * sizes.kernel.y + s)), better);
    }
  }
  let none = best.tap == vec4<u32>(0xffffffffu);
  best.value = bitcast<vec4<f32>>(select(bitcast<vec4<u32>>(best.value), vec4<u32>(0xff800000u), none));
  return best;
}

// 1 / pixels that the average of window (p, q) divides by.
fn weight(p: i32, q: i32) -> f32 {
  let map = vec2<i32>(sizes.height, sizes.width);
  let start = vec2<i32>(p, q) * sizes.stride - sizes.before;
  let end = start + sizes.kernel;
  var extent = min(end, map + sizes.after) - start;
  if (!COUNT_PADDING) {
    extent = min(end, map) - max(start, vec2<i32>(0));
  }
  return 1.0 / f32(extent.x * extent.y);
}

// Σ factor · x over the window of `at`, in rows for precision.
fn sum_window(at: Place, factor: f32) -> vec4<f32> {
  let top = at.y * sizes.stride.x - sizes.before.x;
  let left = at.x * sizes.stride.y - sizes.before.y;
  let channels = channels_of(at.channel / 4u, sizes.channels / 4u);
  var sum = vec4<f32>(0.0);
  for (var y = max(0, top); y < min(top + sizes.kernel.x, sizes.height); y++) {
    var row = vec4<f32>(0.0);
    for (var x = max(0, left); x < min(left + sizes.kernel.y, sizes.width); x++) {
      row += factor * made(load(at.n, y, x, at.channel, sizes.height, sizes.width), channels);
    }
    sum += row;
  }
  return sum;
}

fn avg_window(element: u32) -> vec4<f32> {
  let at = place(element, sizes.rows, sizes.columns);
  let sum = sum_window(at, 1.0);
  let divisor = weight(at.y, at.x);
  // Only the sum may have overflowed.
  if (any((bitcast<vec4<u32>>(sum) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u))) {
    return sum_window(at, divisor);
  }
  return sum * divisor;
}

// First and last window that spans coordinate v of the padded map.
fn windows(v: i32, span: i32, stride: i32, count: i32) -> vec2<i32> {
  return vec2<i32>(max(0, (v - span + stride) / stride), min(count - 1, v / stride));
}

fn max_gather(element: u32) -> vec4<f32> {
  let at = place(element, sizes.height, sizes.width);
  let v = vec2<i32>(at.y, at.x) + sizes.before;
  let d = sizes.dilation;
  let span = (sizes.kernel - 1) * d + 1;
  let ps = windows(v.x, span.x, sizes.stride.x, sizes.rows);
  let qs = windows(v.y, span.y, sizes.stride.y, sizes.columns);
  var sum = vec4<f32>(0.0);
  for (var p = ps.x; p <= ps.y; p++) {
    for (var q = qs.x; q <= qs.y; q++) {
      let offset = v - vec2<i32>(p, q) * sizes.stride;
      let rs = offset / d;
      let is_tap = all(rs * d == offset);
      let tap = u32(rs.x * sizes.kernel.y + rs.y);
      let dy = load(at.n, p, q, at.channel, sizes.rows, sizes.columns);
      sum += select(vec4<f32>(0.0), dy, (load_taps(at.n, p, q, at.channel) == vec4<u32>(tap)) & vec4<bool>(is_tap));
    }
  }
  return sum;
}

fn avg_gather(element: u32) -> vec4<f32> {
  let at = place(element, sizes.height, sizes.width);
  let v = vec2<i32>(at.y, at.x) + sizes.before;
  let ps = windows(v.x, sizes.kernel.x, sizes.stride.x, sizes.rows);
  let qs = windows(v.y, sizes.kernel.y, sizes.stride.y, sizes.columns);
  var sum = vec4<f32>(0.0);
  for (var p = ps.x; p <= ps.y; p++) {
    for (var q = qs.x; q <= qs.y; q++) {
      sum += weight(p, q) * load(at.n, p, q, at.channel, sizes.rows, sizes.columns);
    }
  }
  return sum;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn max_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    var best = max_window(4u * i);
    if (!VEC4) {
      let b = max_window(4u * i + 1u);
      let c = max_window(4u * i + 2u);
      let d = max_window(4u * i + 3u);
      best.value = vec4<f32>(best.value.x, b.value.x, c.value.x, d.value.x);
      best.tap = vec4<u32>(best.tap.x, b.tap.x, c.tap.x, d.tap.x);
    }
    out[i] = best.value;
    if (KEEP_TAPS) {
      taps[i] = best.tap;
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn max_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    var value = max_gather(4u * i);
    if (!VEC4) {
      value = vec4<f32>(value.x, max_gather(4u * i + 1u).x, max_gather(4u * i + 2u).x, max_gather(4u * i + 3u).x);
    }
    out[i] = value;
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn avg_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    var value = avg_window(4u * i);
    if (!VEC4) {
      value = vec4<f32>(value.x, avg_window(4u * i + 1u).x, avg_window(4u * i + 2u).x, avg_window(4u * i + 3u).x);
    }
    out[i] = value;
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn avg_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.vec4s; i += groups.x * WORKGROUP_SIZE) {
    var value = avg_gather(4u * i);
    if (!VEC4) {
      value = vec4<f32>(value.x, avg_gather(4u * i + 1u).x, avg_gather(4u * i + 2u).x, avg_gather(4u * i + 3u).x);
    }
    out[i] = value;
  }
}
