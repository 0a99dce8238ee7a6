// z * P(z), where P(z) = (1 + erf(z / sqrt(2))) / 2 is the normal distribution; the derivative is P(z) + z * p(z), with the
// density p(z) = exp(-z^2 / 2) / sqrt(2 pi). (Hendrycks & Gimpel 2016.)
//
// WGSL has no erf. For a = |z| the tail P(-a) is exp(-a^2 / 2) * q(a), and q falls smoothly from 1/2 like 1 / (sqrt(2 pi) a):
// a polynomial in t = 1 / (1 + 0.35 a) times t, fitted for the least relative error over a = 0 to 14, which is 3.2e-8. So
// P is good in relative terms far into the negative tail also, where 1 + erf has nothing left.
// The exponent needs more digits than float32 has: a^2 is the square of its upper half, which is exact, and the rest; and
// exp is taken of at most ln(2) / 2, for a power of two.

//#fills activation as gelu

// P(z) and exp(-z^2 / 2).
struct Normal { distribution: vec4<f32>, bell: vec4<f32> }

fn bell_of(a: vec4<f32>) -> vec4<f32> {
  let upper = bitcast<vec4<f32>>(bitcast<vec4<u32>>(a) & vec4<u32>(0xfffff000u));
  let half_square = 0.5 * upper * upper;
  let rest = 0.5 * (a - upper) * (a + upper);
  let power = round(half_square * 1.44269504);
  // ln(2) in two parts: power times the first is exact.
  let left = ((power * 0.693359375 - half_square) + power * -2.12194440e-4) - rest;
  let scale = bitcast<vec4<f32>>((vec4<u32>(127) - min(vec4<u32>(power), vec4<u32>(127))) << vec4<u32>(23));
  return exp(left) * scale;
}

fn normal(z: vec4<f32>) -> Normal {
  let a = min(abs(z), vec4<f32>(14)); // the bell is 0 from 13.3 on
  let bell = bell_of(a);
  let t = 1 / (1 + 0.35 * a);
  var q = vec4<f32>(-0.029146134853363037);
  q = q * t + 0.14397267997264862;
  q = q * t - 0.2557162642478943;
  q = q * t + 0.15917643904685974;
  q = q * t - 0.02311137691140175;
  q = q * t + 0.10550864785909653;
  q = q * t + 0.11983270943164825;
  q = q * t + 0.13986189663410187;
  q = q * t + 0.13962140679359436;
  let tail = bell * (q * t);
  return Normal(select(tail, 1 - tail, z >= vec4<f32>(0)), bell);
}

// At -infinity and NaN this is NaN, as in PyTorch: the distribution is finite, and z is a factor.
fn activation(z: vec4<f32>) -> vec4<f32> {
  return z * normal(z).distribution;
}

fn activation_grad(dy: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
  let n = normal(z);
  return dy * (n.distribution + z * (n.bell * 0.3989422804));
}
