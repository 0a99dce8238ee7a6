// Softmax over the last axis, for each row of x [rows, K]:
//
//   y_k = exp(x_k − m) / Σ_j exp(x_j − m),   m = max x
//   dx_k = y_k · (dy_k − Σ_j dy_j·y_j)
//
// With LOG its logarithm, without going through y:
//
//   y_k = x_k − m − log Σ_j exp(x_j − m)
//   dx_k = dy_k · (1 − exp(y_k)) − exp(y_k) · Σ_{j≠k} dy_j
//
// One of the exponentials is 1, of the maximum: the logarithm is taken of 1 and the rest, and has the digits of a small rest.
// A row with an infinite maximum, or with nothing above -inf, is NaN. Sums are made in blocks, since rows may be long.
//
//   forward, grad_input            one invocation owns one row; no barriers
//   forward_tree, grad_input_tree  one workgroup owns one row: maximum and sums by a tree in workgroup memory

//#import nan
//#import near_zero

override WORKGROUP_SIZE: u32 = 64; // _tree: a power of two
override LOG: bool = false;

const BLOCK = 128u;

struct Sizes { rows: u32, classes: u32 }

@group(0) @binding(0) var<storage, read_write> out: array<f32>; // y or dx
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;

var<workgroup> partial: array<vec2<f32>, WORKGROUP_SIZE>;

fn row_max(base: u32, first: u32, step: u32) -> f32 {
  var m = -3.4028234e38;
  for (var k = first; k < sizes.classes; k += step) {
    m = max(m, x[base + k]);
  }
  return m;
}

// How many elements are the maximum, and the sum of the other ones' exponentials.
fn row_sum(base: u32, first: u32, step: u32, m: f32) -> vec2<f32> {
  var sum = vec2<f32>(0.0);
  for (var k = first; k < sizes.classes;) {
    var part = vec2<f32>(0.0);
    let end = min(k + BLOCK * step, sizes.classes);
    for (; k < end; k += step) {
      let z = x[base + k] - m;
      part += select(vec2<f32>(0.0, select(exp(z), z, is_nan(z))), vec2<f32>(1.0, 0.0), is_zero(z));
    }
    sum += part;
  }
  return sum;
}

// Σ dy·y, or Σ dy of a logarithm.
fn row_product(base: u32, first: u32, step: u32) -> f32 {
  var sum = 0.0;
  for (var k = first; k < sizes.classes;) {
    var part = 0.0;
    let end = min(k + BLOCK * step, sizes.classes);
    for (; k < end; k += step) {
      if (LOG) {
        part += dy[base + k];
      } else {
        part += y[base + k] * dy[base + k];
      }
    }
    sum += part;
  }
  return sum;
}

fn store_forward(base: u32, first: u32, step: u32, m: f32, sums: vec2<f32>) {
  let sum = sums.x + sums.y;
  let log_of = log1p(vec4<f32>(sums.x - 1.0 + sums.y)).x;
  // By bits: a sum of 0 is that of a row with nothing above -inf, and log of 0 is finite on some adapters.
  let log_sum = bitcast<f32>(select(bitcast<u32>(log_of), 0x7fc00000u, is_nan(sum) || sum == 0.0));
  for (var k = first; k < sizes.classes; k += step) {
    if (LOG) {
      out[base + k] = x[base + k] - m - log_sum;
    } else {
      out[base + k] = exp(x[base + k] - m) / sum;
    }
  }
}

fn store_grad(base: u32, first: u32, step: u32, product: f32) {
  for (var k = first; k < sizes.classes; k += step) {
    let value = y[base + k];
    if (LOG) {
      let others = product - dy[base + k];
      let slope = dy[base + k] * -expm1(value) - exp(value) * others;
      out[base + k] = select(slope, value, is_nan(value));
    } else {
      out[base + k] = value * (dy[base + k] - product);
    }
  }
}

// The sum over the workgroup, in every lane.
fn tree_sum(lane: u32, value: vec2<f32>) -> vec2<f32> {
  workgroupBarrier();
  partial[lane] = value;
  for (var half = WORKGROUP_SIZE / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      partial[lane] += partial[lane + half];
    }
  }
  workgroupBarrier();
  return partial[0];
}

fn tree_max(lane: u32, value: f32) -> f32 {
  partial[lane].x = value;
  for (var half = WORKGROUP_SIZE / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      partial[lane].x = max(partial[lane].x, partial[lane + half].x);
    }
  }
  workgroupBarrier();
  return partial[0].x;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var row = id.x; row < sizes.rows; row += groups.x * WORKGROUP_SIZE) {
    let base = row * sizes.classes;
    let m = row_max(base, 0u, 1u);
    store_forward(base, 0u, 1u, m, row_sum(base, 0u, 1u, m));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var row = id.x; row < sizes.rows; row += groups.x * WORKGROUP_SIZE) {
    let base = row * sizes.classes;
    store_grad(base, 0u, 1u, row_product(base, 0u, 1u));
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
  let m = tree_max(lane, row_max(base, lane, WORKGROUP_SIZE));
  let sums = tree_sum(lane, row_sum(base, lane, WORKGROUP_SIZE, m));
  store_forward(base, lane, WORKGROUP_SIZE, m, sums);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grad_input_tree(
  @builtin(local_invocation_index) lane: u32,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let row = group.x + group.y * groups.x;
  if (row >= sizes.rows) {
    return;
  }
  let base = row * sizes.classes;
  let product = tree_sum(lane, vec2<f32>(row_product(base, lane, WORKGROUP_SIZE)));
  store_grad(base, lane, WORKGROUP_SIZE, product.x);
}
