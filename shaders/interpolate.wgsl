// A map x [N, H, W, C] at another size, y [N, P, Q, C], as PyTorch's `interpolate`:
//
//   nearest    y[p] = x[min(⌊p·scale⌋, H − 1)]
//   bilinear   y[p] = (1 − t)·x[h] + t·x[min(h + 1, H − 1)],  h = ⌊s⌋, t = s − h,  s = p·scale (ALIGN_CORNERS), or
//              max(0, (p + 1/2)·scale − 1/2)
//
// of rows, and likewise of columns. The gradient gathers: a pixel of dx looks through the pixels of dy that may have read it, a
// range a little wider than that, and works out for each which share it took, by the functions of the forward pass. So nothing is
// added from two sides, and results are equal from run to run.
//
// One invocation owns one element of the output per step of a grid-stride loop. No barriers.

override WORKGROUP_SIZE: u32 = 64;
override BILINEAR: bool = false;
override ALIGN_CORNERS: bool = false;

struct Sizes {
  elements: u32, // of y, or of dx
  channels: u32,
  map: vec2<i32>, // H, W
  out: vec2<i32>, // P, Q
  scale: vec2<f32>, // pixels of x from one pixel of y to the next
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(0) var<storage, read_write> dx: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

// What a pixel of y reads along one axis: two neighbours, and the share of the second.
struct Taps { first: i32, second: i32, share: f32 }

fn taps(p: i32, size: i32, scale: f32) -> Taps {
  if (!BILINEAR) {
    let h = min(i32(f32(p) * scale), size - 1);
    return Taps(h, h, 0.0);
  }
  var s = f32(p) * scale;
  if (!ALIGN_CORNERS) {
    s = max(0.0, (f32(p) + 0.5) * scale - 0.5);
  }
  let h = min(i32(s), size - 1);
  return Taps(h, min(h + 1, size - 1), clamp(s - f32(h), 0.0, 1.0));
}

// The share of x's pixel h in what a pixel of y with these taps is.
fn share_of(at: Taps, h: i32) -> f32 {
  return select(0.0, 1.0 - at.share, at.first == h) + select(0.0, at.share, at.second == h);
}

// First pixel of y that may read pixel h of x, and the first one after it that doesn't; all of them where scale is 0.
fn readers(h: i32, count: i32, scale: f32) -> vec2<i32> {
  if (scale == 0.0) {
    return vec2<i32>(0, count);
  }
  let low = (f32(h) - 1.5) / scale - 2.0;
  let high = (f32(h) + 1.5) / scale + 3.0;
  return vec2<i32>(clamp(vec2<f32>(low, high), vec2<f32>(0.0), vec2<f32>(f32(count))));
}

fn load_x(n: i32, h: i32, w: i32, channel: u32) -> f32 {
  return x[u32((n * sizes.map.x + h) * sizes.map.y + w) * sizes.channels + channel];
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.elements; i += groups.x * WORKGROUP_SIZE) {
    let channel = i % sizes.channels;
    let pixel = i32(i / sizes.channels);
    let n = pixel / (sizes.out.x * sizes.out.y);
    let row = taps(pixel / sizes.out.y % sizes.out.x, sizes.map.x, sizes.scale.x);
    let column = taps(pixel % sizes.out.y, sizes.map.y, sizes.scale.y);
    var value = load_x(n, row.first, column.first, channel);
    if (BILINEAR) {
      let top = (1.0 - column.share) * value + column.share * load_x(n, row.first, column.second, channel);
      let bottom = (1.0 - column.share) * load_x(n, row.second, column.first, channel)
        + column.share * load_x(n, row.second, column.second, channel);
      value = (1.0 - row.share) * top + row.share * bottom;
    }
    y[i] = value;
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.elements; i += groups.x * WORKGROUP_SIZE) {
    let channel = i % sizes.channels;
    let pixel = i32(i / sizes.channels);
    let n = pixel / (sizes.map.x * sizes.map.y);
    let h = pixel / sizes.map.y % sizes.map.x;
    let w = pixel % sizes.map.y;
    let ps = readers(h, sizes.out.x, sizes.scale.x);
    let qs = readers(w, sizes.out.y, sizes.scale.y);
    var sum = 0.0;
    for (var p = ps.x; p < ps.y; p++) {
      let row = share_of(taps(p, sizes.map.x, sizes.scale.x), h);
      if (row == 0.0) {
        continue;
      }
      var part = 0.0;
      for (var q = qs.x; q < qs.y; q++) {
        let column = share_of(taps(q, sizes.map.y, sizes.scale.y), w);
        if (column != 0.0) {
          part += column * dy[u32((n * sizes.out.x + p) * sizes.out.y + q) * sizes.channels + channel];
        }
      }
      sum += row * part;
    }
    dx[i] = sum;
  }
}
