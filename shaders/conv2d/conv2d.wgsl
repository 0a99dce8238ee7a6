// Convolution (cross-correlation, as everywhere in deep learning), any stride, padding, dilation and group count:
//
//   y[n,p,q,k]  = bias[k] + Σ_{r,s,c} x[n, p·SH + r·DH − PT, q·SW + s·DW − PL, g·CG + c] · w[k,r,s,c]     g = ⌊k / KG⌋
//   dx[n,h,w,c] = Σ_{r,s,k} dy[n,p,q,k] · w[k,r,s,c]       over the taps with p·SH + r·DH − PT = h, likewise q
//   dw[k,r,s,c] = Σ_{n,p,q} dy[n,p,q,k] · x[n, p·SH + r·DH − PT, …]
//   db[k]       = Σ_{n,p,q} dy[n,p,q,k]
//
// Layouts: x, dx [N, H, W, C]   w, dw [K, R, S, CG]   y, dy [N, P, Q, K]   CG = C / GROUPS, KG = K / GROUPS.
//
// These are the kernels for any shape: scalar loads, no barriers, no workgroup memory. One invocation owns
//   forward      4 consecutive pixels × 4 output channels of one group
//   grad_input   4 consecutive pixels of one stride phase × 4 input channels of one group
//   grad_weight  4 output channels × one (r, s, c) over one slice of the output rows
//   sum_rows     one output channel over one slice of the pixels (the bias gradient)
// The channel block is the same for a whole workgroup, so that weights (or dy) are loaded once per workgroup
// of lanes. Slices become partial sums, which sum_partials.wgsl adds up in order: the same bits on every run.

//#import conv2d_sizes

override GROUPS: u32 = 1;
override HAS_BIAS: bool = false;

const WORKGROUP = 64u;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
// What differs from batch to batch, so that a pipeline serves them all.
struct Batch {
  N: u32,
  SLICES: u32, // of the N·P output rows, in grad_weight
}
@group(0) @binding(5) var<uniform> batch: Batch;

fn linear_workgroup(id: vec3<u32>, groups: vec3<u32>) -> u32 {
  return id.x + id.y * groups.x;
}

@compute @workgroup_size(64)
fn forward(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let CG = C / GROUPS;
  let KG = K / GROUPS;
  let k_blocks = (KG + 3) / 4;
  let id = linear_workgroup(workgroup, groups);
  let k_block = id % k_blocks;
  let group = (id / k_blocks) % GROUPS;
  let m0 = ((id / (k_blocks * GROUPS)) * WORKGROUP + lane) * 4;
  if (m0 >= batch.N * P * Q) { return; }

  // Pixels past the end and channels past the group repeat the last one; they are not stored.
  let m = min(vec4<u32>(m0) + vec4<u32>(0, 1, 2, 3), vec4<u32>(batch.N * P * Q - 1));
  let h0 = vec4<i32>((m / Q) % P) * SH - PT;
  let w0 = vec4<i32>(m % Q) * SW - PL;
  let image = m / (P * Q);
  let k0 = group * KG + k_block * 4;
  let k_last = group * KG + KG - 1;
  let w_row = min(vec4<u32>(k0) + vec4<u32>(0, 1, 2, 3), vec4<u32>(k_last)) * (R * S * CG);

  var acc = array<vec4<f32>, 4>(); // by output channel: four pixels
  for (var r = 0u; r < R; r++) {
    let h = h0 + i32(r) * DH;
    for (var s = 0u; s < S; s++) {
      let w = w0 + i32(s) * DW;
      let inside = (h >= vec4<i32>(0)) & (h < vec4<i32>(i32(H))) & (w >= vec4<i32>(0)) & (w < vec4<i32>(i32(W)));
      let at = select(vec4<u32>(0), ((image * H + vec4<u32>(h)) * W + vec4<u32>(w)) * C + group * CG, inside);
      let tap = (r * S + s) * CG;
      for (var c = 0u; c < CG; c++) {
        let loaded = vec4<f32>(x[at.x + c], x[at.y + c], x[at.z + c], x[at.w + c]);
        let xs = select(vec4<f32>(0), loaded, inside);
        acc[0] = fma(xs, vec4<f32>(weight[w_row.x + tap + c]), acc[0]);
        acc[1] = fma(xs, vec4<f32>(weight[w_row.y + tap + c]), acc[1]);
        acc[2] = fma(xs, vec4<f32>(weight[w_row.z + tap + c]), acc[2]);
        acc[3] = fma(xs, vec4<f32>(weight[w_row.w + tap + c]), acc[3]);
      }
    }
  }
  for (var j = 0u; j < 4; j++) {
    let k = k0 + j;
    if (k > k_last) { break; }
    let y = acc[j] + select(0.0, bias[k], HAS_BIAS);
    for (var i = 0u; i < 4 && m0 + i < batch.N * P * Q; i++) {
      out[(m0 + i) * K + k] = y[i];
    }
  }
}

// The rows h with (h + PT) % SH = phase, and the columns alike, use the same taps: a phase is a stride-1
// problem. A workgroup works on one phase, so that skipping the other taps costs nothing.
@compute @workgroup_size(64)
fn grad_input(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let CG = C / GROUPS;
  let KG = K / GROUPS;
  let c_blocks = (CG + 3) / 4;
  var id = linear_workgroup(workgroup, groups);
  let c_block = id % c_blocks;
  id /= c_blocks;
  let group = id % GROUPS;
  id /= GROUPS;
  let phase_w = i32(id % u32(SW));
  id /= u32(SW);
  let phase_h = i32(id % u32(SH));
  id /= u32(SH);

  // First row of this phase, and how many there are.
  let h_first = (phase_h + SH - PT % SH) % SH;
  let w_first = (phase_w + SW - PL % SW) % SW;
  let rows = u32((i32(H) - h_first + SH - 1) / SH);
  let columns = u32((i32(W) - w_first + SW - 1) / SW);
  let count = batch.N * rows * columns;
  let m0 = (id * WORKGROUP + lane) * 4;
  if (m0 >= count) { return; }

  let m = min(vec4<u32>(m0) + vec4<u32>(0, 1, 2, 3), vec4<u32>(count - 1));
  let h = vec4<i32>((m / columns) % rows) * SH + h_first;
  let w = vec4<i32>(m % columns) * SW + w_first;
  let image = m / (rows * columns);
  let c0 = c_block * 4;
  let cs = min(vec4<u32>(c0) + vec4<u32>(0, 1, 2, 3), vec4<u32>(CG - 1));

  var acc = array<vec4<f32>, 4>(); // by input channel: four pixels
  for (var r = 0u; r < R; r++) {
    let top = i32(r) * DH;
    if ((top - phase_h) % SH != 0) { continue; }
    let p = (h + PT - top) / SH;
    let inside_h = (h + PT >= vec4<i32>(top)) & (p < vec4<i32>(i32(P)));
    for (var s = 0u; s < S; s++) {
      let left = i32(s) * DW;
      if ((left - phase_w) % SW != 0) { continue; }
      let q = (w + PL - left) / SW;
      let inside = inside_h & (w + PL >= vec4<i32>(left)) & (q < vec4<i32>(i32(Q)));
      let at = select(vec4<u32>(0), ((image * P + vec4<u32>(p)) * Q + vec4<u32>(q)) * K + group * KG, inside);
      for (var k = 0u; k < KG; k++) {
        let loaded = vec4<f32>(dy[at.x + k], dy[at.y + k], dy[at.z + k], dy[at.w + k]);
        let dys = select(vec4<f32>(0), loaded, inside);
        let row = (((group * KG + k) * R + r) * S + s) * CG;
        acc[0] = fma(dys, vec4<f32>(weight[row + cs.x]), acc[0]);
        acc[1] = fma(dys, vec4<f32>(weight[row + cs.y]), acc[1]);
        acc[2] = fma(dys, vec4<f32>(weight[row + cs.z]), acc[2]);
        acc[3] = fma(dys, vec4<f32>(weight[row + cs.w]), acc[3]);
      }
    }
  }
  for (var j = 0u; j < 4 && c0 + j < CG; j++) {
    for (var i = 0u; i < 4 && m0 + i < count; i++) {
      out[((image[i] * H + u32(h[i])) * W + u32(w[i])) * C + group * CG + c0 + j] = acc[j][i];
    }
  }
}

// out: partial sums [SLICES, K, R·S·CG rounded up to a multiple of 4].
@compute @workgroup_size(64)
fn grad_weight(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let CG = C / GROUPS;
  let KG = K / GROUPS;
  let k_blocks = (KG + 3) / 4;
  let columns = R * S * CG;
  let column_blocks = (columns + WORKGROUP - 1) / WORKGROUP;
  var id = linear_workgroup(workgroup, groups);
  let column = (id % column_blocks) * WORKGROUP + lane;
  id /= column_blocks;
  let k_block = id % k_blocks;
  id /= k_blocks;
  let group = id % GROUPS;
  let slice = id / GROUPS;
  if (column >= columns || slice >= batch.SLICES) { return; }

  let c = group * CG + column % CG;
  let s = i32((column / CG) % S);
  let r = i32(column / (CG * S));
  let k0 = group * KG + k_block * 4;
  let k_last = group * KG + KG - 1;
  let ks = min(vec4<u32>(k0) + vec4<u32>(0, 1, 2, 3), vec4<u32>(k_last));

  let rows = batch.N * P;
  let per_slice = (rows + batch.SLICES - 1) / batch.SLICES;
  let end = min((slice + 1) * per_slice, rows);
  var acc = vec4<f32>();
  for (var row = slice * per_slice; row < end; row++) {
    let h = i32(row % P) * SH + r * DH - PT;
    let inside_h = h >= 0 && h < i32(H);
    let base = ((row / P) * H + u32(max(h, 0))) * W * C + c;
    var row_sum = vec4<f32>(); // of its own, so that rounding grows with Q and rows, not with Q·rows
    for (var q = 0u; q < Q; q++) {
      let w = i32(q) * SW + s * DW - PL;
      let inside = inside_h && w >= 0 && w < i32(W);
      let value = select(0.0, x[select(0u, base + u32(w) * C, inside)], inside);
      let at = (row * Q + q) * K;
      let dys = vec4<f32>(dy[at + ks.x], dy[at + ks.y], dy[at + ks.z], dy[at + ks.w]);
      row_sum = fma(dys, vec4<f32>(value), row_sum);
    }
    acc += row_sum;
  }
  for (var j = 0u; j < 4 && k0 + j <= k_last; j++) {
    out[(slice * K + k0 + j) * ((columns + 3) / 4 * 4) + column] = acc[j];
  }
}

struct Sizes { slices: u32, count: u32, rows: u32 }

@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<uniform> size: Sizes;

// source [rows, count] → out: partial sums [slices, count rounded up to a multiple of 4], one invocation per number.
@compute @workgroup_size(64)
fn sum_rows(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let blocks = (size.count + WORKGROUP - 1) / WORKGROUP;
  let id = linear_workgroup(workgroup, groups);
  let i = (id % blocks) * WORKGROUP + lane;
  let slice = id / blocks;
  if (i >= size.count || slice >= size.slices) { return; }
  let per_slice = (size.rows + size.slices - 1) / size.slices;
  let end = min((slice + 1) * per_slice, size.rows);
  var sum = 0.0;
  for (var row = slice * per_slice; row < end;) {
    // In blocks, for precision: a slice may have a hundred thousand rows.
    var part = 0.0;
    let block_end = min(row + 128, end);
    for (; row < block_end; row++) {
      part += source[row * size.count + i];
    }
    sum += part;
  }
  out[slice * ((size.count + 3) / 4 * 4) + i] = sum;
}
