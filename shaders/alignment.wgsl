// How far the summands of a convolution's weight gradient agree in sign (Bjorck et al. 2018, § 3.3, Table 1).
//
//   d[k, r, s, c; n, p, q] = dy[n, p, q, k] · x[n, p·stride + r·dilation − pad, q·stride + s·dilation − pad, c]
//   magnitude[n, k, r, s, c] = Σ_{p, q} |d|        total[n, k, r, s, c] = Σ_{p, q} d
//
// The host adds the images up: |Σ total| is the absolute weight gradient, Σ magnitude its bound if no summand
// cancelled another.
//
// Layout: x [N, H, W, C], dy [N, P, Q, K], weight and both outputs per image [K, R, S, C / GROUPS]. One invocation owns
// one entry of one image per step of a grid-stride loop; neighbouring lanes own neighbouring input channels, and share
// dy. No barriers.

override WORKGROUP_SIZE: u32 = 64;
override H: u32;
override W: u32;
override C: u32;
override K: u32;
override R: u32;
override S: u32;
override P: u32;
override Q: u32;
override STRIDE_H: u32;
override STRIDE_W: u32;
override DILATION_H: u32;
override DILATION_W: u32;
override TOP: u32;
override LEFT: u32;
override GROUPS: u32;

@group(0) @binding(0) var<storage, read_write> magnitude: array<f32>;
@group(0) @binding(1) var<storage, read_write> total: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
struct Batch { N: u32 }
@group(0) @binding(4) var<uniform> batch: Batch;

@compute @workgroup_size(WORKGROUP_SIZE)
fn per_image(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let depth = C / GROUPS;
  let count = batch.N * K * R * S * depth;
  for (var i = id.x; i < count; i += groups.x * WORKGROUP_SIZE) {
    var rest = i;
    let c_in_group = rest % depth;
    rest /= depth;
    let s = rest % S;
    rest /= S;
    let r = rest % R;
    rest /= R;
    let k = rest % K;
    let n = rest / K;
    let c = k / (K / GROUPS) * depth + c_in_group;

    var sum = 0.0;
    var sum_of_magnitudes = 0.0;
    for (var p = 0u; p < P; p += 1u) {
      // Rows above the map wrap round to huge numbers: one comparison tells both edges.
      let h = p * STRIDE_H + r * DILATION_H - TOP;
      if (h >= H) {
        continue;
      }
      var row_sum = 0.0;
      var row_magnitudes = 0.0;
      for (var q = 0u; q < Q; q += 1u) {
        let w = q * STRIDE_W + s * DILATION_W - LEFT;
        if (w < W) {
          let d = dy[((n * P + p) * Q + q) * K + k] * x[((n * H + h) * W + w) * C + c];
          row_sum += d;
          row_magnitudes += abs(d);
        }
      }
      sum += row_sum;
      sum_of_magnitudes += row_magnitudes;
    }
    magnitude[i] = sum_of_magnitudes;
    total[i] = sum;
  }
}
