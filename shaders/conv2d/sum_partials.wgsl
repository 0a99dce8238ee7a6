// Sums of slices, of up to 16 gradients in one dispatch (`workgroup_id.y` is the gradient's number):
//
//   partials [slices, rows, count rounded up to a multiple of 4] → out [rows, count]
//
// Each gradient has its partial sums somewhere in `partials`, and its place in `out`. They are added in an order that the sizes
// alone decide: the same bits on every run.

const WORKGROUP = 64u;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> partials: array<vec4<f32>>;

struct Sums {
  sizes: array<vec4<u32>, 16>, // slices, rows, count, and where its partial sums begin, in vec4s
  out_at: array<vec4<u32>, 4>, // where its place in `out` begins
}
@group(0) @binding(2) var<uniform> sums: Sums;

fn put_sum(i: u32, gradient: u32, quads: u32, sum: vec4<f32>) {
  let count = sums.sizes[gradient].z;
  let column = (i % quads) * 4;
  let at = sums.out_at[gradient / 4][gradient % 4] + (i / quads) * count + column;
  for (var j = 0u; j < 4 && column + j < count; j++) {
    out[at + j] = sum[j];
  }
}

// One invocation per vec4, first slice first.
@compute @workgroup_size(64)
fn sum_partials(
  @builtin(global_invocation_id) id: vec3<u32>,
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let size = sums.sizes[workgroup.y];
  let quads = (size.z + 3) / 4;
  let vec4s = size.y * quads;
  for (var i = id.x; i < vec4s; i += groups.x * WORKGROUP) {
    var sum = vec4<f32>();
    for (var slice = 0u; slice < size.x; slice++) {
      sum += partials[size.w + slice * vec4s + i];
    }
    put_sum(i, workgroup.y, quads, sum);
  }
}

// The same for many slices on adapters with many lanes: 32 lanes take turns with the slices of four vec4s, four add theirs up, eight
// each, and one adds up those.
const LANES = 128u;
var<workgroup> parts: array<vec4<f32>, LANES>;

@compute @workgroup_size(LANES)
fn sum_partials_workgroup(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let size = sums.sizes[workgroup.y];
  let quads = (size.z + 3) / 4;
  let vec4s = size.y * quads;
  for (var first = workgroup.x * 4; first < vec4s; first += groups.x * 4) {
    let i = first + lane % 4;
    var sum = vec4<f32>();
    if (i < vec4s) {
      for (var slice = lane / 4; slice < size.x; slice += LANES / 4) {
        sum += partials[size.w + slice * vec4s + i];
      }
    }
    parts[lane] = sum;
    workgroupBarrier();
    if (lane < 16) {
      sum = vec4<f32>();
      for (var part = 0u; part < 8; part++) { sum += parts[(lane / 4 * 8 + part) * 4 + lane % 4]; }
    }
    workgroupBarrier();
    if (lane < 16) { parts[lane] = sum; }
    workgroupBarrier();
    if (lane < 4 && i < vec4s) {
      put_sum(i, workgroup.y, quads, ((sum + parts[4 + lane]) + parts[8 + lane]) + parts[12 + lane]);
    }
    workgroupBarrier();
  }
}
