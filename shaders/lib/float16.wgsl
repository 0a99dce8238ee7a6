// float16 as two to a word, by vec4: every adapter has the conversions, also without shader-f16.

fn to_floats(halves: vec2<u32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(halves.x), unpack2x16float(halves.y));
}

// Beyond 65,504 (rounded) infinity, as the format has it, and NaN stays NaN: `pack2x16float` promises neither, so both by their
// bits.
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
