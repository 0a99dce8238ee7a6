// log(1 + e) and exp(y) - 1 with the digits that they have near 0, where 1 + e is rounded to 1 and exp(y) too.

// For e >= 0. Up to 1 it is 2 artanh(s) of s = e / (2 + e), by its series in s^2 <= 1/9.
fn log1p(e: vec4<f32>) -> vec4<f32> {
  let s = e / (2 + e);
  let t = s * s;
  var series = vec4<f32>(0.06666667);
  series = series * t + 0.07692308;
  series = series * t + 0.09090909;
  series = series * t + 0.11111111;
  series = series * t + 0.14285714;
  series = series * t + 0.2;
  series = series * t + 0.33333333;
  return select(log(1 + e), 2 * s + 2 * s * t * series, e <= vec4<f32>(1));
}

// For y <= 0.
fn expm1(y: f32) -> f32 {
  var series = 1 + y * 0.125;
  series = 1 + y * 0.14285714 * series;
  series = 1 + y * 0.16666667 * series;
  series = 1 + y * 0.2 * series;
  series = 1 + y * 0.25 * series;
  series = 1 + y * 0.33333333 * series;
  series = 1 + y * 0.5 * series;
  return select(exp(y) - 1, y * series, y > -0.5);
}
