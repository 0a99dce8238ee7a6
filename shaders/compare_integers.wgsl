// Comparisons of integers: out = 1 where a and b are related so, and 0 elsewhere, as float32.
//
// Layout: flat arrays of one element each; b is `number` where IS_NUMBER. One invocation owns one element per step of a
// grid-stride loop. No barriers.

override WORKGROUP_SIZE: u32 = 256;
override RELATION: u32 = 0;
override IS_NUMBER: u32 = 0;

const EQ = 0u;
const NE = 1u;
const LT = 2u;
const LE = 3u;
const GT = 4u;

struct Sizes { count: u32, number: u32 }

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

fn related(x: u32, y: u32) -> bool {
  switch (RELATION) {
    case EQ: { return x == y; }
    case NE: { return x != y; }
    case LT: { return x < y; }
    case LE: { return x <= y; }
    case GT: { return x > y; }
    default: { return x >= y; }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn compare(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < sizes.count; i += groups.x * WORKGROUP_SIZE) {
    var y = sizes.number;
    if (IS_NUMBER == 0u) {
      y = b[i];
    }
    out[i] = select(0.0, 1.0, related(a[i], y));
  }
}
