// float32 to float16 and back, by vec4; float16 as two to a word, so that every adapter can.
//
//   narrow         out[i] = half(x[i]); beyond 65,504 (rounded) infinity, NaN stays NaN
//   widen          out[i] = float(x[i])
//   accumulate     acc[i] = half(float(acc[i]) + float(x[i])): the sum of two float16 gradients
//
// One invocation: every so many-th vec4. No barriers.

override WORKGROUP_SIZE: u32 = 64;

struct Size { vec4s: u32 }

@group(0) @binding(0) var<storage, read_write> halves: array<vec2<u32>>;
@group(0) @binding(0) var<storage, read_write> floats: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> from_floats: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> from_halves: array<vec2<u32>>;
@group(0) @binding(2) var<uniform> size: Size;

fn to_floats(pair: vec2<u32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(pair.x), unpack2x16float(pair.y));
}

// `pack2x16float` promises neither infinity beyond the range nor NaN: both by their bits.
fn to_halves(v: vec4<f32>) -> vec2<u32> {
  let bits = bitcast<vec4<u32>>(v);
  let magnitude = bits & vec4<u32>(0x7fffffffu);
  let large = magnitude >= vec4<u32>(0x477ff000u); // 65,520 and more, infinity, NaN
  let sign = (bits >> vec4<u32>(16)) & vec4<u32>(0x8000u);
  let nan = magnitude > vec4<u32>(0x7f800000u);
  let special = select(vec4<u32>(0), sign | select(vec4<u32>(0x7c00u), vec4<u32>(0x7e00u), nan), large);
  let plain = select(v, vec4<f32>(0), large);
  return vec2<u32>(
    pack2x16float(plain.xy) | special.x | (special.y << 16),
    pack2x16float(plain.zw) | special.z | (special.w << 16),
  );
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn narrow(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { halves[i] = to_halves(from_floats[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn widen(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) { floats[i] = to_floats(from_halves[i]); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn accumulate(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < size.vec4s; i += groups.x * WORKGROUP_SIZE) {
    halves[i] = to_halves(to_floats(halves[i]) + to_floats(from_halves[i]));
  }
}
