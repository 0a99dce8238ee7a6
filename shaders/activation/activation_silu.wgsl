// z * s(z), s(z) = 1 / (1 + exp(-z)); the derivative is s * (1 + z * (1 - s)). (Elfwing, Uchibe & Doya 2018.)
//
// Of exp only values up to 1 are used, so that it can't overflow: with e = exp(-|z|), s and 1 - s are 1 / (1 + e) and
// e / (1 + e), the larger one on the side of z. Neither is a difference, so both are good to a few units in the last place.

//#fills activation as silu

// s and 1 - s.
struct Sigmoid { one: vec4<f32>, other: vec4<f32> }

fn sigmoid(z: vec4<f32>) -> Sigmoid {
  let e = exp(-min(abs(z), vec4<f32>(200))); // exp(-200) is 0
  let positive = z >= vec4<f32>(0);
  let larger = 1 / (1 + e);
  return Sigmoid(larger * select(e, vec4<f32>(1), positive), larger * select(vec4<f32>(1), e, positive));
}

// At -infinity and NaN this is NaN, as in PyTorch: the sigmoid is finite, and z is a factor.
fn activation(z: vec4<f32>) -> vec4<f32> {
  return z * sigmoid(z).one;
}

fn activation_grad(dy: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
  let s = sigmoid(z);
  return dy * (s.one * (1 + z * s.other));
}
