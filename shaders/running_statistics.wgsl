// Running statistics beside a norm's own kernels.
//
//   begin      trial = running                        a norm then moves the trial ones
//   commit     running = trial, if every trial number is finite: a batch with NaN or infinity leaves no trace, in no channel
//   instances  running = running + MOMENTUM · (average over images of `from_mean` or `from_variance` − running)
//
// Layouts: mean, variance and their trials [C], batches [1]; of `instances` from_mean and from_variance are [N, C]. One invocation: every stride-th channel.
// commit is one workgroup; a barrier stands after the flag's clearing and one after all have looked.

override WORKGROUP_SIZE: u32 = 64;
override MOMENTUM: f32 = 0.1;

struct Params { channels: u32, images: u32 }

@group(0) @binding(0) var<storage, read_write> mean: array<f32>;
@group(0) @binding(1) var<storage, read_write> variance: array<f32>;
@group(0) @binding(2) var<storage, read_write> batches: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> from_mean: array<f32>;
@group(0) @binding(5) var<storage, read> from_variance: array<f32>;
@group(0) @binding(6) var<storage, read> from_batches: array<f32>;

var<workgroup> spoilt: atomic<u32>;

// By its exponent: compilers may take it that there is neither NaN nor infinity.
fn is_finite(v: f32) -> bool {
  return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn begin(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  if (id.x == 0u) { batches[0] = from_batches[0]; }
  for (var c = id.x; c < params.channels; c += groups.x * WORKGROUP_SIZE) {
    mean[c] = from_mean[c];
    variance[c] = from_variance[c];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn commit(@builtin(local_invocation_id) lane: vec3<u32>) {
  if (lane.x == 0u) { atomicStore(&spoilt, 0u); }
  workgroupBarrier();
  for (var c = lane.x; c < params.channels; c += WORKGROUP_SIZE) {
    if (!is_finite(from_mean[c]) || !is_finite(from_variance[c])) { atomicStore(&spoilt, 1u); }
  }
  workgroupBarrier();
  if (atomicLoad(&spoilt) == 1u) { return; }
  if (lane.x == 0u) { batches[0] = from_batches[0]; }
  for (var c = lane.x; c < params.channels; c += WORKGROUP_SIZE) {
    mean[c] = from_mean[c];
    variance[c] = from_variance[c];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn instances(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let images = f32(params.images);
  for (var c = id.x; c < params.channels; c += groups.x * WORKGROUP_SIZE) {
    var means = 0.0;
    var variances = 0.0;
    for (var i = c; i < params.images * params.channels; i += params.channels) {
      means += from_mean[i];
      variances += from_variance[i];
    }
    mean[c] += MOMENTUM * (means / images - mean[c]);
    variance[c] += MOMENTUM * (variances / images - variance[c]);
  }
}
