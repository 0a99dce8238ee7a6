// min(max(z, 0), 6), and NaN stays NaN. By the bits, as in activation_relu.wgsl. The gradient is 0 at 0 and at 6.

//#fills activation as relu6

fn is_low(z: vec4<f32>) -> vec4<bool> {
  return bitcast<vec4<i32>>(z) <= vec4<i32>(-0x800000); // -0 to -infinity
}

fn is_high(z: vec4<f32>) -> vec4<bool> {
  return bitcast<vec4<u32>>(z) - vec4<u32>(0x40c00000u) <= vec4<u32>(0x3ec00000u); // 6 to infinity
}

fn activation(z: vec4<f32>) -> vec4<f32> {
  return select(select(z, vec4<f32>(0), is_low(z)), vec4<f32>(6), is_high(z));
}

fn activation_grad(dy: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
  let is_zero = bitcast<vec4<u32>>(z) == vec4<u32>(0);
  return select(dy, vec4<f32>(0), is_low(z) | is_zero | is_high(z));
}
