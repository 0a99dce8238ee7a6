// correct[n] = 1 where argmax_k logits[n, k] = labels[n], else 0; among equal logits the lowest k is the argmax.
//
// No argmax is formed: the label wins if it beats every class before it and is not beaten by one after it. So a
// NaN in the row, or a label of K or more (which reads nothing), counts as wrong. One invocation owns one row.

override WORKGROUP_SIZE: u32 = 64;

struct Sizes { rows: u32, classes: u32 }

@group(0) @binding(0) var<storage, read_write> correct: array<f32>;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> labels: array<u32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var row = id.x; row < sizes.rows; row += groups.x * WORKGROUP_SIZE) {
    let base = row * sizes.classes;
    let label = labels[row];
    var wins = label < sizes.classes;
    if (wins) {
      let own = logits[base + label];
      for (var k = 0u; k < sizes.classes; k++) {
        let other = logits[base + k];
        wins = wins && select(other <= own, other < own, k < label);
      }
    }
    correct[row] = select(0.0, 1.0, wins);
  }
}
