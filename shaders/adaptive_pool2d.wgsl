// Averages of x [N, H, W, C] over P × Q windows that share the map out, to y [N, P, Q, C], as PyTorch's adaptive_avg_pool2d:
//
//   y[n, p, q, c]  = mean of x[n, h, w, c],   ⌊p·H/P⌋ <= h < ⌈(p + 1)·H/P⌉, and w likewise
//   dx[n, h, w, c] = Σ dy[n, p, q, c] / pixels of the window, over those that the pixel is in: ⌊h·P/H⌋ <= p < ⌈(h + 1)·P/H⌉
//
// Both gather: nothing is added from two sides, and results are equal from run to run. One invocation owns one element of the output
// per step of a grid-stride loop. No barriers.

override WORKGROUP_SIZE: u32 = 64;

struct Sizes { elements: u32, channels: u32, map: vec2<u32>, out: vec2<u32> }

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(0) var<storage, read_write> dx: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

// Of `count` windows over `size` pixels: where window i begins; or of pixels in windows, which is the first that pixel i is in.
fn first(i: u32, size: u32, count: u32) -> u32 {
  return i * size / count;
}

fn end(i: u32, size: u32, count: u32) -> u32 {
  return ((i + 1u) * size + count - 1u) / count;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.elements; i += groups.x * WORKGROUP_SIZE) {
    let channel = i % sizes.channels;
    let pixel = i / sizes.channels;
    let at = vec2<u32>(pixel / sizes.out.y % sizes.out.x, pixel % sizes.out.y);
    let n = pixel / (sizes.out.x * sizes.out.y);
    let left = first(at.y, sizes.map.y, sizes.out.y);
    let right = end(at.y, sizes.map.y, sizes.out.y);
    let top = first(at.x, sizes.map.x, sizes.out.x);
    let bottom = end(at.x, sizes.map.x, sizes.out.x);
    var sum = 0.0;
    for (var h = top; h < bottom; h++) {
      var row = 0.0;
      for (var w = left; w < right; w++) {
        row += x[((n * sizes.map.x + h) * sizes.map.y + w) * sizes.channels + channel];
      }
      sum += row / f32(right - left);
    }
    y[i] = sum / f32(bottom - top);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.elements; i += groups.x * WORKGROUP_SIZE) {
    let channel = i % sizes.channels;
    let pixel = i / sizes.channels;
    let at = vec2<u32>(pixel / sizes.map.y % sizes.map.x, pixel % sizes.map.y);
    let n = pixel / (sizes.map.x * sizes.map.y);
    var sum = 0.0;
    for (var p = first(at.x, sizes.out.x, sizes.map.x); p < end(at.x, sizes.out.x, sizes.map.x); p++) {
      let height = end(p, sizes.map.x, sizes.out.x) - first(p, sizes.map.x, sizes.out.x);
      for (var q = first(at.y, sizes.out.y, sizes.map.y); q < end(at.y, sizes.out.y, sizes.map.y); q++) {
        let width = end(q, sizes.map.y, sizes.out.y) - first(q, sizes.map.y, sizes.out.y);
        let value = dy[((n * sizes.out.x + p) * sizes.out.y + q) * sizes.channels + channel];
        sum += value / f32(width * height);
      }
    }
    dx[i] = sum;
  }
}
