// Rectification, the one rule of it: zero where z is negative, else z, and NaN stays NaN. By the bits, since WGSL may assume
// that there is no NaN, and a comparison then takes it for either: as integers, negative numbers are those from -0 to -infinity,
// least first, and NaN with a sign comes after them. A part of several modules.

//#fills activation as relu

fn relu(z: vec4<f32>) -> vec4<f32> {
  return select(z, vec4<f32>(0), bitcast<vec4<i32>>(z) <= vec4<i32>(-0x800000));
}

// Where relu(z) lets no gradient through: it is zero.
fn is_cut(z: vec4<f32>) -> vec4<bool> {
  return bitcast<vec4<u32>>(relu(z)) == vec4<u32>(0);
}

fn activation(z: vec4<f32>) -> vec4<f32> {
  return relu(z);
}

// The same for z = relu(..).
fn activation_grad(dy: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
  return select(dy, vec4<f32>(0), is_cut(z));
}
