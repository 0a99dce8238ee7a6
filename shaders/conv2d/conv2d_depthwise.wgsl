// Depthwise convolution: every input channel has its own MULTIPLIER filters (groups = C, K = C · MULTIPLIER).
//
//   y[n,p,q,k]  = bias[k] + Σ_{r,s} x[n, p·SH + r·DH − PT, q·SW + s·DW − PL, c] · w[k,r,s]      c = ⌊k / MULTIPLIER⌋
//   dx[n,h,w,c] = Σ_{r,s,k of c} dy[n,p,q,k] · w[k,r,s]     over the taps with p·SH + r·DH − PT = h, likewise q
//   dw[k,r,s]   = Σ_{n,p,q} dy[n,p,q,k] · x[n, p·SH + r·DH − PT, …, c]
//
// Layouts: x, dx [N, H, W, C]   w [K, R, S, 1]   y, dy [N, P, Q, K]. No barriers, no workgroup memory: there is nothing
// to share but the taps of neighbouring pixels. One invocation owns four channels of
//   forward, grad_input   four consecutive pixels
//   grad_weight           one tap over one slice of the output rows
// Neighbouring lanes own neighbouring channels. With VEC4 (MULTIPLIER = 1, C % 4 = 0) loads are vec4s.

//#import conv2d_sizes

override MULTIPLIER: u32 = 1;
override VEC4: bool = false;
override HAS_BIAS: bool = false;

const WORKGROUP = 64u;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
// Each input is bound twice, as numbers and as vec4s.
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> x4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read> dy4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> weight: array<f32>;
@group(0) @binding(6) var<storage, read> bias: array<f32>;
// What differs from batch to batch, so that a pipeline serves them all.
struct Batch {
  N: u32,
  SLICES: u32, // of the N·P output rows, in grad_weight
}
@group(0) @binding(7) var<uniform> batch: Batch;

// x at one pixel, for the input channels of four output channels; zeros outside of the map.
fn x_of(image: u32, h: i32, w: i32, ks: vec4<u32>) -> vec4<f32> {
  let inside = h >= 0 && h < i32(H) && w >= 0 && w < i32(W);
  let at = select(0u, ((image * H + u32(h)) * W + u32(w)) * C, inside);
  if (VEC4) {
    return select(vec4<f32>(0), x4[(at + ks.x) / 4], inside);
  }
  let i = at + ks / MULTIPLIER;
  return select(vec4<f32>(0), vec4<f32>(x[i.x], x[i.y], x[i.z], x[i.w]), inside);
}

// dy of the pixel whose first tap lies on row h and column w of the padded map; zeros where there is none.
fn dy_of(image: u32, h: i32, w: i32, ks: vec4<u32>) -> vec4<f32> {
  let p = h / SH;
  let q = w / SW;
  let inside = h >= 0 && w >= 0 && h % SH == 0 && w % SW == 0 && p < i32(P) && q < i32(Q);
  let at = select(0u, ((image * P + u32(p)) * Q + u32(q)) * K, inside);
  if (VEC4) {
    return select(vec4<f32>(0), dy4[(at + ks.x) / 4], inside);
  }
  let i = at + ks;
  return select(vec4<f32>(0), vec4<f32>(dy[i.x], dy[i.y], dy[i.z], dy[i.w]), inside);
}

fn weight_of(ks: vec4<u32>, tap: u32) -> vec4<f32> {
  let i = ks * (R * S) + tap;
  return vec4<f32>(weight[i.x], weight[i.y], weight[i.z], weight[i.w]);
}

// Four channels from `first` on; past the end the last one repeats, and is not stored.
fn channels(first: u32, count: u32) -> vec4<u32> {
  return min(vec4<u32>(first) + vec4<u32>(0, 1, 2, 3), vec4<u32>(count - 1));
}

fn store(values: vec4<f32>, pixel: u32, first: u32, count: u32) {
  for (var i = 0u; i < 4 && first + i < count; i++) {
    out[pixel * count + first + i] = values[i];
  }
}

@compute @workgroup_size(64)
fn forward(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let quads = (K + 3) / 4;
  let id = (workgroup.x + workgroup.y * groups.x) * WORKGROUP + lane;
  let first = (id % quads) * 4;
  let ks = channels(first, K);
  let start = (id / quads) * 4;
  for (var m = start; m < min(start + 4, batch.N * P * Q); m++) {
    let q = m % Q;
    let p = (m / Q) % P;
    let image = m / (P * Q);
    var sum = select(vec4<f32>(0), vec4<f32>(bias[ks.x], bias[ks.y], bias[ks.z], bias[ks.w]), HAS_BIAS);
    for (var r = 0u; r < R; r++) {
      for (var s = 0u; s < S; s++) {
        let value = x_of(image, i32(p) * SH + i32(r) * DH - PT, i32(q) * SW + i32(s) * DW - PL, ks);
        sum = fma(value, weight_of(ks, r * S + s), sum);
      }
    }
    store(sum, m, first, K);
  }
}

@compute @workgroup_size(64)
fn grad_input(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let quads = (C + 3) / 4;
  let id = (workgroup.x + workgroup.y * groups.x) * WORKGROUP + lane;
  let first = (id % quads) * 4;
  let cs = channels(first, C);
  let start = (id / quads) * 4;
  for (var m = start; m < min(start + 4, batch.N * H * W); m++) {
    let w = i32(m % W) + PL;
    let h = i32((m / W) % H) + PT;
    let image = m / (H * W);
    var sum = vec4<f32>();
    for (var r = 0u; r < R; r++) {
      for (var s = 0u; s < S; s++) {
        for (var j = 0u; j < MULTIPLIER; j++) {
          let ks = cs * MULTIPLIER + j;
          let value = dy_of(image, h - i32(r) * DH, w - i32(s) * DW, ks);
          sum = fma(value, weight_of(ks, r * S + s), sum);
        }
      }
    }
    store(sum, m, first, C);
  }
}

// out: partial sums [SLICES, K, R·S rounded up to a multiple of 4].
@compute @workgroup_size(64)
fn grad_weight(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let quads = (K + 3) / 4;
  var id = (workgroup.x + workgroup.y * groups.x) * WORKGROUP + lane;
  let first = (id % quads) * 4;
  let ks = channels(first, K);
  id /= quads;
  let tap = id % (R * S);
  let slice = id / (R * S);
  if (slice >= batch.SLICES) { return; }
  let top = i32(tap / S) * DH - PT;
  let left = i32(tap % S) * DW - PL;

  let rows = batch.N * P;
  let per_slice = (rows + batch.SLICES - 1) / batch.SLICES;
  var sum = vec4<f32>();
  for (var row = slice * per_slice; row < min((slice + 1) * per_slice, rows); row++) {
    let h = i32(row % P) * SH + top;
    var row_sum = vec4<f32>(); // of its own, so that rounding grows with Q and rows, not with Q·rows
    for (var q = 0u; q < Q; q++) {
      let at = (row * Q + q) * K;
      var d: vec4<f32>;
      if (VEC4) {
        d = dy4[(at + ks.x) / 4];
      } else {
        d = vec4<f32>(dy[at + ks.x], dy[at + ks.y], dy[at + ks.z], dy[at + ks.w]);
      }
      row_sum = fma(d, x_of(row / P, h, i32(q) * SW + left, ks), row_sum);
    }
    sum += row_sum;
  }
  for (var i = 0u; i < 4 && first + i < K; i++) {
    out[(slice * K + first + i) * ((R * S + 3) / 4 * 4) + tap] = sum[i];
  }
}
