// Cross entropy of softmax(logits) against targets, for each row n of logits [N, K]:
//
//   loss[n] = Σ_k c_k · (log s − (z_k − m)),         m = max z, s = 1 + r = Σ_k exp(z_k − m)
//   dlogits[n, k] = g[n] · (Σ_{j≠k} c_j · p_k − c_k · (1 − p_k)),   p_k = exp(z_k − m)/s
//   dtargets[n, k] = g[n] · (1 − ε) · w_k · (log s − (z_k − m))
//   c_k = w_k · ((1 − ε)·t_k + ε/K),                 ε = SMOOTHING, w a weight per class (WEIGHTED) or 1
//
// r is the sum without the 1 of a maximum: log s is log(1 + r), and 1 − p of the maximum r/s, so that a small loss and its gradient have
// their digits.
//
// t_k is [k = labels[n]], or with PROBABILITIES labels [N, K] itself, float32. A row whose label is `ignored` has loss and
// gradient 0. With m taken out, no exponential overflows and no digits are lost for large logits. A class with c_k = 0 adds nothing,
// however far below the others its logit is. (m, r, Σ c, the row's share in the divisor of the mean) is saved for the gradient.
// Sums are made in blocks, since rows may be long. A label of K or more reads nothing: its loss and its row of the gradient are NaN,
// as in a row with NaN.
//
// The mean over rows with labels is Σ loss / Σ w_y over those that are not ignored, as in PyTorch. Where that divisor is 0 it is NaN,
// and so are the gradients of the rows that are not ignored.
//
//   forward       one invocation owns one row; no barriers
//   forward_tree  one workgroup owns one row: maximum and sums by a tree in workgroup memory
//   mean          one workgroup, a tree: the rows are added in units of a power of two (`factor`) in which their sum does not overflow
//   grad_input    one invocation owns one element per step of a grid-stride loop
//   grad_targets  the same

//#import nan
//#import near_zero

override WORKGROUP_SIZE: u32 = 64; // forward_tree, mean: a power of two
override SMOOTHING: f32 = 0.0;
override PER_ROW: bool = false; // gradients: upstream is [N], not a scalar
override PROBABILITIES: bool = false;
override WEIGHTED: bool = false;
override DIVIDED: bool = false; // gradients: by `divisor`, which `mean` left

const BLOCK = 128u;

struct Sizes { rows: u32, classes: u32, factor: f32, ignored: u32, nan_bits: u32 }

@group(0) @binding(0) var<storage, read_write> loss: array<f32>;
@group(0) @binding(1) var<storage, read_write> saved: array<vec4<f32>>; // (m, r, Σ c, share in the divisor)
@group(0) @binding(0) var<storage, read_write> dlogits: array<f32>;
@group(0) @binding(0) var<storage, read_write> dtargets: array<f32>;
@group(0) @binding(1) var<storage, read> statistics: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> labels: array<u32>; // PROBABILITIES: the bits of float32
@group(0) @binding(4) var<uniform> sizes: Sizes;
@group(0) @binding(5) var<storage, read> upstream: array<f32>;
@group(0) @binding(6) var<storage, read> weight: array<f32>;
@group(0) @binding(7) var<storage, read> divisor: array<f32>;
@group(0) @binding(2) var<storage, read> losses: array<f32>;
@group(0) @binding(3) var<storage, read_write> total: array<f32>; // Σ of the shares, for the gradient

var<workgroup> partial: array<vec4<f32>, WORKGROUP_SIZE>;

fn weight_of(k: u32) -> f32 {
  if (WEIGHTED) {
    return weight[k];
  }
  return 1.0;
}

// What every class has in common: w_k · ε/K, or with probabilities all of c_k.
fn spread(base: u32, k: u32) -> f32 {
  var share = SMOOTHING / f32(sizes.classes);
  if (PROBABILITIES) {
    share += (1.0 - SMOOTHING) * bitcast<f32>(labels[base + k]);
  }
  return share * weight_of(k);
}

fn row_max(base: u32, first: u32, step: u32) -> f32 {
  var m = -3.4028234e38;
  for (var k = first; k < sizes.classes; k += step) {
    m = max(m, logits[base + k]);
  }
  return m;
}

// (Σ exp(z − m) of those below the maximum, Σ c·(z − m), Σ c, how many are the maximum), of c what `spread` knows.
fn row_sums(base: u32, first: u32, step: u32, m: f32) -> vec4<f32> {
  var sums = vec4<f32>(0.0);
  for (var k = first; k < sizes.classes;) {
    var part = vec4<f32>(0.0);
    let end = min(k + BLOCK * step, sizes.classes);
    for (; k < end; k += step) {
      let z = logits[base + k] - m;
      if (is_zero(z)) {
        part.w += 1.0;
      } else {
        part.x += select(exp(z), z, is_nan(z));
      }
      if (PROBABILITIES || SMOOTHING > 0.0) {
        let c = spread(base, k);
        part.y += select(c * z, 0.0, c == 0.0);
        part.z += c;
      }
    }
    sums += part;
  }
  return sums;
}

fn store(row: u32, m: f32, sums: vec4<f32>) {
  let base = row * sizes.classes;
  let nan = bitcast<f32>(sizes.nan_bits);
  let rest = sums.w - 1.0 + sums.x;
  var c = sums.z;
  var product = sums.y;
  var share = 1.0;
  var is_valid = true;
  if (!PROBABILITIES) {
    let label = labels[row];
    if (label == sizes.ignored) {
      loss[row] = 0.0;
      saved[row] = vec4<f32>(m, rest, 0.0, 0.0);
      return;
    }
    is_valid = label < sizes.classes;
    if (is_valid) {
      share = weight_of(label);
      let own = (1.0 - SMOOTHING) * share;
      c += own;
      product += select(own * (logits[base + label] - m), 0.0, own == 0.0);
    }
  }
  // In a row with nothing above -inf none is the maximum.
  let is_good = is_valid && !is_nan(sums.x) && sums.w > 0.0;
  loss[row] = select(nan, c * log1p(vec4<f32>(rest)).x - product, is_good);
  saved[row] = vec4<f32>(m, rest, c, share);
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
  partial[lane] = vec4<f32>(row_max(base, lane, WORKGROUP_SIZE));
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
fn mean(@builtin(local_invocation_index) lane: u32) {
  var sums = vec2<f32>(0.0);
  for (var row = lane; row < sizes.rows;) {
    var part = vec2<f32>(0.0);
    let end = min(row + BLOCK * WORKGROUP_SIZE, sizes.rows);
    for (; row < end; row += WORKGROUP_SIZE) {
      part += vec2<f32>(losses[row], statistics[row].w) * sizes.factor;
    }
    sums += part;
  }
  partial[lane] = vec4<f32>(sums, 0.0, 0.0);
  for (var half = WORKGROUP_SIZE / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      partial[lane] += partial[lane + half];
    }
  }
  if (lane == 0u) {
    let all = partial[0].xy;
    loss[0] = select(all.x / all.y, bitcast<f32>(sizes.nan_bits), all.y == 0.0);
    total[0] = all.y / sizes.factor;
  }
}

// What of the upstream gradient comes to a row.
fn upstream_of(row: u32) -> f32 {
  let g = upstream[select(0u, row, PER_ROW)];
  if (DIVIDED) {
    let d = divisor[0];
    return select(g / d, bitcast<f32>(sizes.nan_bits), d == 0.0);
  }
  return g * sizes.factor;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = sizes.rows * sizes.classes;
  for (var i = id.x; i < count; i += groups.x * WORKGROUP_SIZE) {
    let row = i / sizes.classes;
    let k = i % sizes.classes;
    let known = statistics[row];
    var c = spread(row * sizes.classes, k);
    var is_valid = true;
    var is_ignored = false;
    if (!PROBABILITIES) {
      let label = labels[row];
      is_ignored = label == sizes.ignored;
      is_valid = label < sizes.classes;
      c += select(0.0, (1.0 - SMOOTHING) * weight_of(k), k == label);
    }
    let z = logits[i] - known.x;
    let sum = 1.0 + known.y;
    let p = exp(z) / sum;
    let q = select(1.0 - p, known.y / sum, is_zero(z));
    let value = upstream_of(row) * ((known.z - c) * p - c * q);
    dlogits[i] = select(select(bitcast<f32>(sizes.nan_bits), value, is_valid), 0.0, is_ignored);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_targets(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = sizes.rows * sizes.classes;
  for (var i = id.x; i < count; i += groups.x * WORKGROUP_SIZE) {
    let row = i / sizes.classes;
    let known = statistics[row];
    let share = (1.0 - SMOOTHING) * weight_of(i % sizes.classes);
    dtargets[i] = upstream_of(row) * (share * (log1p(vec4<f32>(known.y)).x - (logits[i] - known.x)));
  }
}
