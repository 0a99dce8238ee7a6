// Statistics of tensors and small steps along gradients, for train/probes.ts.
//
//   histogram   counts[b] = #{ i : x[i] in bin b }, bins equally wide over [low, high); then below, above, not finite
//   digits      counts[d] = #{ i : key(x[i]) begins with `prefix` and goes on with the byte d }: one pass of a radix
//               selection, which finds order statistics exactly
//   deviation   out[i] = |x[i] − centre|
//   cosines     out[i, j] = x[i, :]·x[j, :] / (|x[i, :]| |x[j, :]|)            x [rows, columns]
//   argmax      counts[c] = #{ i : c is the first largest of x[i, :] }         x [rows, columns]
//   pack        out[offset + i] = x[i]
//   step        out[i] = origin[offset + i] − alpha · direction[offset + i]; the origin itself where alpha is 0, so that
//               a direction that is not finite can be undone
//
// Counts are integers: adding them atomically gives the same result in any order. No barriers; one invocation owns one
// element (one row or pair of rows) per step of a grid-stride loop.

override WORKGROUP_SIZE: u32 = 64;

struct Histogram { count: u32, bins: u32, low: f32, high: f32 }
struct Digits { count: u32, shift: u32, prefix: u32, mask: u32 } // shift: of the byte that is counted
struct Deviation { count: u32, centre: f32 }
struct Cosines { rows: u32, columns: u32 }
struct Argmax { rows: u32, columns: u32 }
struct Pack { count: u32, offset: u32 } // offset: in the packed vector
struct Step { count: u32, offset: u32, alpha: f32 }

@group(0) @binding(0) var<storage, read_write> counts: array<atomic<u32>>;
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<uniform> of_histogram: Histogram;
@group(0) @binding(2) var<uniform> of_digits: Digits;
@group(0) @binding(2) var<uniform> of_deviation: Deviation;
@group(0) @binding(2) var<uniform> of_cosines: Cosines;
@group(0) @binding(2) var<uniform> of_argmax: Argmax;
@group(0) @binding(2) var<uniform> of_pack: Pack;
@group(0) @binding(2) var<uniform> of_step: Step;
@group(0) @binding(3) var<storage, read> direction: array<f32>;

// Exponent bits, not `x != x`: WGSL may assume that no NaN occurs.
fn is_finite(value: f32) -> bool {
  return (bitcast<u32>(value) & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn histogram(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let bins = of_histogram.bins;
  for (var i = id.x; i < of_histogram.count; i += groups.x * WORKGROUP_SIZE) {
    let value = x[i];
    var bin = bins + 2u;
    if (is_finite(value)) {
      if (value < of_histogram.low) {
        bin = bins;
      } else if (value >= of_histogram.high) {
        bin = bins + 1u;
      } else {
        bin = min(u32((value - of_histogram.low) / (of_histogram.high - of_histogram.low) * f32(bins)), bins - 1u);
      }
    }
    atomicAdd(&counts[bin], 1u);
  }
}

// Orders as the numbers do: negative ones have all bits turned round, positive ones the sign bit set.
fn key(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  return bits ^ select(0x80000000u, 0xffffffffu, (bits >> 31u) == 1u);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn digits(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < of_digits.count; i += groups.x * WORKGROUP_SIZE) {
    let k = key(x[i]);
    if ((k & of_digits.mask) == of_digits.prefix) {
      atomicAdd(&counts[(k >> of_digits.shift) & 255u], 1u);
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn deviation(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < of_deviation.count; i += groups.x * WORKGROUP_SIZE) {
    out[i] = abs(x[i] - of_deviation.centre);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn cosines(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let rows = of_cosines.rows;
  for (var pair = id.x; pair < rows * rows; pair += groups.x * WORKGROUP_SIZE) {
    let a = pair / rows * of_cosines.columns;
    let b = pair % rows * of_cosines.columns;
    // Scaled by the largest element of each row, so that squares neither overflow nor vanish.
    var largest = vec2<f32>(0.0);
    for (var c = 0u; c < of_cosines.columns; c += 1u) {
      largest = max(largest, abs(vec2<f32>(x[a + c], x[b + c])));
    }
    let unit = 1.0 / max(largest, vec2<f32>(1e-37));
    var product = 0.0;
    var squares = vec2<f32>(0.0);
    for (var c = 0u; c < of_cosines.columns; c += 1u) {
      let v = vec2<f32>(x[a + c], x[b + c]) * unit;
      product += v.x * v.y;
      squares += v * v;
    }
    out[pair] = product / max(sqrt(squares.x) * sqrt(squares.y), 1e-37);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn argmax(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var row = id.x; row < of_argmax.rows; row += groups.x * WORKGROUP_SIZE) {
    var best = 0u;
    for (var c = 1u; c < of_argmax.columns; c += 1u) {
      if (x[row * of_argmax.columns + c] > x[row * of_argmax.columns + best]) {
        best = c;
      }
    }
    atomicAdd(&counts[best], 1u);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn pack(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < of_pack.count; i += groups.x * WORKGROUP_SIZE) {
    out[of_pack.offset + i] = x[i];
  }
}

// x holds the origin.
@compute @workgroup_size(WORKGROUP_SIZE)
fn step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < of_step.count; i += groups.x * WORKGROUP_SIZE) {
    let start = x[of_step.offset + i];
    let end = start - of_step.alpha * direction[of_step.offset + i];
    out[i] = select(end, start, of_step.alpha == 0.0);
  }
}
