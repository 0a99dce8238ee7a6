// z where z > 0, else NEGATIVE_SLOPE * z. The gradient at 0, and at NaN, is NEGATIVE_SLOPE * dy, as in PyTorch.

//#fills activation as leaky_relu

override NEGATIVE_SLOPE: f32 = 0.01;

// By the bits: a comparison may take NaN for either.
fn is_positive(z: vec4<f32>) -> vec4<bool> {
  return bitcast<vec4<u32>>(z) - vec4<u32>(1) < vec4<u32>(0x7f800000u); // up to infinity
}

fn activation(z: vec4<f32>) -> vec4<f32> {
  return select(NEGATIVE_SLOPE * z, z, is_positive(z));
}

fn activation_grad(dy: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
  return select(NEGATIVE_SLOPE * dy, dy, is_positive(z));
}
