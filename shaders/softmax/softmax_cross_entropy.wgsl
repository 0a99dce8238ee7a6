// Cross entropy of softmax(logits) against integer labels, for each row n of logits [N, K]:
//
//   loss[n] = log Σ_k exp(z_k − m) − ((1 − ε)·z_y + ε/K · Σ_k z_k − m),   m = max z, y = labels[n], ε = SMOOTHING
//   dlogits[n, k] = g[n] · (exp(z_k − m)/s − (1 − ε)·[k = y] − ε/K),        s = Σ_k exp(z_k − m)
//
// With m taken out, no exponential overflows and no digits are lost for large logits. (m, s) is saved for the
// gradient. Sums are made in blocks, since rows may be long. A label of K or more reads nothing: its loss and its row of the gradient are NaN, as in a row with NaN.
//
//   forward       one invocation owns one row; no barriers
//   forward_tree  one workgroup owns one row: maximum and sums by a tree in workgroup memory
//   grad_input    one invocation owns one element per step of a grid-stride loop

//#import nan

override WORKGROUP_SIZE: u32 = 64; // forward_tree: a power of two
override SMOOTHING: f32 = 0.0;
override PER_ROW: bool = false; // grad_input: upstream is [N], not a scalar

const BLOCK = 128u;

struct Sizes { rows: u32, classes: u32, factor: f32, nan_bits: u32 }

@group(0) @binding(0) var<storage, read_write> loss: array<f32>;
@group(0) @binding(1) var<storage, read_write> saved: array<vec2<f32>>; // (m, s)
@group(0) @binding(0) var<storage, read_write> dlogits: array<f32>;
@group(0) @binding(1) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> labels: array<u32>;
@group(0) @binding(4) var<uniform> sizes: Sizes;
@group(0) @binding(5) var<storage, read> upstream: array<f32>;

var<workgroup> partial: array<vec2<f32>, WORKGROUP_SIZE>;

fn row_max(base: u32, first: u32, step: u32) -> f32 {
  var m = -3.4028234e38;
  for (var k = first; k < sizes.classes; k += step) {
    m = max(m, logits[base + k]);
  }
  return m;
}

// (Σ exp(z − m), Σ (z − m))
fn row_sums(base: u32, first: u32, step: u32, m: f32) -> vec2<f32> {
  var sums = vec2<f32>(0.0);
  for (var k = first; k < sizes.classes;) {
    var part = vec2<f32>(0.0);
    let end = min(k + BLOCK * step, sizes.classes);
    for (; k < end; k += step) {
      let z = logits[base + k] - m;
      part += vec2<f32>(select(exp(z), z, is_nan(z)), z);
    }
    sums += part;
  }
  return sums;
}

fn store(row: u32, m: f32, sums: vec2<f32>) {
  let label = labels[row];
  var value = bitcast<f32>(sizes.nan_bits);
  // A sum of 0 is that of a row with nothing above -inf.
  if (label < sizes.classes && !is_nan(sums.x) && sums.x > 0.0) {
    value = log(sums.x) - (1.0 - SMOOTHING) * (logits[row * sizes.classes + label] - m);
    if (SMOOTHING > 0.0) {
      value -= SMOOTHING / f32(sizes.classes) * sums.y;
    }
  }
  loss[row] = value;
  saved[row] = vec2<f32>(m, sums.x);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var row = id.x; row < sizes.rows; row += groups.x * WORKGROUP_SIZE) {
    let base = row * sizes.classes;
    let m = row_max(base, 0u, 1u);
    store(row, m, row_sums(base, 0u, 1u, m));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward_tree(
  @builtin(local_invocation_index) lane: u32,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let row = group.x + group.y * groups.x;
  if (row >= sizes.rows) { // the grid is folded; whole workgroups leave
    return;
  }
  let base = row * sizes.classes;
  partial[lane] = vec2<f32>(row_max(base, lane, WORKGROUP_SIZE));
  for (var half = WORKGROUP_SIZE / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      partial[lane] = max(partial[lane], partial[lane + half]);
    }
  }
  workgroupBarrier();
  let m = partial[0].x;
  workgroupBarrier();
  partial[lane] = row_sums(base, lane, WORKGROUP_SIZE, m);
  for (var half = WORKGROUP_SIZE / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      partial[lane] += partial[lane + half];
    }
  }
  if (lane == 0u) {
    store(row, m, partial[0]);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = sizes.rows * sizes.classes;
  for (var i = id.x; i < count; i += groups.x * WORKGROUP_SIZE) {
    let row = i / sizes.classes;
    let label = labels[row];
    let m_and_s = statistics[row];
    var target_share = SMOOTHING / f32(sizes.classes);
    if (i % sizes.classes == label) {
      target_share += 1.0 - SMOOTHING;
    }
    let g = sizes.factor * upstream[select(0u, row, PER_ROW)];
    let value = g * (exp(logits[i] - m_and_s.x) / m_and_s.y - target_share);
    dlogits[i] = select(bitcast<f32>(sizes.nan_bits), value, label < sizes.classes);
  }
}
