// Every stride-th pixel of x [N, H, W, C] in both directions, its channels in the middle of K ≥ C, zeros around them,
// to y [N, P, Q, K]: the shortcut without parameters of a residual block that changes shape (option A of He et al. 2016).
//
//   forward   y[n, i, j, k] = x[n, i·stride, j·stride, k − before], 0 where x has no such channel
//   grad      dx[n, h, w, c] = dy[n, h / stride, w / stride, c + before], 0 where a division leaves a remainder
//
// Elements are moved as 32-bit words. Channels are counted in units: vec4s in the _vec4 entry points (C, K and
// `before` are multiples of 4), words in the others. Lanes Z take the N·P rows of y, lanes Y the pixels of a row,
// lanes X the units of a pixel. In `grad` a row of dy owns the `stride` rows of dx that begin with its own, and a pixel
// of dy the units from its own pixel of dx up to its neighbour's. Each unit is written once. No barriers.

override X: u32 = 1;
override Y: u32 = 1;
override Z: u32 = 32;

struct Sizes {
  rows: u32, // N·P
  height: u32,
  width: u32,
  channels: u32, // C, in units, as all that follow but the stride
  out_height: u32, // P
  out_width: u32, // Q
  out_channels: u32, // K
  before: u32,
  stride: u32,
}

@group(0) @binding(0) var<storage, read_write> out_vec4: array<vec4<u32>>; // y, or dx
@group(0) @binding(0) var<storage, read_write> out_word: array<u32>;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read> in_vec4: array<vec4<u32>>; // x, or dy
@group(0) @binding(2) var<storage, read> in_word: array<u32>;

// Row of y → the row of x that it is taken from.
fn source_row(row: u32) -> u32 {
  return row / sizes.out_height * sizes.height + row % sizes.out_height * sizes.stride;
}

// Row of dy → units of dx in the rows that it owns besides its own.
fn units_below(row: u32) -> u32 {
  let left = sizes.height - row % sizes.out_height * sizes.stride;
  return (min(sizes.stride, left) - 1) * sizes.width * sizes.channels;
}

@compute @workgroup_size(X, Y, Z)
fn forward(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  for (var row = group.x * Z + lane.z; row < sizes.rows; row += groups.x * Z) {
    let first = source_row(row) * sizes.width;
    for (var j = lane.y; j < sizes.out_width; j += Y) {
      let here = (row * sizes.out_width + j) * sizes.out_channels;
      let there = (first + j * sizes.stride) * sizes.channels;
      for (var k = lane.x; k < sizes.out_channels; k += X) {
        let c = k - sizes.before; // before the first channel: wraps to a large number
        var word = 0u;
        if (c < sizes.channels) {
          word = in_word[there + c];
        }
        out_word[here + k] = word;
      }
    }
  }
}

@compute @workgroup_size(X, Y, Z)
fn forward_vec4(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  for (var row = group.x * Z + lane.z; row < sizes.rows; row += groups.x * Z) {
    let first = source_row(row) * sizes.width;
    for (var j = lane.y; j < sizes.out_width; j += Y) {
      let here = (row * sizes.out_width + j) * sizes.out_channels;
      let there = (first + j * sizes.stride) * sizes.channels;
      for (var k = lane.x; k < sizes.out_channels; k += X) {
        let c = k - sizes.before;
        var words = vec4<u32>(0);
        if (c < sizes.channels) {
          words = in_vec4[there + c];
        }
        out_vec4[here + k] = words;
      }
    }
  }
}

@compute @workgroup_size(X, Y, Z)
fn grad(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let units = sizes.width * sizes.channels;
  let step = sizes.stride * sizes.channels;
  for (var row = group.x * Z + lane.z; row < sizes.rows; row += groups.x * Z) {
    let first = source_row(row) * units;
    for (var j = lane.y; j < sizes.out_width; j += Y) {
      let here = first + j * step;
      let there = (row * sizes.out_width + j) * sizes.out_channels + sizes.before;
      let count = min(step, units - j * step);
      for (var c = lane.x; c < count; c += X) {
        var word = 0u;
        if (c < sizes.channels) {
          word = in_word[there + c];
        }
        out_word[here + c] = word;
      }
    }
    let below = units_below(row);
    for (var i = lane.y * X + lane.x; i < below; i += X * Y) {
      out_word[first + units + i] = 0u;
    }
  }
}

@compute @workgroup_size(X, Y, Z)
fn grad_vec4(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) lane: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let units = sizes.width * sizes.channels;
  let step = sizes.stride * sizes.channels;
  for (var row = group.x * Z + lane.z; row < sizes.rows; row += groups.x * Z) {
    let first = source_row(row) * units;
    for (var j = lane.y; j < sizes.out_width; j += Y) {
      let here = first + j * step;
      let there = (row * sizes.out_width + j) * sizes.out_channels + sizes.before;
      let count = min(step, units - j * step);
      for (var c = lane.x; c < count; c += X) {
        var words = vec4<u32>(0);
        if (c < sizes.channels) {
          words = in_vec4[there + c];
        }
        out_vec4[here + c] = words;
      }
    }
    let below = units_below(row);
    for (var i = lane.y * X + lane.x; i < below; i += X * Y) {
      out_vec4[first + units + i] = vec4<u32>(0);
    }
  }
}
