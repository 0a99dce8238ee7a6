// kept.largest = max(kept.largest, loss), kept.first = the first loss ever kept: what a run's divergence is judged by, without a
// reading after each step.
//
// As bits: floats of one sign are ordered as their bits are, infinity above all numbers, and NaN, which WGSL may assume not to
// occur, above infinity. A loss has no sign worth keeping. `kept.first` is 2³² − 1 until there is one, which no masked bits are.
// One invocation.

struct Kept { largest: u32, first: u32 }

@group(0) @binding(0) var<storage, read_write> kept: Kept;
@group(0) @binding(1) var<storage, read> loss: array<u32>;

@compute @workgroup_size(1)
fn keep() {
  let bits = loss[0] & 0x7fffffffu;
  kept.largest = max(kept.largest, bits);
  if (kept.first == 0xffffffffu) {
    kept.first = bits;
  }
}
