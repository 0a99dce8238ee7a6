// Batch-norm statistics as tensors [4, C]: count, origin, offset, variance of each channel; mean = origin + offset.
// The origin is a constant near the mean, so that gradients are those of offset (that is, of the mean) and variance;
// the gradient of a count or an origin is 0.
//
//   merge       n = na + nb, w = nb / n, d = mean_b - mean_a; the origin is the average of theirs
//               offset = (1 - w) * (origin_a - origin + offset_a) + w * (origin_b - origin + offset_b), variance = (1 - w) * variance_a + w * variance_b + w * (1 - w) * d^2
//   merge_grad  with dmean and dvar of the union, and s = na / n or nb / n its share:
//               dmean_s = s * (dmean + 2 * dvar * (mean_s - mean)), dvar_s = s * dvar
//   input_grad  dx = dmean / n + 2 * dvar / n * (x - mean), written as a and b of (x - origin) * a + b
//   given_grad  of y = (x - mean) * a + beta, a = gamma * rstd: dmean = -a * sum(dz), dvar = -a * rstd / 2 * sum(dz * xhat)
//
// One invocation: one channel. No barriers.

override WORKGROUP_SIZE: u32 = 64;

struct Params { channels: u32, width: u32 } // width: elements of a row of `saved`, as in batch_norm.wgsl

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(0) var<storage, read_write> da: array<f32>;
@group(0) @binding(1) var<storage, read_write> db: array<f32>;
@group(0) @binding(2) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read> grad: array<f32>;
@group(0) @binding(5) var<storage, read> dgamma: array<f32>; // sum(dz * xhat)
@group(0) @binding(6) var<storage, read> dbeta: array<f32>; // sum(dz)
@group(0) @binding(7) var<uniform> params: Params;

fn flat(id: vec3<u32>, groups: vec3<u32>) -> u32 {
  return id.x + id.y * groups.x * WORKGROUP_SIZE;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn merge(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, groups);
  let c = params.channels;
  if (i >= c) { return; }
  let n = a[i] + b[i];
  let w = b[i] / n;
  let delta = (b[c + i] - a[c + i]) + (b[2 * c + i] - a[2 * c + i]);
  let origin = a[c + i] * (1 - w) + b[c + i] * w;
  let offset = (1 - w) * ((a[c + i] - origin) + a[2 * c + i]) + w * ((b[c + i] - origin) + b[2 * c + i]);
  // An infinite mean, or NaN, is all in the origin.
  let special = (bitcast<u32>(origin) & 0x7f800000u) == 0x7f800000u;
  out[i] = n;
  out[c + i] = origin;
  out[2 * c + i] = select(offset, 0.0, special);
  out[3 * c + i] = a[3 * c + i] * (1 - w) + b[3 * c + i] * w + (delta * (w * (1 - w))) * delta;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn merge_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, groups);
  let c = params.channels;
  if (i >= c) { return; }
  let w = b[i] / (a[i] + b[i]);
  let delta = (b[c + i] - a[c + i]) + (b[2 * c + i] - a[2 * c + i]);
  let dmean = grad[2 * c + i];
  let dvar = grad[3 * c + i];
  // mean_a - mean = -w * delta, mean_b - mean = (1 - w) * delta
  da[i] = 0;
  da[c + i] = 0;
  da[2 * c + i] = (1 - w) * (dmean - 2 * dvar * (w * delta));
  da[3 * c + i] = (1 - w) * dvar;
  db[i] = 0;
  db[c + i] = 0;
  db[2 * c + i] = w * (dmean + 2 * dvar * ((1 - w) * delta));
  db[3 * c + i] = w * dvar;
}

// `a` is the statistics of x, `out` its origin, a and b as batch_norm.wgsl's `apply` reads them.
@compute @workgroup_size(WORKGROUP_SIZE)
fn input_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, groups);
  let c = params.channels;
  if (i >= c) { return; }
  let slope = 2 * grad[3 * c + i] / a[i];
  let shift = grad[2 * c + i] / a[i] - slope * a[2 * c + i];
  for (var j = i; j < params.width; j += c) {
    out[j] = a[c + i];
    out[params.width + j] = slope;
    out[2 * params.width + j] = shift;
  }
}

// `a` is batch_norm.wgsl's `saved`.
@compute @workgroup_size(WORKGROUP_SIZE)
fn given_grad(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, groups);
  let c = params.channels;
  if (i >= c) { return; }
  let slope = a[params.width + i];
  out[i] = 0;
  out[c + i] = 0;
  out[2 * c + i] = -slope * dbeta[i];
  out[3 * c + i] = -0.5 * (slope * a[3 * params.width + i]) * dgamma[i];
}
