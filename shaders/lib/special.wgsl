// Infinity, NaN and signs by bits: WGSL leaves it open what becomes of the former in arithmetic.

const INFINITY = 0x7f800000u;
const NAN = 0x7fc00000u;

// v, but the number with those bits where `there`.
fn patched(v: vec4<f32>, bits: u32, there: vec4<bool>) -> vec4<f32> {
  return bitcast<vec4<f32>>(select(bitcast<vec4<u32>>(v), vec4<u32>(bits), there));
}

fn is_infinite(v: vec4<f32>) -> vec4<bool> {
  return (bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu)) == vec4<u32>(INFINITY);
}

// Below zero; not -0, nor a NaN with its sign bit set.
fn is_negative(v: vec4<f32>) -> vec4<bool> {
  return bitcast<vec4<u32>>(v) - vec4<u32>(0x80000001u) <= vec4<u32>(0x7f7fffffu);
}
