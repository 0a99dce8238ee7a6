// Whether a value is NaN, by its bits: WGSL lets compilers assume that `v != v` never holds, and exp and log of NaN differ
// between adapters.

fn is_nan(v: f32) -> bool {
  return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u;
}

// Not so of NaN, which a comparison may take for any number.
fn is_zero(v: f32) -> bool {
  return (bitcast<u32>(v) & 0x7fffffffu) == 0u;
}

fn are_nan(v: vec4<f32>) -> vec4<bool> {
  return (bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
}
