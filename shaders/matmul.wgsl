// Matrix product, and the fully connected layer on top of it:
//
//   out[m,n] = bias[n] + Σ_k a(m,k) · b(k,n)
//
// Layouts: out [M, N]. a and b are given by strides, a(m,k) = a[m·A_M + k·A_K], b(k,n) = b[k·B_K + n·B_N], so that
// transposed operands are read in place. Scalar loads, any size, no barriers, no workgroup memory.
//
// One invocation owns 4 rows × 4 columns; the columns are the same for a whole workgroup, so that b is loaded once
// per workgroup of lanes.

override M: u32 = 1;
override N: u32 = 1;
override K: u32 = 1;
override A_M: u32 = 1;
override A_K: u32 = 1;
override B_K: u32 = 1;
override B_N: u32 = 1;
override HAS_BIAS: bool = false;

const WORKGROUP = 64u;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [N]

@compute @workgroup_size(64)
fn forward(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let id = workgroup.x + workgroup.y * groups.x;
  let blocks = (N + 3) / 4;
  let n0 = (id % blocks) * 4;
  let m0 = ((id / blocks) * WORKGROUP + lane) * 4;
  if (m0 >= M) { return; }

  // Rows and columns past the end repeat the last one; they are not stored.
  let rows = min(vec4<u32>(m0) + vec4<u32>(0, 1, 2, 3), vec4<u32>(M - 1)) * A_M;
  let columns = min(vec4<u32>(n0) + vec4<u32>(0, 1, 2, 3), vec4<u32>(N - 1)) * B_N;
  var acc = array<vec4<f32>, 4>(); // by column: four rows
  for (var k = 0u; k < K; k++) {
    let at = k * A_K;
    let as_ = vec4<f32>(a[rows.x + at], a[rows.y + at], a[rows.z + at], a[rows.w + at]);
    let bt = k * B_K;
    acc[0] = fma(as_, vec4<f32>(b[columns.x + bt]), acc[0]);
    acc[1] = fma(as_, vec4<f32>(b[columns.y + bt]), acc[1]);
    acc[2] = fma(as_, vec4<f32>(b[columns.z + bt]), acc[2]);
    acc[3] = fma(as_, vec4<f32>(b[columns.w + bt]), acc[3]);
  }
  for (var j = 0u; j < 4 && n0 + j < N; j++) {
    let sums = acc[j] + select(0.0, bias[n0 + j], HAS_BIAS);
    for (var i = 0u; i < 4 && m0 + i < M; i++) {
      out[(m0 + i) * N + n0 + j] = sums[i];
    }
  }
}
