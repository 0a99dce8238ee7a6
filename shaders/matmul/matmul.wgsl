// Matrix product, and the fully connected layer on top of it:
//
//   out[m,n] = bias[n] + Σ_k a(m,k) · b(k,n)
//
// Layouts: out [M, N]. a and b are given by strides, a(m,k) = a[m·A_M + k·A_K], b(k,n) = b[k·B_K + n·B_N], so that
// transposed operands are read in place. Scalar loads, any size, no barriers, no workgroup memory.
//
// One invocation owns 4 rows × 4 columns; the columns are the same for a whole workgroup, so that b is loaded once
// per workgroup of lanes.

const WORKGROUP = 64u;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [N]
struct Sizes { M: u32, N: u32, K: u32, A_M: u32, A_K: u32, B_K: u32, B_N: u32, has_bias: u32 }
@group(0) @binding(4) var<uniform> size: Sizes;

@compute @workgroup_size(64)
fn forward(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let id = workgroup.x + workgroup.y * groups.x;
  let blocks = (size.N + 3) / 4;
  let n0 = (id % blocks) * 4;
  let m0 = ((id / blocks) * WORKGROUP + lane) * 4;
  if (m0 >= size.M) { return; }

  // Rows and columns past the end repeat the last one; they are not stored.
  let rows = min(vec4<u32>(m0) + vec4<u32>(0, 1, 2, 3), vec4<u32>(size.M - 1)) * size.A_M;
  let columns = min(vec4<u32>(n0) + vec4<u32>(0, 1, 2, 3), vec4<u32>(size.N - 1)) * size.B_N;
  var acc = array<vec4<f32>, 4>(); // by column: four rows
  for (var k = 0u; k < size.K; k++) {
    let at = k * size.A_K;
    let as_ = vec4<f32>(a[rows.x + at], a[rows.y + at], a[rows.z + at], a[rows.w + at]);
    let bt = k * size.B_K;
    acc[0] = fma(as_, vec4<f32>(b[columns.x + bt]), acc[0]);
    acc[1] = fma(as_, vec4<f32>(b[columns.y + bt]), acc[1]);
    acc[2] = fma(as_, vec4<f32>(b[columns.z + bt]), acc[2]);
    acc[3] = fma(as_, vec4<f32>(b[columns.w + bt]), acc[3]);
  }
  for (var j = 0u; j < 4 && n0 + j < size.N; j++) {
    let sums = acc[j] + select(0.0, bias[n0 + j], size.has_bias != 0);
    for (var i = 0u; i < 4 && m0 + i < size.M; i++) {
      out[(m0 + i) * size.N + n0 + j] = sums[i];
    }
  }
}
