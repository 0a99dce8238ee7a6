// z * min(max(z + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2). The derivative is 0 up to -3, 1 from 3 on, and z / 3 + 1/2
// between them.

//#fills activation as hard_swish

// At -infinity and NaN this is NaN, as in PyTorch: z is a factor.
fn activation(z: vec4<f32>) -> vec4<f32> {
  return z * (clamp(z + 3, vec4<f32>(0), vec4<f32>(6)) * (1.0 / 6.0)); // 6 times this 1/6 is 1
}

fn activation_grad(dy: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
  let between = z * (1.0 / 3.0) + 0.5;
  let slope = select(select(between, vec4<f32>(1), z >= vec4<f32>(3)), vec4<f32>(0), z <= vec4<f32>(-3));
  return dy * slope;
}
