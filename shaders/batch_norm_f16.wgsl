// The tensors of batch_norm.wgsl in float16, two to a word: every adapter has the conversions, also without shader-f16,
// and a software adapter loads a word for what it pays for a half. A vec4 is 8 bytes.
//
// Beyond 65,504 (rounded) infinity is stored, as the format has it, and NaN stays NaN: `pack2x16float` promises neither.

@group(0) @binding(0) var<storage, read_write> y: array<vec2<u32>>;
@group(0) @binding(0) var<storage, read_write> dx: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> residual: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> dz: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> addend: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> summand: array<vec2<u32>>; // the residual, in backward

fn widen(halves: vec2<u32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(halves.x), unpack2x16float(halves.y));
}

fn narrow(v: vec4<f32>) -> vec2<u32> {
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

fn x_at(i: u32) -> vec4<f32> { return widen(x[i]); }
fn residual_at(i: u32) -> vec4<f32> { return widen(residual[i]); }
fn summand_at(i: u32) -> vec4<f32> { return widen(summand[i]); }
fn dy_at(i: u32) -> vec4<f32> { return widen(dy[i]); }
fn dz_at(i: u32) -> vec4<f32> { return widen(dz[i]); }
fn addend_at(i: u32) -> vec4<f32> { return widen(addend[i]); }
fn put_dx(i: u32, v: vec4<f32>) { dx[i] = narrow(v); }
fn put_dz(i: u32, v: vec4<f32>) { dz[i] = narrow(v); }

// Stores y, and tells which elements of what it stored are not zero.
fn put_y(i: u32, v: vec4<f32>) -> vec4<bool> {
  let halves = narrow(v);
  y[i] = halves;
  return (halves.xxyy & vec4<u32>(0xffff, 0xffff0000, 0xffff, 0xffff0000)) != vec4<u32>(0);
}
