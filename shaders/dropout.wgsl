// Elements dropped by chance, with probability p, the others scaled up for it:
//
//   forward   y = mask · x,  dx = mask · dy        mask = SCALE where the element's random word >= threshold, else 0
//   noise     y = mask
//   draw      what this run draws: (seed, number of the draw), and the generator's number of draws goes up by one
//
// threshold = p · 2^32, SCALE = 1 / (1 - p). Word k of element group i (elements 4i … 4i + 3) is word k of Philox 4×32-10 with the seed as
// key and (i, 0, number of the draw) as counter: integers alone, so the same mask on every adapter, and backward works it out
// again. The number of draws is the GPU's, so that each replay of a captured step draws anew.
// (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.)
//
// Layouts: generator, drawn [4]: seed, number of draws, each the low word first. x, y flat, taken as vec4s (buffers are padded to 16
// bytes). One invocation owns one vec4 per step of a grid-stride loop; draw is one invocation. No barriers.

override WORKGROUP_SIZE: u32 = 64;
override ADVANCE: bool = true;

struct Size { vec4s: u32, threshold: u32, scale: f32 }

@group(0) @binding(0) var<storage, read_write> generator: array<u32>;
@group(0) @binding(1) var<storage, read_write> new_draw: array<u32>;

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> drawn: array<u32>;
@group(0) @binding(3) var<uniform> size: Size;

// The upper word of the product.
fn multiply_high(a: u32, b: u32) -> u32 {
  let middle = (a >> 16u) * (b & 0xffffu) + (((a & 0xffffu) * (b & 0xffffu)) >> 16u);
  let cross = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
  return (a >> 16u) * (b >> 16u) + (middle >> 16u) + (cross >> 16u);
}

fn philox(group: u32) -> vec4<u32> {
  var c = vec4<u32>(group, 0u, drawn[2], drawn[3]);
  var key = vec2<u32>(drawn[0], drawn[1]);
  for (var round = 0u; round < 10u; round += 1u) {
    c = vec4<u32>(
      multiply_high(0xcd9e8d57u, c.z) ^ c.y ^ key.x,
      0xcd9e8d57u * c.z,
      multiply_high(0xd2511f53u, c.x) ^ c.w ^ key.y,
      0xd2511f53u * c.x,
    );
    key += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}

fn mask(group: u32) -> vec4<f32> {
  return select(vec4<f32>(0), vec4<f32>(size.scale), philox(group) >= vec4<u32>(size.threshold));
}

@compute @workgroup_size(1)
fn draw() {
  let low = generator[2];
  let high = generator[3];
  new_draw[0] = generator[0];
  new_draw[1] = generator[1];
  new_draw[2] = low;
  new_draw[3] = high;
  if (ADVANCE) {
    generator[2] = low + 1u;
    generator[3] = high + select(0u, 1u, low == 0xffffffffu);
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = mask(i) * x[i]; }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn noise(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { out[i] = mask(i); }
}
