// No activation. A part of other modules, as every activation_*.wgsl.

//#fills activation as none

fn activation(z: vec4<f32>) -> vec4<f32> {
  return z;
}

fn activation_grad(dy: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
  return dy;
}
