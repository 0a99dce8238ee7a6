// The largest or smallest element along one axis of x [outer, rows, inner], and where along the axis it stands:
//
//   values[o, i] = x[o, r, i],  indices[o, i] = r       for the first r with the largest (LEAST: the smallest) x[o, r, i]
//
// NaN counts as larger, and as smaller, than every number, as in PyTorch. Elements are compared by a whole number in the order of
// theirs: WGSL lets compilers assume that there is no NaN, and an adapter may take small numbers for 0.
//
// The rows are dealt to `slices` in turn (slice s takes rows s, s + slices, …), so that neighbouring lanes read neighbouring
// addresses. With more than one slice the output is [outer, slices, inner], and the host runs the kernel again over that (FOUND: the
// rows of x are what an earlier pass found, at `found`).
//
// One invocation owns one (o, slice, i) per step of a grid-stride loop. No barriers.

override WORKGROUP_SIZE: u32 = 64;
override LEAST: bool = false;
override FOUND: bool = false;
override KEEP_VALUES: bool = true;
override KEEP_INDICES: bool = true;

struct Sizes { outer: u32, rows: u32, inner: u32, slices: u32 }

@group(0) @binding(0) var<storage, read_write> values: array<f32>;
@group(0) @binding(1) var<storage, read_write> indices: array<u32>;
@group(0) @binding(2) var<uniform> sizes: Sizes;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read> found: array<u32>;

// Larger for what comes first: NaN, then the largest number (LEAST: the smallest).
fn rank_of(v: f32) -> u32 {
  let bits = bitcast<u32>(v);
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return 0xffffffffu;
  }
  // -0 is as large as 0.
  let is_negative = bits != magnitude && magnitude != 0u;
  let order = select(0x80000000u + magnitude, 0x80000000u - magnitude, is_negative);
  return select(order, 0u - order, LEAST);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = sizes.outer * sizes.slices * sizes.inner;
  for (var out = id.x; out < count; out += groups.x * WORKGROUP_SIZE) {
    let column = out % sizes.inner;
    let slice = (out / sizes.inner) % sizes.slices;
    let base = out / (sizes.inner * sizes.slices) * sizes.rows * sizes.inner + column;
    var best = 0u; // below every rank
    var best_row = slice;
    var at = 0xffffffffu;
    for (var row = slice; row < sizes.rows; row += sizes.slices) {
      let i = base + row * sizes.inner;
      let rank = rank_of(x[i]);
      var index = row;
      if (FOUND && KEEP_INDICES) {
        index = found[i];
      }
      if (rank > best || (rank == best && index < at)) {
        best = rank;
        best_row = row;
        at = index;
      }
    }
    if (KEEP_VALUES) {
      values[out] = x[base + best_row * sizes.inner];
    }
    if (KEEP_INDICES) {
      indices[out] = at;
    }
  }
}
