// GELU by its approximation (Hendrycks & Gimpel 2016): z * (1 + tanh(u)) / 2 with u = sqrt(2 / pi) * (z + 0.044715 z^3).
//
// (1 + tanh(u)) / 2 is the sigmoid s(2 u), and with e = exp(-|2 u|) that is 1 / (1 + e) or e / (1 + e): nothing overflows, and
// nothing cancels where tanh(u) is near -1. The derivative is s + z * s * (1 - s) * 2 u', of 2 u' = 2 sqrt(2 / pi) * (1 + 3 *
// 0.044715 z^2). Beyond |z| = 30, where e is 0, 30 stands for |z| in u: its cube would overflow.

//#fills activation as gelu_tanh

struct Gate { s: vec4<f32>, slope: vec4<f32> }

fn gate(z: vec4<f32>) -> Gate {
  let a = min(abs(z), vec4<f32>(30));
  let e = exp(-1.5957691216 * (a + 0.044715 * (a * a * a)));
  let positive = z >= vec4<f32>(0);
  let larger = 1 / (1 + e);
  let slope = 1.5957691216 * (1 + 0.134145 * (a * a));
  return Gate(larger * select(e, vec4<f32>(1), positive), (e * larger * larger) * slope);
}

// At -infinity and NaN this is NaN, as in PyTorch: the gate is finite, and z is a factor.
fn activation(z: vec4<f32>) -> vec4<f32> {
  return z * gate(z).s;
}

fn activation_grad(dy: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
  let g = gate(z);
  return dy * (g.s + z * g.slope);
}
