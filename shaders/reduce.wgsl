// Sums over one axis of x [outer, rows, columns], of a term of its elements:
//
//   out[o, i] = scale · Σ_r term(x[o, r, i])
//   term: x | x·z | (x − centre)² | z·(x − centre)
//
// Precision. Sums are made in blocks: up to 32 terms, or up to 16 times four, then the sums of the blocks. So rounding is that of a
// few dozen additions however long the axis is, and nothing hangs on which value comes first: the error of a mean is a few
// units in the last place of the mean of |x|. Nor does a sum overflow where its result doesn't: one that comes out infinite or
// NaN is made again of terms times `shrink`, a power of two small enough for all of a slice, and partial sums stay in that unit.
//
// The rows are dealt to `slices` in turn (slice s takes rows s, s + slices, …), so that neighbouring lanes read
// neighbouring addresses. With more than one slice the output is [outer, slices, columns], and the host sums
// that again, in the same order each time: results are equal from run to run, and there are no atomics.
//
// Elements are taken as vec4s (VEC4) or singly; a "column" is one of these. Where the reduced axis is the
// innermost (ROW), four neighbours along it make up the vec4, and the last pass adds the four.
//
// x goes through a part that is joined to this file: load_plain.wgsl, or, where a column is four channels, load_affine.wgsl,
// which makes x of what lies in memory.
//
//   lanes      one invocation owns one (o, slice, column); no barriers. One row after the other: four at a time, of two tensors, fall
//              on the same few lines of a processor's cache, and take twice as long
//   tree       X columns × Y sub-slices of one slice; the sub-slices are added in a tree in workgroup memory

//#hole load: load_plain
//#hole activation: activation_none

override WORKGROUP_SIZE: u32 = 64;
override X: u32 = 64;
override Y: u32 = 4;
override TERM: u32 = X_ALONE;
override VEC4: bool = true;
override ROW: bool = false;
override TAIL: bool = false; // ROW: the axis ends within the last vec4
override LAST: bool = true; // one slice: apply the scale, add up a row's vec4

const X_ALONE = 0u;
const PRODUCT = 1u; // x·z
const SQUARED_DEVIATION = 2u; // (x − centre)²
const PRODUCT_WITH_DEVIATION = 3u; // z·(x − centre)

struct Sizes {
  outer: u32,
  rows: u32,
  columns: u32,
  slices: u32,
  elements: u32, // TAIL: length of the reduced axis
  inner: u32, // elements from centre[o, 0] to centre[o + 1, 0]
  scale: f32,
  shrink: f32, // what `scale` makes good again in the last pass
}

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<uniform> sizes: Sizes;
// Both views of one buffer: an override can't choose a type, only which one is read.
@group(0) @binding(2) var<storage, read> x_vec4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x_scalar: array<f32>;
@group(0) @binding(4) var<storage, read> z_vec4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> z_scalar: array<f32>;
@group(0) @binding(6) var<storage, read> centre: array<f32>;

override SHARED_SIZE: u32 = X * Y; // an element each invocation
var<workgroup> shared_sums: array<vec4<f32>, SHARED_SIZE>;

fn load_x(index: u32) -> vec4<f32> {
  if (VEC4) {
    return x_vec4[index];
  }
  return vec4<f32>(x_scalar[index], 0.0, 0.0, 0.0);
}

fn load_z(index: u32) -> vec4<f32> {
  if (VEC4) {
    return z_vec4[index];
  }
  return vec4<f32>(z_scalar[index], 0.0, 0.0, 0.0);
}

fn load_centre(o: u32, column: u32) -> vec4<f32> {
  if (TERM < SQUARED_DEVIATION) {
    return vec4<f32>(0.0);
  }
  let base = o * sizes.inner;
  if (ROW) {
    return vec4<f32>(centre[base]);
  }
  if (VEC4) {
    let first = base + 4u * column;
    return vec4<f32>(centre[first], centre[first + 1u], centre[first + 2u], centre[first + 3u]);
  }
  return vec4<f32>(centre[base + column], 0.0, 0.0, 0.0);
}

// What all rows of a column have in common.
struct Column { centre: vec4<f32>, channels: Channels }

fn column_of(o: u32, column: u32) -> Column {
  return Column(load_centre(o, column), channels_of(column, sizes.columns));
}

fn term(index: u32, row: u32, at: Column) -> vec4<f32> {
  let x = made(load_x(index), at.channels);
  var value = x;
  if (TERM == PRODUCT) {
    value = x * load_z(index);
  } else if (TERM == SQUARED_DEVIATION) {
    value = (x - at.centre) * (x - at.centre);
  } else if (TERM == PRODUCT_WITH_DEVIATION) {
    value = load_z(index) * (x - at.centre);
  }
  if (TAIL) {
    value = select(vec4<f32>(0.0), value, 4u * row + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(sizes.elements));
  }
  return value;
}

// Sum of the terms of rows first, first + step, …
fn sum_rows(o: u32, first: u32, step: u32, column: u32, at: Column) -> vec4<f32> {
  let base = o * sizes.rows * sizes.columns + column;
  var sum = vec4<f32>(0.0);
  for (var row = first; row < sizes.rows;) {
    let end = min(row + 32u * step, sizes.rows);
    var part = vec4<f32>(0.0);
    for (; row < end; row += step) {
      part += term(base + row * sizes.columns, row, at);
    }
    sum += part;
  }
  return sum;
}

// The same, four rows at a time: more loads on their way at once.
fn sum_rows_by_four(o: u32, first: u32, step: u32, column: u32, at: Column) -> vec4<f32> {
  let base = o * sizes.rows * sizes.columns + column;
  let down = step * sizes.columns;
  var sum = vec4<f32>(0.0);
  var row = first;
  while (row + 3u * step < sizes.rows) {
    let end = min(row + 64u * step, sizes.rows);
    var part = vec4<f32>(0.0);
    for (; row + 3u * step < end; row += 4u * step) {
      let i = base + row * sizes.columns;
      let low = term(i, row, at) + term(i + down, row + step, at);
      let high = term(i + 2u * down, row + 2u * step, at) + term(i + 3u * down, row + 3u * step, at);
      part += low + high;
    }
    sum += part;
  }
  for (; row < sizes.rows; row += step) {
    sum += term(base + row * sizes.columns, row, at);
  }
  return sum;
}

// The same of terms times `shrink`.
fn sum_shrunk_rows(o: u32, first: u32, step: u32, column: u32, at: Column) -> vec4<f32> {
  let base = o * sizes.rows * sizes.columns + column;
  var sum = vec4<f32>(0.0);
  for (var row = first; row < sizes.rows;) {
    let end = min(row + 64u * step, sizes.rows);
    var part = vec4<f32>(0.0);
    for (; row < end; row += step) {
      // Changes nothing but NaN; a compiler can't take the factor out of the sum again.
      let bits = bitcast<vec4<u32>>(term(base + row * sizes.columns, row, at) * sizes.shrink);
      let magnitude = min(bits & vec4<u32>(0x7fffffffu), vec4<u32>(0x7fc00000u));
      part += bitcast<vec4<f32>>(magnitude | (bits & vec4<u32>(0x80000000u)));
    }
    sum += part;
  }
  return sum;
}

// By exponent bits: WGSL may assume that no infinity or NaN occurs.
fn safe_sum(o: u32, first: u32, step: u32, column: u32, at: Column, by_four: bool) -> vec4<f32> {
  var sum: vec4<f32>;
  if (by_four) {
    sum = sum_rows_by_four(o, first, step, column, at);
  } else {
    sum = sum_rows(o, first, step, column, at);
  }
  if (any((bitcast<vec4<u32>>(sum) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u))) {
    return sum_shrunk_rows(o, first, step, column, at);
  }
  return sum * sizes.shrink;
}

fn store(o: u32, slice: u32, column: u32, sum: vec4<f32>) {
  var value = sum;
  if (LAST) {
    if (ROW && VEC4) {
      value.x = (sum.x + sum.y) + (sum.z + sum.w);
    }
    value *= sizes.scale;
    if (ROW) {
      out[o] = value.x;
      return;
    }
  }
  let index = (o * sizes.slices + slice) * sizes.columns + column;
  if (VEC4) {
    out[4u * index] = value.x;
    out[4u * index + 1u] = value.y;
    out[4u * index + 2u] = value.z;
    out[4u * index + 3u] = value.w;
  } else {
    out[index] = value.x;
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn lanes(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = sizes.outer * sizes.slices * sizes.columns;
  for (var i = id.x; i < count; i += groups.x * WORKGROUP_SIZE) {
    let column = i % sizes.columns;
    let slice = (i / sizes.columns) % sizes.slices;
    let o = i / (sizes.columns * sizes.slices);
    store(o, slice, column, safe_sum(o, slice, sizes.slices, column, column_of(o, column), false));
  }
}

@compute @workgroup_size(X, Y)
fn tree(
  @builtin(local_invocation_id) local: vec3<u32>,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let blocks = (sizes.columns + X - 1u) / X;
  let i = group.x + group.y * groups.x;
  let slice = (i / blocks) % sizes.slices;
  let o = i / (blocks * sizes.slices);
  if (o >= sizes.outer) { // the grid is folded; whole workgroups leave
    return;
  }
  let column = (i % blocks) * X + local.x;
  let here = local.y * X + local.x;
  var sum = vec4<f32>(0.0);
  if (column < sizes.columns) {
    sum = safe_sum(o, slice * Y + local.y, sizes.slices * Y, column, column_of(o, column), true);
  }
  shared_sums[here] = sum;
  for (var half = Y / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (local.y < half) {
      shared_sums[here] += shared_sums[here + half * X];
    }
  }
  if (local.y == 0u && column < sizes.columns) {
    store(o, slice, column, shared_sums[here]);
  }
}
